//! Networks of 254 loopback addresses, one for each mesh.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// The port on the last address whose owner owns the network.
const CLAIM_PORT: u16 = 23_999;

/// A network `127.x.y.0/24` that nobody else uses while this exists.
#[derive(Debug)]
pub struct Network {
    x: u8,
    y: u8,
    _claim: TcpListener,
}

impl Network {
    /// Claims a free network, also among other processes.
    ///
    /// # Panics
    /// When none is left.
    #[must_use]
    pub fn claim() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let start = std::process::id().wrapping_mul(7919);
        for _ in 0..60_000 {
            let n = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 60_000;
            // 127.0.*.* is left to everybody else.
            let (x, y) = ((n / 250 + 1) as u8, (n % 250) as u8);
            if let Ok(claim) = TcpListener::bind((Ipv4Addr::new(127, x, y, 254), CLAIM_PORT)) {
                return Self {
                    x,
                    y,
                    _claim: claim,
                };
            }
        }
        panic!("no loopback network is free; these tests need Linux");
    }

    /// The host `n` of it, 1 to 253.
    #[must_use]
    pub fn ip(&self, n: u8) -> IpAddr {
        IpAddr::from([127, self.x, self.y, n])
    }
}
