//! How long a callback may compute.
//!
//! The engine's clock ticks in wall time, and a busy machine may stop a thread for long. So a tick
//! only makes us look: what counts is the CPU time of this thread. The first tick that a callback
//! meets starts the account, which spares all short callbacks from ever asking for the time; a
//! callback gets at most one tick more than its budget.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};
use wasmtime::{Store, StoreContextMut, UpdateDeadline};
use wayline_model::defence::stands;

use crate::engine::TICK;
use crate::state::State;

/// The account of the callback that runs.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    granted: Duration,
    /// CPU time of this thread at the first tick.
    since: Option<Duration>,
    /// Whether the last callback used up more than was granted.
    pub(crate) overrun: bool,
}

/// Makes a store look at the budget at each tick.
pub(crate) fn install(store: &mut Store<State>) {
    store.epoch_deadline_callback(at_tick);
}

/// Starts the account of a callback.
pub(crate) fn grant(store: &mut Store<State>, granted: Duration) {
    store.set_epoch_deadline(1);
    let budget = &mut store.data_mut().budget;
    budget.granted = granted;
    budget.since = None;
}

fn at_tick(mut store: StoreContextMut<'_, State>) -> wasmtime::Result<UpdateDeadline> {
    let budget = &mut store.data_mut().budget;
    let now = thread_time();
    let since = *budget.since.get_or_insert(now);
    let left = budget.granted.saturating_sub(now.saturating_sub(since));
    if left.is_zero() && stands("wasm-budget") {
        budget.overrun = true;
        return Ok(UpdateDeadline::Interrupt);
    }
    let ticks = left.as_nanos().div_ceil(TICK.as_nanos());
    Ok(UpdateDeadline::Continue(
        u64::try_from(ticks).unwrap_or(1).max(1),
    ))
}

fn thread_time() -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(tv_sec), u32::try_from(tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}
