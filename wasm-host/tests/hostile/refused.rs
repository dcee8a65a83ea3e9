//! Modules that are never run (W17, W18).

use wayline_wasm_host::{Artifact, Engine, LoadError, Prepared, StartError, canary, inspect};

use crate::modules::{callback, module};
use crate::tenant::{Outcome, Tenant, host, plugin, prepared};

fn load(text: &str) -> Result<(), String> {
    let bytes = wat::parse_str(text).unwrap();
    let engine = Engine::for_compilation().unwrap();
    let code = engine
        .precompile(&bytes)
        .map_err(|error| error.to_string())?;
    Prepared::load(&engine, Artifact::Bytes(&code))
        .map(drop)
        .map_err(|error| error.to_string())
}

const NEEDED: &str = r#"(func (export "proxy_abi_version_0_2_1"))
    (func (export "malloc") (param i32) (result i32) (i32.const 0))"#;

#[test]
fn what_cannot_be_hosted_is_refused_with_the_reason() {
    for (text, reason) in [
        (format!("(module (memory (export \"memory\") i64 1) {NEEDED})"), "memory64"),
        (format!("(module (memory (export \"memory\") 1) (memory 1) {NEEDED})"), "multi"),
        (format!("(module (memory (export \"memory\") 1 1 shared) {NEEDED})"), "shared"),
        (format!("(module {NEEDED})"), "memory"),
        (r#"(module (memory (export "memory") 1) (func (export "proxy_abi_version_0_2_1")))"#.to_owned(), "malloc"),
        (r#"(module (memory (export "memory") 1) (func (export "malloc") (param i32) (result i32) (i32.const 0)))"#.to_owned(), "proxy_abi_version"),
        (format!("(module (import \"env\" \"memory\" (memory 1)) (export \"memory\" (memory 0)) {NEEDED})"), "memory"),
        (format!("(module (import \"env\" \"base\" (global i32)) (memory (export \"memory\") 1) {NEEDED})"), "base"),
        (format!("(module (memory (export \"memory\") 1) {NEEDED} (func (export \"proxy_on_request_headers\") (param i64) (result i32) (i32.const 0)))"), "proxy_on_request_headers"),
    ] {
        let refused = load(&text).expect_err(&text);
        assert!(refused.contains(reason), "{refused}\n{text}");
    }
}

#[test]
fn an_unknown_function_fails_when_it_is_called_and_not_before() {
    let text = "(import \"env\" \"proxy_frobnicate\" (func $odd (param i32) (result i32)))
         (import \"wasi_snapshot_preview1\" \"sock_fly\" (func $fly (param i32) (result i32)))";
    let bytes = wat::parse_str(format!(
        "(module {text} (memory (export \"memory\") 1) {NEEDED}
          (func (export \"proxy_on_request_headers\") (param i32 i32 i32) (result i32)
            (if (i32.ne (i32.const 12) (call $odd (i32.const 1))) (then unreachable))
            (if (i32.eqz (call $fly (i32.const 1))) (then unreachable))
            (i32.const 0)))"
    ));
    let bytes = bytes.unwrap();
    assert_eq!(prepared(&bytes).missing().len(), 2);
    assert_eq!(
        Tenant::new(&bytes).outcome(wayline_chain::bench::Request::get("/")),
        Outcome::Passed
    );
}

#[test]
fn files_sockets_and_processes_are_out_of_reach() {
    // Each answers an error, whatever it is given.
    let functions = [
        ("path_open", 9, "iiiiiIIii"),
        ("path_unlink_file", 3, "iii"),
        ("path_create_directory", 3, "iii"),
        ("path_readlink", 6, "iiiiii"),
        ("path_rename", 6, "iiiiii"),
        ("fd_read", 4, "iiii"),
        ("fd_readdir", 5, "iiiIi"),
        ("fd_prestat_get", 2, "ii"),
        ("sock_accept", 3, "iii"),
        ("sock_recv", 6, "iiiiii"),
        ("sock_send", 5, "iiiii"),
    ];
    for (name, count, kinds) in functions {
        assert_eq!(kinds.len(), count);
        let arguments: String = kinds
            .chars()
            .map(|kind| {
                if kind == 'I' {
                    " (i64.const 3)"
                } else {
                    " (i32.const 3)"
                }
            })
            .collect();
        let text = format!(
            "(module {} (memory (export \"memory\") 1) {NEEDED}
              (func (export \"proxy_on_vm_start\") (param i32 i32) (result i32)
                (i32.ne (i32.const 0) (call ${name}{arguments}))))",
            crate::modules::import("wasi_snapshot_preview1", name, kinds)
        );
        let verdict = canary(
            &host(),
            &prepared(&wat::parse_str(&text).unwrap()),
            &plugin(name).into(),
        );
        assert_eq!(verdict, Ok(()), "{name}");
    }
}

#[test]
fn starts_that_fail_are_told_apart() {
    let verdict = |name: &str, body: &str| {
        let module = module(&callback(name, body));
        canary(&host(), &prepared(&module), &plugin(name).into())
    };
    assert!(matches!(
        verdict("_initialize", "unreachable"),
        Err(StartError::Trap { .. })
    ));
    assert!(matches!(
        verdict("proxy_on_configure", "(return (i32.const 0))"),
        Err(StartError::Refused { .. })
    ));
    assert!(matches!(
        verdict("proxy_on_vm_start", "(return (i32.const 0))"),
        Err(StartError::Refused { .. })
    ));
    assert!(matches!(
        verdict("_start", "(call $proc_exit (i32.const 1))"),
        Err(StartError::Trap { .. })
    ));
    assert_eq!(verdict("_start", "(call $proc_exit (i32.const 0))"), Ok(()));
}

#[test]
fn code_of_others_is_not_loaded() {
    let engine = Engine::for_compilation().unwrap();
    for bytes in [
        &b""[..],
        b"\0asm\x01\0\0\0",
        b"\x7fELF not ours",
        &[0xff; 4096],
    ] {
        let loaded = Prepared::load(&engine, Artifact::Bytes(bytes));
        assert!(matches!(loaded, Err(LoadError::Artifact(_))));
    }
}

#[test]
fn inspection_survives_what_would_be_refused() {
    for text in [
        "(module)",
        "(module (memory i64 1))",
        "(module (memory 1) (memory 1))",
    ] {
        let found = inspect(&wat::parse_str(text).unwrap()).unwrap();
        assert!(!found.obstacles().is_empty(), "{text}");
    }
}
