//! How span collectors are reached: as services that we know, else by DNS.
//!
//! Used on the exporting threads only; a slow resolver or collector holds up nobody else.

use std::cell::Cell;
use std::io;
use std::sync::Arc;

use tokio::net::{TcpStream, lookup_host};
use tokio::sync::watch;
use wayline_hbone::TunnelPool;
use wayline_model::Snapshot;
use wayline_model::service::{Cluster, Service};
use wayline_model::tracing::TracingProvider;
use wayline_telemetry::trace::{ByteStream, Dialer, LocalFuture};

use crate::upstream::connect;

/// Dials collectors by what the snapshot in force says of their host.
pub(crate) struct SnapshotDialer {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    tunnels: TunnelPool,
    turn: Cell<usize>,
}

impl SnapshotDialer {
    /// To be made on the thread that dials.
    pub(crate) fn new(snapshots: watch::Receiver<Arc<Snapshot>>, tunnels: TunnelPool) -> Self {
        Self {
            snapshots,
            tunnels,
            turn: Cell::new(0),
        }
    }

    async fn connect(&self, provider: &TracingProvider) -> io::Result<Box<dyn ByteStream>> {
        let cluster = cluster(&self.snapshots.borrow(), provider);
        let Some(cluster) = cluster else {
            let stream = by_dns(&provider.host, provider.port).await?;
            stream.set_nodelay(true)?;
            return Ok(Box::new(stream));
        };
        // The next one each time, so that one that is dead is left at the next try.
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let Some(endpoint) = cluster.endpoints.get(turn % cluster.endpoints.len().max(1)) else {
            let reason = format!("{} has no ready endpoint", cluster.name);
            return Err(io::Error::new(io::ErrorKind::NotConnected, reason));
        };
        let stream = connect::open(&self.tunnels, endpoint).await;
        let stream = stream.map_err(|failure| io::Error::other(failure.0.to_string()))?;
        Ok(Box::new(stream))
    }
}

impl Dialer for SnapshotDialer {
    fn dial<'a>(
        &'a self,
        provider: &'a TracingProvider,
    ) -> LocalFuture<'a, io::Result<Box<dyn ByteStream>>> {
        Box::pin(self.connect(provider))
    }
}

/// The cluster behind a collector's host and port, when that is a service of ours.
fn cluster(snapshot: &Snapshot, provider: &TracingProvider) -> Option<Arc<Cluster>> {
    let domain = &snapshot.mesh.cluster_domain;
    let host = provider.host.trim_end_matches('.').to_ascii_lowercase();
    let names = |service: &Service| {
        let hostname = service.hostname.as_str();
        let within = provider
            .namespace
            .as_deref()
            .is_none_or(|namespace| namespace == &*service.namespace);
        // As within a cluster: short with its namespace, or all but the domain.
        let short = hostname.strip_suffix(&**domain).map(|short| {
            let short = short.trim_end_matches('.');
            short == host || short.strip_suffix(".svc") == Some(&*host)
        });
        // The short name alone means something only beside a namespace.
        let bare = provider.namespace.is_some() && *service.name == *host;
        within && (hostname == host || short == Some(true) || bare)
    };
    let mut clusters = snapshot.clusters.values();
    clusters
        .find(|cluster| {
            cluster.port == provider.port && cluster.service.as_deref().is_some_and(names)
        })
        .cloned()
}

async fn by_dns(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = None;
    for address in lookup_host((host, port)).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"))
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wayline_model::Hostname;
    use wayline_model::mesh::MeshSettings;
    use wayline_model::service::{AppProtocol, ClusterId};

    use super::*;

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (id, namespace) in [(1, "istio-system"), (2, "other")] {
            let service = Service {
                name: "zipkin".into(),
                namespace: namespace.into(),
                hostname: Hostname::new(&format!("zipkin.{namespace}.svc.cluster.local")),
                addresses: Vec::new(),
                network: "".into(),
                ports: Vec::new(),
            };
            let cluster = Cluster {
                id: ClusterId(id),
                name: namespace.into(),
                service: Some(Arc::new(service)),
                port: 9411,
                protocol: AppProtocol::Http,
                endpoints: Vec::new(),
                connect_timeout_ms: 1,
                prefers: wayline_model::service::Preference::Any,
            };
            snapshot.clusters.insert(ClusterId(id), Arc::new(cluster));
        }
        snapshot
    }

    fn found(service: &str, port: u16) -> Option<String> {
        let (mesh, _) = MeshSettings::from_value(&json!({
            "defaultProviders": {"tracing": ["z"]},
            "extensionProviders": [{"name": "z", "zipkin": {"service": service, "port": port}}],
        }));
        let provider = mesh.tracing.provider.unwrap();
        cluster(&snapshot(), &provider).map(|cluster| cluster.name.to_string())
    }

    #[test]
    fn a_collector_is_found_by_every_name_its_service_has() {
        for name in [
            "zipkin.istio-system.svc.cluster.local",
            "Zipkin.istio-system.svc.cluster.local.",
            "zipkin.istio-system.svc",
            "zipkin.istio-system",
            "istio-system/zipkin",
            "istio-system/zipkin.istio-system.svc.cluster.local",
        ] {
            assert_eq!(found(name, 9411).as_deref(), Some("istio-system"), "{name}");
        }
        for (name, port) in [
            ("zipkin", 9411),
            ("zipkin.istio-system", 9412),
            ("zipkin.example.org", 9411),
            ("other/zipkin.istio-system.svc.cluster.local", 9411),
        ] {
            assert_eq!(found(name, port), None, "{name}");
        }
    }
}
