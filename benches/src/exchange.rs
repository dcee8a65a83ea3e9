//! One HTTP/1.1 exchange at a time on one connection, as cheaply as it can be done: the request is
//! ready bytes, the reply is parsed only as far as its length.

use memchr::memmem;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::scene::HOST;

/// The body of every reply of the backend.
pub const BODY: &[u8] = b"Somebody has to answer, and it should cost next to nothing: \
one hundred bytes, always the same ones.";
const _: () = assert!(BODY.len() == 100);

/// Larger messages are no part of any scene.
const BUFFER: usize = 16 * 1024;

/// A GET, ready to be sent.
#[derive(Clone, Debug)]
pub struct Request(Box<[u8]>);

impl Request {
    /// For `path` at the service's host.
    #[must_use]
    pub fn get(path: &str) -> Self {
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: {HOST}\r\nuser-agent: bench-load\r\naccept: */*\r\n\r\n"
        );
        Self(head.into_bytes().into_boxed_slice())
    }
}

/// What came back.
#[derive(Debug)]
pub struct Reply<'a> {
    /// The status code.
    pub status: u16,
    /// Whether the sender will close the connection.
    pub closes: bool,
    /// The whole body.
    pub body: &'a [u8],
}

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// It was closed before the reply was complete.
    #[error("the connection was closed after {0} bytes of a reply")]
    Closed(usize),
    /// The reply is not one the generator reads: HTTP/1.1 with content-length, at most 16 KiB.
    #[error("a reply that cannot be read ({what}): {head:?}")]
    Unreadable {
        /// What is wrong with it.
        what: &'static str,
        /// Its beginning.
        head: String,
    },
}

/// The client's side of a kept-alive connection.
pub struct Connection<IO> {
    io: IO,
    buffer: Box<[u8]>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Connection<IO> {
    /// Over a stream on which nothing was sent yet.
    pub fn new(io: IO) -> Self {
        Self {
            io,
            buffer: vec![0; BUFFER].into_boxed_slice(),
        }
    }

    /// Sends the request and waits for the whole reply. Bytes beyond it are an error.
    pub async fn exchange(&mut self, request: &Request) -> Result<Reply<'_>, ExchangeError> {
        self.io.write_all(&request.0).await?;
        self.io.flush().await?;
        let mut filled = 0;
        let head = loop {
            filled += self.read(filled).await?;
            if let Some(head) = Head::parse(&self.buffer[..filled])? {
                break head;
            }
        };
        let end = head.length + head.content_length;
        if end > self.buffer.len() {
            return Err(unreadable("too large", &self.buffer[..filled]));
        }
        while filled < end {
            filled += self.read(filled).await?;
        }
        if filled > end {
            return Err(unreadable("more than one", &self.buffer[..filled]));
        }
        Ok(Reply {
            status: head.status,
            closes: head.closes,
            body: &self.buffer[head.length..end],
        })
    }

    async fn read(&mut self, filled: usize) -> Result<usize, ExchangeError> {
        if filled == self.buffer.len() {
            return Err(unreadable("too large", &self.buffer));
        }
        match self.io.read(&mut self.buffer[filled..]).await? {
            0 => Err(ExchangeError::Closed(filled)),
            read => Ok(read),
        }
    }
}

/// Answers every GET on a connection with [`BODY`] until the peer closes it; anything else gets
/// 400 and is hung up on.
pub(crate) async fn respond(mut io: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut reply = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n",
        BODY.len()
    )
    .into_bytes();
    reply.extend_from_slice(BODY);
    let mut buffer = vec![0; BUFFER];
    let mut filled = 0;
    loop {
        let read = io.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        // Proxies keep one request at a time on a connection, so a head is all there can be.
        if !buffer[..filled].ends_with(b"\r\n\r\n") && filled < BUFFER {
            continue;
        }
        if !is_single_get(&buffer[..filled]) {
            io.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
                .await?;
            return io.shutdown().await;
        }
        filled = 0;
        io.write_all(&reply).await?;
        io.flush().await?;
    }
}

fn is_single_get(message: &[u8]) -> bool {
    message.starts_with(b"GET /")
        && memmem::find(message, b"\r\n\r\n") == Some(message.len().saturating_sub(4))
}

struct Head {
    length: usize,
    status: u16,
    content_length: usize,
    closes: bool,
}

impl Head {
    fn parse(message: &[u8]) -> Result<Option<Self>, ExchangeError> {
        let Some(end) = memmem::find(message, b"\r\n\r\n") else {
            return Ok(None);
        };
        let bad = |what| unreadable(what, message);
        let mut lines = message[..end]
            .split(|b| *b == b'\n')
            .map(<[u8]>::trim_ascii);
        let status = lines
            .next()
            .and_then(|line| line.strip_prefix(b"HTTP/1.1 "))
            .and_then(|rest| number(rest.get(..3)?))
            .ok_or_else(|| bad("no status"))?;
        let mut content_length = None;
        let mut closes = false;
        for line in lines {
            if let Some(value) = value_of(line, b"content-length") {
                content_length = number(value);
            } else if let Some(value) = value_of(line, b"connection") {
                closes |= value.eq_ignore_ascii_case(b"close");
            }
        }
        Ok(Some(Self {
            length: end + 4,
            status: u16::try_from(status).map_err(|_| bad("no status"))?,
            content_length: content_length.ok_or_else(|| bad("no content-length"))?,
            closes,
        }))
    }
}

fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (found, rest) = line.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b":")?;
    found.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn unreadable(what: &'static str, message: &[u8]) -> ExchangeError {
    let head = &message[..message.len().min(400)];
    ExchangeError::Unreadable {
        what,
        head: String::from_utf8_lossy(head).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn reply_to(bytes: &[u8]) -> Result<(u16, bool, Vec<u8>), ExchangeError> {
        let (near, mut far) = tokio::io::duplex(BUFFER);
        far.write_all(bytes).await.unwrap();
        far.shutdown().await.unwrap();
        let mut connection = Connection::new(near);
        let reply = connection.exchange(&Request::get("/")).await?;
        Ok((reply.status, reply.closes, reply.body.to_vec()))
    }

    #[tokio::test]
    async fn generator_and_backend_understand_each_other() {
        let (near, far) = tokio::io::duplex(256);
        let serving = tokio::spawn(respond(far));
        let mut connection = Connection::new(near);
        for _ in 0..3 {
            let request = Request::get("/api/items");
            let reply = connection.exchange(&request).await.unwrap();
            assert_eq!((reply.status, reply.closes, reply.body), (200, false, BODY));
        }
        drop(connection);
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn reads_status_length_and_close() {
        let refused = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: Close\r\n\r\nno";
        let reply = reply_to(refused).await.unwrap();
        assert_eq!(reply, (403, true, b"no".to_vec()));
    }

    #[tokio::test]
    async fn takes_nothing_that_it_cannot_check() {
        for bytes in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\na",
            "HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na",
        ] {
            let outcome = reply_to(bytes.as_bytes()).await;
            assert!(
                matches!(outcome, Err(ExchangeError::Unreadable { .. })),
                "{bytes}"
            );
        }
        let cut = reply_to(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc").await;
        assert!(matches!(cut, Err(ExchangeError::Closed(_))));
    }

    #[tokio::test]
    async fn backend_takes_only_what_the_generator_sends() {
        for bytes in [
            "POST / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        ] {
            let (mut near, far) = tokio::io::duplex(BUFFER);
            near.write_all(bytes.as_bytes()).await.unwrap();
            respond(far).await.unwrap();
            let mut answer = String::new();
            near.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 400"), "{bytes}: {answer}");
        }
    }
}
