//! The host by its public face: guests written as text, in chains on the bench.

#![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

mod bodies;
mod containment;
mod headers;
mod isolation;
mod lifecycle;
mod quarantine;
mod reaching_out;
mod sharing;
mod support;
