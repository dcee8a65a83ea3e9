//! External authorization on the bench, with a server that a test plays.

#![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request as HttpRequest, Response, StatusCode};
use serde_json::{Value, json};
use wayline_chain::bench::{Bench, Head, Request};
use wayline_chain::{
    Callout, CalloutError, CalloutFuture, CalloutRequest, Chain, RequestContext, Scope, Started,
};
use wayline_filters::{RemoteKeys, native_sources};
use wayline_model::Snapshot;
use wayline_model::authorization::{AttachedPolicy, Authorization};
use wayline_model::mesh::MeshSettings;
use wayline_model::snapshot::{Proxy, ProxyRole, Ways};

/// Answers every call with the same, and keeps what it was asked.
struct Server {
    answer: Result<Response<Bytes>, CalloutError>,
    asked: RefCell<Vec<HttpRequest<Bytes>>>,
}

impl Server {
    fn new(answer: Result<Response<Bytes>, CalloutError>) -> Rc<Self> {
        Rc::new(Self {
            answer,
            asked: RefCell::default(),
        })
    }

    fn saying(status: u16) -> Rc<Self> {
        let answer = Response::builder().status(status).header("x-user", "alice");
        Self::new(Ok(answer.body(Bytes::new()).unwrap()))
    }

    fn count(&self) -> usize {
        self.asked.borrow().len()
    }
}

impl Callout for Server {
    fn call(&self, request: CalloutRequest) -> CalloutFuture {
        assert_eq!(&*request.backend, "outbound|80||a.b");
        self.asked.borrow_mut().push(request.request);
        let answer = self.answer.clone().map(|it| (it, HeaderMap::new()));
        Box::pin(std::future::ready(answer))
    }
}

fn chain(server: &Rc<Server>, settings: Value) -> Rc<Chain> {
    let mut all = json!({"service": "a.b", "port": 80});
    for (name, value) in settings.as_object().unwrap() {
        all[name] = value.clone();
    }
    let mesh = json!({"extensionProviders": [{"name": "p", "envoyExtAuthzHttp": all}]});
    let (mesh, findings) = MeshSettings::from_value(&mesh);
    assert!(findings.is_empty(), "{findings:?}");
    let spec = json!({"action": "CUSTOM", "provider": {"name": "p"},
        "rules": [{"to": [{"operation": {"paths": ["/guarded*"]}}]}]});
    let policy = AttachedPolicy {
        namespace: "default".into(),
        name: "ask".into(),
        spec: Arc::new(serde_json::from_value(spec).unwrap()),
        dry_run: false,
        creation: None,
    };
    let (authorization, _) = Authorization::compile(&[policy], &mesh);
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
    let callout: Rc<dyn Callout> = Rc::clone(server) as Rc<dyn Callout>;
    let scope = Scope {
        callout: &callout,
        snapshot: &Snapshot::default(),
        proxy: &proxy,
        service: None,
        port: 9080,
        authorization: &Arc::new(authorization),
        authentication: &Arc::default(),
        plugins: &Arc::default(),
        ways: &Ways::default(),
    };
    let filters = native_sources(RemoteKeys::none())
        .iter()
        .flat_map(|source| source.filters(&scope))
        .collect();
    Rc::new(Chain::new(filters))
}

#[test]
fn an_allowed_request_passes_and_a_refused_one_is_answered() {
    for (status, passes) in [(200, true), (201, false), (401, false), (403, false)] {
        let server = Server::saying(status);
        let chain = chain(&server, json!({"headersToUpstreamOnAllow": ["x-user"]}));
        let spoofed = Request::get("/guarded").header("x-user", "root");
        let mut bench = Bench::start(&chain, spoofed);
        match bench.head() {
            Head::Passed { rewritten: false } if passes => {
                let user =
                    |context: &mut RequestContext| context.request().headers["x-user"].clone();
                assert_eq!(bench.context(user), "alice");
            }
            Head::Replied(reply) if !passes => {
                assert_eq!(reply.status.as_u16(), status);
                assert_eq!(&*reply.details, "ext_authz_denied");
            }
            head => panic!("{status}: {head:?}"),
        }
        assert_eq!(server.count(), 1);
    }
}

#[test]
fn where_a_message_ends_is_not_the_servers_to_say() {
    let answer = Response::builder()
        .header("content-length", "99")
        .header("transfer-encoding", "chunked")
        .header("x-user", "alice");
    let server = Server::new(Ok(answer.body(Bytes::new()).unwrap()));
    let names = ["content-length", "transfer-encoding", "x-user"];
    let chain = chain(&server, json!({"headersToUpstreamOnAllow": names}));
    let request = Request::get("/guarded").header("content-length", "5");
    let mut bench = Bench::start(&chain, request);
    assert!(matches!(bench.head(), Head::Passed { .. }));
    let headers = bench.context(|context| context.request().headers.clone());
    assert_eq!(headers["x-user"], "alice");
    assert_eq!(headers["content-length"], "5");
    assert!(!headers.contains_key("transfer-encoding"));
}

#[test]
fn what_no_rule_matches_is_not_asked_about() {
    let server = Server::saying(403);
    let chain = chain(&server, json!({}));
    let mut context = Request::get("/open").context();
    assert!(matches!(chain.begin(&mut context), Started::Passed { .. }));
    assert_eq!(server.count(), 0);
    // But a filter that makes it a guarded one does not get it past the provider.
    context.request_mut().path = "/guarded".parse().unwrap();
    let reply = chain.judge_again(&mut context).unwrap();
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    // Once the provider was asked, its answer stands.
    let mut asked = Request::get("/guarded").context();
    assert!(matches!(chain.begin(&mut asked), Started::Running(_)));
    asked.request_mut().path = "/guarded/deeper".parse().unwrap();
    assert!(chain.judge_again(&mut asked).is_none());
}

#[test]
fn errors_refuse_unless_the_provider_fails_open() {
    let broken = || Server::saying(503);
    let away = || Server::new(Err(CalloutError::Timeout));
    for server in [broken(), away()] {
        let closed = chain(&server, json!({"statusOnError": "502"}));
        let mut bench = Bench::start(&closed, Request::get("/guarded"));
        let Head::Replied(reply) = bench.head() else {
            panic!("it passed");
        };
        assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
        assert_eq!(&*reply.details, "ext_authz_error");
        let open = chain(&server, json!({"failOpen": true}));
        let mut bench = Bench::start(&open, Request::get("/guarded"));
        assert!(matches!(bench.head(), Head::Passed { .. }));
    }
}

#[test]
fn the_server_sees_no_more_of_the_body_than_it_shall() {
    let limits = |partial: bool| json!({"includeRequestBodyInCheck": {"maxRequestBytes": 8, "allowPartialMessage": partial}});
    for (body, partial, seen) in [
        ("hello", false, Some(("hello", "false"))),
        ("12345678", false, Some(("12345678", "false"))),
        ("123456789", false, None),
        ("123456789", true, Some(("12345678", "true"))),
    ] {
        let server = Server::saying(200);
        let chain = chain(&server, limits(partial));
        let mut bench = Bench::start(&chain, Request::post("/guarded").with_body());
        assert!(matches!(bench.head(), Head::Paused));
        for byte in body.bytes() {
            bench.send(vec![byte]);
        }
        bench.end(None);
        match (bench.head(), seen) {
            (Head::Passed { .. }, Some((shown, flag))) => {
                let asked = server.asked.borrow();
                assert_eq!(asked[0].body(), shown);
                assert_eq!(asked[0].headers()["x-envoy-auth-partial-body"], flag);
                drop(asked);
                assert_eq!(bench.upstream().body(), body);
            }
            (Head::Replied(reply), None) => {
                assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
                assert_eq!(server.count(), 0);
            }
            (head, _) => panic!("{body}: {head:?}"),
        }
    }
}
