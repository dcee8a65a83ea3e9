//! One request in, one request out, over pooled connections.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;

use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use wayline_tls::CertificateStore;

use crate::Failure;
use crate::hbone::Gateway;

/// Where new connections to the backend come from.
pub(crate) enum Dial {
    Plain(SocketAddr),
    Captured(Gateway),
}

impl Dial {
    pub(crate) fn captured(store: CertificateStore) -> Result<Self, Failure> {
        Ok(Self::Captured(Gateway::new(store)?))
    }
}

pub(crate) struct Forwarder {
    dial: Dial,
    idle: RefCell<Vec<SendRequest<Incoming>>>,
}

impl Forwarder {
    pub(crate) fn new(dial: Dial) -> Self {
        Self {
            dial,
            idle: RefCell::default(),
        }
    }

    /// Serves one downstream connection to its end.
    pub(crate) async fn serve<IO>(self: Rc<Self>, io: IO)
    where
        IO: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
    {
        let service = service_fn(|request| {
            let this = Rc::clone(&self);
            async move { Ok::<_, Infallible>(this.forward(request).await) }
        });
        // Clients hang up when they are done; failures show in what they did not receive.
        let _ended = hyper::server::conn::http1::Builder::new()
            .serve_connection(io, service)
            .await;
    }

    async fn forward(&self, request: Request<Incoming>) -> Response<BodyOr502> {
        match self.exchange(request).await {
            Ok(response) => response.map(BodyOr502::Body),
            Err(error) => {
                eprintln!("bench-bare: {error}");
                let mut response = Response::new(BodyOr502::Empty);
                *response.status_mut() = hyper::StatusCode::BAD_GATEWAY;
                response
            }
        }
    }

    async fn exchange(&self, request: Request<Incoming>) -> Result<Response<Incoming>, Failure> {
        let mut sender = match self.take_idle() {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let response = sender.send_request(request).await?;
        // Not ready before the body was read; until then it is passed over.
        self.idle.borrow_mut().push(sender);
        Ok(response)
    }

    fn take_idle(&self) -> Option<SendRequest<Incoming>> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let at = idle.iter().rposition(|s| s.is_ready() || s.is_closed())?;
            let sender = idle.swap_remove(at);
            if !sender.is_closed() {
                return Some(sender);
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Incoming>, Failure> {
        match &self.dial {
            Dial::Plain(address) => {
                let tcp = TcpStream::connect(address).await?;
                tcp.set_nodelay(true)?;
                begin(TokioIo::new(tcp)).await
            }
            Dial::Captured(gateway) => begin(gateway.open().await?).await,
        }
    }
}

async fn begin<IO>(io: IO) -> Result<SendRequest<Incoming>, Failure>
where
    IO: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
{
    let (sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    spawn_local(async move {
        // The sender is told.
        let _ended = connection.await;
    });
    Ok(sender)
}

/// The backend's body, or none.
pub(crate) enum BodyOr502 {
    Body(Incoming),
    Empty,
}

impl hyper::body::Body for BodyOr502 {
    type Data = bytes::Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        match self.get_mut() {
            Self::Body(body) => std::pin::Pin::new(body).poll_frame(cx),
            Self::Empty => std::task::Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Body(body) => body.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Body(body) => body.size_hint(),
            Self::Empty => hyper::body::SizeHint::with_exact(0),
        }
    }
}
