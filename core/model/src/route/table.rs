//! The route table: which rule a request takes.
//!
//! Exact paths are found by hash and prefixes by one walk down their segments, so that a lookup costs
//! the same among ten routes and ten thousand. Headers, query and method are compared only for the
//! candidates a path leaves. Regular expressions are tried in turn, when nothing else matched.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::RouteRule;
use super::bucket::{Bucket, Candidate};
use super::matches::{PathMatch, Query, RouteMatch};
use super::order::{self, RouteOrder};
use super::pattern::CompiledPattern;
use super::prefix::PrefixTree;
use crate::request::CanonicalRequest;

/// One match of one rule, as [`RouteTable::build`] takes it.
#[derive(Clone, Debug)]
pub struct RouteEntry {
    /// What a request must look like.
    pub matches: RouteMatch,
    /// What then happens.
    pub rule: Arc<RouteRule>,
    /// Its place among matches that ask for equally much.
    pub order: RouteOrder,
}

/// Rules compiled for lookup.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    pub(super) exact: FxHashMap<Box<str>, Bucket>,
    pub(super) prefixes: PrefixTree,
    pub(super) patterns: Vec<(CompiledPattern, Candidate)>,
    /// Whether some rule asks a server whether requests may pass.
    pub asks_externally: bool,
}

impl RouteTable {
    /// Compiles entries, in whatever order they come. A prefix that does not begin with a slash can not
    /// match, and telling its author is the translation's task.
    #[must_use]
    pub fn build(mut entries: Vec<RouteEntry>) -> Self {
        for entry in &mut entries {
            keep_first_of_each_name(&mut entry.matches);
        }
        entries.sort_by(order::precedence);
        let asks_externally = entries.iter().any(|it| it.rule.external_auth.is_some());

        let mut exact: FxHashMap<Box<str>, Vec<Candidate>> = FxHashMap::default();
        let mut prefixes: FxHashMap<Box<str>, Vec<Candidate>> = FxHashMap::default();
        let mut patterns = Vec::new();
        for RouteEntry {
            matches,
            rule,
            order,
        } in entries
        {
            let candidate = Candidate {
                method: matches.method,
                headers: matches.headers,
                query: matches.query,
                rule,
                order: Box::new(order),
            };
            match matches.path {
                PathMatch::Exact(path) => {
                    exact.entry((*path).into()).or_default().push(candidate);
                }
                PathMatch::Prefix(path) => {
                    let prefix = path.trim_end_matches('/');
                    if path.starts_with('/') {
                        prefixes.entry(prefix.into()).or_default().push(candidate);
                    }
                }
                PathMatch::Regex(pattern) => patterns.push((pattern, candidate)),
            }
        }
        let bucket = |(path, candidates)| (path, Bucket::new(candidates));
        Self {
            exact: exact.into_iter().map(bucket).collect(),
            prefixes: PrefixTree::new(prefixes.into_iter().map(bucket)),
            patterns,
            asks_externally,
        }
    }

    /// Everything in the table, for those who show it: exact paths, then prefixes (the longest first),
    /// then patterns; in order of precedence where a request could match both. Costs a copy of each.
    #[must_use]
    pub fn entries(&self) -> Vec<(RouteMatch, &Arc<RouteRule>)> {
        let mut exact: Vec<_> = self.exact.iter().collect();
        exact.sort_by_key(|(path, _)| *path);
        let mut prefixes = self.prefixes.all();
        prefixes.sort_by(|(one, _), (other, _)| {
            (other.len(), one.as_str()).cmp(&(one.len(), other.as_str()))
        });
        let exact = exact.into_iter().flat_map(|(path, bucket)| {
            let path: Arc<str> = (**path).into();
            let candidates = bucket.candidates().iter();
            candidates.map(move |it| it.entry(PathMatch::Exact(Arc::clone(&path))))
        });
        let prefixes = prefixes.into_iter().flat_map(|(prefix, bucket)| {
            let prefix: Arc<str> = if prefix.is_empty() {
                "/".into()
            } else {
                prefix.into()
            };
            let candidates = bucket.candidates().iter();
            candidates.map(move |it| it.entry(PathMatch::Prefix(Arc::clone(&prefix))))
        });
        let patterns = self
            .patterns
            .iter()
            .map(|(pattern, it)| it.entry(PathMatch::Regex(pattern.clone())));
        exact.chain(prefixes).chain(patterns).collect()
    }

    /// The rule with the highest precedence among those that match.
    #[must_use]
    pub fn lookup(&self, request: &CanonicalRequest) -> Option<&Arc<RouteRule>> {
        let path = request.path();
        let query = Query::of(request);
        if let Some(rule) = self
            .exact
            .get(path)
            .and_then(|bucket| bucket.find(request, &query))
        {
            return Some(rule);
        }
        if let Some(rule) = self
            .prefixes
            .matching(path)
            .find_map(|bucket| bucket.find(request, &query))
        {
            return Some(rule);
        }
        self.patterns
            .iter()
            .find(|(pattern, candidate)| {
                candidate.matches(request, &query) && pattern.matches(path.as_bytes())
            })
            .map(|(_, candidate)| &candidate.rule)
    }
}

fn keep_first_of_each_name(matches: &mut RouteMatch) {
    let mut seen = FxHashSet::default();
    matches
        .headers
        .retain(|header| seen.insert(header.name.clone()));
    let mut seen = FxHashSet::default();
    matches
        .query
        .retain(|wanted| seen.insert(Arc::clone(&wanted.name)));
}

#[cfg(test)]
mod tests;
