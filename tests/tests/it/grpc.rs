//! gRPC's interoperability cases through the proxy, with gRPC's own implementation on both sides.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use wayline_tests::process::{self, Process};
use wayline_tests::{Mesh, eventually, manifests, tools};

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
