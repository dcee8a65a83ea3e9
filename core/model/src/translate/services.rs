//! Services as callers address them, and what is spoken on their ports.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ids::{ClusterIds, Subject};
use super::memo::Memo;
use crate::mesh::MeshSettings;
use crate::names::Hostname;
use crate::resource;
use crate::resource::core::{ServicePort as WrittenPort, ServiceType, TransportProtocol};
use crate::service::{AppProtocol, ClusterId, Service, ServicePort};
use crate::store::Resources;

/// A Service with what was made of it.
#[derive(Clone, Debug)]
pub(super) struct ServiceEntry {
    pub(super) revision: u64,
    pub(super) written: Arc<resource::Service>,
    pub(super) service: Arc<Service>,
    /// All names a CONNECT may use, the FQDN first.
    pub(super) hosts: Arc<[Hostname]>,
    /// The cluster behind each port of `service`, in the same order.
    pub(super) clusters: Vec<ClusterId>,
}

impl ServiceEntry {
    pub(super) fn cluster(&self, port: u16) -> Option<ClusterId> {
        let at = self.service.ports.iter().position(|p| p.port == port)?;
        self.clusters.get(at).copied()
    }

    pub(super) fn is_external_name(&self) -> bool {
        self.written.spec.kind == ServiceType::ExternalName
    }
}

/// All Services.
#[derive(Debug, Default)]
pub(super) struct Services {
    by_name: BTreeMap<Arc<str>, BTreeMap<Arc<str>, ServiceEntry>>,
}

impl Services {
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<&ServiceEntry> {
        self.by_name.get(namespace)?.get(name)
    }

    pub(super) fn within(&self, namespace: &str) -> impl Iterator<Item = &ServiceEntry> {
        self.by_name
            .get(namespace)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &ServiceEntry> {
        self.by_name.values().flat_map(BTreeMap::values)
    }
}

/// Remembered services with their names.
pub(super) type ServiceMemo = Memo<u64, (Arc<Service>, Arc<[Hostname]>)>;

pub(super) fn collect(
    resources: &Resources,
    mesh: &MeshSettings,
    memo: &mut ServiceMemo,
    ids: &mut ClusterIds,
) -> Services {
    let mut services = Services::default();
    for (namespace, name, entry) in resources.services.iter() {
        let made = memo.get(entry.revision, |_| {
            let service = service(&entry.object, namespace, name, mesh);
            let hosts = hosts(&service);
            (Arc::new(service), hosts)
        });
        let (service, hosts) = (&made.0, &made.1);
        let clusters = service
            .ports
            .iter()
            .map(|port| ids.of(Subject::Service, namespace, name, port.port))
            .collect();
        let entry = ServiceEntry {
            revision: entry.revision,
            written: Arc::clone(&entry.object),
            service: Arc::clone(service),
            hosts: Arc::clone(hosts),
            clusters,
        };
        services
            .by_name
            .entry(Arc::clone(namespace))
            .or_default()
            .insert(Arc::clone(name), entry);
    }
    memo.end_round();
    services
}

fn service(
    written: &resource::Service,
    namespace: &Arc<str>,
    name: &Arc<str>,
    mesh: &MeshSettings,
) -> Service {
    let external = written.spec.kind == ServiceType::ExternalName;
    let mut ports: Vec<ServicePort> = Vec::new();
    for port in &written.spec.ports {
        // An ExternalName service has nothing behind it that is known here.
        if external || port.protocol != TransportProtocol::Tcp {
            continue;
        }
        if let Some(protocol) = protocol(port)
            && ports.iter().all(|known| known.port != port.port)
        {
            ports.push(ServicePort {
                name: port.name.as_str().into(),
                port: port.port,
                protocol,
            });
        }
    }
    Service {
        name: Arc::clone(name),
        namespace: Arc::clone(namespace),
        hostname: Hostname::of_service(name, namespace, &mesh.cluster_domain),
        addresses: written.spec.addresses(),
        network: Arc::clone(&mesh.network),
        ports,
    }
}

fn hosts(service: &Service) -> Arc<[Hostname]> {
    let Service {
        name, namespace, ..
    } = service;
    [
        service.hostname.clone(),
        Hostname::new(&format!("{name}.{namespace}.svc")),
        Hostname::new(&format!("{name}.{namespace}")),
    ]
    .into()
}

/// What is spoken on a port, as Istio tells it: `appProtocol`, else the port name, each up to its
/// first hyphen; `None` for what is no stream of bytes.
fn protocol(port: &WrittenPort) -> Option<AppProtocol> {
    let declared = match port.app_protocol.as_deref() {
        Some("kubernetes.io/h2c") => return Some(AppProtocol::Http2),
        Some("kubernetes.io/ws") => return Some(AppProtocol::Http),
        Some("kubernetes.io/wss") => return Some(AppProtocol::Tls),
        Some(other) => other,
        None => &port.name,
    };
    let declared = declared.to_ascii_lowercase();
    if declared.starts_with("grpc-web") {
        return Some(AppProtocol::Http);
    }
    let prefix = declared.split('-').next().unwrap_or_default();
    match prefix {
        "http" | "http_proxy" => Some(AppProtocol::Http),
        "http2" => Some(AppProtocol::Http2),
        "grpc" => Some(AppProtocol::Grpc),
        "https" | "tls" => Some(AppProtocol::Tls),
        "tcp" | "mongo" | "mysql" | "redis" => Some(AppProtocol::Tcp),
        "udp" => None,
        // Servers of these speak first; nobody must wait for the client's bytes.
        _ if matches!(port.port, 25 | 53 | 3306 | 27017) => Some(AppProtocol::Tcp),
        _ => Some(AppProtocol::Undeclared),
    }
}
