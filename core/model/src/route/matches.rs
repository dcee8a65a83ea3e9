//! What a route may ask of a request: HTTPRouteMatch with its patterns compiled.
//!
//! A header match is decided here, in [`HeaderMatch::matches`].

use std::borrow::Cow;
use std::cell::OnceCell;
use std::sync::Arc;

use http::Method;
use http::header::{HOST, HeaderName};

pub use super::pattern::{CompiledPattern, PatternError};
use crate::request::CanonicalRequest;

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
    /// The name, case-sensitive.
    pub name: Arc<str>,
    /// The value of the first parameter of that name.
    pub value: ValueMatch,
}

impl ValueMatch {
    fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(expected) => expected.as_bytes() == value,
            Self::Regex(pattern) => pattern.matches(value),
        }
    }
}

impl HeaderMatch {
    /// Whether the request has the header and its value fits.
    #[must_use]
    pub fn matches(&self, request: &CanonicalRequest) -> bool {
        header_value(request, &self.name).is_some_and(|value| self.value.matches(&value))
    }
}

/// A header's value, that of repeated lines joined.
pub(super) fn header_value<'a>(
    request: &'a CanonicalRequest,
    name: &HeaderName,
) -> Option<Cow<'a, [u8]>> {
    if *name == HOST {
        return Some(request.authority.as_str().as_bytes().into());
    }
    let mut values = request.headers.get_all(name).iter();
    let mut value = Cow::Borrowed(values.next()?.as_bytes());
    for further in values {
        let joined = value.to_mut();
        joined.push(b',');
        joined.extend_from_slice(further.as_bytes());
    }
    Some(value)
}

/// The query of one request, taken apart when the first match asks for it.
pub(super) struct Query<'a> {
    text: &'a str,
    parameters: OnceCell<Vec<(&'a str, &'a str)>>,
}

impl<'a> Query<'a> {
    pub(super) fn of(request: &'a CanonicalRequest) -> Self {
        Self {
            text: request.query().unwrap_or_default(),
            parameters: OnceCell::new(),
        }
    }

    /// Whether the first parameter of that name fits, as it was sent (which is what Envoy compares) or
    /// decoded (which is what the author meant).
    pub(super) fn matches(&self, wanted: &QueryMatch) -> bool {
        let parameters = self.parameters.get_or_init(|| {
            self.text
                .split('&')
                .filter(|parameter| !parameter.is_empty())
                .map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
                .collect()
        });
        let name = wanted.name.as_bytes();
        parameters
            .iter()
            .find(|(sent, _)| sent.as_bytes() == name || *decode(sent) == *name)
            .is_some_and(|(_, value)| {
                wanted.value.matches(value.as_bytes()) || wanted.value.matches(&decode(value))
            })
    }
}

/// `application/x-www-form-urlencoded`: `%HH` and `+`. What is malformed stays as it is.
fn decode(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if memchr::memchr2(b'%', b'+', bytes).is_none() {
        return bytes.into();
    }
    let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => match (digit(at), digit(at + 1)) {
                (Some(high), Some(low)) => {
                    at += 2;
                    (high << 4 | low) as u8
                }
                _ => byte,
            },
            _ => byte,
        });
    }
    decoded.into()
}
