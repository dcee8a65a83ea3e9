//! Proxy-Wasm modules: what one is before anybody runs it.
//!
//! This room owns what a module must look like to be hosted: its ABI version, its entry points,
//! what it wants from the host and what we refuse ([`inspect`]). It refuses to know where a module's
//! bytes come from and which plugin names them. Running modules will live here as well; nothing in
//! this room does yet, and no manifest reaches it.

mod abi;
mod inspect;

pub use abi::AbiVersion;
pub use inspect::{
    Import, Imports, InspectError, Inspection, MAX_MODULE_BYTES, Memory, Obstacle, inspect,
};
