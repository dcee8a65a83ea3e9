//! What is counted and remembered per plugin, over all of its instances on all cores.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wayline_model::defence::stands;
use wayline_telemetry::Throttle;

use crate::abi::FUNCTIONS;
use crate::callbacks::Callback;
use crate::fault::TrapKind;
use crate::metrics::Metrics;
use crate::quarantine::Quarantine;
use crate::shared::Shared;

/// The book of one plugin.
pub(crate) struct PluginBook {
    /// `<namespace>.<name>`.
    pub(crate) name: Arc<str>,
    /// Keeps the log short.
    pub(crate) throttle: Throttle,
    traps: [AtomicU64; TrapKind::ALL.len()],
    refused: AtomicU64,
    bypassed: AtomicU64,
    dropped_log_bytes: AtomicU64,
    callouts: [AtomicU64; CalloutResult::ALL.len()],
    ledger: Mutex<Ledger>,
    log: Mutex<LogQuota>,
    /// Data and queues of the plugin.
    pub(crate) shared: Arc<Shared>,
    /// Metrics that the plugin defines.
    pub(crate) metrics: Metrics,
    /// Where it runs after it has overrun its budget.
    pub(crate) quarantine: Arc<Quarantine>,
}

/// What cores counted.
#[derive(Default)]
struct Ledger {
    open: Vec<Arc<CoreBook>>,
    closed: Totals,
}

/// Counts of a plugin's instances on one core, written by that core alone.
#[derive(Default)]
pub(crate) struct CoreBook {
    calls: [AtomicU64; Callback::ALL.len()],
    nanoseconds: [AtomicU64; Callback::ALL.len()],
    host_calls: HostCalls,
    started: [AtomicU64; Origin::ALL.len()],
    ended: AtomicU64,
    memory: AtomicU64,
}

/// Calls of host functions, by number.
struct HostCalls([AtomicU64; FUNCTIONS]);

impl Default for HostCalls {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

/// The book of a core as long as the core has the plugin.
pub(crate) struct Tally {
    plugin: Arc<PluginBook>,
    book: Arc<CoreBook>,
}

/// What an instance was made from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Origin {
    /// The module: it was started and configured.
    Module,
    /// What another one was after its start.
    Image,
}

impl Origin {
    pub(crate) const ALL: [Self; 2] = [Self::Module, Self::Image];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Module => "module",
            Self::Image => "image",
        }
    }
}

/// Sums over cores.
#[derive(Clone)]
pub(crate) struct Totals {
    pub(crate) calls: [u64; Callback::ALL.len()],
    pub(crate) nanoseconds: [u64; Callback::ALL.len()],
    pub(crate) host_calls: [u64; FUNCTIONS],
    pub(crate) started: [u64; Origin::ALL.len()],
    pub(crate) memory: u64,
    pub(crate) instances: u64,
}

/// How a callout ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum CalloutResult {
    Success,
    Failure,
    Timeout,
    Refused,
}

impl CalloutResult {
    pub(crate) const ALL: [Self; 4] = [Self::Success, Self::Failure, Self::Timeout, Self::Refused];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
        }
    }
}

/// How many bytes may still be logged.
struct LogQuota {
    since: Option<Instant>,
    left: u32,
}

impl PluginBook {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            throttle: Throttle::per_minute(),
            traps: Default::default(),
            refused: AtomicU64::new(0),
            bypassed: AtomicU64::new(0),
            dropped_log_bytes: AtomicU64::new(0),
            callouts: Default::default(),
            ledger: Mutex::default(),
            shared: Arc::default(),
            metrics: Metrics::default(),
            quarantine: Arc::default(),
            log: Mutex::new(LogQuota {
                since: None,
                left: 0,
            }),
        }
    }

    /// A core that comes to have the plugin opens a book of its own.
    pub(crate) fn open(self: &Arc<Self>) -> Tally {
        let book = Arc::<CoreBook>::default();
        self.ledger().open.push(Arc::clone(&book));
        Tally {
            plugin: Arc::clone(self),
            book,
        }
    }

    fn close(&self, book: &Arc<CoreBook>) {
        let ledger = &mut *self.ledger();
        ledger.open.retain(|open| !Arc::ptr_eq(open, book));
        ledger.closed.add(book);
    }

    pub(crate) fn trap(&self, kind: TrapKind) {
        self.traps[kind as usize].fetch_add(1, Ordering::Relaxed);
        if kind == TrapKind::Budget {
            self.quarantine.begin();
        }
    }

    pub(crate) fn traps(&self, kind: TrapKind) -> u64 {
        self.traps[kind as usize].load(Ordering::Relaxed)
    }

    /// A stream was refused because the plugin could not work.
    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A stream passed although the plugin could not work.
    pub(crate) fn bypassed(&self) {
        self.bypassed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn callout(&self, result: CalloutResult) {
        self.callouts[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn callouts(&self, result: CalloutResult) -> u64 {
        self.callouts[result as usize].load(Ordering::Relaxed)
    }

    /// Streams refused, and passed, because the plugin could not work.
    pub(crate) fn failed(&self) -> (u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.refused), load(&self.bypassed))
    }

    pub(crate) fn dropped_log_bytes(&self) -> u64 {
        self.dropped_log_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn totals(&self) -> Totals {
        let ledger = self.ledger();
        let mut totals = ledger.closed.clone();
        for book in &ledger.open {
            totals.add(book);
        }
        totals
    }

    /// Whether so many bytes may be logged now, of `per_second`.
    pub(crate) fn may_log(&self, bytes: usize, per_second: u32) -> bool {
        let now = Instant::now();
        let mut quota = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let spent = |since: Instant| now.saturating_duration_since(since) < Duration::from_secs(1);
        if !quota.since.is_some_and(spent) {
            quota.since = Some(now);
            quota.left = per_second;
        }
        let left = u32::try_from(bytes)
            .ok()
            .and_then(|bytes| quota.left.checked_sub(bytes));
        match left {
            _ if !stands("wasm-log-quota") => true,
            Some(left) => {
                quota.left = left;
                true
            }
            None => {
                self.dropped_log_bytes
                    .fetch_add(bytes as u64, Ordering::Relaxed);
                false
            }
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.plugin.close(&self.book);
    }
}

impl std::ops::Deref for Tally {
    type Target = CoreBook;

    fn deref(&self) -> &CoreBook {
        &self.book
    }
}

impl CoreBook {
    /// One more call.
    pub(crate) fn called(&self, callback: Callback) {
        add(&self.calls[callback as usize], 1);
    }

    /// A module called a host function.
    pub(crate) fn host_call(&self, number: usize) {
        if let Some(calls) = self.host_calls.0.get(number) {
            add(calls, 1);
        }
    }

    /// One call in [`SAMPLED`] took so long.
    pub(crate) fn took(&self, callback: Callback, time: Duration, weight: u64) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        add(
            &self.nanoseconds[callback as usize],
            nanoseconds.saturating_mul(weight),
        );
    }

    /// One more instance.
    pub(crate) fn started(&self, origin: Origin) {
        add(&self.started[origin as usize], 1);
    }

    /// One instance less.
    pub(crate) fn ended(&self) {
        add(&self.ended, 1);
    }

    /// The memory of an instance was so large, and is so large now.
    pub(crate) fn resized(&self, before: usize, now: usize) {
        add(&self.memory, (now as u64).wrapping_sub(before as u64));
    }
}

/// One call in so many is timed, and counts for all of them.
pub(crate) const SAMPLED: u64 = 16;

impl Default for Totals {
    fn default() -> Self {
        Self {
            calls: Default::default(),
            nanoseconds: Default::default(),
            host_calls: [0; FUNCTIONS],
            started: Default::default(),
            memory: 0,
            instances: 0,
        }
    }
}

impl Totals {
    fn add(&mut self, book: &CoreBook) {
        for index in 0..Callback::ALL.len() {
            self.calls[index] += book.calls[index].load(Ordering::Relaxed);
            self.nanoseconds[index] += book.nanoseconds[index].load(Ordering::Relaxed);
        }
        for (total, calls) in self.host_calls.iter_mut().zip(&book.host_calls.0) {
            *total += calls.load(Ordering::Relaxed);
        }
        let mut started = 0;
        for origin in Origin::ALL {
            let count = book.started[origin as usize].load(Ordering::Relaxed);
            self.started[origin as usize] += count;
            started += count;
        }
        self.instances += started.saturating_sub(book.ended.load(Ordering::Relaxed));
        self.memory += book.memory.load(Ordering::Relaxed);
    }
}

/// There is one writer: no read-modify-write is needed.
fn add(counter: &AtomicU64, more: u64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(more),
        Ordering::Relaxed,
    );
}
