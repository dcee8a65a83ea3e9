//! The data path: from an accepted connection to the last byte of its last response.
//!
//! This room owns workers (one thread, one core, one runtime each), listeners and the placement of
//! connections, the framing guard and the HTTP codecs, the `plan` (a snapshot bound on one core),
//! upstream balancing, pools and retries, opaque relays, drain, and the admin ports that show all
//! this. It refuses to know where knowledge comes from and what a filter does: it is given snapshots
//! and filter sources.
//!
//! One request: `listener` places its connection on a core → `tunnel` (`sandwich`, `gateway`) finds its target
//! → `http::server` reads it behind `http::guard` → `http::exchange` canonicalises it, runs the chain,
//! routes it → `upstream::send` → and back up; `http::book` closes it.

mod admin;
mod callout;
mod collector;
pub mod decisions;
mod drain;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod gateway;
mod http;
mod ingress;
mod io;
mod labels;
mod limits;
mod listener;
mod marks;
mod opaque;
mod plan;
mod random;
mod refusals;
mod sandwich;
mod single;
mod sniff;
mod stream;
mod timers;
mod tunnel;
mod upstream;
mod worker;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::sync::watch;
use wayline_chain::FilterSource;
use wayline_hbone::TunnelPool;
use wayline_model::service::Locality;
use wayline_model::{Finding, Snapshot};
use wayline_telemetry::trace::{Dialer, QueueSettings, TraceExports};
use wayline_telemetry::{AccessLogFiles, MetricsHub, WriterSettings};
use wayline_tls::CertificateStore;

pub use admin::{LiveObjects, LogLevels};
pub use limits::Limits;
pub use listener::{ListenerStatus, Listeners};
pub use single::SingleCore;
pub use wayline_hbone::FrameLimits;

use admin::{Admin, Known};
use collector::SnapshotDialer;
use drain::Phase;
use limits::Peers;
use listener::{Doors, Leaving, Shedding};
use refusals::Refusals;
use worker::{Handle, Shared};

/// How long the last spans may take to their collectors when the process ends.
const LAST_SPANS: Duration = Duration::from_secs(1);

/// How the data path runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Worker threads; at least 1. See [`available_cores`].
    pub workers: usize,
    /// Where tunnels come in; default Istio's, port 15008 of every address.
    pub hbone: SocketAddr,
    /// Where `/config_dump` and the switches are; default Istio's, port 15000 of 127.0.0.1. Whoever
    /// reaches it may end the process: keep it on the loopback interface.
    pub admin: SocketAddr,
    /// Where probes ask; default Istio's, port 15021 of every address.
    pub status: SocketAddr,
    /// Where metrics are scraped; default Istio's, port 15020 of every address.
    pub metrics: SocketAddr,
    /// How long a drain may take, the delay included; default 28 s, below Kubernetes' 30 s.
    pub drain_timeout: Duration,
    /// How long connections are still let in after readiness has failed, because not everybody hears
    /// of it at once; default 5 s (Istio's drain duration). At most a quarter of the drain timeout, and
    /// nothing when nobody is connected.
    pub drain_delay: Duration,
    /// How long peers may keep us waiting.
    pub timeouts: Timeouts,
    /// Where this process runs, for services that prefer endpoints close by; unknown by default, and
    /// then none is preferred.
    pub locality: Locality,
    /// How much peers may ask of us at once.
    pub limits: Limits,
}

/// How long peers may keep us waiting, to the second; zero means for ever.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For the rest of an HTTP/1 request head, and for the first byte of a connection to a gateway;
    /// default 60 s. Ends with 408.
    pub head: Duration,
    /// For the next request; default 1 h (Envoy's `idle_timeout`). Ends the connection.
    pub idle: Duration,
    /// For the next byte of an exchange in either direction; default 1 h. Envoy's
    /// `stream_idle_timeout` is 5 min and Istio switches it off: streams that rarely say something
    /// (watches, long polls) are ordinary in a mesh. Ends the exchange, before its response with 408 or 504, flag SI.
    /// Upgraded connections and opaque bytes are exempt.
    pub stream_idle: Duration,
    /// For a client to take any of what it is sent; default 60 s. Ends the connection in HTTP/1, the
    /// stream in HTTP/2.
    pub send: Duration,
    /// For new streams on a tunnel's connection once its client's certificate has ended; default 60 s.
    /// Then the connection takes no more, and ends with its last stream.
    pub certificate: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(60),
            idle: Duration::from_secs(60 * 60),
            stream_idle: Duration::from_secs(60 * 60),
            send: Duration::from_secs(60),
            certificate: Duration::from_secs(60),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        let everywhere = |port| SocketAddr::from(([0, 0, 0, 0], port));
        Self {
            workers: available_cores(),
            hbone: everywhere(15008),
            admin: SocketAddr::from(([127, 0, 0, 1], 15000)),
            status: everywhere(15021),
            metrics: everywhere(15020),
            drain_timeout: Duration::from_secs(28),
            drain_delay: Duration::from_secs(5),
            timeouts: Timeouts::default(),
            locality: Locality::default(),
            limits: Limits::default(),
        }
    }
}

/// What the data path is given.
pub struct Inputs {
    /// Snapshots, as they are published.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Findings about the configuration in force.
    pub findings: watch::Receiver<Arc<Vec<Finding>>>,
    /// Our certificate.
    pub certificates: CertificateStore,
    /// Where filters come from.
    pub filters: Vec<Arc<dyn FilterSource>>,
    /// Where metrics are kept.
    pub hub: Arc<MetricsHub>,
    /// The process's log filter, for `/logging`; `None` when it can not be changed.
    pub log_levels: Option<Arc<dyn LogLevels>>,
    /// The objects in force, for `/wayline/objects`; `None` when they are not to be had.
    pub objects: Option<Arc<dyn LiveObjects>>,
}

/// Why the data path did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A thread could not be started.
    #[error("a worker thread could not be started: {0}; try fewer --workers")]
    Thread(#[source] std::io::Error),
    /// No listener for traffic could be opened.
    #[error("none of the listeners could be opened: {}", .0.join("; "))]
    NoListener(Vec<String>),
}

/// A data path at work.
pub struct Running {
    listeners: Listeners,
    threads: Vec<JoinHandle<()>>,
    accepting: JoinHandle<()>,
    traces: Arc<TraceExports>,
    phase: Arc<watch::Sender<Phase>>,
    end: watch::Sender<bool>,
    quit: watch::Receiver<bool>,
    drain_timeout: Duration,
}

/// Cores this process may use: CPU affinity and cgroup quota, whichever is less.
#[must_use]
pub fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Starts workers and listeners, and waits until each port that the current snapshot asks for was
/// tried once.
///
/// Fails when it asks for ports and none could be opened; a single one that can not be opened says so
/// in its status and is retried.
pub fn start(settings: &Settings, inputs: Inputs) -> Result<Running, StartError> {
    let known = Known {
        snapshots: inputs.snapshots.clone(),
        findings: inputs.findings.clone(),
        certificates: inputs.certificates.clone(),
        hub: Arc::clone(&inputs.hub),
        log_levels: inputs.log_levels.clone(),
        objects: inputs.objects.clone(),
    };
    let snapshots = inputs.snapshots.clone();
    let shared = share(settings, inputs);
    let traces = Arc::clone(&shared.traces);
    let shedding = Shedding {
        limit: settings.limits.connections,
        refusals: Arc::clone(&shared.refusals),
    };
    let mut workers = Vec::new();
    let mut threads = Vec::new();
    for index in 0..settings.workers.max(1) {
        let (handle, thread) = worker::start(index, shared.clone()).map_err(StartError::Thread)?;
        workers.push(handle);
        threads.push(thread);
    }
    let workers: Arc<[Handle]> = workers.into();
    let listeners = Listeners::default();
    let phase = Arc::new(watch::Sender::new(Phase::Serving));
    let leaving = Leaving {
        phase: phase.subscribe(),
        delay: settings.drain_delay.min(settings.drain_timeout / 4),
    };
    let (end, ended) = watch::channel(false);
    let (quit, quit_asked) = watch::channel(false);
    let first_names = listener::names(&snapshots.borrow());
    let admin = Admin::new(known, listeners.clone(), &workers, quit, Arc::clone(&phase));
    let accepting = {
        let listeners = listeners.clone();
        let settings = settings.clone();
        let accept = move || {
            let runtime = match Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(admin::BLOCKING_THREADS)
                .build()
            {
                Ok(runtime) => runtime,
                Err(error) => {
                    tracing::error!(%error, "there is no event loop to accept connections with");
                    return;
                }
            };
            runtime.block_on(async {
                let admin = admin::serve(admin, &settings, ended);
                let doors = Doors {
                    workers,
                    states: listeners,
                    shedding,
                };
                listener::supervise(settings.hbone, doors, snapshots, leaving).await;
                admin.finished().await;
            });
            runtime.shutdown_background();
        };
        std::thread::Builder::new()
            .name("wayline-accept".to_owned())
            .spawn(accept)
            .map_err(StartError::Thread)?
    };
    let running = Running {
        listeners,
        threads,
        accepting,
        traces,
        phase,
        end,
        quit: quit_asked,
        drain_timeout: settings.drain_timeout,
    };
    running.await_listeners(&first_names)?;
    Ok(running)
}

impl Running {
    /// The state of the listeners.
    #[must_use]
    pub fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// Resolves when somebody asked for the end with POST `/quitquitquit`; [`Self::drain`] is then due.
    pub fn quit_requested(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut quit = self.quit.clone();
        async move {
            if quit.wait_for(|quit| *quit).await.is_err() {
                // Nobody is left who could ask.
                std::future::pending().await
            }
        }
    }

    /// Is not ready any more, takes nothing new after the drain delay, lets what runs finish within the
    /// drain timeout, and ends all threads; the admin ports tell of it until the last. Whether everything
    /// finished in time.
    pub fn drain(self) -> bool {
        let deadline = Instant::now() + self.drain_timeout;
        announce(&self.phase, Phase::Announced);
        let mut finished = true;
        for thread in &self.threads {
            finished &= finishes(thread, deadline);
        }
        // Spans that nobody takes are no reason to call the drain a failure.
        let _all_sent = self.traces.drain(LAST_SPANS);
        self.end.send_replace(true);
        finished & finishes(&self.accepting, Instant::now() + admin::LAST_WORD * 2)
    }

    fn await_listeners(&self, names: &[String]) -> Result<(), StartError> {
        const FIRST_TRY: Duration = Duration::from_secs(5);
        let deadline = Instant::now() + FIRST_TRY;
        loop {
            let all = self.listeners.all();
            let status = |name: &str| all.iter().find(|status| status.name == name);
            let tried = names.iter().all(|name| status(name).is_some())
                && admin::NAMES.iter().all(|name| status(name).is_some());
            if tried || Instant::now() > deadline {
                let asked_for: Vec<_> = names.iter().filter_map(|name| status(name)).collect();
                let failures: Vec<String> = asked_for
                    .iter()
                    .filter_map(|status| status.bound.clone().err())
                    .collect();
                return if !names.is_empty() && failures.len() == asked_for.len() {
                    Err(StartError::NoListener(failures))
                } else {
                    Ok(())
                };
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Goes on to a phase, never back.
pub(crate) fn announce(phase: &watch::Sender<Phase>, next: Phase) {
    phase.send_if_modified(|now| {
        let further = next > *now;
        *now = next.max(*now);
        further
    });
}

/// What every worker is given.
fn share(settings: &Settings, inputs: Inputs) -> Shared {
    Shared {
        refusals: Arc::new(Refusals::new(inputs.hub.process().clone())),
        logs: Arc::new(AccessLogFiles::new(
            WriterSettings::default(),
            inputs.hub.process().access_log_dropped().clone(),
        )),
        traces: Arc::new(exports(
            &inputs.snapshots,
            &inputs.certificates,
            &inputs.hub,
        )),
        snapshots: inputs.snapshots,
        certificates: inputs.certificates,
        sources: inputs.filters.into(),
        hbone_address: settings.hbone,
        hub: inputs.hub,
        hbone: tunnels(&settings.limits),
        timeouts: settings.timeouts,
        locality: settings.locality.clone(),
        limits: settings.limits,
        cores: settings.workers.max(1),
        peers: Peers::default(),
    }
}

/// Tunnels of a whole pod share a connection: they may be more, and given up more often.
fn tunnels(limits: &Limits) -> wayline_hbone::Settings {
    wayline_hbone::Settings {
        max_streams: limits.streams.saturating_mul(2),
        frames: FrameLimits {
            control: limits.frames.control,
            resets: limits.frames.resets.saturating_mul(3),
        },
        ..wayline_hbone::Settings::default()
    }
}

/// The way of spans to their collectors, which are dialled on threads of their own.
fn exports(
    snapshots: &watch::Receiver<Arc<Snapshot>>,
    certificates: &CertificateStore,
    hub: &MetricsHub,
) -> TraceExports {
    let (snapshots, certificates) = (snapshots.clone(), certificates.clone());
    let dialer = move || -> Box<dyn Dialer> {
        let tunnels = TunnelPool::new(certificates.clone(), wayline_hbone::Settings::default());
        Box::new(SnapshotDialer::new(snapshots.clone(), tunnels))
    };
    let metrics = hub.traces().clone();
    TraceExports::new(Arc::new(dialer), QueueSettings::default(), metrics)
}

fn finishes(thread: &JoinHandle<()>, deadline: Instant) -> bool {
    while !thread.is_finished() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    thread.is_finished()
}
