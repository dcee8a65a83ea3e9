//! The byte streams the data path runs on, as one type: no boxing, no dynamic dispatch per read.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use wayline_hbone::TunnelStream;

/// A connection of either kind.
pub(crate) enum Io {
    /// Plain TCP.
    Tcp(TcpStream),
    /// One stream of an HBONE connection.
    Tunnel(TunnelStream),
}

impl Io {
    /// Ends the connection so that the peer can not take what it got for complete.
    pub(crate) fn reset(self) {
        match self {
            // It would look like an end otherwise. There is nobody to tell when it fails.
            Self::Tcp(stream) => drop(stream.set_zero_linger()),
            Self::Tunnel(stream) => stream.fail(),
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tunnel(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, data),
            Self::Tunnel(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tunnel(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tunnel(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tunnel(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => {
                // Copying a small message is cheaper than having the kernel look at its pieces.
                let mut small = [0; SMALL_MESSAGE];
                match gather(slices, &mut small) {
                    Some(message) => Pin::new(stream).poll_write(cx, message),
                    None => Pin::new(stream).poll_write_vectored(cx, slices),
                }
            }
            Self::Tunnel(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }
}

/// Up to this many bytes are gathered into one piece before they are written.
const SMALL_MESSAGE: usize = 1024;

/// One piece in the place of several, where they fit.
fn gather<'b>(slices: &'b [IoSlice<'_>], space: &'b mut [u8; SMALL_MESSAGE]) -> Option<&'b [u8]> {
    if let [only] = slices {
        return Some(only);
    }
    let mut length = 0;
    for slice in slices {
        space
            .get_mut(length..length + slice.len())?
            .copy_from_slice(slice);
        length += slice.len();
    }
    Some(&space[..length])
}

/// A stream of which the first bytes were read already, to find out what is spoken on it.
pub(crate) struct Rewound<I> {
    first: Bytes,
    io: I,
}

impl<I> Rewound<I> {
    /// Puts `first` back in front of the stream.
    pub(crate) fn new(first: Bytes, io: I) -> Self {
        Self { first, io }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Rewound<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.first.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buffer);
        }
        let length = this.first.len().min(buffer.remaining());
        buffer.put_slice(&this.first.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Rewound<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, data)
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
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
    }
}
