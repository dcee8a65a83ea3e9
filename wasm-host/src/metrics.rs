//! Metrics that plugins define: kept per plugin by name, so that instances on all cores and after
//! restarts count on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use wayline_model::defence::stands;

use crate::status::Status;

/// Upper bounds of histograms, as Envoy has them.
pub(crate) const BOUNDS: [f64; 19] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5,
    1.8e6, 3.6e6,
];

/// The metrics of one plugin.
#[derive(Default)]
pub(crate) struct Metrics(Mutex<BTreeMap<Arc<str>, Arc<Metric>>>);

/// Longest name, in bytes.
const LONGEST_NAME: usize = 256;

/// One metric.
pub(crate) enum Metric {
    Counter(AtomicU64),
    Gauge(AtomicI64),
    Histogram(Histogram),
}

#[derive(Default)]
pub(crate) struct Histogram {
    pub(crate) buckets: [AtomicU64; BOUNDS.len()],
    pub(crate) count: AtomicU64,
    pub(crate) sum: AtomicU64,
}

impl Metrics {
    /// The metric of that name; made where there is none and so many are not reached.
    pub(crate) fn define(&self, kind: u32, name: &[u8], most: u32) -> Result<Arc<Metric>, Status> {
        let made = match kind {
            0 => Metric::Counter(AtomicU64::new(0)),
            1 => Metric::Gauge(AtomicI64::new(0)),
            2 => Metric::Histogram(Histogram::default()),
            _ => return Err(Status::BadArgument),
        };
        let name = std::str::from_utf8(name).map_err(|_| Status::BadArgument)?;
        if name.is_empty() || name.len() > LONGEST_NAME {
            return Err(Status::BadArgument);
        }
        let mut metrics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = metrics.get(name) {
            return if known.kind() == made.kind() {
                Ok(Arc::clone(known))
            } else {
                Err(Status::BadArgument)
            };
        }
        if metrics.len() >= most as usize && stands("wasm-metric-names") {
            return Err(Status::InternalFailure);
        }
        let made = Arc::new(made);
        metrics.insert(name.into(), Arc::clone(&made));
        Ok(made)
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<(Arc<str>, Arc<Metric>)> {
        let metrics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let metrics = metrics.iter();
        metrics
            .map(|(name, metric)| (Arc::clone(name), Arc::clone(metric)))
            .collect()
    }
}

impl Metric {
    /// The ABI's number of its kind.
    pub(crate) fn kind(&self) -> u32 {
        match self {
            Self::Counter(_) => 0,
            Self::Gauge(_) => 1,
            Self::Histogram(_) => 2,
        }
    }

    pub(crate) fn increment(&self, delta: i64) -> Result<(), Status> {
        match self {
            Self::Counter(value) => {
                let delta = u64::try_from(delta).map_err(|_| Status::BadArgument)?;
                if delta == 0 {
                    return Err(Status::BadArgument);
                }
                value.fetch_add(delta, Ordering::Relaxed);
            }
            Self::Gauge(value) => {
                value.fetch_add(delta, Ordering::Relaxed);
            }
            Self::Histogram(_) => return Err(Status::BadArgument),
        }
        Ok(())
    }

    pub(crate) fn record(&self, recorded: u64) {
        match self {
            Self::Counter(value) => {
                value.fetch_add(recorded, Ordering::Relaxed);
            }
            Self::Gauge(value) => value.store(recorded.cast_signed(), Ordering::Relaxed),
            Self::Histogram(histogram) => {
                let index = BOUNDS.iter().position(|bound| recorded as f64 <= *bound);
                if let Some(bucket) = index.and_then(|index| histogram.buckets.get(index)) {
                    bucket.fetch_add(1, Ordering::Relaxed);
                }
                histogram.count.fetch_add(1, Ordering::Relaxed);
                histogram.sum.fetch_add(recorded, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn value(&self) -> Result<u64, Status> {
        match self {
            Self::Counter(value) => Ok(value.load(Ordering::Relaxed)),
            Self::Gauge(value) => Ok(value.load(Ordering::Relaxed).cast_unsigned()),
            Self::Histogram(_) => Err(Status::BadArgument),
        }
    }
}
