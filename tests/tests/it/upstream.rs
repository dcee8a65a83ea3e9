//! Backends that fail, hang up, are slow or have a lot to say.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use wayline_tests::manifests::{self, Pod};
use wayline_tests::{
    Backend, Caller, Conversation, Mesh, PATIENCE, Reply, Request, eventually, h2peer,
};

use crate::scene::{self, ECHO, ECHO_AUTHORITY, PORT};

#[test]
fn a_backend_that_is_down_is_503_with_envoys_words() {
    let mesh = scene::echo_mesh(&[]);
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let answer = Request::get("/down").send(tunnel.address);
    assert_eq!(answer.status, 503);
    let body = answer.text();
    assert!(
        body.starts_with(
            "upstream connect error or disconnect/reset before headers. retried and the latest \
             reset reason: remote connection failure, transport failure reason: "
        ),
        "{body}"
    );
    let line = mesh.logged("/down");
    assert!(line.contains(" 503 UF,URX "), "{line}");
    assert!(
        line.contains("upstream_reset_before_response_started{remote_connection_failure"),
        "{line}"
    );
}

#[test]
fn an_answer_with_two_readings_is_502() {
    let mesh = scene::echo_mesh(&[]);
    let _backend = Backend::raw(mesh.ip(ECHO), PORT, |_, mut stream| {
        let mut request = [0; 1024];
        let read = stream.read(&mut request).unwrap_or(0);
        let request = String::from_utf8_lossy(&request[..read]);
        let answer = match request.split(' ').nth(1) {
            Some("/both") => {
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            }
            Some("/coded") => "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
            Some("/switched") => {
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
            }
            Some("/twice") => "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            _ => "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        };
        let _ = stream.write_all(answer.as_bytes());
    });
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    for path in ["/both", "/coded", "/switched", "/twice"] {
        let answer = Request::get(path).send(tunnel.address);
        assert_eq!(answer.status, 502, "{path}");
        let line = mesh.logged(path);
        assert!(line.contains(" 502 UPE "), "{line}");
    }
    let answer = Request::get("/sound").send(tunnel.address);
    assert_eq!((answer.status, &*answer.text()), (200, "abc"));
}

#[test]
fn no_endpoint_at_all_is_uh() {
    let mesh = scene::echo_mesh(&[]);
    let mut documents = scene::waypoint();
    documents.push(manifests::service(
        "default",
        "echo",
        "10.96.0.20",
        &[("http", 80, PORT)],
    ));
    mesh.write("main.yaml", &manifests::file(&documents));
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let answer = Request::get("/none").send(tunnel.address);
    assert_eq!(
        (answer.status, &*answer.text()),
        (503, "no healthy upstream")
    );
    let line = mesh.logged("/none");
    assert!(line.contains(" 503 UH no_healthy_upstream "), "{line}");
}

#[test]
fn another_endpoint_takes_over() {
    let mesh = scene::echo_mesh(&[]);
    let mut documents = scene::waypoint();
    let ports = [("http", 80, PORT)];
    documents.push(manifests::service("default", "echo", "10.96.0.20", &ports));
    let pods = [(mesh.ip(60), "echo-1"), (mesh.ip(61), "echo-2")];
    for (ip, name) in &pods {
        documents.push(Pod::new(name, *ip).label("app", "echo").yaml());
    }
    documents.push(manifests::endpoints("default", "echo", &pods, &ports));
    mesh.write("main.yaml", &manifests::file(&documents));
    let first = scene::backend(&mesh, "first", 60);
    let second = scene::backend(&mesh, "second", 61);
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let mut conversation = Conversation::open(tunnel.address);
    let mut ask = |n: usize| {
        (0..n)
            .map(|_| conversation.exchange(&Request::get("/")).unwrap())
            .map(|answer| (answer.status, answer.text()))
            .collect::<Vec<_>>()
    };
    let both = ask(40);
    assert!(both.contains(&(200, "first".to_owned())), "{both:?}");
    assert!(both.contains(&(200, "second".to_owned())), "{both:?}");
    drop(first);
    let rest = ask(40);
    assert!(
        rest.iter()
            .all(|answer| *answer == (200, "second".to_owned())),
        "{rest:?}"
    );
    drop(second);
    assert_eq!(ask(1)[0].0, 503);
}

#[test]
fn connections_are_kept_and_reused() {
    let mesh = scene::echo_mesh(&[]);
    let backend = scene::backend(&mesh, "echo", ECHO);
    let _wayline = mesh.start_with(&["--workers", "1"]);
    _wayline.wait_ready();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    for _ in 0..10 {
        // New tunnels: what is reused is the connection behind.
        assert_eq!(Request::get("/").send(tunnel.address).text(), "echo");
    }
    assert_eq!(backend.count(), 10);
    assert_eq!(backend.connections(), 1);
}

#[test]
fn an_idle_connection_closed_by_the_backend_is_no_error() {
    let mesh = scene::echo_mesh(&[]);
    let backend = scene::backend(&mesh, "echo", ECHO);
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let mut conversation = Conversation::open(tunnel.address);
    for n in 0..20 {
        let request = match n % 2 {
            0 => Request::get("/"),
            _ => Request::new("POST", "/").body("x"),
        };
        let answer = conversation.exchange(&request).unwrap();
        assert_eq!(
            (answer.status, &*answer.text()),
            (200, "echo"),
            "request {n}"
        );
        backend.hang_up();
    }
    assert_eq!(backend.count(), 20, "each was seen once");
}

#[test]
fn a_backend_that_breaks_off_before_its_head_is_uc() {
    let mesh = scene::echo_mesh(&[]);
    let _backend = Backend::raw(mesh.ip(ECHO), PORT, |_, mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.shutdown(Shutdown::Both);
    });
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let answer = Request::new("POST", "/broken")
        .body("x")
        .send(tunnel.address);
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.text(),
        "upstream connect error or disconnect/reset before headers. reset reason: connection \
         termination"
    );
    let line = mesh.logged("/broken");
    assert!(line.contains(" 503 UC "), "{line}");
}

#[test]
fn a_response_cut_short_is_never_made_to_look_whole() {
    let mesh = scene::echo_mesh(&[]);
    let _backend = Backend::raw(mesh.ip(ECHO), PORT, |_, mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        let _ = stream.shutdown(Shutdown::Both);
    });
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let outcome = Conversation::open(tunnel.address).exchange(&Request::get("/short"));
    assert!(outcome.is_err(), "{outcome:?}");
    let line = mesh.logged("/short");
    assert!(line.contains(" 200 UC "), "{line}");
}

/// Twenty megabytes in which no two neighbourhoods look alike.
fn large() -> Vec<u8> {
    let mut state = 1_u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(20 * 1024 * 1024)
    .collect()
}

#[test]
fn large_bodies_pass_both_ways_intact() {
    let mesh = scene::echo_mesh(&[]);
    let _backend = Backend::http(mesh.ip(ECHO), PORT, |request| {
        let reply = Reply::ok(request.body.clone());
        match request.target.as_str() {
            "/chunked" => reply.chunked(),
            _ => reply,
        }
    });
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let body = large();
    for path in ["/length", "/chunked"] {
        let answer = Request::new("POST", path)
            .body(body.clone())
            .send(tunnel.address);
        assert_eq!(answer.status, 200);
        assert!(answer.body == body, "{path}: {} bytes", answer.body.len());
    }
    let memory = wayline.memory_kib();
    assert!(memory < 150 * 1024, "{memory} KiB after 80 MiB in all");
}

#[test]
fn a_slow_reader_holds_the_backend_back() {
    const OFFERED: usize = 200 * 1024 * 1024;
    let mesh = scene::echo_mesh(&[]);
    let written = Arc::new(AtomicUsize::new(0));
    let progress = Arc::clone(&written);
    let _backend = Backend::raw(mesh.ip(ECHO), PORT, move |_, mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {OFFERED}\r\n\r\n");
        let _ = stream.write_all(head.as_bytes());
        let chunk = vec![7; 64 * 1024];
        while stream.write_all(&chunk).is_ok() {
            progress.fetch_add(chunk.len(), Ordering::SeqCst);
        }
    });
    let wayline = mesh.start();
    let before = wayline.memory_kib();
    let caller = Caller {
        window: Some(256 * 1024),
        ..mesh.caller("default/a")
    };
    let tunnel = mesh.tunnel_of(&caller, ECHO_AUTHORITY);
    let mut client = TcpStream::connect(tunnel.address).unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut first = [0; 1024];
    client.read_exact(&mut first).unwrap();
    // It stalls when every buffer on the way is full.
    let stalled_at = eventually("the backend to stall", || {
        let before = written.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(300));
        (before > 0 && written.load(Ordering::SeqCst) == before).then_some(before)
    });
    assert!(
        stalled_at < OFFERED / 4,
        "{stalled_at} bytes were taken off the backend"
    );
    let memory = wayline.memory_kib();
    assert!(
        memory < before + 20 * 1024,
        "{before} KiB grew to {memory} KiB"
    );
    // And goes on when somebody reads.
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut rest = vec![0; 1024 * 1024];
    let mut read = 0;
    while read < stalled_at + 1024 * 1024 {
        read += client.read(&mut rest).unwrap();
    }
}

#[test]
fn trailers_pass_both_ways_over_http2() {
    let mesh = Mesh::new();
    let named = "metadata:\n  annotations:\n    wayline.dev/trailers: x-checksum\n";
    let config = mesh.logging("").replacen("metadata:\n", named, 1);
    mesh.write("mesh.yaml", &config);
    let mut documents = scene::waypoint();
    let ports = [("grpc", 80, PORT)];
    documents.push(manifests::service("default", "echo", "10.96.0.20", &ports));
    documents.push(Pod::new("echo", mesh.ip(ECHO)).yaml());
    mesh.write("main.yaml", &manifests::file(&documents));
    let backend = h2peer::Server::start(
        mesh.ip(ECHO),
        PORT,
        h2peer::Message {
            status: 200,
            headers: h2peer::headers(&[("content-type", "application/grpc")]),
            body: b"answer".to_vec(),
            trailers: h2peer::headers(&[("grpc-status", "7"), ("grpc-message", "no")]),
            ..h2peer::Message::default()
        },
    );
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let answer = h2peer::post(
        tunnel.address,
        "/pkg.Service/Method",
        &[("content-type", "application/grpc"), ("te", "trailers")],
        b"question",
        &[("x-checksum", "42")],
    )
    .unwrap();
    assert_eq!((answer.status, &*answer.body), (200, &b"answer"[..]));
    assert_eq!(answer.trailers["grpc-status"], "7");
    assert_eq!(answer.trailers["grpc-message"], "no");
    let request = backend.last();
    assert_eq!(request.body, b"question");
    assert_eq!(request.trailers["x-checksum"], "42");
    assert_eq!(request.headers["te"], "trailers");
    let labels = [("request_protocol", "grpc"), ("grpc_response_status", "7")];
    wayline.counted("istio_requests_total", &labels, 1.0);
}

#[test]
fn trailers_pass_over_http1_too() {
    let mesh = scene::echo_mesh(&[]);
    let backend = Backend::http(mesh.ip(ECHO), PORT, |_| {
        Reply::ok("x").trailer("X-Sum", "1")
    });
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let mut conversation = Conversation::open(tunnel.address);
    conversation
        .write(
            b"POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\nTrailer: X-In\r\n\r\n\
              3\r\nabc\r\n0\r\nX-In: 2\r\n\r\n",
        )
        .unwrap();
    let answer = conversation.answer().unwrap();
    assert_eq!(answer.body, b"x");
    assert_eq!(backend.last().body, b"abc");
}

#[test]
fn heads_without_bodies_are_kept_apart() {
    let mesh = scene::echo_mesh(&[]);
    let backend = Backend::http(mesh.ip(ECHO), PORT, |request| {
        match request.target.as_str() {
            "/204" => Reply::status(204, ""),
            "/304" => Reply::status(304, ""),
            _ => Reply::ok("a body"),
        }
    });
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let mut conversation = Conversation::open(tunnel.address);
    let head = conversation.exchange(&Request::new("HEAD", "/")).unwrap();
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("6"))
    );
    assert_eq!(
        conversation.exchange(&Request::get("/204")).unwrap().status,
        204
    );
    assert_eq!(
        conversation.exchange(&Request::get("/304")).unwrap().status,
        304
    );
    // The connection is where it should be after each of them.
    let answer = conversation.exchange(&Request::get("/")).unwrap();
    assert_eq!(answer.text(), "a body");
    assert_eq!(backend.count(), 4);
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it() {
    let mesh = scene::echo_mesh(&[]);
    let backend = scene::backend(&mesh, "echo", ECHO);
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let mut conversation = Conversation::open(tunnel.address);
    conversation
        .write(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        .unwrap();
    assert_eq!(conversation.answer().unwrap().status, 100);
    conversation.write(b"body").unwrap();
    assert_eq!(conversation.answer().unwrap().status, 200);
    assert_eq!(backend.last().body, b"body");
    assert_eq!(backend.last().header("expect"), None);
}

#[test]
fn chunks_arrive_as_they_are_sent() {
    let mesh = scene::echo_mesh(&[]);
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let _backend = Backend::raw(mesh.ip(ECHO), PORT, move |_, mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head).unwrap();
        for piece in ["first", "second"] {
            let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
            stream.write_all(chunk.as_bytes()).unwrap();
            let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
        }
        stream.write_all(b"0\r\n\r\n").unwrap();
    });
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let mut client = TcpStream::connect(tunnel.address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut until = |text: &str| {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(text) {
            let mut chunk = [0; 4096];
            let read = client.read(&mut chunk).unwrap();
            assert!(read > 0, "ended before {text}");
            seen.extend_from_slice(&chunk[..read]);
        }
    };
    until("first");
    go.send(()).unwrap();
    until("second");
    go.send(()).unwrap();
    until("0\r\n\r\n");
}

#[test]
fn a_client_that_leaves_ends_the_request_at_the_backend() {
    let mesh = scene::echo_mesh(&[]);
    let (ended, end) = mpsc::channel();
    let _backend = Backend::raw(mesh.ip(ECHO), PORT, move |_, mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        // Never answers; waits for the other side to give up.
        let outcome = stream.read(&mut [0; 4096]);
        let _ = ended.send(outcome.unwrap_or(0));
    });
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let mut client = TcpStream::connect(tunnel.address).unwrap();
    client
        .write_all(b"GET /left HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    // Not before the request is on its way.
    eventually("a request under way", || {
        (wayline.metrics().sum("wayline_connections", &[]) >= 1.0).then_some(())
    });
    std::thread::sleep(Duration::from_millis(200));
    drop(client);
    assert_eq!(end.recv_timeout(PATIENCE), Ok(0));
    let line = mesh.logged("/left");
    assert!(line.contains(" 0 DC "), "{line}");
}
