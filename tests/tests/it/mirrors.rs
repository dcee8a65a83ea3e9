//! Mirrors of HTTPRoutes: who gets copies, and that nothing of them touches the exchange.

use std::io::Read;

use wayline_tests::manifests::{self, Parent};
use wayline_tests::{Backend, Conversation, Mesh, Reply, Request, eventually};

use crate::scene::{self, ECHO, ECHO_AUTHORITY, PORT};

const FIRST: u8 = 30;
const SECOND: u8 = 31;

/// A mesh with two more services, and a route from `echo` to itself with these filters.
fn mesh_with(filters: &str) -> Mesh {
    let mesh = scene::echo_mesh(&[]);
    let rules = format!("{}  filters: [{filters}]\n", scene::TO_ECHO);
    let mut documents = scene::echo(&mesh);
    documents.extend(scene::service(&mesh, "first", FIRST));
    documents.extend(scene::service(&mesh, "second", SECOND));
    documents.push(manifests::route(
        "default",
        "echo",
        Parent::Service("echo"),
        &rules,
    ));
    mesh.write("main.yaml", &manifests::file(&documents));
    mesh
}

fn mirror(to: &str, share: &str) -> String {
    format!(
        "{{type: RequestMirror, requestMirror: {{backendRef: {{name: {to}, port: 80}}{share}}}}}"
    )
}

#[test]
fn every_mirror_gets_the_request_with_its_body() {
    let filters = [mirror("first", ""), mirror("second", ", percent: 100")].join(", ");
    let mesh = mesh_with(&filters);
    let _echo = Backend::http(mesh.ip(ECHO), PORT, |it| Reply::ok(it.body.clone()));
    let first = Backend::http(mesh.ip(FIRST), PORT, |_| Reply::status(500, "mirrored"));
    let second = scene::backend(&mesh, "second", SECOND);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    // More than is kept for a second attempt.
    let body = vec![b'x'; 300_000];
    for (request, body) in [
        (Request::get("/a?b=c"), Vec::new()),
        (Request::new("POST", "/p").body("hello"), b"hello".to_vec()),
        (Request::new("PUT", "/long").body(body.clone()), body),
    ] {
        let answer = request
            .header("x-tag", "1")
            .host("shop:8080")
            .send(tunnel.address);
        assert_eq!((answer.status, &answer.body), (200, &body));
    }
    for backend in [&first, &second] {
        eventually("three copies", || (backend.count() == 3).then_some(()));
        let mut copies = backend.requests();
        copies.sort_by_key(|copy| copy.body.len());
        let seen: Vec<_> = copies
            .iter()
            .map(|it| (it.method.as_str(), it.target.as_str(), it.body.len()))
            .collect();
        assert_eq!(
            seen,
            [
                ("GET", "/a?b=c", 0),
                ("POST", "/p", 5),
                ("PUT", "/long", 300_000)
            ]
        );
        for copy in &copies {
            assert_eq!(copy.header("host"), Some("shop-shadow:8080"));
            assert_eq!(copy.header("x-tag"), Some("1"));
        }
    }
    let name = "wayline_mirrored_requests_total";
    wayline.counted(name, &[("outcome", "sent")], 6.0);
}

#[test]
fn shares_are_kept() {
    let filters = [
        mirror("first", ", percent: 0"),
        mirror("second", ", fraction: {numerator: 1, denominator: 2}"),
    ];
    let mesh = mesh_with(&filters.join(", "));
    let _echo = scene::backend(&mesh, "echo", ECHO);
    let first = scene::backend(&mesh, "first", FIRST);
    let second = scene::backend(&mesh, "second", SECOND);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let mut conversation = Conversation::open(tunnel.address);
    for _ in 0..200 {
        let answer = conversation.exchange(&Request::get("/")).unwrap();
        assert_eq!(answer.text(), "echo");
    }
    // Ten standard deviations around the half.
    let copies = eventually("copies", || {
        let sent = [("outcome", "sent")];
        let counted = wayline
            .metrics()
            .sum("wayline_mirrored_requests_total", &sent);
        (counted as usize == second.count() && counted > 30.0).then(|| second.count())
    });
    assert!((30..170).contains(&copies), "{copies}");
    assert_eq!(first.count(), 0);
}

#[test]
fn a_mirror_that_is_down_slow_or_missing_is_nobodys_business() {
    let filters = [
        mirror("first", ""),
        mirror("second", ""),
        mirror("gone", ""),
    ];
    let mesh = mesh_with(&filters.join(", "));
    let _echo = Backend::http(mesh.ip(ECHO), PORT, |it| {
        Reply::ok(it.body.len().to_string())
    });
    // Nobody listens at `first`; `second` reads a little and then nothing any more.
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let _second = Backend::raw(mesh.ip(SECOND), PORT, move |_, mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = held.lock().unwrap().recv();
    });
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let answer = Request::new("POST", "/")
        .body(vec![b'x'; 20_000_000])
        .send(tunnel.address);
    assert_eq!((answer.status, &*answer.text()), (200, "20000000"));
    // One could not be connected, the other was given up with what waited for it.
    let name = "wayline_mirrored_requests_total";
    wayline.counted(name, &[("outcome", "failed")], 2.0);
    drop(release);
}

#[test]
fn a_mirror_of_one_backend_copies_what_that_backend_gets() {
    let mesh = scene::echo_mesh(&[]);
    let rules = format!(
        "- backendRefs:
  - {{name: echo, port: 80, filters: [{}]}}
  - {{name: second, port: 80}}
  filters: [{}]
",
        mirror("first", ""),
        mirror("third", "")
    );
    let mut documents = scene::echo(&mesh);
    for (name, host) in [("first", FIRST), ("second", SECOND), ("third", 32)] {
        documents.extend(scene::service(&mesh, name, host));
    }
    documents.push(manifests::route(
        "default",
        "echo",
        Parent::Service("echo"),
        &rules,
    ));
    mesh.write("main.yaml", &manifests::file(&documents));
    let backends = [
        ("echo", ECHO),
        ("first", FIRST),
        ("second", SECOND),
        ("third", 32),
    ];
    let [echo, first, second, third] =
        backends.map(|(name, host)| scene::backend(&mesh, name, host));
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    for _ in 0..20 {
        assert_eq!(Request::get("/").send(tunnel.address).status, 200);
    }
    eventually("all copies", || {
        (third.count() == 20 && first.count() == echo.count()).then_some(())
    });
    assert_eq!(echo.count() + second.count(), 20);
    assert!(first.count() < 20 && second.count() < 20);
}
