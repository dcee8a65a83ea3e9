//! Plugins that have overrun their budget, and who goes on being served.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use wayline_chain::bench::{Bench, Head, Request};
use wayline_model::plugin::Plugin;
use wayline_telemetry::{MetricsHub, MetricsSettings};
use wayline_wasm_host::Host;

use crate::containment::{at_x, outcome};
use crate::support::{Stage, eventually, guest, head, host, plugin, prepared};

/// Lets a plugin of the usual name overrun its budget.
fn overrun(host: &Arc<Host>) {
    let prepared = prepared(host, &at_x("(loop (br 0))"));
    let stage = Stage::on(Arc::clone(host), prepared, plugin(|_| {}));
    assert_eq!(outcome(&stage.chain, "/x"), "503 wasm_fail_stream ");
}

/// A plugin of that name, which is therefore in quarantine.
fn quarantined(text: &str, edit: impl FnOnce(&mut Plugin)) -> Stage {
    let host = host();
    overrun(&host);
    let prepared = prepared(&host, text);
    Stage::on(host, prepared, plugin(edit))
}

#[test]
fn a_core_serves_others_while_a_plugin_in_quarantine_computes() {
    // Longer than this test takes, and not so long that its thread would outstay it.
    let poisoned = quarantined(&at_x("(loop (br 0))"), |plugin| {
        plugin.limits.callback = Duration::from_secs(10);
    });
    let innocent = Stage::with(&at_x("unreachable"), |plugin| {
        plugin.name = "default.innocent".into();
    });
    let hub = MetricsHub::new("test", MetricsSettings::default()).unwrap();
    poisoned.host.register(&hub).unwrap();
    let text = hub.gather_text(Instant::now()).unwrap();
    let line = "wayline_wasm_quarantined{plugin=\"default.guest\"} 1";
    assert!(text.contains(line), "{text}");
    let mut poison = Bench::start(&poisoned.chain, Request::get("/x"));
    assert!(matches!(poison.head(), Head::Paused));
    for _ in 0..100 {
        assert_eq!(outcome(&innocent.chain, "/a"), "passed");
    }
    assert!(matches!(poison.head(), Head::Paused), "it still computes");
}

#[test]
fn one_request_in_twenty_that_never_ends_harms_no_other() {
    let stage = Stage::of(&at_x("(loop (br 0))"));
    for round in 0..5 {
        for _ in 0..19 {
            assert_eq!(outcome(&stage.chain, "/a"), "passed", "round {round}");
        }
        let poison = outcome(&stage.chain, "/x");
        assert_eq!(poison, "503 wasm_fail_stream ", "round {round}");
    }
}

#[test]
fn whoever_is_not_to_be_quarantined_stays_on_its_core() {
    let settings = wayline_wasm_host::HostSettings {
        quarantine: Duration::ZERO,
        ..Default::default()
    };
    let engine = wayline_wasm_host::Engine::for_running().unwrap();
    let host = Host::new(engine, settings);
    overrun(&host);
    let prepared = prepared(&host, &at_x("(loop (br 0))"));
    let stage = Stage::on(host, prepared, plugin(|_| {}));
    let mut bench = Bench::start(&stage.chain, Request::get("/a"));
    assert!(matches!(bench.head(), Head::Passed { .. }));
}

/// A guest that marks what it sees: requests, responses, and the length of bodies in one digit.
const MARKS: &str = r#"
    (data (i32.const 0) "x-seen")
    (data (i32.const 16) "yes")
    (func $mark (param i32)
      (drop (call $add_header_map_value (local.get 0)
        (i32.const 0) (i32.const 6) (i32.const 16) (i32.const 3))))
    (func $measure (param i32 i32)
      (i32.store8 (i32.const 32) (i32.add (i32.const 48) (local.get 1)))
      (drop (call $set_buffer_bytes
        (local.get 0) (i32.const 0) (i32.const 1000) (i32.const 32) (i32.const 1))))
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
      (call $mark (i32.const 0)) (i32.const 0))
    (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
      (if (i32.eqz (local.get 2)) (then (return (i32.const 1))))
      (call $measure (i32.const 0) (local.get 1)) (i32.const 0))
    (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
      (call $mark (i32.const 2)) (i32.const 0))
    (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32)
      (if (i32.eqz (local.get 2)) (then (return (i32.const 1))))
      (call $measure (i32.const 1) (local.get 1)) (i32.const 0))
    (func (export "proxy_on_response_trailers") (param i32 i32) (result i32)
      (call $mark (i32.const 3)) (i32.const 0))"#;

#[test]
fn all_that_a_plugin_edits_comes_back() {
    let stage = quarantined(&guest(MARKS), |_| {});
    let mut bench = Bench::start(&stage.chain, Request::post("/"));
    assert!(matches!(head(&mut bench), Head::Passed { .. }));
    let seen = bench.context(|context| context.request().headers.get("x-seen").cloned());
    assert_eq!(seen, Some(HeaderValue::from_static("yes")));

    bench.send("ab");
    assert_eq!(bench.upstream().body(), "");
    bench.send("cde").end(None);
    eventually(|| bench.upstream().ended.then_some(()));
    assert_eq!(bench.upstream().body(), "5");

    bench.respond(StatusCode::OK, &[("a", "b")]);
    let headers = eventually(|| bench.response().map(|head| head.headers.clone()));
    assert!(
        headers["a"] == "b" && headers["x-seen"] == "yes",
        "{headers:?}"
    );
    bench.send_back("abcdefg").end_back(None);
    eventually(|| bench.client().ended.then_some(()));
    assert_eq!(bench.client().body(), "7");
}

#[test]
fn answers_and_pauses_of_plugins_in_quarantine_hold() {
    let refuses = quarantined(
        &guest(
            r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
              (drop (call $send_local_response (i32.const 418) (i32.const 0) (i32.const 0)
                (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const -1)))
              (i32.const 1))"#,
        ),
        |_| {},
    );
    let mut bench = Bench::start(&refuses.chain, Request::get("/"));
    assert!(matches!(head(&mut bench), Head::Replied(reply) if reply.status == 418));
    let never_starts = quarantined(
        &guest(
            r#"(func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 0))
          (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0))"#,
        ),
        |_| {},
    );
    assert_eq!(outcome(&never_starts.chain, "/"), "503 wasm_fail_stream ");
}

#[test]
fn the_core_calls_backends_for_a_plugin_in_quarantine() {
    let stage = quarantined(
        &guest(
            r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
              (call $note (i32.const 114))
              (if (call $call) (then unreachable))
              (i32.store (i32.const 1024) (local.get 0))
              (i32.const 1))
            (func (export "proxy_on_http_call_response") (param i32 i32 i32 i32 i32)
              (drop (call $set_effective_context (i32.load (i32.const 1024))))
              (drop (call $continue_stream (i32.const 0))))"#,
        ),
        |_| {},
    );
    let mut bench = Bench::start(&stage.chain, Request::get("/"));
    eventually(|| {
        assert!(matches!(bench.head(), Head::Paused));
        stage.world.drive();
        (stage.world.bodies() == ["r"]).then_some(())
    });
    let response = Response::new(Bytes::new());
    stage.world.answer(0, Ok((response, HeaderMap::new())));
    eventually(|| {
        stage.world.drive();
        match bench.head() {
            Head::Paused => None,
            outcome => {
                assert!(matches!(outcome, Head::Passed { .. }));
                Some(())
            }
        }
    });
}

#[test]
fn grpc_calls_of_a_plugin_in_quarantine_cross_over_both_ways() {
    let stage = quarantined(
        &guest(
            r#"(data (i32.const 0) "smhi")
            (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
              (i32.store (i32.const 1024) (local.get 0))
              (if (call $grpc_call (i32.const 3000) (i32.const 14) (i32.const 0) (i32.const 1)
                (i32.const 1) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 2) (i32.const 2)
                (i32.const 60000) (i32.const 2040)) (then unreachable))
              (i32.const 1))
            (func (export "proxy_on_grpc_receive") (param i32 i32 i32)
              (drop (call $set_effective_context (i32.load (i32.const 1024))))
              (drop (call $continue_stream (i32.const 0))))"#,
        ),
        |_| {},
    );
    let mut bench = Bench::start(&stage.chain, Request::get("/"));
    let mut received = Vec::new();
    eventually(|| {
        assert!(matches!(bench.head(), Head::Paused));
        stage.world.drive();
        let mut calls = stage.world.calls();
        let (more, ended) = calls.first_mut()?.received();
        received.extend(more);
        ended.then_some(())
    });
    assert_eq!(received, b"\0\0\0\0\x02hi");
    {
        let calls = stage.world.calls();
        calls[0].send("answer");
        calls[0].end("0");
    }
    eventually(|| {
        stage.world.drive();
        match bench.head() {
            Head::Paused => None,
            outcome => {
                assert!(matches!(outcome, Head::Passed { .. }));
                Some(())
            }
        }
    });
}
