//! A fast HBONE client: a plain port whose connections each become one CONNECT stream.

use std::net::{IpAddr, SocketAddr, TcpListener as StdTcpListener};
use std::path::{Path, PathBuf};
use std::task::{Context, Waker};
use std::time::Duration;

use http::HeaderMap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use wayline_hbone::{Client, OpenError, Settings, TunnelAuthority};
use wayline_tls::{CertificateStore, ClientStream};

use crate::PATIENCE;

/// A workload that opens tunnels.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Folder with its certificate.
    pub certificate: PathBuf,
    /// Its address; the system's choice when `None`.
    pub source: Option<IpAddr>,
    /// Bytes that may be under way to it, per stream; [`Settings`]' default when `None`.
    pub window: Option<u32>,
}

/// Why a tunnel was not opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    /// CONNECT was answered with this status.
    Status(u16),
    /// There was no answer: TCP, TLS or HTTP/2 failed.
    Connection,
}

/// A plain port: every connection to [`Tunnel::address`] is one tunnel to one authority, up to a
/// hundred of them on one HBONE connection. Half-closes and resets pass both ways; a refused tunnel is a reset.
#[derive(Debug)]
pub struct Tunnel {
    /// Where to connect to.
    pub address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Tunnel {
    /// Opens the port at `listen`; the HBONE connection comes with the first tunnel.
    ///
    /// # Panics
    /// When the port cannot be opened.
    #[must_use]
    pub fn open(listen: IpAddr, hbone: SocketAddr, caller: &Caller, authority: &str) -> Self {
        let caller = caller.clone();
        let authority = TunnelAuthority::parse(authority).unwrap();
        Self::start(listen, move |listener| {
            serve(listener, hbone, caller, authority)
        })
    }

    /// Opens a port whose connections are each one of TLS to `hbone`, and nothing more: what is spoken
    /// on it is up to whoever connects.
    ///
    /// # Panics
    /// When the port cannot be opened.
    #[must_use]
    pub fn bare(listen: IpAddr, hbone: SocketAddr, caller: &Caller) -> Self {
        let caller = caller.clone();
        Self::start(listen, move |listener| serve_bare(listener, hbone, caller))
    }

    fn start<F: Future<Output = ()>>(
        listen: IpAddr,
        serve: impl FnOnce(StdTcpListener) -> F + Send + 'static,
    ) -> Self {
        let listener = StdTcpListener::bind((listen, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        std::thread::spawn(move || {
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime(), async move {
                tokio::select! {
                    () = serve(listener) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            address,
            _stop: stop,
        }
    }
}

/// Opens one tunnel on a connection of its own, and closes it.
///
/// # Errors
/// How it was refused.
pub fn knock(hbone: SocketAddr, caller: &Caller, authority: &str) -> Result<(), Refused> {
    let authority = TunnelAuthority::parse(authority).unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime(), async {
        let attempt = async {
            let client = dial(hbone, caller).await.ok_or(Refused::Connection)?;
            match client.open(&authority, HeaderMap::new()).await {
                Ok(_) => Ok(()),
                Err(OpenError::Refused(status)) => Err(Refused::Status(status.as_u16())),
                Err(_) => Err(Refused::Connection),
            }
        };
        tokio::time::timeout(PATIENCE, attempt).await.unwrap()
    })
}

/// Opens one tunnel, then `many` more on the same connection that are given up before they are
/// answered, all at once; whether the first still stands.
#[must_use]
pub fn survives_fickle_neighbours(
    hbone: SocketAddr,
    caller: &Caller,
    authority: &str,
    many: usize,
) -> bool {
    let authority = TunnelAuthority::parse(authority).unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime(), async {
        let client = dial(hbone, caller).await.unwrap();
        let mut first = client.open(&authority, HeaderMap::new()).await.unwrap();
        {
            let mut neighbours: Vec<_> = (0..many)
                .map(|_| Box::pin(client.open(&authority, HeaderMap::new())))
                .collect();
            let mut cx = Context::from_waker(Waker::noop());
            for neighbour in &mut neighbours {
                let _ = neighbour.as_mut().poll(&mut cx);
            }
        }
        // Whatever the server thinks of that has arrived when a request was answered.
        let asked = first.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answered = tokio::time::timeout(PATIENCE, first.read(&mut [0; 1024])).await;
        asked.is_ok() && answered.unwrap().is_ok_and(|read| read > 0)
    })
}

async fn serve(
    listener: StdTcpListener,
    hbone: SocketAddr,
    caller: Caller,
    authority: TunnelAuthority,
) {
    let listener = TcpListener::from_std(listener).unwrap();
    let mut client: Option<Client> = None;
    while let Ok((tcp, _)) = listener.accept().await {
        let usable = client
            .take()
            .filter(|client| client.is_usable() && client.has_room());
        client = match usable {
            Some(client) => Some(client),
            None => dial(hbone, &caller).await,
        };
        let Some(client) = client.clone() else {
            reset(tcp);
            continue;
        };
        let authority = authority.clone();
        tokio::task::spawn_local(async move {
            match client.open(&authority, HeaderMap::new()).await {
                Ok(tunnel) => relay(tcp, tunnel).await,
                Err(_) => reset(tcp),
            }
        });
    }
}

async fn serve_bare(listener: StdTcpListener, hbone: SocketAddr, caller: Caller) {
    let listener = TcpListener::from_std(listener).unwrap();
    while let Ok((mut tcp, _)) = listener.accept().await {
        let caller = caller.clone();
        tokio::task::spawn_local(async move {
            match secured(hbone, &caller).await {
                Some(mut tls) => {
                    if tokio::io::copy_bidirectional(&mut tcp, &mut tls)
                        .await
                        .is_err()
                    {
                        reset(tcp);
                    }
                }
                None => reset(tcp),
            }
        });
    }
}

async fn relay(mut tcp: TcpStream, mut tunnel: wayline_hbone::TunnelStream) {
    let _ = tcp.set_nodelay(true);
    let relayed = tokio::io::copy_bidirectional(&mut tcp, &mut tunnel).await;
    if relayed.is_err() {
        reset(tcp);
    }
}

fn reset(tcp: TcpStream) {
    let _ = tcp.set_zero_linger();
}

async fn secured(hbone: SocketAddr, caller: &Caller) -> Option<ClientStream<TcpStream>> {
    let store = certificate(&caller.certificate)?;
    let socket = TcpSocket::new_v4().ok()?;
    if let Some(source) = caller.source {
        socket.bind(SocketAddr::new(source, 0)).ok()?;
    }
    let tcp = socket.connect(hbone).await.ok()?;
    tcp.set_nodelay(true).ok()?;
    let epoch = store.current().ok()?;
    wayline_tls::connect_to_any(&epoch, tcp).await.ok()
}

async fn dial(hbone: SocketAddr, caller: &Caller) -> Option<Client> {
    let tls = secured(hbone, caller).await?;
    let mut settings = Settings {
        connect_timeout: Duration::from_secs(5),
        ..Settings::default()
    };
    if let Some(window) = caller.window {
        settings.stream_window = window;
        settings.connection_window = window;
    }
    let (client, driver) = wayline_hbone::connect(tls, &settings).await.ok()?;
    tokio::task::spawn_local(async move {
        let _ = driver.await;
    });
    Some(client)
}

/// `None` where it can not be used, because it has expired for example.
fn certificate(dir: &Path) -> Option<CertificateStore> {
    let store = CertificateStore::new();
    store.reload_from(dir).ok()?;
    Some(store)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}
