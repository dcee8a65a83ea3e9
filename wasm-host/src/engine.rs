//! The one place that says how wasmtime compiles and runs modules.
//!
//! Code compiled by [`Engine::for_compilation`] runs in [`Engine::for_running`] of the same binary on
//! the same kind of processor; anything else is refused when it is loaded.

use std::hash::{Hash as _, Hasher};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use wasmtime::{
    Config, Enabled, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
    WasmBacktraceDetails,
};

use wayline_model::defence::stands;

use crate::error::EngineError;
use crate::expose::expose;
use crate::state::TABLE_ELEMENTS;

/// Instances that may live at once in the process, contexts inside them not counted.
const MAX_INSTANCES: u32 = 4096;

/// Stack a module may use, in bytes.
const STACK: usize = 512 << 10;

/// Bytes of an instance's memory that stay resident between two uses of its slot, where the kernel tells
/// which pages were written (Linux 6.7). Elsewhere none: the first so many bytes would be cleared each
/// time, and those are a stack that is never used.
const KEEP_RESIDENT: usize = 256 << 10;

/// Counts the ways in which modules were rewritten before they are compiled.
const REWRITING: u32 = 1;

/// Time between two looks at the clock of callbacks that run.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// How modules are compiled and run. Clones are handles of one engine.
#[derive(Clone)]
pub struct Engine {
    inner: wasmtime::Engine,
    pooled: bool,
    clock: Arc<Mutex<Weak<Ticking>>>,
}

/// Keeps the clock of an engine going, by which callbacks that overrun are found.
#[derive(Debug)]
pub(crate) struct Ticking;

impl Engine {
    /// An engine for [`Engine::precompile`] alone: it reserves no memory for instances.
    ///
    /// # Errors
    /// [`EngineError`] where this processor is none that code can be compiled for.
    pub fn for_compilation() -> Result<Self, EngineError> {
        Self::new(config(), false)
    }

    /// An engine for running modules. Instances come from a pool of reserved addresses; where the
    /// system refuses so many, each reserves its own.
    ///
    /// # Errors
    /// [`EngineError`] where this processor is none that code can be compiled for.
    pub fn for_running() -> Result<Self, EngineError> {
        let mut pooling = config();
        pooling.allocation_strategy(InstanceAllocationStrategy::Pooling(pool()));
        match Self::new(pooling, true) {
            Ok(engine) => Ok(engine),
            Err(error) => {
                tracing::info!(
                    reason = %error,
                    "no pool for Wasm instances: each reserves memory of its own"
                );
                Self::new(config(), false)
            }
        }
    }

    /// Compiles a module to what [`crate::Prepared::load`] takes, with its state made reachable. Takes tens of milliseconds to
    /// seconds, and memory by the size of the module: never to be called on the data path.
    ///
    /// # Errors
    /// [`EngineError::Compile`] where the bytes are no valid module.
    pub fn precompile(&self, module: &[u8]) -> Result<Vec<u8>, EngineError> {
        let exposed = expose(module);
        self.inner
            .precompile_module(exposed.as_deref().unwrap_or(module))
            .map_err(|error| EngineError::Compile(format!("{error:#}").into()))
    }

    /// Tells compiled code apart by all that must be equal where it runs: the version of wasmtime, its
    /// settings, the processor, and what we do to modules before.
    pub(crate) fn compatibility(&self) -> [u8; 32] {
        let mut hasher = Sha256Hasher(Sha256::new());
        REWRITING.hash(&mut hasher);
        self.inner.precompile_compatibility_hash().hash(&mut hasher);
        hasher.0.finalize().into()
    }

    /// Whether instances come from a pool.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        self.pooled
    }

    pub(crate) fn inner(&self) -> &wasmtime::Engine {
        &self.inner
    }

    /// Lets the clock run as long as somebody holds the answer.
    pub(crate) fn ticking(&self) -> Arc<Ticking> {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ticking) = clock.upgrade() {
            return ticking;
        }
        let ticking = Arc::new(Ticking);
        *clock = Arc::downgrade(&ticking);
        let (engine, held) = (self.inner.weak(), Arc::downgrade(&ticking));
        let thread = std::thread::Builder::new().name("wasm-clock".into());
        let started = thread.spawn(move || {
            while held.strong_count() > 0 {
                std::thread::sleep(TICK);
                let Some(engine) = engine.upgrade() else {
                    return;
                };
                engine.increment_epoch();
            }
        });
        if let Err(error) = started {
            tracing::error!(%error, "no thread for the clock of Wasm callbacks: budgets do not hold");
        }
        ticking
    }

    fn new(config: Config, pooled: bool) -> Result<Self, EngineError> {
        let inner = wasmtime::Engine::new(&config)
            .map_err(|error| EngineError::Config(format!("{error:#}").into()))?;
        Ok(Self {
            inner,
            pooled,
            clock: Arc::default(),
        })
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("pooled", &self.pooled)
            .finish_non_exhaustive()
    }
}

/// Collects all that is hashed.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest: [u8; 32] = self.0.clone().finalize().into();
        digest[..8]
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

/// Threads, GC, exceptions and components are not even compiled in.
fn config() -> Config {
    let mut config = Config::new();
    config
        .cranelift_opt_level(OptLevel::Speed)
        .epoch_interruption(true)
        .max_wasm_stack(if stands("wasm-stack") { STACK } else { 1 << 30 })
        .memory_init_cow(true)
        .memory_reservation(4 << 30)
        .memory_guard_size(32 << 20)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .wasm_memory64(!stands("wasm-features"))
        .wasm_multi_memory(!stands("wasm-features"));
    config
}

fn pool() -> PoolingAllocationConfig {
    let table_elements = if stands("wasm-table-limit") {
        TABLE_ELEMENTS
    } else {
        10 * TABLE_ELEMENTS
    };
    let resident = if PoolingAllocationConfig::is_pagemap_scan_available() {
        KEEP_RESIDENT
    } else {
        0
    };
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(MAX_INSTANCES)
        .total_memories(MAX_INSTANCES)
        .total_tables(MAX_INSTANCES)
        .max_memories_per_module(1)
        .max_tables_per_module(8)
        .table_elements(table_elements)
        .max_unused_warm_slots(64)
        .pagemap_scan(Enabled::Auto)
        .linear_memory_keep_resident(resident)
        .table_keep_resident(64 << 10);
    pool
}
