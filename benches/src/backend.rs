//! The backend: answers over plain TCP, and over HBONE in the place of a captured pod's ztunnel.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::HeaderMap;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use wayline_hbone::{Connect, Settings};
use wayline_tls::CertificateStore;

use crate::exchange::respond;
use crate::scene::HBONE_BACKEND;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The two entrances, open; they share the thread of a tokio `LocalRuntime`.
pub struct Backend {
    plain: TcpListener,
    hbone: Option<TcpListener>,
    store: CertificateStore,
}

impl Backend {
    /// Opens a free port on 127.0.0.1 for plain HTTP, and [`HBONE_BACKEND`]; `store` holds the
    /// backend's certificate.
    pub async fn open(store: CertificateStore) -> io::Result<Self> {
        let hbone = TcpListener::bind(HBONE_BACKEND).await;
        Ok(Self {
            hbone: Some(hbone.map_err(|e| named(HBONE_BACKEND, e))?),
            ..Self::open_plain(store).await?
        })
    }

    /// Opens a free port on 127.0.0.1 for plain HTTP only.
    pub async fn open_plain(store: CertificateStore) -> io::Result<Self> {
        let plain = TcpListener::bind("127.0.0.1:0").await;
        Ok(Self {
            plain: plain.map_err(|e| named("127.0.0.1", e))?,
            hbone: None,
            store,
        })
    }

    /// Where plain HTTP comes in.
    pub fn plain_address(&self) -> io::Result<SocketAddr> {
        self.plain.local_addr()
    }

    /// Serves until accepting fails. A connection that fails ends alone: its contestant will be
    /// noticed at the other end.
    pub async fn serve(self) -> io::Result<()> {
        let settings = Rc::new(Settings::default());
        loop {
            tokio::select! {
                accepted = self.plain.accept() => {
                    let (tcp, _) = accepted?;
                    tcp.set_nodelay(true)?;
                    spawn_local(respond(tcp));
                }
                accepted = accept(self.hbone.as_ref()) => {
                    let (tcp, _) = accepted?;
                    tcp.set_nodelay(true)?;
                    spawn_local(tunnels(tcp, self.store.clone(), Rc::clone(&settings)));
                }
            }
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

fn named(address: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
}

async fn tunnels(tcp: TcpStream, store: CertificateStore, settings: Rc<Settings>) {
    let accepted = match wayline_tls::accept(&store, tcp, HANDSHAKE_TIMEOUT).await {
        Ok(accepted) => accepted,
        Err(error) => {
            eprintln!("bench-load: the backend refused a TLS connection: {error}");
            return;
        }
    };
    let never = std::future::pending();
    let handler = |connect: Connect| {
        if let Ok(stream) = connect.respond.accept(HeaderMap::new()) {
            spawn_local(respond(stream));
        }
    };
    // A contestant that is stopped cuts its connections: there is nothing to report here.
    let _ended = wayline_hbone::serve(accepted.io, &settings, never, handler).await;
}
