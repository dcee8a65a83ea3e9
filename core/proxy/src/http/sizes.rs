//! How large the futures of the request path are: each is allocated once per connection or stream and
//! moved at least once, and one `await` in the wrong place doubles it unseen.

use std::future::Future;

use super::exchange::exchange;
use super::server;
use crate::{gateway, tunnel};

/// The size of what such a function returns, in bytes.
fn of2<A, B, F: Future>(_: impl FnOnce(A, B) -> F) -> usize {
    size_of::<F>()
}

fn of3<A, B, C, F: Future>(_: impl FnOnce(A, B, C) -> F) -> usize {
    size_of::<F>()
}

fn of4<A, B, C, D, F: Future>(_: impl FnOnce(A, B, C, D) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn futures_stay_small() {
    for (what, size, most) in [
        ("an exchange", of2(exchange), 2048),
        ("an HTTP connection", of3(server::serve), 8192),
        ("a connection to a gateway", of4(gateway::serve), 8192),
        ("an HBONE connection", of3(tunnel::serve), 4608),
    ] {
        println!("{what}: {size} bytes");
        assert!(size <= most, "the future of {what} has {size} bytes");
        // A future that is much smaller than it may be has boxed something that the path needs.
        assert!(size >= most / 8, "the future of {what} has {size} bytes");
    }
}
