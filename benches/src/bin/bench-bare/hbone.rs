//! HBONE in and out: mutual TLS, HTTP/2, CONNECT; every stream accepted, one connection out.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, Request, Response, StatusCode, Uri};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::task::spawn_local;
use wayline_benches::{HBONE_BACKEND, POD_AUTHORITY, backend_identity};
use wayline_tls::CertificateStore;

use crate::Failure;
use crate::forward::Forwarder;
use crate::tunnel::Tunnel;

/// ztunnel's windows and frame size.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const MAX_FRAME: u32 = 1 << 20;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves one TLS connection and all its tunnels.
pub(crate) async fn serve(
    tcp: TcpStream,
    store: CertificateStore,
    forwarder: Rc<Forwarder>,
) -> Result<(), Failure> {
    let accepted = wayline_tls::accept(&store, tcp, HANDSHAKE_TIMEOUT).await?;
    let mut connection = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .handshake::<_, Bytes>(accepted.io)
        .await?;
    while let Some(stream) = connection.accept().await {
        let (request, mut respond) = stream?;
        let mut response = Response::new(());
        if request.method() != Method::CONNECT {
            *response.status_mut() = StatusCode::BAD_REQUEST;
            respond.send_response(response, true)?;
            continue;
        }
        let send = respond.send_response(response, false)?;
        let tunnel = Tunnel::new(request.into_body(), send);
        spawn_local(Rc::clone(&forwarder).serve(tunnel));
    }
    Ok(())
}

/// The one connection to the captured backend's HBONE entrance.
pub(crate) struct Gateway {
    store: CertificateStore,
    address: SocketAddr,
    authority: Uri,
    client: OnceCell<h2::client::SendRequest<Bytes>>,
}

impl Gateway {
    pub(crate) fn new(store: CertificateStore) -> Result<Self, Failure> {
        Ok(Self {
            store,
            address: HBONE_BACKEND.parse()?,
            authority: POD_AUTHORITY.parse()?,
            client: OnceCell::new(),
        })
    }

    /// Opens a tunnel to the backend.
    pub(crate) async fn open(&self) -> Result<Tunnel, Failure> {
        let client = self.client.get_or_try_init(|| self.connect()).await?;
        let mut client = client.clone().ready().await?;
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = self.authority.clone();
        let (response, send) = client.send_request(request, false)?;
        let response = response.await?;
        if response.status() != StatusCode::OK {
            return Err(format!("CONNECT was answered {}", response.status()).into());
        }
        Ok(Tunnel::new(response.into_body(), send))
    }

    async fn connect(&self) -> Result<h2::client::SendRequest<Bytes>, Failure> {
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let epoch = self.store.current()?;
        let tls = wayline_tls::connect(&epoch, tcp, &[backend_identity()]).await?;
        let (client, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME)
            .handshake::<_, Bytes>(tls)
            .await?;
        spawn_local(async move {
            // Its streams are told.
            let _ended = connection.await;
        });
        Ok(client)
    }
}
