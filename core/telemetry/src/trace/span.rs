//! Spans: one per recorded request, named and tagged as Istio's waypoints do it.
//!
//! An [`OpenSpan`] keeps what the request was before anything changed it; a [`SpanRecord`] is what
//! is left when the exchange is over, and all that exporters see.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{HeaderName, HeaderValue, USER_AGENT};
use http::{Method, Version};
use wayline_model::CanonicalRequest;
use wayline_model::mesh::MeshSettings;
use wayline_model::service::Cluster;
use wayline_model::snapshot::{Proxy, ProxyRole};
use wayline_model::workload::Workload;

use super::context::SpanContext;
use crate::flags::ResponseFlags;
use crate::metrics::GrpcStatus;
use crate::metrics::labels::{UNKNOWN, WorkloadLabels};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const DOWNSTREAM_CLUSTER: HeaderName =
    HeaderName::from_static("x-envoy-downstream-service-cluster");

/// Most bytes of a client's text in a tag; the path has a bound of its own.
const MAX_CLIENT_TEXT: usize = 1024;

/// Who makes spans: a waypoint or gateway, at one of its ports.
#[derive(Debug)]
pub struct Origin {
    /// `<gateway>.<namespace>`: the service that the spans belong to.
    pub service: Arc<str>,
    operation: Operation,
    tags: Vec<Tag>,
}

/// How spans are called.
#[derive(Debug)]
enum Operation {
    /// After what the tunnel leads to.
    Destination(Arc<str>),
    /// After the service that was chosen; after the gateway where none was.
    Chosen(Arc<str>),
}

impl Origin {
    /// Spans of a proxy. `destination` is the host (or address) and port that a tunnel leads to, and
    /// `None` at gateways; `address` and `port` are where the proxy listens.
    #[must_use]
    pub fn new(
        proxy: &Proxy,
        mesh: &MeshSettings,
        address: IpAddr,
        port: u16,
        destination: Option<(&str, u16)>,
    ) -> Self {
        let Proxy {
            name, namespace, ..
        } = proxy;
        let service: Arc<str> = format!("{name}.{namespace}").into();
        let operation = match destination {
            Some((host, port)) => Operation::Destination(operation(host, port)),
            None => Operation::Chosen(operation(&service, port)),
        };
        let role = match proxy.role {
            ProxyRole::Waypoint => "waypoint",
            ProxyRole::Gateway => "router",
        };
        let domain = &mesh.cluster_domain;
        let node = format!("{role}~{address}~{service}~{namespace}.svc.{domain}");
        let tags = vec![
            Tag::literal("component", "proxy"),
            Tag::owned("node_id", node),
            Tag::shared("istio.canonical_service", name),
            Tag::literal("istio.canonical_revision", "latest"),
            // Istio's mesh id is the trust domain unless somebody names another.
            Tag::owned("istio.mesh_id", mesh.trust_domain.as_str().to_owned()),
            Tag::shared("istio.namespace", namespace),
            Tag::shared("istio.cluster_id", &mesh.cluster_id),
        ];
        Self {
            service,
            operation,
            tags,
        }
    }
}

fn operation(host: &str, port: u16) -> Arc<str> {
    format!("{host}:{port}/*").into()
}

/// A span whose exchange has just begun.
#[derive(Debug)]
pub struct OpenSpan {
    /// Its place in the trace.
    pub context: SpanContext,
    trace_state: Option<Box<str>>,
    start: SystemTime,
    method: Method,
    url: String,
    version: Version,
    request_id: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    downstream_cluster: Option<HeaderValue>,
    cluster: Option<Arc<Cluster>>,
    marks: Vec<(&'static str, Arc<str>)>,
}

impl OpenSpan {
    pub(super) fn new(
        request: &CanonicalRequest,
        context: SpanContext,
        trace_state: Option<Box<str>>,
        max_path_length: usize,
        start: SystemTime,
    ) -> Self {
        let sent = request.original_path.as_ref().unwrap_or(&request.path);
        let path = cut(sent.as_str(), max_path_length);
        Self {
            context,
            trace_state,
            start,
            method: request.method.clone(),
            url: format!("http://{}{path}", request.authority.as_str()),
            version: request.version,
            request_id: request.headers.get(&REQUEST_ID).cloned(),
            user_agent: request.headers.get(USER_AGENT).cloned(),
            downstream_cluster: request.headers.get(&DOWNSTREAM_CLUSTER).cloned(),
            cluster: None,
            marks: Vec::new(),
        }
    }

    /// Adds a tag that the span would not have by itself.
    pub fn mark(&mut self, name: &'static str, value: Arc<str>) {
        self.marks.push((name, value));
    }

    /// Notes where the request goes.
    pub fn routed(&mut self, cluster: Arc<Cluster>) {
        self.cluster = Some(cluster);
    }
}

/// One side of an exchange.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// What metrics call it.
    pub labels: &'a WorkloadLabels,
    /// The workload, where it is known.
    pub workload: Option<&'a Workload>,
}

/// What is known of an exchange when it is over.
#[derive(Clone, Copy, Debug)]
pub struct SpanEnd<'a> {
    /// From the first byte in to the last byte out.
    pub duration: Duration,
    /// Who connected.
    pub peer: SocketAddr,
    /// Whoever asked.
    pub source: Side<'a>,
    /// Whoever served, where somebody did.
    pub destination: Option<Side<'a>>,
    /// The endpoint.
    pub upstream: Option<SocketAddr>,
    /// Status; 0 when the client got none.
    pub code: u16,
    /// Response flags.
    pub flags: ResponseFlags,
    /// `grpc-status`.
    pub grpc_status: Option<GrpcStatus>,
    /// Body bytes from the client.
    pub request_bytes: u64,
    /// Body bytes to the client.
    pub response_bytes: u64,
}

/// One finished span.
#[derive(Debug)]
pub struct SpanRecord {
    /// Its place in the trace.
    pub context: SpanContext,
    /// W3C `tracestate`, where there was one.
    pub trace_state: Option<Box<str>>,
    /// Who made it.
    pub origin: Arc<Origin>,
    /// Its name, e.g. `reviews.default.svc.cluster.local:9080/*`.
    pub name: Arc<str>,
    /// When the exchange began.
    pub start: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// Who connected.
    pub peer: SocketAddr,
    /// The request's method.
    pub method: Method,
    /// The version the client spoke.
    pub version: Version,
    /// Status; 0 when the client got none.
    pub code: u16,
    /// Whether it failed on our side or the upstream's.
    pub error: bool,
    tags: Vec<Tag>,
}

impl SpanRecord {
    pub(super) fn new(open: OpenSpan, origin: &Arc<Origin>, end: &SpanEnd<'_>) -> Self {
        let error = failed(end);
        Self {
            tags: tags(&open, end, error),
            name: name(origin, open.cluster.as_deref()),
            context: open.context,
            trace_state: open.trace_state,
            origin: Arc::clone(origin),
            start: open.start,
            duration: end.duration,
            peer: end.peer,
            method: open.method,
            version: open.version,
            code: end.code,
            error,
        }
    }

    /// All its tags.
    pub fn tags(&self) -> impl Iterator<Item = &Tag> {
        self.origin.tags.iter().chain(&self.tags)
    }
}

/// One tag.
#[derive(Clone, Debug)]
pub struct Tag {
    /// Its name.
    pub key: &'static str,
    value: TagValue,
}

#[derive(Clone, Debug)]
enum TagValue {
    Literal(&'static str),
    Shared(Arc<str>),
    Owned(Box<str>),
}

impl Tag {
    /// Its value.
    #[must_use]
    pub fn value(&self) -> &str {
        match &self.value {
            TagValue::Literal(text) => text,
            TagValue::Shared(text) => text,
            TagValue::Owned(text) => text,
        }
    }

    fn literal(key: &'static str, value: &'static str) -> Self {
        let value = TagValue::Literal(value);
        Self { key, value }
    }

    fn shared(key: &'static str, value: &Arc<str>) -> Self {
        let value = TagValue::Shared(Arc::clone(value));
        Self { key, value }
    }

    fn owned(key: &'static str, value: String) -> Self {
        let value = TagValue::Owned(value.into());
        Self { key, value }
    }

    fn of_client(key: &'static str, value: Option<&HeaderValue>) -> Self {
        let Some(value) = value else {
            return Self::literal(key, "-");
        };
        let text = String::from_utf8_lossy(value.as_bytes());
        Self::owned(key, cut(&text, MAX_CLIENT_TEXT).to_owned())
    }
}

/// Envoy's rule: no answer, one of 500 and more, or a gRPC status that blames the server.
fn failed(end: &SpanEnd<'_>) -> bool {
    let grpc = end.grpc_status.map(GrpcStatus::code);
    end.code == 0 || end.code >= 500 || matches!(grpc, Some(2 | 4 | 12..=15))
}

fn name(origin: &Origin, cluster: Option<&Cluster>) -> Arc<str> {
    match &origin.operation {
        Operation::Destination(name) => Arc::clone(name),
        Operation::Chosen(ours) => cluster
            .and_then(|cluster| Some((cluster.service.as_ref()?, cluster.port)))
            .map_or_else(
                || Arc::clone(ours),
                |(service, port)| operation(service.hostname.as_str(), port),
            ),
    }
}

fn tags(open: &OpenSpan, end: &SpanEnd<'_>, error: bool) -> Vec<Tag> {
    let mut tags = Vec::with_capacity(40);
    tags.push(Tag::owned("http.url", open.url.clone()));
    tags.push(Tag::owned("http.method", open.method.as_str().to_owned()));
    tags.push(Tag::literal("http.protocol", protocol(open.version)));
    tags.push(Tag::owned("http.status_code", end.code.to_string()));
    tags.push(Tag::owned("response_flags", end.flags.to_string()));
    tags.push(Tag::of_client(
        "guid:x-request-id",
        open.request_id.as_ref(),
    ));
    tags.push(Tag::owned("request_size", end.request_bytes.to_string()));
    tags.push(Tag::owned("response_size", end.response_bytes.to_string()));
    tags.push(Tag::owned("peer.address", end.peer.ip().to_string()));
    tags.push(Tag::of_client("user_agent", open.user_agent.as_ref()));
    tags.push(Tag::of_client(
        "downstream_cluster",
        open.downstream_cluster.as_ref(),
    ));
    if let Some(cluster) = &open.cluster {
        tags.push(Tag::shared("upstream_cluster", &cluster.name));
        tags.push(Tag::shared("upstream_cluster.name", &cluster.name));
    }
    if let Some(upstream) = end.upstream {
        tags.push(Tag::owned("upstream_address", upstream.to_string()));
    }
    if let Some(status) = end.grpc_status {
        tags.push(Tag::owned("grpc.status_code", status.code().to_string()));
    }
    if error {
        tags.push(Tag::literal("error", "true"));
    }
    for (name, value) in &open.marks {
        tags.push(Tag::shared(name, value));
    }
    push_side(&mut tags, &end.source, &SOURCE_TAGS);
    if let Some(destination) = &end.destination {
        push_side(&mut tags, destination, &DESTINATION_TAGS);
    }
    tags
}

/// Names of the tags about one side, as its parts come in [`push_side`].
type SideTags = [&'static str; 10];

const SOURCE_TAGS: SideTags = [
    "istio.source_workload",
    "istio.source_namespace",
    "istio.source_cluster_id",
    "istio.source_canonical_service",
    "istio.source_canonical_revision",
    "istio.source_app",
    "istio.source_app_version",
    "istio.source_instance_name",
    "istio.downstream.workload",
    "istio.downstream.namespace",
];

const DESTINATION_TAGS: SideTags = [
    "istio.destination_workload",
    "istio.destination_namespace",
    "istio.destination_cluster_id",
    "istio.destination_canonical_service",
    "istio.destination_canonical_revision",
    "istio.destination_app",
    "istio.destination_app_version",
    "istio.destination_instance_name",
    "istio.upstream.workload",
    "istio.upstream.namespace",
];

/// What is not known has no tag, as in Istio.
fn push_side(tags: &mut Vec<Tag>, side: &Side<'_>, names: &SideTags) {
    let labels = side.labels;
    let known = *labels.workload != *UNKNOWN;
    let parts = [
        Some(&labels.workload),
        Some(&labels.namespace),
        Some(&labels.cluster),
        Some(&labels.canonical_service),
        known.then_some(&labels.canonical_revision),
        Some(&labels.app),
        Some(&labels.version),
        side.workload.map(|workload| &workload.name),
        Some(&labels.workload),
        Some(&labels.namespace),
    ];
    for (name, part) in names.iter().zip(parts) {
        if let Some(part) = part.filter(|part| ***part != *UNKNOWN) {
            tags.push(Tag::shared(name, part));
        }
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

/// The beginning of a text, whole characters only.
fn cut(text: &str, length: usize) -> &str {
    text.get(..text.floor_char_boundary(length)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use http::HeaderMap;
    use wayline_model::request::PathNormalization;
    use wayline_model::service::{AppProtocol, ClusterId, Service};
    use wayline_model::tracing::TraceHeaders;
    use wayline_model::{Hostname, Identity};

    use super::super::context::Incoming;
    use super::*;
    use crate::flags::ResponseFlag;

    fn proxy(role: ProxyRole) -> Proxy {
        Proxy {
            name: "waypoint".into(),
            namespace: "default".into(),
            class: "istio-waypoint".into(),
            role,
            proxy_protocol: None,
            identity: "spiffe://cluster.local/ns/default/sa/waypoint"
                .parse()
                .unwrap(),
        }
    }

    fn origin(role: ProxyRole, destination: Option<(&str, u16)>) -> Arc<Origin> {
        let mesh = MeshSettings::default();
        let address = "10.1.1.1".parse().unwrap();
        Arc::new(Origin::new(&proxy(role), &mesh, address, 80, destination))
    }

    fn open(headers: &[(&'static str, &'static str)], max_path_length: usize) -> OpenSpan {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_static(value));
        }
        let request = CanonicalRequest::new(
            Method::GET,
            &"http://reviews:9080/a/b?c=d".parse().unwrap(),
            Version::HTTP_11,
            map,
            PathNormalization::Base,
        )
        .unwrap();
        let incoming = Incoming::read(&request.headers, TraceHeaders::B3);
        let context = SpanContext::new(&incoming, true, false, || 7);
        OpenSpan::new(
            &request,
            context,
            None,
            max_path_length,
            SystemTime::UNIX_EPOCH,
        )
    }

    fn cluster() -> Arc<Cluster> {
        Arc::new(Cluster {
            id: ClusterId(1),
            name: "outbound|9080||reviews.default.svc.cluster.local".into(),
            service: Some(Arc::new(Service {
                name: "reviews".into(),
                namespace: "default".into(),
                hostname: Hostname::new("reviews.default.svc.cluster.local"),
                addresses: Vec::new(),
                network: "".into(),
                ports: Vec::new(),
            })),
            port: 9080,
            protocol: AppProtocol::Http,
            endpoints: Vec::new(),
            connect_timeout_ms: 1,
            prefers: wayline_model::service::Preference::Any,
        })
    }

    fn labels(name: &str) -> WorkloadLabels {
        let identity: Identity = "spiffe://cluster.local/ns/default/sa/x".parse().unwrap();
        WorkloadLabels {
            workload: name.into(),
            canonical_service: name.into(),
            ..WorkloadLabels::of_identity(&identity, &"Kubernetes".into())
        }
    }

    fn end<'a>(source: &'a WorkloadLabels, destination: Option<&'a WorkloadLabels>) -> SpanEnd<'a> {
        let side = |labels| Side {
            labels,
            workload: None,
        };
        SpanEnd {
            duration: Duration::from_millis(3),
            peer: "10.2.0.1:4000".parse().unwrap(),
            source: side(source),
            destination: destination.map(side),
            upstream: Some("10.2.0.9:9080".parse().unwrap()),
            code: 200,
            flags: ResponseFlags::NONE,
            grpc_status: None,
            request_bytes: 5,
            response_bytes: 11,
        }
    }

    fn tag_map(record: &SpanRecord) -> BTreeMap<&str, &str> {
        let tags: BTreeMap<_, _> = record.tags().map(|tag| (tag.key, tag.value())).collect();
        assert_eq!(tags.len(), record.tags().count(), "a tag comes twice");
        tags
    }

    #[test]
    fn a_span_has_the_tags_of_istio() {
        let mut span = open(
            &[
                ("x-request-id", "id-1"),
                ("user-agent", "curl/8"),
                ("x-envoy-downstream-service-cluster", "productpage.default"),
            ],
            256,
        );
        span.routed(cluster());
        let (from, to) = (labels("productpage-v1"), labels("reviews-v2"));
        let origin = origin(
            ProxyRole::Waypoint,
            Some(("reviews.default.svc.cluster.local", 9080)),
        );
        let record = SpanRecord::new(span, &origin, &end(&from, Some(&to)));
        assert_eq!(&*record.name, "reviews.default.svc.cluster.local:9080/*");
        assert_eq!(&*record.origin.service, "waypoint.default");
        let expected = [
            ("component", "proxy"),
            ("downstream_cluster", "productpage.default"),
            ("guid:x-request-id", "id-1"),
            ("http.method", "GET"),
            ("http.protocol", "HTTP/1.1"),
            ("http.status_code", "200"),
            ("http.url", "http://reviews:9080/a/b?c=d"),
            ("istio.canonical_revision", "latest"),
            ("istio.canonical_service", "waypoint"),
            ("istio.cluster_id", "Kubernetes"),
            ("istio.destination_canonical_revision", "latest"),
            ("istio.destination_canonical_service", "reviews-v2"),
            ("istio.destination_cluster_id", "Kubernetes"),
            ("istio.destination_namespace", "default"),
            ("istio.destination_workload", "reviews-v2"),
            ("istio.downstream.namespace", "default"),
            ("istio.downstream.workload", "productpage-v1"),
            ("istio.mesh_id", "cluster.local"),
            ("istio.namespace", "default"),
            ("istio.source_canonical_revision", "latest"),
            ("istio.source_canonical_service", "productpage-v1"),
            ("istio.source_cluster_id", "Kubernetes"),
            ("istio.source_namespace", "default"),
            ("istio.source_workload", "productpage-v1"),
            ("istio.upstream.namespace", "default"),
            ("istio.upstream.workload", "reviews-v2"),
            (
                "node_id",
                "waypoint~10.1.1.1~waypoint.default~default.svc.cluster.local",
            ),
            ("peer.address", "10.2.0.1"),
            ("request_size", "5"),
            ("response_flags", "-"),
            ("response_size", "11"),
            ("upstream_address", "10.2.0.9:9080"),
            (
                "upstream_cluster",
                "outbound|9080||reviews.default.svc.cluster.local",
            ),
            (
                "upstream_cluster.name",
                "outbound|9080||reviews.default.svc.cluster.local",
            ),
            ("user_agent", "curl/8"),
        ];
        assert_eq!(tag_map(&record), BTreeMap::from(expected));
    }

    #[test]
    fn failures_of_the_server_are_errors() {
        let from = labels("a");
        let origin = origin(ProxyRole::Waypoint, Some(("h", 1)));
        let error = |code, grpc: Option<u32>| {
            let end = SpanEnd {
                code,
                grpc_status: grpc.map(GrpcStatus::new),
                ..end(&from, None)
            };
            let record = SpanRecord::new(open(&[], 256), &origin, &end);
            assert_eq!(tag_map(&record).contains_key("error"), record.error);
            record.error
        };
        assert!(error(503, None));
        assert!(error(0, None));
        assert!(error(200, Some(14)));
        assert!(!error(200, Some(5)));
        assert!(!error(404, None));
    }

    #[test]
    fn texts_of_clients_are_cut_and_what_is_unknown_is_left_out() {
        let unknown = WorkloadLabels::unknown(&"".into());
        let origin = origin(ProxyRole::Gateway, None);
        let flags = ResponseFlags::NONE.with(ResponseFlag::NoRouteFound);
        let long: &'static str = Box::leak("x".repeat(5_000).into_boxed_str());
        let end = SpanEnd {
            flags,
            upstream: None,
            ..end(&unknown, None)
        };
        let record = SpanRecord::new(open(&[("user-agent", long)], 4), &origin, &end);
        let tags = tag_map(&record);
        assert_eq!(tags["http.url"], "http://reviews:9080/a/b");
        assert_eq!(tags["user_agent"].len(), MAX_CLIENT_TEXT);
        assert_eq!(tags["guid:x-request-id"], "-");
        assert_eq!(tags["response_flags"], "NR");
        assert!(tags["node_id"].starts_with("router~"));
        assert!(
            !tags
                .keys()
                .any(|key| key.starts_with("istio.source_") && *key != "istio.source_cluster_id")
        );
        assert_eq!(&*record.name, "waypoint.default:80/*");
    }

    #[test]
    fn spans_of_gateways_are_called_after_the_service_chosen() {
        let from = labels("a");
        let mut span = open(&[], 256);
        span.routed(cluster());
        let record = SpanRecord::new(span, &origin(ProxyRole::Gateway, None), &end(&from, None));
        assert_eq!(&*record.name, "reviews.default.svc.cluster.local:9080/*");
    }
}
