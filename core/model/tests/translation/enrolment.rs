//! Which waypoint serves what.

use serde_json::{Value, json};
use wayline_model::Translation;
use wayline_model::service::Transport;
use wayline_model::snapshot::ProxyRole;

use crate::world::*;

const HOST: &str = "web.shop.svc.cluster.local";

fn labelled(mut document: Value, labels: Value) -> Value {
    document["metadata"]["labels"] = labels;
    document
}

/// Namespace labels, service labels, and the waypoint that serves.
#[test]
fn the_object_wins_over_its_namespace_and_nothing_falls_back() {
    let cases = [
        (json!({}), json!({}), None),
        (
            json!({"istio.io/use-waypoint": "wp"}),
            json!({}),
            Some("wp"),
        ),
        (
            json!({}),
            json!({"istio.io/use-waypoint": "wp"}),
            Some("wp"),
        ),
        (
            json!({"istio.io/use-waypoint": "wp"}),
            json!({"istio.io/use-waypoint": "other"}),
            Some("other"),
        ),
        (
            json!({"istio.io/use-waypoint": "wp"}),
            json!({"istio.io/use-waypoint": "none"}),
            None,
        ),
        (
            json!({"istio.io/use-waypoint": "none"}),
            json!({"istio.io/use-waypoint": "wp"}),
            Some("wp"),
        ),
        // Named and missing: no waypoint, although the namespace has one.
        (
            json!({"istio.io/use-waypoint": "wp"}),
            json!({"istio.io/use-waypoint": "missing"}),
            None,
        ),
        // The namespace of the waypoint counts only beside its name.
        (
            json!({"istio.io/use-waypoint": "wp"}),
            json!({"istio.io/use-waypoint-namespace": "infra"}),
            Some("wp"),
        ),
        (
            json!({"istio.io/use-waypoint": "wp"}),
            json!({"gateway.istio.io/managed": "istio.io-mesh-controller"}),
            None,
        ),
    ];
    for (of_namespace, of_service, expected) in cases {
        let translation = translate(&[
            namespace("shop", of_namespace.clone()),
            labelled(service("shop", "web", "10.1.0.1"), of_service.clone()),
            waypoint("shop", "wp"),
            waypoint("shop", "other"),
        ]);
        let served = translation.snapshot.tunnels.host(HOST, 80);
        assert_eq!(
            served.map(|target| &*target.proxy.name),
            expected,
            "namespace {of_namespace}, service {of_service}"
        );
    }
}

#[test]
fn a_missing_waypoint_is_an_error_on_whoever_names_it() {
    let translation = translate(&[labelled(
        service("shop", "web", "10.1.0.1"),
        json!({"istio.io/use-waypoint": "wp"}),
    )]);
    assert!(has_error(
        &translation,
        "Service shop/web",
        "does not exist"
    ));
    let reason = &translation.snapshot.tunnels.unserved[&"10.1.0.1".parse().unwrap()];
    assert!(reason.contains("shop/wp"), "{reason}");
}

#[test]
fn a_foreign_namespace_needs_the_listeners_leave() {
    let borrowed = |allowed: Value| {
        let mut waypoint = waypoint("infra", "wp");
        waypoint["spec"]["listeners"][0]["allowedRoutes"] = json!({"namespaces": allowed});
        let labels =
            json!({"istio.io/use-waypoint": "wp", "istio.io/use-waypoint-namespace": "infra"});
        translate(&[
            namespace("shop", json!({"team": "a"})),
            labelled(service("shop", "web", "10.1.0.1"), labels),
            waypoint,
        ])
    };
    let cases = [
        (json!({}), false),
        (json!({"from": "Same"}), false),
        (json!({"from": "None"}), false),
        (json!({"from": "All"}), true),
        (
            json!({"from": "Selector", "selector": {"matchLabels": {"team": "a"}}}),
            true,
        ),
        (
            json!({"from": "Selector", "selector": {"matchLabels": {"team": "b"}}}),
            false,
        ),
        (
            json!({"from": "Selector", "selector": {"matchExpressions": [
                {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["shop"]}]}}),
            true,
        ),
        (json!({"from": "Selector"}), false),
    ];
    for (allowed, expected) in cases {
        let translation = borrowed(allowed.clone());
        assert_eq!(
            is_served(&translation.snapshot, HOST),
            expected,
            "{allowed}"
        );
        assert_eq!(
            has_error(&translation, "Service shop/web", "does not allow"),
            !expected,
            "{allowed}"
        );
    }
}

#[test]
fn waypoint_for_decides_between_services_and_workloads() {
    // The Gateway's label, its class' label, whether service and workload are served.
    let cases = [
        (None, None, true, false),
        (Some("service"), None, true, false),
        (Some("workload"), None, false, true),
        (Some("all"), None, true, true),
        (Some("none"), None, false, false),
        (None, Some("all"), true, true),
        (Some("service"), Some("all"), true, false),
    ];
    for (of_gateway, of_class, services, workloads) in cases {
        let mut gateway = waypoint("shop", "wp");
        if let Some(value) = of_gateway {
            gateway["metadata"]["labels"] = json!({"istio.io/waypoint-for": value});
        }
        let mut documents = vec![
            namespace("shop", json!({"istio.io/use-waypoint": "wp"})),
            service("shop", "web", "10.1.0.1"),
            pod("shop", "web-1", "web", "10.2.0.1"),
            gateway,
        ];
        if let Some(value) = of_class {
            documents.push(json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
                "metadata": {"name": "istio-waypoint", "labels": {"istio.io/waypoint-for": value}},
                "spec": {"controllerName": "istio.io/mesh-controller"}
            }));
        }
        let translation = translate(&documents);
        let tunnels = &translation.snapshot.tunnels;
        let at = |ip: &str, port| tunnels.address(&"".into(), ip.parse().unwrap(), port);
        assert_eq!(
            at("10.1.0.1", 80).is_some(),
            services,
            "{of_gateway:?} {of_class:?}"
        );
        assert_eq!(
            at("10.2.0.1", 8080).is_some(),
            workloads,
            "{of_gateway:?} {of_class:?}"
        );
        assert!(at("10.2.0.1", 9999).is_none());
        // What is inherited from the namespace is no error.
        assert_sound(&translation);
        // A waypoint that is for nothing, however, was hardly meant.
        let hints = translation.findings.iter().filter(|finding| {
            finding.object.as_deref() == Some("Namespace shop")
                && finding.reason.contains("no traffic at all")
        });
        assert_eq!(hints.count(), usize::from(!services && !workloads));
    }
}

#[test]
fn a_pod_that_asks_for_a_service_waypoint_is_told() {
    let mut pod = pod("shop", "web-1", "web", "10.2.0.1");
    pod["metadata"]["labels"]["istio.io/use-waypoint"] = json!("wp");
    let translation = translate(&[pod, waypoint("shop", "wp")]);
    assert!(has_error(
        &translation,
        "Pod shop/web-1",
        "not for workloads"
    ));
}

#[test]
fn a_canary_waypoint_accepts_what_it_gets() {
    let documents = [
        labelled(
            service("shop", "web", "10.1.0.1"),
            json!({"istio.io/use-waypoint": "wp", "istio.io/use-waypoint-canary": "next"}),
        ),
        waypoint("shop", "wp"),
        waypoint("shop", "next"),
    ];
    let both = World::new(&documents).translate();
    assert_eq!(&*target(&both.snapshot, HOST, 80).proxy.name, "wp");
    let canary = World::playing(&documents, &[("shop", "next")]).translate();
    assert_eq!(&*target(&canary.snapshot, HOST, 80).proxy.name, "next");
    assert_sound(&canary);
}

#[test]
fn a_process_serves_only_the_gateways_it_plays() {
    let documents = [
        enrolled("shop", "web", "10.1.0.1"),
        labelled(
            service("shop", "db", "10.1.0.2"),
            json!({"istio.io/use-waypoint": "other"}),
        ),
        waypoint("shop", "wp"),
        waypoint("shop", "other"),
    ];
    let translation = World::playing(&documents, &[("shop", "other")]).translate();
    assert!(!is_served(&translation.snapshot, HOST));
    assert!(is_served(
        &translation.snapshot,
        "db.shop.svc.cluster.local"
    ));
    assert_eq!(
        translation.identity.unwrap().uri(),
        "spiffe://cluster.local/ns/shop/sa/other"
    );
    let missing = World::playing(&documents, &[("shop", "gone")]).translate();
    assert!(has_error(&missing, "Gateway shop/gone", "not served"));
    assert!(missing.identity.is_none());
}

#[test]
fn the_first_waypoint_by_name_lends_its_identity() {
    let mut ingress = waypoint("shop", "ingress");
    ingress["spec"] = json!({"gatewayClassName": "istio", "listeners": [
        {"name": "http", "port": 8080, "protocol": "HTTP"}]});
    let mut named = waypoint("shop", "zz");
    named["metadata"]["annotations"] = json!({"gateway.istio.io/service-account": "special"});
    let translation = translate(&[waypoint("shop", "wp"), named, ingress]);
    let identities: Vec<_> = translation
        .snapshot
        .proxies
        .iter()
        .map(|proxy| (proxy.role, proxy.identity.service_account().to_owned()))
        .collect();
    assert_eq!(
        identities,
        [
            (ProxyRole::Gateway, "ingress-istio".to_owned()),
            (ProxyRole::Waypoint, "wp".to_owned()),
            (ProxyRole::Waypoint, "special".to_owned()),
        ]
    );
    assert_eq!(translation.identity.unwrap().service_account(), "wp");
    assert!(
        translation
            .findings
            .iter()
            .any(|f| f.reason.contains("one certificate"))
    );
}

#[test]
fn all_names_of_a_service_lead_to_it() {
    let translation = translate(&[enrolled("shop", "web", "10.1.0.1"), waypoint("shop", "wp")]);
    let tunnels = &translation.snapshot.tunnels;
    for host in [HOST, "web.shop.svc", "web.shop"] {
        assert!(tunnels.host(host, 80).is_some(), "{host}");
        assert!(tunnels.host(host, 8080).is_none(), "{host}");
    }
    assert!(tunnels.host("web", 80).is_none());
    assert!(
        tunnels
            .address(&"".into(), "10.1.0.1".parse().unwrap(), 80)
            .is_some()
    );
    assert!(
        tunnels
            .address(&"".into(), "10.1.0.1".parse().unwrap(), 8080)
            .is_none()
    );
}

const BINDING: &str = "ambient.istio.io/waypoint-inbound-binding";

fn bound(binding: &str) -> Value {
    let mut waypoint = waypoint("shop", "wp");
    waypoint["metadata"]["annotations"] = json!({BINDING: binding});
    waypoint
}

#[test]
fn a_waypoint_behind_ztunnel_takes_the_proxy_protocol_at_its_port() {
    for (binding, port, said) in [
        ("PROXY/15088", Some(15088), 0),
        ("NONE", None, 0),
        ("NONE/1", None, 0),
        ("proxy/15088", None, 1),
        ("TLS/15088", None, 1),
        ("PROXY", None, 1),
        ("PROXY/", None, 1),
        ("PROXY/0", None, 1),
        ("PROXY/x", None, 1),
        ("PROXY/65536", None, 1),
        ("PROXY/15008", None, 1),
    ] {
        let translation = translate(&[bound(binding)]);
        let found = errors(&translation, "Gateway shop/wp");
        assert_eq!(found.len(), said, "{binding}: {found:?}");
        assert_eq!(
            translation.snapshot.proxies[0].proxy_protocol, port,
            "{binding}"
        );
        assert_eq!(
            translation.snapshot.takes_hbone(),
            port.is_none(),
            "{binding}"
        );
    }
}

#[test]
fn the_binding_may_stand_on_the_class_and_leave_the_port_to_a_listener() {
    let class = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": {"name": "istio-waypoint", "annotations": {BINDING: "PROXY"}},
        "spec": {"controllerName": "istio.io/mesh-controller"}});
    let mut waypoint = waypoint("shop", "wp");
    let listener = json!({"name": "proxy", "port": 15088, "protocol": "istio.io/PROXY",
        "allowedRoutes": {"namespaces": {"from": "All"}}});
    waypoint["spec"]["listeners"] = json!([listener]);
    let service = enrolled("shop", "web", "10.1.0.1");
    let translation = translate(&[class.clone(), waypoint.clone(), service]);
    assert!(errors(&translation, "Gateway shop/wp").is_empty());
    assert_eq!(translation.snapshot.proxies[0].proxy_protocol, Some(15088));
    assert!(translation.snapshot.tunnels.host(HOST, 80).is_some());

    waypoint["metadata"]["annotations"] = json!({BINDING: "NONE"});
    let translation = translate(&[class, waypoint]);
    assert_eq!(translation.snapshot.proxies[0].proxy_protocol, None);
    assert_eq!(errors(&translation, "Gateway shop/wp").len(), 1);
}

#[test]
fn behind_ztunnel_workloads_are_reached_in_plain_text_unless_another_waypoint_is_not() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"},
            "annotations": {"ambient.istio.io/redirection": "enabled"}},
        "spec": {"serviceAccountName": "web"},
        "status": {"phase": "Running", "podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}],
            "conditions": [{"type": "Ready", "status": "True"}]}});
    let mut service = enrolled("shop", "web", "10.1.0.1");
    service["spec"]["selector"] = json!({"app": "web"});
    let reached = |translation: &Translation| {
        let target = translation.snapshot.tunnels.host(HOST, 80).unwrap();
        let cluster = &translation.snapshot.clusters[&target.cluster];
        cluster.endpoints[0].transport.clone()
    };
    let world = [service, pod];
    let with = |gateways: &[Value]| translate(&[&world[..], gateways].concat());
    let native = with(&[waypoint("shop", "wp")]);
    assert!(matches!(reached(&native), Transport::Hbone { .. }));
    let behind = with(&[bound("PROXY/15088")]);
    assert_eq!(reached(&behind), Transport::Plain);
    let mixed = with(&[bound("PROXY/15088"), waypoint("other", "wp2")]);
    assert!(matches!(reached(&mixed), Transport::Hbone { .. }));
    assert_eq!(errors(&mixed, "Gateway shop/wp").len(), 1);
}
