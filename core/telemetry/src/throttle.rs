//! Keeps operational logs short: one line per reason and minute, with the number of those left out.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

/// Decides whether something that happens often may be logged now.
///
/// Reasons are literals of the program, so that no peer can make the table grow.
#[derive(Debug)]
pub struct Throttle {
    interval: Duration,
    reasons: Mutex<FxHashMap<&'static str, Window>>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    suppressed: u64,
}

impl Throttle {
    /// One line per reason and minute.
    #[must_use]
    pub fn per_minute() -> Self {
        Self::every(Duration::from_secs(60))
    }

    /// One line per reason and interval.
    #[must_use]
    pub fn every(interval: Duration) -> Self {
        Self {
            interval,
            reasons: Mutex::default(),
        }
    }

    /// `Some(n)` when a line for this reason is due, `n` being how many were left out since the
    /// last one; `None` when the caller should stay silent.
    pub fn admit(&self, reason: &'static str, now: Instant) -> Option<u64> {
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(window) = reasons.get_mut(reason) else {
            let first = Window {
                since: now,
                suppressed: 0,
            };
            reasons.insert(reason, first);
            return Some(0);
        };
        if now.saturating_duration_since(window.since) < self.interval {
            window.suppressed += 1;
            return None;
        }
        window.since = now;
        Some(std::mem::take(&mut window.suppressed))
    }
}

impl Default for Throttle {
    fn default() -> Self {
        Self::per_minute()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admits_once_per_reason_and_interval_and_tells_what_was_left_out() {
        let throttle = Throttle::per_minute();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(throttle.admit("no_certificate", start), Some(0));
        assert_eq!(throttle.admit("no_certificate", after(1)), None);
        assert_eq!(throttle.admit("no_certificate", after(59)), None);
        assert_eq!(throttle.admit("plain_text", after(59)), Some(0));
        assert_eq!(throttle.admit("no_certificate", after(60)), Some(2));
        assert_eq!(throttle.admit("no_certificate", after(61)), None);
    }
}
