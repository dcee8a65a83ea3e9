//! Randomness for balancing and request ids: fast, per core, of no cryptographic worth.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

/// A xorshift generator seeded by the process.
pub(crate) struct Random(Cell<u64>);

impl Random {
    /// Seeded from the operating system's randomness by way of the standard hasher.
    pub(crate) fn new() -> Self {
        Self(Cell::new(RandomState::new().hash_one(0) | 1))
    }

    /// The next 64 bits (xorshift64*).
    pub(crate) fn next(&self) -> u64 {
        let mut x = self.0.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0.set(x);
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`, which must not be 0 to mean anything.
    pub(crate) fn below(&self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}
