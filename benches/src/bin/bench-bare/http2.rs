//! HTTP/2 in, HTTP/2 out, over one connection to the backend.

use std::net::SocketAddr;
use std::rc::Rc;

use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::rt::Executor;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::task::spawn_local;

/// As hyper wants it of a service.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// As wide as Wayline's.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

#[derive(Clone, Copy)]
struct Local;

impl<F: Future + 'static> Executor<F> for Local {
    fn execute(&self, task: F) {
        spawn_local(async {
            task.await;
        });
    }
}

pub(crate) struct Forwarder {
    backend: SocketAddr,
    client: OnceCell<SendRequest<Incoming>>,
}

impl Forwarder {
    pub(crate) fn new(backend: SocketAddr) -> Self {
        Self {
            backend,
            client: OnceCell::new(),
        }
    }

    async fn forward(&self, request: Request<Incoming>) -> Result<Response<Incoming>, Failure> {
        let client = self.client.get_or_try_init(|| self.connect()).await?;
        Ok(client.clone().send_request(request).await?)
    }

    async fn connect(&self) -> Result<SendRequest<Incoming>, Failure> {
        let tcp = TcpStream::connect(self.backend).await?;
        tcp.set_nodelay(true)?;
        let (client, connection) = handshake(Local, TokioIo::new(tcp)).await?;
        spawn_local(async {
            // Its streams are told.
            let _ended = connection.await;
        });
        Ok(client)
    }
}

/// Serves one downstream connection to its end.
pub(crate) async fn serve(io: TokioIo<TcpStream>, forwarder: Rc<Forwarder>) {
    let service = service_fn(|request| {
        let forwarder = Rc::clone(&forwarder);
        async move { forwarder.forward(request).await }
    });
    // Clients hang up when they are done; failures show in what they did not receive.
    let _ended = Builder::new(Local)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .serve_connection(io, service)
        .await;
}
