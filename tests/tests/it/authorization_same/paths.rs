//! What a path is before policies see it: the four modes of `pathNormalization`.

use serde_json::{Value, json};
use wayline_tests::envoy::Envoy;
use wayline_tests::manifests::{self, policy};
use wayline_tests::{Conversation, Mesh, Request, Tunnel};

use super::vocabulary::{Case, allow, case, deny, exact, prefix, rule, what, who};
use super::{address, backend, chain, spec};
use crate::scene::{self, ECHO, PORT};

/// Istio's modes, and the options of Envoy's connection manager that istiod sets for each.
fn modes() -> [(&'static str, Value); 4] {
    [
        ("NONE", json!({})),
        ("BASE", json!({"normalize_path": true})),
        (
            "MERGE_SLASHES",
            json!({"normalize_path": true, "merge_slashes": true}),
        ),
        (
            "DECODE_AND_MERGE_SLASHES",
            json!({"normalize_path": true, "merge_slashes": true,
                "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD"}),
        ),
    ]
}

fn cases() -> Vec<Case> {
    let to = |what| rule(0, what, who::any());
    vec![
        case(
            "path-deny",
            "{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}",
            deny([to(what::path(exact("/admin")))]),
        ),
        case(
            "path-allow",
            "{action: ALLOW, rules: [{to: [{operation: {paths: ['/public*']}}]}]}",
            allow([to(what::path(prefix("/public")))]),
        ),
        case(
            "path-allow-not",
            "{action: ALLOW, rules: [{to: [{operation: {notPaths: [/admin]}}]}]}",
            allow([to(what::not(what::path(exact("/admin"))))]),
        ),
        case(
            "path-deny-below",
            "{action: DENY, rules: [{to: [{operation: {paths: ['/a/{*}', '/admin/*']}}]}]}",
            deny([to(what::one_of([
                what::template("/a/*"),
                what::path(prefix("/admin/")),
            ]))]),
        ),
    ]
}

const PATHS: [&str; 54] = [
    "/admin",
    "/Admin",
    "/admin/",
    "//admin",
    "/admin//",
    "/./admin",
    "/x/../admin",
    "/x/y/../../admin",
    "/../admin",
    "/%2e/admin",
    "/x/%2e%2e/admin",
    "/x/%2E./admin",
    "/x/.%2e/admin",
    "/%61dmin",
    "/%61%64%6d%69%6e",
    "/%2561dmin",
    "/%2fadmin",
    "/%2Fadmin",
    "/x%2f..%2fadmin",
    "/x/..%2fadmin",
    "/x/..\\admin",
    "/\\admin",
    "/%5cadmin",
    "/x%5c..%5cadmin",
    "/admin%23x",
    "/admin%3fx",
    "/admin?x",
    "/admin?",
    "/admin?/../public",
    "/public/../admin",
    "/public/%2e%2e/admin",
    "/public/..%2fadmin",
    "/public//..//admin",
    "/public/..;/admin",
    "/public/..;x=1/admin",
    "/public/.;/../admin",
    "/public/.;x/admin",
    "/public/%2e%2e;/admin",
    "/public/..;",
    "/public/..%3b/admin",
    "/public/...;/admin",
    "/public/;/../admin",
    "/public/x;/../admin",
    "/..;/admin",
    "/.;/admin",
    "/;/admin",
    "/public/..;/..;/admin",
    "/a/..;b/c",
    "/admin;x=1",
    "/a/b",
    "/a//b",
    "/a/%2f",
    "/a/b%2fc",
    "/%c0%ae%c0%ae/admin",
];

/// Envoy takes `..;` for dots, and `%2e%2e;` not, though that is what it then sends; Wayline sends nothing
/// that would be normalised further.
const DIFFERENT: [&str; 1] = ["/public/%2e%2e;/admin"];

#[test]
fn envoy_reads_the_same_paths_in_every_mode() {
    let cases = cases();
    let mut wrong = Vec::new();
    let mut refused = 0;
    for (mode, options) in modes() {
        let mesh = Mesh::new();
        let more = format!("pathNormalization: {{normalization: {mode}}}\n");
        mesh.write("mesh.yaml", &mesh.logging(&more));
        let mut documents = scene::echo(&mesh);
        for (at, case) in cases.iter().enumerate() {
            let name = case.name;
            let service = manifests::service("default", name, &address(at), &[("http", 80, PORT)]);
            documents.push(service.replace(&format!("app: {name}"), "app: echo"));
            documents.push(policy(
                "default",
                name,
                &spec(&mesh, name, case.policies[0].spec),
            ));
        }
        mesh.write("main.yaml", &manifests::file(&documents));
        let backend_seen = scene::backend(&mesh, "echo", ECHO);
        let wayline = mesh.start();
        let chains: Vec<Value> = cases
            .iter()
            .enumerate()
            .map(|(at, case)| chain(&address(at), &options, &case.envoy))
            .collect();
        let certificate = mesh.certificate(scene::WAYPOINT);
        let envoy = Envoy::waypoint(&mesh, &certificate, &chains, &[backend(&mesh)]);
        let caller = mesh.caller("default/a");
        for (at, case) in cases.iter().enumerate() {
            let mut conversations = [mesh.hbone(), envoy.address].map(|hbone| {
                let from = mesh.ip(wayline_tests::mesh::CALLER);
                let authority = format!("{}:80", address(at));
                let tunnel = Tunnel::open(from, hbone, &caller, &authority);
                let conversation = Conversation::open(tunnel.address);
                (tunnel, conversation)
            });
            for path in PATHS {
                // What comes of it, and what arrives.
                let [ours, theirs] = conversations.each_mut().map(|(_, conversation)| {
                    let before = backend_seen.count();
                    let status = conversation.exchange(&Request::get(path)).unwrap().status;
                    let arrived = backend_seen.requests().split_off(before);
                    let arrived = arrived.into_iter().map(|request| request.target);
                    (status, arrived.collect::<Vec<_>>())
                });
                refused += usize::from(ours.0 == 403);
                let is_different = mode != "NONE" && DIFFERENT.contains(&path);
                let is_stricter = ours.1 != theirs.1;
                if (ours != theirs) != is_different || is_different && !is_stricter {
                    wrong.push(format!(
                        "{mode} {} {path}: Wayline {ours:?}, Envoy {theirs:?}",
                        case.name
                    ));
                }
            }
        }
        drop(wayline);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(refused > 100, "{refused}");
}
