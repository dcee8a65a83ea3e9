//! Endpoints, workloads, protocols.

use serde_json::{Value, json};
use wayline_model::service::{AppProtocol, Cluster, Transport};
use wayline_model::snapshot::Snapshot;

use crate::world::*;

const WEB: &str = "web.shop.svc.cluster.local";

fn slice(endpoints: Value, ports: Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": "shop", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": ports
    })
}

fn cluster(snapshot: &Snapshot) -> &Cluster {
    &snapshot.clusters[&target(snapshot, WEB, 80).cluster]
}

fn addresses(snapshot: &Snapshot) -> Vec<String> {
    let endpoints = &cluster(snapshot).endpoints;
    endpoints.iter().map(|e| e.address.to_string()).collect()
}

#[test]
fn endpoints_come_from_slices_when_they_are_ready() {
    let endpoints = json!([
        {"addresses": ["10.2.0.1"], "zone": "a"},
        {"addresses": ["10.2.0.2"], "conditions": {"ready": true}},
        {"addresses": ["10.2.0.3"], "conditions": {"ready": false}},
        {"addresses": ["10.2.0.4"], "conditions": {"ready": false, "serving": true, "terminating": true}},
        {"addresses": ["nonsense"]},
    ]);
    let mut documents = vec![
        enrolled("shop", "web", "10.1.0.1"),
        waypoint("shop", "wp"),
        // Slices exist: Pods are not looked at.
        pod("shop", "web-9", "web", "10.2.0.9"),
        slice(
            endpoints,
            json!([{"name": "http", "port": 9090}, {"name": "other", "port": 1}]),
        ),
    ];
    let translation = translate(&documents);
    let snapshot = &translation.snapshot;
    assert_eq!(addresses(snapshot), ["10.2.0.1:9090", "10.2.0.2:9090"]);
    assert_eq!(&*cluster(snapshot).endpoints[0].zone, "a");
    assert_eq!(
        &*cluster(snapshot).name,
        "outbound|80||web.shop.svc.cluster.local"
    );
    assert!(has_error(
        &translation,
        "EndpointSlice shop/web-1",
        "not an address"
    ));

    documents[3]["ports"] = json!([{"name": "other", "port": 1}]);
    let translation = translate(&documents);
    assert!(addresses(&translation.snapshot).is_empty());
    assert!(has_error(
        &translation,
        "Service shop/web",
        "no EndpointSlice has a port"
    ));
}

#[test]
fn endpoints_come_from_pods_where_there_is_no_slice() {
    let mut named = service("shop", "web", "10.1.0.1");
    named["metadata"]["labels"] = json!({"istio.io/use-waypoint": "wp"});
    named["spec"]["ports"][0]["targetPort"] = json!("web");
    let mut unready = pod("shop", "web-2", "web", "10.2.0.2");
    unready["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
    let mut ended = pod("shop", "web-3", "web", "10.2.0.3");
    ended["status"]["phase"] = json!("Succeeded");
    let translation = translate(&[
        named,
        waypoint("shop", "wp"),
        pod("shop", "web-1", "web", "10.2.0.1"),
        unready,
        ended,
        pod("shop", "db-1", "db", "10.2.0.4"),
        pod("other", "web-1", "web", "10.2.0.5"),
    ]);
    assert_sound(&translation);
    assert_eq!(addresses(&translation.snapshot), ["10.2.0.1:8080"]);
}

#[test]
fn captured_pods_are_reached_by_hbone_as_who_they_are() {
    let mut annotated = pod("shop", "web-1", "web", "10.2.0.1");
    annotated["metadata"]["annotations"] = json!({"ambient.istio.io/redirection": "enabled"});
    let mut native = pod("shop", "web-2", "web", "10.2.0.2");
    native["metadata"]["labels"]["networking.istio.io/tunnel"] = json!("http");
    let endpoints = json!([
        {"addresses": ["10.2.0.1"], "targetRef": {"kind": "Pod", "name": "web-1"}},
        {"addresses": ["10.2.0.2"], "targetRef": {"kind": "Pod", "name": "web-2", "namespace": "shop"}},
        {"addresses": ["10.2.0.3"], "targetRef": {"kind": "Pod", "name": "unknown"}},
    ]);
    let translation = translate(&[
        enrolled("shop", "web", "10.1.0.1"),
        waypoint("shop", "wp"),
        annotated,
        native,
        slice(endpoints, json!([{"name": "http", "port": 8080}])),
    ]);
    let endpoints = &cluster(&translation.snapshot).endpoints;
    for (endpoint, gateway) in endpoints.iter().zip(["10.2.0.1:15008", "10.2.0.2:15008"]) {
        assert_eq!(
            endpoint.transport,
            Transport::Hbone {
                gateway: gateway.parse().unwrap(),
                identity: "spiffe://cluster.local/ns/shop/sa/web-sa".parse().unwrap(),
            }
        );
    }
    assert_eq!(endpoints[2].transport, Transport::Plain);
    assert!(endpoints[2].workload.is_none());
}

#[test]
fn an_endpoint_that_names_no_pod_is_the_one_at_its_address() {
    let mut alone = pod("shop", "web-1", "web", "10.2.0.1");
    alone["metadata"]["annotations"] = json!({"ambient.istio.io/redirection": "enabled"});
    let sharing = |name: &str, port: u16| {
        let mut pod = pod("shop", name, "web", "127.0.0.1");
        pod["metadata"]["annotations"] = json!({"ambient.istio.io/redirection": "enabled"});
        pod["spec"]["containers"] = json!([{"name": "c", "ports": [{"containerPort": port}]}]);
        pod
    };
    let transports = |address: &str, port: u16| -> Vec<bool> {
        let translation = translate(&[
            enrolled("shop", "web", "10.1.0.1"),
            waypoint("shop", "wp"),
            alone.clone(),
            sharing("web-2", 8080),
            sharing("web-3", 9090),
            sharing("web-4", 9090),
            pod("other", "web-1", "web", "10.2.0.9"),
            slice(
                json!([{"addresses": [address]}]),
                json!([{"name": "http", "port": port}]),
            ),
        ]);
        let endpoints = &cluster(&translation.snapshot).endpoints;
        endpoints
            .iter()
            .map(|endpoint| endpoint.transport != Transport::Plain)
            .collect()
    };
    assert_eq!(transports("10.2.0.1", 8080), [true]);
    assert_eq!(
        transports("127.0.0.1", 8080),
        [true],
        "the only one with that port"
    );
    assert_eq!(transports("127.0.0.1", 9090), [false], "two could be meant");
    assert_eq!(
        transports("10.2.0.9", 8080),
        [false],
        "of another namespace"
    );
}

#[test]
fn workloads_are_named_as_istio_names_them() {
    let named = |labels: Value, owner: Value, name: &str| {
        let mut pod = pod("shop", name, "web", "10.2.0.1");
        pod["metadata"]["labels"] = labels;
        pod["metadata"]["ownerReferences"] = owner;
        let translation = translate(&[pod]);
        let workloads = &translation.snapshot.workloads;
        let workload = &workloads.by_address[&("".into(), "10.2.0.1".parse().unwrap())];
        (
            workload.workload_name.to_string(),
            workload.canonical_name.to_string(),
            workload.canonical_revision.to_string(),
        )
    };
    let owner = |kind: &str, name: &str| json!([{"kind": kind, "name": name, "controller": true}]);
    let expect = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    assert_eq!(
        named(
            json!({"app": "web", "version": "v2", "pod-template-hash": "5f"}),
            owner("ReplicaSet", "web-v2-5f"),
            "web-v2-5f-xyz"
        ),
        expect("web-v2", "web", "v2")
    );
    assert_eq!(
        named(
            json!({"pod-template-hash": "5f"}),
            json!([]),
            "web-v2-5f-xyz"
        ),
        expect("web-v2", "web-v2", "latest")
    );
    assert_eq!(
        named(json!({}), json!([]), "web"),
        expect("web", "web", "latest")
    );
    assert_eq!(
        named(
            json!({}),
            owner("Job", "backup-28392840"),
            "backup-28392840-x"
        ),
        expect("backup", "backup", "latest")
    );
    assert_eq!(
        named(
            json!({"service.istio.io/canonical-name": "n", "service.istio.io/canonical-revision": "r", "app": "a"}),
            owner("StatefulSet", "db"),
            "db-0"
        ),
        expect("db", "n", "r")
    );
}

#[test]
fn an_address_that_pods_share_tells_nobody_apart() {
    let translation = translate(&[
        pod("shop", "a", "web", "127.0.0.1"),
        pod("shop", "b", "db", "127.0.0.1"),
        pod("shop", "c", "cache", "127.0.0.2"),
    ]);
    let workloads = &translation.snapshot.workloads;
    assert_eq!(workloads.by_address.len(), 1);
    assert_eq!(workloads.by_identity.len(), 3);
}

#[test]
fn protocols_are_told_as_istio_tells_them() {
    let protocol = |name: &str, app: Option<&str>, port: u16| {
        let mut service = enrolled("shop", "web", "10.1.0.1");
        service["spec"]["ports"] = json!([{"name": name, "port": port, "appProtocol": app}]);
        let translation = translate(&[service, waypoint("shop", "wp")]);
        assert_sound(&translation);
        target(&translation.snapshot, WEB, port).protocol
    };
    for (name, app, port, expected) in [
        ("http", None, 80, AppProtocol::Http),
        ("http-web", None, 80, AppProtocol::Http),
        ("HTTP2-web", None, 80, AppProtocol::Http2),
        ("grpc", None, 80, AppProtocol::Grpc),
        ("grpc-web", None, 80, AppProtocol::Http),
        ("https", None, 443, AppProtocol::Tls),
        ("tls-x", None, 443, AppProtocol::Tls),
        ("tcp", None, 80, AppProtocol::Tcp),
        ("mysql", None, 80, AppProtocol::Tcp),
        ("httpx", None, 80, AppProtocol::Undeclared),
        ("web", None, 80, AppProtocol::Undeclared),
        ("web", None, 3306, AppProtocol::Tcp),
        ("http", None, 3306, AppProtocol::Http),
        ("tcp", Some("http"), 80, AppProtocol::Http),
        ("http", Some("kubernetes.io/h2c"), 80, AppProtocol::Http2),
        ("tcp", Some("kubernetes.io/ws"), 80, AppProtocol::Http),
        ("http", Some("kubernetes.io/wss"), 80, AppProtocol::Tls),
        ("http", Some("example.com/own"), 80, AppProtocol::Undeclared),
    ] {
        assert_eq!(protocol(name, app, port), expected, "{name} {app:?} {port}");
    }
}

#[test]
fn udp_ports_and_external_names_are_not_served() {
    let mut udp = enrolled("shop", "web", "10.1.0.1");
    udp["spec"]["ports"] = json!([{"name": "dns", "port": 80, "protocol": "UDP"}]);
    let mut external = enrolled("shop", "ext", "");
    external["spec"] = json!({"type": "ExternalName", "externalName": "example.com",
                              "ports": [{"name": "http", "port": 80}]});
    let translation = translate(&[udp, external, waypoint("shop", "wp")]);
    assert!(!is_served(&translation.snapshot, WEB));
    assert!(!is_served(
        &translation.snapshot,
        "ext.shop.svc.cluster.local"
    ));
    assert!(has_error(&translation, "Service shop/ext", "ExternalName"));
}

#[test]
fn a_headless_service_is_served_by_name() {
    let translation = translate(&[enrolled("shop", "web", "None"), waypoint("shop", "wp")]);
    assert!(is_served(&translation.snapshot, WEB));
    assert!(translation.snapshot.tunnels.by_address.is_empty());
}
