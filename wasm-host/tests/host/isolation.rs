//! Isolation by stream: what instances made from an image remember, and what they leave to the one that
//! stays.

use std::time::{Duration, Instant};

use wayline_chain::bench::{Bench, Head, Request};
use wayline_model::plugin::Isolation;
use wayline_telemetry::{MetricsHub, MetricsSettings};

use crate::support::{Stage, guest};

/// A guest whose start leaves traces in a global, in its memory and in memory that it grew by, and that
/// tells a backend of them at each request, as letters; each stream then changes all of them.
const TRACES: &str = r#"
    (global $letter (mut i32) (i32.const 65))
    (global $pi (mut f64) (f64.const 0))
    (func (export "_initialize")
      (drop (memory.grow (i32.const 1)))
      (i32.store8 (i32.const 140000) (i32.const 71))
      (global.set $letter (i32.const 76))
      (global.set $pi (f64.const 3.25))
      (call $note (i32.const 73)))
    (func $tell
      (call $note (global.get $letter))
      (call $note (i32.load8_u (i32.const 140000)))
      (call $note (i32.add (i32.const 48) (i32.trunc_f64_s (f64.mul (global.get $pi) (f64.const 2)))))
      (call $note (i32.add (i32.const 48) (memory.size)))
      (drop (call $call)))
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
      (call $tell)
      (drop (memory.grow (i32.const 1)))
      (i32.store8 (i32.const 140000) (i32.const 33))
      (global.set $letter (i32.const 33))
      (global.set $pi (f64.const 0))
      (i32.const 0))"#;

fn isolated(items: &str) -> Stage {
    Stage::with(&guest(items), |plugin| {
        plugin.isolation = Isolation::Stream;
    })
}

fn pass(stage: &Stage) {
    let mut bench = Bench::start(&stage.chain, Request::get("/"));
    assert!(matches!(bench.head(), Head::Passed { .. }));
}

/// All metrics as text.
fn metrics(stage: &Stage) -> String {
    let hub = MetricsHub::new("test", MetricsSettings::default()).unwrap();
    stage.host.register(&hub).unwrap();
    hub.gather_text(Instant::now()).unwrap()
}

/// Instances made so far: from the module, and from an image.
fn made(stage: &Stage) -> [u64; 2] {
    let text = metrics(stage);
    ["module", "image"].map(|from| {
        let start = format!(
            "wayline_wasm_instances_started_total{{from=\"{from}\",plugin=\"default.guest\"}} "
        );
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap().parse().unwrap()
    })
}

#[test]
fn each_stream_finds_what_the_start_left_and_nothing_of_other_streams() {
    let stage = isolated(TRACES);
    for _ in 0..3 {
        pass(&stage);
    }
    assert_eq!(stage.world.bodies(), ["ILG63"; 3]);
    assert_eq!(made(&stage), [1, 3]);
}

#[test]
fn streams_at_one_time_do_not_meet() {
    let stage = isolated(TRACES);
    let mut open: Vec<_> = (0..3)
        .map(|_| Bench::start(&stage.chain, Request::get("/")))
        .collect();
    for bench in &mut open {
        assert!(matches!(bench.head(), Head::Passed { .. }));
    }
    assert_eq!(stage.world.bodies(), ["ILG63"; 3]);
}

#[test]
fn what_no_other_start_would_be_like_is_started_for_each_stream() {
    let random = r#"(module
        (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))"#;
    let cases = [
        (
            "randomness",
            guest(
                r#"(func (export "_initialize") (drop (call $random (i32.const 512) (i32.const 8))))
                (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
                  (i32.const 0))"#,
            )
            .replacen("(module", random, 1),
        ),
        (
            "the time",
            guest(
                r#"(func (export "proxy_on_vm_start") (param i32 i32) (result i32)
                  (drop (call $get_current_time_nanoseconds (i32.const 512))) (i32.const 1))
                (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
                  (i32.const 0))"#,
            ),
        ),
        (
            "a backend",
            guest(
                r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
                  (drop (call $call)) (i32.const 1))
                (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
                  (i32.const 0))"#,
            ),
        ),
        (
            "a table",
            guest(
                r#"(table 1 funcref) (elem declare func $note)
                (func (export "_initialize") (table.set (i32.const 0) (ref.func $note)))
                (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
                  (call_indirect (param i32) (i32.const 65) (i32.const 0)) (i32.const 0))"#,
            ),
        ),
    ];
    for (what, text) in cases {
        let stage = Stage::with(&text, |plugin| plugin.isolation = Isolation::Stream);
        pass(&stage);
        pass(&stage);
        assert_eq!(made(&stage), [3, 0], "{what}");
    }
}

#[test]
fn ticks_and_queues_of_the_start_are_seen_to_by_the_instance_that_stays() {
    let stage = isolated(
        r#"(data (i32.const 512) "q")
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (drop (call $set_tick_period_milliseconds (i32.const 100)))
          (drop (call $register_shared_queue (i32.const 512) (i32.const 1) (i32.const 516)))
          (i32.const 1))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (call $note (i32.const 104))
          (drop (call $enqueue_shared_queue (i32.load (i32.const 516)) (i32.const 512) (i32.const 1)))
          (i32.const 0))
        (func (export "proxy_on_tick") (param i32) (call $note (i32.const 116)) (drop (call $call)))
        (func (export "proxy_on_queue_ready") (param i32 i32)
          (call $note (i32.const 113)) (drop (call $call)))"#,
    );
    let mut bench = Bench::start(&stage.chain, Request::get("/"));
    assert!(matches!(bench.head(), Head::Passed { .. }));
    stage.world.drive();
    assert_eq!(stage.world.bodies(), ["q"]);
    stage.world.pass(Duration::from_millis(100));
    assert_eq!(stage.world.bodies(), ["q", "qt"], "and nobody else ticks");
    assert_eq!(made(&stage), [1, 1]);
}

#[test]
fn a_tick_that_a_stream_asks_for_comes_to_its_instance() {
    let stage = isolated(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (call $note (i32.const 104))
          (drop (call $set_tick_period_milliseconds (i32.const 100)))
          (i32.const 1))
        (func (export "proxy_on_tick") (param i32) (call $note (i32.const 116)) (drop (call $call)))"#,
    );
    let mut bench = Bench::start(&stage.chain, Request::get("/"));
    assert!(matches!(bench.head(), Head::Paused));
    stage.world.drive();
    stage.world.pass(Duration::from_millis(100));
    assert_eq!(stage.world.bodies(), ["ht"]);
    drop(bench);
    stage.world.pass(Duration::from_millis(100));
    assert_eq!(stage.world.bodies(), ["ht"], "it ended with its stream");
}

#[test]
fn metrics_defined_at_the_start_are_counted_by_all() {
    let stage = isolated(
        r#"(data (i32.const 512) "seen")
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (drop (call $define_metric
            (i32.const 0) (i32.const 512) (i32.const 4) (i32.const 520)))
          (i32.const 1))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (if (call $increment_metric (i32.load (i32.const 520)) (i64.const 1)) (then unreachable))
          (i32.const 0))"#,
    );
    pass(&stage);
    pass(&stage);
    let text = metrics(&stage);
    assert!(text.contains("seen{plugin=\"default.guest\"} 2"), "{text}");
    let gauge = "wayline_wasm_instances{plugin=\"default.guest\"} 1";
    assert!(text.contains(gauge), "{text}");
}

#[test]
fn a_resident_that_dies_in_its_tick_costs_streams_nothing() {
    let stage = isolated(
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
          (drop (call $set_tick_period_milliseconds (i32.const 10))) (i32.const 1))
        (func (export "proxy_on_tick") (param i32) unreachable)
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0))"#,
    );
    for _ in 0..5 {
        pass(&stage);
        stage.world.pass(Duration::from_millis(10));
    }
}
