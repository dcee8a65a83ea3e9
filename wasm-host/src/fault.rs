//! What ends an instance, and how the log tells it.

use std::sync::Arc;
use std::time::Instant;

use wasmtime::{Trap, WasmBacktrace};

use crate::book::PluginBook;
use crate::callbacks::Callback;

/// Why an instance can not go on, by which traps are counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum TrapKind {
    /// It computed for longer than it may.
    Budget,
    /// It reached beyond its memory or tables.
    Memory,
    /// It called too deeply.
    Stack,
    /// `unreachable`: a panic, an abort, a failed assertion.
    Unreachable,
    /// It asked to be ended, with `proc_exit`.
    Exit,
    /// Division by zero, a bad indirect call, and whatever else there is.
    Other,
}

impl TrapKind {
    pub(crate) const ALL: [Self; 6] = [
        Self::Budget,
        Self::Memory,
        Self::Stack,
        Self::Unreachable,
        Self::Exit,
        Self::Other,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Memory => "memory",
            Self::Stack => "stack",
            Self::Unreachable => "unreachable",
            Self::Exit => "exit",
            Self::Other => "other",
        }
    }

    fn of(error: &wasmtime::Error) -> Self {
        if error.is::<Exit>() {
            return Self::Exit;
        }
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => Self::Budget,
            Some(Trap::MemoryOutOfBounds | Trap::TableOutOfBounds | Trap::HeapMisaligned) => {
                Self::Memory
            }
            Some(Trap::StackOverflow) => Self::Stack,
            Some(Trap::UnreachableCodeReached) => Self::Unreachable,
            _ => Self::Other,
        }
    }
}

/// The module called `proc_exit`.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the module exited with code {0}")]
pub(crate) struct Exit(pub(crate) u32);

/// The end of an instance.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) callback: Callback,
    pub(crate) reason: Arc<str>,
}

impl Fault {
    /// Counts a trap, and logs it once per kind and minute.
    pub(crate) fn new(
        book: &PluginBook,
        callback: Callback,
        error: &wasmtime::Error,
        request_id: Option<&str>,
    ) -> Self {
        let kind = TrapKind::of(error);
        book.trap(kind);
        let reason: Arc<str> = match kind {
            TrapKind::Budget => "it computed for longer than its budget".into(),
            _ => error.root_cause().to_string().into(),
        };
        if let Some(suppressed) = book.throttle.admit(kind.name(), Instant::now()) {
            let backtrace = error.downcast_ref::<WasmBacktrace>();
            tracing::error!(
                plugin = &*book.name,
                callback = callback.name(),
                kind = kind.name(),
                request_id = request_id.unwrap_or("-"),
                suppressed,
                backtrace = backtrace.map(frames).unwrap_or_default(),
                "a Wasm plugin trapped: {reason}"
            );
        }
        Self { callback, reason }
    }
}

/// Innermost function first.
fn frames(backtrace: &WasmBacktrace) -> String {
    let mut text = String::new();
    for frame in backtrace.frames() {
        if !text.is_empty() {
            text.push_str(" < ");
        }
        match frame.func_name() {
            Some(name) => text.push_str(&rustc_demangle(name)),
            None => text.push_str(&format!("function {}", frame.func_index())),
        }
    }
    text
}

/// Names as their authors wrote them are what wasmtime gives already; hashes at their end say nothing.
fn rustc_demangle(name: &str) -> String {
    match name.rsplit_once("::h") {
        Some((path, hash)) if hash.len() == 16 => path.to_owned(),
        _ => name.to_owned(),
    }
}
