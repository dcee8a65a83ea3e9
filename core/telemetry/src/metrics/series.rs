//! The cells behind one series on one core, and the handles that write them.
//!
//! A cell is an atomic written by one thread only: a relaxed load and a relaxed store, which cost
//! what plain memory costs. The scrape reads them from another thread; what it sees may lag by one
//! request and may show a count without its sum, never a torn number.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::labels::{DestinationLabels, WorkloadLabels};
use super::{GrpcStatus, Reporter, RequestProtocol, SecurityPolicy};
use crate::flags::ResponseFlags;

/// Upper bounds of the histogram buckets in thousandths (of a millisecond, of a byte): Envoy's
/// defaults 0.5 to 3,600,000.
pub(super) const BOUNDS: [u64; 19] = [
    500,
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];

/// All buckets, with the one above the last bound.
pub(super) const BUCKETS: usize = BOUNDS.len() + 1;

/// What one request leaves in its series.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestSample {
    /// From the first byte of the request to the last byte of the response.
    pub duration: Duration,
    /// Bytes received from the client.
    pub request_bytes: u64,
    /// Bytes sent to the client.
    pub response_bytes: u64,
}

/// Handle to one request series of this core: the counter and the three histograms.
///
/// Lives on the core that made it.
#[derive(Debug)]
pub struct RequestSeries(pub(super) Handle<RequestCells>);

impl RequestSeries {
    /// Counts one finished request.
    pub fn record(&self, sample: RequestSample) {
        let cells = &self.0.shared.cells;
        let micros = u64::try_from(sample.duration.as_micros()).unwrap_or(u64::MAX);
        cells.duration.observe(micros, micros);
        cells.request_bytes.observe(
            sample.request_bytes.saturating_mul(1000),
            sample.request_bytes,
        );
        cells.response_bytes.observe(
            sample.response_bytes.saturating_mul(1000),
            sample.response_bytes,
        );
        cells.requests.add(1);
    }
}

/// Handle to one TCP series of this core. Hold it while the connection is open.
///
/// Lives on the core that made it. Directions are Istio's: *sent* is from server to client.
#[derive(Debug)]
pub struct TcpSeries(pub(super) Handle<TcpCells>);

impl TcpSeries {
    /// Counts an opened connection.
    pub fn opened(&self) {
        self.0.shared.cells.opened.add(1);
    }

    /// Counts a closed connection.
    pub fn closed(&self) {
        self.0.shared.cells.closed.add(1);
    }

    /// Counts bytes from the server to the client.
    pub fn sent(&self, bytes: u64) {
        self.0.shared.cells.sent.add(bytes);
    }

    /// Counts bytes from the client to the server.
    pub fn received(&self, bytes: u64) {
        self.0.shared.cells.received.add(bytes);
    }
}

/// A series' one writer. Not `Send`: a second writer would lose counts.
#[derive(Debug)]
pub(super) struct Handle<C> {
    pub(super) shared: Arc<Shared<C>>,
    one_thread: PhantomData<*const ()>,
}

impl<C> Handle<C> {
    pub(super) fn new(shared: Arc<Shared<C>>) -> Self {
        Self {
            shared,
            one_thread: PhantomData,
        }
    }
}

/// One series of one core, as core and hub both see it.
#[derive(Debug)]
pub(super) struct Shared<C> {
    pub(super) cells: C,
    pub(super) labels: SeriesLabels,
    /// The hub asks the core to let go.
    pub(super) retire: AtomicBool,
    /// The core has let go; the cells are final.
    pub(super) gone: AtomicBool,
}

impl<C: Cells> Shared<C> {
    pub(super) fn new(labels: SeriesLabels) -> Arc<Self> {
        Arc::new(Self {
            cells: C::default(),
            labels,
            retire: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        })
    }
}

/// All labels of a series; equal ones of several cores are one series at the scrape.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct SeriesLabels {
    pub(super) reporter: Reporter,
    pub(super) peer: Arc<WorkloadLabels>,
    pub(super) destination: Arc<DestinationLabels>,
    pub(super) workload: Arc<WorkloadLabels>,
    pub(super) flags: ResponseFlags,
    pub(super) security: SecurityPolicy,
    /// Absent for TCP.
    pub(super) http: Option<HttpLabels>,
}

/// The labels that only requests have.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct HttpLabels {
    pub(super) response_code: u16,
    pub(super) protocol: RequestProtocol,
    pub(super) grpc_status: Option<GrpcStatus>,
}

/// A kind of series: its cells and what they add up to.
pub(super) trait Cells: Default + Send + Sync + 'static {
    /// The sum over cores.
    type Totals: Clone + Default;

    /// Adds this core's numbers.
    fn add_to(&self, totals: &mut Self::Totals);

    /// A number that changes whenever the series is used.
    fn activity(totals: &Self::Totals) -> u64;
}

/// Cells of a request series.
#[derive(Debug, Default)]
pub(super) struct RequestCells {
    requests: Cell,
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
}

/// Requests of all cores.
#[derive(Clone, Debug, Default)]
pub(super) struct RequestTotals {
    pub(super) requests: u64,
    /// Sum in microseconds.
    pub(super) duration: HistogramTotals,
    pub(super) request_bytes: HistogramTotals,
    pub(super) response_bytes: HistogramTotals,
}

impl Cells for RequestCells {
    type Totals = RequestTotals;

    fn add_to(&self, totals: &mut RequestTotals) {
        totals.requests += self.requests.get();
        self.duration.add_to(&mut totals.duration);
        self.request_bytes.add_to(&mut totals.request_bytes);
        self.response_bytes.add_to(&mut totals.response_bytes);
    }

    fn activity(totals: &RequestTotals) -> u64 {
        totals.requests
    }
}

/// Cells of a TCP series.
#[derive(Debug, Default)]
pub(super) struct TcpCells {
    opened: Cell,
    closed: Cell,
    sent: Cell,
    received: Cell,
}

/// Connections of all cores.
#[derive(Clone, Debug, Default)]
pub(super) struct TcpTotals {
    pub(super) opened: u64,
    pub(super) closed: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
}

impl Cells for TcpCells {
    type Totals = TcpTotals;

    fn add_to(&self, totals: &mut TcpTotals) {
        totals.opened += self.opened.get();
        totals.closed += self.closed.get();
        totals.sent = totals.sent.wrapping_add(self.sent.get());
        totals.received = totals.received.wrapping_add(self.received.get());
    }

    fn activity(totals: &TcpTotals) -> u64 {
        let TcpTotals {
            opened,
            closed,
            sent,
            received,
        } = totals;
        [opened, closed, sent, received]
            .into_iter()
            .fold(0, |sum: u64, n| sum.wrapping_add(*n))
    }
}

/// Observations of all cores.
#[derive(Clone, Debug)]
pub(super) struct HistogramTotals {
    pub(super) buckets: [u64; BUCKETS],
    pub(super) sum: u64,
}

impl Default for HistogramTotals {
    fn default() -> Self {
        Self {
            buckets: [0; BUCKETS],
            sum: 0,
        }
    }
}

/// A histogram of one core. The count is the sum of the buckets.
#[derive(Debug)]
struct Histogram {
    buckets: [Cell; BUCKETS],
    sum: Cell,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| Cell::default()),
            sum: Cell::default(),
        }
    }
}

impl Histogram {
    /// `thousandths` finds the bucket, `value` goes into the sum.
    fn observe(&self, thousandths: u64, value: u64) {
        let bucket = BOUNDS.partition_point(|bound| *bound < thousandths);
        if let Some(cell) = self.buckets.get(bucket) {
            cell.add(1);
        }
        self.sum.add(value);
    }

    fn add_to(&self, totals: &mut HistogramTotals) {
        for (total, cell) in totals.buckets.iter_mut().zip(&self.buckets) {
            *total += cell.get();
        }
        totals.sum = totals.sum.wrapping_add(self.sum.get());
    }
}

/// A number with one writer.
#[derive(Debug, Default)]
struct Cell(AtomicU64);

impl Cell {
    fn add(&self, n: u64) {
        let now = self.0.load(Ordering::Relaxed);
        self.0.store(now.wrapping_add(n), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
