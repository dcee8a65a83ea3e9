//! How a process leaves: nothing that was sent to it is lost, and it says that it goes.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use wayline_tests::manifests::{self, Parent};
use wayline_tests::{Backend, Conversation, Mesh, PATIENCE, Reply, Request, eventually, h2peer};

use crate::scene::{self, ECHO, ECHO_AUTHORITY, PORT};

/// How often the processes end under load, each time with luck of its own: a few times, or as often as
/// `WAYLINE_DRAIN_ROUNDS` says.
fn rounds() -> usize {
    let wanted = std::env::var("WAYLINE_DRAIN_ROUNDS").ok();
    wanted.map_or(4, |rounds| rounds.parse().unwrap())
}

#[test]
fn sigterm_under_load_loses_nothing() {
    for round in 0..rounds() {
        let mesh = both_entrances();
        let _backend = echoing(&mesh);
        let _calls = h2peer::Server::echoing(mesh.ip(CALLS), PORT);
        // HTTP/2 inside a tunnel is HTTP/2 at the backend, too.
        let two = scene::service(&mesh, "two", 21);
        mesh.write("two.yaml", &manifests::file(&two));
        let answer = h2peer::Message {
            status: 200,
            body: b"x".into(),
            ..h2peer::Message::default()
        };
        let _backend_two = h2peer::Server::start(mesh.ip(21), PORT, answer);
        let mut wayline = mesh.start_with(&["--drain-delay", "200ms"]);
        wayline.wait_ready();
        let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
        let tunnel_two = mesh.tunnel("default/a", "10.96.0.21:80");
        let tunnel_calls = mesh.tunnel("default/a", "10.96.0.22:80");
        let edge = scene::edge_address(&mesh);
        let done = AtomicUsize::new(0);
        let done = &done;
        std::thread::scope(|scope| {
            let mut clients = Vec::new();
            for address in [edge, tunnel.address] {
                // Some ask all the time, others are idle in between.
                for pause in [0, 0, 20, 50] {
                    let pause = Duration::from_millis(pause);
                    clients.push(scope.spawn(move || until_told_to_close(address, pause, done)));
                }
                // A long answer that begins before the end does.
                let mut long = Conversation::open(address);
                long.write(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
                    .unwrap();
                clients.push(scope.spawn(move || {
                    let answer = long.answer().map_err(|error| error.to_string())?;
                    (answer.text() == "/long")
                        .then_some(())
                        .ok_or_else(|| answer.text())
                }));
            }
            for address in [edge, tunnel_two.address] {
                clients.push(scope.spawn(move || until_goaway(address, done)));
            }
            for address in [edge, tunnel_calls.address] {
                let stream = TcpStream::connect(address).unwrap();
                clients.push(scope.spawn(move || h2peer::calls_until_goaway(stream, done)));
            }
            clients.push(scope.spawn(move || until_refused(edge, done)));
            eventually("some load", || {
                (done.load(Ordering::Relaxed) > 300).then_some(())
            });
            wayline.process.signal("TERM");
            for client in clients {
                assert_eq!(client.join().unwrap(), Ok(()), "round {round}");
            }
        });
        assert_eq!(wayline.process.wait().code(), Some(0), "round {round}");
    }
}

#[test]
fn a_rolling_restart_of_two_instances_loses_nothing() {
    let first = both_entrances();
    let second = Mesh::new();
    second.write("mesh.yaml", &second.logging(""));
    let mut documents = scene::echo(&first);
    documents.extend([scene::edge(&second), scene::edge_to_echo()]);
    documents.extend(calls(&first));
    second.write("main.yaml", &manifests::file(&documents));
    let _backend = echoing(&first);
    let _calls = h2peer::Server::echoing(first.ip(CALLS), PORT);
    let args = ["--drain-delay", "200ms"];
    let start = |mesh: &Mesh| {
        let wayline = mesh.start_with(&args);
        wayline.wait_ready();
        wayline
    };
    let mut running = [start(&first), start(&second)];
    let edges = [&first, &second].map(scene::edge_address);
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let client = scope.spawn(|| wander(edges, &stop, &done));
        let caller = scope.spawn(|| -> Result<(), String> {
            let mut instance = 0;
            while !stop.load(Ordering::Relaxed) {
                let stream;
                (instance, stream) = connect(edges, instance + 1);
                h2peer::calls_until_goaway(stream, &done)?;
            }
            Ok(())
        });
        for _ in 0..2 {
            for (instance, mesh) in running.iter_mut().zip([&first, &second]) {
                let before = done.load(Ordering::Relaxed);
                eventually("some load", || {
                    (done.load(Ordering::Relaxed) > before + 100).then_some(())
                });
                instance.process.signal("TERM");
                assert_eq!(instance.process.wait().code(), Some(0));
                *instance = start(mesh);
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(client.join().unwrap(), Ok(()));
        // The caller ends with its connection.
        for instance in &running {
            instance.process.signal("TERM");
        }
        assert_eq!(caller.join().unwrap(), Ok(()));
    });
}

#[test]
fn readiness_fails_first_and_those_who_have_not_heard_are_still_served() {
    let mesh = both_entrances();
    let _backend = echoing(&mesh);
    let mut wayline = mesh.start_with(&["--drain-delay", "6s"]);
    wayline.wait_ready();
    let edge = scene::edge_address(&mesh);
    let mut open = Conversation::open(edge);
    assert_eq!(open.exchange(&Request::get("/a")).unwrap().status, 200);
    wayline.process.signal("TERM");
    eventually("readiness to fail", || {
        wayline
            .readiness()
            .is_some_and(|answer| answer.status == 503)
            .then_some(())
    });
    assert_eq!(Request::get("/late").send(edge).text(), "/late");
    // Nobody is told yet: there may be no place to go to.
    assert_eq!(
        open.exchange(&Request::get("/b"))
            .unwrap()
            .header("connection"),
        None
    );
    assert!(wayline.process.ended().is_none());
    // Nobody is left who could be late.
    drop(open);
    assert_eq!(wayline.process.wait().code(), Some(0));
}

#[test]
fn drained_listeners_take_nothing_new_and_the_process_stays() {
    let mesh = both_entrances();
    let _backend = echoing(&mesh);
    let mut wayline = mesh.start();
    let edge = scene::edge_address(&mesh);
    let mut open = Conversation::open(edge);
    assert_eq!(open.exchange(&Request::get("/a")).unwrap().status, 200);
    assert_eq!(wayline.admin("GET", "/drain_listeners").status, 405);
    assert!(wayline.is_ready());
    assert_eq!(wayline.admin("POST", "/drain_listeners").status, 200);
    eventually("the port to close", || TcpStream::connect(edge).err());
    assert!(!wayline.is_ready());
    // Idle connections are not closed under the next request, which may be under way.
    std::thread::sleep(Duration::from_millis(200));
    let last = open.exchange(&Request::get("/b")).unwrap();
    assert_eq!(
        (last.status, last.header("connection")),
        (200, Some("close"))
    );
    assert!(wayline.process.ended().is_none());
    wayline.process.signal("TERM");
    assert_eq!(wayline.process.wait().code(), Some(0));
}

#[test]
fn clients_that_say_nothing_hold_nothing_up() {
    let mesh = both_entrances();
    let mut wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let silent = [
        scene::edge_address(&mesh),
        wayline.address(wayline_tests::mesh::port::HBONE),
        tunnel.address,
    ]
    .map(|address| TcpStream::connect(address).unwrap());
    wayline.counted("wayline_connections", &[("entrance", "gateway")], 1.0);
    wayline.process.signal("TERM");
    assert_eq!(wayline.process.wait().code(), Some(0));
    drop(silent);
}

#[test]
fn listeners_come_and_go_and_what_runs_on_them_finishes() {
    let mesh = scene::echo_mesh(&[]);
    let backend = echoing(&mesh);
    let _wayline = mesh.start();
    let edge = scene::edge_address(&mesh);
    for round in 0..3 {
        mesh.write(
            "edge.yaml",
            &manifests::file(&[scene::edge(&mesh), scene::edge_to_echo()]),
        );
        eventually("the listener to open", || TcpStream::connect(edge).ok());
        let mut open = Conversation::open(edge);
        assert_eq!(open.exchange(&Request::get("/a")).unwrap().text(), "/a");
        let mut kept = Conversation::open(edge);
        assert_eq!(kept.exchange(&Request::get("/a")).unwrap().text(), "/a");
        let before = backend.count();
        open.write(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        eventually("the request to arrive", || {
            (backend.count() > before).then_some(())
        });
        mesh.remove("edge.yaml");
        eventually("the listener to close", || TcpStream::connect(edge).err());
        let last = kept.exchange(&Request::get("/b")).unwrap();
        assert_eq!(
            (last.status, last.header("connection")),
            (200, Some("close"))
        );
        assert_eq!(open.answer().unwrap().text(), "/long", "round {round}");
    }
}

#[test]
fn a_removed_endpoint_gets_no_new_request_and_its_connections_are_closed() {
    let mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh.logging(""));
    let pods = [(mesh.ip(60), "echo-1"), (mesh.ip(61), "echo-2")];
    let ports = [("http", 80, PORT)];
    let documents = |pods: &[(std::net::IpAddr, &str)]| {
        let mut documents = scene::waypoint();
        documents.push(manifests::service("default", "echo", "10.96.0.20", &ports));
        for (ip, name) in pods {
            documents.push(manifests::Pod::new(name, *ip).label("app", "echo").yaml());
        }
        documents.push(manifests::endpoints("default", "echo", pods, &ports));
        manifests::file(&documents)
    };
    mesh.write("main.yaml", &documents(&pods));
    let (asked, open) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let _leaver = {
        let (asked, open) = (Arc::clone(&asked), Arc::clone(&open));
        Backend::raw(pods[0].0, PORT, move |_, stream| {
            open.fetch_add(1, Ordering::SeqCst);
            serve_until_closed(stream, &asked);
            open.fetch_sub(1, Ordering::SeqCst);
        })
    };
    let _stayer = Backend::saying(pods[1].0, PORT, "stays");
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let mut conversation = Conversation::open(tunnel.address);
    let mut ask = || conversation.exchange(&Request::get("/")).unwrap().text();
    eventually("both to be asked", || (ask() == "leaves").then_some(()));
    mesh.write("main.yaml", &documents(&pods[1..]));
    eventually("its connections to be closed", || {
        (open.load(Ordering::SeqCst) == 0).then_some(())
    });
    let before = asked.load(Ordering::SeqCst);
    for _ in 0..50 {
        assert_eq!(ask(), "stays");
    }
    assert_eq!(asked.load(Ordering::SeqCst), before);
}

fn serve_until_closed(mut stream: TcpStream, asked: &AtomicUsize) {
    let mut seen = Vec::new();
    let mut space = [0; 4096];
    while let Ok(read) = stream.read(&mut space)
        && read > 0
    {
        seen.extend_from_slice(&space[..read]);
        if seen.ends_with(b"\r\n\r\n") {
            seen.clear();
            asked.fetch_add(1, Ordering::SeqCst);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nleaves");
        }
    }
}

/// Waypoint and gateway for the service `echo`.
fn both_entrances() -> Mesh {
    let mesh = scene::echo_mesh(&[]);
    let mut documents = vec![scene::edge(&mesh), scene::edge_to_echo()];
    documents.extend(calls(&mesh));
    mesh.write("edge.yaml", &manifests::file(&documents));
    mesh
}

/// The host of the service `calls`, which speaks gRPC.
const CALLS: u8 = 22;

/// The service `calls`, and a way to it through the gateway.
fn calls(mesh: &Mesh) -> Vec<String> {
    let ports = [("grpc", 80, PORT)];
    let rules = "
- matches: [{path: {value: /call}}]
  backendRefs: [{name: calls, port: 80}]
";
    vec![
        manifests::service("default", "calls", "10.96.0.22", &ports),
        manifests::Pod::new("calls", mesh.ip(CALLS)).yaml(),
        manifests::route("default", "calls", Parent::Gateway("edge"), rules),
    ]
}

/// A backend that says what it was asked for, and takes its time over `/long`.
fn echoing(mesh: &Mesh) -> Backend {
    Backend::http(mesh.ip(ECHO), PORT, |request| {
        if request.target == "/long" {
            std::thread::sleep(Duration::from_millis(1500));
        }
        Reply::ok(request.target.clone())
    })
}

/// One request.
fn ask(conversation: &mut Conversation, done: &AtomicUsize) -> Result<bool, String> {
    let path = format!("/{}", done.fetch_add(1, Ordering::Relaxed));
    let answer = conversation
        .exchange(&Request::get(&path))
        .map_err(|error| format!("{path}: {error}"))?;
    if answer.status != 200 || answer.text() != path {
        return Err(format!("{path}: {} {}", answer.status, answer.text()));
    }
    Ok(answer.header("connection") == Some("close"))
}

/// Asks on one connection until an answer says that it was the last.
fn until_told_to_close(
    address: SocketAddr,
    pause: Duration,
    done: &AtomicUsize,
) -> Result<(), String> {
    let mut conversation = Conversation::open(address);
    while !ask(&mut conversation, done)? {
        std::thread::sleep(pause);
    }
    Ok(())
}

/// Asks on a new connection each time, until none is taken any more.
fn until_refused(address: SocketAddr, done: &AtomicUsize) -> Result<(), String> {
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => ask(&mut Conversation::on(stream), done)?,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        // Leaves ports of this machine for others.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asks over HTTP/2, some requests at a time, until the connection takes no more.
fn until_goaway(address: SocketAddr, done: &AtomicUsize) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
        let (client, connection) = h2::client::handshake(tcp).await.unwrap();
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        loop {
            let mut answers = Vec::new();
            for _ in 0..5 {
                let path = format!("/{}", done.fetch_add(1, Ordering::Relaxed));
                let request = http::Request::get(format!("http://test{path}"));
                let request = request.body(()).unwrap();
                let Ok(mut ready) = client.clone().ready().await else {
                    continue;
                };
                match ready.send_request(request, true) {
                    Ok((answer, _)) => answers.push((path, answer)),
                    Err(error) if error.is_go_away() => {}
                    Err(error) => return Err(format!("{path}: {error}")),
                }
            }
            if answers.is_empty() {
                return Ok(());
            }
            for (path, answer) in answers {
                let answer = tokio::time::timeout(PATIENCE, answer).await;
                let answer = answer.map_err(|late| format!("{path}: {late}"))?;
                let answer = answer.map_err(|error| format!("{path}: {error}"))?;
                if answer.status() != 200 {
                    return Err(format!("{path}: {}", answer.status()));
                }
                let mut body = answer.into_body();
                while let Some(data) = body.data().await {
                    let data = data.map_err(|error| format!("{path}: {error}"))?;
                    let _ = body.flow_control().release_capacity(data.len());
                }
            }
        }
    })
}

/// Asks one of two instances, the other one when that says that it goes, and never twice.
fn wander(edges: [SocketAddr; 2], stop: &AtomicBool, done: &AtomicUsize) -> Result<(), String> {
    let (mut instance, stream) = connect(edges, 0);
    let mut conversation = Conversation::on(stream);
    while !stop.load(Ordering::Relaxed) {
        if ask(&mut conversation, done)? {
            let stream;
            (instance, stream) = connect(edges, instance + 1);
            conversation = Conversation::on(stream);
        }
    }
    Ok(())
}

/// A connection to the first instance, counted from one of them, that takes any.
fn connect(edges: [SocketAddr; 2], from: usize) -> (usize, TcpStream) {
    eventually("an instance that takes connections", || {
        (0..2).find_map(|n| {
            let instance = (from + n) % 2;
            let stream = TcpStream::connect(edges[instance]).ok()?;
            Some((instance, stream))
        })
    })
}
