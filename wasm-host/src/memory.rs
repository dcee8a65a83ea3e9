//! A module's memory as host functions reach it: every pointer is checked, and the base is fetched
//! anew after every call into the module.

use wasmtime::{AsContextMut, Caller};
use wayline_model::defence::stands;

use crate::state::State;
use crate::status::{Answer, Status};

/// The memory and the state, both to be edited.
pub(crate) fn parts<'a>(
    caller: &'a mut Caller<'_, State>,
) -> Result<(&'a mut [u8], &'a mut State), Status> {
    if caller.data().memory.is_none() {
        // Only while a start function runs, before the instance is ours.
        let memory = caller.get_export("memory");
        caller.data_mut().memory = memory.and_then(wasmtime::Extern::into_memory);
    }
    let memory = caller.data().memory.ok_or(Status::InvalidMemoryAccess)?;
    Ok(memory.data_and_store_mut(caller))
}

/// The bytes at a pointer.
pub(crate) fn slice(memory: &[u8], pointer: u32, length: u32) -> Result<&[u8], Status> {
    let (start, length) = (pointer as usize, length as usize);
    if !stands("wasm-bounds") {
        return Ok(&memory[start..start + length]);
    }
    start
        .checked_add(length)
        .and_then(|end| memory.get(start..end))
        .ok_or(Status::InvalidMemoryAccess)
}

/// The bytes at a pointer, to be written.
pub(crate) fn slice_mut(memory: &mut [u8], pointer: u32, length: u32) -> Result<&mut [u8], Status> {
    let (start, length) = (pointer as usize, length as usize);
    start
        .checked_add(length)
        .and_then(|end| memory.get_mut(start..end))
        .ok_or(Status::InvalidMemoryAccess)
}

/// Reads a little-endian `u32`.
pub(crate) fn read_u32(memory: &[u8], pointer: u32) -> Result<u32, Status> {
    let bytes = slice(memory, pointer, 4)?;
    bytes
        .try_into()
        .map(u32::from_le_bytes)
        .map_err(|_| Status::InvalidMemoryAccess)
}

/// Writes a little-endian `u32`.
pub(crate) fn write_u32(memory: &mut [u8], pointer: u32, value: u32) -> Answer {
    slice_mut(memory, pointer, 4)?.copy_from_slice(&value.to_le_bytes());
    Ok(())
}

/// Writes a little-endian `u64`.
pub(crate) fn write_u64(memory: &mut [u8], pointer: u32, value: u64) -> Answer {
    slice_mut(memory, pointer, 8)?.copy_from_slice(&value.to_le_bytes());
    Ok(())
}

/// Gives the module `length` bytes, written by `fill` into memory that it allocates, and stores where
/// and how many they are. Nothing is allocated for an empty value.
pub(crate) fn give(
    caller: &mut Caller<'_, State>,
    length: usize,
    pointer_at: u32,
    length_at: u32,
    fill: impl FnOnce(&mut [u8], &mut State),
) -> Answer {
    let (memory, state) = parts(caller)?;
    slice(memory, pointer_at, 4)?;
    slice(memory, length_at, 4)?;
    if length == 0 {
        write_u32(memory, pointer_at, 0)?;
        return write_u32(memory, length_at, 0);
    }
    let size = u32::try_from(length).map_err(|_| Status::InternalFailure)?;
    // The module is inside a call already, and its allocator may not start another.
    if std::mem::replace(&mut state.allocating, true) && stands("wasm-reentry") {
        return Err(Status::InternalFailure);
    }
    let allocated = match state.allocator.clone() {
        Some(allocator) => allocator.call(caller.as_context_mut(), size),
        None => Ok(0),
    };
    caller.data_mut().allocating = false;
    let pointer = match allocated {
        Ok(pointer) => pointer,
        Err(trap) => {
            // Host functions answer numbers: the trap is raised by whoever called into the module.
            caller.data_mut().trapped.get_or_insert(trap);
            return Err(Status::InvalidMemoryAccess);
        }
    };
    if pointer == 0 {
        return Err(Status::InvalidMemoryAccess);
    }
    let (memory, state) = parts(caller)?;
    fill(slice_mut(memory, pointer, size)?, state);
    write_u32(memory, pointer_at, pointer)?;
    write_u32(memory, length_at, size)
}

/// Gives the module what lies in the state's scratch buffer.
pub(crate) fn give_scratch(
    caller: &mut Caller<'_, State>,
    pointer_at: u32,
    length_at: u32,
) -> Answer {
    let length = caller.data().scratch.len();
    give(caller, length, pointer_at, length_at, |target, state| {
        target.copy_from_slice(&state.scratch);
    })
}
