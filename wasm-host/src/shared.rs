//! Data and queues that instances of a plugin share across cores. Plugins do not see each other's:
//! every table belongs to one plugin, by its name, and so outlives changes of its configuration.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use rustc_hash::FxHashMap;
use wayline_model::defence::stands;

use crate::status::Status;

/// Bytes of keys and values that a plugin may share, with what it takes to keep them.
const DATA_BYTES: usize = 16 << 20;

/// What an entry takes besides its key and value: many small ones are no way around the limit.
const ENTRY_BYTES: usize = 160;

/// Bytes, and items, that may wait in all queues of a plugin together.
const QUEUE_BYTES: usize = 4 << 20;
const QUEUE_ITEMS: usize = 10_000;

/// Queues of a plugin.
const QUEUES: usize = 256;

/// The listener of queues that have none.
const NOBODY: u64 = u64::MAX;

/// What instances of one plugin share.
#[derive(Default)]
pub(crate) struct Shared {
    data: Mutex<Data>,
    queues: Mutex<Queues>,
}

#[derive(Default)]
struct Data {
    entries: FxHashMap<Box<[u8]>, (Bytes, u32)>,
    bytes: usize,
    last_cas: u32,
}

#[derive(Default)]
struct Queues {
    /// Tokens count from 1.
    by_token: Vec<Queue>,
    bytes: usize,
    items: usize,
    dropped: u64,
}

struct Queue {
    name: Box<[u8]>,
    items: VecDeque<Bytes>,
    /// Callbacks that are owed to the listener.
    owed: usize,
    /// Who registered last; only it is told.
    listener: u64,
    waker: Option<Waker>,
}

/// What became of an item.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Enqueued {
    Waiting,
    /// There is no room: dropped, and so many before.
    Dropped(u64),
}

impl Shared {
    /// A value and its version.
    pub(crate) fn get(&self, key: &[u8]) -> Option<(Bytes, u32)> {
        lock(&self.data).entries.get(key).cloned()
    }

    /// Stores a value. With a version other than 0 only where nobody else has since.
    pub(crate) fn set(&self, key: &[u8], value: &[u8], cas: u32) -> Result<(), Status> {
        let data = &mut *lock(&self.data);
        let known = data.entries.get(key);
        let changed = known.is_some_and(|(_, version)| *version != cas);
        if cas != 0 && changed && stands("wasm-cas") {
            return Err(Status::CasMismatch);
        }
        let size = |value: &[u8]| key.len() + value.len() + ENTRY_BYTES;
        let bytes = data.bytes - known.map_or(0, |(value, _)| size(value)) + size(value);
        if bytes > DATA_BYTES && stands("wasm-shared-data-limit") {
            return Err(Status::InternalFailure);
        }
        data.bytes = bytes;
        data.last_cas = data.last_cas.wrapping_add(1).max(1);
        let entry = (Bytes::copy_from_slice(value), data.last_cas);
        data.entries.insert(key.into(), entry);
        Ok(())
    }

    /// The queue of that name, made where there is none; `listener` is told of its items from now on.
    pub(crate) fn register(&self, name: &[u8], listener: u64) -> Result<u32, Status> {
        let queues = &mut *lock(&self.queues);
        let token = queues.open(name, listener)?;
        if let Some(queue) = queues.get(token) {
            queue.listener = listener;
            if let Some(former) = queue.waker.take() {
                former.wake();
            }
        }
        Ok(token)
    }

    /// The queue of that name, made where there is none; who is told of its items stays as it is.
    pub(crate) fn open(&self, name: &[u8]) -> Result<u32, Status> {
        lock(&self.queues).open(name, NOBODY)
    }

    /// The queue of that name.
    pub(crate) fn resolve(&self, name: &[u8]) -> Option<u32> {
        lock(&self.queues).find(name)
    }

    pub(crate) fn enqueue(&self, token: u32, item: &[u8]) -> Result<Enqueued, Status> {
        let queues = &mut *lock(&self.queues);
        let full = queues.items >= QUEUE_ITEMS || queues.bytes + item.len() > QUEUE_BYTES;
        let queue = queues.get(token).ok_or(Status::NotFound)?;
        if full && stands("wasm-queue-limit") {
            queues.dropped += 1;
            return Ok(Enqueued::Dropped(queues.dropped));
        }
        queue.items.push_back(Bytes::copy_from_slice(item));
        queue.owed += 1;
        let waker = queue.waker.take();
        queues.items += 1;
        queues.bytes += item.len();
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(Enqueued::Waiting)
    }

    pub(crate) fn dequeue(&self, token: u32) -> Result<Bytes, Status> {
        let queues = &mut *lock(&self.queues);
        let queue = queues.get(token).ok_or(Status::NotFound)?;
        let item = queue.items.pop_front().ok_or(Status::Empty)?;
        queues.items -= 1;
        queues.bytes -= item.len();
        Ok(item)
    }

    /// Ready with true for each item that came, with false once somebody else listens.
    pub(crate) fn poll_item(&self, token: u32, listener: u64, task: &Context<'_>) -> Poll<bool> {
        let queues = &mut *lock(&self.queues);
        let Some(queue) = queues.get(token) else {
            return Poll::Ready(false);
        };
        if queue.listener != listener {
            return Poll::Ready(false);
        }
        if queue.owed > 0 {
            queue.owed -= 1;
            return Poll::Ready(true);
        }
        queue.waker = Some(task.waker().clone());
        Poll::Pending
    }
}

impl Queues {
    fn find(&self, name: &[u8]) -> Option<u32> {
        let index = self
            .by_token
            .iter()
            .position(|queue| *queue.name == *name)?;
        u32::try_from(index + 1).ok()
    }

    fn open(&mut self, name: &[u8], listener: u64) -> Result<u32, Status> {
        if let Some(token) = self.find(name) {
            return Ok(token);
        }
        if self.by_token.len() >= QUEUES {
            return Err(Status::InternalFailure);
        }
        self.by_token.push(Queue {
            name: name.into(),
            items: VecDeque::new(),
            owed: 0,
            listener,
            waker: None,
        });
        Ok(self.by_token.len() as u32)
    }

    fn get(&mut self, token: u32) -> Option<&mut Queue> {
        let index = (token as usize).checked_sub(1)?;
        self.by_token.get_mut(index)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_changes_only_from_the_version_one_knows() {
        let shared = Shared::default();
        assert_eq!(shared.get(b"k"), None);
        assert_eq!(shared.set(b"k", b"1", 7), Ok(()), "nobody's version");
        let (_, cas) = shared.get(b"k").unwrap();
        assert_ne!(cas, 0);
        assert_eq!(shared.set(b"k", b"2", cas), Ok(()));
        assert_eq!(shared.set(b"k", b"3", cas), Err(Status::CasMismatch));
        assert_eq!(shared.set(b"k", b"4", 0), Ok(()));
        assert_eq!(shared.get(b"k").unwrap().0, "4");
    }

    #[test]
    fn room_is_bounded_and_comes_back() {
        let shared = Shared::default();
        let big = vec![0; DATA_BYTES - 1 - ENTRY_BYTES];
        assert_eq!(shared.set(b"k", &big, 0), Ok(()));
        assert_eq!(shared.set(b"l", b"", 0), Err(Status::InternalFailure));
        assert_eq!(shared.set(b"k", b"", 0), Ok(()));
        assert_eq!(shared.set(b"l", b"", 0), Ok(()));

        let queue = shared.register(b"q", 1).unwrap();
        let half = vec![0; QUEUE_BYTES / 2];
        assert_eq!(shared.enqueue(queue, &half), Ok(Enqueued::Waiting));
        assert_eq!(shared.enqueue(queue, &half), Ok(Enqueued::Waiting));
        assert_eq!(shared.enqueue(queue, b"x"), Ok(Enqueued::Dropped(1)));
        assert_eq!(shared.dequeue(queue).map(|item| item.len()), Ok(half.len()));
        assert_eq!(shared.enqueue(queue, b"x"), Ok(Enqueued::Waiting));
    }

    #[test]
    fn the_last_to_register_is_told_of_each_item() {
        let shared = Shared::default();
        let task = Context::from_waker(Waker::noop());
        let queue = shared.register(b"q", 1).unwrap();
        assert_eq!(shared.register(b"q", 2), Ok(queue));
        assert_eq!(shared.resolve(b"q"), Some(queue));
        assert_eq!(shared.resolve(b"other"), None);
        assert_eq!(shared.enqueue(queue, b"a"), Ok(Enqueued::Waiting));
        assert_eq!(shared.poll_item(queue, 1, &task), Poll::Ready(false));
        assert_eq!(shared.poll_item(queue, 2, &task), Poll::Ready(true));
        assert_eq!(shared.poll_item(queue, 2, &task), Poll::Pending);
        assert_eq!(shared.dequeue(queue).unwrap(), "a");
        assert_eq!(shared.dequeue(queue), Err(Status::Empty));
        assert_eq!(shared.dequeue(0), Err(Status::NotFound));
        assert_eq!(shared.enqueue(9, b""), Err(Status::NotFound));
    }
}
