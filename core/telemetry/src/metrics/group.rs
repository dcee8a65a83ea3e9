//! Equal label sets of all cores, added up.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::series::{Cells, SeriesLabels, Shared};

/// The series of one kind, grouped by labels.
pub(super) struct Groups<C: Cells> {
    groups: FxHashMap<SeriesLabels, Group<C>>,
}

struct Group<C: Cells> {
    live: Vec<Arc<Shared<C>>>,
    /// What series that cores let go of had counted.
    departed: C::Totals,
    activity: u64,
    changed_at: Instant,
}

impl<C: Cells> Groups<C> {
    pub(super) fn new() -> Self {
        Self {
            groups: FxHashMap::default(),
        }
    }

    /// Takes in new series of a core.
    pub(super) fn admit(&mut self, newcomers: Vec<Arc<Shared<C>>>, now: Instant) {
        for shared in newcomers {
            let group = self
                .groups
                .entry(shared.labels.clone())
                .or_insert_with(|| Group {
                    live: Vec::new(),
                    departed: C::Totals::default(),
                    activity: 0,
                    changed_at: now,
                });
            group.live.push(shared);
        }
    }

    /// Asks for the series of idle groups and drops groups that are idle and empty. Says whether
    /// any core was asked.
    pub(super) fn sweep(&mut self, now: Instant, idle: Duration) -> bool {
        let mut asked = false;
        self.groups.retain(|_, group| {
            group.fold_departed();
            let activity = C::activity(&group.totals());
            let moved = activity != group.activity;
            if moved {
                group.activity = activity;
                group.changed_at = now;
            }
            let is_idle = now.saturating_duration_since(group.changed_at) >= idle;
            for shared in &group.live {
                shared.retire.store(is_idle, Ordering::Relaxed);
                asked |= is_idle;
            }
            !is_idle || !group.live.is_empty()
        });
        asked
    }

    /// Every label set with its sum over cores.
    pub(super) fn totals(&self) -> impl Iterator<Item = (&SeriesLabels, C::Totals)> {
        self.groups
            .iter()
            .map(|(labels, group)| (labels, group.totals()))
    }
}

impl<C: Cells> Group<C> {
    fn totals(&self) -> C::Totals {
        let mut totals = self.departed.clone();
        for shared in &self.live {
            shared.cells.add_to(&mut totals);
        }
        totals
    }

    fn fold_departed(&mut self) {
        let departed = &mut self.departed;
        self.live.retain(|shared| {
            let gone = shared.gone.load(Ordering::Acquire);
            if gone {
                shared.cells.add_to(departed);
            }
            !gone
        });
    }
}
