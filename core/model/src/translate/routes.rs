//! HTTPRoutes as compiled rules, by the services and Gateways they attach to.

use std::collections::HashMap;
use std::sync::Arc;

use http::StatusCode;

use super::memo::Memo;
use super::services::Services;
use crate::finding::Finding;
use crate::names::ObjectRef;
use crate::resource::http_route::{
    FilterType, HttpBackendRef, HttpRouteMatch, HttpRouteRule, ParentRef,
};
use crate::resource::ready::{self, Filters};
use crate::resource::{BrokenRoute, GATEWAY_GROUP, HttpRoute, Metadata};
use crate::route::{
    Forward, HeaderEdits, PathMatch, RetryPolicy, RouteAction, RouteEntry, RouteMatch, RouteOrder,
    RouteRule, RouteTable, Routes, WeightedBackend,
};
use crate::service::ClusterId;
use crate::store::Resources;

/// One route, compiled with the backends it had at the time.
#[derive(Debug)]
pub(super) struct CompiledRoute {
    /// Never used twice: equal numbers mean the same route with the same backends.
    serial: u64,
    entries: Vec<RouteEntry>,
    findings: Vec<Finding>,
}

/// A backend: its cluster, or why there is none.
type Backend = Result<ClusterId, Arc<str>>;

/// What was remembered about routes.
#[derive(Debug, Default)]
pub(super) struct RouteMemo {
    routes: Memo<(u64, Vec<Backend>), CompiledRoute>,
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
    pub(super) findings: Vec<Finding>,
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
            let backends: Vec<Backend> = route
                .spec
                .rules
                .iter()
                .flat_map(|rule| &rule.backend_refs)
                .map(|backend| resolver.resolve(backend))
                .collect();
            let serials = &mut self.serials;
            let compiled = self
                .routes
                .get((entry.revision, backends), |(_, backends)| {
                    *serials += 1;
                    compile(route, &object, backends, *serials)
                });
            index.findings.extend(compiled.findings.iter().cloned());
            let hostnames = route.spec.hostnames.iter().map(|h| h.as_str().into());
            index.attach(
                &object,
                &route.spec.parent_refs,
                &hostnames.collect(),
                &compiled,
            );
        }
        for (namespace, name, entry) in resources.broken_routes.iter() {
            let object = ObjectRef::new("HTTPRoute", namespace, name);
            let route = &entry.object;
            let serials = &mut self.serials;
            let compiled = self.routes.get((entry.revision, Vec::new()), |_| {
                *serials += 1;
                compile_broken(route, &object, *serials)
            });
            let hostnames = route.hostnames.iter().map(|h| h.as_str().into());
            index.attach(&object, &route.parent_refs, &hostnames.collect(), &compiled);
        }
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
            let namespace: Arc<str> = match parent.namespace.as_deref() {
                Some(namespace) if !namespace.is_empty() => namespace.into(),
                _ => Arc::clone(&object.namespace),
            };
            let place = match (parent.group.as_str(), parent.kind.as_str()) {
                ("" | "core", "Service") => &mut self.services,
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
    fn resolve(&self, backend: &HttpBackendRef) -> Backend {
        if !matches!(
            (backend.group.as_str(), backend.kind.as_str()),
            ("" | "core", "Service")
        ) {
            return Err(format!(
                "a backend of group `{}` and kind `{}` is not supported",
                backend.group, backend.kind
            )
            .into());
        }
        let namespace = match backend.namespace.as_deref() {
            Some(namespace) if !namespace.is_empty() => namespace,
            _ => self.namespace,
        };
        let name = backend.name.as_str();
        if namespace != self.namespace
            && !self.is_parent(namespace, name)
            && !self.is_granted(namespace, name)
        {
            return Err(format!(
                "no ReferenceGrant in {namespace} lets HTTPRoutes of {} refer to the Service {name}",
                self.namespace
            )
            .into());
        }
        let Some(service) = self.services.get(namespace, name) else {
            return Err(format!("the Service {namespace}/{name} does not exist").into());
        };
        if service.is_external_name() {
            return Err(format!(
                "the Service {namespace}/{name} is an ExternalName, which is not yet supported"
            )
            .into());
        }
        let Some(port) = backend.port else {
            return Err("a backend needs a port".into());
        };
        service
            .cluster(port)
            .ok_or_else(|| format!("the Service {namespace}/{name} has no TCP port {port}").into())
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

fn compile(
    route: &HttpRoute,
    object: &ObjectRef,
    backends: &[Backend],
    serial: u64,
) -> CompiledRoute {
    let mut compiled = CompiledRoute {
        serial,
        entries: Vec::new(),
        findings: Vec::new(),
    };
    let mut rest = backends;
    for (r, rule) in route.spec.rules.iter().enumerate() {
        let (own, others) = rest.split_at(rule.backend_refs.len().min(rest.len()));
        rest = others;
        let compiler = RuleCompiler {
            object,
            rule,
            index: r,
            backends: own,
        };
        compiler.compile(&route.metadata, &mut compiled);
    }
    compiled
}

fn compile_broken(route: &BrokenRoute, object: &ObjectRef, serial: u64) -> CompiledRoute {
    let rule = Arc::new(RouteRule {
        name: format!("{}.{}", object.namespace, object.name).into(),
        route: Some(object.clone()),
        action: failure(&format!("{object} is not valid: {}", route.reason)),
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
    });
    let entries = route
        .matches
        .iter()
        .enumerate()
        .map(|(m, written)| RouteEntry {
            matches: ready::widest_match(written),
            rule: Arc::clone(&rule),
            order: order(&route.metadata, object, 0, m),
        });
    CompiledRoute {
        serial,
        entries: entries.collect(),
        findings: Vec::new(),
    }
}

fn order(metadata: &Metadata, object: &ObjectRef, rule: usize, matched: usize) -> RouteOrder {
    RouteOrder {
        created: metadata.creation_timestamp.as_deref().map(Arc::from),
        namespace: Arc::clone(&object.namespace),
        name: Arc::clone(&object.name),
        rule,
        matched,
    }
}

fn failure(reason: &str) -> RouteAction {
    RouteAction::Fail {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        reason: reason.into(),
    }
}

/// One rule on its way to entries of a table.
struct RuleCompiler<'a> {
    object: &'a ObjectRef,
    rule: &'a HttpRouteRule,
    index: usize,
    backends: &'a [Backend],
}

impl RuleCompiler<'_> {
    fn compile(&self, metadata: &Metadata, compiled: &mut CompiledRoute) {
        self.name_what_is_ignored(&mut compiled.findings);
        let filters = ready::rule_filters(&self.rule.filters);
        let backends = self.weighted(&mut compiled.findings);
        if let Ok(filters) = &filters {
            self.name_later(filters, &mut compiled.findings);
        }
        let default = [HttpRouteMatch::default()];
        let matches = if self.rule.matches.is_empty() {
            &default[..]
        } else {
            &self.rule.matches
        };
        // One rule for all matches, but where what it does depends on the prefix that matched.
        let mut rules: Vec<(Arc<str>, Arc<RouteRule>)> = Vec::new();
        for (m, written) in matches.iter().enumerate() {
            // Documents with a match or filter that can not be read never become valid; should one
            // come here all the same, what it may match answers 500.
            let (matches, sound) = match ready::route_match(written) {
                Ok(matches) => (matches, true),
                Err(_) => (ready::widest_match(written), false),
            };
            let rule = match &filters {
                Ok(filters) if sound => {
                    let prefix = self.prefix_that_matters(filters, &matches);
                    match rules.iter().find(|(known, _)| **known == *prefix) {
                        Some((_, rule)) => Arc::clone(rule),
                        None => {
                            let action = self.action(filters, &backends, prefix);
                            let rule = Arc::new(self.rule_with(action, filters));
                            rules.push((prefix.into(), Arc::clone(&rule)));
                            rule
                        }
                    }
                }
                _ => {
                    Arc::new(self.rule_with(failure("the rule is not valid"), &Filters::default()))
                }
            };
            compiled.entries.push(RouteEntry {
                matches,
                rule,
                order: order(metadata, self.object, self.index, m),
            });
        }
    }

    fn rule_with(&self, action: RouteAction, filters: &Filters) -> RouteRule {
        let name = match self.rule.name.as_deref() {
            Some(name) if !name.is_empty() => name.into(),
            _ => format!(
                "{}.{}.{}",
                self.object.namespace, self.object.name, self.index
            )
            .into(),
        };
        RouteRule {
            name,
            route: Some(self.object.clone()),
            action,
            request_headers: filters.request_headers.clone(),
            response_headers: filters.response_headers.clone(),
        }
    }

    fn prefix_that_matters<'m>(&self, filters: &Filters, matches: &'m RouteMatch) -> &'m str {
        let changes_path = filters.redirect.as_ref().is_some_and(|r| r.path.is_some())
            || filters.rewrite.as_ref().is_some_and(|r| r.path.is_some());
        match &matches.path {
            PathMatch::Prefix(prefix) if changes_path => prefix,
            _ => "",
        }
    }

    fn action(&self, filters: &Filters, backends: &[WeightedBackend], prefix: &str) -> RouteAction {
        let refusing =
            |kind: &FilterType| matches!(kind, FilterType::ExternalAuth | FilterType::ExtensionRef);
        if let Some((_, kind)) = filters.later.iter().find(|(_, kind)| refusing(kind)) {
            return failure(&format!("the filter {kind:?} is not yet supported"));
        }
        if let Some(redirect) = &filters.redirect {
            return match ready::redirect(redirect, prefix) {
                Ok(redirect) => RouteAction::Redirect(redirect),
                Err(problem) => failure(&problem.reason),
            };
        }
        let total_weight: u32 = backends
            .iter()
            .fold(0, |sum, backend| sum.saturating_add(backend.weight));
        if total_weight == 0 {
            return failure("the rule has no backend");
        }
        let rewrite = filters.rewrite.as_ref().map(|r| ready::rewrite(r, prefix));
        match rewrite.transpose() {
            Ok(rewrite) => RouteAction::Forward(Forward {
                backends: backends.to_vec(),
                total_weight,
                rewrite,
                retry: RetryPolicy::default(),
                timeout: None,
            }),
            Err(problem) => failure(&problem.reason),
        }
    }

    /// The backends that have a share, with findings about those that can not be reached.
    fn weighted(&self, findings: &mut Vec<Finding>) -> Vec<WeightedBackend> {
        let mut weighted = Vec::new();
        for (b, (written, resolved)) in self.rule.backend_refs.iter().zip(self.backends).enumerate()
        {
            let at = format!("spec.rules[{}].backendRefs[{b}]", self.index);
            let filters = ready::rule_filters(&written.filters);
            let mut cluster = resolved.clone();
            let mut edits = (HeaderEdits::default(), HeaderEdits::default());
            match filters {
                Ok(filters)
                    if filters.later.is_empty()
                        && filters.redirect.is_none()
                        && filters.rewrite.is_none() =>
                {
                    edits = (filters.request_headers, filters.response_headers);
                }
                _ => {
                    cluster = cluster.and_then(|_| {
                        Err("a backend's filters can only be header modifiers as yet".into())
                    });
                }
            }
            if let Err(reason) = &cluster {
                findings.push(
                    Finding::error(format!("{reason}; its share is answered with 500"))
                        .on(self.object)
                        .field(at),
                );
            }
            if written.weight > 0 {
                weighted.push(WeightedBackend {
                    weight: written.weight,
                    cluster,
                    request_headers: edits.0,
                    response_headers: edits.1,
                });
            }
        }
        weighted
    }

    fn name_what_is_ignored(&self, findings: &mut Vec<Finding>) {
        let later = [
            ("timeouts", self.rule.timeouts.is_some()),
            ("retry", self.rule.retry.is_some()),
            (
                "sessionPersistence",
                self.rule.session_persistence.is_some(),
            ),
        ];
        for (field, _) in later.iter().filter(|(_, given)| *given) {
            findings.push(
                Finding::error(format!("{field} is not yet supported; it has no effect"))
                    .on(self.object)
                    .field(format!("spec.rules[{}].{field}", self.index)),
            );
        }
        let redirects = self
            .rule
            .filters
            .iter()
            .any(|f| f.kind == FilterType::RequestRedirect);
        let has_share = self
            .rule
            .backend_refs
            .iter()
            .any(|backend| backend.weight > 0);
        if !redirects && !has_share {
            findings.push(
                Finding::error("the rule has no backend; it answers 500")
                    .on(self.object)
                    .field(format!("spec.rules[{}]", self.index)),
            );
        }
    }

    fn name_later(&self, filters: &Filters, findings: &mut Vec<Finding>) {
        for (f, kind) in &filters.later {
            let consequence = match kind {
                FilterType::ExternalAuth | FilterType::ExtensionRef => "the rule answers 500",
                _ => "it has no effect",
            };
            findings.push(
                Finding::error(format!(
                    "the filter {kind:?} is not yet supported; {consequence}"
                ))
                .on(self.object)
                .field(format!("spec.rules[{}].filters[{f}]", self.index)),
            );
        }
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
                }],
                total_weight: 1,
                rewrite: None,
                retry: RetryPolicy::default(),
                timeout: None,
            }),
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
        }),
        order: RouteOrder::default(),
    }])
}
