//! One endpoint as one core sees it: its idle connections, its load, its recent failures.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use wayline_model::service::{Endpoint, Transport};
use wayline_telemetry::WorkloadId;

use super::connect::ConnectFailure;
use super::h1::H1Connection;
use super::h2::H2Connection;

/// Idle HTTP/1 connections kept per endpoint and core.
const MAX_IDLE: usize = 256;

/// Sweeps (one a second) an idle connection is kept for.
const MAX_IDLE_SWEEPS: u32 = 60;

/// Reused connections in a row that must have worked before an endpoint is trusted not to close them
/// under a request.
const TRUSTED_AFTER: u32 = 64;

/// How long an endpoint that could not be connected is chosen last.
const AVOID_FAILED: Duration = Duration::from_secs(1);

/// One endpoint and what this core has open to it.
pub(crate) struct EndpointState {
    /// What the snapshot says of it.
    pub(crate) endpoint: Arc<Endpoint>,
    /// Its workload's label set.
    pub(crate) workload: WorkloadId,
    outstanding: Cell<u32>,
    failed_at: Cell<Option<Instant>>,
    removed: Cell<bool>,
    /// Idle connections, each with the sweeps it has seen.
    idle: RefCell<Vec<(u32, Box<H1Connection>)>>,
    /// Reused connections that worked since one did not.
    reused: Cell<u32>,
    pub(super) h2: RefCell<Vec<H2Connection>>,
    pub(super) dialing_h2: Cell<bool>,
    /// Why the last dial for HTTP/2 came to nothing.
    undialled_h2: RefCell<Option<ConnectFailure>>,
    pub(super) dialed_h2: Notify,
}

impl EndpointState {
    /// An endpoint nothing was sent to yet.
    pub(crate) fn new(endpoint: Arc<Endpoint>, workload: WorkloadId) -> Rc<Self> {
        Rc::new(Self {
            endpoint,
            workload,
            outstanding: Cell::new(0),
            failed_at: Cell::new(None),
            removed: Cell::new(false),
            idle: RefCell::default(),
            reused: Cell::new(0),
            h2: RefCell::default(),
            dialing_h2: Cell::new(false),
            undialled_h2: RefCell::default(),
            dialed_h2: Notify::new(),
        })
    }

    /// The identity it must prove, where it has to prove one.
    pub(crate) fn identity(&self) -> Option<&str> {
        match &self.endpoint.transport {
            Transport::Plain => None,
            Transport::Hbone { identity, .. } => Some(identity.uri()),
        }
    }

    /// Requests in flight from this core.
    pub(crate) fn outstanding(&self) -> u32 {
        self.outstanding.get()
    }

    /// Whether it could not be connected a moment ago.
    pub(crate) fn recently_failed(&self) -> bool {
        self.failed_at
            .get()
            .is_some_and(|at| at.elapsed() < AVOID_FAILED)
    }

    /// Whether it is known not to close connections under a request, so that no copy of a request
    /// has to be kept.
    pub(crate) fn is_trusted(&self) -> bool {
        self.reused.get() >= TRUSTED_AFTER
    }

    /// Notes how using a connection again went.
    pub(crate) fn reuse(&self, worked: bool) {
        self.reused.set(if worked {
            self.reused.get().saturating_add(1)
        } else {
            0
        });
    }

    /// Notes how a connection attempt ended.
    pub(crate) fn connected(&self, success: bool) {
        self.failed_at.set((!success).then(Instant::now));
    }

    /// Notes how a dial for HTTP/2 ended, for those who wait for it.
    pub(super) fn note_dial(&self, failure: Option<ConnectFailure>) {
        *self.undialled_h2.borrow_mut() = failure;
    }

    /// Why the last dial for HTTP/2 failed, if it did.
    pub(super) fn failed_dial(&self) -> Option<ConnectFailure> {
        self.undialled_h2.borrow().clone()
    }

    /// The most recently used idle connection that still works.
    pub(crate) fn take_idle(&self) -> Option<Box<H1Connection>> {
        loop {
            let (_, mut connection) = self.idle.borrow_mut().pop()?;
            if connection.is_usable() {
                return Some(connection);
            }
            self.reuse(false);
        }
    }

    /// Keeps a connection for the next request, if it can take one.
    pub(crate) fn put_idle(&self, mut connection: Box<H1Connection>) {
        // Whether something arrived meanwhile is seen when it is taken.
        if self.removed.get() || !connection.is_clean() {
            return;
        }
        connection.rest();
        let mut idle = self.idle.borrow_mut();
        if idle.len() < MAX_IDLE {
            idle.push((0, connection));
        }
    }

    /// Drops idle connections that are old or dead.
    pub(crate) fn sweep(&self) {
        self.idle.borrow_mut().retain_mut(|(sweeps, connection)| {
            *sweeps += 1;
            *sweeps <= MAX_IDLE_SWEEPS && connection.is_usable()
        });
        self.h2
            .borrow_mut()
            .retain(|connection| !connection.is_closed());
    }

    /// The endpoint left its cluster: nothing is kept, what runs may finish.
    pub(crate) fn remove(&self) {
        self.removed.set(true);
        self.idle.borrow_mut().clear();
        self.h2.borrow_mut().clear();
    }
}

/// Counts a request in flight for as long as it lives.
pub(crate) struct InFlight(Rc<EndpointState>);

impl InFlight {
    /// Counts one more.
    pub(crate) fn on(endpoint: &Rc<EndpointState>) -> Self {
        endpoint.outstanding.set(endpoint.outstanding.get() + 1);
        Self(Rc::clone(endpoint))
    }

    /// The endpoint it counts for.
    pub(crate) fn endpoint(&self) -> &Rc<EndpointState> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0
            .outstanding
            .set(self.0.outstanding.get().saturating_sub(1));
    }
}
