//! URLs as far as fetching needs them: http and https, a host, a port, a path. No user in it, no
//! fragment.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use http::uri::{Authority, PathAndQuery};

use crate::error::FetchError;

/// Where something is fetched from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Url {
    /// Whether it is https.
    secure: bool,
    authority: Authority,
    path: PathAndQuery,
}

impl Url {
    /// Whether the scheme is https.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.secure
    }

    /// Name or address; IPv6 with its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.authority.host()
    }

    /// The port, whether written or implied.
    #[must_use]
    pub fn port(&self) -> u16 {
        let implied = if self.secure { 443 } else { 80 };
        self.authority.port_u16().unwrap_or(implied)
    }

    /// Host and, where it was written, port: what the Host header says.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.authority.as_str()
    }

    /// Path and query.
    #[must_use]
    pub fn path_and_query(&self) -> &str {
        self.path.as_str()
    }

    /// Whether both lead to the same server by the same scheme.
    #[must_use]
    pub fn same_origin(&self, other: &Self) -> bool {
        self.secure == other.secure
            && self.port() == other.port()
            && self.host().eq_ignore_ascii_case(other.host())
    }

    /// What a `Location` says, seen from here (RFC 3986 §5).
    ///
    /// # Errors
    ///
    /// [`FetchError::Url`] where that is no URL to fetch from.
    pub fn join(&self, location: &str) -> Result<Self, FetchError> {
        let location = location.split_once('#').map_or(location, |(it, _)| it);
        if has_scheme(location) {
            return location.parse();
        }
        let scheme = if self.secure { "https" } else { "http" };
        if location.starts_with("//") {
            return format!("{scheme}:{location}").parse();
        }
        let here = self.path.path();
        let path = match location.as_bytes().first() {
            None => self.path.as_str().to_owned(),
            Some(b'/') => location.to_owned(),
            Some(b'?') => format!("{here}{location}"),
            Some(_) => {
                let folder = here.rfind('/').map_or("/", |end| &here[..=end]);
                format!("{folder}{location}")
            }
        };
        let (path, query) = path
            .split_once('?')
            .map_or((&*path, None), |(path, query)| (path, Some(query)));
        let mut joined = format!("{scheme}://{}{}", self.authority, without_dots(path));
        if let Some(query) = query {
            joined.push('?');
            joined.push_str(query);
        }
        joined.parse()
    }
}

impl FromStr for Url {
    type Err = FetchError;

    fn from_str(text: &str) -> Result<Self, FetchError> {
        let refused = |reason: &str| FetchError::Url {
            url: redacted(text),
            reason: reason.to_owned(),
        };
        let uri: Uri = text.parse().map_err(|_| refused("it is no URL"))?;
        let parts = uri.into_parts();
        let secure = match parts.scheme.as_ref().map(http::uri::Scheme::as_str) {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(refused("its scheme is neither http nor https")),
        };
        let authority = parts.authority.ok_or_else(|| refused("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(refused("it has a user in it"));
        }
        if authority.host().is_empty() {
            return Err(refused("it has no host"));
        }
        let written = authority.as_str()[authority.host().len()..].strip_prefix(':');
        if written.is_some_and(|port| port.parse::<u16>().is_err()) {
            return Err(refused("its port is no number up to 65535"));
        }
        let path = parts
            .path_and_query
            .filter(|path| !path.as_str().is_empty())
            .unwrap_or_else(|| PathAndQuery::from_static("/"));
        Ok(Self {
            secure,
            authority,
            path,
        })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

/// A URL for messages: what stands before an `@` may be a password.
fn redacted(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://…{}", &rest[at..]),
        None => text.to_owned(),
    }
}

/// Whether a reference starts with a scheme (RFC 3986 §3.1).
fn has_scheme(reference: &str) -> bool {
    let Some((scheme, _)) = reference.split_once(':') else {
        return false;
    };
    scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// Resolves `.` and `..` (RFC 3986 §5.2.4).
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." if last => kept.push(""),
            "." => {}
            ".." => {
                kept.pop();
                if last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn references_are_resolved_as_rfc_3986_says() {
        let base: Url = "https://a.example:8443/b/c/d?q".parse().unwrap();
        for (reference, expected) in [
            ("g", "https://a.example:8443/b/c/g"),
            ("./g", "https://a.example:8443/b/c/g"),
            ("g/", "https://a.example:8443/b/c/g/"),
            ("/g", "https://a.example:8443/g"),
            ("//g", "https://g/"),
            ("//g:1/x?y#z", "https://g:1/x?y"),
            ("?y", "https://a.example:8443/b/c/d?y"),
            ("g?y/../x", "https://a.example:8443/b/c/g?y/../x"),
            ("", "https://a.example:8443/b/c/d?q"),
            (".", "https://a.example:8443/b/c/"),
            ("..", "https://a.example:8443/b/"),
            ("../../../g", "https://a.example:8443/g"),
            ("http://other/x", "http://other/x"),
        ] {
            assert_eq!(
                base.join(reference).unwrap().to_string(),
                expected,
                "{reference}"
            );
        }
        for refused in ["ftp://a/", "file:///etc/passwd", "mailto:a@b", "https://"] {
            assert!(base.join(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn urls_are_read_strictly_and_passwords_are_not_repeated() {
        let url: Url = "http://[::1]:81/x".parse().unwrap();
        assert_eq!(
            (url.host(), url.port(), url.is_https()),
            ("[::1]", 81, false)
        );
        let url: Url = "https://a".parse().unwrap();
        assert_eq!((url.port(), url.path_and_query()), (443, "/"));
        for refused in [
            "",
            "a",
            "/a",
            "ftp://a",
            "http://",
            "http://a:x/",
            "http://a:70000/",
        ] {
            assert!(refused.parse::<Url>().is_err(), "{refused}");
        }
        let error = "https://me:secret@a/x"
            .parse::<Url>()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("user") && !error.contains("secret"),
            "{error}"
        );
    }
}
