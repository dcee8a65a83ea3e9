//! Coarse timers: one tick a second for everything on a core that waits for its peer.
//!
//! Arming one is a store, because whatever moves arms its timer anew each time; only what has been
//! silent for its whole span is woken. Nothing here is exact to more than a second.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// The timers of one core. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Timers(Rc<State>);

#[derive(Default)]
struct State {
    /// Ticks so far.
    now: Cell<u64>,
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<usize>>,
}

#[derive(Default)]
struct Slot {
    /// The tick at which it expires.
    deadline: Option<u64>,
    waker: Option<Waker>,
}

impl Timers {
    /// A second has passed.
    pub(crate) fn tick(&self) {
        let now = self.0.now.get() + 1;
        self.0.now.set(now);
        let mut slots = self.0.slots.borrow_mut();
        for slot in slots.iter_mut() {
            if slot.deadline.is_some_and(|deadline| deadline <= now)
                && let Some(waker) = slot.waker.take()
            {
                waker.wake();
            }
        }
    }

    /// A timer that is not armed.
    pub(crate) fn timer(&self) -> Timer {
        let index = self.0.free.borrow_mut().pop().unwrap_or_else(|| {
            let mut slots = self.0.slots.borrow_mut();
            slots.push(Slot::default());
            slots.len() - 1
        });
        Timer {
            timers: self.clone(),
            index,
        }
    }
}

/// One timer.
pub(crate) struct Timer {
    timers: Timers,
    index: usize,
}

impl Timer {
    /// To be called when there was nothing to do: ready when that was so for the whole span, else
    /// armed anew. A span of zero never ends.
    pub(crate) fn silent_for(&self, span: Duration, cx: &Context<'_>) -> Poll<()> {
        self.poll(span, true, cx)
    }

    /// Ready when the span has passed since the first call, or since [`Self::clear`].
    pub(crate) fn lasting_for(&self, span: Duration, cx: &Context<'_>) -> Poll<()> {
        self.poll(span, false, cx)
    }

    /// Disarms it.
    pub(crate) fn clear(&self) {
        self.timers.0.slots.borrow_mut()[self.index].deadline = None;
    }

    /// The outcome of some work, or `None` when nothing happened in it for the whole span.
    pub(crate) async fn unless_silent<F: Future>(
        &self,
        span: Duration,
        work: F,
    ) -> Option<F::Output> {
        let mut work = pin!(work);
        let outcome = poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            Poll::Pending => self.silent_for(span, cx).map(|()| None),
        })
        .await;
        self.clear();
        outcome
    }

    fn poll(&self, span: Duration, anew: bool, cx: &Context<'_>) -> Poll<()> {
        if span.is_zero() {
            return Poll::Pending;
        }
        let now = self.timers.0.now.get();
        let mut slots = self.timers.0.slots.borrow_mut();
        let slot = &mut slots[self.index];
        if slot.deadline.is_some_and(|deadline| deadline <= now) {
            return Poll::Ready(());
        }
        if anew || slot.deadline.is_none() {
            // The second that is under way does not count.
            let ticks = span.as_secs() + u64::from(span.subsec_nanos() > 0) + 1;
            slot.deadline = Some(now + ticks);
        }
        if !slot
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            slot.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let state = &self.timers.0;
        state.slots.borrow_mut()[self.index] = Slot::default();
        state.free.borrow_mut().push(self.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[test]
    fn silence_is_counted_from_the_last_move() {
        let timers = Timers::default();
        let timer = timers.timer();
        let span = Duration::from_secs(2);
        for _ in 0..10 {
            assert!(timer.silent_for(span, &now()).is_pending());
            timers.tick();
            timers.tick();
        }
        assert!(timer.silent_for(span, &now()).is_pending());
        for _ in 0..3 {
            timers.tick();
        }
        assert!(timer.silent_for(span, &now()).is_ready());
    }

    #[test]
    fn a_span_that_lasts_is_not_prolonged() {
        let timers = Timers::default();
        let timer = timers.timer();
        let span = Duration::from_millis(1500);
        for _ in 0..3 {
            assert!(timer.lasting_for(span, &now()).is_pending());
            timers.tick();
        }
        assert!(timer.lasting_for(span, &now()).is_ready());
        timer.clear();
        assert!(timer.lasting_for(span, &now()).is_pending());
    }

    #[test]
    fn zero_never_ends_and_slots_are_used_again() {
        let timers = Timers::default();
        for _ in 0..100 {
            let timer = timers.timer();
            assert!(timer.silent_for(Duration::ZERO, &now()).is_pending());
            timers.tick();
            assert!(timer.silent_for(Duration::ZERO, &now()).is_pending());
        }
        assert_eq!(timers.0.slots.borrow().len(), 1);
    }
}
