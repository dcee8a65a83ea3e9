//! The process's metrics: every core's series, our own counters, and the scrape.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{IntCounter, Registry, TextEncoder};

use super::collect::IstioCollector;
use super::core::CoreMetrics;
use super::group::Groups;
use super::process::ProcessMetrics;
use super::procfs::ProcessCollector;
use super::series::{RequestCells, Shared, TcpCells};
use crate::trace::TraceMetrics;

/// Bounds on what is kept.
#[derive(Clone, Copy, Debug)]
pub struct MetricsSettings {
    /// A label set is dropped after it has not changed for this long. Default one hour.
    pub idle: Duration,
    /// Most label sets a core keeps, of requests and of TCP connections each. What comes beyond is
    /// counted in `wayline_metrics_dropped_series_total` only. Default 5,000; a request label set
    /// is 67 lines of the scrape.
    pub max_series: usize,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(60 * 60),
            max_series: 5_000,
        }
    }
}

/// One per process; share it in an `Arc`.
pub struct MetricsHub {
    registry: Registry,
    books: Arc<Books>,
    settings: MetricsSettings,
    process: ProcessMetrics,
    traces: TraceMetrics,
    dropped_series: IntCounter,
}

impl std::fmt::Debug for MetricsHub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetricsHub")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl MetricsHub {
    /// The hub of a process whose `istio_build` tag is `version`.
    ///
    /// # Errors
    /// When two of our own metrics have one name: a fault of the program.
    pub fn new(version: &str, settings: MetricsSettings) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let books = Arc::new(Books::default());
        let dropped_series = IntCounter::new(
            "wayline_metrics_dropped_series_total",
            "Look-ups of a series that was not made because its core keeps too many.",
        )?;
        registry.register(Box::new(dropped_series.clone()))?;
        registry.register(Box::new(IstioCollector::new(Arc::clone(&books))?))?;
        registry.register(Box::new(ProcessCollector::new()?))?;
        let process = ProcessMetrics::register(&registry, version)?;
        let traces = TraceMetrics::register(&registry)?;
        Ok(Self {
            registry,
            books,
            settings,
            process,
            traces,
            dropped_series,
        })
    }

    /// Registers a core. Call it on the worker's own thread.
    #[must_use]
    pub fn core(&self) -> CoreMetrics {
        let inbox = Arc::new(Inbox::default());
        self.books.lock().inboxes.push(Arc::clone(&inbox));
        CoreMetrics::new(inbox, self.settings.max_series, &self.dropped_series)
    }

    /// The process's own `wayline_*` metrics.
    #[must_use]
    pub fn process(&self) -> &ProcessMetrics {
        &self.process
    }

    /// What becomes of spans, for [`crate::trace::TraceExports`].
    #[must_use]
    pub fn traces(&self) -> &TraceMetrics {
        &self.traces
    }

    /// The registry, for rooms that have metrics of their own.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Everything in Prometheus' text format (version 0.0.4). Tends to idle series, too.
    ///
    /// Takes tens of milliseconds per thousand label sets: call it off the cores.
    ///
    /// # Errors
    /// When a collector of another room hands in a family without a name.
    pub fn gather_text(&self, now: Instant) -> Result<String, prometheus::Error> {
        self.sweep(now);
        let mut text = String::new();
        TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// Takes in new series and asks cores to let go of idle ones. The scrape does it; where nobody
    /// scrapes, call it every few minutes.
    pub fn sweep(&self, now: Instant) {
        self.books.lock().sweep(now, self.settings.idle);
    }
}

/// All series of all cores. Locked by the scrape and by a starting worker, never by a request.
#[derive(Default)]
pub(super) struct Books {
    ledger: Mutex<Ledger>,
}

impl Books {
    pub(super) fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the books hold.
pub(super) struct Ledger {
    inboxes: Vec<Arc<Inbox>>,
    pub(super) requests: Groups<RequestCells>,
    pub(super) tcp: Groups<TcpCells>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            inboxes: Vec::new(),
            requests: Groups::new(),
            tcp: Groups::new(),
        }
    }
}

impl Ledger {
    fn sweep(&mut self, now: Instant, idle: Duration) {
        self.inboxes.retain(|inbox| {
            // Asked first: what a core made before it ended must still be taken in.
            let core_is_alive = Arc::strong_count(inbox) > 1;
            self.requests.admit(take(&inbox.requests), now);
            self.tcp.admit(take(&inbox.tcp), now);
            core_is_alive
        });
        let requests = self.requests.sweep(now, idle);
        let tcp = self.tcp.sweep(now, idle);
        if requests || tcp {
            for inbox in &self.inboxes {
                inbox.retirees.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// What passes between one core and the hub. The core locks it for a push when it makes a series;
/// the hub for taking the list.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    pub(super) requests: Mutex<Vec<Arc<Shared<RequestCells>>>>,
    pub(super) tcp: Mutex<Vec<Arc<Shared<TcpCells>>>>,
    /// Some series of some core are asked for.
    pub(super) retirees: AtomicBool,
}

fn take<T>(list: &Mutex<Vec<T>>) -> Vec<T> {
    std::mem::take(&mut *list.lock().unwrap_or_else(PoisonError::into_inner))
}
