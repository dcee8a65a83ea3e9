//! Pausing, holding and editing bodies in both directions.

use std::rc::Rc;

use bytes::Bytes;
use http::{Method, StatusCode};
use wayline_chain::bench::{Bench, Head, Request, chain_of};
use wayline_chain::{Chain, Interrupt, Needs, Phase, Step};

use crate::probe::{EVERYTHING, Log, Probe, assert_passed, chain, lines, shout, trailers};

#[test]
fn a_paused_head_goes_on_when_its_filter_is_woken() {
    let log = Log::default();
    let first = Probe::new("a", Needs::default(), &log).on("request_headers", Step::Pause);
    let second = Probe::new("b", Needs::default(), &log);
    let chain = chain(vec![
        first.at(Phase::Custom, 0),
        second.at(Phase::Extension, 0),
    ]);
    let mut bench = Bench::start(&chain, Request::post("/"));
    bench.send("body").end(None);
    assert!(matches!(bench.head(), Head::Paused));
    assert!(matches!(bench.head(), Head::Paused));
    assert_eq!(lines(&log), ["a request_headers / false"]);
    assert_eq!(
        bench.unread(),
        1,
        "nobody needs the body, so it stays with its sender"
    );
    assert_eq!(bench.wakes(), 0);

    first.resume("resume_request", Step::Continue);
    assert_eq!(bench.wakes(), 1);
    assert_passed(&mut bench);
    assert_eq!(lines(&log), ["b request_headers / false"]);
    assert_eq!(bench.upstream().body(), "body");
    assert!(bench.upstream().ended);
}

#[test]
fn a_filter_that_holds_is_fed_nothing() {
    let log = Log::default();
    let probe = Probe::new("a", EVERYTHING, &log).on("request_headers", Step::Hold);
    let mut bench = Bench::start(&chain_of(probe.clone()), Request::post("/"));
    bench.send("x").end(None);
    assert!(matches!(bench.head(), Head::Paused));
    assert_eq!(lines(&log), ["a request_headers / false"]);
    assert_eq!(bench.unread(), 1);

    probe.resume("resume_request", Step::Continue);
    assert_passed(&mut bench);
    assert_eq!(bench.upstream().body(), "x");
    assert_eq!(lines(&log), ["a request_body b\"x\" true"]);
}

#[test]
fn a_paused_filter_gathers_the_body_and_what_it_edits_goes_on_with_a_true_length() {
    let log = Log::default();
    let gather = Probe::new("a", EVERYTHING, &log)
        .on("request_headers", Step::Pause)
        .on("request_body", Step::Pause)
        .editing(|body| {
            let mut longer = body.to_vec();
            longer.push(b'!');
            *body = longer.into();
        });
    let next = Probe::new("b", EVERYTHING, &log);
    let chain = chain(vec![
        gather.at(Phase::Custom, 0),
        next.at(Phase::Extension, 0),
    ]);
    let request = Request::post("/").header("content-length", "4");
    let mut bench = Bench::start(&chain, request);
    assert!(matches!(bench.head(), Head::Paused));
    bench.send("ab");
    assert!(matches!(bench.head(), Head::Paused));
    gather.answer("request_body", Step::Pause);
    bench.send("cd");
    assert!(matches!(bench.head(), Head::Paused));
    bench.end(None);
    assert_passed(&mut bench);
    assert_eq!(
        lines(&log),
        [
            "a request_headers / false",
            "a request_body b\"ab\" false",
            "a request_body b\"ab!cd\" false",
            "a request_body b\"ab!cd!\" true",
            "b request_headers / false",
            "b request_body b\"ab!cd!!\" true",
        ]
    );
    let length = bench.context(|c| c.request().headers["content-length"].clone());
    assert_eq!(length, "7");
    assert_eq!(bench.upstream().body(), "ab!cd!!");
    assert!(bench.upstream().ended);
}

#[test]
fn a_streamed_body_is_edited_chunk_by_chunk_and_trailers_follow() {
    let log = Log::default();
    let probe = Probe::new("a", EVERYTHING, &log).editing(shout);
    let mut bench = Bench::start(&chain_of(probe), Request::post("/"));
    assert_passed(&mut bench);
    bench.send("ab");
    assert_eq!(bench.upstream().chunks, ["AB"]);
    bench.send("cd").end(Some(trailers()));
    assert_eq!(bench.upstream().chunks, ["AB", "CD"]);
    assert_eq!(bench.upstream().trailers.as_ref().unwrap()["x-sum"], "1");
    assert!(bench.upstream().ended);
    assert_eq!(
        lines(&log),
        [
            "a request_headers / false",
            "a request_body b\"ab\" false",
            "a request_body b\"cd\" false",
            "a request_trailers b\"\" 1",
        ]
    );
}

#[test]
fn trailers_let_a_held_body_go_and_end_the_body_for_who_does_not_need_them() {
    let log = Log::default();
    let hears = Probe::new("a", EVERYTHING, &log).on("request_body", Step::Pause);
    let deaf = Probe::new(
        "b",
        Needs {
            request_body: true,
            ..Needs::default()
        },
        &log,
    )
    .on("request_body", Step::Pause);
    let chain = chain(vec![
        hears.at(Phase::Custom, 0),
        deaf.at(Phase::Extension, 0),
    ]);
    let mut bench = Bench::start(&chain, Request::post("/"));
    assert_passed(&mut bench);
    bench.send("ab");
    assert!(bench.upstream().chunks.is_empty());
    deaf.answer("request_body", Step::Continue);
    bench.end(Some(trailers()));
    assert_eq!(bench.upstream().body(), "ab");
    assert!(bench.upstream().trailers.is_some());
    assert_eq!(
        lines(&log)[2..],
        [
            "a request_body b\"ab\" false",
            "a request_trailers b\"ab\" 1",
            "b request_body b\"ab\" true",
        ]
    );
}

#[test]
fn a_response_head_waits_for_its_body_and_may_still_be_edited() {
    let log = Log::default();
    let probe = Probe::new("a", EVERYTHING, &log)
        .on("response_headers", Step::Pause)
        .on("response_body", Step::Pause);
    let mut bench = Bench::start(&chain_of(probe.clone()), Request::get("/"));
    assert_passed(&mut bench);
    bench
        .respond(StatusCode::OK, &[])
        .send_back("body")
        .end_back(None);
    assert!(bench.response().is_none());
    assert_eq!(
        lines(&log)[1..],
        [
            "a response_headers 200 false",
            "a response_body b\"body\" true",
        ]
    );
    probe.resume("resume_response", Step::Continue);
    assert_eq!(bench.wakes(), 1);
    let head = bench.response().unwrap();
    assert_eq!(head.headers["x-resumed-by"], "a");
    assert_eq!(head.headers["content-length"], "4");
    assert_eq!(bench.client().body(), "body");
}

#[test]
fn too_much_held_is_413_upwards_and_500_downwards() {
    let log = Log::default();
    let limited = |probe: Probe| {
        Rc::new(Chain::new(vec![probe.at(Phase::Extension, 0)]).with_buffer_limit(6))
    };

    let up = Probe::new("a", EVERYTHING, &log)
        .on("request_headers", Step::Pause)
        .on("request_body", Step::Pause);
    let mut bench = Bench::start(&limited(up.clone()), Request::post("/"));
    assert!(matches!(bench.send("123456").head(), Head::Paused));
    up.answer("request_body", Step::Pause);
    let Head::Replied(reply) = bench.send("7").head() else {
        panic!("no reply");
    };
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(&*reply.details, "request_payload_too_large");

    let down = Probe::new("a", EVERYTHING, &log)
        .on("response_headers", Step::Pause)
        .on("response_body", Step::Pause);
    let mut bench = Bench::start(&limited(down), Request::get("/"));
    assert_passed(&mut bench);
    bench
        .respond(StatusCode::OK, &[])
        .send_back("123456")
        .send_back("7");
    assert_eq!(bench.response().unwrap().status, 500);
    assert_eq!(bench.client().body(), "Internal Server Error");
}

#[test]
fn an_early_response_does_not_end_the_request_body() {
    let log = Log::default();
    let probe = Probe::new("a", EVERYTHING, &log);
    let mut bench = Bench::start(&chain_of(probe), Request::post("/"));
    assert_passed(&mut bench);
    bench.send("one");
    assert_eq!(bench.upstream().body(), "one");
    bench
        .respond(StatusCode::OK, &[])
        .send_back("done")
        .end_back(Some(trailers()));
    assert_eq!(bench.response().unwrap().status, 200);
    assert_eq!(bench.client().body(), "done");
    assert!(bench.client().trailers.is_some());
    bench.send("two").end(None);
    assert_eq!(bench.upstream().body(), "onetwo");
    assert!(bench.upstream().ended);
}

#[test]
fn an_announced_length_that_a_filter_made_a_lie_never_reaches_a_peer() {
    let longer: fn(&mut Bytes) = |body| *body = [&body[..], b"!"].concat().into();
    for edit in [longer, Bytes::clear] {
        let log = Log::default();
        let probe = Probe::new("a", EVERYTHING, &log).editing(edit);
        let request = Request::post("/").header("content-length", "2");
        let mut bench = Bench::start(&chain_of(probe), request);
        assert_passed(&mut bench);
        bench.send("ab").end(None);
        assert!(bench.upstream().chunks.is_empty());
        assert!(bench.upstream().error.is_some());
        let interrupt = bench.interrupt();
        assert!(
            matches!(interrupt, Some(Interrupt::Reset(_))),
            "{interrupt:?}"
        );
    }
}

#[test]
fn a_filter_that_holds_is_fed_nothing_by_an_earlier_filter_either() {
    let log = Log::default();
    let gather = Probe::new("a", EVERYTHING, &log).on("request_headers", Step::Pause);
    let holds = Probe::new("b", EVERYTHING, &log).on("request_headers", Step::Hold);
    let chain = chain(vec![
        gather.at(Phase::Custom, 0),
        holds.at(Phase::Extension, 0),
    ]);
    let mut bench = Bench::start(&chain, Request::post("/"));
    bench.send("ab").send("cd");
    assert!(matches!(bench.head(), Head::Paused));
    assert_eq!(
        lines(&log)[1..],
        ["a request_body b\"ab\" false", "b request_headers / false",]
    );
    assert_eq!(bench.unread(), 1);
    holds.resume("resume_request", Step::Continue);
    assert_passed(&mut bench);
    assert_eq!(bench.upstream().body(), "abcd");
}

#[test]
fn a_length_without_a_body_stays_as_the_upstream_sent_it() {
    let log = Log::default();
    let probe = Probe::new("a", EVERYTHING, &log);
    let mut bench = Bench::start(&chain_of(probe), Request::new(Method::HEAD, "/"));
    assert_passed(&mut bench);
    bench
        .respond(StatusCode::OK, &[("content-length", "10")])
        .end_back(None);
    assert_eq!(bench.response().unwrap().headers["content-length"], "10");
    assert!(bench.client().ended);
}
