//! Gateways: listeners, hosts, attachment, policies.

use std::net::IpAddr;

use serde_json::{Value, json};
use wayline_model::Translation;
use wayline_model::authorization::PolicyInput;
use wayline_model::snapshot::Entrance;

use crate::world::*;

fn gateway(namespace: &str, name: &str, listeners: Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"gatewayClassName": "wayline", "listeners": listeners}
    })
}

fn http(name: &str, port: u16, hostname: Option<&str>) -> Value {
    json!({"name": name, "port": port, "protocol": "HTTP", "hostname": hostname})
}

fn to(namespace: &str, name: &str, parent: Value, hostnames: Value, service: &str) -> Value {
    let mut route = route(
        namespace,
        name,
        parent,
        json!([{"backendRefs": [backend(service, 1)]}]),
    );
    route["spec"]["hostnames"] = hostnames;
    route
}

fn services() -> Vec<Value> {
    ["a", "b", "c", "d"]
        .map(|name| service("web", name, ""))
        .to_vec()
}

fn documents(extra: &[Value]) -> Vec<Value> {
    let mut documents = services();
    documents.extend_from_slice(extra);
    documents
}

fn entrance(translation: &Translation, port: u16) -> &Entrance {
    translation
        .snapshot
        .entrances
        .iter()
        .find(|e| e.port == port)
        .unwrap()
}

fn answers(translation: &Translation, port: u16, hosts: &[(&str, &str)]) {
    for (host, expected) in hosts {
        let entrance = entrance(translation, port);
        assert_eq!(
            at_gateway(&translation.snapshot, &entrance.hosts, host, "/"),
            *expected,
            "{host} on {port}"
        );
    }
}

#[test]
fn the_most_specific_listener_takes_a_host_for_itself() {
    let parent = |section: &str| json!({"name": "gw", "sectionName": section});
    let translation = translate(&documents(&[
        gateway(
            "web",
            "gw",
            json!([
                http("any", 80, None),
                http("wild", 80, Some("*.example.com")),
                http("exact", 80, Some("x.example.com")),
                http("empty", 80, Some("empty.example.com")),
            ]),
        ),
        to("web", "r-any", parent("any"), json!([]), "a"),
        to("web", "r-wild", parent("wild"), json!([]), "b"),
        to("web", "r-exact", parent("exact"), json!([]), "c"),
        // A host that belongs to a more specific listener never reaches this one.
        to(
            "web",
            "r-leak",
            parent("any"),
            json!(["leak.example.com"]),
            "d",
        ),
    ]));
    assert_sound(&translation);
    answers(
        &translation,
        80,
        &[
            ("other.org", "a=1"),
            ("example.com", "a=1"),
            ("y.example.com", "b=1"),
            ("deep.y.example.com", "b=1"),
            ("x.example.com", "c=1"),
            ("empty.example.com", "404"),
            ("leak.example.com", "b=1"),
        ],
    );
}

#[test]
fn route_hostnames_meet_the_listeners() {
    let gw = json!({"name": "gw"});
    let translation = translate(&documents(&[
        gateway(
            "web",
            "gw",
            json!([http("http", 80, Some("*.example.com"))]),
        ),
        to(
            "web",
            "r1",
            gw.clone(),
            json!(["x.example.com", "elsewhere.org"]),
            "a",
        ),
        to("web", "r2", gw.clone(), json!(["*.example.com"]), "b"),
        to("web", "r3", gw.clone(), json!(["*.y.example.com"]), "c"),
        to("web", "r4", gw, json!(["elsewhere.org"]), "d"),
    ]));
    answers(
        &translation,
        80,
        &[
            ("x.example.com", "a=1"),
            ("z.example.com", "b=1"),
            ("q.y.example.com", "c=1"),
            ("elsewhere.org", "404"),
        ],
    );
    assert!(has_error(
        &translation,
        "HTTPRoute web/r4",
        "no hostname in common"
    ));
    assert_eq!(errors(&translation, "HTTPRoute web/r1").len(), 0);
}

#[test]
fn routes_attach_where_they_may() {
    let parent = |extra: Value| {
        let mut parent = json!({"name": "gw", "namespace": "infra"});
        for (key, value) in extra.as_object().unwrap() {
            parent[key] = value.clone();
        }
        parent
    };
    let mut open = http("open", 80, None);
    open["allowedRoutes"] = json!({"namespaces": {"from": "All"}});
    let closed = http("closed", 81, None);
    let mut grpc = http("grpc", 82, None);
    grpc["allowedRoutes"] =
        json!({"namespaces": {"from": "All"}, "kinds": [{"kind": "GRPCRoute"}]});
    let translation = translate(&documents(&[
        gateway("infra", "gw", json!([open, closed, grpc])),
        to("web", "all", parent(json!({})), json!([]), "a"),
        to(
            "web",
            "by-section",
            parent(json!({"sectionName": "closed"})),
            json!([]),
            "b",
        ),
        to(
            "web",
            "by-port",
            parent(json!({"port": 81})),
            json!([]),
            "c",
        ),
        to(
            "web",
            "nowhere",
            parent(json!({"port": 99})),
            json!([]),
            "d",
        ),
    ]));
    answers(&translation, 80, &[("x", "a=1")]);
    answers(&translation, 81, &[("x", "404")]);
    answers(&translation, 82, &[("x", "404")]);
    assert!(errors(&translation, "HTTPRoute web/all").is_empty());
    assert!(has_error(
        &translation,
        "HTTPRoute web/by-section",
        "do not allow"
    ));
    assert!(has_error(
        &translation,
        "HTTPRoute web/by-port",
        "do not allow"
    ));
    assert!(has_error(
        &translation,
        "HTTPRoute web/nowhere",
        "no listener"
    ));
}

#[test]
fn a_port_belongs_to_the_older_gateway() {
    let created = |mut document: Value, time: &str| {
        document["metadata"]["creationTimestamp"] = json!(time);
        document
    };
    let on_80 = json!([http("http", 80, None)]);
    let mut apart = gateway("web", "apart", on_80.clone());
    apart["spec"]["addresses"] = json!([{"type": "IPAddress", "value": "127.0.0.9"}]);
    let translation = translate(&documents(&[
        created(
            gateway("web", "a-young", on_80.clone()),
            "2026-02-01T00:00:00Z",
        ),
        created(gateway("web", "z-old", on_80), "2026-01-01T00:00:00Z"),
    ]));
    assert_eq!(translation.snapshot.entrances.len(), 1);
    assert_eq!(&*translation.snapshot.entrances[0].proxy.name, "z-old");
    assert!(has_error(
        &translation,
        "Gateway web/a-young",
        "already belongs to Gateway web/z-old"
    ));
    // Addresses tell apart, but not from one who takes all of them.
    let other = {
        let mut other = apart.clone();
        other["metadata"]["name"] = json!("other");
        other["spec"]["addresses"][0]["value"] = json!("127.0.0.8");
        other
    };
    let translation = translate(&documents(&[apart, other]));
    assert_eq!(translation.snapshot.entrances.len(), 2);
    let bound: IpAddr = "127.0.0.9".parse().unwrap();
    assert!(
        translation
            .snapshot
            .entrances
            .iter()
            .any(|e| e.address == bound)
    );
}

#[test]
fn two_listeners_for_one_host_and_port_are_an_error() {
    let translation = translate(&[gateway(
        "web",
        "gw",
        json!([
            http("one", 80, Some("x.org")),
            http("two", 80, Some("X.org."))
        ]),
    )]);
    let findings = errors(&translation, "Gateway web/gw");
    assert_eq!(findings[0].field.as_deref(), Some("spec.listeners[1]"));
}

#[test]
fn other_protocols_are_named() {
    for protocol in ["HTTPS", "TLS", "TCP", "UDP"] {
        let mut listener = http("l", 443, None);
        listener["protocol"] = json!(protocol);
        let translation = translate(&[gateway("web", "gw", json!([listener]))]);
        assert!(translation.snapshot.entrances.is_empty());
        assert!(
            has_error(&translation, "Gateway web/gw", "not yet supported"),
            "{protocol}"
        );
    }
}

/// A gateway is reached by target, by labels and by namespace.
#[test]
fn policies_reach_gateways_in_all_ways() {
    let deny = |spec: Value| {
        let mut spec = spec;
        spec["action"] = json!("DENY");
        spec["rules"] = json!([{}]);
        spec
    };
    let select = |key: &str, value: &str| json!({"selector": {"matchLabels": {key: value}}});
    let group = "gateway.networking.k8s.io";
    let cases = [
        ("web", json!({}), false),
        ("istio-system", json!({}), false),
        ("other", json!({}), true),
        (
            "web",
            select("gateway.networking.k8s.io/gateway-name", "gw"),
            false,
        ),
        (
            "istio-system",
            select("gateway.networking.k8s.io/gateway-name", "gw"),
            false,
        ),
        (
            "web",
            select("gateway.networking.k8s.io/gateway-name", "other"),
            true,
        ),
        ("web", select("team", "edge"), false),
        ("web", select("team", "other"), true),
        (
            "web",
            json!({"targetRefs": [{"group": group, "kind": "Gateway", "name": "gw"}]}),
            false,
        ),
        (
            "web",
            json!({"targetRefs": [{"group": group, "kind": "Gateway", "name": "other"}]}),
            true,
        ),
        (
            "istio-system",
            json!({"targetRefs": [{"group": group, "kind": "GatewayClass", "name": "wayline"}]}),
            false,
        ),
        (
            "istio-system",
            json!({"targetRefs": [{"group": group, "kind": "GatewayClass", "name": "istio"}]}),
            true,
        ),
    ];
    for (namespace, spec, expected) in cases {
        let mut gateway = gateway("web", "gw", json!([http("http", 80, None)]));
        gateway["metadata"]["labels"] = json!({"team": "edge"});
        let translation = translate(&[gateway, policy(namespace, "p", deny(spec.clone()))]);
        let request = get("/");
        let input = PolicyInput {
            identity: None,
            source_ip: IpAddr::from([10, 0, 0, 1]),
            remote_ip: IpAddr::from([10, 0, 0, 1]),
            destination_ip: None,
            destination_port: 80,
            sni: None,
            request: Some(&request),
            token: None,
        };
        let judgement = entrance(&translation, 80).authorization.judge(&input);
        assert_eq!(
            judgement.verdict.is_allowed(),
            expected,
            "in {namespace}: {spec}"
        );
    }
}

#[test]
fn infrastructure_labels_hide_the_gateways_own() {
    let mut gateway = gateway("web", "gw", json!([http("http", 80, None)]));
    gateway["metadata"]["labels"] = json!({"team": "edge"});
    gateway["spec"]["infrastructure"] = json!({"labels": {"team": "infra"}});
    let by = |team: &str| {
        let spec =
            json!({"selector": {"matchLabels": {"team": team}}, "action": "DENY", "rules": [{}]});
        let translation = translate(&[gateway.clone(), policy("web", "p", spec)]);
        entrance(&translation, 80).authorization.is_empty()
    };
    assert!(by("edge"));
    assert!(!by("infra"));
}

#[test]
fn a_listener_needs_a_host_name() {
    let translation = translate(&[gateway(
        "web",
        "gw",
        json!([
            http("bad", 80, Some("*example.com")),
            http("good", 81, Some("*.example.com"))
        ]),
    )]);
    assert_eq!(translation.snapshot.entrances.len(), 1);
    let findings = errors(&translation, "Gateway web/gw");
    assert_eq!(
        findings[0].field.as_deref(),
        Some("spec.listeners[0].hostname")
    );
}
