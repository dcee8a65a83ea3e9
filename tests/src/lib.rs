//! The harness of the black-box tests: a folder of manifests, a `wayline run` that serves it, clients
//! and backends on real sockets, and two tools that none of us wrote (Envoy and curl).
//!
//! It owns how a test sets up a mesh on the loopback interface and how everything ends again. It
//! refuses to know how Wayline works: it starts the executable named by `WAYLINE_BIN` and looks only
//! at what a user can see. Its own HBONE client is made of the product's crates, because thousands of
//! requests need a fast one; whatever depends on the wire being right is also told by curl and Envoy.
//!
//! Every mesh has a loopback network of its own, `127.x.y.0/24`, so that pods have addresses (with
//! ztunnel's port 15008 on each of them), ports need not be searched for, and tests run side by side. That needs Linux, where all
//! of 127.0.0.0/8 is the machine itself.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, and this is part of the tests"
)]

pub mod attacks;
pub mod backend;
pub mod client;
pub mod curl;
pub mod envoy;
pub mod guests;
pub mod h2peer;
pub mod loopback;
pub mod manifests;
pub mod mesh;
pub mod metrics;
pub mod process;
pub mod registry;
pub mod revocation;
pub mod tokens;
pub mod tools;
pub mod tunnel;

use std::time::{Duration, Instant};

pub use backend::{Backend, Recorded, Reply};
pub use client::{Conversation, Request, Response};
pub use mesh::{Mesh, Wayline};
pub use tunnel::{Caller, Tunnel};

/// How long anything may take before a test gives up; generous, because the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `probe` has an answer and returns it.
///
/// # Panics
/// When there is none within [`PATIENCE`]; `what` says what was waited for.
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "gave up waiting: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
