//! Periodic work of a root context.

use std::rc::Rc;
use std::time::{Duration, Instant};

use wayline_chain::Callout;

use crate::callbacks::Callback;
use crate::instance::Home;
use crate::state::{ROOT, State};

/// Shortest time between two ticks.
const SHORTEST: Duration = Duration::from_millis(10);

/// A tick may take one part in so many of its core's time.
const SHARE: u32 = 10;

/// Sets the time between two ticks; 0 ends them.
pub(crate) fn set_period(state: &mut State, milliseconds: u32) {
    if state.leaves_work_to_resident() {
        return;
    }
    state.tick_period = milliseconds;
    if milliseconds == 0 || std::mem::replace(&mut state.ticking, true) {
        return;
    }
    let home = Rc::clone(&state.callouts.home);
    let callout = Rc::clone(&state.callout);
    let first = period(milliseconds);
    state.callout.spawn(Box::pin(tick(home, callout, first)));
}

async fn tick(home: Home, callout: Rc<dyn Callout>, mut pause: Duration) {
    loop {
        callout.sleep(pause).await;
        let instance = home.borrow().upgrade();
        let Some(instance) = instance else {
            return;
        };
        let begin = Instant::now();
        let next = instance.enter(|running| {
            if running.state().tick_period > 0 {
                running.call(Callback::tick, ROOT, |callbacks, store| {
                    Some(callbacks.tick.as_ref()?.call(store, ROOT))
                })?;
            }
            let state = running.state_mut();
            state.ticking = state.tick_period > 0;
            Ok(state.tick_period)
        });
        match next {
            Ok(0) | Err(_) => return,
            Ok(milliseconds) => {
                pause = period(milliseconds).max(begin.elapsed() * (SHARE - 1));
            }
        }
    }
}

fn period(milliseconds: u32) -> Duration {
    Duration::from_millis(milliseconds.into()).max(SHORTEST)
}
