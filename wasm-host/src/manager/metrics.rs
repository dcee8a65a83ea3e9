//! What is counted about plugins and their modules.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGaugeVec, Opts, Registry};
use wayline_model::plugin::{Plugin, Verdict};

use super::LoadFailure;

/// The names of Istio's agent, and the state of each plugin.
#[derive(Clone, Debug)]
pub struct ManagerMetrics {
    conversions: IntCounterVec,
    fetches: IntCounterVec,
    states: IntGaugeVec,
    durations: Histogram,
}

impl ManagerMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// Where something else has one of their names: a fault of the program.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let conversions = IntCounterVec::new(
            Opts::new(
                "wasm_config_conversion_count",
                "Attempts to make a plugin ready, by result.",
            ),
            &["result"],
        )?;
        let fetches = IntCounterVec::new(
            Opts::new(
                "wasm_remote_fetch_count",
                "Attempts to obtain a plugin's module, by result.",
            ),
            &["result"],
        )?;
        let states = IntGaugeVec::new(
            Opts::new(
                "wayline_wasm_plugin_state",
                "1 for the state that a plugin is in: pending, ready or failed.",
            ),
            &["plugin", "state"],
        )?;
        let durations = HistogramOpts::new(
            "wasm_config_conversion_duration",
            "How long attempts to make a plugin ready took, in milliseconds.",
        )
        .buckets(vec![50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4]);
        let durations = Histogram::with_opts(durations)?;
        registry.register(Box::new(durations.clone()))?;
        registry.register(Box::new(conversions.clone()))?;
        registry.register(Box::new(fetches.clone()))?;
        registry.register(Box::new(states.clone()))?;
        Ok(Self {
            conversions,
            fetches,
            states,
            durations,
        })
    }

    /// One attempt took so long.
    pub(super) fn took(&self, time: Duration) {
        self.durations.observe(time.as_secs_f64() * 1e3);
    }

    pub(super) fn loaded(&self, outcome: Result<(), &LoadFailure>) {
        let (conversion, fetch) = match outcome {
            Ok(()) => ("success", "success"),
            Err(LoadFailure {
                fetch_result: "", ..
            }) => ("start_failure", "success"),
            Err(failure) => ("fetch_failure", failure.fetch_result),
        };
        self.conversions.with_label_values(&[conversion]).inc();
        self.fetches.with_label_values(&[fetch]).inc();
    }

    /// Shows exactly these plugins. Of several versions of one the states add up.
    pub(super) fn states<'a>(&self, plugins: impl Iterator<Item = (&'a Plugin, &'a Verdict)>) {
        self.states.reset();
        for (plugin, verdict) in plugins {
            self.states
                .with_label_values(&[&*plugin.name, verdict.word()])
                .inc();
        }
    }
}
