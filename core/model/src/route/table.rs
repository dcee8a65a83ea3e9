//! The route table: which rule a request takes.

use std::sync::Arc;

use super::RouteRule;
use crate::request::CanonicalRequest;

/// Rules compiled for lookup.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {}

impl RouteTable {
    /// The rule with the highest precedence among those that match.
    #[must_use]
    pub fn lookup(&self, _request: &CanonicalRequest) -> Option<&Arc<RouteRule>> {
        None
    }
}
