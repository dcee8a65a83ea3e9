//! From the start of a module to its end.

use std::sync::Arc;

use wayline_chain::bench::{Bench, Head, Request};
use wayline_model::plugin::Isolation;
use wayline_wasm_host::{Artifact, Engine, LoadError, Prepared, StartError, canary};

use crate::support::{Stage, guest, host, plugin, prepared};

/// A guest that remembers a letter per callback and tells them when a stream is deleted.
const REMEMBERS: &str = r#"
    (func (export "_initialize") (call $note (i32.const 73)))
    (func (export "proxy_on_context_create") (param i32 i32)
      (call $note (select (i32.const 99) (i32.const 67) (local.get 1))))
    (func (export "proxy_on_vm_start") (param i32 i32) (result i32)
      (call $note (i32.const 86)) (i32.const 1))
    (func (export "proxy_on_configure") (param i32 i32) (result i32)
      (call $note (i32.add (i32.const 48) (local.get 1)))
      (i32.ne (local.get 1) (i32.const 3)))
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
      (call $note (i32.const 104)) (i32.const 0))
    (func (export "proxy_on_log") (param i32) (call $note (i32.const 108)))
    (func (export "proxy_on_done") (param i32) (result i32)
      (call $note (i32.const 100)) (i32.const 1))
    (func (export "proxy_on_delete") (param i32)
      (call $note (i32.const 120)) (drop (call $call)))"#;

#[test]
fn a_stream_hears_its_callbacks_in_envoys_order() {
    let stage = Stage::with(&guest(REMEMBERS), |plugin| {
        plugin.configuration = Arc::new(*b"{}")
    });
    for _ in 0..2 {
        let mut bench = Bench::start(&stage.chain, Request::get("/"));
        assert!(matches!(bench.head(), Head::Passed { .. }));
    }
    assert_eq!(
        stage.world.bodies(),
        ["ICV2chldx", "ICV2chldxchldx"],
        "one instance serves both streams"
    );
}

#[test]
fn chains_of_one_plugin_share_its_instance() {
    let stage = Stage::of(&guest(REMEMBERS));
    let other = stage.another_chain();
    for chain in [&stage.chain, &other] {
        assert!(matches!(
            Bench::start(chain, Request::get("/")).head(),
            Head::Passed { .. }
        ));
    }
    assert_eq!(stage.world.bodies()[1].matches('I').count(), 1);
}

#[test]
fn a_plugin_may_have_an_instance_for_each_stream() {
    let stage = Stage::with(&guest(REMEMBERS), |plugin| {
        plugin.isolation = Isolation::Stream
    });
    for _ in 0..2 {
        let mut bench = Bench::start(&stage.chain, Request::get("/"));
        assert!(matches!(bench.head(), Head::Passed { .. }));
    }
    let seen = stage.world.bodies();
    let streams: Vec<_> = seen.iter().filter(|seen| seen.contains('h')).collect();
    assert_eq!(streams[0], "ICV0chldx");
    assert_eq!(streams.last().unwrap()[..9], *"ICV0chldx", "{seen:?}");
}

#[test]
fn a_canary_tells_whether_a_plugin_starts() {
    let host = host();
    let prepared = prepared(&host, &guest(REMEMBERS));
    assert_eq!(canary(&host, &prepared, &plugin(|_| {})), Ok(()));
    let refused = plugin(|plugin| plugin.configuration = Arc::new(*b"bad"));
    assert_eq!(
        canary(&host, &prepared, &refused),
        Err(StartError::Refused {
            callback: "proxy_on_configure"
        })
    );
}

#[test]
fn what_traps_or_never_ends_at_its_start_is_refused() {
    let cases = [
        (r#"(func (export "_initialize") unreachable)"#, "start"),
        (r#"(func (export "_initialize") (loop (br 0)))"#, "start"),
        (
            r#"(func (export "_initialize")) (func (export "main") (param i32 i32) (result i32) unreachable)"#,
            "start",
        ),
        (r#"(func (export "_start") unreachable)"#, "start"),
        (
            r#"(func (export "proxy_on_vm_start") (param i32 i32) (result i32) (loop (br 0)) (i32.const 1))"#,
            "proxy_on_vm_start",
        ),
    ];
    for (items, expected) in cases {
        let host = host();
        let prepared = prepared(&host, &guest(items));
        match canary(&host, &prepared, &plugin(|_| {})) {
            Err(StartError::Trap { callback, .. }) => assert_eq!(callback, expected),
            other => panic!("{items}: {other:?}"),
        }
    }
}

#[test]
fn a_module_may_exit_well_from_its_start() {
    let host = host();
    let text = guest(r#"(func (export "_start") (call $proc_exit (i32.const 0)) unreachable)"#)
        .replacen(
            "(module",
            r#"(module (import "wasi_unstable" "proc_exit" (func $proc_exit (param i32)))"#,
            1,
        );
    let prepared = prepared(&host, &text);
    assert_eq!(canary(&host, &prepared, &plugin(|_| {})), Ok(()));
}

#[test]
fn functions_that_nobody_offers_fail_when_they_are_called() {
    let text = guest(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (if (i32.ne (call $novel (i64.const 1)) (i32.const 12)) (then unreachable))
          (if (i32.ne (call $path_x) (i32.const 52)) (then unreachable))
          (call $clear)
          (i32.const 0))"#,
    )
    .replacen(
        "(module",
        r#"(module
        (import "env" "proxy_novel" (func $novel (param i64) (result i32)))
        (import "wasi_snapshot_preview1" "path_x" (func $path_x (result i32)))
        (import "env" "proxy_clear_route_cache" (func $clear))"#,
        1,
    );
    let stage = Stage::of(&text);
    let missing: Vec<&str> = stage
        .prepared
        .missing()
        .iter()
        .map(|name| &**name)
        .collect();
    assert_eq!(
        missing,
        ["env.proxy_novel", "wasi_snapshot_preview1.path_x"]
    );
    let head = Bench::start(&stage.chain, Request::get("/")).head();
    assert!(matches!(head, Head::Passed { .. }), "{head:?}");
}

#[test]
fn code_runs_in_the_engine_it_was_compiled_for_and_other_modules_are_refused() {
    let compiler = Engine::for_compilation().unwrap();
    let module = wat::parse_str(guest("")).unwrap();
    let code = compiler.precompile(&module).unwrap();
    let host = host();
    let prepared = Prepared::load(host.engine(), Artifact::Bytes(&code)).unwrap();
    assert_eq!(prepared.callbacks(), [""; 0]);

    let load = |text: &str| {
        let module = wat::parse_str(text).unwrap();
        let code = compiler.precompile(&module).unwrap();
        Prepared::load(host.engine(), Artifact::Bytes(&code)).map(drop)
    };
    let no_abi = guest("").replace("proxy_abi_version_0_2_1", "proxy_abi_version_9_9_9");
    assert_eq!(load(&no_abi), Err(LoadError::Abi));
    let no_allocator = guest("").replace("proxy_on_memory_allocate", "allocate");
    assert_eq!(load(&no_allocator), Err(LoadError::Allocator));
    let other_type = guest(r#"(func (export "proxy_on_log") (param i64))"#);
    assert!(matches!(
        load(&other_type),
        Err(LoadError::Callback {
            name: "proxy_on_log",
            ..
        })
    ));
    assert!(matches!(
        load("(module (import \"env\" \"t\" (table 1 funcref)))"),
        Err(LoadError::Import { .. })
    ));
    assert!(compiler.precompile(b"\0asm\x01\0\0\0\x01").is_err());
    assert!(
        compiler
            .precompile(&wat::parse_str("(module (memory i64 1))").unwrap())
            .is_err()
    );
}
