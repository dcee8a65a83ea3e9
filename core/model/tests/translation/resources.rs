//! Reading documents, and keeping what is good.

use std::collections::HashSet;

use serde_json::{Value, json};
use wayline_model::request::PathNormalization;
use wayline_model::resource::{Content, Origin, list_items};
use wayline_model::{Finding, ObjectRef, Severity};

use crate::world::*;

const WEB: &str = "web.shop.svc.cluster.local";

fn shop(extra: &[Value]) -> Vec<Value> {
    let mut documents = vec![
        waypoint("shop", "wp"),
        enrolled("shop", "web", "10.1.0.1"),
        enrolled("shop", "v1", "10.1.0.2"),
    ];
    documents.extend_from_slice(extra);
    documents
}

fn to_v1(matches: Value) -> Value {
    route(
        "shop",
        "r",
        service_parent("web"),
        json!([{"matches": matches, "backendRefs": [backend("v1", 1)]}]),
    )
}

#[test]
fn unknown_fields_are_named_and_the_rest_serves() {
    let mut route = to_v1(json!([{"path": {"value": "/"}}]));
    route["spec"]["rules"][0]["timeout"] = json!("1s");
    route["spec"]["rules"][0]["matches"][0]["path"]["typ"] = json!("Exact");
    let parsed = read(&route);
    let fields: Vec<_> = parsed
        .findings
        .iter()
        .map(|f| f.field.as_deref().unwrap())
        .collect();
    assert_eq!(
        fields,
        ["spec.rules[0].matches[0].path.typ", "spec.rules[0].timeout"]
    );
    assert!(
        parsed
            .findings
            .iter()
            .all(|f| f.severity == Severity::Error)
    );
    assert!(
        parsed
            .findings
            .iter()
            .all(|f| f.object.as_deref() == Some("HTTPRoute shop/r"))
    );
    assert!(matches!(parsed.content, Content::Valid(_)));
}

/// Everything that the Gateway API and Kubernetes know is known here, too.
#[test]
fn legal_fields_are_not_called_unknown() {
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "r", "namespace": "n", "uid": "u", "resourceVersion": "1", "generation": 2,
            "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [{"manager": "kubectl"}],
            "finalizers": ["f"], "labels": {"a": "b"}, "annotations": {"c": "d"}},
        "spec": {
            "useDefaultGateways": "All", "hostnames": ["x.example"],
            "parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "n", "name": "g", "sectionName": "s", "port": 80}],
            "rules": [{"name": "n", "matches": [{"path": {"type": "Exact", "value": "/"}, "method": "GET",
                "headers": [{"type": "Exact", "name": "a", "value": "b"}],
                "queryParams": [{"type": "RegularExpression", "name": "a", "value": "b"}]}],
              "filters": [{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "m"}, "percent": 5}}],
              "backendRefs": [{"group": "", "kind": "Service", "name": "s", "namespace": "n", "port": 80, "weight": 1, "filters": []}],
              "timeouts": {"request": "1s", "backendRequest": "1s"},
              "retry": {"codes": [500], "attempts": 2, "backoff": "1s"},
              "sessionPersistence": {"sessionName": "s", "cookieConfig": {"lifetimeType": "Session"}}}]},
        "status": {"parents": [{"controllerName": "x"}]}
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}},
            "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Local", "trafficDistribution": "PreferClose",
            "externalIPs": ["1.2.3.4"], "loadBalancerIP": "1.2.3.4", "loadBalancerClass": "x", "loadBalancerSourceRanges": [],
            "allocateLoadBalancerNodePorts": true, "healthCheckNodePort": 1, "publishNotReadyAddresses": false,
            "externalName": "", "selector": {"a": "b"},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "web", "nodePort": 30000, "appProtocol": "http"}]},
        "status": {"loadBalancer": {}}
    });
    for document in [route, service] {
        let parsed = read(&document);
        assert!(parsed.findings.is_empty(), "{:?}", parsed.findings);
        assert!(matches!(parsed.content, Content::Valid(_)));
    }
}

#[test]
fn null_is_absent() {
    let parsed = read(&json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "g", "creationTimestamp": null, "labels": null},
        "spec": {"gatewayClassName": "istio", "listeners": null, "addresses": null, "infrastructure": null}
    }));
    assert!(
        matches!(parsed.content, Content::Valid(_)),
        "{:?}",
        parsed.findings
    );
}

#[test]
fn what_is_no_business_of_a_proxy_is_skipped_quietly() {
    for document in [
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "shop"}, "data": {"mesh": "{"}}),
        json!({"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "s"}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "type": "Opaque"}),
        json!({"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}),
    ] {
        let parsed = read(&document);
        assert_eq!(parsed.content, Content::Skipped, "{document}");
        assert!(parsed.findings.is_empty(), "{document}");
    }
}

#[test]
fn documents_that_say_not_what_they_are_are_named() {
    for document in [
        json!({"kind": "Service", "metadata": {"name": "s"}}),
        json!({"apiVersion": "v1", "kind": "Service"}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": 7}}),
        json!([1, 2]),
        json!("text"),
    ] {
        let parsed = read(&document);
        assert!(parsed.object.is_none(), "{document}");
        assert_eq!(parsed.findings.len(), 1, "{document}");
    }
}

#[test]
fn lists_are_opened() {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [{"kind": "Service"}]});
    assert_eq!(list_items(&list).unwrap().len(), 1);
    let typed = json!({"apiVersion": "v1", "kind": "ServiceList", "items": []});
    assert!(list_items(&typed).unwrap().is_empty());
    assert!(list_items(&json!({"kind": "Service", "items": []})).is_none());
}

#[test]
fn two_gateways_of_one_name_are_two_objects() {
    let istio = json!({"apiVersion": "networking.istio.io/v1", "kind": "Gateway",
                       "metadata": {"namespace": "shop", "name": "wp"}});
    let translation = translate(&shop(&[istio]));
    assert!(is_served(&translation.snapshot, WEB));
    assert!(has_error(
        &translation,
        "Gateway.networking.istio.io shop/wp",
        "not yet supported"
    ));
}

#[test]
fn an_invalid_edit_keeps_the_last_good_version() {
    let good = to_v1(json!([{"path": {"value": "/a"}}]));
    let mut world = World::new(&shop(std::slice::from_ref(&good)));
    assert_eq!(
        at(&world.translate().snapshot, WEB, "x", &get("/a")),
        "v1=1"
    );
    for bad in [
        json!([{"path": {"type": "Prefx", "value": "/b"}}]),
        json!([{"path": {"type": "RegularExpression", "value": "("}}]),
        json!([{"headers": [{"name": "not a name", "value": ""}]}]),
        json!([{"method": "get"}]),
        json!("nonsense"),
    ] {
        assert!(world.replace(&shop(&[to_v1(bad.clone())])), "{bad}");
        let translation = world.translate();
        assert_eq!(
            at(&translation.snapshot, WEB, "x", &get("/a")),
            "v1=1",
            "{bad}"
        );
        assert_eq!(
            at(&translation.snapshot, WEB, "x", &get("/b")),
            "404",
            "{bad}"
        );
        assert_eq!(errors(&translation, "HTTPRoute shop/r").len(), 1, "{bad}");
    }
    assert!(world.replace(&shop(&[good])));
    assert_sound(&world.translate());
}

#[test]
fn a_policy_keeps_its_last_good_version_and_a_gone_one_is_gone() {
    let spec =
        |rules: Value| json!({"targetRefs": to_service("web"), "action": "DENY", "rules": rules});
    let good = policy(
        "shop",
        "p",
        spec(json!([{"to": [{"operation": {"paths": ["/a"]}}]}])),
    );
    let bad = policy("shop", "p", spec(json!([{"too": []}])));
    let mut world = World::new(&shop(&[good]));
    world.apply(&bad);
    let snapshot = world.translate().snapshot;
    assert!(!admits(target(&snapshot, WEB, 80), "x/sa/y", &get("/a")));
    assert!(admits(target(&snapshot, WEB, 80), "x/sa/y", &get("/b")));
    world.remove("AuthorizationPolicy", "shop", "p");
    let snapshot = world.translate().snapshot;
    assert!(admits(target(&snapshot, WEB, 80), "x/sa/y", &get("/a")));
    // It is forgotten: now it never was valid.
    world.apply(&bad);
    let snapshot = world.translate().snapshot;
    assert!(!admits(target(&snapshot, WEB, 80), "x/sa/y", &get("/b")));
}

#[test]
fn a_route_that_never_was_valid_answers_500_for_what_it_matches() {
    // Its matches can be read.
    let mut bad = to_v1(json!([{"path": {"value": "/a"}}]));
    bad["spec"]["rules"][0]["backendRefs"] = json!("nonsense");
    let fine = route(
        "shop",
        "fine",
        service_parent("web"),
        json!([{"backendRefs": [backend("v1", 1)]}]),
    );
    let translation = translate(&shop(&[bad, fine.clone()]));
    assert_eq!(at(&translation.snapshot, WEB, "x", &get("/a")), "500");
    assert_eq!(at(&translation.snapshot, WEB, "x", &get("/b")), "v1=1");
    // They can not: everything may have been meant.
    let bad = to_v1(json!([{"path": {"value": 7}}]));
    let translation = translate(&shop(&[bad]));
    assert_eq!(at(&translation.snapshot, WEB, "x", &get("/b")), "500");
    // Only a condition can not: it is left out.
    let bad = to_v1(json!([{"path": {"value": "/a"},
        "headers": [{"type": "RegularExpression", "name": "x", "value": "("}]}]));
    let translation = translate(&shop(&[bad, fine]));
    assert_eq!(at(&translation.snapshot, WEB, "x", &get("/a")), "500");
    assert_eq!(at(&translation.snapshot, WEB, "x", &get("/b")), "v1=1");
}

#[test]
fn patterns_are_bounded() {
    for pattern in ["a".repeat(1025), r"(\w{100}){100}".to_owned()] {
        let parsed = read(&to_v1(
            json!([{"path": {"type": "RegularExpression", "value": pattern}}]),
        ));
        assert!(matches!(parsed.content, Content::Broken(_)));
        assert_eq!(
            parsed.findings[0].field.as_deref(),
            Some("spec.rules[0].matches[0].path.value")
        );
    }
}

#[test]
fn of_two_documents_for_one_object_the_first_counts() {
    let from = |document: &Value, file: &str| {
        let mut parsed = read(document);
        parsed.origin = Some(Origin {
            file: file.into(),
            line: Some(3),
        });
        parsed
    };
    let first = enrolled("shop", "web", "10.1.0.1");
    let second = enrolled("shop", "web", "10.9.9.9");
    let mut world = World::new(&[]);
    let all = [
        from(&waypoint("shop", "wp"), "a.yaml"),
        from(&first, "a.yaml"),
        from(&second, "b.yaml"),
    ];
    assert!(world.resources.replace(all.clone(), &HashSet::new()));
    assert!(!world.resources.replace(all, &HashSet::new()));
    let translation = world.translate();
    let service = target(&translation.snapshot, WEB, 80)
        .service
        .clone()
        .unwrap();
    assert_eq!(service.addresses[0].to_string(), "10.1.0.1");
    let findings = errors(&translation, "Service shop/web");
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].file.as_deref(), Some("b.yaml"));
    assert!(findings[0].reason.contains("a.yaml:3"));
}

#[test]
fn objects_whose_file_can_not_be_read_stay() {
    let mut world = World::new(&shop(&[]));
    let kept = HashSet::from([ObjectRef::new("Service", "shop", "web")]);
    let left = [waypoint("shop", "wp")];
    assert!(world.resources.replace(left.iter().map(read), &kept));
    let snapshot = world.translate().snapshot;
    assert!(is_served(&snapshot, WEB));
    assert!(!is_served(&snapshot, "v1.shop"));
}

#[test]
fn a_policy_of_which_nothing_can_be_read_denies_its_namespace() {
    let mut world = World::new(&shop(&[]));
    let unreadable = wayline_model::resource::Parsed::unreadable(
        ObjectRef::new("AuthorizationPolicy", "shop", "p"),
        Finding::error("the file does not parse"),
    );
    world.resources.upsert(unreadable);
    let snapshot = world.translate().snapshot;
    assert!(!admits(target(&snapshot, WEB, 80), "x/sa/y", &get("/")));
}

fn mesh(config: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap",
           "metadata": {"namespace": "istio-system", "name": "istio"}, "data": {"mesh": config}})
}

#[test]
fn mesh_settings_come_from_the_config_map() {
    let config = json!({
        "trustDomain": "example.org", "trustDomainAliases": ["old.org"], "rootNamespace": "mesh",
        "pathNormalization": {"normalization": "MERGE_SLASHES"}, "accessLogFile": "/dev/stdout",
        "accessLogEncoding": "JSON", "enableTracing": true, "connectTimeout": "2.5s",
        "defaultProviders": {"tracing": ["z"]},
        "defaultConfig": {"tracing": {"sampling": 12.5, "zipkin": {"address": "z:9411"}}, "holdApplicationUntilProxyStarts": true},
        "extensionProviders": [{"name": "z", "zipkin": {"service": "z", "port": 9411}}],
        "enablePrometheusMerge": true,
    });
    let mut world = World::new(&[
        mesh(&config.to_string()),
        pod("shop", "a", "web", "10.2.0.1"),
    ]);
    let translation = world.translate();
    assert_sound(&translation);
    let hints: Vec<_> = translation
        .findings
        .iter()
        .filter_map(|f| f.field.clone())
        .collect();
    assert_eq!(
        hints,
        [
            "data.mesh.defaultConfig.holdApplicationUntilProxyStarts",
            "data.mesh.enablePrometheusMerge"
        ]
    );
    let settings = &translation.snapshot.mesh;
    assert_eq!(settings.trust_domain.as_str(), "example.org");
    assert_eq!(settings.trust_domain_aliases[0].as_str(), "old.org");
    assert_eq!(&*settings.root_namespace, "mesh");
    assert_eq!(settings.path_normalization, PathNormalization::MergeSlashes);
    assert_eq!(settings.connect_timeout_ms, 2500);
    assert_eq!(settings.tracing.sampling_percent, Some(12.5));
    assert_eq!(&*settings.extension_providers[0].kind, "zipkin");
    assert!(
        translation
            .snapshot
            .workloads
            .by_identity
            .keys()
            .all(|id| id.trust_domain().as_str() == "example.org")
    );

    // What can not be read keeps the last good settings, and while there are none is strict.
    world.apply(&mesh("{"));
    assert_eq!(&*world.translate().snapshot.mesh.root_namespace, "mesh");
    let translation = translate(&[mesh("{")]);
    assert_eq!(
        translation.snapshot.mesh.path_normalization,
        PathNormalization::DecodeAndMergeSlashes
    );
    assert!(has_error(&translation, "ConfigMap istio-system/istio", ""));
    let translation = translate(&[mesh(
        r#"{"pathNormalization": {"normalization": "STRICT"}}"#,
    )]);
    assert_eq!(
        translation.snapshot.mesh.path_normalization,
        PathNormalization::DecodeAndMergeSlashes
    );
}
