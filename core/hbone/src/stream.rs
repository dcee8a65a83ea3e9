//! The bytes of one tunnel as ordinary I/O.
//!
//! Back-pressure is HTTP/2's own: bytes count against the window until they are read here, and a
//! writer waits until the peer's window and the bounded send queue have room.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

/// Bytes read from a chunk before window is given back although the chunk is not finished.
const RELEASE_STEP: usize = 64 * 1024;

/// One accepted CONNECT, either side of it.
///
/// Each write becomes one DATA frame (vectored writes are gathered into one). Shutting down sends
/// END_STREAM and leaves reading open. Dropping a stream that was not shut down, or not read to its
/// end, resets it, so that the peer never takes a cut-off transfer for a complete one.
#[derive(Debug)]
pub struct TunnelStream {
    recv: RecvStream,
    send: SendStream<Bytes>,
    /// Received and not yet handed on.
    chunk: Bytes,
    /// Handed on, not yet given back to the peer as window.
    unreleased: usize,
    send_buffer: usize,
    shut_down: bool,
    _slot: Option<Slot>,
}

impl TunnelStream {
    pub(crate) fn new(
        recv: RecvStream,
        send: SendStream<Bytes>,
        send_buffer: usize,
        slot: Option<Slot>,
    ) -> Self {
        Self {
            recv,
            send,
            chunk: Bytes::new(),
            unreleased: 0,
            send_buffer: send_buffer.max(1),
            shut_down: false,
            _slot: slot,
        }
    }

    /// Takes the next received bytes without copying them; `None` at the end of the stream. What
    /// is taken counts as consumed: take the next chunk only when this one has found its place.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        match ready!(self.poll_fill(cx)) {
            Err(error) => Poll::Ready(Some(Err(error))),
            Ok(()) if self.chunk.is_empty() => Poll::Ready(None),
            Ok(()) => {
                let chunk = std::mem::take(&mut self.chunk);
                self.release(chunk.len());
                Poll::Ready(Some(Ok(chunk)))
            }
        }
    }

    /// Sends as much of `data` as there is room for, without copying, and removes it from `data`.
    /// Empty `data` sends nothing.
    pub fn poll_write_chunk(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
    ) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(self.poll_room(cx, data.len()))?;
        self.send_frame(cx, data.split_to(room))?;
        Poll::Ready(Ok(room))
    }

    /// Resolves when the peer has reset the stream or the connection has ended; for callers that
    /// are busy elsewhere and neither read nor write.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.send.poll_reset(cx).map(|outcome| match outcome {
            Ok(reason) => reset_error(reason),
            Err(error) => io_error(error),
        })
    }

    /// Resets the stream with INTERNAL_ERROR, discarding what is queued: something went wrong on
    /// this side. Plain dropping says CANCEL: nobody is interested any more.
    pub fn fail(mut self) {
        self.send.send_reset(Reason::INTERNAL_ERROR);
    }

    /// Makes `chunk` non-empty, or leaves it empty at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.chunk.is_empty() {
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(data)) => self.chunk = data,
                // The peer wants no more and has said all (RFC 9113 §8.1). A GOAWAY with the same
                // code says no such thing about this stream.
                Some(Err(error))
                    if error.is_reset()
                        && error.is_remote()
                        && error.reason() == Some(Reason::NO_ERROR) =>
                {
                    break;
                }
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                None => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Gives window back to the peer for bytes that were handed on.
    fn release(&mut self, consumed: usize) {
        self.unreleased += consumed;
        if self.chunk.is_empty() || self.unreleased >= RELEASE_STEP {
            // Fails only for more than was received, and these bytes were.
            let _released = self.recv.flow_control().release_capacity(self.unreleased);
            self.unreleased = 0;
        }
    }

    /// Waits until some of `wanted` bytes may be queued, and says how many.
    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        let wanted = wanted.min(self.send_buffer);
        self.send.reserve_capacity(wanted);
        loop {
            let room = self.send.capacity();
            if room > 0 {
                return Poll::Ready(Ok(room.min(wanted)));
            }
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                None => return Poll::Ready(Err(self.why_closed(cx))),
            }
        }
    }

    fn send_frame(&mut self, cx: &mut Context<'_>, data: Bytes) -> io::Result<()> {
        match self.send.send_data(data, false) {
            Ok(()) => Ok(()),
            Err(_) => Err(self.why_closed(cx)),
        }
    }

    fn why_closed(&mut self, cx: &mut Context<'_>) -> io::Error {
        match self.send.poll_reset(cx) {
            Poll::Ready(Ok(reason)) => reset_error(reason),
            Poll::Ready(Err(error)) => io_error(error),
            Poll::Pending => io::ErrorKind::BrokenPipe.into(),
        }
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_fill(cx))?;
        let taken = self.chunk.len().min(buf.remaining());
        if taken > 0 {
            buf.put_slice(&self.chunk[..taken]);
            self.chunk.advance(taken);
            self.release(taken);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncBufRead for TunnelStream {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        ready!(this.poll_fill(cx))?;
        Poll::Ready(Ok(&this.chunk))
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        let taken = amount.min(self.chunk.len());
        if taken > 0 {
            self.chunk.advance(taken);
            self.release(taken);
        }
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(self.poll_room(cx, buf.len()))?;
        self.send_frame(cx, Bytes::copy_from_slice(&buf[..room]))?;
        Poll::Ready(Ok(room))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        if total == 0 {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(self.poll_room(cx, total))?;
        // Of exact size, so that becoming `Bytes` costs nothing and an idle tunnel keeps nothing.
        let mut gathered = Vec::with_capacity(room);
        for buf in bufs {
            let take = buf.len().min(room - gathered.len());
            gathered.extend_from_slice(&buf[..take]);
        }
        self.send_frame(cx, Bytes::from(gathered))?;
        Poll::Ready(Ok(room))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Queued frames are on their way as soon as the connection's own task runs.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.shut_down {
            return Poll::Ready(Ok(()));
        }
        self.shut_down = true;
        match self.send.send_data(Bytes::new(), true) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(_) => Poll::Ready(Err(self.why_closed(cx))),
        }
    }
}

/// A stream's place on its connection, given back when the stream is gone.
#[derive(Debug)]
pub(crate) struct Slot(Arc<AtomicUsize>);

impl Slot {
    pub(crate) fn take(active: &Arc<AtomicUsize>) -> Self {
        active.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(active))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn io_error(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

fn reset_error(reason: Reason) -> io::Error {
    if reason == Reason::NO_ERROR {
        // The peer has all it wants and reads no further; it is not a failure of its own.
        return io::Error::new(io::ErrorKind::BrokenPipe, "the peer stopped reading");
    }
    io::Error::new(
        io::ErrorKind::ConnectionReset,
        format!("the peer reset the tunnel: {reason}"),
    )
}
