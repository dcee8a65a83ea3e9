//! OTLP: protobuf, by gRPC or by HTTP/1.1.
//!
//! The unary call is HTTP/2 with a prefix of five bytes and a status in the trailers; that little is
//! done here over the connection that Zipkin uses as well, instead of by a gRPC stack.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::Version;
use http::header::{CONTENT_TYPE, HeaderValue, TE};
use http::uri::PathAndQuery;
use prost::Message as _;

use super::collector::{Answer, Collector, Delivery};
use super::messages::{
    AnyValue, ExportRequest, ExportResponse, KeyValue, Resource, ResourceSpans, Scalar, Scope,
    ScopeSpans, Span, Status,
};
use super::zipkin::nanos;
use super::{ExportError, LocalFuture, SpanExporter};
use crate::trace::span::SpanRecord;

const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// `SPAN_KIND_SERVER`.
const KIND_SERVER: i32 = 2;

/// `STATUS_CODE_ERROR`.
const STATUS_ERROR: i32 = 2;

/// `SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK` and `SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK`.
const PARENT_IS_REMOTE: u32 = 0x300;

/// A collector that speaks OTLP.
pub(super) struct Otlp {
    collector: Collector,
    grpc: bool,
    path: Result<PathAndQuery, String>,
}

impl Otlp {
    /// By gRPC.
    pub(super) fn grpc(collector: Collector) -> Self {
        Self {
            collector,
            grpc: true,
            path: Ok(PathAndQuery::from_static(GRPC_PATH)),
        }
    }

    /// By HTTP, to this path.
    pub(super) fn http(collector: Collector, path: &str) -> Self {
        Self {
            collector,
            grpc: false,
            path: parse_path(path),
        }
    }

    async fn send(&mut self, batch: &[SpanRecord]) -> Result<u64, ExportError> {
        let path = self.path.clone().map_err(ExportError::Refused)?;
        let message = encode(batch);
        let (kind, body) = if self.grpc {
            ("application/grpc", framed(&message))
        } else {
            ("application/x-protobuf", message.encode_to_vec().into())
        };
        let mut headers = vec![(CONTENT_TYPE, HeaderValue::from_static(kind))];
        if self.grpc {
            headers.push((TE, HeaderValue::from_static("trailers")));
        }
        let delivery = Delivery {
            http2: self.grpc,
            path,
            headers,
            body,
        };
        let answer = self.collector.post(delivery).await?;
        if self.grpc {
            judge_grpc(&answer)?;
            return Ok(rejected(answer.body.get(5..).unwrap_or_default()));
        }
        judge_http(&answer)?;
        Ok(rejected(&answer.body))
    }
}

impl SpanExporter for Otlp {
    fn export<'a>(
        &'a mut self,
        batch: &'a [SpanRecord],
    ) -> LocalFuture<'a, Result<u64, ExportError>> {
        Box::pin(self.send(batch))
    }
}

/// A path as written in the provider.
pub(super) fn parse_path(path: &str) -> Result<PathAndQuery, String> {
    PathAndQuery::try_from(path).map_err(|error| format!("`{path}` is not a path: {error}"))
}

/// A message without compression, as gRPC frames it.
fn framed(message: &ExportRequest) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    // A batch is bounded far below 4 GiB.
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    frame.put_slice(&message.encode_to_vec());
    frame.freeze()
}

fn judge_grpc(answer: &Answer) -> Result<(), ExportError> {
    if !answer.status.is_success() {
        return judge_http(answer);
    }
    // A failure may come without trailers, all in the head.
    let of = |name: &str| {
        answer
            .trailers
            .get(name)
            .or_else(|| answer.headers.get(name))
    };
    let Some(status) = of("grpc-status") else {
        let reason = "the answer has no grpc-status".to_owned();
        return Err(ExportError::NotReady(reason));
    };
    let message = of("grpc-message").and_then(|message| message.to_str().ok());
    let reason = || {
        let status = status.to_str().unwrap_or("?");
        format!("grpc-status {status} {}", message.unwrap_or_default())
    };
    // The codes that OTLP wants tried again.
    match status.as_bytes() {
        b"0" => Ok(()),
        b"1" | b"4" | b"10" | b"11" | b"14" | b"15" => Err(ExportError::NotReady(reason())),
        _ => Err(ExportError::Refused(reason())),
    }
}

fn judge_http(answer: &Answer) -> Result<(), ExportError> {
    match answer.status.as_u16() {
        200..=299 => Ok(()),
        429 | 502 | 503 | 504 => Err(ExportError::NotReady(answer.status.to_string())),
        _ => Err(ExportError::Refused(answer.status.to_string())),
    }
}

/// A collector may take the call and not all of its spans: how many it did not. They must not be
/// sent again.
fn rejected(body: &[u8]) -> u64 {
    let answer = ExportResponse::decode(body).unwrap_or_default();
    let partial = answer.partial_success.unwrap_or_default();
    if partial.rejected_spans > 0 {
        tracing::warn!(
            spans = partial.rejected_spans,
            "the collector refused spans: {}",
            partial.error_message
        );
    }
    u64::try_from(partial.rejected_spans).unwrap_or_default()
}

fn encode(batch: &[SpanRecord]) -> ExportRequest {
    let mut resource_spans: Vec<(&str, ResourceSpans)> = Vec::new();
    for record in batch {
        let service = &*record.origin.service;
        let known = resource_spans.iter().position(|(name, _)| *name == service);
        let index = known.unwrap_or_else(|| {
            resource_spans.push((service, resource(service)));
            resource_spans.len() - 1
        });
        let scope = resource_spans
            .get_mut(index)
            .and_then(|(_, resource)| resource.scope_spans.first_mut());
        if let Some(scope) = scope {
            scope.spans.push(span(record));
        }
    }
    ExportRequest {
        resource_spans: resource_spans.into_iter().map(|(_, spans)| spans).collect(),
    }
}

fn resource(service: &str) -> ResourceSpans {
    ResourceSpans {
        resource: Some(Resource {
            attributes: vec![text("service.name", service)],
        }),
        scope_spans: vec![ScopeSpans {
            scope: Some(Scope {
                name: "wayline".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            }),
            spans: Vec::new(),
        }],
    }
}

fn span(record: &SpanRecord) -> Span {
    let context = &record.context;
    let tags = record.tags().map(|tag| text(tag.key, tag.value()));
    let remote = context.parent.map_or(0, |_| PARENT_IS_REMOTE);
    Span {
        trace_id: context.trace_id.to_bytes().to_vec(),
        span_id: context.span_id.to_bytes().to_vec(),
        trace_state: record.trace_state.as_deref().unwrap_or_default().to_owned(),
        parent_span_id: context
            .parent
            .map(|parent| parent.to_bytes().to_vec())
            .unwrap_or_default(),
        name: record.name.to_string(),
        kind: KIND_SERVER,
        start_time_unix_nano: nanos(record.start),
        end_time_unix_nano: nanos(record.start + record.duration),
        attributes: tags.chain(semantic(record)).collect(),
        status: Some(Status {
            code: if record.error { STATUS_ERROR } else { 0 },
        }),
        flags: remote | u32::from(context.sampled),
    }
}

/// OpenTelemetry's names for what Envoy's tags say, so that tools of either kind find theirs.
fn semantic(record: &SpanRecord) -> impl Iterator<Item = KeyValue> {
    let version = match record.version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    };
    let status = (record.code > 0).then(|| int("http.response.status_code", record.code.into()));
    let error = record.error.then(|| {
        let kind = match record.code {
            code @ 500.. => code.to_string(),
            _ => "_OTHER".to_owned(),
        };
        text("error.type", &kind)
    });
    let always = [
        text("http.request.method", record.method.as_str()),
        text("url.scheme", "http"),
        text("network.protocol.version", version),
        text("client.address", &record.peer.ip().to_string()),
        int("client.port", record.peer.port().into()),
    ];
    always.into_iter().chain(status).chain(error)
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Scalar::Text(value.to_owned()))
}

fn int(key: &str, value: i64) -> KeyValue {
    pair(key, Scalar::Int(value))
}

fn pair(key: &str, value: Scalar) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
    }
}
