//! RequestAuthentication, and what policies make of tokens; Envoy says the same to the same tokens.

use std::net::SocketAddr;

use serde_json::{Value, json};
use wayline_tests::envoy::Envoy;
use wayline_tests::manifests::{self, policy};
use wayline_tests::tokens::{SigningKey, seconds_from_now, unsigned};
use wayline_tests::{Backend, Mesh, Reply, Request};

use crate::scene::{self, ECHO, ECHO_AUTHORITY};

const AT_ECHO: &str = "targetRefs: [{kind: Service, group: \"\", name: echo}]\n";

/// A RequestAuthentication with rules as JSON, which is YAML.
fn authentication(attached: &str, rules: &Value) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: jwt, namespace: default}}
spec:
  {}
  jwtRules: {rules}
",
        attached.trim_end()
    )
}

fn claims() -> Value {
    json!({"iss": "i", "sub": "alice", "aud": ["api"], "exp": seconds_from_now(600),
        "roles": ["user"], "scope": "read write"})
}

fn bearer(token: &str) -> Request {
    Request::get("/").header("authorization", &format!("Bearer {token}"))
}

#[test]
fn a_token_says_who_asks_and_policies_read_it() {
    let key = SigningKey::new("ES256", "k");
    let rules = json!([{
        "issuer": "i", "jwks": key.jwks(),
        "outputPayloadToHeader": "x-payload",
        "outputClaimToHeaders": [{"header": "x-sub", "claim": "sub"}],
    }]);
    let mesh = scene::echo_mesh(&[
        authentication(AT_ECHO, &rules),
        policy(
            "default",
            "users",
            &format!(
                "{AT_ECHO}action: ALLOW
rules:
- from: [{{source: {{requestPrincipals: [i/alice]}}}}]
  when:
  - {{key: 'request.auth.claims[roles]', values: [user]}}
  - {{key: 'request.auth.claims[scope]', values: [write]}}
  - {{key: request.auth.audiences, values: [api]}}
- to: [{{operation: {{paths: [/open]}}}}]
"
            ),
        ),
    ]);
    let backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);

    let spoofed = bearer(&key.token(&claims())).header("x-sub", "root");
    assert_eq!(spoofed.send(tunnel.address).status, 200);
    let seen = backend.last();
    assert_eq!(seen.all("x-sub"), ["alice"]);
    assert!(seen.header("x-payload").is_some() && seen.header("authorization").is_none());

    let anonymous = Request::get("/open").header("x-sub", "root");
    assert_eq!(anonymous.send(tunnel.address).status, 200);
    assert_eq!(backend.last().header("x-sub"), None);
    assert_eq!(Request::get("/").send(tunnel.address).status, 403);
    let mut other = claims();
    other["sub"] = "bob".into();
    assert_eq!(bearer(&key.token(&other)).send(tunnel.address).status, 403);
    other["sub"] = "alice".into();
    other["roles"] = "guest".into();
    assert_eq!(bearer(&key.token(&other)).send(tunnel.address).status, 403);

    let count = backend.count();
    let answer = Request::get("/open")
        .header("authorization", "Bearer rubbish")
        .send(tunnel.address);
    assert_eq!((answer.status, backend.count()), (401, count));
    let line = mesh.logged(" 401 ");
    assert!(
        line.contains("jwt_authn_access_denied{Jwt_is_not_in_the_form"),
        "{line}"
    );
    drop(wayline);
}

#[test]
fn a_gateway_takes_tokens_by_selector_and_by_target() {
    for attached in [
        "targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: edge}]",
        "selector: {matchLabels: {gateway.networking.k8s.io/gateway-name: edge}}",
    ] {
        let key = SigningKey::new("RS256", "k");
        let rules = json!([{"issuer": "i", "jwks": key.jwks()}]);
        let mesh = Mesh::new();
        let mut documents = scene::echo(&mesh);
        documents.extend([scene::edge(&mesh), scene::edge_to_echo()]);
        documents.push(authentication(attached, &rules));
        mesh.write("main.yaml", &manifests::file(&documents));
        let backend = scene::backend(&mesh, "echo", ECHO);
        let wayline = mesh.start();
        let edge = scene::edge_address(&mesh);
        assert_eq!(Request::get("/").send(edge).status, 200);
        assert_eq!(bearer(&key.token(&claims())).send(edge).status, 200);
        assert_eq!(bearer("rubbish").send(edge).status, 401, "{attached}");
        assert_eq!(backend.count(), 2);
        drop(wayline);
    }
}

#[test]
fn an_object_that_never_was_valid_denies_its_target() {
    let mesh = scene::echo_mesh(&[authentication(AT_ECHO, &json!([{"isuer": "i"}]))]);
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    assert_eq!(Request::get("/").send(tunnel.address).status, 403);
    drop(wayline);
}

/// Cases that both refuse, in different words: Envoy skips what can not begin a token.
const WORDS: [&str; 1] = ["bad header"];

/// Status, body and challenge of a refusal; for what passes, what the backend was sent of it.
type Verdict = (u16, String, Option<String>);

fn verdict(request: &Request, to: SocketAddr) -> Verdict {
    let answer = request.send(to);
    let challenge = answer.header("www-authenticate").map(str::to_owned);
    (answer.status, answer.text(), challenge)
}

#[test]
fn envoy_says_the_same_to_the_same_tokens() {
    let (one, two) = (SigningKey::new("RS256", "k"), SigningKey::new("ES256", "k"));
    let rules = json!([
        {"issuer": "i", "jwks": one.jwks(), "audiences": ["api", "https://web/"],
         "outputPayloadToHeader": "x-payload",
         "outputClaimToHeaders": [
            {"header": "x-sub", "claim": "sub"}, {"header": "x-deep", "claim": "deep.level"},
            {"header": "x-flag", "claim": "flag"}, {"header": "x-list", "claim": "list"}]},
        {"issuer": "two", "jwks": two.jwks(), "forwardOriginalToken": true,
         "fromHeaders": [{"name": "x-token", "prefix": "jwt="}], "fromCookies": ["session"],
         "fromParams": ["t"]},
    ]);
    let mesh = scene::echo_mesh(&[authentication(AT_ECHO, &rules)]);
    let backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let target = SocketAddr::new(mesh.ip(ECHO), scene::PORT);
    let envoy = Envoy::http(&mesh, target, &[by_hand(&one, &two)], &[]);

    let good = json!({"iss": "i", "sub": "alice", "aud": "api", "exp": seconds_from_now(600),
        "deep": {"level": 3}, "flag": true, "list": ["a", "b"]});
    let with = |changes: Value| {
        let mut all = good.clone();
        for (name, value) in changes.as_object().unwrap() {
            all[name] = value.clone();
        }
        all
    };
    let of_two = two.token(&json!({"iss": "two", "sub": "s"}));
    let signed = |changes: Value| bearer(&one.token(&with(changes)));
    let header = |changes: Value| {
        let mut header = json!({"alg": "RS256", "kid": "k"});
        for (name, value) in changes.as_object().unwrap() {
            header[name] = value.clone();
        }
        bearer(&one.token_under(&header, &good))
    };
    let cases: Vec<(&str, Request)> = vec![
        ("no token", Request::get("/")),
        ("good", signed(json!({}))),
        (
            "in the query",
            Request::get(&format!("/p?x=1&access_token={}", one.token(&good))),
        ),
        ("expired", signed(json!({"exp": seconds_from_now(-120)}))),
        (
            "expired within the grace",
            signed(json!({"exp": seconds_from_now(-30)})),
        ),
        ("not yet", signed(json!({"nbf": seconds_from_now(120)}))),
        (
            "not yet within the grace",
            signed(json!({"nbf": seconds_from_now(30)})),
        ),
        ("text as exp", signed(json!({"exp": "9999999999"}))),
        ("fraction as exp", signed(json!({"exp": 9999999999.5}))),
        ("negative exp", signed(json!({"exp": -5}))),
        ("huge exp", signed(json!({"exp": 1e30}))),
        ("nbf as list", signed(json!({"nbf": []}))),
        ("iat as text", signed(json!({"iat": "now"}))),
        ("jti as number", signed(json!({"jti": 5}))),
        ("no such audience", signed(json!({"aud": "other"}))),
        ("audience list", signed(json!({"aud": ["x", "api"]}))),
        ("audience with scheme", signed(json!({"aud": "http://web"}))),
        ("audience as number", signed(json!({"aud": 5}))),
        ("issuer unknown", signed(json!({"iss": "who"}))),
        ("issuer with slash", signed(json!({"iss": "i/"}))),
        ("issuer as number", signed(json!({"iss": 5}))),
        ("subject as number", signed(json!({"sub": 5}))),
        ("other kid", header(json!({"kid": "z"}))),
        ("kid as number", header(json!({"kid": 7}))),
        ("alg as number", header(json!({"alg": 7}))),
        ("alg unknown", header(json!({"alg": "XS256"}))),
        (
            "alg none",
            bearer(&unsigned(&json!({"alg": "none"}), &good, b"")),
        ),
        (
            "other algorithm of the family",
            header(json!({"alg": "RS512"})),
        ),
        ("of the other family", header(json!({"alg": "ES256"}))),
        (
            "signed by another",
            bearer(&SigningKey::new("RS256", "k").token(&good)),
        ),
        ("not a token", bearer("rubbish")),
        ("four parts", bearer("a.b.c.d")),
        ("bad header", bearer("!!.e30.AA")),
        ("header no JSON", bearer("YWJj.e30.AA")),
        ("payload no JSON", bearer("eyJhbGciOiJSUzI1NiJ9.YWJj.AA")),
        ("bad signature text", bearer("eyJhbGciOiJSUzI1NiJ9.e30.!!")),
        (
            "other scheme",
            Request::get("/").header("authorization", "Basic x"),
        ),
        (
            "second rule's header",
            Request::get("/").header("x-token", &format!("jwt={of_two}")),
        ),
        (
            "among other things",
            Request::get("/").header("x-token", &format!("jwt={of_two};b")),
        ),
        (
            "second rule's cookie",
            Request::get("/").header("cookie", &format!("a=b; session={of_two}")),
        ),
        (
            "second rule's parameter",
            Request::get(&format!("/p?t={of_two}")),
        ),
        ("in the other rule's place", bearer(&of_two)),
        (
            "in the other rule's place, too",
            Request::get("/").header("x-token", &format!("jwt={}", one.token(&good))),
        ),
        (
            "second rule forged",
            Request::get("/").header("x-token", "jwt=a.b.c"),
        ),
        (
            "spoofed outputs",
            Request::get("/")
                .header("x-sub", "root")
                .header("x-payload", "x")
                .header("x-flag", "1"),
        ),
        (
            "preflight",
            Request::new("OPTIONS", "/")
                .header("origin", "https://page")
                .header("access-control-request-method", "GET")
                .header("authorization", "Bearer rubbish"),
        ),
    ];
    let watched = [
        "authorization",
        "x-payload",
        "x-sub",
        "x-deep",
        "x-flag",
        "x-list",
        "x-token",
        "cookie",
    ];
    let mut disagreements = Vec::new();
    for (name, request) in &cases {
        let [ours, theirs] = [tunnel.address, envoy.address].map(|address| {
            let before = backend.count();
            let verdict = verdict(request, address);
            let sent = (backend.count() > before).then(|| {
                let seen = backend.last();
                let headers = watched.map(|name| seen.header(name).map(str::to_owned));
                (seen.target, headers)
            });
            (verdict, sent)
        });
        let same = match WORDS.contains(name) {
            true => ours.0.0 == theirs.0.0 && ours.0.1 != theirs.0.1,
            false => ours == theirs,
        };
        if !same {
            disagreements.push(format!("{name}:\n  wayline {ours:?}\n  envoy   {theirs:?}"));
        }
    }
    assert!(disagreements.is_empty(), "{}", disagreements.join("\n"));
    drop(wayline);
}

/// The rules of the differential test as istiod would hand them to Envoy.
fn by_hand(one: &SigningKey, two: &SigningKey) -> Value {
    json!({
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
            "bypass_cors_preflight": true,
            "providers": {
                "origins-0": {
                    "issuer": "i",
                    "audiences": ["api", "https://web/"],
                    "local_jwks": {"inline_string": one.jwks()},
                    "forward_payload_header": "x-payload",
                    "payload_in_metadata": "payload",
                    "claim_to_headers": [
                        {"header_name": "x-sub", "claim_name": "sub"},
                        {"header_name": "x-deep", "claim_name": "deep.level"},
                        {"header_name": "x-flag", "claim_name": "flag"},
                        {"header_name": "x-list", "claim_name": "list"},
                    ],
                },
                "origins-1": {
                    "issuer": "two",
                    "local_jwks": {"inline_string": two.jwks()},
                    "forward": true,
                    "payload_in_metadata": "payload",
                    "from_headers": [{"name": "x-token", "value_prefix": "jwt="}],
                    "from_cookies": ["session"],
                    "from_params": ["t"],
                },
            },
            "rules": [{
                "match": {"prefix": "/"},
                "requires": {"requires_any": {"requirements": [
                    {"provider_name": "origins-0"},
                    {"provider_name": "origins-1"},
                    {"requires_all": {"requirements": [
                        {"requires_any": {"requirements": [{"provider_name": "origins-0"}, {"allow_missing": {}}]}},
                        {"requires_any": {"requirements": [{"provider_name": "origins-1"}, {"allow_missing": {}}]}},
                    ]}},
                ]}},
            }],
        },
    })
}

/// A mesh whose rule reads its keys over HTTP from `idp`, a service of the mesh.
fn with_remote_keys(rule: Value) -> Mesh {
    let mesh = scene::echo_mesh(&[]);
    let mut documents = scene::service(&mesh, "idp", 30);
    documents.push(authentication(AT_ECHO, &json!([rule])));
    mesh.write("idp.yaml", &manifests::file(&documents));
    mesh
}

/// A server of these keys, and of an OpenID configuration that names them.
fn idp(mesh: &Mesh, keys: &[&SigningKey]) -> Backend {
    let set: Vec<&Value> = keys.iter().map(|key| &key.jwk).collect();
    let keys = json!({"keys": set}).to_string();
    let configuration = json!({"issuer": "x", "jwks_uri": IDP_KEYS}).to_string();
    Backend::http(mesh.ip(30), scene::PORT, move |request| {
        match request.target.as_str() {
            "/keys" => Reply::ok(keys.clone()),
            "/realm/.well-known/openid-configuration" => Reply::ok(configuration.clone()),
            _ => Reply::status(404, "nothing here"),
        }
    })
}

const IDP_KEYS: &str = "http://idp.default.svc.cluster.local/keys";

/// Pods of these tests are on the loopback interface.
const LOOPBACK_IS_THE_MESH: [&str; 2] = ["--fetch-allow", "127.0.0.0/8"];

#[test]
fn keys_are_fetched_from_a_service_of_the_mesh_and_once_for_many_unknown_ones() {
    let (one, two) = (
        SigningKey::new("ES256", "one"),
        SigningKey::new("ES256", "two"),
    );
    let mesh = with_remote_keys(json!({"issuer": "i", "jwksUri": IDP_KEYS}));
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let server = idp(&mesh, &[&one]);
    let wayline = mesh.start_with(&LOOPBACK_IS_THE_MESH);
    wayline.wait_ready();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    assert_eq!(
        bearer(&one.token(&claims())).send(tunnel.address).status,
        200
    );
    for _ in 0..20 {
        let answer = bearer(&two.token(&claims())).send(tunnel.address);
        assert_eq!(answer.status, 401);
        assert_eq!(
            answer.text(),
            "Jwks doesn't have key to match kid or alg from Jwt"
        );
    }
    // Within half a minute of the first: nobody asked again.
    assert_eq!(server.count(), 1);
    wayline.counted("wayline_jwks_fetches_total", &[("outcome", "fetched")], 1.0);
    drop(wayline);
}

#[test]
fn keys_are_found_by_the_issuer_alone() {
    let key = SigningKey::new("RS256", "k");
    let issuer = "http://idp.default.svc.cluster.local/realm";
    let mesh = with_remote_keys(json!({"issuer": issuer}));
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let _server = idp(&mesh, &[&key]);
    let wayline = mesh.start_with(&LOOPBACK_IS_THE_MESH);
    wayline.wait_ready();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let mut claims = claims();
    claims["iss"] = issuer.into();
    assert_eq!(bearer(&key.token(&claims)).send(tunnel.address).status, 200);
    drop(wayline);
}

#[test]
fn keys_are_not_fetched_from_the_machine_itself_and_only_their_issuer_suffers() {
    let key = SigningKey::new("ES256", "k");
    let mesh = Mesh::new();
    let server = idp(&mesh, &[&key]);
    let own = format!("http://{}:{}/keys", mesh.ip(30), scene::PORT);
    let rules = json!([
        {"issuer": "i", "jwksUri": own},
        {"issuer": "inline", "jwks": key.jwks()},
    ]);
    mesh.write("mesh.yaml", &mesh.logging(""));
    let mut documents = scene::echo(&mesh);
    documents.push(authentication(AT_ECHO, &rules));
    mesh.write("main.yaml", &manifests::file(&documents));
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let answer = bearer(&key.token(&claims())).send(tunnel.address);
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (401, "Jwks remote fetch is failed")
    );
    assert_eq!(server.count(), 0);
    let failed = wayline
        .metrics()
        .sum("wayline_jwks_fetches_total", &[("outcome", "failed")]);
    assert!(failed >= 1.0, "{failed}");
    let of_inline = key.token(&json!({"iss": "inline", "sub": "s"}));
    assert_eq!(bearer(&of_inline).send(tunnel.address).status, 200);
    assert_eq!(Request::get("/").send(tunnel.address).status, 200);
    drop(wayline);
}
