//! HBONE out: Envoy stands where a captured pod's ztunnel would.

use std::net::SocketAddr;

use wayline_tests::envoy::Envoy;
use wayline_tests::manifests::{self, Pod};
use wayline_tests::{Backend, Mesh, Request};

use crate::scene::{self, ECHO, ECHO_AUTHORITY, PORT, WAYPOINT};

/// Where the backend behind Envoy listens: not at the pod's address.
const BEHIND: u8 = 30;

fn mesh_with(pod: impl FnOnce(Pod) -> Pod) -> Mesh {
    let mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh.logging(""));
    let mut documents = scene::waypoint();
    documents.push(manifests::service(
        "default",
        "echo",
        "10.96.0.20",
        &[("http", 80, PORT)],
    ));
    documents.push(pod(Pod::new("echo", mesh.ip(ECHO))).yaml());
    mesh.write("main.yaml", &manifests::file(&documents));
    mesh
}

fn envoy(mesh: &Mesh, identity: &str, backend: &Backend) -> Envoy {
    Envoy::server(
        mesh,
        &mesh.certificate(identity),
        SocketAddr::new(mesh.ip(ECHO), 15_008),
        backend.address,
        WAYPOINT,
    )
}

#[test]
fn a_captured_pod_is_reached_by_hbone_however_it_says_so() {
    for (say, what) in [
        (
            (|pod: Pod| pod.annotation("ambient.istio.io/redirection", "enabled"))
                as fn(Pod) -> Pod,
            "annotation",
        ),
        (
            |pod: Pod| pod.label("networking.istio.io/tunnel", "http"),
            "label",
        ),
    ] {
        let mesh = mesh_with(say);
        let backend = scene::backend(&mesh, "behind envoy", BEHIND);
        let envoy = envoy(&mesh, "spiffe://cluster.local/ns/default/sa/echo", &backend);
        let wayline = mesh.start();
        let tunnel = mesh.tunnel("default/productpage", ECHO_AUTHORITY);
        for _ in 0..3 {
            let answer = Request::new("POST", "/out")
                .body("hello")
                .send(tunnel.address);
            assert_eq!(answer.text(), "behind envoy", "{what}");
        }
        assert_eq!(backend.last().body, b"hello");
        drop(wayline);
        let line = envoy.logged("method=CONNECT");
        let authority = format!("authority={}:{PORT}", mesh.ip(ECHO));
        assert!(line.contains(&authority), "{line}");
        assert!(line.contains(&format!("peer={WAYPOINT}")), "{line}");
    }
}

#[test]
fn another_identity_than_the_pods_own_is_not_talked_to() {
    let mesh = mesh_with(|pod| pod.annotation("ambient.istio.io/redirection", "enabled"));
    let backend = scene::backend(&mesh, "behind envoy", BEHIND);
    let _envoy = envoy(
        &mesh,
        "spiffe://cluster.local/ns/default/sa/impostor",
        &backend,
    );
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/productpage", ECHO_AUTHORITY);
    let answer = Request::get("/wrong").send(tunnel.address);
    assert_eq!(answer.status, 503);
    let line = mesh.logged("/wrong");
    assert!(line.contains(" 503 UF"), "{line}");
    assert!(line.contains("sa/impostor"), "{line}");
    assert_eq!(backend.connections(), 0);
}

#[test]
fn other_pods_are_reached_in_plain() {
    let mesh = mesh_with(|pod| pod);
    let backend = scene::backend(&mesh, "plain", ECHO);
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/productpage", ECHO_AUTHORITY);
    assert_eq!(Request::get("/").send(tunnel.address).text(), "plain");
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_large_body_survives_two_tunnels() {
    let mesh = mesh_with(|pod| pod.annotation("ambient.istio.io/redirection", "enabled"));
    let backend = Backend::http(mesh.ip(BEHIND), PORT, |request| {
        wayline_tests::Reply::ok(request.body.clone())
    });
    let _envoy = envoy(&mesh, "spiffe://cluster.local/ns/default/sa/echo", &backend);
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/productpage", ECHO_AUTHORITY);
    let body: Vec<u8> = (0..6_000_000_u32).map(|n| (n % 251) as u8).collect();
    let answer = Request::new("POST", "/large")
        .body(body.clone())
        .send(tunnel.address);
    assert_eq!(answer.status, 200);
    assert!(
        answer.body == body,
        "{} of {} bytes",
        answer.body.len(),
        body.len()
    );
}
