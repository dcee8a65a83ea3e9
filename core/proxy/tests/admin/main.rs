//! The admin, status and metrics ports, asked over real sockets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod config_dump;
mod pages;
mod readiness;
mod support;
mod switches;
