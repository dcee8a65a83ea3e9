//! Modules that flood: logs, metrics, shared data, queues, randomness, bodies (W12, W13, W19, W20).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use wayline_chain::bench::Request;

use crate::modules::{callback, module};
use crate::tenant::{Outcome, Tenant, counted, host, plugin};

/// Does `body` so many times, and tells how often its last status was not 0, in hexadecimal digits.
fn repeated(times: u32, call: &str) -> Vec<u8> {
    module(&callback(
        "proxy_on_request_headers",
        &format!(
            "(local $i i32) (local $failed i32)
             (block $end (loop $next
               (br_if $end (i32.eq (local.get $i) (i32.const {times})))
               ;; A name that is always another: eight letters from the number.
               (i64.store (i32.const 512) (i64.add (i64.const 0x6161616161616161)
                 (i64.and (i64.extend_i32_u (i32.mul (local.get $i) (i32.const 1))) (i64.const 0x0f))))
               (i32.store (i32.const 516) (i32.add (i32.const 0x61616161) (i32.and (i32.const 0x0f0f0f0f)
                 (i32.mul (i32.shr_u (local.get $i) (i32.const 4)) (i32.const 0x00010011)))))
               (if {call} (then (local.set $failed (i32.add (local.get $failed) (i32.const 1)))))
               (local.set $i (i32.add (local.get $i) (i32.const 1)))
               (br $next)))
             (call $note (i32.and (i32.shr_u (local.get $failed) (i32.const 12)) (i32.const 15)))
             (call $note (i32.and (i32.shr_u (local.get $failed) (i32.const 8)) (i32.const 15)))
             (call $note (i32.and (i32.shr_u (local.get $failed) (i32.const 4)) (i32.const 15)))
             (call $note (i32.and (local.get $failed) (i32.const 15)))
             (call $tell)"
        ),
    ))
}

fn patient(plugin: &mut wayline_model::plugin::Plugin) {
    plugin.limits.callback = Duration::from_secs(20);
}

fn failures(module: &[u8], edit: impl FnOnce(&mut wayline_model::plugin::Plugin)) -> u32 {
    let tenant = Tenant::with(module, |plugin| {
        patient(plugin);
        edit(plugin);
    });
    u32::from_str_radix(&tenant.report(Request::get("/")), 16).unwrap()
}

#[test]
fn only_so_many_metrics_can_be_defined() {
    let module = repeated(
        200,
        "(call $proxy_define_metric (i32.const 0) (i32.const 512) (i32.const 8) (i32.const 0))",
    );
    assert_eq!(failures(&module, |plugin| plugin.limits.metrics = 1000), 0);
    let refused = failures(&module, |plugin| plugin.limits.metrics = 50);
    assert!(refused >= 100, "{refused} of 200");
}

#[test]
fn long_logs_never_fail_and_never_grow() {
    // What does not fit is dropped, and the module is none the wiser.
    let module = repeated(
        4000,
        "(call $proxy_log (i32.const 4) (i32.const 0) (i32.const 1024))",
    );
    let (host, mut plugin) = (host(), plugin("talkative"));
    patient(&mut plugin);
    plugin.limits.log_bytes = 2048;
    let told = Arc::new(AtomicUsize::new(0));
    let report = tracing::subscriber::with_default(Listener(Arc::clone(&told)), || {
        Tenant::of(&host, &module, plugin).report(Request::get("/"))
    });
    assert_eq!(report, "0000");
    // Two lines in each second that it takes.
    let told = told.load(Ordering::Relaxed);
    assert!((1..1000).contains(&told), "{told} of 4000 lines");
    let dropped = counted(&host, "wayline_wasm_dropped_log_bytes_total");
    assert_eq!(dropped, (4000 - told as u64) * 1024);
}

#[test]
fn shared_data_has_a_limit() {
    // 64 KiB under each of many names.
    let module = repeated(
        4096,
        "(call $proxy_set_shared_data (i32.const 512) (i32.const 8) (i32.const 0) (i32.const 65536) (i32.const 0))",
    );
    let before = resident_kib();
    let refused = failures(&module, |_| {});
    let grown = resident_kib().saturating_sub(before);
    assert!(refused > 0, "nothing of 256 MiB was refused");
    assert!(grown < 128 * 1024, "{grown} KiB more, {refused} refused");
}

#[test]
fn a_million_small_keys_take_no_more_than_a_few_large_ones() {
    let text = callback(
        "proxy_on_request_headers",
        "(local $i i32)
         (block $end (loop $next
           (br_if $end (i32.eq (local.get $i) (i32.const 1000000)))
           (i32.store (i32.const 512) (local.get $i))
           (br_if $end (call $proxy_set_shared_data (i32.const 512) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0)))
           (local.set $i (i32.add (local.get $i) (i32.const 1)))
           (br $next)))",
    );
    let before = resident_kib();
    let tenant = Tenant::with(&module(&text), patient);
    assert_eq!(tenant.outcome(Request::get("/")), Outcome::Passed);
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more");
}

#[test]
fn queues_have_a_limit() {
    // What does not fit is dropped, and the module is none the wiser.
    let text = callback(
        "proxy_on_request_headers",
        "(local $i i32)
         (drop (call $proxy_register_shared_queue @\"q\" (i32.const 0)))
         (block $end (loop $next
           (br_if $end (i32.eq (local.get $i) (i32.const 4096)))
           (drop (call $proxy_enqueue_shared_queue (i32.load (i32.const 0)) (i32.const 0) (i32.const 65536)))
           (local.set $i (i32.add (local.get $i) (i32.const 1)))
           (br $next)))",
    );
    let before = resident_kib();
    let tenant = Tenant::with(&module(&text), patient);
    assert_eq!(tenant.outcome(Request::get("/")), Outcome::Passed);
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more for 256 MiB in a queue");
}

#[test]
fn properties_of_a_stream_have_a_limit() {
    let module = repeated(
        4096,
        "(call $proxy_set_property (i32.const 512) (i32.const 8) (i32.const 0) (i32.const 65536))",
    );
    let before = resident_kib();
    // Refused or not: it does not stay with us.
    let tenant = Tenant::with(&module, patient);
    let mut bench = tenant.send(Request::get("/"));
    let _ = bench.head();
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 128 * 1024, "{grown} KiB more");
}

#[test]
fn randomness_comes_in_small_pieces() {
    let text = callback(
        "proxy_on_request_headers",
        "(call $note (i32.ne (i32.const 0) (call $random_get (i32.const 0) (i32.const 1073741824))))
         (call $note (i32.ne (i32.const 0) (call $random_get (i32.const 0) (i32.const 65537))))
         (call $note (i32.ne (i32.const 0) (call $random_get (i32.const 0) (i32.const 1024))))
         (call $note (i32.ne (i32.const 0) (call $random_get (i32.const -1) (i32.const 16))))
         (call $tell)",
    );
    // Cells at 1000 hold the report's name: the draw above overwrites it no more than to 1024.
    let text = text.replace("(i32.const 1024)", "(i32.const 512)");
    assert_eq!(
        Tenant::new(&module(&text)).report(Request::get("/")),
        "1101"
    );
}

#[test]
fn bodies_do_not_grow_without_end() {
    // Doubles the body until the host has enough.
    let text = callback("proxy_on_request_body", "(local $i i32)
        (local.set $i (i32.const 4096))
        (block $end (loop $next
          (br_if $end (i32.eqz (local.get $i)))
          (br_if $end (call $proxy_set_buffer_bytes (i32.const 0) (i32.const -1) (i32.const 0) (i32.const 0) (i32.const 65536)))
          (local.set $i (i32.sub (local.get $i) (i32.const 1)))
          (br $next)))");
    let tenant = Tenant::with(&module(&text), patient);
    let mut bench = tenant.send(Request::post("/"));
    let _ = bench.head();
    bench.send("body").end(None);
    let bytes: usize = bench.upstream().chunks.iter().map(bytes::Bytes::len).sum();
    assert!(bytes <= 16 << 20, "{bytes}");
}

#[test]
fn edits_of_bodies_beyond_their_ends_are_appended_or_refused() {
    let text = callback("proxy_on_request_body",
        "(call $note (call $proxy_set_buffer_bytes (i32.const 0) (i32.const 100) (i32.const 100) @\"+\"))
         (call $note (call $proxy_set_buffer_bytes (i32.const 0) (i32.const 0) (i32.const -1) @\"new\"))
         (call $note (call $proxy_set_buffer_bytes (i32.const 0) (i32.const 1) (i32.const 1) @\"EE\"))
         (call $note (call $proxy_set_buffer_bytes (i32.const 1) (i32.const 0) (i32.const 1) @\"x\"))
         (call $note (call $proxy_set_buffer_bytes (i32.const 7) (i32.const 0) (i32.const 1) @\"x\"))");
    let tenant = Tenant::new(&module(&text));
    let mut bench = tenant.send(Request::post("/"));
    let _ = bench.head();
    bench.send("body").end(None);
    assert_eq!(bench.upstream().body(), "nEEw");
}

#[test]
fn a_body_that_is_never_let_go_is_cut_at_the_limit() {
    let text = callback("proxy_on_request_body", "(return (i32.const 1))");
    let tenant = Tenant::new(&module(&text));
    let mut bench = tenant.send(Request::post("/"));
    let _ = bench.head();
    for _ in 0..100 {
        bench.send(vec![b'a'; 64 * 1024]);
        let _ = bench.upstream();
    }
    assert!(bench.interrupt().is_some(), "6 MiB held");
}

#[test]
fn a_tick_can_not_be_too_frequent_for_its_core() {
    let text = callback(
        "proxy_on_configure",
        "(drop (call $proxy_set_tick_period_milliseconds (i32.const 0xffffffff))) (return (i32.const 1))",
    ) + &callback("proxy_on_tick", "unreachable")
        + &callback("proxy_on_request_headers", "");
    let host = host();
    let tenant = Tenant::of(&host, &module(&text), plugin("patient"));
    assert_eq!(tenant.outcome(Request::get("/")), Outcome::Passed);
    for _ in 0..10 {
        tenant.desk.pass(Duration::from_secs(3600));
    }
    // 49 days have not passed.
    assert_eq!(counted(&host, "wayline_wasm_traps_total"), 0);
    assert_eq!(tenant.outcome(Request::get("/")), Outcome::Passed);
}

/// Counts the lines of modules.
struct Listener(Arc<AtomicUsize>);

impl tracing::Subscriber for Listener {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "wasm"
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = status.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4
}
