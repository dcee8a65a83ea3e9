//! The Proxy-Wasm host: what a module is, and running it as a filter of a chain.
//!
//! This room owns what a module must look like to be hosted ([`inspect`]), how modules are compiled
//! and run ([`Engine`], [`Prepared`]), the ABI in its versions 0.1.0 to 0.2.1, instances and their
//! limits, and each plugin as a filter ([`WasmFilter`], [`WasmNetworkFilter`]). It refuses to know sockets: modules reach out
//! by the chain's `Callout`.
//!
//! The way of a module: [`Modules::obtain`] → bytes → [`inspect`] → [`Engine::precompile`], in a process of
//! its own →
//! [`Prepared::load`] → [`canary`], the plugin's verdict → [`WasmFilter`] in the chains of each core.
//!
//! On a core, a plugin has a seat (`seat.rs`), the one place that owns instances. An instance
//! (`instance.rs`) is entered by a stream (`stream.rs`), which lends it the exchange for as long as a
//! callback runs; what host functions (`hostcalls`) see of that is the `State`. Everything that a
//! module asks for about streams goes through a `StreamControl` and happens after the callback.

mod abi;
mod book;
mod budget;
mod callbacks;
mod callouts;
mod canary;
mod certificate;
mod collect;
mod control;
mod engine;
mod error;
mod expose;
mod fault;
mod filter;
mod grpc;
mod headers;
mod host;
mod hostcalls;
mod image;
mod inspect;
mod instance;
mod loader;
mod manager;
mod memory;
mod metrics;
mod module;
mod network;
mod pairs;
mod place;
mod prepared;
mod properties;
mod protobuf;
mod quarantine;
mod seat;
mod shared;
mod source;
mod state;
mod status;
mod stream;
mod ticks;
mod trusted;

pub use abi::AbiVersion;
pub use canary::canary;
pub use engine::Engine;
pub use error::{EngineError, LoadError, StartError};
pub use filter::WasmFilter;
pub use host::{Host, HostSettings};
pub use inspect::{
    Import, Imports, InspectError, Inspection, MAX_MODULE_BYTES, Memory, Obstacle, inspect,
};
pub use loader::{LoadedPlugin, PluginLoader};
pub use manager::{
    Load, LoadFailure, ManagerMetrics, ManagerSettings, Obtained, Shelf, manage, start,
};
pub use module::{
    COMPILER_ARGS, CacheError, CompileLimits, Compiled, Compiler, Digest, ModuleError,
    ModuleSettings, Modules, Origin, run_child,
};
pub use network::WasmNetworkFilter;
pub use prepared::Prepared;
pub use source::{PluginSource, phase};
pub use trusted::Artifact;
