//! AuthorizationPolicy CUSTOM: servers are asked over gRPC and HTTP, and Envoy does the same with the same
//! answers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use wayline_tests::envoy::Envoy;
use wayline_tests::manifests::{self, policy};
use wayline_tests::process::Process;
use wayline_tests::{Backend, Mesh, Recorded, Reply, Request, eventually, tools};

use crate::scene::{self, ECHO, ECHO_AUTHORITY, PORT};

/// The pod that decides.
const AUTHZ: u8 = 40;
const AUTHZ_HOST: &str = "authz.default.svc.cluster.local";

/// A mesh whose `/guarded*` is asked about at the provider `p` with these settings.
fn mesh(kind: &str, settings: &Value) -> Mesh {
    let mesh = Mesh::new();
    let mut all = json!({"service": AUTHZ_HOST, "port": 80});
    for (name, value) in settings.as_object().unwrap() {
        all[name] = value.clone();
    }
    let providers = json!([{"name": "p", kind: all}]);
    mesh.write(
        "mesh.yaml",
        &mesh.logging(&format!("extensionProviders: {providers}")),
    );
    let mut documents = scene::echo(&mesh);
    documents.extend(scene::service(&mesh, "authz", AUTHZ));
    documents.push(policy("default", "ask", ASK));
    mesh.write("main.yaml", &manifests::file(&documents));
    mesh
}

const ASK: &str = "targetRefs: [{kind: Service, group: \"\", name: echo}]
action: CUSTOM
provider: {name: p}
rules:
- to: [{operation: {paths: [/guarded*]}}]
";

/// The gRPC server; it also tells the caller's identity where asked to.
fn grpc_server(mesh: &Mesh, tells_principal: bool) -> Process {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/grpc/authz.py");
    let mut command = Command::new("python3");
    command
        .arg(script)
        .arg(SocketAddr::new(mesh.ip(AUTHZ), PORT).to_string())
        .args(tells_principal.then_some("principal"))
        .env("PYTHONPATH", tools::tool("grpcio"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let server = Process::start(command);
    eventually("the gRPC server", || {
        server.stdout().contains("serving").then_some(())
    });
    server
}

/// The HTTP server, which decides by the path and by `x-decide`.
fn http_server(mesh: &Mesh) -> Backend {
    Backend::http(mesh.ip(AUTHZ), PORT, |request| {
        let decision = request.header("x-decide").unwrap_or("allow");
        match decision {
            "deny" => Reply::status(403, "no")
                .header("x-why", "because")
                .header("x-other", "1"),
            "login" => Reply::status(302, "")
                .header("location", "https://login")
                .header("www-authenticate", "Custom")
                .header("set-cookie", "a=b")
                .header("x-why", "because"),
            "created" => Reply::status(201, "made"),
            "broken" => Reply::status(503, "broken"),
            _ => Reply::ok("")
                .header("x-user", "alice")
                .header("x-down", "stairs")
                .header("x-kept", "inside")
                .header("x-saw-path", &request.target)
                .header("x-saw-body", &String::from_utf8_lossy(&request.body)),
        }
    })
}

fn guarded(decision: &str) -> Request {
    Request::get("/guarded?gone=1&kept=2").header("x-decide", decision)
}

fn ext_authz(settings: Value) -> Value {
    let kind = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz";
    let mut config = json!({"@type": kind, "transport_api_version": "V3"});
    for (name, value) in settings.as_object().unwrap() {
        config[name] = value.clone();
    }
    json!({"name": "envoy.filters.http.ext_authz", "typed_config": config})
}

fn authz_cluster(mesh: &Mesh, http2: bool) -> Value {
    let address = json!({"socket_address":
        {"address": mesh.ip(AUTHZ).to_string(), "port_value": PORT}});
    let mut cluster = json!({"name": "authz", "type": "STATIC", "connect_timeout": "2s",
        "load_assignment": {"cluster_name": "authz", "endpoints":
            [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}});
    if http2 {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}}}});
    }
    cluster
}

/// What the client gets, and what the backend: status, body, some headers; target and some headers.
fn outcome(request: &Request, to: SocketAddr, backend: &Backend, watched: &[&str]) -> Value {
    let before = backend.count();
    let answer = request.send(to);
    let down: Vec<Option<&str>> = [
        "x-down",
        "x-why",
        "x-other",
        "location",
        "www-authenticate",
        "set-cookie",
        "content-type",
    ]
    .iter()
    .map(|name| answer.header(name))
    .collect();
    let up = (backend.count() > before).then(|| seen(&backend.last(), watched));
    json!({"status": answer.status, "body": answer.text(), "down": down, "up": up})
}

fn seen(request: &Recorded, watched: &[&str]) -> Value {
    let headers: Vec<String> = watched
        .iter()
        .map(|name| request.all(name).join(","))
        .collect();
    json!({"target": request.target, "headers": headers, "body": request.body.len()})
}

fn compare(
    cases: &[(&str, Request)],
    ours: SocketAddr,
    theirs: SocketAddr,
    backend: &Backend,
    watched: &[&str],
) {
    let mut disagreements = Vec::new();
    for (name, request) in cases {
        let [one, other] = [ours, theirs].map(|to| outcome(request, to, backend, watched));
        if one != other {
            disagreements.push(format!("{name}:\n  wayline {one}\n  envoy   {other}"));
        }
    }
    assert!(disagreements.is_empty(), "{}", disagreements.join("\n"));
}

#[test]
fn envoy_does_the_same_with_the_answers_of_a_grpc_server() {
    let mesh = mesh(
        "envoyExtAuthzGrpc",
        &json!({
        "timeout": "1s", "statusOnError": "503",
        "includeRequestBodyInCheck": {"maxRequestBytes": 8, "allowPartialMessage": true}}),
    );
    let _server = grpc_server(&mesh, false);
    let backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let target = SocketAddr::new(mesh.ip(ECHO), PORT);
    let filter = ext_authz(json!({
        "grpc_service": {"envoy_grpc": {"cluster_name": "authz"}, "timeout": "1s"},
        "status_on_error": {"code": "ServiceUnavailable"},
        "with_request_body": {"max_request_bytes": 8, "allow_partial_message": true}}));
    let envoy = Envoy::http(&mesh, target, &[filter], &[authz_cluster(&mesh, true)]);
    let headers = |request: Request| {
        request
            .header("x-set", "old")
            .header("x-more", "one")
            .header("x-remove", "me")
            .header("x-list", "a")
            .header("x-list", "b")
            .header("x-saw-body", "forged")
    };
    let cases = [
        ("allow", headers(guarded("allow"))),
        ("deny", guarded("deny")),
        ("deny with an answer", guarded("deny-402")),
        ("an error", guarded("error")),
        ("too slow", guarded("slow")),
        ("a body", Request::new("POST", "/guarded").body("hello")),
        (
            "a longer body",
            Request::new("POST", "/guarded").body("hello, world"),
        ),
        (
            "exactly as long",
            Request::new("POST", "/guarded").body("12345678"),
        ),
    ];
    let watched = [
        "x-set",
        "x-more",
        "x-none",
        "x-remove",
        "x-saw-method",
        "x-saw-path",
        "x-saw-host",
        "x-saw-body",
        "x-saw-partial",
        "x-saw-list",
        "x-saw-authority",
    ];
    compare(&cases, tunnel.address, envoy.address, &backend, &watched);
    drop(wayline);
}

#[test]
fn envoy_does_the_same_with_the_answers_of_an_http_server() {
    let mesh = mesh(
        "envoyExtAuthzHttp",
        &json!({
        "pathPrefix": "/check", "timeout": "1s", "includeRequestHeadersInCheck": ["x-decide", "x-sh*"],
        "includeAdditionalHeadersInCheck": {"x-key": "k"},
        "headersToUpstreamOnAllow": ["x-user", "x-saw-*"], "headersToDownstreamOnAllow": ["x-down"],
        "headersToDownstreamOnDeny": ["x-why"],
        "includeRequestBodyInCheck": {"maxRequestBytes": 8}}),
    );
    let server = http_server(&mesh);
    let backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let target = SocketAddr::new(mesh.ip(ECHO), PORT);
    let exact = |name: &str| json!({"exact": name, "ignore_case": true});
    let prefix = |name: &str| json!({"prefix": name, "ignore_case": true});
    let filter = ext_authz(json!({
        "http_service": {
            "server_uri": {"uri": "http://authz", "cluster": "authz", "timeout": "1s"},
            "path_prefix": "/check",
            "authorization_request": {"headers_to_add": [{"key": "x-key", "value": "k"}]},
            "authorization_response": {
                "allowed_upstream_headers": {"patterns": [exact("x-user"), prefix("x-saw-")]},
                "allowed_client_headers": {"patterns": [exact("x-why")]},
                "allowed_client_headers_on_success": {"patterns": [exact("x-down")]}}},
        "allowed_headers": {"patterns": [exact("x-decide"), prefix("x-sh")]},
        "with_request_body": {"max_request_bytes": 8}}));
    let envoy = Envoy::http(&mesh, target, &[filter], &[authz_cluster(&mesh, false)]);
    let cases = [
        (
            "allow",
            guarded("allow")
                .header("x-user", "root")
                .header("x-kept", "mine"),
        ),
        ("deny", guarded("deny")),
        ("elsewhere", guarded("login")),
        ("another 2xx", guarded("created")),
        ("broken", guarded("broken")),
        ("a body", Request::new("POST", "/guarded").body("hello")),
        (
            "a longer body",
            Request::new("POST", "/guarded").body("hello, world"),
        ),
    ];
    let watched = ["x-user", "x-down", "x-kept", "x-saw-path", "x-saw-body"];
    compare(&cases, tunnel.address, envoy.address, &backend, &watched);

    let asked = |to: SocketAddr| {
        let request = Request::get("/guarded?q=1")
            .host("shop.test")
            .header("x-shown", "1")
            .header("x-hidden", "1")
            .header("authorization", "Basic x")
            .header("x-key", "forged");
        assert_eq!(request.send(to).status, 200);
        let watched = [
            "host",
            "authorization",
            "x-shown",
            "x-hidden",
            "x-key",
            "x-envoy-auth-partial-body",
        ];
        (server.last().method, seen(&server.last(), &watched))
    };
    assert_eq!(asked(tunnel.address), asked(envoy.address));
    drop(wayline);
}

#[test]
fn only_what_the_rules_match_is_asked_about() {
    let mesh = mesh("envoyExtAuthzGrpc", &json!({}));
    let _server = grpc_server(&mesh, true);
    let backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let open = Request::get("/open").header("x-decide", "deny");
    assert_eq!(open.send(tunnel.address).status, 200);
    assert_eq!(guarded("deny").send(tunnel.address).status, 403);
    assert_eq!(guarded("allow").send(tunnel.address).status, 200);
    let principal = backend.last().header("x-saw-principal").map(str::to_owned);
    assert_eq!(
        principal.as_deref(),
        Some("spiffe://cluster.local/ns/default/sa/a")
    );
    let line = mesh.logged(" 403 ");
    assert!(
        line.contains("ext_authz_denied") && line.contains("UAEX"),
        "{line}"
    );
    drop(wayline);
}

#[test]
fn a_provider_that_is_away_refuses_unless_it_fails_open() {
    for (fail_open, status) in [(false, 403), (true, 200)] {
        let mesh = mesh(
            "envoyExtAuthzGrpc",
            &json!({"failOpen": fail_open, "timeout": "2s"}),
        );
        let _backend = scene::backend(&mesh, "echo", ECHO);
        let wayline = mesh.start();
        let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
        assert_eq!(guarded("allow").send(tunnel.address).status, status);
        assert_eq!(Request::get("/open").send(tunnel.address).status, 200);
        drop(wayline);
    }
}

#[test]
fn a_provider_that_is_not_there_refuses_what_its_rules_match_and_check_says_so() {
    let mesh = mesh("zipkin", &json!({}));
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    assert_eq!(guarded("allow").send(tunnel.address).status, 403);
    assert_eq!(Request::get("/open").send(tunnel.address).status, 200);
    let checked = mesh.run(&["check", "-f", "manifests"]);
    assert_eq!(checked.code, Some(3), "{checked:?}");
    assert!(
        checked
            .text
            .contains("no such external authorization provider"),
        "{checked:?}"
    );
    drop(wayline);
}

#[test]
fn what_a_server_tells_of_a_request_stands_in_the_log() {
    let mesh = mesh("envoyExtAuthzGrpc", &json!({}));
    let told = |path: &str| format!("%DYNAMIC_METADATA(envoy.filters.http.ext_authz:{path})%");
    let format = ["who", "flag", "deep:key", "deep", "none"]
        .map(told)
        .join(" ");
    let providers =
        json!([{"name": "p", "envoyExtAuthzGrpc": {"service": AUTHZ_HOST, "port": 80}}]);
    let more =
        format!("extensionProviders: {providers}\naccessLogFormat: '%REQ(:PATH)% told {format}'\n");
    mesh.write("mesh.yaml", &mesh.logging(&more));
    let _server = grpc_server(&mesh, false);
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    assert_eq!(guarded("allow").send(tunnel.address).status, 200);
    assert_eq!(Request::get("/open").send(tunnel.address).status, 200);
    let line = mesh.logged("/guarded");
    let told = r#"told alice true value {\"key\":\"value\"} -"#;
    assert!(line.contains(told), "{line}");
    assert!(mesh.logged("/open").contains("told - - - - -"));
    drop(wayline);
}
