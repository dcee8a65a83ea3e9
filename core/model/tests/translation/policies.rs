//! What policies attach to, and what happens where one can not be enforced as written.

use serde_json::{Value, json};

use crate::world::*;

pub(crate) const WEB: &str = "web.shop.svc.cluster.local";
const FAR: &str = "far.other.svc.cluster.local";

/// Services `web` and `db` in `shop`, and `far` in `other`, all behind `shop/wp`.
pub(crate) fn shop(extra: &[Value]) -> Vec<Value> {
    let mut waypoint = waypoint("shop", "wp");
    waypoint["spec"]["listeners"][0]["allowedRoutes"] = json!({"namespaces": {"from": "All"}});
    let mut far = service("other", "far", "10.1.0.3");
    far["metadata"]["labels"] =
        json!({"istio.io/use-waypoint": "wp", "istio.io/use-waypoint-namespace": "shop"});
    let mut documents = vec![
        waypoint,
        enrolled("shop", "web", "10.1.0.1"),
        enrolled("shop", "db", "10.1.0.2"),
        far,
    ];
    documents.extend_from_slice(extra);
    documents
}

/// Whether `web`, `db` and `far` admit anybody.
pub(crate) fn open(documents: &[Value]) -> [bool; 3] {
    let translation = translate(documents);
    [WEB, "db.shop", FAR]
        .map(|host| admits(target(&translation.snapshot, host, 80), "x/sa/y", &get("/")))
}

fn deny(target_refs: Value) -> Value {
    json!({"targetRefs": target_refs, "action": "DENY", "rules": [{}]})
}

pub(crate) fn gateway_ref(kind: &str, name: &str) -> Value {
    json!([{"group": "gateway.networking.k8s.io", "kind": kind, "name": name}])
}

#[test]
fn policies_reach_what_their_targets_name() {
    let cases = [
        ("shop", deny(to_service("web")), [false, true, true]),
        ("other", deny(to_service("web")), [true, true, true]),
        ("other", deny(to_service("far")), [true, true, false]),
        (
            "shop",
            deny(gateway_ref("Gateway", "wp")),
            [false, false, false],
        ),
        (
            "other",
            deny(gateway_ref("Gateway", "wp")),
            [true, true, true],
        ),
        (
            "istio-system",
            deny(gateway_ref("GatewayClass", "istio-waypoint")),
            [false, false, false],
        ),
        (
            "istio-system",
            deny(gateway_ref("GatewayClass", "wayline-waypoint")),
            [true, true, true],
        ),
        (
            "shop",
            deny(gateway_ref("GatewayClass", "istio-waypoint")),
            [true, true, true],
        ),
        // The older, singular form.
        (
            "shop",
            json!({"targetRef": {"kind": "Service", "name": "web"}, "action": "DENY", "rules": [{}]}),
            [false, true, true],
        ),
        // Selectors and whole namespaces are ztunnel's.
        (
            "shop",
            json!({"action": "DENY", "rules": [{}]}),
            [true, true, true],
        ),
        (
            "istio-system",
            json!({"action": "DENY", "rules": [{}]}),
            [true, true, true],
        ),
        (
            "shop",
            json!({"selector": {"matchLabels": {"app": "web"}}, "action": "DENY", "rules": [{}]}),
            [true, true, true],
        ),
    ];
    for (namespace, spec, expected) in cases {
        let documents = shop(&[policy(namespace, "p", spec.clone())]);
        assert_eq!(open(&documents), expected, "in {namespace}: {spec}");
    }
}

#[test]
fn all_policies_of_a_target_count() {
    let allow = json!({"targetRefs": to_service("web"), "rules": [
        {"from": [{"source": {"principals": ["cluster.local/ns/x/sa/y"]}}]}]});
    let no_post = json!({"targetRefs": gateway_ref("Gateway", "wp"), "action": "DENY", "rules": [
        {"to": [{"operation": {"methods": ["POST"]}}]}]});
    let translation = translate(&shop(&[
        policy("shop", "allow", allow),
        policy("shop", "no-post", no_post),
    ]));
    assert_sound(&translation);
    let target = target(&translation.snapshot, WEB, 80);
    assert!(admits(target, "x/sa/y", &get("/")));
    assert!(!admits(target, "x/sa/z", &get("/")));
    assert!(!admits(target, "x/sa/y", &request("POST", "/", &[])));
}

#[test]
fn a_policy_for_nothing_is_an_error() {
    let translation = translate(&shop(&[
        policy("shop", "no-service", deny(to_service("gone"))),
        policy("shop", "no-gateway", deny(gateway_ref("Gateway", "gone"))),
        policy(
            "shop",
            "not-root",
            deny(gateway_ref("GatewayClass", "istio-waypoint")),
        ),
        service("shop", "plain", "10.1.0.9"),
        policy("shop", "unserved", deny(to_service("plain"))),
    ]));
    for (name, reason) in [
        ("no-service", "does not exist"),
        ("no-gateway", "does not exist"),
        ("not-root", "root namespace"),
        ("unserved", "nothing enforces"),
    ] {
        let object = format!("AuthorizationPolicy shop/{name}");
        assert!(has_error(&translation, &object, reason), "{object}");
        assert_eq!(
            errors(&translation, &object)[0].field.as_deref(),
            Some("spec.targetRefs[0]")
        );
    }
}

#[test]
fn a_policy_that_never_was_valid_denies_its_target() {
    let misspelt = json!({"targetRefs": to_service("web"), "rules": [{"form": []}]});
    let wrong_type = json!({"targetRefs": to_service("web"), "rules": [
        {"to": [{"operation": {"ports": [80]}}]}]});
    let bad_action = json!({"targetRefs": to_service("web"), "action": "DENNY"});
    for spec in [misspelt, wrong_type, bad_action] {
        let documents = shop(&[policy("shop", "p", spec.clone())]);
        assert_eq!(open(&documents), [false, true, true], "{spec}");
        let translation = translate(&documents);
        let findings = errors(&translation, "AuthorizationPolicy shop/p");
        assert!(
            findings[0].field.as_deref().unwrap().starts_with("spec."),
            "{spec}"
        );
    }
}

#[test]
fn a_policy_whose_target_can_not_be_read_denies_all_it_could_mean() {
    let cases = [
        json!({"targetRefs": [{"kind": "Servce", "name": "web"}]}),
        json!({"targetRefs": "web"}),
        json!({"targetRefs": [{"kind": "Service"}]}),
        json!({"targetrefs": [{"kind": "Service", "name": "web"}]}),
        json!({"targetReferences": [{"kind": "Service", "name": "web"}]}),
        json!("nonsense"),
    ];
    for spec in cases {
        let there = |namespace: &str| open(&shop(&[policy(namespace, "p", spec.clone())]));
        // The waypoint is in `shop`, too: all behind it is in the policy's reach.
        assert_eq!(there("shop"), [false, false, false], "{spec}");
        assert_eq!(there("other"), [true, true, false], "{spec}");
        assert_eq!(there("istio-system"), [false, false, false], "{spec}");
        assert_eq!(there("elsewhere"), [true, true, true], "{spec}");
    }
    // A slip of the indentation.
    let mut slipped = policy("shop", "p", json!({"action": "DENY", "rules": [{}]}));
    slipped["targetRefs"] = to_service("web");
    assert_eq!(open(&shop(&[slipped])), [false, false, false]);
}

#[test]
fn an_unknown_version_is_no_reason_to_admit() {
    let mut old = policy("shop", "p", deny(to_service("web")));
    old["apiVersion"] = json!("security.istio.io/v1alpha1");
    assert_eq!(open(&shop(&[old])), [false, true, true]);
}

/// What is served later and would have refused something denies its target.
#[test]
fn kinds_that_come_later_deny_where_ignoring_them_would_admit() {
    let object = |api: &str, kind: &str, spec: Value| {
        json!({"apiVersion": api, "kind": kind,
               "metadata": {"namespace": "shop", "name": "later"}, "spec": spec})
    };
    let networking = "networking.istio.io/v1";
    let filter = |value: Value| {
        object(
            "networking.istio.io/v1alpha3",
            "EnvoyFilter",
            json!({
            "targetRefs": gateway_ref("Gateway", "wp"),
            "configPatches": [{"applyTo": "HTTP_FILTER", "patch": {"operation": "INSERT_BEFORE", "value": value}}]}),
        )
    };
    let cases = [
        (
            object(
                "security.istio.io/v1",
                "RequestAuthentication",
                json!({"targetRefs": to_service("web"), "jwtRules": [{"issuer": ""}]}),
            ),
            [false, true, true],
        ),
        (
            filter(json!({"name": "envoy.filters.http.jwt_authn"})),
            [false, false, false],
        ),
        (
            filter(json!({"name": "envoy.filters.http.gzip"})),
            [true, true, true],
        ),
        (
            object(
                "security.istio.io/v1",
                "PeerAuthentication",
                json!({"mtls": {"mode": "STRICT"}}),
            ),
            [true, true, true],
        ),
        (
            object(networking, "VirtualService", json!({"hosts": ["web"]})),
            [true, true, true],
        ),
        (
            object(networking, "DestinationRule", json!({"host": "web"})),
            [true, true, true],
        ),
        (
            policy(
                "shop",
                "later",
                json!({"targetRefs": to_service("web"), "action": "CUSTOM",
                "provider": {"name": "p"}, "rules": [{}]}),
            ),
            [false, true, true],
        ),
    ];
    for (document, expected) in cases {
        assert_eq!(
            open(&shop(std::slice::from_ref(&document))),
            expected,
            "{document}"
        );
        let translation = translate(&shop(std::slice::from_ref(&document)));
        assert!(
            translation.findings.iter().any(|f| f
                .object
                .as_deref()
                .is_some_and(|o| o.ends_with("shop/later"))),
            "{document}"
        );
    }
}

#[test]
fn a_policy_that_is_attached_elsewhere_leaves_its_old_target() {
    let mut world = World::new(&shop(&[]));
    let open = |world: &mut World| {
        let snapshot = world.translate().snapshot;
        [WEB, "db.shop", FAR].map(|host| admits(target(&snapshot, host, 80), "x/sa/y", &get("/")))
    };
    for (targets, expected) in [
        (to_service("web"), [false, true, true]),
        (to_service("db"), [true, false, true]),
        (gateway_ref("Gateway", "wp"), [false, false, false]),
        // For the whole namespace: ztunnel's business.
        (json!([]), [true, true, true]),
        (to_service("web"), [false, true, true]),
    ] {
        world.apply(&policy("shop", "p", deny(targets.clone())));
        assert_eq!(open(&mut world), expected, "{targets}");
    }
    world.remove("AuthorizationPolicy", "shop", "p");
    assert_eq!(open(&mut world), [true, true, true]);
}

#[test]
fn at_most_sixteen_targets_are_read() {
    let targets = |count: usize| -> Value {
        let names = (0..count).map(|at| format!("s{at}"));
        let mut all: Vec<Value> = names
            .flat_map(|it| to_service(&it).as_array().cloned().unwrap())
            .collect();
        all[0] = to_service("web")[0].clone();
        all.into()
    };
    let with = |count| {
        policy(
            "shop",
            "p",
            json!({"targetRefs": targets(count), "rules": [{}]}),
        )
    };
    assert_eq!(open(&shop(&[with(16)])), [true, true, true]);
    // What is invalid denies what it names.
    assert_eq!(open(&shop(&[with(17)])), [false, true, true]);
    assert!(has_error(
        &translate(&shop(&[with(17)])),
        "AuthorizationPolicy shop/p",
        "at most 16"
    ));
}

#[test]
fn what_is_no_boolean_is_no_dry_run() {
    for (annotation, is_open) in [
        ("true", true),
        ("1", true),
        ("T", true),
        ("false", false),
        ("yes", false),
        ("", false),
        (" true", false),
    ] {
        let mut dry = policy("shop", "p", deny(to_service("web")));
        dry["metadata"]["annotations"] = json!({"istio.io/dry-run": annotation});
        assert_eq!(open(&shop(&[dry])), [is_open, true, true], "{annotation:?}");
    }
    // An ALLOW on trial is none: it does not close the door to everybody else.
    let mut dry = policy("shop", "p", json!({"targetRefs": to_service("web")}));
    dry["metadata"]["annotations"] = json!({"istio.io/dry-run": "true"});
    assert_eq!(open(&shop(&[dry])), [true, true, true]);
}

#[test]
fn aliases_of_the_trust_domain_widen_values_and_what_is_excepted() {
    let mesh = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"namespace": "istio-system", "name": "istio"},
        "data": {"mesh": r#"{"trustDomain": "new.domain", "trustDomainAliases": ["old.domain"]}"#}});
    for (field, expected) in [("principals", true), ("notPrincipals", false)] {
        let rules = json!([{"from": [{"source": {field: ["old.domain/ns/x/sa/y"]}}]}]);
        let spec = json!({"targetRefs": to_service("web"), "rules": rules});
        let translation = translate(&shop(&[mesh.clone(), policy("shop", "p", spec)]));
        let target = target(&translation.snapshot, WEB, 80);
        for domain in ["new.domain", "old.domain"] {
            let caller = format!("spiffe://{domain}/ns/x/sa/y");
            assert_eq!(
                admits_identity(target, &caller, &get("/")),
                expected,
                "{field} {caller}"
            );
        }
    }
}

#[test]
fn what_a_port_of_bytes_makes_of_rules_for_requests_is_said() {
    let mut raw = enrolled("shop", "raw", "10.1.0.7");
    raw["spec"]["ports"] = json!([{"name": "tcp", "port": 90}, {"name": "http", "port": 80}]);
    let spec = |action: &str, rule: Value| json!({"targetRefs": to_service("raw"), "action": action, "rules": [{}, rule]});
    let of_method = json!({"to": [{"operation": {"methods": ["GET"], "ports": ["90"]}}]});
    let of_token = json!({"when": [{"key": "request.auth.claims[a]", "notValues": ["b"]}]});
    let of_source = json!({"from": [{"source": {"namespaces": ["a"]}}]});
    let mut custom = spec("CUSTOM", of_method.clone());
    custom["provider"] = json!({"name": "none"});
    let translation = translate(&shop(&[
        raw,
        policy("shop", "deny", spec("DENY", of_method)),
        policy("shop", "allow", spec("ALLOW", of_token)),
        policy("shop", "source", spec("DENY", of_source)),
        policy("shop", "custom", custom),
    ]));
    let said = |name: &str| -> Vec<&str> {
        let object = format!("AuthorizationPolicy shop/{name}");
        let findings = translation.findings.iter();
        let of_it = findings.filter(|it| it.object.as_deref() == Some(&*object));
        of_it
            .filter(|it| it.reason.contains("at port 90 of Service shop/raw"))
            .filter_map(|it| it.field.as_deref())
            .collect()
    };
    assert_eq!(said("deny"), ["spec.rules[1]"]);
    assert_eq!(said("allow"), ["spec.rules[1]"]);
    assert_eq!(said("source"), Vec::<&str>::new());
    assert_eq!(said("custom"), ["spec.rules[0]", "spec.rules[1]"]);
}

#[test]
fn a_provider_whose_port_speaks_tls_is_named() {
    for (port, expected) in [("https", 1), ("http", 0)] {
        let mut authz = service("shop", "authz", "10.1.0.9");
        authz["spec"]["ports"][0]["name"] = port.into();
        let provider = json!({"service": "authz.shop.svc.cluster.local", "port": 80});
        let config = json!({"extensionProviders": [{"name": "p", "envoyExtAuthzGrpc": provider}]});
        let mesh = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "istio", "namespace": "istio-system"},
            "data": {"mesh": config.to_string()}});
        let translation = translate(&shop(&[authz, mesh]));
        let found = errors(&translation, "ConfigMap istio-system/istio");
        assert_eq!(found.len(), expected, "{port}: {found:?}");
    }
}
