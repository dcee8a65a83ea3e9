//! A module that is ready to be instantiated on any core.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use wasmtime::{InstancePre, Module, ModuleExport};

use crate::abi::{ALLOCATORS, AbiVersion};
use crate::callbacks::{Exported, find};
use crate::engine::Engine;
use crate::error::LoadError;
use crate::hostcalls;
use crate::image::Parts;
use crate::state::State;
use crate::trusted::{self, Artifact};

/// A compiled module with its imports resolved.
pub struct Prepared {
    pub(crate) pre: InstancePre<State>,
    pub(crate) exported: Exported,
    pub(crate) memory: ModuleExport,
    pub(crate) allocator: ModuleExport,
    pub(crate) entry: Entry,
    /// What instances remember, where that can be copied.
    pub(crate) parts: Option<Parts>,
    pub(crate) engine: Engine,
    abi: AbiVersion,
    missing: Arc<[Arc<str>]>,
    fingerprint: [u8; 32],
}

/// What is called once, before any callback.
pub(crate) enum Entry {
    /// `_initialize`, then `main(0, 0)` or `__main_void()`.
    Reactor {
        initialize: ModuleExport,
        main: Option<ModuleExport>,
        main_void: Option<ModuleExport>,
    },
    /// `_start`.
    Command(ModuleExport),
    /// Nothing.
    None,
}

impl Prepared {
    /// Makes compiled code ready to run. Imports that nobody offers are answered by a stub, which
    /// fails and logs its name once.
    ///
    /// # Errors
    /// [`LoadError`] where the code is not for this engine, or the module is none that can be hosted.
    pub fn load(engine: &Engine, artifact: Artifact<'_>) -> Result<Arc<Self>, LoadError> {
        let broken = |error: String| LoadError::Artifact(error.into());
        let fingerprint = fingerprint(artifact).map_err(|error| broken(error.to_string()))?;
        let module = trusted::module(engine.inner(), artifact)
            .map_err(|error| broken(format!("{error:#}")))?;
        let exported = Exported::of(&module)?;
        let linked = hostcalls::link(engine.inner(), &module)?;
        Ok(Arc::new(Self {
            pre: linked.pre,
            memory: memory(&module)?,
            allocator: allocator(&module)?,
            entry: Entry::of(&module)?,
            parts: Parts::of(&module),
            abi: abi(&module)?,
            exported,
            engine: engine.clone(),
            missing: linked.missing.into(),
            fingerprint,
        }))
    }

    /// The newest version of the ABI that it declares and we know.
    #[must_use]
    pub fn abi(&self) -> AbiVersion {
        self.abi
    }

    /// Functions it imports that nobody offers, as `module.name`.
    #[must_use]
    pub fn missing(&self) -> &[Arc<str>] {
        &self.missing
    }

    /// The callbacks it exports.
    #[must_use]
    pub fn callbacks(&self) -> Vec<&'static str> {
        self.exported.names().collect()
    }

    /// SHA-256 of the compiled code.
    #[must_use]
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }
}

fn fingerprint(artifact: Artifact<'_>) -> io::Result<[u8; 32]> {
    let file = match artifact {
        Artifact::Bytes(bytes) => return Ok(Sha256::digest(bytes).into()),
        Artifact::File(file) => file,
    };
    let (mut hash, mut chunk, mut at) = (Sha256::new(), vec![0; 64 << 10], 0);
    loop {
        let read = file.read_at(&mut chunk, at)?;
        if read == 0 {
            return Ok(hash.finalize().into());
        }
        hash.update(&chunk[..read]);
        at += read as u64;
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared")
            .field("abi", &self.abi)
            .field("callbacks", &self.callbacks())
            .field("missing", &self.missing)
            .finish_non_exhaustive()
    }
}

impl Entry {
    fn of(module: &Module) -> Result<Self, LoadError> {
        if let Some(initialize) = find(module, "_initialize", &[0], 0)? {
            return Ok(Self::Reactor {
                initialize,
                main: find(module, "main", &[2], 1)?,
                main_void: find(module, "__main_void", &[0], 1)?,
            });
        }
        Ok(find(module, "_start", &[0], 0)?.map_or(Self::None, Self::Command))
    }
}

fn abi(module: &Module) -> Result<AbiVersion, LoadError> {
    module
        .exports()
        .filter_map(|export| AbiVersion::declared_by(export.name()))
        .max()
        .ok_or(LoadError::Abi)
}

fn memory(module: &Module) -> Result<ModuleExport, LoadError> {
    match module.get_export("memory") {
        Some(wasmtime::ExternType::Memory(_)) => {
            module.get_export_index("memory").ok_or(LoadError::NoMemory)
        }
        _ => Err(LoadError::NoMemory),
    }
}

fn allocator(module: &Module) -> Result<ModuleExport, LoadError> {
    for name in ALLOCATORS {
        if let Some(found) = find(module, name, &[1], 1)? {
            return Ok(found);
        }
    }
    Err(LoadError::Allocator)
}
