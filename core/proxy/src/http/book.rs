//! The book of one exchange: opened with its first byte, closed when the last byte or a reset was seen.
//!
//! Closing happens on drop, so that whatever ends an exchange (a reset, a cancelled stream, a panic in
//! a filter) is counted and logged like any other end.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use wayline_chain::LocalReply;
use wayline_model::CanonicalRequest;
use wayline_model::authorization::Marks;
use wayline_model::ext_authz::DynamicMetadata;
use wayline_telemetry::trace::{OpenSpan, Side, SpanEnd};
use wayline_telemetry::{
    DestinationId, GrpcStatus, Record, RequestKey, RequestProtocol, RequestSample, ResponseFlag,
    ResponseFlags,
};

use super::body::ClientBody;
use super::reply;
use crate::ingress::Ingress;
use crate::limits::Lease;
use crate::plan::{Bound, Plan};
use crate::upstream::Attempts;

/// One exchange as metrics and logs will tell it.
pub(crate) struct Book {
    ingress: Rc<Ingress>,
    plan: Rc<Plan>,
    bound: Option<Rc<Bound>>,
    started: Instant,
    /// Status sent to the client; 0 until a head was made.
    pub(crate) code: u16,
    /// Why it ended as it did.
    pub(crate) flags: ResponseFlags,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub(crate) details: Details,
    /// HTTP or gRPC.
    pub(crate) protocol: RequestProtocol,
    /// `grpc-status`, from head or trailers.
    pub(crate) grpc_status: Option<GrpcStatus>,
    /// The service that was chosen, if any.
    pub(crate) destination: Option<DestinationId>,
    /// What was tried upstream.
    pub(crate) attempts: Attempts,
    /// The request body, for its length.
    pub(crate) request_body: Option<Rc<ClientBody>>,
    /// Bytes received in another protocol that an upgrade has led to.
    pub(crate) switched_bytes: u64,
    /// Body bytes sent to the client.
    pub(crate) response_bytes: u64,
    /// Whether the response was handed over to its end.
    pub(crate) complete: bool,
    /// What only the access log needs, when there is one.
    pub(crate) log: Option<Box<LogPage>>,
    /// The span, when one is recorded.
    pub(crate) span: Option<Box<OpenSpan>>,
    /// The memory of its head, until the exchange is over.
    pub(crate) head: Option<(Lease, Lease)>,
}

/// What only the access log needs.
pub(crate) struct LogPage {
    start: SystemTime,
    method: Method,
    authority: String,
    path: String,
    /// Path and query before a rewrite.
    original_path: Option<String>,
    version: Version,
    request_headers: HeaderMap,
    /// Headers sent to the client.
    pub(crate) response_headers: HeaderMap,
    /// What servers that were asked told.
    pub(crate) metadata: Option<Box<DynamicMetadata>>,
    /// What policies said that changes nothing.
    pub(crate) marks: Option<Box<Marks>>,
    /// Name of the rule.
    pub(crate) route: Option<Arc<str>>,
    /// Name of the cluster.
    pub(crate) cluster: Option<Arc<str>>,
    /// How long the upstream took to answer.
    pub(crate) service_time: Option<Duration>,
}

/// What is known of a request that is refused before it is one.
pub(crate) struct Sent {
    method: Method,
    uri: Uri,
    host: Option<HeaderValue>,
    version: Version,
}

impl Sent {
    /// The head as it was sent.
    pub(crate) fn of(parts: &Parts) -> Self {
        Self {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            host: parts.headers.get(HOST).cloned(),
            version: parts.version,
        }
    }

    fn authority(&self) -> String {
        match (self.uri.authority(), &self.host) {
            (Some(authority), _) => authority.as_str().to_owned(),
            (None, Some(host)) => String::from_utf8_lossy(host.as_bytes()).into_owned(),
            (None, None) => "-".to_owned(),
        }
    }

    fn path(&self) -> String {
        let path = self.uri.path_and_query();
        path.map_or("-", |path| path.as_str()).to_owned()
    }
}

impl Default for Sent {
    /// Not even a head.
    fn default() -> Self {
        Self {
            method: Method::from_bytes(b"-").unwrap_or_default(),
            uri: Uri::from_static("-"),
            host: None,
            version: Version::HTTP_11,
        }
    }
}

/// `%RESPONSE_CODE_DETAILS%`, mostly a literal.
#[derive(Clone, Debug)]
pub(crate) enum Details {
    /// A literal.
    Static(&'static str),
    /// A text made for this exchange or configured.
    Shared(Arc<str>),
}

impl Details {
    fn as_str(&self) -> &str {
        match self {
            Self::Static(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl LogPage {
    /// Notes the path that goes upstream in the place of the one that was sent.
    pub(crate) fn rewritten(&mut self, path: &str) {
        self.original_path = Some(std::mem::replace(&mut self.path, path.to_owned()));
    }
}

impl Book {
    /// Opens the book of an exchange that has just begun.
    pub(crate) fn open(ingress: &Rc<Ingress>, plan: Rc<Plan>, bound: Option<Rc<Bound>>) -> Self {
        Self {
            ingress: Rc::clone(ingress),
            plan,
            bound,
            started: Instant::now(),
            code: 0,
            flags: ResponseFlags::NONE,
            details: Details::Static("-"),
            protocol: RequestProtocol::Http,
            grpc_status: None,
            destination: None,
            attempts: Attempts::default(),
            request_body: None,
            switched_bytes: 0,
            response_bytes: 0,
            complete: false,
            log: None,
            span: None,
            head: None,
        }
    }

    /// Notes what was asked.
    pub(crate) fn request(&mut self, request: &CanonicalRequest) {
        if self.plan.log.is_some() {
            self.log = Some(Box::new(LogPage {
                start: SystemTime::now(),
                method: request.method.clone(),
                authority: request.authority.as_str().to_owned(),
                path: request.path.as_str().to_owned(),
                original_path: None,
                version: request.version,
                request_headers: request.headers.clone(),
                response_headers: HeaderMap::new(),
                metadata: None,
                marks: None,
                route: None,
                cluster: None,
                service_time: None,
            }));
        }
    }

    /// Whether requests are logged here.
    pub(crate) fn is_logged(&self) -> bool {
        self.plan.log.is_some()
    }

    /// Notes a request that has no reading.
    pub(crate) fn malformed(&mut self, sent: Option<Sent>) {
        let Some(sent) = sent.filter(|_| self.is_logged()) else {
            return;
        };
        self.log = Some(Box::new(LogPage {
            start: SystemTime::now(),
            authority: sent.authority(),
            path: sent.path(),
            method: sent.method,
            original_path: None,
            version: sent.version,
            request_headers: HeaderMap::new(),
            response_headers: HeaderMap::new(),
            metadata: None,
            marks: None,
            route: None,
            cluster: None,
            service_time: None,
        }));
    }

    /// What is in force for the exchange.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Notes an answer made here, and gives it the shape that the client understands.
    #[must_use]
    pub(crate) fn local(&mut self, reply: LocalReply, flags: ResponseFlags) -> LocalReply {
        self.note(&reply, flags);
        match self.protocol {
            RequestProtocol::Grpc => reply::for_grpc(reply),
            _ => reply,
        }
    }

    /// Notes an answer made here that goes out as it is.
    pub(crate) fn note(&mut self, reply: &LocalReply, flags: ResponseFlags) {
        for flag in flags.iter() {
            self.flags.insert(flag);
        }
        // Filters give details only; Envoy has a flag for these, too.
        if reply.details.starts_with("ext_authz_") {
            self.flags.insert(ResponseFlag::UnauthorizedExternalService);
        }
        self.details = Details::Shared(Arc::clone(&reply.details));
    }

    /// When the exchange began.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Time since the exchange began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Notes that the response breaks off here.
    pub(crate) fn cut_short(&self) {
        self.ingress.gate.cut_short();
    }

    fn count(&self, duration: Duration) {
        let worker = &self.ingress.worker;
        let Some(bound) = &self.bound else {
            return;
        };
        let (reporter, peer) = self.ingress.reporter(bound);
        let endpoint = self.attempts.endpoint.as_ref();
        worker.metrics.record_request(
            &RequestKey {
                reporter,
                peer,
                destination: self.destination.as_ref().unwrap_or(&bound.destination),
                workload: endpoint
                    .map_or(&self.plan.unknown_workload, |endpoint| &endpoint.workload),
                response_code: self.code,
                flags: self.flags,
                protocol: self.protocol,
                security: self.ingress.security(),
                grpc_status: self.grpc_status,
            },
            RequestSample {
                duration,
                request_bytes: self.received(),
                response_bytes: self.response_bytes,
            },
        );
    }

    fn received(&self) -> u64 {
        let body = self.request_body.as_ref();
        body.map_or(0, |body| body.received()) + self.switched_bytes
    }

    fn trace(&mut self, duration: Duration) {
        let Some(span) = self.span.take() else {
            return;
        };
        let origin = self.bound.as_ref().and_then(|bound| bound.origin.as_ref());
        let (Some(tracing), Some(origin)) = (&self.plan.tracing, origin) else {
            return;
        };
        let connection = &self.ingress.connection;
        let endpoint = self.attempts.endpoint.as_ref();
        let end = SpanEnd {
            duration,
            peer: connection.source,
            source: Side {
                labels: self.ingress.peer.labels(),
                workload: connection.workload.as_deref(),
            },
            destination: endpoint.map(|endpoint| Side {
                labels: endpoint.workload.labels(),
                workload: endpoint.endpoint.workload.as_deref(),
            }),
            upstream: endpoint.map(|endpoint| endpoint.endpoint.address),
            code: self.code,
            flags: self.flags,
            grpc_status: self.grpc_status,
            request_bytes: self.received(),
            response_bytes: self.response_bytes,
        };
        tracing.tracer.close(*span, origin, &end);
    }

    fn write(&self, duration: Duration) {
        let (Some(log), Some(page)) = (&self.plan.log, &self.log) else {
            return;
        };
        let connection = &self.ingress.connection;
        let endpoint = self.attempts.endpoint.as_ref();
        let bound = self.bound.as_ref();
        log.writer.log(&Record {
            upstream_service_time: page.service_time,
            response_duration: page.service_time,
            method: Some(&page.method),
            scheme: Some("http"),
            authority: Some(&page.authority),
            path: Some(&page.path),
            original_path: page.original_path.as_deref(),
            protocol: Some(page.version),
            request_headers: Some(&page.request_headers),
            response_headers: Some(&page.response_headers),
            response_code: self.code,
            flags: self.flags,
            details: Some(self.details.as_str()),
            upstream_transport_failure: self.attempts.transport_failure.as_deref(),
            bytes_received: self.received(),
            bytes_sent: self.response_bytes,
            upstream_host: endpoint.map(|endpoint| endpoint.endpoint.address),
            upstream_cluster: page.cluster.as_deref(),
            upstream_attempts: self.attempts.count,
            upstream_identity: endpoint.and_then(|endpoint| endpoint.identity()),
            downstream_local_address: Some(connection.local),
            downstream_remote_address: Some(connection.source),
            downstream_identity: connection.identity.as_ref().map(|identity| identity.uri()),
            downstream_local_identity: bound.map(|bound| bound.place.proxy().identity.uri()),
            requested_server_name: connection.sni.as_deref(),
            route_name: page.route.as_deref(),
            metadata: page.metadata.as_deref(),
            marks: page.marks.as_deref(),
            ..Record::new(page.start, duration)
        });
    }
}

impl Drop for Book {
    fn drop(&mut self) {
        if !self.complete && self.flags.is_empty() {
            self.flags
                .insert(ResponseFlag::DownstreamConnectionTermination);
            if matches!(self.details, Details::Static(_)) {
                self.details = Details::Static("downstream_remote_disconnect");
            }
        }
        let duration = self.started.elapsed();
        self.count(duration);
        self.write(duration);
        self.trace(duration);
        if !self.complete && self.code != 0 {
            self.cut_short();
        }
        self.ingress.gate.open();
    }
}
