//! HTTP/1.1 upgrades: judged as requests, then bytes both ways until both sides are done.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use wayline_tests::{
    Backend, Conversation, Mesh, PATIENCE, Reply, Request, Tunnel, eventually, manifests,
};

use crate::scene::{self, ECHO, ECHO_AUTHORITY, PORT};

/// The handshake of RFC 6455 §1.3.
const ASK: &str = "GET /chat HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

const AGREE: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                       Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A mesh whose service `echo` is reached through a gateway and through a tunnel.
fn entrances(more: &[String]) -> Mesh {
    let mesh = scene::echo_mesh(more);
    let documents = [scene::edge(&mesh), scene::edge_to_echo()];
    mesh.write("edge.yaml", &manifests::file(&documents));
    mesh
}

fn both(mesh: &Mesh) -> (Tunnel, [SocketAddr; 2]) {
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let addresses = [scene::edge_address(mesh), tunnel.address];
    (tunnel, addresses)
}

/// Reads a request head.
fn head(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read > 0) {
        seen.extend_from_slice(&byte);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

#[test]
fn a_web_socket_passes_bytes_both_ways_and_half_closes() {
    let mesh = entrances(&[]);
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&heads);
    let _backend = Backend::raw(mesh.ip(ECHO), PORT, move |_, mut stream| {
        seen.lock().unwrap().push(head(&mut stream));
        // Speaks first, in one piece with its agreement.
        let _ = stream.write_all(&[AGREE, b"hello "].concat());
        let mut all = Vec::new();
        let mut space = [0; 4096];
        while let Ok(read) = stream.read(&mut space)
            && read > 0
        {
            all.extend_from_slice(&space[..read]);
            let _ = stream.write_all(&space[..read]);
        }
        let _ = stream.write_all(format!("{} bytes", all.len()).as_bytes());
    });
    let wayline = mesh.start();
    let (_tunnel, addresses) = both(&mesh);
    for address in addresses {
        let mut client = Conversation::open(address);
        client.write(ASK.as_bytes()).unwrap();
        let answer = client.answer().unwrap();
        assert_eq!(answer.status, 101);
        assert_eq!(answer.header("upgrade"), Some("websocket"));
        assert_eq!(answer.header("connection"), Some("upgrade"));
        assert_eq!(
            answer.header("sec-websocket-accept"),
            Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        );
        assert_eq!(client.read(6).unwrap(), b"hello ");
        let message = vec![7; 300_000];
        let mut writer = client.socket().try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                writer.write_all(&message).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            assert_eq!(client.read(300_000).unwrap(), message);
        });
        assert_eq!(client.rest(), b"300000 bytes");
    }
    for head in heads.lock().unwrap().iter() {
        let head = head.to_ascii_lowercase();
        for line in [
            "upgrade: websocket\r\n",
            "connection: upgrade\r\n",
            "sec-websocket-key: ",
        ] {
            assert!(head.contains(line), "{head}");
        }
    }
    // The exchange lasts as long as the relay does.
    let lines = eventually("both in the log", || {
        let lines: Vec<String> = mesh.access_log();
        (lines.len() == 2).then_some(lines)
    });
    for line in lines {
        assert!(
            line.contains("\"GET /chat HTTP/1.1\" 101 - via_upstream"),
            "{line}"
        );
        assert!(line.contains(" 300000 300018 "), "{line}");
    }
    wayline.counted("istio_requests_total", &[("response_code", "101")], 2.0);
}

#[test]
fn early_bytes_wait_for_the_agreement() {
    let mesh = entrances(&[]);
    let _backend = Backend::raw(mesh.ip(ECHO), PORT, |_, mut stream| {
        head(&mut stream);
        stream
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        let early = stream.read(&mut [0; 1]).map_err(|error| error.kind());
        let verdict = match early {
            Err(ErrorKind::WouldBlock | ErrorKind::TimedOut) => "nothing early, ",
            _ => "early bytes, ",
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(&[AGREE, verdict.as_bytes()].concat());
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let _ = stream.write_all(format!("{} later", all.len()).as_bytes());
    });
    let _wayline = mesh.start();
    let (_tunnel, addresses) = both(&mesh);
    for address in addresses {
        let mut client = Conversation::open(address);
        let early = "GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n".repeat(100);
        client.write(format!("{ASK}{early}").as_bytes()).unwrap();
        assert_eq!(client.answer().unwrap().status, 101);
        client.socket().shutdown(Shutdown::Write).unwrap();
        let rest = String::from_utf8(client.rest()).unwrap();
        assert_eq!(rest, format!("nothing early, {} later", early.len()));
    }
}

#[test]
fn a_refused_upgrade_is_an_ordinary_answer_and_early_bytes_are_no_request() {
    let mesh = entrances(&[]);
    let backend = Backend::http(mesh.ip(ECHO), PORT, |request| {
        match request.target.as_str() {
            "/chat" => Reply::status(426, "not here"),
            _ => Reply::ok("smuggled"),
        }
    });
    let wayline = mesh.start_with(&["--workers", "1"]);
    wayline.wait_ready();
    let (_tunnel, addresses) = both(&mesh);
    for (n, address) in addresses.into_iter().enumerate() {
        let mut client = Conversation::open(address);
        let early = "GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n";
        client.write(format!("{ASK}{early}").as_bytes()).unwrap();
        let answer = client.answer().unwrap();
        assert_eq!((answer.status, &*answer.text()), (426, "not here"));
        assert_eq!(answer.header("connection"), Some("close"));
        assert_eq!(client.rest(), b"");
        assert_eq!(backend.count(), n + 1, "{:?}", backend.requests());
    }
    // The backend's connection is as good as before.
    for address in addresses {
        assert_eq!(Request::get("/other").send(address).text(), "smuggled");
    }
    assert_eq!(backend.connections(), 1);
}

#[test]
fn policy_judges_upgrades_as_it_does_requests() {
    let deny = manifests::policy(
        "default",
        "no-chat",
        "
targetRefs:
- kind: Service
  group: ''
  name: echo
action: DENY
rules:
- to:
  - operation:
      paths: [\"/chat\"]
",
    );
    let mesh = entrances(&[deny]);
    let backend = scene::backend(&mesh, "echo", ECHO);
    let _wayline = mesh.start();
    let (tunnel, _) = both(&mesh);
    let mut client = Conversation::open(tunnel.address);
    client.write(ASK.as_bytes()).unwrap();
    assert_eq!(client.answer().unwrap().status, 403);
    assert_eq!(backend.count(), 0);
}

#[test]
fn an_upgrade_that_breaks_off_does_not_look_whole() {
    let mesh = entrances(&[]);
    let _backend = Backend::raw(mesh.ip(ECHO), PORT, |_, mut stream| {
        head(&mut stream);
        let _ = stream.write_all(&[AGREE, b"half"].concat());
        let _ = stream.read(&mut [0; 1]);
        // Unread bytes make the kernel reset the connection.
    });
    let _wayline = mesh.start();
    let (_tunnel, addresses) = both(&mesh);
    for address in addresses {
        let mut client = Conversation::open(address);
        client.write(ASK.as_bytes()).unwrap();
        assert_eq!(client.answer().unwrap().status, 101);
        assert_eq!(client.read(4).unwrap(), b"half");
        client.write(&[1; 10_000]).unwrap();
        let error = client.read(1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{address}");
    }
}
