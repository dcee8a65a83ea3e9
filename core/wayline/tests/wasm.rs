//! `wayline wasm inspect` as authors of filters use it.

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
