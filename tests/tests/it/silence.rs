//! Peers that stop in the middle of something: cut off after a while, and their memory with them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use wayline_tests::{
    Backend, Conversation, Mesh, PATIENCE, Request, Wayline, eventually, manifests,
};

use crate::scene::{self, ECHO, ECHO_AUTHORITY, PORT};

fn impatient() -> (Mesh, Wayline) {
    let mesh = scene::echo_mesh(&[]);
    let documents = [scene::edge(&mesh), scene::edge_to_echo()];
    mesh.write("edge.yaml", &manifests::file(&documents));
    let wayline = mesh.start_with(&[
        "--stream-idle-timeout",
        "1s",
        "--head-timeout",
        "1s",
        "--idle-timeout",
        "2s",
    ]);
    wayline.wait_ready();
    (mesh, wayline)
}

/// A backend that reads what it can until its peer leaves, after it has said `words`.
fn saying_then_silent(mesh: &Mesh, words: &'static str) -> (Backend, mpsc::Receiver<()>) {
    let (left, leaving) = mpsc::channel();
    let backend = Backend::raw(mesh.ip(ECHO), PORT, move |_, mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(words.as_bytes());
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
        let _ = left.send(());
    });
    (backend, leaving)
}

#[test]
fn a_backend_that_never_answers_is_504_si() {
    let (mesh, _wayline) = impatient();
    let (_backend, left) = saying_then_silent(&mesh, "");
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    for address in [scene::edge_address(&mesh), tunnel.address] {
        let answer = Request::get("/silent").send(address);
        assert_eq!((answer.status, &*answer.text()), (504, "stream timeout"));
        left.recv_timeout(PATIENCE).unwrap();
    }
    let line = mesh.logged("/silent");
    assert!(line.contains(" 504 SI stream_idle_timeout "), "{line}");
}

#[test]
fn a_client_that_never_ends_its_body_is_408_si() {
    let (mesh, _wayline) = impatient();
    let (_backend, left) = saying_then_silent(&mesh, "");
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let mut client = Conversation::open(tunnel.address);
    client
        .write(b"POST /half HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
        .unwrap();
    assert_eq!(client.answer().unwrap().status, 408);
    assert_eq!(client.rest(), b"");
    left.recv_timeout(PATIENCE).unwrap();
    let line = mesh.logged("/half");
    assert!(line.contains(" 408 SI stream_idle_timeout "), "{line}");
}

#[test]
fn a_response_that_stops_is_cut_and_one_that_goes_on_is_not() {
    let (mesh, _wayline) = impatient();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
        let (_backend, left) = saying_then_silent(&mesh, head);
        let mut client = Conversation::open(tunnel.address);
        client
            .write(b"GET /stops HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        assert!(client.answer().is_err());
        left.recv_timeout(PATIENCE).unwrap();
        let line = mesh.logged("/stops");
        assert!(line.contains(" 200 SI stream_idle_timeout "), "{line}");
    }
    let _backend = Backend::raw(mesh.ip(ECHO), PORT, |_, mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n");
        for _ in 0..10 {
            let _ = stream.write_all(b"x");
            std::thread::sleep(Duration::from_millis(400));
        }
    });
    // The proxy avoids for a moment what it could not connect.
    let answer = eventually("the backend to be back", || {
        let answer = Request::get("/slow").send(tunnel.address);
        (answer.status == 200).then_some(answer)
    });
    assert_eq!(answer.text(), "xxxxxxxxxx");
}

#[test]
fn heads_that_drip_and_connections_without_requests_end() {
    let (mesh, wayline) = impatient();
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let edge = scene::edge_address(&mesh);
    for address in [edge, tunnel.address] {
        let mut dripping = TcpStream::connect(address).unwrap();
        let mut conversation = Conversation::on(dripping.try_clone().unwrap());
        let mut idle = Conversation::open(address);
        assert_eq!(idle.exchange(&Request::get("/")).unwrap().status, 200);
        let begun = Instant::now();
        let dripper = std::thread::spawn(move || {
            let head = b"GET /drip HTTP/1.1\r\nX-Slow: ";
            for byte in head.iter().chain(std::iter::repeat(&b'x')) {
                if begun.elapsed() > PATIENCE || dripping.write_all(&[*byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        assert_eq!(conversation.answer().unwrap().status, 408, "{address}");
        drop(conversation);
        assert_eq!(idle.rest(), b"", "{address}");
        dripper.join().unwrap();
    }
    let mut silent = TcpStream::connect(edge).unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0);
    wayline.counted("wayline_connections", &[("entrance", "gateway")], 0.0);
}

#[test]
fn a_client_that_takes_nothing_is_cut_off() {
    let (mesh, wayline) = impatient();
    let (left, leaving) = mpsc::channel();
    let _backend = Backend::raw(mesh.ip(ECHO), PORT, move |_, mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        while stream.write_all(&[0; 65536]).is_ok() {}
        let _ = left.send(());
    });
    let edge = scene::edge_address(&mesh);
    let mut client = Conversation::open(edge);
    client
        .write(b"GET /much HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    leaving.recv_timeout(PATIENCE).unwrap();
    wayline.counted("wayline_connections", &[("entrance", "gateway")], 0.0);
    drop(client);
}
