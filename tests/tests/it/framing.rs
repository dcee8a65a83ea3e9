//! Messages with two readings: refused at every entrance, and nothing of them reaches a backend.

use std::net::SocketAddr;

use wayline_tests::manifests;
use wayline_tests::{Conversation, Request};

use crate::scene::{self, ECHO, ECHO_AUTHORITY};

/// What is sent first in every case would be taken by some reader for a request to `/smuggled`.
const AMBIGUOUS: &[(&str, &str)] = &[
    (
        "Content-Length and Transfer-Encoding",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "Transfer-Encoding and Content-Length",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 50\r\n\r\n0\r\n\r\n",
    ),
    (
        "two lengths",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n",
    ),
    (
        "a length with a sign",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +0\r\n\r\n",
    ),
    (
        "another coding than chunked",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    ),
    ("two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    ("no Host", "GET / HTTP/1.1\r\n\r\n"),
    ("bare LF", "GET / HTTP/1.1\nHost: a\n\n"),
    (
        "bare LF in headers",
        "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
    ),
    ("bare CR", "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n"),
    ("space before colon", "GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
    (
        "folded header",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
    ),
    (
        "a chunk without size",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ),
    (
        "a chunk longer than it says",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
    ),
];

/// Sound framing around what means nothing, or several things.
const MEANINGLESS: &[(&str, &str)] = &[
    ("a Host with a user", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"),
    ("lower-case method", "get / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("NUL in the path", "GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("no slash", "GET admin HTTP/1.1\r\nHost: a\r\n\r\n"),
];

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";

#[test]
fn ambiguous_messages_are_refused_at_every_entrance() {
    let mesh = scene::echo_mesh(&[]);
    let documents = [scene::edge(&mesh), scene::edge_to_echo()];
    mesh.write("edge.yaml", &manifests::file(&documents));
    let backend = scene::backend(&mesh, "echo", ECHO);
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    for (entrance, address) in [
        ("gateway", scene::edge_address(&mesh)),
        ("tunnel", tunnel.address),
    ] {
        for (case, message) in AMBIGUOUS {
            let answer = refused(address, &format!("{entrance}: {case}"), message, SMUGGLED);
            assert_eq!(answer, "", "{entrance}: {case}");
        }
        for (case, message) in MEANINGLESS {
            refused(address, &format!("{entrance}: {case}"), message, "");
        }
        assert_eq!(backend.count(), 0, "{entrance}: {:?}", backend.requests());
    }
    // Both entrances still serve what is sound.
    for address in [scene::edge_address(&mesh), tunnel.address] {
        assert_eq!(Request::get("/").send(address).text(), "echo");
    }
}

/// Sends a message that must be answered 400; what else came, up to the end of the connection where
/// something followed.
fn refused(address: SocketAddr, case: &str, message: &str, more: &str) -> String {
    let mut conversation = Conversation::open(address);
    conversation
        .write(format!("{message}{more}").as_bytes())
        .unwrap();
    let answer = conversation.answer();
    let answer = answer.unwrap_or_else(|error| panic!("{case}: {error}"));
    assert_eq!(answer.status, 400, "{case}");
    if more.is_empty() {
        return String::new();
    }
    String::from_utf8_lossy(&conversation.rest()).into_owned()
}

#[test]
fn pipelined_requests_are_answered_in_order_and_one_at_a_time() {
    let mesh = scene::echo_mesh(&[]);
    let backend = wayline_tests::Backend::http(mesh.ip(ECHO), scene::PORT, |request| {
        wayline_tests::Reply::ok(request.target.clone())
    });
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let mut conversation = Conversation::open(tunnel.address);
    let many: String = (0..20)
        .map(|n| format!("POST /{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"))
        .collect();
    conversation.write(many.as_bytes()).unwrap();
    for n in 0..20 {
        assert_eq!(conversation.answer().unwrap().text(), format!("/{n}"));
    }
    assert!(
        backend
            .requests()
            .iter()
            .all(|request| request.body == b"abc")
    );
}

#[test]
fn an_absolute_target_decides_the_host() {
    let mesh = scene::echo_mesh(&[]);
    let backend = scene::backend(&mesh, "echo", ECHO);
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let answer = Request::get("http://real.example.com/x")
        .host("claimed.example.com")
        .send(tunnel.address);
    assert_eq!(answer.status, 200);
    assert_eq!(backend.last().header("host"), Some("real.example.com"));
    assert_eq!(backend.last().target, "/x");
}
