//! Properties.

use wasmtime::Caller;

use super::{Table, answer};
use crate::abi::HOST;
use crate::memory::{give_scratch, parts, slice};
use crate::properties;
use crate::state::State;
use crate::status::{Answer, Status, code};

pub(super) fn offer(table: &mut Table) -> wasmtime::Result<()> {
    table.offer(HOST, "proxy_get_property", get)?;
    table.offer(HOST, "proxy_set_property", set)
}

/// Bytes that a path may have.
const LONGEST_PATH: u32 = 1024;

fn get(
    mut caller: Caller<'_, State>,
    path: u32,
    length: u32,
    value_at: u32,
    length_at: u32,
) -> wasmtime::Result<u32> {
    let told = tell(&mut caller, (path, length), value_at, length_at);
    answer(&mut caller, told)
}

fn tell(caller: &mut Caller<'_, State>, path: (u32, u32), value_at: u32, length_at: u32) -> Answer {
    if path.1 == 0 {
        return Err(Status::SerializationFailure);
    }
    if path.1 > LONGEST_PATH {
        return Err(Status::NotFound);
    }
    let (memory, state) = parts(caller)?;
    let path = slice(memory, path.0, path.1)?;
    let mut value = std::mem::take(&mut state.scratch);
    value.clear();
    let found = properties::read(state, path, &mut value);
    state.scratch = value;
    found.ok_or(Status::NotFound)?;
    give_scratch(caller, value_at, length_at)
}

fn set(
    mut caller: Caller<'_, State>,
    path: u32,
    length: u32,
    value: u32,
    value_length: u32,
) -> u32 {
    let mut set = || {
        if length == 0 || length > LONGEST_PATH {
            return Err(Status::BadArgument);
        }
        let (memory, state) = parts(&mut caller)?;
        let path = slice(memory, path, length)?;
        let value = slice(memory, value, value_length)?;
        properties::store(state, &[b"wasm.", path].concat(), value)
    };
    code(set())
}
