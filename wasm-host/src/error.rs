//! What can be wrong with engines, modules and instances.

use std::sync::Arc;

use thiserror::Error;

/// Why modules can not be compiled.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum EngineError {
    /// No code can be made for this system.
    #[error(
        "wasmtime can not run on this system: {0}; see which processors and systems it supports"
    )]
    Config(Arc<str>),
    /// The module is not valid.
    #[error("the module can not be compiled: {0}; build it again for wasm32-wasip1")]
    Compile(Arc<str>),
}

/// Why compiled code is not taken.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum LoadError {
    /// It was compiled by another version, or for another processor, or is damaged.
    #[error("the compiled code can not be used: {0}; compile the module again")]
    Artifact(Arc<str>),
    /// It exports no version of the ABI that we speak.
    #[error(
        "it exports none of proxy_abi_version_0_1_0, _0_2_0 and _0_2_1; build it with a Proxy-Wasm SDK"
    )]
    Abi,
    /// It exports no memory.
    #[error("it exports no memory; build it with a Proxy-Wasm SDK")]
    NoMemory,
    /// It exports no allocator.
    #[error(
        "it exports neither proxy_on_memory_allocate nor malloc, so that it can be given no header; build it with a Proxy-Wasm SDK"
    )]
    Allocator,
    /// A callback has a signature that no version of the ABI knows.
    #[error(
        "its export {name} has the signature {found}, and {expected} is expected; build it with a current Proxy-Wasm SDK"
    )]
    Callback {
        /// The export.
        name: &'static str,
        /// As it is.
        found: Arc<str>,
        /// As it should be.
        expected: Arc<str>,
    },
    /// It imports what is no function.
    #[error(
        "it imports {module}.{name}, which is no function, and hosts offer functions only; link it as a module of its own"
    )]
    Import {
        /// Where from.
        module: Arc<str>,
        /// What.
        name: Arc<str>,
    },
}

/// Why a plugin does not start.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum StartError {
    /// There is no room for one more instance, or its memory is larger than it may be.
    #[error(
        "no instance can be made: {0}; allow it more memory with the annotation wayline.dev/memory-limit if that is the reason"
    )]
    Instantiate(Arc<str>),
    /// It trapped, or used up its time, while it started.
    #[error("{callback} ended with a trap: {reason}; the log has the module's backtrace")]
    Trap {
        /// In which of its functions.
        callback: &'static str,
        /// Which trap.
        reason: Arc<str>,
    },
    /// It answered false.
    #[error(
        "{callback} answered false: the module does not accept its configuration; its own log says why"
    )]
    Refused {
        /// Which of its functions.
        callback: &'static str,
    },
}
