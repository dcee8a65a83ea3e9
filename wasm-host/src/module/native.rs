//! Compiled code: how it is made, and for whom.

use std::hash::{Hash, Hasher};

use sha2::{Digest as _, Sha256};
use wasmtime::{Config, Engine};

fn engine() -> Result<Engine, String> {
    let mut config = Config::new();
    config.epoch_interruption(true);
    Engine::new(&config).map_err(|error| format!("{error:#}"))
}

/// Compiles a module; the error is a sentence about it.
pub(crate) fn precompile(module: &[u8]) -> Result<Vec<u8>, String> {
    engine()?
        .precompile_module(module)
        .map_err(|error| format!("the module can not be compiled: {error:#}; build it again"))
}

/// Tells compiled code apart by all that must be equal where it runs: version, settings, processor.
pub(crate) fn compatibility() -> Result<[u8; 32], String> {
    let mut hasher = Sha256Hasher(Sha256::new());
    engine()?.precompile_compatibility_hash().hash(&mut hasher);
    Ok(hasher.0.finalize().into())
}

/// Collects what is hashed.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest: [u8; 32] = self.0.clone().finalize().into();
        u64::from_le_bytes(digest[..8].try_into().unwrap_or_default())
    }
}
