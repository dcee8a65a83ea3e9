//! Reaching out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, TE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use wasmtime::Caller;
use wayline_chain::CalloutRequest;

use super::Table;
use crate::abi::HOST;
use crate::callouts::{self, Kind, RESPONSE_LIMIT};
use crate::memory::{parts, slice, write_u32};
use crate::pairs;
use crate::protobuf::field;
use crate::state::State;
use crate::status::{Answer, Status, code};

pub(super) fn offer(table: &mut Table) -> wasmtime::Result<()> {
    table.offer(HOST, "proxy_http_call", http_call)?;
    table.offer(HOST, "proxy_grpc_call", grpc_call)?;
    table.offer(HOST, "proxy_grpc_stream", grpc_stream)?;
    table.offer(HOST, "proxy_grpc_send", grpc_send)?;
    table.offer(HOST, "proxy_grpc_cancel", grpc_cancel)?;
    table.offer(HOST, "proxy_grpc_close", grpc_close)
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

#[allow(clippy::too_many_arguments, reason = "as the ABI has it")]
fn grpc_call(
    mut caller: Caller<'_, State>,
    upstream: u32,
    upstream_length: u32,
    service: u32,
    service_length: u32,
    method: u32,
    method_length: u32,
    metadata: u32,
    metadata_length: u32,
    message: u32,
    message_length: u32,
    timeout: u32,
    token_at: u32,
) -> u32 {
    let mut send = || {
        let (memory, state) = parts(&mut caller)?;
        slice(memory, token_at, 4)?;
        let backend = slice(memory, upstream, upstream_length)?;
        let method = (
            slice(memory, service, service_length)?,
            slice(memory, method, method_length)?,
        );
        let metadata = slice(memory, metadata, metadata_length)?;
        let message = slice(memory, message, message_length)?;
        let backend = grpc_backend(state, backend)?;
        let request = grpc_request(backend, method, metadata)?;
        let deadline = Some(deadline(timeout));
        let first = Some(message);
        let token = callouts::open(state, Kind::GrpcCall, backend, request, first, deadline)?;
        write_u32(memory, token_at, token)
    };
    code(send())
}

#[allow(clippy::too_many_arguments, reason = "as the ABI has it")]
fn grpc_stream(
    mut caller: Caller<'_, State>,
    upstream: u32,
    upstream_length: u32,
    service: u32,
    service_length: u32,
    method: u32,
    method_length: u32,
    metadata: u32,
    metadata_length: u32,
    token_at: u32,
) -> u32 {
    let mut open = || {
        let (memory, state) = parts(&mut caller)?;
        slice(memory, token_at, 4)?;
        let backend = slice(memory, upstream, upstream_length)?;
        let method = (
            slice(memory, service, service_length)?,
            slice(memory, method, method_length)?,
        );
        let metadata = slice(memory, metadata, metadata_length)?;
        let backend = grpc_backend(state, backend)?;
        let request = grpc_request(backend, method, metadata)?;
        let token = callouts::open(state, Kind::GrpcStream, backend, request, None, None)?;
        write_u32(memory, token_at, token)
    };
    code(open())
}

fn grpc_send(
    mut caller: Caller<'_, State>,
    token: u32,
    message: u32,
    length: u32,
    end_of_stream: u32,
) -> u32 {
    let mut send = || {
        let (memory, state) = parts(&mut caller)?;
        let message = slice(memory, message, length)?;
        let (kind, outbox) = state.callouts.outbox(token)?;
        if kind != Kind::GrpcStream {
            return Err(Status::BadArgument);
        }
        if !outbox.send(message) {
            return Err(Status::InternalFailure);
        }
        if end_of_stream != 0 {
            outbox.end();
        }
        Ok(())
    };
    code(send())
}

fn grpc_cancel(mut caller: Caller<'_, State>, token: u32) -> u32 {
    code(cancel(caller.data_mut(), token))
}

fn grpc_close(mut caller: Caller<'_, State>, token: u32) -> u32 {
    let mut close = || {
        let state = caller.data_mut();
        let (kind, outbox) = state.callouts.outbox(token)?;
        if kind == Kind::GrpcStream {
            outbox.end();
            return Ok(());
        }
        cancel(state, token)
    };
    code(close())
}

fn cancel(state: &mut State, token: u32) -> Answer {
    state.callouts.outbox(token)?;
    let owner = state.callouts.cancel(token);
    callouts::settle(state, owner);
    Ok(())
}

/// The backend of a gRPC call: its name, or Envoy's `GrpcService` with one in it, as the C++ SDK has it.
fn grpc_backend<'m>(state: &State, named: &'m [u8]) -> Result<&'m str, Status> {
    let plain = std::str::from_utf8(named).ok();
    if let Some(name) = plain.filter(|name| callouts::is_reachable(state, name)) {
        return Ok(name);
    }
    let cluster = field(named, 1).and_then(|envoy| field(envoy, 1));
    cluster
        .and_then(|name| std::str::from_utf8(name).ok())
        .filter(|name| callouts::is_reachable(state, name))
        .ok_or(Status::ParseFailure)
}

fn grpc_request(
    backend: &str,
    (service, method): (&[u8], &[u8]),
    metadata: &[u8],
) -> Result<Request<()>, Status> {
    let path = [b"/", service, b"/", method].concat();
    let path = PathAndQuery::try_from(&path[..]).map_err(|_| Status::BadArgument)?;
    // `outbound|<port>||<host>` is no authority: the host in it is.
    let host = backend.rsplit('|').next().unwrap_or(backend);
    let uri = Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(host)
        .path_and_query(path)
        .build()
        .map_err(|_| Status::BadArgument)?;
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    *headers = fields(&pairs::decode(metadata).unwrap_or_default())?;
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    Ok(request)
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
