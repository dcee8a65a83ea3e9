//! The scene that most tests share: namespace `default` behind a waypoint, with services on port 80
//! whose pods listen on 23917.

use std::net::SocketAddr;

use wayline_tests::manifests::{self, Parent, Pod};
use wayline_tests::{Backend, Mesh};

/// Where backends listen.
pub(crate) const PORT: u16 = 23917;

/// The pod of [`echo`].
pub(crate) const ECHO: u8 = 20;

/// The address of the service `echo`.
pub(crate) const ECHO_IP: &str = "10.96.0.20";

/// The authority of the service `echo`.
pub(crate) const ECHO_AUTHORITY: &str = "10.96.0.20:80";

/// The waypoint's identity.
pub(crate) const WAYPOINT: &str = "spiffe://cluster.local/ns/default/sa/waypoint";

/// `default`, enrolled at a waypoint of its own.
pub(crate) fn waypoint() -> Vec<String> {
    vec![
        manifests::namespace("default", &[("istio.io/use-waypoint", "waypoint")]),
        manifests::waypoint("default", "waypoint"),
    ]
}

/// A service `name` at `10.96.0.<host>` with one pod at that host of the mesh's network.
pub(crate) fn service(mesh: &Mesh, name: &str, host: u8) -> Vec<String> {
    vec![
        manifests::service(
            "default",
            name,
            &format!("10.96.0.{host}"),
            &[("http", 80, PORT)],
        ),
        Pod::new(name, mesh.ip(host)).yaml(),
    ]
}

/// Waypoint and the service `echo`.
pub(crate) fn echo(mesh: &Mesh) -> Vec<String> {
    let mut documents = waypoint();
    documents.extend(service(mesh, "echo", ECHO));
    documents
}

/// A mesh with [`echo`], and with more.
pub(crate) fn echo_mesh(more: &[String]) -> Mesh {
    let mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh.logging(""));
    let mut documents = echo(&mesh);
    documents.extend_from_slice(more);
    mesh.write("main.yaml", &manifests::file(&documents));
    mesh
}

/// The backend of a pod, which says its name.
pub(crate) fn backend(mesh: &Mesh, name: &str, host: u8) -> Backend {
    Backend::saying(mesh.ip(host), PORT, name)
}

/// A Gateway `edge` with a listener `http` on port 23920 of the proxy's host.
pub(crate) fn edge(mesh: &Mesh) -> String {
    let address = mesh.ip(wayline_tests::mesh::PROXY);
    manifests::gateway(
        "default",
        "edge",
        address,
        &manifests::listener("http", 23920),
    )
}

/// Where [`edge`] listens.
pub(crate) fn edge_address(mesh: &Mesh) -> SocketAddr {
    SocketAddr::new(mesh.ip(wayline_tests::mesh::PROXY), 23920)
}

/// A route from [`edge`] to the service `echo`, whatever the host.
pub(crate) fn edge_to_echo() -> String {
    manifests::route("default", "edge", Parent::Gateway("edge"), TO_ECHO)
}

/// Rules that send everything to `echo`.
pub(crate) const TO_ECHO: &str = "
- backendRefs:
  - name: echo
    port: 80
";
