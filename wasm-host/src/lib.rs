//! Proxy-Wasm modules: what one is before anybody runs it.
//!
//! This room owns what a module must look like to be hosted: its ABI version, its entry points,
//! what it wants from the host and what we refuse ([`inspect`]). It refuses to know where a module's
//! bytes come from. Running modules will live here as well; until then a plugin that is in force
//! at a target is one that can not run, and its failStrategy decides ([`PluginSource`]).

mod abi;
mod inspect;
mod source;

pub use abi::AbiVersion;
pub use inspect::{
    Import, Imports, InspectError, Inspection, MAX_MODULE_BYTES, Memory, Obstacle, inspect,
};
pub use source::{PluginSource, phase};
