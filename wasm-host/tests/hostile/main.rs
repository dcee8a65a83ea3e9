//! Hostile modules, and what becomes of them: nothing beyond their own streams.
//!
//! Modules are text, put together by `modules.rs`; `tenant.rs` is a plugin with such a module, driven
//! without sockets. What each is a case of, and the defence without which it would do harm:
//! `tests/attacks/modules.toml`, which `undefended.rs` reads.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod headers;
mod memory;
mod modules;
mod pointers;
mod quotas;
mod refused;
mod streams;
mod tenant;
mod tenants;
mod time;
mod undefended;
