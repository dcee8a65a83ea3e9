//! HTTPRoutes as compiled rules, by the services and Gateways they attach to.

use std::collections::HashMap;
use std::sync::Arc;

use super::memo::Memo;
use super::rules::{compile, compile_broken};
use super::services::Services;
use crate::finding::Finding;
use crate::names::{Hostname, ObjectRef};
use crate::resource::http_route::{HttpRouteRule, ObjectBackendRef, ParentRef, RequestMirror};
use crate::resource::{BrokenRoute, GATEWAY_GROUP, HttpRoute};
use crate::route::{
    Forward, HeaderEdits, RetryPolicy, RouteAction, RouteEntry, RouteMatch, RouteOrder, RouteRule,
    RouteTable, Routes, Timeouts, WeightedBackend,
};
use crate::service::{AppProtocol, ClusterId, ServicePort};
use crate::status::reason;
use crate::store::Resources;

/// One route, compiled with the backends it had at the time.
#[derive(Debug)]
pub(super) struct CompiledRoute {
    /// Never used twice: equal numbers mean the same route with the same backends.
    pub(super) serial: u64,
    pub(super) entries: Vec<RouteEntry>,
    pub(super) findings: Vec<Finding>,
    pub(super) verdict: RouteVerdict,
}

/// What the status of a route says, whatever its parents.
#[derive(Debug, Default)]
pub(super) struct RouteVerdict {
    /// Backends that can not be reached: where they stand, and why.
    pub(super) unresolved: Vec<(String, Unresolved)>,
    /// Rules that are not served as written, and why: a reason of the Gateway API and a text.
    pub(super) failed: Vec<(usize, &'static str, Arc<str>)>,
    /// Rules in all.
    pub(super) rules: usize,
}

/// A backend: its cluster, or why there is none.
pub(super) type Backend = Result<ClusterId, Unresolved>;

/// All that a route refers to, in the order in which it is written.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Resolved {
    pub(super) backends: Vec<Backend>,
    /// Of rules.
    pub(super) mirrors: Vec<Backend>,
    /// Of single backends.
    pub(super) backend_mirrors: Vec<Backend>,
    /// Servers that are asked.
    pub(super) auths: Vec<AuthServer>,
}

/// The host and port of a server that is asked, or why there is none.
pub(super) type AuthServer = Result<(Hostname, u16), Unresolved>;

/// Why a backend can not be reached.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Unresolved {
    /// A reason of the Gateway API.
    pub(super) reason: &'static str,
    pub(super) text: Arc<str>,
}

impl Unresolved {
    fn new(reason: &'static str, text: impl Into<Arc<str>>) -> Self {
        Self {
            reason,
            text: text.into(),
        }
    }
}

/// What was remembered about routes.
#[derive(Debug, Default)]
pub(super) struct RouteMemo {
    routes: Memo<(u64, Resolved), CompiledRoute>,
    tables: Memo<Vec<u64>, RouteTable>,
    defaults: Memo<ClusterId, RouteTable>,
    targets: Memo<TargetKey, Routes>,
    serials: u64,
}

/// All that the routes of a target depend on.
#[derive(Debug, Eq, Hash, PartialEq)]
struct TargetKey {
    cluster: ClusterId,
    producer: Vec<u64>,
    consumers: Vec<(Arc<str>, Vec<u64>)>,
}

/// A route at one of its parents.
#[derive(Clone, Debug)]
pub(super) struct AttachedRoute {
    pub(super) object: ObjectRef,
    /// Which of `parentRefs` it is.
    pub(super) parent: usize,
    pub(super) port: Option<u16>,
    pub(super) section: Option<Arc<str>>,
    pub(super) hostnames: Arc<[Arc<str>]>,
    pub(super) route: Arc<CompiledRoute>,
}

/// Routes by namespace and name of their parents.
#[derive(Debug, Default)]
pub(super) struct RouteIndex {
    pub(super) services: HashMap<(Arc<str>, Arc<str>), Vec<AttachedRoute>>,
    pub(super) gateways: HashMap<(Arc<str>, Arc<str>), Vec<AttachedRoute>>,
    /// All of them, in the order of their names.
    pub(super) all: Vec<IndexedRoute>,
    pub(super) findings: Vec<Finding>,
}

/// A route as it was written, and what became of it.
#[derive(Debug)]
pub(super) struct IndexedRoute {
    pub(super) object: ObjectRef,
    pub(super) written: Written,
    pub(super) compiled: Arc<CompiledRoute>,
}

/// A route that can be served, or what is left of one that never could.
#[derive(Debug)]
pub(super) enum Written {
    Sound(Arc<HttpRoute>),
    Broken(Arc<BrokenRoute>),
}

impl IndexedRoute {
    pub(super) fn parents(&self) -> &[ParentRef] {
        match &self.written {
            Written::Sound(route) => &route.spec.parent_refs,
            Written::Broken(route) => &route.parent_refs,
        }
    }

    pub(super) fn generation(&self) -> Option<i64> {
        match &self.written {
            Written::Sound(route) => route.metadata.generation,
            Written::Broken(route) => route.metadata.generation,
        }
    }
}

impl RouteMemo {
    /// Compiles all routes.
    pub(super) fn index(&mut self, resources: &Resources, services: &Services) -> RouteIndex {
        let mut index = RouteIndex::default();
        for (namespace, name, entry) in resources.routes.iter() {
            let object = ObjectRef::new("HTTPRoute", namespace, name);
            let route = &entry.object;
            let resolver = Resolver {
                resources,
                services,
                namespace,
                parents: &route.spec.parent_refs,
            };
            let resolved = resolver.all(&route.spec.rules);
            let serials = &mut self.serials;
            let compiled = self
                .routes
                .get((entry.revision, resolved), |(_, resolved)| {
                    *serials += 1;
                    compile(route, &object, resolved, *serials)
                });
            index.findings.extend(compiled.findings.iter().cloned());
            let hostnames = route.spec.hostnames.iter().map(|h| h.as_str().into());
            index.attach(
                &object,
                &route.spec.parent_refs,
                &hostnames.collect(),
                &compiled,
            );
            index.all.push(IndexedRoute {
                object,
                written: Written::Sound(Arc::clone(route)),
                compiled,
            });
        }
        for (namespace, name, entry) in resources.broken_routes.iter() {
            let object = ObjectRef::new("HTTPRoute", namespace, name);
            let route = &entry.object;
            let serials = &mut self.serials;
            let compiled = self.routes.get((entry.revision, Resolved::default()), |_| {
                *serials += 1;
                compile_broken(route, &object, *serials)
            });
            let hostnames = route.hostnames.iter().map(|h| h.as_str().into());
            index.attach(&object, &route.parent_refs, &hostnames.collect(), &compiled);
            index.all.push(IndexedRoute {
                object,
                written: Written::Broken(Arc::clone(route)),
                compiled,
            });
        }
        index.all.sort_by(|a, b| a.object.cmp(&b.object));
        self.routes.end_round();
        index
    }

    /// The table of some routes.
    fn table(&mut self, routes: &[&AttachedRoute]) -> Arc<RouteTable> {
        self.tables.get(serials(routes), |_| build(routes))
    }

    /// The routes of a service port, or of a workload's port, which has none attached.
    pub(super) fn target(
        &mut self,
        cluster: ClusterId,
        own_namespace: &str,
        attached: &[&AttachedRoute],
    ) -> Arc<Routes> {
        let mut by_namespace: Vec<(Arc<str>, Vec<&AttachedRoute>)> = Vec::new();
        for route in attached {
            let namespace = &route.object.namespace;
            match by_namespace
                .iter_mut()
                .find(|(known, _)| known == namespace)
            {
                Some((_, routes)) => routes.push(route),
                None => by_namespace.push((Arc::clone(namespace), vec![route])),
            }
        }
        let (producer, mut consumers): (Vec<_>, Vec<_>) = by_namespace
            .into_iter()
            .partition(|(namespace, _)| &**namespace == own_namespace);
        consumers.sort_by(|a, b| a.0.cmp(&b.0));
        let producer: Vec<_> = producer
            .into_iter()
            .flat_map(|(_, routes)| routes)
            .collect();
        let key = TargetKey {
            cluster,
            producer: serials(&producer),
            consumers: consumers
                .iter()
                .map(|(namespace, routes)| (Arc::clone(namespace), serials(routes)))
                .collect(),
        };
        let producer = if producer.is_empty() {
            self.defaults.get(cluster, |_| default_table(cluster))
        } else {
            self.table(&producer)
        };
        let consumers: Vec<_> = consumers
            .into_iter()
            .map(|(namespace, routes)| (namespace, self.table(&routes)))
            .collect();
        self.targets.get(key, |_| Routes {
            producer,
            consumers,
        })
    }

    /// Forgets the tables that nobody asked for in this round.
    pub(super) fn end_round(&mut self) {
        self.tables.end_round();
        self.defaults.end_round();
        self.targets.end_round();
    }
}

/// Each route once: two of its parents may be the same target.
fn distinct<'a>(routes: &[&'a AttachedRoute]) -> Vec<&'a AttachedRoute> {
    let mut routes = routes.to_vec();
    routes.sort_by_key(|attached| attached.route.serial);
    routes.dedup_by_key(|attached| attached.route.serial);
    routes
}

/// What the table of these routes depends on.
pub(super) fn serials(routes: &[&AttachedRoute]) -> Vec<u64> {
    let routes = distinct(routes);
    routes
        .iter()
        .map(|attached| attached.route.serial)
        .collect()
}

/// The table of these routes.
pub(super) fn build(routes: &[&AttachedRoute]) -> RouteTable {
    let routes = distinct(routes);
    let entries = routes.iter().flat_map(|attached| &attached.route.entries);
    RouteTable::build(entries.cloned().collect())
}

impl RouteIndex {
    fn attach(
        &mut self,
        object: &ObjectRef,
        parents: &[ParentRef],
        hostnames: &Arc<[Arc<str>]>,
        route: &Arc<CompiledRoute>,
    ) {
        for (p, parent) in parents.iter().enumerate() {
            let namespace: Arc<str> = parent.namespace_or(&object.namespace).into();
            let place = match (parent.group.as_str(), parent.kind.as_str()) {
                ("" | "core", "Service") => {
                    if !hostnames.is_empty() {
                        self.findings.push(
                            Finding::hint("hostnames mean nothing where the parent is a Service")
                                .on(object)
                                .field("spec.hostnames"),
                        );
                    }
                    &mut self.services
                }
                (GATEWAY_GROUP, "Gateway") => &mut self.gateways,
                (group, kind) => {
                    self.findings.push(
                        Finding::error(format!(
                            "a parent of group `{group}` and kind `{kind}` is not yet supported; the route does not attach to it"
                        ))
                        .on(object)
                        .field(format!("spec.parentRefs[{p}].kind")),
                    );
                    continue;
                }
            };
            place
                .entry((namespace, parent.name.as_str().into()))
                .or_default()
                .push(AttachedRoute {
                    object: object.clone(),
                    parent: p,
                    port: parent.port,
                    section: parent.section_name.as_deref().map(Arc::from),
                    hostnames: Arc::clone(hostnames),
                    route: Arc::clone(route),
                });
        }
    }
}

/// Finds the clusters of a route's backends.
struct Resolver<'a> {
    resources: &'a Resources,
    services: &'a Services,
    namespace: &'a str,
    parents: &'a [ParentRef],
}

impl Resolver<'_> {
    fn all(&self, rules: &[HttpRouteRule]) -> Resolved {
        let mirror = |(_, it): (usize, &RequestMirror)| self.resolve(&it.backend_ref);
        let mut resolved = Resolved::default();
        for rule in rules {
            resolved.mirrors.extend(rule.mirrors().map(mirror));
            let auths = rule.external_auths().map(|it| self.server(&it.backend_ref));
            resolved.auths.extend(auths);
            for backend in &rule.backend_refs {
                resolved.backends.push(self.resolve(&backend.object()));
                resolved
                    .backend_mirrors
                    .extend(backend.mirrors().map(mirror));
            }
        }
        resolved
    }

    fn server(&self, backend: &ObjectBackendRef) -> AuthServer {
        self.resolve(backend)?;
        let namespace = self.namespace_of(backend);
        let service = self.services.get(namespace, &backend.name);
        let ports = service.into_iter().flat_map(|it| &it.service.ports);
        let speaks_tls =
            |it: &ServicePort| Some(it.port) == backend.port && it.protocol == AppProtocol::Tls;
        if ports.into_iter().any(speaks_tls) {
            let name = &backend.name;
            return Err(Unresolved::new(
                reason::UNSUPPORTED_PROTOCOL,
                format!(
                    "the Service {namespace}/{name} speaks TLS there, in which servers are not asked yet"
                ),
            ));
        }
        let host = service.map(|it| it.service.hostname.clone());
        let server = host.zip(backend.port);
        server.ok_or_else(|| Unresolved::new(reason::BACKEND_NOT_FOUND, "it has no port"))
    }

    fn namespace_of<'r>(&'r self, backend: &'r ObjectBackendRef) -> &'r str {
        match backend.namespace.as_deref() {
            Some(namespace) if !namespace.is_empty() => namespace,
            _ => self.namespace,
        }
    }

    fn resolve(&self, backend: &ObjectBackendRef) -> Backend {
        if !matches!(
            (backend.group.as_str(), backend.kind.as_str()),
            ("" | "core", "Service")
        ) {
            return Err(Unresolved::new(
                reason::INVALID_KIND,
                format!(
                    "a backend of group `{}` and kind `{}` is not supported",
                    backend.group, backend.kind
                ),
            ));
        }
        let namespace = self.namespace_of(backend);
        let name = backend.name.as_str();
        if namespace != self.namespace
            && !self.is_parent(namespace, name)
            && !self.is_granted(namespace, name)
        {
            return Err(Unresolved::new(
                reason::REF_NOT_PERMITTED,
                format!(
                    "no ReferenceGrant in {namespace} lets HTTPRoutes of {} refer to the Service {name}",
                    self.namespace
                ),
            ));
        }
        let missing = |text: String| Unresolved::new(reason::BACKEND_NOT_FOUND, text);
        let Some(service) = self.services.get(namespace, name) else {
            return Err(missing(format!(
                "the Service {namespace}/{name} does not exist"
            )));
        };
        if service.is_external_name() {
            return Err(Unresolved::new(
                reason::INVALID_KIND,
                format!(
                    "the Service {namespace}/{name} is an ExternalName, which is not yet supported"
                ),
            ));
        }
        let Some(port) = backend.port else {
            return Err(missing("a backend needs a port".to_owned()));
        };
        service.cluster(port).ok_or_else(|| {
            missing(format!(
                "the Service {namespace}/{name} has no TCP port {port}"
            ))
        })
    }

    /// The service that the route is about: its callers reach it without the route, too.
    fn is_parent(&self, namespace: &str, name: &str) -> bool {
        self.parents.iter().any(|parent| {
            matches!(
                (parent.group.as_str(), parent.kind.as_str()),
                ("" | "core", "Service")
            ) && parent.name == name
                && parent.namespace.as_deref() == Some(namespace)
        })
    }

    fn is_granted(&self, namespace: &str, name: &str) -> bool {
        self.resources.grants.within(namespace).any(|(_, entry)| {
            let grant = &entry.object.spec;
            let from = grant.from.iter().any(|from| {
                from.group == GATEWAY_GROUP
                    && from.kind == "HTTPRoute"
                    && from.namespace == self.namespace
            });
            let to = |to: &crate::resource::gateway::GrantTo| {
                matches!(to.group.as_str(), "" | "core")
                    && to.kind == "Service"
                    && to.name.as_deref().is_none_or(|n| n.is_empty() || n == name)
            };
            from && grant.to.iter().any(to)
        })
    }
}

/// The last resort of a target without routes: itself.
fn default_table(cluster: ClusterId) -> RouteTable {
    RouteTable::build(vec![RouteEntry {
        matches: RouteMatch::default(),
        rule: Arc::new(RouteRule {
            name: "default".into(),
            route: None,
            action: RouteAction::Forward(Forward {
                backends: vec![WeightedBackend {
                    weight: 1,
                    cluster: Ok(cluster),
                    request_headers: HeaderEdits::default(),
                    response_headers: HeaderEdits::default(),
                    mirrors: Vec::new(),
                    cors: None,
                }],
                total_weight: 1,
                mirrors: Vec::new(),
                rewrite: None,
                retry: RetryPolicy::default(),
                timeouts: Timeouts::default(),
                session: None,
            }),
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            cors: None,
            external_auth: None,
        }),
        order: RouteOrder::default(),
    }])
}
