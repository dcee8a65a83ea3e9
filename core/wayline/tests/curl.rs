//! `wayline curl` against a waypoint of the test's own: a bare HBONE server.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use wayline_hbone::{Connect, Handler, Settings};
use wayline_tls::{CertificateStore, DEFAULT_LIFETIME, DevCa};

/// What the server saw: who came, where to, and the request.
#[derive(Clone, Debug, Default)]
struct Seen {
    peer: String,
    authority: String,
    request: String,
}

struct Waypoint {
    ca: tempfile::TempDir,
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

const ANSWER: &str = "HTTP/1.1 403 Forbidden\r\nx-test: yes\r\ncontent-length: 4\r\n\r\nbye\n";

impl Waypoint {
    /// Answers every request with 403 and `bye`; refuses tunnels to port 1 with 404.
    fn start() -> Self {
        let ca = tempfile::tempdir().unwrap();
        let store = CertificateStore::new();
        let identity = "spiffe://cluster.local/ns/default/sa/waypoint"
            .parse()
            .unwrap();
        let authority = DevCa::open_or_create(&ca.path().join("ca")).unwrap();
        let issued = authority.issue(&identity, DEFAULT_LIFETIME).unwrap();
        store.replace(issued.bundle()).unwrap();

        let seen = Arc::new(Mutex::new(Seen::default()));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let noted = Arc::clone(&seen);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async move {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((tcp, _)) = listener.accept().await {
                    let store = store.clone();
                    let seen = Arc::clone(&noted);
                    tokio::task::spawn_local(async move {
                        let patience = Duration::from_secs(10);
                        let Ok(accepted) = wayline_tls::accept(&store, tcp, patience).await else {
                            return;
                        };
                        seen.lock().unwrap().peer = accepted.peer.to_string();
                        serve(accepted.io, seen).await;
                    });
                }
            });
        });
        Self { ca, address, seen }
    }

    fn curl(&self, args: &[&str]) -> Output {
        self.curl_with_ca(&self.ca.path().join("ca"), args)
    }

    fn curl_with_ca(&self, ca: &Path, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_wayline"))
            .args(["curl", "--dev-ca", ca.to_str().unwrap()])
            .args(["--from", "default/productpage"])
            .args(["--via", &self.address.to_string()])
            .args(args)
            .output()
            .unwrap()
    }

    fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve<IO>(io: IO, seen: Arc<Mutex<Seen>>)
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let tunnels = move |connect: Connect| {
        let seen = Arc::clone(&seen);
        seen.lock().unwrap().authority = connect.authority.to_string();
        if connect.authority.port() == 1 {
            return connect.respond.refuse(StatusCode::BAD_REQUEST);
        }
        tokio::task::spawn_local(async move {
            let mut tunnel = connect.respond.accept(HeaderMap::new()).unwrap();
            let mut request = Vec::new();
            let mut chunk = [0; 4096];
            while !is_complete(&request) {
                let read = tunnel.read(&mut chunk).await.unwrap();
                assert!(read > 0, "the request was cut off");
                request.extend_from_slice(&chunk[..read]);
            }
            seen.lock().unwrap().request = String::from_utf8(request).unwrap();
            tunnel.write_all(ANSWER.as_bytes()).await.unwrap();
            tunnel.shutdown().await.unwrap();
            // Let go only when the client has: dropping would discard what is under way.
            while tunnel.read(&mut chunk).await.is_ok_and(|read| read > 0) {}
        });
    };
    fn handler<F: FnMut(Connect)>(f: F) -> impl Handler {
        f
    }
    let never = std::future::pending::<()>();
    // The client just hangs up when it has its answer.
    let _ = wayline_hbone::serve(io, &Settings::default(), never, handler(tunnels)).await;
}

/// A head, and as much body as its `content-length` says.
fn is_complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().unwrap());
    body.len() >= length
}

fn text(bytes: &[u8]) -> io::Result<&str> {
    std::str::from_utf8(bytes).map_err(io::Error::other)
}

#[test]
fn a_request_reaches_the_service_as_the_workload() {
    let waypoint = Waypoint::start();
    let output = waypoint.curl(&["http://reviews:9080/reviews/1?x=y"]);
    // As with curl, a response of any status is a success.
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stdout).unwrap(), "bye\n");
    assert_eq!(text(&output.stderr).unwrap(), "");

    let seen = waypoint.seen();
    assert_eq!(
        seen.peer,
        "spiffe://cluster.local/ns/default/sa/productpage"
    );
    assert_eq!(seen.authority, "reviews.default.svc.cluster.local:9080");
    assert!(
        seen.request.starts_with("GET /reviews/1?x=y HTTP/1.1\r\n"),
        "{}",
        seen.request
    );
    assert!(seen.request.contains("host: reviews:9080\r\n"));
}

#[test]
fn method_headers_body_head_and_file_work() {
    let waypoint = Waypoint::start();
    let file = waypoint.ca.path().join("out");
    let output = waypoint.curl(&[
        "-X",
        "PUT",
        "-H",
        "X-One: 1",
        "-H",
        "Accept:",
        "-H",
        "Host: other",
        "-d",
        "a=1",
        "-i",
        "-o",
        file.to_str().unwrap(),
        "--trust-domain",
        "cluster.local",
        "http://10.0.0.9:8080/",
    ]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stdout).unwrap(), "");
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(
        written.starts_with("HTTP/1.1 403 Forbidden\r\n"),
        "{written}"
    );
    assert!(written.contains("x-test: yes\r\n") && written.ends_with("\r\n\r\nbye\n"));

    let seen = waypoint.seen();
    assert_eq!(seen.authority, "10.0.0.9:8080");
    let request = seen.request;
    assert!(request.starts_with("PUT / HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("x-one: 1\r\n") && request.contains("host: other\r\n"));
    assert!(!request.contains("accept:") && !request.contains("host: 10.0.0.9"));
    assert!(request.ends_with("\r\n\r\na=1"), "{request}");
}

#[test]
fn a_refused_tunnel_is_a_failure_with_its_status() {
    let waypoint = Waypoint::start();
    let output = waypoint.curl(&["http://reviews:1/"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(text(&output.stdout).unwrap(), "");
    let said = text(&output.stderr).unwrap();
    assert!(said.contains("400") && said.contains("try: "), "{said}");

    let output = waypoint.curl(&["-s", "http://reviews:1/"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr).unwrap(), "");
}

#[test]
fn a_waypoint_of_another_ca_is_not_talked_to() {
    let waypoint = Waypoint::start();
    let output = waypoint.curl_with_ca(&waypoint.ca.path().join("other"), &["http://reviews/"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr).unwrap();
    assert!(said.contains("--dev-ca"), "{said}");
    assert_eq!(waypoint.seen().request, "");
}
