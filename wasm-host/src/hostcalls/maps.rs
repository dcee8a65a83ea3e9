//! Header maps.

use wasmtime::Caller;

use super::{Table, answer};
use crate::abi::{AbiVersion, HOST};
use crate::headers::{self, Edit};
use crate::memory::{give, give_scratch, parts, slice, write_u32};
use crate::pairs;
use crate::state::State;
use crate::status::{Answer, Map, Status, code};

pub(super) fn offer(table: &mut Table) -> wasmtime::Result<()> {
    table.offer(HOST, "proxy_get_header_map_size", size)?;
    table.offer(HOST, "proxy_get_header_map_pairs", get_pairs)?;
    table.offer(HOST, "proxy_set_header_map_pairs", set_pairs)?;
    table.offer(HOST, "proxy_get_header_map_value", get)?;
    table.offer(HOST, "proxy_add_header_map_value", add)?;
    table.offer(HOST, "proxy_replace_header_map_value", replace)?;
    table.offer(HOST, "proxy_remove_header_map_value", remove)
}

fn size(mut caller: Caller<'_, State>, map: u32, size_at: u32) -> u32 {
    let mut tell = || {
        let map = Map::from_abi(map)?;
        let (memory, state) = parts(&mut caller)?;
        let size = headers::view(state, map).map_or(0, |view| view.size());
        write_u32(memory, size_at, u32::try_from(size).unwrap_or(u32::MAX))
    };
    code(tell())
}

fn get_pairs(
    mut caller: Caller<'_, State>,
    map: u32,
    pairs_at: u32,
    length_at: u32,
) -> wasmtime::Result<u32> {
    let told = tell_pairs(&mut caller, map, pairs_at, length_at);
    answer(&mut caller, told)
}

fn tell_pairs(caller: &mut Caller<'_, State>, map: u32, pairs_at: u32, length_at: u32) -> Answer {
    let map = Map::from_abi(map)?;
    let size = headers::view(caller.data(), map).map_or(0, |view| view.size());
    give(caller, size, pairs_at, length_at, |target, state| {
        if let Some(view) = headers::view(state, map) {
            pairs::write(target, || view.entries());
        }
    })
}

fn set_pairs(mut caller: Caller<'_, State>, map: u32, data: u32, length: u32) -> u32 {
    let mut set = || {
        let map = Map::from_abi(map)?;
        let (memory, state) = parts(&mut caller)?;
        // As Envoy does, what is no map is read as an empty one.
        let entries = pairs::decode(slice(memory, data, length)?).unwrap_or_default();
        headers::replace_all(state, map, &entries)
    };
    code(set())
}

fn get(
    mut caller: Caller<'_, State>,
    map: u32,
    name: u32,
    name_length: u32,
    value_at: u32,
    length_at: u32,
) -> wasmtime::Result<u32> {
    let told = tell(&mut caller, map, (name, name_length), value_at, length_at);
    answer(&mut caller, told)
}

fn tell(
    caller: &mut Caller<'_, State>,
    map: u32,
    name: (u32, u32),
    value_at: u32,
    length_at: u32,
) -> Answer {
    let map = Map::from_abi(map)?;
    let (memory, state) = parts(caller)?;
    let name = slice(memory, name.0, name.1)?;
    let mut scratch = std::mem::take(&mut state.scratch);
    scratch.clear();
    let found = std::str::from_utf8(name)
        .ok()
        .and_then(|name| headers::view(state, map)?.get(name))
        .map(|value| scratch.extend_from_slice(value));
    state.scratch = scratch;
    // 0.1.0 knows no missing headers.
    if found.is_none() && state.abi > AbiVersion::V0_1_0 {
        return Err(Status::NotFound);
    }
    give_scratch(caller, value_at, length_at)
}

fn add(
    caller: Caller<'_, State>,
    map: u32,
    name: u32,
    name_length: u32,
    value: u32,
    value_length: u32,
) -> u32 {
    edit(
        caller,
        map,
        (name, name_length),
        (value, value_length),
        Edit::Add,
    )
}

fn replace(
    caller: Caller<'_, State>,
    map: u32,
    name: u32,
    name_length: u32,
    value: u32,
    value_length: u32,
) -> u32 {
    edit(
        caller,
        map,
        (name, name_length),
        (value, value_length),
        Edit::Replace,
    )
}

fn edit(
    mut caller: Caller<'_, State>,
    map: u32,
    name: (u32, u32),
    value: (u32, u32),
    how: Edit,
) -> u32 {
    let mut set = || {
        let map = Map::from_abi(map)?;
        let (memory, state) = parts(&mut caller)?;
        let name = slice(memory, name.0, name.1)?;
        let value = slice(memory, value.0, value.1)?;
        headers::set(state, map, name, value, how)
    };
    code(set())
}

fn remove(mut caller: Caller<'_, State>, map: u32, name: u32, name_length: u32) -> u32 {
    let mut remove = || {
        let map = Map::from_abi(map)?;
        let (memory, state) = parts(&mut caller)?;
        headers::remove(state, map, slice(memory, name, name_length)?)
    };
    code(remove())
}
