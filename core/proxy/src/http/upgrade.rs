//! HTTP/1.1 upgrades: WebSocket, and whatever else both sides agree to speak instead of HTTP.
//!
//! A request that asks for it is judged, routed and logged like any other. Only when the upstream has
//! answered 101 are both connections taken back from their codecs and relayed as bytes; until then the
//! guard withholds what the client sent too early. Any other answer is an ordinary response, and the
//! connection ends with it, so that early bytes are never taken for a request.
//!
//! Not offered: `h2c` (HTTP/2 begins with prior knowledge here), requests with a body, several
//! protocols to choose from, and HTTP/2's extended CONNECT. They pass as ordinary requests, or are
//! refused by the codec.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use http::{Request, Version};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use wayline_telemetry::ResponseFlag;

use super::answer::ExchangeBody;
use super::body::BodyError;
use crate::io::Io;
use crate::upstream::Switched;

/// Buffer per direction of a relay.
const RELAY_BUFFER: usize = 16 * 1024;

/// How far the exchange of a connection has come with changing its protocol.
#[derive(Default)]
pub(crate) struct Upgrade(RefCell<Step>);

#[derive(Default)]
enum Step {
    #[default]
    NotAsked,
    Asked(HeaderValue),
    Agreed(Box<Switched>),
    Answered(Box<Switched>, Box<ExchangeBody>),
}

/// Both ends of an upgrade, and the exchange it belongs to.
pub(crate) struct Upgraded {
    upstream: Box<Switched>,
    exchange: ExchangeBody,
}

impl Upgrade {
    /// Notes what a request asks for; whether it asks for anything.
    pub(crate) fn ask(&self, request: &Request<impl Body>) -> bool {
        let asked = asked(request);
        let asks = asked.is_some();
        self.0.replace(asked.map_or(Step::NotAsked, Step::Asked));
        asks
    }

    /// The protocol that the request at hand asks for.
    pub(crate) fn asked(&self) -> Option<HeaderValue> {
        match &*self.0.borrow() {
            Step::Asked(protocol) => Some(protocol.clone()),
            Step::NotAsked | Step::Agreed(_) | Step::Answered(..) => None,
        }
    }

    /// The upstream has agreed.
    pub(crate) fn agreed(&self, upstream: Box<Switched>) {
        self.0.replace(Step::Agreed(upstream));
    }

    /// The protocol to tell the client, if the upstream has agreed.
    pub(crate) fn protocol(&self) -> Option<HeaderValue> {
        match &*self.0.borrow() {
            Step::Agreed(upstream) => Some(upstream.protocol.clone()),
            Step::NotAsked | Step::Asked(_) | Step::Answered(..) => None,
        }
    }

    /// 101 goes to the client; the exchange lasts until the relay ends.
    pub(crate) fn answered(&self, exchange: ExchangeBody) {
        if let Step::Agreed(upstream) = self.0.take() {
            self.0.replace(Step::Answered(upstream, Box::new(exchange)));
        }
    }

    /// What is to be relayed, once 101 is written.
    pub(crate) fn take(&self) -> Option<Upgraded> {
        match self.0.take() {
            Step::Answered(upstream, exchange) => Some(Upgraded {
                upstream,
                exchange: *exchange,
            }),
            Step::NotAsked | Step::Asked(_) | Step::Agreed(_) => None,
        }
    }
}

impl Upgraded {
    /// Relays bytes both ways until both sides are done. `early` was read from the client already.
    pub(crate) async fn relay(mut self, client: Io, early: Bytes) {
        let book = self.exchange.book();
        let Switched { io, first, .. } = *self.upstream;
        let mut client = Tally::new(client);
        let mut upstream = Tally::new(io);
        let outcome = async {
            client.write_all(&first).await?;
            upstream.write_all(&early).await?;
            tokio::io::copy_bidirectional_with_sizes(
                &mut client,
                &mut upstream,
                RELAY_BUFFER,
                RELAY_BUFFER,
            )
            .await
        }
        .await;
        book.switched_bytes = upstream.written;
        book.response_bytes = client.written;
        book.complete = true;
        if outcome.is_err() {
            book.flags.insert(if client.failed {
                ResponseFlag::DownstreamConnectionTermination
            } else {
                ResponseFlag::UpstreamConnectionTermination
            });
            client.io.reset();
            upstream.io.reset();
        }
    }
}

/// The protocol a request asks for, if it is one that can be had.
fn asked(request: &Request<impl Body>) -> Option<HeaderValue> {
    let headers = request.headers();
    if request.version() != Version::HTTP_11
        || !request.body().is_end_stream()
        || !names_upgrade(headers)
    {
        return None;
    }
    let mut values = headers.get_all(UPGRADE).iter();
    let protocol = values.next()?;
    let is_one = values.next().is_none() && !protocol.as_bytes().contains(&b',');
    let is_http = [&b"h2c"[..], b"h2", b"http/", b"tls/"].iter().any(|http| {
        let start = protocol.as_bytes().get(..http.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(http))
    });
    (is_one && !is_http && !protocol.is_empty()).then(|| protocol.clone())
}

fn names_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&b| b == b','))
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

/// What the HTTP/1 codec sends behind a head.
#[allow(
    clippy::large_enum_variant,
    reason = "nearly always the large one: a box would be an allocation per request"
)]
pub(crate) enum Http1Body {
    /// A response body.
    Exchange(ExchangeBody),
    /// Nothing: another protocol begins.
    Switched,
}

impl Body for Http1Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Exchange(body) => Pin::new(body).poll_frame(cx),
            Self::Switched => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Exchange(body) => body.is_end_stream(),
            Self::Switched => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Exchange(body) => body.size_hint(),
            Self::Switched => SizeHint::with_exact(0),
        }
    }
}

/// Counts what is written to one side, and notes whether that side broke.
struct Tally {
    io: Io,
    written: u64,
    failed: bool,
}

impl Tally {
    fn new(io: Io) -> Self {
        Self {
            io,
            written: 0,
            failed: false,
        }
    }

    fn note<T>(&mut self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.failed |= matches!(outcome, Poll::Ready(Err(_)));
        outcome
    }
}

impl AsyncRead for Tally {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.io).poll_read(cx, buffer);
        this.note(outcome)
    }
}

impl AsyncWrite for Tally {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.io).poll_write(cx, data);
        if let Poll::Ready(Ok(written)) = outcome {
            this.written += written as u64;
        }
        this.note(outcome)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.io).poll_flush(cx);
        this.note(outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.io).poll_shutdown(cx);
        this.note(outcome)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, Full};

    use super::*;

    fn ask(headers: &[(&'static str, &'static str)]) -> Option<String> {
        let mut request = Request::new(Empty::<Bytes>::new());
        for (name, value) in headers {
            request
                .headers_mut()
                .append(*name, HeaderValue::from_static(value));
        }
        asked(&request).map(|protocol| protocol.to_str().unwrap().to_owned())
    }

    #[test]
    fn one_protocol_that_is_not_http_can_be_asked_for() {
        let connection = ("connection", "keep-alive, Upgrade");
        assert_eq!(
            ask(&[connection, ("upgrade", "websocket")]),
            Some("websocket".to_owned())
        );
        for refused in ["h2c", "H2C", "HTTP/2.0", "TLS/1.2", "websocket, h2c", ""] {
            assert_eq!(ask(&[connection, ("upgrade", refused)]), None, "{refused}");
        }
        assert_eq!(ask(&[("upgrade", "websocket")]), None);
        assert_eq!(ask(&[connection]), None);
        let twice = [connection, ("upgrade", "a"), ("upgrade", "b")];
        assert_eq!(ask(&twice), None);
    }

    #[test]
    fn a_request_with_a_body_or_of_another_version_can_not_ask() {
        let mut request = Request::new(Full::new(Bytes::from_static(b"x")));
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        assert_eq!(asked(&request), None);
        let mut request = request.map(|_| Empty::<Bytes>::new());
        assert!(asked(&request).is_some());
        *request.version_mut() = Version::HTTP_10;
        assert_eq!(asked(&request), None);
    }
}
