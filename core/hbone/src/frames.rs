//! What an HTTP/2 peer may make us do without sending anything: counted below the codec, which has no
//! word for it.
//!
//! The bytes pass untouched; only frame headers are looked at. A peer that floods us with frames that
//! carry nothing, or opens and resets streams without end, loses its connection. And of many heads that
//! come at once few are handed over at a time, so that those that are refused are gone before the next
//! are decoded: one byte of a compressed head may stand for a hundred in memory.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wayline_model::defence::stands;

/// What a client says first (RFC 9113 §3.4), in bytes.
const PREFACE: usize = 24;

/// A frame's header, in bytes (RFC 9113 §4.1).
const HEADER: usize = 9;

/// Heads handed over before others have their turn.
const HEADS_AT_ONCE: usize = 8;

/// Over how long control frames and resets are counted.
const CONTROL_SPAN: Duration = Duration::from_secs(10);
const RESET_SPAN: Duration = Duration::from_secs(60);

/// Bytes of data, in either direction, that entitle a peer to one more control frame: those that
/// manage windows come with the data.
const BYTES_PER_CONTROL: u64 = 1024;

/// How much a peer may say without saying anything.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FrameLimits {
    /// SETTINGS, PING, PRIORITY, WINDOW_UPDATE, CONTINUATION, empty DATA and unknown frames in 10 s, beside
    /// one for each KiB of data; 0: any number.
    pub control: u32,
    /// Streams reset in a minute; 0: any number.
    pub resets: u32,
}

/// Why a peer lost its connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[repr(u8)]
pub enum Flood {
    /// Too many frames that carry nothing.
    #[error("too many control frames")]
    Control = 1,
    /// Too many streams reset.
    #[error("too many resets")]
    Resets = 2,
}

impl Flood {
    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Control => "h2_control_flood",
            Self::Resets => "h2_reset_flood",
        }
    }
}

/// Tells whoever serves a connection why it ended.
#[derive(Clone, Debug, Default)]
pub struct FloodNotice(Arc<AtomicU8>);

impl FloodNotice {
    /// The flood that ended the connection.
    #[must_use]
    pub fn seen(&self) -> Option<Flood> {
        match self.0.load(Ordering::Relaxed) {
            1 => Some(Flood::Control),
            2 => Some(Flood::Resets),
            _ => None,
        }
    }
}

/// An HTTP/2 connection whose peer is held to [`FrameLimits`]; the server's side. It is read on a
/// `LocalSet` or a local runtime.
#[derive(Debug)]
pub struct FrameGuard<IO> {
    io: IO,
    limits: FrameLimits,
    notice: FloodNotice,
    scan: Scan,
    control: Count,
    resets: Count,
    moved: u64,
    heads: usize,
    /// Read, and not handed over yet.
    held: BytesMut,
    /// Whether what was handed over has yet to have its turn.
    resting: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Scan {
    preface_left: usize,
    header: [u8; HEADER],
    seen: usize,
    payload_left: usize,
}

#[derive(Debug)]
struct Count {
    span: Duration,
    since: Option<Instant>,
    number: u32,
}

impl<IO> FrameGuard<IO> {
    /// Watches a connection from its first byte.
    pub fn new(io: IO, limits: FrameLimits) -> (Self, FloodNotice) {
        let notice = FloodNotice::default();
        let guard = Self {
            io,
            limits,
            notice: notice.clone(),
            scan: Scan {
                preface_left: PREFACE,
                header: [0; HEADER],
                seen: 0,
                payload_left: 0,
            },
            control: Count::over(CONTROL_SPAN),
            resets: Count::over(RESET_SPAN),
            moved: 0,
            heads: 0,
            held: BytesMut::new(),
            resting: Arc::default(),
        };
        (guard, notice)
    }

    /// Looks through bytes that are about to be handed over: how many of them may be now.
    fn look(&mut self, bytes: &[u8]) -> Result<usize, Flood> {
        let mut at = 0;
        while at < bytes.len() {
            let skipped = self.scan.skip(bytes.len() - at);
            at += skipped;
            if skipped > 0 {
                continue;
            }
            if self.heads == HEADS_AT_ONCE {
                return Ok(at);
            }
            let Some((kind, flags, length)) = self.scan.header(bytes[at]) else {
                at += 1;
                continue;
            };
            at += 1;
            self.frame(kind, flags, length)?;
        }
        Ok(at)
    }

    fn frame(&mut self, kind: u8, flags: u8, length: usize) -> Result<(), Flood> {
        const END_STREAM: u8 = 1;
        match kind {
            0 if length > 0 || flags & END_STREAM != 0 => self.moved += length as u64,
            1 => self.heads += 1,
            3 => {
                if self.resets.exceeds(self.limits.resets, 0) {
                    return Err(Flood::Resets);
                }
            }
            _ => {
                let earned = self.moved / BYTES_PER_CONTROL;
                if self.control.exceeds(self.limits.control, earned) {
                    return Err(Flood::Control);
                }
                if self.control.number == 0 {
                    self.moved = 0;
                }
            }
        }
        Ok(())
    }

    /// Reads no more until whoever was spawned for what is handed over now has had a turn. Counting our
    /// own would not do: the codec asks again for each stream that it hands out.
    fn rest(&mut self, cx: &Context<'_>) {
        self.heads = 0;
        self.resting.store(true, Ordering::Relaxed);
        let (resting, waker) = (Arc::clone(&self.resting), cx.waker().clone());
        tokio::task::spawn_local(async move {
            tokio::task::yield_now().await;
            resting.store(false, Ordering::Relaxed);
            waker.wake();
        });
    }

    fn flooded(&self, flood: Flood) -> io::Error {
        self.notice.0.store(flood as u8, Ordering::Relaxed);
        io::Error::new(io::ErrorKind::InvalidData, flood)
    }
}

impl Scan {
    /// Passes over preface and payload; how much of `available` that is.
    fn skip(&mut self, available: usize) -> usize {
        let left = match self.preface_left {
            0 => &mut self.payload_left,
            _ => &mut self.preface_left,
        };
        let skipped = available.min(*left);
        *left -= skipped;
        skipped
    }

    /// Takes one byte of a header; type, flags and length once it is complete.
    fn header(&mut self, byte: u8) -> Option<(u8, u8, usize)> {
        self.header[self.seen] = byte;
        self.seen += 1;
        if self.seen < HEADER {
            return None;
        }
        self.seen = 0;
        let [a, b, c, kind, flags, ..] = self.header;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        self.payload_left = length;
        Some((kind, flags, length))
    }
}

impl Count {
    fn over(span: Duration) -> Self {
        Self {
            span,
            since: None,
            number: 0,
        }
    }

    /// Counts one more; whether that is too many. The clock is asked only where a limit is reached.
    fn exceeds(&mut self, limit: u32, earned: u64) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        self.number += 1;
        if limit == 0 || u64::from(self.number) <= u64::from(limit) + earned {
            return false;
        }
        if since.elapsed() < self.span {
            return stands("frame-limits");
        }
        self.since = None;
        self.number = 0;
        false
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for FrameGuard<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.resting.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        if this.held.is_empty() {
            ready!(Pin::new(&mut this.io).poll_read(cx, buffer))?;
        } else {
            let taken = this.held.len().min(buffer.remaining());
            buffer.put_slice(&this.held[..taken]);
            this.held.advance(taken);
        }
        let looked = this.look(&buffer.filled()[before..]);
        let passed = looked.map_err(|flood| this.flooded(flood))?;
        let end = before + passed;
        if end < buffer.filled().len() {
            let kept = &buffer.filled()[end..];
            let later = std::mem::take(&mut this.held);
            this.held.reserve(kept.len() + later.len());
            this.held.extend_from_slice(kept);
            this.held.extend_from_slice(&later);
            buffer.set_filled(end);
        }
        if this.heads < HEADS_AT_ONCE {
            return Poll::Ready(Ok(()));
        }
        this.rest(cx);
        if passed == 0 {
            // Nothing read would mean the end.
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for FrameGuard<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, data))?;
        this.moved += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
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
        let written = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, slices))?;
        this.moved += written as u64;
        Poll::Ready(Ok(written))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    const LIMITS: FrameLimits = FrameLimits {
        control: 100,
        resets: 50,
    };

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend_from_slice(&[kind, 0, 0, 0, 0, 1]);
        bytes.extend_from_slice(payload);
        bytes
    }

    /// What is left of some frames behind the guard, read in steps.
    async fn through(frames: &[u8], step: usize) -> Result<Vec<u8>, Option<Flood>> {
        let local = tokio::task::LocalSet::new();
        local.run_until(read(frames, step)).await
    }

    async fn read(frames: &[u8], step: usize) -> Result<Vec<u8>, Option<Flood>> {
        let sent = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], frames].concat();
        let (mut guard, notice) = FrameGuard::new(&sent[..], LIMITS);
        let mut got = Vec::new();
        loop {
            let mut space = vec![0; step];
            match guard.read(&mut space).await {
                Ok(0) => {
                    assert_eq!(got, sent);
                    return Ok(got);
                }
                Ok(read) => got.extend_from_slice(&space[..read]),
                Err(_) => return Err(notice.seen()),
            }
        }
    }

    #[tokio::test]
    async fn bytes_pass_untouched_however_they_are_read() {
        let heads: Vec<u8> = (0..100).flat_map(|_| frame(1, b"\x82\x86")).collect();
        let data = frame(0, &[7; 5000]);
        let all = [heads, data, frame(4, b"")].concat();
        for step in [1, 10, 64, 4096, 65_536] {
            assert!(through(&all, step).await.is_ok(), "step {step}");
        }
    }

    #[tokio::test]
    async fn floods_end_the_connection() {
        for kind in [2, 4, 6, 8, 9, 0, 200] {
            let few: Vec<u8> = (0..100).flat_map(|_| frame(kind, b"")).collect();
            assert!(through(&few, 4096).await.is_ok(), "type {kind}");
            let many = [few, frame(kind, b"")].concat();
            assert_eq!(through(&many, 4096).await, Err(Some(Flood::Control)));
        }
        let resets: Vec<u8> = (0..51).flat_map(|_| frame(3, &[0; 4])).collect();
        assert_eq!(through(&resets, 4096).await, Err(Some(Flood::Resets)));
    }

    #[tokio::test]
    async fn windows_are_managed_as_often_as_data_moves() {
        let both = [frame(0, &[0; 2048]), frame(8, &[0; 4])].concat();
        let many: Vec<u8> = (0..1000).flat_map(|_| both.clone()).collect();
        assert!(through(&many, 4096).await.is_ok());
    }
}
