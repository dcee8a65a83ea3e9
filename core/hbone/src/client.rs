//! Opening CONNECT on one HTTP/2 connection.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::ConnectionError;
use crate::authority::TunnelAuthority;
use crate::keepalive::Keepalive;
use crate::settings::Settings;
use crate::stream::{Slot, TunnelStream};

/// Begins HTTP/2 as a client and waits for the peer's SETTINGS, so that its stream limit is known
/// before the first stream. The caller spawns the [`Driver`] and covers this call with its own
/// connect timeout.
pub async fn connect<IO>(
    io: IO,
    settings: &Settings,
) -> Result<(Client, Driver<IO>), ConnectionError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (sender, mut connection) = settings.client_builder().handshake::<_, Bytes>(io).await?;
    poll_fn(|cx| {
        let ended = Pin::new(&mut connection).poll(cx)?;
        if sender.current_max_send_streams() > 0 {
            return Poll::Ready(Ok(()));
        }
        ended.map(|()| Err(ConnectionError::ClosedEarly))
    })
    .await?;

    let keepalive = connection
        .ping_pong()
        .map(|pings| Keepalive::new(pings, settings));
    let client = Client {
        sender,
        active: Arc::default(),
        opened: Arc::default(),
        max_streams: settings.max_client_streams,
        send_buffer: settings.send_buffer,
        answer_timeout: settings.answer_timeout,
    };
    let driver = Driver {
        connection,
        keepalive,
    };
    Ok((client, driver))
}

/// Runs a client connection; it must be polled for anything to move. It ends when the peer closes,
/// the connection fails, a ping stays unanswered, or all [`Client`]s and tunnels are gone. Dropping
/// it cuts all tunnels of the connection.
pub struct Driver<IO: AsyncRead + AsyncWrite + Unpin> {
    connection: Connection<IO, Bytes>,
    keepalive: Option<Keepalive>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Future for Driver<IO> {
    type Output = Result<(), ConnectionError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(keepalive) = &mut self.keepalive
            && keepalive.poll(cx).is_ready()
        {
            return Poll::Ready(Err(ConnectionError::PingTimeout(keepalive.timeout())));
        }
        Pin::new(&mut self.connection)
            .poll(cx)
            .map_err(ConnectionError::Http2)
    }
}

/// Opens tunnels on one connection. Clones share the connection.
#[derive(Clone)]
pub struct Client {
    sender: SendRequest<Bytes>,
    active: Arc<AtomicUsize>,
    opened: Arc<AtomicU64>,
    max_streams: usize,
    send_buffer: usize,
    answer_timeout: Duration,
}

impl Client {
    /// Sends CONNECT for `authority` with `headers` and waits for the answer. Beyond the peer's
    /// stream limit this waits until a stream ends; ask [`Client::has_room`] first.
    pub async fn open(
        &self,
        authority: &TunnelAuthority,
        headers: HeaderMap,
    ) -> Result<TunnelStream, OpenError> {
        let slot = self.reserve();
        self.open_in(slot, authority, headers).await
    }

    /// Whether another stream can be opened without waiting.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let limit = self.max_streams.min(self.sender.current_max_send_streams());
        self.active() < limit
    }

    /// Whether the connection still takes new streams: neither failed nor told to go away.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        matches!(self.sender.clone().poll_ready(&mut cx), Poll::Ready(Ok(())))
    }

    /// Streams open now.
    #[must_use]
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Streams ever opened.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Holds a place for a stream that is about to be opened.
    pub(crate) fn reserve(&self) -> Slot {
        self.opened.fetch_add(1, Ordering::Relaxed);
        Slot::take(&self.active)
    }

    pub(crate) async fn open_in(
        &self,
        slot: Slot,
        authority: &TunnelAuthority,
        headers: HeaderMap,
    ) -> Result<TunnelStream, OpenError> {
        let request = request(authority, headers)?;
        let mut sender = self.sender.clone();
        let exchange = async {
            poll_fn(|cx| sender.poll_ready(cx)).await?;
            let (response, send) = sender.send_request(request, false)?;
            Ok::<_, h2::Error>((response.await?, send))
        };
        let (response, send) = tokio::time::timeout(self.answer_timeout, exchange)
            .await
            .map_err(|_| OpenError::Timeout(self.answer_timeout))?
            .map_err(ConnectionError::Http2)?;
        if !response.status().is_success() {
            return Err(OpenError::Refused(response.status()));
        }
        let (head, recv) = response.into_parts();
        drop(head);
        Ok(TunnelStream::new(recv, send, self.send_buffer, Some(slot)))
    }
}

/// Why a tunnel could not be opened on a connection.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The peer answered with another status than 2xx.
    #[error("the peer refused the tunnel with status {0}")]
    Refused(StatusCode),
    /// The peer did not answer in time.
    #[error("the peer did not answer CONNECT within {0:?}")]
    Timeout(Duration),
    /// The connection or the stream failed.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The target cannot be written as an HTTP authority.
    #[error("{0} cannot be sent as :authority")]
    Authority(TunnelAuthority),
}

fn request(authority: &TunnelAuthority, headers: HeaderMap) -> Result<Request<()>, OpenError> {
    let uri = Uri::try_from(authority.to_string())
        .map_err(|_| OpenError::Authority(authority.clone()))?;
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers;
    Ok(request)
}
