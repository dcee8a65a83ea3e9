//! What is known of keys that have to be fetched: plain data that the control side publishes and every
//! core reads.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Jwks, JwksLocation};
use crate::defence::stands;

/// A token with an unknown key makes an issuer's keys be fetched anew at most once in this time,
/// however many such tokens come.
pub const REFETCH_INTERVAL: Duration = Duration::from_secs(30);

/// The remote keys, by where they are. A location that is not in here has not been tried yet.
#[derive(Clone, Debug, Default)]
pub struct JwksBook {
    /// What is known of each.
    pub entries: HashMap<JwksLocation, RemoteJwks>,
}

/// What is known of one location.
#[derive(Clone, Debug)]
pub struct RemoteJwks {
    /// The keys of the last attempt that succeeded; `None` while none has.
    pub keys: Option<Arc<Jwks>>,
    /// Counts finished attempts, from 1.
    pub attempt: u64,
    /// When the last attempt ended.
    pub at: Instant,
}

impl RemoteJwks {
    /// Whether a token with an unknown key may make the keys be fetched anew.
    #[must_use]
    pub fn may_refetch(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) >= REFETCH_INTERVAL || !stands("refetch-pause")
    }
}
