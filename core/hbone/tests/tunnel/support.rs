//! A mesh in a folder: a CA, two workloads, servers that accept tunnels.

use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::HeaderMap;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::{JoinHandle, spawn_local};
use wayline_hbone::{
    Client, Connect, Handler, ServeError, Settings, TunnelAuthority, TunnelStream,
};
use wayline_model::Identity;
use wayline_tls::{CertificateStore, ClientStream, DEFAULT_LIFETIME, DevCa, ServerStream};

pub(crate) const SERVER: &str = "spiffe://cluster.local/ns/default/sa/reviews";
pub(crate) const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/waypoint";

/// A test that hangs fails after this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a test the way the proxy runs a core.
pub(crate) fn on_a_core<F: Future>(test: impl FnOnce() -> F) -> F::Output {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test()).await.unwrap() })
}

pub(crate) fn identity(uri: &str) -> Identity {
    uri.parse().unwrap()
}

pub(crate) fn target() -> TunnelAuthority {
    TunnelAuthority::parse("10.0.0.1:9080").unwrap()
}

/// A CA and the certificates of both workloads.
pub(crate) struct Mesh {
    _dir: TempDir,
    pub(crate) ca: DevCa,
    pub(crate) server: CertificateStore,
    pub(crate) client: CertificateStore,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = DevCa::open_or_create(&dir.path().join("ca")).unwrap();
        let mesh = Self {
            _dir: dir,
            ca,
            server: CertificateStore::new(),
            client: CertificateStore::new(),
        };
        mesh.certify(&mesh.server, SERVER);
        mesh.certify(&mesh.client, CLIENT);
        mesh
    }

    /// Gives a store a fresh certificate.
    pub(crate) fn certify(&self, store: &CertificateStore, uri: &str) {
        let issued = self.ca.issue(&identity(uri), DEFAULT_LIFETIME).unwrap();
        store.replace(issued.bundle()).unwrap();
    }

    /// Two ends of one mutual TLS connection: server's, client's.
    pub(crate) async fn connection(&self) -> (ServerStream, ClientStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let epoch = self.client.current().unwrap();
        let expected = [identity(SERVER)];
        let accept = async {
            let (tcp, _) = listener.accept().await.unwrap();
            wayline_tls::accept(&self.server, tcp, PATIENCE)
                .await
                .unwrap()
        };
        let connect = async {
            let tcp = TcpStream::connect(address).await.unwrap();
            wayline_tls::connect(&epoch, tcp, &expected).await.unwrap()
        };
        let (accepted, connected) = tokio::join!(accept, connect);
        assert_eq!(accepted.peer, identity(CLIENT));
        (accepted.io, connected)
    }

    /// A served connection and a client on it.
    pub(crate) async fn served(
        &self,
        settings: &Settings,
        handler: impl Handler + 'static,
    ) -> Served {
        let (server_io, client_io) = self.connection().await;
        let (drain, drained) = tokio::sync::oneshot::channel::<()>();
        let server_settings = settings.clone();
        let serving = spawn_local(async move {
            let drain = async {
                if drained.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            wayline_hbone::serve(server_io, &server_settings, drain, handler).await
        });
        let (client, driver) = wayline_hbone::connect(client_io, settings).await.unwrap();
        let driving = spawn_local(async move {
            let _ended = driver.await;
        });
        Served {
            client,
            serving,
            driving,
            drain,
        }
    }

    /// A listener that serves any number of connections, as `store`, with `handler` for each.
    pub(crate) async fn gateway<H: Handler + 'static>(
        &self,
        settings: &Settings,
        handler: impl Fn() -> H + 'static,
    ) -> Gateway {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, open) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let (store, settings) = (self.server.clone(), settings.clone());
        let (drain, drained) = tokio::sync::watch::channel(());
        let (cut, cutting) = tokio::sync::watch::channel(());
        let counters = (Rc::clone(&accepted), Rc::clone(&open));
        spawn_local(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (accepted, open) = counters.clone();
                accepted.set(accepted.get() + 1);
                let (store, settings, handler) = (store.clone(), settings.clone(), handler());
                let mut drained = drained.clone();
                drained.mark_unchanged();
                let mut cutting = cutting.clone();
                cutting.mark_unchanged();
                spawn_local(async move {
                    let Ok(accepted) = wayline_tls::accept(&store, tcp, PATIENCE).await else {
                        return;
                    };
                    open.set(open.get() + 1);
                    let drain = async {
                        if drained.changed().await.is_err() {
                            std::future::pending::<()>().await;
                        }
                    };
                    tokio::select! {
                        _ended = wayline_hbone::serve(accepted.io, &settings, drain, handler) => {}
                        Ok(()) = cutting.changed() => {}
                    }
                    open.set(open.get() - 1);
                });
            }
        });
        Gateway {
            address,
            accepted,
            open,
            drain,
            cut,
        }
    }
}

pub(crate) struct Served {
    pub(crate) client: Client,
    pub(crate) serving: JoinHandle<Result<(), ServeError>>,
    pub(crate) driving: JoinHandle<()>,
    pub(crate) drain: tokio::sync::oneshot::Sender<()>,
}

pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    /// Connections ever accepted.
    pub(crate) accepted: Rc<Cell<usize>>,
    /// Connections being served now.
    pub(crate) open: Rc<Cell<usize>>,
    /// Drains the connections that are open when it is sent to.
    pub(crate) drain: tokio::sync::watch::Sender<()>,
    /// Cuts the connections that are open when it is sent to, without a word.
    pub(crate) cut: tokio::sync::watch::Sender<()>,
}

/// Accepts every tunnel and hands it to `then`.
pub(crate) fn accepting<F, Fut>(then: F) -> impl Handler
where
    F: Fn(TunnelStream) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    move |connect: Connect| {
        let tunnel = connect.respond.accept(HeaderMap::new()).unwrap();
        spawn_local(then(tunnel));
    }
}

/// Sends back what it hears, and its end.
pub(crate) async fn echo(tunnel: TunnelStream) {
    let (mut reader, mut writer) = tokio::io::split(tunnel);
    if tokio::io::copy(&mut reader, &mut writer).await.is_ok() {
        let _closed = writer.shutdown().await;
    }
}

/// Lets other tasks run until `done` holds; the test's own patience bounds it.
pub(crate) async fn until(done: impl Fn() -> bool) {
    while !done() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Bytes that differ from place to place.
pub(crate) fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length)
        .map(|index| u8::try_from((index * 31 + index / 251 + seed) % 256).unwrap())
        .collect()
}
