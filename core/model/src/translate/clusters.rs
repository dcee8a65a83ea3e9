//! Endpoints behind the ports of services: from EndpointSlices, or from the Pods themselves where a
//! service with a selector has no EndpointSlice at all (a folder written by hand).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::memo::{Memo, reuse};
use super::services::{ServiceEntry, Services};
use super::workloads::{PodEntry, Pods};
use crate::finding::Finding;
use crate::mesh::MeshSettings;
use crate::names::ObjectRef;
use crate::resource::EndpointSlice;
use crate::resource::core::{
    AddressType, HintedName, IntOrString, ServicePort as WrittenPort, SliceEndpoint,
    TransportProtocol,
};
use crate::resource::meta::is_subset;
use crate::service::{Cluster, ClusterId, Endpoint, Preference, Transport};
use crate::store::{Entry, Resources};
use crate::workload::{TunnelProtocol, Workload};

/// The port on which workloads take HBONE.
pub(super) const HBONE_PORT: u16 = 15008;

/// How Pods that take HBONE are reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Reach {
    /// By tunnels of our own.
    Tunnels,
    /// In plain text at their own addresses: the ztunnel in front of us makes the tunnels, and would
    /// send what is for a service's address back to us.
    Ztunnel,
}

/// The clusters of one service, and what is wrong with its endpoints.
#[derive(Debug, Default)]
pub(super) struct ServiceClusters {
    clusters: Vec<Arc<Cluster>>,
    findings: Vec<Finding>,
}

/// Remembered by the revisions of the service, its slices and their Pods.
pub(super) type ClusterMemo = Memo<Vec<u64>, ServiceClusters>;

/// All clusters of services.
#[derive(Debug, Default)]
pub(super) struct Clusters {
    pub(super) by_id: HashMap<ClusterId, Arc<Cluster>>,
    pub(super) findings: Vec<Finding>,
}

/// A slice with its name.
type NamedSlice<'a> = (&'a Arc<str>, &'a Arc<str>, &'a Entry<EndpointSlice>);

pub(super) fn collect(
    resources: &Resources,
    (mesh, reach): (&MeshSettings, Reach),
    services: &Services,
    pods: &Pods,
    before: &Clusters,
    memo: &mut ClusterMemo,
) -> Clusters {
    let slices = slices_by_service(resources);
    let selectable = Selectable::new(pods);
    let mut all = Clusters::default();
    for entry in services.iter() {
        let service = &entry.service;
        let own = slices.get(&(&*service.namespace, &*service.name));
        let sources = match own {
            Some(slices) => Sources::Slices(slices),
            None => Sources::Pods(selectable.of(entry)),
        };
        let builder = Builder {
            entry,
            mesh,
            reach,
            pods,
            before,
        };
        let mut key = sources.key(entry, pods);
        key.push(reach as u64);
        let made = memo.get(key, |_| builder.build(&sources));
        for cluster in &made.clusters {
            all.by_id.insert(cluster.id, Arc::clone(cluster));
        }
        all.findings.extend(made.findings.iter().cloned());
    }
    memo.end_round();
    all
}

fn slices_by_service(resources: &Resources) -> HashMap<(&str, &str), Vec<NamedSlice<'_>>> {
    let mut slices: HashMap<(&str, &str), Vec<NamedSlice<'_>>> = HashMap::new();
    for (namespace, name, entry) in resources.slices.iter() {
        if let Some(service) = entry
            .object
            .metadata
            .labels
            .get("kubernetes.io/service-name")
        {
            slices
                .entry((namespace, service))
                .or_default()
                .push((namespace, name, entry));
        }
    }
    slices
}

/// Where the endpoints of a service come from.
enum Sources<'a> {
    Slices(&'a [NamedSlice<'a>]),
    Pods(Vec<&'a PodEntry>),
}

impl Sources<'_> {
    /// Revisions of all that the clusters depend on.
    fn key(&self, entry: &ServiceEntry, pods: &Pods) -> Vec<u64> {
        let mut key = vec![entry.revision];
        match self {
            Sources::Slices(slices) => {
                for (namespace, _, slice) in *slices {
                    key.push(slice.revision);
                    for endpoint in &slice.object.endpoints {
                        // 0 is no revision: an endpoint whose Pod is not known.
                        let pod = pod_of(endpoint, &slice.object, namespace, pods);
                        key.push(pod.map_or(0, |pod| pod.revision));
                    }
                }
            }
            Sources::Pods(selected) => key.extend(selected.iter().map(|pod| pod.revision)),
        }
        key
    }
}

/// The Pod behind an endpoint: the one it names, else the one at its address. Kubernetes always names it;
/// people who write slices by hand rarely do, and a captured Pod must not be spoken to in plain text
/// for that.
fn pod_of<'a>(
    endpoint: &SliceEndpoint,
    slice: &EndpointSlice,
    namespace: &str,
    pods: &'a Pods,
) -> Option<&'a PodEntry> {
    let Some(target) = &endpoint.target_ref else {
        let address = endpoint.addresses.first()?.parse::<IpAddr>().ok()?;
        let mut ports = slice.ports.iter().filter_map(|port| port.port);
        return ports.find_map(|port| pods.at(namespace, address.to_canonical(), port));
    };
    if target.kind != "Pod" {
        return None;
    }
    let namespace = match target.namespace.as_str() {
        "" => namespace,
        namespace => namespace,
    };
    pods.get(namespace, &target.name)
}

/// Pods by one label, so that a selector need not look at all of them.
struct Selectable<'a> {
    by_label: HashMap<(&'a str, &'a str, &'a str), Vec<&'a PodEntry>>,
}

impl<'a> Selectable<'a> {
    fn new(pods: &'a Pods) -> Self {
        let mut by_label: HashMap<_, Vec<_>> = HashMap::new();
        for entry in pods.iter() {
            for (key, value) in &entry.pod.metadata.labels {
                by_label
                    .entry((&*entry.namespace, key.as_str(), value.as_str()))
                    .or_default()
                    .push(entry);
            }
        }
        Self { by_label }
    }

    fn of(&self, entry: &ServiceEntry) -> Vec<&'a PodEntry> {
        let selector = &entry.written.spec.selector;
        let Some((key, value)) = selector.first_key_value() else {
            return Vec::new();
        };
        let candidates =
            self.by_label
                .get(&(&*entry.service.namespace, key.as_str(), value.as_str()));
        candidates
            .into_iter()
            .flatten()
            .filter(|pod| is_subset(selector, &pod.pod.metadata.labels))
            .copied()
            .collect()
    }
}

struct Builder<'a> {
    entry: &'a ServiceEntry,
    mesh: &'a MeshSettings,
    reach: Reach,
    pods: &'a Pods,
    before: &'a Clusters,
}

impl Builder<'_> {
    fn build(&self, sources: &Sources<'_>) -> ServiceClusters {
        let mut made = ServiceClusters::default();
        let service = &self.entry.service;
        let prefers = self.preference(&mut made.findings);
        for (port, id) in service.ports.iter().zip(&self.entry.clusters) {
            let written = self
                .entry
                .written
                .spec
                .ports
                .iter()
                .find(|w| w.port == port.port && w.protocol == TransportProtocol::Tcp);
            let Some(written) = written else {
                continue;
            };
            let endpoints = match sources {
                Sources::Slices(slices) => self.behind_slices(slices, written, &mut made.findings),
                Sources::Pods(pods) => self.behind_pods(pods, written),
            };
            let before = self.before.by_id.get(id);
            let cluster = Cluster {
                id: *id,
                name: format!("outbound|{}||{}", port.port, service.hostname).into(),
                service: Some(Arc::clone(service)),
                port: port.port,
                protocol: port.protocol,
                endpoints: same_endpoints(endpoints, before),
                connect_timeout_ms: self.mesh.connect_timeout_ms,
                prefers,
            };
            made.clusters.push(reuse(before, cluster));
        }
        made.findings.sort();
        made.findings.dedup();
        made
    }

    /// Istio's annotation counts for more than the field.
    fn preference(&self, findings: &mut Vec<Finding>) -> Preference {
        const ANNOTATION: &str = "networking.istio.io/traffic-distribution";
        let written = &self.entry.written;
        let annotation = written.metadata.annotations.get(ANNOTATION);
        let (text, field) = match (annotation, &written.spec.traffic_distribution) {
            (Some(text), _) => (text, format!("metadata.annotations.{ANNOTATION}")),
            (None, Some(text)) => (text, "spec.trafficDistribution".to_owned()),
            (None, None) => return self.topology_mode(),
        };
        Preference::parse(text).unwrap_or_else(|| {
            let service = &self.entry.service;
            findings.push(
                Finding::error(format!(
                    "`{text}` is not PreferClose, PreferSameZone or PreferSameNode; no endpoint is preferred"
                ))
                .on(ObjectRef::new("Service", &service.namespace, &service.name))
                .field(field),
            );
            Preference::Any
        })
    }

    /// The older way to ask for what is close: the EndpointSlices then say who should use what.
    fn topology_mode(&self) -> Preference {
        const ANNOTATION: &str = "service.kubernetes.io/topology-mode";
        let annotations = &self.entry.written.metadata.annotations;
        match annotations.get(ANNOTATION).map(String::as_str) {
            Some("Auto" | "auto") => Preference::Hinted,
            _ => Preference::Any,
        }
    }

    fn behind_slices(
        &self,
        slices: &[NamedSlice<'_>],
        port: &WrittenPort,
        findings: &mut Vec<Finding>,
    ) -> Vec<Endpoint> {
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for (namespace, name, entry) in slices {
            let slice = &entry.object;
            let object = || ObjectRef::new("EndpointSlice", namespace, name);
            if slice.address_type == AddressType::Fqdn {
                findings.push(
                    Finding::error("endpoints of type FQDN are not yet supported")
                        .on(object())
                        .field("addressType"),
                );
                continue;
            }
            let matching = slice
                .ports
                .iter()
                .find(|p| p.name == port.name && p.protocol == TransportProtocol::Tcp);
            let Some(target) = matching.and_then(|p| p.port) else {
                continue;
            };
            for (e, endpoint) in slice.endpoints.iter().enumerate() {
                let ready = endpoint.conditions.ready.unwrap_or(true)
                    || self.entry.written.spec.publish_not_ready_addresses;
                // All addresses of an endpoint are the same endpoint; Kubernetes says to use the first.
                let Some(text) = endpoint.addresses.first().filter(|_| ready) else {
                    continue;
                };
                let Ok(ip) = text.parse::<IpAddr>() else {
                    findings.push(
                        Finding::error(format!("`{text}` is not an address; it is no endpoint"))
                            .on(object())
                            .field(format!("endpoints[{e}].addresses[0]")),
                    );
                    continue;
                };
                let workload = pod_of(endpoint, slice, namespace, self.pods)
                    .and_then(|pod| pod.workload.as_ref());
                let zone = endpoint.zone.as_deref().unwrap_or_default();
                let mut found = endpoint_at(self.reach, ip, target, workload, zone);
                if let Some(node) = &endpoint.node_name {
                    found.node = node.as_str().into();
                }
                if let Some(hints) = &endpoint.hints {
                    found.for_zones = names(&hints.for_zones);
                    found.for_nodes = names(&hints.for_nodes);
                }
                push(&mut endpoints, found);
            }
        }
        keep_hints_of_all(&mut endpoints);
        let carries = |entry: &EndpointSlice| entry.ports.iter().any(|p| p.name == port.name);
        if !slices.iter().any(|(_, _, entry)| carries(&entry.object)) {
            let service = &self.entry.service;
            findings.push(
                Finding::error(format!(
                    "no EndpointSlice has a port named `{}`, so port {} has no endpoints",
                    port.name, port.port
                ))
                .on(ObjectRef::new("Service", &service.namespace, &service.name))
                .remedy("name the port in the EndpointSlice as in the Service"),
            );
        }
        endpoints
    }

    fn behind_pods(&self, pods: &[&PodEntry], port: &WrittenPort) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        for entry in pods {
            let Some(workload) = &entry.workload else {
                continue;
            };
            if !workload.ready && !self.entry.written.spec.publish_not_ready_addresses {
                continue;
            }
            if let (Some(ip), Some(target)) =
                (workload.addresses.first(), target_port(&entry.pod, port))
            {
                let zone = Arc::clone(&workload.zone);
                push(
                    &mut endpoints,
                    endpoint_at(self.reach, *ip, target, Some(workload), &zone),
                );
            }
        }
        endpoints
    }
}

fn names(hinted: &[HintedName]) -> Arc<[Arc<str>]> {
    hinted.iter().map(|it| it.name.as_str().into()).collect()
}

/// Hints count where every endpoint has some, as in kube-proxy: those of some say nothing about the rest.
fn keep_hints_of_all(endpoints: &mut [Endpoint]) {
    if endpoints.iter().any(|it| it.for_zones.is_empty()) {
        endpoints
            .iter_mut()
            .for_each(|it| it.for_zones = Arc::default());
    }
    if endpoints.iter().any(|it| it.for_nodes.is_empty()) {
        endpoints
            .iter_mut()
            .for_each(|it| it.for_nodes = Arc::default());
    }
}

/// The port of a Pod that a service port leads to; `None` where no container has one of that name.
pub(super) fn target_port(pod: &crate::resource::Pod, port: &WrittenPort) -> Option<u16> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => pod
            .spec
            .containers
            .iter()
            .flat_map(|container| &container.ports)
            .find(|p| p.name == *name && p.protocol == TransportProtocol::Tcp)
            .map(|p| p.container_port),
    }
}

/// An endpoint at an address, reached as its workload is.
pub(super) fn endpoint_at(
    reach: Reach,
    ip: IpAddr,
    port: u16,
    workload: Option<&Arc<Workload>>,
    zone: &str,
) -> Endpoint {
    let ip = ip.to_canonical();
    let transport = match workload {
        Some(workload) if workload.tunnel == TunnelProtocol::Hbone && reach == Reach::Tunnels => {
            Transport::Hbone {
                gateway: SocketAddr::new(ip, HBONE_PORT),
                identity: workload.identity.clone(),
            }
        }
        _ => Transport::Plain,
    };
    Endpoint {
        address: SocketAddr::new(ip, port),
        transport,
        zone: match workload {
            Some(workload) if zone.is_empty() => Arc::clone(&workload.zone),
            _ => zone.into(),
        },
        node: workload.map(|it| Arc::clone(&it.node)).unwrap_or_default(),
        for_zones: Arc::default(),
        for_nodes: Arc::default(),
        workload: workload.cloned(),
    }
}

fn push(endpoints: &mut Vec<Endpoint>, endpoint: Endpoint) {
    if endpoints
        .iter()
        .all(|known| known.address != endpoint.address)
    {
        endpoints.push(endpoint);
    }
}

/// Keeps the endpoints that did not change.
fn same_endpoints(endpoints: Vec<Endpoint>, before: Option<&Arc<Cluster>>) -> Vec<Arc<Endpoint>> {
    let known: HashMap<SocketAddr, &Arc<Endpoint>> = before
        .into_iter()
        .flat_map(|cluster| &cluster.endpoints)
        .map(|endpoint| (endpoint.address, endpoint))
        .collect();
    endpoints
        .into_iter()
        .map(|endpoint| reuse(known.get(&endpoint.address).copied(), endpoint))
        .collect()
}
