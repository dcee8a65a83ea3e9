//! What is spoken on a port that does not say: the client's first bytes decide, unless the server
//! speaks first.
//!
//! The upstream is connected while we wait for the client, so that a protocol in which the server
//! greets is never held up; policy for opaque bytes is asked before that connection is made.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use crate::io::Io;
use crate::opaque::{Opaque, Upstream};

/// The longest method that makes a first line look like HTTP/1.
const MAX_METHOD: usize = 32;

/// What turned out to be spoken.
pub(crate) enum Spoken {
    /// HTTP, with what was read so far.
    Http(Io, BytesMut),
    /// Something else, with what was read so far and the upstream if it is connected.
    Opaque(Io, BytesMut, Option<Upstream>),
    /// The client left without a word, or may not speak.
    Nothing,
}

/// Finds out what is spoken on a tunnel.
pub(crate) async fn detect(mut tunnel: Io, opaque: &Opaque) -> Spoken {
    let mut first = BytesMut::with_capacity(4096);
    if opaque.denied_by().is_some() {
        // Opaque bytes may not pass; requests are judged one by one.
        return match read_until_known(&mut tunnel, &mut first).await {
            Ok(true) => Spoken::Http(tunnel, first),
            Ok(false) if first.is_empty() => Spoken::Nothing,
            Ok(false) | Err(_) => {
                opaque.is_admitted();
                Spoken::Nothing
            }
        };
    }
    let mut upstream: Option<Upstream> = None;
    {
        let mut connecting = pin!(opaque.connect());
        let mut failed = false;
        let server_speaks = poll_fn(|cx| {
            if upstream.is_none()
                && !failed
                && let Poll::Ready(outcome) = connecting.as_mut().poll(cx)
            {
                match outcome {
                    Ok(connected) => upstream = Some(connected),
                    // Reported when the client's bytes say what to answer.
                    Err(_) => failed = true,
                }
            }
            match poll_client(&mut tunnel, &mut first, cx) {
                Poll::Ready(known) => return Poll::Ready(known),
                Poll::Pending => {}
            }
            match &mut upstream {
                Some(upstream) => upstream.poll_speaks(cx).map(|()| Known::ServerFirst),
                None => Poll::Pending,
            }
        })
        .await;
        match server_speaks {
            Known::ServerFirst | Known::Opaque => opaque.note_marks(),
            Known::Http => return Spoken::Http(tunnel, first),
            Known::Gone => return Spoken::Nothing,
        }
    }
    Spoken::Opaque(tunnel, first, upstream)
}

enum Known {
    Http,
    Opaque,
    ServerFirst,
    Gone,
}

fn poll_client(tunnel: &mut Io, first: &mut BytesMut, cx: &mut Context<'_>) -> Poll<Known> {
    loop {
        if let Some(http) = looks_like_http(first) {
            return Poll::Ready(if http { Known::Http } else { Known::Opaque });
        }
        match poll_more(tunnel, first, cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0)) if first.is_empty() => return Poll::Ready(Known::Gone),
            Poll::Ready(Ok(0)) => return Poll::Ready(Known::Opaque),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(Known::Gone),
        }
    }
}

fn poll_more(io: &mut Io, first: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut space = [0; 1024];
    let mut buffer = ReadBuf::new(&mut space);
    match Pin::new(io).poll_read(cx, &mut buffer) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Ready(Ok(())) => {
            first.extend_from_slice(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        }
    }
}

async fn read_until_known(tunnel: &mut Io, first: &mut BytesMut) -> io::Result<bool> {
    loop {
        if let Some(http) = looks_like_http(first) {
            return Ok(http);
        }
        if tunnel.read_buf(first).await? == 0 {
            return Ok(false);
        }
    }
}

/// Whether the bytes begin like a request: `METHOD SP` of capital letters, or HTTP/2's preface, which
/// begins so too. `None` when there are too few to tell.
fn looks_like_http(first: &[u8]) -> Option<bool> {
    for (index, byte) in first.iter().enumerate() {
        match byte {
            b'A'..=b'Z' | b'-' | b'_' if index < MAX_METHOD => {}
            b' ' if index > 0 => return request_line_may_follow(&first[index + 1..]),
            _ => return Some(false),
        }
    }
    None
}

/// A target begins with `/`, `*` or a scheme or host.
fn request_line_may_follow(rest: &[u8]) -> Option<bool> {
    rest.first()
        .map(|byte| matches!(byte, b'/' | b'*') || byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::looks_like_http;

    #[test]
    fn tells_requests_from_other_first_words() {
        assert_eq!(looks_like_http(b""), None);
        assert_eq!(looks_like_http(b"GE"), None);
        assert_eq!(looks_like_http(b"GET "), None);
        assert_eq!(looks_like_http(b"GET /"), Some(true));
        assert_eq!(looks_like_http(b"PRI * HTTP/2.0"), Some(true));
        assert_eq!(looks_like_http(b"\x16\x03\x01"), Some(false));
        assert_eq!(looks_like_http(b"get /"), Some(false));
        assert_eq!(looks_like_http(b"GET \r\n"), Some(false));
        assert_eq!(looks_like_http(&[b'A'; 40]), Some(false));
    }
}
