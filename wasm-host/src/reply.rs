//! Answers made here, as their callers understand them: a gRPC client reads trailers, not statuses
//! (Envoy: `Grpc::Common::sendLocalReply`).

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use wayline_chain::{LocalReply, RequestContext};

const GRPC: &str = "application/grpc";
static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
static GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The reply for whoever sent this request.
pub(crate) fn for_caller(
    mut reply: LocalReply,
    grpc_status: Option<u32>,
    context: &RequestContext,
) -> LocalReply {
    if !is_grpc(&context.request().headers) {
        return reply;
    }
    let status = grpc_status.unwrap_or_else(|| grpc_status_of(reply.status));
    reply.headers.insert(GRPC_STATUS.clone(), status.into());
    let message = std::mem::replace(&mut reply.body, Bytes::new());
    if !message.is_empty()
        && let Ok(message) = HeaderValue::from_str(&percent_encoded(&message))
    {
        reply.headers.insert(GRPC_MESSAGE.clone(), message);
    }
    reply
        .headers
        .insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
    reply.status = StatusCode::OK;
    reply
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes) else {
        return false;
    };
    kind.strip_prefix(GRPC.as_bytes())
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// <https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>
fn grpc_status_of(status: StatusCode) -> u32 {
    match status.as_u16() {
        200 => 0,
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// As gRPC writes messages: what is printable as it is, all else in hexadecimal.
fn percent_encoded(message: &[u8]) -> String {
    let mut text = String::with_capacity(message.len());
    for byte in message {
        match byte {
            b' '..=b'~' if *byte != b'%' => text.push(char::from(*byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}
