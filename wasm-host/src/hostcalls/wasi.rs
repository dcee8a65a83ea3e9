//! WASI preview 1 for modules that have no files and no sockets: output becomes log lines, clocks,
//! randomness and the environment work, everything else fails as Envoy's host fails it.

use wasmtime::Caller;
use wayline_model::defence::stands;

use super::Table;
use super::base::{nanoseconds, wall_clock, write_log};
use crate::abi::WASI;
use crate::fault::Exit;
use crate::memory::{parts, read_u32, slice, slice_mut, write_u32, write_u64};
use crate::state::State;
use crate::status::{Answer, Status};

const SUCCESS: u32 = 0;
const BADF: u32 = 8;
const FAULT: u32 = 21;
const INVAL: u32 = 28;
const NOENT: u32 = 44;
pub(super) const NOSYS: u32 = 52;
const NOTDIR: u32 = 54;
const NOTSUP: u32 = 58;

/// Bytes of randomness that one call may ask for.
const MAX_RANDOM: u32 = 64 << 10;

/// Vectors that one write may have.
const MAX_VECTORS: u32 = 1024;

/// `rights_base` of output: `fd_write`.
const RIGHT_TO_WRITE: u64 = 64;

pub(super) fn offer(table: &mut Table) -> wasmtime::Result<()> {
    for module in WASI {
        real(table, module)?;
        refused(table, module)?;
    }
    Ok(())
}

fn real(table: &mut Table, module: &'static str) -> wasmtime::Result<()> {
    table.offer(
        module,
        "args_get",
        |_: Caller<'_, State>, _: u32, _: u32| SUCCESS,
    )?;
    table.offer(
        module,
        "args_sizes_get",
        |caller: Caller<'_, State>, count: u32, size: u32| sizes(caller, (count, 0), (size, 0)),
    )?;
    table.offer(module, "environ_get", environ_get)?;
    table.offer(module, "environ_sizes_get", environ_sizes_get)?;
    table.offer(module, "clock_time_get", clock_time_get)?;
    table.offer(module, "clock_res_get", clock_res_get)?;
    table.offer(module, "random_get", random_get)?;
    table.offer(module, "fd_write", fd_write)?;
    table.offer(
        module,
        "fd_pwrite",
        |caller: Caller<'_, State>, fd: u32, vectors: u32, count: u32, _: u64, written: u32| {
            fd_write(caller, fd, vectors, count, written)
        },
    )?;
    table.offer(module, "fd_fdstat_get", fd_fdstat_get)?;
    table.offer(module, "poll_oneoff", poll_oneoff)?;
    table.offer(module, "sched_yield", |_: Caller<'_, State>| SUCCESS)?;
    table.offer(
        module,
        "proc_exit",
        |_: Caller<'_, State>, code: u32| -> wasmtime::Result<()> { Err(Exit(code).into()) },
    )?;
    table.offer(
        module,
        "proc_raise",
        |_: Caller<'_, State>, _: u32| -> u32 { NOSYS },
    )
}

/// What fails the same way whatever it is asked for.
fn refused(table: &mut Table, module: &'static str) -> wasmtime::Result<()> {
    /// Functions of so many `i32` with a fixed answer.
    macro_rules! fixed {
        ($($name:literal ($($kind:ty),*) = $errno:expr;)*) => {
            $(table.offer(module, $name, |_: Caller<'_, State>, $(_: $kind),*| -> u32 { $errno })?;)*
        };
    }
    /// Functions whose first parameter is a file: output answers well, others are not open.
    macro_rules! on_output {
        ($($name:literal ($($kind:ty),*);)*) => {
            $(table.offer(module, $name, |_: Caller<'_, State>, fd: u32, $(_: $kind),*| on_output(fd))?;)*
        };
    }
    on_output! {
        "fd_allocate" (u64, u64);
        "fd_datasync" ();
        "fd_fdstat_set_rights" (u64, u64);
        "fd_filestat_set_size" (u64);
        "fd_filestat_set_times" (u64, u64, u32);
        "fd_sync" ();
    }
    fixed! {
        "fd_advise" (u32, u64, u64, u32) = SUCCESS;
        "fd_close" (u32) = SUCCESS;
        "fd_fdstat_set_flags" (u32, u32) = NOSYS;
        "fd_filestat_get" (u32, u32) = BADF;
        "fd_pread" (u32, u32, u32, u64, u32) = NOSYS;
        "fd_prestat_dir_name" (u32, u32, u32) = NOSYS;
        "fd_prestat_get" (u32, u32) = BADF;
        "fd_read" (u32, u32, u32, u32) = NOSYS;
        "fd_readdir" (u32, u32, u32, u64, u32) = NOTDIR;
        "fd_renumber" (u32, u32) = NOTSUP;
        "path_create_directory" (u32, u32, u32) = NOTSUP;
        "path_filestat_get" (u32, u32, u32, u32, u32) = NOTSUP;
        "path_filestat_set_times" (u32, u32, u32, u32, u64, u64, u32) = NOTSUP;
        "path_link" (u32, u32, u32, u32, u32, u32, u32) = NOTSUP;
        "path_open" (u32, u32, u32, u32, u32, u64, u64, u32, u32) = NOENT;
        "path_readlink" (u32, u32, u32, u32, u32, u32) = NOTSUP;
        "path_remove_directory" (u32, u32, u32) = NOTSUP;
        "path_rename" (u32, u32, u32, u32, u32, u32) = NOTSUP;
        "path_symlink" (u32, u32, u32, u32, u32) = NOTSUP;
        "path_unlink_file" (u32, u32, u32) = NOTSUP;
        "sock_accept" (u32, u32, u32) = NOTSUP;
        "sock_recv" (u32, u32, u32, u32, u32, u32) = NOTSUP;
        "sock_send" (u32, u32, u32, u32, u32) = NOTSUP;
        "sock_shutdown" (u32, u32) = NOTSUP;
    }
    table.offer(
        module,
        "fd_seek",
        |caller: Caller<'_, State>, _: u32, _: u64, _: u32, at: u32| position(caller, at),
    )?;
    table.offer(
        module,
        "fd_tell",
        |caller: Caller<'_, State>, _: u32, at: u32| position(caller, at),
    )
}

fn on_output(fd: u32) -> u32 {
    if is_output(fd) { SUCCESS } else { BADF }
}

fn is_output(fd: u32) -> bool {
    matches!(fd, 1 | 2)
}

/// Output is always at its beginning.
fn position(mut caller: Caller<'_, State>, at: u32) -> u32 {
    errno(parts(&mut caller).and_then(|(memory, _)| write_u64(memory, at, 0)))
}

fn errno(answer: Answer) -> u32 {
    match answer {
        Ok(()) => SUCCESS,
        Err(Status::InvalidMemoryAccess) => FAULT,
        Err(_) => INVAL,
    }
}

/// Writes two numbers, each to its place.
fn sizes(mut caller: Caller<'_, State>, first: (u32, u32), second: (u32, u32)) -> u32 {
    let mut write = || {
        let (memory, _) = parts(&mut caller)?;
        write_u32(memory, first.0, first.1)?;
        write_u32(memory, second.0, second.1)
    };
    errno(write())
}

fn environ_sizes_get(caller: Caller<'_, State>, count_at: u32, size_at: u32) -> u32 {
    let variables = &caller.data().environment;
    let size: usize = variables.iter().map(|variable| variable.len() + 1).sum();
    let (Ok(count), Ok(size)) = (u32::try_from(variables.len()), u32::try_from(size)) else {
        return INVAL;
    };
    sizes(caller, (count_at, count), (size_at, size))
}

fn environ_get(mut caller: Caller<'_, State>, pointers: u32, texts: u32) -> u32 {
    let mut write = || {
        let (memory, state) = parts(&mut caller)?;
        let (mut pointer, mut text) = (pointers, texts);
        for variable in &*state.environment {
            let length = u32::try_from(variable.len()).map_err(|_| Status::BadArgument)?;
            write_u32(memory, pointer, text)?;
            let end = length.checked_add(1).ok_or(Status::BadArgument)?;
            let place = slice_mut(memory, text, end)?;
            place[..variable.len()].copy_from_slice(variable.as_bytes());
            place[variable.len()] = 0;
            pointer = pointer.checked_add(4).ok_or(Status::InvalidMemoryAccess)?;
            text = text.checked_add(end).ok_or(Status::InvalidMemoryAccess)?;
        }
        Ok(())
    };
    errno(write())
}

fn clock_time_get(mut caller: Caller<'_, State>, clock: u32, _: u64, time_at: u32) -> u32 {
    caller.data_mut().saw_chance = true;
    let now = match clock {
        0 => nanoseconds(wall_clock()),
        1 => nanoseconds(caller.data().host.uptime()),
        _ => return NOTSUP,
    };
    errno(parts(&mut caller).and_then(|(memory, _)| write_u64(memory, time_at, now)))
}

fn clock_res_get(mut caller: Caller<'_, State>, clock: u32, resolution_at: u32) -> u32 {
    if clock > 1 {
        return NOTSUP;
    }
    errno(parts(&mut caller).and_then(|(memory, _)| write_u64(memory, resolution_at, 1)))
}

fn random_get(mut caller: Caller<'_, State>, target: u32, length: u32) -> u32 {
    if length > MAX_RANDOM && stands("wasm-random") {
        return INVAL;
    }
    let mut fill = || {
        let (memory, state) = parts(&mut caller)?;
        state.saw_chance = true;
        getrandom::fill(slice_mut(memory, target, length)?).map_err(|_| Status::InternalFailure)
    };
    errno(fill())
}

/// One call is one line: what runtimes write in pieces is rare, and lost lines are worse than split ones.
fn fd_write(
    mut caller: Caller<'_, State>,
    fd: u32,
    vectors: u32,
    count: u32,
    written_at: u32,
) -> u32 {
    let level = match fd {
        1 => 2,
        2 => 4,
        _ => return BADF,
    };
    if count > MAX_VECTORS {
        return INVAL;
    }
    let mut write = || {
        let (memory, state) = parts(&mut caller)?;
        let mut text = std::mem::take(&mut state.scratch);
        text.clear();
        let gathered = gather(memory, vectors, count, &mut text);
        let written = u32::try_from(text.len()).map_err(|_| Status::BadArgument);
        if gathered.is_ok() && !text.is_empty() {
            let line = text.strip_suffix(b"\n").unwrap_or(&text);
            write_log(state, level, line);
        }
        state.scratch = text;
        gathered?;
        write_u32(memory, written_at, written?)
    };
    errno(write())
}

fn gather(memory: &[u8], vectors: u32, count: u32, text: &mut Vec<u8>) -> Answer {
    for index in 0..count {
        let at = vectors
            .checked_add(index * 8)
            .ok_or(Status::InvalidMemoryAccess)?;
        let pointer = read_u32(memory, at)?;
        let length = read_u32(
            memory,
            at.checked_add(4).ok_or(Status::InvalidMemoryAccess)?,
        )?;
        let piece = slice(memory, pointer, length)?;
        if text.len() + piece.len() > memory.len() {
            return Err(Status::BadArgument);
        }
        text.extend_from_slice(piece);
    }
    Ok(())
}

fn fd_fdstat_get(mut caller: Caller<'_, State>, fd: u32, stat_at: u32) -> u32 {
    if !is_output(fd) {
        return BADF;
    }
    let mut write = || {
        let (memory, _) = parts(&mut caller)?;
        let stat = slice_mut(memory, stat_at, 24)?;
        stat.fill(0);
        stat[8..16].copy_from_slice(&RIGHT_TO_WRITE.to_le_bytes());
        Ok(())
    };
    errno(write())
}

/// Go's scheduler sleeps with it when it has nothing to do; nobody sleeps on the request path.
fn poll_oneoff(mut caller: Caller<'_, State>, _: u32, _: u32, _: u32, events_at: u32) -> u32 {
    errno(parts(&mut caller).and_then(|(memory, _)| write_u32(memory, events_at, 0)))
}
