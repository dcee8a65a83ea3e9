//! HBONE in: who may come, where to, and what the others get.

use std::io::{Read, Write};
use std::net::TcpStream;

use wayline_tests::envoy::Envoy;
use wayline_tests::manifests::{self, Pod};
use wayline_tests::mesh::port;
use wayline_tests::tunnel::{Refused, knock};
use wayline_tests::{Caller, Mesh, Request, curl, eventually, h2peer};

use crate::scene::{self, ECHO, ECHO_AUTHORITY, PORT, WAYPOINT};

const PRODUCTPAGE: &str = "spiffe://cluster.local/ns/default/sa/productpage";

#[test]
fn curl_reaches_a_service_by_address_and_by_name() {
    let mesh = scene::echo_mesh(&[]);
    let backend = scene::backend(&mesh, "echo", ECHO);
    let _wayline = mesh.start();
    let certificate = mesh.certificate(PRODUCTPAGE);
    for host in [
        "10.96.0.20",
        "echo.default.svc.cluster.local",
        "echo.default.svc",
        "echo.default",
    ] {
        let url = format!("http://{host}/path?q=1");
        let args = ["--write-out", "|%{http_code}|%{http_version}", &url];
        let finished = curl::through(mesh.hbone(), &certificate, &args);
        assert_eq!(finished.code, Some(0), "{finished:?}");
        assert_eq!(finished.text, "echo|200|1.1", "{host}");
        let request = backend.last();
        assert_eq!(request.target, "/path?q=1");
        assert_eq!(request.header("host"), Some(host));
    }
}

#[test]
fn curl_speaks_http2_inside_a_tunnel_and_so_does_the_backend_then() {
    let mesh = scene::echo_mesh(&[]);
    let answer = h2peer::Message {
        status: 200,
        headers: h2peer::headers(&[("x-version", "2")]),
        body: b"h2 echo".to_vec(),
        ..h2peer::Message::default()
    };
    let backend = h2peer::Server::start(mesh.ip(ECHO), PORT, answer);
    let _wayline = mesh.start();
    let certificate = mesh.certificate(PRODUCTPAGE);
    let finished = curl::through(
        mesh.hbone(),
        &certificate,
        &[
            "--http2-prior-knowledge",
            "--data",
            "some body",
            "--write-out",
            "|%{http_code}|%{http_version}|%header{x-version}",
            "http://echo.default/h2",
        ],
    );
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(finished.text, "h2 echo|200|2|2");
    assert_eq!(backend.last().path, "/h2");
    assert_eq!(backend.last().body, b"some body");
}

#[test]
fn envoy_tunnels_through_the_waypoint() {
    let mesh = scene::echo_mesh(&[]);
    let backend = scene::backend(&mesh, "echo", ECHO);
    let _wayline = mesh.start();
    for authority in [ECHO_AUTHORITY, "echo.default.svc.cluster.local:80"] {
        let certificate = mesh.certificate(PRODUCTPAGE);
        let envoy = Envoy::client(&mesh, &certificate, WAYPOINT, authority);
        let answer = Request::new("POST", "/from-envoy")
            .body("hello")
            .header("Connection", "close")
            .send(envoy.address);
        assert_eq!((answer.status, answer.text()), (200, "echo".to_owned()));
        assert_eq!(backend.last().body, b"hello");
        let line = envoy.logged("peer=");
        assert!(line.contains(&format!("peer={WAYPOINT}")), "{line}");
    }
}

#[test]
fn many_requests_share_one_tunnel_and_many_tunnels_one_connection() {
    let mesh = scene::echo_mesh(&[]);
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/productpage", ECHO_AUTHORITY);
    let mut conversations: Vec<_> = (0..120)
        .map(|_| wayline_tests::Conversation::open(tunnel.address))
        .collect();
    for _ in 0..3 {
        for conversation in &mut conversations {
            let answer = conversation.exchange(&Request::get("/")).unwrap();
            assert_eq!(answer.text(), "echo");
        }
    }
    let open = wayline.metrics().sum("wayline_connections", &[]);
    assert!((1.0..10.0).contains(&open), "{open} connections");
}

#[test]
fn whoever_cannot_prove_to_be_of_the_mesh_is_refused_and_counted() {
    let mesh = scene::echo_mesh(&[]);
    let backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();

    let mut plain = TcpStream::connect(mesh.hbone()).unwrap();
    plain
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(answer.is_empty(), "{answer:?}");
    eventually("plain text to be counted", || {
        (wayline.refusals("not_tls") == 1.0).then_some(())
    });

    let mut nobody = curl::plain();
    nobody
        .args(["--proxytunnel", "--proxy-http2", "--proxy-insecure"])
        .args(["-x", &format!("https://{}", mesh.hbone())])
        .arg("http://echo.default/");
    let finished = wayline_tests::process::run(nobody);
    assert_ne!(finished.code, Some(0), "{finished:?}");
    eventually("a missing certificate to be counted", || {
        (wayline.refusals("no_certificate") == 1.0).then_some(())
    });

    let other_ca = mesh.certificate_of(&mesh.home().join("other-ca"), PRODUCTPAGE);
    let other_domain = mesh.certificate("spiffe://other.domain/ns/default/sa/productpage");
    for (certificate, reason) in [(other_ca, "unknown_issuer"), (other_domain, "trust_domain")] {
        let finished = curl::through(mesh.hbone(), &certificate, &["http://echo.default/"]);
        assert_ne!(finished.code, Some(0), "{finished:?}");
        eventually(reason, || (wayline.refusals(reason) == 1.0).then_some(()));
    }
    assert_eq!(backend.connections(), 0);
    // The waypoint still serves those who belong here.
    assert_eq!(mesh.knock("default/productpage", ECHO_AUTHORITY), Ok(()));
}

#[test]
fn a_trust_domain_alias_belongs_to_the_mesh() {
    let mesh = scene::echo_mesh(&[]);
    mesh.write(
        "mesh.yaml",
        &mesh.logging("trustDomainAliases: [old.domain]"),
    );
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let _wayline = mesh.start();
    let caller = Caller {
        certificate: mesh.certificate("spiffe://old.domain/ns/default/sa/productpage"),
        source: None,
        window: None,
    };
    assert_eq!(knock(mesh.hbone(), &caller, ECHO_AUTHORITY), Ok(()));
}

#[test]
fn what_is_not_served_is_refused_with_ztunnels_codes() {
    let mesh = scene::echo_mesh(&[]);
    mesh.write(
        "other.yaml",
        &manifests::file(&[
            manifests::service("elsewhere", "aloof", "10.96.0.99", &[("http", 80, PORT)]),
            Pod::new("aloof", mesh.ip(99)).namespace("elsewhere").yaml(),
        ]),
    );
    let backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let admin = wayline.address(port::ADMIN).to_string();
    let status = wayline.address(port::STATUS).to_string();
    let pod = format!("{}:{PORT}", mesh.ip(ECHO));
    for (authority, code) in [
        // Known, and not behind this waypoint.
        ("10.96.0.99:80", 400),
        (&*pod, 400),
        // Not known at all.
        ("10.96.0.1:80", 503),
        ("nothing.default.svc.cluster.local:80", 503),
        ("echo.default.svc.cluster.local:81", 503),
        ("127.0.0.1:15000", 503),
        (&*admin, 503),
        (&*status, 503),
    ] {
        let outcome = mesh.knock("default/productpage", authority);
        assert_eq!(outcome, Err(Refused::Status(code)), "{authority}");
    }
    assert_eq!(wayline.refusals("unknown_target"), 8.0);
    assert_eq!(backend.connections(), 0);
}

#[test]
fn refusals_are_logged_once_per_reason_and_minute() {
    let mesh = scene::echo_mesh(&[]);
    let wayline = mesh.start();
    for _ in 0..5 {
        let outcome = mesh.knock("default/productpage", "10.96.0.1:80");
        assert_eq!(outcome, Err(Refused::Status(503)));
    }
    assert_eq!(wayline.refusals("unknown_target"), 5.0);
    let lines = wayline.process.stderr();
    assert_eq!(lines.matches("10.96.0.1:80").count(), 1, "{lines}");
}

#[test]
fn enrolment_follows_the_labels_while_running() {
    let mesh = scene::echo_mesh(&[]);
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let _wayline = mesh.start();
    assert_eq!(mesh.knock("default/a", ECHO_AUTHORITY), Ok(()));
    let documents = [
        manifests::namespace("default", &[("istio.io/use-waypoint", "none")]),
        manifests::waypoint("default", "waypoint"),
        scene::service(&mesh, "echo", ECHO).join("---\n"),
    ];
    mesh.write("main.yaml", &manifests::file(&documents));
    eventually("the service to leave the waypoint", || {
        (mesh.knock("default/a", ECHO_AUTHORITY) == Err(Refused::Status(400))).then_some(())
    });
}

#[test]
fn several_waypoints_share_the_port_and_the_authority_tells_them_apart() {
    let mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh.logging(""));
    let deny = |namespace: &str, waypoint: &str, path: &str| {
        manifests::policy(
            namespace,
            "p",
            &format!(
                "targetRefs: [{{kind: Gateway, group: gateway.networking.k8s.io, name: {waypoint}}}]
action: DENY
rules: [{{to: [{{operation: {{paths: [{path}]}}}}]}}]
"
            ),
        )
    };
    let mut documents = Vec::new();
    for (namespace, waypoint, host) in [("one", "first", 41), ("two", "second", 42)] {
        let labels = [("istio.io/use-waypoint", waypoint)];
        documents.push(manifests::namespace(namespace, &labels));
        documents.push(manifests::waypoint(namespace, waypoint));
        let address = format!("10.96.0.{host}");
        let ports = [("http", 80, PORT)];
        documents.push(manifests::service(namespace, "echo", &address, &ports));
        let pod = Pod::new("echo", mesh.ip(host)).namespace(namespace);
        documents.push(pod.yaml());
        documents.push(deny(namespace, waypoint, &format!("/not-in-{namespace}")));
    }
    mesh.write("main.yaml", &manifests::file(&documents));
    let _backends = [41, 42].map(|host| scene::backend(&mesh, "echo", host));
    let named = mesh.start_with(&["--gateway", "two/second"]);
    named.wait_ready();
    // Only the one that was named is played.
    assert_eq!(
        mesh.knock("default/a", "10.96.0.41:80"),
        Err(Refused::Status(400))
    );
    assert_eq!(mesh.knock("default/a", "10.96.0.42:80"), Ok(()));
    drop(named);
    let both = mesh.start();
    for (host, own, other) in [(41, "one", "two"), (42, "two", "one")] {
        let tunnel = mesh.tunnel("default/a", &format!("10.96.0.{host}:80"));
        let status = |path: String| Request::get(&path).send(tunnel.address).status;
        assert_eq!(status(format!("/not-in-{own}")), 403, "{own}");
        assert_eq!(status(format!("/not-in-{other}")), 200, "{own}");
    }
    // The certificate is that of the first by name, and somebody should know.
    let certificate = mesh.certificate(PRODUCTPAGE);
    let first = "spiffe://cluster.local/ns/one/sa/first";
    let envoy = Envoy::client(&mesh, &certificate, first, "10.96.0.42:80");
    assert_eq!(Request::get("/").send(envoy.address).status, 200);
    assert!(both.process.stderr().contains("--gateway"));
}

#[test]
fn a_waypoint_of_another_namespace_serves_whom_it_allows() {
    let mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh.logging(""));
    let labels = [
        ("istio.io/use-waypoint", "shared"),
        ("istio.io/use-waypoint-namespace", "infra"),
    ];
    let all = |waypoint: String| {
        manifests::file(&[
            manifests::namespace("default", &labels),
            waypoint,
            scene::service(&mesh, "echo", ECHO).join("---\n"),
        ])
    };
    let open = manifests::waypoint("infra", "shared");
    mesh.write("main.yaml", &all(open.clone()));
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let _wayline = mesh.start();
    assert_eq!(mesh.knock("default/a", ECHO_AUTHORITY), Ok(()));
    mesh.write("main.yaml", &all(open.replace("from: All", "from: Same")));
    eventually("the waypoint to refuse the other namespace", || {
        (mesh.knock("default/a", ECHO_AUTHORITY) == Err(Refused::Status(400))).then_some(())
    });
}

#[test]
fn hosts_are_found_however_they_are_spelt() {
    let mesh = scene::echo_mesh(&[]);
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let _wayline = mesh.start();
    let certificate = mesh.certificate(PRODUCTPAGE);
    let authority = "Echo.Default.SVC.cluster.local:80";
    let envoy = Envoy::client(&mesh, &certificate, WAYPOINT, authority);
    assert_eq!(Request::get("/").send(envoy.address).text(), "echo");
}
