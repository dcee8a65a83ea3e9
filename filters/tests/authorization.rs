//! The authorization filter on the bench, with policies as users write them.

#![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::rc::Rc;
use std::sync::Arc;

use http::{Method, StatusCode, uri::PathAndQuery};
use serde_json::{Value, json};
use wayline_chain::bench::{Bench, Head, Request};
use wayline_chain::{Callout, Chain, LocalReply, NoCallout, Phase, RequestContext, Scope, Started};
use wayline_filters::{RemoteKeys, native_sources};
use wayline_model::Snapshot;
use wayline_model::authorization::{AttachedPolicy, Authorization, Verdict};
use wayline_model::mesh::MeshSettings;
use wayline_model::snapshot::{Proxy, ProxyRole, Ways};

const PRODUCTPAGE: &str = "spiffe://cluster.local/ns/default/sa/bookinfo-productpage";
const INTRUDER: &str = "spiffe://cluster.local/ns/default/sa/intruder";

fn policy(name: &str, spec: Value) -> AttachedPolicy {
    AttachedPolicy {
        namespace: "default".into(),
        name: name.into(),
        spec: Arc::new(serde_json::from_value(spec).unwrap()),
        dry_run: false,
        creation: None,
    }
}

fn compiled(policies: &[AttachedPolicy]) -> Arc<Authorization> {
    let (authorization, findings) = Authorization::compile(policies, &MeshSettings::default());
    assert!(findings.is_empty(), "{findings:?}");
    Arc::new(authorization)
}

fn chain(authorization: &Arc<Authorization>) -> Rc<Chain> {
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
        authorization,
        plugins: &Arc::default(),
        ways: &Ways::default(),
        authentication: &Arc::default(),
    };
    let filters = native_sources(RemoteKeys::none())
        .iter()
        .flat_map(|source| source.filters(&scope))
        .collect();
    Rc::new(Chain::new(filters))
}

fn reviews_viewer() -> AttachedPolicy {
    policy(
        "reviews-viewer",
        json!({
            "action": "ALLOW",
            "rules": [
                { "to": [{ "operation": { "paths": ["/health"] } }] },
                {
                    "from": [{ "source": {
                        "principals": ["cluster.local/ns/default/sa/bookinfo-productpage"]
                    } }],
                    "to": [{ "operation": { "methods": ["GET"], "ports": ["9080"] } }]
                }
            ]
        }),
    )
}

fn no_admin() -> AttachedPolicy {
    policy(
        "no-admin",
        json!({
            "action": "DENY",
            "rules": [
                { "to": [{ "operation": { "paths": ["/admin*"] } }] },
                { "from": [{ "source": { "ipBlocks": ["198.51.100.0/24"] } }] },
                { "to": [{ "operation": { "hosts": ["internal.test"] } }] }
            ]
        }),
    )
}

fn get(path: &str) -> Request {
    Request::get(path).connection(|connection| connection.destination_port = 9080)
}

fn refusal(bench: &mut Bench) -> LocalReply {
    match bench.head() {
        Head::Replied(reply) => reply,
        head => panic!("not refused: {head:?}"),
    }
}

fn admitted(bench: &mut Bench) -> bool {
    matches!(bench.head(), Head::Passed { rewritten: false })
}

#[test]
fn where_no_policy_applies_there_is_no_filter() {
    assert!(chain(&Arc::default()).is_empty());
}

#[test]
fn a_caller_that_no_allow_policy_names_is_refused_without_being_told_why() {
    let chain = chain(&compiled(&[reviews_viewer()]));
    let mut bench = Bench::start(&chain, get("/reviews/1").identity(INTRUDER));
    let reply = refusal(&mut bench);
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    assert_eq!(reply.body, "RBAC: access denied");
    assert_eq!(&*reply.details, "rbac_access_denied_matched_policy[none]");
    let details = bench.context(|context| context.details.clone());
    assert_eq!(details, Some(reply.details.clone()));

    let head = bench.reply(reply).response().unwrap();
    assert_eq!(head.headers.len(), 2, "{:?}", head.headers);
    assert_eq!(head.headers["content-type"], "text/plain");
    assert_eq!(head.headers["content-length"], "19");
}

#[test]
fn a_caller_that_an_allow_policy_names_passes_and_no_stream_is_opened() {
    let chain = chain(&compiled(&[reviews_viewer(), no_admin()]));
    for request in [get("/reviews/1").identity(PRODUCTPAGE), get("/health")] {
        let mut bench = Bench::start(&chain, request);
        assert!(admitted(&mut bench));
        assert!(bench.run().is_none());
        assert_eq!(bench.context(|context| context.details.clone()), None);
    }
}

#[test]
fn identity_method_and_port_all_count() {
    let chain = chain(&compiled(&[reviews_viewer()]));
    let mut post = Bench::start(
        &chain,
        Request::new(Method::POST, "/reviews/1")
            .identity(PRODUCTPAGE)
            .connection(|connection| connection.destination_port = 9080),
    );
    refusal(&mut post);
    let mut port = Bench::start(&chain, Request::get("/reviews/1").identity(PRODUCTPAGE));
    refusal(&mut port);
    let mut nobody = Bench::start(&chain, get("/reviews/1"));
    refusal(&mut nobody);
}

#[test]
fn server_name_and_addresses_are_what_the_connection_and_trusted_hops_say() {
    let cases = [
        json!({ "when": [{ "key": "connection.sni", "values": ["reviews.test"] }] }),
        json!({ "when": [{ "key": "destination.ip", "values": ["10.1.2.3"] }] }),
        json!({ "from": [{ "source": { "remoteIpBlocks": ["203.0.113.9"] } }] }),
    ];
    for rule in cases {
        let chain = chain(&compiled(&[policy(
            "only",
            json!({ "rules": [rule.clone()] }),
        )]));
        let known = get("/").connection(|connection| {
            connection.sni = Some("reviews.test".into());
            connection.destination_ip = Some([10, 1, 2, 3].into());
        });
        let mut context = known.context();
        context.remote_ip = [203, 0, 113, 9].into();
        let started = chain.begin(&mut context);
        assert!(matches!(started, Started::Passed { .. }), "{rule}");

        refusal(&mut Bench::start(&chain, get("/")));
    }
}

#[test]
fn a_deny_rule_wins_and_is_named_in_the_details() {
    let chain = chain(&compiled(&[reviews_viewer(), no_admin()]));
    for (request, rule) in [
        (get("/admin/x").identity(PRODUCTPAGE), 0),
        (get("/health").source([198, 51, 100, 7]), 1),
        (get("/health").authority("internal.test"), 2),
    ] {
        let reply = refusal(&mut Bench::start(&chain, request));
        assert_eq!(
            *reply.details,
            format!("rbac_access_denied_matched_policy[ns[default]-policy[no-admin]-rule[{rule}]]")
        );
    }
}

#[test]
fn a_target_with_a_broken_policy_refuses_everything() {
    let chain = chain(&Arc::new(Authorization::deny_all("never was valid")));
    let reply = refusal(&mut Bench::start(&chain, get("/").identity(PRODUCTPAGE)));
    assert_eq!(&*reply.details, "rbac_access_denied_matched_policy[none]");
}

#[test]
fn a_dry_run_refuses_nobody_and_says_what_it_would_have_done() {
    let mut dry = no_admin();
    dry.dry_run = true;
    let chain = chain(&compiled(&[dry]));
    let mut bench = Bench::start(&chain, get("/admin"));
    assert!(admitted(&mut bench));
    let said = |context: &mut RequestContext| context.marks.as_ref().unwrap().dry_run().cloned();
    let Some(Verdict::Deny(Some(rule))) = bench.context(said) else {
        panic!("the dry run would not have denied");
    };
    assert_eq!(rule.to_string(), "ns[default]-policy[no-admin]-rule[0]");

    let mut bench = Bench::start(&chain, get("/reviews"));
    assert!(admitted(&mut bench));
    assert_eq!(bench.context(said), Some(Verdict::Allow(None)));
}

#[test]
fn a_rewritten_request_is_judged_as_what_it_has_become() {
    let authorization = compiled(&[no_admin()]);
    let chain = chain(&authorization);
    let mut context = get("/reviews").context();
    let _ = chain.begin(&mut context);
    assert!(chain.judge_again(&mut context).is_none());
    context.request_mut().path = PathAndQuery::from_static("/admin");
    let reply = chain.judge_again(&mut context).unwrap();
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
}

#[test]
fn the_source_stands_in_the_authorization_phase() {
    let chain = chain(&compiled(&[no_admin()]));
    let phases: Vec<_> = chain.filters().iter().map(|placed| placed.phase).collect();
    assert_eq!(phases, [Phase::Authorization]);
}
