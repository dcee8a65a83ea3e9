//! What a route changes about a message: header edits, rewrites, redirects; all ready values.

use std::sync::Arc;

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Header edits in the order the Gateway API applies them: set, add, remove.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderEdits {
    /// Replaces all values of a name.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Appends a value.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Removes a name.
    pub remove: Vec<HeaderName>,
}

impl HeaderEdits {
    /// Whether nothing is edited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// Applies the edits.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

/// URLRewrite.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rewrite {
    /// Replaces the authority.
    pub hostname: Option<HeaderValue>,
    /// Replaces the path or its matched prefix.
    pub path: Option<PathRewrite>,
}

/// How a path is replaced. The query always stays.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PathRewrite {
    /// The whole path.
    Full(Arc<str>),
    /// The prefix that the rule matched, segment-wise: `/foo` → `/bar` turns `/foo/x` into `/bar/x`.
    Prefix {
        /// The prefix that was matched, without a trailing slash (empty for `/`).
        matched: Arc<str>,
        /// What takes its place.
        replacement: Arc<str>,
    },
}

impl PathRewrite {
    /// The new path for a canonical one.
    #[must_use]
    pub fn apply(&self, path: &str) -> String {
        match self {
            Self::Full(path) => path.to_string(),
            Self::Prefix {
                matched,
                replacement,
            } => {
                let rest = path.strip_prefix(&**matched).unwrap_or(path);
                let head = replacement.trim_end_matches('/');
                match (head, rest) {
                    ("", "") => "/".to_owned(),
                    (head, "") => head.to_owned(),
                    (head, rest) if rest.starts_with('/') => format!("{head}{rest}"),
                    (head, rest) => format!("{head}/{rest}"),
                }
            }
        }
    }
}

/// RequestRedirect.
#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    /// New scheme; default the request's.
    pub scheme: Option<Arc<str>>,
    /// New host; default the request's.
    pub hostname: Option<Arc<str>>,
    /// New path; default the request's.
    pub path: Option<PathRewrite>,
    /// New port; default: the scheme's well-known port if a scheme is given, else the listener's.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308; default 302.
    pub status: StatusCode,
}
