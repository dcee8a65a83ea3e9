//! Clusters as one core sees them, and the choice among their endpoints.

use std::cell::{Cell, Ref, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use wayline_model::Snapshot;
use wayline_model::service::{Cluster, ClusterId, Endpoint, Locality, Preference};
use wayline_telemetry::{CoreMetrics, DestinationId};

use super::endpoint::EndpointState;
use crate::labels;
use crate::random::Random;

/// All clusters this core has used, by number.
pub(crate) struct Upstreams {
    clusters: RefCell<FxHashMap<ClusterId, Rc<ClusterState>>>,
    metrics: Rc<CoreMetrics>,
    random: Random,
    /// What we were told.
    told: Locality,
    /// What follows with the Nodes of the snapshot in force.
    locality: RefCell<Locality>,
}

/// One cluster and its endpoints on this core.
pub(crate) struct ClusterState {
    /// The service's label set.
    pub(crate) destination: DestinationId,
    cluster: RefCell<Arc<Cluster>>,
    endpoints: RefCell<Rc<[Rc<EndpointState>]>>,
    /// Those that are preferred, the closest first, where some are and others are not.
    close: RefCell<Close>,
}

/// Groups of endpoints, each to be asked before all that follow.
type Close = Rc<[Rc<[Rc<EndpointState>]>]>;

impl Upstreams {
    /// Nothing used yet.
    pub(crate) fn new(metrics: Rc<CoreMetrics>, locality: Locality) -> Self {
        Self {
            clusters: RefCell::default(),
            metrics,
            random: Random::new(),
            locality: RefCell::new(locality.clone()),
            told: locality,
        }
    }

    /// The cluster of that number, as the snapshot has it.
    pub(crate) fn cluster(&self, snapshot: &Snapshot, id: ClusterId) -> Option<Rc<ClusterState>> {
        if let Some(known) = self.clusters.borrow().get(&id) {
            return Some(Rc::clone(known));
        }
        let cluster = snapshot.clusters.get(&id)?;
        let endpoints = self.bind(cluster, &[], snapshot);
        let state = Rc::new(ClusterState {
            destination: self
                .metrics
                .intern_destination(labels::destination(cluster.service.as_deref())),
            close: RefCell::new(self.close(cluster.prefers, &endpoints)),
            endpoints: RefCell::new(endpoints),
            cluster: RefCell::new(Arc::clone(cluster)),
        });
        self.clusters.borrow_mut().insert(id, Rc::clone(&state));
        Some(state)
    }

    /// Takes over what a new snapshot says of the clusters in use.
    pub(crate) fn adopt(&self, snapshot: &Snapshot) {
        let moved = self.locate(snapshot);
        self.clusters.borrow_mut().retain(|id, state| {
            let Some(cluster) = snapshot.clusters.get(id) else {
                for endpoint in state.endpoints.borrow().iter() {
                    endpoint.remove();
                }
                return false;
            };
            if Arc::ptr_eq(cluster, &state.cluster.borrow()) {
                if moved {
                    let close = self.close(cluster.prefers, &state.endpoints.borrow());
                    *state.close.borrow_mut() = close;
                }
                return true;
            }
            let before = Rc::clone(&state.endpoints.borrow());
            let after = self.bind(cluster, &before, snapshot);
            for gone in before
                .iter()
                .filter(|old| !after.iter().any(|new| Rc::ptr_eq(old, new)))
            {
                gone.remove();
            }
            *state.close.borrow_mut() = self.close(cluster.prefers, &after);
            *state.endpoints.borrow_mut() = after;
            *state.cluster.borrow_mut() = Arc::clone(cluster);
            true
        });
    }

    /// Whether we are elsewhere than we thought: our zone is that of our node, unless we were told.
    fn locate(&self, snapshot: &Snapshot) -> bool {
        let mut locality = self.told.clone();
        if locality.zone.is_empty()
            && let Some(zone) = snapshot.workloads.zones.get(&locality.node)
        {
            locality.zone = Arc::clone(zone);
        }
        let moved = *self.locality.borrow() != locality;
        *self.locality.borrow_mut() = locality;
        moved
    }

    /// Drops idle connections that are old or dead.
    pub(crate) fn sweep(&self) {
        for cluster in self.clusters.borrow().values() {
            for endpoint in cluster.endpoints.borrow().iter() {
                endpoint.sweep();
            }
        }
    }

    /// The endpoint for the next attempt: the less loaded of two drawn at random, leaving out those
    /// tried already and those that just failed as long as there are others, and those farther away as
    /// long as there are closer ones that did neither.
    pub(crate) fn pick(
        &self,
        cluster: &ClusterState,
        tried: &[Rc<EndpointState>],
    ) -> Option<Rc<EndpointState>> {
        let untried =
            |endpoint: &Rc<EndpointState>| !tried.iter().any(|other| Rc::ptr_eq(endpoint, other));
        let sound = |endpoint: &Rc<EndpointState>| untried(endpoint) && !endpoint.recently_failed();
        let close = Rc::clone(&cluster.close.borrow());
        let closest = close.iter().find(|group| group.iter().any(sound));
        let endpoints = match closest {
            Some(group) => Rc::clone(group),
            None => Rc::clone(&cluster.endpoints.borrow()),
        };
        match &*endpoints {
            [] => return None,
            [only] => return Some(Rc::clone(only)),
            [first, second] if tried.is_empty() => {
                return Some(Rc::clone(self.better(first, second)));
            }
            _ => {}
        }
        let first = self.draw(&endpoints, untried)?;
        let second = self
            .draw(&endpoints, |endpoint| {
                untried(endpoint) && !Rc::ptr_eq(endpoint, first)
            })
            .unwrap_or(first);
        Some(Rc::clone(self.better(first, second)))
    }

    /// One endpoint at random that fits, else any.
    fn draw<'e>(
        &self,
        endpoints: &'e [Rc<EndpointState>],
        fits: impl Fn(&Rc<EndpointState>) -> bool,
    ) -> Option<&'e Rc<EndpointState>> {
        let start = self.random.below(endpoints.len());
        let (before, after) = endpoints.split_at(start);
        after
            .iter()
            .chain(before)
            .find(|endpoint| fits(endpoint))
            .or_else(|| endpoints.get(start))
    }

    fn better<'e>(
        &self,
        first: &'e Rc<EndpointState>,
        second: &'e Rc<EndpointState>,
    ) -> &'e Rc<EndpointState> {
        let load = |endpoint: &EndpointState| (endpoint.recently_failed(), endpoint.outstanding());
        match load(first).cmp(&load(second)) {
            std::cmp::Ordering::Less => first,
            std::cmp::Ordering::Greater => second,
            std::cmp::Ordering::Equal if self.random.below(2) == 0 => first,
            std::cmp::Ordering::Equal => second,
        }
    }

    /// The groups that a preference makes of endpoints: empty ones and those of all are none.
    fn close(&self, prefers: Preference, endpoints: &Rc<[Rc<EndpointState>]>) -> Close {
        let locality = self.locality.borrow();
        let group = |fits: fn(&Endpoint, &Locality) -> bool| -> Rc<[Rc<EndpointState>]> {
            let fitting = endpoints.iter().filter(|it| fits(&it.endpoint, &locality));
            fitting.map(Rc::clone).collect()
        };
        let groups = match prefers {
            Preference::Any => Vec::new(),
            Preference::SameZone => vec![group(Endpoint::is_in_zone_of)],
            Preference::Hinted => vec![group(Endpoint::is_hinted_at)],
            Preference::SameNode => {
                vec![
                    group(Endpoint::is_on_node_of),
                    group(Endpoint::is_in_zone_of),
                ]
            }
        };
        let counts = |group: &Rc<[_]>| !group.is_empty() && group.len() < endpoints.len();
        groups.into_iter().filter(counts).collect()
    }

    fn bind(
        &self,
        cluster: &Cluster,
        known: &[Rc<EndpointState>],
        snapshot: &Snapshot,
    ) -> Rc<[Rc<EndpointState>]> {
        let known: HashMap<_, _> = known
            .iter()
            .map(|state| (state.endpoint.address, state))
            .collect();
        cluster
            .endpoints
            .iter()
            .map(
                |endpoint: &Arc<Endpoint>| match known.get(&endpoint.address) {
                    Some(state) if state.endpoint == *endpoint => Rc::clone(state),
                    _ => EndpointState::new(
                        Arc::clone(endpoint),
                        self.metrics.intern_workload(labels::workload(
                            snapshot,
                            endpoint.workload.as_deref(),
                        )),
                    ),
                },
            )
            .collect()
    }
}

impl ClusterState {
    /// What the snapshot says of it.
    pub(crate) fn cluster(&self) -> Ref<'_, Arc<Cluster>> {
        self.cluster.borrow()
    }

    /// The endpoint whose address fits.
    pub(crate) fn find(&self, fits: impl Fn(SocketAddr) -> bool) -> Option<Rc<EndpointState>> {
        let endpoints = self.endpoints.borrow();
        let mut all = endpoints.iter();
        all.find(|it| fits(it.endpoint.address)).map(Rc::clone)
    }
}

/// Walks the unit interval evenly (multiples of the golden ratio), so that shares of a route's
/// weights come out exact to within a few requests, and no client's own pattern resonates with it.
#[derive(Default)]
pub(crate) struct Even(Cell<u32>);

impl Even {
    /// A walk that begins at a point of its own.
    pub(crate) fn starting_at(point: u32) -> Self {
        Self(Cell::new(point))
    }

    /// The next point, scaled to 2³².
    pub(crate) fn next(&self) -> u32 {
        let point = self.0.get();
        self.0.set(point.wrapping_add(0x9E37_79B9));
        point
    }
}

#[cfg(test)]
mod tests {
    use super::Even;

    #[test]
    fn every_share_of_every_stretch_is_nearly_exact() {
        for start in [0, 1, 0x8000_0000, 0xFFFF_FFFF] {
            let walk = Even::starting_at(start);
            for share in [1u64, 10, 50, 90, 99] {
                let hits = (0..10_000)
                    .filter(|_| (u64::from(walk.next()) * 100) >> 32 < share)
                    .count();
                let expected = share as i64 * 100;
                assert!((hits as i64 - expected).abs() <= 10, "{share} %: {hits}");
            }
        }
    }
}
