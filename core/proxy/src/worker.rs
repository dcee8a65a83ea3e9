//! A worker: one thread, one core, one runtime. Requests live and die here.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};
use wayline_chain::{Callout, FilterSource};
use wayline_hbone::{Settings as HboneSettings, TunnelPool};
use wayline_model::Snapshot;
use wayline_model::route::RouteRule;
use wayline_model::service::Locality;
use wayline_telemetry::trace::TraceExports;
use wayline_telemetry::{AccessLogFiles, CoreMetrics, MetricsHub, ProcessMetrics};
use wayline_tls::CertificateStore;

use crate::callout::UpstreamCallout;
use crate::drain::{Drain, Stage};
use crate::http::mirror::Running;
use crate::http::spans::Tracing;
use crate::limits::{Budget, Limits, Peers};
use crate::listener::EntranceKey;
use crate::plan::Plan;
use crate::random::Random;
use crate::refusals::Refusals;
use crate::timers::Timers;
use crate::upstream::Upstreams;
use crate::upstream::cluster::Even;
use crate::{Timeouts, gateway, sandwich, tunnel};

/// How often idle connections are looked through, idle series let go and log lines handed over.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How long HTTP/1 clients without a request under way may take to send one more, and learn from its
/// answer that the connection ends.
const IDLE_GRACE: Duration = Duration::from_secs(1);

/// What every worker is given.
#[derive(Clone)]
pub(crate) struct Shared {
    /// Where snapshots come from.
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Our certificate.
    pub(crate) certificates: CertificateStore,
    /// Where filters come from.
    pub(crate) sources: Arc<[Arc<dyn FilterSource>]>,
    /// Where counters are registered.
    pub(crate) hub: Arc<MetricsHub>,
    /// Access log files of the process.
    pub(crate) logs: Arc<AccessLogFiles>,
    /// Where spans go.
    pub(crate) traces: Arc<TraceExports>,
    /// Where tunnels come in.
    pub(crate) hbone_address: SocketAddr,
    /// Refused connections, counted and logged seldom.
    pub(crate) refusals: Arc<Refusals>,
    /// Tuning of tunnels.
    pub(crate) hbone: HboneSettings,
    /// How long peers may keep us waiting.
    pub(crate) timeouts: Timeouts,
    /// Where this process runs.
    pub(crate) locality: Locality,
    /// How much they may ask of us.
    pub(crate) limits: Limits,
    /// How many workers there are.
    pub(crate) cores: usize,
    /// Connections by identity.
    pub(crate) peers: Peers,
}

/// A connection for a worker.
pub(crate) enum Job {
    /// A TCP connection to the HBONE port.
    Tunnel(StdTcpStream, SocketAddr),
    /// A TCP connection from the ztunnel in front of us, to this port.
    Unwrapped(StdTcpStream, SocketAddr, u16),
    /// A TCP connection to a gateway's port.
    Plain(StdTcpStream, SocketAddr, EntranceKey),
    /// Finish what runs, take nothing new.
    Drain,
}

/// How busy a worker is, for placing connections.
#[derive(Default)]
pub(crate) struct Load {
    connections: AtomicUsize,
    streams: AtomicUsize,
}

impl Load {
    /// Streams first, then connections: tunnels are few, long and unequal.
    pub(crate) fn weight(&self) -> (usize, usize) {
        (
            self.streams.load(Ordering::Relaxed),
            self.connections.load(Ordering::Relaxed),
        )
    }

    /// Connections placed here that are not over yet.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts a connection from the moment it is placed.
    pub(crate) fn connection(self: &Arc<Self>) -> LoadGuard {
        self.connections.fetch_add(1, Ordering::Relaxed);
        LoadGuard {
            load: Arc::clone(self),
            stream: false,
        }
    }

    /// Counts a tunnel's stream.
    pub(crate) fn stream(self: &Arc<Self>) -> LoadGuard {
        self.streams.fetch_add(1, Ordering::Relaxed);
        LoadGuard {
            load: Arc::clone(self),
            stream: true,
        }
    }
}

/// Counts for as long as it lives.
pub(crate) struct LoadGuard {
    load: Arc<Load>,
    stream: bool,
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        let counter = if self.stream {
            &self.load.streams
        } else {
            &self.load.connections
        };
        counter.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A worker as the rest of the process sees it.
#[derive(Clone)]
pub(crate) struct Handle {
    /// How busy it is.
    pub(crate) load: Arc<Load>,
    jobs: mpsc::UnboundedSender<(Job, Option<LoadGuard>)>,
}

type Inbox = mpsc::UnboundedReceiver<(Job, Option<LoadGuard>)>;

impl Handle {
    fn new() -> (Self, Inbox) {
        let (jobs, inbox) = mpsc::unbounded_channel();
        let load = Arc::default();
        (Self { load, jobs }, inbox)
    }

    /// Hands over a job. A worker that is gone drops it, which closes the connection.
    pub(crate) fn send(&self, job: Job) {
        let guard = match job {
            Job::Drain => None,
            Job::Tunnel(..) | Job::Unwrapped(..) | Job::Plain(..) => Some(self.load.connection()),
        };
        let _gone = self.jobs.send((job, guard));
    }
}

/// Starts a worker. Its thread ends when it was told to drain and everything has finished, or when
/// its handle is dropped.
pub(crate) fn start(index: usize, shared: Shared) -> io::Result<(Handle, JoinHandle<()>)> {
    let (handle, inbox) = Handle::new();
    let load = Arc::clone(&handle.load);
    let thread = std::thread::Builder::new()
        .name(format!("wayline-{index}"))
        .spawn(move || run(shared, load, inbox))?;
    Ok((handle, thread))
}

/// The same on the caller's own event loop, which has to be a local one.
pub(crate) fn start_here(shared: Shared) -> (Handle, impl Future<Output = ()>) {
    let (handle, inbox) = Handle::new();
    let load = Arc::clone(&handle.load);
    (handle, serve(shared, load, inbox))
}

/// What one core knows and holds.
pub(crate) struct Worker {
    /// Pools and balancing.
    pub(crate) upstreams: Upstreams,
    /// Tunnels to backends.
    pub(crate) tunnels: TunnelPool,
    /// Our certificate.
    pub(crate) certificates: CertificateStore,
    /// Counters of this core.
    pub(crate) metrics: Rc<CoreMetrics>,
    /// Counters of the process.
    pub(crate) process: ProcessMetrics,
    /// Refused connections.
    pub(crate) refusals: Arc<Refusals>,
    /// How busy we are.
    /// Copies of requests under way.
    pub(crate) mirrors: Running,
    pub(crate) load: Arc<Load>,
    /// Tells connections to finish.
    pub(crate) drain: Drain,
    /// Those who are waited for.
    pub(crate) timers: Timers,
    /// How long they may keep us waiting.
    pub(crate) timeouts: Timeouts,
    /// How much they may ask of us.
    pub(crate) limits: Limits,
    /// TLS handshakes under way.
    pub(crate) handshakes: Budget,
    /// Request heads in memory.
    pub(crate) heads: Budget,
    /// Connections by identity.
    pub(crate) peers: Peers,
    /// For request ids and first choices.
    pub(crate) random: Random,
    /// Tuning of tunnels.
    pub(crate) hbone: HboneSettings,
    sources: Arc<[Arc<dyn FilterSource>]>,
    logs: Arc<AccessLogFiles>,
    traces: Arc<TraceExports>,
    hbone_address: SocketAddr,
    plan: RefCell<Rc<Plan>>,
    shares: RefCell<FxHashMap<usize, Even>>,
    itself: Weak<Self>,
}

impl Worker {
    /// How this core's filters reach out.
    pub(crate) fn callout(&self) -> Rc<dyn Callout> {
        Rc::new(UpstreamCallout::new(Weak::clone(&self.itself)))
    }

    /// The plan in force.
    pub(crate) fn plan(&self) -> Rc<Plan> {
        Rc::clone(&self.plan.borrow())
    }

    /// The next point of a rule's walk over its weights.
    pub(crate) fn share(&self, rule: &Arc<RouteRule>) -> u32 {
        self.shares
            .borrow_mut()
            .entry(Arc::as_ptr(rule) as usize)
            .or_insert_with(|| Even::starting_at(self.random.next() as u32))
            .next()
    }

    fn adopt(&self, snapshot: Arc<Snapshot>) {
        self.upstreams.adopt(&snapshot);
        self.shares.borrow_mut().clear();
        let before = self.plan();
        let log = before.log_for(&snapshot, &self.logs);
        let known = before.tracing.as_ref();
        let tracing = Tracing::adopt(known, &snapshot, &self.traces, self.hbone_address);
        let plan = Plan::new(
            snapshot,
            Arc::clone(&self.sources),
            Rc::clone(&self.metrics),
            log,
        );
        *self.plan.borrow_mut() = Rc::new(plan.traced(tracing));
    }
}

fn run(shared: Shared, load: Arc<Load>, inbox: Inbox) {
    let runtime = match Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "a worker has no event loop and does not serve");
            return;
        }
    };
    runtime.block_on(serve(shared, load, inbox));
}

async fn serve(shared: Shared, load: Arc<Load>, mut inbox: Inbox) {
    let metrics = Rc::new(shared.hub.core());
    let mut snapshots = shared.snapshots.clone();
    let first = Arc::clone(&snapshots.borrow_and_update());
    let empty = Plan::new(
        Arc::default(),
        Arc::clone(&shared.sources),
        Rc::clone(&metrics),
        None,
    );
    let worker = Rc::new_cyclic(|itself| Worker {
        upstreams: Upstreams::new(Rc::clone(&metrics), shared.locality),
        mirrors: Running::default(),
        tunnels: TunnelPool::new(shared.certificates.clone(), shared.hbone.clone()),
        certificates: shared.certificates,
        metrics,
        process: shared.hub.process().clone(),
        refusals: shared.refusals,
        load,
        drain: Drain::default(),
        timers: Timers::default(),
        timeouts: shared.timeouts,
        handshakes: Budget::share(shared.limits.handshakes, shared.cores),
        heads: Budget::share(shared.limits.head_bytes, shared.cores),
        limits: shared.limits,
        peers: shared.peers,
        random: Random::new(),
        hbone: shared.hbone,
        sources: shared.sources,
        logs: shared.logs,
        traces: shared.traces,
        hbone_address: shared.hbone_address,
        plan: RefCell::new(Rc::new(empty)),
        shares: RefCell::default(),
        itself: Weak::clone(itself),
    });
    worker.adopt(first);

    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut fed = true;
    let mut told = true;
    loop {
        tokio::select! {
            biased;
            () = worker.drain.done() => break,
            changed = snapshots.changed(), if fed => match changed {
                Ok(()) => {
                    let snapshot = Arc::clone(&snapshots.borrow_and_update());
                    worker.adopt(snapshot);
                }
                // Whoever published is gone: the last knowledge stays.
                Err(_) => fed = false,
            },
            job = inbox.recv(), if told => match job {
                Some((Job::Drain, _)) => drain(&worker),
                Some((job, guard)) => accept(&worker, job, guard),
                None if worker.drain.has_begun() => told = false,
                None => break,
            },
            _ = sweep.tick() => {
                worker.timers.tick();
                worker.upstreams.sweep();
                worker.metrics.maintain();
                worker.plan().flush();
            }
        }
    }
    worker.plan().flush();
}

fn drain(worker: &Rc<Worker>) {
    worker.drain.enter(Stage::Finishing);
    let drain = worker.drain.clone();
    LocalExecutor::spawn(async move {
        tokio::time::sleep(IDLE_GRACE).await;
        drain.enter(Stage::Closing);
    });
}

fn accept(worker: &Rc<Worker>, job: Job, guard: Option<LoadGuard>) {
    let worker = Rc::clone(worker);
    // From here on and not from its first request: a handshake that runs holds up the end, too.
    let open = worker.drain.connection();
    // A task of its own for each kind: in a task for all, each would have room for the largest.
    match job {
        Job::Tunnel(stream, source) => LocalExecutor::spawn(async move {
            let _placed = (open, guard);
            tunnel::serve(worker, stream, source).await;
        }),
        Job::Unwrapped(stream, source, port) => LocalExecutor::spawn(async move {
            let _placed = (open, guard);
            sandwich::serve(worker, stream, source, port).await;
        }),
        Job::Plain(stream, source, key) => LocalExecutor::spawn(async move {
            let _placed = (open, guard);
            gateway::serve(worker, stream, source, key).await;
        }),
        Job::Drain => {}
    }
}

/// Runs tasks on the worker's own thread; hyper's HTTP/2 asks for one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExecutor;

impl LocalExecutor {
    /// Spawns a task. A panic ends the task alone.
    pub(crate) fn spawn(task: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(task);
    }
}

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}
