//! `wayline run` as a process: how it begins, what signals mean to it, how it ends.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, ChildStderr, Command, Stdio};

use tempfile::TempDir;

const MANIFESTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {istio.io/use-waypoint: waypoint}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint}
spec:
  gatewayClassName: wayline-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
";

struct Run {
    dir: TempDir,
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Run {
    /// Starts with every listener at `address`; port 0 means any free one.
    fn start(address: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let manifests = dir.path().join("manifests");
        fs::create_dir(&manifests).unwrap();
        fs::write(manifests.join("mesh.yaml"), MANIFESTS).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_wayline"));
        command.args(["run", "--log", "info", "--log-format", "text", "-f"]);
        command.arg(&manifests);
        command.arg("--dev-ca").arg(dir.path().join("ca"));
        for listener in ["--hbone", "--admin", "--status", "--metrics"] {
            command.args([listener, address]);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { dir, child, log }
    }

    /// Reads the log on until a line contains that.
    fn until_logged(&mut self, mark: &str) -> String {
        let mut seen = String::new();
        loop {
            let begin = seen.len();
            let read = self.log.read_line(&mut seen).unwrap();
            assert!(read > 0, "it ended without `{mark}`:\n{seen}");
            if seen[begin..].contains(mark) {
                return seen[begin..].to_owned();
            }
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(status.unwrap().success());
    }

    fn exit_code(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Fails when it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_serves_until_told_to_stop_and_ends_with_0() {
    for signal in ["TERM", "INT"] {
        let mut run = Run::start("127.0.0.1:0");
        run.until_logged("serving as spiffe://cluster.local/ns/default/sa/waypoint");
        run.until_logged("hbone");
        run.signal(signal);
        run.until_logged("drained");
        assert_eq!(run.child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_hang_up_ends_nothing_and_findings_are_logged_once_each_way() {
    let mut run = Run::start("127.0.0.1:0");
    run.until_logged("hbone");
    run.signal("HUP");
    let bad = run.dir.path().join("manifests/bad.yaml");
    fs::write(&bad, "apiVersion: v1\nkind: Service\nmetadata: [\n").unwrap();
    let said = run.until_logged("bad.yaml");
    assert!(
        said.contains("bad.yaml:") && said.contains("try: "),
        "{said}"
    );
    fs::remove_file(&bad).unwrap();
    run.until_logged("no longer: ");
    run.signal("TERM");
    assert_eq!(run.child.wait().unwrap().code(), Some(0));
}

#[test]
fn without_any_listener_it_ends_with_1_and_says_why() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut run = Run::start(&taken.local_addr().unwrap().to_string());
    let said = run.until_logged("error: ");
    assert!(said.contains("in use"), "{said}");
    run.until_logged("try: ");
    assert_eq!(run.exit_code(), Some(1));
}
