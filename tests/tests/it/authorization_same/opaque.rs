//! Ports of opaque bytes: what of a policy holds where there is no request.

use serde_json::{Value, json};
use wayline_tests::envoy::Envoy;
use wayline_tests::manifests::{self, policy};
use wayline_tests::{Conversation, Mesh, Request, Tunnel};

use super::vocabulary::{Case, allow, case, deny, exact, none, rule, what, who};
use super::{address, backend, placed, probes, spec};
use crate::scene::{self, ECHO, PORT};

/// Istiod leaves out of ALLOW every rule that asks for HTTP, and out of DENY only what asks for it.
fn cases() -> Vec<Case> {
    let from = |who| rule(0, what::any(), who);
    vec![
        none("tcp-nothing"),
        case("tcp-allow-nothing", "{}", allow([])),
        case(
            "tcp-allow",
            "{action: ALLOW, rules: [{from: [{source: {namespaces: [default]}}]}]}",
            allow([from(who::namespace("default"))]),
        ),
        case(
            "tcp-deny",
            "{action: DENY, rules: [{from: [{source: {namespaces: [default]}}]}]}",
            deny([from(who::namespace("default"))]),
        ),
        case(
            "tcp-allow-not",
            "{action: ALLOW, rules: [{from: [{source: {notNamespaces: [default]}}]}]}",
            allow([from(who::not(who::namespace("default")))]),
        ),
        case(
            "tcp-address",
            "{action: ALLOW, rules: [{from: [{source: {ipBlocks: [CALLER]}}], to: [{operation: {ports: ['80']}}]}]}",
            allow([rule(0, what::port(80), who::source("CALLER/32"))]),
        ),
        case(
            "tcp-port",
            "{action: DENY, rules: [{to: [{operation: {notPorts: ['80']}}]}]}",
            deny([rule(0, what::not(what::port(80)), who::any())]),
        ),
        case(
            "tcp-allow-method",
            "{action: ALLOW, rules: [{to: [{operation: {methods: [GET]}}]}]}",
            allow([]),
        ),
        case(
            "tcp-allow-method-beside",
            "{action: ALLOW, rules: [{to: [{operation: {methods: [GET]}}]}, {from: [{source: {principals: ['*/sa/b']}}]}]}",
            allow([rule(1, what::any(), who::peer(json!({"suffix": "/sa/b"})))]),
        ),
        case(
            "tcp-deny-method",
            "{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}",
            deny([rule(0, what::any(), who::any())]),
        ),
        case(
            "tcp-deny-path-and-source",
            "{action: DENY, rules: [{from: [{source: {namespaces: [other]}}], to: [{operation: {paths: [/admin]}}]}]}",
            deny([from(who::namespace("other"))]),
        ),
        case(
            "tcp-deny-header-and-port",
            "{action: DENY, rules: [{to: [{operation: {ports: ['80']}}], when: [{key: 'request.headers[x-role]', notValues: [user]}]}]}",
            deny([rule(0, what::port(80), who::any())]),
        ),
        case(
            "tcp-allow-token",
            "{action: ALLOW, rules: [{from: [{source: {notRequestPrincipals: ['*'], namespaces: [default]}}]}]}",
            allow([]),
        ),
        none("tcp-deny-and-allow")
            .policy("{action: ALLOW, rules: [{from: [{source: {principals: ['*']}}]}]}")
            .policy("{action: DENY, rules: [{from: [{source: {serviceAccounts: [default/a]}}]}]}")
            .filter(deny([from(who::peer(exact(
                "spiffe://cluster.local/ns/default/sa/a",
            )))
            .of(1)]))
            .filter(allow([from(who::peer(
                json!({"safe_regex": {"regex": ".+"}}),
            ))])),
    ]
}

#[test]
fn envoy_lets_the_same_bytes_pass() {
    let cases = cases();
    let mesh = Mesh::new();
    let mut documents = scene::echo(&mesh);
    for (at, case) in cases.iter().enumerate() {
        let name = case.name;
        let service = manifests::service("default", name, &address(at), &[("tcp", 80, PORT)]);
        documents.push(service.replace(&format!("app: {name}"), "app: echo"));
        for (number, written) in case.policies.iter().enumerate() {
            let spec = spec(&mesh, name, written.spec);
            documents.push(policy("default", &format!("{name}-p{number}"), &spec));
        }
    }
    mesh.write("mesh.yaml", &mesh.logging(""));
    mesh.write("main.yaml", &manifests::file(&documents));
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let chains: Vec<Value> = cases
        .iter()
        .enumerate()
        .map(|(at, case)| bytes(&mesh, &address(at), case))
        .collect();
    let certificate = mesh.certificate(scene::WAYPOINT);
    let envoy = Envoy::waypoint(&mesh, &certificate, &chains, &[backend(&mesh)]);

    let callers = [0, 1, 6].map(|at| probes::caller(&mesh, probes::CALLERS[at]));
    let mut wrong = Vec::new();
    let mut passed = 0;
    for (at, case) in cases.iter().enumerate() {
        for (number, caller) in callers.iter().enumerate() {
            let [ours, theirs] = [mesh.hbone(), envoy.address].map(|hbone| {
                let from = mesh.ip(wayline_tests::mesh::CALLER);
                let tunnel = Tunnel::open(from, hbone, caller, &format!("{}:80", address(at)));
                let answer = Conversation::open(tunnel.address).exchange(&Request::get("/admin"));
                answer.is_ok_and(|answer| answer.status == 200)
            });
            passed += usize::from(ours);
            if ours != theirs {
                let name = case.name;
                wrong.push(format!(
                    "{name}, caller {number}: Wayline {ours}, Envoy {theirs}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        passed > 5 && passed < cases.len() * callers.len() - 5,
        "{passed}"
    );
    drop(wayline);
}

/// The filter chain of a service of opaque bytes: RBAC of the network kind, and the backend.
fn bytes(mesh: &Mesh, address: &str, case: &Case) -> Value {
    let kind = |name: &str| format!("type.googleapis.com/envoy.extensions.filters.network.{name}");
    let mut filters: Vec<Value> = case
        .envoy
        .iter()
        .map(|filter| {
            let text = placed(mesh, &filter["typed_config"]["rules"].to_string());
            let rules: Value = serde_json::from_str(&text.replace("CASE", case.name)).unwrap();
            json!({"name": "envoy.filters.network.rbac", "typed_config": {
                "@type": kind("rbac.v3.RBAC"), "stat_prefix": "tcp.", "rules": rules,
            }})
        })
        .collect();
    filters.push(
        json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {
            "@type": kind("tcp_proxy.v3.TcpProxy"), "stat_prefix": "tcp", "cluster": "echo",
        }}),
    );
    json!({
        "name": address,
        "filter_chain_match": {"prefix_ranges": [{"address_prefix": address, "prefix_len": 32}]},
        "filters": filters,
    })
}
