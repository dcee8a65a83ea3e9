//! Where knowledge comes from.
//!
//! This room owns the sources of configuration: a folder of manifests today, read, watched and
//! handed to the model's translation, whose snapshots and findings it publishes.
//! It refuses to know requests: the data path sees what is published here and nothing else.

mod document;
mod yaml;

pub use document::{Document, Fault, Parsed, parse};
