//! Upstream: from a cluster to a response head.
//!
//! This room owns what one core has open to backends: balancing, pools, connecting, retrying. It
//! refuses to know routes and policies: it is given a cluster and a request that was admitted.

pub(crate) mod cluster;
pub(crate) mod connect;
pub(crate) mod deadline;
pub(crate) mod endpoint;
pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod response;
pub(crate) mod send;

pub(crate) use cluster::{ClusterState, Upstreams};
pub(crate) use response::{Switched, UpstreamBody};
pub(crate) use send::{Attempts, UpstreamRequest};
