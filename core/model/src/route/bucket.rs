//! The matches that share one path, by precedence.
//!
//! Usually there are a few, and they are tried one after the other. Where there are many (a header per
//! tenant, say), those that ask for an exact header value are found by that value.

use std::sync::Arc;

use http::Method;
use http::header::HeaderName;
use rustc_hash::{FxHashMap, FxHashSet};

use super::RouteRule;
use super::matches::{
    HeaderMatch, PathMatch, Query, QueryMatch, RouteMatch, ValueMatch, header_value,
};
use super::order::RouteOrder;
use super::table::RouteEntry;
use crate::request::CanonicalRequest;

/// Up to so many candidates are simply tried in turn.
const FEW: usize = 16;

/// What a match asks for beyond its path.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) method: Option<Method>,
    pub(super) headers: Vec<HeaderMatch>,
    pub(super) query: Vec<QueryMatch>,
    pub(super) rule: Arc<RouteRule>,
    /// Boxed: only asked for by those who explain a lookup.
    pub(super) order: Box<RouteOrder>,
}

impl Candidate {
    /// The match this candidate was made from, but for headers and parameters named twice.
    pub(super) fn entry(&self, path: PathMatch) -> (RouteMatch, &Arc<RouteRule>) {
        let matches = RouteMatch {
            path,
            headers: self.headers.clone(),
            query: self.query.clone(),
            method: self.method.clone(),
        };
        (matches, &self.rule)
    }

    /// The entry this candidate was made from, but for headers and parameters named twice.
    pub(super) fn full_entry(&self, path: PathMatch) -> RouteEntry {
        let (matches, rule) = self.entry(path);
        RouteEntry {
            matches,
            rule: Arc::clone(rule),
            order: (*self.order).clone(),
        }
    }

    pub(super) fn matches(&self, request: &CanonicalRequest, query: &Query<'_>) -> bool {
        self.method
            .as_ref()
            .is_none_or(|method| *method == request.method)
            && self.headers.iter().all(|header| header.matches(request))
            && self.query.iter().all(|wanted| query.matches(wanted))
    }
}

/// Candidates for one path, in order of precedence.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    candidates: Vec<Candidate>,
    by_header: Option<HeaderIndex>,
}

/// Positions of candidates by the value of one header.
type ByValue = FxHashMap<Arc<str>, Vec<usize>>;

/// Positions of candidates by an exact header value they ask for.
#[derive(Clone, Debug)]
struct HeaderIndex {
    names: Vec<(HeaderName, ByValue)>,
    /// Those that ask for no exact value.
    others: Vec<usize>,
}

impl Bucket {
    pub(super) fn new(candidates: Vec<Candidate>) -> Self {
        let by_header = (candidates.len() > FEW).then(|| HeaderIndex::new(&candidates));
        Self {
            candidates,
            by_header,
        }
    }

    /// All candidates, in order of precedence.
    pub(super) fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// The first candidate that matches.
    pub(super) fn find(
        &self,
        request: &CanonicalRequest,
        query: &Query<'_>,
    ) -> Option<&Arc<RouteRule>> {
        let Some(index) = &self.by_header else {
            let found = self
                .candidates
                .iter()
                .find(|candidate| candidate.matches(request, query));
            return found.map(|candidate| &candidate.rule);
        };
        let mut best = self.candidates.len();
        let mut improve = |positions: &[usize]| {
            let better = positions.iter().copied().take_while(|at| *at < best);
            for at in better {
                if self.candidates[at].matches(request, query) {
                    best = at;
                    return;
                }
            }
        };
        for (name, values) in &index.names {
            let positions = header_value(request, name)
                .and_then(|value| values.get(std::str::from_utf8(&value).ok()?));
            if let Some(positions) = positions {
                improve(positions);
            }
        }
        improve(&index.others);
        self.candidates.get(best).map(|candidate| &candidate.rule)
    }
}

impl HeaderIndex {
    fn new(candidates: &[Candidate]) -> Self {
        let mut spread: FxHashMap<&HeaderName, FxHashSet<&str>> = FxHashMap::default();
        for (name, value) in candidates.iter().flat_map(exact_headers) {
            spread.entry(name).or_default().insert(value);
        }
        let mut names: Vec<(HeaderName, ByValue)> = Vec::new();
        let mut others = Vec::new();
        for (at, candidate) in candidates.iter().enumerate() {
            // The header with the most values tells candidates apart best.
            let key = exact_headers(candidate).max_by_key(|(name, _)| {
                (spread.get(name).map_or(0, FxHashSet::len), name.as_str())
            });
            let Some((name, value)) = key else {
                others.push(at);
                continue;
            };
            let slot = match names.iter().position(|(known, _)| known == name) {
                Some(slot) => slot,
                None => {
                    names.push((name.clone(), ByValue::default()));
                    names.len() - 1
                }
            };
            names[slot].1.entry(Arc::clone(value)).or_default().push(at);
        }
        Self { names, others }
    }
}

fn exact_headers(candidate: &Candidate) -> impl Iterator<Item = (&HeaderName, &Arc<str>)> {
    candidate
        .headers
        .iter()
        .filter_map(|header| match &header.value {
            ValueMatch::Exact(value) => Some((&header.name, value)),
            ValueMatch::Regex(_) => None,
        })
}
