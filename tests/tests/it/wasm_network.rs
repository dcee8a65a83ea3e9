//! Plugins of `type: NETWORK` at a waypoint: `tests/guests/rust/network` on ports of opaque bytes.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use wayline_tests::guests::guest;
use wayline_tests::manifests::{self, Pod, indented};
use wayline_tests::tunnel::Refused;
use wayline_tests::{Backend, Mesh, PATIENCE, Reply, Request, Tunnel, Wayline, eventually};

use crate::scene::{self, PORT};

/// The service `raw`: 80 is `tcp`, 81 says nothing, 82 is HTTP.
const RAW: &str = "10.96.0.60:80";
const UNDECLARED: &str = "10.96.0.60:81";
const HTTP: &str = "10.96.0.60:82";

/// Whom the filter asks.
const ASKED: &str = "backend=asked.default.svc.cluster.local:80";

struct Stage {
    mesh: Mesh,
    backend: Backend,
    wayline: Wayline,
}

/// One connection through a tunnel.
struct Line {
    stream: TcpStream,
    tunnel: Tunnel,
}

/// What is said by a client, and what it got until the connection ended.
#[derive(Debug, Eq, PartialEq)]
enum Heard {
    /// It ended in order.
    End(String),
    Reset,
}

impl Stage {
    /// With the guest under these settings.
    fn new(settings: &str) -> Self {
        Self::with(&[plugin("p", settings, "")])
    }

    fn with(plugins: &[String]) -> Self {
        let mesh = mesh();
        mesh.write("plugins.yaml", &manifests::file(plugins));
        let backend = echo(&mesh);
        let cache = mesh.home().join("cache");
        let wayline = mesh.start_with(&["--wasm-cache-dir", cache.to_str().unwrap()]);
        wayline.wait_ready();
        Self {
            mesh,
            backend,
            wayline,
        }
    }

    fn dial(&self) -> Line {
        self.dial_port(RAW)
    }

    fn dial_port(&self, authority: &str) -> Line {
        let tunnel = self.mesh.tunnel("default/caller", authority);
        let stream = TcpStream::connect(tunnel.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Line { stream, tunnel }
    }

    /// What a whole conversation of one line comes to.
    fn says(&self, text: &str) -> Heard {
        let mut line = self.dial();
        line.say(text);
        line.rest()
    }

    fn knock(&self) -> Result<(), Refused> {
        self.mesh.knock("default/caller", RAW)
    }

    /// What the guest logged so far of the connections it saw, without their numbers.
    fn log(&self) -> Vec<String> {
        let stderr = self.wayline.process.stderr();
        let said = stderr.lines().filter_map(|line| {
            let (_, text) = line.split_once(" wasm: ")?;
            let (text, _) = text.rsplit_once(" plugin=\"")?;
            let (number, text) = text.split_once(": ")?;
            number.parse::<u32>().ok()?;
            Some(text.to_owned())
        });
        said.collect()
    }

    fn until_logged(&self, text: &str) -> Vec<String> {
        eventually(text, || {
            let log = self.log();
            log.iter().any(|line| line == text).then_some(log)
        })
    }

    fn finding(&self, text: &str) {
        eventually(&format!("a finding with {text}"), || {
            let dump = self.wayline.admin("GET", "/config_dump").text();
            dump.contains(text).then_some(())
        });
    }
}

impl Line {
    fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    /// As many bytes as `expected` has.
    fn hears(&mut self, expected: &str) {
        let mut heard = vec![0; expected.len()];
        self.stream.read_exact(&mut heard).unwrap();
        assert_eq!(String::from_utf8(heard).unwrap(), expected);
    }

    /// Ends its own side, and reads the other to its end.
    fn rest(mut self) -> Heard {
        // It may be gone already.
        let _ = self.stream.shutdown(Shutdown::Write);
        self.heard()
    }

    fn heard(&mut self) -> Heard {
        let mut all = Vec::new();
        match self.stream.read_to_end(&mut all) {
            Ok(_) => Heard::End(String::from_utf8(all).unwrap()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Heard::Reset,
            Err(error) => panic!("{error}"),
        }
    }
}

fn end(text: &str) -> Heard {
    Heard::End(text.to_owned())
}

fn mesh() -> Mesh {
    let mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh.logging(""));
    let mut documents = scene::waypoint();
    let ports = [("tcp-a", 80, PORT), ("b", 81, PORT), ("http-c", 82, PORT)];
    documents.push(manifests::service("default", "raw", "10.96.0.60", &ports));
    documents.push(Pod::new("raw", mesh.ip(60)).yaml());
    documents.extend(scene::service(&mesh, "asked", 61));
    mesh.write("main.yaml", &manifests::file(&documents));
    mesh
}

/// Says what it hears, and ends when it hears no more.
fn echo(mesh: &Mesh) -> Backend {
    Backend::raw(mesh.ip(60), PORT, |_, mut stream| {
        let mut chunk = [0; 4096];
        while let Ok(read) = stream.read(&mut chunk) {
            if read == 0 || stream.write_all(&chunk[..read]).is_err() {
                return;
            }
        }
    })
}

/// The guest for the service `raw`, under these settings.
fn plugin(name: &str, settings: &str, more: &str) -> String {
    of_module(
        name,
        &guest("rust-network").display().to_string(),
        settings,
        more,
    )
}

fn of_module(name: &str, path: &str, settings: &str, more: &str) -> String {
    let spec = format!(
        "targetRefs: [{{kind: Service, group: \"\", name: raw}}]\ntype: NETWORK\n\
         url: file://{path}\npluginConfig: {{do: \"{settings}\"}}\n{more}"
    );
    format!(
        "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\n\
         metadata: {{name: {name}, namespace: default}}\nspec:\n{}",
        indented(2, &spec)
    )
}

#[test]
fn every_callback_is_heard_in_its_order() {
    let stage = Stage::new("tag=t");
    let mut line = stage.dial();
    line.say("hello\n");
    line.hears("<t t>hello\n");
    assert_eq!(line.rest(), end(""));
    assert_eq!(
        stage.until_logged("deleted"),
        [
            "new",
            "down 6 false",
            "up 8 false",
            "down 0 true",
            "up 0 true",
            "upstream closed: Remote",
            "downstream closed: Remote",
            "done",
            "log",
            "deleted",
        ]
    );
    let labels = [("callback", "proxy_on_downstream_data")];
    let calls = stage
        .wayline
        .metrics()
        .sum("wayline_wasm_calls_total", &labels);
    assert!(calls >= 2.0, "{calls}");
    let received = stage
        .wayline
        .metrics()
        .sum("istio_tcp_received_bytes_total", &[]);
    let sent = stage
        .wayline
        .metrics()
        .sum("istio_tcp_sent_bytes_total", &[]);
    assert_eq!((received, sent), (6.0, 11.0), "as the client sees it");
}

#[test]
fn bytes_are_held_until_the_line_is_whole() {
    let stage = Stage::new("tag=t");
    let mut line = stage.dial();
    line.say("hel");
    stage.until_logged("down 3 false");
    assert_eq!(
        stage
            .wayline
            .metrics()
            .sum("istio_tcp_sent_bytes_total", &[]),
        0.0
    );
    line.say("lo\n");
    line.hears("<t t>hello\n");
    stage.until_logged("down 6 false");
}

#[test]
fn a_client_that_leaves_and_a_client_that_is_let_go_are_told_apart() {
    let stage = Stage::new("tag=t");
    let mut line = stage.dial();
    line.say("hel");
    stage.until_logged("down 3 false");
    drop(line);
    let log = stage.until_logged("deleted");
    assert!(
        log.contains(&"downstream closed: Remote".to_owned()),
        "{log:?}"
    );

    assert_eq!(stage.says("close\n"), end(""));
    let log = stage.until_logged("downstream closed: Local");
    assert!(
        log.contains(&"upstream closed: Local".to_owned()),
        "{log:?}"
    );
}

#[test]
fn phases_and_priorities_order_plugins_and_answers_meet_them_in_reverse() {
    let stage = Stage::with(&[
        plugin("last", "tag=c", ""),
        plugin("second", "tag=b", "phase: AUTHN\npriority: 1\n"),
        plugin("first", "tag=a", "phase: AUTHN\npriority: 2\n"),
    ]);
    assert_eq!(stage.says("x\n"), end("<a <b <c c>b>a>x\n"));
    // What one of them stores the next can read.
    let mut line = stage.dial();
    line.say("leave\n");
    line.hears("<a <b <c leave\n");
    line.say("properties\n");
    let Heard::End(text) = line.rest() else {
        panic!("a reset");
    };
    assert!(text.ends_with(" default.first c\n"), "{text}");
}

#[test]
fn ports_and_modes_choose_and_http_hears_nothing_of_it() {
    let elsewhere = "match: [{ports: [{number: 9999}]}]\n";
    let client = "match: [{mode: CLIENT}]\n";
    let stage = Stage::with(&[
        plugin("a", "tag=a", elsewhere),
        plugin("b", "tag=b", client),
        plugin(
            "c",
            "tag=c",
            "match: [{mode: SERVER, ports: [{number: 80}]}]\n",
        ),
        plugin("d", "tag=d", "match: [{ports: [{number: 82}]}]\n"),
        plugin("e", "tag=e", "").replace("type: NETWORK", "type: HTTP"),
    ]);
    assert_eq!(stage.says("x\n"), end("<c c>x\n"));
    stage.finding("every port that this one is attached to speaks HTTP");
    let dump = stage.wayline.admin("GET", "/config_dump").text();
    assert_eq!(dump.matches("speaks HTTP: it never runs").count(), 1);
}

#[test]
fn undeclared_ports_are_filtered_where_they_speak_no_http() {
    let stage = Stage::with(&[plugin("p", "tag=t", "match: [{ports: [{number: 81}]}]\n")]);
    let mut line = stage.dial_port(UNDECLARED);
    line.say("opaque\n");
    line.hears("<t t>opaque\n");
    let _ = line.rest();
    stage.until_logged("deleted");
    assert_eq!(stage.says("plain\n"), end("plain\n"), "another port");

    // The same port with HTTP on it.
    let Stage {
        mesh,
        backend,
        wayline,
    } = stage;
    drop(backend);
    let _web = scene::backend(&mesh, "web", 60);
    for authority in [UNDECLARED, HTTP] {
        let tunnel = mesh.tunnel("default/caller", authority);
        assert_eq!(Request::get("/").send(tunnel.address).text(), "web");
    }
    drop(wayline);
}

#[test]
fn a_filter_decides_before_the_upstream_is_connected() {
    let stage = Stage::new("wait tag=t");
    let mut line = stage.dial();
    stage.until_logged("new");
    assert_eq!(stage.backend.connections(), 0);
    line.say("go\n");
    line.hears("<t t>go\n");
    assert_eq!(stage.backend.connections(), 1);

    let refusing = Stage::new("refuse");
    assert_eq!(refusing.knock(), Err(Refused::Status(403)));
    assert_eq!(refusing.backend.connections(), 0);
    let line = refusing.mesh.logged("wasm_close_stream");
    assert!(!line.contains(" LR "), "{line}");
}

#[test]
fn policy_is_asked_before_any_plugin() {
    let stage = Stage::new("tag=t");
    let deny = manifests::policy(
        "default",
        "deny",
        "targetRefs: [{kind: Service, group: \"\", name: raw}]\naction: DENY\nrules: [{}]\n",
    );
    stage.mesh.write("deny.yaml", &deny);
    eventually("the policy to be in force", || {
        (stage.knock() == Err(Refused::Status(401))).then_some(())
    });
    let before = stage.log().len();
    assert_eq!(stage.knock(), Err(Refused::Status(401)));
    assert_eq!(stage.log().len(), before);
}

#[test]
fn a_connection_waits_for_whom_its_filter_asks() {
    let stage = Stage::new(&format!("tag=t {ASKED}"));
    let asked = Backend::http(stage.mesh.ip(61), PORT, |_| Reply::ok("yes"));
    assert_eq!(stage.says("ask\n"), end("<t allowed ask\n"));
    assert_eq!(asked.last().target, "/line");
    drop(asked);
    let _asked = Backend::http(stage.mesh.ip(61), PORT, |_| Reply::status(403, "no"));
    assert_eq!(stage.says("ask\n"), end(""), "the line went nowhere");

    let first = Stage::new(&format!("ask-first tag=t {ASKED}"));
    {
        let _asked = Backend::http(first.mesh.ip(61), PORT, |_| Reply::ok("yes"));
        assert_eq!(first.says("x\n"), end("<t t>x\n"));
    }
    let before = first.backend.connections();
    let _asked = Backend::http(first.mesh.ip(61), PORT, |_| Reply::status(403, "no"));
    assert_eq!(first.says("x\n"), end(""));
    assert_eq!(first.backend.connections(), before);
}

#[test]
fn the_last_bytes_of_a_connection_that_a_filter_closes_still_arrive() {
    let stage = Stage::new("tag=t");
    let mut line = stage.dial();
    line.say("bye\n");
    assert_eq!(line.heard(), end("<t t>bye\n"));
}

#[test]
fn what_is_known_of_a_connection_can_be_read() {
    let stage = Stage::new("tag=t");
    let uri = "spiffe://cluster.local/ns/default/sa/caller";
    let expected = format!(
        "<t cluster.local/ns/default/sa/caller 80 {uri} \
         outbound|80||raw.default.svc.cluster.local {PORT} - default.p -\n"
    );
    assert_eq!(stage.says("properties\n"), end(&expected));
}

#[test]
fn a_trap_ends_its_connections_as_the_strategy_says_and_no_others() {
    for (strategy, outcome) in [
        ("FAIL_CLOSE", Heard::Reset),
        ("FAIL_RELOAD", Heard::Reset),
        ("FAIL_OPEN", end("boom\n")),
    ] {
        let more = format!("failStrategy: {strategy}\n");
        let stage = Stage::with(&[plugin("p", "tag=t", &more)]);
        assert_eq!(stage.says("boom\n"), outcome, "{strategy}");
        assert_eq!(
            stage.says("x\n"),
            end("<t t>x\n"),
            "{strategy}: a fresh instance"
        );
        let labels = [("kind", "unreachable")];
        stage
            .wayline
            .counted("wayline_wasm_traps_total", &labels, 1.0);
        if strategy != "FAIL_OPEN" {
            let line = stage.mesh.logged("wasm_fail_stream");
            assert!(line.contains(" LR "), "{line}");
        }
    }
}

#[test]
fn a_trap_reaches_those_who_share_the_instance_and_nobody_else() {
    let shared = plugin("p", "tag=t", "");
    let annotated = "metadata: {annotations: {wayline.dev/isolation: stream}, name: p";
    let own = shared.replace("metadata: {name: p", annotated);
    for (plugin, shares) in [(shared, true), (own, false)] {
        let stage = Stage::with(&[plugin]);
        let mut idle = stage.dial();
        idle.say("x\n");
        idle.hears("<t t>x\n");
        // Of the same tunnel, and so on the same core.
        let mut trapped = TcpStream::connect(idle.tunnel.address).unwrap();
        trapped.set_read_timeout(Some(PATIENCE)).unwrap();
        trapped.write_all(b"boom\n").unwrap();
        let gone = trapped.read(&mut [0; 1]).map_err(|error| error.kind());
        assert_eq!(gone, Err(ErrorKind::ConnectionReset));
        if shares {
            // It is told at once, and not when it speaks next.
            assert_eq!(idle.heard(), Heard::Reset);
        } else {
            idle.say("y\n");
            idle.hears("<t t>y\n");
            assert_eq!(idle.rest(), end(""));
        }
    }
}

#[test]
fn an_endless_loop_costs_its_connection_and_the_plugin_goes_on_in_quarantine() {
    for (strategy, outcome) in [("FAIL_CLOSE", Heard::Reset), ("FAIL_OPEN", end("spin\n"))] {
        let more = format!("failStrategy: {strategy}\n");
        let asked = format!("tag=t {ASKED}");
        let stage = Stage::with(&[plugin("p", &asked, &more)]);
        assert_eq!(stage.says("spin\n"), outcome, "{strategy}");
        let labels = [("kind", "budget")];
        stage
            .wayline
            .counted("wayline_wasm_traps_total", &labels, 1.0);

        // From here on a thread of its own does the same.
        let mut line = stage.dial();
        line.say("hel");
        stage.until_logged("down 3 false");
        line.say("lo\n");
        line.hears("<t t>hello\n");
        line.say("bye\n");
        assert_eq!(line.heard(), end("<t t>bye\n"), "{strategy}");
        assert!(
            stage
                .wayline
                .process
                .stderr()
                .contains("runs on a thread of its own")
        );
        let asked = Backend::http(stage.mesh.ip(61), PORT, |_| Reply::ok("yes"));
        assert_eq!(stage.says("ask\n"), end("<t allowed ask\n"));
        assert_eq!(asked.last().target, "/line");
        assert_eq!(stage.says("close\n"), end(""));
        assert_eq!(
            stage.says("boom\n"),
            match strategy {
                "FAIL_OPEN" => end("boom\n"),
                _ => Heard::Reset,
            }
        );
        assert_eq!(stage.says("spin\n"), outcome, "{strategy}, in quarantine");
    }
}

#[test]
fn a_filter_that_hoards_is_given_no_more_and_let_go() {
    let stage = Stage::new("tag=t");
    let mut line = stage.dial();
    line.stream.set_write_timeout(Some(PATIENCE)).unwrap();
    line.say("hoard");
    // More than it may hold and more than lies in buffers on the way: only so much is taken.
    let chunk = vec![b'x'; 1 << 20];
    let mut taken = 0;
    let outcome = loop {
        match line.stream.write(&chunk) {
            Ok(written) => taken += written,
            Err(error) => break error.kind(),
        }
        assert!(taken < 64 << 20, "somebody reads on and on");
    };
    assert!(
        matches!(outcome, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        "{outcome:?}"
    );
    let line = stage.mesh.logged("filters_held_too_much");
    assert!(line.contains(" LR "), "{line}");
    assert_eq!(stage.says("x\n"), end("<t t>x\n"), "others are served");
}

#[test]
fn what_can_not_run_refuses_or_steps_aside() {
    let stage = Stage::with(&[of_module("p", "/nowhere.wasm", "", "")]);
    assert_eq!(stage.knock(), Err(Refused::Status(503)));
    let line = stage.mesh.logged("wasm_fail_stream");
    assert!(line.contains("default.p|failed"), "{line}");
    stage.finding("connections to its target are refused");
    let open = of_module("p", "/nowhere.wasm", "", "failStrategy: FAIL_OPEN\n");
    stage.mesh.write("plugins.yaml", &open);
    stage.finding("connections pass without it");
    assert_eq!(stage.says("x\n"), end("x\n"));
}

#[test]
fn a_new_configuration_meets_new_connections_and_old_ones_stay() {
    let stage = Stage::new("tag=old");
    let mut old = stage.dial();
    old.say("x\n");
    old.hears("<old old>x\n");
    stage
        .mesh
        .write("plugins.yaml", &plugin("p", "tag=new", ""));
    eventually("the new one", || {
        (stage.says("x\n") == end("<new new>x\n")).then_some(())
    });
    old.say("y\n");
    old.hears("<old old>y\n");
    assert_eq!(old.rest(), end(""));
}
