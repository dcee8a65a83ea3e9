//! The admin ports: what an operator, a probe and Prometheus see of the process.
//!
//! This folder owns three small HTTP/1 servers (`admin`, `status`, `metrics`), the readiness verdict,
//! and the translation of a snapshot into the shapes Istio's tools read. It only reads: a page is made
//! from the snapshot in force and from counters, on the thread that accepts connections or beside it,
//! and never asks a worker anything, so that a worker that hangs can still be looked at.
//!
//! It refuses to know private keys: nothing in here can reach one.

mod config_dump;
mod guard;
mod logging;
mod objects;
mod pages;
mod readiness;
mod server;
mod stats;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use wayline_model::{Finding, Severity, Snapshot};
use wayline_telemetry::MetricsHub;
use wayline_tls::CertificateStore;

use crate::drain::Phase;
use crate::listener::{ListenerStatus, Listeners};
use crate::worker::{Handle, Load};

pub(crate) use server::serve;

/// Names of the three ports among the [`Listeners`].
pub(crate) const NAMES: [&str; 3] = [
    server::Port::Admin.name(),
    server::Port::Status.name(),
    server::Port::Metrics.name(),
];

/// Threads that large pages are written on: a scrape and a dump at a time, and the rest waits.
pub(crate) const BLOCKING_THREADS: usize = 2;

/// How long answers under way may take when everything else has ended.
pub(crate) const LAST_WORD: Duration = Duration::from_millis(500);

/// The process's log filter, as `/logging` shows and changes it.
///
/// Filters are written as `RUST_LOG` is: `info`, or `info,wayline_proxy=debug`.
pub trait LogLevels: Send + Sync {
    /// The filter in force.
    fn current(&self) -> String;

    /// Puts a filter in force; an error says what is wrong with it, and the old one stays.
    fn set(&self, filter: &str) -> Result<(), String>;
}

/// The objects in force, as `/wayline/objects` shows them.
pub trait LiveObjects: Send + Sync {
    /// Of each object the version in force, by kind, namespace and name.
    fn all(&self) -> Vec<serde_json::Value>;

    /// Objects that exist and of which no version can be had, as `Kind namespace/name`.
    fn unreadable(&self) -> Vec<String>;
}

/// What the process knows and the pages show.
pub(crate) struct Known {
    /// Snapshots, as they are published.
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Findings about the configuration in force.
    pub(crate) findings: watch::Receiver<Arc<Vec<Finding>>>,
    /// Our certificate.
    pub(crate) certificates: CertificateStore,
    /// Where metrics are kept.
    pub(crate) hub: Arc<MetricsHub>,
    /// The log filter.
    pub(crate) log_levels: Option<Arc<dyn LogLevels>>,
    /// The objects in force.
    pub(crate) objects: Option<Arc<dyn LiveObjects>>,
}

/// Everything the pages are made from.
pub(crate) struct Admin {
    known: Known,
    listeners: Listeners,
    loads: Vec<Arc<Load>>,
    quit: watch::Sender<bool>,
    phase: Arc<watch::Sender<Phase>>,
    marked_unhealthy: AtomicBool,
    started: (Instant, SystemTime),
    applied: Mutex<SystemTime>,
    expiry_shown: Mutex<Option<Arc<str>>>,
}

/// What the process is doing, in Envoy's words (envoy.admin.v3.ServerInfo.State).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Live,
    Draining,
    PreInitializing,
    Initializing,
}

impl Admin {
    /// What is told to go by `quit`, and how far on its way it is by `phase`.
    pub(crate) fn new(
        known: Known,
        listeners: Listeners,
        workers: &[Handle],
        quit: watch::Sender<bool>,
        phase: Arc<watch::Sender<Phase>>,
    ) -> Arc<Self> {
        let now = SystemTime::now();
        Arc::new(Self {
            known,
            listeners,
            loads: workers.iter().map(|it| Arc::clone(&it.load)).collect(),
            quit,
            phase,
            marked_unhealthy: AtomicBool::new(false),
            started: (Instant::now(), now),
            applied: Mutex::new(now),
            expiry_shown: Mutex::default(),
        })
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.known.snapshots.borrow())
    }

    fn findings(&self) -> Arc<Vec<Finding>> {
        Arc::clone(&self.known.findings.borrow())
    }

    fn is_draining(&self) -> bool {
        *self.phase.borrow() > Phase::Serving
    }

    fn state(&self) -> State {
        if self.is_draining() || self.marked_unhealthy.load(Ordering::Relaxed) {
            State::Draining
        } else if self.snapshot().generation == 0 {
            State::PreInitializing
        } else if readiness::obstacles(self).is_empty() {
            State::Live
        } else {
            State::Initializing
        }
    }

    /// When the configuration in force came.
    fn applied(&self) -> SystemTime {
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listener(&self, name: &str) -> Option<ListenerStatus> {
        self.listeners.all().into_iter().find(|it| it.name == name)
    }

    /// Keeps the gauges of the configuration those of what is published.
    async fn follow_configuration(self: Arc<Self>) {
        let mut snapshots = self.known.snapshots.clone();
        let mut findings = self.known.findings.clone();
        loop {
            self.count_configuration();
            let fed = tokio::select! {
                changed = snapshots.changed() => {
                    *self.applied.lock().unwrap_or_else(PoisonError::into_inner) = SystemTime::now();
                    changed
                }
                changed = findings.changed() => changed,
            };
            if fed.is_err() {
                // Whoever published is gone: the numbers stay.
                return;
            }
        }
    }

    fn count_configuration(&self) {
        let process = self.known.hub.process();
        process.set_config_generation(self.snapshot().generation);
        let findings = self.findings();
        let errors = findings
            .iter()
            .filter(|finding| finding.severity == Severity::Error)
            .count();
        process.set_config_findings(errors, findings.len() - errors);
    }

    /// Everything Prometheus scrapes. Takes long with many series: not for the accepting thread.
    fn scrape(&self) -> Result<String, String> {
        self.count_configuration();
        self.show_expiry();
        self.known
            .hub
            .gather_text(Instant::now())
            .map_err(|error| format!("the metrics could not be written: {error}"))
    }

    /// A certificate changes its expiry at each rotation, and with another Gateway even its identity.
    fn show_expiry(&self) {
        let process = self.known.hub.process();
        let epoch = self.known.certificates.status().current;
        let mut shown = self
            .expiry_shown
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let uri: Option<Arc<str>> = epoch.as_ref().map(|epoch| epoch.identity().uri().into());
        if let Some(before) = shown.as_ref()
            && *shown != uri
        {
            process.set_cert_expiry(before, None);
        }
        if let (Some(epoch), Some(uri)) = (&epoch, &uri) {
            process.set_cert_expiry(uri, Some(epoch.not_after()));
        }
        *shown = uri;
    }
}
