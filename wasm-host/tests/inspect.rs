//! Modules as authors and attackers bring them, and what is said about each.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use wayline_wasm_host::{
    AbiVersion, InspectError, Inspection, MAX_MODULE_BYTES, Memory, Obstacle, inspect,
};

/// A module that would be hosted, with room for more.
fn module(more: &str) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(module
            {more}
            (memory (export "memory") 2 32)
            (func $f)
            (export "proxy_abi_version_0_2_1" (func $f))
            (export "proxy_on_memory_allocate" (func $f))
            (export "proxy_on_request_headers" (func $f)))"#
    ))
    .unwrap()
}

fn inspected(text: &str) -> Inspection {
    inspect(&wat::parse_str(text).unwrap()).unwrap()
}

#[test]
fn what_a_module_hears_is_told_by_its_callbacks() {
    let hears = |names: &[&str]| {
        let exports: String = names
            .iter()
            .map(|name| format!(r#"(export "proxy_on_{name}" (func $f))"#))
            .collect();
        inspected(&format!("(module (func $f) {exports})")).hears()
    };
    let connections = "connections (type NETWORK)";
    for name in [
        "new_connection",
        "downstream_data",
        "upstream_data",
        "downstream_connection_close",
        "upstream_connection_close",
    ] {
        assert_eq!(hears(&[name]), [connections], "{name}");
    }
    let both = hears(&["response_body", "upstream_data"]);
    assert_eq!(both, ["requests (type HTTP)", connections]);
    assert!(hears(&["tick", "context_create"]).is_empty());
}

#[test]
fn a_filter_is_told_by_what_it_offers_and_wants() {
    let bytes = module(
        r#"(import "env" "proxy_log" (func))
           (import "wasi_unstable" "fd_write" (func))
           (import "wasi_snapshot_preview1" "fd_write" (func))
           (import "env" "proxy_frobnicate" (func))
           (import "wasi_snapshot_preview1" "proxy_log" (func))
           (func $g)
           (export "_initialize" (func $g))
           (export "main" (func $g))
           (export "_start" (func $g))
           (export "malloc" (func $g))
           (export "proxy_on_lunch" (func $g))"#,
    );
    let found = inspect(&bytes).unwrap();
    assert_eq!(found.bytes, bytes.len());
    assert_eq!(found.abi, Some(AbiVersion::V0_2_1));
    assert_eq!(found.entry_points, ["_initialize", "main"]);
    assert_eq!(found.allocator, Some("proxy_on_memory_allocate"));
    assert_eq!(found.callbacks, ["proxy_on_request_headers"]);
    assert_eq!(found.hears(), ["requests (type HTTP)"]);
    assert_eq!(found.unknown_callbacks, ["proxy_on_lunch"]);
    assert_eq!(found.imports.proxy, ["proxy_log"]);
    assert_eq!(found.imports.wasi, ["fd_write"]);
    let unknown = found.imports.unknown.iter();
    let unknown: Vec<_> = unknown
        .map(|it| format!("{}.{}", it.module, it.name))
        .collect();
    assert_eq!(
        unknown,
        ["env.proxy_frobnicate", "wasi_snapshot_preview1.proxy_log"]
    );
    let memory = Memory {
        min_pages: 2,
        max_pages: Some(32),
        shared: false,
        memory64: false,
    };
    assert_eq!(found.memories, [memory]);
    assert_eq!(found.obstacles(), []);
}

#[test]
fn the_newest_known_version_counts_and_the_older_entry_point_is_found() {
    let found = inspected(
        r#"(module (memory 1) (func $f)
            (export "proxy_abi_version_0_2_0" (func $f))
            (export "proxy_abi_version_0_1_0" (func $f))
            (export "malloc" (func $f))
            (export "_start" (func $f)))"#,
    );
    assert_eq!(found.abi, Some(AbiVersion::V0_2_0));
    assert_eq!(found.entry_points, ["_start"]);
    assert_eq!(found.allocator, Some("malloc"));
    assert_eq!(found.obstacles(), []);
}

#[test]
fn only_functions_count_as_declarations() {
    let found = inspected(
        r#"(module (memory 1) (global $g i32 (i32.const 0))
            (export "proxy_abi_version_0_2_1" (global $g))
            (export "malloc" (global $g)))"#,
    );
    assert_eq!((found.abi, found.allocator), (None, None));
}

#[test]
fn what_we_refuse_is_named() {
    let foreign = r#"(module (func $f) (export "proxy_abi_mosn_version_0_2_0" (func $f)))"#;
    let found = inspected(foreign).obstacles();
    let unknown = vec!["proxy_abi_mosn_version_0_2_0".to_owned()];
    let expected = [
        Obstacle::Abi { unknown },
        Obstacle::Allocator,
        Obstacle::NoMemory,
    ];
    assert_eq!(found, expected);
    assert!(
        found[0]
            .to_string()
            .contains("(but proxy_abi_mosn_version_0_2_0)")
    );

    let refused = |more: &str| inspect(&module(more)).unwrap().obstacles();
    let two = Obstacle::SeveralMemories { count: 2 };
    assert_eq!(refused("(memory 1)").first(), Some(&two));
    assert_eq!(
        refused("(memory 1 2 shared)"),
        [two.clone(), Obstacle::SharedMemory]
    );
    assert_eq!(refused("(memory i64 1)"), [two.clone(), Obstacle::Memory64]);
    let imported = refused(r#"(import "env" "memory" (memory 1 2 shared))"#);
    assert_eq!(imported[..2], [two, Obstacle::SharedMemory]);
    assert!(
        imported[2].to_string().contains("the memory env.memory"),
        "{imported:?}"
    );
    let global = refused(r#"(import "env" "base" (global i32))"#);
    assert!(
        global[0].to_string().contains("the global env.base"),
        "{global:?}"
    );
}

#[test]
fn what_is_no_core_module_is_refused() {
    assert_eq!(inspect(b""), Err(InspectError::NotWasm));
    assert_eq!(inspect(b"\x1f\x8b\x08\0"), Err(InspectError::NotWasm));
    let component = wat::parse_str("(component)").unwrap();
    assert_eq!(inspect(&component), Err(InspectError::Component));
    let large = vec![0; MAX_MODULE_BYTES + 1];
    let bytes = large.len();
    assert_eq!(inspect(&large), Err(InspectError::TooLarge { bytes }));
}

#[test]
fn a_module_cut_anywhere_is_broken_or_incomplete_and_never_a_panic() {
    let whole = module(r#"(import "env" "proxy_log" (func))"#);
    let complete = inspect(&whole).unwrap();
    for length in 0..whole.len() {
        match inspect(&whole[..length]) {
            // Cut between two sections, it is a smaller module.
            Ok(found) => assert!(found != complete, "{length}"),
            Err(InspectError::Malformed { offset, .. }) => assert!(offset <= length as u64),
            Err(error) => assert_eq!(error, InspectError::NotWasm, "{length}"),
        }
    }
}
