//! HTTPRoutes at services.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use wayline_model::route::{Carrier, Grant, RetryPolicy, RouteAction};

use crate::world::*;

const WEB: &str = "web.shop.svc.cluster.local";

/// A shop of four services behind one waypoint, with whatever is added.
fn shop(extra: &[Value]) -> Vec<Value> {
    let mut documents = vec![
        namespace("shop", json!({"istio.io/use-waypoint": "wp"})),
        waypoint("shop", "wp"),
        service("shop", "web", "10.1.0.1"),
        service("shop", "v1", "10.1.0.2"),
        service("shop", "v2", "10.1.0.3"),
        service("other", "far", "10.1.0.4"),
    ];
    documents.extend_from_slice(extra);
    documents
}

#[test]
fn without_a_route_a_service_is_its_own_backend() {
    let translation = translate(&shop(&[]));
    assert_sound(&translation);
    assert_eq!(at(&translation.snapshot, WEB, "x", &get("/any")), "web=1");
}

#[test]
fn with_a_route_what_does_not_match_is_404() {
    let rules = json!([{"matches": [{"path": {"value": "/a"}}],
                        "backendRefs": [backend("v1", 90), backend("v2", 10)]}]);
    let translation = translate(&shop(&[route("shop", "r", service_parent("web"), rules)]));
    assert_sound(&translation);
    let snapshot = &translation.snapshot;
    assert_eq!(at(snapshot, WEB, "x", &get("/a/b")), "v1=90,v2=10");
    assert_eq!(at(snapshot, WEB, "x", &get("/b")), "404");
    assert_eq!(at(snapshot, "v1.shop", "x", &get("/b")), "v1=1");
}

#[test]
fn a_consumer_route_is_for_its_own_namespace_only() {
    let mut parent = service_parent("web");
    parent["namespace"] = json!("shop");
    let own = json!({"name": "web", "namespace": "shop", "port": 80});
    let translation = translate(&shop(&[
        route(
            "shop",
            "producer",
            service_parent("web"),
            json!([{"backendRefs": [backend("v1", 1)]}]),
        ),
        route(
            "client",
            "consumer",
            parent,
            json!([{"matches": [{"path": {"value": "/a"}}], "backendRefs": [own]}]),
        ),
    ]));
    assert_sound(&translation);
    let snapshot = &translation.snapshot;
    assert_eq!(at(snapshot, WEB, "shop", &get("/a")), "v1=1");
    assert_eq!(at(snapshot, WEB, "client", &get("/a")), "web=1");
    assert_eq!(at(snapshot, WEB, "client", &get("/b")), "404");
}

#[test]
fn a_parent_port_narrows() {
    let mut two_ports = service("shop", "web", "10.1.0.1");
    two_ports["spec"]["ports"] =
        json!([{"name": "http", "port": 80}, {"name": "http-admin", "port": 81}]);
    let mut parent = service_parent("web");
    parent["port"] = json!(81);
    let rules = json!([{"backendRefs": [backend("v1", 1)]}]);
    let mut documents = shop(&[route("shop", "r", parent.clone(), rules.clone())]);
    documents[2] = two_ports;
    let translation = translate(&documents);
    assert_sound(&translation);
    let snapshot = &translation.snapshot;
    let table = |port| &target(snapshot, WEB, port).routes.producer;
    assert_eq!(outcome(snapshot, table(80), &get("/")), "web=1");
    assert_eq!(outcome(snapshot, table(81), &get("/")), "v1=1");

    parent["port"] = json!(82);
    let translation = translate(&shop(&[route("shop", "r", parent, rules)]));
    assert!(has_error(
        &translation,
        "HTTPRoute shop/r",
        "no TCP port 82"
    ));
}

#[test]
fn weights_share_and_what_is_missing_keeps_its_share() {
    let cases = [
        (json!([backend("v1", 90), backend("v2", 10)]), "v1=90,v2=10"),
        (json!([backend("v1", 1), backend("v2", 0)]), "v1=1"),
        (json!([backend("v1", 0), backend("v2", 0)]), "500"),
        (json!([]), "500"),
        (json!([backend("v1", 9), backend("gone", 1)]), "v1=9,500=1"),
        (json!([{"name": "v1", "port": 81}]), "500=1"),
        (json!([{"name": "v1"}]), "500=1"),
        (
            json!([{"kind": "Bucket", "name": "v1", "port": 80}]),
            "500=1",
        ),
        (
            json!([{"name": "far", "namespace": "other", "port": 80}]),
            "500=1",
        ),
        (
            json!([{"name": "v1", "port": 80, "filters": [
                {"type": "URLRewrite", "urlRewrite": {"hostname": "x"}}]}]),
            "500=1",
        ),
    ];
    for (backends, expected) in cases {
        let rules = json!([{"backendRefs": backends}]);
        let translation = translate(&shop(&[route("shop", "r", service_parent("web"), rules)]));
        let snapshot = &translation.snapshot;
        assert_eq!(at(snapshot, WEB, "x", &get("/")), expected, "{backends}");
        assert_eq!(
            errors(&translation, "HTTPRoute shop/r").is_empty(),
            !expected.contains("500"),
            "{backends}"
        );
    }
}

#[test]
fn a_reference_grant_opens_another_namespace() {
    let far = json!([{"backendRefs": [{"name": "far", "namespace": "other", "port": 80}]}]);
    let route = route("shop", "r", service_parent("web"), far);
    let grant = |from: Value, to: Value| {
        json!({"apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
               "metadata": {"namespace": "other", "name": "g"}, "spec": {"from": [from], "to": [to]}})
    };
    let from = |namespace: &str| json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": namespace});
    let to_any = json!({"group": "", "kind": "Service"});
    let cases = [
        (grant(from("shop"), to_any.clone()), "far=1"),
        (
            grant(
                from("shop"),
                json!({"group": "", "kind": "Service", "name": "far"}),
            ),
            "far=1",
        ),
        (
            grant(
                from("shop"),
                json!({"group": "", "kind": "Service", "name": "near"}),
            ),
            "500=1",
        ),
        (grant(from("elsewhere"), to_any.clone()), "500=1"),
        (
            grant(
                json!({"group": "", "kind": "HTTPRoute", "namespace": "shop"}),
                to_any,
            ),
            "500=1",
        ),
    ];
    for (grant, expected) in cases {
        let translation = translate(&shop(&[route.clone(), grant.clone()]));
        assert_eq!(
            at(&translation.snapshot, WEB, "x", &get("/")),
            expected,
            "{grant}"
        );
    }
}

#[test]
fn filters_become_ready_values() {
    let rules = json!([{
        "name": "the-rule",
        "matches": [{"path": {"value": "/a"}}, {"path": {"value": "/b/"}}],
        "filters": [
            {"type": "RequestHeaderModifier", "requestHeaderModifier": {
                "set": [{"name": "X-Set", "value": "1"}], "remove": ["x-gone"]}},
            {"type": "ResponseHeaderModifier", "responseHeaderModifier": {
                "add": [{"name": "x-add", "value": "2"}]}},
            {"type": "URLRewrite", "urlRewrite": {"hostname": "new.example", "path": {
                "type": "ReplacePrefixMatch", "replacePrefixMatch": "/z"}}}],
        "backendRefs": [{"name": "v1", "port": 80, "filters": [
            {"type": "RequestHeaderModifier", "requestHeaderModifier": {
                "set": [{"name": "x-backend", "value": "v1"}]}}]}]
    }]);
    let translation = translate(&shop(&[route("shop", "r", service_parent("web"), rules)]));
    assert_sound(&translation);
    let target = target(&translation.snapshot, WEB, 80);
    for (path, expected) in [("/a/x", "/z/x"), ("/b/x", "/z/x")] {
        let rule = rule(&target.routes.producer, &get(path)).unwrap();
        assert_eq!(&*rule.name, "the-rule");
        assert_eq!(rule.request_headers.set[0].0, "x-set");
        assert_eq!(rule.request_headers.remove[0], "x-gone");
        assert_eq!(rule.response_headers.add[0].1, "2");
        let RouteAction::Forward(forward) = &rule.action else {
            panic!("{rule:?}");
        };
        assert_eq!(forward.backends[0].request_headers.set[0].1, "v1");
        let rewrite = forward.rewrite.as_ref().unwrap();
        assert_eq!(rewrite.hostname.as_ref().unwrap(), "new.example");
        assert_eq!(rewrite.path.as_ref().unwrap().apply(path), expected);
    }
}

#[test]
fn a_redirect_needs_no_backend() {
    let rules = json!([{"filters": [{"type": "RequestRedirect", "requestRedirect": {
        "scheme": "https", "hostname": "x.example", "port": 8443, "statusCode": 301}}]}]);
    let translation = translate(&shop(&[route("shop", "r", service_parent("web"), rules)]));
    assert_sound(&translation);
    assert_eq!(at(&translation.snapshot, WEB, "x", &get("/")), "301");
}

#[test]
fn sessions_are_kept_as_the_rule_says() {
    let rule = |matches: Value, session: Value| {
        json!([{"matches": matches, "sessionPersistence": session,
                "backendRefs": [backend("v1", 1)]}])
    };
    let session = |rules: Value| {
        let documents = shop(&[route("shop", "r", service_parent("web"), rules)]);
        let translation = translate(&documents);
        assert_sound(&translation);
        let target = target(&translation.snapshot, WEB, 80);
        let table = target.routes.table_for(None);
        match &crate::world::rule(table, &get("/cart")).unwrap().action {
            RouteAction::Forward(forward) => *forward.session.clone().unwrap(),
            other => panic!("{other:?}"),
        }
    };
    let cart = json!([{"path": {"value": "/cart"}}]);
    let cookie = |name: &str, path: &str, max_age: Option<u64>| Carrier::Cookie {
        name: name.into(),
        path: path.into(),
        max_age: max_age.map(Duration::from_secs),
    };
    let by_default = session(rule(json!([]), json!({})));
    assert_eq!(by_default.carrier, cookie("wayline-session-r", "/", None));
    let permanent = session(rule(
        cart,
        json!({"sessionName": "s", "absoluteTimeout": "1h", "idleTimeout": "5m",
               "cookieConfig": {"lifetimeType": "Permanent"}}),
    ));
    assert_eq!(permanent.carrier, cookie("s", "/cart", Some(3600)));
    assert_eq!(permanent.absolute, Some(Duration::from_secs(3600)));
    assert_eq!(permanent.idle, Some(Duration::from_secs(300)));
    let header = session(rule(
        json!([]),
        json!({"type": "Header", "sessionName": "X-Session"}),
    ));
    assert_eq!(
        header.carrier,
        Carrier::Header("x-session".parse().unwrap())
    );

    for (wrong, field) in [
        (json!({"sessionName": "a b"}), "sessionName"),
        (json!({"idleTimeout": "5"}), "idleTimeout"),
        (
            json!({"cookieConfig": {"lifetimeType": "Permanent"}}),
            "absoluteTimeout",
        ),
    ] {
        let rules = rule(json!([]), wrong);
        let translation = translate(&shop(&[route("shop", "r", service_parent("web"), rules)]));
        let field = format!("spec.rules[0].sessionPersistence.{field}");
        let found = errors(&translation, "HTTPRoute shop/r");
        assert!(
            found.iter().any(|it| it.field.as_deref() == Some(&*field)),
            "{found:?}"
        );
    }
}

/// Field, rule, whether the rule still serves.
#[test]
fn what_comes_later_is_named_and_fails_where_it_would_admit() {
    let with_filter = |filter: Value| json!({"filters": [filter]});
    let cases = [(
        with_filter(
            json!({"type": "ExtensionRef", "extensionRef": {"group": "g", "kind": "k", "name": "n"}}),
        ),
        "500",
    )];
    for (mut rule, expected) in cases {
        rule["backendRefs"] = json!([backend("v1", 1)]);
        let documents = shop(&[route(
            "shop",
            "r",
            service_parent("web"),
            json!([rule.clone()]),
        )]);
        let translation = translate(&documents);
        assert_eq!(
            at(&translation.snapshot, WEB, "x", &get("/")),
            expected,
            "{rule}"
        );
        assert!(
            has_error(&translation, "HTTPRoute shop/r", "not yet supported"),
            "{rule}"
        );
    }
}

#[test]
fn timeouts_are_those_written_and_zero_is_none() {
    let cases = [
        (json!({}), Some((None, None))),
        (json!({"request": "1m30s"}), Some((Some(90_000), None))),
        (
            json!({"request": "10s", "backendRequest": "250ms"}),
            Some((Some(10_000), Some(250))),
        ),
        (
            json!({"request": "0s", "backendRequest": "2s"}),
            Some((None, Some(2_000))),
        ),
        (json!({"request": "1s", "backendRequest": "2s"}), None),
        (json!({"request": "1.5s"}), None),
        (json!({"backendRequest": "soon"}), None),
    ];
    for (timeouts, expected) in cases {
        let rules = json!([{"backendRefs": [backend("v1", 1)], "timeouts": timeouts}]);
        let translation = translate(&shop(&[route("shop", "r", service_parent("web"), rules)]));
        let snapshot = &translation.snapshot;
        let table = &target(snapshot, WEB, 80).routes.producer;
        let found = match &table.lookup(&get("/")).unwrap().action {
            RouteAction::Forward(forward) => {
                let millis = |limit: Option<Duration>| limit.map(|limit| limit.as_millis());
                let limits = forward.timeouts;
                Some((millis(limits.request), millis(limits.backend_request)))
            }
            _ => None,
        };
        assert_eq!(found, expected, "{timeouts}");
    }
}

#[test]
fn retries_add_to_the_default_policy() {
    let retried = |retry: Value| {
        let rules = json!([{"backendRefs": [backend("v1", 1)], "retry": retry}]);
        let translation = translate(&shop(&[route("shop", "r", service_parent("web"), rules)]));
        let table = &target(&translation.snapshot, WEB, 80).routes.producer;
        match &table.lookup(&get("/")).unwrap().action {
            RouteAction::Forward(forward) => Some(forward.retry.clone()),
            _ => None,
        }
    };
    assert_eq!(retried(json!(null)), Some(RetryPolicy::default()));
    let stanza = |attempts, millis, status_codes| RetryPolicy {
        attempts,
        on_reset: true,
        on_timeout: true,
        backoff: Some(Duration::from_millis(millis)),
        status_codes,
        ..RetryPolicy::default()
    };
    assert_eq!(retried(json!({})), Some(stanza(2, 25, Vec::new())));
    let codes = vec![StatusCode::SERVICE_UNAVAILABLE, StatusCode::CONFLICT];
    assert_eq!(
        retried(json!({"codes": [503, 409], "attempts": 4, "backoff": "1s"})),
        Some(stanza(4, 1000, codes))
    );
    for refused in [
        json!({"codes": [200]}),
        json!({"codes": [600]}),
        json!({"attempts": -1}),
        json!({"backoff": "-1s"}),
    ] {
        assert_eq!(retried(refused.clone()), None, "{refused}");
    }
}

#[test]
fn mirrors_are_clusters_with_a_share() {
    let mirrored = |mirrors: &[Value]| {
        let filters: Vec<Value> = mirrors
            .iter()
            .map(|it| json!({"type": "RequestMirror", "requestMirror": it}))
            .collect();
        // A second rule: its backends are not taken for the first one's mirrors.
        let rules = json!([
            {"backendRefs": [backend("v1", 1)], "filters": filters},
            {"matches": [{"path": {"value": "/second"}}], "backendRefs": [backend("v2", 1)]},
        ]);
        let translation = translate(&shop(&[route("shop", "r", service_parent("web"), rules)]));
        let snapshot = &translation.snapshot;
        let table = &target(snapshot, WEB, 80).routes.producer;
        let found = match &table.lookup(&get("/")).unwrap().action {
            RouteAction::Forward(forward) => {
                let mirrors = forward.mirrors.iter();
                let described = mirrors.map(|it| {
                    let name = &snapshot.clusters[&it.cluster].name;
                    format!("{name} {}/{}", it.numerator, it.denominator)
                });
                described.collect::<Vec<_>>().join(", ")
            }
            _ => "500".to_owned(),
        };
        (found, translation)
    };
    let to = |name: &str| json!({"name": name, "port": 80});
    let (found, translation) = mirrored(&[
        json!({"backendRef": to("v2")}),
        json!({"backendRef": to("web"), "percent": 5}),
        json!({"backendRef": to("v1"), "fraction": {"numerator": 1, "denominator": 1000}}),
        json!({"backendRef": to("v1"), "percent": 0}),
    ]);
    assert_sound(&translation);
    let second = at(&translation.snapshot, WEB, "x", &get("/second"));
    assert_eq!(second, "v2=1");
    let cluster = |name: &str| format!("outbound|80||{name}.shop.svc.cluster.local");
    let expected = format!(
        "{} 100/100, {} 5/100, {} 1/1000",
        cluster("v2"),
        cluster("web"),
        cluster("v1")
    );
    assert_eq!(found, expected);

    // What can not be reached is named, and the rest goes on.
    let far = json!({"name": "far", "namespace": "other", "port": 80});
    let (found, translation) = mirrored(&[
        json!({"backendRef": to("gone")}),
        json!({"backendRef": far}),
        json!({"backendRef": to("v2")}),
    ]);
    assert_eq!(found, format!("{} 100/100", cluster("v2")));
    for reason in ["does not exist; nothing is mirrored", "no ReferenceGrant"] {
        assert!(
            has_error(&translation, "HTTPRoute shop/r", reason),
            "{reason}"
        );
    }

    for refused in [
        json!({"backendRef": to("v2"), "percent": 101}),
        json!({"backendRef": to("v2"), "fraction": {"numerator": 2, "denominator": 1}}),
        json!({"backendRef": to("v2"), "fraction": {"numerator": 0, "denominator": 0}}),
        json!({"backendRef": to("v2"), "percent": 1, "fraction": {"numerator": 1}}),
    ] {
        assert_eq!(
            mirrored(std::slice::from_ref(&refused)).0,
            "500",
            "{refused}"
        );
    }
}

#[test]
fn cors_belongs_to_the_rule_and_is_refused_where_it_is_wrong() {
    let granted = |cors: Value| {
        let rules = json!([{"backendRefs": [backend("v1", 1)],
            "filters": [{"type": "CORS", "cors": cors}]}]);
        let translation = translate(&shop(&[route("shop", "r", service_parent("web"), rules)]));
        let table = &target(&translation.snapshot, WEB, 80).routes.producer;
        table.lookup(&get("/")).unwrap().cors.clone()
    };
    let least = granted(json!({"allowOrigins": ["*"]})).unwrap();
    assert_eq!((least.max_age, least.credentials), (5, false));
    assert_eq!(
        (&least.methods, &least.headers),
        (&Grant::Nothing, &Grant::Nothing)
    );
    let full = granted(
        json!({"allowOrigins": ["https://a.example", "http://*.b.example:81"],
        "allowCredentials": true, "allowMethods": ["GET", "PUT"], "allowHeaders": ["*"],
        "exposeHeaders": ["x-a", "x-b"], "maxAge": 60}),
    )
    .unwrap();
    assert_eq!(full.methods, Grant::List("GET, PUT".parse().unwrap()));
    assert_eq!(full.headers, Grant::Any);
    assert_eq!(full.expose.unwrap(), "x-a, x-b");
    for refused in [
        json!({"allowOrigins": ["a.example"]}),
        json!({"allowOrigins": ["*", "https://a.example"]}),
        json!({"allowMethods": ["GRAB"]}),
        json!({"allowMethods": ["*", "GET"]}),
        json!({"allowHeaders": ["a b"]}),
        json!({"maxAge": 0}),
    ] {
        assert_eq!(granted(refused.clone()), None, "{refused}");
    }
}

#[test]
fn among_equal_matches_the_older_route_wins_and_then_the_first_by_name() {
    let made = |name: &str, created: Option<&str>, to: &str| {
        let rules = json!([{"backendRefs": [backend(to, 1)]}]);
        let mut document = route("shop", name, service_parent("web"), rules);
        document["metadata"]["creationTimestamp"] = json!(created);
        document
    };
    let (old, new) = (Some("2026-01-01T00:00:00Z"), Some("2026-01-02T00:00:00Z"));
    let cases = [
        (made("a", new, "v1"), made("b", old, "v2"), "v2=1"),
        (made("b", old, "v1"), made("a", new, "v2"), "v1=1"),
        (made("b", old, "v1"), made("a", old, "v2"), "v2=1"),
        (made("b", None, "v1"), made("a", None, "v2"), "v2=1"),
    ];
    for (one, other, expected) in cases {
        let [one, other] = [&one, &other].map(Value::clone);
        for documents in [[one.clone(), other.clone()], [other, one]] {
            let translation = translate(&shop(&documents));
            let found = at(&translation.snapshot, WEB, "x", &get("/"));
            assert_eq!(found, expected, "{documents:?}");
        }
    }
}

#[test]
fn a_section_means_nothing_at_a_service() {
    let mut parent = service_parent("web");
    parent["sectionName"] = json!("http");
    let rules = json!([{"backendRefs": [backend("v1", 1)]}]);
    let translation = translate(&shop(&[route("shop", "r", parent, rules)]));
    assert_eq!(at(&translation.snapshot, WEB, "x", &get("/")), "v1=1");
}

#[test]
fn a_route_to_nowhere_is_an_error() {
    let rules = json!([{"backendRefs": [backend("v1", 1)]}]);
    let translation = translate(&shop(&[
        route("shop", "gone", service_parent("gone"), rules.clone()),
        route("other", "unserved", service_parent("far"), rules.clone()),
        route(
            "shop",
            "entry",
            json!({"group": "networking.istio.io", "kind": "ServiceEntry", "name": "x"}),
            rules.clone(),
        ),
        route("shop", "gateway", json!({"name": "gone"}), rules.clone()),
        route("shop", "at-waypoint", json!({"name": "wp"}), rules),
    ]));
    for (name, reason) in [
        ("shop/gone", "does not exist"),
        ("other/unserved", "it has no waypoint"),
        ("shop/entry", "not yet supported"),
        ("shop/gateway", "does not exist"),
        ("shop/at-waypoint", "is a waypoint"),
    ] {
        let object = format!("HTTPRoute {name}");
        assert!(has_error(&translation, &object, reason), "{object}");
    }
}

/// What is wrong with an ExternalAuth filter, and where; nothing where it is asked.
#[test]
fn a_server_is_asked_or_the_rule_serves_nobody() {
    let auth = |spec: Value| json!({"type": "ExternalAuth", "externalAuth": spec});
    let authz = json!({"name": "v1", "port": 80});
    let cases = [
        (json!({"protocol": "GRPC", "backendRef": authz}), None),
        (
            json!({"protocol": "HTTP", "backendRef": authz, "http": {"path": "/a", "allowedHeaders": ["x-a"]}}),
            None,
        ),
        (
            json!({"protocol": "HTTP", "backendRef": authz, "grpc": {}}),
            Some("filters[0].externalAuth.grpc"),
        ),
        (
            json!({"protocol": "GRPC", "backendRef": authz, "http": {}}),
            Some("filters[0].externalAuth.http"),
        ),
        (
            json!({"protocol": "HTTP", "backendRef": authz, "http": {"path": "a"}}),
            Some("filters[0].externalAuth.http.path"),
        ),
        (
            json!({"protocol": "HTTP", "backendRef": authz, "http": {"path": "/a/../b"}}),
            Some("filters[0].externalAuth.http.path"),
        ),
        (
            json!({"protocol": "GRPC", "backendRef": authz, "grpc": {"allowedHeaders": ["x-*"]}}),
            Some("filters[0].externalAuth.grpc.allowedHeaders[0]"),
        ),
        (
            json!({"protocol": "GRPC", "backendRef": {"name": "nobody", "port": 80}}),
            Some("filters[0].externalAuth"),
        ),
    ];
    for (spec, field) in cases {
        let rule = json!({"filters": [auth(spec.clone())], "backendRefs": [backend("v1", 1)]});
        let documents = shop(&[route("shop", "r", service_parent("web"), json!([rule]))]);
        let translation = translate(&documents);
        let found: Vec<_> = errors(&translation, "HTTPRoute shop/r")
            .iter()
            .filter_map(|it| it.field.clone())
            .collect();
        let expected: Vec<_> = field
            .iter()
            .map(|it| format!("spec.rules[0].{it}"))
            .collect();
        assert_eq!(found, expected, "{spec}");
    }
    // A port that speaks TLS.
    let mut tls = service("shop", "v2", "10.1.0.3");
    tls["spec"]["ports"][0]["name"] = "https".into();
    let rule = json!({"filters": [auth(json!({"protocol": "HTTP", "backendRef": {"name": "v2", "port": 80}}))],
        "backendRefs": [backend("v1", 1)]});
    let mut documents = shop(&[route("shop", "r", service_parent("web"), json!([rule]))]);
    documents.retain(|it| it["metadata"]["name"] != "v2");
    documents.push(tls);
    let translation = translate(&documents);
    let found = errors(&translation, "HTTPRoute shop/r");
    assert!(
        found.iter().any(|it| it.reason.contains("speaks TLS")),
        "{found:?}"
    );
    // Not for a single backend, and not twice.
    let asks = auth(json!({"protocol": "GRPC", "backendRef": authz}));
    let mut of_backend = backend("v1", 1);
    of_backend["filters"] = json!([asks]);
    let rules = [
        json!({"backendRefs": [of_backend]}),
        json!({"filters": [asks, asks], "backendRefs": [backend("v1", 1)]}),
    ];
    for rule in rules {
        let documents = shop(&[route("shop", "r", service_parent("web"), json!([rule]))]);
        assert!(
            !errors(&translate(&documents), "HTTPRoute shop/r").is_empty(),
            "{rule}"
        );
    }
}
