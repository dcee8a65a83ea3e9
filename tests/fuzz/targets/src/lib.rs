//! What is fuzzed: every place where bytes of strangers get a meaning, and what must hold of that meaning
//! besides that nothing panics.
//!
//! Fuzzers (`tests/fuzz`) and the test that replays their corpora call the same functions. Each takes any
//! bytes and panics where something does not hold. Refuses to know how inputs are found.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a finding is told by panicking"
)]

mod policy;
mod request;
mod token;

pub use policy::policy;
pub use request::{authority, forwarded, head, identity, path, proxy_header, tunnel};
pub use token::{jwks, token};

/// A target: its name, which is that of its corpus, and the function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 10] = [
    ("path", path),
    ("authority", authority),
    ("forwarded", forwarded),
    ("head", head),
    ("tunnel", tunnel),
    ("identity", identity),
    ("token", token),
    ("jwks", jwks),
    ("policy", policy),
    ("proxy_header", proxy_header),
];
