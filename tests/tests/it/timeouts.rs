//! Timeouts of HTTPRoutes: what is late is 504 with Envoy's words, and nothing of it stays behind.

use std::io::{Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use wayline_tests::manifests::{self, Parent};
use wayline_tests::{Backend, Conversation, Mesh, Reply, Request};

use crate::scene::{self, ECHO, ECHO_AUTHORITY, PORT};

/// A mesh whose `echo` has a route with these fields in its only rule.
fn mesh_with(fields: &str) -> Mesh {
    let rules = format!("{}  {fields}\n", scene::TO_ECHO);
    let parent = Parent::Service("echo");
    scene::echo_mesh(&[manifests::route("default", "echo", parent, &rules)])
}

/// A backend that answers once the sender of the channel is gone.
fn stalling(mesh: &Mesh) -> (Backend, mpsc::Sender<()>) {
    let (release, held) = mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let backend = Backend::http(mesh.ip(ECHO), PORT, move |request| {
        if request.target.starts_with("/stall") {
            let _ = held.lock().unwrap().recv();
        }
        Reply::ok("echo")
    });
    (backend, release)
}

#[test]
fn a_request_that_takes_too_long_is_504() {
    for (fields, details) in [
        ("timeouts: {request: 100ms}", "response_timeout"),
        (
            "timeouts: {request: 0s, backendRequest: 100ms}",
            "upstream_per_try_timeout",
        ),
        (
            "timeouts: {request: 1h, backendRequest: 100ms}",
            "upstream_per_try_timeout",
        ),
    ] {
        let mesh = mesh_with(fields);
        let (_backend, release) = stalling(&mesh);
        let _wayline = mesh.start();
        let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
        let mut conversation = Conversation::open(tunnel.address);
        let answer = conversation.exchange(&Request::get("/stall")).unwrap();
        assert_eq!(
            (answer.status, &*answer.text()),
            (504, "upstream request timeout"),
            "{fields}"
        );
        let line = mesh.logged("/stall");
        assert!(line.contains(&format!(" 504 UT {details} ")), "{line}");
        // The late response belongs to nobody: the next exchange gets its own.
        drop(release);
        let answer = conversation.exchange(&Request::get("/next")).unwrap();
        assert_eq!((answer.status, &*answer.text()), (200, "echo"), "{fields}");
    }
}

#[test]
fn no_timeout_and_zero_wait() {
    for fields in ["name: plain", "timeouts: {request: 0s, backendRequest: 0s}"] {
        let mesh = mesh_with(fields);
        let (_backend, release) = stalling(&mesh);
        let _wayline = mesh.start();
        let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
        let waiting =
            std::thread::spawn(move || Request::get("/stall").send(tunnel.address).status);
        std::thread::sleep(Duration::from_millis(300));
        assert!(!waiting.is_finished(), "{fields}");
        drop(release);
        assert_eq!(waiting.join().unwrap(), 200, "{fields}");
    }
}

#[test]
fn a_response_that_never_ends_is_cut_by_the_request_timeout_only() {
    for (fields, cut) in [
        ("timeouts: {request: 300ms}", true),
        ("timeouts: {backendRequest: 100ms}", false),
    ] {
        let mesh = mesh_with(fields);
        let (release, held) = mpsc::channel::<()>();
        let held = std::sync::Mutex::new(held);
        let _backend = Backend::raw(mesh.ip(ECHO), PORT, move |_, mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello");
            let _ = held
                .lock()
                .unwrap()
                .recv_timeout(Duration::from_millis(1_000));
            let _ = stream.write_all(b"world");
        });
        let _wayline = mesh.start();
        let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
        let answer = Conversation::open(tunnel.address).exchange(&Request::get("/half"));
        assert_eq!(answer.is_err(), cut, "{fields}: {answer:?}");
        let line = mesh.logged("/half");
        assert_eq!(
            line.contains(" 200 UT response_timeout "),
            cut,
            "{fields}: {line}"
        );
        drop(release);
    }
}
