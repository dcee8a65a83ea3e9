//! Zipkin: its JSON, version 2, by HTTP/1.1.
//!
//! Written here rather than taken from `opentelemetry-zipkin`: that crate (deprecated upstream, to be
//! removed) puts no service name into `localEndpoint`, without which Zipkin shows no service at all,
//! and writes a parent of zeros for the first span of a trace.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::uri::PathAndQuery;
use serde_json::{Map, Value, json};

use super::collector::{Collector, Delivery};
use super::{ExportError, LocalFuture, SpanExporter};
use crate::trace::span::SpanRecord;

/// A collector that speaks Zipkin.
pub(super) struct Zipkin {
    collector: Collector,
    path: Result<PathAndQuery, String>,
}

impl Zipkin {
    /// Spans go to this path.
    pub(super) fn new(collector: Collector, path: &str) -> Self {
        Self {
            collector,
            path: super::otlp::parse_path(path),
        }
    }
}

impl SpanExporter for Zipkin {
    fn export<'a>(
        &'a mut self,
        batch: &'a [SpanRecord],
    ) -> LocalFuture<'a, Result<u64, ExportError>> {
        Box::pin(async move {
            let path = self.path.clone().map_err(ExportError::Refused)?;
            let delivery = Delivery {
                http2: false,
                path,
                headers: vec![(CONTENT_TYPE, HeaderValue::from_static("application/json"))],
                body: Bytes::from(encode(batch)),
            };
            let answer = self.collector.post(delivery).await?;
            let status = answer.status;
            if status.is_success() {
                return Ok(0);
            }
            let said = String::from_utf8_lossy(&answer.body);
            let reason = format!("{status} {}", said.chars().take(200).collect::<String>());
            if status.is_server_error() || status.as_u16() == 429 {
                Err(ExportError::NotReady(reason))
            } else {
                Err(ExportError::Refused(reason))
            }
        })
    }
}

fn encode(batch: &[SpanRecord]) -> String {
    Value::Array(batch.iter().map(span).collect()).to_string()
}

fn span(record: &SpanRecord) -> Value {
    let context = &record.context;
    let mut span = json!({
        "traceId": context.trace_id.to_string(),
        "id": context.span_id.to_string(),
        "kind": "SERVER",
        "name": &*record.name,
        "timestamp": micros(record.start.duration_since(UNIX_EPOCH).unwrap_or_default()),
        // Zipkin takes zero for "not known".
        "duration": micros(record.duration).max(1),
        "localEndpoint": {"serviceName": &*record.origin.service},
        "remoteEndpoint": endpoint(record.peer),
        "tags": tags(record),
    });
    if let Some(parent) = context.parent {
        span["parentId"] = parent.to_string().into();
    }
    if context.debug {
        span["debug"] = true.into();
    }
    span
}

fn endpoint(address: SocketAddr) -> Value {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => json!({"ipv4": ip.to_string(), "port": address.port()}),
        IpAddr::V6(ip) => json!({"ipv6": ip.to_string(), "port": address.port()}),
    }
}

fn tags(record: &SpanRecord) -> Map<String, Value> {
    record
        .tags()
        .map(|tag| (tag.key.to_owned(), tag.value().into()))
        .collect()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Nanoseconds since 1970, as OTLP counts.
pub(super) fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
