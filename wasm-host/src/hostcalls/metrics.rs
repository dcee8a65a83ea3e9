//! Metrics of plugins.

use std::sync::Arc;

use wasmtime::Caller;

use super::Table;
use crate::abi::HOST;
use crate::memory::{parts, slice, write_u32, write_u64};
use crate::metrics::Metric;
use crate::state::State;
use crate::status::{Status, code};

pub(super) fn offer(table: &mut Table) -> wasmtime::Result<()> {
    table.offer(HOST, "proxy_define_metric", define)?;
    table.offer(HOST, "proxy_increment_metric", increment)?;
    table.offer(HOST, "proxy_record_metric", record)?;
    table.offer(HOST, "proxy_get_metric", get)
}

/// The low bits of an id tell the kind, as in Envoy.
const STEP: usize = 4;

fn define(
    mut caller: Caller<'_, State>,
    kind: u32,
    name: u32,
    name_length: u32,
    id_at: u32,
) -> u32 {
    let mut define = || {
        let (memory, state) = parts(&mut caller)?;
        slice(memory, id_at, 4)?;
        let name = slice(memory, name, name_length)?;
        let most = state.plugin.limits.metrics;
        let metric = state.book.metrics.define(kind, name, most)?;
        let known = state
            .metrics
            .iter()
            .position(|known| Arc::ptr_eq(known, &metric));
        let index = known.unwrap_or_else(|| {
            state.metrics.push(metric);
            state.metrics.len() - 1
        });
        let id = u32::try_from((index + 1) * STEP).map_err(|_| Status::InternalFailure)?;
        write_u32(memory, id_at, id + kind)
    };
    code(define())
}

fn find(state: &State, id: u32) -> Result<&Arc<Metric>, Status> {
    let index = (id as usize / STEP)
        .checked_sub(1)
        .ok_or(Status::NotFound)?;
    let metric = state.metrics.get(index).ok_or(Status::NotFound)?;
    (metric.kind() as usize == id as usize % STEP)
        .then_some(metric)
        .ok_or(Status::NotFound)
}

fn increment(caller: Caller<'_, State>, id: u32, delta: i64) -> u32 {
    code(find(caller.data(), id).and_then(|metric| metric.increment(delta)))
}

fn record(caller: Caller<'_, State>, id: u32, value: u64) -> u32 {
    code(find(caller.data(), id).map(|metric| metric.record(value)))
}

fn get(mut caller: Caller<'_, State>, id: u32, value_at: u32) -> u32 {
    let mut get = || {
        let value = find(caller.data(), id)?.value()?;
        let (memory, _) = parts(&mut caller)?;
        write_u64(memory, value_at, value)
    };
    code(get())
}
