//! Wayline's TLS seen from outside: who gets in, what a certificate folder must hold.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod credentials;
mod handshake;
mod revocation;
mod support;
