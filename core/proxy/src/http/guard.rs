//! The framing guard: what stands between the socket and hyper on HTTP/1 connections.
//!
//! It parses every request head strictly (RFC 9112), refuses what has two readings, follows each body
//! to its end by its own count, and hands hyper the bytes of exactly one message at a time. Guard and
//! parser can therefore never disagree about where a message ends: the guard's reading is the only one
//! that hyper ever gets to see, and it admits only framing that has a single reading.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::head::{self, BodyFraming, HeadError};

/// First size of the buffer between socket and parser.
const INITIAL_BUFFER: usize = 8 * 1024;

/// Longest head: request line and headers (hyper's own limit is about 400 KiB).
pub(crate) const MAX_HEAD: usize = 60 * 1024;

/// Bytes read ahead of a message that is not finished, at most.
const MAX_READ_AHEAD: usize = 16 * 1024;

/// Longest trailer section.
const MAX_TRAILERS: usize = 16 * 1024;

/// Longest chunk size line, extensions included.
const MAX_CHUNK_LINE: usize = 4 * 1024;

/// Strict reader of one HTTP/1 connection.
pub(crate) struct Guard<I> {
    io: I,
    buffer: Vec<u8>,
    /// Bytes in `buffer[start..checked]` may be handed to hyper.
    start: usize,
    checked: usize,
    end: usize,
    /// Bytes behind `checked` in which a head was looked for and not found: a dripping client must not
    /// make us read its head again for every byte.
    searched: usize,
    framing: Framing,
    /// The last read left no room: more was there than fitted.
    brimful: bool,
    /// Whether hyper has seen some of the message at hand.
    begun: bool,
    gate: Rc<Gate>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Framing {
    /// Between messages.
    Head,
    /// This many body bytes are still to come.
    Length(u64),
    /// Inside a chunked body.
    Chunked(Chunk),
}

impl Framing {
    /// Bytes to come that need no look and are not worth reading with what follows them.
    fn body_left(self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(left),
            Self::Chunked(Chunk::Data(left)) if left >= MAX_HEAD as u64 => Some(left),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Chunk {
    /// At the start of a chunk size line.
    Size,
    /// This many bytes of chunk data are still to come.
    Data(u64),
    /// At the CRLF behind chunk data.
    End,
    /// In the trailer section, with this many bytes of it seen.
    Trailers(usize),
}

/// Lets one message pass at a time, and tells why the connection was refused.
#[derive(Default)]
pub(crate) struct Gate {
    busy: Cell<bool>,
    withheld: RefCell<Option<Waker>>,
    refusal: Cell<Option<HeadError>>,
    cut: Cell<bool>,
    partial: Cell<bool>,
    stuck: Cell<bool>,
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Awaited {
    /// A request.
    Request,
    /// The rest of a head.
    Head,
    /// Progress of an exchange.
    Exchange,
}

impl Gate {
    /// The exchange is over: the next head may pass.
    pub(crate) fn open(&self) {
        self.busy.set(false);
        if let Some(waker) = self.withheld.borrow_mut().take() {
            waker.wake();
        }
    }

    /// A response broke off behind its head.
    pub(crate) fn cut_short(&self) {
        self.cut.set(true);
    }

    /// Whether a response broke off: the connection must not end as if it were complete.
    pub(crate) fn was_cut_short(&self) -> bool {
        self.cut.get()
    }

    /// Whether the client takes nothing of what it is sent.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.get()
    }

    fn wrote(&self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.stuck.set(outcome.is_pending());
        outcome
    }

    /// What the connection waits for.
    pub(crate) fn awaited(&self) -> Awaited {
        match (self.busy.get(), self.partial.get()) {
            (true, _) => Awaited::Exchange,
            (false, true) => Awaited::Head,
            (false, false) => Awaited::Request,
        }
    }

    /// The head did not come in time.
    pub(crate) fn head_is_late(&self) {
        self.refusal.set(Some(HeadError::TooSlow));
    }

    /// The head for which the guard ended the connection.
    pub(crate) fn refusal(&self) -> Option<HeadError> {
        self.refusal.get()
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Guard<I> {
    /// Guards a connection of which some bytes were read already.
    pub(crate) fn new(io: I, already_read: &[u8], gate: Rc<Gate>) -> Self {
        let mut buffer = vec![0; INITIAL_BUFFER.max(already_read.len())];
        buffer[..already_read.len()].copy_from_slice(already_read);
        Self {
            io,
            buffer,
            start: 0,
            checked: 0,
            end: already_read.len(),
            searched: 0,
            framing: Framing::Head,
            brimful: false,
            begun: false,
            gate,
        }
    }

    /// The connection, and what was read of it and withheld.
    pub(crate) fn into_parts(self) -> (I, Bytes) {
        let mut unread = Bytes::from(self.buffer);
        unread.truncate(self.end);
        (self.io, unread.split_off(self.start))
    }

    /// Looks at what was read but not checked yet; `Ok(true)` when some of it may be handed over.
    fn check(&mut self) -> Result<bool, HeadError> {
        loop {
            let unread = &self.buffer[self.checked..self.end];
            if unread.is_empty() {
                return Ok(self.checked > self.start);
            }
            match self.framing {
                Framing::Head => {
                    if self.gate.busy.get() || self.checked > self.start {
                        return Ok(self.checked > self.start);
                    }
                    // RFC 9112 §2.2: ignore an empty line before a request line.
                    if unread.starts_with(b"\r\n") {
                        self.start += 2;
                        self.checked = self.start;
                        self.searched = 0;
                        continue;
                    }
                    if memchr::memchr(b'\n', &unread[self.searched..]).is_none() {
                        self.searched = unread.len();
                        return if unread.len() > MAX_HEAD {
                            Err(self.too_large())
                        } else {
                            Ok(false)
                        };
                    }
                    let Some(head) = head::parse(unread)? else {
                        self.searched = unread.len();
                        return Ok(false);
                    };
                    self.searched = 0;
                    self.checked += head.length;
                    self.gate.busy.set(true);
                    self.begun = false;
                    self.framing = match head.body {
                        BodyFraming::None => Framing::Head,
                        BodyFraming::Length(0) => Framing::Head,
                        BodyFraming::Length(length) => Framing::Length(length),
                        BodyFraming::Chunked => Framing::Chunked(Chunk::Size),
                    };
                }
                Framing::Length(left) => {
                    let taken = left.min(unread.len() as u64);
                    self.checked += taken as usize;
                    self.framing = match left - taken {
                        0 => Framing::Head,
                        left => Framing::Length(left),
                    };
                }
                Framing::Chunked(chunk) => match self.check_chunk(chunk)? {
                    Some(next) => self.framing = next,
                    None => return Ok(self.checked > self.start),
                },
            }
        }
    }

    /// One step through a chunked body; `None` when more bytes are needed.
    fn check_chunk(&mut self, chunk: Chunk) -> Result<Option<Framing>, HeadError> {
        let unread = &self.buffer[self.checked..self.end];
        let next = match chunk {
            Chunk::Size => {
                let Some(line) = head::line(unread, MAX_CHUNK_LINE)? else {
                    return Ok(None);
                };
                let size = head::chunk_size(line)?;
                self.checked += line.len() + 2;
                match size {
                    0 => Chunk::Trailers(0),
                    size => Chunk::Data(size),
                }
            }
            Chunk::Data(left) => {
                let taken = left.min(unread.len() as u64);
                self.checked += taken as usize;
                match left - taken {
                    0 => Chunk::End,
                    left => Chunk::Data(left),
                }
            }
            Chunk::End => {
                if unread.len() < 2 {
                    return Ok(None);
                }
                if &unread[..2] != b"\r\n" {
                    return Err(HeadError::Chunk);
                }
                self.checked += 2;
                Chunk::Size
            }
            Chunk::Trailers(seen) => {
                let Some(line) = head::line(unread, MAX_TRAILERS)? else {
                    return Ok(None);
                };
                let seen = seen + line.len() + 2;
                if seen > MAX_TRAILERS {
                    return Err(HeadError::TooLarge);
                }
                self.checked += line.len() + 2;
                if line.is_empty() {
                    return Ok(Some(Framing::Head));
                }
                head::field(line)?;
                Chunk::Trailers(seen)
            }
        };
        Ok(Some(Framing::Chunked(next)))
    }

    /// Bytes that belong to a body whatever they are need no look: they go where hyper wants them,
    /// and no further than to the body's end (or the chunk's).
    fn read_body(
        &mut self,
        cx: &mut Context<'_>,
        cursor: ReadBufCursor<'_>,
        left: u64,
    ) -> Poll<io::Result<()>> {
        self.gate.partial.set(false);
        let mut body = TokioIo::new((&mut self.io).take(left));
        ready!(Pin::new(&mut body).poll_read(cx, cursor))?;
        let left = body.inner().limit();
        self.begun = true;
        self.framing = match self.framing {
            Framing::Chunked(_) if left == 0 => Framing::Chunked(Chunk::End),
            Framing::Chunked(_) => Framing::Chunked(Chunk::Data(left)),
            _ if left == 0 => Framing::Head,
            _ => Framing::Length(left),
        };
        Poll::Ready(Ok(()))
    }

    /// Ends the connection. A message of which hyper knows nothing is answered by whoever serves the
    /// connection; a body that is refused later fails the exchange it belongs to.
    fn refuse(&self, error: HeadError) -> io::Error {
        if self.framing == Framing::Head || !self.begun {
            self.gate.refusal.set(Some(error));
        }
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    /// Why a message that fits nowhere is refused.
    fn too_large(&self) -> HeadError {
        let unread = &self.buffer[self.checked..self.end];
        match (self.framing, memchr::memchr(b'\n', unread)) {
            (Framing::Head, None) => HeadError::TargetTooLong,
            _ => HeadError::TooLarge,
        }
    }

    /// Makes room behind `end`; false when the buffer may not grow further now.
    fn make_room(&mut self) -> bool {
        if self.start == self.end {
            (self.start, self.checked, self.end) = (0, 0, 0);
            // Chunks that come faster than they are taken: fewer, larger reads.
            if self.brimful
                && matches!(self.framing, Framing::Chunked(_))
                && self.buffer.len() < MAX_HEAD
            {
                let grown = (self.buffer.len() * 2).min(MAX_HEAD);
                self.buffer.resize(grown, 0);
            }
        }
        if self.end < self.buffer.len() {
            return true;
        }
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.checked -= self.start;
            self.start = 0;
            return true;
        }
        // Between messages a head may take all it is allowed; else nothing needs more than a line.
        let limit = if self.gate.busy.get() && self.framing == Framing::Head {
            MAX_READ_AHEAD
        } else {
            MAX_HEAD + 4
        };
        if self.buffer.len() >= limit {
            return false;
        }
        let grown = (self.buffer.len() * 2).min(limit);
        self.buffer.resize(grown, 0);
        true
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Read for Guard<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match this.check() {
                Ok(true) => {
                    let length = (this.checked - this.start).min(cursor.remaining());
                    cursor.put_slice(&this.buffer[this.start..this.start + length]);
                    this.start += length;
                    this.begun = true;
                    return Poll::Ready(Ok(()));
                }
                Ok(false) => {}
                Err(error) => return Poll::Ready(Err(this.refuse(error))),
            }
            if this.start == this.end
                && let Some(left) = this.framing.body_left()
            {
                return this.read_body(cx, cursor, left);
            }
            let withheld = this.end > this.start && this.gate.busy.get();
            if withheld {
                *this.gate.withheld.borrow_mut() = Some(cx.waker().clone());
            }
            this.gate.partial.set(this.end > this.start);
            if !this.make_room() {
                if withheld {
                    return Poll::Pending;
                }
                let error = this.too_large();
                return Poll::Ready(Err(this.refuse(error)));
            }
            let mut free = ReadBuf::new(&mut this.buffer[this.end..]);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut free))?;
            let read = free.filled().len();
            if read == 0 {
                // What was withheld dies with its sender: nobody is left to answer to.
                return Poll::Ready(Ok(()));
            }
            this.brimful = free.remaining() == 0;
            this.end += read;
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Write for Guard<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.gate.wrote(Pin::new(&mut this.io).poll_write(cx, data))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.gate.refusal().is_some() || this.gate.was_cut_short() {
            // hyper takes a head that was refused for an end of input and says goodbye, but whoever
            // sent it is still to be told why; and there is no goodbye inside a response.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        this.gate.wrote(written)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use hyper::rt::ReadBuf as HyperBuf;
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// What hyper gets to see of `input`, message after message, and how it ended.
    async fn through(input: &[u8], step: usize) -> (Vec<Vec<u8>>, Option<HeadError>) {
        let (client, server) = tokio::io::duplex(1 << 20);
        let gate = Rc::new(Gate::default());
        let mut guard = Guard::new(server, b"", Rc::clone(&gate));
        let mut client = client;
        for piece in input.chunks(step) {
            client.write_all(piece).await.unwrap();
        }
        client.shutdown().await.unwrap();
        let mut messages = Vec::new();
        loop {
            let mut message = Vec::new();
            loop {
                let mut space = vec![0; 512];
                let mut buffer = HyperBuf::new(&mut space);
                let read =
                    poll_fn(|cx| Pin::new(&mut guard).poll_read(cx, buffer.unfilled())).await;
                if let Err(error) = &read {
                    let error = error.get_ref().and_then(|error| error.downcast_ref());
                    return (messages, error.copied());
                }
                if buffer.filled().is_empty() {
                    return (messages, None);
                }
                message.extend_from_slice(buffer.filled());
                if guard.framing == Framing::Head && guard.start == guard.checked {
                    break;
                }
            }
            messages.push(message);
            gate.open();
        }
    }

    #[tokio::test]
    async fn hands_over_one_message_at_a_time_however_it_arrives() {
        let get = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
        let post = b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello".to_vec();
        let chunked = b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nX-T: 1\r\n\r\n".to_vec();
        let all = [get.clone(), post.clone(), chunked.clone(), get.clone()].concat();
        for step in [1, 7, 64, 4096] {
            let (messages, refusal) = through(&all, step).await;
            assert_eq!(refusal, None);
            assert_eq!(
                messages,
                [get.clone(), post.clone(), chunked.clone(), get.clone()]
            );
        }
    }

    #[tokio::test]
    async fn a_large_body_is_read_in_large_pieces() {
        let mut post = b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n".to_vec();
        post.extend((0..300_000).map(|at| b'a' + (at % 23) as u8));
        let get = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
        let (messages, refusal) = through(&[post.clone(), get.clone()].concat(), 65536).await;
        assert_eq!(refusal, None);
        assert!(messages == [post.clone(), get], "a message has changed");

        let (mut client, server) = tokio::io::duplex(1 << 20);
        client.write_all(&post).await.unwrap();
        let mut guard = Guard::new(server, b"", Rc::default());
        let mut reads = 0;
        let mut taken = 0;
        while taken < post.len() {
            let mut space = vec![0; 1 << 20];
            let mut buffer = HyperBuf::new(&mut space);
            let read = poll_fn(|cx| Pin::new(&mut guard).poll_read(cx, buffer.unfilled())).await;
            read.unwrap();
            taken += buffer.filled().len();
            reads += 1;
        }
        assert!(reads < 10, "{reads} reads");
        assert!(guard.buffer.len() <= MAX_HEAD);
    }

    #[tokio::test]
    async fn refuses_ambiguous_framing() {
        let cases: [(&[u8], HeadError); 9] = [
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", HeadError::Framing),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", HeadError::Framing),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", HeadError::Framing),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", HeadError::Framing),
            (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", HeadError::Framing),
            (b"GET / HTTP/1.1\nHost: a\n\n", HeadError::LineEnd),
            (b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", HeadError::Field),
            (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", HeadError::Field),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", HeadError::Chunk),
        ];
        for (input, expected) in cases {
            let (_, refusal) = through(input, 4096).await;
            assert_eq!(
                refusal,
                Some(expected),
                "{}",
                String::from_utf8_lossy(input)
            );
        }
    }

    #[tokio::test]
    async fn a_head_without_end_is_cut() {
        let mut input = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
        for i in 0..90 {
            input.extend_from_slice(format!("x-{i}: {}\r\n", "v".repeat(1000)).as_bytes());
        }
        let (messages, refusal) = through(&input, 4096).await;
        assert!(messages.is_empty());
        assert_eq!(refusal, Some(HeadError::TooLarge));
    }
}
