//! Modules that take memory, and what they find in it (W03, W04, W16).

use wayline_chain::bench::Request;
use wayline_model::plugin::Isolation;
use wayline_wasm_host::{StartError, canary};

use crate::modules::{callback, module};
use crate::tenant::{Outcome, Tenant, host, plugin, prepared};

#[test]
fn memory_stops_growing_at_its_limit() {
    // How many pages it gets, in hexadecimal digits.
    let greedy = callback(
        "proxy_on_request_headers",
        "(local $pages i32)
         (block $full (loop $again
           (br_if $full (i32.eq (memory.grow (i32.const 1)) (i32.const -1)))
           (br $again)))
         (local.set $pages (memory.size))
         (call $note (i32.and (i32.shr_u (local.get $pages) (i32.const 8)) (i32.const 15)))
         (call $note (i32.and (i32.shr_u (local.get $pages) (i32.const 4)) (i32.const 15)))
         (call $note (i32.and (local.get $pages) (i32.const 15)))
         (call $tell)",
    );
    let tenant = Tenant::with(&module(&greedy), |plugin| {
        plugin.limits.memory = 0x123 << 16;
        // Growing is no computing: it takes the system's time too.
        plugin.limits.callback = std::time::Duration::from_secs(1);
    });
    for _ in 0..3 {
        assert_eq!(tenant.report(Request::get("/")), "123");
    }
}

#[test]
fn a_module_that_begins_beyond_its_limit_is_refused() {
    let large = wat::parse_str(
        r#"(module (memory (export "memory") 2000)
            (func (export "proxy_abi_version_0_2_1"))
            (func (export "malloc") (param i32) (result i32) (i32.const 0)))"#,
    );
    let verdict = canary(&host(), &prepared(&large.unwrap()), &plugin("large").into());
    assert!(
        matches!(verdict, Err(StartError::Instantiate(_))),
        "{verdict:?}"
    );
}

#[test]
fn tables_stop_growing_at_their_limit() {
    let greedy = "(table $t 1 funcref)".to_owned()
        + &callback(
            "proxy_on_request_headers",
            "(local $grown i32)
             (local.set $grown (table.grow $t (ref.null func) (i32.const 200000)))
             (call $note (i32.eq (local.get $grown) (i32.const -1))) (call $tell)",
        );
    assert_eq!(Tenant::new(&module(&greedy)).report(Request::get("/")), "1");
}

#[test]
fn endless_recursion_is_a_trap() {
    let deep = "(func $deep (param i64 i64 i64 i64) (result i64)
            (i64.add (local.get 0) (call $deep (local.get 1) (local.get 2) (local.get 3) (local.get 0))))"
        .to_owned()
        + &callback(
            "proxy_on_request_headers",
            "(drop (call $deep (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4)))",
        );
    let tenant = Tenant::new(&module(&deep));
    for _ in 0..3 {
        assert_eq!(tenant.outcome(Request::get("/")), Outcome::refused());
    }
}

#[test]
fn an_allocator_that_asks_its_host_for_memory_gets_an_error() {
    // Host calls that need the allocator, from within it, without end.
    let text = r#"(module
        (import "env" "proxy_get_header_map_value"
            (func $get (param i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_replace_header_map_value"
            (func $set (param i32 i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 2)
        (data (i32.const 1000) ":pathx-reported")
        (func (export "proxy_abi_version_0_2_1"))
        (func (export "malloc") (param i32) (result i32)
            (i32.store8 (i32.const 2000) (i32.add (i32.const 48)
                (call $get (i32.const 0) (i32.const 1000) (i32.const 5) (i32.const 0) (i32.const 4))))
            (i32.const 4096))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
            (drop (call $get (i32.const 0) (i32.const 1000) (i32.const 5) (i32.const 0) (i32.const 4)))
            (drop (call $set (i32.const 0) (i32.const 1005) (i32.const 8) (i32.const 2000) (i32.const 1)))
            (i32.const 0)))"#;
    let text = text.replace("x-reported", "x-report");
    let tenant = Tenant::new(&wat::parse_str(text).unwrap());
    let status = tenant.report(Request::get("/"));
    assert_ne!(status, "0", "the inner call has got memory");
}

#[test]
fn an_allocator_that_lies_hurts_only_its_module() {
    for answer in [0_i64, -1, 0x7fff_ffff, 131_070, 131_072] {
        let text = format!(
            r#"(module
            (import "env" "proxy_get_header_map_value"
                (func $get (param i32 i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 2)
            (data (i32.const 1000) ":path")
            (func (export "proxy_abi_version_0_2_1"))
            (func (export "malloc") (param i32) (result i32) (i32.const {answer}))
            (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
                (if (i32.ne (i32.const 6)
                    (call $get (i32.const 0) (i32.const 1000) (i32.const 5) (i32.const 0) (i32.const 4)))
                  (then unreachable))
                (i32.const 0)))"#
        );
        let tenant = Tenant::new(&wat::parse_str(text).unwrap());
        assert_eq!(
            tenant.outcome(Request::get("/long/enough")),
            Outcome::Passed,
            "{answer}"
        );
    }
}

#[test]
fn an_allocator_that_traps_ends_its_module() {
    let text = r#"(module
        (import "env" "proxy_get_header_map_value"
            (func $get (param i32 i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 2)
        (data (i32.const 1000) ":path")
        (func (export "proxy_abi_version_0_2_1"))
        (func (export "malloc") (param i32) (result i32) unreachable)
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
            (drop (call $get (i32.const 0) (i32.const 1000) (i32.const 5) (i32.const 0) (i32.const 4)))
            (i32.const 0)))"#;
    let tenant = Tenant::new(&wat::parse_str(text).unwrap());
    assert_eq!(tenant.outcome(Request::get("/")), Outcome::refused());
}

#[test]
fn nothing_of_others_is_found_in_memory() {
    // The first fills all that it can get with a mark; the second looks for anything that is not zero
    // beyond what its own text put there.
    let writer = callback(
        "proxy_on_request_headers",
        "(drop (memory.grow (i32.const 30)))
         (memory.fill (i32.const 131072) (i32.const 0x5a) (i32.const 1966080))",
    );
    let reader = callback(
        "proxy_on_request_headers",
        "(local $at i32)
         (drop (memory.grow (i32.const 30)))
         (local.set $at (i32.const 131072))
         (block $end (loop $next
           (br_if $end (i32.ge_u (local.get $at) (i32.const 2097152)))
           (if (i64.ne (i64.load (local.get $at)) (i64.const 0))
             (then (call $note (i32.const 1)) (call $tell) (return (i32.const 0))))
           (local.set $at (i32.add (local.get $at) (i32.const 8)))
           (br $next)))
         (call $note (i32.const 0)) (call $tell)",
    );
    let (writer, reader) = (module(&writer), module(&reader));
    for _ in 0..20 {
        let isolated = |plugin: &mut wayline_model::plugin::Plugin| {
            plugin.isolation = Isolation::Stream;
        };
        let first = Tenant::with(&writer, isolated);
        assert_eq!(first.outcome(Request::get("/")), Outcome::Passed);
        drop(first);
        let second = Tenant::with(&reader, isolated);
        assert_eq!(second.report(Request::get("/")), "0");
    }
}
