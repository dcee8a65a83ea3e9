//! AuthorizationPolicies at a waypoint.

use std::net::SocketAddr;

use wayline_tests::manifests::{self, policy, policy_with};
use wayline_tests::{Backend, Caller, Mesh, Request, Wayline, eventually};

use crate::scene::{self, ECHO, ECHO_AUTHORITY};

const DENIED: &str = "RBAC: access denied";

/// `echo` with a policy `p` for it, which has this spec without `targetRefs`.
struct Stage {
    mesh: Mesh,
    backend: Backend,
    wayline: Wayline,
}

const AT_ECHO: &str = "targetRefs: [{kind: Service, group: \"\", name: echo}]\n";

fn stage(spec: &str) -> Stage {
    stage_with(&[policy("default", "p", &format!("{AT_ECHO}{spec}"))])
}

fn stage_with(policies: &[String]) -> Stage {
    let mesh = scene::echo_mesh(policies);
    let backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    Stage {
        mesh,
        backend,
        wayline,
    }
}

impl Stage {
    fn status(&self, who: &str, request: &Request) -> u16 {
        let tunnel = self.mesh.tunnel(who, ECHO_AUTHORITY);
        status(request, tunnel.address)
    }

    fn get(&self, who: &str) -> u16 {
        self.status(who, &Request::get("/"))
    }

    fn expect(&self, cases: &[(&str, Request, u16)]) {
        for (who, request, expected) in cases {
            assert_eq!(self.status(who, request), *expected, "{who}: {request:?}");
        }
    }
}

fn status(request: &Request, to: SocketAddr) -> u16 {
    let answer = request.send(to);
    if answer.status == 403 {
        assert_eq!(answer.text(), DENIED);
    }
    answer.status
}

#[test]
fn a_denial_is_istios_to_the_byte() {
    let stage = stage(
        "
action: DENY
rules:
- to: [{operation: {paths: [/admin*]}}]
",
    );
    let tunnel = stage.mesh.tunnel("default/a", ECHO_AUTHORITY);
    let answer = Request::get("/admin/x").send(tunnel.address);
    assert_eq!(answer.status, 403);
    assert_eq!(answer.text(), DENIED);
    assert_eq!(answer.header("content-type"), Some("text/plain"));
    assert_eq!(answer.header("content-length"), Some("19"));
    assert_eq!(status(&Request::get("/public"), tunnel.address), 200);
    assert_eq!(stage.backend.count(), 1);
    let line = stage.mesh.logged("/admin/x");
    assert!(
        line.contains(" 403 - rbac_access_denied_matched_policy[ns[default]-policy[p]-rule[0]]"),
        "{line}"
    );
}

#[test]
fn allow_by_principal_admits_nobody_else() {
    let stage = stage(
        "
action: ALLOW
rules:
- from: [{source: {principals: [cluster.local/ns/default/sa/productpage, '*/sa/ops']}}]
",
    );
    assert_eq!(stage.get("default/productpage"), 200);
    assert_eq!(stage.get("any/ops"), 200);
    assert_eq!(stage.get("other/productpage"), 403);
    assert_eq!(stage.get("default/productpage2"), 403);
    let line = stage.mesh.logged(" 403 ");
    assert!(
        line.contains("rbac_access_denied_matched_policy[none]"),
        "{line}"
    );
}

#[test]
fn sources_by_namespace_service_account_and_address() {
    let stage = stage(
        "
action: ALLOW
rules:
- from: [{source: {namespaces: [shop, 'team-*']}}]
- from: [{source: {serviceAccounts: [default/reader, writer]}}]
",
    );
    assert_eq!(stage.get("shop/x"), 200);
    assert_eq!(stage.get("team-a/x"), 200);
    assert_eq!(stage.get("default/reader"), 200);
    assert_eq!(stage.get("default/writer"), 200);
    assert_eq!(stage.get("bench/writer"), 403);
    assert_eq!(stage.get("bench/x"), 403);

    let ip = stage.mesh.ip(77);
    stage.mesh.write(
        "ip.yaml",
        &policy(
            "default",
            "by-ip",
            &format!(
                "{AT_ECHO}action: DENY\nrules:\n- from: [{{source: {{ipBlocks: [\"{ip}/32\"]}}}}]\n"
            ),
        ),
    );
    let from_there = Caller {
        source: Some(ip),
        ..stage.mesh.caller("shop/x")
    };
    let tunnel = stage.mesh.tunnel_of(&from_there, ECHO_AUTHORITY);
    eventually("the address to be denied", || {
        (status(&Request::get("/"), tunnel.address) == 403).then_some(())
    });
    assert_eq!(stage.get("shop/x"), 200);
}

#[test]
fn operations_by_method_path_host_and_port() {
    let stage = stage(
        "
action: ALLOW
rules:
- to:
  - operation: {methods: [GET, HEAD], paths: ['/users/{*}/photos', '/files/{**}']}
- to:
  - operation: {paths: [/write], notMethods: [DELETE]}
- to:
  - operation: {hosts: [ops.example.com], paths: ['*.html']}
- to:
  - operation: {ports: ['81'], paths: [/port]}
- to:
  - operation: {ports: ['80'], paths: [/right-port]}
",
    );
    let get = Request::get;
    stage.expect(&[
        ("default/a", get("/users/1/photos"), 200),
        ("default/a", get("/users/1/2/photos"), 403),
        ("default/a", get("/users//photos"), 403),
        ("default/a", Request::new("POST", "/users/1/photos"), 403),
        ("default/a", get("/files/a/b/c"), 200),
        ("default/a", get("/filesystem"), 403),
        ("default/a", Request::new("PUT", "/write"), 200),
        ("default/a", Request::new("DELETE", "/write"), 403),
        ("default/a", get("/write?x=/public"), 200),
        ("default/a", get("/x.html").host("ops.example.com"), 200),
        ("default/a", get("/x.html").host("OPS.Example.com"), 200),
        // What admits must not rely on two spellings being the same place.
        ("default/a", get("/x.html").host("ops.example.com:80"), 403),
        ("default/a", get("/x.html").host("other.example.com"), 403),
        ("default/a", get("/port"), 403),
        ("default/a", get("/right-port"), 200),
        // The path is judged as it is routed: canonical.
        ("default/a", get("/x/../write"), 200),
        ("default/a", get("/files/../secret"), 403),
    ]);
}

#[test]
fn a_host_is_denied_however_it_is_spelt() {
    let stage = stage(
        "
action: DENY
rules:
- to: [{operation: {hosts: [secret.example.com]}}]
",
    );
    for (host, expected) in [
        ("secret.example.com", 403),
        ("SECRET.example.com", 403),
        ("secret.example.com:80", 403),
        ("secret.example.com.", 403),
        ("public.example.com", 200),
    ] {
        let request = Request::get("/").host(host);
        assert_eq!(stage.status("default/a", &request), expected, "{host}");
    }
}

#[test]
fn conditions_by_header_and_destination() {
    let stage = stage(
        "
action: ALLOW
rules:
- when:
  - {key: 'request.headers[x-token]', values: [secret, 'prefix-*']}
  - {key: destination.port, values: ['80']}
  - {key: source.namespace, notValues: [banned]}
",
    );
    let with = |value: &str| Request::get("/").header("X-Token", value);
    stage.expect(&[
        ("default/a", with("secret"), 200),
        ("default/a", with("prefix-1"), 200),
        ("default/a", with("other"), 403),
        ("default/a", Request::get("/"), 403),
        ("banned/a", with("secret"), 403),
        // Several values are one reading for ALLOW: joined, it is none of those listed.
        ("default/a", with("other").header("x-token", "secret"), 403),
    ]);
}

#[test]
fn deny_goes_before_allow_and_allow_of_nothing_denies_all() {
    let stage = stage_with(&[
        policy("default", "allow", &format!("{AT_ECHO}rules: [{{}}]\n")),
        policy(
            "default",
            "deny",
            &format!(
                "{AT_ECHO}action: DENY\nrules: [{{from: [{{source: {{namespaces: [banned]}}}}]}}]\n"
            ),
        ),
    ]);
    assert_eq!(stage.get("default/a"), 200);
    assert_eq!(stage.get("banned/a"), 403);
    stage
        .mesh
        .write("nothing.yaml", &policy("default", "allow", AT_ECHO));
    // The document of the same name elsewhere is a duplicate: replace the whole.
    let mut documents = scene::echo(&stage.mesh);
    documents.push(policy("default", "nothing", AT_ECHO));
    stage.mesh.write("main.yaml", &manifests::file(&documents));
    stage.mesh.remove("nothing.yaml");
    eventually("everything to be denied", || {
        (stage.get("default/a") == 403).then_some(())
    });
}

#[test]
fn policies_attach_to_service_gateway_and_class_and_not_by_selector() {
    let deny = |header: &str| {
        format!(
            "action: DENY\nrules: [{{when: [{{key: 'request.headers[{header}]', values: ['1']}}]}}]\n"
        )
    };
    let group = "gateway.networking.k8s.io";
    let stage = stage_with(&[
        policy(
            "default",
            "service",
            &format!("{AT_ECHO}{}", deny("x-service")),
        ),
        policy(
            "default",
            "gateway",
            &format!(
                "targetRefs: [{{kind: Gateway, group: {group}, name: waypoint}}]\n{}",
                deny("x-gateway")
            ),
        ),
        policy(
            "istio-system",
            "class",
            &format!(
                "targetRefs: [{{kind: GatewayClass, group: {group}, name: istio-waypoint}}]\n{}",
                deny("x-class")
            ),
        ),
        policy(
            "other",
            "class",
            &format!(
                "targetRefs: [{{kind: GatewayClass, group: {group}, name: istio-waypoint}}]\n{}",
                deny("x-wrong-namespace")
            ),
        ),
        policy(
            "default",
            "selector",
            &format!(
                "selector: {{matchLabels: {{app: echo}}}}\n{}",
                deny("x-selector")
            ),
        ),
        policy("default", "namespace", &deny("x-namespace")),
    ]);
    let with = |name: &str| Request::get("/").header(name, "1");
    stage.expect(&[
        ("default/a", with("x-service"), 403),
        ("default/a", with("x-gateway"), 403),
        ("default/a", with("x-class"), 403),
        ("default/a", with("x-wrong-namespace"), 200),
        ("default/a", with("x-selector"), 200),
        ("default/a", with("x-namespace"), 200),
    ]);
}

#[test]
fn a_dry_run_denies_nothing_and_shows() {
    let spec = format!("{AT_ECHO}action: DENY\nrules: [{{}}]\n");
    let stage = stage_with(&[policy_with(
        "default",
        "p",
        &[("istio.io/dry-run", "true")],
        &spec,
    )]);
    assert_eq!(stage.get("default/a"), 200);
    let check = stage.mesh.run(&["check", "-f", "manifests"]);
    assert_eq!(check.code, Some(0), "{}", check.text);
    let levels = stage
        .wayline
        .admin("POST", "/logging?level=wayline_proxy:debug");
    assert_eq!(levels.status, 200);
    assert_eq!(stage.get("default/a"), 200);
    eventually("the shadow in the log", || {
        let said = stage.wayline.process.stderr();
        let line = said.lines().find(|line| line.contains("shadow denied"))?;
        line.contains("ns[default]-policy[p]-rule[0]").then_some(())
    });
    let marks = [
        ("kind", "dry_run_denied"),
        ("rule", "ns[default]-policy[p]-rule[0]"),
    ];
    stage
        .wayline
        .counted("wayline_policy_marks_total", &marks, 2.0);
    // Taking the annotation away puts it in force.
    let mut documents = scene::echo(&stage.mesh);
    documents.push(policy("default", "p", &spec));
    stage.mesh.write("main.yaml", &manifests::file(&documents));
    eventually("the policy to be in force", || {
        (stage.get("default/a") == 403).then_some(())
    });
}

#[test]
fn audit_marks_requests_and_stops_none() {
    let stage = stage("action: AUDIT\nrules:\n- to: [{operation: {paths: [/marked]}}]\n");
    assert_eq!(stage.get("default/a"), 200);
    assert_eq!(stage.status("default/a", &Request::get("/marked")), 200);
    let marks = [("kind", "audit"), ("rule", "ns[default]-policy[p]-rule[0]")];
    stage
        .wayline
        .counted("wayline_policy_marks_total", &marks, 1.0);
    let check = stage.mesh.run(&["check", "-f", "manifests"]);
    assert_eq!(check.code, Some(0), "{}", check.text);
}

#[test]
fn a_policy_that_never_was_valid_denies_its_target_and_nothing_else() {
    let mesh = scene::echo_mesh(&[policy(
        "default",
        "broken",
        &format!(
            "{AT_ECHO}action: ALLOW\nrules: [{{from: [{{source: {{principles: [typo]}}}}]}}]\n"
        ),
    )]);
    let mut other = scene::service(&mesh, "other", 40);
    other.push(policy(
        "default",
        "custom",
        "targetRefs: [{kind: Service, group: \"\", name: third}]
action: CUSTOM
provider: {name: opa}
rules: [{}]
",
    ));
    other.extend(scene::service(&mesh, "third", 41));
    mesh.write("other.yaml", &manifests::file(&other));
    let _backends = [
        scene::backend(&mesh, "echo", ECHO),
        scene::backend(&mesh, "other", 40),
        scene::backend(&mesh, "third", 41),
    ];
    let _wayline = mesh.start();
    for (authority, expected) in [
        (ECHO_AUTHORITY, 403),
        ("10.96.0.40:80", 200),
        // What is not supported yet and would restrict denies, too.
        ("10.96.0.41:80", 403),
    ] {
        let tunnel = mesh.tunnel("default/a", authority);
        assert_eq!(
            status(&Request::get("/"), tunnel.address),
            expected,
            "{authority}"
        );
    }
}

#[test]
fn opaque_ports_are_judged_by_what_is_known_of_them() {
    let mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh.logging(""));
    let mut documents = scene::waypoint();
    for (name, host, rules) in [
        ("l4", 50, "- from: [{source: {namespaces: [default]}}]"),
        // ALLOW needs proof of what bytes cannot show …
        ("l7allow", 51, "- to: [{operation: {methods: [GET]}}]"),
        // … and DENY fires on what they might hide.
        ("l7deny", 52, "- to: [{operation: {methods: [DELETE]}}]"),
    ] {
        documents.push(manifests::service(
            "default",
            name,
            &format!("10.96.0.{host}"),
            &[("tcp", 80, 23917)],
        ));
        documents.push(manifests::Pod::new(name, mesh.ip(host)).yaml());
        let action = if name == "l7deny" { "DENY" } else { "ALLOW" };
        documents.push(policy(
            "default",
            name,
            &format!(
                "targetRefs: [{{kind: Service, group: \"\", name: {name}}}]\naction: {action}\nrules:\n{rules}\n"
            ),
        ));
    }
    mesh.write("main.yaml", &manifests::file(&documents));
    let _backends: Vec<_> = (50..53)
        .map(|host| scene::backend(&mesh, "raw", host))
        .collect();
    let wayline = mesh.start();
    use wayline_tests::tunnel::Refused;
    assert_eq!(mesh.knock("default/a", "10.96.0.50:80"), Ok(()));
    for (who, authority) in [
        ("other/a", "10.96.0.50:80"),
        ("default/a", "10.96.0.51:80"),
        ("default/a", "10.96.0.52:80"),
    ] {
        let outcome = mesh.knock(who, authority);
        assert_eq!(outcome, Err(Refused::Status(401)), "{who} {authority}");
    }
    drop(wayline);
}

#[test]
fn an_edit_reaches_connections_that_are_open_already() {
    let stage = stage("action: ALLOW\nrules: [{}]\n");
    let tunnel = stage.mesh.tunnel("default/a", ECHO_AUTHORITY);
    let mut conversation = wayline_tests::Conversation::open(tunnel.address);
    assert_eq!(
        conversation.exchange(&Request::get("/")).unwrap().status,
        200
    );
    let mut documents = scene::echo(&stage.mesh);
    documents.push(policy("default", "p", AT_ECHO));
    stage.mesh.write("main.yaml", &manifests::file(&documents));
    eventually("the open connection to be denied", || {
        let answer = conversation.exchange(&Request::get("/")).unwrap();
        (answer.status == 403).then_some(())
    });
    let _ = &stage.wayline;
}
