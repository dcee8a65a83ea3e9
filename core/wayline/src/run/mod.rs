//! `wayline run`: manifests in, traffic served.
//!
//! Puts the rooms together and takes them apart again: source, certificate, data path, signals.

mod plugins;
pub(crate) mod signals;

use std::convert::Infallible;
use std::future;
use std::sync::Arc;
use std::thread;

use tokio::sync::{oneshot, watch};
use wayline_chain::FilterSource;
use wayline_control::identity::Issuer;
use wayline_control::{
    FolderSource, IdentityFolder, JwksFetcher, JwksKeys, LiveObjects, Publication,
};
use wayline_filters::RemoteKeys;
use wayline_model::Snapshot;
use wayline_model::service::Locality;
use wayline_model::snapshot::ProxyRole;
use wayline_model::translate::Options;
use wayline_proxy::{FrameLimits, Inputs, Limits, Listeners, Running, Settings, Timeouts};
use wayline_telemetry::{MetricsHub, MetricsSettings};
use wayline_tls::{CertificateStore, DevCa};
use wayline_wasm_host::PluginSource;

use crate::cli::{LimitArgs, RunArgs};
use crate::failure::Failure;
use crate::logging::{self, LogLevels};
use crate::{FAILED, OK, modules};
use signals::{Signal, Signals};

/// Serves until told to stop. The exit code is 0 after a complete drain.
pub(crate) fn run(args: &RunArgs) -> Result<u8, Failure> {
    let levels = logging::start(args.log.as_deref(), args.log_format)?;
    on_runtime(|signals| serve(args, signals, levels))
}

/// Runs a command's own thread. Signals are listened to before anything else, so that one that comes
/// while we start is not lost.
pub(crate) fn on_runtime<F>(command: impl FnOnce(Signals) -> F) -> Result<u8, Failure>
where
    F: Future<Output = Result<u8, Failure>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::new)?;
    let signals = {
        let _inside = runtime.enter();
        Signals::listen()?
    };
    runtime.block_on(command(signals))
}

async fn serve(args: &RunArgs, mut signals: Signals, levels: LogLevels) -> Result<u8, Failure> {
    let mut serving = Serving::start(args, levels)?;
    let upkeep = serving.upkeep();
    let told = async {
        while signals.next().await == Signal::Rescan {
            serving.source.rescan();
        }
    };
    tokio::select! {
        () = told => {}
        () = serving.running.quit_requested() => {}
        never = upkeep => match never {},
    }
    serving.drain(signals).await
}

/// All rooms put together and at work.
pub(crate) struct Serving {
    source: FolderSource,
    store: CertificateStore,
    issuer: Option<Issuer>,
    running: Running,
    _identity: Option<IdentityFolder>,
    _jwks: JwksFetcher,
}

impl Serving {
    /// Reads the manifests, gets a certificate, opens the listeners.
    pub(crate) fn start(args: &RunArgs, levels: LogLevels) -> Result<Self, Failure> {
        // Flags that can not be kept are told at once.
        let modules = args.modules.settings(Some(modules::default_cache()))?;
        let fetching = args.modules.client()?;
        let store = CertificateStore::new();
        let ca = args
            .dev_ca
            .as_deref()
            .map(DevCa::open_or_create)
            .transpose()?;
        let options = Options {
            gateways: args.gateways.iter().cloned().map(Into::into).collect(),
        };
        let source = FolderSource::start(&args.files, options)?;
        let publication = source.publication();

        // Before the listeners open, so that the first handshake finds everything.
        let identity = args
            .identity_dir
            .clone()
            .map(|dir| IdentityFolder::follow(dir, store.clone()))
            .transpose()?;
        let issuer = ca.map(|ca| Issuer::new(ca, store.clone(), publication.identity.clone()));
        warn_without_certificate(args, publication);
        take_aliases(&store, &publication.snapshots.borrow());

        let hub = MetricsHub::new(env!("CARGO_PKG_VERSION"), MetricsSettings::default())
            .map_err(Failure::new)?;
        let hub = Arc::new(hub);
        let process = hub.process().clone();
        let snapshots = publication.snapshots.clone();
        let (jwks, keys) = JwksFetcher::start(snapshots, fetching, move |outcome| {
            process.jwks_fetch(outcome);
        })
        .map_err(Failure::new)?;
        let host_settings = args.modules.host_settings();
        let plugins = plugins::start(&source, modules, host_settings, &hub)?;
        let filters = sources(keys, plugins);
        let running = start(args, publication, &store, filters, levels, hub)?;
        Ok(Self {
            source,
            store,
            issuer,
            running,
            _identity: identity,
            _jwks: jwks,
        })
    }

    /// What is published.
    pub(crate) fn publication(&self) -> &Publication {
        self.source.publication()
    }

    /// The state of the listeners.
    pub(crate) fn listeners(&self) -> &Listeners {
        self.running.listeners()
    }

    /// Resolves when somebody asked for the end at the admin port.
    pub(crate) fn quit_requested(&self) -> impl Future<Output = ()> + Send + use<> {
        self.running.quit_requested()
    }

    /// Keeps certificate and trust domains up to date for as long as it is polled. To be asked for once.
    pub(crate) fn upkeep(&mut self) -> impl Future<Output = Infallible> + use<> {
        let issuer = self.issuer.take();
        let aliases = follow_aliases(
            self.store.clone(),
            self.source.publication().snapshots.clone(),
        );
        let certificates = async {
            match issuer {
                Some(issuer) => issuer.run().await,
                None => future::pending().await,
            }
        };
        async {
            tokio::select! {
                never = aliases => never,
                never = certificates => never,
            }
        }
    }

    /// Lets what runs finish; a second signal ends it at once. The exit code is 0 when all finished.
    pub(crate) async fn drain(self, signals: Signals) -> Result<u8, Failure> {
        drain(self.running, signals).await
    }
}

/// The objects in force, as the admin port asks for them.
struct Objects(LiveObjects);

impl wayline_proxy::LiveObjects for Objects {
    fn all(&self) -> Vec<serde_json::Value> {
        self.0.all()
    }

    fn unreadable(&self) -> Vec<String> {
        self.0.unreadable()
    }
}

/// Starts the data path with what is published.
fn start(
    args: &RunArgs,
    publication: &Publication,
    store: &CertificateStore,
    filters: Vec<Arc<dyn FilterSource>>,
    levels: LogLevels,
    hub: Arc<MetricsHub>,
) -> Result<Running, Failure> {
    let settings = Settings {
        workers: args
            .workers
            .map_or_else(wayline_proxy::available_cores, usize::from),
        hbone: args.hbone,
        admin: args.admin,
        status: args.status,
        metrics: args.metrics,
        drain_timeout: args.drain_timeout.into(),
        drain_delay: args.drain_delay.into(),
        timeouts: Timeouts {
            head: args.head_timeout.into(),
            idle: args.idle_timeout.into(),
            stream_idle: args.stream_idle_timeout.into(),
            send: args.send_timeout.into(),
            certificate: args.certificate_grace.into(),
        },
        locality: Locality {
            zone: args.zone.as_str().into(),
            node: args.node.as_str().into(),
        },
        limits: limits(&args.limits),
    };
    let inputs = Inputs {
        snapshots: publication.snapshots.clone(),
        findings: publication.findings.clone(),
        certificates: store.clone(),
        filters,
        hub,
        log_levels: Some(Arc::new(levels)),
        objects: Some(Arc::new(Objects(publication.objects.clone()))),
    };
    wayline_proxy::start(&settings, inputs).map_err(Failure::from)
}

fn limits(args: &LimitArgs) -> Limits {
    let default = Limits::default();
    let connections = args.max_connections.unwrap_or(default.connections);
    let per_identity = args.max_connections_per_identity;
    Limits {
        connections,
        connections_per_identity: per_identity.unwrap_or(connections / 2),
        handshakes: args.max_handshakes,
        streams: args.max_streams,
        head_bytes: args.max_head_bytes,
        head_bytes_per_connection: args.max_head_bytes_per_connection,
        frames: FrameLimits {
            control: args.max_control_frames,
            resets: args.max_resets,
        },
        body_rate: args.min_body_rate,
    }
}

/// Where filters come from.
fn sources(keys: JwksKeys, plugins: PluginSource) -> Vec<Arc<dyn FilterSource>> {
    let mut sources = wayline_filters::native_sources(RemoteKeys::new(keys.book, keys.wanted));
    sources.push(Arc::new(plugins));
    sources
}

/// Lets what runs finish; a second signal ends it at once.
async fn drain(running: Running, mut signals: Signals) -> Result<u8, Failure> {
    tracing::info!("draining; a second signal ends at once");
    let (done, finished) = oneshot::channel();
    thread::Builder::new()
        .name("wayline-drain".to_owned())
        .spawn(move || {
            // Nobody listens after a second signal.
            let _ = done.send(running.drain());
        })
        .map_err(Failure::new)?;
    tokio::select! {
        complete = finished => match complete {
            Ok(true) => {
                tracing::info!("drained");
                Ok(OK)
            }
            Ok(false) | Err(_) => {
                tracing::warn!("the drain timeout is over; what still runs is cut off");
                Ok(FAILED)
            }
        },
        () = signals.stop() => {
            tracing::warn!("told twice; what still runs is cut off");
            Ok(FAILED)
        }
    }
}

fn warn_without_certificate(args: &RunArgs, publication: &Publication) {
    let snapshot = publication.snapshots.borrow();
    let plays_waypoint = snapshot
        .proxies
        .iter()
        .any(|proxy| proxy.role == ProxyRole::Waypoint);
    if plays_waypoint && args.dev_ca.is_none() && args.identity_dir.is_none() {
        tracing::warn!(
            "no certificate was named, so that waypoints cannot serve (try: --dev-ca DIR for a development CA, or --identity-dir DIR)"
        );
    }
}

/// Keeps the trust domain aliases of the mesh those of the TLS side.
async fn follow_aliases(
    store: CertificateStore,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
) -> Infallible {
    while snapshots.changed().await.is_ok() {
        take_aliases(&store, &snapshots.borrow_and_update());
    }
    future::pending().await
}

fn take_aliases(store: &CertificateStore, snapshot: &Snapshot) {
    store.set_trust_domain_aliases(&snapshot.mesh.trust_domain_aliases);
}
