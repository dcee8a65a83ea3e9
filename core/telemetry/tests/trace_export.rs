//! Spans at the wire: a tracer, its queue and its thread against collectors made by hand.

#![expect(
    clippy::unwrap_used,
    reason = "tests fail by unwrapping; clippy knows only test functions"
)]

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus::{Registry, TextEncoder};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use wayline_model::CanonicalRequest;
use wayline_model::mesh::MeshSettings;
use wayline_model::request::PathNormalization;
use wayline_model::snapshot::{Proxy, ProxyRole};
use wayline_model::tracing::TracingProvider;
use wayline_telemetry::trace::{
    ByteStream, Dialer, LocalFuture, Origin, QueueSettings, Side, SpanEnd, TraceExports,
    TraceMetrics, Tracer,
};
use wayline_telemetry::{ResponseFlags, WorkloadLabels};

const PATIENCE: Duration = Duration::from_secs(20);

/// What a collector was sent.
#[derive(Debug)]
struct Delivered {
    version: Version,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

/// What a collector answers: status, `grpc-status`, body.
#[derive(Clone, Debug)]
struct Verdict(u16, &'static str, Vec<u8>);

impl Default for Verdict {
    fn default() -> Self {
        Self(200, "0", Vec::new())
    }
}

/// A collector made by hand, on a thread of its own.
struct Collector {
    address: SocketAddr,
    delivered: mpsc::Receiver<Delivered>,
    connections: Arc<AtomicUsize>,
}

impl Collector {
    fn start(http2: bool, verdicts: Vec<Verdict>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, delivered) = mpsc::channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                let verdicts = Arc::new(Mutex::new(VecDeque::from(verdicts)));
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    counter.fetch_add(1, Ordering::Relaxed);
                    let (sender, verdicts) = (sender.clone(), Arc::clone(&verdicts));
                    let service = service_fn(move |request| {
                        let verdict = verdicts.lock().unwrap().pop_front().unwrap_or_default();
                        answer(request, sender.clone(), verdict)
                    });
                    tokio::spawn(async move {
                        let io = TokioIo::new(stream);
                        if http2 {
                            let executor = hyper_util::rt::TokioExecutor::new();
                            let _ = hyper::server::conn::http2::Builder::new(executor)
                                .serve_connection(io, service)
                                .await;
                        } else {
                            let _ = hyper::server::conn::http1::Builder::new()
                                .serve_connection(io, service)
                                .await;
                        }
                    });
                }
            });
        });
        Self {
            address,
            delivered,
            connections,
        }
    }

    fn next(&self) -> Delivered {
        self.delivered.recv_timeout(PATIENCE).unwrap()
    }
}

async fn answer(
    request: Request<Incoming>,
    sender: mpsc::Sender<Delivered>,
    verdict: Verdict,
) -> Result<Response<http_body_util::combinators::BoxBody<Bytes, hyper::Error>>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let grpc = parts.version == Version::HTTP_2;
    let body = body.collect().await?.to_bytes();
    let _ = sender.send(Delivered {
        version: parts.version,
        path: parts.uri.path().to_owned(),
        headers: parts.headers,
        body,
    });
    let Verdict(status, grpc_status, body) = verdict;
    let body = Full::new(Bytes::from(body)).map_err(|never| match never {});
    let body = if grpc {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(grpc_status));
        body.with_trailers(async { Some(Ok(trailers)) }).boxed()
    } else {
        body.boxed()
    };
    Ok(Response::builder().status(status).body(body).unwrap())
}

/// Dials where the provider says, host being an address.
struct Tcp;

impl Dialer for Tcp {
    fn dial<'a>(
        &'a self,
        provider: &'a TracingProvider,
    ) -> LocalFuture<'a, io::Result<Box<dyn ByteStream>>> {
        Box::pin(async {
            let address = format!("{}:{}", provider.host, provider.port);
            Ok(Box::new(TcpStream::connect(address).await?) as Box<dyn ByteStream>)
        })
    }
}

/// A tracer with all that belongs to it.
struct World {
    exports: TraceExports,
    registry: Registry,
    mesh: MeshSettings,
}

impl World {
    fn new(kind: &str, address: SocketAddr, settings: Value, queue: QueueSettings) -> Self {
        let mut provider = json!({"service": address.ip().to_string(), "port": address.port()});
        for (key, value) in settings.as_object().unwrap() {
            provider[key] = value.clone();
        }
        let (mesh, findings) = MeshSettings::from_value(&json!({
            "defaultProviders": {"tracing": ["p"]},
            "extensionProviders": [{"name": "p", kind: provider}],
            "defaultConfig": {"tracing": {"sampling": 100}},
        }));
        assert_eq!(findings, []);
        let registry = Registry::new();
        let metrics = TraceMetrics::register(&registry).unwrap();
        Self {
            exports: TraceExports::new(Arc::new(|| Box::new(Tcp)), queue, metrics),
            registry,
            mesh,
        }
    }

    fn tracer(&self) -> Tracer {
        let provider = self.mesh.tracing.provider.as_ref().unwrap();
        Tracer::new(&self.mesh.tracing, self.exports.open(provider).unwrap())
    }

    /// One traced request from head to end; its headers as they went upstream.
    fn request(&self, tracer: &Tracer, headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_static(value));
        }
        let mut request = CanonicalRequest::new(
            Method::POST,
            &"http://reviews:9080/reviews/1".parse().unwrap(),
            Version::HTTP_2,
            map,
            PathNormalization::Base,
        )
        .unwrap();
        let mut last = 0x10;
        let random = || {
            last += 1;
            last
        };
        if let Some(span) = tracer.begin(&mut request, true, random) {
            let source = WorkloadLabels::unknown(&"Kubernetes".into());
            tracer.close(*span, &self.origin(), &end(&source));
        }
        request.headers
    }

    fn origin(&self) -> Arc<Origin> {
        let proxy = Proxy {
            name: "waypoint".into(),
            namespace: "default".into(),
            class: "istio-waypoint".into(),
            role: ProxyRole::Waypoint,
            proxy_protocol: None,
            identity: "spiffe://cluster.local/ns/default/sa/waypoint"
                .parse()
                .unwrap(),
        };
        let address = "10.0.0.1".parse().unwrap();
        let to = Some(("reviews.default.svc.cluster.local", 9080));
        Arc::new(Origin::new(&proxy, &self.mesh, address, 15008, to))
    }

    /// The value of one metric line; 0 while it is not there.
    fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        TextEncoder::new()
            .encode_utf8(&self.registry.gather(), &mut text)
            .unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |value| value.trim().parse().unwrap())
    }

    fn wait_for(&self, name: &str, value: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.metric(name) != value {
            assert!(
                Instant::now() < deadline,
                "{name} is {} and not {value}",
                self.metric(name)
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn end(source: &WorkloadLabels) -> SpanEnd<'_> {
    SpanEnd {
        duration: Duration::from_millis(3),
        peer: "10.2.0.1:4000".parse().unwrap(),
        source: Side {
            labels: source,
            workload: None,
        },
        destination: None,
        upstream: None,
        code: 503,
        flags: ResponseFlags::NONE,
        grpc_status: None,
        request_bytes: 5,
        response_bytes: 11,
    }
}

const SENT: &str = "wayline_trace_spans_sent_total";
const QUEUE_FULL: &str = "wayline_trace_spans_dropped_total{reason=\"queue_full\"}";
const REFUSED: &str = "wayline_trace_spans_dropped_total{reason=\"refused\"}";
const UNREACHABLE: &str = "wayline_trace_spans_dropped_total{reason=\"unreachable\"}";

const CALLER: [(&str, &str); 4] = [
    ("x-b3-traceid", "463ac35c9f6413ad48485a3953bb6124"),
    ("x-b3-spanid", "0020000000000001"),
    ("x-b3-sampled", "1"),
    ("x-b3-flags", "1"),
];

#[test]
fn zipkin_gets_json_by_post() {
    let collector = Collector::start(false, vec![Verdict(202, "", Vec::new())]);
    let settings = json!({
        "path": "/collect", "headers": [{"name": "authorization", "value": "Bearer t"}],
    });
    let world = World::new(
        "zipkin",
        collector.address,
        settings,
        QueueSettings::default(),
    );
    let tracer = world.tracer();
    let upstream = world.request(&tracer, &CALLER);
    tracer.flush();

    let delivered = collector.next();
    assert_eq!(delivered.version, Version::HTTP_11);
    assert_eq!(delivered.path, "/collect");
    assert_eq!(delivered.headers["content-type"], "application/json");
    assert_eq!(delivered.headers["authorization"], "Bearer t");
    assert_eq!(
        delivered.headers["host"],
        collector.address.to_string().as_str()
    );
    let spans: Value = serde_json::from_slice(&delivered.body).unwrap();
    let span = &spans[0];
    assert_eq!(span["traceId"], "463ac35c9f6413ad48485a3953bb6124");
    assert_eq!(span["parentId"], "0020000000000001");
    assert_eq!(span["id"], "0000000000000011");
    assert_eq!(span["kind"], "SERVER");
    assert_eq!(span["debug"], true);
    assert_eq!(span["name"], "reviews.default.svc.cluster.local:9080/*");
    assert_eq!(span["localEndpoint"]["serviceName"], "waypoint.default");
    assert_eq!(
        span["remoteEndpoint"],
        json!({"ipv4": "10.2.0.1", "port": 4000})
    );
    assert_eq!(span["duration"], 3000);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let age = now.as_micros() as u64 - span["timestamp"].as_u64().unwrap();
    assert!(age < 60_000_000, "{age} µs old");
    assert_eq!(span["tags"]["http.status_code"], "503");
    assert_eq!(span["tags"]["error"], "true");
    assert_eq!(upstream["x-b3-spanid"], "0000000000000011");
    world.wait_for(SENT, 1);
    assert!(world.exports.drain(PATIENCE));
}

#[test]
fn the_first_span_of_a_trace_has_no_parent_and_a_decision_is_believed() {
    let collector = Collector::start(false, Vec::new());
    let settings = json!({"enable64bitTraceId": true});
    let world = World::new(
        "zipkin",
        collector.address,
        settings,
        QueueSettings::default(),
    );
    let tracer = world.tracer();
    let unsampled = world.request(&tracer, &[("b3", "0")]);
    assert_eq!(unsampled["x-b3-sampled"], "0");
    world.request(&tracer, &[]);
    tracer.flush();
    let delivered = collector.next();
    assert_eq!(delivered.path, "/api/v2/spans");
    let spans: Value = serde_json::from_slice(&delivered.body).unwrap();
    assert_eq!(spans.as_array().unwrap().len(), 1, "{spans}");
    // The first number decided about sampling.
    assert_eq!(spans[0]["traceId"], "0000000000000012");
    assert_eq!(spans[0].get("parentId"), None);
}

#[test]
fn otlp_goes_by_grpc() {
    let collector = Collector::start(true, Vec::new());
    let settings = json!({"grpc": {"initialMetadata": [{"name": "x-tenant", "value": "a"}]}});
    let world = World::new(
        "opentelemetry",
        collector.address,
        settings,
        QueueSettings::default(),
    );
    let tracer = world.tracer();
    let parent = "00-463ac35c9f6413ad48485a3953bb6124-0020000000000001-01";
    let upstream = world.request(&tracer, &[("traceparent", parent), ("tracestate", "a=b")]);
    assert_eq!(
        upstream["traceparent"],
        "00-463ac35c9f6413ad48485a3953bb6124-0000000000000011-01"
    );
    world.request(&tracer, &[]);
    tracer.flush();

    let delivered = collector.next();
    assert_eq!(delivered.version, Version::HTTP_2);
    assert_eq!(
        delivered.path,
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    );
    assert_eq!(delivered.headers["content-type"], "application/grpc");
    assert_eq!(delivered.headers["te"], "trailers");
    assert_eq!(delivered.headers["x-tenant"], "a");
    assert_eq!(delivered.body[0], 0);
    let length = u32::from_be_bytes(delivered.body[1..5].try_into().unwrap()) as usize;
    assert_eq!(delivered.body.len(), 5 + length);

    let resource_spans = wire::only(&delivered.body[5..], 1);
    let resource = wire::only(resource_spans, 1);
    assert_eq!(
        wire::attributes(resource, 1),
        [("service.name".to_owned(), "waypoint.default".to_owned())]
    );
    let scope_spans = wire::only(resource_spans, 2);
    assert_eq!(wire::only(wire::only(scope_spans, 1), 1), b"wayline");
    let spans = wire::all(scope_spans, 2);
    assert_eq!(spans.len(), 2);
    let span = spans[0];
    let trace = 0x463a_c35c_9f64_13ad_4848_5a39_53bb_6124u128;
    assert_eq!(wire::only(span, 1), trace.to_be_bytes());
    assert_eq!(wire::only(span, 2), 0x11u64.to_be_bytes());
    assert_eq!(wire::only(span, 3), b"a=b");
    assert_eq!(wire::only(span, 4), 0x0020_0000_0000_0001u64.to_be_bytes());
    assert_eq!(
        wire::only(span, 5),
        b"reviews.default.svc.cluster.local:9080/*"
    );
    assert_eq!(wire::number(span, 6), 2);
    assert_eq!(wire::number(span, 8) - wire::number(span, 7), 3_000_000);
    assert_eq!(wire::number(wire::only(span, 15), 3), 2);
    assert_eq!(wire::number(span, 16), 0x301);
    let attributes = wire::attributes(span, 9);
    for (key, value) in [
        ("component", "proxy"),
        ("http.status_code", "503"),
        ("http.request.method", "POST"),
        ("http.response.status_code", "503"),
        ("error.type", "503"),
        ("client.port", "4000"),
    ] {
        let found = attributes.iter().find(|(known, _)| known == key);
        assert_eq!(found.map(|(_, value)| &**value), Some(value), "{key}");
    }
    assert_eq!(wire::all(spans[1], 4), [b""; 0]);
    world.wait_for(SENT, 2);
}

#[test]
fn otlp_goes_by_http_too() {
    let collector = Collector::start(false, Vec::new());
    let settings = json!({"http": {"path": "/v1/traces", "timeout": "5s"}});
    let world = World::new(
        "opentelemetry",
        collector.address,
        settings,
        QueueSettings::default(),
    );
    let tracer = world.tracer();
    world.request(&tracer, &[]);
    drop(tracer);
    let delivered = collector.next();
    assert_eq!(delivered.version, Version::HTTP_11);
    assert_eq!(delivered.path, "/v1/traces");
    assert_eq!(delivered.headers["content-type"], "application/x-protobuf");
    wire::only(wire::only(&delivered.body, 1), 2);
    world.wait_for(SENT, 1);
}

#[test]
fn what_a_collector_refuses_is_counted_and_not_sent_again() {
    for (kind, http2, verdict) in [
        ("zipkin", false, Verdict(400, "", Vec::new())),
        ("opentelemetry", true, Verdict(200, "3", Vec::new())),
        // Frame of five bytes; partial_success { rejected_spans: 1 }.
        (
            "opentelemetry",
            true,
            Verdict(200, "0", vec![0, 0, 0, 0, 4, 0x0a, 2, 8, 1]),
        ),
    ] {
        let collector = Collector::start(http2, vec![verdict]);
        let world = World::new(kind, collector.address, json!({}), QueueSettings::default());
        let tracer = world.tracer();
        world.request(&tracer, &[]);
        tracer.flush();
        collector.next();
        world.wait_for(REFUSED, 1);
        world.request(&tracer, &[]);
        tracer.flush();
        collector.next();
        world.wait_for(SENT, 1);
        assert_eq!(collector.connections.load(Ordering::Relaxed), 1, "{kind}");
    }
}

#[test]
fn what_a_collector_is_not_ready_for_is_sent_again() {
    for (kind, http2, verdict) in [
        ("zipkin", false, Verdict(503, "", Vec::new())),
        ("opentelemetry", true, Verdict(200, "14", Vec::new())),
    ] {
        let collector = Collector::start(http2, vec![verdict]);
        let world = World::new(kind, collector.address, json!({}), QueueSettings::default());
        let tracer = world.tracer();
        world.request(&tracer, &[]);
        tracer.flush();
        let (first, second) = (collector.next(), collector.next());
        assert_eq!(first.body, second.body);
        world.wait_for(SENT, 1);
    }
}

#[test]
fn a_dead_collector_costs_spans_and_nothing_else() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = unused.local_addr().unwrap();
    drop(unused);
    let queue = QueueSettings { spans: 100 };
    let world = World::new("zipkin", address, json!({}), queue);
    let tracer = world.tracer();
    for _ in 0..1_000 {
        world.request(&tracer, &[]);
    }
    drop(tracer);
    world.wait_for(UNREACHABLE, 64);
    assert_eq!(world.metric(QUEUE_FULL), 936);
    assert_eq!(world.metric(SENT), 0);
    assert!(world.exports.drain(PATIENCE));
}

#[test]
fn a_collector_that_comes_back_gets_what_waited() {
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let world = World::new("zipkin", address, json!({}), QueueSettings::default());
    let tracer = world.tracer();
    world.request(&tracer, &[]);
    tracer.flush();
    let listener = std::net::TcpListener::bind(address).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let answer = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";
    io::Read::read(&mut stream, &mut [0; 64]).unwrap();
    io::Write::write_all(&mut stream, answer).unwrap();
    world.wait_for(SENT, 1);
    assert_eq!(world.metric(UNREACHABLE), 0);
}

#[test]
fn cores_share_the_delivery_to_a_provider() {
    let collector = Collector::start(false, Vec::new());
    let world = World::new(
        "zipkin",
        collector.address,
        json!({}),
        QueueSettings::default(),
    );
    let provider = world.mesh.tracing.provider.as_ref().unwrap();
    let (one, other) = (
        world.exports.open(provider).unwrap(),
        world.exports.open(&Arc::new((**provider).clone())).unwrap(),
    );
    assert!(Arc::ptr_eq(&one, &other));
    let mut elsewhere = (**provider).clone();
    elsewhere.port += 1;
    let elsewhere = world.exports.open(&Arc::new(elsewhere)).unwrap();
    assert!(!Arc::ptr_eq(&one, &elsewhere));
}

/// Protobuf read by hand: what was written by a library must be right on the wire.
mod wire {
    /// All fields of that number with a length, in order.
    pub(super) fn all(message: &[u8], number: u64) -> Vec<&[u8]> {
        fields(message)
            .into_iter()
            .filter_map(|(found, value)| match value {
                Field::Bytes(bytes) if found == number => Some(bytes),
                _ => None,
            })
            .collect()
    }

    /// The only field of that number.
    pub(super) fn only(message: &[u8], number: u64) -> &[u8] {
        let all = all(message, number);
        assert_eq!(all.len(), 1, "field {number}");
        all[0]
    }

    /// The number in that field.
    pub(super) fn number(message: &[u8], number: u64) -> u64 {
        let found = fields(message)
            .into_iter()
            .find_map(|(found, value)| match value {
                Field::Number(value) if found == number => Some(value),
                _ => None,
            });
        found.unwrap_or_else(|| panic!("no field {number}"))
    }

    /// Attributes as text.
    pub(super) fn attributes(message: &[u8], number: u64) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        all(message, number)
            .into_iter()
            .map(|pair| {
                let value = match fields(only(pair, 2))[..] {
                    [(1, Field::Bytes(value))] => text(value),
                    [(3, Field::Number(value))] => value.to_string(),
                    ref other => panic!("{other:?}"),
                };
                (text(only(pair, 1)), value)
            })
            .collect()
    }

    #[derive(Debug)]
    enum Field<'a> {
        Number(u64),
        Bytes(&'a [u8]),
    }

    fn fields(mut message: &[u8]) -> Vec<(u64, Field<'_>)> {
        let mut fields = Vec::new();
        while !message.is_empty() {
            let key = varint(&mut message);
            let value = match key & 7 {
                0 => Field::Number(varint(&mut message)),
                1 => Field::Number(fixed(&mut message, 8)),
                2 => {
                    let length = varint(&mut message) as usize;
                    let (bytes, rest) = message.split_at(length);
                    message = rest;
                    Field::Bytes(bytes)
                }
                5 => Field::Number(fixed(&mut message, 4)),
                other => panic!("wire type {other}"),
            };
            fields.push((key >> 3, value));
        }
        fields
    }

    fn fixed(message: &mut &[u8], length: usize) -> u64 {
        let (bytes, rest) = message.split_at(length);
        *message = rest;
        bytes
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    fn varint(message: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (first, rest) = message.split_first().unwrap();
            *message = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return value;
            }
        }
        unreachable!()
    }
}
