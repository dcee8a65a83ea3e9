//! ExternalAuth filters of HTTPRoutes: whom the server of a rule admits, and that nobody gets past it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use wayline_tests::manifests::{self, Parent};
use wayline_tests::process::Process;
use wayline_tests::{Backend, Mesh, Recorded, Reply, Request, eventually, tools};

use crate::scene::{self, ECHO, ECHO_AUTHORITY, PORT};

/// The pod that decides.
const AUTHZ: u8 = 40;

/// A mesh in which `/guarded` of `echo` asks, and the rest does not; `filters` stand beside the one.
fn mesh(external_auth: &str, filters: &str, more: &[String]) -> Mesh {
    let mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh.logging(""));
    mesh.write(
        "main.yaml",
        &documents(&mesh, Parent::Service("echo"), external_auth, filters, more),
    );
    mesh
}

fn documents(
    mesh: &Mesh,
    parent: Parent<'_>,
    external_auth: &str,
    filters: &str,
    more: &[String],
) -> String {
    let rules = format!(
        "- matches: [{{path: {{type: PathPrefix, value: /guarded}}}}]
  filters:
  - type: ExternalAuth
    externalAuth: {external_auth}
{filters}  backendRefs: [{{name: echo, port: 80}}]
- matches: [{{headers: [{{name: x-user, value: alice}}]}}]
  backendRefs: [{{name: other, port: 80}}]
- backendRefs: [{{name: echo, port: 80}}]
"
    );
    let mut documents = scene::echo(mesh);
    documents.extend(scene::service(mesh, "authz", AUTHZ));
    documents.extend(scene::service(mesh, "other", 41));
    documents.push(manifests::route("default", "echo", parent, &rules));
    documents.extend_from_slice(more);
    manifests::file(&documents)
}

const GRPC: &str = "{protocol: GRPC, backendRef: {name: authz, port: 80}}";
const HTTP: &str = "{protocol: HTTP, backendRef: {name: authz, port: 80}}";

fn grpc_server(mesh: &Mesh) -> Process {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/grpc/authz.py");
    let mut command = Command::new("python3");
    command
        .arg(script)
        .arg(SocketAddr::new(mesh.ip(AUTHZ), PORT).to_string())
        .env("PYTHONPATH", tools::tool("grpcio"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let server = Process::start(command);
    eventually("the gRPC server", || {
        server.stdout().contains("serving").then_some(())
    });
    server
}

/// Admits whoever does not say otherwise, and calls him alice.
fn http_server(mesh: &Mesh) -> Backend {
    Backend::http(mesh.ip(AUTHZ), PORT, |request| {
        match request.header("authorization").unwrap_or("allow") {
            "deny" => Reply::status(401, "who are you?").header("www-authenticate", "Basic"),
            "login" => Reply::status(302, "").header("location", "https://login"),
            "created" => Reply::status(201, "made"),
            "broken" => Reply::status(503, "broken"),
            _ => Reply::ok("admitted")
                .header("x-user", "alice")
                .header("x-group", "a")
                .header("content-type", "text/verdict"),
        }
    })
}

fn guarded(authorization: &str) -> Request {
    Request::get("/guarded/x?q=1").header("authorization", authorization)
}

#[test]
fn a_grpc_server_admits_refuses_and_changes_what_its_rule_asks_about() {
    let mesh = mesh(GRPC, "", &[]);
    let _server = grpc_server(&mesh);
    let backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let ask = |path: &str, decision: &str| {
        let request = Request::get(path)
            .header("x-decide", decision)
            .header("x-list", "a");
        request.send(tunnel.address).status
    };
    assert_eq!(ask("/guarded", "allow"), 200);
    assert_eq!(backend.last().header("x-saw-path"), Some("/guarded"));
    assert_eq!(backend.last().header("x-saw-list"), Some("a"));
    assert_eq!(ask("/guarded", "deny"), 403);
    assert_eq!(ask("/guarded", "deny-402"), 402);
    assert_eq!(ask("/guarded", "error"), 403);
    assert_eq!(ask("/guarded/../guarded//", "deny"), 403);
    assert_eq!(ask("/open", "deny"), 200);
    assert_eq!(backend.count(), 2);
    let line = mesh.logged(" 402 ");
    assert!(
        line.contains("ext_authz_denied") && line.contains("UAEX"),
        "{line}"
    );
    drop(wayline);
}

#[test]
fn a_grpc_server_sees_the_headers_and_the_body_that_the_filter_says() {
    let config = "{protocol: GRPC, backendRef: {name: authz, port: 80}, grpc: {allowedHeaders: [x-decide]}, forwardBody: {maxSize: 8}}";
    let mesh = mesh(config, "", &[]);
    let _server = grpc_server(&mesh);
    let backend = scene::backend(&mesh, "echo", ECHO);
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let post = |body: &str| {
        let request = Request::new("POST", "/guarded")
            .header("x-list", "a")
            .body(body);
        request.send(tunnel.address).status
    };
    assert_eq!(post("12345678"), 200);
    let seen = backend.last();
    assert_eq!(seen.header("x-saw-body"), Some("12345678"));
    assert_ne!(seen.header("x-saw-list"), Some("a"));
    assert_eq!(seen.body, b"12345678");
    assert_eq!(post("123456789"), 413);
    assert_eq!(backend.count(), 1);
}

#[test]
fn an_http_server_admits_by_200_only_and_its_headers_go_upstream() {
    let mesh = mesh(HTTP, "", &[]);
    let server = http_server(&mesh);
    let backend = scene::backend(&mesh, "echo", ECHO);
    let other = scene::backend(&mesh, "other", 41);
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let request = guarded("Bearer x")
        .host("shop.test")
        .header("x-hidden", "1")
        .header("content-type", "text/plain");
    assert_eq!(request.send(tunnel.address).status, 200);
    let asked = server.last();
    assert_eq!(
        (asked.method.as_str(), asked.target.as_str()),
        ("GET", "/guarded/x?q=1")
    );
    assert_eq!(asked.header("host"), Some("shop.test"));
    assert_eq!(asked.header("authorization"), Some("Bearer x"));
    assert_eq!(asked.header("x-hidden"), None);
    // Admitted to the rule that asked, though by this header another would be taken.
    let seen = backend.last();
    assert_eq!(
        (seen.header("x-user"), seen.header("x-group")),
        (Some("alice"), Some("a"))
    );
    assert_eq!(seen.header("content-type"), Some("text/plain"));
    assert_eq!(other.count(), 0);
    for (said, status) in [
        ("deny", 401),
        ("login", 302),
        ("created", 201),
        ("broken", 403),
    ] {
        assert_eq!(guarded(said).send(tunnel.address).status, status, "{said}");
    }
    let login = guarded("login").send(tunnel.address);
    assert_eq!(login.header("location"), Some("https://login"));
    assert_eq!(backend.count(), 1);
}

#[test]
fn what_an_http_server_is_shown_and_may_change_is_what_the_filter_lists() {
    let config = "{protocol: HTTP, backendRef: {name: authz, port: 80}, http: {path: /check/, allowedHeaders: [X-Shown], allowedResponseHeaders: [x-group]}, forwardBody: {maxSize: 8}}";
    let mesh = mesh(config, "", &[]);
    let server = http_server(&mesh);
    let backend = scene::backend(&mesh, "echo", ECHO);
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let request = Request::new("POST", "/guarded")
        .header("x-shown", "1")
        .body("hello");
    assert_eq!(request.send(tunnel.address).status, 200);
    let asked: Recorded = server.last();
    assert_eq!(asked.target, "/check/guarded");
    assert_eq!(asked.header("x-shown"), Some("1"));
    assert_eq!(
        (&asked.body[..], asked.header("content-length")),
        (&b"hello"[..], Some("5"))
    );
    let seen = backend.last();
    assert_eq!(
        (seen.header("x-user"), seen.header("x-group")),
        (None, Some("a"))
    );
    assert_eq!(seen.body, b"hello");
}

#[test]
fn nobody_gets_past_a_server_that_is_away_or_not_there() {
    let dead = mesh(GRPC, "", &[]);
    let missing = mesh(
        "{protocol: HTTP, backendRef: {name: nobody, port: 80}}",
        "",
        &[],
    );
    let foreign = "{protocol: HTTP, backendRef: {name: authz, namespace: security, port: 80}}";
    let not_granted = mesh(
        foreign,
        "",
        &[manifests::service(
            "security",
            "authz",
            "10.96.9.9",
            &[("http", 80, PORT)],
        )],
    );
    for (mesh, status, said) in [
        (dead, 403, None),
        (
            missing,
            500,
            Some("the Service default/nobody does not exist"),
        ),
        (not_granted, 500, Some("no ReferenceGrant in security")),
    ] {
        let backend = scene::backend(&mesh, "echo", ECHO);
        let wayline = mesh.start();
        let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
        assert_eq!(guarded("x").send(tunnel.address).status, status, "{said:?}");
        assert_eq!(backend.count(), 0);
        assert_eq!(Request::get("/open").send(tunnel.address).status, 200);
        let checked = mesh.run(&["check", "-f", "manifests"]);
        if let Some(said) = said {
            assert_eq!(checked.code, Some(3), "{checked:?}");
            assert!(checked.text.contains(said), "{}", checked.text);
        }
        drop(wayline);
    }
}

#[test]
fn preflights_are_not_asked_about_and_redirects_are() {
    let cors = "  - {type: CORS, cors: {allowOrigins: [\"https://a.test\"]}}\n";
    let mesh = mesh(HTTP, cors, &[]);
    let server = http_server(&mesh);
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let preflight = Request::new("OPTIONS", "/guarded")
        .header("origin", "https://a.test")
        .header("access-control-request-method", "GET");
    let answer = preflight.send(tunnel.address);
    assert_eq!((answer.status, server.count()), (200, 0));
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("https://a.test")
    );
    assert_eq!(guarded("deny").send(tunnel.address).status, 401);

    let redirect = "- filters:
  - {type: ExternalAuth, externalAuth: AUTH}
  - {type: RequestRedirect, requestRedirect: {hostname: elsewhere.test}}
";
    let redirect = redirect.replace("AUTH", HTTP);
    let mut documents = scene::echo(&mesh);
    documents.extend(scene::service(&mesh, "authz", AUTHZ));
    documents.push(manifests::route(
        "default",
        "echo",
        Parent::Service("echo"),
        &redirect,
    ));
    mesh.write("main.yaml", &manifests::file(&documents));
    eventually("the redirect", || {
        (guarded("allow").send(tunnel.address).status == 302).then_some(())
    });
    assert_eq!(guarded("deny").send(tunnel.address).status, 401);
    drop(wayline);
}

#[test]
fn a_gateway_asks_too_and_explain_names_the_server() {
    let mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh.logging(""));
    let more = [scene::edge(&mesh)];
    mesh.write(
        "main.yaml",
        &documents(&mesh, Parent::Gateway("edge"), HTTP, "", &more),
    );
    let server = http_server(&mesh);
    let backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let edge = scene::edge_address(&mesh);
    assert_eq!(guarded("allow").send(edge).status, 200);
    assert_eq!(guarded("deny").send(edge).status, 401);
    assert_eq!(Request::get("/open").send(edge).status, 200);
    assert_eq!((server.count(), backend.count()), (2, 2));
    drop(wayline);
    let url = format!("http://{edge}/guarded");
    let explained = mesh.run(&[
        "explain",
        "-f",
        "manifests",
        "--gateway",
        "default/edge",
        &url,
    ]);
    let asks = "asks outbound|80||authz.default.svc.cluster.local over HTTP";
    assert!(explained.text.contains(asks), "{explained:?}");
}
