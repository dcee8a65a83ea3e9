//! Numbers of clusters.

use std::collections::HashMap;
use std::sync::Arc;

use crate::service::ClusterId;

/// Gives every cluster a number that it keeps for as long as the process lives.
#[derive(Debug, Default)]
pub(super) struct ClusterIds {
    /// Kind, namespace, name, port.
    known: HashMap<(Subject, Arc<str>, Arc<str>, u16), ClusterId>,
}

/// What a cluster stands for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Subject {
    Service,
    Workload,
}

impl ClusterIds {
    pub(super) fn of(
        &mut self,
        subject: Subject,
        namespace: &Arc<str>,
        name: &Arc<str>,
        port: u16,
    ) -> ClusterId {
        let next = ClusterId(u32::try_from(self.known.len()).unwrap_or(u32::MAX));
        *self
            .known
            .entry((subject, Arc::clone(namespace), Arc::clone(name), port))
            .or_insert(next)
    }
}
