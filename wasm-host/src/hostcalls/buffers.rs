//! Buffers: bodies, configurations, messages.

use bytes::{Bytes, BytesMut};
use wasmtime::Caller;
use wayline_model::defence::stands;

use super::{Table, answer};
use crate::abi::HOST;
use crate::callbacks::Callback;
use crate::memory::{give, parts, slice, write_u32};
use crate::state::State;
use crate::status::{Answer, Buffer, Status, code};

pub(super) fn offer(table: &mut Table) -> wasmtime::Result<()> {
    table.offer(HOST, "proxy_get_buffer_bytes", get)?;
    table.offer(HOST, "proxy_get_buffer_status", status)?;
    table.offer(HOST, "proxy_set_buffer_bytes", set)?;
    table.offer(HOST, "proxy_get_configuration", configuration)
}

/// Longest body that a module may make of what it was shown, in bytes: the chain's own limit, and room
/// for what is put around it.
const LONGEST_BODY: usize = 16 << 20;

fn get(
    mut caller: Caller<'_, State>,
    buffer: u32,
    start: u32,
    max: u32,
    data_at: u32,
    length_at: u32,
) -> wasmtime::Result<u32> {
    let told = tell(&mut caller, buffer, (start, max), data_at, length_at);
    answer(&mut caller, told)
}

fn tell(
    caller: &mut Caller<'_, State>,
    buffer: u32,
    (start, max): (u32, u32),
    data_at: u32,
    length_at: u32,
) -> Answer {
    let buffer = Buffer::from_abi(buffer)?;
    if start.checked_add(max).is_none() {
        return Err(Status::BadArgument);
    }
    let bytes = bytes(caller.data(), buffer).ok_or(Status::NotFound)?;
    let start = (start as usize).min(bytes.len());
    let end = (start + max as usize).min(bytes.len());
    give(caller, end - start, data_at, length_at, |target, state| {
        if let Some(bytes) = self::bytes(state, buffer) {
            target.copy_from_slice(&bytes[start..end]);
        }
    })
}

fn status(mut caller: Caller<'_, State>, buffer: u32, length_at: u32, flags_at: u32) -> u32 {
    let mut tell = || {
        let buffer = Buffer::from_abi(buffer)?;
        let (memory, state) = parts(&mut caller)?;
        let length = bytes(state, buffer).ok_or(Status::NotFound)?.len();
        write_u32(memory, length_at, u32::try_from(length).unwrap_or(u32::MAX))?;
        write_u32(memory, flags_at, 0)
    };
    code(tell())
}

fn set(
    mut caller: Caller<'_, State>,
    buffer: u32,
    start: u32,
    size: u32,
    data: u32,
    length: u32,
) -> u32 {
    let mut edit = || {
        let buffer = Buffer::from_abi(buffer)?;
        let (memory, state) = parts(&mut caller)?;
        let data = slice(memory, data, length)?;
        if let Buffer::VmConfiguration
        | Buffer::PluginConfiguration
        | Buffer::CallResponseBody
        | Buffer::GrpcMessage = buffer
        {
            return Err(Status::BadArgument);
        }
        if buffer == Buffer::ForeignArguments {
            return Err(Status::BadArgument);
        }
        let exchange = state.exchange()?;
        let Some((held, bytes)) = exchange.body.as_mut().filter(|(held, _)| *held == buffer) else {
            return Err(Status::NotFound);
        };
        debug_assert!(*held == buffer);
        splice(bytes, start as usize, size as usize, data)
    };
    code(edit())
}

/// Puts `data` in the place of `size` bytes from `start` on; beyond the end it is appended.
fn splice(bytes: &mut Bytes, start: usize, size: usize, data: &[u8]) -> Answer {
    let start = start.min(bytes.len());
    let end = start.saturating_add(size).min(bytes.len());
    let length = bytes.len() - (end - start) + data.len();
    let longest = if stands("wasm-body-limit") {
        LONGEST_BODY
    } else {
        2 * LONGEST_BODY
    };
    if length > longest.max(bytes.len()) {
        return Err(Status::BadArgument);
    }
    if start == 0 && end == bytes.len() {
        *bytes = Bytes::copy_from_slice(data);
        return Ok(());
    }
    let mut edited = BytesMut::with_capacity(length);
    edited.extend_from_slice(&bytes[..start]);
    edited.extend_from_slice(data);
    edited.extend_from_slice(&bytes[end..]);
    *bytes = edited.freeze();
    Ok(())
}

fn configuration(
    mut caller: Caller<'_, State>,
    data_at: u32,
    length_at: u32,
) -> wasmtime::Result<u32> {
    let configuration = match caller.data().callback {
        Callback::vm_start => Bytes::new(),
        _ => Bytes::copy_from_slice(&caller.data().plugin.configuration),
    };
    let told = give(
        &mut caller,
        configuration.len(),
        data_at,
        length_at,
        |target, _| {
            target.copy_from_slice(&configuration);
        },
    );
    answer(&mut caller, told)
}

/// A buffer that can be read now.
fn bytes(state: &State, buffer: Buffer) -> Option<&[u8]> {
    match buffer {
        Buffer::VmConfiguration => Some(&[]),
        Buffer::PluginConfiguration => Some(&state.plugin.configuration),
        Buffer::CallResponseBody => state.callouts.reply.as_ref().map(|reply| &*reply.body),
        Buffer::GrpcMessage => state.callouts.message.as_deref(),
        Buffer::ForeignArguments => Some(&state.arguments),
        _ => {
            let exchange = &state.exchange;
            if !state.has_exchange() {
                return None;
            }
            let (held, bytes) = exchange.body.as_ref()?;
            (*held == buffer).then_some(bytes)
        }
    }
}
