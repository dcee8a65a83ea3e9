//! `wayline demo` as a newcomer meets it, and the manifests a newcomer copies.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

/// The binary, deaf to whatever variables the test was started with.
fn wayline() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wayline"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("WAYLINE_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

/// The line of the table that begins so, blanks taken together.
fn row(text: &str, begin: &str) -> String {
    let squeeze = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines()
        .map(squeeze)
        .find(|line| line.starts_with(begin))
        .unwrap_or_else(|| panic!("no line begins with `{begin}`:\n{text}"))
}

#[test]
fn once_shows_split_denials_and_telemetry() {
    let temp = tempfile::tempdir().unwrap();
    let output = wayline()
        .args(["demo", "--once"])
        .env("TMPDIR", temp.path())
        .output()
        .unwrap();
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(!text.contains('\x1b'), "plain where there is no terminal");

    assert!(row(text, "reviews-v1 configured").contains("configured 90.0 % observed "));
    assert!(row(text, "reviews-v3 configured").contains("configured 10.0 % observed "));
    for (asked, got) in [
        ("(outside) GET /productpage", "200"),
        ("(outside) GET /reviews/0", "404"),
        ("bookinfo-productpage GET reviews:9080/reviews/0", "200"),
        (
            "bookinfo-productpage POST reviews:9080/reviews/0",
            "403 DENY by default/read-only, rule 0",
        ),
        ("bookinfo-reviews GET ratings:9080/ratings/0", "200"),
        (
            "intruder GET reviews:9080/reviews/0",
            "403 no ALLOW policy admits it",
        ),
        (
            "intruder GET reviews-v3:9080/reviews/0",
            "403 no ALLOW policy admits it",
        ),
    ] {
        assert_eq!(row(text, asked), format!("{asked} {got}"));
    }
    let metric = row(text, "istio_requests_total{");
    assert!(
        metric.contains("reporter=\"waypoint\"") && metric.contains("destination_version=\"v1\"")
    );
    assert!(
        text.contains("rbac_access_denied_matched_policy[ns[default]-policy[read-only]-rule[0]]")
    );
    assert!(text.contains("As configured"), "{text}");

    let left: Vec<_> = std::fs::read_dir(temp.path()).unwrap().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// A demo that runs on, ended with the test.
struct Demo {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    /// Where it puts its folder; a demo that is killed can not remove that.
    _temp: tempfile::TempDir,
}

impl Demo {
    fn start() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let mut child = wayline()
            .arg("demo")
            .env("TMPDIR", temp.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            child,
            lines,
            _temp: temp,
        }
    }

    /// Reads on until a line contains that.
    fn line_with(&mut self, mark: &str) -> String {
        let found = self
            .lines
            .by_ref()
            .map(Result::unwrap)
            .find(|line| line.contains(mark));
        found.unwrap_or_else(|| {
            let status = self.child.wait();
            panic!("the demo ended ({status:?}) without `{mark}`")
        })
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_it_says_to_try_works() {
    let mut demo = Demo::start();
    let allowed = demo.line_with("--from default/bookinfo-productpage");
    let refused = demo.line_with("--from default/intruder");
    let routes = demo.line_with("routes.yaml");
    let policies = demo.line_with("policies.yaml");
    demo.line_with("Traffic goes on");

    let shell = |line: &str| {
        let output = Command::new("sh").args(["-c", line]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(shell(&allowed).contains("\"podname\":\"reviews-v"));
    let said = shell(&refused);
    assert!(said.starts_with("HTTP/1.1 403"), "{said}");
    assert!(said.ends_with("RBAC: access denied"), "{said}");

    let path = |line: &str| line.split_whitespace().next().unwrap().to_owned();
    let edit = |path: &str, from: &str, to: &str| {
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains(from), "{path} has no `{from}`");
        std::fs::write(path, text.replace(from, to)).unwrap();
    };
    let routes = path(&routes);
    edit(&routes, "weight: 90", "weight: 30");
    let news = demo.line_with("applied");
    assert!(news.contains("reviews-v1 75 %, reviews-v3 25 %"), "{news}");

    edit(&path(&policies), "sa/bookinfo-productpage", "sa/intruder");
    assert!(
        demo.line_with("intruder asking")
            .contains("200, before 403")
    );

    edit(&routes, "weight: 30", "wait: 30");
    assert!(demo.line_with("error: ").contains("routes.yaml"));
}

#[test]
fn an_interrupt_ends_it_and_removes_its_folder() {
    let mut demo = Demo::start();
    let manifests = demo.line_with("manifests");
    let folder = manifests.split_whitespace().nth(1).unwrap().to_owned();
    demo.line_with("Traffic goes on");
    assert!(Path::new(&folder).exists());
    let pid = demo.child.id().to_string();
    let sent = Command::new("sh")
        .args(["-c", &format!("kill -INT {pid}")])
        .status();
    assert!(sent.unwrap().success());
    assert_eq!(demo.child.wait().unwrap().code(), Some(0));
    assert!(!Path::new(&folder).exists());
}

#[test]
fn the_manifests_to_copy_are_without_errors() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/manifests");
    let mut checked = 0;
    for folder in std::fs::read_dir(root).unwrap() {
        let folder = folder.unwrap().path();
        let output = wayline()
            .args(["check", "-f"])
            .arg(&folder)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
        for file in std::fs::read_dir(&folder).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            let told = name == "README.md" || readme.contains(&format!("`{name}`"));
            assert!(
                told,
                "{}/README.md does not say what {name} is",
                folder.display()
            );
        }
        checked += 1;
    }
    assert!(checked >= 3, "only {checked} folders were found");
}
