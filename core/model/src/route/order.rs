//! Precedence among matches that fit the same request (Gateway API, HTTPRouteRule.matches).
//!
//! Exact path, then the longest prefix, then regular expressions: where those stand is left to
//! implementations, and Istio puts them last, the longer pattern first. Among equal paths: a method,
//! then more headers, then more query parameters, then the oldest route, then the first by
//! `namespace/name`, then the first rule and match within it.

use std::cmp::{Ordering, Reverse};
use std::fmt;
use std::sync::Arc;

use super::matches::PathMatch;
use super::table::RouteEntry;

/// Compares two entries: the one that takes precedence is less.
pub(super) fn precedence(one: &RouteEntry, other: &RouteEntry) -> Ordering {
    demands(one)
        .cmp(&demands(other))
        .then_with(|| one.order.cmp(&other.order))
}

/// How much an entry asks for, the most first: kind and length of the path, method, headers, query.
fn demands(entry: &RouteEntry) -> Demands {
    let matches = &entry.matches;
    let (kind, length) = match &matches.path {
        PathMatch::Exact(path) => (0, path.len()),
        PathMatch::Prefix(path) => (1, path.trim_end_matches('/').len()),
        PathMatch::Regex(pattern) => (2, pattern.as_str().len()),
    };
    Demands {
        kind,
        length: Reverse(length),
        method: Reverse(matches.method.is_some()),
        headers: Reverse(matches.headers.len()),
        query: Reverse(matches.query.len()),
    }
}

/// Compared in the order of the fields.
#[derive(Eq, Ord, PartialEq, PartialOrd)]
struct Demands {
    kind: u8,
    length: Reverse<usize>,
    method: Reverse<bool>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
}

/// By what one match takes precedence over another that fits as well.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Advantage {
    /// An exact path before a prefix, and either before a regular expression.
    PathKind,
    /// The longer prefix or pattern.
    PathLength,
    /// It asks for a method.
    Method,
    /// It asks for more headers.
    Headers,
    /// It asks for more query parameters.
    Query,
    /// Its route is older.
    Age,
    /// Its route is first by `namespace/name`.
    Name,
    /// It comes first within its route.
    Position,
}

impl Advantage {
    /// Why one entry, which precedes, precedes the other.
    pub(super) fn of(one: &RouteEntry, other: &RouteEntry) -> Self {
        let (ours, theirs) = (demands(one), demands(other));
        if ours.kind != theirs.kind {
            Self::PathKind
        } else if ours.length != theirs.length {
            Self::PathLength
        } else if ours.method != theirs.method {
            Self::Method
        } else if ours.headers != theirs.headers {
            Self::Headers
        } else if ours.query != theirs.query {
            Self::Query
        } else if one.order.created != other.order.created {
            Self::Age
        } else if !one.order.full_name().eq(other.order.full_name()) {
            Self::Name
        } else {
            Self::Position
        }
    }
}

impl fmt::Display for Advantage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PathKind => "exact paths come before prefixes, and those before patterns",
            Self::PathLength => "the longer path wins",
            Self::Method => "it asks for a method",
            Self::Headers => "it asks for more headers",
            Self::Query => "it asks for more query parameters",
            Self::Age => "its HTTPRoute is older",
            Self::Name => "its HTTPRoute comes first by namespace/name",
            Self::Position => "it comes first in its HTTPRoute",
        })
    }
}

/// Where a match stands among those that ask for equally much.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RouteOrder {
    /// `metadata.creationTimestamp` in the API server's one format (RFC 3339, UTC, seconds); objects
    /// without one count as oldest.
    pub created: Option<Arc<str>>,
    /// Namespace of the route.
    pub namespace: Arc<str>,
    /// Name of the route.
    pub name: Arc<str>,
    /// Index of the rule in the route, from 0.
    pub rule: usize,
    /// Index of the match in the rule, from 0.
    pub matched: usize,
}

impl Ord for RouteOrder {
    fn cmp(&self, other: &Self) -> Ordering {
        self.created
            .cmp(&other.created)
            .then_with(|| self.full_name().cmp(other.full_name()))
            .then_with(|| self.rule.cmp(&other.rule))
            .then_with(|| self.matched.cmp(&other.matched))
    }
}

impl PartialOrd for RouteOrder {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl RouteOrder {
    /// `namespace/name` as one text: compared part by part, `a/x` and `a-b/x` would change places.
    fn full_name(&self) -> impl Iterator<Item = u8> {
        self.namespace
            .bytes()
            .chain(std::iter::once(b'/'))
            .chain(self.name.bytes())
    }
}
