//! A plan: a snapshot bound on one core.
//!
//! What a request needs of its target (chain, label sets) is bound when the target is first used
//! under a snapshot, and looked up by pointer afterwards.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use wayline_chain::{Callout, Chain, FilterSource, NetworkChain, Scope};
use wayline_model::Snapshot;
use wayline_model::authentication::Authentication;
use wayline_model::authorization::Authorization;
use wayline_model::mesh::AccessLogSettings;
use wayline_model::plugin::AttachedPlugin;
use wayline_model::service::Service;
use wayline_model::snapshot::{Entrance, Proxy, Target, Ways};
use wayline_telemetry::trace::Origin;
use wayline_telemetry::{
    AccessLog, AccessLogFiles, AccessLogFormat, CoreMetrics, DestinationId, DestinationLabels,
    PeerId, WorkloadId, WorkloadLabels,
};

use crate::callout::ClusterNames;
use crate::http::spans::Tracing;

/// A snapshot bound on this core.
pub(crate) struct Plan {
    /// The snapshot.
    pub(crate) snapshot: Arc<Snapshot>,
    /// Label set of a destination nobody was chosen for.
    pub(crate) unknown_workload: WorkloadId,
    /// The access log, when there is one.
    pub(crate) log: Option<Rc<Log>>,
    /// The tracer, when requests are traced.
    pub(crate) tracing: Option<Rc<Tracing>>,
    sources: Arc<[Arc<dyn FilterSource>]>,
    metrics: Rc<CoreMetrics>,
    bound: RefCell<FxHashMap<usize, Rc<Bound>>>,
    /// Clusters by name, for callouts.
    pub(crate) clusters: ClusterNames,
}

/// The access log with the settings it was made from.
pub(crate) struct Log {
    settings: AccessLogSettings,
    /// Takes lines.
    pub(crate) writer: AccessLog,
}

/// A target or entrance, ready for requests.
pub(crate) struct Bound {
    /// What it was bound from.
    pub(crate) place: Place,
    /// Its filters.
    pub(crate) chain: Rc<Chain>,
    /// Its filters of opaque bytes.
    pub(crate) network: Rc<NetworkChain>,
    /// Label set of the service asked for.
    pub(crate) destination: DestinationId,
    /// Label set of the gateway itself, which is the source of what a gateway reports.
    pub(crate) itself: PeerId,
    /// Who makes its spans, when requests are traced.
    pub(crate) origin: Option<Arc<Origin>>,
}

/// Where requests come in.
#[derive(Clone)]
pub(crate) enum Place {
    /// Through a tunnel.
    Target(Arc<Target>),
    /// At a gateway's port.
    Entrance(Arc<Entrance>),
}

impl Place {
    /// The waypoint or gateway.
    pub(crate) fn proxy(&self) -> &Arc<Proxy> {
        match self {
            Self::Target(target) => &target.proxy,
            Self::Entrance(entrance) => &entrance.proxy,
        }
    }

    /// The service asked for, at a waypoint.
    pub(crate) fn service(&self) -> Option<&Arc<Service>> {
        match self {
            Self::Target(target) => target.service.as_ref(),
            Self::Entrance(_) => None,
        }
    }

    /// The port policies speak of.
    pub(crate) fn port(&self) -> u16 {
        match self {
            Self::Target(target) => target.port,
            Self::Entrance(entrance) => entrance.port,
        }
    }

    /// The compiled policies.
    pub(crate) fn authorization(&self) -> &Arc<Authorization> {
        match self {
            Self::Target(target) => &target.authorization,
            Self::Entrance(entrance) => &entrance.authorization,
        }
    }

    /// The plugins in force.
    pub(crate) fn plugins(&self) -> &Arc<[AttachedPlugin]> {
        match self {
            Self::Target(target) => &target.plugins,
            Self::Entrance(entrance) => &entrance.plugins,
        }
    }

    /// Whose tokens are taken.
    pub(crate) fn authentication(&self) -> &Arc<Authentication> {
        match self {
            Self::Target(target) => &target.authentication,
            Self::Entrance(entrance) => &entrance.authentication,
        }
    }

    fn ways(&self) -> Ways {
        match self {
            Self::Target(target) => Ways::Target(Arc::clone(&target.routes)),
            Self::Entrance(entrance) => Ways::Entrance(Arc::clone(&entrance.hosts)),
        }
    }

    fn key(&self) -> usize {
        match self {
            Self::Target(target) => Arc::as_ptr(target) as usize,
            Self::Entrance(entrance) => Arc::as_ptr(entrance) as usize,
        }
    }
}

impl Plan {
    /// A plan of which nothing is bound yet.
    pub(crate) fn new(
        snapshot: Arc<Snapshot>,
        sources: Arc<[Arc<dyn FilterSource>]>,
        metrics: Rc<CoreMetrics>,
        log: Option<Rc<Log>>,
    ) -> Self {
        let unknown = WorkloadLabels::unknown(&snapshot.mesh.cluster_id);
        Self {
            unknown_workload: metrics.intern_workload(unknown),
            snapshot,
            log,
            tracing: None,
            sources,
            metrics,
            bound: RefCell::default(),
            clusters: ClusterNames::default(),
        }
    }

    /// The access log that a new snapshot asks for: the one in use where nothing changed about it.
    pub(crate) fn log_for(&self, snapshot: &Snapshot, files: &AccessLogFiles) -> Option<Rc<Log>> {
        let settings = snapshot.mesh.access_log.as_ref()?;
        if let Some(log) = &self.log
            && log.settings == *settings
        {
            return Some(Rc::clone(log));
        }
        let opened = AccessLogFormat::compile(settings)
            .map_err(|error| error.to_string())
            .and_then(|format| {
                let writer = files
                    .open(&settings.file)
                    .map_err(|error| error.to_string())?;
                Ok(AccessLog::new(Arc::new(format), writer))
            });
        match opened {
            Ok(writer) => Some(Rc::new(Log {
                settings: settings.clone(),
                writer,
            })),
            Err(error) => {
                tracing::error!(file = %settings.file, "the access log can not be written: {error}");
                self.log.clone()
            }
        }
    }

    /// The plan with a tracer, before anything is bound.
    pub(crate) fn traced(self, tracing: Option<Rc<Tracing>>) -> Self {
        Self { tracing, ..self }
    }

    /// Hands over what was logged and traced since.
    pub(crate) fn flush(&self) {
        if let Some(log) = &self.log {
            log.writer.flush();
        }
        if let Some(tracing) = &self.tracing {
            tracing.tracer.flush();
        }
    }

    /// The place, ready for requests.
    pub(crate) fn bind(&self, place: &Place, callout: &Rc<dyn Callout>) -> Rc<Bound> {
        if let Some(known) = self.bound.borrow().get(&place.key()) {
            return Rc::clone(known);
        }
        let ways = place.ways();
        let scope = Scope {
            callout,
            snapshot: &self.snapshot,
            proxy: place.proxy(),
            service: place.service(),
            port: place.port(),
            authorization: place.authorization(),
            plugins: place.plugins(),
            authentication: place.authentication(),
            ways: &ways,
        };
        let filters = self
            .sources
            .iter()
            .flat_map(|source| source.filters(&scope))
            .collect();
        let network = self
            .sources
            .iter()
            .flat_map(|source| source.network_filters(&scope))
            .collect();
        let destination = match place.service() {
            Some(service) => DestinationLabels::of(service),
            None => DestinationLabels::unknown(),
        };
        let proxy = place.proxy();
        let cluster = &self.snapshot.mesh.cluster_id;
        let itself = WorkloadLabels {
            workload: Arc::clone(&proxy.name),
            canonical_service: Arc::clone(&proxy.name),
            ..WorkloadLabels::of_identity(&proxy.identity, cluster)
        };
        let bound = Rc::new(Bound {
            place: place.clone(),
            chain: Rc::new(Chain::new(filters)),
            network: Rc::new(NetworkChain::new(network)),
            destination: self.metrics.intern_destination(destination),
            itself: self.metrics.intern_peer(itself),
            origin: self
                .tracing
                .as_ref()
                .map(|tracing| tracing.origin(place, &self.snapshot.mesh)),
        });
        self.bound
            .borrow_mut()
            .insert(place.key(), Rc::clone(&bound));
        bound
    }
}
