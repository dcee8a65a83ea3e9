//! The command line: exit codes, signals, and what is printed where.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::Value;

use wayline_tests::manifests::{self, policy};
use wayline_tests::{Backend, Conversation, Mesh, Reply, Request, eventually};

use crate::scene::{self, ECHO, ECHO_AUTHORITY, PORT};

/// A backend that answers when told to.
fn held(mesh: &Mesh) -> (Backend, std::sync::mpsc::Sender<()>) {
    let (go, wait) = std::sync::mpsc::channel();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend::http(mesh.ip(ECHO), PORT, move |_| {
        let _ = wait.lock().unwrap().recv_timeout(Duration::from_secs(15));
        Reply::ok("late")
    });
    (backend, go)
}

#[test]
fn sigterm_lets_requests_finish_and_takes_no_new_ones() {
    let mesh = scene::echo_mesh(&[]);
    let (backend, go) = held(&mesh);
    let mut wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let request = std::thread::spawn({
        let address = tunnel.address;
        move || Conversation::open(address).exchange(&Request::get("/slow"))
    });
    eventually("the request to arrive", || {
        (backend.count() == 1).then_some(())
    });
    wayline.process.signal("TERM");
    eventually("no more connections", || {
        std::net::TcpStream::connect(mesh.hbone())
            .is_err()
            .then_some(())
    });
    assert!(
        wayline.process.ended().is_none(),
        "a request is still under way"
    );
    assert!(!wayline.is_ready());
    go.send(()).unwrap();
    let answer = request.join().unwrap().unwrap();
    assert_eq!((answer.status, &*answer.text()), (200, "late"));
    drop(tunnel);
    assert_eq!(wayline.process.wait().code(), Some(0));
}

#[test]
fn an_idle_proxy_ends_at_once_and_with_0() {
    let mesh = scene::echo_mesh(&[]);
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let mut wayline = mesh.start();
    // A tunnel that is open and idle holds nothing up.
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    let mut idle = Conversation::open(tunnel.address);
    assert_eq!(idle.exchange(&Request::get("/")).unwrap().status, 200);
    wayline.process.signal("TERM");
    assert_eq!(wayline.process.wait().code(), Some(0));
}

#[test]
fn a_second_signal_and_a_drain_that_takes_too_long_end_with_1() {
    for (args, second) in [(&[][..], true), (&["--drain-timeout", "300ms"][..], false)] {
        let mesh = scene::echo_mesh(&[]);
        let (backend, _go) = held(&mesh);
        let mut wayline = mesh.start_with(args);
        wayline.wait_ready();
        let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
        let mut conversation = Conversation::open(tunnel.address);
        conversation
            .write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        eventually("the request to arrive", || {
            (backend.count() == 1).then_some(())
        });
        wayline.process.signal("INT");
        if second {
            eventually("the drain to begin", || {
                wayline.process.stderr().contains("draining").then_some(())
            });
            assert!(wayline.process.ended().is_none());
            wayline.process.signal("TERM");
        }
        assert_eq!(wayline.process.wait().code(), Some(1), "{args:?}");
    }
}

#[test]
fn run_fails_only_when_nothing_can_be_opened() {
    let mesh = scene::echo_mesh(&[]);
    let _taken: Vec<_> = [
        wayline_tests::mesh::port::HBONE,
        wayline_tests::mesh::port::ADMIN,
        wayline_tests::mesh::port::STATUS,
        wayline_tests::mesh::port::METRICS,
    ]
    .map(|port| std::net::TcpListener::bind((mesh.ip(1), port)).unwrap())
    .into();
    let mut wayline = mesh.start_with(&[]);
    assert_eq!(wayline.process.wait().code(), Some(1));
    let said = wayline.process.stderr();
    assert!(said.contains("in use"), "{said}");

    let finished = mesh.run(&["run", "-f", "not-there"]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("not-there"), "{}", finished.stderr);
    let finished = mesh.run(&["run", "--no-such-flag"]);
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert_eq!(finished.text, "");
}

#[test]
fn manifests_with_faults_do_not_keep_the_rest_from_being_served() {
    let mesh = scene::echo_mesh(&[]);
    mesh.write("broken.yaml", "kind: [unclosed\n");
    mesh.write(
        "unknown.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: odd}\nspec: {prots: []}\n",
    );
    mesh.write(
        "other.yaml",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n",
    );
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("default/a", ECHO_AUTHORITY);
    assert_eq!(Request::get("/").send(tunnel.address).text(), "echo");
    let said = wayline.process.stderr();
    assert!(said.contains("broken.yaml:"), "{said}");
    let findings = wayline.metrics();
    assert!(findings.sum("wayline_config_findings", &[("severity", "error")]) >= 1.0);
}

#[test]
fn check_says_0_for_sound_manifests_and_for_hints() {
    let mesh = scene::echo_mesh(&[]);
    mesh.write("mesh.yaml", &mesh.logging("somethingElse: true"));
    let finished = mesh.run(&["check", "-f", "manifests"]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let json = mesh.run(&["check", "-f", "manifests", "-o", "json"]);
    assert_eq!(json.code, Some(0), "{json:?}");
    let report: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(report["kind"], "WaylineReport");
    assert!(json.text.contains("somethingElse"), "{}", json.text);
}

#[test]
fn check_says_3_with_place_reason_and_remedy() {
    let mesh = scene::echo_mesh(&[policy(
        "default",
        "typo",
        "targetRefs: [{kind: Service, group: \"\", name: echoo}]\nrules: [{}]\n",
    )]);
    mesh.write(
        "route.yaml",
        &manifests::route(
            "default",
            "lost",
            manifests::Parent::Service("echo"),
            "- backendRefs: [{name: nowhere, port: 80}]",
        ),
    );
    mesh.write("text.yaml", "a: b\n: c: d\n");
    let finished = mesh.run(&["check", "-f", "manifests"]);
    assert_eq!(finished.code, Some(3), "{finished:?}");
    for expected in [
        "main.yaml:",
        "route.yaml:",
        "text.yaml:",
        "echoo",
        "nowhere",
    ] {
        assert!(
            finished.text.contains(expected),
            "{expected}: {}",
            finished.text
        );
    }
    let json = mesh.run(&["check", "-f", "manifests", "-o", "json"]);
    assert_eq!(json.code, Some(3));
    let report: Value = serde_json::from_slice(&json.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let of = |text: &str| {
        let found = findings
            .iter()
            .find(|finding| finding.to_string().contains(text));
        found.unwrap_or_else(|| panic!("{text}: {report}"))
    };
    let lost = of("nowhere");
    assert_eq!(lost["severity"], "error", "{lost}");
    assert!(lost["line"].as_u64().is_some_and(|line| line > 0), "{lost}");
    assert!(
        lost["file"]
            .as_str()
            .is_some_and(|file| file.ends_with("route.yaml")),
        "{lost}"
    );
    assert!(
        lost["field"]
            .as_str()
            .is_some_and(|field| field.contains("backendRefs")),
        "{lost}"
    );
}

#[test]
fn check_names_what_is_not_supported_yet() {
    let mesh = scene::echo_mesh(&[]);
    mesh.write(
        "later.yaml",
        "apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: later, namespace: default}
spec: {configPatches: []}
",
    );
    let finished = mesh.run(&["check", "-f", "manifests"]);
    assert_eq!(finished.code, Some(3), "{finished:?}");
    assert!(
        finished.text.contains("not yet supported"),
        "{}",
        finished.text
    );
}

#[test]
fn cert_makes_a_ca_once_and_keys_that_nobody_else_reads() {
    let mesh = Mesh::new();
    let first = mesh.certificate("spiffe://cluster.local/ns/a/sa/b");
    let root = std::fs::read(first.join("root-cert.pem")).unwrap();
    let second = mesh.certificate("spiffe://other.domain/ns/c/sa/d");
    assert_eq!(std::fs::read(second.join("root-cert.pem")).unwrap(), root);
    for key in [first.join("key.pem"), mesh.ca().join("ca-key.pem")] {
        let mode = std::fs::metadata(&key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", key.display());
    }
    for identity in [
        "spiffe://x/ns/a",
        "https://x/ns/a/sa/b",
        "spiffe://x/ns//sa/b",
        "a",
    ] {
        let finished = mesh.run(&[
            "cert",
            "--dev-ca",
            "ca",
            "--identity",
            identity,
            "--out",
            "o",
        ]);
        assert_eq!(finished.code, Some(2), "{identity}: {finished:?}");
    }
    // Many at once end up with the same CA.
    let racing = mesh.home().join("racing");
    let roots: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4)
            .map(|n| {
                let (mesh, racing) = (&mesh, &racing);
                scope.spawn(move || {
                    let identity = format!("spiffe://cluster.local/ns/a/sa/n{n}");
                    let dir = mesh.certificate_of(racing, &identity);
                    std::fs::read(dir.join("root-cert.pem")).unwrap()
                })
            })
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(roots.iter().all(|root| *root == roots[0]));
}

#[test]
fn curl_is_a_workload_that_asks() {
    let mesh = scene::echo_mesh(&[policy(
        "default",
        "p",
        "targetRefs: [{kind: Service, group: \"\", name: echo}]
rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/productpage]}}]}]
",
    )]);
    let backend = Backend::http(mesh.ip(ECHO), PORT, |request| {
        Reply::ok(format!("{} {}", request.method, request.target)).header("X-Back", "1")
    });
    let _wayline = mesh.start();
    let via = mesh.hbone().to_string();
    let curl = |from: &str, args: &[&str]| {
        let ca = mesh.ca().display().to_string();
        let all = ["curl", "--dev-ca", &ca, "--from", from, "--via", &via];
        mesh.run(&[&all[..], args].concat())
    };
    let finished = curl("default/productpage", &["http://echo/path"]);
    assert_eq!(
        (finished.code, &*finished.text),
        (Some(0), "GET /path"),
        "{finished:?}"
    );
    assert_eq!(backend.last().header("host"), Some("echo"));

    let finished = curl(
        "default/productpage",
        &[
            "-i",
            "-X",
            "PUT",
            "-H",
            "x-one: 1",
            "-d",
            "body",
            "http://10.96.0.20:80/p",
        ],
    );
    assert!(finished.text.starts_with("HTTP/1.1 200"), "{finished:?}");
    assert!(
        finished.text.to_lowercase().contains("x-back: 1"),
        "{finished:?}"
    );
    assert_eq!(backend.last().body, b"body");
    assert_eq!(backend.last().header("x-one"), Some("1"));

    let finished = curl("default/intruder", &["http://echo.default/"]);
    assert_eq!(
        (finished.code, &*finished.text),
        (Some(0), "RBAC: access denied")
    );
    let finished = curl("default/productpage", &["http://nothing.default/"]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("503"), "{}", finished.stderr);
}

#[test]
fn version_and_completion_go_to_stdout() {
    let mesh = Mesh::new();
    for args in [&["version"][..], &["--version"]] {
        let finished = mesh.run(args);
        assert_eq!(finished.code, Some(0));
        assert!(finished.text.contains("wayline 0."), "{finished:?}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let finished = mesh.run(&["completion", shell]);
        assert_eq!(finished.code, Some(0));
        assert!(finished.text.contains("wayline"), "{shell}");
    }
    let finished = mesh.run(&[]);
    assert_eq!(finished.code, Some(2));
}

#[test]
fn slow_handshakes_and_silent_clients_hold_nobody_up() {
    let mesh = scene::echo_mesh(&[]);
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let _wayline = mesh.start();
    let silent: Vec<_> = (0..50)
        .map(|n| {
            let mut stream = std::net::TcpStream::connect(mesh.hbone()).unwrap();
            if n % 2 == 0 {
                stream.write_all(b"\x16\x03\x01").unwrap();
            }
            stream
        })
        .collect();
    assert_eq!(mesh.knock("default/a", ECHO_AUTHORITY), Ok(()));
    for mut stream in silent {
        stream.set_nonblocking(true).unwrap();
        let mut byte = [0];
        assert!(stream.read(&mut byte).is_err(), "nothing was said");
    }
}
