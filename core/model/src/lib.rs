//! What the proxy knows, as plain data.
//!
//! This room owns the resources Wayline reads (Kubernetes, Gateway API, Istio), their translation
//! into a [`Snapshot`], and every decision that needs no I/O: which service a tunnel leads to,
//! which route a request takes, whether a policy admits it. It is pure and synchronous.
//!
//! It refuses to know sockets, clocks, tasks, TLS and files: those who have them (`wayline-control`
//! for knowledge, `wayline-proxy` for requests) call in here, never the other way.

pub mod authentication;
pub mod authorization;
pub mod defence;
pub mod ext_authz;
pub mod finding;
pub mod identity;
pub mod mesh;
pub mod names;
pub mod plugin;
#[cfg(test)]
mod random;
pub mod request;
pub mod resource;
pub mod route;
pub mod service;
pub mod snapshot;
pub mod status;
pub mod store;
pub mod tracing;
pub mod translate;
pub mod workload;

pub use finding::{Finding, Severity};
pub use identity::{Identity, TrustDomain};
pub use names::{Hostname, ObjectRef};
pub use request::CanonicalRequest;
pub use snapshot::Snapshot;
pub use status::Statuses;
pub use store::Resources;
pub use translate::{Translation, Translator};
