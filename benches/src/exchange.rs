//! One HTTP/1.1 exchange at a time on one connection, as cheaply as it can be done: the request is
//! ready bytes, the reply is parsed only as far as its length.

use bytes::Bytes;
use memchr::memmem;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::scene::{HOST, LARGE_PATH};

/// The body of every reply of the backend.
pub const BODY: &[u8] = b"Somebody has to answer, and it should cost next to nothing: \
one hundred bytes, always the same ones.";
const _: () = assert!(BODY.len() == 100);

/// The length of a large body, either way.
pub const LARGE: usize = 1 << 20;

/// Heads and small messages fit into it; of larger bodies it holds the beginning.
const BUFFER: usize = 16 * 1024;

/// A gRPC message with [`BODY`] in it, as it is framed.
#[must_use]
pub(crate) fn grpc_message() -> Bytes {
    let mut message = vec![0, 0, 0, 0, BODY.len() as u8];
    message.extend_from_slice(BODY);
    message.into()
}

/// A request, ready to be sent.
#[derive(Clone, Debug)]
pub struct Request {
    head: Box<[u8]>,
    body: Bytes,
}

impl Request {
    /// A GET for `path` at the service's host.
    #[must_use]
    pub fn get(path: &str) -> Self {
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: {HOST}\r\nuser-agent: bench-load\r\naccept: */*\r\n\r\n"
        );
        Self {
            head: head.into_bytes().into(),
            body: Bytes::new(),
        }
    }

    /// A POST of so many bytes.
    #[must_use]
    pub fn post(path: &str, length: usize) -> Self {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {HOST}\r\nuser-agent: bench-load\r\naccept: */*\r\n\
             content-length: {length}\r\n\r\n"
        );
        Self {
            head: head.into_bytes().into(),
            body: vec![b'x'; length].into(),
        }
    }

    /// The same with one more header.
    #[must_use]
    pub fn with_header(self, name: &str, value: &str) -> Self {
        let end = self.head.len().saturating_sub(2);
        let mut head = self.head[..end].to_vec();
        head.extend_from_slice(format!("{name}: {value}\r\n\r\n").as_bytes());
        Self {
            head: head.into(),
            ..self
        }
    }
}

/// What came back.
#[derive(Debug)]
pub struct Reply<'a> {
    /// The status code.
    pub status: u16,
    /// Whether the sender will close the connection.
    pub closes: bool,
    /// Length of the body.
    pub length: usize,
    /// The body; of a large one its end.
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
    /// An HTTP/2 stream failed.
    #[error("the stream failed: {0}")]
    Http2(#[source] h2::Error),
    /// The reply is not one the generator reads: HTTP/1.1 with content-length and a head of at most 16 KiB.
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
        self.io.write_all(&request.head).await?;
        self.io.write_all(&request.body).await?;
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
            let last = self.discard(end - filled.min(end)).await?;
            return Ok(Reply {
                status: head.status,
                closes: head.closes,
                length: head.content_length,
                body: &self.buffer[..last],
            });
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
            length: head.content_length,
            body: &self.buffer[head.length..end],
        })
    }

    /// Reads so many bytes and forgets all but the last piece, whose length it tells.
    async fn discard(&mut self, mut left: usize) -> Result<usize, ExchangeError> {
        let mut last = 0;
        while left > 0 {
            let room = left.min(self.buffer.len());
            last = self.io.read(&mut self.buffer[..room]).await?;
            if last == 0 {
                return Err(ExchangeError::Closed(left));
            }
            left -= last;
        }
        Ok(last)
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

/// Answers every request on a connection until the peer closes it: [`LARGE_PATH`] with so much, any
/// other with [`BODY`], in the version of HTTP that the client begins with. What the generator would
/// not send gets 400 and is hung up on.
pub(crate) async fn respond(mut io: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    let small = reply(BODY);
    let mut large = Vec::new();
    let mut buffer = vec![0; BUFFER];
    let mut filled = 0;
    loop {
        let read = io.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        if buffer.starts_with(PREFACE) {
            return crate::http2::respond(&buffer[..filled], io).await;
        }
        let Some(end) = memmem::find(&buffer[..filled], b"\r\n\r\n") else {
            if filled < BUFFER {
                continue;
            }
            return refuse(io).await;
        };
        let head = &buffer[..end];
        let is_large = asks_for_large(head);
        // Proxies keep one request at a time on a connection, so a message is all there can be.
        let left = body_length(head).and_then(|length| length.checked_sub(filled - end - 4));
        let Some(mut left) = left else {
            return refuse(io).await;
        };
        while left > 0 {
            let room = left.min(BUFFER);
            match io.read(&mut buffer[..room]).await? {
                0 => return Ok(()),
                read => left -= read,
            }
        }
        filled = 0;
        if is_large && large.is_empty() {
            large = reply(&vec![b'x'; LARGE]);
        }
        io.write_all(if is_large { &large } else { &small }).await?;
        io.flush().await?;
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn reply(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

async fn refuse(mut io: impl AsyncWrite + Unpin) -> std::io::Result<()> {
    io.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        .await?;
    io.shutdown().await
}

fn asks_for_large(head: &[u8]) -> bool {
    head.strip_prefix(b"GET ")
        .is_some_and(|target| target.starts_with(LARGE_PATH.as_bytes()))
}

/// The length of a request's body, if this is a request that the generator sends.
fn body_length(head: &[u8]) -> Option<usize> {
    if head.starts_with(b"GET /") {
        return Some(0);
    }
    if !head.starts_with(b"POST /") {
        return None;
    }
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    number(lines.find_map(|line| value_of(line, b"content-length"))?)
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
pub(crate) mod tests {
    use super::*;

    /// What the backend sends.
    pub(crate) fn whole_reply() -> Vec<u8> {
        reply(BODY)
    }

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
            "DELETE / HTTP/1.1\r\n\r\n",
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
