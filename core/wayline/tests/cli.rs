//! The command as people and scripts use it: output, exit codes, remedies.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn wayline(args: &[&str]) -> Output {
    command().args(args).output().unwrap()
}

/// The binary, deaf to whatever variables the test was started with.
fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wayline"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WAYLINE_") {
            command.env_remove(name);
        }
    }
    command
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn manifests(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

const GOOD: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - {name: http, port: 80}\n";
const WRONG: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: p\nspec:\n  rules:\n  - to:\n    - operation:\n        methods: GET\n";

#[test]
fn check_is_content_with_good_manifests() {
    let dir = manifests(&[("a.yaml", GOOD)]);
    let output = wayline(&["check", "-f", dir.path().to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{output:?}");
    assert!(stderr(&output).contains("0 errors"), "{output:?}");
}

#[test]
fn check_names_file_line_object_field_and_exits_with_3() {
    let dir = manifests(&[("a.yaml", GOOD), ("p.yaml", WRONG)]);
    let path = dir.path().to_str().unwrap();
    let output = wayline(&["check", "-f", path]);
    assert_eq!(code(&output), 3, "{output:?}");
    let place = format!(
        "{path}/p.yaml:9: error: AuthorizationPolicy default/p: spec.rules[0].to[0].operation.methods: "
    );
    assert!(stdout(&output).contains(&place), "{}", stdout(&output));

    let output = wayline(&["check", "-f", path, "-o", "json"]);
    assert_eq!(code(&output), 3, "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["kind"], "WaylineReport");
    assert_eq!(report["apiVersion"], "wayline.dev/v1");
    assert_eq!(report["summary"]["errors"], 1);
    let finding = &report["findings"][0];
    assert_eq!(finding["line"], 9);
    assert_eq!(finding["severity"], "error");
    assert_eq!(finding["object"], "AuthorizationPolicy default/p");
}

#[test]
fn check_says_what_the_status_of_each_object_would_be() {
    let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n  gatewayClassName: wayline\n  listeners:\n  - {name: http, port: 80, protocol: HTTP}\n";
    let dir = manifests(&[("g.yaml", gateway)]);
    let output = wayline(&["check", "-o", "json", "-f", dir.path().to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let said = &report["statuses"][0];
    assert_eq!(said["kind"], "Gateway");
    assert_eq!(said["namespace"], "default");
    let accepted = &said["status"]["conditions"][0];
    assert_eq!(accepted["type"], "Accepted");
    assert_eq!(accepted["status"], "True");
}

#[test]
fn check_says_where_the_syntax_breaks_and_what_to_try() {
    let dir = manifests(&[("a.yaml", "apiVersion: v1\nkind: Service\nspec: [1, 2\n")]);
    let output = wayline(&["check", "-f", dir.path().to_str().unwrap()]);
    assert_eq!(code(&output), 3);
    let text = stdout(&output);
    assert!(text.contains("a.yaml:"), "{text}");
    assert!(text.contains("try: "), "{text}");
}

#[test]
fn a_path_that_is_not_there_is_a_failure_with_a_remedy() {
    let output = wayline(&["check", "-f", "/nowhere/at/all"]);
    assert_eq!(code(&output), 1);
    assert!(stdout(&output).is_empty());
    assert!(stderr(&output).contains("/nowhere/at/all"), "{output:?}");
    assert!(stderr(&output).contains("try: "), "{output:?}");
}

#[test]
fn flags_are_mirrored_by_variables() {
    let dir = manifests(&[("p.yaml", WRONG)]);
    let output = command()
        .arg("check")
        .env("WAYLINE_FILE", dir.path())
        .env("WAYLINE_OUTPUT", "json")
        .output()
        .unwrap();
    assert_eq!(code(&output), 3, "{output:?}");
    assert!(stdout(&output).contains("WaylineReport"));
}

#[test]
fn a_command_line_that_makes_no_sense_is_a_usage_error() {
    for args in [
        &["chek"][..],
        &["check"],
        &["check", "-f", "x", "--gateway", "no-slash"],
        &[
            "cert",
            "--dev-ca",
            "x",
            "--out",
            "y",
            "--identity",
            "nobody",
        ],
        &[],
    ] {
        let output = wayline(args);
        assert_eq!(code(&output), 2, "{args:?}: {output:?}");
        assert!(stdout(&output).is_empty(), "{args:?}");
    }
}

#[test]
fn version_and_completion_go_to_stdout() {
    for args in [&["version"][..], &["--version"]] {
        let output = wayline(args);
        assert_eq!(code(&output), 0);
        assert!(stdout(&output).starts_with("wayline "), "{output:?}");
    }
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = wayline(&["completion", shell]);
        assert_eq!(code(&output), 0, "{output:?}");
        assert!(stdout(&output).contains("wayline"), "{shell}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_accident() {
    for args in [&["completion", "bash"][..], &["--help"], &["version"]] {
        let mut child = command()
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(code(&output), 0, "{args:?}: {output:?}");
        assert!(!stderr(&output).contains("panicked"), "{output:?}");
    }
}

#[test]
fn cert_makes_the_ca_and_three_files_with_a_private_key() {
    let temp = tempfile::tempdir().unwrap();
    let ca = temp.path().join("ca");
    let sign = |identity: &str, out: &Path| {
        wayline(&[
            "cert",
            "--dev-ca",
            ca.to_str().unwrap(),
            "--identity",
            identity,
            "--out",
            out.to_str().unwrap(),
        ])
    };
    let (a, b) = (temp.path().join("a"), temp.path().join("b"));
    for (identity, out) in [
        ("spiffe://cluster.local/ns/default/sa/a", &a),
        ("spiffe://other.example/ns/x/sa/y", &b),
    ] {
        let output = sign(identity, out);
        assert_eq!(code(&output), 0, "{output:?}");
        assert!(stdout(&output).is_empty());
    }
    for file in ["cert-chain.pem", "key.pem", "root-cert.pem"] {
        assert!(a.join(file).is_file(), "{file}");
    }
    for key in [a.join("key.pem"), b.join("key.pem"), ca.join("ca-key.pem")] {
        let mode = fs::metadata(&key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", key.display());
    }
    let root = |dir: &Path| fs::read(dir.join("root-cert.pem")).unwrap();
    assert_eq!(root(&a), root(&b), "both are signed by one CA");

    fs::write(temp.path().join("file"), "").unwrap();
    let output = sign("spiffe://td/ns/a/sa/b", &temp.path().join("file"));
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("try: "), "{output:?}");
}
