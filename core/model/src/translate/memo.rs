//! Remembering what was made from what.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// Values by what they were made from. The key holds everything that the value depends on
/// (revisions, numbers of other remembered values), so that an equal key means an equal value.
/// What a round did not ask for is forgotten at its end.
#[derive(Debug)]
pub(super) struct Memo<K, V> {
    values: HashMap<K, (Arc<V>, u64)>,
    round: u64,
}

impl<K, V> Default for Memo<K, V> {
    fn default() -> Self {
        Self {
            values: HashMap::new(),
            round: 0,
        }
    }
}

impl<K: Eq + Hash, V> Memo<K, V> {
    /// The value made from this key, now or earlier.
    pub(super) fn get(&mut self, key: K, make: impl FnOnce(&K) -> V) -> Arc<V> {
        if let Some((value, round)) = self.values.get_mut(&key) {
            *round = self.round;
            return Arc::clone(value);
        }
        let value = Arc::new(make(&key));
        self.values.insert(key, (Arc::clone(&value), self.round));
        value
    }

    /// Forgets what was not asked for since the last call.
    pub(super) fn end_round(&mut self) {
        let round = self.round;
        self.values.retain(|_, (_, used)| *used == round);
        self.round += 1;
    }
}

/// The old `Arc` where it holds the same value.
pub(super) fn reuse<T: PartialEq>(old: Option<&Arc<T>>, new: T) -> Arc<T> {
    match old {
        Some(old) if **old == new => Arc::clone(old),
        _ => Arc::new(new),
    }
}
