//! Services and the clusters of endpoints behind their ports.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::identity::Identity;
use crate::names::Hostname;
use crate::workload::Workload;

/// A service as callers address it. Keyed by namespace and host; its addresses by (network, address).
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Short name.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// FQDN, e.g. `reviews.default.svc.cluster.local`.
    pub hostname: Hostname,
    /// Virtual addresses in `network`.
    pub addresses: Vec<IpAddr>,
    /// Network of the addresses.
    pub network: Arc<str>,
    /// Ports in the order written.
    pub ports: Vec<ServicePort>,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServicePort {
    /// Port name; empty when the service has one unnamed port.
    pub name: Arc<str>,
    /// The port callers use.
    pub port: u16,
    /// What is spoken on it.
    pub protocol: AppProtocol,
}

/// What is spoken on a port, from `appProtocol`, else the port name's prefix, else by sniffing
/// (Istio: pkg/config/kube/conversion.go).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AppProtocol {
    /// HTTP; HTTP/1.1 to the backend unless the client speaks HTTP/2.
    Http,
    /// HTTP/2 without TLS.
    Http2,
    /// gRPC, i.e. HTTP/2.
    Grpc,
    /// Opaque bytes.
    Tcp,
    /// Opaque bytes that happen to be TLS (`https`, `tls`).
    Tls,
    /// Not declared: the first bytes decide, and a server that speaks first is not kept waiting.
    Undeclared,
}

impl AppProtocol {
    /// Whether requests on such a port are read as HTTP without looking at the bytes.
    #[must_use]
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }

    /// Whether bytes on such a port are never read.
    #[must_use]
    pub fn is_opaque(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }
}

/// Dense, stable number of a cluster: it keeps its meaning across snapshots of one translator, so
/// that cores may index their pools and balancers by it. Numbers are never reused.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ClusterId(pub u32);

/// The endpoints behind one port of one service (or one workload addressed directly).
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Its number.
    pub id: ClusterId,
    /// Name in Istio's form, `outbound|<port>||<hostname>`; for logs, traces and `/config_dump`.
    pub name: Arc<str>,
    /// The service; `None` for a workload addressed directly.
    pub service: Option<Arc<Service>>,
    /// The service port.
    pub port: u16,
    /// What is spoken to the endpoints.
    pub protocol: AppProtocol,
    /// The endpoints, ready ones only (all of them when `publishNotReadyAddresses` is set).
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Time for TCP, TLS and HTTP/2 handshakes together, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Which endpoints are preferred while they can be reached.
    pub prefers: Preference,
}

/// Which endpoints of a cluster are preferred (Kubernetes: `spec.trafficDistribution`; Istio:
/// `networking.istio.io/traffic-distribution`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Preference {
    /// None.
    #[default]
    Any,
    /// Those of our own zone.
    SameZone,
    /// Those of our own node, then those of our own zone.
    SameNode,
    /// Those that are meant for our zone, where EndpointSlices say so
    /// (`service.kubernetes.io/topology-mode: Auto`).
    Hinted,
}

impl Preference {
    /// Reads a value; `None` for one that is not known.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "PreferClose" | "PreferSameZone" => Self::SameZone,
            "PreferSameNode" => Self::SameNode,
            // Istio's way to take a namespace's preference back.
            "Any" | "" => Self::Any,
            _ => return None,
        })
    }
}

/// Where something runs. What is not known is empty and like nothing else.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Locality {
    /// Zone.
    pub zone: Arc<str>,
    /// Node.
    pub node: Arc<str>,
}

/// One address that serves a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Address and target port.
    pub address: SocketAddr,
    /// How to get there.
    pub transport: Transport,
    /// The workload behind it, when known.
    pub workload: Option<Arc<Workload>>,
    /// Zone; empty when unknown.
    pub zone: Arc<str>,
    /// Node; empty when unknown.
    pub node: Arc<str>,
    /// The zones that it is meant for (EndpointSlice: `hints.forZones`); none where nobody says.
    pub for_zones: Arc<[Arc<str>]>,
    /// The nodes that it is meant for (`hints.forNodes`); none where nobody says.
    pub for_nodes: Arc<[Arc<str>]>,
}

impl Endpoint {
    /// Whether it is meant for our own zone, or runs there where nobody says.
    #[must_use]
    pub fn is_in_zone_of(&self, ours: &Locality) -> bool {
        match self.for_zones.is_empty() {
            true => !ours.zone.is_empty() && self.zone == ours.zone,
            false => self.is_hinted_at(ours),
        }
    }

    /// Whether somebody says that it is meant for our own zone.
    #[must_use]
    pub fn is_hinted_at(&self, ours: &Locality) -> bool {
        !ours.zone.is_empty() && self.for_zones.contains(&ours.zone)
    }

    /// Whether it is meant for our own node, or runs there where nobody says.
    #[must_use]
    pub fn is_on_node_of(&self, ours: &Locality) -> bool {
        let is_meant = match self.for_nodes.is_empty() {
            true => self.node == ours.node,
            false => self.for_nodes.contains(&ours.node),
        };
        is_meant && !ours.node.is_empty()
    }
}

/// How an endpoint is reached.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Transport {
    /// TCP to its address.
    Plain,
    /// CONNECT to its address through the HBONE port of its workload, whose certificate must carry
    /// exactly this identity.
    Hbone {
        /// Where the tunnel ends: the workload's IP, port 15008.
        gateway: SocketAddr,
        /// The identity that must answer.
        identity: Identity,
    },
}
