//! Drain: connections finish what they are at and take nothing new.
//!
//! Connections look at one flag when they are polled anyway; the signal costs them nothing before it
//! comes.
//!
//! A core drains in two stages. First everybody is told to finish: HTTP/2 by GOAWAY, HTTP/1 by
//! `connection: close` in the next response. A moment later idle HTTP/1 connections are closed: at once
//! would be too early, because a request that is already under way to us would be lost.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// How far the process has come.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Phase {
    /// Traffic is welcome.
    #[default]
    Serving,
    /// Not ready any more, so that traffic goes elsewhere; whoever has not heard yet is still served.
    Announced,
    /// Listeners close, connections finish.
    Draining,
}

/// What the connections of a core are told.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Stage {
    /// Nothing.
    #[default]
    Serving,
    /// Say that this is the end, and take what comes until the peer has heard it.
    Finishing,
    /// Close as soon as nothing runs.
    Closing,
}

/// The drain state of one core. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Drain(Rc<State>);

#[derive(Default)]
struct State {
    stage: Cell<Stage>,
    open: Cell<usize>,
    waiting: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<usize>>,
    done: RefCell<Option<Waker>>,
}

impl Drain {
    /// Tells every connection.
    pub(crate) fn enter(&self, stage: Stage) {
        self.0.stage.set(self.0.stage.get().max(stage));
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
        self.0.stage.get() > Stage::Serving
    }

    /// Whether drain has begun and the last connection is gone.
    pub(crate) fn is_done(&self) -> bool {
        self.has_begun() && self.0.open.get() == 0
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
            told: Stage::Serving,
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
    told: Stage,
}

impl Member {
    /// Ready once for each stage that is entered.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<Stage> {
        let stage = self.drain.0.stage.get();
        if stage > self.told {
            self.told = stage;
            return Poll::Ready(stage);
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
    pub(crate) async fn finishing(&mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    /// Resolves when a connection on which nothing runs shall close.
    pub(crate) async fn closing(&mut self) {
        while self.told < Stage::Closing {
            poll_fn(|cx| self.poll(cx)).await;
        }
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
