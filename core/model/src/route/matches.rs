//! What a route may ask of a request: HTTPRouteMatch with its patterns compiled.
//!
//! A header match is decided here, in [`HeaderMatch::matches`].

use std::sync::Arc;

use http::Method;
use http::header::HeaderName;

pub use super::pattern::{CompiledPattern, PatternError};

/// One `matches[]` entry: every part that is given must match.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatch,
    /// Headers; of several entries for one name the first counts (Gateway API, HTTPHeaderMatch.name).
    pub headers: Vec<HeaderMatch>,
    /// Query parameters; of several entries for one name the first counts.
    pub query: Vec<QueryMatch>,
    /// The method.
    pub method: Option<Method>,
}

impl Default for RouteMatch {
    /// What a rule without matches means: the prefix `/`.
    fn default() -> Self {
        Self {
            path: PathMatch::Prefix("/".into()),
            headers: Vec::new(),
            query: Vec::new(),
            method: None,
        }
    }
}

/// How a path must look. The query is no part of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PathMatch {
    /// Exactly this path.
    Exact(Arc<str>),
    /// This path and everything below it, segment by segment: `/foo` takes `/foo`, `/foo/` and
    /// `/foo/x`, not `/foobar`. A trailing slash changes nothing.
    Prefix(Arc<str>),
    /// A pattern for the whole path.
    Regex(CompiledPattern),
}

/// How a header's or a query parameter's value must look.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ValueMatch {
    /// Exactly this value.
    Exact(Arc<str>),
    /// A pattern for the whole value.
    Regex(CompiledPattern),
}

/// One header of a match. `host` means the authority.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HeaderMatch {
    /// The name.
    pub name: HeaderName,
    /// The value; the values of repeated lines are joined with `,`, as in Envoy.
    pub value: ValueMatch,
}

/// One query parameter of a match.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct QueryMatch {
    /// The name, decoded and case-sensitive.
    pub name: Arc<str>,
    /// The decoded value of the first parameter of that name.
    pub value: ValueMatch,
}
