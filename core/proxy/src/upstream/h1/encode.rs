//! Writing a request: its head, how its body is framed (RFC 9112 §6), and the body's pieces, gathered
//! into few writes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::HeaderName;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TRAILER, TRANSFER_ENCODING};
use http_body::{Body as _, Frame};
use tokio::io::AsyncWrite;

use super::super::send::UpstreamRequest;
use crate::http::body::{BodyError, RequestBody};

/// Up to this many bytes of a body are copied behind what waits already; larger pieces are written from
/// where they are.
const SMALL_PIECE: usize = 4 * 1024;

/// So many bytes are gathered before they are written.
const GATHERED: usize = 16 * 1024;

/// What an idle connection may keep of its room.
const KEPT: usize = 4 * 1024;

/// A request on its way out.
#[derive(Default)]
pub(super) struct Outgoing {
    /// To be written first, from `written` on.
    gathered: Vec<u8>,
    written: usize,
    /// Whether any of the request has gone out.
    begun: bool,
    /// To be written behind it: a large piece, and the end of its chunk.
    piece: Bytes,
    piece_end: &'static [u8],
    body: Option<Body>,
    /// The body broke off: what came of it goes out, and then the request has failed.
    broken: bool,
}

struct Body {
    source: RequestBody,
    framing: Framing,
}

enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    /// In chunks; behind them those trailers that the head announced.
    Chunked(Vec<HeaderName>),
}

/// Why a request could not be sent to its end.
#[derive(Debug)]
pub(super) enum SendError {
    /// The connection broke.
    Io,
    /// The body broke off, or was not as long as its head said.
    Body,
}

impl Outgoing {
    /// Whether some of the request has yet to be written.
    pub(super) fn is_under_way(&self) -> bool {
        self.body.is_some() || self.broken || self.waits()
    }

    /// Whether some of the request has been written.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Writes a head, and takes the body to be sent behind it.
    pub(super) fn begin(&mut self, request: &UpstreamRequest, source: RequestBody) {
        self.gathered.clear();
        if self.gathered.capacity() > KEPT {
            self.gathered.shrink_to(KEPT);
        }
        self.written = 0;
        (self.begun, self.broken) = (false, false);
        let framing = (!source.is_end_stream()).then(|| Framing::of(request, &source));
        head(&mut self.gathered, request, framing.as_ref());
        self.body = framing.map(|framing| Body { source, framing });
    }

    /// Sends what can be sent; ready when all was.
    pub(super) fn poll_send<IO: AsyncWrite + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendError>> {
        loop {
            if self.gather(cx).is_err() {
                (self.body, self.broken) = (None, true);
            }
            if !self.waits() && self.broken {
                return Poll::Ready(Err(SendError::Body));
            }
            if !self.waits() {
                if self.body.is_some() {
                    return Poll::Pending;
                }
                return Pin::new(io).poll_flush(cx).map_err(|_| SendError::Io);
            }
            let written = ready!(self.poll_write(io, cx)).map_err(|_| SendError::Io)?;
            if written == 0 {
                return Poll::Ready(Err(SendError::Io));
            }
            self.advance(written);
        }
    }

    fn waits(&self) -> bool {
        self.written < self.gathered.len() || !self.piece.is_empty() || !self.piece_end.is_empty()
    }

    /// Takes of the body what is there, until there is enough for a write.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<(), SendError> {
        while self.piece.is_empty()
            && self.piece_end.is_empty()
            && self.gathered.len() - self.written < GATHERED
            && let Some(body) = &mut self.body
        {
            let Poll::Ready(frame) = Pin::new(&mut body.source).poll_frame(cx) else {
                break;
            };
            let frame = frame.transpose().map_err(|_: BodyError| SendError::Body)?;
            match frame.map(Frame::into_data) {
                Some(Ok(data)) => self.data(data)?,
                Some(Err(frame)) => self.end(frame.into_trailers().ok().as_ref())?,
                None => self.end(None)?,
            }
        }
        Ok(())
    }

    fn data(&mut self, data: Bytes) -> Result<(), SendError> {
        let Some(body) = &mut self.body else {
            return Ok(());
        };
        match &mut body.framing {
            Framing::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(SendError::Body)?;
            }
            // An empty chunk would be the end.
            Framing::Chunked(_) if data.is_empty() => return Ok(()),
            Framing::Chunked(_) => {
                let size = format!("{:x}\r\n", data.len());
                self.gathered.extend_from_slice(size.as_bytes());
                self.piece_end = b"\r\n";
            }
        }
        let has_ended = matches!(body.framing, Framing::Length(0)) || body.source.is_end_stream();
        if data.len() > SMALL_PIECE {
            self.piece = data;
        } else {
            self.gathered.extend_from_slice(&data);
            self.gathered.extend_from_slice(self.piece_end);
            self.piece_end = b"";
        }
        // What follows a large piece has its place behind it.
        if has_ended && self.piece.is_empty() {
            return self.end(None);
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), SendError> {
        match self.body.take().map(|body| body.framing) {
            Some(Framing::Length(left)) if left > 0 => return Err(SendError::Body),
            Some(Framing::Length(_)) | None => {}
            Some(Framing::Chunked(announced)) => {
                self.gathered.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    if announced.contains(name) {
                        field(&mut self.gathered, name, value);
                    }
                }
                self.gathered.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }

    fn poll_write<IO: AsyncWrite + Unpin>(
        &self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let first = &self.gathered[self.written..];
        if self.piece.is_empty() && self.piece_end.is_empty() {
            return Pin::new(io).poll_write(cx, first);
        }
        let slices = [first, &self.piece, self.piece_end].map(IoSlice::new);
        Pin::new(io).poll_write_vectored(cx, &slices)
    }

    fn advance(&mut self, written: usize) {
        self.begun = true;
        let mut left = written;
        let first = left.min(self.gathered.len() - self.written);
        self.written += first;
        left -= first;
        let second = left.min(self.piece.len());
        self.piece.advance(second);
        left -= second;
        self.piece_end = self.piece_end.get(left..).unwrap_or_default();
        if self.written == self.gathered.len() {
            self.gathered.clear();
            self.written = 0;
        }
    }
}

impl Framing {
    /// As the headers say, else as the body knows itself.
    fn of(request: &UpstreamRequest, source: &RequestBody) -> Self {
        let told = request.headers.get(CONTENT_LENGTH).and_then(told_length);
        if let Some(length) = told.or_else(|| source.size_hint().exact()) {
            return Self::Length(length);
        }
        let announced = request.headers.get_all(TRAILER).iter();
        let announced = announced
            .flat_map(|value| value.as_bytes().split(|b| *b == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
        Self::Chunked(announced.collect())
    }
}

fn told_length(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.parse().ok()
}

/// A request line and headers, up to and including the empty line.
fn head(out: &mut Vec<u8>, request: &UpstreamRequest, framing: Option<&Framing>) {
    out.reserve(256);
    for part in [
        request.method.as_str().as_bytes(),
        b" ",
        request.path.as_str().as_bytes(),
        b" HTTP/1.1\r\nhost: ",
        request.authority.as_bytes(),
        b"\r\n",
    ] {
        out.extend_from_slice(part);
    }
    let mut told = false;
    for (name, value) in &request.headers {
        if *name == CONTENT_LENGTH {
            // A length that nothing follows would take the next request for this one's body.
            // Two lengths, of which the other side may take the other one, likewise.
            let holds = match framing {
                Some(Framing::Length(length)) => told_length(value) == Some(*length),
                Some(Framing::Chunked(_)) => false,
                None => told_length(value) == Some(0),
            };
            if told || !holds {
                continue;
            }
            told = true;
        }
        if *name != HOST && *name != TRANSFER_ENCODING {
            field(out, name, value);
        }
    }
    if let Some(protocol) = &request.upgrade {
        out.extend_from_slice(b"connection: upgrade\r\nupgrade: ");
        out.extend_from_slice(protocol.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    match framing {
        Some(Framing::Length(length)) if !told => {
            out.extend_from_slice(format!("content-length: {length}\r\n").as_bytes());
        }
        Some(Framing::Chunked(_)) => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Some(Framing::Length(_)) | None => {}
    }
    out.extend_from_slice(b"\r\n");
}

fn field(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
    // Once for the four of them.
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
