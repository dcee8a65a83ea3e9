//! Session persistence: who came once comes to the same endpoint again.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use wayline_tests::manifests::{self, Parent};
use wayline_tests::{Backend, Mesh, Request, Response, eventually};

use crate::scene::{self, PORT};

/// A service: its name, the end of its address, and its pods.
type Served<'a> = (&'a str, u8, &'a [(IpAddr, &'a str)]);

/// Services behind the gateway.
fn documents(mesh: &Mesh, rules: &str, services: &[Served<'_>]) -> String {
    let mut documents = scene::waypoint();
    let ports = [("http", 80, PORT)];
    for (name, host, pods) in services {
        let ip = format!("10.96.0.{host}");
        documents.push(manifests::service("default", name, &ip, &ports));
        for (ip, pod) in *pods {
            documents.push(manifests::Pod::new(pod, *ip).label("app", name).yaml());
        }
        documents.push(manifests::endpoints("default", name, pods, &ports));
    }
    documents.push(scene::edge(mesh));
    documents.push(manifests::route(
        "default",
        "shop",
        Parent::Gateway("edge"),
        rules,
    ));
    manifests::file(&documents)
}

fn ask(to: SocketAddr, header: Option<(&str, &str)>) -> Response {
    let request = Request::get("/");
    match header {
        Some((name, value)) => request.header(name, value).send(to),
        None => request.send(to),
    }
}

/// The pair that a cookie says to send back.
fn cookie(answer: &Response) -> Option<String> {
    let cookie = answer.header("set-cookie")?;
    cookie.split(';').next().map(str::to_owned)
}

#[test]
fn a_cookie_keeps_a_client_with_its_endpoint_while_that_is_there() {
    let mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh.logging(""));
    let one = [(mesh.ip(60), "one-a"), (mesh.ip(61), "one-b")];
    let two = [(mesh.ip(62), "two-a"), (mesh.ip(63), "two-b")];
    let rules = "
- backendRefs:
  - {name: one, port: 80, weight: 50}
  - {name: two, port: 80, weight: 50}
  sessionPersistence: {sessionName: shop}
";
    let write = |one: &[(IpAddr, &str)]| {
        let services = [("one", 60, one), ("two", 61, &two[..])];
        mesh.write("main.yaml", &documents(&mesh, rules, &services));
    };
    write(&one);
    let _backends = [one, two]
        .concat()
        .into_iter()
        .map(|(ip, name)| Backend::saying(ip, PORT, name))
        .collect::<Vec<_>>();
    let _wayline = mesh.start();
    let edge = scene::edge_address(&mesh);

    let strangers: HashSet<String> = (0..60).map(|_| ask(edge, None).text()).collect();
    assert_eq!(strangers.len(), 4, "{strangers:?}");

    let (first, session) = eventually("a session with one-a", || {
        let answer = ask(edge, None);
        (answer.text() == "one-a").then(|| (answer.clone(), cookie(&answer).unwrap()))
    });
    assert!(session.starts_with("shop="), "{session}");
    assert!(
        first
            .header("set-cookie")
            .unwrap()
            .contains("Path=/; HttpOnly")
    );
    for _ in 0..20 {
        let answer = ask(edge, Some(("cookie", &session)));
        assert_eq!(answer.text(), "one-a");
        // It has its cookie.
        assert_eq!(answer.header("set-cookie"), None);
    }
    // What nobody gave is no session.
    let made_up = ask(edge, Some(("cookie", "shop=0.0.0")));
    assert!(cookie(&made_up).is_some());

    write(&one[1..]);
    let moved = eventually("a new session", || {
        cookie(&ask(edge, Some(("cookie", &session))))
    });
    assert_ne!(moved, session);
    let stays = ask(edge, Some(("cookie", &moved))).text();
    for _ in 0..10 {
        assert_eq!(ask(edge, Some(("cookie", &moved))).text(), stays);
    }
}

#[test]
fn a_header_does_as_well_and_tells_that_it_was_used() {
    let mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh.logging(""));
    let pods = [(mesh.ip(60), "one-a"), (mesh.ip(61), "one-b")];
    let rules = "
- backendRefs: [{name: one, port: 80}]
  sessionPersistence: {type: Header, sessionName: X-Session, idleTimeout: 1h}
";
    let services = [("one", 60, &pods[..])];
    mesh.write("main.yaml", &documents(&mesh, rules, &services));
    let _backends = pods.map(|(ip, name)| Backend::saying(ip, PORT, name));
    let _wayline = mesh.start();
    let edge = scene::edge_address(&mesh);
    let first = ask(edge, None);
    let mut session = first.header("x-session").unwrap().to_owned();
    for _ in 0..20 {
        let answer = ask(edge, Some(("x-session", &session)));
        assert_eq!(answer.text(), first.text());
        answer.header("x-session").unwrap().clone_into(&mut session);
    }
}

#[test]
fn an_endpoint_that_does_not_answer_is_not_waited_for() {
    let mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh.logging(""));
    let pods = [(mesh.ip(60), "one-a"), (mesh.ip(61), "one-b")];
    let rules = "
- backendRefs: [{name: one, port: 80}]
  sessionPersistence: {sessionName: shop}
";
    let services = [("one", 60, &pods[..])];
    mesh.write("main.yaml", &documents(&mesh, rules, &services));
    let gone = Backend::saying(pods[0].0, PORT, "one-a");
    let _stays = Backend::saying(pods[1].0, PORT, "one-b");
    let _wayline = mesh.start();
    let edge = scene::edge_address(&mesh);
    let session = eventually("a session with one-a", || {
        let answer = ask(edge, None);
        (answer.text() == "one-a").then(|| cookie(&answer).unwrap())
    });
    drop(gone);
    let answer = ask(edge, Some(("cookie", &session)));
    assert_eq!((answer.status, answer.text().as_str()), (200, "one-b"));
    assert_ne!(cookie(&answer), None);
}
