//! Guests that misbehave, and who notices.

use std::rc::Rc;

use http::StatusCode;
use wayline_chain::Chain;
use wayline_chain::bench::{Bench, Head, Request};
use wayline_model::plugin::{FailStrategy, Isolation};

use crate::support::{Stage, guest, head, told};

/// A guest that does this where a request has the path `/x`.
pub(crate) fn at_x(action: &str) -> String {
    guest(&format!(
        r#"(data (i32.const 0) ":path")
        (func $misbehave {action})
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (drop (call $get_header_map_value
            (i32.const 0) (i32.const 0) (i32.const 5) (i32.const 64) (i32.const 68)))
          (if (i32.eq (i32.load8_u (i32.add (i32.load (i32.const 64)) (i32.const 1))) (i32.const 120))
            (then (call $misbehave)))
          (i32.const 0))"#
    ))
}

pub(crate) fn outcome(chain: &Rc<Chain>, path: &str) -> String {
    match head(&mut Bench::start(chain, Request::get(path))) {
        Head::Passed { .. } => "passed".to_owned(),
        Head::Replied(reply) => told(&reply),
        other => format!("{other:?}"),
    }
}

const BAD: [&str; 7] = [
    "unreachable",
    "(loop (br 0))",
    "(loop (drop (call $get_current_time_nanoseconds (i32.const 64))) (br 0))",
    "(call $misbehave)",
    "(drop (i32.load (i32.const -4)))",
    "(drop (i32.div_u (i32.const 1) (i32.const 0)))",
    "(loop (drop (memory.grow (i32.const 1))) (br 0))",
];

#[test]
fn whoever_misbehaves_ends_its_own_stream_and_the_next_finds_a_fresh_instance() {
    for bad in BAD {
        let stage = Stage::of(&at_x(bad));
        assert_eq!(outcome(&stage.chain, "/a"), "passed", "{bad}");
        assert_eq!(
            outcome(&stage.chain, "/x"),
            "503 wasm_fail_stream ",
            "{bad}"
        );
        assert_eq!(outcome(&stage.chain, "/a"), "passed", "{bad}");
    }
}

#[test]
fn a_plugin_that_fails_open_is_as_if_absent() {
    for bad in BAD {
        let stage = Stage::with(&at_x(bad), |plugin| {
            plugin.fail_strategy = FailStrategy::FailOpen
        });
        assert_eq!(outcome(&stage.chain, "/x"), "passed", "{bad}");
        assert_eq!(outcome(&stage.chain, "/a"), "passed", "{bad}");
    }
}

#[test]
fn streams_in_a_dead_instance_end_wherever_they_are() {
    let stage = Stage::of(&guest(
        r#"(data (i32.const 0) ":path")
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (drop (call $get_header_map_value
            (i32.const 0) (i32.const 0) (i32.const 5) (i32.const 64) (i32.const 68)))
          (if (i32.eq (i32.load8_u (i32.add (i32.load (i32.const 64)) (i32.const 1))) (i32.const 120))
            (then unreachable))
          (i32.eq (i32.load8_u (i32.add (i32.load (i32.const 64)) (i32.const 1))) (i32.const 112)))
        (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (i32.const 0))"#,
    ));
    let mut upstream = Bench::start(&stage.chain, Request::get("/a"));
    assert!(matches!(upstream.head(), Head::Passed { .. }));
    let mut paused = Bench::start(&stage.chain, Request::get("/p"));
    assert!(matches!(paused.head(), Head::Paused));

    assert_eq!(outcome(&stage.chain, "/x"), "503 wasm_fail_stream ");
    assert!(paused.wakes() > 0, "nobody else would drive it");
    assert!(matches!(paused.head(), Head::Replied(reply) if reply.status == 503));
    upstream.respond(StatusCode::OK, &[]);
    assert_eq!(
        upstream.response().unwrap().status,
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[test]
fn a_plugin_that_never_serves_anybody_is_not_started_again_and_again() {
    let stage = Stage::of(&at_x("unreachable"));
    for _ in 0..5 {
        assert_eq!(outcome(&stage.chain, "/x"), "503 wasm_fail_stream ");
    }
    assert_eq!(
        outcome(&stage.chain, "/a"),
        "503 wasm_fail_stream ",
        "it is given time"
    );
}

#[test]
fn memory_ends_at_the_limit() {
    let stage = Stage::with(
        &guest(
            r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
              (if (i32.eq (memory.grow (i32.const 13)) (i32.const -1)) (then unreachable))
              (if (i32.ne (memory.grow (i32.const 2)) (i32.const -1)) (then unreachable))
              (i32.const 0))"#,
        ),
        |plugin| plugin.limits.memory = 1 << 20,
    );
    assert_eq!(outcome(&stage.chain, "/"), "passed");
}

#[test]
fn an_allocator_that_fails_fails_the_call_and_one_that_traps_ends_the_instance() {
    let text = |allocator: &str, expected: u32| {
        guest(&format!(
            r#"(data (i32.const 0) ":path")
            (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
              (if (i32.ne (i32.const {expected}) (call $get_header_map_value
                (i32.const 0) (i32.const 0) (i32.const 5) (i32.const 64) (i32.const 68)))
                (then unreachable))
              (i32.const 0))"#
        ))
        .replace(
            "(func $allocate (export \"proxy_on_memory_allocate\")",
            &format!("(func $mine (export \"proxy_on_memory_allocate\") (param i32) (result i32) {allocator}) (func $allocate"),
        )
    };
    for wild in ["(i32.const 0)", "(i32.const -2)", "(i32.const 131072)"] {
        let stage = Stage::of(&text(wild, 6));
        assert_eq!(outcome(&stage.chain, "/"), "passed", "{wild}");
    }
    let stage = Stage::of(&text("unreachable", 6));
    assert_eq!(outcome(&stage.chain, "/"), "503 wasm_fail_stream ");
}

#[test]
fn resuming_and_answering_what_is_not_there_does_nothing() {
    let stage = Stage::of(&guest(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (if (i32.ne (call $set_effective_context (i32.const 77)) (i32.const 2)) (then unreachable))
          (if (i32.ne (call $continue_stream (i32.const 9)) (i32.const 2)) (then unreachable))
          (if (i32.ne (call $close_stream (i32.const 9)) (i32.const 2)) (then unreachable))
          (drop (call $continue_stream (i32.const 1)))
          (drop (call $set_effective_context (i32.const 1)))
          (drop (call $continue_stream (i32.const 0)))
          (drop (call $close_stream (i32.const 0)))
          (drop (call $send_local_response (i32.const 200) (i32.const 0) (i32.const 0)
            (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const -1)))
          (i32.const 0))"#,
    ));
    assert_eq!(outcome(&stage.chain, "/"), "passed");
}

#[test]
fn only_the_first_answer_counts_and_answers_in_the_log_do_nothing() {
    let stage = Stage::of(&guest(
        r#"(func $answer (param i32)
          (drop (call $send_local_response (local.get 0) (i32.const 0) (i32.const 0)
            (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const -1))))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (call $answer (i32.const 401)) (call $answer (i32.const 402)) (i32.const 0))
        (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (i32.const 0))
        (func (export "proxy_on_log") (param i32) (call $answer (i32.const 403)))"#,
    ));
    let mut bench = Bench::start(&stage.chain, Request::get("/"));
    let Head::Replied(reply) = bench.head() else {
        panic!("no answer");
    };
    assert_eq!(reply.status, 401);
    bench.reply(reply);
    assert_eq!(bench.response().unwrap().status, StatusCode::UNAUTHORIZED);
    let client = bench.client();
    assert!(client.ended && client.error.is_none());
}

#[test]
fn a_stream_that_is_closed_is_reset() {
    let stage = Stage::of(&guest(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (call $close_stream (i32.const 0)))"#,
    ));
    assert_eq!(outcome(&stage.chain, "/"), "Reset(\"wasm_close_stream\")");
}

/// A guest that remembers in its memory that it has seen a stream, and answers the next one with 409.
const FORGETFUL: &str = r#"
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
      (if (i32.load (i32.const 1024)) (then
        (drop (call $send_local_response (i32.const 409) (i32.const 0) (i32.const 0)
          (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const -1)))))
      (i32.store (i32.const 1024) (i32.const 1))
      (i32.const 0))"#;

#[test]
fn with_isolation_by_stream_as_many_as_come_find_a_fresh_instance() {
    let shared = Stage::of(&guest(FORGETFUL));
    assert_eq!(outcome(&shared.chain, "/"), "passed");
    assert!(outcome(&shared.chain, "/").starts_with("409"));
    let isolated = Stage::with(&guest(FORGETFUL), |plugin| {
        plugin.isolation = Isolation::Stream;
    });
    for stream in 0..3000 {
        assert_eq!(outcome(&isolated.chain, "/"), "passed", "stream {stream}");
    }
}

#[test]
fn with_isolation_by_stream_one_that_traps_is_alone() {
    let stage = Stage::with(&at_x("unreachable"), |plugin| {
        plugin.isolation = Isolation::Stream;
    });
    for round in 0..5 {
        for _ in 0..19 {
            assert_eq!(outcome(&stage.chain, "/a"), "passed", "round {round}");
        }
        let poison = outcome(&stage.chain, "/x");
        assert_eq!(poison, "503 wasm_fail_stream ", "round {round}");
    }
}
