//! What an instance is right after its start and configuration, and making others from that.
//!
//! With isolation by stream each stream has an instance of its own. The first of a core is started and
//! configured; what it remembers then goes into all others, which are never started. Not so where no
//! two starts are alike, because the module saw randomness or the time, or where its start is not over
//! yet, because it waits for a backend.

use std::sync::Arc;

use bytes::Bytes;
use wasmtime::{Instance, Memory, Module, ModuleExport, Store, Val};

use crate::expose::{GLOBAL, MARK};
use crate::metrics::Metric;
use crate::state::State;

/// Where the state of a module is found: see [`crate::expose`].
pub(crate) struct Parts {
    globals: Vec<ModuleExport>,
}

/// A memory as the module's data makes it.
pub(crate) struct Pristine(Vec<u8>);

/// What an instance remembers.
pub(crate) struct Image {
    /// Pages of memory.
    pages: u64,
    /// Where memory differs from what the module's data makes of it.
    blocks: Vec<(usize, Box<[u8]>)>,
    globals: Vec<Val>,
    metrics: Vec<Arc<Metric>>,
    queues: Vec<u32>,
    properties: Vec<(Box<[u8]>, Bytes)>,
    status: (u32, Bytes),
}

/// Why no image is made of an instance.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("it remembers more than its memory and numbers in globals")]
    State,
    #[error("it saw random numbers or the time at its start")]
    Chance,
    #[error("it waits for a backend at the end of its start")]
    Waiting,
}

/// Memory is compared in blocks of so many bytes.
const BLOCK: usize = 256;

impl Parts {
    /// Nothing where state lies elsewhere too.
    pub(crate) fn of(module: &Module) -> Option<Self> {
        let mark = module.get_export(MARK)?;
        mark.memory()?;
        let globals =
            (0..).map_while(|number| module.get_export_index(&format!("{GLOBAL}{number}")));
        Some(Self {
            globals: globals.collect(),
        })
    }
}

impl Pristine {
    /// To be taken before anything runs.
    pub(crate) fn of(memory: Memory, store: &Store<State>) -> Self {
        Self(memory.data(store).to_vec())
    }
}

impl Image {
    /// What the instance remembers now.
    pub(crate) fn of(
        parts: &Parts,
        pristine: &Pristine,
        memory: Memory,
        instance: &Instance,
        store: &mut Store<State>,
    ) -> Result<Self, Unfit> {
        let state = store.data();
        if state.saw_chance {
            return Err(Unfit::Chance);
        }
        if state.callouts.is_waiting() {
            return Err(Unfit::Waiting);
        }
        let globals = parts.globals.iter().map(|export| {
            let export = instance.get_module_export(&mut *store, export);
            let global = export.and_then(wasmtime::Extern::into_global);
            Some(global?.get(&mut *store))
        });
        let globals: Option<Vec<_>> = globals.collect();
        let state = store.data();
        Ok(Self {
            globals: globals.ok_or(Unfit::State)?,
            pages: memory.size(&*store),
            blocks: differences(&pristine.0, memory.data(&*store)),
            metrics: state.metrics.clone(),
            queues: state.queues.clone(),
            properties: state.properties.clone(),
            status: state.status.clone(),
        })
    }

    /// Lets a new instance remember the same.
    pub(crate) fn give(
        &self,
        parts: &Parts,
        memory: Memory,
        instance: &Instance,
        store: &mut Store<State>,
    ) -> wasmtime::Result<()> {
        let changed = || wasmtime::Error::msg("the module is not the one that the image is of");
        let missing = self.pages.saturating_sub(memory.size(&*store));
        if missing > 0 {
            memory.grow(&mut *store, missing)?;
        }
        let bytes = memory.data_mut(&mut *store);
        for (start, block) in &self.blocks {
            let place = bytes.get_mut(*start..start + block.len());
            place.ok_or_else(changed)?.copy_from_slice(block);
        }
        for (export, value) in parts.globals.iter().zip(&self.globals) {
            let export = instance.get_module_export(&mut *store, export);
            let global = export.and_then(wasmtime::Extern::into_global);
            global.ok_or_else(changed)?.set(&mut *store, *value)?;
        }
        let state = store.data_mut();
        state.metrics.clone_from(&self.metrics);
        state.queues.clone_from(&self.queues);
        state.properties.clone_from(&self.properties);
        state.status.clone_from(&self.status);
        Ok(())
    }

    /// Bytes of memory that each instance is given.
    pub(crate) fn bytes(&self) -> usize {
        self.blocks.iter().map(|(_, block)| block.len()).sum()
    }
}

/// Where memory is not as it was, neighbours joined. What has grown was zero.
fn differences(before: &[u8], after: &[u8]) -> Vec<(usize, Box<[u8]>)> {
    const ZERO: [u8; BLOCK] = [0; BLOCK];
    let mut ranges: Vec<std::ops::Range<usize>> = Vec::new();
    for (number, block) in after.chunks(BLOCK).enumerate() {
        let start = number * BLOCK;
        let end = start + block.len();
        let same = before
            .get(start..end)
            .map_or_else(|| *block == ZERO[..block.len()], |before| before == block);
        match ranges.last_mut() {
            _ if same => {}
            Some(last) if last.end == start => last.end = end,
            _ => ranges.push(start..end),
        }
    }
    ranges
        .into_iter()
        .map(|range| (range.start, after[range].into()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blocks_that_differ_are_kept_and_neighbours_are_one() {
        let before = vec![1; BLOCK * 4];
        let mut after = before.clone();
        assert!(differences(&before, &after).is_empty());
        after[BLOCK] = 2;
        after[2 * BLOCK + 1] = 3;
        after.extend_from_slice(&[0; BLOCK * 2]);
        after[BLOCK * 5] = 4;
        let found = differences(&before, &after);
        let shape: Vec<_> = found.iter().map(|(at, block)| (*at, block.len())).collect();
        assert_eq!(shape, [(BLOCK, 2 * BLOCK), (5 * BLOCK, BLOCK)]);
        assert_eq!(found[1].1[0], 4);
    }
}
