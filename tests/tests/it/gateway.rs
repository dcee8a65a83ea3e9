//! The entrance for clients outside the mesh.

use std::net::SocketAddr;

use wayline_tests::manifests::{self, Parent, policy, route, route_for};
use wayline_tests::mesh::PROXY;
use wayline_tests::process::run;
use wayline_tests::{Backend, Mesh, Request, curl, eventually};

use crate::scene::{self, ECHO, TO_ECHO};

/// Who answered, or the status.
fn said(request: &Request, to: SocketAddr) -> String {
    let answer = request.send(to);
    match answer.status {
        200 => answer.text(),
        status => status.to_string(),
    }
}

/// Services `echo` and `shop`, each said by its backend, and more manifests.
fn mesh(more: &[String]) -> (Mesh, [Backend; 2]) {
    let mesh = scene::echo_mesh(more);
    mesh.write(
        "shop.yaml",
        &scene::service(&mesh, "shop", 21).join("---\n"),
    );
    let backends = [
        scene::backend(&mesh, "echo", ECHO),
        scene::backend(&mesh, "shop", 21),
    ];
    (mesh, backends)
}

const TO_SHOP: &str = "- backendRefs: [{name: shop, port: 80}]";

#[test]
fn hostnames_of_routes_choose_the_service() {
    let (mesh, _backends) = mesh(&[]);
    mesh.write(
        "edge.yaml",
        &manifests::file(&[
            scene::edge(&mesh),
            route_for(
                "default",
                "echo",
                Parent::Gateway("edge"),
                &["echo.example.com"],
                TO_ECHO,
            ),
            route_for(
                "default",
                "shop",
                Parent::Gateway("edge"),
                &["*.shop.example.com"],
                TO_SHOP,
            ),
        ]),
    );
    let _wayline = mesh.start();
    let edge = scene::edge_address(&mesh);
    for (host, expected) in [
        ("echo.example.com", "echo"),
        ("ECHO.example.com:23920", "echo"),
        ("a.shop.example.com", "shop"),
        ("a.b.shop.example.com", "shop"),
        ("shop.example.com", "404"),
        ("other.example.com", "404"),
    ] {
        assert_eq!(
            said(&Request::get("/").host(host), edge),
            expected,
            "{host}"
        );
    }
}

#[test]
fn a_gateway_speaks_http2_with_prior_knowledge() {
    let (mesh, backends) = mesh(&[]);
    let manifests = [scene::edge(&mesh), scene::edge_to_echo()];
    mesh.write("edge.yaml", &manifests::file(&manifests));
    let _wayline = mesh.start();
    let mut command = curl::plain();
    command
        .args([
            "--http2-prior-knowledge",
            "--write-out",
            "|%{http_code}|%{http_version}",
        ])
        .arg(format!("http://{}/x", scene::edge_address(&mesh)));
    assert_eq!(run(command).text, "echo|200|2");
    // Behind a gateway the service's port decides what is spoken.
    assert_eq!(backends[0].last().target, "/x");
}

#[test]
fn listeners_differ_by_hostname_and_by_who_may_attach() {
    let (mesh, _backends) = mesh(&[]);
    let listeners = "
- name: own
  port: 23920
  protocol: HTTP
  hostname: own.example.com
- name: shared
  port: 23920
  protocol: HTTP
  hostname: shared.example.com
  allowedRoutes:
    namespaces:
      from: Selector
      selector: {matchLabels: {team: shop}}
- name: second
  port: 23921
  protocol: HTTP
  allowedRoutes: {namespaces: {from: All}}
";
    let guest = "- backendRefs: [{name: shop, namespace: default, port: 80}]";
    mesh.write(
        "edge.yaml",
        &manifests::file(&[
            manifests::gateway("default", "edge", mesh.ip(PROXY), listeners),
            route("default", "echo", Parent::Gateway("edge"), TO_ECHO),
            manifests::namespace("guests", &[("team", "shop")]),
            route(
                "guests",
                "guest",
                Parent::GatewayOf("default", "edge"),
                guest,
            ),
            route_for(
                "strangers",
                "stranger",
                Parent::GatewayOf("default", "edge"),
                &["stranger.example.com"],
                guest,
            ),
            "apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: all, namespace: default}
spec:
  from:
  - {group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: guests}
  - {group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: strangers}
  to: [{group: \"\", kind: Service}]
"
            .to_owned(),
        ]),
    );
    let _wayline = mesh.start();
    let first = SocketAddr::new(mesh.ip(PROXY), 23920);
    let second = SocketAddr::new(mesh.ip(PROXY), 23921);
    for (address, host, expected) in [
        (first, "own.example.com", "echo"),
        (first, "shared.example.com", "shop"),
        (first, "stranger.example.com", "404"),
        (second, "stranger.example.com", "shop"),
    ] {
        let request = Request::get("/").host(host);
        assert_eq!(said(&request, address), expected, "{address} {host}");
    }
}

#[test]
fn policies_come_before_routes() {
    let (mesh, _backends) = mesh(&[]);
    mesh.write(
        "edge.yaml",
        &manifests::file(&[
            scene::edge(&mesh),
            route_for(
                "default",
                "echo",
                Parent::Gateway("edge"),
                &["echo.example.com"],
                TO_ECHO,
            ),
            policy(
                "default",
                "edge",
                "selector:
  matchLabels:
    gateway.networking.k8s.io/gateway-name: edge
action: DENY
rules:
- to: [{operation: {paths: [/secret*]}}]
",
            ),
        ]),
    );
    let _wayline = mesh.start();
    let edge = scene::edge_address(&mesh);
    for (host, path, expected) in [
        ("echo.example.com", "/", "echo"),
        ("echo.example.com", "/secret", "403"),
        ("nowhere.example.com", "/secret", "403"),
        ("nowhere.example.com", "/", "404"),
    ] {
        let request = Request::get(path).host(host);
        assert_eq!(said(&request, edge), expected, "{host}{path}");
    }
}

#[test]
fn namespace_wide_policies_reach_gateways() {
    let (mesh, _backends) = mesh(&[]);
    mesh.write(
        "edge.yaml",
        &manifests::file(&[
            scene::edge(&mesh),
            scene::edge_to_echo(),
            policy(
                "istio-system",
                "mesh-wide",
                "action: DENY\nrules: [{to: [{operation: {methods: [TRACE]}}]}]\n",
            ),
            policy(
                "default",
                "namespace",
                "action: DENY\nrules: [{to: [{operation: {methods: [DELETE]}}]}]\n",
            ),
            policy(
                "other",
                "elsewhere",
                "action: DENY\nrules: [{to: [{operation: {methods: [PUT]}}]}]\n",
            ),
        ]),
    );
    let _wayline = mesh.start();
    let edge = scene::edge_address(&mesh);
    for (method, expected) in [("TRACE", "403"), ("DELETE", "403"), ("PUT", "echo")] {
        assert_eq!(said(&Request::new(method, "/"), edge), expected, "{method}");
    }
}

#[test]
fn forwarded_headers_say_who_came() {
    let (mesh, backends) = mesh(&[]);
    let documents = [scene::edge(&mesh), scene::edge_to_echo()];
    mesh.write("edge.yaml", &manifests::file(&documents));
    let _wayline = mesh.start();
    let _ = Request::get("/")
        .header("X-Forwarded-Client-Cert", "By=spiffe://forged")
        .send(scene::edge_address(&mesh));
    let request = backends[0].last();
    assert_eq!(request.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.header("x-forwarded-proto"), Some("http"));
    assert_eq!(request.header("x-forwarded-client-cert"), None);
    assert_eq!(request.header("x-request-id").map(str::len), Some(36));
}

#[test]
fn ports_come_and_go_with_the_manifest() {
    let (mesh, _backends) = mesh(&[]);
    let gateway = |ports: &[u16]| {
        let listeners: String = ports
            .iter()
            .map(|port| manifests::listener(&format!("p{port}"), *port))
            .collect();
        manifests::gateway("default", "edge", mesh.ip(PROXY), &listeners)
    };
    mesh.write("edge.yaml", &gateway(&[23920]));
    mesh.write("route.yaml", &scene::edge_to_echo());
    let wayline = mesh.start();
    let at = |port| SocketAddr::new(mesh.ip(PROXY), port);
    assert_eq!(said(&Request::get("/"), at(23920)), "echo");
    assert!(std::net::TcpStream::connect(at(23922)).is_err());
    mesh.write("edge.yaml", &gateway(&[23920, 23922]));
    eventually("the new port", || {
        std::net::TcpStream::connect(at(23922))
            .is_ok()
            .then_some(())
    });
    assert_eq!(said(&Request::get("/"), at(23922)), "echo");
    mesh.write("edge.yaml", &gateway(&[23922]));
    eventually("the old port to close", || {
        std::net::TcpStream::connect(at(23920))
            .is_err()
            .then_some(())
    });
    assert!(wayline.is_ready());
}

#[test]
fn a_port_that_is_taken_says_so_and_is_tried_again() {
    let (mesh, _backends) = mesh(&[]);
    let taken = std::net::TcpListener::bind((mesh.ip(PROXY), 23923)).unwrap();
    let listeners = manifests::listener("a", 23920) + &manifests::listener("b", 23923);
    mesh.write(
        "edge.yaml",
        &manifests::gateway("default", "edge", mesh.ip(PROXY), &listeners),
    );
    mesh.write("route.yaml", &scene::edge_to_echo());
    let wayline = mesh.start();
    assert_eq!(said(&Request::get("/"), scene::edge_address(&mesh)), "echo");
    let status = wayline.admin("GET", "/listeners").text();
    let line = status.lines().find(|line| line.contains("23923"));
    assert!(line.is_some_and(|line| line.contains("in use")), "{status}");
    drop(taken);
    let freed = SocketAddr::new(mesh.ip(PROXY), 23923);
    eventually("the freed port", || {
        std::net::TcpStream::connect(freed).is_ok().then_some(())
    });
    assert_eq!(said(&Request::get("/"), freed), "echo");
}
