//! Refused connections and tunnels: counted each, logged once per reason and minute.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Instant;

use wayline_telemetry::{ProcessMetrics, Throttle};

/// Counts and logs refusals for the whole process.
pub(crate) struct Refusals {
    process: ProcessMetrics,
    throttle: Throttle,
}

impl Refusals {
    /// Counts into the process's metrics.
    pub(crate) fn new(process: ProcessMetrics) -> Self {
        Self {
            process,
            throttle: Throttle::per_minute(),
        }
    }

    /// Notes a refusal. `reason` is a literal for the counter, `detail` the whole story for the log.
    pub(crate) fn note(&self, reason: &'static str, source: SocketAddr, detail: impl Display) {
        self.process.refused(reason);
        if let Some(suppressed) = self.throttle.admit(reason, Instant::now()) {
            tracing::warn!(reason, %source, suppressed, "refused: {detail}");
        }
    }
}
