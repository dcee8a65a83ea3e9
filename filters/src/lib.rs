//! The native filters, one folder each.
//!
//! A filter lives in a folder of its own and is offered to the data path by a [`FilterSource`]. This
//! room refuses to know sockets, codecs and where configuration comes from: everything a filter
//! decides by is in its [`Scope`](wayline_chain::Scope) when it is built and in the
//! [`RequestContext`](wayline_chain::RequestContext) when it runs. `docs/writing-a-native-filter.md`
//! builds one from scratch.

pub mod authorization;

use std::sync::Arc;

use wayline_chain::FilterSource;

pub use authorization::AuthorizationSource;

/// Every native filter there is. Each yields filters only for scopes that configure it.
#[must_use]
pub fn native_sources() -> Vec<Arc<dyn FilterSource>> {
    vec![Arc::new(AuthorizationSource)]
}

#[cfg(doctest)]
#[doc = include_str!("../../docs/writing-a-native-filter.md")]
struct Guide;
