//! Shared data and queues.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use wasmtime::Caller;

use super::{Table, answer};
use crate::abi::HOST;
use crate::callbacks::Callback;
use crate::instance::Home;
use crate::memory::{give, parts, slice, write_u32};
use crate::shared::{Enqueued, Shared};
use crate::state::{ROOT, State};
use crate::status::{Answer, Status, code};

pub(super) fn offer(table: &mut Table) -> wasmtime::Result<()> {
    table.offer(HOST, "proxy_get_shared_data", get)?;
    table.offer(HOST, "proxy_set_shared_data", set)?;
    table.offer(HOST, "proxy_register_shared_queue", register)?;
    table.offer(HOST, "proxy_resolve_shared_queue", resolve)?;
    table.offer(HOST, "proxy_enqueue_shared_queue", enqueue)?;
    table.offer(HOST, "proxy_dequeue_shared_queue", dequeue)
}

fn get(
    mut caller: Caller<'_, State>,
    key: u32,
    key_length: u32,
    value_at: u32,
    length_at: u32,
    cas_at: u32,
) -> wasmtime::Result<u32> {
    let told = tell(&mut caller, (key, key_length), value_at, length_at, cas_at);
    answer(&mut caller, told)
}

fn tell(
    caller: &mut Caller<'_, State>,
    key: (u32, u32),
    value_at: u32,
    length_at: u32,
    cas_at: u32,
) -> Answer {
    let (memory, state) = parts(caller)?;
    let key = slice(memory, key.0, key.1)?;
    let (value, cas) = state.book.shared.get(key).ok_or(Status::NotFound)?;
    write_u32(memory, cas_at, cas)?;
    give(caller, value.len(), value_at, length_at, |target, _| {
        target.copy_from_slice(&value);
    })
}

fn set(
    mut caller: Caller<'_, State>,
    key: u32,
    key_length: u32,
    value: u32,
    value_length: u32,
    cas: u32,
) -> u32 {
    let mut set = || {
        let (memory, state) = parts(&mut caller)?;
        let key = slice(memory, key, key_length)?;
        let value = slice(memory, value, value_length)?;
        state.book.shared.set(key, value, cas)
    };
    code(set())
}

fn register(mut caller: Caller<'_, State>, name: u32, name_length: u32, token_at: u32) -> u32 {
    let mut register = || {
        let (memory, state) = parts(&mut caller)?;
        slice(memory, token_at, 4)?;
        let name = slice(memory, name, name_length)?;
        if state.leaves_work_to_resident() {
            let token = state.book.shared.open(name)?;
            return write_u32(memory, token_at, token);
        }
        let token = state.book.shared.register(name, state.listener)?;
        if !state.queues.contains(&token) {
            state.queues.push(token);
            let home = Rc::clone(&state.callouts.home);
            let shared = Arc::clone(&state.book.shared);
            let listens = listen(home, shared, token, state.listener);
            state.callout.spawn(Box::pin(listens));
        }
        write_u32(memory, token_at, token)
    };
    code(register())
}

/// Tells an instance of each item, as long as it is the one to be told.
async fn listen(home: Home, shared: Arc<Shared>, token: u32, listener: u64) {
    while poll_fn(|task| shared.poll_item(token, listener, task)).await {
        let instance = home.borrow().upgrade();
        let Some(instance) = instance else {
            return;
        };
        let told = instance.enter(|running| {
            running.call(Callback::queue_ready, ROOT, |callbacks, store| {
                Some(callbacks.queue_ready.as_ref()?.call(store, (ROOT, token)))
            })
        });
        if told.is_err() {
            return;
        }
        drop(instance);
        others_first().await;
    }
}

/// Lets the core's other tasks run.
async fn others_first() {
    let mut waited = false;
    poll_fn(|task| {
        if std::mem::replace(&mut waited, true) {
            return std::task::Poll::Ready(());
        }
        task.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

fn resolve(
    mut caller: Caller<'_, State>,
    vm: u32,
    vm_length: u32,
    name: u32,
    name_length: u32,
    token_at: u32,
) -> u32 {
    let mut resolve = || {
        let (memory, state) = parts(&mut caller)?;
        let vm = slice(memory, vm, vm_length)?;
        let name = slice(memory, name, name_length)?;
        // Other plugins' queues are theirs.
        let own = vm.is_empty() || vm == state.plugin.name.as_bytes();
        let found = own.then(|| state.book.shared.resolve(name)).flatten();
        write_u32(memory, token_at, found.ok_or(Status::NotFound)?)
    };
    code(resolve())
}

fn enqueue(mut caller: Caller<'_, State>, token: u32, item: u32, length: u32) -> u32 {
    let mut enqueue = || {
        let (memory, state) = parts(&mut caller)?;
        let item = slice(memory, item, length)?;
        let book = &state.book;
        if let Enqueued::Dropped(dropped) = book.shared.enqueue(token, item)?
            && book.throttle.admit("queue", Instant::now()).is_some()
        {
            tracing::warn!(
                plugin = &*book.name,
                dropped,
                "the shared queues of a Wasm plugin are full: items are dropped"
            );
        }
        Ok(())
    };
    code(enqueue())
}

fn dequeue(
    mut caller: Caller<'_, State>,
    token: u32,
    data_at: u32,
    length_at: u32,
) -> wasmtime::Result<u32> {
    let item = match caller.data().book.shared.dequeue(token) {
        Ok(item) => item,
        Err(status) => return Ok(status as u32),
    };
    let told = give(&mut caller, item.len(), data_at, length_at, |target, _| {
        target.copy_from_slice(&item);
    });
    answer(&mut caller, told)
}
