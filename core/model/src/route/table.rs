//! The route table: which rule a request takes.

use std::sync::Arc;

use super::RouteRule;
use super::matches::RouteMatch;
use super::order::RouteOrder;
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
pub struct RouteTable {}

impl RouteTable {
    /// Compiles entries, in whatever order they come.
    #[must_use]
    pub fn build(_entries: Vec<RouteEntry>) -> Self {
        Self {}
    }

    /// The rule with the highest precedence among those that match.
    #[must_use]
    pub fn lookup(&self, _request: &CanonicalRequest) -> Option<&Arc<RouteRule>> {
        None
    }
}
