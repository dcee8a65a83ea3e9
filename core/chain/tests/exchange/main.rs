//! Exchanges through chains of scripted filters.

#![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

mod bodies;
mod driven;
mod order;
mod probe;
mod replies;
