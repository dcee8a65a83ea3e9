//! What is not HTTP, and what nobody said anything about.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use wayline_tests::manifests::{self, Pod};
use wayline_tests::{Backend, Conversation, Mesh, PATIENCE, Request};

use crate::scene::{self, PORT};

const AUTHORITY: &str = "10.96.0.60:80";

/// A service whose port has this name; none is a port that nobody declared.
fn mesh(port: &str) -> Mesh {
    let mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh.logging(""));
    let mut documents = scene::waypoint();
    documents.push(manifests::service(
        "default",
        "raw",
        "10.96.0.60",
        &[(port, 80, PORT)],
    ));
    documents.push(Pod::new("raw", mesh.ip(60)).yaml());
    mesh.write("main.yaml", &manifests::file(&documents));
    mesh
}

fn dial(mesh: &Mesh) -> (wayline_tests::Tunnel, TcpStream) {
    let tunnel = mesh.tunnel("default/a", AUTHORITY);
    let stream = TcpStream::connect(tunnel.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    (tunnel, stream)
}

/// Greets, then answers a line with a line, as SMTP does.
fn greeter(mesh: &Mesh) -> Backend {
    Backend::raw(mesh.ip(60), PORT, |_, mut stream| {
        let _ = stream.write_all(b"220 welcome\r\n");
        let mut line = [0; 6];
        if stream.read_exact(&mut line).is_ok() {
            let _ = stream.write_all(b"250 ok\r\n");
        }
    })
}

#[test]
fn a_server_that_speaks_first_is_heard_at_once_declared_or_not() {
    for port in ["tcp-smtp", ""] {
        let mesh = mesh(port);
        let _backend = greeter(&mesh);
        let _wayline = mesh.start();
        let (_tunnel, mut stream) = dial(&mesh);
        let mut greeting = [0; 13];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"220 welcome\r\n", "{port:?}");
        stream.write_all(b"EHLO\r\n").unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"250 ok\r\n", "{port:?}");
    }
}

#[test]
fn http_on_an_undeclared_port_is_http() {
    let mesh = mesh("");
    let backend = scene::backend(&mesh, "raw", 60);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", AUTHORITY);
    let mut conversation = Conversation::open(tunnel.address);
    for path in ["/one", "/two"] {
        let answer = conversation.exchange(&Request::get(path)).unwrap();
        assert_eq!(answer.text(), "raw");
    }
    assert_eq!(backend.count(), 2);
    assert!(backend.last().header("x-request-id").is_some());
    wayline.counted("istio_requests_total", &[("response_code", "200")], 2.0);
    assert!(mesh.logged("/two").contains("\"GET /two HTTP/1.1\" 200"));
}

#[test]
fn http_on_a_port_declared_tcp_is_bytes() {
    let mesh = mesh("tcp");
    let backend = scene::backend(&mesh, "raw", 60);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", AUTHORITY);
    assert_eq!(Request::get("/x").send(tunnel.address).text(), "raw");
    assert_eq!(backend.last().header("x-request-id"), None);
    assert_eq!(wayline.metrics().sum("istio_requests_total", &[]), 0.0);
}

#[test]
fn first_bytes_of_tls_pass_untouched() {
    // A ClientHello's first bytes, and more that no HTTP begins with.
    const HELLO: &[u8] = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00";
    for port in ["tls", "https", ""] {
        let mesh = mesh(port);
        let _backend = Backend::raw(mesh.ip(60), PORT, |_, mut stream| {
            let mut hello = vec![0; HELLO.len()];
            stream.read_exact(&mut hello).unwrap();
            assert_eq!(hello, HELLO);
            stream.write_all(b"\x16\x03\x03server").unwrap();
        });
        let _wayline = mesh.start();
        let (_tunnel, mut stream) = dial(&mesh);
        stream.write_all(HELLO).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"\x16\x03\x03server", "{port:?}");
    }
}

#[test]
fn large_transfers_and_half_closes_pass_both_ways() {
    let mesh = mesh("tcp");
    // Sums up what it gets until the client is done, then answers at length.
    let _backend = Backend::raw(mesh.ip(60), PORT, |_, mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        let sum: u64 = all.iter().map(|byte| u64::from(*byte)).sum();
        stream.write_all(&sum.to_be_bytes()).unwrap();
        stream.write_all(&vec![9; 20 * 1024 * 1024]).unwrap();
        let _ = stream.shutdown(Shutdown::Write);
    });
    let _wayline = mesh.start();
    let (_tunnel, mut stream) = dial(&mesh);
    let sent: Vec<u8> = (0..20 * 1024 * 1024_u32).map(|n| (n % 253) as u8).collect();
    stream.write_all(&sent).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut sum = [0; 8];
    stream.read_exact(&mut sum).unwrap();
    let expected: u64 = sent.iter().map(|byte| u64::from(*byte)).sum();
    assert_eq!(u64::from_be_bytes(sum), expected);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), 20 * 1024 * 1024);
    assert!(rest.iter().all(|byte| *byte == 9));
}

#[test]
fn a_reset_backend_is_a_reset_and_not_an_end() {
    let mesh = mesh("tcp");
    let _backend = Backend::raw(mesh.ip(60), PORT, |_, mut stream| {
        let _ = stream.read(&mut [0; 1]);
        let _ = stream.write_all(b"half");
        // Closing with bytes unread resets.
    });
    let _wayline = mesh.start();
    let (_tunnel, mut stream) = dial(&mesh);
    stream.write_all(b"0123456789").unwrap();
    let mut seen = Vec::new();
    let outcome = stream.read_to_end(&mut seen);
    assert!(outcome.is_err(), "{seen:?} looked like all there was");
}

#[test]
fn nothing_behind_a_tcp_port_is_503_on_connect() {
    let mesh = mesh("tcp");
    let _wayline = mesh.start();
    let outcome = mesh.knock("default/a", AUTHORITY);
    assert_eq!(outcome, Err(wayline_tests::tunnel::Refused::Status(503)));
    let line = mesh.logged("UF");
    assert!(line.contains(" 0 UF,URX "), "{line}");
}
