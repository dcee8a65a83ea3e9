//! Drain: connections finish what they are at and take nothing new.
//!
//! Connections look at one flag when they are polled anyway; the signal costs them nothing before it
//! comes.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The drain state of one core. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Drain(Rc<State>);

#[derive(Default)]
struct State {
    begun: Cell<bool>,
    open: Cell<usize>,
    waiting: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<usize>>,
    done: RefCell<Option<Waker>>,
}

impl Drain {
    /// Tells every connection to finish.
    pub(crate) fn begin(&self) {
        self.0.begun.set(true);
        for waker in self
            .0
            .waiting
            .borrow_mut()
            .iter_mut()
            .filter_map(Option::take)
        {
            waker.wake();
        }
    }

    /// Whether drain has begun.
    pub(crate) fn has_begun(&self) -> bool {
        self.0.begun.get()
    }

    /// Whether drain has begun and the last connection is gone.
    pub(crate) fn is_done(&self) -> bool {
        self.0.begun.get() && self.0.open.get() == 0
    }

    /// Registers a connection.
    pub(crate) fn connection(&self) -> Member {
        self.0.open.set(self.0.open.get() + 1);
        let index = self.0.free.borrow_mut().pop().unwrap_or_else(|| {
            let mut waiting = self.0.waiting.borrow_mut();
            waiting.push(None);
            waiting.len() - 1
        });
        Member {
            drain: self.clone(),
            index,
            told: false,
        }
    }

    /// Resolves when the last connection is gone after drain has begun.
    pub(crate) async fn done(&self) {
        poll_fn(|cx| {
            if self.is_done() {
                return Poll::Ready(());
            }
            *self.0.done.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// One connection.
pub(crate) struct Member {
    drain: Drain,
    index: usize,
    told: bool,
}

impl Member {
    /// Ready once, when the connection shall finish.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.told {
            return Poll::Pending;
        }
        if self.drain.has_begun() {
            self.told = true;
            return Poll::Ready(());
        }
        let mut waiting = self.drain.0.waiting.borrow_mut();
        let waker = &mut waiting[self.index];
        if !waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Resolves when the connection shall finish.
    pub(crate) async fn begun(&mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let state = &self.drain.0;
        state.waiting.borrow_mut()[self.index] = None;
        state.free.borrow_mut().push(self.index);
        state.open.set(state.open.get().saturating_sub(1));
        if self.drain.is_done()
            && let Some(waker) = state.done.borrow_mut().take()
        {
            waker.wake();
        }
    }
}
