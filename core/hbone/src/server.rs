//! Serving CONNECT: one HTTP/2 connection, its streams handed out one by one.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::ConnectionError;
use crate::authority::{AuthorityError, TunnelAuthority};
use crate::frames::{Flood, FrameGuard};
use crate::keepalive::Keepalive;
use crate::settings::Settings;
use crate::stream::TunnelStream;

/// What is told of the streams of a connection. It is called from the connection's own task and
/// must not block: it spawns (`tokio::task::spawn_local`) what takes time.
pub trait Handler {
    /// A well-formed CONNECT. Dropping it unanswered resets the stream.
    fn connect(&mut self, connect: Connect);

    /// A stream that was answered 400 here; for counters and logs.
    fn refused(&mut self, refusal: Refusal) {
        drop(refusal);
    }
}

impl<F: FnMut(Connect)> Handler for F {
    fn connect(&mut self, connect: Connect) {
        self(connect);
    }
}

/// A CONNECT that waits for its answer.
#[derive(Debug)]
pub struct Connect {
    /// Where the peer wants to go.
    pub authority: TunnelAuthority,
    /// The other headers: `forwarded`, `baggage`, `traceparent`, …; none of them authenticated
    /// beyond the peer's own word.
    pub headers: HeaderMap,
    /// Answers it.
    pub respond: Responder,
}

/// Answers one CONNECT.
#[derive(Debug)]
pub struct Responder {
    respond: SendResponse<Bytes>,
    recv: RecvStream,
    send_buffer: usize,
}

impl Responder {
    /// Opens the tunnel: 200 with `headers`. Fails when the peer is no longer there.
    pub fn accept(mut self, headers: HeaderMap) -> Result<TunnelStream, ConnectionError> {
        let send = self
            .respond
            .send_response(answer(StatusCode::OK, headers), false)?;
        Ok(TunnelStream::new(self.recv, send, self.send_buffer, None))
    }

    /// Refuses the tunnel. ztunnel's codes: 400 for what is malformed or not ours, 401 for what
    /// policy denies, 503 for what cannot be reached.
    pub fn refuse(mut self, status: StatusCode) {
        // Fails only when the peer is no longer there, which answers it too.
        let _sent = self
            .respond
            .send_response(answer(status, HeaderMap::new()), true);
    }

    /// Ready when the peer gave up on the tunnel before it was answered.
    pub fn poll_abandoned(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.respond.poll_reset(cx).map(drop)
    }
}

/// Why a stream was answered 400 without asking the handler.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Not a CONNECT.
    #[error("method {0}; this port takes only CONNECT")]
    Method(Method),
    /// The target cannot be read.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// Why serving a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The peer finished TLS and then did not begin HTTP/2.
    #[error("the peer did not begin HTTP/2 within {0:?}")]
    PrefaceTimeout(Duration),
    /// The peer had too little to say for what it said.
    #[error("the peer floods us: {0}")]
    Flood(Flood),
    /// The connection failed or broke the protocol.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}

/// Serves one connection until the peer leaves, the connection fails, or, once `drain` is ready,
/// the last stream is done. Dropping the returned future cuts all its streams.
pub async fn serve<IO, D, H>(
    io: IO,
    settings: &Settings,
    drain: D,
    handler: H,
) -> Result<(), ServeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    D: Future<Output = ()>,
    H: Handler,
{
    let (io, notice) = FrameGuard::new(io, settings.frames);
    let served = serve_guarded(io, settings, drain, handler).await;
    match notice.seen() {
        Some(flood) => Err(ServeError::Flood(flood)),
        None => served,
    }
}

async fn serve_guarded<IO, D, H>(
    io: FrameGuard<IO>,
    settings: &Settings,
    drain: D,
    mut handler: H,
) -> Result<(), ServeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    D: Future<Output = ()>,
    H: Handler,
{
    let builder = settings.server_builder();
    let mut connection: Connection<FrameGuard<IO>, Bytes> =
        tokio::time::timeout(settings.preface_timeout, builder.handshake(io))
            .await
            .map_err(|_| ServeError::PrefaceTimeout(settings.preface_timeout))?
            .map_err(ConnectionError::Http2)?;
    let mut keepalive = connection
        .ping_pong()
        .map(|pings| Keepalive::new(pings, settings));
    let mut drain = pin!(drain);
    let mut draining = false;

    loop {
        let next = poll_fn(|cx| {
            if let Some(keepalive) = &mut keepalive
                && keepalive.poll(cx).is_ready()
            {
                let gone = ConnectionError::PingTimeout(keepalive.timeout());
                return Poll::Ready(Err(gone));
            }
            if !draining && drain.as_mut().poll(cx).is_ready() {
                draining = true;
                connection.graceful_shutdown();
            }
            let accepted = pin!(connection.accept()).poll(cx);
            accepted.map(|next| next.transpose().map_err(ConnectionError::Http2))
        });
        let Some((request, respond)) = next.await? else {
            return Ok(());
        };
        dispatch(request, respond, settings, &mut handler);
    }
}

fn dispatch(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    settings: &Settings,
    handler: &mut impl Handler,
) {
    let target = target(&request);
    let (head, recv) = request.into_parts();
    let respond = Responder {
        respond,
        recv,
        send_buffer: settings.send_buffer,
    };
    match target {
        Ok(authority) => handler.connect(Connect {
            authority,
            headers: head.headers,
            respond,
        }),
        Err(refusal) => {
            respond.refuse(StatusCode::BAD_REQUEST);
            handler.refused(refusal);
        }
    }
}

fn target(request: &Request<RecvStream>) -> Result<TunnelAuthority, Refusal> {
    if request.method() != Method::CONNECT {
        return Err(Refusal::Method(request.method().clone()));
    }
    let authority = request.uri().authority().ok_or(AuthorityError::Missing)?;
    Ok(TunnelAuthority::parse(authority.as_str())?)
}

fn answer(status: StatusCode, headers: HeaderMap) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
