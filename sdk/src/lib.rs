//! Helpers for authors of Proxy-Wasm filters, over the `proxy-wasm` crate.
//!
//! This room owns what a filter should not have to write itself: reading its configuration
//! ([`config`]) and header names and values that are right from the start ([`header`]). It refuses to
//! know which proxy hosts the filter: what is here works in every host of the ABI.
//!
//! ```
//! use proxy_wasm::traits::{Context, RootContext};
//! use wayline_sdk::header::Header;
//!
//! #[derive(Default, serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     headers: Vec<Header>,
//! }
//!
//! #[derive(Default)]
//! struct Root {
//!     config: Config,
//! }
//!
//! impl Context for Root {}
//!
//! impl RootContext for Root {
//!     fn on_configure(&mut self, _size: usize) -> bool {
//!         // What is wrong is logged; the host keeps the configuration before.
//!         wayline_sdk::config::load(self, |root, config| root.config = config)
//!     }
//! }
//! ```

pub mod config;
pub mod header;

pub use proxy_wasm;
