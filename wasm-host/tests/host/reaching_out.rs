//! Callouts, and going on after them.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use wayline_chain::CalloutError;
use wayline_chain::bench::{Bench, Head, Request};

use crate::support::{Stage, guest, told};

/// Pauses each request, calls out, answers 403 where the backend says so and lets go otherwise.
const ASKS: &str = r#"
    (data (i32.const 0) ":statusx-askedyes")
    (global $stream (mut i32) (i32.const 0))
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
      (global.set $stream (local.get 0))
      (if (call $call) (then unreachable))
      (i32.const 1))
    (func (export "proxy_on_http_call_response") (param i32 i32 i32 i32 i32)
      (if (i32.ne (local.get 0) (i32.const 1)) (then unreachable))
      (if (i32.ne (local.get 1) (i32.load (i32.const 2040))) (then unreachable))
      (drop (call $get_header_map_value
        (i32.const 6) (i32.const 0) (i32.const 7) (i32.const 64) (i32.const 68)))
      (drop (call $set_effective_context (global.get $stream)))
      (drop (call $replace_header_map_value
        (i32.const 0) (i32.const 7) (i32.const 7) (i32.const 14) (i32.const 3)))
      (if (i32.and (local.get 2) (i32.eq (i32.load8_u (i32.load (i32.const 64))) (i32.const 52)))
        (then
          (drop (call $get_buffer_bytes
            (i32.const 4) (i32.const 0) (local.get 3) (i32.const 64) (i32.const 68)))
          (drop (call $send_local_response (i32.const 403) (i32.const 0) (i32.const 0)
            (i32.load (i32.const 64)) (i32.load (i32.const 68)) (i32.const 0) (i32.const 0)
            (i32.const -1))))
        (else (drop (call $continue_stream (i32.const 0))))))"#;

fn answered(status: u16, body: &'static str) -> (Response<Bytes>, HeaderMap) {
    let mut response = Response::new(Bytes::from_static(body.as_bytes()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    (response, HeaderMap::new())
}

#[test]
fn a_request_waits_for_a_backend_and_goes_on() {
    let stage = Stage::of(&guest(ASKS));
    let mut bench = Bench::start(&stage.chain, Request::get("/"));
    assert!(matches!(bench.head(), Head::Paused));
    {
        let sent = stage.world.sent();
        let call = &sent[0];
        assert_eq!(&*call.backend, "outbound|80||t");
        assert_eq!(call.request.method(), Method::POST);
        assert_eq!(call.request.uri(), "http://t/told");
        assert_eq!(call.deadline, Duration::from_secs(1));
    }
    stage.world.answer(0, Ok(answered(200, "")));
    assert!(bench.wakes() > 0);
    assert!(matches!(bench.head(), Head::Passed { .. }));
    bench.context(|context| assert_eq!(context.request().headers["x-asked"], "yes"));
}

#[test]
fn a_backend_refuses_a_request() {
    let stage = Stage::of(&guest(ASKS));
    let mut bench = Bench::start(&stage.chain, Request::get("/"));
    assert!(matches!(bench.head(), Head::Paused));
    stage.world.answer(0, Ok(answered(401, "not you")));
    match bench.head() {
        Head::Replied(reply) => assert_eq!(told(&reply), "403 wasm_local_response not you"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_call_that_fails_is_told_without_headers() {
    let stage = Stage::of(&guest(ASKS));
    let mut bench = Bench::start(&stage.chain, Request::get("/"));
    assert!(matches!(bench.head(), Head::Paused));
    stage.world.answer(0, Err(CalloutError::Timeout));
    assert!(matches!(bench.head(), Head::Passed { .. }));
}

#[test]
fn an_answer_for_a_stream_that_is_gone_hurts_nobody() {
    let stage = Stage::of(&guest(ASKS));
    let mut bench = Bench::start(&stage.chain, Request::get("/"));
    assert!(matches!(bench.head(), Head::Paused));
    drop(bench);
    stage.world.answer(0, Ok(answered(200, "")));
    let mut next = Bench::start(&stage.chain, Request::get("/"));
    assert!(matches!(next.head(), Head::Paused));
    stage.world.answer(1, Ok(answered(200, "")));
    assert!(
        matches!(next.head(), Head::Passed { .. }),
        "the instance lives"
    );
}

#[test]
fn who_may_be_called_and_how_often_is_limited() {
    let many = guest(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (if (call $call) (then unreachable))
          (if (call $call) (then unreachable))
          (if (i32.ne (call $call) (i32.const 10)) (then unreachable))
          (i32.const 0))"#,
    );
    let stage = Stage::with(&many, |plugin| plugin.limits.callouts = 2);
    assert!(matches!(
        Bench::start(&stage.chain, Request::get("/")).head(),
        Head::Passed { .. }
    ));
    assert_eq!(stage.world.sent().len(), 2);

    let refused = guest(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (if (i32.ne (call $call) (i32.const 2)) (then unreachable))
          (i32.const 0))"#,
    );
    let stage = Stage::with(&refused, |plugin| {
        plugin.callouts = Some(["outbound|80||other".into()].into());
    });
    assert!(matches!(
        Bench::start(&stage.chain, Request::get("/")).head(),
        Head::Passed { .. }
    ));
    let unknown = refused.replace("outbound|80||t", "elsewhere|80|t");
    let stage = Stage::of(&unknown);
    assert!(matches!(
        Bench::start(&stage.chain, Request::get("/")).head(),
        Head::Passed { .. }
    ));
}

#[test]
fn going_on_within_the_pausing_callback_is_not_lost() {
    let stage = Stage::of(&guest(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (drop (call $continue_stream (i32.const 0)))
          (i32.const 1))"#,
    ));
    assert!(matches!(
        Bench::start(&stage.chain, Request::get("/")).head(),
        Head::Passed { .. }
    ));
}

#[test]
fn a_tick_lets_streams_go_on() {
    let stage = Stage::of(&guest(
        r#"(global $stream (mut i32) (i32.const 0))
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (drop (call $set_tick_period_milliseconds (i32.const 50)))
          (i32.const 1))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (global.set $stream (local.get 0))
          (i32.const 1))
        (func (export "proxy_on_tick") (param i32)
          (if (i32.eqz (global.get $stream)) (then (return)))
          (drop (call $set_effective_context (global.get $stream)))
          (drop (call $continue_stream (i32.const 0))))"#,
    ));
    stage.world.drive();
    let mut bench = Bench::start(&stage.chain, Request::get("/"));
    stage.world.pass(Duration::from_millis(40));
    assert!(matches!(bench.head(), Head::Paused));
    stage.world.pass(Duration::from_millis(20));
    assert!(matches!(bench.head(), Head::Passed { .. }));
}

#[test]
fn a_root_ends_its_work_before_it_goes() {
    let stage = Stage::of(&guest(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0))
        (func (export "proxy_on_done") (param i32) (result i32)
          (if (i32.ne (local.get 0) (i32.const 1)) (then (return (i32.const 1))))
          (call $note (i32.const 100))
          (drop (call $call))
          (i32.const 0))
        (func (export "proxy_on_http_call_response") (param i32 i32 i32 i32 i32)
          (call $note (i32.const 114))
          (drop (call $call))
          (drop (call $done)))"#,
    ));
    let world = stage.world.clone();
    drop(stage);
    // No chain has used the seat for a while.
    for _ in 0..3 {
        world.pass(Duration::from_secs(60));
    }
    assert_eq!(world.bodies(), ["d"]);
    world.answer(0, Ok(answered(200, "")));
    assert_eq!(world.bodies(), ["d", "dr"]);
}

/// Calls `/s/m` with `hi`, and remembers a letter per callback and the messages that came.
const GRPC: &str = r#"
    (data (i32.const 0) "smhi")
    (func (export "proxy_on_grpc_receive_initial_metadata") (param i32 i32 i32)
      (call $note (i32.const 105)))
    (func (export "proxy_on_grpc_receive") (param i32 i32 i32)
      (drop (call $get_buffer_bytes
        (i32.const 5) (i32.const 0) (local.get 2) (i32.const 64) (i32.const 68)))
      (call $note (i32.load8_u (i32.load (i32.const 64)))))
    (func (export "proxy_on_grpc_receive_trailing_metadata") (param i32 i32 i32)
      (call $note (i32.const 116)))
    (func (export "proxy_on_grpc_close") (param i32 i32 i32)
      (call $note (i32.add (i32.const 48) (local.get 2))))
    (func (export "proxy_on_delete") (param i32) (drop (call $call)))"#;

fn unary() -> Stage {
    Stage::of(&guest(&format!(
        r#"{GRPC}
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (if (call $grpc_call (i32.const 3000) (i32.const 14) (i32.const 0) (i32.const 1)
            (i32.const 1) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 2) (i32.const 2)
            (i32.const 500) (i32.const 2040)) (then unreachable))
          (if (i32.ne (i32.const 2) (call $grpc_send (i32.load (i32.const 2040)) (i32.const 0) (i32.const 1)
            (i32.const 0))) (then unreachable))
          (if (i32.ne (i32.const 4) (call $grpc_call (i32.const 0) (i32.const 2) (i32.const 0) (i32.const 1)
            (i32.const 1) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 2) (i32.const 2)
            (i32.const 500) (i32.const 2036))) (then unreachable))
          (i32.const 0))"#
    )))
}

#[test]
fn a_unary_call_is_answered_by_its_message_alone() {
    let stage = unary();
    let mut bench = Bench::start(&stage.chain, Request::get("/"));
    assert!(matches!(bench.head(), Head::Passed { .. }));
    {
        let mut calls = stage.world.calls();
        assert_eq!(calls[0].path, "/s/m");
        assert_eq!(calls[0].received(), (b"\0\0\0\0\x02hi".to_vec(), true));
        calls[0].send("answer");
        calls[0].end("0");
    }
    stage.world.drive();
    drop(bench);
    assert_eq!(stage.world.bodies(), ["a"]);
}

#[test]
fn a_unary_call_that_fails_or_comes_too_late_is_closed_with_a_code() {
    let stage = unary();
    let bench = &mut Bench::start(&stage.chain, Request::get("/"));
    assert!(matches!(bench.head(), Head::Passed { .. }));
    stage.world.calls()[0].end("7");
    stage.world.drive();
    let late = &mut Bench::start(&stage.chain, Request::get("/"));
    assert!(matches!(late.head(), Head::Passed { .. }));
    stage.world.pass(Duration::from_millis(600));
    drop(Bench::start(&stage.chain, Request::get("/")));
    let mut last = Bench::start(&stage.chain, Request::get("/"));
    assert!(matches!(last.head(), Head::Passed { .. }));
    drop(last);
    assert_eq!(stage.world.bodies().last().unwrap(), "74");
}

#[test]
fn a_stream_hears_all_of_a_call() {
    let stage = Stage::of(&guest(&format!(
        r#"{GRPC}
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (if (call $grpc_stream (i32.const 3000) (i32.const 14) (i32.const 0) (i32.const 1)
            (i32.const 1) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 2040)) (then unreachable))
          (call $grpc_send (i32.load (i32.const 2040)) (i32.const 2) (i32.const 2) (i32.const 1)))"#
    )));
    let mut bench = Bench::start(&stage.chain, Request::get("/"));
    assert!(matches!(bench.head(), Head::Passed { .. }));
    assert_eq!(
        stage.world.calls()[0].received(),
        (b"\0\0\0\0\x02hi".to_vec(), true)
    );
    stage.world.calls()[0].send("one");
    stage.world.drive();
    stage.world.calls()[0].send("two");
    stage.world.calls()[0].end("0");
    stage.world.drive();
    drop(bench);
    assert_eq!(stage.world.bodies(), ["iott0"]);
}

#[test]
fn a_call_that_was_cancelled_tells_nothing_more() {
    let stage = Stage::of(&guest(&format!(
        r#"{GRPC}
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (drop (call $grpc_stream (i32.const 3000) (i32.const 14) (i32.const 0) (i32.const 1)
            (i32.const 1) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 2040)))
          (if (call $grpc_cancel (i32.load (i32.const 2040))) (then unreachable))
          (if (i32.ne (i32.const 1) (call $grpc_cancel (i32.load (i32.const 2040)))) (then unreachable))
          (if (i32.ne (i32.const 2) (call $grpc_close (i32.const 4))) (then unreachable))
          (i32.const 0))"#
    )));
    let mut bench = Bench::start(&stage.chain, Request::get("/"));
    assert!(matches!(bench.head(), Head::Passed { .. }));
    stage.world.calls()[0].send("one");
    stage.world.drive();
    drop(bench);
    assert_eq!(stage.world.bodies(), [""]);
}
