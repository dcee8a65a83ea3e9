//! Replies and resets at every stage.

use http::{Method, StatusCode};
use wayline_chain::bench::{Bench, Head, Request, chain_of};
use wayline_chain::{Interrupt, Phase, Step};

use crate::probe::{EVERYTHING, Log, Probe, assert_passed, chain, lines, reply};

#[test]
fn a_reply_from_the_head_goes_back_through_the_filters_that_were_met_and_no_others() {
    let log = Log::default();
    let outer = Probe::new("outer", EVERYTHING, &log);
    let refuses =
        Probe::new("refuses", EVERYTHING, &log).on("request_headers", reply(StatusCode::FORBIDDEN));
    let inner = Probe::new("inner", EVERYTHING, &log);
    let chain = chain(vec![
        outer.at(Phase::Custom, 0),
        refuses.at(Phase::Cors, 0),
        inner.at(Phase::Extension, 0),
    ]);
    let mut bench = Bench::start(&chain, Request::get("/"));
    let Head::Replied(reply) = bench.head() else {
        panic!("no reply");
    };
    let head = bench.reply(reply).response().unwrap();
    assert_eq!(head.status, StatusCode::FORBIDDEN);
    assert_eq!(head.headers["content-length"], "2");
    assert_eq!(head.headers["content-type"], "text/plain");
    assert_eq!(bench.client().body(), "no");
    assert!(bench.client().ended);
    assert_eq!(
        bench.context(|c| c.details.clone()).as_deref(),
        Some("said_no")
    );
    drop(bench);
    assert_eq!(
        lines(&log),
        [
            "outer request_headers / true",
            "refuses request_headers / true",
            "refuses response_headers 403 false",
            "outer response_headers 403 false",
            "refuses response_body b\"no\" true",
            "outer response_body b\"no\" true",
            "outer complete Some(403) 0 2",
            "refuses complete Some(403) 0 2",
        ]
    );
}

#[test]
fn a_reply_before_any_stream_needs_no_run() {
    let log = Log::default();
    let probe = Probe::new("a", EVERYTHING, &log).on("begin", reply(StatusCode::FORBIDDEN));
    let mut bench = Bench::start(&chain_of(probe), Request::new(Method::HEAD, "/"));
    assert!(bench.run().is_none());
    let Head::Replied(reply) = bench.head() else {
        panic!("no reply");
    };
    let head = bench.reply(reply).response().unwrap();
    assert_eq!(head.headers["content-length"], "2");
    assert_eq!(bench.client().body(), "", "HEAD has no body");
    assert_eq!(
        bench.context(|c| c.details.clone()).as_deref(),
        Some("said_no")
    );
}

#[test]
fn a_reply_while_the_request_body_flows_interrupts_the_upstream() {
    let log = Log::default();
    let probe = Probe::new("a", EVERYTHING, &log);
    let mut bench = Bench::start(&chain_of(probe.clone()), Request::post("/"));
    assert_passed(&mut bench);
    bench.send("fine");
    assert_eq!(bench.upstream().body(), "fine");
    assert!(bench.interrupt().is_none());

    probe.answer("request_body", reply(StatusCode::FORBIDDEN));
    bench.send("bad").end(None);
    assert!(bench.upstream().error.as_ref().unwrap().contains("said_no"));
    assert_eq!(bench.upstream().body(), "fine");
    assert_eq!(bench.wakes(), 1, "who awaits the response is woken");
    let Some(Interrupt::Reply(reply)) = bench.interrupt() else {
        panic!("no reply");
    };
    assert_eq!(bench.reply(reply).response().unwrap().status, 403);
    assert_eq!(bench.client().body(), "no");
    drop(bench);
    assert_eq!(lines(&log).last().unwrap(), "a complete Some(403) 7 2");
}

#[test]
fn a_reply_while_the_response_head_is_paused_takes_its_place() {
    let log = Log::default();
    let outer = Probe::new("outer", EVERYTHING, &log);
    let inner = Probe::new("inner", EVERYTHING, &log).on("response_headers", Step::Hold);
    let chain = chain(vec![
        outer.at(Phase::Custom, 0),
        inner.at(Phase::Extension, 0),
    ]);
    let mut bench = Bench::start(&chain, Request::post("/"));
    assert_passed(&mut bench);
    bench.respond(StatusCode::OK, &[]).send_back("never");
    assert!(bench.response().is_none());
    lines(&log);

    outer.answer("request_body", reply(StatusCode::FORBIDDEN));
    bench.send("bad");
    assert!(bench.upstream().error.is_some());
    assert_eq!(bench.response().unwrap().status, 403);
    assert_eq!(bench.client().body(), "no");
    assert_eq!(
        lines(&log),
        [
            "outer request_body b\"bad\" false",
            "outer response_headers 403 false",
            "outer response_body b\"no\" true",
        ],
        "the inner filter has seen its response head"
    );
}

#[test]
fn a_reply_after_the_response_head_resets() {
    let log = Log::default();
    let probe = Probe::new("a", EVERYTHING, &log);
    let mut bench = Bench::start(&chain_of(probe.clone()), Request::post("/"));
    assert_passed(&mut bench);
    bench.send("early");
    assert_eq!(bench.upstream().body(), "early");
    bench.respond(StatusCode::OK, &[]).send_back("so far");
    assert_eq!(bench.response().unwrap().status, 200);
    assert_eq!(bench.client().body(), "so far");

    probe.answer("request_body", reply(StatusCode::FORBIDDEN));
    bench.send("late");
    assert!(bench.upstream().error.is_some());
    assert!(bench.client().error.as_ref().unwrap().contains("said_no"));
    drop(bench);
    assert_eq!(lines(&log).last().unwrap(), "a complete Some(200) 9 6");
}

#[test]
fn a_filter_may_answer_in_place_of_the_upstreams_response() {
    let log = Log::default();
    let outer = Probe::new("outer", EVERYTHING, &log);
    let inner = Probe::new("inner", EVERYTHING, &log)
        .on("response_headers", reply(StatusCode::BAD_GATEWAY));
    let chain = chain(vec![
        outer.at(Phase::Custom, 0),
        inner.at(Phase::Extension, 0),
    ]);
    let mut bench = Bench::start(&chain, Request::get("/"));
    assert_passed(&mut bench);
    bench
        .respond(
            StatusCode::OK,
            &[("x-secret", "1"), ("content-length", "6")],
        )
        .send_back("secret")
        .end_back(None);
    let head = bench.response().unwrap();
    assert_eq!(head.status, StatusCode::BAD_GATEWAY);
    assert!(!head.headers.contains_key("x-secret"));
    assert_eq!(head.headers["content-length"], "2");
    assert_eq!(bench.client().body(), "no");
    assert_eq!(
        lines(&log)[2..],
        [
            "inner response_headers 200 false",
            "outer response_headers 502 false",
            "outer response_body b\"no\" true",
        ]
    );
}

#[test]
fn a_reset_has_no_answer() {
    let log = Log::default();
    let probe = Probe::new("a", EVERYTHING, &log).on("request_headers", Step::Reset("gone".into()));
    let mut bench = Bench::start(&chain_of(probe), Request::get("/"));
    let head = bench.head();
    assert!(
        matches!(&head, Head::Reset(details) if &**details == "gone"),
        "{head:?}"
    );
    drop(bench);
    assert_eq!(lines(&log)[1..], ["a complete None 0 0"]);
}

#[test]
fn a_reply_whose_status_has_no_body_gets_none() {
    let log = Log::default();
    let probe = Probe::new("a", EVERYTHING, &log).on("begin", reply(StatusCode::NO_CONTENT));
    let mut bench = Bench::start(&chain_of(probe), Request::get("/"));
    let Head::Replied(reply) = bench.head() else {
        panic!("no reply");
    };
    let head = bench.reply(reply).response().unwrap();
    assert!(!head.headers.contains_key("content-length"));
    assert_eq!(bench.client().body(), "");
}
