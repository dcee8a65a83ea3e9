//! Listeners: which ports are open, and which core gets a connection.
//!
//! One thread accepts for all cores and *places* each connection on the least busy one. HBONE
//! connections are few, long and unequal, so that hashing them over cores (SO_REUSEPORT) leaves some
//! idle and others overrun; for them the hop costs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as StdTcpStream};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use wayline_model::Snapshot;
use wayline_model::snapshot::Entrance;
use wayline_telemetry::Throttle;

use crate::drain::Phase;
use crate::limits::Limits;
use crate::refusals::Refusals;
use crate::worker::{Handle, Job};

/// Connections the kernel may hold for us.
const BACKLOG: i32 = 4096;

/// How soon a port that could not be bound is tried again.
const BIND_RETRY: Duration = Duration::from_secs(1);

/// How long accepting pauses when the process has no file descriptor left.
pub(crate) const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Nobody is on the way to us when no connection came for this long.
const QUIET: Duration = Duration::from_secs(1);

/// How often that is looked at while we are leaving.
const LOOK_AROUND: Duration = Duration::from_millis(20);

/// Name of the listener that tunnels come in by.
pub(crate) const HBONE: &str = "hbone";

/// How the names of listeners begin at which a ztunnel hands over what it took out of tunnels.
const PROXY_PROTOCOL: &str = "proxy-protocol:";

/// Names one port of one gateway across snapshots.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct EntranceKey {
    namespace: Arc<str>,
    name: Arc<str>,
    address: IpAddr,
    port: u16,
}

impl EntranceKey {
    /// Of an entrance of a snapshot.
    pub(crate) fn of(entrance: &Entrance) -> Self {
        Self {
            namespace: Arc::clone(&entrance.proxy.namespace),
            name: Arc::clone(&entrance.proxy.name),
            address: entrance.address,
            port: entrance.port,
        }
    }

    /// Whether that is the entrance it names.
    pub(crate) fn names(&self, entrance: &Entrance) -> bool {
        entrance.port == self.port
            && entrance.address == self.address
            && entrance.proxy.name == self.name
            && entrance.proxy.namespace == self.namespace
    }

    /// The port written in the Gateway.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

/// What a port is open for.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
enum Purpose {
    Hbone,
    /// What a ztunnel in front of us took out of tunnels.
    Sandwich(u16),
    Entrance(EntranceKey),
}

/// A listener as readiness, findings and `/listeners` show it.
#[derive(Clone, Debug)]
pub struct ListenerStatus {
    /// `hbone`, `proxy-protocol:<port>`, `<namespace>/<gateway>:<port>`, or one of `admin`, `status` and `metrics`.
    pub name: String,
    /// What was asked for.
    pub wanted: SocketAddr,
    /// Where it listens, or why it does not (it is retried every second).
    pub bound: Result<SocketAddr, String>,
}

/// The state of all listeners; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Listeners(Arc<Mutex<BTreeMap<String, ListenerStatus>>>);

impl Listeners {
    /// All listeners by name.
    #[must_use]
    pub fn all(&self) -> Vec<ListenerStatus> {
        self.lock().values().cloned().collect()
    }

    /// Where the listener of that name listens.
    #[must_use]
    pub fn bound(&self, name: &str) -> Option<SocketAddr> {
        self.lock()
            .get(name)
            .and_then(|status| status.bound.clone().ok())
    }

    pub(crate) fn set(&self, name: &str, wanted: SocketAddr, bound: Result<SocketAddr, String>) {
        let status = ListenerStatus {
            name: name.to_owned(),
            wanted,
            bound,
        };
        self.lock().insert(name.to_owned(), status);
    }

    fn remove(&self, name: &str) {
        self.lock().remove(name);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, ListenerStatus>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When ports close that are open.
pub(crate) struct Leaving {
    /// How far the process has come.
    pub(crate) phase: watch::Receiver<Phase>,
    /// How long those who have not heard yet are still let in.
    pub(crate) delay: Duration,
}

/// What every open port needs.
#[derive(Clone)]
pub(crate) struct Doors {
    /// Who serves.
    pub(crate) workers: Arc<[Handle]>,
    /// Where the state of each port is told.
    pub(crate) states: Listeners,
    /// Who is not let in.
    pub(crate) shedding: Shedding,
}

/// Lets nobody in where too many are inside already.
#[derive(Clone)]
pub(crate) struct Shedding {
    /// Connections at once; 0: any number.
    pub(crate) limit: usize,
    /// Where that is told.
    pub(crate) refusals: Arc<Refusals>,
}

/// Keeps the ports open that the snapshot asks for, until it is time to leave; then lets nobody in
/// any more and tells the workers.
pub(crate) async fn supervise(
    hbone: SocketAddr,
    doors: Doors,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    leaving: Leaving,
) {
    let (workers, states) = (Arc::clone(&doors.workers), doors.states.clone());
    let arrivals = Arrivals::default();
    let mut open: BTreeMap<Purpose, Port> = BTreeMap::new();
    let mut over = pin!(leaving.wait(&workers, &arrivals));
    let mut fed = true;
    loop {
        let wanted = wanted(hbone, &snapshots.borrow_and_update());
        let gone: Vec<Purpose> = open
            .keys()
            .filter(|purpose| !wanted.contains_key(purpose))
            .cloned()
            .collect();
        for purpose in gone {
            close(open.remove(&purpose), &purpose, &states).await;
        }
        for (purpose, address) in wanted {
            open.entry(purpose.clone()).or_insert_with(|| {
                let (close, closing) = oneshot::channel();
                let listen = listen(purpose, address, doors.clone(), arrivals.clone(), closing);
                Port {
                    close,
                    task: tokio::spawn(listen),
                }
            });
        }
        tokio::select! {
            // When whoever published is gone, the ports stay as they are.
            changed = snapshots.changed(), if fed => fed = changed.is_ok(),
            () = &mut over => break,
        }
    }
    for (purpose, port) in open {
        close(Some(port), &purpose, &states).await;
    }
    for worker in workers.iter() {
        worker.send(Job::Drain);
    }
}

/// An open port, or one that is to be opened.
struct Port {
    close: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

async fn close(port: Option<Port>, purpose: &Purpose, states: &Listeners) {
    let Some(Port { close, task }) = port else {
        return;
    };
    drop(close);
    if let Err(error) = task.await {
        tracing::error!(listener = name(purpose), %error, "a listener ended by itself");
    }
    states.remove(&name(purpose));
}

/// When a connection came last.
#[derive(Clone, Debug, Default)]
struct Arrivals(Arc<Mutex<Option<Instant>>>);

impl Arrivals {
    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether none came for that long.
    fn none_for(&self, span: Duration) -> bool {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_none_or(|last| last.elapsed() >= span)
    }
}

impl Leaving {
    /// Resolves when nobody is to be let in any more: the delay is over, or nobody is there whom it
    /// could serve, or somebody was told not to wait.
    async fn wait(mut self, workers: &[Handle], arrivals: &Arrivals) {
        if self.reach(Phase::Announced).await == Phase::Draining {
            return;
        }
        let deadline = Instant::now() + self.delay;
        while Instant::now() < deadline {
            let alone = workers.iter().all(|it| it.load.connections() == 0);
            if alone && arrivals.none_for(QUIET) {
                return;
            }
            tokio::select! {
                _ = self.reach(Phase::Draining) => return,
                () = tokio::time::sleep(LOOK_AROUND) => {}
            }
        }
    }

    async fn reach(&mut self, phase: Phase) -> Phase {
        match self.phase.wait_for(|now| *now >= phase).await {
            Ok(now) => *now,
            // Whoever could tell us is gone.
            Err(_) => Phase::Draining,
        }
    }
}

fn wanted(hbone: SocketAddr, snapshot: &Snapshot) -> BTreeMap<Purpose, SocketAddr> {
    let mut wanted: BTreeMap<Purpose, SocketAddr> = snapshot
        .entrances
        .iter()
        .map(|entrance| {
            let address = SocketAddr::new(entrance.address, entrance.port);
            (Purpose::Entrance(EntranceKey::of(entrance)), address)
        })
        .collect();
    for purpose in waypoint_purposes(snapshot) {
        let address = match purpose {
            Purpose::Sandwich(port) => SocketAddr::new(loopback_beside(hbone.ip()), port),
            _ => hbone,
        };
        wanted.insert(purpose, address);
    }
    wanted
}

fn waypoint_purposes(snapshot: &Snapshot) -> BTreeSet<Purpose> {
    let ports = snapshot.proxies.iter().filter_map(|it| it.proxy_protocol);
    let mut purposes: BTreeSet<Purpose> = ports.map(Purpose::Sandwich).collect();
    if snapshot.takes_hbone() {
        purposes.insert(Purpose::Hbone);
    }
    purposes
}

/// Where a ztunnel in the same Pod finds us. Both families have a loopback address, so that a wildcard of
/// both is open everywhere: whoever comes from elsewhere is turned away when it comes.
fn loopback_beside(hbone: IpAddr) -> IpAddr {
    match hbone {
        IpAddr::V6(ip) if ip.is_unspecified() => hbone,
        _ if hbone.is_loopback() => hbone,
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}

/// Names of the listeners by which waypoints are reached.
pub(crate) fn of_waypoints(snapshot: &Snapshot) -> Vec<String> {
    waypoint_purposes(snapshot).iter().map(name).collect()
}

/// Whether a waypoint is reached by the listener of that name.
pub(crate) fn is_of_waypoint(name: &str) -> bool {
    name == HBONE || name.starts_with(PROXY_PROTOCOL)
}

/// Names of the listeners a snapshot asks for.
pub(crate) fn names(snapshot: &Snapshot) -> Vec<String> {
    let anywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    wanted(anywhere, snapshot).keys().map(name).collect()
}

fn name(purpose: &Purpose) -> String {
    match purpose {
        Purpose::Hbone => HBONE.to_owned(),
        Purpose::Sandwich(port) => format!("{PROXY_PROTOCOL}{port}"),
        Purpose::Entrance(key) => format!("{}/{}:{}", key.namespace, key.name, key.port),
    }
}

async fn listen(
    purpose: Purpose,
    address: SocketAddr,
    doors: Doors,
    arrivals: Arrivals,
    closing: oneshot::Receiver<()>,
) {
    let mut closing = closing;
    let name = name(&purpose);
    let listener = tokio::select! {
        listener = open(&name, address, &doors.states) => listener,
        _ = &mut closing => return,
    };
    let place = |stream, source| {
        arrivals.note();
        place(&purpose, &doors, stream, source);
    };
    tokio::select! {
        () = accept(&listener, &place) => {}
        _ = closing => {}
    }
    // Those whom the kernel let in already would be reset otherwise.
    let Ok(listener) = listener.into_std() else {
        return;
    };
    while let Ok((stream, source)) = listener.accept() {
        place(stream, source);
    }
}

/// Opens a port, however long that takes, and tells the state of it.
pub(crate) async fn open(name: &str, address: SocketAddr, states: &Listeners) -> TcpListener {
    let listener = loop {
        match bind(address) {
            Ok(listener) => break listener,
            Err(error) => {
                let reason = format!("can not listen on {address}: {error}");
                if states
                    .lock()
                    .get(name)
                    .is_none_or(|status| status.bound.is_ok())
                {
                    tracing::error!(listener = name, "{reason}; it is tried again every second");
                }
                states.set(name, address, Err(reason));
                tokio::time::sleep(BIND_RETRY).await;
            }
        }
    };
    let bound = listener.local_addr().unwrap_or(address);
    tracing::info!(listener = name, address = %bound, "listening");
    states.set(name, address, Ok(bound));
    listener
}

async fn accept(listener: &TcpListener, place: &impl Fn(StdTcpStream, SocketAddr)) {
    let throttle = Throttle::per_minute();
    loop {
        match listener.accept().await {
            Ok((stream, source)) => {
                if let Ok(stream) = stream.into_std() {
                    place(stream, source);
                }
            }
            Err(error) if is_exhausted(&error) => {
                if throttle.admit("exhausted", Instant::now()).is_some() {
                    tracing::error!(%error, "accepting pauses: raise the limit of open files");
                }
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
            // The client was gone before we got to it.
            Err(_) => {}
        }
    }
}

fn place(purpose: &Purpose, doors: &Doors, stream: StdTcpStream, source: SocketAddr) {
    let workers = &doors.workers;
    if matches!(purpose, Purpose::Sandwich(_)) && !source.ip().to_canonical().is_loopback() {
        // Whoever is believed about who calls must be on this machine, in this Pod.
        let detail = "only a ztunnel on the loopback interface may say who calls";
        doors
            .shedding
            .refusals
            .note("untrusted_proxy", source, detail);
        return;
    }
    let open = workers.iter().map(|worker| worker.load.connections()).sum();
    if Limits::is_reached(doors.shedding.limit, open) {
        let refusals = &doors.shedding.refusals;
        refusals.note(
            "too_many_connections",
            source,
            format_args!("{open} are open"),
        );
        return;
    }
    if let Some(worker) = workers.iter().min_by_key(|worker| worker.load.weight()) {
        worker.send(match purpose {
            Purpose::Hbone => Job::Tunnel(stream, source),
            Purpose::Sandwich(port) => Job::Unwrapped(stream, source, *port),
            Purpose::Entrance(key) => Job::Plain(stream, source, key.clone()),
        });
    }
}

/// Opens a listening socket.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// EMFILE, ENFILE, ENOBUFS, ENOMEM: the kernel will say so again at once.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24 | 105 | 12))
}
