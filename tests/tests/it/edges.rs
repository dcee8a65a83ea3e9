//! Clients and backends that do what is allowed and seldom seen, and some that do what is not.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use wayline_tests::envoy::Envoy;
use wayline_tests::manifests::{self, Pod};
use wayline_tests::process::Process;
use wayline_tests::tunnel::{Refused, survives_fickle_neighbours};
use wayline_tests::{
    Backend, Conversation, Mesh, PATIENCE, Reply, Request, eventually, h2peer, tools,
};

use crate::scene::{self, ECHO, ECHO_AUTHORITY, PORT, WAYPOINT};

#[test]
fn an_answer_before_the_end_of_the_body_reaches_the_client() {
    let mesh = scene::echo_mesh(&[]);
    let _backend = Backend::raw(mesh.ip(ECHO), PORT, |_, mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(
            b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig",
        );
        // Takes the rest, so that nothing is lost to a reset, but never looks at it.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let mut conversation = Conversation::open(tunnel.address);
    conversation
        .write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\nstart")
        .unwrap();
    let answer = conversation.answer().unwrap();
    assert_eq!((answer.status, &*answer.text()), (413, "big"));
}

#[test]
fn an_answer_nobody_takes_yet_does_not_hold_up_the_upload() {
    const LENGTH: usize = 32 * 1024 * 1024;
    let mesh = scene::echo_mesh(&[scene::edge_to_echo()]);
    mesh.write("edge.yaml", &scene::edge(&mesh));
    let (done, uploaded) = mpsc::channel();
    let _backend = Backend::raw(mesh.ip(ECHO), PORT, move |_, mut stream| {
        // Answers at length from the first bytes on, and listens at the same time.
        let _ = stream.read(&mut [0; 1024]);
        let mut speaker = stream.try_clone().unwrap();
        let speaking = std::thread::spawn(move || {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
            let _ = speaker.write_all(head.as_bytes());
            let _ = speaker.write_all(&vec![b'a'; LENGTH]);
        });
        let mut left = LENGTH;
        let mut space = vec![0; 64 * 1024];
        while left > 0 {
            match stream.read(&mut space) {
                Ok(0) | Err(_) => break,
                Ok(read) => left = left.saturating_sub(read),
            }
        }
        let _ = done.send(left);
        let _ = speaking.join();
        // Closing with bytes unread would reset the answer away.
        let _ = stream.shutdown(Shutdown::Write);
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let _wayline = mesh.start();
    let mut conversation = eventually("the gateway to listen", || {
        TcpStream::connect(scene::edge_address(&mesh))
            .ok()
            .map(Conversation::on)
    });
    // A client that reads nothing before it has written everything.
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        LENGTH + 1024
    );
    conversation.write(head.as_bytes()).unwrap();
    conversation.write(&vec![b'b'; LENGTH + 1024]).unwrap();
    assert_eq!(uploaded.recv_timeout(PATIENCE).unwrap(), 0);
    let answer = conversation.answer().unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, LENGTH));
}

#[test]
fn interim_responses_are_not_taken_for_the_answer() {
    let mesh = scene::echo_mesh(&[]);
    let _backend = Backend::raw(mesh.ip(ECHO), PORT, |_, mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone",
        );
        let _ = stream.read(&mut [0; 1]);
    });
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let mut conversation = Conversation::open(tunnel.address);
    conversation
        .write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut answer = conversation.answer().unwrap();
    if answer.status == 103 {
        answer = conversation.answer().unwrap();
    }
    assert_eq!((answer.status, &*answer.text()), (200, "done"));
}

#[test]
fn a_backend_that_closes_after_each_answer_is_no_error() {
    let mesh = scene::echo_mesh(&[]);
    let backend = Backend::http(mesh.ip(ECHO), PORT, |request| {
        match request.target.as_str() {
            "/says" => Reply::ok("x").header("Connection", "close").then_close(),
            _ => Reply::ok("x").then_close(),
        }
    });
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let mut conversation = Conversation::open(tunnel.address);
    for n in 0..30 {
        let path = if n % 2 == 0 { "/says" } else { "/silent" };
        let answer = conversation.exchange(&Request::get(path)).unwrap();
        assert_eq!((answer.status, &*answer.text()), (200, "x"), "request {n}");
        assert_eq!(answer.header("connection"), None);
    }
    assert_eq!(backend.count(), 30);
}

#[test]
fn a_body_without_length_ends_with_the_connection() {
    let mesh = scene::echo_mesh(&[]);
    let _backend = Backend::raw(mesh.ip(ECHO), PORT, |_, mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nuntil the end");
    });
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    assert_eq!(
        Request::get("/").send(tunnel.address).text(),
        "until the end"
    );
}

#[test]
fn an_upload_that_breaks_off_never_looks_complete() {
    let mesh = scene::echo_mesh(&[]);
    let (seen, all) = mpsc::channel();
    let (arrival, arrived) = mpsc::channel();
    let _backend = Backend::raw(mesh.ip(ECHO), PORT, move |_, mut stream| {
        let mut bytes = vec![0; 1];
        let _ = stream.read_exact(&mut bytes);
        let _ = arrival.send(());
        let _ = stream.read_to_end(&mut bytes);
        let _ = seen.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    for (head, rest) in [
        ("Content-Length: 1000\r\n\r\nhalf", ""),
        ("Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", ""),
        ("Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "zz\r\n"),
    ] {
        let mut client = TcpStream::connect(tunnel.address).unwrap();
        let head = format!("POST /broken HTTP/1.1\r\nHost: a\r\n{head}");
        client.write_all(head.as_bytes()).unwrap();
        arrived.recv_timeout(PATIENCE).unwrap();
        client.write_all(rest.as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let request = all.recv_timeout(PATIENCE).unwrap();
        assert!(request.starts_with("POST /broken"), "{request}");
        assert!(request.contains("half"), "{request}");
        assert!(!request.contains("0\r\n\r\n"), "{request}");
    }
}

#[test]
fn headers_of_one_hop_stay_on_that_hop() {
    let mesh = scene::echo_mesh(&[]);
    let backend = Backend::http(mesh.ip(ECHO), PORT, |_| {
        Reply::ok("x")
            .header("Keep-Alive", "timeout=5")
            .header("Proxy-Connection", "keep-alive")
    });
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let answer = Request::get("/")
        .header("Connection", "close, x-private")
        .header("Keep-Alive", "timeout=5")
        .header("Proxy-Connection", "keep-alive")
        .header("Upgrade", "h2c")
        .header("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA")
        .header("X-Public", "1")
        .send(tunnel.address);
    for name in ["keep-alive", "proxy-connection"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    let request = backend.last();
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "upgrade",
        "http2-settings",
    ] {
        assert_eq!(request.header(name), None, "{name}");
    }
    assert_eq!(request.header("x-public"), Some("1"));
}

#[test]
fn http10_is_answered_in_kind_and_closed() {
    let mesh = scene::echo_mesh(&[]);
    let backend = Backend::http(mesh.ip(ECHO), PORT, |_| Reply::ok("old").chunked());
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let mut conversation = Conversation::open(tunnel.address);
    conversation
        .write(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
        .unwrap();
    let all = String::from_utf8(conversation.rest()).unwrap();
    assert!(all.contains(" 200 "), "{all}");
    assert!(all.ends_with("\r\n\r\nold"), "no chunks for 1.0: {all}");
    assert_eq!(backend.count(), 1);
}

#[test]
fn a_response_cut_short_resets_clients_that_know_no_chunks() {
    let mesh = scene::echo_mesh(&[]);
    let documents = [scene::edge(&mesh), scene::edge_to_echo()];
    mesh.write("edge.yaml", &manifests::file(&documents));
    let _backend = Backend::raw(mesh.ip(ECHO), PORT, |_, mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    });
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    for address in [scene::edge_address(&mesh), tunnel.address] {
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
            .write_all(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
            .unwrap();
        let mut all = Vec::new();
        let outcome = client.read_to_end(&mut all);
        assert!(outcome.is_err(), "{}", String::from_utf8_lossy(&all));
    }
}

#[test]
fn a_tunnel_in_a_tunnel_is_not_opened() {
    let mesh = scene::echo_mesh(&[]);
    let backend = scene::backend(&mesh, "echo", ECHO);
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    for target in ["10.96.0.20:80", "example.com:443"] {
        let message = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        let mut conversation = Conversation::open(tunnel.address);
        conversation.write(message.as_bytes()).unwrap();
        let answer = conversation.answer().unwrap();
        assert!((400..500).contains(&answer.status), "{answer:?}");
    }
    assert_eq!(backend.count(), 0);
}

#[test]
fn long_heads_pass_and_endless_ones_do_not() {
    let mesh = scene::echo_mesh(&[]);
    let backend = scene::backend(&mesh, "echo", ECHO);
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let with = |length: usize| Request::get("/").header("X-Long", &"a".repeat(length));
    assert_eq!(with(30_000).send(tunnel.address).status, 200);
    assert_eq!(backend.last().header("x-long").map(str::len), Some(30_000));
    assert_eq!(with(100_000).send(tunnel.address).status, 431);
    assert_eq!(backend.count(), 1);
}

#[test]
fn http2_clients_inside_a_tunnel_are_held_to_one_reading_too() {
    let mesh = scene::echo_mesh(&[]);
    let answer = h2peer::Message {
        status: 200,
        ..h2peer::Message::default()
    };
    let backend = h2peer::Server::start(mesh.ip(ECHO), PORT, answer);
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let ask = |path: &str, fields: &[(&str, &str)]| {
        h2peer::post(tunnel.address, path, fields, b"x", &[]).map(|answer| answer.status)
    };
    assert_eq!(ask("/fine", &[]).ok(), Some(200));
    assert_eq!(ask("/host", &[("host", "other")]).ok(), Some(400));
    assert_eq!(ask("/a%00b", &[]).ok(), Some(400));
    assert_eq!(backend.last().path, "/fine");
}

#[test]
fn envoys_with_many_streams_are_all_served() {
    let mesh = scene::echo_mesh(&[]);
    let backend = Backend::http(mesh.ip(ECHO), PORT, |request| {
        Reply::ok(request.body.clone())
    });
    let _wayline = mesh.start();
    let certificate = mesh.certificate("spiffe://cluster.local/ns/default/sa/productpage");
    let envoy = Envoy::client(&mesh, &certificate, WAYPOINT, ECHO_AUTHORITY);
    std::thread::scope(|scope| {
        for n in 0..16 {
            let address = envoy.address;
            scope.spawn(move || {
                let mut conversation = Conversation::open(address);
                for m in 0..20 {
                    let body = format!("{n}-{m}-").repeat(2_000);
                    let request = Request::new("POST", "/").body(body.clone());
                    let answer = conversation.exchange(&request).unwrap();
                    assert!(answer.status == 200 && answer.body == body.as_bytes());
                }
            });
        }
    });
    assert_eq!(backend.count(), 320);
}

#[test]
fn a_captured_pod_that_restarts_is_found_again() {
    let mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh.logging(""));
    let mut documents = scene::waypoint();
    let ports = [("http", 80, PORT)];
    documents.push(manifests::service("default", "echo", "10.96.0.20", &ports));
    let pod = Pod::new("echo", mesh.ip(ECHO)).annotation("ambient.istio.io/redirection", "enabled");
    documents.push(pod.yaml());
    mesh.write("main.yaml", &manifests::file(&documents));
    let backend = scene::backend(&mesh, "behind", 30);
    let listen = SocketAddr::new(mesh.ip(ECHO), 15_008);
    let certificate = mesh.certificate("spiffe://cluster.local/ns/default/sa/echo");
    let start = || Envoy::server(&mesh, &certificate, listen, backend.address, WAYPOINT);
    let envoy = start();
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let mut conversation = Conversation::open(tunnel.address);
    for round in 0..5 {
        let answer = conversation.exchange(&Request::get("/")).unwrap();
        assert_eq!((answer.status, &*answer.text()), (200, "behind"), "{round}");
    }
    drop(envoy);
    let _again = start();
    let answer = conversation.exchange(&Request::get("/")).unwrap();
    assert_eq!((answer.status, &*answer.text()), (200, "behind"));
}

#[test]
fn pods_are_served_by_a_waypoint_for_workloads() {
    let mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh.logging(""));
    let pod =
        |n: u8, name: &str| Pod::new(name, mesh.ip(n)).label("istio.io/use-waypoint", "waypoint");
    mesh.write(
        "main.yaml",
        &manifests::file(&[
            manifests::waypoint("default", "waypoint").replace("for: service", "for: workload"),
            manifests::service("default", "echo", "10.96.0.20", &[("http", 80, PORT)]),
            pod(ECHO, "echo").yaml(),
            manifests::policy(
                "default",
                "p",
                "targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: waypoint}]
action: DENY
rules: [{to: [{operation: {paths: [/secret]}}]}]
",
            ),
        ]),
    );
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let _wayline = mesh.start();
    let authority = format!("{}:{PORT}", mesh.ip(ECHO));
    let tunnel = mesh.tunnel("default/a", &authority);
    assert_eq!(Request::get("/").send(tunnel.address).text(), "echo");
    assert_eq!(Request::get("/secret").send(tunnel.address).status, 403);
    // The service is not for this waypoint.
    let outcome = mesh.knock("default/a", ECHO_AUTHORITY);
    assert_eq!(outcome, Err(Refused::Status(400)));
}

#[test]
fn endpoints_that_are_not_ready_get_nothing() {
    let mesh = scene::echo_mesh(&[]);
    let ports = [("http", 80, PORT)];
    let pods = [(mesh.ip(60), "echo-1"), (mesh.ip(61), "echo-2")];
    let slice = manifests::endpoints("default", "echo", &pods, &ports);
    let half = slice.replacen("ready: true", "ready: false", 1);
    mesh.write("slice.yaml", &half);
    let (first, second) = (
        scene::backend(&mesh, "first", 60),
        scene::backend(&mesh, "second", 61),
    );
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    for _ in 0..20 {
        assert_eq!(Request::get("/").send(tunnel.address).text(), "second");
    }
    assert_eq!((first.count(), second.count()), (0, 20));
    mesh.write("slice.yaml", &slice);
    eventually("the other endpoint", || {
        (Request::get("/").send(tunnel.address).text() == "first").then_some(())
    });
}

#[test]
fn running_out_of_file_descriptors_passes() {
    let mesh = scene::echo_mesh(&[]);
    let documents = [scene::edge(&mesh), scene::edge_to_echo()];
    mesh.write("edge.yaml", &manifests::file(&documents));
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let ip = mesh.ip(1);
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg("ulimit -n 100; exec \"$@\"")
        .arg("sh")
        .arg(tools::wayline())
        // Else we would shed connections ourselves before there is no file left.
        .args(["run", "--workers", "1", "--max-connections", "0", "-f"])
        .arg(mesh.folder())
        .arg("--dev-ca")
        .arg(mesh.ca());
    for (flag, port) in [
        ("--hbone", 23_908),
        ("--admin", 23_900),
        ("--status", 23_931),
        ("--metrics", 23_930),
    ] {
        command.args([flag, &format!("{ip}:{port}")]);
    }
    let mut wayline = Process::start(command);
    let edge = scene::edge_address(&mesh);
    eventually("the gateway", || TcpStream::connect(edge).ok());
    let hogs: Vec<_> = (0..150)
        .map(|_| TcpStream::connect(edge).unwrap())
        .collect();
    eventually("the limit to be met", || {
        wayline.stderr().contains("open files").then_some(())
    });
    assert!(wayline.ended().is_none());
    drop(hogs);
    eventually("traffic to flow again", || {
        let answer = Conversation::open(edge).exchange(&Request::get("/"));
        answer
            .is_ok_and(|answer| answer.status == 200)
            .then_some(())
    });
    std::thread::sleep(Duration::from_millis(10));
    assert!(wayline.ended().is_none());
}

#[test]
fn one_http2_connection_to_a_backend_carries_many_requests() {
    let mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh.logging(""));
    let mut documents = scene::waypoint();
    let ports = [("http2", 80, PORT)];
    documents.push(manifests::service("default", "echo", "10.96.0.20", &ports));
    documents.push(Pod::new("echo", mesh.ip(ECHO)).yaml());
    mesh.write("main.yaml", &manifests::file(&documents));
    let answer = h2peer::Message {
        status: 200,
        body: b"two".to_vec(),
        ..h2peer::Message::default()
    };
    let _backend = h2peer::Server::start(mesh.ip(ECHO), PORT, answer);
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    // HTTP/1.1 in, HTTP/2 out, because the port says so; more at once than one connection may carry.
    let mut all: Vec<_> = (0..250)
        .map(|_| Conversation::open(tunnel.address))
        .collect();
    for _ in 0..2 {
        for conversation in &mut all {
            conversation
                .write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                .unwrap();
        }
        for conversation in &mut all {
            let answer = conversation.answer().unwrap();
            assert_eq!((answer.status, &*answer.text()), (200, "two"));
        }
    }
}

#[test]
fn a_large_upload_to_a_slow_backend_is_held_back() {
    let mesh = scene::echo_mesh(&[]);
    let _backend = Backend::raw(mesh.ip(ECHO), PORT, |_, mut stream| {
        // Reads nothing more than the head until the client has given up.
        let _ = stream.read(&mut [0; 1024]);
        std::thread::sleep(PATIENCE);
    });
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let mut client = TcpStream::connect(tunnel.address).unwrap();
    client
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n";
    client.write_all(head.as_bytes()).unwrap();
    let chunk = vec![1; 256 * 1024];
    let mut taken = 0;
    while let Ok(written) = client.write(&chunk) {
        taken += written;
        assert!(taken < 200 * 1024 * 1024, "nothing held the client back");
    }
    // What is held is the client's window in this process, and sockets on both sides of it.
    let memory = wayline.memory_kib();
    assert!(memory < 80 * 1024, "{memory} KiB");
}

#[test]
fn tunnels_given_up_in_numbers_do_not_end_the_others_of_their_connection() {
    let mesh = scene::echo_mesh(&[]);
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let _wayline = mesh.start();
    // A pod whose clients knock and leave, at a ztunnel that has one connection for all of them.
    let caller = mesh.caller("default/a");
    let survived = survives_fickle_neighbours(mesh.hbone(), &caller, ECHO_AUTHORITY, 90);
    assert!(survived, "the connection was closed");
}
