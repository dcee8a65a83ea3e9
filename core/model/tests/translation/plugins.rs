//! Plugins: what is read, where it attaches, in which order it runs, and what is in force while its
//! modules are on their way.

use std::sync::Arc;

use serde_json::{Value, json};
use wayline_model::plugin::{
    AttachedPlugin, EnvironmentValue, FailStrategy, Isolation, Plugin, PluginPhase, PullPolicy,
    PullSecret, Verdict,
};
use wayline_model::resource::{Content, Resource};
use wayline_model::snapshot::Snapshot;

use crate::policies::{WEB, gateway_ref, open, shop};
use crate::world::*;

const DB: &str = "db.shop.svc.cluster.local";
const FAR: &str = "far.other.svc.cluster.local";

fn plugin(namespace: &str, name: &str, spec: Value) -> Value {
    let mut spec = spec;
    if spec.get("url").is_none() {
        spec["url"] = json!("file:///filters/a.wasm");
    }
    json!({"apiVersion": "extensions.istio.io/v1alpha1", "kind": "WasmPlugin",
           "metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

fn on_web(name: &str, mut spec: Value) -> Value {
    spec["targetRefs"] = to_service("web");
    plugin("shop", name, spec)
}

fn read_one(document: &Value) -> Plugin {
    match read(document).content {
        Content::Valid(Resource::Extension(extension)) => extension.plugin(None),
        other => panic!("{other:?}"),
    }
}

fn ready() -> Verdict {
    Verdict::Ready {
        digest: "00".repeat(32).into(),
        trouble: None,
    }
}

fn failed(reason: &str) -> Verdict {
    Verdict::Failed(reason.into())
}

/// The plugins in force at port 80 of a host, with their states.
fn chain(snapshot: &Snapshot, host: &str) -> Vec<String> {
    let target = target(snapshot, host, 80);
    target.plugins.iter().map(shown).collect()
}

fn shown(it: &AttachedPlugin) -> String {
    format!("{} {}", it.plugin.object.name, it.verdict.word())
}

fn names(documents: &[Value], host: &str) -> Vec<String> {
    let snapshot = translate(documents).snapshot;
    let target = target(&snapshot, host, 80);
    let names = target
        .plugins
        .iter()
        .map(|it| it.plugin.object.name.to_string());
    names.collect()
}

fn at(documents: &[Value]) -> [bool; 3] {
    let snapshot = translate(documents).snapshot;
    [WEB, DB, FAR].map(|host| !target(&snapshot, host, 80).plugins.is_empty())
}

impl World {
    /// Sets the verdict on every version of a plugin that is known by a configuration.
    fn judge(&mut self, configuration: &str, verdict: &Verdict) {
        let snapshot = self.translate().snapshot;
        for it in snapshot.plugins.iter() {
            if String::from_utf8_lossy(&it.plugin.configuration).contains(configuration) {
                self.verdicts.insert(it.plugin.key, verdict.clone());
            }
        }
    }

    fn chain(&mut self, host: &str) -> Vec<String> {
        chain(&self.translate().snapshot, host)
    }
}

#[test]
fn every_field_is_read() {
    let mut document = plugin(
        "shop",
        "p",
        json!({
            "selector": {"matchLabels": {"istio": "ingressgateway"}},
            "url": "registry.example.com:5000/a/b:v1", "sha256": "AB".repeat(32),
            "imagePullPolicy": "Always", "pluginName": "root",
            "pluginConfig": {"deep": {"list": [1, null, "x"]}},
            "phase": "AUTHZ", "priority": -5, "failStrategy": "FAIL_RELOAD", "type": "HTTP",
            "vmConfig": {"env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": "HOST"}]},
            "match": [{"mode": "CLIENT_AND_SERVER", "ports": [{"number": 80}]}],
        }),
    );
    document["metadata"]["annotations"] = json!({
        "wayline.dev/isolation": "stream", "wayline.dev/cpu-budget": "20ms",
        "wayline.dev/callouts": "a.shop:80", "wayline.dev/allow-on-headers-stop-iteration": "true"});
    let it = read_one(&document);
    assert_eq!(&*it.name, "shop.p");
    assert_eq!(&*it.module.url, "oci://registry.example.com:5000/a/b:v1");
    assert_eq!(it.module.sha256.as_deref(), Some(&*"ab".repeat(32)));
    assert_eq!(it.module.pull_policy, PullPolicy::Always);
    assert_eq!(&*it.root_id, "root");
    assert_eq!(&*it.configuration, br#"{"deep":{"list":[1,null,"x"]}}"#);
    assert_eq!(it.phase, PluginPhase::Authz);
    assert_eq!(it.priority, Some(-5));
    assert_eq!(it.fail_strategy, FailStrategy::FailReload);
    assert_eq!(
        *it.environment,
        [
            ("A".into(), EnvironmentValue::Inline("1".into())),
            ("B".into(), EnvironmentValue::Host)
        ]
    );
    assert_eq!(it.isolation, Isolation::Stream);
    assert_eq!(it.limits.callback.as_millis(), 20);
    assert_eq!(it.callouts.as_ref().map(|all| all.len()), Some(1));
    assert!(it.allow_on_headers_stop_iteration);

    let plain = read_one(&plugin("shop", "p", json!({"pluginConfig": {}})));
    assert_eq!(&*plain.root_id, "p");
    assert!(plain.configuration.is_empty());
    assert_eq!(plain.fail_strategy, FailStrategy::FailClose);
    assert_eq!(plain.priority, None);
}

#[test]
fn a_traffic_extension_says_the_same_in_other_places() {
    let document = json!({"apiVersion": "extensions.istio.io/v1alpha1", "kind": "TrafficExtension",
        "metadata": {"namespace": "shop", "name": "p"},
        "spec": {"targetRefs": to_service("web"), "phase": "STATS", "priority": 3,
                 "wasm": {"url": "https://example.com/a.wasm", "failStrategy": "FAIL_OPEN",
                          "pluginConfig": {"a": 1}}}});
    let it = read_one(&document);
    assert_eq!((it.phase, it.priority), (PluginPhase::Stats, Some(3)));
    assert_eq!(it.fail_strategy, FailStrategy::FailOpen);
    assert_eq!(&*it.configuration, br#"{"a":1}"#);
    let same = plugin(
        "shop",
        "p",
        json!({"url": "https://example.com/a.wasm",
        "pluginConfig": {"a": 1}, "failStrategy": "FAIL_OPEN"}),
    );
    assert_ne!(it.key, read_one(&same).key, "another object");
    // The two kinds may have objects of one name.
    let both = shop(&[document, on_web("p", json!({}))]);
    assert_eq!(names(&both, WEB), ["p", "p"]);

    for (spec, field) in [
        (json!({"lua": {"inlineCode": "x"}}), "spec.lua"),
        (json!({"phase": "AUTHN"}), "spec.wasm"),
        (
            json!({"wasm": {"url": "oci://a/b", "phase": "AUTHN"}}),
            "spec.wasm.phase",
        ),
        (json!({"wasm": {"url": "ftp://a/b"}}), "spec.wasm.url"),
    ] {
        let mut spec = spec;
        spec["targetRefs"] = to_service("web");
        let document = json!({"apiVersion": "extensions.istio.io/v1alpha1",
            "kind": "TrafficExtension", "metadata": {"namespace": "shop", "name": "p"},
            "spec": spec});
        let translation = translate(&shop(std::slice::from_ref(&document)));
        let errors = errors(&translation, "TrafficExtension shop/p");
        assert_eq!(errors[0].field.as_deref(), Some(field), "{document}");
        assert_eq!(open(&shop(&[document])), [false, true, true]);
    }
}

#[test]
fn what_is_wrong_names_the_field() {
    let cases = [
        (json!({"url": ""}), "spec.url"),
        (json!({"url": "file://relative.wasm"}), "spec.url"),
        (json!({"url": "oci:///a"}), "spec.url"),
        (json!({"sha256": "abc"}), "spec.sha256"),
        (
            json!({"url": format!("oci://a/b@sha256:{}", "0".repeat(64)), "sha256": "1".repeat(64)}),
            "spec.sha256",
        ),
        (json!({"imagePullPolicy": "Never"}), "spec.imagePullPolicy"),
        (json!({"imagePullSecret": ""}), "spec.imagePullSecret"),
        (json!({"pluginConfig": "text"}), "spec.pluginConfig"),
        (json!({"pluginName": ""}), "spec.pluginName"),
        (json!({"phase": "LATE"}), "spec.phase"),
        (json!({"priority": 1.5}), "spec.priority"),
        (json!({"failStrategy": "FAIL"}), "spec.failStrategy"),
        (json!({"type": "TCP"}), "spec.type"),
        (
            json!({"match": [{"mode": "INBOUND"}]}),
            "spec.match[0].mode",
        ),
        (
            json!({"match": [{"ports": [{"number": 0}]}]}),
            "spec.match[0].ports[0].number",
        ),
        (
            json!({"vmConfig": {"env": [{"name": ""}]}}),
            "spec.vmConfig.env[0].name",
        ),
        (
            json!({"vmConfig": {"env": [{"name": "A", "valueFrom": "HOST", "value": "x"}]}}),
            "spec.vmConfig.env[0].value",
        ),
        (
            json!({"vmConfig": {"env": [{"name": "A"}, {"name": "A"}]}}),
            "spec.vmConfig.env[1].name",
        ),
        (json!({"failstrategy": "FAIL_OPEN"}), "spec.failstrategy"),
        (json!({"selector": {"matchLabels": {}}}), "spec.selector"),
    ];
    for (spec, field) in cases {
        let document = on_web("p", spec);
        let translation = translate(&shop(std::slice::from_ref(&document)));
        let errors = errors(&translation, "WasmPlugin shop/p");
        assert_eq!(errors.len(), 1, "{document}: {errors:?}");
        assert_eq!(errors[0].field.as_deref(), Some(field), "{document}");
        assert!(names(&shop(std::slice::from_ref(&document)), WEB).is_empty());
        assert_eq!(open(&shop(&[document])), [false, true, true]);
    }
    let mut annotated = on_web("p", json!({}));
    annotated["metadata"]["annotations"] = json!({"wayline.dev/cpu-budget": "1 week"});
    assert_eq!(open(&shop(&[annotated.clone()])), [false, true, true]);
    // What is only unknown is told, and does no harm.
    annotated["metadata"]["annotations"] = json!({"wayline.dev/cpu-bugdet": "1ms"});
    let translation = translate(&shop(&[annotated]));
    assert!(has_error(
        &translation,
        "WasmPlugin shop/p",
        "no such annotation"
    ));
    assert_eq!(chain(&translation.snapshot, WEB), ["p pending"]);
}

/// What its author said about failing decides about a plugin that never could be read.
#[test]
fn a_plugin_that_never_was_valid_denies_unless_it_fails_open() {
    let bad = |fail: &str| on_web("p", json!({"url": "", "failStrategy": fail}));
    assert_eq!(open(&shop(&[bad("FAIL_CLOSE")])), [false, true, true]);
    assert_eq!(open(&shop(&[bad("FAIL_RELOAD")])), [false, true, true]);
    assert_eq!(open(&shop(&[bad("FAIL_OPEN")])), [true, true, true]);
    // Its configuration may speak of targets as it likes; where it attaches is still known.
    let talks = on_web("p", json!({"url": "", "pluginConfig": {"targets": [1]}}));
    assert_eq!(open(&shop(&[talks])), [false, true, true]);
    let lost = plugin(
        "shop",
        "p",
        json!({"url": "", "targetrefs": to_service("web")}),
    );
    assert_eq!(open(&shop(&[lost])), [false, false, false]);

    let mut world = World::new(&shop(&[bad("FAIL_CLOSE")]));
    assert!(!admits(
        target(&world.translate().snapshot, WEB, 80),
        "x/sa/y",
        &get("/")
    ));
    world.apply(&bad("FAIL_OPEN"));
    assert!(admits(
        target(&world.translate().snapshot, WEB, 80),
        "x/sa/y",
        &get("/")
    ));
    let good = on_web("p", json!({"pluginConfig": {"v": "one"}}));
    world.apply(&good);
    assert!(world.chain(WEB).is_empty(), "as it was");
    world.judge("one", &ready());
    assert_eq!(world.chain(WEB), ["p ready"]);
    // Once it was valid, that version stays.
    world.apply(&bad("FAIL_CLOSE"));
    assert_eq!(world.chain(WEB), ["p ready"]);
    assert!(admits(
        target(&world.translate().snapshot, WEB, 80),
        "x/sa/y",
        &get("/")
    ));
    world.remove("WasmPlugin", "shop", "p");
    assert!(world.chain(WEB).is_empty());
}

/// From denied to enforced without a moment in between.
#[test]
fn a_plugin_that_was_mended_lets_nothing_pass_before_it_is_loaded() {
    let mut world = World::new(&shop(&[on_web("p", json!({"url": ""}))]));
    world.translate();
    world.apply(&on_web("p", json!({"pluginConfig": {"v": "one"}})));
    assert_eq!(world.chain(WEB), ["p pending"]);
    assert_eq!(world.chain(WEB), ["p pending"]);
    world.judge("one", &ready());
    assert_eq!(world.chain(WEB), ["p ready"]);
    world.apply(&on_web("p", json!({"pluginConfig": {"v": "two"}})));
    assert_eq!(world.chain(WEB), ["p ready"]);
}

#[test]
fn plugins_reach_what_their_targets_name() {
    let to = |namespace: &str, refs: Value| {
        let document = plugin(namespace, "p", json!({"targetRefs": refs}));
        at(&shop(&[document]))
    };
    assert_eq!(to("shop", to_service("web")), [true, false, false]);
    assert_eq!(to("other", to_service("web")), [false, false, false]);
    assert_eq!(to("other", to_service("far")), [false, false, true]);
    assert_eq!(to("shop", gateway_ref("Gateway", "wp")), [true, true, true]);
    let class = |namespace| to(namespace, gateway_ref("GatewayClass", "istio-waypoint"));
    assert_eq!(class("istio-system"), [true, true, true]);
    assert_eq!(class("shop"), [false, false, false]);

    // Waypoints ignore selectors and namespaces, which is said.
    for spec in [
        json!({}),
        json!({"selector": {"matchLabels": {"app": "web"}}}),
    ] {
        let documents = shop(&[plugin("shop", "p", spec)]);
        assert_eq!(at(&documents), [false, false, false]);
        assert!(has_error(
            &translate(&documents),
            "WasmPlugin shop/p",
            "never at waypoints"
        ));
    }
    let entry = json!([{"group": "networking.istio.io", "kind": "ServiceEntry", "name": "x"}]);
    let documents = shop(&[plugin("shop", "p", json!({"targetRefs": entry}))]);
    assert!(has_error(
        &translate(&documents),
        "WasmPlugin shop/p",
        "ServiceEntry is not yet"
    ));
    let documents = shop(&[plugin(
        "shop",
        "p",
        json!({"targetRefs": to_service("gone")}),
    )]);
    assert!(has_error(
        &translate(&documents),
        "WasmPlugin shop/p",
        "does not exist"
    ));
}

#[test]
fn a_gateway_is_reached_by_labels_and_namespaces_too() {
    let gateway = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"namespace": "web", "name": "gw", "labels": {"istio": "ingressgateway"}},
        "spec": {"gatewayClassName": "wayline", "listeners": [
            {"name": "a", "port": 80, "protocol": "HTTP"}, {"name": "b", "port": 81, "protocol": "HTTP"}]}
    });
    let ports = |namespace: &str, spec: Value| -> Vec<u16> {
        let snapshot = translate(&[gateway.clone(), plugin(namespace, "p", spec)]).snapshot;
        let with = snapshot
            .entrances
            .iter()
            .filter(|it| !it.plugins.is_empty());
        with.map(|it| it.port).collect()
    };
    let selector = |value: &str| json!({"selector": {"matchLabels": {"istio": value}}});
    assert_eq!(ports("web", selector("ingressgateway")), [80, 81]);
    assert_eq!(ports("web", selector("other")), [] as [u16; 0]);
    assert_eq!(ports("other", selector("ingressgateway")), [] as [u16; 0]);
    assert_eq!(ports("istio-system", selector("ingressgateway")), [80, 81]);
    assert_eq!(ports("web", json!({})), [80, 81]);
    // There is nothing but HTTP at gateways.
    assert_eq!(ports("web", json!({"type": "NETWORK"})), [] as [u16; 0]);
    assert_eq!(
        ports("web", json!({"targetRefs": gateway_ref("Gateway", "gw")})),
        [80, 81]
    );
    // To Istio a gateway is the client of what it forwards to.
    assert_eq!(
        ports("web", json!({"match": [{"mode": "CLIENT"}]})),
        [80, 81]
    );
    assert_eq!(
        ports("web", json!({"match": [{"mode": "SERVER"}]})),
        [] as [u16; 0]
    );
    assert_eq!(
        ports("web", json!({"match": [{"ports": [{"number": 81}]}]})),
        [81]
    );
}

/// In Istio's waypoints no `ports` ever match; here they mean the service's port.
#[test]
fn match_means_something_at_a_waypoint() {
    let mut web = enrolled("shop", "web", "10.1.0.1");
    web["spec"]["ports"] = json!([{"name": "http", "port": 80}, {"name": "http-b", "port": 81}]);
    let documents = |select: Value| {
        let spec = json!({"match": select, "targetRefs": to_service("web")});
        [
            waypoint("shop", "wp"),
            web.clone(),
            plugin("shop", "p", spec),
        ]
    };
    let ports = |select: Value| -> Vec<u16> {
        let snapshot = translate(&documents(select)).snapshot;
        let has = |port: &u16| !target(&snapshot, WEB, *port).plugins.is_empty();
        [80, 81].into_iter().filter(has).collect()
    };
    assert_eq!(ports(json!([])), [80, 81]);
    assert_eq!(ports(json!([{"mode": "SERVER"}])), [80, 81]);
    assert_eq!(ports(json!([{"mode": "CLIENT_AND_SERVER"}])), [80, 81]);
    assert_eq!(ports(json!([{"mode": "CLIENT"}])), [] as [u16; 0]);
    assert_eq!(ports(json!([{"ports": [{"number": 81}]}])), [81]);
    assert_eq!(
        ports(json!([{"mode": "CLIENT", "ports": [{"number": 81}]}])),
        [] as [u16; 0]
    );
    assert_eq!(
        ports(json!([{"ports": [{"number": 82}]}, {"ports": [{"number": 80}]}])),
        [80]
    );
}

#[test]
fn the_order_is_istios() {
    let with = |name: &str, phase: &str, priority: Option<i32>, created: &str| {
        let mut document = on_web(name, json!({"phase": phase, "priority": priority}));
        document["metadata"]["creationTimestamp"] = json!(created);
        document
    };
    let mut of_class = plugin(
        "istio-system",
        "class",
        json!({"phase": "STATS", "targetRefs": gateway_ref("GatewayClass", "istio-waypoint")}),
    );
    of_class["metadata"]["creationTimestamp"] = json!("2020-01-01T00:00:00Z");
    let documents = shop(&[
        with(
            "last",
            "UNSPECIFIED_PHASE",
            Some(100),
            "2026-01-01T00:00:00Z",
        ),
        with("young", "STATS", None, "2026-01-02T00:00:00Z"),
        with("old", "STATS", None, "2026-01-01T00:00:00Z"),
        with("b", "STATS", None, "2026-01-02T00:00:00Z"),
        with("minus", "STATS", Some(-5), "2026-01-03T00:00:00Z"),
        with("high", "STATS", Some(7), "2026-01-03T00:00:00Z"),
        with("authz", "AUTHZ", None, "2026-01-03T00:00:00Z"),
        with("authn", "AUTHN", None, "2026-01-03T00:00:00Z"),
        of_class,
    ]);
    assert_eq!(
        names(&documents, WEB),
        [
            "authn", "authz", "high", "minus", "old", "b", "young", "class", "last"
        ]
    );
}

#[test]
fn a_pull_secret_is_the_one_of_its_namespace_or_none_at_all() {
    let secret = |namespace: &str, kind: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "type": kind,
               "metadata": {"namespace": namespace, "name": "pull"},
               // {"auths":{"r.example.com":{"auth":"dTpw"}}}
               "data": {".dockerconfigjson": "eyJhdXRocyI6eyJyLmV4YW1wbGUuY29tIjp7ImF1dGgiOiJkVHB3In19fQ=="}})
    };
    let document = on_web(
        "p",
        json!({"url": "oci://r.example.com/a", "imagePullSecret": "pull"}),
    );
    let pulled = |documents: &[Value]| {
        let translation = translate(documents);
        let secret = translation.snapshot.plugins[0]
            .plugin
            .module
            .pull_secret
            .clone();
        let told = has_error(&translation, "WasmPlugin shop/p", "no Secret shop/pull");
        (secret.unwrap(), told)
    };
    let docker = "kubernetes.io/dockerconfigjson";
    let (found, told) = pulled(&shop(&[document.clone(), secret("shop", docker)]));
    let PullSecret::DockerConfig(config) = found else {
        panic!("{found:?}");
    };
    assert!(config.contains("dTpw"));
    assert!(!told);
    for other in [secret("other", docker), secret("shop", "Opaque")] {
        let (found, told) = pulled(&shop(&[document.clone(), other]));
        assert!(matches!(found, PullSecret::Missing(_)), "{found:?}");
        assert!(told);
    }
    let mut world = World::new(&shop(&[document]));
    let before = world.translate().snapshot.plugins[0].plugin.key;
    world.apply(&secret("shop", docker));
    let snapshot = world.translate().snapshot;
    assert!(snapshot.plugins.iter().any(|it| it.plugin.key != before));
    assert!(
        !format!("{:?}", world.resources).contains("dTpw"),
        "secrets are not printed"
    );
}

#[test]
fn a_secret_that_is_no_pull_secret_any_more_pulls_nothing() {
    let secret = |kind: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "type": kind,
               "metadata": {"namespace": "shop", "name": "pull"},
               "stringData": {".dockerconfigjson": "{\"auths\": {}}"}})
    };
    let document = on_web(
        "p",
        json!({"url": "oci://r.example.com/a", "imagePullSecret": "pull"}),
    );
    let docker = secret("kubernetes.io/dockerconfigjson");
    for other in ["kubernetes.io/tls", "Opaque"] {
        let mut world = World::new(&shop(&[document.clone(), docker.clone()]));
        let secrets = |world: &mut World| -> Vec<_> {
            let snapshot = world.translate().snapshot;
            let plugins = snapshot.plugins.iter();
            plugins
                .map(|it| it.plugin.module.pull_secret.clone().unwrap())
                .collect()
        };
        assert!(matches!(
            secrets(&mut world)[..],
            [PullSecret::DockerConfig(_)]
        ));
        world.apply(&secret(other));
        let after = secrets(&mut world);
        assert!(
            matches!(after[..], [PullSecret::Missing(_)]),
            "{other}: {after:?}"
        );
    }
}

#[test]
fn the_key_is_of_all_that_an_instance_is_made_from() {
    let key = |spec: Value| read_one(&on_web("p", spec)).key;
    let base = key(json!({}));
    let changes = [
        json!({"url": "file:///filters/b.wasm"}),
        json!({"sha256": "0".repeat(64)}),
        json!({"pluginConfig": {"a": 1}}),
        json!({"pluginName": "other"}),
        json!({"vmConfig": {"env": [{"name": "A", "value": "1"}]}}),
        json!({"vmConfig": {"env": [{"name": "A", "valueFrom": "HOST"}]}}),
    ];
    let mut keys: Vec<_> = changes.into_iter().map(key).collect();
    keys.push(base);
    let different = keys.iter().collect::<std::collections::HashSet<_>>();
    assert_eq!(different.len(), keys.len());
    for same in [
        json!({"phase": "AUTHN"}),
        json!({"priority": 3}),
        json!({"failStrategy": "FAIL_OPEN"}),
        json!({"match": [{"mode": "SERVER"}]}),
    ] {
        assert_eq!(key(same.clone()), base, "{same}");
    }
}

#[test]
fn at_start_what_is_pending_stands_in_the_chain() {
    let mut world = World::new(&shop(&[
        on_web("a", json!({"pluginConfig": {"v": "a"}})),
        on_web("b", json!({"pluginConfig": {"v": "b"}})),
    ]));
    assert_eq!(world.chain(WEB), ["a pending", "b pending"]);
    assert!(world.translate().snapshot.plugins_awaited);
    world.judge("\"a\"", &ready());
    assert_eq!(world.chain(WEB), ["a ready", "b pending"]);
    assert!(world.translate().snapshot.plugins_awaited);
    world.judge("\"b\"", &failed("no such file"));
    assert_eq!(world.chain(WEB), ["a ready", "b failed"]);
    let translation = world.translate();
    assert!(!translation.snapshot.plugins_awaited);
    assert!(has_error(
        &translation,
        "WasmPlugin shop/b",
        "no such file; requests for its target are"
    ));
    // What comes later is no reason not to be ready.
    world.apply(&on_web("c", json!({"pluginConfig": {"v": "c"}})));
    assert!(!world.translate().snapshot.plugins_awaited);
    assert!(!translate(&shop(&[])).snapshot.plugins_awaited);
}

#[test]
fn the_previous_chain_stays_until_the_first_verdict() {
    let version = |v: &str| on_web("a", json!({"pluginConfig": {"v": v}}));
    let mut world = World::new(&shop(&[]));
    assert!(world.chain(WEB).is_empty());
    world.apply(&version("one"));
    assert!(world.chain(WEB).is_empty(), "as it was before");
    let wanted: Vec<_> = world
        .translate()
        .snapshot
        .plugins
        .iter()
        .map(shown)
        .collect();
    assert_eq!(wanted, ["a pending"], "it is asked for all the same");
    world.judge("one", &ready());
    assert_eq!(world.chain(WEB), ["a ready"]);

    let configuration = |world: &mut World| {
        let snapshot = world.translate().snapshot;
        let target = target(&snapshot, WEB, 80);
        let bytes = target.plugins[0].plugin.configuration.to_vec();
        String::from_utf8(bytes).unwrap()
    };
    world.apply(&version("two"));
    assert_eq!(configuration(&mut world), r#"{"v":"one"}"#);
    assert_eq!(
        world.translate().snapshot.plugins.len(),
        2,
        "both versions are kept"
    );
    world.judge("two", &ready());
    assert_eq!(configuration(&mut world), r#"{"v":"two"}"#);
    assert_eq!(world.translate().snapshot.plugins.len(), 1);

    // A version that can not run leaves the last good one, and says so.
    world.apply(&version("three"));
    world.judge("three", &failed("on_configure answered false"));
    assert_eq!(configuration(&mut world), r#"{"v":"two"}"#);
    assert_eq!(world.chain(WEB), ["a ready"]);
    let translation = world.translate();
    assert!(has_error(
        &translation,
        "WasmPlugin shop/a",
        "on_configure answered false; its last good version stays"
    ));
    // It is still there when the next version is on its way.
    world.apply(&version("four"));
    assert_eq!(configuration(&mut world), r#"{"v":"two"}"#);
    world.remove("WasmPlugin", "shop", "a");
    assert!(world.chain(WEB).is_empty());
    assert!(world.translate().snapshot.plugins.is_empty());
}

#[test]
fn a_plugin_that_is_replaced_before_its_first_verdict_is_forgotten() {
    let mut world = World::new(&shop(&[on_web("a", json!({"pluginConfig": {"v": "one"}}))]));
    assert_eq!(world.chain(WEB), ["a pending"]);
    world.apply(&on_web("a", json!({"pluginConfig": {"v": "two"}})));
    assert_eq!(world.chain(WEB), ["a pending"]);
    assert_eq!(world.translate().snapshot.plugins.len(), 1);
}

#[test]
fn a_verdict_reaches_the_targets_of_its_plugin_and_no_other() {
    let mut world = World::new(&shop(&[
        on_web("a", json!({"pluginConfig": {"v": "a"}})),
        plugin("other", "far", json!({"targetRefs": to_service("far")})),
    ]));
    let before = world.translate().snapshot;
    world.judge("\"a\"", &ready());
    let after = world.translate().snapshot;
    let same = |host: &str| Arc::ptr_eq(target(&before, host, 80), target(&after, host, 80));
    assert!(!same(WEB));
    assert!(same(DB));
    assert!(same(FAR));
    let again = world.translate().snapshot;
    assert!(Arc::ptr_eq(
        target(&after, WEB, 80),
        target(&again, WEB, 80)
    ));
    assert!(Arc::ptr_eq(&after.plugins, &again.plugins));
    // Another module under the same key.
    let digest = "11".repeat(32).into();
    let trouble = Some("the file is no Wasm".into());
    world.judge("\"a\"", &Verdict::Ready { digest, trouble });
    let next = world.translate().snapshot;
    assert!(!Arc::ptr_eq(
        target(&again, WEB, 80),
        target(&next, WEB, 80)
    ));
    assert!(has_error(
        &world.translate(),
        "WasmPlugin shop/a",
        "the file is no Wasm; the last good module stays in force"
    ));
}

/// The same documents with the ports of that Service speaking something.
fn speaking(documents: &[Value], service: &str, protocol: &str) -> Vec<Value> {
    let mut documents = documents.to_vec();
    for document in &mut documents {
        if document["kind"] == "Service" && document["metadata"]["name"] == service {
            for port in document["spec"]["ports"].as_array_mut().unwrap() {
                port["appProtocol"] = json!(protocol);
            }
        }
    }
    documents
}

#[test]
fn plugins_for_opaque_bytes_are_in_force_where_there_may_be_some() {
    const UNHEARD: &str = "every port that this one is attached to speaks HTTP";
    let bytes = on_web("bytes", json!({"type": "NETWORK"}));
    let requests = on_web("requests", json!({"type": "HTTP"}));
    let documents = shop(&[bytes, requests]);
    let found = |documents: &[Value]| {
        let translation = translate(documents);
        let errors = errors(&translation, "WasmPlugin shop/bytes");
        let texts = errors.iter().map(|finding| finding.reason.clone());
        (names(documents, WEB), texts.collect::<Vec<_>>())
    };
    let (names, errors) = found(&speaking(&documents, "web", "http"));
    assert_eq!(names, ["requests"]);
    assert_eq!(errors.len(), 1);
    assert!(errors[0].contains(UNHEARD), "{errors:?}");
    for protocol in ["tcp", "tls", "other"] {
        let (names, errors) = found(&speaking(&documents, "web", protocol));
        assert_eq!(names, ["bytes", "requests"], "{protocol}");
        assert!(errors.is_empty(), "{protocol}: {errors:?}");
    }
}
