//! One at a time for each thing that is fetched or compiled, so that a hundred plugins with one module
//! make one request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Whose turn it is, by key.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    turns: Mutex<HashMap<[u8; 32], Weak<tokio::sync::Mutex<()>>>>,
}

impl Flights {
    /// The lock of this key.
    pub(crate) fn of(&self, key: [u8; 32]) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(&key).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        turns.insert(key, Arc::downgrade(&turn));
        turn
    }
}
