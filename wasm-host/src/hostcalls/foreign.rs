//! Functions that Envoy offers beside the ABI, by name.

use std::io::{Read, Write};
use std::time::Instant;

use bytes::Bytes;
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use wasmtime::Caller;

use super::{Table, answer};
use crate::abi::HOST;
use crate::memory::{give, parts, slice, write_u32};
use crate::properties;
use crate::protobuf::field;
use crate::state::State;
use crate::status::{Answer, Status};

pub(super) fn offer(table: &mut Table) -> wasmtime::Result<()> {
    table.offer(HOST, "proxy_call_foreign_function", call)
}

/// Longest result of a decompression, in bytes.
const LONGEST: u64 = 8 << 20;

fn call(
    mut caller: Caller<'_, State>,
    name: u32,
    name_length: u32,
    arguments: u32,
    length: u32,
    result_at: u32,
    result_length_at: u32,
) -> wasmtime::Result<u32> {
    let told = run(
        &mut caller,
        (name, name_length),
        (arguments, length),
        (result_at, result_length_at),
    );
    answer(&mut caller, told)
}

fn run(
    caller: &mut Caller<'_, State>,
    name: (u32, u32),
    arguments: (u32, u32),
    result: (u32, u32),
) -> Answer {
    let (memory, state) = parts(caller)?;
    let name = slice(memory, name.0, name.1)?;
    let arguments = slice(memory, arguments.0, arguments.1)?;
    let made = match name {
        b"compress" => compress(arguments)?,
        b"uncompress" => uncompress(arguments)?,
        // Routes are looked up after all filters: there is nothing to clear.
        b"clear_route_cache" => Bytes::new(),
        b"set_envoy_filter_state" => {
            set_filter_state(state, arguments)?;
            Bytes::new()
        }
        // Properties need no declaration here; one that is none is told.
        b"declare_property" => {
            field(arguments, 1).ok_or(Status::BadArgument)?;
            Bytes::new()
        }
        unknown => {
            report(state, unknown);
            return Err(Status::NotFound);
        }
    };
    if result.0 == 0 || result.1 == 0 {
        return Ok(());
    }
    if made.is_empty() {
        write_u32(memory, result.0, 0)?;
        return write_u32(memory, result.1, 0);
    }
    give(caller, made.len(), result.0, result.1, |target, _| {
        target.copy_from_slice(&made);
    })
}

fn report(state: &State, name: &[u8]) {
    let book = &state.book;
    if let Some(suppressed) = book.throttle.admit("foreign", Instant::now()) {
        tracing::warn!(
            plugin = &*book.name,
            function = %String::from_utf8_lossy(name),
            suppressed,
            "a Wasm plugin calls a foreign function that is not offered: it is told so"
        );
    }
}

fn compress(bytes: &[u8]) -> Result<Bytes, Status> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written
        .map(Bytes::from)
        .map_err(|_| Status::InternalFailure)
}

fn uncompress(bytes: &[u8]) -> Result<Bytes, Status> {
    let mut plain = Vec::new();
    let mut decoder = ZlibDecoder::new(bytes).take(LONGEST + 1);
    decoder
        .read_to_end(&mut plain)
        .map_err(|_| Status::SerializationFailure)?;
    if plain.len() as u64 > LONGEST {
        return Err(Status::SerializationFailure);
    }
    Ok(plain.into())
}

/// `SetEnvoyFilterStateArguments`: path, value.
fn set_filter_state(state: &mut State, arguments: &[u8]) -> Answer {
    let path = field(arguments, 1).ok_or(Status::BadArgument)?;
    let value = field(arguments, 2).unwrap_or_default();
    properties::store(state, path, value)
}
