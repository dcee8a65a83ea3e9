//! Pull secrets: a Docker configuration, and who we are at a registry by it.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::reference::Reference;

/// Who we are at one registry.
#[derive(Clone, Eq, PartialEq)]
pub(crate) enum Credentials {
    /// A user and a password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A token to get tokens with (`identitytoken`).
    Refresh(String),
    /// A token for the registry itself (`registrytoken`).
    Token(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(redacted)")
    }
}

impl Credentials {
    /// The entry of a `.dockerconfigjson` for an image: the one with the longest path that matches.
    /// The error says what is wrong, and never repeats what it read.
    pub(crate) fn find(config: &str, image: &Reference) -> Result<Self, String> {
        let config: DockerConfig = serde_json::from_str(config).map_err(|error| {
            format!(
                "its pull secret is no .dockerconfigjson (line {}, column {}); make it with `kubectl create secret docker-registry`",
                error.line(),
                error.column()
            )
        })?;
        let found = config
            .auths
            .iter()
            .filter_map(|(place, entry)| Some((place_matches(place, image)?, entry)))
            .max_by_key(|(length, _)| *length);
        let (_, entry) = found.ok_or_else(|| {
            format!(
                "its pull secret has no entry for {}; add one",
                image.registry
            )
        })?;
        entry.credentials().ok_or_else(|| {
            format!(
                "the entry for {} in its pull secret has no user and password that can be read; write it anew",
                image.registry
            )
        })
    }

    /// For an Authorization header, where this is a user with a password.
    pub(crate) fn basic(&self) -> Option<String> {
        match self {
            Self::Password { user, password } => Some(format!(
                "Basic {}",
                STANDARD.encode(format!("{user}:{password}"))
            )),
            Self::Refresh(_) | Self::Token(_) => None,
        }
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
    #[serde(default)]
    registrytoken: String,
}

impl Entry {
    fn credentials(&self) -> Option<Credentials> {
        if !self.registrytoken.is_empty() {
            return Some(Credentials::Token(self.registrytoken.clone()));
        }
        if !self.identitytoken.is_empty() {
            return Some(Credentials::Refresh(self.identitytoken.clone()));
        }
        if !self.username.is_empty() {
            return Some(Credentials::Password {
                user: self.username.clone(),
                password: self.password.clone(),
            });
        }
        let pair = STANDARD.decode(self.auth.trim()).ok()?;
        let pair = String::from_utf8(pair).ok()?;
        let (user, password) = pair.split_once(':')?;
        Some(Credentials::Password {
            user: user.to_owned(),
            password: password.trim_end_matches('\0').to_owned(),
        })
    }
}

/// How much of an image's name an entry covers, if it does: hosts are equal, or match by `*` within
/// labels as the kubelet has it; a path covers what lies below it.
fn place_matches(place: &str, image: &Reference) -> Option<usize> {
    let place = place
        .strip_prefix("https://")
        .or_else(|| place.strip_prefix("http://"))
        .unwrap_or(place);
    let (host, path) = place.split_once('/').unwrap_or((place, ""));
    let path = path.trim_end_matches('/');
    // The address of an API is the registry itself.
    let path = if matches!(path, "v1" | "v2") {
        ""
    } else {
        path
    };
    let hub = matches!(host, "index.docker.io" | "registry-1.docker.io");
    let host = if hub { "docker.io" } else { host };
    if !host_matches(host, &image.registry) {
        return None;
    }
    let below = image.repository.strip_prefix(path)?;
    (path.is_empty() || below.is_empty() || below.starts_with('/')).then_some(path.len())
}

fn host_matches(pattern: &str, host: &str) -> bool {
    let (mut patterns, mut labels) = (pattern.split('.'), host.split('.'));
    loop {
        match (patterns.next(), labels.next()) {
            (None, None) => return true,
            (Some(pattern), Some(label)) if label_matches(pattern, label) => {}
            _ => return false,
        }
    }
}

fn label_matches(pattern: &str, label: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern.eq_ignore_ascii_case(label),
        Some((before, after)) => {
            label.len() >= before.len() + after.len()
                && label.starts_with(before)
                && label.ends_with(after)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn user(config: &str, image: &str) -> Result<String, String> {
        let image = Reference::parse(image).unwrap();
        match Credentials::find(config, &image)? {
            Credentials::Password { user, password } => Ok(format!("{user}:{password}")),
            other => Ok(format!("{:?}", std::mem::discriminant(&other))),
        }
    }

    #[test]
    fn entries_are_found_as_kubelets_do() {
        let config = format!(
            r#"{{"auths": {{
                "https://index.docker.io/v1/": {{"username": "hub", "password": "1"}},
                "ghcr.io": {{"auth": "{}"}},
                "ghcr.io/team": {{"username": "team", "password": "3"}},
                "*.dkr.ecr.*.amazonaws.com": {{"username": "AWS", "password": "4"}},
                "http://a.b:5000/v2/": {{"username": "port", "password": "5"}}
            }}}}"#,
            STANDARD.encode("gh:with:colon")
        );
        for (image, expected) in [
            ("nginx", "hub:1"),
            ("ghcr.io/other/x", "gh:with:colon"),
            ("ghcr.io/teammate/x", "gh:with:colon"),
            ("ghcr.io/team/x", "team:3"),
            ("1.dkr.ecr.eu-west-1.amazonaws.com/x", "AWS:4"),
            ("a.b:5000/x", "port:5"),
        ] {
            assert_eq!(user(&config, image).unwrap(), expected, "{image}");
        }
        for image in [
            "a.b/x",
            "evil-ghcr.io/x",
            "dkr.ecr.amazonaws.com/x",
            "quay.io/x",
        ] {
            assert!(
                user(&config, image).unwrap_err().contains("no entry"),
                "{image}"
            );
        }
    }

    #[test]
    fn broken_secrets_are_told_without_repeating_them() {
        for config in [
            "",
            "{",
            r#"{"auths": {"a.b": {}}}"#,
            r#"{"auths": {"a.b": {"auth": "hunter2!"}}}"#,
            r#"{"auths": {"a.b": {"auth": "aHVudGVyMg=="}}}"#,
            r#"{"auths": {"a.b": {"auth": ["hunter2"]}}}"#,
        ] {
            let error = user(config, "a.b/x").unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
