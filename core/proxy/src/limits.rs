//! How much peers may ask of us at once: permits that are taken before any work.
//!
//! What is shed is shed early, counted in `wayline_refusals_total`, and logged once a minute and reason.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Resource, getrlimit};
use wayline_hbone::FrameLimits;
use wayline_model::Identity;
use wayline_model::defence::stands;

/// Limits of a process; zero means none.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Client connections; default half of the files that the process may open, so that as many are
    /// left for backends.
    pub connections: usize,
    /// HBONE connections of one identity; default half of all, so that no workload takes the
    /// waypoint from the others.
    pub connections_per_identity: usize,
    /// TLS handshakes under way; default 512.
    pub handshakes: usize,
    /// Streams that an HTTP/2 client may have open on one connection, tunnels included; default 100,
    /// which is what ztunnel puts on one. Tunnels themselves have twice as many.
    pub streams: u32,
    /// Bytes of request heads in memory; default 64 MiB. Beyond it requests are answered 503.
    pub head_bytes: usize,
    /// Bytes of request heads in memory that came on one connection; default 1 MiB. Beyond it requests
    /// are answered 503.
    pub head_bytes_per_connection: usize,
    /// What an HTTP/2 client may say without saying anything; default 1,000 control frames in 10 s and
    /// 2,000 resets in a minute.
    pub frames: FrameLimits,
    /// The slowest a request body of known length may come, in bytes a second over half a minute;
    /// default 240. Slower ones are answered 408. Bodies of unknown length may be streams, and wait.
    pub body_rate: u32,
}

impl Default for Limits {
    fn default() -> Self {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        // Beyond a million, something else ends first.
        let connections = usize::try_from(files / 2)
            .unwrap_or(usize::MAX)
            .min(1 << 20);
        Self {
            connections,
            connections_per_identity: connections / 2,
            handshakes: 512,
            streams: 100,
            head_bytes: 64 * 1024 * 1024,
            head_bytes_per_connection: 1024 * 1024,
            frames: FrameLimits {
                control: 1_000,
                resets: 2_000,
            },
            body_rate: 240,
        }
    }
}

impl Limits {
    /// Whether a limit of this many is reached.
    pub(crate) fn is_reached(limit: usize, now: usize) -> bool {
        limit != 0 && now >= limit && stands("connection-limits")
    }
}

/// Something of which one core holds a bounded amount.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    taken: Rc<Cell<usize>>,
    limit: usize,
}

/// Given back when dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    taken: Rc<Cell<usize>>,
    amount: usize,
}

impl Budget {
    /// A core's share of what the process has.
    pub(crate) fn share(limit: usize, cores: usize) -> Self {
        Self {
            taken: Rc::default(),
            limit: limit.div_ceil(cores.max(1)),
        }
    }

    /// Takes an amount; `None` when there is not as much left.
    pub(crate) fn take(&self, amount: usize) -> Option<Lease> {
        let taken = self.taken.get() + amount;
        if self.limit != 0 && taken > self.limit && stands("budgets") {
            return None;
        }
        self.taken.set(taken);
        Some(Lease {
            taken: Rc::clone(&self.taken),
            amount,
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.taken.set(self.taken.get() - self.amount);
    }
}

/// Connections by identity, for the whole process. Connections are rare enough for a lock.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peers(Arc<Mutex<HashMap<Identity, usize>>>);

/// One connection of an identity.
#[derive(Debug)]
pub(crate) struct PeerLease {
    peers: Peers,
    identity: Identity,
}

impl Peers {
    /// Counts a connection; `None` when its identity has as many as it may.
    pub(crate) fn take(&self, identity: &Identity, limit: usize) -> Option<PeerLease> {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = peers.entry(identity.clone()).or_default();
        if Limits::is_reached(limit, *open) {
            return None;
        }
        *open += 1;
        Some(PeerLease {
            peers: self.clone(),
            identity: identity.clone(),
        })
    }
}

impl Drop for PeerLease {
    fn drop(&mut self) {
        let mut peers = self.peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = peers.get_mut(&self.identity) {
            *open -= 1;
            if *open == 0 {
                peers.remove(&self.identity);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_shared_and_given_back() {
        let budget = Budget::share(100, 2);
        let first = budget.take(30).unwrap();
        assert!(budget.take(30).is_none());
        drop(first);
        assert!(budget.take(50).is_some());
        let endless = Budget::share(0, 2);
        assert!(endless.take(usize::MAX / 2).is_some());
    }

    #[test]
    fn an_identity_has_so_many_connections_and_others_theirs() {
        let peers = Peers::default();
        let a: Identity = "spiffe://td/ns/x/sa/a".parse().unwrap();
        let b: Identity = "spiffe://td/ns/x/sa/b".parse().unwrap();
        let first = peers.take(&a, 1).unwrap();
        assert!(peers.take(&a, 1).is_none());
        assert!(peers.take(&b, 1).is_some());
        drop(first);
        assert!(peers.take(&a, 1).is_some());
        assert!(peers.0.lock().unwrap().is_empty());
    }
}
