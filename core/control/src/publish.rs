//! What the rest of the process is told, and what the log says about it.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;
use wayline_model::translate::Translation;
use wayline_model::{Finding, Identity, Severity, Snapshot};

use crate::live::LiveObjects;

/// Receivers of what a source publishes. Each holds the newest value at any time.
#[derive(Clone, Debug)]
pub struct Publication {
    /// What is served.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// What is wrong with the configuration, by file and line.
    pub findings: watch::Receiver<Arc<Vec<Finding>>>,
    /// Whose certificate this process presents; `None` while no Gateway is played.
    pub identity: watch::Receiver<Option<Identity>>,
    /// The objects in force as they were written.
    pub objects: LiveObjects,
}

/// The sending side.
#[derive(Debug)]
pub(crate) struct Publisher {
    snapshots: watch::Sender<Arc<Snapshot>>,
    findings: watch::Sender<Arc<Vec<Finding>>>,
    identity: watch::Sender<Option<Identity>>,
}

impl Publisher {
    /// Publishes for the first time.
    pub(crate) fn new(
        (first, findings): (Translation, Vec<Finding>),
        objects: LiveObjects,
    ) -> (Self, Publication) {
        log_changes(&[], &findings);
        let (snapshots, snapshots_of) = watch::channel(first.snapshot);
        let (findings, findings_of) = watch::channel(Arc::new(findings));
        let (identity, identity_of) = watch::channel(first.identity);
        let publisher = Self {
            snapshots,
            findings,
            identity,
        };
        let publication = Publication {
            snapshots: snapshots_of,
            findings: findings_of,
            identity: identity_of,
            objects,
        };
        (publisher, publication)
    }

    /// Replaces what was published; those who listen are told only of what differs.
    pub(crate) fn publish(&self, (translation, findings): (Translation, Vec<Finding>)) {
        let Translation {
            snapshot, identity, ..
        } = translation;
        self.snapshots.send_if_modified(|current| {
            let differs = !Arc::ptr_eq(current, &snapshot);
            *current = snapshot;
            differs
        });
        self.findings.send_if_modified(|current| {
            let differs = **current != findings;
            if differs {
                log_changes(current, &findings);
                *current = Arc::new(findings);
            }
            differs
        });
        self.identity.send_if_modified(|current| {
            let differs = *current != identity;
            *current = identity;
            differs
        });
    }
}

/// Logs each finding once when it appears and once when it is gone.
fn log_changes(before: &[Finding], after: &[Finding]) {
    let before: BTreeSet<&Finding> = before.iter().collect();
    let after: BTreeSet<&Finding> = after.iter().collect();
    for finding in after.difference(&before) {
        match finding.severity {
            Severity::Error => tracing::warn!("{finding}"),
            Severity::Hint => tracing::info!("{finding}"),
        }
    }
    for finding in before.difference(&after) {
        tracing::info!("no longer: {finding}");
    }
}
