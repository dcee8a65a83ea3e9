//! The one place without the compiler's protection: wasmtime maps compiled code as it is given.
//!
//! Refuses to judge where bytes come from: callers hand in only what this very program compiled and
//! has kept where nobody else writes.

#![allow(
    unsafe_code,
    reason = "wasmtime can not check compiled code; that it is our own is known to the cache"
)]

use std::fs::File;

use wasmtime::{Engine, Module};

/// Code compiled by [`crate::Engine::precompile`], which nobody else could have written.
#[derive(Clone, Copy, Debug)]
pub enum Artifact<'a> {
    /// In memory.
    Bytes(&'a [u8]),
    /// In an open file, which is mapped and must not change as long as the module is in use. What
    /// follows the code is ignored.
    File(&'a File),
}

/// The module in an artifact. Code of another version or for another processor is refused.
pub(crate) fn module(engine: &Engine, artifact: Artifact<'_>) -> wasmtime::Result<Module> {
    match artifact {
        // SAFETY: the bytes are what `Engine::precompile` made, by the contract of `Artifact`.
        Artifact::Bytes(bytes) => unsafe { Module::deserialize(engine, bytes) },
        // SAFETY: as above; and the file is owned by the cache, which never writes a file twice.
        Artifact::File(file) => unsafe { Module::deserialize_open_file(engine, file.try_clone()?) },
    }
}
