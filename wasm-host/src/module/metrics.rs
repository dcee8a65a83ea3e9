//! What is counted about modules: Istio's names where its agent has one.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};

use super::{ModuleError, Origin};

/// Counts of one [`super::Modules`].
pub(super) struct ModuleMetrics {
    lookups: IntCounterVec,
    entries: IntGauge,
    code: IntCounterVec,
    compiling: Histogram,
    failures: IntCounterVec,
}

/// Where compiled code came from.
#[derive(Clone, Copy, Debug)]
pub(super) enum CodeSource {
    /// It is in use already.
    Memory,
    Disk,
    Compiler,
}

impl ModuleMetrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let compiling = HistogramOpts::new(
            "wayline_wasm_compile_seconds",
            "How long modules took to be compiled, by the clock on the wall.",
        )
        .buckets(vec![0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]);
        Ok(Self {
            lookups: IntCounterVec::new(
                Opts::new(
                    "wasm_cache_lookup_count",
                    "Times that a module was wanted, and whether it was here.",
                ),
                &["hit"],
            )?,
            entries: IntGauge::new("wasm_cache_entries", "Modules in use.")?,
            code: IntCounterVec::new(
                Opts::new(
                    "wayline_wasm_code_total",
                    "Times that compiled code was wanted, by where it was found: memory, disk, compiler.",
                ),
                &["found"],
            )?,
            compiling: Histogram::with_opts(compiling)?,
            failures: IntCounterVec::new(
                Opts::new(
                    "wayline_wasm_compile_failures_total",
                    "Modules that were not compiled: refused for what they are, or failed for want of time or memory.",
                ),
                &["reason"],
            )?,
        })
    }

    pub(super) fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.lookups.clone()))?;
        registry.register(Box::new(self.entries.clone()))?;
        registry.register(Box::new(self.code.clone()))?;
        registry.register(Box::new(self.compiling.clone()))?;
        registry.register(Box::new(self.failures.clone()))
    }

    pub(super) fn looked_up(&self, origin: Origin) {
        let hit = if origin == Origin::Fetched {
            "false"
        } else {
            "true"
        };
        self.lookups.with_label_values(&[hit]).inc();
    }

    /// So many modules are in use.
    pub(super) fn in_use(&self, modules: usize) {
        self.entries.set(i64::try_from(modules).unwrap_or(i64::MAX));
    }

    pub(super) fn code(&self, found: CodeSource) {
        let found = match found {
            CodeSource::Memory => "memory",
            CodeSource::Disk => "disk",
            CodeSource::Compiler => "compiler",
        };
        self.code.with_label_values(&[found]).inc();
    }

    pub(super) fn compiled(&self, outcome: &Result<super::Compiled, ModuleError>, took: Duration) {
        match outcome {
            Ok(_) => self.compiling.observe(took.as_secs_f64()),
            Err(ModuleError::Refused { .. }) => {
                self.failures.with_label_values(&["refused"]).inc();
            }
            Err(_) => self.failures.with_label_values(&["failed"]).inc(),
        }
    }
}
