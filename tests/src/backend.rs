//! Backends that record what reaches them.

use std::io::{BufReader, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::client::{self, Framing};
use crate::h2peer;

/// A request as a backend got it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Recorded {
    /// Which connection it came on, counted from 0.
    pub connection: usize,
    /// Whether it came over HTTP/2.
    pub http2: bool,
    /// Method.
    pub method: String,
    /// Request target as written.
    pub target: String,
    /// Headers in the order in which they came.
    pub headers: Vec<(String, String)>,
    /// Body without its framing; empty while it is not read yet.
    pub body: Vec<u8>,
    /// Trailers of a chunked body.
    pub trailers: Vec<(String, String)>,
}

impl Recorded {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        client::find(&self.headers, name)
    }

    /// All values of a header.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = |(known, _): &&(String, String)| known.eq_ignore_ascii_case(name);
        self.headers
            .iter()
            .filter(named)
            .map(|(_, v)| v.as_str())
            .collect()
    }
}

/// What a backend answers.
#[derive(Clone, Debug)]
pub struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) chunked: Option<Vec<(String, String)>>,
    close: bool,
}

impl Reply {
    /// 200 with a body.
    #[must_use]
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200, body)
    }

    /// Another status.
    #[must_use]
    pub fn status(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            chunked: None,
            close: false,
        }
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// In chunks.
    #[must_use]
    pub fn chunked(mut self) -> Self {
        self.chunked = Some(Vec::new());
        self
    }

    /// In chunks, with a trailer.
    #[must_use]
    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        let trailers = self.chunked.get_or_insert_default();
        trailers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// And the connection is closed without a word of warning.
    #[must_use]
    pub fn then_close(mut self) -> Self {
        self.close = true;
        self
    }

    fn write(&self, method: &str, to: &mut impl Write) -> std::io::Result<()> {
        let Self { status, body, .. } = self;
        let mut bytes = format!("HTTP/1.1 {status} Text\r\n");
        for (name, value) in &self.headers {
            bytes += &format!("{name}: {value}\r\n");
        }
        match self.chunked {
            Some(_) => bytes += "Transfer-Encoding: chunked\r\n",
            None if matches!(status, 204 | 304) => {}
            None => bytes += &format!("Content-Length: {}\r\n", body.len()),
        }
        bytes += "\r\n";
        let mut bytes = bytes.into_bytes();
        if method != "HEAD" {
            match &self.chunked {
                None => bytes.extend_from_slice(body),
                Some(trailers) => {
                    for chunk in body.chunks(10_000) {
                        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                        bytes.extend_from_slice(chunk);
                        bytes.extend_from_slice(b"\r\n");
                    }
                    bytes.extend_from_slice(b"0\r\n");
                    for (name, value) in trailers {
                        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
                    }
                    bytes.extend_from_slice(b"\r\n");
                }
            }
        }
        to.write_all(&bytes)
    }
}

pub(crate) type Handler = dyn Fn(&Recorded) -> Reply + Send + Sync;
type Serve = dyn Fn(usize, TcpStream) + Send + Sync;

/// A server on a thread per connection. All of it ends when dropped: the port is free again and every
/// connection closed.
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Recorded>>>,
    connections: Arc<Mutex<Vec<Option<TcpStream>>>>,
    stop: Arc<AtomicBool>,
}

impl Backend {
    /// An HTTP/1.1 server that keeps connections open and answers as told.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn http(
        ip: IpAddr,
        port: u16,
        handler: impl Fn(&Recorded) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let requests: Arc<Mutex<Vec<Recorded>>> = Arc::default();
        let handler: Arc<Handler> = Arc::new(handler);
        let recorded = Arc::clone(&requests);
        let serve = move |connection, stream| {
            // The peer may leave whenever it likes.
            let _ = converse(connection, stream, &*handler, &recorded);
        };
        Self::start(ip, port, requests, Arc::new(serve))
    }

    /// An HTTP/1.1 server that answers 200 with a text.
    #[must_use]
    pub fn saying(ip: IpAddr, port: u16, text: &str) -> Self {
        let text = text.to_owned();
        Self::http(ip, port, move |_| Reply::ok(text.clone()))
    }

    /// A server of any protocol, given each connection and its number.
    #[must_use]
    pub fn raw(
        ip: IpAddr,
        port: u16,
        serve: impl Fn(usize, TcpStream) + Send + Sync + 'static,
    ) -> Self {
        Self::start(ip, port, Arc::default(), Arc::new(serve))
    }

    /// The requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        self.requests.lock().unwrap().clone()
    }

    /// How many requests came so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    /// The last request.
    ///
    /// # Panics
    /// When there was none.
    #[must_use]
    pub fn last(&self) -> Recorded {
        self.requests.lock().unwrap().last().unwrap().clone()
    }

    /// How many connections came so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.lock().unwrap().len()
    }

    /// Closes every connection, as a server does that finds them idle.
    pub fn hang_up(&self) {
        for stream in self.connections.lock().unwrap().iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Answers each request in the version of HTTP that it came in.
    #[must_use]
    pub fn either(
        ip: IpAddr,
        port: u16,
        handler: impl Fn(&Recorded) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let requests: Arc<Mutex<Vec<Recorded>>> = Arc::default();
        let recorded = Arc::clone(&requests);
        let handler: Arc<Handler> = Arc::new(handler);
        let serve = move |number: usize, stream: TcpStream| {
            let mut first = [0; 4];
            while stream
                .peek(&mut first)
                .is_ok_and(|seen| (1..4).contains(&seen))
            {
                std::thread::yield_now();
            }
            if &first == b"PRI " {
                h2peer::answer_all(number, stream, &handler, &recorded);
            } else {
                let _ = converse(number, stream, &*handler, &recorded);
            }
        };
        Self::start(ip, port, requests, Arc::new(serve))
    }

    fn start(
        ip: IpAddr,
        port: u16,
        requests: Arc<Mutex<Vec<Recorded>>>,
        serve: Arc<Serve>,
    ) -> Self {
        let bound = TcpListener::bind((ip, port));
        let listener = bound.unwrap_or_else(|error| panic!("{ip}:{port}: {error}"));
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let connections: Arc<Mutex<Vec<Option<TcpStream>>>> = Arc::default();
        let (stopped, accepted) = (Arc::clone(&stop), Arc::clone(&connections));
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let _ = stream.set_nodelay(true);
                let number = {
                    let mut all = accepted.lock().unwrap();
                    all.push(stream.try_clone().ok());
                    all.len() - 1
                };
                let (serve, open) = (Arc::clone(&serve), Arc::clone(&accepted));
                std::thread::spawn(move || {
                    serve(number, stream);
                    // The last handle closes it.
                    open.lock().unwrap()[number] = None;
                });
            }
        });
        Self {
            address,
            requests,
            connections,
            stop,
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then lets the port go.
        let _ = TcpStream::connect(self.address);
        while TcpStream::connect(self.address).is_ok() {
            std::thread::yield_now();
        }
        self.hang_up();
    }
}

fn converse(
    connection: usize,
    stream: TcpStream,
    handler: &Handler,
    requests: &Mutex<Vec<Recorded>>,
) -> std::io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::with_capacity(64 * 1024, stream);
    loop {
        let (first, headers) = client::head(&mut reader)?;
        let mut words = first.split(' ');
        let mut request = Recorded {
            connection,
            http2: false,
            method: words.next().unwrap_or_default().to_owned(),
            target: words.next().unwrap_or_default().to_owned(),
            headers,
            body: Vec::new(),
            trailers: Vec::new(),
        };
        let framing = client::framing(&request.headers).unwrap_or(Framing::Length(0));
        (request.body, request.trailers) = client::body(&mut reader, framing)?;
        requests.lock().unwrap().push(request.clone());
        let reply = handler(&request);
        reply.write(&request.method, &mut writer)?;
        if reply.close {
            return writer.shutdown(Shutdown::Both);
        }
    }
}
