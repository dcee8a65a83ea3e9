//! The backend of the attack cases: it records what reaches it, in either version of HTTP, and answers
//! each request with what it was asked for, so that an answer tells which request it belongs to.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Response;

use crate::client;

/// A request as it reached the backend.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Seen {
    /// Method and target.
    pub line: String,
    /// Header lines; `:authority` is shown as `host`.
    pub headers: Vec<(String, String)>,
    /// Body without its framing.
    pub body: Vec<u8>,
    /// Trailers.
    pub trailers: Vec<(String, String)>,
}

/// The backend. It serves until the process ends; a scene has one.
#[derive(Clone, Default)]
pub struct Recorder(Arc<State>);

#[derive(Default)]
struct State {
    seen: Mutex<Vec<Seen>>,
    reply: Mutex<Option<Vec<u8>>>,
    /// By target.
    replies: BTreeMap<String, Vec<u8>>,
}

impl Recorder {
    /// Starts it.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn start(ip: IpAddr, port: u16) -> Self {
        Self::serving(ip, port, BTreeMap::new())
    }

    /// Starts one that has an answer, as bytes, for each of some targets.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn serving(ip: IpAddr, port: u16, replies: BTreeMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind((ip, port)).unwrap();
        let recorder = Self(Arc::new(State {
            replies,
            ..State::default()
        }));
        let serving = recorder.clone();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let recorder = serving.clone();
                std::thread::spawn(move || {
                    // Proxies leave whenever they like.
                    let _ = recorder.connection(stream);
                });
            }
        });
        recorder
    }

    /// What came since the last time this was asked.
    #[must_use]
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.0.seen.lock().unwrap())
    }

    /// The lines of what came and was not taken.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let seen = self.0.seen.lock().unwrap();
        seen.iter().map(|it| it.line.clone()).collect()
    }

    /// What every request but those for `/probe` is answered with; `None`: 200 and what it asked for.
    pub fn answer(&self, reply: Option<Vec<u8>>) {
        *self.0.reply.lock().unwrap() = reply;
    }

    fn note(&self, seen: Seen) {
        self.0.seen.lock().unwrap().push(seen);
    }

    fn connection(&self, stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut first = [0; 4];
        loop {
            let seen = stream.peek(&mut first)?;
            if first[..seen] != b"PRI "[..seen] {
                return self.h1(stream);
            }
            match seen {
                0 => return Ok(()),
                4 => {
                    self.h2(stream);
                    return Ok(());
                }
                _ => std::thread::yield_now(),
            }
        }
    }

    fn h1(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut writer = stream.try_clone()?;
        let mut reader = BufReader::new(stream);
        loop {
            let (first, headers) = client::head(&mut reader)?;
            let line = first
                .strip_suffix(" HTTP/1.1")
                .map_or_else(|| format!("{first} (no HTTP/1.1)"), str::to_owned);
            let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
            let upgrades = client::find(&headers, "upgrade").is_some();
            let framing = client::framing(&headers).unwrap_or(client::Framing::Length(0));
            let reply = self.0.reply.lock().unwrap().clone();
            let reply = reply.filter(|_| target != "/probe");
            if let Some(reply) = self.0.replies.get(&target) {
                self.note(Seen {
                    line,
                    headers,
                    ..Seen::default()
                });
                // These say nothing of their length: the end of the connection is theirs.
                return writer.write_all(reply);
            }
            let early = reply
                .as_ref()
                .is_some_and(|reply| reply.starts_with(b"early "));
            if let (Some(reply), true) = (&reply, early) {
                // An answer that does not wait for the body.
                writer.write_all(&reply[b"early ".len()..])?;
            }
            let (body, trailers) = client::body(&mut reader, framing)?;
            self.note(Seen {
                line: line.clone(),
                headers,
                body,
                trailers,
            });
            match reply {
                Some(_) if early => {}
                Some(reply) => {
                    writer.write_all(&reply)?;
                    if upgrades && reply.starts_with(b"HTTP/1.1 101") {
                        return self.switched(&mut reader, &mut writer);
                    }
                }
                None => {
                    let body = if line.starts_with("HEAD ") {
                        ""
                    } else {
                        &*target
                    };
                    write!(
                        writer,
                        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                        target.len()
                    )?;
                }
            }
        }
    }

    /// Another protocol: lines are recorded and said again.
    fn switched(
        &self,
        reader: &mut BufReader<TcpStream>,
        writer: &mut TcpStream,
    ) -> std::io::Result<()> {
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            self.note(Seen {
                line: format!("switched: {}", line.trim_end()),
                ..Seen::default()
            });
            writer.write_all(line.as_bytes())?;
        }
    }

    fn h2(&self, stream: TcpStream) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            stream.set_nonblocking(true).ok();
            let Ok(stream) = tokio::net::TcpStream::from_std(stream) else {
                return;
            };
            let Ok(mut connection) = h2::server::handshake(stream).await else {
                return;
            };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let recorder = self.clone();
                tokio::task::spawn_local(async move {
                    let (head, mut body) = request.into_parts();
                    let target = head.uri.path_and_query().map_or("", |path| path.as_str());
                    let mut seen = Seen {
                        line: format!("{} {target}", head.method),
                        headers: pairs(&head.headers),
                        ..Seen::default()
                    };
                    if let Some(authority) = head.uri.authority() {
                        let host = ("host".to_owned(), authority.as_str().to_owned());
                        seen.headers.push(host);
                    }
                    while let Some(data) = body.data().await {
                        let Ok(data) = data else { return };
                        let _ = body.flow_control().release_capacity(data.len());
                        seen.body.extend_from_slice(&data);
                    }
                    let Ok(trailers) = body.trailers().await else {
                        return;
                    };
                    seen.trailers = trailers.as_ref().map(pairs).unwrap_or_default();
                    recorder.note(seen);
                    let answer = Bytes::copy_from_slice(target.as_bytes());
                    if let Ok(mut send) = respond.send_response(Response::new(()), false) {
                        let _ = send.send_data(answer, true);
                    }
                });
            }
            let _ = poll_fn(|cx| connection.poll_closed(cx)).await;
        });
    }
}

fn pairs(headers: &http::HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        })
        .collect()
}

/// Reads to the end, however it comes.
pub(super) fn to_the_end(stream: &mut impl Read) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    rest
}
