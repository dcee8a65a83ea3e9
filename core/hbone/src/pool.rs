//! Tunnels to many gateways over few connections, for one core.
//!
//! Everything here lives on one thread: the map is borrowed only between awaits, so that a slow
//! dial to one gateway never holds up another.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use rustc_hash::FxHashMap;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use wayline_model::Identity;
use wayline_tls::{CertificateStore, ClientStream, CredentialError, Epoch, HandshakeError};

use crate::ConnectionError;
use crate::authority::TunnelAuthority;
use crate::client::{self, Client, Driver, OpenError};
use crate::settings::Settings;
use crate::stream::{Slot, TunnelStream};

/// Connections tried for one tunnel when those at hand turn out to be dead.
const MAX_ATTEMPTS: usize = 3;

/// A connection is dropped after this many sweeps in a row without a stream.
const IDLE_SWEEPS: u32 = 5;

/// ztunnel's socket keepalive: idle time and interval, and the number of probes.
const TCP_KEEPALIVE: (Duration, u32) = (Duration::from_secs(180), 9);

/// Opens tunnels and shares connections among them, per core: cheap to clone, not `Send`.
/// Connections are shared only between tunnels of the same gateway, the same expected identity
/// and the same certificate epoch of our own.
///
/// Must be used on a tokio `LocalRuntime` (or inside a `LocalSet`).
#[derive(Clone)]
pub struct TunnelPool {
    inner: Rc<Inner>,
}

impl TunnelPool {
    /// A pool that presents the store's current certificate.
    #[must_use]
    pub fn new(store: CertificateStore, settings: Settings) -> Self {
        Self {
            inner: Rc::new(Inner {
                store,
                settings,
                hosts: RefCell::default(),
                last_id: Cell::new(0),
                sweeping: Cell::new(false),
            }),
        }
    }

    /// Opens a tunnel to `authority` through `gateway`, which must prove to be `expected`.
    ///
    /// A connection with room is reused; otherwise one is dialled, once for all who wait for it.
    /// A reused connection that breaks before it answers is replaced and the CONNECT sent again;
    /// a stream that the peer reset on a sound connection is its answer.
    pub async fn open(
        &self,
        gateway: SocketAddr,
        expected: &Identity,
        authority: &TunnelAuthority,
        headers: &HeaderMap,
    ) -> Result<TunnelStream, TunnelError> {
        let epoch = self.inner.store.current()?;
        let key = Key {
            gateway,
            expected: expected.clone(),
            epoch: epoch.id(),
        };
        let mut attempt = 1;
        loop {
            let place = self.place(&key, &epoch).await?;
            let opened = place
                .client
                .open_in(place.slot, authority, headers.clone())
                .await;
            match opened {
                Ok(tunnel) => return Ok(tunnel),
                Err(OpenError::Connection(error))
                    if place.reused
                        && attempt < MAX_ATTEMPTS
                        && (error.is_unprocessed() || !place.client.is_usable()) =>
                {
                    if !place.client.is_usable() {
                        self.inner.forget(&key, place.id);
                    }
                    attempt += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Connections held now, in use or idle.
    #[must_use]
    pub fn connections(&self) -> usize {
        let hosts = self.inner.hosts.borrow();
        hosts.values().map(|host| host.connections.len()).sum()
    }

    /// Stops reusing the connections held now; tunnels on them go on. For drain and tests.
    pub fn clear(&self) {
        for host in self.inner.hosts.borrow_mut().values_mut() {
            host.connections.clear();
        }
    }

    /// A place for one stream on a connection to the key's gateway.
    async fn place(&self, key: &Key, epoch: &Arc<Epoch>) -> Result<Place, TunnelError> {
        loop {
            let dialled = {
                let mut hosts = self.inner.hosts.borrow_mut();
                let host = hosts.entry(key.clone()).or_default();
                if let Some(place) = host.place() {
                    return Ok(place);
                }
                if !host.dialling {
                    host.dialling = true;
                    spawn_local(Inner::dial(
                        Rc::clone(&self.inner),
                        key.clone(),
                        Arc::clone(epoch),
                    ));
                }
                let (done, dialled) = oneshot::channel();
                host.waiting.push(done);
                dialled
            };
            match dialled.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(TunnelError::Dial(error)),
                Err(_) => return Err(TunnelError::Closed),
            }
        }
    }
}

impl fmt::Debug for TunnelPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelPool")
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}

/// Why no tunnel came about.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// We hold no valid certificate.
    #[error(transparent)]
    NotReady(#[from] CredentialError),
    /// The gateway could not be reached; shared by all who waited for this dial.
    #[error(transparent)]
    Dial(Arc<DialError>),
    /// The gateway answered CONNECT with another status than 2xx.
    #[error("the gateway refused the tunnel with status {0}")]
    Refused(StatusCode),
    /// The gateway did not answer CONNECT in time.
    #[error("the gateway did not answer CONNECT within {0:?}")]
    AnswerTimeout(Duration),
    /// The connection failed while the tunnel was opened.
    #[error(transparent)]
    Connection(ConnectionError),
    /// The target cannot be written as an HTTP authority.
    #[error("{0} cannot be sent as :authority")]
    Authority(TunnelAuthority),
    /// The core is shutting down.
    #[error("the tunnel pool is shutting down")]
    Closed,
}

impl From<OpenError> for TunnelError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Refused(status) => Self::Refused(status),
            OpenError::Timeout(after) => Self::AnswerTimeout(after),
            OpenError::Connection(error) => Self::Connection(error),
            OpenError::Authority(authority) => Self::Authority(authority),
        }
    }
}

/// A gateway that could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("HBONE to {expected} at {gateway}: {failure}")]
pub struct DialError {
    /// The address dialled.
    pub gateway: SocketAddr,
    /// Who was expected there.
    pub expected: Identity,
    /// What went wrong.
    pub failure: DialFailure,
}

/// The step at which a dial failed.
#[derive(Debug, thiserror::Error)]
pub enum DialFailure {
    /// TCP.
    #[error("TCP connect: {0}")]
    Tcp(#[source] io::Error),
    /// TLS, including who the gateway proved to be.
    #[error("TLS: {0}")]
    Tls(#[source] HandshakeError),
    /// HTTP/2. A gateway that does not take our certificate is seen here too, since in TLS 1.3 it
    /// says so after our side is done.
    #[error(transparent)]
    Http2(ConnectionError),
    /// All steps together took too long.
    #[error("no connection within {0:?}")]
    Timeout(Duration),
}

struct Inner {
    store: CertificateStore,
    settings: Settings,
    hosts: RefCell<FxHashMap<Key, Host>>,
    last_id: Cell<u64>,
    sweeping: Cell<bool>,
}

#[derive(Clone, Eq, Hash, PartialEq)]
struct Key {
    gateway: SocketAddr,
    expected: Identity,
    epoch: u64,
}

#[derive(Default)]
struct Host {
    connections: Vec<Pooled>,
    dialling: bool,
    waiting: Vec<oneshot::Sender<Result<(), Arc<DialError>>>>,
}

struct Pooled {
    id: u64,
    client: Client,
    /// Streams ever opened, as of the last sweep.
    opened: u64,
    idle_sweeps: u32,
}

struct Place {
    id: u64,
    client: Client,
    slot: Slot,
    /// Whether the connection carried streams before, hence may have gone stale.
    reused: bool,
}

impl Host {
    fn place(&mut self) -> Option<Place> {
        loop {
            let index = self
                .connections
                .iter()
                .position(|pooled| pooled.client.has_room())?;
            let pooled = &self.connections[index];
            if !pooled.client.is_usable() {
                self.connections.swap_remove(index);
                continue;
            }
            let reused = pooled.client.opened() > 0;
            return Some(Place {
                id: pooled.id,
                slot: pooled.client.reserve(),
                client: pooled.client.clone(),
                reused,
            });
        }
    }

    fn is_unused(&self) -> bool {
        self.connections.is_empty() && !self.dialling && self.waiting.is_empty()
    }
}

impl Pooled {
    /// Called once per sweep; says whether the connection has been idle for long enough.
    fn has_expired(&mut self) -> bool {
        let opened = self.client.opened();
        if self.client.active() > 0 || opened != self.opened {
            self.opened = opened;
            self.idle_sweeps = 0;
            return false;
        }
        self.idle_sweeps += 1;
        self.idle_sweeps > IDLE_SWEEPS
    }
}

impl Inner {
    /// Makes one connection and tells all who wait for it. Runs as its own task, so that a caller
    /// that gives up does not take the dial away from the others.
    async fn dial(self: Rc<Self>, key: Key, epoch: Arc<Epoch>) {
        let timeout = self.settings.connect_timeout;
        let outcome = tokio::time::timeout(timeout, self.establish(&key, &epoch))
            .await
            .unwrap_or(Err(DialFailure::Timeout(timeout)));

        let told = match outcome {
            Ok((client, driver)) => {
                let id = self.last_id.get() + 1;
                self.last_id.set(id);
                let mut hosts = self.hosts.borrow_mut();
                hosts
                    .entry(key.clone())
                    .or_default()
                    .connections
                    .push(Pooled {
                        id,
                        client,
                        opened: 0,
                        idle_sweeps: 0,
                    });
                drop(hosts);
                spawn_local(Self::drive(Rc::downgrade(&self), key.clone(), id, driver));
                self.start_sweeping();
                Ok(())
            }
            Err(failure) => Err(Arc::new(DialError {
                gateway: key.gateway,
                expected: key.expected.clone(),
                failure,
            })),
        };

        let mut hosts = self.hosts.borrow_mut();
        let Some(host) = hosts.get_mut(&key) else {
            return;
        };
        host.dialling = false;
        for waiting in host.waiting.drain(..) {
            // A caller that gave up is not there to be told.
            let _told = waiting.send(told.clone());
        }
        if host.is_unused() {
            hosts.remove(&key);
        }
    }

    async fn establish(
        &self,
        key: &Key,
        epoch: &Epoch,
    ) -> Result<(Client, Driver<ClientStream>), DialFailure> {
        let tcp = TcpStream::connect(key.gateway)
            .await
            .map_err(DialFailure::Tcp)?;
        tune(&tcp).map_err(DialFailure::Tcp)?;
        let expected = std::slice::from_ref(&key.expected);
        let tls = wayline_tls::connect(epoch, tcp, expected)
            .await
            .map_err(DialFailure::Tls)?;
        client::connect(tls, &self.settings)
            .await
            .map_err(DialFailure::Http2)
    }

    /// Runs a connection to its end. Holds the pool weakly: a pool that is gone has no use for it.
    async fn drive(pool: Weak<Self>, key: Key, id: u64, driver: Driver<ClientStream>) {
        // How it ended was told to every tunnel on it; an idle one that ends concerns nobody.
        let _ended = driver.await;
        if let Some(pool) = pool.upgrade() {
            pool.forget(&key, id);
        }
    }

    fn forget(&self, key: &Key, id: u64) {
        let mut hosts = self.hosts.borrow_mut();
        let Some(host) = hosts.get_mut(key) else {
            return;
        };
        host.connections.retain(|pooled| pooled.id != id);
        if host.is_unused() {
            hosts.remove(key);
        }
    }

    /// One timer per pool finds idle connections, instead of one per connection or tunnel.
    fn start_sweeping(self: &Rc<Self>) {
        if self.sweeping.replace(true) {
            return;
        }
        let pool = Rc::downgrade(self);
        let period = (self.settings.idle_timeout / IDLE_SWEEPS).max(Duration::from_millis(1));
        spawn_local(async move {
            loop {
                tokio::time::sleep(period).await;
                let Some(pool) = pool.upgrade() else {
                    return;
                };
                pool.sweep();
            }
        });
    }

    fn sweep(&self) {
        self.hosts.borrow_mut().retain(|_, host| {
            // Dropping the last client lets the driver say GOAWAY and end.
            host.connections.retain_mut(|pooled| !pooled.has_expired());
            !host.is_unused()
        });
    }
}

fn tune(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let (time, probes) = TCP_KEEPALIVE;
    let keepalive = TcpKeepalive::new()
        .with_time(time)
        .with_interval(time)
        .with_retries(probes);
    SockRef::from(tcp).set_tcp_keepalive(&keepalive)
}
