//! HBONE between two ends of our own over loopback TCP and mutual TLS, and against bare HTTP/2
//! peers where the wire itself is looked at.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod pool;
mod server;
mod streams;
mod support;
