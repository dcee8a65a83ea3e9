//! Names of images: `[registry[:port]/]repository[:tag][@sha256:digest]`.

use std::fmt;

use crate::module::digest::Digest;

/// The registry of names without one.
const DOCKER_HUB: &str = "docker.io";

/// Which image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Reference {
    /// `host[:port]`, as it is written in pull secrets.
    pub(crate) registry: String,
    /// The path in it.
    pub(crate) repository: String,
    /// Which of its versions.
    pub(crate) version: Version,
}

/// Which version of an image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Version {
    /// The one that this tag leads to.
    Tag(String),
    /// Exactly this one, whatever a tag says.
    Digest(Digest),
}

impl Reference {
    /// Reads what stands behind `oci://`; the error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let sha256 = digest.strip_prefix("sha256:");
                let digest = sha256.and_then(Digest::parse);
                let digest = digest.ok_or("its digest is not sha256: and 64 hexadecimal digits")?;
                (name, Some(digest))
            }
            None => (text, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first, rest),
            _ => (DOCKER_HUB, name),
        };
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        if !registry.bytes().all(is_authority) {
            return Err("its registry is no host");
        }
        if repository.len() > 255 || !repository.split('/').all(is_component) {
            return Err(
                "its repository is not of lower-case letters, digits, `.`, `_`, `-` and `/`",
            );
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err("its tag is not of letters, digits, `.`, `_` and `-`");
        }
        let registry = match registry {
            "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
            other => other,
        };
        let official = registry == DOCKER_HUB && !repository.contains('/');
        Ok(Self {
            registry: registry.to_owned(),
            repository: if official {
                format!("library/{repository}")
            } else {
                repository.to_owned()
            },
            version: match digest {
                Some(digest) => Version::Digest(digest),
                None => Version::Tag(tag.unwrap_or("latest").to_owned()),
            },
        })
    }

    /// Where the registry's API is.
    pub(crate) fn api(&self) -> &str {
        match &*self.registry {
            DOCKER_HUB => "registry-1.docker.io",
            other => other,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => write!(f, "sha256:{digest}"),
        }
    }
}

/// Whether the first part of a name is a host, by Docker's rule.
fn is_registry(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':'])
}

fn is_authority(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte)
}

fn is_component(part: &str) -> bool {
    let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    ends(part.bytes().next())
        && ends(part.bytes().next_back())
        && part.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte)
        })
}

fn is_tag(tag: &str) -> bool {
    let mut bytes = tag.bytes();
    tag.len() <= 128
        && bytes
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_docker_does() {
        let digest = format!("sha256:{}", Digest::of(b""));
        for (text, registry, repository, version) in [
            ("ghcr.io/a/b:v1", "ghcr.io", "a/b", "v1"),
            ("localhost:5000/x", "localhost:5000", "x", "latest"),
            ("localhost/x", "localhost", "x", "latest"),
            ("[::1]:5000/x", "[::1]:5000", "x", "latest"),
            ("nginx", "docker.io", "library/nginx", "latest"),
            ("me/x:1", "docker.io", "me/x", "1"),
            ("index.docker.io/me/x", "docker.io", "me/x", "latest"),
            (&format!("a.b/x:tag@{digest}"), "a.b", "x", &digest),
        ] {
            let found = Reference::parse(text).unwrap();
            assert_eq!(
                (
                    &*found.registry,
                    &*found.repository,
                    &*found.version.to_string()
                ),
                (registry, repository, version),
                "{text}"
            );
        }
        for bad in [
            "",
            "a.b/",
            "a.b/X",
            "a.b/x:",
            "a.b/x:a b",
            "a.b/../x",
            "a.b/x@sha512:00",
            "a.b/x@sha256:0",
            "a.b/x y",
            "a?b.c/x",
            "u@a.b/x",
            "a.b/x//y",
            "a.b/-x",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad}");
        }
    }
}
