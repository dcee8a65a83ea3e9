//! `wayline wasm inspect` and `wayline wasm run` as authors of filters use it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn inspect(file: &Path, output: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wayline"))
        .args(["wasm", "inspect", "-o", output])
        .arg(file)
        .output()
        .unwrap()
}

#[test]
fn a_filter_is_described_and_what_is_refused_exits_with_3() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("filter.wasm");
    let exports = r#"(export "proxy_abi_version_0_2_1" (func $f)) (export "malloc" (func $f))"#;
    let text = format!("(module (memory 1) (func $f) {exports})");
    std::fs::write(&file, wat::parse_str(text).unwrap()).unwrap();
    let output = inspect(&file, "human");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("0.2.1") && text.contains("malloc"), "{text}");

    std::fs::write(&file, wat::parse_str("(module)").unwrap()).unwrap();
    let output = inspect(&file, "json");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["kind"], "WasmInspection");
    assert_eq!(report["obstacles"].as_array().unwrap().len(), 3, "{report}");
}

#[test]
fn what_is_no_module_fails_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("filter.wasm");
    let missing = inspect(&file, "human");
    std::fs::write(&file, "fn main() {}").unwrap();
    for output in [missing, inspect(&file, "human")] {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("filter.wasm"), "{stderr}");
        assert!(stderr.contains("try: "), "{stderr}");
    }
}

/// Adds a request header with its configuration as value, and answers `/teapot` itself.
const FILTER: &str = r#"(module
  (import "env" "proxy_get_buffer_bytes" (func $get (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_header_map_value" (func $header (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_send_local_response"
    (func $answer (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
  (memory (export "memory") 4)
  (global $free (mut i32) (i32.const 65536))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $free))
    (global.set $free (i32.add (global.get $free) (local.get $size)))
    (local.get $at))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (drop (call $get (i32.const 7) (i32.const 0) (i32.const 4096) (i32.const 0) (i32.const 4)))
    (i32.const 1))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (drop (call $log (i32.const 2) (i32.const 48) (i32.const 5)))
    (drop (call $header (i32.const 0) (i32.const 32) (i32.const 5) (i32.const 8) (i32.const 12)))
    (if (i32.eq (i32.load (i32.const 12)) (i32.const 7)) (then
      (drop (call $answer (i32.const 418) (i32.const 0) (i32.const 0) (i32.const 48) (i32.const 5)
        (i32.const 0) (i32.const 0) (i32.const -1)))))
    (drop (call $add (i32.const 0) (i32.const 16) (i32.const 8)
      (i32.load (i32.const 0)) (i32.load (i32.const 4))))
    (i32.const 0))
  (data (i32.const 16) "x-plugin") (data (i32.const 32) ":path") (data (i32.const 48) "hello"))"#;

fn trial(args: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("filter.wasm");
    std::fs::write(&file, wat::parse_str(FILTER).unwrap()).unwrap();
    Command::new(env!("CARGO_BIN_EXE_wayline"))
        .args(["wasm", "run"])
        .arg(&file)
        .args(args)
        .output()
        .unwrap()
}

#[test]
fn a_trial_shows_what_the_filter_did_to_the_request() {
    let output = trial(&[
        "--config",
        r#"{"v":1}"#,
        "--request",
        "GET /orders/1",
        "-H",
        "x-user: jo",
        "--response-body",
        "done",
    ]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        "request   GET /orders/1 host backend.test\n",
        "          x-user: jo\n",
        "        + x-plugin: {\"v\":1}\n",
        "response  200 OK\n",
        "          | done\n",
        "log       info: hello\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[test]
fn a_trial_shows_what_the_filter_answered_itself() {
    let output = trial(&["--request", "GET /teapo", "-o", "json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["kind"], "WasmTrial");
    assert!(report["upstream"].is_object(), "{report}");

    let output = trial(&["--request", "GET /teapot", "-o", "json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["upstream"], Value::Null, "{report}");
    assert!(report["localReply"].is_string(), "{report}");
    assert!(
        report["response"]["line"]
            .as_str()
            .unwrap()
            .starts_with("418"),
        "{report}"
    );
    assert_eq!(report["response"]["body"], "hello");
    assert_eq!(report["logs"][0]["message"], "hello");
}

#[test]
fn a_trial_of_nonsense_says_what_to_write() {
    for (args, named) in [
        (["--request", "/orders"], "is not a request"),
        (["-H", "x"], "is not a header"),
        (["--config", "{"], "is not JSON"),
    ] {
        let output = trial(&args);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            stderr.contains(named) && stderr.contains("try: "),
            "{stderr}"
        );
    }
}
