//! What is said of objects in their own `status`.

use serde_json::{Value, json};
use wayline_model::{ObjectRef, Translation};

use crate::world::*;

fn gateway(name: &str, class: &str, listeners: Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"namespace": "web", "name": name, "generation": 7},
        "spec": {"gatewayClassName": class, "listeners": listeners}
    })
}

fn http(name: &str, port: u16, hostname: Option<&str>) -> Value {
    json!({"name": name, "port": port, "protocol": "HTTP", "hostname": hostname})
}

fn class(name: &str, controller: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": {"name": name, "generation": 1}, "spec": {"controllerName": controller}
    })
}

fn status(translation: &Translation, kind: &str, namespace: &str, name: &str) -> Value {
    let object = ObjectRef::new(kind, namespace, name);
    let status = translation.snapshot.statuses.of(&object);
    serde_json::to_value(status).unwrap()
}

/// Type, status and reason of conditions in short words.
fn short(conditions: &Value) -> Vec<String> {
    let conditions = conditions.as_array().unwrap().iter();
    conditions
        .map(|it| {
            let text = |field: &str| it[field].as_str().unwrap().to_owned();
            format!("{}={}/{}", text("type"), text("status"), text("reason"))
        })
        .collect()
}

/// What the only parent of a route is told.
fn at_parent(translation: &Translation, name: &str) -> Vec<String> {
    let status = status(translation, "HTTPRoute", "web", name);
    assert_eq!(status["parents"].as_array().unwrap().len(), 1, "{status}");
    short(&status["parents"][0]["conditions"])
}

#[test]
fn a_route_at_a_gateway_in_full() {
    let mut sound = route(
        "web",
        "r",
        json!({"name": "gw"}),
        json!([{"backendRefs": [backend("a", 1)]}]),
    );
    sound["metadata"]["generation"] = json!(3);
    let translation = translate(&[
        gateway("gw", "wayline", json!([http("http", 80, None)])),
        service("web", "a", ""),
        sound,
    ]);
    assert_eq!(
        status(&translation, "HTTPRoute", "web", "r"),
        json!({"parents": [{
            "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw"},
            "controllerName": "wayline.dev/gateway-controller",
            "conditions": [
                {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
                 "observedGeneration": 3},
                {"type": "ResolvedRefs", "status": "True", "reason": "ResolvedRefs", "message": "",
                 "observedGeneration": 3},
            ],
        }]})
    );
}

#[test]
fn why_a_route_does_not_attach() {
    let to = |name: &str, parent: Value, hostnames: Value| {
        let mut route = route(
            "web",
            name,
            parent,
            json!([{"backendRefs": [backend("a", 1)]}]),
        );
        route["spec"]["hostnames"] = hostnames;
        route
    };
    let mut closed = http("closed", 81, None);
    closed["allowedRoutes"] = json!({"namespaces": {"from": "None"}});
    let translation = translate(&[
        gateway(
            "gw",
            "wayline",
            json!([http("http", 80, Some("*.example.com")), closed]),
        ),
        gateway("nginx", "nginx", json!([http("http", 80, None)])),
        waypoint("web", "wp"),
        service("web", "a", ""),
        to(
            "host",
            json!({"name": "gw", "port": 80}),
            json!(["other.org"]),
        ),
        to(
            "closed",
            json!({"name": "gw", "sectionName": "closed"}),
            json!([]),
        ),
        to(
            "section",
            json!({"name": "gw", "sectionName": "none"}),
            json!([]),
        ),
        to("missing", json!({"name": "gone"}), json!([])),
        to("waypoint", json!({"name": "wp"}), json!([])),
        to("foreign", json!({"name": "nginx"}), json!([])),
        to(
            "kind",
            json!({"group": "networking.istio.io", "kind": "ServiceEntry", "name": "x"}),
            json!([]),
        ),
        to("unserved", service_parent("a"), json!([])),
    ]);
    let resolved = "ResolvedRefs=True/ResolvedRefs";
    for (name, reason) in [
        ("host", "NoMatchingListenerHostname"),
        ("closed", "NotAllowedByListeners"),
        ("section", "NoMatchingParent"),
        ("missing", "NoMatchingParent"),
        ("waypoint", "NoMatchingParent"),
        ("kind", "NoMatchingParent"),
        ("unserved", "NoMatchingParent"),
    ] {
        let accepted = format!("Accepted=False/{reason}");
        assert_eq!(
            at_parent(&translation, name),
            [accepted.as_str(), resolved],
            "{name}"
        );
    }
    // Another controller's Gateway is that controller's to judge.
    assert_eq!(
        status(&translation, "HTTPRoute", "web", "foreign"),
        Value::Null
    );
    assert_eq!(status(&translation, "Gateway", "web", "nginx"), Value::Null);
}

#[test]
fn what_a_route_refers_to() {
    let to = |name: &str, backend: Value| {
        route(
            "web",
            name,
            json!({"name": "gw"}),
            json!([{"backendRefs": [backend]}]),
        )
    };
    let mirror = json!([{
        "backendRefs": [backend("a", 1)],
        "filters": [{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "gone", "port": 80}}}]
    }]);
    let translation = translate(&[
        gateway("gw", "wayline", json!([http("http", 80, None)])),
        service("web", "a", ""),
        service("other", "b", ""),
        to("good", backend("a", 1)),
        to(
            "grant",
            json!({"name": "b", "namespace": "other", "port": 80}),
        ),
        to("kind", json!({"group": "x", "kind": "Bucket", "name": "b"})),
        to("gone", backend("gone", 1)),
        to("port", json!({"name": "a", "port": 81})),
        route("web", "mirror", json!({"name": "gw"}), mirror),
    ]);
    let accepted = "Accepted=True/Accepted";
    for (name, refs) in [
        ("good", "ResolvedRefs=True/ResolvedRefs"),
        ("grant", "ResolvedRefs=False/RefNotPermitted"),
        ("kind", "ResolvedRefs=False/InvalidKind"),
        ("gone", "ResolvedRefs=False/BackendNotFound"),
        ("port", "ResolvedRefs=False/BackendNotFound"),
        ("mirror", "ResolvedRefs=False/BackendNotFound"),
    ] {
        assert_eq!(at_parent(&translation, name), [accepted, refs], "{name}");
    }
}

#[test]
fn rules_that_are_not_served_as_written() {
    let extension =
        json!({"type": "ExtensionRef", "extensionRef": {"group": "x", "kind": "Y", "name": "z"}});
    let refused = json!({"filters": [extension], "backendRefs": [backend("a", 1)]});
    let sound = json!({"backendRefs": [backend("a", 1)]});
    let both = json!({"backendRefs": [backend("a", 1)], "filters": [
        {"type": "RequestRedirect", "requestRedirect": {"port": 8080}},
        {"type": "URLRewrite", "urlRewrite": {"hostname": "x.example.com"}}]});
    let pattern = json!({"backendRefs": [backend("a", 1)],
        "matches": [{"path": {"type": "RegularExpression", "value": "("}}]});
    let to = |name: &str, rules: Value| route("web", name, json!({"name": "gw"}), rules);
    let translation = translate(&[
        gateway("gw", "wayline", json!([http("http", 80, None)])),
        service("web", "a", ""),
        to("all", json!([refused.clone()])),
        to("some", json!([sound.clone(), refused])),
        to("both", json!([both])),
        to("pattern", json!([pattern, sound])),
    ]);
    let refs = "ResolvedRefs=True/ResolvedRefs";
    assert_eq!(
        at_parent(&translation, "all"),
        ["Accepted=False/UnsupportedValue", refs]
    );
    assert_eq!(
        at_parent(&translation, "some"),
        [
            "Accepted=True/Accepted",
            "PartiallyInvalid=True/UnsupportedValue",
            refs
        ]
    );
    assert_eq!(
        at_parent(&translation, "both"),
        ["Accepted=False/IncompatibleFilters", refs]
    );
    assert_eq!(
        at_parent(&translation, "pattern"),
        ["Accepted=False/UnsupportedValue", refs]
    );
}

#[test]
fn gateways_and_their_listeners() {
    let mut kinds = http("kinds", 82, None);
    kinds["allowedRoutes"] = json!({"kinds": [{"kind": "HTTPRoute"}, {"kind": "TCPRoute"}]});
    let mut own = service("web", "gw", "10.0.0.80");
    own["spec"]["type"] = json!("LoadBalancer");
    let translation = translate(&[
        gateway(
            "gw",
            "wayline",
            json!([
                http("one", 80, None),
                http("twin", 80, None),
                json!({"name": "tcp", "port": 81, "protocol": "TCP"}),
                kinds
            ]),
        ),
        gateway("late", "wayline", json!([http("one", 80, None)])),
        gateway("empty", "wayline", json!([])),
        own,
        service("web", "a", ""),
        route(
            "web",
            "r1",
            json!({"name": "gw", "sectionName": "one"}),
            json!([]),
        ),
        route(
            "web",
            "r2",
            json!({"name": "gw"}),
            json!([{"backendRefs": [backend("gone", 1)]}]),
        ),
    ]);
    let status = |name: &str| status(&translation, "Gateway", "web", name);
    let gw = status("gw");
    assert_eq!(
        gw["addresses"],
        json!([
            {"type": "Hostname", "value": "gw.web.svc.cluster.local"},
            {"type": "IPAddress", "value": "10.0.0.80"}])
    );
    assert_eq!(
        short(&gw["conditions"]),
        [
            "Accepted=True/ListenersNotValid",
            "Programmed=True/Programmed"
        ]
    );
    assert_eq!(gw["conditions"][0]["observedGeneration"], 7);
    let listeners: Vec<(&str, u64, usize, Vec<String>)> = gw["listeners"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            (
                it["name"].as_str().unwrap(),
                it["attachedRoutes"].as_u64().unwrap(),
                it["supportedKinds"].as_array().unwrap().len(),
                short(&it["conditions"]),
            )
        })
        .collect();
    let lines = |accepted: &str, conflicted: &str, programmed: &str, refs: &str| {
        vec![
            format!("Accepted={accepted}"),
            format!("Conflicted={conflicted}"),
            format!("Programmed={programmed}"),
            format!("ResolvedRefs={refs}"),
        ]
    };
    let (fine, none) = ("True/Accepted", "False/NoConflicts");
    let (programmed, invalid) = ("True/Programmed", "False/Invalid");
    let resolved = "True/ResolvedRefs";
    assert_eq!(
        listeners,
        [
            ("one", 2, 1, lines(fine, none, programmed, resolved)),
            (
                "twin",
                0,
                1,
                lines(
                    "False/HostnameConflict",
                    "True/HostnameConflict",
                    invalid,
                    resolved
                )
            ),
            (
                "tcp",
                0,
                0,
                lines("False/UnsupportedProtocol", none, invalid, resolved)
            ),
            (
                "kinds",
                1,
                1,
                lines(fine, none, programmed, "False/InvalidRouteKinds")
            ),
        ]
    );
    let late = status("late");
    assert_eq!(
        short(&late["conditions"]),
        [
            "Accepted=False/ListenersNotValid",
            "Programmed=False/Invalid"
        ]
    );
    assert_eq!(
        short(&late["listeners"][0]["conditions"])[0],
        "Accepted=False/PortUnavailable"
    );
    assert_eq!(
        short(&status("empty")["conditions"])[0],
        "Accepted=False/ListenersNotValid"
    );
}

#[test]
fn waypoints_classes_and_services() {
    let mut elsewhere = waypoint("web", "wp");
    elsewhere["spec"]["listeners"] = json!([
        {"name": "mesh", "port": 15008, "protocol": "HBONE"},
        {"name": "other", "port": 80, "protocol": "HTTP"}]);
    let mut lost = enrolled("web", "lost", "10.0.0.2");
    lost["metadata"]["labels"] = json!({"istio.io/use-waypoint": "gone"});
    let translation = translate(&[
        class("wayline", "wayline.dev/gateway-controller"),
        class("istio-waypoint", "istio.io/mesh-controller"),
        class("nginx", "k8s.io/nginx"),
        elsewhere,
        enrolled("web", "a", "10.0.0.1"),
        lost,
        service("web", "plain", "10.0.0.3"),
        route(
            "web",
            "r",
            service_parent("a"),
            json!([{"backendRefs": [backend("a", 1)]}]),
        ),
        route(
            "web",
            "port",
            json!({"group": "", "kind": "Service", "name": "a", "port": 81}),
            json!([]),
        ),
    ]);
    let status =
        |kind: &str, namespace: &str, name: &str| status(&translation, kind, namespace, name);
    for known in ["wayline", "istio-waypoint"] {
        assert_eq!(
            short(&status("GatewayClass", "", known)["conditions"]),
            ["Accepted=True/Accepted"]
        );
    }
    assert_eq!(status("GatewayClass", "", "nginx"), Value::Null);
    let bound = |name: &str| short(&status("Service", "web", name)["conditions"]);
    assert_eq!(bound("a"), ["istio.io/WaypointBound=True/WaypointAccepted"]);
    assert_eq!(
        bound("lost"),
        ["istio.io/WaypointBound=False/WaypointIsNotReady"]
    );
    assert_eq!(status("Service", "web", "plain"), Value::Null);
    let route = status("HTTPRoute", "web", "r");
    assert_eq!(
        route["parents"][0]["controllerName"],
        "istio.io/mesh-controller"
    );
    assert_eq!(at_parent(&translation, "r")[0], "Accepted=True/Accepted");
    assert_eq!(
        at_parent(&translation, "port")[0],
        "Accepted=False/NoMatchingParent"
    );
    let waypoint = status("Gateway", "web", "wp");
    assert_eq!(
        short(&waypoint["conditions"]),
        [
            "Accepted=True/ListenersNotValid",
            "Programmed=True/Programmed"
        ]
    );
    assert_eq!(
        short(&waypoint["listeners"][0]["conditions"])[0],
        "Accepted=True/Accepted"
    );
    assert_eq!(
        short(&waypoint["listeners"][1]["conditions"])[0],
        "Accepted=False/UnsupportedProtocol"
    );
}

#[test]
fn statuses_follow_edits_and_stay_the_same_without() {
    let route_at = |port: u16| {
        let rules = json!([{"backendRefs": [{"name": "a", "port": port}]}]);
        route("web", "r", json!({"name": "gw"}), rules)
    };
    let mut world = World::new(&[
        gateway("gw", "wayline", json!([http("http", 80, None)])),
        service("web", "a", ""),
        route_at(80),
    ]);
    let first = world.translate();
    world.apply(&pod("web", "p", "a", "10.1.0.1"));
    let second = world.translate();
    assert!(std::sync::Arc::ptr_eq(
        &first.snapshot.statuses,
        &second.snapshot.statuses
    ));
    world.apply(&route_at(81));
    let third = world.translate();
    assert_eq!(
        at_parent(&third, "r")[1],
        "ResolvedRefs=False/BackendNotFound"
    );
    world.remove("HTTPRoute", "web", "r");
    assert_eq!(
        status(&world.translate(), "HTTPRoute", "web", "r"),
        Value::Null
    );
}

/// Parents by number: each combination of kind, name, section and port.
fn parent(mut number: u64) -> Value {
    let mut one_of = |count: u64| {
        let at = number % count;
        number /= count;
        usize::try_from(at).unwrap()
    };
    let name = ["gw", "gw2", "wp", "a", "b", "gone"][one_of(6)];
    let port = [None, Some(80), Some(81)][one_of(3)];
    let section = [None, Some("http"), Some("other")][one_of(3)];
    match one_of(2) {
        0 => json!({"name": name, "sectionName": section, "port": port}),
        _ => json!({"group": "", "kind": "Service", "name": name, "port": port}),
    }
}

/// Every route is told of each of its parents, in their order, once; and what it is told of Gateways
/// agrees with what these count.
#[test]
fn every_route_hears_of_each_of_its_parents_once() {
    let mut random = 0x5eed_u64;
    let mut next = move |below: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    for _ in 0..200 {
        let routes: Vec<Vec<Value>> = (0..1 + next(6))
            .map(|_| (0..1 + next(3)).map(|_| parent(next(108))).collect())
            .collect();
        agree_about(&routes);
    }
}

fn agree_about(routes: &[Vec<Value>]) {
    let mut documents = vec![
        gateway(
            "gw",
            "wayline",
            json!([http("http", 80, None), http("other", 81, None)]),
        ),
        gateway(
            "gw2",
            "istio",
            json!([http("http", 82, Some("x.example.com"))]),
        ),
        waypoint("web", "wp"),
        enrolled("web", "a", "10.0.0.1"),
        service("web", "b", "10.0.0.2"),
    ];
    for (r, parents) in routes.iter().enumerate() {
        let mut document = route("web", &format!("r{r}"), json!({}), json!([]));
        document["spec"]["parentRefs"] = json!(parents);
        documents.push(document);
    }
    let translation = translate(&documents);
    let mut attached = 0;
    for (r, parents) in routes.iter().enumerate() {
        let said = status(&translation, "HTTPRoute", "web", &format!("r{r}"));
        let said = said["parents"].as_array().unwrap();
        assert_eq!(said.len(), parents.len(), "{said:?}");
        for (said, written) in said.iter().zip(parents) {
            for field in ["name", "sectionName", "port"] {
                assert_eq!(said["parentRef"][field], written[field], "{said:?}");
            }
            let conditions = short(&said["conditions"]);
            for kind in ["Accepted=", "ResolvedRefs="] {
                let of_kind = conditions.iter().filter(|it| it.starts_with(kind));
                assert_eq!(of_kind.count(), 1, "{conditions:?}");
            }
        }
        attached += u64::from(said.iter().any(|said| {
            said["parentRef"]["kind"] == "Gateway"
                && short(&said["conditions"])[0] == "Accepted=True/Accepted"
        }));
    }
    let counted: Vec<u64> = ["gw", "gw2"]
        .iter()
        .flat_map(|name| {
            let status = status(&translation, "Gateway", "web", name);
            let listeners = status["listeners"].as_array().unwrap().clone();
            listeners
                .into_iter()
                .map(|it| it["attachedRoutes"].as_u64().unwrap())
        })
        .collect();
    assert!(
        counted.iter().all(|count| *count <= attached),
        "{counted:?} of {attached}"
    );
    assert!(
        counted.iter().sum::<u64>() >= attached,
        "{counted:?} of {attached}"
    );
}
