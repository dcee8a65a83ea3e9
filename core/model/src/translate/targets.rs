//! What tunnels may lead to: the ports of enrolled services and workloads.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::attachment::ServiceState;
use super::clusters::{HBONE_PORT, Reach, endpoint_at, target_port};
use super::enrolment::{Enrolment, Enrolments, Unbound};
use super::ids::{ClusterIds, Subject};
use super::memo::reuse;
use super::plugins::{Gathering, PluginIndex};
use super::policies::{self, Demands, PolicyIndex, PolicyMemo};
use super::proxies::{Proxies, ProxyEntry};
use super::routes::{AttachedRoute, RouteIndex, RouteMemo};
use super::services::{ServiceEntry, Services};
use super::workloads::{PodEntry, Pods};
use crate::finding::Finding;
use crate::mesh::MeshSettings;
use crate::names::ObjectRef;
use crate::plugin::AttachedPlugin;
use crate::resource::core::TransportProtocol;
use crate::service::{AppProtocol, Cluster, ClusterId, Preference, Service};
use crate::snapshot::{Snapshot, Target, Tunnels};
use crate::store::Resources;

/// Builds the targets of one round.
pub(super) struct Targets<'a> {
    pub(super) resources: &'a Resources,
    pub(super) mesh: &'a MeshSettings,
    pub(super) proxies: &'a Proxies,
    pub(super) services: &'a Services,
    pub(super) pods: &'a Pods,
    pub(super) reach: Reach,
    pub(super) routes: &'a RouteIndex,
    pub(super) policies: &'a PolicyIndex<'a>,
    pub(super) plugins: &'a PluginIndex<'a>,
    pub(super) before: Option<&'a Snapshot>,
    pub(super) tunnels: Tunnels,
    /// The targets of the last round, and those of this one.
    pub(super) targets_before: &'a HashMap<ClusterId, Arc<Target>>,
    pub(super) targets: HashMap<ClusterId, Arc<Target>>,
    /// Clusters of workloads addressed directly.
    pub(super) clusters: HashMap<ClusterId, Arc<Cluster>>,
    pub(super) findings: Vec<Finding>,
}

/// What is remembered from round to round.
pub(super) struct TargetMemos<'m, 'v> {
    pub(super) routes: &'m mut RouteMemo,
    pub(super) policies: &'m mut PolicyMemo,
    pub(super) plugins: &'m mut Gathering<'v>,
    pub(super) ids: &'m mut ClusterIds,
}

impl Targets<'_> {
    pub(super) fn add_services(
        &mut self,
        enrolments: &Enrolments,
        memos: &mut TargetMemos<'_, '_>,
    ) {
        for entry in self.services.iter() {
            let service = &entry.service;
            match enrolments.service(&service.namespace, &service.name) {
                Some(Enrolment::Here(place)) => {
                    self.add_service(entry, &self.proxies.played[*place], memos);
                }
                Some(
                    Enrolment::Elsewhere(reason) | Enrolment::Nowhere(Unbound { text: reason, .. }),
                ) => {
                    let reason: Arc<str> =
                        format!("{}/{}: {reason}", service.namespace, service.name).into();
                    for address in &service.addresses {
                        self.tunnels.unserved.insert(*address, Arc::clone(&reason));
                    }
                }
                None => {}
            }
        }
        self.judge_parents(enrolments);
    }

    fn add_service(
        &mut self,
        entry: &ServiceEntry,
        proxy: &ProxyEntry,
        memos: &mut TargetMemos<'_, '_>,
    ) {
        let service = &entry.service;
        let attached = self
            .policies
            .at_waypoint(proxy, Some((&*service.namespace, &*service.name)));
        let demands = policies::compile(&attached, self.mesh, memos.policies, &mut self.findings);
        let key = (Arc::clone(&service.namespace), Arc::clone(&service.name));
        let routes = self
            .routes
            .services
            .get(&key)
            .map_or(&[][..], Vec::as_slice);
        for (port, cluster) in service.ports.iter().zip(&entry.clusters) {
            if port.protocol.is_opaque() {
                self.say_what_is_opaque(&demands, service, port.port);
            }
            let of_port: Vec<&AttachedRoute> = routes
                .iter()
                .filter(|route| route.port.is_none_or(|wanted| wanted == port.port))
                .collect();
            let of_service = Some((&*service.namespace, &*service.name));
            let speaks = (port.port, port.protocol);
            let wanted = self.plugins.at_waypoint(proxy, of_service, speaks);
            let target = Target {
                proxy: Arc::clone(&proxy.proxy),
                service: Some(Arc::clone(service)),
                workload: None,
                port: port.port,
                protocol: port.protocol,
                routes: memos.routes.target(*cluster, &service.namespace, &of_port),
                authorization: Arc::clone(&demands.authorization),
                authentication: Arc::clone(&demands.authentication),
                plugins: memos.plugins.settle(wanted, self.plugins_before(*cluster)),
                cluster: *cluster,
            };
            let target = self.keep(target);
            for address in &service.addresses {
                let key = (Arc::clone(&service.network), *address, port.port);
                let holder = self
                    .tunnels
                    .by_address
                    .entry(key)
                    .or_insert_with(|| Arc::clone(&target));
                if !Arc::ptr_eq(holder, &target) {
                    self.findings.push(
                        Finding::error(format!(
                            "another Service has the address {address}, too; it gets the traffic"
                        ))
                        .on(ObjectRef::new("Service", &service.namespace, &service.name))
                        .field("spec.clusterIP"),
                    );
                }
            }
            for host in entry.hosts.iter() {
                self.tunnels
                    .by_host
                    .entry(host.clone())
                    .or_default()
                    .push((port.port, Arc::clone(&target)));
            }
        }
    }

    /// Says which rules can not be asked as they are written, because a port shows no requests.
    fn say_what_is_opaque(&mut self, demands: &Demands, service: &Service, port: u16) {
        for (rule, effect) in demands.authorization.at_opaque_ports() {
            let Service {
                namespace, name, ..
            } = service;
            let reason = format!(
                "at port {port} of Service {namespace}/{name} there are bytes and no requests to look at; {effect}"
            );
            self.findings.push(
                Finding::hint(reason)
                    .on(ObjectRef::new(
                        "AuthorizationPolicy",
                        &rule.namespace,
                        &rule.policy,
                    ))
                    .field(format!("spec.rules[{}]", rule.rule))
                    .remedy(
                        "declare the port's protocol if it is HTTP (appProtocol, or the port's name); \
                         else ask for sources and ports only",
                    ),
            );
        }
    }

    fn plugins_before(&self, target: ClusterId) -> Option<&Arc<[AttachedPlugin]>> {
        self.targets_before.get(&target).map(|old| &old.plugins)
    }

    /// The old target where nothing of it changed.
    fn keep(&mut self, target: Target) -> Arc<Target> {
        let target = match self.targets_before.get(&target.cluster) {
            Some(old) if is_same(old, &target) => Arc::clone(old),
            _ => Arc::new(target),
        };
        self.targets.insert(target.cluster, Arc::clone(&target));
        target
    }

    /// Routes to nowhere.
    fn judge_parents(&mut self, enrolments: &Enrolments) {
        for ((namespace, name), routes) in &self.routes.services {
            for route in routes {
                let parent = (&**namespace, &**name, route.port);
                let Some(reason) = parent_problem(enrolments, self.services, parent) else {
                    continue;
                };
                self.findings.push(
                    Finding::error(format!("{reason}; the route does not attach to it"))
                        .on(&route.object)
                        .field(format!("spec.parentRefs[{}]", route.parent)),
                );
            }
        }
    }

    pub(super) fn add_workloads(
        &mut self,
        enrolments: &Enrolments,
        memos: &mut TargetMemos<'_, '_>,
    ) {
        if enrolments.pods.is_empty() {
            return;
        }
        let (pods, services, proxies) = (self.pods, self.services, self.proxies);
        let known = ports_of_slices(self.resources);
        for (namespace, name, place) in &enrolments.pods {
            let Some(entry) = pods.get(namespace, name) else {
                continue;
            };
            let mut own = known
                .get(&(&**namespace, &**name))
                .cloned()
                .unwrap_or_default();
            own.extend(declared_ports(entry, services));
            own.sort_unstable();
            own.dedup();
            own.retain(|port| *port != HBONE_PORT);
            for port in own {
                self.add_workload(entry, port, &proxies.played[*place], memos);
            }
        }
    }

    fn add_workload(
        &mut self,
        entry: &PodEntry,
        port: u16,
        proxy: &ProxyEntry,
        memos: &mut TargetMemos<'_, '_>,
    ) {
        let Some(workload) = &entry.workload else {
            return;
        };
        let addresses: Vec<IpAddr> = workload
            .addresses
            .iter()
            .copied()
            .filter(|address| {
                let key = (Arc::clone(&workload.network), *address);
                self.pods
                    .workloads
                    .by_address
                    .get(&key)
                    .is_some_and(|at| at.uid == workload.uid)
            })
            .collect();
        let Some(first) = addresses.first() else {
            return;
        };
        let id = memos
            .ids
            .of(Subject::Workload, &entry.namespace, &entry.name, port);
        let endpoint = endpoint_at(self.reach, *first, port, Some(workload), "");
        let before = self.before.and_then(|snapshot| snapshot.clusters.get(&id));
        let known = before.and_then(|cluster| cluster.endpoints.first());
        let cluster = Cluster {
            id,
            name: format!("direct|{port}||{}/{}", entry.namespace, entry.name).into(),
            service: None,
            port,
            protocol: AppProtocol::Undeclared,
            endpoints: vec![reuse(known, endpoint)],
            connect_timeout_ms: self.mesh.connect_timeout_ms,
            prefers: Preference::Any,
        };
        self.clusters.insert(id, reuse(before, cluster));
        let attached = self.policies.at_waypoint(proxy, None);
        let demands = policies::compile(&attached, self.mesh, memos.policies, &mut self.findings);
        let speaks = (port, AppProtocol::Undeclared);
        let wanted = self.plugins.at_waypoint(proxy, None, speaks);
        let target = Target {
            proxy: Arc::clone(&proxy.proxy),
            service: None,
            workload: Some(Arc::clone(workload)),
            port,
            protocol: AppProtocol::Undeclared,
            routes: memos.routes.target(id, &entry.namespace, &[]),
            authorization: demands.authorization,
            authentication: demands.authentication,
            plugins: memos.plugins.settle(wanted, self.plugins_before(id)),
            cluster: id,
        };
        let target = self.keep(target);
        for address in addresses {
            self.tunnels
                .by_address
                .entry((Arc::clone(&workload.network), address, port))
                .or_insert_with(|| Arc::clone(&target));
        }
    }
}

/// Why no route attaches to a Service, or to one port of it.
pub(super) fn parent_problem(
    enrolments: &Enrolments,
    services: &Services,
    (namespace, name, port): (&str, &str, Option<u16>),
) -> Option<String> {
    match service_state(enrolments, namespace, name) {
        ServiceState::Missing => Some(format!("the Service {namespace}/{name} does not exist")),
        ServiceState::Unserved(reason) => Some(format!(
            "nothing routes for the Service {namespace}/{name}: {reason}"
        )),
        ServiceState::Served => {
            let port = port?;
            let service = services.get(namespace, name);
            let served = service.is_some_and(|service| service.cluster(port).is_some());
            (!served).then(|| format!("the Service {namespace}/{name} has no TCP port {port}"))
        }
    }
}

/// What is known of a service, for whoever attaches something to it.
pub(super) fn service_state(enrolments: &Enrolments, namespace: &str, name: &str) -> ServiceState {
    match enrolments.service(namespace, name) {
        None => ServiceState::Missing,
        Some(Enrolment::Here(_) | Enrolment::Elsewhere(_)) => ServiceState::Served,
        Some(Enrolment::Nowhere(unbound)) => ServiceState::Unserved(Arc::clone(&unbound.text)),
    }
}

/// Ports on which EndpointSlices say that a Pod serves.
fn ports_of_slices(resources: &Resources) -> HashMap<(&str, &str), Vec<u16>> {
    let mut ports: HashMap<(&str, &str), Vec<u16>> = HashMap::new();
    for (namespace, _, entry) in resources.slices.iter() {
        let slice = &entry.object;
        for endpoint in &slice.endpoints {
            let Some(target) = endpoint.target_ref.as_ref().filter(|t| t.kind == "Pod") else {
                continue;
            };
            let namespace = match target.namespace.as_str() {
                "" => &**namespace,
                namespace => namespace,
            };
            ports
                .entry((namespace, &target.name))
                .or_default()
                .extend(slice.ports.iter().filter_map(|port| port.port));
        }
    }
    ports
}

/// Ports that a Pod's containers declare, and those that services which select it lead to.
fn declared_ports(entry: &PodEntry, services: &Services) -> Vec<u16> {
    let containers = entry.pod.spec.containers.iter();
    let mut ports: Vec<u16> = containers
        .flat_map(|container| &container.ports)
        .filter(|port| port.protocol == TransportProtocol::Tcp)
        .map(|port| port.container_port)
        .collect();
    for service in services.within(&entry.namespace) {
        let selector = &service.written.spec.selector;
        if selector.is_empty()
            || !crate::resource::meta::is_subset(selector, &entry.pod.metadata.labels)
        {
            continue;
        }
        ports.extend(
            service
                .written
                .spec
                .ports
                .iter()
                .filter(|port| port.protocol == TransportProtocol::Tcp)
                .filter_map(|port| target_port(&entry.pod, port)),
        );
    }
    ports
}

fn is_same(old: &Target, new: &Target) -> bool {
    Arc::ptr_eq(&old.proxy, &new.proxy)
        && same(&old.service, &new.service)
        && same(&old.workload, &new.workload)
        && old.port == new.port
        && old.protocol == new.protocol
        && Arc::ptr_eq(&old.routes, &new.routes)
        && Arc::ptr_eq(&old.authorization, &new.authorization)
        && Arc::ptr_eq(&old.authentication, &new.authentication)
        && Arc::ptr_eq(&old.plugins, &new.plugins)
}

fn same<T>(old: &Option<Arc<T>>, new: &Option<Arc<T>>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => Arc::ptr_eq(old, new),
        (None, None) => true,
        _ => false,
    }
}
