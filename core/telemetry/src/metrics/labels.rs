//! Label sets: who asks, what for, who serves; and how they become small numbers.
//!
//! Missing values are `unknown` (`latest` for a canonical revision) and never empty: Kiali takes an
//! empty label for another series than `unknown`.

use std::hash::Hash;
use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use wayline_model::Identity;
use wayline_model::service::Service;
use wayline_model::workload::Workload;

/// What Istio writes where it does not know.
pub(crate) const UNKNOWN: &str = "unknown";

/// The canonical revision of workloads that declare none.
const LATEST: &str = "latest";

/// Labels of one workload: the `source_*` or the `destination_*` ones, without the service.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct WorkloadLabels {
    /// `*_workload`: name of the Deployment or other owner.
    pub workload: Arc<str>,
    /// `*_workload_namespace`.
    pub namespace: Arc<str>,
    /// `*_principal`, with `spiffe://`.
    pub principal: Arc<str>,
    /// `*_app`.
    pub app: Arc<str>,
    /// `*_version`.
    pub version: Arc<str>,
    /// `*_canonical_service`.
    pub canonical_service: Arc<str>,
    /// `*_canonical_revision`.
    pub canonical_revision: Arc<str>,
    /// `*_cluster`. Kiali drops series that know a namespace but no cluster, so give the mesh's.
    pub cluster: Arc<str>,
}

/// Labels of the side that opened the connection.
pub type PeerLabels = WorkloadLabels;

impl WorkloadLabels {
    /// Labels of a workload we know.
    #[must_use]
    pub fn of(workload: &Workload) -> Self {
        Self {
            workload: Arc::clone(&workload.workload_name),
            namespace: Arc::clone(&workload.namespace),
            principal: workload.identity.uri().into(),
            app: Arc::clone(&workload.app),
            version: Arc::clone(&workload.version),
            canonical_service: Arc::clone(&workload.canonical_name),
            canonical_revision: Arc::clone(&workload.canonical_revision),
            cluster: Arc::clone(&workload.cluster),
        }
    }

    /// Labels of a peer of which only the certificate is known.
    #[must_use]
    pub fn of_identity(identity: &Identity, cluster: &Arc<str>) -> Self {
        Self {
            namespace: identity.namespace().into(),
            principal: identity.uri().into(),
            ..Self::unknown(cluster)
        }
    }

    /// Labels where nothing is known, e.g. of the destination of a denied request.
    #[must_use]
    pub fn unknown(cluster: &Arc<str>) -> Self {
        let unknown: Arc<str> = UNKNOWN.into();
        Self {
            workload: Arc::clone(&unknown),
            namespace: Arc::clone(&unknown),
            principal: Arc::clone(&unknown),
            app: Arc::clone(&unknown),
            version: Arc::clone(&unknown),
            canonical_service: unknown,
            canonical_revision: LATEST.into(),
            cluster: Arc::clone(cluster),
        }
    }
}

/// Labels of the service asked for.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct DestinationLabels {
    /// `destination_service`: the FQDN.
    pub service: Arc<str>,
    /// `destination_service_name`: the short name.
    pub name: Arc<str>,
    /// `destination_service_namespace`.
    pub namespace: Arc<str>,
}

impl DestinationLabels {
    /// Labels of a service we know.
    #[must_use]
    pub fn of(service: &Service) -> Self {
        Self {
            service: service.hostname.as_str().into(),
            name: Arc::clone(&service.name),
            namespace: Arc::clone(&service.namespace),
        }
    }

    /// Labels where no service was found, or a workload is addressed directly. Never give the
    /// client's Host here: clients would make as many series as they like.
    #[must_use]
    pub fn unknown() -> Self {
        let unknown: Arc<str> = UNKNOWN.into();
        Self {
            service: Arc::clone(&unknown),
            name: Arc::clone(&unknown),
            namespace: unknown,
        }
    }
}

/// A source's label set on one core. Keep it as long as requests may name it.
#[derive(Clone, Debug)]
pub struct PeerId(pub(super) Rc<Interned<WorkloadLabels>>);

/// A service's label set on one core. Keep it as long as requests may name it.
#[derive(Clone, Debug)]
pub struct DestinationId(pub(super) Rc<Interned<DestinationLabels>>);

/// A destination workload's label set on one core. Keep it as long as requests may name it.
#[derive(Clone, Debug)]
pub struct WorkloadId(pub(super) Rc<Interned<WorkloadLabels>>);

impl PeerId {
    /// The labels.
    #[must_use]
    pub fn labels(&self) -> &Arc<WorkloadLabels> {
        &self.0.labels
    }
}

impl WorkloadId {
    /// The labels.
    #[must_use]
    pub fn labels(&self) -> &Arc<WorkloadLabels> {
        &self.0.labels
    }
}

/// One label set with its number on this core.
#[derive(Debug)]
pub(super) struct Interned<T> {
    pub(super) id: u32,
    pub(super) labels: Arc<T>,
}

/// Label sets by content. Those that neither a handle nor a series mentions are forgotten.
#[derive(Debug)]
pub(super) struct Interner<T> {
    sets: FxHashMap<Arc<T>, Rc<Interned<T>>>,
    next_id: u32,
    sweep_at: usize,
}

/// Below this many label sets a sweep is not worth its while.
const SWEEP_FLOOR: usize = 256;

impl<T: Normalise + Eq + Hash> Interner<T> {
    pub(super) fn new() -> Self {
        Self {
            sets: FxHashMap::default(),
            next_id: 0,
            sweep_at: SWEEP_FLOOR,
        }
    }

    pub(super) fn intern(&mut self, mut labels: T) -> Rc<Interned<T>> {
        labels.normalise();
        if let Some(known) = self.sets.get(&labels) {
            return Rc::clone(known);
        }
        if self.sets.len() >= self.sweep_at {
            self.sweep();
        }
        let labels = Arc::new(labels);
        let interned = Rc::new(Interned {
            id: self.next_id,
            labels: Arc::clone(&labels),
        });
        self.next_id = self.next_id.wrapping_add(1);
        self.sets.insert(labels, Rc::clone(&interned));
        interned
    }

    /// A set that a series still mentions must stay even if no handle does: under a new number its
    /// next request would make a second series beside the first.
    fn sweep(&mut self) {
        const OURS: usize = 2;
        self.sets.retain(|labels, interned| {
            Rc::strong_count(interned) > 1 || Arc::strong_count(labels) > OURS
        });
        self.sweep_at = (self.sets.len() * 2).max(SWEEP_FLOOR);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.sets.len()
    }
}

/// Puts Istio's words where a value is missing.
pub(super) trait Normalise {
    fn normalise(&mut self);
}

impl Normalise for WorkloadLabels {
    fn normalise(&mut self) {
        let fields = [
            &mut self.workload,
            &mut self.namespace,
            &mut self.principal,
            &mut self.app,
            &mut self.version,
            &mut self.canonical_service,
            &mut self.cluster,
        ];
        for field in fields {
            or(field, UNKNOWN);
        }
        or(&mut self.canonical_revision, LATEST);
    }
}

impl Normalise for DestinationLabels {
    fn normalise(&mut self) {
        for field in [&mut self.service, &mut self.name, &mut self.namespace] {
            or(field, UNKNOWN);
        }
    }
}

fn or(field: &mut Arc<str>, default: &str) {
    if field.is_empty() {
        *field = default.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> WorkloadLabels {
        WorkloadLabels {
            workload: name.into(),
            ..WorkloadLabels::unknown(&"Kubernetes".into())
        }
    }

    #[test]
    fn label_sets_of_vanished_peers_are_forgotten() {
        let mut interner = Interner::new();
        let kept = interner.intern(named("kept"));
        for i in 0..10_000 {
            let _gone = interner.intern(named(&format!("pod-{i}")));
        }
        assert!(interner.len() <= 2 * SWEEP_FLOOR, "{} sets", interner.len());
        assert_eq!(interner.intern(named("kept")).id, kept.id);
    }

    #[test]
    fn an_empty_value_is_the_same_set_as_unknown() {
        let mut interner = Interner::new();
        let unknown = interner.intern(WorkloadLabels::unknown(&"c".into()));
        let empty = interner.intern(WorkloadLabels {
            app: "".into(),
            canonical_revision: "".into(),
            ..WorkloadLabels::unknown(&"c".into())
        });
        assert_eq!(unknown.id, empty.id);
        assert_eq!(&*empty.labels.canonical_revision, "latest");
    }
}
