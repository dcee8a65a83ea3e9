//! What a collector of spans is told, and what the application is told of the trace.

use serde_json::Value;
use std::net::SocketAddr;

use wayline_tests::envoy::Envoy;
use wayline_tests::manifests::{self, Pod};
use wayline_tests::{Backend, Mesh, Recorded, Reply, Request, eventually, h2peer};

use crate::scene::{self, ECHO, ECHO_AUTHORITY, WAYPOINT};

/// The pod of the collector.
const COLLECTOR: u8 = 30;

/// Where the collector listens.
const ZIPKIN_PORT: u16 = 9411;

/// [`scene::echo`] with a collector in namespace `observability`, and this in MeshConfig.
fn mesh(config: &str, port: u16) -> Mesh {
    mesh_with(config, port, |pod| pod)
}

fn mesh_with(config: &str, port: u16, pod: impl FnOnce(Pod) -> Pod) -> Mesh {
    let mesh = Mesh::new();
    mesh.write("mesh.yaml", &mesh.logging(config));
    let mut documents = scene::echo(&mesh);
    documents.push(manifests::service(
        "observability",
        "collector",
        "10.96.0.30",
        &[("http", 9999, port)],
    ));
    let collector = Pod::new("collector", mesh.ip(COLLECTOR)).namespace("observability");
    documents.push(pod(collector).yaml());
    mesh.write("main.yaml", &manifests::file(&documents));
    mesh
}

const ZIPKIN: &str = "
defaultProviders: {tracing: [z]}
defaultConfig: {tracing: {sampling: 100}}
extensionProviders:
- name: z
  zipkin: {service: collector.observability.svc.cluster.local, port: 9999}
";

fn zipkin(mesh: &Mesh) -> Backend {
    Backend::http(mesh.ip(COLLECTOR), ZIPKIN_PORT, |_| Reply::status(202, ""))
}

/// All spans that a collector was sent, by the path of their requests.
fn spans(collector: &Backend) -> Vec<Value> {
    let bodies = collector.requests().into_iter().map(|request: Recorded| {
        assert_eq!(
            (&*request.method, &*request.target),
            ("POST", "/api/v2/spans")
        );
        serde_json::from_slice::<Vec<Value>>(&request.body).unwrap()
    });
    bodies.flatten().collect()
}

fn span_of(collector: &Backend, path: &str) -> Value {
    eventually("a span", || {
        let mut spans = spans(collector).into_iter();
        spans.find(|span| span["tags"]["http.url"].as_str().unwrap().ends_with(path))
    })
}

#[test]
fn one_server_span_tells_of_a_request() {
    let mesh = mesh(ZIPKIN, ZIPKIN_PORT);
    let collector = zipkin(&mesh);
    let backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("shop/shop-sa", ECHO_AUTHORITY);
    let request = Request::get("/a?b=c").header("user-agent", "test/1");
    assert_eq!(request.send(tunnel.address).status, 200);
    let span = span_of(&collector, "/a?b=c");
    assert_eq!(span["kind"], "SERVER");
    assert_eq!(span["name"], "echo.default.svc.cluster.local:80/*");
    assert_eq!(span["localEndpoint"]["serviceName"], "waypoint.default");
    assert_eq!(span.get("parentId"), None);
    let tags = &span["tags"];
    for (tag, value) in [
        ("component", "proxy"),
        ("http.method", "GET"),
        ("http.protocol", "HTTP/1.1"),
        ("http.status_code", "200"),
        ("response_flags", "-"),
        ("request_size", "0"),
        ("response_size", "4"),
        ("user_agent", "test/1"),
        (
            "upstream_cluster",
            "outbound|80||echo.default.svc.cluster.local",
        ),
        ("istio.canonical_service", "waypoint"),
        ("istio.mesh_id", "cluster.local"),
        ("istio.destination_workload", "echo"),
        ("istio.destination_namespace", "default"),
        ("istio.destination_instance_name", "echo"),
    ] {
        assert_eq!(tags[tag], value, "{tag}");
    }
    let node = tags["node_id"].as_str().unwrap();
    let end = "~waypoint.default~default.svc.cluster.local";
    assert!(
        node.starts_with("waypoint~") && node.ends_with(end),
        "{node}"
    );
    let upstream = backend.last();
    assert_eq!(upstream.header("x-b3-traceid"), span["traceId"].as_str());
    assert_eq!(upstream.header("x-b3-spanid"), span["id"].as_str());
    assert_eq!(upstream.header("x-b3-sampled"), Some("1"));
    assert_eq!(upstream.header("traceparent"), None);
    let id = upstream.header("x-request-id").unwrap();
    assert_eq!(tags["guid:x-request-id"], id);
    assert_eq!(&id[14..15], "9", "{id}");
    wayline.counted("wayline_trace_spans_sent_total", &[], 1.0);
}

#[test]
fn a_caller_decides_and_is_the_parent() {
    let mesh = mesh(ZIPKIN, ZIPKIN_PORT);
    let collector = zipkin(&mesh);
    let backend = scene::backend(&mesh, "echo", ECHO);
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("shop/shop-sa", ECHO_AUTHORITY);
    let trace = "463ac35c9f6413ad48485a3953bb6124";
    let from = |sampled: &str, path| {
        let request = Request::get(path)
            .header("x-b3-traceid", trace)
            .header("x-b3-spanid", "0020000000000001")
            .header("x-b3-sampled", sampled);
        assert_eq!(request.send(tunnel.address).status, 200);
        backend.last()
    };
    let unsampled = from("0", "/no");
    assert_eq!(unsampled.header("x-b3-sampled"), Some("0"));
    assert_eq!(unsampled.header("x-b3-traceid"), Some(trace));
    assert_eq!(
        unsampled.header("x-b3-parentspanid"),
        Some("0020000000000001")
    );
    let sampled = from("1", "/yes");
    let span = span_of(&collector, "/yes");
    assert_eq!(span["traceId"], trace);
    assert_eq!(span["parentId"], "0020000000000001");
    assert_eq!(span["id"].as_str(), sampled.header("x-b3-spanid"));
    assert_eq!(spans(&collector).len(), 1);
}

#[test]
fn refusals_and_failures_have_spans_too() {
    let mesh = mesh(ZIPKIN, ZIPKIN_PORT);
    let deny = "action: DENY\nrules:\n- to:\n  - operation: {paths: [/secret]}\ntargetRefs:\n- {kind: Service, group: \"\", name: echo}\n";
    mesh.write("deny.yaml", &manifests::policy("default", "deny", deny));
    let collector = zipkin(&mesh);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("shop/shop-sa", ECHO_AUTHORITY);
    assert_eq!(Request::get("/secret").send(tunnel.address).status, 403);
    assert_eq!(Request::get("/gone").send(tunnel.address).status, 503);
    let denied = span_of(&collector, "/secret");
    assert_eq!(denied["tags"]["http.status_code"], "403");
    assert_eq!(denied["tags"].get("error"), None);
    assert_eq!(denied["tags"].get("upstream_cluster"), None);
    let failed = span_of(&collector, "/gone");
    assert_eq!(failed["tags"]["http.status_code"], "503");
    assert_eq!(failed["tags"]["response_flags"], "UF,URX");
    assert_eq!(failed["tags"]["error"], "true");
    drop(wayline);
}

#[test]
fn without_a_provider_trace_headers_pass_untouched() {
    let mesh = scene::echo_mesh(&[]);
    let backend = scene::backend(&mesh, "echo", ECHO);
    let _wayline = mesh.start();
    let tunnel = mesh.tunnel("shop/shop-sa", ECHO_AUTHORITY);
    let sent = [
        ("traceparent", "00-not-for-us"),
        ("tracestate", "a=b"),
        ("b3", "1"),
        ("x-b3-traceid", "x"),
        ("x-b3-sampled", "1"),
        ("x-request-id", "11111111-2222-4333-8444-555555555555"),
    ];
    let request = sent
        .iter()
        .fold(Request::get("/"), |request, (name, value)| {
            request.header(name, value)
        });
    assert_eq!(request.send(tunnel.address).status, 200);
    let upstream = backend.last();
    for (name, value) in sent {
        assert_eq!(upstream.all(name), [value], "{name}");
    }
    assert_eq!(upstream.header("x-b3-spanid"), None);
}

#[test]
fn a_collector_that_does_not_answer_slows_nobody_down() {
    let mesh = mesh(ZIPKIN, ZIPKIN_PORT);
    // It takes connections and says nothing.
    let _collector = std::net::TcpListener::bind((mesh.ip(COLLECTOR), ZIPKIN_PORT)).unwrap();
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("shop/shop-sa", ECHO_AUTHORITY);
    let mut conversation = wayline_tests::Conversation::open(tunnel.address);
    // More than the queue holds.
    for _ in 0..5_000 {
        assert_eq!(
            conversation.exchange(&Request::get("/")).unwrap().status,
            200
        );
    }
    eventually("spans are dropped", || {
        let full = [("reason", "queue_full")];
        let dropped = wayline
            .metrics()
            .sum("wayline_trace_spans_dropped_total", &full);
        (dropped > 0.0).then_some(())
    });
}

#[test]
fn a_captured_collector_is_reached_by_hbone() {
    let mesh = mesh_with(ZIPKIN, ZIPKIN_PORT, |pod| {
        pod.annotation("ambient.istio.io/redirection", "enabled")
    });
    let behind = Backend::http(mesh.ip(COLLECTOR + 1), ZIPKIN_PORT, |_| {
        Reply::status(202, "")
    });
    let _envoy = Envoy::server(
        &mesh,
        &mesh.certificate("spiffe://cluster.local/ns/observability/sa/collector"),
        SocketAddr::new(mesh.ip(COLLECTOR), 15_008),
        behind.address,
        WAYPOINT,
    );
    let _backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("shop/shop-sa", ECHO_AUTHORITY);
    assert_eq!(Request::get("/").send(tunnel.address).status, 200);
    span_of(&behind, "/");
    wayline.counted("wayline_trace_spans_sent_total", &[], 1.0);
}

#[test]
fn opentelemetry_goes_by_grpc() {
    let config = "
defaultProviders: {tracing: [otel]}
defaultConfig: {tracing: {sampling: 100}}
extensionProviders:
- name: otel
  opentelemetry: {service: observability/collector.observability.svc.cluster.local, port: 9999}
";
    let mesh = mesh(config, 4317);
    let collector = h2peer::Server::start(
        mesh.ip(COLLECTOR),
        4317,
        h2peer::Message {
            status: 200,
            headers: h2peer::headers(&[("content-type", "application/grpc")]),
            body: vec![0; 5],
            trailers: h2peer::headers(&[("grpc-status", "0")]),
            ..h2peer::Message::default()
        },
    );
    let backend = scene::backend(&mesh, "echo", ECHO);
    let wayline = mesh.start();
    let tunnel = mesh.tunnel("shop/shop-sa", ECHO_AUTHORITY);
    assert_eq!(Request::get("/").send(tunnel.address).status, 200);
    let parent = backend.last().header("traceparent").unwrap().to_owned();
    assert!(
        parent.starts_with("00-") && parent.ends_with("-01"),
        "{parent}"
    );
    wayline.counted("wayline_trace_spans_sent_total", &[], 1.0);
    let call = collector.last();
    assert_eq!(
        call.path,
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    );
    for text in ["waypoint.default", "echo.default.svc.cluster.local:80/*"] {
        let found = call
            .body
            .windows(text.len())
            .any(|at| at == text.as_bytes());
        assert!(found, "{text}");
    }
}

#[test]
fn a_provider_that_is_not_served_is_an_error() {
    let config = "
defaultProviders: {tracing: [dd]}
extensionProviders:
- name: dd
  datadog: {service: datadog.example.org, port: 8126}
";
    let mesh = mesh(config, ZIPKIN_PORT);
    let checked = mesh.run(&["check", "-f", "manifests"]);
    assert_eq!(checked.code, Some(3), "{checked:?}");
    assert!(checked.text.contains("datadog"), "{}", checked.text);
}

/// With a real server, where Java packages can be had.
#[cfg(feature = "zipkin")]
mod zipkin {
    use std::time::{Duration, Instant};

    use wayline_tests::process::Process;
    use wayline_tests::tools;

    use super::*;

    #[test]
    fn a_real_zipkin_shows_service_and_trace() {
        /// It listens on every address of the machine.
        const REAL: u16 = 23941;
        let mesh = mesh(ZIPKIN, REAL);
        let mut command = std::process::Command::new(tools::tool("zipkin"));
        command.env("QUERY_PORT", REAL.to_string());
        let _zipkin = Process::start(command);
        let address = SocketAddr::new(mesh.ip(COLLECTOR), REAL);
        // A Java server takes its time.
        let deadline = Instant::now() + Duration::from_secs(120);
        while std::net::TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "Zipkin does not listen");
            std::thread::sleep(Duration::from_millis(100));
        }
        let _backend = scene::backend(&mesh, "echo", ECHO);
        let _wayline = mesh.start();
        let tunnel = mesh.tunnel("shop/shop-sa", ECHO_AUTHORITY);
        let request = Request::get("/seen")
            .header("x-b3-traceid", "463ac35c9f6413ad48485a3953bb6124")
            .header("x-b3-spanid", "0020000000000001")
            .header("x-b3-sampled", "1");
        assert_eq!(request.send(tunnel.address).status, 200);
        let ask = |path: &str| {
            let answer = Request::get(path).host("zipkin").send(address);
            serde_json::from_str::<Value>(&answer.text()).unwrap_or_default()
        };
        let span = eventually("the trace is there", || {
            let trace = ask("/api/v2/trace/463ac35c9f6413ad48485a3953bb6124");
            trace.get(0).cloned()
        });
        assert_eq!(span["parentId"], "0020000000000001");
        assert_eq!(span["kind"], "SERVER");
        assert_eq!(span["name"], "echo.default.svc.cluster.local:80/*");
        assert_eq!(span["localEndpoint"]["serviceName"], "waypoint.default");
        assert_eq!(span["tags"]["http.status_code"], "200");
        assert_eq!(
            ask("/api/v2/services"),
            serde_json::json!(["waypoint.default"])
        );
    }
}
