//! gRPC's interoperability cases through the proxy, with gRPC's own implementation on both sides.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use wayline_tests::envoy::Envoy;
use wayline_tests::manifests::Parent;
use wayline_tests::process::{self, Process};
use wayline_tests::{Backend, Mesh, eventually, h2peer, manifests, tools};

use crate::scene::{self, ECHO, ECHO_AUTHORITY, PORT};

/// Cases of `fixtures/grpc/peer.py`.
const CASES: usize = 13;

fn peer(args: &[&str]) -> Command {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/grpc/peer.py");
    let mut command = Command::new("python3");
    command
        .arg(script)
        .args(args)
        .env("PYTHONPATH", tools::tool("grpcio"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // The loopback networks of meshes are nobody's proxy's business.
        .env("no_grpc_proxy", "*");
    command
}

/// `echo` as a gRPC service behind a waypoint and a gateway.
fn mesh() -> Mesh {
    let mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh.logging(""));
    let mut documents = scene::waypoint();
    let ports = [("grpc", 80, PORT)];
    documents.push(manifests::service(
        "default",
        "echo",
        scene::ECHO_IP,
        &ports,
    ));
    documents.push(manifests::Pod::new("echo", mesh.ip(ECHO)).yaml());
    documents.extend([scene::edge(&mesh), scene::edge_to_echo()]);
    mesh.write("main.yaml", &manifests::file(&documents));
    mesh
}

fn serving(mesh: &Mesh) -> Process {
    let address = SocketAddr::new(mesh.ip(ECHO), PORT).to_string();
    let server = Process::start(peer(&["serve", &address]));
    eventually("the gRPC server", || {
        server.stdout().contains("serving").then_some(())
    });
    server
}

fn all_cases_pass(to: SocketAddr) {
    let finished = process::run(peer(&["cases", &to.to_string()]));
    let passed = finished.text.matches(" ok\n").count();
    assert_eq!(
        (finished.code, passed),
        (Some(0), CASES),
        "{}{}",
        finished.text,
        finished.stderr
    );
}

#[test]
fn interoperability_cases_pass_through_a_gateway() {
    let mesh = mesh();
    let _server = serving(&mesh);
    let wayline = mesh.start();
    all_cases_pass(scene::edge_address(&mesh));
    // The status of gRPC is what counts, and a withdrawn call is not an error of the server's.
    let labels = [("request_protocol", "grpc"), ("grpc_response_status", "12")];
    wayline.counted("istio_requests_total", &labels, 1.0);
}

#[test]
fn interoperability_cases_pass_through_a_waypoint() {
    let mesh = mesh();
    let _server = serving(&mesh);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    all_cases_pass(tunnel.address);
    let labels = [("request_protocol", "grpc"), ("grpc_response_status", "12")];
    wayline.counted("istio_requests_total", &labels, 1.0);
}

/// What a client gets that calls a path, in the parts that gRPC reads.
fn called(to: SocketAddr, path: &str, content_type: &str) -> (u16, Vec<Option<String>>, Vec<u8>) {
    let fields = [("content-type", content_type), ("te", "trailers")];
    let answer = h2peer::post(to, path, &fields, b"\0\0\0\0\0", &[]).unwrap();
    let read = ["content-type", "grpc-status", "grpc-message"].map(|name| {
        let value = answer.headers.get(name)?.to_str().unwrap();
        // What the kernel said about a connection is told with more or fewer words.
        let value = value.split(" reset reason:").next().unwrap_or_default();
        Some(
            value
                .replace("retried and the latest", "")
                .trim()
                .to_owned(),
        )
    });
    assert!(answer.trailers.is_empty(), "{path}: {:?}", answer.trailers);
    (answer.status, read.into(), answer.body)
}

#[test]
fn what_the_proxy_answers_itself_is_a_grpc_status_as_envoy_has_it() {
    let mesh = mesh();
    let silent = Backend::raw(mesh.ip(70), PORT, |_, stream| {
        std::thread::sleep(std::time::Duration::from_secs(5));
        drop(stream);
    });
    let mut documents = scene::service(&mesh, "slow", 70);
    documents.extend(scene::service(&mesh, "refused", 71));
    documents.push(manifests::route(
        "default",
        "own",
        Parent::Gateway("edge"),
        "
- matches: [{path: {value: /slow}}]
  timeouts: {request: 200ms}
  backendRefs: [{name: slow, port: 80}]
- matches: [{path: {value: /refused}}]
  backendRefs: [{name: refused, port: 80}]
- matches: [{path: {value: /moved}}]
  filters:
  - type: RequestRedirect
    requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /elsewhere}}
",
    ));
    documents.push(manifests::policy(
        "default",
        "forbidden",
        "
targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]
action: DENY
rules: [{to: [{operation: {paths: [/forbidden*]}}]}]
",
    ));
    // Nothing else leads anywhere.
    documents.extend(scene::waypoint());
    documents.push(scene::edge(&mesh));
    mesh.write("main.yaml", &manifests::file(&documents));
    let wayline = mesh.start();
    let envoy = Envoy::answering(&mesh, silent.address);
    let edge = scene::edge_address(&mesh);
    for (path, code) in [
        ("/forbidden", "7"),
        ("/nowhere", "12"),
        ("/refused", "14"),
        ("/slow", "14"),
        ("/moved", "2"),
    ] {
        for content_type in ["application/grpc", "application/grpc+proto"] {
            let ours = called(edge, path, content_type);
            assert_eq!(ours, called(envoy.address, path, content_type), "{path}");
            assert_eq!((ours.0, ours.1[1].as_deref()), (200, Some(code)), "{path}");
        }
        // Only gRPC's own clients are answered like this.
        let plain = called(edge, path, "application/grpc-web");
        assert_ne!(
            (plain.0, &plain.1[1]),
            (200, &Some(code.to_owned())),
            "{path}"
        );
    }
    let labels = [
        ("request_protocol", "grpc"),
        ("grpc_response_status", "7"),
        ("response_code", "200"),
    ];
    wayline.counted("istio_requests_total", &labels, 2.0);
}
