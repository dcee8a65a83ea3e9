//! The queue between the cores and one provider's thread, and that thread.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;
use wayline_model::tracing::{TracingProtocol, TracingProvider};

use super::collector::Collector;
use super::otlp::Otlp;
use super::zipkin::Zipkin;
use super::{Dialer, ExportError, SpanExporter};
use crate::throttle::Throttle;
use crate::trace::span::SpanRecord;

/// Spans per delivery, at least; one more batch of a core may come on top.
const BATCH: usize = 512;

/// Tries before a batch is given up.
const MAX_TRIES: u32 = 5;

/// First and longest pause between tries.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Makes the dialer of an exporting thread, on that thread.
pub type DialerFactory = Arc<dyn Fn() -> Box<dyn Dialer> + Send + Sync>;

/// Bounds of the queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueSettings {
    /// Most spans waiting for one provider, those on their way included. Default 4,096, about 8 MiB.
    pub spans: usize,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self { spans: 4_096 }
    }
}

/// What became of spans. Cheap to clone; clones share their numbers.
#[derive(Clone, Debug)]
pub struct TraceMetrics {
    sent: IntCounter,
    queue_full: IntCounter,
    unreachable: IntCounter,
    refused: IntCounter,
}

impl TraceMetrics {
    /// Registers `wayline_trace_spans_sent_total` and `wayline_trace_spans_dropped_total`.
    ///
    /// # Errors
    /// When the registry has metrics of these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let sent = IntCounter::new(
            "wayline_trace_spans_sent_total",
            "Spans that a collector took.",
        )?;
        let dropped = IntCounterVec::new(
            Opts::new(
                "wayline_trace_spans_dropped_total",
                "Spans that reached no collector, by reason.",
            ),
            &["reason"],
        )?;
        registry.register(Box::new(sent.clone()))?;
        registry.register(Box::new(dropped.clone()))?;
        let of = |reason| dropped.with_label_values(&[reason]);
        Ok(Self {
            sent,
            queue_full: of("queue_full"),
            unreachable: of("unreachable"),
            refused: of("refused"),
        })
    }
}

/// The providers that the process sends spans to. One per process.
pub struct TraceExports {
    dialers: DialerFactory,
    settings: QueueSettings,
    metrics: TraceMetrics,
    open: Mutex<Vec<Weak<Delivery>>>,
    waiting: Mutex<Vec<Weak<AtomicUsize>>>,
}

impl fmt::Debug for TraceExports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceExports")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl TraceExports {
    /// Nothing is sent yet.
    #[must_use]
    pub fn new(dialers: DialerFactory, settings: QueueSettings, metrics: TraceMetrics) -> Self {
        Self {
            dialers,
            settings,
            metrics,
            open: Mutex::default(),
            waiting: Mutex::default(),
        }
    }

    /// The delivery to a provider, the same for all cores; its thread starts with the first and ends
    /// when the last has let go of it and all is sent or lost.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn open(&self, provider: &Arc<TracingProvider>) -> std::io::Result<Arc<Delivery>> {
        let mut open = lock(&self.open);
        open.retain(|delivery| delivery.strong_count() > 0);
        let known = open.iter().filter_map(Weak::upgrade);
        if let Some(known) = known
            .into_iter()
            .find(|delivery| delivery.provider == *provider)
        {
            return Ok(known);
        }
        let delivery = Arc::new(self.start(provider)?);
        open.push(Arc::downgrade(&delivery));
        Ok(delivery)
    }

    /// Waits until everything handed over was sent or lost, at most this long. Says whether it is.
    /// Cores must have flushed before. Blocks: not for a core.
    #[must_use]
    pub fn drain(&self, timeout: Duration) -> bool {
        const POLL: Duration = Duration::from_millis(5);
        let deadline = Instant::now() + timeout;
        let queues: Vec<_> = lock(&self.waiting)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let empty = || {
            queues
                .iter()
                .all(|waiting| waiting.load(Ordering::Acquire) == 0)
        };
        while !empty() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        empty()
    }

    fn start(&self, provider: &Arc<TracingProvider>) -> std::io::Result<Delivery> {
        let (sender, inbox) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let work = Work {
            provider: Arc::clone(provider),
            inbox,
            waiting: Arc::clone(&waiting),
            metrics: self.metrics.clone(),
            complaints: Throttle::per_minute(),
        };
        let dialers = Arc::clone(&self.dialers);
        thread::Builder::new()
            .name("trace-export".to_owned())
            .spawn(move || run(work, &dialers))?;
        let mut all = lock(&self.waiting);
        all.retain(|queue| queue.strong_count() > 0);
        all.push(Arc::downgrade(&waiting));
        Ok(Delivery {
            provider: Arc::clone(provider),
            sender,
            waiting,
            limit: self.settings.spans,
            queue_full: self.metrics.queue_full.clone(),
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The way to one provider.
#[derive(Debug)]
pub struct Delivery {
    provider: Arc<TracingProvider>,
    sender: mpsc::UnboundedSender<Vec<SpanRecord>>,
    waiting: Arc<AtomicUsize>,
    limit: usize,
    queue_full: IntCounter,
}

impl Delivery {
    /// Who gets the spans.
    #[must_use]
    pub fn provider(&self) -> &Arc<TracingProvider> {
        &self.provider
    }

    /// Queues spans, or drops them when too many wait already. Never waits.
    pub(crate) fn submit(&self, spans: Vec<SpanRecord>) {
        let count = spans.len();
        let before = self.waiting.fetch_add(count, Ordering::AcqRel);
        if before + count > self.limit || self.sender.send(spans).is_err() {
            self.waiting.fetch_sub(count, Ordering::AcqRel);
            self.queue_full.inc_by(count as u64);
        }
    }
}

/// What the thread of one provider owns.
struct Work {
    provider: Arc<TracingProvider>,
    inbox: mpsc::UnboundedReceiver<Vec<SpanRecord>>,
    waiting: Arc<AtomicUsize>,
    metrics: TraceMetrics,
    complaints: Throttle,
}

fn run(work: Work, dialers: &DialerFactory) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default());
    match runtime {
        Ok(runtime) => runtime.block_on(work.deliver(dialers())),
        Err(error) => tracing::error!(%error, "no event loop to export spans on; they are dropped"),
    }
}

impl Work {
    async fn deliver(mut self, dialer: Box<dyn Dialer>) {
        let collector = Collector::new(Arc::clone(&self.provider), dialer);
        let mut exporter: Box<dyn SpanExporter> = match &self.provider.protocol {
            TracingProtocol::Zipkin { path } => Box::new(Zipkin::new(collector, path)),
            TracingProtocol::OtlpGrpc => Box::new(Otlp::grpc(collector)),
            TracingProtocol::OtlpHttp { path } => Box::new(Otlp::http(collector, path)),
        };
        let mut pause = PAUSES.0;
        while let Some(batch) = self.next().await {
            self.send(&mut *exporter, &batch, &mut pause).await;
            self.waiting.fetch_sub(batch.len(), Ordering::AcqRel);
        }
    }

    async fn next(&mut self) -> Option<Vec<SpanRecord>> {
        let mut batch = self.inbox.recv().await?;
        while batch.len() < BATCH {
            match self.inbox.try_recv() {
                Ok(mut more) => batch.append(&mut more),
                Err(_) => break,
            }
        }
        Some(batch)
    }

    /// Tries until the batch is taken, refused, or tried often enough. The pause is kept between
    /// batches, so that a collector that stays away is asked seldom.
    async fn send(
        &self,
        exporter: &mut dyn SpanExporter,
        batch: &[SpanRecord],
        pause: &mut Duration,
    ) {
        let count = batch.len() as u64;
        for _ in 0..MAX_TRIES {
            let error = match exporter.export(batch).await {
                Ok(refused) => {
                    *pause = PAUSES.0;
                    self.metrics.refused.inc_by(refused);
                    self.metrics.sent.inc_by(count.saturating_sub(refused));
                    return;
                }
                Err(error) => error,
            };
            self.complain(&error);
            if !error.is_worth_retrying() {
                self.metrics.refused.inc_by(count);
                return;
            }
            // Nobody hands over any more: the process or the configuration moves on.
            if self.inbox.is_closed() {
                break;
            }
            tokio::time::sleep(*pause).await;
            *pause = (*pause * 2).min(PAUSES.1);
        }
        self.metrics.unreachable.inc_by(count);
    }

    fn complain(&self, error: &ExportError) {
        if let Some(suppressed) = self.complaints.admit("export", Instant::now()) {
            let TracingProvider {
                name, host, port, ..
            } = &*self.provider;
            tracing::warn!(provider = %name, collector = %format_args!("{host}:{port}"), suppressed, "spans are not delivered: {error}");
        }
    }
}
