//! The same modules and the same traffic through a real Envoy and through Wayline: what the backend
//! gets, what the client gets and what the filter logs must be the same. Where it is not, on purpose,
//! `docs/wasm-deviations.md` has a row, and a test of its own here says what Wayline does.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use wayline_tests::envoy::{Envoy, WasmFilter};
use wayline_tests::guests::guest;
use wayline_tests::manifests;
use wayline_tests::{Backend, Mesh, Recorded, Reply, Request, Response, Wayline, eventually};

use crate::scene::{self, ECHO, PORT};

/// Guests that are the same filter in four languages.
const LANGUAGES: [&str; 4] = [
    "rust-filter",
    "go-filter",
    "c-filter",
    "assemblyscript-filter",
];

const AUTH: u8 = 21;
const DEAD: u8 = 22;

/// Bytes of a body that Envoy may hold; as many as Wayline holds.
const BUFFER_LIMIT: usize = 1024 * 1024;

/// What came of one request.
#[derive(Debug, PartialEq)]
struct Outcome {
    /// What the client got; `None` where the connection was closed without an answer.
    client: Option<Response>,
    /// What the backend got.
    backend: Vec<Recorded>,
    /// What the filter logged from when it met the request.
    log: Vec<String>,
}

/// A filter at work in one of the two hosts.
struct Stage {
    mesh: Mesh,
    backend: Backend,
    /// Whom the filter asks; ends with the stage.
    _auth: Backend,
    host: Host,
}

enum Host {
    Envoy(Envoy),
    Wayline(Wayline),
}

impl Stage {
    fn both(module: &str, configuration: &str) -> [Self; 2] {
        let module = guest(module);
        [
            Self::envoy(&module, configuration),
            Self::wayline(&module, configuration),
        ]
    }

    fn envoy(module: &Path, configuration: &str) -> Self {
        let mesh = Mesh::new();
        let (backend, auth) = (backend(&mesh), auth(&mesh));
        let filter = WasmFilter {
            module,
            root_id: "root",
            configuration,
            failure_policy: "FAIL_CLOSED",
            buffer_limit: BUFFER_LIMIT,
        };
        let dead = SocketAddr::new(mesh.ip(DEAD), PORT);
        let envoy = Envoy::filtering(&mesh, &filter, backend.address, auth.address, dead);
        let host = Host::Envoy(envoy);
        Self {
            mesh,
            backend,
            _auth: auth,
            host,
        }
    }

    fn wayline(module: &Path, configuration: &str) -> Self {
        let mesh = Mesh::new();
        let (backend, auth) = (backend(&mesh), auth(&mesh));
        let plugin = format!(
            "apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata:
  name: filter
  namespace: default
spec:
  targetRefs:
  - group: gateway.networking.k8s.io
    kind: Gateway
    name: edge
  url: file://{}
  pluginName: root
  pluginConfig: {configuration}
  vmConfig:
    env:
    - name: GREETING
      value: hello
",
            module.display(),
        );
        // The mesh says which trailers pass.
        let settings = manifests::mesh_config("").replace(
            "  name: istio\n",
            "  name: istio\n  annotations:\n    wayline.dev/trailers: x-kept,x-replaced,x-removed,x-added,x-new\n",
        );
        mesh.write("mesh.yaml", &settings);
        let mut documents = scene::echo(&mesh);
        documents.extend(scene::service(&mesh, "auth", AUTH));
        documents.extend(scene::service(&mesh, "dead", DEAD));
        documents.extend([scene::edge(&mesh), scene::edge_to_echo(), plugin]);
        mesh.write("main.yaml", &manifests::file(&documents));
        // One instance, as each worker has its own: a second trap before a good stream between the two
        // would be a crash loop.
        let wayline = mesh.start_with(&["--workers", "1"]);
        wayline.wait_ready();
        // A large module may take longer than readiness waits.
        eventually("the plugin to be ready", || {
            let log = wayline.process.stderr();
            log.contains("a Wasm plugin is ready").then_some(())
        });
        Self {
            mesh,
            backend,
            _auth: auth,
            host: Host::Wayline(wayline),
        }
    }

    fn address(&self) -> SocketAddr {
        match &self.host {
            Host::Envoy(envoy) => envoy.address,
            Host::Wayline(_) => scene::edge_address(&self.mesh),
        }
    }

    /// What filters logged so far, without what comes before their own words.
    fn log(&self) -> Vec<String> {
        match &self.host {
            Host::Envoy(envoy) => said_in_envoy(&envoy.process.stderr()),
            Host::Wayline(wayline) => said_in_wayline(&wayline.process.stderr()),
        }
    }

    /// Sends a request and waits until the filter has said that it is over.
    fn exchange(&self, request: &Request) -> Outcome {
        let (logged, received) = (self.log().len(), self.backend.count());
        let client = wayline_tests::Conversation::open(self.address()).exchange(request);
        let over = format!("over: {}", request.target());
        let log = eventually(&over, || {
            let log = self.log().split_off(logged);
            let last = log.iter().position(|line| line.contains(&over))?;
            Some(log[..=last].to_vec())
        });
        let backend = self.backend.requests().split_off(received);
        Outcome {
            client: client.ok().map(what_filters_made),
            backend: backend.into_iter().map(what_filters_sent).collect(),
            log,
        }
    }
}

/// Sends the same through both; says where they differ, if they do.
fn differ(stages: &[Stage; 2], request: &Request) -> Option<String> {
    let [envoy, wayline] = stages;
    let (expected, found) = (envoy.exchange(request), wayline.exchange(request));
    if found == expected {
        return None;
    }
    Some(format!(
        "{request:?}\n  Envoy   {expected:?}\n  Wayline {found:?}\n"
    ))
}

/// Sends the same through both, one after the other, and finds no difference.
fn same(stages: &[Stage; 2], requests: impl IntoIterator<Item = Request>) {
    let found = requests
        .into_iter()
        .filter_map(|request| differ(stages, &request));
    let found: Vec<String> = found.collect();
    assert!(found.is_empty(), "{}", found.concat());
}

/// What every backend of these tests answers.
fn backend(mesh: &Mesh) -> Backend {
    Backend::http(mesh.ip(ECHO), PORT, |request| {
        let reply = Reply::ok("hello back")
            .header("x-secret", "s3cret")
            .header("x-replaced", "old")
            .header("x-kept", "kept");
        match request.target.as_str() {
            "/trailers" => reply
                .header("Trailer", "x-kept, x-replaced, x-removed, x-added")
                .trailer("x-kept", "kept")
                .trailer("x-replaced", "old")
                .trailer("x-removed", "gone"),
            "/new-trailers" => reply.header("Trailer", "x-new").chunked(),
            "/body" => reply.chunked(),
            _ => reply,
        }
    })
}

/// Whom filters ask.
fn auth(mesh: &Mesh) -> Backend {
    Backend::http(mesh.ip(AUTH), PORT, |request| {
        match request.target.as_str() {
            "/slow" => {
                std::thread::sleep(Duration::from_secs(1));
                Reply::ok("at last")
            }
            "/other" => Reply::status(201, "another").header("x-note", "b"),
            _ => Reply::ok("yes").header("x-note", "a"),
        }
    })
}

/// What proxies add by themselves, each in its way; how messages are framed is theirs too.
const OF_THE_PROXY: [&str; 14] = [
    "connection",
    "content-length",
    "date",
    "host",
    "te",
    "server",
    "transfer-encoding",
    "trailer",
    "via",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
];

fn of_the_filter(mut headers: Vec<(String, String)>) -> Vec<(String, String)> {
    for (name, _) in &mut headers {
        name.make_ascii_lowercase();
    }
    headers.retain(|(name, _)| {
        !OF_THE_PROXY.contains(&name.as_str()) && !name.starts_with("x-envoy-")
    });
    // Stable: the order of values of one name counts.
    headers.sort_by(|(a, _), (b, _)| a.cmp(b));
    headers
}

fn what_filters_made(mut response: Response) -> Response {
    response.headers = of_the_filter(response.headers);
    response.trailers = of_the_filter(response.trailers);
    response
}

fn what_filters_sent(mut request: Recorded) -> Recorded {
    request.connection = 0;
    request.headers = of_the_filter(request.headers);
    request.trailers = of_the_filter(request.trailers);
    request
}

/// `[time][thread][info][wasm] [file:line] wasm log default.filter root: text`
fn said_in_envoy(stderr: &str) -> Vec<String> {
    let said = stderr.lines().filter_map(|line| {
        let (before, text) = line.split_once(" wasm log ")?;
        let (_, text) = text.split_once(": ")?;
        let level = before.split(['[', ']']).nth(5)?;
        Some(format!("{level}: {text}"))
    });
    said.filter(|line| is_of_an_exchange(line)).collect()
}

/// `time INFO wasm: text plugin="default.filter"`
fn said_in_wayline(stderr: &str) -> Vec<String> {
    let said = stderr.lines().filter_map(|line| {
        let (before, text) = line.split_once(" wasm: ")?;
        let (text, fields) = text.rsplit_once(" plugin=\"")?;
        let level = match before.split_ascii_whitespace().last()? {
            _ if fields.contains("critical=true") => "critical".to_owned(),
            "WARN" => "warning".to_owned(),
            level => level.to_ascii_lowercase(),
        };
        Some(format!("{level}: {text}"))
    });
    said.filter(|line| is_of_an_exchange(line)).collect()
}

/// Wayline is told to log from `info` on; and each host starts as many instances as it likes.
fn is_of_an_exchange(line: &str) -> bool {
    let Some((level, text)) = line.split_once(": ") else {
        return false;
    };
    let starting = [
        "configured with",
        "started with",
        "root done",
        "start: ",
        "configure: ",
        "tick ",
    ];
    !matches!(level, "trace" | "debug") && !starting.iter().any(|prefix| text.starts_with(prefix))
}

/// Requests that try what the filter of four languages does.
fn requests() -> Vec<Request> {
    let post = |path: &str, body: &str| Request::new("POST", path).body(body);
    let chunked = |path: &str, chunks: &str| {
        Request::new("POST", path)
            .header("Transfer-Encoding", "chunked")
            .body(chunks)
    };
    vec![
        Request::get("/"),
        Request::get("/headers")
            .header("x-read", "Value, kept as it is")
            .header("x-replaced", "old")
            .header("x-removed", "gone")
            .header("X-Removed", "gone too"),
        Request::get("/headers"),
        Request::get("/reply"),
        post("/reply", "never read by anybody"),
        post("/reply-body", "good"),
        post("/reply-body", "bad"),
        Request::get("/reply-response"),
        post("/body", "shout this"),
        chunked("/body", "5\r\nshout\r\n5\r\n this\r\n0\r\n\r\n"),
        post("/body", &"long ".repeat(20_000)),
    ]
}

/// Guests with the same behaviour say so themselves: their differences would be the hosts'.
#[test]
fn the_same_filter_in_four_languages_is_the_same_in_envoy() {
    let stages = LANGUAGES.map(|name| Stage::envoy(&guest(name), r#"{"name":"same"}"#));
    for request in requests() {
        let [first, others @ ..] = &stages;
        let expected = first.exchange(&request);
        for (name, stage) in LANGUAGES[1..].iter().zip(others) {
            assert_eq!(stage.exchange(&request), expected, "{name}, {request:?}");
        }
    }
}

fn same_in_both(language: &str) {
    let stages = Stage::both(language, r#"{"name":"same"}"#);
    same(&stages, requests());
}

#[test]
fn a_filter_in_rust_does_the_same_in_both() {
    same_in_both("rust-filter");
}

#[test]
fn a_filter_in_go_does_the_same_in_both() {
    same_in_both("go-filter");
}

#[test]
fn a_filter_in_c_does_the_same_in_both() {
    same_in_both("c-filter");
}

#[test]
fn a_filter_in_assemblyscript_does_the_same_in_both() {
    same_in_both("assemblyscript-filter");
}

const AUTH_BACKEND: &str = "outbound|80||auth.default.svc.cluster.local";
const DEAD_BACKEND: &str = "outbound|80||dead.default.svc.cluster.local";

#[test]
fn what_filters_know_and_share_is_the_same_in_both() {
    let stages = Stage::both("rust-kitchen", r#"{"name":"same"}"#);
    same(
        &stages,
        [
            Request::get("/map")
                .header("x-m1", "a")
                .header("x-m1", "b")
                .header("x-m2", ""),
            Request::get("/shared").header("x-key", "k"),
            Request::get("/queue"),
            Request::get("/metrics").header("x-metric", "same"),
            Request::get("/levels"),
            Request::get("/foreign"),
            Request::get("/environment"),
            Request::get("/properties")
                .host("props.test")
                .header("x-mine", "yes")
                .header("referer", "http://from.test/")
                .header("user-agent", "tests"),
        ],
    );
}

#[test]
fn callouts_are_the_same_in_both() {
    let stages = Stage::both("rust-kitchen", r#"{"name":"same"}"#);
    let paths = [
        "/callout",
        "/callout-reply",
        "/callout-unknown",
        "/callout-incomplete",
        "/callout-response",
    ];
    let asking = paths.map(|path| Request::get(path).header("x-target", AUTH_BACKEND));
    let with_body = Request::new("POST", "/callout-body").header("x-target", AUTH_BACKEND);
    let with_body = with_body.body("wait for it");
    same(&stages, asking.into_iter().chain([with_body]));
}

/// Envoy answers in the backend's place, with 504 and 503.
#[test]
fn a_callout_that_fails_has_no_headers() {
    let stage = Stage::wayline(&guest("rust-kitchen"), r#"{"name":"same"}"#);
    for (path, target) in [("/callout-late", AUTH_BACKEND), ("/callout", DEAD_BACKEND)] {
        let outcome = stage.exchange(&Request::get(path).header("x-target", target));
        let expected = "info: answer: headers none, trailers 0, status None, note None, body None";
        assert_eq!(outcome.log[0], expected, "{path}");
        assert_eq!(outcome.client.unwrap().status, 200, "{path}");
    }
}

#[test]
fn bodies_and_trailers_are_the_same_in_both() {
    let stages = Stage::both("rust-kitchen", r#"{"name":"same"}"#);
    let trailers =
        "9\r\nsome body\r\n0\r\nx-kept: kept\r\nx-replaced: old\r\nx-removed: gone\r\n\r\n";
    same(
        &stages,
        [
            Request::new("POST", "/parts").body("0123456789"),
            Request::new("POST", "/trailers")
                .header("Transfer-Encoding", "chunked")
                .header("TE", "trailers")
                .header("Trailer", "x-kept, x-replaced, x-removed, x-added")
                .body(trailers),
            Request::new("POST", "/new-trailers")
                .header("Transfer-Encoding", "chunked")
                .header("TE", "trailers")
                .header("Trailer", "x-new")
                .body("9\r\nsome body\r\n0\r\n\r\n"),
        ],
    );
}

#[test]
fn what_filters_do_at_odd_moments_is_the_same_in_both() {
    let stages = Stage::both("rust-kitchen", r#"{"name":"same"}"#);
    let paths = [
        "/odd-reply-and-continue",
        "/odd-reply-twice",
        "/odd-reply-headers",
        "/odd-close",
        "/odd-repeated",
        "/odd-empty",
        "/odd-rewrite",
        "/odd-absent-maps",
        "/odd-status",
        "/odd-reply-on-response-body",
        "/odd-hold-response",
    ];
    let requests = paths.map(|path| {
        let request = Request::get(path)
            .header("x-many", "a")
            .header("x-many", "b");
        request.header("x-empty", "")
    });
    let with_body = ["/odd-reply-on-body", "/odd-hold-request"]
        .map(|path| Request::new("POST", path).body("0123456789"));
    same(&stages, requests.into_iter().chain(with_body));
}

#[test]
fn statuses_of_odd_calls_are_the_same_in_both() {
    let stages = Stage::both("c-probe", r#"{"name":"same"}"#);
    let requests = ["/anywhere", "/wild", "/empty", "/tables"].map(Request::get);
    let with_body = Request::new("POST", "/parts").body("0123456789");
    same(&stages, requests.into_iter().chain([with_body]));
}

/// Envoy writes such lines as they are.
#[test]
fn a_filter_can_not_forge_lines_of_the_log() {
    let stage = Stage::wayline(&guest("rust-kitchen"), r#"{"name":"same"}"#);
    let outcome = stage.exchange(&Request::get("/odd-log"));
    let expected = r"info: a line\n2026-01-01T00:00:00Z  INFO forged\u{1b}[2J";
    assert_eq!(outcome.log[0], expected);
}

/// In Envoy the request hangs: the answer came before the question was over.
#[test]
fn going_on_before_the_pause_counts() {
    let stage = Stage::wayline(&guest("rust-kitchen"), r#"{"name":"same"}"#);
    for path in ["/odd-resume-first", "/odd-resume-first-response"] {
        let outcome = stage.exchange(&Request::get(path));
        assert_eq!(outcome.client.unwrap().status, 200, "{path}");
        assert_eq!(outcome.backend.len(), 1, "{path}");
    }
}

/// Envoy dies of the first, and sends the second to the backend twice.
#[test]
fn going_on_without_a_pause_changes_nothing() {
    let stage = Stage::wayline(&guest("rust-kitchen"), r#"{"name":"same"}"#);
    for path in ["/odd-resume-response", "/odd-resume-unpaused"] {
        let outcome = stage.exchange(&Request::get(path));
        assert_eq!(outcome.client.unwrap().status, 200, "{path}");
        assert_eq!(outcome.backend.len(), 1, "{path}");
    }
}

/// In Envoy they are gone by then, and a filter over the Rust SDK panics.
#[test]
fn request_headers_can_be_read_until_the_end() {
    let stage = Stage::wayline(&guest("rust-kitchen"), r#"{"name":"same"}"#);
    let request = Request::get("/odd-headers-in-response").header("x-mine", "kept");
    let log = stage.exchange(&request).log;
    assert!(
        log.iter()
            .any(|line| line.ends_with(r#"header: Some("kept")"#)),
        "{log:?}"
    );
}

/// In Envoy every request fails from then on.
#[test]
fn a_filter_that_panics_serves_the_next_request() {
    let stage = Stage::wayline(&guest("rust-kitchen"), r#"{"name":"same"}"#);
    for path in ["/panic", "/panic-response"] {
        assert_eq!(
            Request::get(path).send(stage.address()).status,
            503,
            "{path}"
        );
        assert_eq!(
            Request::get("/").send(stage.address()).status,
            200,
            "{path}"
        );
    }
}
