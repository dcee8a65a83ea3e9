//! The data path: from an accepted connection to the last byte of its last response.
//!
//! This room owns workers (one thread, one core, one runtime each), listeners and the placement of
//! connections, the framing guard and the HTTP codecs, the [`plan`] (a snapshot bound on one core),
//! upstream balancing, pools and retries, opaque relays, drain, and the admin ports that show all
//! this. It refuses to know where knowledge comes from and what a filter does: it is given snapshots
//! and filter sources.
//!
//! One request: `listener` places its connection on a core → `tunnel` (or `gateway`) finds its target
//! → `http::server` reads it behind `http::guard` → `http::exchange` canonicalises it, runs the chain,
//! routes it → `upstream::send` → and back up; `http::book` closes it.

mod callout;
mod drain;
mod gateway;
mod http;
mod ingress;
mod io;
mod labels;
mod listener;
mod opaque;
mod plan;
mod random;
mod refusals;
mod sniff;
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
use wayline_model::{Finding, Snapshot};
use wayline_telemetry::{AccessLogFiles, MetricsHub, WriterSettings};
use wayline_tls::CertificateStore;

pub use listener::{ListenerStatus, Listeners};

use refusals::Refusals;
use worker::{Handle, Job, Shared};

/// How the data path runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Worker threads; at least 1. See [`available_cores`].
    pub workers: usize,
    /// Where tunnels come in; Istio's port is 15008.
    pub hbone: SocketAddr,
    /// How long a drain waits for what runs; default 28 s, below Kubernetes' 30 s.
    pub drain_timeout: Duration,
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
}

/// Why the data path did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A thread could not be started.
    #[error("a worker thread could not be started: {0}; try fewer --workers")]
    Thread(#[source] std::io::Error),
    /// No listener could be opened.
    #[error("none of the listeners could be opened: {}", .0.join("; "))]
    NoListener(Vec<String>),
}

/// A data path at work.
pub struct Running {
    listeners: Listeners,
    workers: Arc<[Handle]>,
    threads: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
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
    let refusals = Arc::new(Refusals::new(inputs.hub.process().clone()));
    let shared = Shared {
        snapshots: inputs.snapshots.clone(),
        certificates: inputs.certificates,
        sources: inputs.filters.into(),
        logs: Arc::new(AccessLogFiles::new(
            WriterSettings::default(),
            inputs.hub.process().access_log_dropped().clone(),
        )),
        hub: inputs.hub,
        refusals,
        hbone: wayline_hbone::Settings::default(),
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
    let (stop, stopped) = watch::channel(false);
    let first_names = listener::names(&inputs.snapshots.borrow());
    let accepting = {
        let (workers, listeners, hbone) = (Arc::clone(&workers), listeners.clone(), settings.hbone);
        let snapshots = inputs.snapshots;
        std::thread::Builder::new().name("wayline-accept".to_owned()).spawn(move || {
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    tracing::error!(%error, "there is no event loop to accept connections with");
                    return;
                }
            };
            runtime.block_on(listener::supervise(hbone, workers, snapshots, listeners, stopped));
        })
    };
    threads.push(accepting.map_err(StartError::Thread)?);
    let running = Running {
        listeners,
        workers,
        threads,
        stop,
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

    /// Takes nothing new, lets what runs finish within the drain timeout, and ends all threads.
    /// Whether everything finished in time.
    pub fn drain(self) -> bool {
        let deadline = Instant::now() + self.drain_timeout;
        self.stop.send_replace(true);
        for worker in self.workers.iter() {
            worker.send(Job::Drain);
        }
        let mut finished = true;
        for thread in self.threads {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            finished &= thread.is_finished();
        }
        finished
    }

    fn await_listeners(&self, names: &[String]) -> Result<(), StartError> {
        const FIRST_TRY: Duration = Duration::from_secs(5);
        let deadline = Instant::now() + FIRST_TRY;
        loop {
            let all = self.listeners.all();
            let tried = names
                .iter()
                .filter(|name| all.iter().any(|status| status.name == **name))
                .count();
            if tried == names.len() || Instant::now() > deadline {
                let failures: Vec<String> = all
                    .iter()
                    .filter_map(|status| status.bound.clone().err())
                    .collect();
                return if !names.is_empty() && failures.len() == all.len() {
                    Err(StartError::NoListener(failures))
                } else {
                    Ok(())
                };
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
