//! What Wayline tells about itself: `istio_build` and the `wayline_*` metrics that belong to no
//! request.
//!
//! These are ordinary atomics shared by all cores. None of them moves once per request.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Metrics of the process. Cheap to clone; clones share their numbers.
#[derive(Clone, Debug)]
pub struct ProcessMetrics {
    config_generation: IntGauge,
    config_errors: IntGauge,
    config_hints: IntGauge,
    refusals: IntCounterVec,
    connections: IntGaugeVec,
    access_log_dropped: IntCounter,
    mirrored: IntCounterVec,
    policy_marks: IntCounterVec,
    jwks_fetches: IntCounterVec,
    cert_expiry: IntGaugeVec,
}

impl ProcessMetrics {
    pub(super) fn register(registry: &Registry, version: &str) -> Result<Self, prometheus::Error> {
        let build = IntGaugeVec::new(
            Opts::new("istio_build", "Version of this proxy."),
            &["component", "tag"],
        )?;
        build.with_label_values(&["proxy", version]).set(1);
        let findings = IntGaugeVec::new(
            Opts::new(
                "wayline_config_findings",
                "Findings about the configuration in force.",
            ),
            &["severity"],
        )?;
        let metrics = Self {
            config_generation: IntGauge::new(
                "wayline_config_generation",
                "Number of the configuration in force.",
            )?,
            config_errors: findings.with_label_values(&["error"]),
            config_hints: findings.with_label_values(&["hint"]),
            refusals: IntCounterVec::new(
                Opts::new(
                    "wayline_refusals_total",
                    "Connections and tunnels refused before any request, by reason.",
                ),
                &["reason"],
            )?,
            connections: IntGaugeVec::new(
                Opts::new("wayline_connections", "Open client connections."),
                &["entrance"],
            )?,
            access_log_dropped: IntCounter::new(
                "wayline_access_log_dropped_total",
                "Access log lines dropped because their file did not take them.",
            )?,
            jwks_fetches: IntCounterVec::new(
                Opts::new(
                    "wayline_jwks_fetches_total",
                    "Attempts to fetch the keys of token issuers, by outcome.",
                ),
                &["outcome"],
            )?,
            policy_marks: IntCounterVec::new(
                Opts::new(
                    "wayline_policy_marks_total",
                    "Requests that AUDIT rules mark, and what dry-run policies would have said, by rule.",
                ),
                &["kind", "rule"],
            )?,
            mirrored: IntCounterVec::new(
                Opts::new(
                    "wayline_mirrored_requests_total",
                    "Copies of requests for mirrors, by what became of them.",
                ),
                &["outcome"],
            )?,
            cert_expiry: IntGaugeVec::new(
                Opts::new(
                    "wayline_cert_expiry_seconds",
                    "When the certificate of an identity expires, in seconds since 1970.",
                ),
                &["identity"],
            )?,
        };
        let collectors: [Box<dyn Collector>; 10] = [
            Box::new(metrics.mirrored.clone()),
            Box::new(metrics.policy_marks.clone()),
            Box::new(metrics.jwks_fetches.clone()),
            Box::new(build),
            Box::new(findings),
            Box::new(metrics.config_generation.clone()),
            Box::new(metrics.refusals.clone()),
            Box::new(metrics.connections.clone()),
            Box::new(metrics.access_log_dropped.clone()),
            Box::new(metrics.cert_expiry.clone()),
        ];
        for collector in collectors {
            registry.register(collector)?;
        }
        Ok(metrics)
    }

    /// The generation of the snapshot in force.
    pub fn set_config_generation(&self, generation: u64) {
        self.config_generation.set(clamp(generation));
    }

    /// How many findings the configuration in force has.
    pub fn set_config_findings(&self, errors: usize, hints: usize) {
        self.config_errors.set(clamp(errors as u64));
        self.config_hints.set(clamp(hints as u64));
    }

    /// Counts a refused connection or tunnel. Reasons are literals, e.g. `no_client_certificate`.
    pub fn refused(&self, reason: &'static str) {
        self.refusals.with_label_values(&[reason]).inc();
    }

    /// Counts a request that policies mark without changing its fate. Kinds are `audit`,
    /// `dry_run_allowed` and `dry_run_denied`; the rule is named as in logs, or `none`.
    pub fn marked(&self, kind: &'static str, rule: &str) {
        self.policy_marks.with_label_values(&[kind, rule]).inc();
    }

    /// Counts an attempt to fetch an issuer's keys. Outcomes are `fetched` and `failed`.
    pub fn jwks_fetch(&self, outcome: &'static str) {
        self.jwks_fetches.with_label_values(&[outcome]).inc();
    }

    /// Counts a copy of a request that was to go to a mirror. Outcomes are literals, e.g. `sent`.
    pub fn mirrored(&self, outcome: &'static str) {
        self.mirrored.with_label_values(&[outcome]).inc();
    }

    /// Counts a client connection as open until the guard is dropped. Entrances are literals, e.g.
    /// `hbone` or `gateway`.
    #[must_use]
    pub fn connection(&self, entrance: &'static str) -> ConnectionGuard {
        let gauge = self.connections.with_label_values(&[entrance]);
        gauge.inc();
        ConnectionGuard { gauge }
    }

    /// When the certificate of an identity expires; `None` when it has none any more.
    pub fn set_cert_expiry(&self, identity: &str, not_after: Option<SystemTime>) {
        let Some(not_after) = not_after else {
            // An identity that never had a certificate has nothing to remove.
            let _ = self.cert_expiry.remove_label_values(&[identity]);
            return;
        };
        let seconds = not_after
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        self.cert_expiry
            .with_label_values(&[identity])
            .set(clamp(seconds));
    }

    /// The counter of dropped access log lines, for [`crate::AccessLogFiles`].
    #[must_use]
    pub fn access_log_dropped(&self) -> &IntCounter {
        &self.access_log_dropped
    }
}

/// One open connection.
#[derive(Debug)]
pub struct ConnectionGuard {
    gauge: IntGauge,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

fn clamp(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
