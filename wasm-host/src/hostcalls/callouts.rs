//! Reaching out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use wasmtime::Caller;
use wayline_chain::CalloutRequest;

use super::Table;
use crate::abi::HOST;
use crate::callouts::{self, RESPONSE_LIMIT};
use crate::memory::{parts, slice, write_u32};
use crate::pairs;
use crate::state::State;
use crate::status::{Status, code};

pub(super) fn offer(table: &mut Table) -> wasmtime::Result<()> {
    table.offer(HOST, "proxy_http_call", http_call)
}

/// Time for a callout whose module sets none.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);

#[allow(clippy::too_many_arguments, reason = "as the ABI has it")]
fn http_call(
    mut caller: Caller<'_, State>,
    upstream: u32,
    upstream_length: u32,
    headers: u32,
    headers_length: u32,
    body: u32,
    body_length: u32,
    trailers: u32,
    trailers_length: u32,
    timeout: u32,
    token_at: u32,
) -> u32 {
    let mut send = || {
        let (memory, state) = parts(&mut caller)?;
        slice(memory, token_at, 4)?;
        let backend = slice(memory, upstream, upstream_length)?;
        let head = pairs::decode(slice(memory, headers, headers_length)?).unwrap_or_default();
        let body = Bytes::copy_from_slice(slice(memory, body, body_length)?);
        let trailers = pairs::decode(slice(memory, trailers, trailers_length)?).unwrap_or_default();
        if timeout > i32::MAX as u32 {
            return Err(Status::BadArgument);
        }
        let backend = std::str::from_utf8(backend).map_err(|_| Status::BadArgument)?;
        let request = request(&head, body)?;
        let trailers = fields(&trailers)?;
        if !callouts::is_reachable(state, backend) {
            return Err(Status::BadArgument);
        }
        let request = CalloutRequest {
            backend: Arc::from(backend),
            request,
            trailers: (!trailers.is_empty()).then_some(trailers),
            deadline: deadline(timeout),
            response_limit: RESPONSE_LIMIT,
        };
        let token = callouts::send(state, request)?;
        write_u32(memory, token_at, token)
    };
    code(send())
}

fn deadline(milliseconds: u32) -> Duration {
    match milliseconds {
        0 => DEFAULT_DEADLINE,
        milliseconds => Duration::from_millis(milliseconds.into()),
    }
}

/// The request that a module describes. Method, path and authority must be there.
fn request(head: &[(&[u8], &[u8])], body: Bytes) -> Result<Request<Bytes>, Status> {
    let pseudo = |name: &str| {
        let found = head.iter().find(|(known, _)| *known == name.as_bytes());
        found.map(|(_, value)| *value).ok_or(Status::BadArgument)
    };
    let method = Method::from_bytes(pseudo(":method")?).map_err(|_| Status::BadArgument)?;
    let path = PathAndQuery::try_from(pseudo(":path")?).map_err(|_| Status::BadArgument)?;
    let authority = Authority::try_from(pseudo(":authority")?).map_err(|_| Status::BadArgument)?;
    let uri = Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(authority)
        .path_and_query(path)
        .build()
        .map_err(|_| Status::BadArgument)?;
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = fields(head)?;
    if !request.body().is_empty() {
        let length = request.body().len();
        request
            .headers_mut()
            .insert(http::header::CONTENT_LENGTH, length.into());
    }
    Ok(request)
}

/// Headers without those that have a meaning of their own.
fn fields(entries: &[(&[u8], &[u8])]) -> Result<HeaderMap, Status> {
    let mut headers = HeaderMap::with_capacity(entries.len());
    for (name, value) in entries {
        if name.starts_with(b":") {
            continue;
        }
        let name = HeaderName::from_bytes(name).map_err(|_| Status::BadArgument)?;
        let value = HeaderValue::from_bytes(value).map_err(|_| Status::BadArgument)?;
        let refused = crate::headers::is_framing(&name)
            || name == http::header::CONTENT_LENGTH
            || name == http::header::HOST;
        if !refused {
            headers.append(name, value);
        }
    }
    Ok(headers)
}
