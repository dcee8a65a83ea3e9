//! Pods as workloads.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::memo::Memo;
use crate::finding::Finding;
use crate::identity::Identity;
use crate::mesh::MeshSettings;
use crate::names::ObjectRef;
use crate::resource::Pod;
use crate::snapshot::Workloads;
use crate::store::Resources;
use crate::workload::{TunnelProtocol, Workload};

/// A Pod with what was made of it.
#[derive(Clone, Debug)]
pub(super) struct PodEntry {
    pub(super) revision: u64,
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) pod: Arc<Pod>,
    /// `None` where it can have no identity, or has ended.
    pub(super) workload: Option<Arc<Workload>>,
}

/// Namespace and name.
type PodName = (Arc<str>, Arc<str>);

/// All Pods.
#[derive(Debug, Default)]
pub(super) struct Pods {
    by_name: BTreeMap<Arc<str>, BTreeMap<Arc<str>, PodEntry>>,
    /// Namespace and name of the Pods at an address.
    by_address: HashMap<IpAddr, Vec<PodName>>,
    pub(super) workloads: Arc<Workloads>,
    pub(super) findings: Vec<Finding>,
}

impl Pods {
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<&PodEntry> {
        self.by_name.get(namespace)?.get(name)
    }

    /// The only Pod of a namespace at an address; where several share it (loopback on a laptop), the
    /// only one of them whose containers declare the port.
    pub(super) fn at(&self, namespace: &str, address: IpAddr, port: u16) -> Option<&PodEntry> {
        let here: Vec<&PodEntry> = self
            .by_address
            .get(&address)?
            .iter()
            .filter(|(pod_namespace, _)| &**pod_namespace == namespace)
            .filter_map(|(namespace, name)| self.get(namespace, name))
            .collect();
        if let [only] = here[..] {
            return Some(only);
        }
        let declares = |entry: &&&PodEntry| {
            let containers = &entry.pod.spec.containers;
            let mut ports = containers.iter().flat_map(|container| &container.ports);
            ports.any(|declared| declared.container_port == port)
        };
        let mut declaring = here.iter().filter(declares);
        match (declaring.next(), declaring.next()) {
            (Some(only), None) => Some(only),
            _ => None,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &PodEntry> {
        self.by_name.values().flat_map(BTreeMap::values)
    }
}

/// Remembered workloads, by the revisions of Pod and Node; a name that can stand in no identity is told
/// instead.
pub(super) type WorkloadMemo = Memo<(u64, u64), Result<Arc<Workload>, String>>;

/// The label of Nodes and Pods that names their zone.
const ZONE: &str = "topology.kubernetes.io/zone";

pub(super) fn collect(resources: &Resources, mesh: &MeshSettings, memo: &mut WorkloadMemo) -> Pods {
    let mut pods = Pods::default();
    for (namespace, name, entry) in resources.pods.iter() {
        let pod = &entry.object;
        let node = resources.nodes.get("", &pod.spec.node_name);
        let zone = node.and_then(|node| node.object.metadata.labels.get(ZONE));
        // 0 is no revision: a Pod whose Node is not known.
        let of_node = node.map_or(0, |node| node.revision);
        let made = memo.get((entry.revision, of_node), |_| {
            let zone = zone.map(String::as_str).unwrap_or_default();
            workload(pod, (namespace, name), zone, mesh)
        });
        let workload = match &*made {
            Ok(_) if has_ended(pod) => None,
            Ok(workload) => Some(Arc::clone(workload)),
            Err(reason) => {
                pods.findings.push(
                    Finding::error(reason)
                        .on(ObjectRef::new("Pod", namespace, name))
                        .field("spec.serviceAccountName"),
                );
                None
            }
        };
        for address in workload.iter().flat_map(|workload| &workload.addresses) {
            pods.by_address
                .entry(*address)
                .or_default()
                .push((Arc::clone(namespace), Arc::clone(name)));
        }
        let entry = PodEntry {
            revision: entry.revision.max(of_node),
            namespace: Arc::clone(namespace),
            name: Arc::clone(name),
            pod: Arc::clone(pod),
            workload,
        };
        pods.by_name
            .entry(Arc::clone(namespace))
            .or_default()
            .insert(Arc::clone(name), entry);
    }
    memo.end_round();
    let mut workloads = index(&pods);
    workloads.zones = zones(resources);
    pods.workloads = Arc::new(workloads);
    pods
}

/// An address that several Pods claim (those of a node's network, or loopback on a laptop) tells
/// nobody apart and is left out.
fn index(pods: &Pods) -> Workloads {
    let mut by_address: HashMap<(Arc<str>, IpAddr), Option<Arc<Workload>>> = HashMap::new();
    let mut workloads = Workloads::default();
    for entry in pods.iter() {
        let Some(workload) = &entry.workload else {
            continue;
        };
        workloads
            .by_identity
            .entry(workload.identity.clone())
            .or_default()
            .push(Arc::clone(workload));
        for address in &workload.addresses {
            by_address
                .entry((Arc::clone(&workload.network), *address))
                .and_modify(|known| *known = None)
                .or_insert_with(|| (!entry.pod.spec.host_network).then(|| Arc::clone(workload)));
        }
    }
    workloads.by_address = by_address
        .into_iter()
        .filter_map(|(key, workload)| Some((key, workload?)))
        .collect();
    workloads
}

fn zones(resources: &Resources) -> HashMap<Arc<str>, Arc<str>> {
    let nodes = resources.nodes.iter().filter_map(|(_, name, entry)| {
        let zone = entry.object.metadata.labels.get(ZONE)?;
        Some((Arc::clone(name), zone.as_str().into()))
    });
    nodes.collect()
}

fn has_ended(pod: &Pod) -> bool {
    matches!(pod.status.phase.as_str(), "Succeeded" | "Failed")
}

fn workload(
    pod: &Pod,
    (namespace, name): (&Arc<str>, &Arc<str>),
    zone: &str,
    mesh: &MeshSettings,
) -> Result<Arc<Workload>, String> {
    let labels = &pod.metadata.labels;
    let label = |key: &str| {
        labels
            .get(key)
            .map(|value| Arc::<str>::from(value.as_str()))
    };
    let account = match pod.spec.service_account_name.as_str() {
        "" => "default",
        account => account,
    };
    let identity = Identity::new(mesh.trust_domain.clone(), namespace, account)
        .map_err(|error| format!("the Pod can have no identity and is no peer: {error}"))?;
    let workload_name = workload_name(pod, name);
    Ok(Arc::new(Workload {
        uid: format!("{}//Pod/{namespace}/{name}", mesh.cluster_id).into(),
        name: Arc::clone(name),
        namespace: Arc::clone(namespace),
        addresses: addresses(pod),
        network: label("topology.istio.io/network").unwrap_or_else(|| Arc::clone(&mesh.network)),
        identity,
        tunnel: tunnel(pod),
        node: pod.spec.node_name.as_str().into(),
        canonical_name: label("service.istio.io/canonical-name")
            .or_else(|| label("app.kubernetes.io/name"))
            .or_else(|| label("app"))
            .unwrap_or_else(|| Arc::clone(&workload_name)),
        canonical_revision: label("service.istio.io/canonical-revision")
            .or_else(|| label("app.kubernetes.io/version"))
            .or_else(|| label("version"))
            .unwrap_or_else(|| "latest".into()),
        workload_name,
        app: label("app").unwrap_or_else(|| "unknown".into()),
        version: label("version").unwrap_or_else(|| "unknown".into()),
        cluster: Arc::clone(&mesh.cluster_id),
        zone: label(ZONE).unwrap_or_else(|| zone.into()),
        ready: is_ready(pod),
    }))
}

fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let listed = pod.status.pod_ips.iter().map(|ip| ip.ip.as_str());
    let mut addresses = Vec::new();
    for text in std::iter::once(pod.status.pod_ip.as_str()).chain(listed) {
        if let Ok(address) = text.parse::<IpAddr>()
            && !addresses.contains(&address.to_canonical())
        {
            addresses.push(address.to_canonical());
        }
    }
    addresses
}

fn tunnel(pod: &Pod) -> TunnelProtocol {
    let captured = pod
        .metadata
        .annotations
        .get("ambient.istio.io/redirection")
        .is_some_and(|value| value == "enabled");
    let native = pod
        .metadata
        .labels
        .get("networking.istio.io/tunnel")
        .is_some_and(|value| value == "http");
    if captured || native {
        TunnelProtocol::Hbone
    } else {
        TunnelProtocol::None
    }
}

/// A Pod whose conditions nobody wrote down (a manifest by hand) counts as ready.
fn is_ready(pod: &Pod) -> bool {
    let mut ready = pod.status.conditions.iter().filter(|c| c.kind == "Ready");
    ready
        .next()
        .is_none_or(|condition| condition.status == "True")
}

/// The name of what runs the Pod, found as Istio finds it: the owner that manages it, and for the
/// ReplicaSet of a Deployment the latter's name, for the Job of a CronJob likewise.
fn workload_name(pod: &Pod, name: &Arc<str>) -> Arc<str> {
    let hash = pod.metadata.labels.get("pod-template-hash");
    let owners = &pod.metadata.owner_references;
    let owner = owners
        .iter()
        .find(|owner| owner.controller)
        .or_else(|| owners.first());
    let Some(owner) = owner else {
        return unowned_name(pod, name, hash.map(String::as_str));
    };
    let of_hash = hash.and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
    match (owner.kind.as_str(), of_hash) {
        ("ReplicaSet", Some(deployment)) => deployment.into(),
        ("Job", _) => match owner.name.rsplit_once('-') {
            Some((cron_job, stamp))
                if (8..=10).contains(&stamp.len()) && stamp.bytes().all(|b| b.is_ascii_digit()) =>
            {
                cron_job.into()
            }
            _ => owner.name.as_str().into(),
        },
        _ => owner.name.as_str().into(),
    }
}

/// Pods from files often lack their owners: the name they were made from says as much.
fn unowned_name(pod: &Pod, name: &Arc<str>, hash: Option<&str>) -> Arc<str> {
    let Some(hash) = hash else {
        return match &pod.metadata.generate_name {
            Some(prefix) if !prefix.trim_end_matches('-').is_empty() => {
                prefix.trim_end_matches('-').into()
            }
            _ => Arc::clone(name),
        };
    };
    match name.rfind(&format!("-{hash}")) {
        Some(end) if end > 0 => name[..end].into(),
        _ => Arc::clone(name),
    }
}
