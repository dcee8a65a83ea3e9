//! What can be done to a stream from outside of its own events: by the module while it works for
//! another context, by a callout that has ended, by the death of the instance.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use wayline_chain::{Direction, LocalReply};
use wayline_model::defence::stands;

use crate::callouts::Delivery;
use crate::place::Place;

/// The handle of one stream, shared by its filter and its instance.
pub(crate) struct StreamControl {
    /// The target of its chain.
    pub(crate) place: Rc<Place>,
    /// When it began.
    pub(crate) began: Instant,
    lanes: [Lane; 2],
    reply: RefCell<Option<LocalReply>>,
    closed: Cell<bool>,
    /// Callouts under way for it.
    pub(crate) callouts: Cell<u32>,
    inbox: RefCell<VecDeque<Delivery>>,
}

/// One direction of a stream.
#[derive(Default)]
struct Lane {
    /// Whether the module holds it up, or may be about to.
    paused: Cell<bool>,
    resumed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl StreamControl {
    pub(crate) fn new(place: Rc<Place>, began: Instant) -> Self {
        Self {
            place,
            began,
            lanes: Default::default(),
            reply: RefCell::default(),
            closed: Cell::default(),
            callouts: Cell::default(),
            inbox: RefCell::default(),
        }
    }

    /// A callback for this direction begins: what it asks for from here on counts for its answer.
    pub(crate) fn begin(&self, direction: Direction) {
        let lane = self.lane(direction);
        lane.paused.set(true);
        lane.resumed.set(false);
    }

    /// Whether this direction stays paused after its callback wanted it to pause.
    pub(crate) fn pause(&self, direction: Direction) -> bool {
        let lane = self.lane(direction);
        let stays = !lane.resumed.take();
        lane.paused.set(stays);
        stays
    }

    /// The callback of this direction let it go on.
    pub(crate) fn go_on(&self, direction: Direction) {
        let lane = self.lane(direction);
        lane.paused.set(false);
        lane.resumed.set(false);
    }

    /// Whether a paused direction was told to go on since. Tells once.
    pub(crate) fn take_resumed(&self, direction: Direction) -> bool {
        let lane = self.lane(direction);
        let resumed = lane.resumed.take();
        if resumed {
            lane.paused.set(false);
        }
        resumed
    }

    /// Lets a direction go on, where it is paused.
    pub(crate) fn resume(&self, direction: Direction) {
        let lane = self.lane(direction);
        if lane.paused.get() {
            lane.resumed.set(true);
            self.wake(direction);
        }
    }

    /// Answers the stream. Only the first answer counts.
    pub(crate) fn reply(&self, reply: LocalReply) {
        let mut first = self.reply.borrow_mut();
        if first.is_none() || !stands("wasm-one-reply") {
            *first = Some(reply);
        }
        drop(first);
        self.wake_all();
    }

    /// Resets the stream.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.wake_all();
    }

    /// The answer, told once.
    pub(crate) fn take_reply(&self) -> Option<LocalReply> {
        self.reply.borrow_mut().take()
    }

    /// Whether it is to be reset.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Whether some direction is paused.
    pub(crate) fn is_paused(&self) -> bool {
        self.lanes.iter().any(|lane| lane.paused.get())
    }

    /// Leaves something for the stream, which takes it when it is driven next.
    pub(crate) fn deliver(&self, delivery: Delivery) {
        self.inbox.borrow_mut().push_back(delivery);
        self.wake_all();
    }

    /// Whether something was left for it.
    pub(crate) fn has_delivery(&self) -> bool {
        !self.inbox.borrow().is_empty()
    }

    /// The oldest delivery.
    pub(crate) fn take_delivery(&self) -> Option<Delivery> {
        self.inbox.borrow_mut().pop_front()
    }

    /// Remembers whom to wake.
    pub(crate) fn wait(&self, direction: Direction, waker: &Waker) {
        let mut held = self.lane(direction).waker.borrow_mut();
        match &mut *held {
            Some(held) => held.clone_from(waker),
            None => *held = Some(waker.clone()),
        }
    }

    /// Drives both directions.
    pub(crate) fn wake_all(&self) {
        self.wake(Direction::Request);
        self.wake(Direction::Response);
    }

    fn wake(&self, direction: Direction) {
        let waker = self.lane(direction).waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lane(&self, direction: Direction) -> &Lane {
        match direction {
            Direction::Request => &self.lanes[0],
            Direction::Response => &self.lanes[1],
        }
    }
}

/// Something that happens once, and may be awaited.
#[derive(Default)]
pub(crate) struct Signal {
    given: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Signal {
    /// It has happened.
    pub(crate) fn give(&self) {
        self.given.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Ready once it has happened.
    pub(crate) fn poll(&self, task: &Context<'_>) -> Poll<()> {
        if self.given.get() {
            return Poll::Ready(());
        }
        *self.waker.borrow_mut() = Some(task.waker().clone());
        Poll::Pending
    }
}
