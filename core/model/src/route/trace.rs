//! Which matches fit a request, for those who explain a lookup.
//!
//! Walks the same buckets as [`RouteTable::lookup`] and asks the same candidates, but does not stop at
//! the first that matches.

use std::sync::Arc;

use super::bucket::Bucket;
use super::matches::{PathMatch, Query};
use super::order::Advantage;
use super::table::{RouteEntry, RouteTable};
use crate::request::CanonicalRequest;

/// One match that fits a request.
#[derive(Clone, Debug)]
pub struct Fitting {
    /// The match, its rule and its place.
    pub entry: RouteEntry,
    /// By what the one before it in the list takes precedence; `None` for the first, which is taken.
    pub loses_by: Option<Advantage>,
}

impl RouteTable {
    /// Every match that fits, in order of precedence: the first is what [`Self::lookup`] takes. Costs a
    /// look at all prefixes.
    #[must_use]
    pub fn trace(&self, request: &CanonicalRequest) -> Vec<Fitting> {
        let path = request.path();
        let query = Query::of(request);
        let mut entries: Vec<RouteEntry> = Vec::new();
        let mut add = |path: &PathMatch, bucket: &Bucket| {
            let fitting = bucket.candidates().iter();
            let fitting = fitting.filter(|candidate| candidate.matches(request, &query));
            entries.extend(fitting.map(|candidate| candidate.full_entry(path.clone())));
        };
        if let Some((path, bucket)) = self.exact.get_key_value(path) {
            add(&PathMatch::Exact((**path).into()), bucket);
        }
        let all = self.prefixes.all();
        for bucket in self.prefixes.matching(path) {
            let prefix = all
                .iter()
                .find(|(_, known)| std::ptr::eq(*known, bucket))
                .map_or("/", |(prefix, _)| prefix.as_str());
            let prefix: Arc<str> = if prefix.is_empty() { "/" } else { prefix }.into();
            add(&PathMatch::Prefix(prefix), bucket);
        }
        let patterns = self.patterns.iter().filter(|(pattern, candidate)| {
            candidate.matches(request, &query) && pattern.matches(path.as_bytes())
        });
        entries.extend(
            patterns.map(|(pattern, candidate)| {
                candidate.full_entry(PathMatch::Regex(pattern.clone()))
            }),
        );
        with_reasons(entries)
    }
}

fn with_reasons(entries: Vec<RouteEntry>) -> Vec<Fitting> {
    let mut fitting: Vec<Fitting> = Vec::with_capacity(entries.len());
    for entry in entries {
        let loses_by = fitting
            .last()
            .map(|before| Advantage::of(&before.entry, &entry));
        fitting.push(Fitting { entry, loses_by });
    }
    fitting
}
