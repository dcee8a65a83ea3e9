//! Every shape of a message in every combination of HTTP/1 and HTTP/2 on both sides, with and without a
//! tunnel on either.

use std::net::SocketAddr;

use wayline_tests::envoy::Envoy;
use wayline_tests::manifests::{self, Parent, Pod};
use wayline_tests::{Backend, Conversation, Mesh, Recorded, Reply, Request, Tunnel, h2peer};

use crate::scene::{self, PORT, WAYPOINT};

/// How a service is reached: its name, the name of its port, its host, and the host behind its tunnel.
#[derive(Clone, Copy, Debug)]
struct Way {
    name: &'static str,
    port: &'static str,
    host: u8,
    behind: Option<u8>,
}

const WAYS: [Way; 4] = [
    way("one", "http", 40, None),
    way("two", "http2", 41, None),
    way("one-tunnel", "http", 42, Some(52)),
    way("two-tunnel", "http2", 43, Some(53)),
];

const fn way(name: &'static str, port: &'static str, host: u8, behind: Option<u8>) -> Way {
    Way {
        name,
        port,
        host,
        behind,
    }
}

/// One way from a client to a backend.
struct Path<'a> {
    to: SocketAddr,
    http2: bool,
    through_gateway: bool,
    way: Way,
    backend: &'a Backend,
}

impl Path<'_> {
    fn says(&self) -> String {
        let version = if self.http2 { "h2" } else { "h1" };
        let entrance = if self.through_gateway {
            "gateway"
        } else {
            "tunnel"
        };
        format!("{version} by {entrance} to {}", self.way.name)
    }

    /// HTTP/2 where the port says so; at waypoints where the client speaks it, too.
    fn http2_upstream(&self) -> bool {
        self.way.port == "http2" || (self.http2 && !self.through_gateway)
    }

    fn path(&self, of: &str) -> String {
        format!("/{}/{of}", self.way.name)
    }

    /// Sends a request; what came back, and what the backend got.
    fn ask(
        &self,
        method: &str,
        of: &str,
        body: &[u8],
        trailers: &[(&str, &str)],
    ) -> (Answer, Recorded) {
        let path = self.path(of);
        // Between HTTP/1 peers only announced trailers pass.
        let fields = [
            ("te", "trailers"),
            ("trailer", "content-digest"),
            ("x-shape", of),
        ];
        let answer = if self.http2 {
            let answer = h2peer::send(self.to, method, &path, &fields, body, trailers);
            Answer::from(answer.unwrap_or_else(|error| panic!("{}{path}: {error}", self.says())))
        } else {
            let answer = ask_h1(self.to, method, &path, body, trailers);
            Answer::from(answer.unwrap_or_else(|error| panic!("{}{path}: {error}", self.says())))
        };
        let mut got = self.backend.requests().into_iter().rev();
        let got = got.find(|it| it.target == path).unwrap();
        assert_eq!(got.method, method, "{}", self.says());
        assert_eq!(got.http2, self.http2_upstream(), "{}", self.says());
        assert_eq!(got.header("x-shape"), Some(of), "{}", self.says());
        (answer, got)
    }
}

fn ask_h1(
    to: SocketAddr,
    method: &str,
    path: &str,
    body: &[u8],
    trailers: &[(&str, &str)],
) -> std::io::Result<wayline_tests::Response> {
    let of = path.rsplit('/').next().unwrap_or_default();
    let mut text = format!(
        "{method} {path} HTTP/1.1\r\nHost: test\r\nX-Shape: {of}\r\nConnection: TE\r\nTE: trailers\r\nTrailer: content-digest\r\n"
    );
    if !body.is_empty() || !trailers.is_empty() {
        text += "Transfer-Encoding: chunked\r\n";
    }
    text += "\r\n";
    let mut bytes = text.into_bytes();
    if !body.is_empty() || !trailers.is_empty() {
        for piece in body.chunks(7000) {
            bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            bytes.extend_from_slice(piece);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n");
        for (name, value) in trailers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
    }
    let mut conversation = Conversation::open(to);
    conversation.write(&bytes)?;
    let answer = conversation.answer_to(method)?;
    // The connection is good for another request, whatever the shape of this one.
    let again = conversation.exchange(&Request::get(&path.replace(of, "again")))?;
    assert_eq!(again.status, 204, "{path}");
    Ok(answer)
}

/// What a client got, whatever it spoke.
#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    length: Option<String>,
    body: Vec<u8>,
    trailers: Vec<(String, String)>,
}

impl From<wayline_tests::Response> for Answer {
    fn from(answer: wayline_tests::Response) -> Self {
        Self {
            status: answer.status,
            length: answer.header("content-length").map(str::to_owned),
            trailers: answer
                .trailers
                .into_iter()
                .map(|(name, value)| (name.to_ascii_lowercase(), value))
                .collect(),
            body: answer.body,
        }
    }
}

impl From<h2peer::Message> for Answer {
    fn from(answer: h2peer::Message) -> Self {
        let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
        Self {
            status: answer.status,
            length: answer.headers.get("content-length").map(text),
            trailers: answer
                .trailers
                .iter()
                .map(|(name, value)| (name.to_string(), text(value)))
                .collect(),
            body: answer.body,
        }
    }
}

/// Answers by the end of the path.
fn reply(request: &Recorded) -> Reply {
    match request.target.rsplit('/').next().unwrap_or_default() {
        "204" | "again" => Reply::status(204, ""),
        "304" => Reply::status(304, "").header("etag", "\"x\""),
        "head" => Reply::ok("twelve bytes"),
        "early" => Reply::status(413, "enough"),
        "call" => Reply::ok(request.body.clone())
            .header("content-type", "application/grpc")
            .header("trailer", "grpc-status, x-more")
            .trailer("grpc-status", "5")
            .trailer("x-more", "metadata"),
        "plain" => Reply::ok(request.body.clone()),
        _ => Reply::ok(request.body.clone())
            .header("trailer", "server-timing")
            .trailer("server-timing", "all;dur=1"),
    }
}

/// Runs a test on every way.
fn everywhere(test: impl Fn(&Path<'_>)) {
    let mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh.logging(""));
    let mut documents = scene::waypoint();
    documents.push(scene::edge(&mesh));
    let (mut backends, mut envoys, mut rules) = (Vec::new(), Vec::new(), String::new());
    for way in WAYS {
        let ip = format!("10.96.0.{}", way.host);
        documents.push(manifests::service(
            "default",
            way.name,
            &ip,
            &[(way.port, 80, PORT)],
        ));
        let mut pod = Pod::new(way.name, mesh.ip(way.host));
        if way.behind.is_some() {
            pod = pod.annotation("ambient.istio.io/redirection", "enabled");
        }
        documents.push(pod.yaml());
        rules += &format!(
            "
- matches: [{{path: {{value: /{0}}}}}]
  backendRefs: [{{name: {0}, port: 80}}]",
            way.name
        );
        let backend = Backend::either(mesh.ip(way.behind.unwrap_or(way.host)), PORT, reply);
        if way.behind.is_some() {
            let identity = format!("spiffe://cluster.local/ns/default/sa/{}", way.name);
            let certificate = mesh.certificate(&identity);
            let listen = SocketAddr::new(mesh.ip(way.host), 15_008);
            envoys.push(Envoy::server(
                &mesh,
                &certificate,
                listen,
                backend.address,
                WAYPOINT,
            ));
        }
        backends.push(backend);
    }
    documents.push(manifests::route(
        "default",
        "edge",
        Parent::Gateway("edge"),
        &rules,
    ));
    mesh.write("main.yaml", &manifests::file(&documents));
    let _wayline = mesh.start();
    let edge = scene::edge_address(&mesh);
    for (way, backend) in WAYS.into_iter().zip(&backends) {
        let tunnel: Tunnel = mesh.tunnel("default/a", &format!("10.96.0.{}:80", way.host));
        for http2 in [false, true] {
            for (to, through_gateway) in [(edge, true), (tunnel.address, false)] {
                test(&Path {
                    to,
                    http2,
                    through_gateway,
                    way,
                    backend,
                });
            }
        }
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn every_shape_passes_on_every_way() {
    everywhere(|path| {
        let says = path.says();
        let body: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        let (answer, got) = path.ask("POST", "echo", &body, &[("content-digest", "sha-256=:x:")]);
        assert_eq!((answer.status, &answer.length), (200, &None), "{says}");
        assert!(
            answer.body == body && got.body == body,
            "{says}: the body changed"
        );
        assert_eq!(
            answer.trailers,
            pairs(&[("server-timing", "all;dur=1")]),
            "{says}"
        );
        let sent = pairs(&[("content-digest", "sha-256=:x:")]);
        let trailers: Vec<_> = got
            .trailers
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
            .collect();
        assert_eq!(trailers, sent, "{says}");

        let (answer, _) = path.ask("PUT", "plain", b"twelve bytes", &[]);
        assert_eq!(answer.length.as_deref(), Some("12"), "{says}");
        assert_eq!(answer.body, b"twelve bytes", "{says}");

        let (answer, _) = path.ask("HEAD", "head", b"", &[]);
        assert_eq!(
            (answer.status, answer.length.as_deref()),
            (200, Some("12")),
            "{says}"
        );
        assert!(answer.body.is_empty(), "{says}");

        for status in [204, 304] {
            let (answer, _) = path.ask("GET", &status.to_string(), b"", &[]);
            assert_eq!(
                (answer.status, answer.body.len(), answer.length),
                (status, 0, None),
                "{says}"
            );
        }

        let (answer, _) = path.ask("POST", "call", b"\0\0\0\0\x02hi", &[]);
        assert_eq!(answer.status, 200, "{says}");
        assert_eq!(answer.body, b"\0\0\0\0\x02hi", "{says}");
        let metadata = pairs(&[("grpc-status", "5"), ("x-more", "metadata")]);
        assert_eq!(answer.trailers, metadata, "{says}");
    });
}

#[test]
fn a_client_that_waits_for_leave_to_send_gets_it_on_every_way() {
    everywhere(|path| {
        if path.http2 {
            return;
        }
        let mut conversation = Conversation::open(path.to);
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
            path.path("plain")
        );
        conversation.write(head.as_bytes()).unwrap();
        assert_eq!(
            conversation.answer().unwrap().status,
            100,
            "{}",
            path.says()
        );
        conversation.write(b"hello").unwrap();
        let answer = conversation.answer().unwrap();
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "hello"),
            "{}",
            path.says()
        );
        assert_eq!(
            path.backend.last().header("expect"),
            None,
            "{}",
            path.says()
        );
    });
}

#[test]
fn an_answer_that_does_not_wait_for_the_body_arrives_on_every_way() {
    everywhere(|path| {
        // Backends of HTTP/1 that answer early are tried elsewhere.
        if path.http2 || path.way.port != "http2" {
            return;
        }
        let mut conversation = Conversation::open(path.to);
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n",
            path.path("early")
        );
        conversation.write(head.as_bytes()).unwrap();
        conversation.write(&[b'x'; 1000]).unwrap();
        let answer = conversation.answer().unwrap();
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (413, "enough"),
            "{}",
            path.says()
        );
    });
}
