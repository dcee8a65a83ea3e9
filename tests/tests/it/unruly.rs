//! Backends that say what nobody asked for: one exchange is lost, and nothing of it reaches another.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use wayline_tests::{Backend, Conversation, Mesh, Request};

use crate::scene::{self, ECHO, ECHO_AUTHORITY, PORT};

/// Reads one request head and returns its path.
fn path(stream: &mut TcpStream) -> Option<String> {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        seen.extend_from_slice(&byte);
    }
    let text = String::from_utf8_lossy(&seen).into_owned();
    text.split(' ').nth(1).map(str::to_owned)
}

/// A backend that answers `/bad` with these bytes, everything else with its path, and keeps the
/// connection open either way.
fn unruly(mesh: &Mesh, bad: Vec<u8>) -> Backend {
    Backend::raw(mesh.ip(ECHO), PORT, move |_, mut stream| {
        while let Some(path) = path(&mut stream) {
            let answer = if path == "/bad" {
                bad.clone()
            } else {
                let length = path.len();
                format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{path}").into_bytes()
            };
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    })
}

#[test]
fn what_is_no_http_is_502_and_its_connection_is_not_used_again() {
    let long_reason = format!("HTTP/1.1 200 {}\r\n\r\n", "x".repeat(600_000));
    let many_fields = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(300));
    let cases: [(&str, Vec<u8>); 8] = [
        ("another protocol", b"SSH-2.0-OpenSSH_9.6\r\n\r\n".into()),
        (
            "frames of HTTP/2",
            b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64\r\n\r\n".into(),
        ),
        (
            "a status below 100",
            b"HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n".into(),
        ),
        (
            "a status that is no number",
            b"HTTP/1.1 2xx OK\r\nContent-Length: 0\r\n\r\n".into(),
        ),
        (
            "a length that is no number",
            b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n".into(),
        ),
        (
            "an upgrade that nobody asked for",
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n".into(),
        ),
        ("an endless reason", long_reason.into_bytes()),
        ("too many fields", many_fields.into_bytes()),
    ];
    for (case, bad) in cases {
        let mesh = scene::echo_mesh(&[]);
        let backend = unruly(&mesh, bad);
        let wayline = mesh.start_with(&["--workers", "1"]);
        wayline.wait_ready();
        let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
        let mut client = Conversation::open(tunnel.address);
        assert_eq!(client.exchange(&Request::get("/1")).unwrap().text(), "/1");
        let answer = client.exchange(&Request::get("/bad")).unwrap();
        assert_eq!(answer.status, 502, "{case}");
        assert_eq!(client.exchange(&Request::get("/2")).unwrap().text(), "/2");
        assert_eq!(backend.connections(), 2, "{case}");
        let line = mesh.logged("/bad");
        assert!(
            line.contains(" 502 UPE upstream_reset_before_response_started{protocol_error} "),
            "{case}: {line}"
        );
    }
}

#[test]
fn what_follows_an_answer_reaches_nobody() {
    let second = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    let cases = [
        (
            "a second answer",
            format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{second}"),
        ),
        (
            "a body behind 204",
            format!("HTTP/1.1 204 No Content\r\n\r\n{second}"),
        ),
        (
            "a body behind 304",
            format!("HTTP/1.1 304 Not Modified\r\n\r\n{second}"),
        ),
        (
            "a second answer behind chunks",
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{second}"
            ),
        ),
    ];
    for (case, bad) in cases {
        let mesh = scene::echo_mesh(&[]);
        let _backend = unruly(&mesh, bad.into_bytes());
        let wayline = mesh.start_with(&["--workers", "1"]);
        wayline.wait_ready();
        let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
        let mut client = Conversation::open(tunnel.address);
        for n in 0..20 {
            let bad = client.exchange(&Request::get("/bad"));
            let bad = bad.unwrap_or_else(|error| panic!("{case}, {n}: {error}"));
            assert!(bad.status < 400, "{case}: {}", bad.status);
            assert!(!bad.text().contains("poison"), "{case}: {}", bad.text());
            let path = format!("/{n}");
            let good = client.exchange(&Request::get(&path)).unwrap();
            assert_eq!((good.status, good.text()), (200, path), "{case}");
        }
    }
}

#[test]
fn an_answer_to_nobody_spoils_an_idle_connection() {
    let mesh = scene::echo_mesh(&[]);
    let spoiled = Arc::new(AtomicBool::new(false));
    let done = Arc::clone(&spoiled);
    let _backend = Backend::raw(mesh.ip(ECHO), PORT, move |number, mut stream| {
        while let Some(path) = path(&mut stream) {
            let length = path.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{path}");
            let _ = stream.write_all(answer.as_bytes());
            if number == 0 {
                std::thread::sleep(Duration::from_millis(50));
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
                done.store(true, Ordering::SeqCst);
            }
        }
    });
    let wayline = mesh.start_with(&["--workers", "1"]);
    wayline.wait_ready();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let mut client = Conversation::open(tunnel.address);
    assert_eq!(client.exchange(&Request::get("/1")).unwrap().text(), "/1");
    wayline_tests::eventually("the second answer", || {
        spoiled.load(Ordering::SeqCst).then_some(())
    });
    for path in ["/2", "/3"] {
        assert_eq!(client.exchange(&Request::get(path)).unwrap().text(), path);
    }
}
