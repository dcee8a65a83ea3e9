//! HTTPRoutes: which rule, which backend, and what is changed on the way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use wayline_tests::manifests::{self, Parent, route};
use wayline_tests::{Backend, Conversation, Mesh, Reply, Request, Tunnel, eventually};

use crate::scene::{self, ECHO, ECHO_AUTHORITY, PORT};

const V1: u8 = 31;
const V2: u8 = 32;

/// `echo`, `v1` and `v2` with their backends, and a producer route of `echo` with these rules.
struct Stage {
    mesh: Mesh,
    echo: Backend,
    v1: Backend,
    v2: Backend,
}

fn stage(rules: &str) -> Stage {
    let mesh = scene::echo_mesh(&[]);
    let mut documents = scene::service(&mesh, "v1", V1);
    documents.extend(scene::service(&mesh, "v2", V2));
    documents.push(route("default", "echo", Parent::Service("echo"), rules));
    mesh.write("routes.yaml", &manifests::file(&documents));
    Stage {
        echo: scene::backend(&mesh, "echo", ECHO),
        v1: scene::backend(&mesh, "v1", V1),
        v2: scene::backend(&mesh, "v2", V2),
        mesh,
    }
}

impl Stage {
    fn tunnel(&self) -> Tunnel {
        self.mesh.tunnel("default/productpage", ECHO_AUTHORITY)
    }
}

/// Who answered, or the status.
fn said(request: &Request, to: SocketAddr) -> String {
    let answer = request.send(to);
    match answer.status {
        200 => answer.text(),
        status => status.to_string(),
    }
}

#[test]
fn the_more_specific_match_wins_whatever_the_order() {
    let stage = stage(
        "
- matches:
  - path: {type: PathPrefix, value: /}
  backendRefs: [{name: echo, port: 80}]
- matches:
  - path: {type: PathPrefix, value: /shop}
  backendRefs: [{name: v1, port: 80}]
- matches:
  - path: {type: Exact, value: /shop/cart}
  backendRefs: [{name: v2, port: 80}]
- matches:
  - path: {type: PathPrefix, value: /shop}
    headers: [{name: x-user, value: tester}]
  backendRefs: [{name: v2, port: 80}]
- matches:
  - path: {type: PathPrefix, value: /shop}
    method: DELETE
  backendRefs: [{name: echo, port: 80}]
- matches:
  - path: {type: PathPrefix, value: /search}
    queryParams: [{name: beta, value: 'yes'}]
  backendRefs: [{name: v2, port: 80}]
",
    );
    let _wayline = stage.mesh.start();
    let tunnel = stage.tunnel();
    for (request, expected) in [
        (Request::get("/"), "echo"),
        (Request::get("/shopping"), "echo"),
        (Request::get("/shop"), "v1"),
        (Request::get("/shop/"), "v1"),
        (Request::get("/shop/a?b=c"), "v1"),
        (Request::get("/shop/cart"), "v2"),
        (Request::get("/shop/cart/"), "v1"),
        (Request::get("/shop/a").header("X-User", "tester"), "v2"),
        (Request::get("/shop/a").header("X-User", "guest"), "v1"),
        (Request::new("DELETE", "/shop/a"), "echo"),
        (
            Request::new("DELETE", "/shop/a").header("x-user", "tester"),
            "echo",
        ),
        (Request::get("/search?beta=yes"), "v2"),
        (Request::get("/search?beta=no"), "echo"),
        // One canonical request: what looks different and is the same is routed the same.
        (Request::get("/x/../shop"), "v1"),
    ] {
        assert_eq!(said(&request, tunnel.address), expected, "{request:?}");
    }
    let _ = (&stage.echo, &stage.v1, &stage.v2);
}

#[test]
fn a_regular_expression_matches_the_whole_path() {
    let stage = stage(
        "
- matches:
  - path: {type: RegularExpression, value: '/item/[0-9]+'}
    headers: [{name: x-kind, type: RegularExpression, value: 'a|b'}]
  backendRefs: [{name: v1, port: 80}]
",
    );
    let _wayline = stage.mesh.start();
    let tunnel = stage.tunnel();
    for (path, kind, expected) in [
        ("/item/42", "b", "v1"),
        ("/item/42?x=/item", "a", "v1"),
        ("/item/42/more", "a", "404"),
        ("/an/item/42", "a", "404"),
        ("/item/42", "ab", "404"),
    ] {
        let request = Request::get(path).header("x-kind", kind);
        assert_eq!(said(&request, tunnel.address), expected, "{request:?}");
    }
}

#[test]
fn where_no_rule_matches_it_is_404() {
    let stage = stage(
        "
- matches:
  - path: {type: PathPrefix, value: /only}
  backendRefs: [{name: v1, port: 80}]
",
    );
    let _wayline = stage.mesh.start();
    let tunnel = stage.tunnel();
    assert_eq!(said(&Request::get("/only/this"), tunnel.address), "v1");
    assert_eq!(said(&Request::get("/other"), tunnel.address), "404");
    let line = stage.mesh.logged("/other");
    assert!(line.contains(" 404 NR route_not_found"), "{line}");
    assert_eq!(stage.echo.count(), 0);
}

#[test]
fn headers_are_set_added_and_removed_both_ways() {
    let mesh = scene::echo_mesh(&[route(
        "default",
        "echo",
        Parent::Service("echo"),
        "
- filters:
  - type: RequestHeaderModifier
    requestHeaderModifier:
      set: [{name: x-set, value: fresh}, {name: Host, value: inner.example.com}]
      add: [{name: x-add, value: two}]
      remove: [x-gone]
  - type: ResponseHeaderModifier
    responseHeaderModifier:
      set: [{name: x-back, value: set}]
      add: [{name: x-more, value: b}]
      remove: [x-secret]
  backendRefs:
  - name: echo
    port: 80
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{name: x-backend, value: echo}]
",
    )]);
    let backend = Backend::http(mesh.ip(ECHO), PORT, |_| {
        Reply::ok("x")
            .header("X-Back", "old")
            .header("X-More", "a")
            .header("X-Secret", "s")
    });
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("default/productpage", ECHO_AUTHORITY);
    let answer = Request::get("/")
        .header("X-Set", "old")
        .header("X-Set", "older")
        .header("X-Add", "one")
        .header("X-Gone", "1")
        .send(tunnel.address);
    let request = backend.last();
    assert_eq!(request.all("x-set"), ["fresh"]);
    assert_eq!(request.all("host"), ["inner.example.com"]);
    assert_eq!(request.all("x-add"), ["one", "two"]);
    assert_eq!(request.all("x-gone"), Vec::<&str>::new());
    assert_eq!(request.all("x-backend"), ["echo"]);
    assert_eq!(answer.header("x-back"), Some("set"));
    assert_eq!(answer.header("x-secret"), None);
    let more = answer
        .headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("x-more"));
    assert_eq!(more.count(), 2);
}

#[test]
fn redirects_answer_without_a_backend() {
    let stage = stage(
        "
- matches: [{path: {type: PathPrefix, value: /old}}]
  filters:
  - type: RequestRedirect
    requestRedirect:
      scheme: https
      hostname: new.example.com
      path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}
      statusCode: 301
- matches: [{path: {type: PathPrefix, value: /full}}]
  filters:
  - type: RequestRedirect
    requestRedirect:
      port: 8443
      path: {type: ReplaceFullPath, replaceFullPath: /there}
",
    );
    let _wayline = stage.mesh.start();
    let tunnel = stage.tunnel();
    let answer = Request::get("/old/a/b?q=1")
        .host("shop.example.com")
        .send(tunnel.address);
    assert_eq!(answer.status, 301);
    assert_eq!(
        answer.header("location"),
        Some("https://new.example.com/new/a/b?q=1")
    );
    let answer = Request::get("/full/x")
        .host("shop.example.com")
        .send(tunnel.address);
    assert_eq!(answer.status, 302);
    assert_eq!(
        answer.header("location"),
        Some("http://shop.example.com:8443/there")
    );
    assert_eq!(stage.echo.count() + stage.v1.count() + stage.v2.count(), 0);
}

#[test]
fn rewrites_change_what_the_backend_gets() {
    let stage = stage(
        "
- matches: [{path: {type: PathPrefix, value: /api/v1}}]
  filters:
  - type: URLRewrite
    urlRewrite:
      hostname: inner.example.com
      path: {type: ReplacePrefixMatch, replacePrefixMatch: /v1}
  backendRefs: [{name: v1, port: 80}]
- matches: [{path: {type: PathPrefix, value: /strip}}]
  filters:
  - type: URLRewrite
    urlRewrite:
      path: {type: ReplacePrefixMatch, replacePrefixMatch: /}
  backendRefs: [{name: v1, port: 80}]
- matches: [{path: {type: PathPrefix, value: /full}}]
  filters:
  - type: URLRewrite
    urlRewrite:
      path: {type: ReplaceFullPath, replaceFullPath: /one}
  backendRefs: [{name: v1, port: 80}]
",
    );
    let _wayline = stage.mesh.start();
    let tunnel = stage.tunnel();
    for (path, rewritten, host) in [
        ("/api/v1/users?x=1", "/v1/users?x=1", "inner.example.com"),
        ("/api/v1", "/v1", "inner.example.com"),
        ("/strip/a", "/a", "test"),
        ("/strip", "/", "test"),
        ("/full/a/b?q", "/one?q", "test"),
    ] {
        assert_eq!(said(&Request::get(path), tunnel.address), "v1", "{path}");
        let request = stage.v1.last();
        assert_eq!(request.target, rewritten);
        assert_eq!(request.header("host"), Some(host), "{path}");
        assert_eq!(request.header("x-envoy-original-path"), Some(path));
    }
    // The log tells what the client asked for, as Istio's does.
    let line = stage.mesh.logged("\"GET /api/v1/users?x=1 HTTP/1.1\"");
    assert!(
        line.contains("outbound|80||v1.default.svc.cluster.local"),
        "{line}"
    );
}

/// Counts answers of `total` requests over some kept-alive tunnels.
fn tally(tunnel: &Tunnel, path: &str, total: usize) -> BTreeMap<String, usize> {
    const CLIENTS: usize = 4;
    let next = AtomicUsize::new(0);
    let tallies = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut conversation = Conversation::open(tunnel.address);
                    let mut tally = BTreeMap::new();
                    while next.fetch_add(1, Ordering::Relaxed) < total {
                        let answer = conversation.exchange(&Request::get(path)).unwrap();
                        let key = match answer.status {
                            200 => answer.text(),
                            status => status.to_string(),
                        };
                        *tally.entry(key).or_default() += 1;
                    }
                    tally
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect::<Vec<BTreeMap<String, usize>>>()
    });
    let mut all = BTreeMap::new();
    for (key, count) in tallies.into_iter().flatten() {
        *all.entry(key).or_default() += count;
    }
    all
}

fn assert_share(tally: &BTreeMap<String, usize>, who: &str, percent: f64) {
    let total: usize = tally.values().sum();
    let got = *tally.get(who).unwrap_or(&0) as f64 * 100.0 / total as f64;
    assert!(
        (got - percent).abs() <= 2.0,
        "{who} got {got} % in the place of {percent} %: {tally:?}"
    );
}

#[test]
fn weights_are_kept_within_two_percent() {
    let stage = stage(
        "
- matches: [{path: {type: PathPrefix, value: /canary}}]
  backendRefs:
  - {name: v1, port: 80, weight: 90}
  - {name: v2, port: 80, weight: 10}
- matches: [{path: {type: PathPrefix, value: /even}}]
  backendRefs:
  - {name: v1, port: 80, weight: 50}
  - {name: v2, port: 80, weight: 50}
- matches: [{path: {type: PathPrefix, value: /zero}}]
  backendRefs:
  - {name: v1, port: 80, weight: 1}
  - {name: v2, port: 80, weight: 0}
",
    );
    let _wayline = stage.mesh.start();
    let tunnel = stage.tunnel();
    let canary = tally(&tunnel, "/canary", 10_000);
    assert_share(&canary, "v1", 90.0);
    assert_share(&canary, "v2", 10.0);
    let even = tally(&tunnel, "/even", 10_000);
    assert_share(&even, "v1", 50.0);
    assert_share(&even, "v2", 50.0);
    let zero = tally(&tunnel, "/zero", 200);
    assert_eq!(zero.get("v2"), None);
}

#[test]
fn missing_and_forbidden_backends_answer_500_for_their_share() {
    let stage = stage(
        "
- matches: [{path: {type: PathPrefix, value: /missing}}]
  backendRefs:
  - {name: v1, port: 80, weight: 3}
  - {name: nowhere, port: 80, weight: 1}
- matches: [{path: {type: PathPrefix, value: /foreign}}]
  backendRefs:
  - {name: theirs, namespace: other, port: 80}
",
    );
    stage.mesh.write(
        "other.yaml",
        &manifests::file(&[
            manifests::service("other", "theirs", "10.96.0.77", &[("http", 80, PORT)]),
            manifests::endpoints(
                "other",
                "theirs",
                &[(stage.mesh.ip(V2), "theirs")],
                &[("http", 80, PORT)],
            ),
        ]),
    );
    let _wayline = stage.mesh.start();
    let tunnel = stage.tunnel();
    let missing = tally(&tunnel, "/missing", 2_000);
    assert_share(&missing, "v1", 75.0);
    assert_share(&missing, "500", 25.0);
    assert_eq!(said(&Request::get("/foreign"), tunnel.address), "500");
    assert_eq!(stage.v2.count(), 0);

    let grant = "apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: theirs, namespace: other}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]
  to: [{group: \"\", kind: Service}]
";
    stage.mesh.write("grant.yaml", grant);
    eventually("the grant to count", || {
        (said(&Request::get("/foreign"), tunnel.address) == "v2").then_some(())
    });
}

#[test]
fn a_consumer_route_is_for_the_callers_of_its_namespace() {
    let stage = stage(
        "
- backendRefs: [{name: v1, port: 80}]
",
    );
    stage.mesh.write(
        "consumer.yaml",
        &route(
            "consumer",
            "mine",
            Parent::ServiceOf("default", "echo"),
            "
- filters:
  - type: RequestHeaderModifier
    requestHeaderModifier:
      set: [{name: x-consumer, value: 'yes'}]
  backendRefs: [{name: echo, namespace: default, port: 80}]
",
        ),
    );
    let _wayline = stage.mesh.start();
    let other = stage.tunnel();
    assert_eq!(said(&Request::get("/"), other.address), "v1");
    let consumer = stage.mesh.tunnel("consumer/app", ECHO_AUTHORITY);
    assert_eq!(said(&Request::get("/"), consumer.address), "echo");
    assert_eq!(stage.echo.last().header("x-consumer"), Some("yes"));
}

#[test]
fn the_host_header_never_chooses_the_service() {
    let stage = stage("- backendRefs: [{name: v1, port: 80}]");
    let _wayline = stage.mesh.start();
    let tunnel = stage.tunnel();
    let request = Request::get("/").host("v2.default.svc.cluster.local");
    assert_eq!(said(&request, tunnel.address), "v1");
    assert_eq!(
        stage.v1.last().header("host"),
        Some("v2.default.svc.cluster.local")
    );
}
