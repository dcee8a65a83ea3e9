//! Every way in which the data path itself ends an exchange: one table from cause to status, response
//! flags, details and body, so that client, log and metrics never disagree. Names and texts are Envoy's.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use wayline_chain::LocalReply;
use wayline_model::request::RequestError;
use wayline_telemetry::{ResponseFlag, ResponseFlags};

use super::body::BodyError;
use crate::upstream::send::UpstreamError;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// A cause and what it looks like from outside.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What the client gets.
    pub(crate) reply: LocalReply,
    /// What log and metrics show.
    pub(crate) flags: ResponseFlags,
}

/// The request has several readings, or none.
pub(crate) fn bad_request(error: &RequestError) -> Failure {
    const BAD: StatusCode = StatusCode::BAD_REQUEST;
    let (status, details) = match error {
        RequestError::Authority(_) => (BAD, "request.invalid_authority"),
        RequestError::Method(_) => (BAD, "request.invalid_method"),
        RequestError::Path(_) => (BAD, "request.invalid_path"),
        RequestError::Header(_) => (BAD, "request.invalid_header"),
        RequestError::TooManyFields => (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "request.too_many_fields",
        ),
        RequestError::Connect => (BAD, "request.connect"),
        RequestError::Expectation => (StatusCode::EXPECTATION_FAILED, "request.expectation"),
    };
    let text = status.canonical_reason().unwrap_or_default();
    Failure {
        reply: LocalReply::text(status, text, details),
        flags: ResponseFlag::DownstreamProtocolError.into(),
    }
}

/// More is asked of us than we can hold.
pub(crate) fn overloaded() -> Failure {
    Failure {
        reply: LocalReply::text(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "overload"),
        flags: ResponseFlag::OverloadManager.into(),
    }
}

/// What the connection was opened for is not served any more.
pub(crate) fn not_served() -> Failure {
    Failure {
        reply: LocalReply::text(StatusCode::SERVICE_UNAVAILABLE, "", "cluster_not_found"),
        flags: ResponseFlag::NoClusterFound.into(),
    }
}

/// `OPTIONS *` asks the proxy itself what it can do (RFC 9110 §9.3.7): nothing in particular.
pub(crate) fn options() -> LocalReply {
    LocalReply::text(StatusCode::OK, "", "server_options")
}

/// No route matches.
pub(crate) fn no_route() -> Failure {
    Failure {
        reply: LocalReply::text(StatusCode::NOT_FOUND, "", "route_not_found"),
        flags: ResponseFlag::NoRouteFound.into(),
    }
}

/// A rule asks a server whether requests may pass, and it was not asked about this one.
pub(crate) fn not_asked() -> Failure {
    Failure {
        reply: LocalReply::text(StatusCode::FORBIDDEN, "", "ext_authz_denied"),
        flags: ResponseFlags::NONE,
    }
}

/// The answer to a preflight.
pub(crate) fn preflight(response: Response<()>) -> LocalReply {
    let (parts, ()) = response.into_parts();
    LocalReply {
        status: parts.status,
        headers: parts.headers,
        body: Bytes::new(),
        details: "cors_response".into(),
    }
}

/// A rule, or the backend it chose, is not usable.
pub(crate) fn broken_route(status: StatusCode, reason: &Arc<str>) -> Failure {
    Failure {
        reply: LocalReply::text(status, "", Arc::clone(reason)),
        flags: ResponseFlags::NONE,
    }
}

/// Neither side said anything for too long; before the end of the request the client is to blame.
pub(crate) fn stalled(request_is_complete: bool) -> Failure {
    let status = if request_is_complete {
        StatusCode::GATEWAY_TIMEOUT
    } else {
        StatusCode::REQUEST_TIMEOUT
    };
    Failure {
        reply: LocalReply::text(status, "stream timeout", "stream_idle_timeout"),
        flags: ResponseFlag::StreamIdleTimeout.into(),
    }
}

/// The backend gave no response.
pub(crate) fn upstream(error: &UpstreamError) -> Failure {
    let (status, body, details, flags): (StatusCode, Bytes, Arc<str>, ResponseFlags) = match error {
        UpstreamError::NoEndpoint => (
            StatusCode::SERVICE_UNAVAILABLE,
            Bytes::from_static(b"no healthy upstream"),
            "no_healthy_upstream".into(),
            ResponseFlag::NoHealthyUpstream.into(),
        ),
        UpstreamError::Connect { reason, retried } => (
            StatusCode::SERVICE_UNAVAILABLE,
            before_headers(
                *retried,
                &format!("remote connection failure, transport failure reason: {reason}"),
            ),
            format!("upstream_reset_before_response_started{{remote_connection_failure|{reason}}}")
                .into(),
            with_retries(ResponseFlag::UpstreamConnectionFailure, *retried),
        ),
        UpstreamError::Reset { retried } => (
            StatusCode::SERVICE_UNAVAILABLE,
            before_headers(*retried, "connection termination"),
            "upstream_reset_before_response_started{connection_termination}".into(),
            with_retries(ResponseFlag::UpstreamConnectionTermination, *retried),
        ),
        UpstreamError::Protocol => (
            StatusCode::BAD_GATEWAY,
            before_headers(false, "protocol error"),
            "upstream_reset_before_response_started{protocol_error}".into(),
            ResponseFlag::UpstreamProtocolError.into(),
        ),
        UpstreamError::AttemptTimeout { retried } => {
            timed_out("upstream_per_try_timeout", *retried)
        }
        UpstreamError::RequestTimeout => timed_out("response_timeout", false),
        UpstreamError::SlowClient => (
            StatusCode::REQUEST_TIMEOUT,
            Bytes::from_static(b"request body too slow"),
            "request_body_timeout".into(),
            ResponseFlag::StreamIdleTimeout.into(),
        ),
        UpstreamError::Client => (
            StatusCode::BAD_REQUEST,
            Bytes::new(),
            "downstream_remote_disconnect".into(),
            ResponseFlag::DownstreamConnectionTermination.into(),
        ),
    };
    let mut headers = HeaderMap::with_capacity(1);
    if !body.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    Failure {
        reply: LocalReply {
            status,
            headers,
            body,
            details,
        },
        flags,
    }
}

/// A reply as a gRPC client understands it: status 200 without a body, and the failure in headers
/// ("Trailers-Only" in gRPC over HTTP/2). The code follows the status as Envoy has it
/// (source/common/grpc/utility.cc), unless the reply names one itself.
pub(crate) fn for_grpc(mut reply: LocalReply) -> LocalReply {
    let code = match reply.status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    };
    let headers = &mut reply.headers;
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers
        .entry(GRPC_STATUS)
        .or_insert_with(|| HeaderValue::from(code));
    let body = std::mem::take(&mut reply.body);
    if !body.is_empty() && !headers.contains_key(GRPC_MESSAGE) {
        headers.insert(GRPC_MESSAGE, percent_encoded(&body));
    }
    reply.status = StatusCode::OK;
    reply
}

/// gRPC's encoding of a message: what is not printable ASCII, and the percent sign, as `%XX`.
fn percent_encoded(text: &[u8]) -> HeaderValue {
    let mut encoded = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b' '..=b'~' if *byte != b'%' => encoded.push(char::from(*byte)),
            _ => {
                let _infallible = write!(encoded, "%{byte:02X}");
            }
        }
    }
    HeaderValue::try_from(encoded).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The response broke off behind its head.
pub(crate) fn broken_body(error: &BodyError) -> (ResponseFlag, &'static str) {
    match error {
        BodyError::Timeout => (ResponseFlag::UpstreamRequestTimeout, "response_timeout"),
        BodyError::Slow
        | BodyError::Broken(_)
        | BodyError::Filter
        | BodyError::Superseded
        | BodyError::Tapped
        | BodyError::Upstream => (
            ResponseFlag::UpstreamConnectionTermination,
            "upstream_reset_after_response_started{connection_termination}",
        ),
    }
}

fn timed_out(details: &str, retried: bool) -> (StatusCode, Bytes, Arc<str>, ResponseFlags) {
    (
        StatusCode::GATEWAY_TIMEOUT,
        Bytes::from_static(b"upstream request timeout"),
        details.into(),
        with_retries(ResponseFlag::UpstreamRequestTimeout, retried),
    )
}

fn before_headers(retried: bool, reason: &str) -> Bytes {
    let how = if retried {
        "retried and the latest reset reason"
    } else {
        "reset reason"
    };
    format!("upstream connect error or disconnect/reset before headers. {how}: {reason}").into()
}

fn with_retries(flag: ResponseFlag, retried: bool) -> ResponseFlags {
    let mut flags = ResponseFlags::from(flag);
    if retried {
        flags.insert(ResponseFlag::UpstreamRetryLimitExceeded);
    }
    flags
}
