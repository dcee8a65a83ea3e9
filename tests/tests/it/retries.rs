//! Retries of HTTPRoutes: which statuses, how often, and never what must not happen twice.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use wayline_tests::manifests::{self, Parent};
use wayline_tests::{Backend, Conversation, Mesh, Reply, Request};

use crate::scene::{self, ECHO, ECHO_AUTHORITY, PORT};

/// A mesh whose `echo` has a route with these fields in its only rule.
fn mesh_with(fields: &str) -> Mesh {
    let rules = format!("{}  {fields}\n", scene::TO_ECHO);
    let parent = Parent::Service("echo");
    scene::echo_mesh(&[manifests::route("default", "echo", parent, &rules)])
}

/// A backend that answers `status` so often and 200 with the request's body from then on.
fn failing(mesh: &Mesh, status: u16, times: usize) -> Backend {
    let left = AtomicUsize::new(times);
    Backend::http(mesh.ip(ECHO), PORT, move |request| {
        let take = |left: usize| left.checked_sub(1);
        match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take) {
            Ok(_) => Reply::status(status, "no"),
            Err(_) => Reply::ok(request.body.clone()),
        }
    })
}

#[test]
fn statuses_are_retried_as_often_as_the_rule_says() {
    // Fields, status, failures, what the client gets, how often the backend is asked.
    let retry = "retry: {codes: [503, 409], attempts: 2, backoff: 1ms}";
    for (fields, status, failures, expected, asked) in [
        (retry, 503, 1, 200, 2),
        (retry, 409, 2, 200, 3),
        (retry, 503, 9, 503, 3),
        (retry, 500, 9, 500, 1),
        ("retry: {codes: [503], attempts: 0}", 503, 9, 503, 1),
        ("retry: {codes: [503]}", 503, 9, 503, 3),
        ("retry: {attempts: 5}", 503, 9, 503, 1),
        ("name: none", 503, 9, 503, 1),
    ] {
        let mesh = mesh_with(fields);
        let backend = failing(&mesh, status, failures);
        let _wayline = mesh.start();
        let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
        // A status is retried whatever the method: who lists it says that it is safe.
        let request = Request::new("POST", "/asked").body("hello");
        let answer = request.send(tunnel.address);
        assert_eq!(answer.status, expected, "{fields}");
        assert_eq!(backend.count(), asked, "{fields}");
        assert!(
            backend.requests().iter().all(|it| it.body == b"hello"),
            "{fields}: {:?}",
            backend.requests()
        );
        if expected == 200 {
            assert_eq!(answer.text(), "hello");
        }
        let line = mesh.logged("/asked");
        let spent = expected != 200 && asked > 1;
        assert_eq!(line.contains(" URX "), spent, "{fields}: {line}");
    }
}

#[test]
fn a_body_too_long_to_keep_is_sent_once() {
    let mesh = mesh_with("retry: {codes: [503], attempts: 2, backoff: 1ms}");
    let backend = failing(&mesh, 503, 1);
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let request = Request::new("POST", "/").body(vec![b'x'; 100_000]);
    assert_eq!(request.send(tunnel.address).status, 503);
    assert_eq!(backend.count(), 1);
}

#[test]
fn a_broken_exchange_is_repeated_where_the_method_allows_it() {
    // Fields, method, whether it is repeated.
    let retry = "retry: {attempts: 2, backoff: 1ms}";
    for (fields, method, repeated) in [
        (retry, "GET", true),
        (retry, "PUT", true),
        (retry, "POST", false),
        ("name: none", "GET", false),
    ] {
        let mesh = mesh_with(fields);
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        let _backend = Backend::raw(mesh.ip(ECHO), PORT, move |_, mut stream| {
            let _ = stream.read(&mut [0; 4096]);
            if counter.fetch_add(1, Ordering::SeqCst) > 0 {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            }
        });
        let _wayline = mesh.start();
        let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
        let answer = Request::new(method, "/").send(tunnel.address);
        let expected = if repeated { (200, 2) } else { (503, 1) };
        let found = (answer.status, asked.load(Ordering::SeqCst));
        assert_eq!(found, expected, "{fields} {method}");
    }
}

#[test]
fn a_post_on_a_connection_that_was_kept_is_never_sent_twice() {
    let mesh = mesh_with("retry: {codes: [503], attempts: 2, backoff: 1ms}");
    let posts = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&posts);
    let _backend = Backend::raw(mesh.ip(ECHO), PORT, move |_, mut stream| {
        let mut buffer = [0; 4096];
        // Answers one GET, and hangs up when it has read the POST behind it.
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if buffer[..length].starts_with(b"POST") {
                counter.fetch_add(1, Ordering::SeqCst);
                return;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
    });
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let mut conversation = Conversation::open(tunnel.address);
    let get = conversation.exchange(&Request::get("/")).unwrap();
    let post = conversation.exchange(&Request::new("POST", "/")).unwrap();
    assert_eq!((get.status, post.status), (200, 503));
    assert_eq!(posts.load(Ordering::SeqCst), 1);
}

#[test]
fn a_slow_attempt_is_given_up_for_another() {
    let mesh = mesh_with(
        "timeouts: {request: 10s, backendRequest: 200ms}\n  retry: {attempts: 1, backoff: 1ms}",
    );
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let asked = AtomicUsize::new(0);
    let _backend = Backend::http(mesh.ip(ECHO), PORT, move |request| {
        if asked.fetch_add(1, Ordering::SeqCst) == 0 {
            let _ = held.lock().unwrap().recv();
        }
        Reply::ok(request.body.clone())
    });
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let answer = Request::new("PUT", "/once")
        .body("hello")
        .send(tunnel.address);
    assert_eq!((answer.status, &*answer.text()), (200, "hello"));
    drop(release);
}
