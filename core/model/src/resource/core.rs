//! Kubernetes' own kinds, as far as a proxy reads them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use super::meta::{Metadata, Unread};

/// A Namespace: only its labels matter.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Namespace {
    /// Its metadata.
    pub metadata: Metadata,
}

/// A ServiceAccount: only that it is there.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct ServiceAccount {
    /// Its metadata.
    pub metadata: Metadata,
}

/// A ConfigMap.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct ConfigMap {
    pub(crate) metadata: Metadata,
    #[serde(default)]
    pub(crate) data: BTreeMap<String, String>,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Service {
    /// Its metadata.
    pub metadata: Metadata,
    /// What it offers.
    #[serde(default)]
    pub spec: ServiceSpec,
    #[serde(rename = "apiVersion", default)]
    _api_version: Unread,
    #[serde(rename = "kind", default)]
    _kind: Unread,
    #[serde(rename = "status", default)]
    _status: Unread,
}

/// `spec` of a Service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// Labels of the Pods behind it; empty where EndpointSlices are made by hand.
    pub selector: BTreeMap<String, String>,
    /// The virtual address, `None` for a headless service.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    /// All virtual addresses.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    /// ClusterIP, NodePort, LoadBalancer or ExternalName.
    #[serde(rename = "type")]
    pub kind: ServiceType,
    /// Whether Pods that are not ready are endpoints too.
    pub publish_not_ready_addresses: bool,
    /// Which endpoints are preferred: `PreferClose`, `PreferSameZone` or `PreferSameNode`.
    pub traffic_distribution: Option<String>,
    /// The name that an ExternalName service stands for.
    pub external_name: Option<String>,
    #[serde(rename = "sessionAffinity")]
    _session_affinity: Unread,
    #[serde(rename = "sessionAffinityConfig")]
    _session_affinity_config: Unread,
    #[serde(rename = "ipFamilies")]
    _ip_families: Unread,
    #[serde(rename = "ipFamilyPolicy")]
    _ip_family_policy: Unread,
    #[serde(rename = "internalTrafficPolicy")]
    _internal_traffic_policy: Unread,
    #[serde(rename = "externalTrafficPolicy")]
    _external_traffic_policy: Unread,
    #[serde(rename = "externalIPs")]
    _external_ips: Unread,
    #[serde(rename = "loadBalancerIP")]
    _load_balancer_ip: Unread,
    #[serde(rename = "loadBalancerClass")]
    _load_balancer_class: Unread,
    #[serde(rename = "loadBalancerSourceRanges")]
    _load_balancer_source_ranges: Unread,
    #[serde(rename = "allocateLoadBalancerNodePorts")]
    _allocate_load_balancer_node_ports: Unread,
    #[serde(rename = "healthCheckNodePort")]
    _health_check_node_port: Unread,
}

impl ServiceSpec {
    /// The virtual addresses that parse, in the order written; none for a headless service.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let written: Vec<&String> = if self.cluster_ips.is_empty() {
            self.cluster_ip.iter().collect()
        } else {
            self.cluster_ips.iter().collect()
        };
        written
            .into_iter()
            .filter_map(|text| text.parse::<IpAddr>().ok())
            .map(|ip| ip.to_canonical())
            .collect()
    }
}

/// Type of a Service.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize)]
pub enum ServiceType {
    /// Reached inside the cluster (or headless).
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// Also on every node.
    NodePort,
    /// Also from outside.
    LoadBalancer,
    /// Only a DNS alias.
    ExternalName,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Name; its prefix may declare the protocol.
    #[serde(default)]
    pub name: String,
    /// Transport protocol.
    #[serde(default)]
    pub protocol: TransportProtocol,
    /// The port callers use.
    pub port: u16,
    /// The port of the Pods; the same where absent.
    #[serde(default)]
    pub target_port: Option<IntOrString>,
    /// What is spoken, when declared.
    #[serde(default)]
    pub app_protocol: Option<String>,
    #[serde(default, rename = "nodePort")]
    _node_port: Unread,
}

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TransportProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP; not proxied.
    Udp,
    /// SCTP; not proxied.
    Sctp,
}

/// A number or a name.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum IntOrString {
    /// A port number.
    Int(u16),
    /// A port name.
    String(String),
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Its metadata; the label `kubernetes.io/service-name` names the Service.
    pub metadata: Metadata,
    /// What the addresses are.
    pub address_type: AddressType,
    /// The endpoints.
    #[serde(default)]
    pub endpoints: Vec<SliceEndpoint>,
    /// The ports all of them serve.
    #[serde(default)]
    pub ports: Vec<SlicePort>,
    #[serde(rename = "apiVersion", default)]
    _api_version: Unread,
    #[serde(rename = "kind", default)]
    _kind: Unread,
}

/// Type of an EndpointSlice's addresses.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize)]
pub enum AddressType {
    /// IPv4 addresses.
    IPv4,
    /// IPv6 addresses.
    IPv6,
    /// Names; not used by Kubernetes itself.
    #[serde(rename = "FQDN")]
    Fqdn,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SliceEndpoint {
    /// Addresses of the same endpoint.
    pub addresses: Vec<String>,
    /// Its state.
    pub conditions: EndpointConditions,
    /// The Pod behind it.
    pub target_ref: Option<TargetRef>,
    /// Its zone.
    pub zone: Option<String>,
    /// Its node.
    pub node_name: Option<String>,
    /// Who should use it.
    pub hints: Option<EndpointHints>,
    #[serde(rename = "hostname")]
    _hostname: Unread,
    #[serde(rename = "deprecatedTopology")]
    _deprecated_topology: Unread,
}

/// State of an endpoint; what is absent counts as ready (Kubernetes: EndpointConditions).
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    /// Ready for new work.
    pub ready: Option<bool>,
    /// Still answering.
    pub serving: Option<bool>,
    /// On its way out.
    pub terminating: Option<bool>,
}

/// The object behind an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    /// Its kind.
    pub kind: String,
    /// Its namespace; empty means the slice's.
    pub namespace: String,
    /// Its name.
    pub name: String,
    #[serde(rename = "uid")]
    _uid: Unread,
    #[serde(rename = "apiVersion")]
    _api_version: Unread,
    #[serde(rename = "resourceVersion")]
    _resource_version: Unread,
    #[serde(rename = "fieldPath")]
    _field_path: Unread,
}

/// One port of a slice.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct SlicePort {
    /// Name of the service port it belongs to.
    pub name: String,
    /// The port; `None` means all ports.
    pub port: Option<u16>,
    /// Transport protocol.
    pub protocol: TransportProtocol,
    #[serde(rename = "appProtocol")]
    _app_protocol: Unread,
}

/// Who should use an endpoint (Kubernetes: EndpointHints).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointHints {
    /// Clients of these zones.
    pub for_zones: Vec<HintedName>,
    /// Clients on these nodes.
    pub for_nodes: Vec<HintedName>,
}

/// A zone or a node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HintedName {
    /// Its name.
    pub name: String,
}

/// A Node; its labels say in which zone it is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Node {
    /// Its metadata.
    pub metadata: Metadata,
}

/// A Pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Pod {
    /// Its metadata.
    pub metadata: Metadata,
    /// What runs in it.
    #[serde(default)]
    pub spec: PodSpec,
    /// How it is.
    #[serde(default)]
    pub status: PodStatus,
}

/// The part of a Pod's `spec` that is read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// Its account; empty means `default`.
    pub service_account_name: String,
    /// Its node.
    pub node_name: String,
    /// Whether it shares the node's addresses.
    pub host_network: bool,
    /// Its containers.
    pub containers: Vec<Container>,
}

/// The part of a container that is read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Container {
    /// Its declared ports.
    pub ports: Vec<ContainerPort>,
}

/// A declared port of a container.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// Name.
    #[serde(default)]
    pub name: String,
    /// Number.
    pub container_port: u16,
    /// Transport protocol.
    #[serde(default)]
    pub protocol: TransportProtocol,
}

/// The part of a Pod's `status` that is read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PodStatus {
    /// Its first address.
    #[serde(rename = "podIP")]
    pub pod_ip: String,
    /// All its addresses.
    #[serde(rename = "podIPs")]
    pub pod_ips: Vec<PodIp>,
    /// Pending, Running, Succeeded, Failed or Unknown; empty where written by hand.
    pub phase: String,
    /// Its conditions.
    pub conditions: Vec<PodCondition>,
}

/// One address of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PodIp {
    /// The address.
    pub ip: String,
}

/// One condition of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PodCondition {
    /// Its type, e.g. `Ready`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
}
