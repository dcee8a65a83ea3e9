//! Going on, closing, and answering streams.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use wasmtime::Caller;
use wayline_chain::{Direction, LocalReply};

use super::Table;
use crate::abi::HOST;
use crate::memory::{parts, slice};
use crate::pairs;
use crate::state::State;
use crate::status::{Answer, Status, code};

pub(super) fn offer(table: &mut Table) -> wasmtime::Result<()> {
    table.offer(HOST, "proxy_continue_stream", continue_stream)?;
    table.offer(HOST, "proxy_close_stream", close_stream)?;
    table.offer(HOST, "proxy_continue_request", continue_request)?;
    table.offer(HOST, "proxy_continue_response", continue_response)?;
    // Routes are looked up after all filters: there is nothing to clear.
    table.offer(HOST, "proxy_clear_route_cache", |_: Caller<'_, State>| {
        Status::Ok as u32
    })?;
    table.offer(HOST, "proxy_send_local_response", send_local_response)
}

fn continue_stream(caller: Caller<'_, State>, stream: u32) -> u32 {
    match stream {
        0 | 2 => resume(&caller, Direction::Request),
        1 | 3 => resume(&caller, Direction::Response),
        _ => Status::BadArgument as u32,
    }
}

pub(super) fn continue_request(caller: Caller<'_, State>) -> u32 {
    resume(&caller, Direction::Request)
}

pub(super) fn continue_response(caller: Caller<'_, State>) -> u32 {
    resume(&caller, Direction::Response)
}

fn resume(caller: &Caller<'_, State>, direction: Direction) -> u32 {
    if let Some(stream) = caller.data().stream() {
        stream.resume(direction);
    }
    Status::Ok as u32
}

fn close_stream(caller: Caller<'_, State>, stream: u32) -> u32 {
    if stream > 3 {
        return Status::BadArgument as u32;
    }
    if let Some(stream) = caller.data().stream() {
        stream.close();
    }
    Status::Ok as u32
}

#[allow(clippy::too_many_arguments, reason = "as the ABI has it")]
fn send_local_response(
    mut caller: Caller<'_, State>,
    status: u32,
    details: u32,
    details_length: u32,
    body: u32,
    body_length: u32,
    headers: u32,
    headers_length: u32,
    grpc_status: u32,
) -> u32 {
    let mut send = || {
        let (memory, state) = parts(&mut caller)?;
        let mut headers = headers_of(slice(memory, headers, headers_length)?)?;
        if body_length > 0 && !headers.contains_key(CONTENT_TYPE) {
            // As Envoy's local replies.
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        let reply = LocalReply {
            status: status_of(status)?,
            headers,
            body: Bytes::copy_from_slice(slice(memory, body, body_length)?),
            details: details_of(slice(memory, details, details_length)?).into(),
        };
        answer_stream(state, reply, (grpc_status <= 16).then_some(grpc_status))
    };
    code(send())
}

fn answer_stream(state: &State, mut reply: LocalReply, grpc_status: Option<u32>) -> Answer {
    let Some(stream) = state.stream() else {
        return Ok(());
    };
    // The data path makes it what gRPC clients understand; it takes the code that is there.
    let exchange = &state.exchange;
    if let Some(status) = grpc_status
        && exchange.owner == state.context()
        && is_grpc(&exchange.context.request().headers)
    {
        reply.headers.insert(GRPC_STATUS, status.into());
    }
    stream.reply(reply);
    Ok(())
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.and_then(|kind| kind.strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

fn status_of(status: u32) -> Result<StatusCode, Status> {
    u16::try_from(status)
        .ok()
        .and_then(|status| StatusCode::from_u16(status).ok())
        .filter(|status| (200..600).contains(&status.as_u16()))
        .ok_or(Status::BadArgument)
}

fn headers_of(bytes: &[u8]) -> Result<HeaderMap, Status> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs::decode(bytes).unwrap_or_default() {
        if name.starts_with(b":") {
            continue;
        }
        let name = HeaderName::from_bytes(name).map_err(|_| Status::BadArgument)?;
        let value = HeaderValue::from_bytes(value).map_err(|_| Status::BadArgument)?;
        if name != CONTENT_LENGTH && !crate::headers::is_framing(&name) {
            headers.append(name, value);
        }
    }
    Ok(headers)
}

/// As Envoy writes details: without spaces.
fn details_of(details: &[u8]) -> String {
    if details.is_empty() {
        return "wasm_local_response".to_owned();
    }
    String::from_utf8_lossy(details)
        .chars()
        .map(|c| {
            if c.is_whitespace() || c.is_control() {
                '_'
            } else {
                c
            }
        })
        .collect()
}
