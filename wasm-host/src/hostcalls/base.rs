//! Logs, time, contexts, and what concerns the module as a whole.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use wasmtime::Caller;
use wayline_model::defence::stands;

use super::{Table, answer};
use crate::abi::HOST;
use crate::memory::{give, parts, slice, write_u32, write_u64};
use crate::state::{ROOT, State};
use crate::status::{Answer, Status, code};

pub(super) fn offer(table: &mut Table) -> wasmtime::Result<()> {
    table.offer(HOST, "proxy_log", log)?;
    table.offer(HOST, "proxy_get_log_level", get_log_level)?;
    table.offer(HOST, "proxy_get_current_time_nanoseconds", get_current_time)?;
    table.offer(HOST, "proxy_set_tick_period_milliseconds", set_tick_period)?;
    table.offer(HOST, "proxy_set_effective_context", set_effective_context)?;
    table.offer(HOST, "proxy_done", done)?;
    table.offer(HOST, "proxy_get_status", get_status)?;
    table.offer(
        HOST,
        "pthread_equal",
        |_: Caller<'_, State>, a: u32, b: u32| u32::from(a == b),
    )?;
    table.offer(
        HOST,
        "emscripten_notify_memory_growth",
        |_: Caller<'_, State>, _: u32| {},
    )
}

/// Levels of `proxy_log`.
const LEVELS: [&str; 6] = ["trace", "debug", "info", "warn", "error", "critical"];

/// A line of a module, within its quota.
pub(super) fn write_log(state: &State, level: u32, message: &[u8]) {
    let plugin = &*state.plugin.name;
    let enabled = match level {
        0 => tracing::enabled!(target: "wasm", tracing::Level::TRACE),
        1 => tracing::enabled!(target: "wasm", tracing::Level::DEBUG),
        2 => tracing::enabled!(target: "wasm", tracing::Level::INFO),
        _ => true,
    };
    if !enabled
        || !state
            .book
            .may_log(message.len(), state.plugin.limits.log_bytes)
    {
        return;
    }
    let message = String::from_utf8_lossy(message);
    let message = on_one_line(&message);
    match level {
        0 => tracing::trace!(target: "wasm", plugin, "{message}"),
        1 => tracing::debug!(target: "wasm", plugin, "{message}"),
        2 => tracing::info!(target: "wasm", plugin, "{message}"),
        3 => tracing::warn!(target: "wasm", plugin, "{message}"),
        4 => tracing::error!(target: "wasm", plugin, "{message}"),
        _ => tracing::error!(target: "wasm", plugin, critical = true, "{message}"),
    }
}

/// A module must not be able to write lines that look like ours.
fn on_one_line(text: &str) -> Cow<'_, str> {
    let harmless = |c: char| !c.is_control() || c == '\t';
    if text.chars().all(harmless) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if harmless(c) {
            escaped.push(c);
        } else {
            escaped.extend(c.escape_default());
        }
    }
    Cow::Owned(escaped)
}

fn log(mut caller: Caller<'_, State>, level: u32, message: u32, length: u32) -> u32 {
    let mut write = || {
        if level as usize >= LEVELS.len() {
            return Err(Status::BadArgument);
        }
        let (memory, state) = parts(&mut caller)?;
        write_log(state, level, slice(memory, message, length)?);
        Ok(())
    };
    code(write())
}

fn get_log_level(mut caller: Caller<'_, State>, level_at: u32) -> u32 {
    let level = match () {
        () if tracing::enabled!(target: "wasm", tracing::Level::TRACE) => 0,
        () if tracing::enabled!(target: "wasm", tracing::Level::DEBUG) => 1,
        () if tracing::enabled!(target: "wasm", tracing::Level::INFO) => 2,
        () if tracing::enabled!(target: "wasm", tracing::Level::WARN) => 3,
        () => 4,
    };
    code(parts(&mut caller).and_then(|(memory, _)| write_u32(memory, level_at, level)))
}

fn get_current_time(mut caller: Caller<'_, State>, time_at: u32) -> u32 {
    caller.data_mut().saw_chance = true;
    let now = nanoseconds(wall_clock());
    code(parts(&mut caller).and_then(|(memory, _)| write_u64(memory, time_at, now)))
}

/// Time since 1970.
pub(super) fn wall_clock() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn set_tick_period(mut caller: Caller<'_, State>, milliseconds: u32) -> u32 {
    crate::ticks::set_period(caller.data_mut(), milliseconds);
    Status::Ok as u32
}

fn set_effective_context(mut caller: Caller<'_, State>, context: u32) -> u32 {
    let state = caller.data_mut();
    // Contexts of other plugins are in other instances, and so are unknown here.
    let known = context == ROOT || state.streams.contains_key(&context);
    if !known && stands("wasm-own-contexts") {
        return Status::BadArgument as u32;
    }
    state.effective = context;
    Status::Ok as u32
}

fn done(caller: Caller<'_, State>) -> u32 {
    let state = caller.data();
    if !state.retiring {
        return Status::NotFound as u32;
    }
    state.done.give();
    Status::Ok as u32
}

fn get_status(
    mut caller: Caller<'_, State>,
    code_at: u32,
    message_at: u32,
    length_at: u32,
) -> wasmtime::Result<u32> {
    let told = tell_status(&mut caller, code_at, message_at, length_at);
    answer(&mut caller, told)
}

fn tell_status(
    caller: &mut Caller<'_, State>,
    code_at: u32,
    message_at: u32,
    length_at: u32,
) -> Answer {
    let (memory, state) = parts(caller)?;
    let (number, message) = state.status.clone();
    write_u32(memory, code_at, number)?;
    give(caller, message.len(), message_at, length_at, |target, _| {
        target.copy_from_slice(&message);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_whatever_is_in_it() {
        assert_eq!(
            on_one_line("plain \u{e4} text\twith tab"),
            "plain \u{e4} text\twith tab"
        );
        assert_eq!(on_one_line("a\nb\r\0\u{1b}[2J"), "a\\nb\\r\\u{0}\\u{1b}[2J");
    }
}
