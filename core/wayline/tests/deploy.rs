//! What is handed out for clusters is what Wayline itself understands.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

#[test]
fn the_gateway_classes_are_checked_without_findings() {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../deploy/gatewayclasses.yaml"
    );
    let output = Command::new(env!("CARGO_BIN_EXE_wayline"))
        .args(["check", "-f", file])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let summary = String::from_utf8(output.stderr).unwrap();
    assert!(
        summary.starts_with("0 errors and 0 hints in 2 objects"),
        "{summary}"
    );
}
