//! Resources in, [`Snapshot`] and findings out.
//!
//! Translation starts from all objects each time, but what is expensive is remembered by the
//! revisions of the objects it was made from: parts that did not change are the same `Arc` in the
//! next snapshot, and an edit costs what it touches.

use std::sync::Arc;

use crate::finding::Finding;
use crate::identity::Identity;
use crate::names::ObjectRef;
use crate::snapshot::Snapshot;
use crate::store::Resources;

/// What the process was told on its command line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// The Gateways to play, by namespace and name (`--gateway`); empty means every Gateway of a class
    /// that Wayline serves.
    pub gateways: Vec<(String, String)>,
}

/// What came of the resources.
#[derive(Clone, Debug)]
pub struct Translation {
    /// What is served.
    pub snapshot: Arc<Snapshot>,
    /// Findings of documents and of translation, sorted, without repetitions.
    pub findings: Vec<Finding>,
    /// The identity this process presents: of the first Gateway named on the command line, else of
    /// the first by name; `None` without any Gateway.
    pub identity: Option<Identity>,
}

/// Translates resources, again and again.
#[derive(Debug, Default)]
pub struct Translator {
    options: Options,
}
