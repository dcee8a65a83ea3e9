//! One core's tables: from a key of integers to the series that counts it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use prometheus::IntCounter;
use rustc_hash::FxHashMap;

use super::hub::Inbox;
use super::key::PackedKey;
use super::labels::{Interner, PeerLabels};
use super::series::{Cells, Handle, HttpLabels, RequestCells, SeriesLabels, Shared, TcpCells};
use super::{
    DestinationId, DestinationLabels, PeerId, RequestKey, RequestSample, RequestSeries, TcpKey,
    TcpSeries, WorkloadId, WorkloadLabels,
};

/// What one worker counts with. Made by [`super::MetricsHub::core`] on the worker's own thread.
#[derive(Debug)]
pub struct CoreMetrics {
    inbox: Arc<Inbox>,
    peers: RefCell<Interner<PeerLabels>>,
    destinations: RefCell<Interner<DestinationLabels>>,
    workloads: RefCell<Interner<WorkloadLabels>>,
    requests: RefCell<Table<RequestSeries>>,
    tcp: RefCell<Table<TcpSeries>>,
}

impl CoreMetrics {
    pub(super) fn new(inbox: Arc<Inbox>, max_series: usize, dropped: &IntCounter) -> Self {
        Self {
            inbox,
            peers: RefCell::new(Interner::new()),
            destinations: RefCell::new(Interner::new()),
            workloads: RefCell::new(Interner::new()),
            requests: RefCell::new(Table::new(max_series, dropped.clone())),
            tcp: RefCell::new(Table::new(max_series, dropped.clone())),
        }
    }

    /// The id of a source's labels. For when a tunnel opens, not for each request.
    #[must_use]
    pub fn intern_peer(&self, labels: PeerLabels) -> PeerId {
        PeerId(self.peers.borrow_mut().intern(labels))
    }

    /// The id of a service's labels. For when a plan is bound.
    #[must_use]
    pub fn intern_destination(&self, labels: DestinationLabels) -> DestinationId {
        DestinationId(self.destinations.borrow_mut().intern(labels))
    }

    /// The id of a destination workload's labels. For when a plan is bound.
    #[must_use]
    pub fn intern_workload(&self, labels: WorkloadLabels) -> WorkloadId {
        WorkloadId(self.workloads.borrow_mut().intern(labels))
    }

    /// Counts one finished request: one hash of the key, no allocation once the series is known.
    pub fn record_request(&self, key: &RequestKey<'_>, sample: RequestSample) {
        if let Some(series) = self.requests.borrow().get(PackedKey::of_request(key)) {
            series.record(sample);
            return;
        }
        self.request_series(key).record(sample);
    }

    /// The series of a key, for callers that keep it.
    #[must_use]
    pub fn request_series(&self, key: &RequestKey<'_>) -> Rc<RequestSeries> {
        let packed = PackedKey::of_request(key);
        self.requests
            .borrow_mut()
            .get_or_make(packed, &self.inbox, || labels_of_request(key))
    }

    /// The TCP series of a key. Take it when the connection opens and hold it until it closes.
    #[must_use]
    pub fn tcp_series(&self, key: &TcpKey<'_>) -> Rc<TcpSeries> {
        let packed = PackedKey::of_tcp(key);
        self.tcp
            .borrow_mut()
            .get_or_make(packed, &self.inbox, || labels_of_tcp(key))
    }

    /// Lets go of series that the hub found idle. Call it from the core's slow timer, every few
    /// seconds; it costs one load when there is nothing to do.
    pub fn maintain(&self) {
        if !self.inbox.retirees.load(Ordering::Relaxed) {
            return;
        }
        self.inbox.retirees.store(false, Ordering::Relaxed);
        self.requests.borrow_mut().release(|retire| retire);
        self.tcp.borrow_mut().release(|retire| retire);
    }
}

impl Drop for CoreMetrics {
    fn drop(&mut self) {
        self.requests.get_mut().release(|_| true);
        self.tcp.get_mut().release(|_| true);
    }
}

fn labels_of_request(key: &RequestKey<'_>) -> SeriesLabels {
    SeriesLabels {
        reporter: key.reporter,
        peer: Arc::clone(&key.peer.0.labels),
        destination: Arc::clone(&key.destination.0.labels),
        workload: Arc::clone(&key.workload.0.labels),
        flags: key.flags,
        security: key.security,
        http: Some(HttpLabels {
            response_code: key.response_code,
            protocol: key.protocol,
            grpc_status: key.grpc_status,
        }),
    }
}

fn labels_of_tcp(key: &TcpKey<'_>) -> SeriesLabels {
    SeriesLabels {
        reporter: key.reporter,
        peer: Arc::clone(&key.peer.0.labels),
        destination: Arc::clone(&key.destination.0.labels),
        workload: Arc::clone(&key.workload.0.labels),
        flags: key.flags,
        security: key.security,
        http: None,
    }
}

/// A public handle over one kind of cells.
trait Series {
    type Cells: Cells;

    fn over(handle: Handle<Self::Cells>) -> Self;
    fn shared(&self) -> &Arc<Shared<Self::Cells>>;
    /// Tells the hub about a new series.
    fn post(inbox: &Inbox, shared: Arc<Shared<Self::Cells>>);
}

impl Series for RequestSeries {
    type Cells = RequestCells;

    fn over(handle: Handle<RequestCells>) -> Self {
        Self(handle)
    }

    fn shared(&self) -> &Arc<Shared<RequestCells>> {
        &self.0.shared
    }

    fn post(inbox: &Inbox, shared: Arc<Shared<RequestCells>>) {
        let newcomers = inbox.requests.lock();
        newcomers
            .unwrap_or_else(PoisonError::into_inner)
            .push(shared);
    }
}

impl Series for TcpSeries {
    type Cells = TcpCells;

    fn over(handle: Handle<TcpCells>) -> Self {
        Self(handle)
    }

    fn shared(&self) -> &Arc<Shared<TcpCells>> {
        &self.0.shared
    }

    fn post(inbox: &Inbox, shared: Arc<Shared<TcpCells>>) {
        let newcomers = inbox.tcp.lock();
        newcomers
            .unwrap_or_else(PoisonError::into_inner)
            .push(shared);
    }
}

/// Series of one kind by key.
#[derive(Debug)]
struct Table<S> {
    series: FxHashMap<PackedKey, Rc<S>>,
    max_series: usize,
    /// Where counts go when the table is full; never shown.
    overflow: Option<Rc<S>>,
    dropped: IntCounter,
}

impl<S: Series> Table<S> {
    fn new(max_series: usize, dropped: IntCounter) -> Self {
        Self {
            series: FxHashMap::default(),
            max_series,
            overflow: None,
            dropped,
        }
    }

    fn get(&self, key: PackedKey) -> Option<&S> {
        self.series.get(&key).map(|series| &**series)
    }

    fn get_or_make(
        &mut self,
        key: PackedKey,
        inbox: &Inbox,
        labels: impl FnOnce() -> SeriesLabels,
    ) -> Rc<S> {
        if let Some(known) = self.series.get(&key) {
            return Rc::clone(known);
        }
        if self.series.len() >= self.max_series {
            self.dropped.inc();
            let overflow = self
                .overflow
                .get_or_insert_with(|| Rc::new(S::over(Handle::new(Shared::new(labels())))));
            return Rc::clone(overflow);
        }
        let shared = Shared::new(labels());
        S::post(inbox, Arc::clone(&shared));
        let series = Rc::new(S::over(Handle::new(shared)));
        self.series.insert(key, Rc::clone(&series));
        series
    }

    /// Gives up series that nobody holds and of whose `retire` mark the predicate approves.
    fn release(&mut self, approves: impl Fn(bool) -> bool) {
        self.series.retain(|_, series| {
            let shared = series.shared();
            let keep =
                Rc::strong_count(series) > 1 || !approves(shared.retire.load(Ordering::Relaxed));
            if !keep {
                // Orders the last counts before the mark for the hub's acquire.
                shared.gone.store(true, Ordering::Release);
            }
            keep
        });
    }
}
