//! CORS of HTTPRoutes: who is granted what, and that policy is asked first.

use wayline_tests::manifests::{self, Parent};
use wayline_tests::{Backend, Mesh, Reply, Request, Response};

use crate::scene::{self, ECHO, ECHO_AUTHORITY, PORT};

/// A mesh whose `echo` has a route with this CORS filter, and more.
fn mesh_with(cors: &str, more: &[String]) -> Mesh {
    let filters = format!("[{{type: CORS, cors: {cors}}}]");
    let rules = format!("{}  filters: {filters}\n", scene::TO_ECHO);
    let mut documents = vec![manifests::route(
        "default",
        "echo",
        Parent::Service("echo"),
        &rules,
    )];
    documents.extend_from_slice(more);
    scene::echo_mesh(&documents)
}

/// A backend with an opinion of its own about other origins.
fn backend(mesh: &Mesh) -> Backend {
    Backend::http(mesh.ip(ECHO), PORT, |_| {
        Reply::ok("echo")
            .header("access-control-allow-origin", "https://its.own")
            .header("access-control-allow-credentials", "true")
    })
}

fn preflight(origin: &str) -> Request {
    Request::new("OPTIONS", "/")
        .header("origin", origin)
        .header("access-control-request-method", "PUT")
        .header("access-control-request-headers", "x-a")
}

/// What the answer grants: origin, credentials, methods, headers, exposed, age.
fn granted(answer: &Response) -> [Option<&str>; 6] {
    [
        "allow-origin",
        "allow-credentials",
        "allow-methods",
        "allow-headers",
        "expose-headers",
        "max-age",
    ]
    .map(|name| answer.header(&format!("access-control-{name}")))
}

#[test]
fn a_preflight_is_answered_by_the_rule() {
    let list = "{allowOrigins: [\"https://*.a.example\", \"https://b.example\"], allowCredentials: true, allowMethods: [GET, PUT], allowHeaders: [x-a, x-b], exposeHeaders: [x-c], maxAge: 60}";
    let any = "{allowOrigins: [\"*\"], allowMethods: [\"*\"], allowHeaders: [\"*\"]}";
    let trusting = "{allowOrigins: [\"*\"], allowCredentials: true, allowMethods: [\"*\"], allowHeaders: [\"*\"]}";
    for (cors, origin, expected) in [
        (
            list,
            "https://x.a.example",
            [
                Some("https://x.a.example"),
                Some("true"),
                Some("GET, PUT"),
                Some("x-a, x-b"),
                None,
                Some("60"),
            ],
        ),
        (list, "https://a.example", [None; 6]),
        (list, "http://b.example", [None; 6]),
        (
            any,
            "https://c.example",
            [Some("*"), None, Some("*"), Some("*"), None, Some("5")],
        ),
        (
            trusting,
            "https://c.example",
            [
                Some("https://c.example"),
                Some("true"),
                Some("PUT"),
                Some("x-a"),
                None,
                Some("5"),
            ],
        ),
    ] {
        let mesh = mesh_with(cors, &[]);
        let backend = backend(&mesh);
        let _wayline = mesh.start();
        let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
        let answer = preflight(origin).send(tunnel.address);
        assert_eq!(answer.status, 200, "{cors} {origin}");
        assert_eq!(granted(&answer), expected, "{cors} {origin}");
        assert_eq!(backend.count(), 0, "{cors} {origin}");
        let line = mesh.logged("OPTIONS");
        assert!(line.contains(" 200 - cors_response "), "{line}");
    }
}

#[test]
fn responses_are_shared_with_whom_the_rule_names() {
    let cors = "{allowOrigins: [\"https://a.example\"], exposeHeaders: [x-c, x-d]}";
    let mesh = mesh_with(cors, &[]);
    let backend = backend(&mesh);
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);

    let answer = Request::get("/")
        .header("origin", "https://a.example")
        .send(tunnel.address);
    let expected = [
        Some("https://a.example"),
        None,
        None,
        None,
        Some("x-c, x-d"),
        None,
    ];
    assert_eq!(granted(&answer), expected);
    assert_eq!(answer.header("vary"), Some("origin"));

    // Others get what the backend says.
    let own = [
        Some("https://its.own"),
        Some("true"),
        None,
        None,
        None,
        None,
    ];
    let other = Request::get("/")
        .header("origin", "https://b.example")
        .send(tunnel.address);
    assert_eq!(granted(&other), own);
    assert_eq!(granted(&Request::get("/").send(tunnel.address)), own);

    // OPTIONS that is no preflight is the backend's.
    let options = Request::new("OPTIONS", "/").header("origin", "https://b.example");
    assert_eq!(options.send(tunnel.address).text(), "echo");

    // A page may read why it got nothing.
    drop(backend);
    let failed = Request::get("/")
        .header("origin", "https://a.example")
        .send(tunnel.address);
    assert_eq!((failed.status, granted(&failed)), (503, expected));
}

#[test]
fn policy_is_asked_before() {
    let cors = "{allowOrigins: [\"*\"]}";
    let policy = "
  targetRefs: [{kind: Service, group: \"\", name: echo}]
  action: DENY
  rules: [{to: [{operation: {methods: [OPTIONS]}}]}]
";
    let mesh = mesh_with(cors, &[manifests::policy("default", "no-options", policy)]);
    let _backend = backend(&mesh);
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let answer = preflight("https://a.example").send(tunnel.address);
    assert_eq!((answer.status, granted(&answer)), (403, [None; 6]));
    let answer = Request::get("/")
        .header("origin", "https://a.example")
        .send(tunnel.address);
    assert_eq!((answer.status, granted(&answer)[0]), (200, Some("*")));
}

#[test]
fn a_backend_may_have_cors_of_its_own() {
    let filter = |origin: &str| {
        format!("[{{type: CORS, cors: {{allowOrigins: [\"{origin}\"], allowMethods: [PUT]}}}}]")
    };
    let rules = format!(
        "- backendRefs: [{{name: echo, port: 80, filters: {}}}]\n  filters: {}\n",
        filter("https://backend.example"),
        filter("https://rule.example")
    );
    let route = manifests::route("default", "echo", Parent::Service("echo"), &rules);
    let mesh = scene::echo_mesh(&[route]);
    let _backend = backend(&mesh);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let read = Request::get("/").header("origin", "https://backend.example");
    let answer = read.send(tunnel.address);
    assert_eq!(granted(&answer)[0], Some("https://backend.example"));
    let other = Request::get("/").header("origin", "https://rule.example");
    // Not granted by the backend's filter: what the backend itself says passes.
    let answer = other.send(tunnel.address);
    assert_eq!(granted(&answer)[0], Some("https://its.own"));
    drop(wayline);

    // Without one of the rule's own the backend answers preflights.
    let rules = format!(
        "- backendRefs: [{{name: echo, port: 80, filters: {}}}]\n",
        filter("https://backend.example")
    );
    let route = manifests::route("default", "echo", Parent::Service("echo"), &rules);
    let mesh = scene::echo_mesh(&[route]);
    let recorded = backend(&mesh);
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let answer = preflight("https://backend.example").send(tunnel.address);
    assert_eq!((answer.status, recorded.count()), (200, 0));
    assert_eq!(granted(&answer)[0], Some("https://backend.example"));
    assert_eq!(granted(&answer)[2], Some("PUT"));
}
