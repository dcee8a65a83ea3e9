//! When requests are due: at once in a closed loop, at a fixed rate in an open one.
//!
//! In the open loop a request is due at its time whether or not the last one was answered, and its
//! latency counts from there: a contestant that stalls is charged for everybody it keeps waiting, also
//! for those whose requests could not even be sent (no coordinated omission).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Hands out requests to whoever has a free connection.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    open: Cell<bool>,
    due: RefCell<VecDeque<Instant>>,
    added: Notify,
}

impl Schedule {
    /// Waits for the next request and tells since when it is due.
    pub(crate) async fn next(&self) -> Instant {
        if !self.open.get() {
            return Instant::now();
        }
        loop {
            if let Some(due) = self.due.borrow_mut().pop_front() {
                return due;
            }
            self.added.notified().await;
        }
    }

    /// From now on nothing is due before there is a rate.
    pub(crate) fn wait_for_rate(&self) {
        self.open.set(true);
    }

    /// From now on requests are due at this rate, until dropped. It keeps the thread busy: timers tick
    /// in milliseconds, and a burst every millisecond is not a rate.
    pub(crate) async fn at_rate(&self, per_second: f64) {
        let interval = Duration::from_secs_f64(1.0 / per_second);
        let mut next = Instant::now();
        self.open.set(true);
        loop {
            let now = Instant::now();
            while next <= now {
                self.due.borrow_mut().push_back(next);
                self.added.notify_one();
                next += interval;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Those that are due and were never sent.
    pub(crate) fn abandoned(&self) -> Vec<Instant> {
        self.due.borrow_mut().drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[tokio::test(flavor = "local")]
    async fn what_could_not_be_sent_waits_since_it_was_due() {
        let schedule = Rc::new(Schedule::default());
        let before = Instant::now();
        assert!(schedule.next().await >= before);
        let pacing = {
            let schedule = Rc::clone(&schedule);
            tokio::task::spawn_local(async move { schedule.at_rate(10_000.0).await })
        };
        tokio::time::sleep(Duration::from_millis(30)).await;
        let first = schedule.next().await;
        let second = schedule.next().await;
        // Nobody asked for 30 ms; still both are due at their own times.
        assert_eq!(second - first, Duration::from_micros(100));
        assert!(first.elapsed() >= Duration::from_millis(20));
        pacing.abort();
        assert!(schedule.abandoned().len() > 100);
    }
}
