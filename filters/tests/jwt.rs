//! The JWT filter on the bench, with keys made for the occasion.

#![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

#[path = "../../tests/src/tokens.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the black-box tests")]
mod tokens;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use serde_json::{Value, json};
use tokens::{SigningKey, seconds_from_now, unsigned};
use tokio::sync::{mpsc, watch};
use wayline_chain::bench::{Bench, Head, Request};
use wayline_chain::{Callout, Chain, NoCallout, RequestContext, Scope, Started};
use wayline_filters::{RemoteKeys, native_sources};
use wayline_model::authentication::{
    AttachedAuthentication, Authentication, Jwks, JwksBook, JwksLocation, RemoteJwks,
};
use wayline_model::snapshot::{Proxy, ProxyRole, Ways};
use wayline_model::{ObjectRef, Snapshot};

fn chain_with(rules: Value, remote: RemoteKeys) -> Rc<Chain> {
    let attached = AttachedAuthentication {
        object: ObjectRef::new("RequestAuthentication", "default", "jwt"),
        spec: Arc::new(serde_json::from_value(json!({"jwtRules": rules})).unwrap()),
    };
    let (authentication, findings) = Authentication::compile(&[attached]);
    assert!(findings.is_empty(), "{findings:?}");
    let proxy = Arc::new(Proxy {
        name: "waypoint".into(),
        namespace: "default".into(),
        class: "wayline-waypoint".into(),
        role: ProxyRole::Waypoint,
        proxy_protocol: None,
        identity: "spiffe://cluster.local/ns/default/sa/waypoint"
            .parse()
            .unwrap(),
    });
    let callout: Rc<dyn Callout> = Rc::new(NoCallout);
    let scope = Scope {
        callout: &callout,
        snapshot: &Snapshot::default(),
        proxy: &proxy,
        service: None,
        port: 9080,
        authorization: &Arc::default(),
        authentication: &Arc::new(authentication),
        plugins: &Arc::default(),
        ways: &Ways::default(),
    };
    let filters = native_sources(remote)
        .iter()
        .flat_map(|source| source.filters(&scope))
        .collect();
    Rc::new(Chain::new(filters))
}

fn chain(rules: Value) -> Rc<Chain> {
    chain_with(rules, RemoteKeys::none())
}

/// A rule for the issuer `i` with that key, and what else it says.
fn rule(key: &SigningKey, more: Value) -> Value {
    let mut rule = json!({"issuer": "i", "jwks": key.jwks()});
    for (field, value) in more.as_object().unwrap() {
        rule[field] = value.clone();
    }
    rule
}

/// What became of a request: the context where it passed, else status and body.
fn outcome(chain: &Rc<Chain>, request: Request) -> Result<RequestContext, (StatusCode, String)> {
    let mut context = request.context();
    match chain.begin(&mut context) {
        Started::Passed { rewritten: false } => Ok(context),
        Started::Reply(reply) => {
            let body = String::from_utf8(reply.body.to_vec()).unwrap();
            let details = format!("jwt_authn_access_denied{{{}}}", body.replace(' ', "_"));
            assert_eq!(*reply.details, *details);
            assert!(reply.headers.contains_key("www-authenticate"));
            Err((reply.status, body))
        }
        other => panic!("{other:?}"),
    }
}

fn bearer(token: &str) -> Request {
    Request::get("/a").header("authorization", &format!("Bearer {token}"))
}

fn refused(chain: &Rc<Chain>, token: &str) -> String {
    match outcome(chain, bearer(token)) {
        Ok(_) => panic!("it passed"),
        Err((StatusCode::UNAUTHORIZED, body)) => body,
        Err(other) => panic!("{other:?}"),
    }
}

fn claims() -> Value {
    json!({"iss": "i", "sub": "alice", "exp": seconds_from_now(600)})
}

#[test]
fn every_family_of_signatures_is_verified() {
    for algorithm in [
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
    ] {
        let key = SigningKey::new(algorithm, "k");
        let chain = chain(json!([rule(&key, json!({}))]));
        let token = key.token(&claims());
        let context = outcome(&chain, bearer(&token)).unwrap();
        assert_eq!(
            context.token.as_ref().unwrap().principal().unwrap(),
            "i/alice"
        );

        let mut claims = claims();
        claims["sub"] = "mallory".into();
        let forged = key.token(&claims);
        let (payload, signature) = (forged.split('.').nth(1).unwrap(), token.rsplit('.').next());
        let header = token.split('.').next().unwrap();
        let forged = format!("{header}.{payload}.{}", signature.unwrap());
        assert_eq!(
            refused(&chain, &forged),
            "Jwt verification fails",
            "{algorithm}"
        );
    }
}

#[test]
fn es512_is_verified_under_keys_of_its_curve_only() {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    let pair = EcdsaKeyPair::generate(&ECDSA_P521_SHA512_FIXED_SIGNING).unwrap();
    let (x, y) = pair.public_key().as_ref()[1..].split_at(66);
    let [x, y] = [x, y].map(|number| URL_SAFE_NO_PAD.encode(number));
    let jwk = json!({"kty": "EC", "crv": "P-521", "alg": "ES512", "kid": "k", "x": x, "y": y});
    let p256 = SigningKey::new("ES256", "k").jwk;
    let chain_of = |jwk: &Value| {
        let keys = json!({"keys": [jwk]}).to_string();
        chain(json!([{"issuer": "i", "jwks": keys}]))
    };
    let token = |claims: &Value| {
        let header = json!({"alg": "ES512", "kid": "k"});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        (signed, URL_SAFE_NO_PAD.encode(signature))
    };
    let (signed, signature) = token(&claims());
    let whole = format!("{signed}.{signature}");
    let context = outcome(&chain_of(&jwk), bearer(&whole)).unwrap();
    assert_eq!(
        context.token.clone().unwrap().principal().unwrap(),
        "i/alice"
    );
    assert_eq!(refused(&chain_of(&p256), &whole), "Jwt verification fails");
    let mut others = claims();
    others["sub"] = "mallory".into();
    let forged = format!("{}.{signature}", token(&others).0);
    assert_eq!(refused(&chain_of(&jwk), &forged), "Jwt verification fails");
    let es256 = SigningKey::new("ES256", "k").token(&claims());
    let unknown = "Jwks doesn't have key to match kid or alg from Jwt";
    assert_eq!(refused(&chain_of(&jwk), &es256), unknown);
}

#[test]
fn no_token_passes_and_tells_nothing() {
    let key = SigningKey::new("ES256", "k");
    let chain = chain(json!([rule(&key, json!({}))]));
    assert!(outcome(&chain, Request::get("/")).unwrap().token.is_none());
}

#[test]
fn what_no_public_key_signed_is_refused() {
    let key = SigningKey::new("RS256", "k");
    let chain = chain(json!([rule(&key, json!({}))]));
    for algorithm in ["none", "None", "HS256", "HS512", "ES256K", ""] {
        let header = json!({"alg": algorithm, "kid": "k"});
        let body = refused(&chain, &unsigned(&header, &claims(), b"x"));
        assert_eq!(body, "Jwt header [alg] is not supported", "{algorithm}");
    }
    // A key that the token brings along is nobody's.
    let own = SigningKey::new("RS256", "k");
    let header = json!({"alg": "RS256", "kid": "k", "jwk": own.jwk, "jku": "https://evil/keys"});
    let body = refused(&chain, &own.token_under(&header, &claims()));
    assert_eq!(body, "Jwt verification fails");
    let header = json!({"alg": "RS256", "kid": "k", "crit": ["exp"]});
    let body = refused(&chain, &key.token_under(&header, &claims()));
    assert_eq!(
        body,
        "Jwt header [crit] names an extension that is not known"
    );
    // Of the other family, or under another name.
    let other = SigningKey::new("ES256", "k").token(&claims());
    assert_eq!(refused(&chain, &other), "Jwt verification fails");
    let unknown = "Jwks doesn't have key to match kid or alg from Jwt";
    let header = json!({"alg": "RS256", "kid": "other"});
    assert_eq!(
        refused(&chain, &key.token_under(&header, &claims())),
        unknown
    );
    // Of the same family, where the key is for one algorithm only.
    let mut strict = SigningKey::new("PS256", "k");
    strict.jwk["alg"] = "RS256".into();
    let only = self::chain(json!([rule(&strict, json!({}))]));
    assert_eq!(refused(&only, &strict.token(&claims())), unknown);
}

#[test]
fn times_are_judged_with_a_minute_of_grace() {
    let key = SigningKey::new("ES256", "k");
    let chain = chain(json!([rule(&key, json!({}))]));
    for (claim, offset, expected) in [
        ("exp", -50, None),
        ("exp", -120, Some("Jwt is expired")),
        ("nbf", 50, None),
        ("nbf", 120, Some("Jwt not yet valid")),
    ] {
        let mut claims = claims();
        claims[claim] = seconds_from_now(offset).into();
        let body = outcome(&chain, bearer(&key.token(&claims)))
            .err()
            .map(|(_, body)| body);
        assert_eq!(body.as_deref(), expected, "{claim} {offset}");
    }
    let endless = key.token(&json!({"iss": "i"}));
    assert!(outcome(&chain, bearer(&endless)).is_ok());
    let text = key.token(&json!({"iss": "i", "exp": "9999999999"}));
    assert_eq!(
        refused(&chain, &text),
        "Jwt payload [exp] field is not an integer"
    );
}

#[test]
fn audiences_are_compared_without_scheme_and_slash() {
    let key = SigningKey::new("ES256", "k");
    let more = json!({"audiences": ["https://api.example.com/", "other"]});
    let chain = chain(json!([rule(&key, more)]));
    for (audience, good) in [
        (json!("api.example.com"), true),
        (json!(["x", "other"]), true),
        (json!("http://api.example.com"), true),
        (json!("api.example.com.evil"), false),
        (json!([]), false),
        (Value::Null, false),
    ] {
        let mut claims = claims();
        if !audience.is_null() {
            claims["aud"] = audience.clone();
        }
        let refused = outcome(&chain, bearer(&key.token(&claims))).err();
        let expected = (!good).then(|| {
            let body = "Audiences in Jwt are not allowed".to_owned();
            (StatusCode::FORBIDDEN, body)
        });
        assert_eq!(refused, expected, "{audience}");
    }
}

#[test]
fn rules_are_pooled_and_a_token_belongs_to_its_issuer() {
    let (one, two) = (SigningKey::new("ES256", "k"), SigningKey::new("ES256", "k"));
    let of_two = json!({"issuer": "two", "jwks": two.jwks(), "fromHeaders": [{"name": "x-two"}]});
    let chain = chain(json!([rule(&one, json!({})), of_two]));
    let token_of_two = two.token(&json!({"iss": "two", "sub": "s"}));
    let in_its_place = Request::get("/").header("x-two", &token_of_two);
    let context = outcome(&chain, in_its_place).unwrap();
    assert_eq!(
        context.token.as_ref().unwrap().principal().unwrap(),
        "two/s"
    );
    // In the other rule's place, or by the other's key though it has the same name.
    assert_eq!(
        refused(&chain, &token_of_two),
        "Jwt issuer is not configured"
    );
    let crossed = two.token(&claims());
    assert_eq!(refused(&chain, &crossed), "Jwt verification fails");
    for issuer in ["nobody", "i/", "I", ""] {
        let token = one.token(&json!({"iss": issuer, "sub": "s"}));
        assert_eq!(
            refused(&chain, &token),
            "Jwt issuer is not configured",
            "{issuer}"
        );
    }
    // Two rules for one issuer: either key will do.
    let chain = self::chain(json!([rule(&one, json!({})), rule(&two, json!({}))]));
    for key in [&one, &two] {
        assert!(outcome(&chain, bearer(&key.token(&claims()))).is_ok());
    }
}

#[test]
fn a_second_token_is_refused_wherever_it_is() {
    let key = SigningKey::new("ES256", "k");
    let chain = chain(json!([rule(&key, json!({}))]));
    let token = key.token(&claims());
    let both = Request::get(&format!("/?access_token={token}"))
        .header("authorization", &format!("Bearer {token}"));
    let twice = bearer(&token).header("authorization", "Bearer x");
    let listed = bearer(&format!("{token}, Bearer {token}"));
    for request in [both, twice, listed] {
        let (status, _) = outcome(&chain, request).unwrap_err();
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
}

#[test]
fn the_token_goes_no_further_unless_it_shall() {
    let key = SigningKey::new("ES256", "k");
    let token = key.token(&claims());
    let taken = chain(json!([rule(&key, json!({}))]));
    let context = outcome(&taken, bearer(&token)).unwrap();
    assert!(!context.request().headers.contains_key("authorization"));
    let context = outcome(
        &taken,
        Request::get(&format!("/a?access_token={token}&x=1")),
    )
    .unwrap();
    assert_eq!(context.request().path.as_str(), "/a?x=1");
    let kept = chain(json!([rule(&key, json!({"forwardOriginalToken": true}))]));
    let context = outcome(&kept, bearer(&token)).unwrap();
    assert!(context.request().headers.contains_key("authorization"));
}

#[test]
fn only_a_verified_token_sets_the_headers_it_may_set() {
    let key = SigningKey::new("ES256", "k");
    let more = json!({
        "outputPayloadToHeader": "x-payload",
        "outputClaimToHeaders": [
            {"header": "x-sub", "claim": "sub"},
            {"header": "x-level", "claim": "deep.level"},
            {"header": "x-admin", "claim": "admin"},
            {"header": "x-list", "claim": "list"},
            {"header": "x-bad", "claim": "bad"},
            {"header": "x-none", "claim": "none"},
        ],
    });
    let chain = chain(json!([rule(&key, more)]));
    let names = [
        "x-payload",
        "x-sub",
        "x-level",
        "x-admin",
        "x-list",
        "x-bad",
        "x-none",
    ];
    let spoofed = |mut request: Request| {
        for name in names {
            request = request.header(name, "forged");
        }
        request
    };
    let anonymous = outcome(&chain, spoofed(Request::get("/"))).unwrap();
    let headers = &anonymous.request().headers;
    assert!(
        names.iter().all(|name| !headers.contains_key(*name)),
        "{headers:?}"
    );

    let mut claims = claims();
    claims["deep"] = json!({"level": 3});
    claims["admin"] = true.into();
    claims["list"] = json!(["a"]);
    claims["bad"] = "a\r\nx-evil: 1".into();
    let token = key.token(&claims);
    let context = outcome(&chain, spoofed(bearer(&token))).unwrap();
    let headers = &context.request().headers;
    assert_eq!(headers["x-payload"], *token.split('.').nth(1).unwrap());
    assert_eq!(
        (&headers["x-sub"], &headers["x-level"]),
        (&"alice".parse().unwrap(), &"3".parse().unwrap())
    );
    assert_eq!(
        (&headers["x-admin"], &headers["x-list"]),
        (&"true".parse().unwrap(), &"WyJhIl0".parse().unwrap())
    );
    assert!(!headers.contains_key("x-bad") && !headers.contains_key("x-none"));
}

#[test]
fn a_preflight_needs_no_token_and_sets_nothing() {
    let key = SigningKey::new("ES256", "k");
    let chain = chain(json!([rule(
        &key,
        json!({"outputPayloadToHeader": "x-payload"})
    )]));
    let preflight = Request::new(http::Method::OPTIONS, "/")
        .header("origin", "https://page")
        .header("access-control-request-method", "GET")
        .header("x-payload", "forged")
        .header("authorization", "Bearer rubbish");
    let context = outcome(&chain, preflight).unwrap();
    assert!(context.token.is_none());
    assert!(!context.request().headers.contains_key("x-payload"));
}

/// Keys that a test publishes.
struct Board {
    book: watch::Sender<Arc<JwksBook>>,
    wanted: mpsc::Receiver<JwksLocation>,
    attempt: u64,
}

impl Board {
    fn new() -> (Self, RemoteKeys) {
        let (book, reader) = watch::channel(Arc::default());
        let (asked, wanted) = mpsc::channel(8);
        let board = Self {
            book,
            wanted,
            attempt: 0,
        };
        (board, RemoteKeys::new(reader, asked))
    }

    fn publish(&mut self, keys: Option<&SigningKey>, at: Instant) {
        self.attempt += 1;
        let entry = RemoteJwks {
            keys: keys.map(|key| Arc::new(Jwks::parse(key.jwks().as_bytes()).unwrap())),
            attempt: self.attempt,
            at,
        };
        let entries = [(location(), entry)].into();
        self.book.send_replace(Arc::new(JwksBook { entries }));
    }
}

fn location() -> JwksLocation {
    JwksLocation::Uri("https://keys".into())
}

fn remote_rule() -> Value {
    json!([{"issuer": "i", "jwksUri": "https://keys"}])
}

#[tokio::test]
async fn a_request_waits_for_keys_that_are_on_their_way() {
    let (mut board, remote) = Board::new();
    let chain = chain_with(remote_rule(), remote);
    let key = SigningKey::new("ES256", "k");
    let mut bench = Bench::start(&chain, bearer(&key.token(&claims())));
    assert!(matches!(bench.head(), Head::Paused));
    assert_eq!(board.wanted.try_recv().unwrap(), location());
    board.publish(Some(&key), Instant::now());
    assert!(matches!(bench.head(), Head::Passed { rewritten: false }));
}

#[tokio::test]
async fn keys_that_can_not_be_fetched_refuse_their_issuer_only() {
    let (mut board, remote) = Board::new();
    let key = SigningKey::new("ES256", "k");
    let mut rules = remote_rule();
    rules[0]["issuer"] = "remote".into();
    rules.as_array_mut().unwrap().push(rule(&key, json!({})));
    let chain = chain_with(rules, remote);
    board.publish(None, Instant::now());
    let of_remote = key.token(&json!({"iss": "remote"}));
    assert_eq!(refused(&chain, &of_remote), "Jwks remote fetch is failed");
    assert!(outcome(&chain, bearer(&key.token(&claims()))).is_ok());
    // Nobody asks again at once, however many tokens come.
    assert!(board.wanted.try_recv().is_err());
}

#[tokio::test]
async fn an_unknown_key_is_asked_for_once_in_half_a_minute() {
    let (mut board, remote) = Board::new();
    let chain = chain_with(remote_rule(), remote);
    let (old, new) = (
        SigningKey::new("ES256", "old"),
        SigningKey::new("ES256", "new"),
    );
    let Some(long_ago) = Instant::now().checked_sub(std::time::Duration::from_secs(31)) else {
        return;
    };
    board.publish(Some(&old), long_ago);
    assert!(outcome(&chain, bearer(&old.token(&claims()))).is_ok());
    let mut bench = Bench::start(&chain, bearer(&new.token(&claims())));
    assert!(matches!(bench.head(), Head::Paused));
    assert_eq!(board.wanted.try_recv().unwrap(), location());
    board.publish(Some(&new), Instant::now());
    assert!(matches!(bench.head(), Head::Passed { .. }));
    // The old key is gone, and asking again has to wait.
    let body = refused(&chain, &old.token(&claims()));
    assert_eq!(body, "Jwks doesn't have key to match kid or alg from Jwt");
    assert!(board.wanted.try_recv().is_err());
    // A bad signature under a known key never asks.
    board.publish(Some(&new), long_ago);
    let forged = SigningKey::new("ES256", "new").token(&claims());
    assert_eq!(refused(&chain, &forged), "Jwt verification fails");
    assert!(board.wanted.try_recv().is_err());
}
