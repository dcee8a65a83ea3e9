//! The codecs: HTTP/1 behind the guard, HTTP/2 with prior knowledge.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wayline_hbone::FrameGuard;
use wayline_model::defence::stands;
use wayline_telemetry::ResponseFlag;

use super::book::{Book, Details, Sent};
use super::exchange::{Cut, exchange};
use super::guard::{Awaited, Guard};
use super::head::HeadError;
use super::taking::Streams;
use super::upgrade::Http1Body;
use crate::drain::Stage;
use crate::ingress::Ingress;
use crate::io::{Io, Rewound};
use crate::timers::Timer;

/// How an HTTP/2 client begins (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// HTTP/2 limits at an entrance.
/// (The codec's own bound on what small frames cost in memory goes with the connection's window.)
const STREAM_WINDOW: u32 = 512 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const MAX_HEADER_LIST: u32 = 64 * 1024;
const MAX_PENDING_RESETS: usize = 50;

/// Resets a client may provoke by broken frames (CVE-2025-8671).
const MAX_PROVOKED_RESETS: usize = 100;

/// Bytes of an answer that may wait for the client's window, per stream.
const SEND_BUFFER: usize = 64 * 1024;

/// How much longer than an exchange may be silent its connection may be.
const STALLED: Duration = Duration::from_secs(2);

/// How long, and for how many bytes, a refused client may go on before it is cut off.
const LINGER: Duration = Duration::from_secs(1);
const MAX_DISCARDED: usize = 256 * 1024;

/// Serves HTTP on a stream, whichever version the client begins with. `first` was read already.
pub(crate) async fn serve(ingress: Rc<Ingress>, mut io: Io, first: BytesMut) {
    let mut first = first;
    let mut drain = ingress.worker.drain.connection();
    let timer = ingress.worker.timers.timer();
    // Clients of the mesh are known, and open connections long before they use them.
    let patience = match &io {
        Io::Tcp(_) => ingress.worker.timeouts.head,
        Io::Tunnel(_) => ingress.worker.timeouts.idle,
    };
    let silent = poll_fn(|cx| timer.lasting_for(patience, cx));
    let version = tokio::select! {
        version = detect(&mut io, &mut first) => version,
        () = drain.closing() => return,
        () = silent => return,
    };
    drop(drain);
    let version = match version {
        Ok(version) => version,
        Err(error) => {
            tracing::trace!(%error, "a connection ended before its first request");
            return;
        }
    };
    match version {
        Detected::Nothing => {}
        Detected::Http1 => serve_http1(ingress, io, &first).await,
        // Boxed: each HTTP/1 connection would have room for it, too.
        Detected::Http2 => Box::pin(serve_http2(ingress, io, first.freeze())).await,
    }
}

enum Detected {
    Nothing,
    Http1,
    Http2,
}

/// Reads until the bytes are, or cannot become, the HTTP/2 preface.
async fn detect(io: &mut Io, first: &mut BytesMut) -> io::Result<Detected> {
    loop {
        let length = first.len().min(PREFACE.len());
        if first[..length] != PREFACE[..length] {
            return Ok(Detected::Http1);
        }
        if length == PREFACE.len() {
            return Ok(Detected::Http2);
        }
        first.reserve(4096);
        if io.read_buf(first).await? == 0 {
            return Ok(if first.is_empty() {
                Detected::Nothing
            } else {
                Detected::Http1
            });
        }
    }
}

async fn serve_http1(ingress: Rc<Ingress>, io: Io, first: &[u8]) {
    let guard = Guard::new(io, first, Rc::clone(&ingress.gate));
    let service = {
        let ingress = Rc::clone(&ingress);
        service_fn(move |request: Request<Incoming>| http1_exchange(Rc::clone(&ingress), request))
    };
    // hyper's own limit of 100 headers, which is Envoy's: with any other it allocates and fills the room
    // for them anew for every request.
    let mut connection = http1::Builder::new().serve_connection(guard, service);
    let mut drain = ingress.worker.drain.connection();
    let mut patience = Patience::new(&ingress);
    let outcome = poll_fn(|cx| {
        while let Poll::Ready(stage) = drain.poll(cx) {
            if stage == Stage::Closing {
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
        match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(outcome),
            Poll::Pending => patience.poll(cx).map(Ok),
        }
    })
    .await;
    let (mut io, early) = connection.into_parts().io.into_parts();
    if let Some(upgraded) = ingress.upgrade.take()
        && outcome.is_ok()
    {
        return upgraded.relay(io, early).await;
    }
    if let Some(error) = ingress.gate.refusal() {
        refuse(&ingress, &mut io, error).await;
    }
    if let Err(error) = outcome {
        tracing::debug!(%error, "an HTTP/1 connection ended");
    }
    if ingress.gate.was_cut_short() {
        io.reset();
    } else {
        part(io).await;
    }
}

/// Cuts an HTTP/1 connection short that keeps us waiting.
struct Patience<'i> {
    ingress: &'i Ingress,
    timer: Timer,
    sending: Timer,
    awaited: Awaited,
}

impl<'i> Patience<'i> {
    fn new(ingress: &'i Ingress) -> Self {
        Self {
            ingress,
            timer: ingress.worker.timers.timer(),
            sending: ingress.worker.timers.timer(),
            awaited: Awaited::Request,
        }
    }

    /// To be called whenever the connection has nothing to do; ready when it is over.
    fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        let gate = &self.ingress.gate;
        let awaited = gate.awaited();
        if awaited != self.awaited {
            self.awaited = awaited;
            self.timer.clear();
        }
        let timeouts = &self.ingress.worker.timeouts;
        if !gate.is_stuck() {
            self.sending.clear();
        } else if self.sending.lasting_for(timeouts.send, cx).is_ready() {
            gate.cut_short();
            return Poll::Ready(());
        }
        match awaited {
            Awaited::Request => self.timer.silent_for(timeouts.idle, cx),
            Awaited::Head => self
                .timer
                .lasting_for(timeouts.head, cx)
                .map(|()| gate.head_is_late()),
            // The exchange itself notices first, unless the client does not take what it is sent.
            Awaited::Exchange if timeouts.stream_idle.is_zero() => Poll::Pending,
            Awaited::Exchange => self
                .timer
                .silent_for(timeouts.stream_idle + STALLED, cx)
                .map(|()| gate.cut_short()),
        }
    }
}

/// Says goodbye (which hyper leaves out where somebody asked for an upgrade) and hears the client out:
/// closing with bytes unread makes the kernel (or HTTP/2, in a tunnel) reset the connection, and what
/// was said last would be lost with it.
async fn part(mut io: Io) {
    let _gone = io.shutdown().await;
    let _late = tokio::time::timeout(LINGER, discard(&mut io)).await;
}

/// Reads what is still under way and forgets it.
async fn discard(io: &mut Io) {
    let mut left = MAX_DISCARDED;
    let mut space = [0; 4096];
    while left > 0 {
        match io.read(&mut space).await {
            Ok(0) | Err(_) => return,
            Ok(read) => left = left.saturating_sub(read),
        }
    }
}

/// HTTP/1 has no word for "no more" but in a response.
async fn http1_exchange(
    ingress: Rc<Ingress>,
    request: Request<Incoming>,
) -> Result<Response<Http1Body>, Cut> {
    let asked = ingress.upgrade.ask(&request);
    let mut response = exchange(Rc::clone(&ingress), request).await?;
    if asked
        && response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(protocol) = ingress.upgrade.protocol()
    {
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
        let (parts, body) = response.into_parts();
        ingress.upgrade.answered(body);
        return Ok(Response::from_parts(parts, Http1Body::Switched));
    }
    // What a client sent behind a refused upgrade is not HTTP.
    if (asked && stands("early-data")) || ingress.is_leaving() {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    Ok(response.map(Http1Body::Exchange))
}

async fn serve_http2(ingress: Rc<Ingress>, io: Io, first: Bytes) {
    let service = {
        let ingress = Rc::clone(&ingress);
        service_fn(move |request: Request<Incoming>| exchange(Rc::clone(&ingress), request))
    };
    let mut builder = http2::Builder::new(Streams::new(&ingress));
    builder
        .max_concurrent_streams(ingress.worker.limits.streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_PROVOKED_RESETS)
        .max_send_buf_size(SEND_BUFFER);
    let limits = ingress.worker.limits.frames;
    let (io, notice) = FrameGuard::new(Rewound::new(first, io), limits);
    let io = TokioIo::new(io);
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut drain = ingress.worker.drain.connection();
    let mut told = false;
    let timer = ingress.worker.timers.timer();
    let outcome = poll_fn(|cx| {
        let _stage = drain.poll(cx);
        loop {
            let mut polled = connection.as_mut().poll(cx);
            if polled.is_pending() {
                let idle = timer.silent_for(ingress.worker.timeouts.idle, cx);
                polled = idle.map(Ok);
            }
            if told || polled.is_ready() || !ingress.is_leaving() {
                return polled;
            }
            told = true;
            connection.as_mut().graceful_shutdown();
        }
    })
    .await;
    if let Some(flood) = notice.seen() {
        let source = ingress.connection.source;
        ingress.worker.refusals.note(flood.name(), source, flood);
    } else if let Err(error) = outcome {
        tracing::debug!(%error, "an HTTP/2 connection ended");
    }
}

/// The guard's last word on a connection: hyper never saw the request.
async fn refuse(ingress: &Rc<Ingress>, io: &mut Io, error: HeadError) {
    let (plan, bound) = ingress.in_force();
    let mut book = Book::open(ingress, plan, bound);
    let status = error.status();
    book.code = status.as_u16();
    book.flags.insert(ResponseFlag::DownstreamProtocolError);
    book.details = Details::Static(error.details());
    book.complete = true;
    book.malformed(Some(Sent::default()));
    ingress
        .worker
        .refusals
        .note(error.details(), ingress.connection.source, error);
    let reason = status.canonical_reason().unwrap_or("Bad Request");
    let answer = format!(
        "HTTP/1.1 {} {reason}\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{reason}",
        status.as_u16(),
        reason.len(),
    );
    // Whoever sent this may be gone; there is nobody else to tell.
    let _gone = io.write_all(answer.as_bytes()).await;
}
