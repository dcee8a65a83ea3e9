//! The native filters, one folder each.
//!
//! A filter lives in a folder of its own and is offered to the data path by a [`FilterSource`]. This
//! room refuses to know sockets, codecs and where configuration comes from: everything a filter
//! decides by is in its [`Scope`](wayline_chain::Scope) when it is built and in the
//! [`RequestContext`](wayline_chain::RequestContext) when it runs. `docs/writing-a-native-filter.md`
//! builds one from scratch.

pub mod authorization;
pub mod ext_authz;
pub mod jwt;

use std::sync::Arc;

use wayline_chain::FilterSource;

pub use authorization::AuthorizationSource;
pub use ext_authz::ExtAuthzSource;
pub use jwt::{JwtSource, RemoteKeys};

/// Every native filter there is. Each yields filters only for scopes that configure it. Keys of token
/// issuers that have to be fetched are read from `remote`.
#[must_use]
pub fn native_sources(remote: RemoteKeys) -> Vec<Arc<dyn FilterSource>> {
    vec![
        Arc::new(ExtAuthzSource),
        Arc::new(JwtSource::new(remote)),
        Arc::new(AuthorizationSource),
    ]
}

#[cfg(doctest)]
#[doc = include_str!("../../docs/writing-a-native-filter.md")]
struct Guide;
