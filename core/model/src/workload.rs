//! Workloads: who runs behind an address, and how it is reached.

use std::net::IpAddr;
use std::sync::Arc;

use crate::identity::Identity;

/// One workload: a Pod, or an `Address` of WDS.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Unique id; for Kubernetes `<cluster>//Pod/<namespace>/<name>`.
    pub uid: Arc<str>,
    /// Pod name.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Network the addresses belong to.
    pub network: Arc<str>,
    /// The identity its certificate carries.
    pub identity: Identity,
    /// Whether it takes HBONE on port 15008.
    pub tunnel: TunnelProtocol,
    /// Node it runs on; empty when unknown.
    pub node: Arc<str>,
    /// Name of its Deployment or other owner: the `*_workload` label.
    pub workload_name: Arc<str>,
    /// `service.istio.io/canonical-name`, else `app.kubernetes.io/name`, else `app`, else the
    /// workload name.
    pub canonical_name: Arc<str>,
    /// `service.istio.io/canonical-revision`, else `app.kubernetes.io/version`, else `version`, else
    /// `latest`.
    pub canonical_revision: Arc<str>,
    /// Label `app`, else `unknown`.
    pub app: Arc<str>,
    /// Label `version`, else `unknown`.
    pub version: Arc<str>,
    /// Cluster id, for the `*_cluster` labels.
    pub cluster: Arc<str>,
    /// Zone, from the node or the EndpointSlice; empty when unknown.
    pub zone: Arc<str>,
    /// Whether the Pod is ready.
    pub ready: bool,
}

/// How a workload is reached.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum TunnelProtocol {
    /// Plain TCP.
    #[default]
    None,
    /// HBONE: mTLS HTTP/2 CONNECT on port 15008 of its address.
    Hbone,
}
