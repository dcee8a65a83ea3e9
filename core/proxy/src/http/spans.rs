//! Tracing on one core: what is traced, and what the spans of a place say of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use wayline_model::mesh::MeshSettings;
use wayline_model::snapshot::ProxyRole;
use wayline_model::{CanonicalRequest, Snapshot};
use wayline_telemetry::trace::{OpenSpan, Origin, TraceExports, Tracer};

use crate::plan::Place;
use crate::random::Random;

/// The tracer in force, where a provider is.
pub(crate) struct Tracing {
    /// Opens and closes spans.
    pub(crate) tracer: Tracer,
    /// Where tunnels come in.
    hbone: SocketAddr,
}

impl Tracing {
    /// What a new snapshot asks for: the tracer in use where nothing changed about it.
    pub(crate) fn adopt(
        before: Option<&Rc<Self>>,
        snapshot: &Snapshot,
        exports: &TraceExports,
        hbone: SocketAddr,
    ) -> Option<Rc<Self>> {
        let settings = &snapshot.mesh.tracing;
        let provider = settings.provider.as_ref()?;
        if let Some(before) = before
            && before.tracer.follows(settings)
        {
            return Some(Rc::clone(before));
        }
        match exports.open(provider) {
            Ok(delivery) => Some(Rc::new(Self {
                tracer: Tracer::new(settings, delivery),
                hbone,
            })),
            Err(error) => {
                tracing::error!(provider = %provider.name, "nothing is traced: {error}");
                None
            }
        }
    }

    /// Who makes the spans of a place, and how they are called.
    pub(crate) fn origin(&self, place: &Place, mesh: &MeshSettings) -> Arc<Origin> {
        let proxy = place.proxy();
        let origin = match place {
            Place::Entrance(entrance) => {
                Origin::new(proxy, mesh, entrance.address, entrance.port, None)
            }
            Place::Target(target) => {
                let pod = || {
                    let address = target.workload.as_ref()?.addresses.first()?;
                    Some(address.to_string())
                };
                let host = match &target.service {
                    Some(service) => service.hostname.to_string(),
                    None => pod().unwrap_or_else(|| IpAddr::V4(Ipv4Addr::UNSPECIFIED).to_string()),
                };
                let to = Some((&*host, target.port));
                Origin::new(proxy, mesh, self.hbone.ip(), self.hbone.port(), to)
            }
        };
        Arc::new(origin)
    }

    /// Takes a request into its trace.
    pub(crate) fn begin(
        &self,
        request: &mut CanonicalRequest,
        mesh: &MeshSettings,
        role: ProxyRole,
        random: &Random,
    ) -> Option<Box<OpenSpan>> {
        // Anybody may tell a gateway what is sampled; within the mesh it is the gateway that says so.
        let believe = role == ProxyRole::Waypoint || mesh.istio_compat;
        self.tracer.begin(request, believe, || random.next())
    }
}
