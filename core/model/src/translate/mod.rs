//! Resources in, [`Snapshot`] and findings out.
//!
//! Translation looks at all objects each time, but what is expensive is remembered by the revisions
//! of the objects it was made from: parts that did not change are the same `Arc` in the next
//! snapshot, and an edit costs what it touches.
//!
//! The order is that of the data's own dependencies: Pods, services and clusters; the Gateways this
//! process plays; routes; enrolment; policies and plugins; then targets and entrances, which join them.

mod asked;
mod attachment;
mod binding;
mod clusters;
mod enrolment;
mod entrances;
mod ids;
mod memo;
mod peers;
mod plugins;
mod policies;
mod proxies;
mod routes;
mod rules;
mod services;
mod status;
mod targets;
mod workloads;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::authentication::JwksLocation;
use crate::finding::Finding;
use crate::identity::Identity;
use crate::mesh::MeshSettings;
use crate::names::ObjectRef;
use crate::plugin::{AttachedPlugin, Verdict, Verdicts};
use crate::service::ClusterId;
use crate::snapshot::{Entrance, Snapshot, Target, Tunnels};
use crate::status::Statuses;
use crate::store::Resources;

use clusters::{ClusterMemo, Clusters, Reach};
use enrolment::Enrolments;
use entrances::{Doors, HostMemo};
use ids::ClusterIds;
use plugins::{Gathered, Gathering, PluginIndex, PluginMemo};
use policies::{PolicyIndex, PolicyMemo};
use proxies::Proxies;
use routes::{RouteIndex, RouteMemo};
use services::{ServiceMemo, Services};
use targets::{TargetMemos, Targets, service_state};
use workloads::{Pods, WorkloadMemo};

/// What the process was told on its command line.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
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
    /// The identity this process presents: of the first Gateway named on the command line that is
    /// there, else of the first waypoint by name, else of the first gateway; `None` without any.
    pub identity: Option<Identity>,
}

/// Translates resources, again and again. Cluster numbers keep their meaning for its lifetime.
#[derive(Debug, Default)]
pub struct Translator {
    options: Options,
    generation: u64,
    ids: ClusterIds,
    mesh: Arc<MeshSettings>,
    memos: Memos,
    pods: Stage<Pods>,
    services: Stage<Services>,
    clusters: Stage<Clusters>,
    enrolments: Stage<Enrolments>,
    routes: Stage<RouteIndex>,
    doors: Stage<Doors>,
    statuses: Stage<Statuses>,
    jwks: Stage<Arc<[JwksLocation]>>,
    targets: HashMap<ClusterId, Arc<Target>>,
    before: Option<Arc<Snapshot>>,
    /// The one empty list of plugins.
    no_plugins: Arc<[AttachedPlugin]>,
    plugins_settled: bool,
    /// Plugins that could not be read when they were last seen, and had no verdict since.
    denied_plugins: HashSet<ObjectRef>,
}

/// What is remembered of single objects.
#[derive(Debug, Default)]
struct Memos {
    workloads: WorkloadMemo,
    services: ServiceMemo,
    clusters: ClusterMemo,
    routes: RouteMemo,
    hosts: HostMemo,
    policies: PolicyMemo,
    plugins: PluginMemo,
}

/// The last outcome of a step and what it was made from.
#[derive(Debug, Default)]
struct Stage<T> {
    made_from: Vec<u64>,
    outcome: Arc<T>,
    /// Counts outcomes, for the steps that build on this one.
    version: u64,
}

impl<T> Stage<T> {
    /// The last outcome where nothing changed, else a new one.
    fn step(&mut self, from: Vec<u64>, make: impl FnOnce(&T) -> T) -> Arc<T> {
        if self.version == 0 || self.made_from != from {
            self.outcome = Arc::new(make(&self.outcome));
            self.made_from = from;
            self.version += 1;
        }
        Arc::clone(&self.outcome)
    }
}

impl Translator {
    /// A translator that has seen nothing.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// Translates everything that is in force now, with what became of the plugins it wants.
    pub fn translate(&mut self, resources: &Resources, verdicts: &Verdicts) -> Translation {
        self.follow_mesh(resources);
        let mesh = Arc::clone(&self.mesh);
        let before = self.before.take();
        let proxies = proxies::collect(resources, &mesh, &self.options, before.as_deref());
        let reach = match proxies.behind_ztunnel() {
            true => Reach::Ztunnel,
            false => Reach::Tunnels,
        };
        let (pods, services, clusters) = self.backends(resources, reach);
        let routes = self.routes(resources, &services);
        let enrolments = self.enrolments(resources, &proxies, &services, &pods);
        let state = |namespace: &str, name: &str| service_state(&enrolments, namespace, name);
        let policies = PolicyIndex::new(resources, &mesh, &proxies, &state);
        let plugins = PluginIndex::new(resources, &mesh, &proxies, &state, &mut self.memos.plugins);
        let denied = plugins::denied(resources);
        let mut denied_plugins = std::mem::take(&mut self.denied_plugins);
        denied_plugins.extend(denied.cloned());
        let mut gathering = Gathering::new(verdicts, &denied_plugins, &self.no_plugins);
        let mut memos = TargetMemos {
            routes: &mut self.memos.routes,
            policies: &mut self.memos.policies,
            plugins: &mut gathering,
            ids: &mut self.ids,
        };
        let mut targets = Targets {
            resources,
            mesh: &mesh,
            proxies: &proxies,
            services: &services,
            pods: &pods,
            reach,
            routes: &routes,
            policies: &policies,
            plugins: &plugins,
            before: before.as_deref(),
            tunnels: Tunnels::default(),
            targets_before: &self.targets,
            targets: HashMap::new(),
            clusters: HashMap::new(),
            findings: Vec::new(),
        };
        targets.add_services(&enrolments, &mut memos);
        targets.add_workloads(&enrolments, &mut memos);
        let Targets {
            tunnels,
            targets,
            clusters: direct,
            findings: target_findings,
            ..
        } = targets;
        self.targets = targets;

        let doors = self.doors(resources, &proxies, &routes);
        let outcomes = status::Outcomes {
            resources,
            mesh: &mesh,
            proxies: &proxies,
            services: &services,
            routes: &routes,
            enrolments: &enrolments,
            doors: &doors,
        };
        let statuses = self.statuses(&outcomes);
        let mut findings = target_findings;
        let entrances = self.entrances(
            &doors,
            &proxies,
            (&policies, &plugins),
            &mut gathering,
            before.as_deref(),
            &mut findings,
        );
        let gathered = gathering.finish();
        findings.extend(gathered.findings.iter().cloned());
        denied_plugins.retain(|object| {
            let versions = gathered.plugins.iter();
            let mut pending = versions.filter(|it| it.verdict == Verdict::Pending);
            pending.any(|it| it.plugin.object == *object)
                || plugins::denied(resources).any(|denied| denied == object)
        });
        self.denied_plugins = denied_plugins;
        let all_plugins = self.all_plugins(&gathered, before.as_deref());
        self.memos.routes.end_round();
        self.memos.policies.end_round();

        let parts = [
            &pods.findings,
            &clusters.findings,
            &proxies.findings,
            &routes.findings,
            &enrolments.findings,
            &policies.findings,
            &plugins.findings,
            &doors.findings,
        ];
        findings.extend(parts.into_iter().flatten().cloned());
        findings.extend(plugins.unheard());
        findings.extend(peers::findings(resources, &mesh, &proxies));
        findings.extend(asked::findings(&mesh, &clusters));
        findings.extend(resources.findings().cloned());
        findings.sort();
        findings.dedup();

        self.generation += 1;
        let mut by_id = clusters.by_id.clone();
        by_id.extend(direct);
        let snapshot = Arc::new(Snapshot {
            generation: self.generation,
            mesh,
            proxies: proxies
                .played
                .iter()
                .map(|entry| Arc::clone(&entry.proxy))
                .collect(),
            tunnels,
            entrances,
            clusters: by_id,
            workloads: Arc::clone(&pods.workloads),
            statuses,
            plugins: all_plugins,
            plugins_awaited: !self.plugins_settled,
            jwks: self.jwks(resources),
        });
        self.before = Some(Arc::clone(&snapshot));
        Translation {
            snapshot,
            findings,
            identity: proxies.identity,
        }
    }

    /// The plugins of this round: the old list where nothing of it changed.
    fn all_plugins(
        &mut self,
        gathered: &Gathered,
        before: Option<&Snapshot>,
    ) -> Arc<[AttachedPlugin]> {
        self.plugins_settled |= gathered
            .plugins
            .iter()
            .all(|it| it.verdict != Verdict::Pending);
        let known = before.map(|snapshot| &snapshot.plugins);
        match known {
            Some(known)
                if known.len() == gathered.plugins.len()
                    && known
                        .iter()
                        .zip(&gathered.plugins)
                        .all(|(a, b)| a.is_same(b)) =>
            {
                Arc::clone(known)
            }
            _ => gathered.plugins.clone().into(),
        }
    }

    /// Mesh settings reach into everything: when they change, nothing that was made counts.
    fn follow_mesh(&mut self, resources: &Resources) {
        let written = resources.mesh.iter().next();
        let mesh = written.map_or_else(Arc::default, |(_, _, entry)| Arc::clone(&entry.object));
        if *mesh == *self.mesh {
            return;
        }
        self.mesh = mesh;
        self.memos = Memos {
            // Its serial numbers must not begin again.
            routes: std::mem::take(&mut self.memos.routes),
            // Mesh settings do not reach into plugins.
            plugins: std::mem::take(&mut self.memos.plugins),
            ..Memos::default()
        };
        self.pods.made_from.clear();
        self.services.made_from.clear();
        self.clusters.made_from.clear();
        self.enrolments.made_from.clear();
        self.routes.made_from.clear();
        self.doors.made_from.clear();
        self.statuses.made_from.clear();
    }

    fn backends(
        &mut self,
        resources: &Resources,
        reach: Reach,
    ) -> (Arc<Pods>, Arc<Services>, Arc<Clusters>) {
        let (memos, ids, mesh) = (&mut self.memos, &mut self.ids, &self.mesh);
        let of_pods = resources.pods.revision().max(resources.nodes.revision());
        let pods = self.pods.step(vec![of_pods], |_| {
            workloads::collect(resources, mesh, &mut memos.workloads)
        });
        let of_services = resources.services.revision();
        let services = self.services.step(vec![of_services], |_| {
            services::collect(resources, mesh, &mut memos.services, ids)
        });
        let from = vec![
            of_pods,
            of_services,
            resources.slices.revision(),
            reach as u64,
        ];
        let memo = &mut memos.clusters;
        let clusters = self.clusters.step(from, |before| {
            clusters::collect(resources, (mesh, reach), &services, &pods, before, memo)
        });
        (pods, services, clusters)
    }

    fn enrolments(
        &mut self,
        resources: &Resources,
        proxies: &Proxies,
        services: &Services,
        pods: &Pods,
    ) -> Arc<Enrolments> {
        let from = vec![
            resources.pods.revision(),
            resources.services.revision(),
            resources.namespaces.revision(),
            resources.gateways.revision(),
            resources.classes.revision(),
        ];
        self.enrolments.step(from, |_| {
            enrolment::collect(resources, proxies, services, pods)
        })
    }

    fn routes(&mut self, resources: &Resources, services: &Services) -> Arc<RouteIndex> {
        let from = vec![
            resources.routes.revision(),
            resources.broken_routes.revision(),
            resources.grants.revision(),
            resources.services.revision(),
        ];
        let memo = &mut self.memos.routes;
        self.routes.step(from, |_| memo.index(resources, services))
    }

    fn doors(
        &mut self,
        resources: &Resources,
        proxies: &Proxies,
        routes: &RouteIndex,
    ) -> Arc<Doors> {
        let from = vec![
            self.routes.version,
            resources.gateways.revision(),
            resources.classes.revision(),
            resources.namespaces.revision(),
        ];
        let memo = &mut self.memos.hosts;
        self.doors.step(from, |_| {
            entrances::collect(resources, proxies, routes, memo)
        })
    }

    /// Enrolments also count Pods, of which no status is said: what else they are made from is here.
    fn statuses(&mut self, outcomes: &status::Outcomes<'_>) -> Arc<Statuses> {
        let from = vec![
            self.routes.version,
            self.doors.version,
            outcomes.resources.services.revision(),
            outcomes.resources.namespaces.revision(),
            outcomes.resources.gateways.revision(),
            outcomes.resources.classes.revision(),
        ];
        self.statuses.step(from, |_| outcomes.statuses())
    }

    fn jwks(&mut self, resources: &Resources) -> Arc<[JwksLocation]> {
        let from = vec![resources.authentications.revision()];
        let stage = self.jwks.step(from, |_| policies::locations(resources));
        Arc::clone(&stage)
    }

    fn entrances(
        &mut self,
        doors: &Doors,
        proxies: &Proxies,
        (policies, plugins): (&PolicyIndex<'_>, &PluginIndex<'_>),
        gathering: &mut Gathering<'_>,
        before: Option<&Snapshot>,
        findings: &mut Vec<Finding>,
    ) -> Vec<Arc<Entrance>> {
        let mut entrances = Vec::with_capacity(doors.all.len());
        for door in &doors.all {
            let Some(entry) = proxies.find(&door.namespace, &door.name) else {
                continue;
            };
            let attached = policies.at_gateway(entry);
            let demands =
                policies::compile(&attached, &self.mesh, &mut self.memos.policies, findings);
            let old = before.and_then(|snapshot| {
                snapshot.entrances.iter().find(|old| {
                    Arc::ptr_eq(&old.proxy, &entry.proxy)
                        && (old.address, old.port) == (door.address, door.port)
                })
            });
            let wanted = plugins.at_gateway(entry, door.port);
            let new = Entrance {
                proxy: Arc::clone(&entry.proxy),
                address: door.address,
                port: door.port,
                hosts: Arc::clone(&door.hosts),
                authorization: demands.authorization,
                authentication: demands.authentication,
                plugins: gathering.settle(wanted, old.map(|old| &old.plugins)),
            };
            let same = old.filter(|old| {
                Arc::ptr_eq(&old.hosts, &new.hosts)
                    && Arc::ptr_eq(&old.authorization, &new.authorization)
                    && Arc::ptr_eq(&old.plugins, &new.plugins)
                    && Arc::ptr_eq(&old.authentication, &new.authentication)
            });
            entrances.push(same.map_or_else(|| Arc::new(new.clone()), Arc::clone));
        }
        entrances
    }
}
