//! Bookinfo live: `explain` says what happens, and what `dump` writes is served just so.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

const BOOKINFO: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../examples/manifests/bookinfo"
);

const PATIENCE: Duration = Duration::from_secs(60);

/// Who asks what. Without a caller it is asked at the ingress Gateway.
const REQUESTS: &[(Option<&str>, &str, &str)] = &[
    (
        Some("bookinfo-productpage"),
        "GET",
        "http://reviews:9080/reviews/0",
    ),
    (
        Some("bookinfo-productpage"),
        "GET",
        "http://reviews:9080/x/../%72eviews//0?a=b",
    ),
    (
        Some("bookinfo-productpage"),
        "GET",
        "http://10.96.10.4:9080/reviews/0",
    ),
    (
        Some("bookinfo-productpage"),
        "POST",
        "http://reviews:9080/reviews/0",
    ),
    (
        Some("bookinfo-productpage"),
        "GET",
        "http://details:9080/details/0",
    ),
    (
        Some("bookinfo-productpage"),
        "PUT",
        "http://details:9080/details/0",
    ),
    (Some("bookinfo-productpage"), "GET", "http://ratings:9080/"),
    (
        Some("bookinfo-productpage"),
        "GET",
        "http://details:9080/%00",
    ),
    (Some("bookinfo-reviews"), "GET", "http://ratings:9080/"),
    (Some("intruder"), "GET", "http://reviews:9080/reviews/0"),
    (Some("intruder"), "GET", "http://productpage:9080/"),
    (
        Some("bookinfo-gateway-istio"),
        "GET",
        "http://productpage:9080/",
    ),
    (None, "GET", "/productpage"),
    (None, "GET", "/productpage/else"),
    (None, "GET", "/static/a.css"),
    (None, "GET", "/a/../static"),
    (None, "GET", "/%zz"),
    (None, "POST", "/login?x=y"),
    (None, "GET", "/"),
];

fn wayline(args: &[&str]) -> Output {
    command().args(args).output().unwrap()
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wayline"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WAYLINE_") {
            command.env_remove(name);
        }
    }
    command
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Answers every connection with 200, whatever is asked.
fn backend() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let Ok(mut stream) = stream else { return };
                let mut head = BufReader::new(stream.try_clone().unwrap());
                let mut line = String::new();
                while head.read_line(&mut line).is_ok_and(|read| read > 2) {
                    line.clear();
                }
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(answer.as_bytes());
            });
        }
    });
    port
}

/// Bookinfo with the ports of this machine, and where its parts are.
struct Stage {
    dir: TempDir,
    ingress: u16,
}

impl Stage {
    fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let manifests = dir.path().join("manifests");
        fs::create_dir(&manifests).unwrap();
        let ingress = free_port();
        let mut ports: Vec<(String, u16)> = [18081, 18082, 18083, 18091, 18092, 18093]
            .map(|written: u16| (format!("containerPort: {written}"), backend()))
            .into();
        ports.push(("port: 8080".to_owned(), ingress));
        for entry in fs::read_dir(BOOKINFO).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|it| it != "yaml") {
                continue;
            }
            let mut text = fs::read_to_string(&path).unwrap();
            for (written, port) in &ports {
                let key = written.split(':').next().unwrap();
                text = text.replace(written, &format!("{key}: {port}"));
            }
            let log = dir.path().join("access.log");
            text = text.replace("/dev/stdout", log.to_str().unwrap());
            text = text.replace("Encoding: TEXT", "Encoding: JSON");
            fs::write(manifests.join(path.file_name().unwrap()), text).unwrap();
        }
        Self { dir, ingress }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What is logged from that byte on, once it is so many lines.
    fn logged(&self, from: usize, lines: usize) -> Vec<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(self.path("access.log")).unwrap_or_default();
            let new: Vec<&str> = text[from..].lines().collect();
            if new.len() >= lines && text.ends_with('\n') {
                let parsed = new.iter().map(|line| serde_json::from_str(line).unwrap());
                assert_eq!(new.len(), lines, "{text}");
                return parsed.collect();
            }
            assert!(Instant::now() < deadline, "logged: {text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// `wayline run`, until dropped.
struct Run {
    child: Child,
    hbone: SocketAddr,
    admin: SocketAddr,
}

impl Run {
    fn start(stage: &Stage, manifests: &Path) -> Self {
        let [hbone, admin, status, metrics] =
            [(); 4].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
        let mut command = command();
        command.arg("run").arg("-f").arg(manifests);
        command.arg("--dev-ca").arg(stage.path("ca"));
        for (flag, address) in [
            ("--hbone", hbone),
            ("--admin", admin),
            ("--status", status),
            ("--metrics", metrics),
        ] {
            command.arg(flag).arg(address.to_string());
        }
        command.args(["--workers", "1"]);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let run = Self {
            child,
            hbone,
            admin,
        };
        let deadline = Instant::now() + PATIENCE;
        while !get(admin, "GET", "/ready", "localhost").starts_with("HTTP/1.1 200") {
            assert!(Instant::now() < deadline, "it does not become ready");
            std::thread::sleep(Duration::from_millis(20));
        }
        run
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(to: SocketAddr, method: &str, path: &str, host: &str) -> String {
    let mut answer = String::new();
    if let Ok(mut stream) = TcpStream::connect(to) {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.read_to_string(&mut answer);
    }
    answer
}

fn status(answer: &str) -> u16 {
    let code = answer.split(' ').nth(1);
    code.and_then(|it| it.parse().ok())
        .unwrap_or_else(|| panic!("{answer:?}"))
}

/// What came of a request: status, and the route's name where one was taken.
type Seen = (u16, Option<String>);

/// Asks everything, one after the other.
fn ask_all(stage: &Stage, run: &Run) -> Vec<Seen> {
    let ca = stage.path("ca");
    let at = fs::read(stage.path("access.log")).map_or(0, |log| log.len());
    let mut codes = Vec::new();
    for (from, method, url) in REQUESTS {
        let code = match from {
            None => {
                let to = SocketAddr::from(([127, 0, 0, 1], stage.ingress));
                status(&get(to, method, url, "bookinfo.example"))
            }
            Some(account) => {
                let from = format!("default/{account}");
                let via = run.hbone.to_string();
                let ca = ca.to_str().unwrap();
                let output = wayline(&[
                    "curl", "-i", "--dev-ca", ca, "--from", &from, "--via", &via, "-X", method, url,
                ]);
                assert!(output.status.success(), "{url}: {output:?}");
                status(std::str::from_utf8(&output.stdout).unwrap())
            }
        };
        codes.push(code);
    }
    // Everything is logged in the order asked, on the only worker; also what is no request.
    let mut lines = stage.logged(at, codes.len()).into_iter();
    let seen = codes.into_iter().map(|code| {
        let line = lines.next().unwrap();
        assert_eq!(line["response_code"], code, "{line}");
        (code, line["route_name"].as_str().map(str::to_owned))
    });
    seen.collect()
}

/// What `explain` says comes of everything.
fn explain_all(stage: &Stage, source: &[&str]) -> Vec<Seen> {
    let mut seen = Vec::new();
    for (from, method, url) in REQUESTS {
        let (place, url) = match from {
            None => {
                let url = format!("http://127.0.0.1:{}{url}", stage.ingress);
                (
                    [
                        "--gateway".to_owned(),
                        "default/bookinfo-gateway".to_owned(),
                    ],
                    url,
                )
            }
            Some(account) => {
                let from = format!("default/{account}");
                (["--from".to_owned(), from], (*url).to_owned())
            }
        };
        let place = place.each_ref().map(String::as_str);
        let common = [
            "explain",
            "-o",
            "json",
            "-X",
            method,
            &url,
            "-H",
            "host: bookinfo.example",
        ];
        let output = wayline(&[&common[..], &place, source].concat());
        assert!(output.status.success(), "{url}: {output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let code = match report["outcome"]["verdict"].as_str().unwrap() {
            // Every backend here answers so.
            "forwarded" => 200,
            _ => report["outcome"]["status"].as_u64().unwrap(),
        };
        let route = report["route"]["name"].as_str().map(str::to_owned);
        seen.push((u16::try_from(code).unwrap(), route));
    }
    seen
}

#[test]
fn explain_agrees_with_what_happens_and_a_dump_is_served_just_so() {
    let stage = Stage::set();
    let manifests = stage.path("manifests");
    let run = Run::start(&stage, &manifests);
    let happened = ask_all(&stage, &run);
    for wanted in [200, 400, 403, 404] {
        assert!(
            happened.iter().any(|(code, _)| *code == wanted),
            "{happened:?}"
        );
    }

    let from_files = explain_all(&stage, &["-f", manifests.to_str().unwrap()]);
    assert_eq!(from_files, happened);
    let admin = run.admin.to_string();
    assert_eq!(explain_all(&stage, &["--admin", &admin]), happened);

    let out = stage.path("dump");
    let dump = |out: &Path| wayline(&["dump", "--admin", &admin, "--out", out.to_str().unwrap()]);
    let output = dump(&out);
    assert!(output.status.success(), "{output:?}");
    let check = wayline(&["check", "-f", out.to_str().unwrap()]);
    assert!(check.status.success(), "{check:?}");
    let again = dump(&out);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("not empty"));

    drop(run);
    let run = Run::start(&stage, &out);
    assert_eq!(ask_all(&stage, &run), happened);
}

#[test]
fn secrets_and_last_good_versions_are_dumped_and_nobody_is_a_failure() {
    let stage = Stage::set();
    let manifests = stage.path("manifests");
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {k: aGlkZGVu}\n";
    fs::write(manifests.join("secret.yaml"), secret).unwrap();
    let run = Run::start(&stage, &manifests);
    let admin = run.admin.to_string();

    // Broken while it runs: the version before stays in force.
    let policies = fs::read_to_string(manifests.join("policies.yaml")).unwrap();
    let broken = policies.replace("notMethods: [\"GET\", \"HEAD\"]", "notMethods: GET");
    assert_ne!(broken, policies);
    fs::write(manifests.join("policies.yaml"), broken).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let findings = || {
        get(
            run.admin,
            "GET",
            "/stats?filter=config_findings",
            "localhost",
        )
    };
    let before = findings();
    while findings() == before {
        assert!(Instant::now() < deadline, "{before}");
        std::thread::sleep(Duration::from_millis(20));
    }
    for (flags, value, mode) in [
        (&[][..], "cmVkYWN0ZWQ=", 0o644),
        (&["--with-secrets"], "aGlkZGVu", 0o600),
    ] {
        use std::os::unix::fs::PermissionsExt as _;
        let out = stage.path(value);
        let out_text = out.to_str().unwrap();
        let output = wayline(&[&["dump", "--admin", &admin, "--out", out_text], flags].concat());
        assert!(output.status.success(), "{output:?}");
        let secret = out.join("secret.yaml");
        assert!(fs::read_to_string(&secret).unwrap().contains(value));
        let permissions = fs::metadata(&secret).unwrap().permissions();
        assert_eq!(permissions.mode() & 0o777 & !0o022, mode & !0o022);
        let policies = fs::read_to_string(out.join("authorizationpolicy.default.yaml")).unwrap();
        assert!(policies.contains("notMethods:\n"), "{policies}");
        assert_eq!(wayline(&["check", "-f", out_text]).status.code(), Some(0));
    }

    drop(run);
    let out = stage.path("none");
    let output = wayline(&["dump", "--admin", &admin, "--out", out.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("try: "),
        "{output:?}"
    );
    assert!(!out.exists());
}

#[test]
fn a_policy_that_could_never_be_read_denies_and_is_told_of() {
    let stage = Stage::set();
    let manifests = stage.path("manifests");
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: p\n  namespace: default\nspec: [\n";
    fs::write(manifests.join("p.yaml"), policy).unwrap();
    let run = Run::start(&stage, &manifests);
    let admin = run.admin.to_string();
    let url = "http://details:9080/details/0";
    let from = "default/bookinfo-productpage";
    for source in [["--admin", &*admin], ["-f", manifests.to_str().unwrap()]] {
        let asked = ["explain", "-o", "json", "--from", from, url];
        let output = wayline(&[&asked[..], &source].concat());
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["outcome"]["status"], 403, "{report:#}");
        let finding = &report["findings"][0]["object"];
        assert_eq!(finding, "AuthorizationPolicy default/p", "{report:#}");
    }
    let out = stage.path("dump");
    let output = wayline(&["dump", "--admin", &admin, "--out", out.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("AuthorizationPolicy default/p is missing"),
        "{said}"
    );
    assert!(out.join("service.default.yaml").is_file());
}
