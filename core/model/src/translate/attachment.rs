//! What attaches to what: targets by name, gateways also by labels.
//!
//! The rules are the same for every kind that attaches like a policy (istiod: policyattachment.go).
//! Waypoints know `targetRefs` only: of a Service, of the Gateway, and of its class from the root
//! namespace. Gateways are reached by selectors and by whole namespaces, too.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::proxies::{Proxies, ProxyEntry, role_of};
use crate::authorization::spec::PolicyTargetReference;
use crate::finding::Finding;
use crate::names::ObjectRef;
use crate::resource::policy::{TargetKind, target_kind};
use crate::snapshot::ProxyRole;
use crate::store::Resources;

/// Labels that a Pod must have.
pub(super) type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// Things by what they are attached to.
#[derive(Debug)]
pub(super) struct AttachmentIndex<'a, T> {
    root: &'a str,
    /// By kind, the thing's namespace and the target's name. Classes are cluster-wide: only what
    /// stands in the root namespace is ever looked up.
    by_target: HashMap<(TargetKind, &'a str, &'a str), Vec<T>>,
    /// Things without targets, by namespace, with the labels they select; they reach gateways only.
    by_namespace: HashMap<&'a str, Vec<(Option<&'a Labels>, T)>>,
    /// What can not be read, by namespace: it may mean anything in scope.
    unreadable: HashMap<&'a str, Vec<T>>,
}

impl<'a, T: Copy> AttachmentIndex<'a, T> {
    pub(super) fn new(root: &'a str) -> Self {
        Self {
            root,
            by_target: HashMap::new(),
            by_namespace: HashMap::new(),
            unreadable: HashMap::new(),
        }
    }

    /// Attaches a thing of a namespace.
    pub(super) fn add(
        &mut self,
        namespace: &'a str,
        targets: &'a [PolicyTargetReference],
        selector: Option<&'a Labels>,
        thing: T,
    ) {
        if targets.is_empty() {
            let those = self.by_namespace.entry(namespace).or_default();
            those.push((selector, thing));
        }
        for target in targets {
            let Some(kind) = target_kind(target) else {
                continue;
            };
            self.by_target
                .entry((kind, namespace, &target.name))
                .or_default()
                .push(thing);
        }
    }

    /// Attaches a thing of which nobody knows what it is attached to.
    pub(super) fn add_unreadable(&mut self, namespace: &'a str, thing: T) {
        self.unreadable.entry(namespace).or_default().push(thing);
    }

    /// What applies to a service (or, without one, to workloads) behind a waypoint. A thing may be
    /// listed more than once.
    pub(super) fn at_waypoint(&self, proxy: &ProxyEntry, service: Option<(&str, &str)>) -> Vec<T> {
        let mut all = self.of_proxy(proxy);
        if let Some((namespace, name)) = service {
            all.extend(self.targeting(TargetKind::Service, namespace, name));
            all.extend(self.unreadable.get(namespace).into_iter().flatten());
        }
        all
    }

    /// What applies to a gateway: also by labels, and for the whole namespace. A thing may be listed
    /// more than once.
    pub(super) fn at_gateway(&self, proxy: &ProxyEntry) -> Vec<T> {
        let mut all = self.of_proxy(proxy);
        if self.by_namespace.is_empty() {
            return all;
        }
        let labels = proxy.labels();
        for scope in [&*proxy.proxy.namespace, self.root] {
            let things = self.by_namespace.get(scope).into_iter().flatten();
            all.extend(
                things
                    .filter(|(selector, _)| selects(*selector, &labels))
                    .map(|(_, thing)| *thing),
            );
        }
        all
    }

    fn of_proxy(&self, proxy: &ProxyEntry) -> Vec<T> {
        let (namespace, name) = (&*proxy.proxy.namespace, &*proxy.proxy.name);
        let mut all = Vec::new();
        all.extend(self.targeting(TargetKind::GatewayClass, self.root, &proxy.proxy.class));
        all.extend(self.targeting(TargetKind::Gateway, namespace, name));
        for scope in [namespace, self.root] {
            all.extend(self.unreadable.get(scope).into_iter().flatten());
        }
        all
    }

    fn targeting<'s>(
        &'s self,
        kind: TargetKind,
        namespace: &'s str,
        name: &'s str,
    ) -> impl Iterator<Item = &'s T> {
        self.by_target
            .get(&(kind, namespace, name))
            .into_iter()
            .flatten()
    }
}

/// What is known of a Service that something is attached to.
pub(super) enum ServiceState {
    Served,
    Missing,
    Unserved(Arc<str>),
}

/// Says what is wrong with attachments.
pub(super) struct Judge<'a> {
    pub(super) resources: &'a Resources,
    pub(super) proxies: &'a Proxies,
    pub(super) root: &'a str,
    pub(super) service_state: &'a dyn Fn(&str, &str) -> ServiceState,
    /// What is attached: `policy`, `plugin`.
    pub(super) what: &'a str,
    /// What follows where it does not attach, e.g. that nothing is restricted.
    pub(super) consequence: &'a str,
}

impl Judge<'_> {
    /// Targets that are not there, or that nobody serves.
    pub(super) fn targets(
        &self,
        object: &ObjectRef,
        targets: &[PolicyTargetReference],
        findings: &mut Vec<Finding>,
    ) {
        for (t, target) in targets.iter().enumerate() {
            let field = format!("spec.targetRefs[{t}]");
            findings.extend(
                self.target(&object.namespace, target)
                    .map(|finding| finding.on(object).field(field)),
            );
        }
    }

    fn target(&self, namespace: &str, target: &PolicyTargetReference) -> Option<Finding> {
        let Self {
            what, consequence, ..
        } = self;
        let name = &*target.name;
        match target_kind(target)? {
            TargetKind::Service => match (self.service_state)(namespace, name) {
                ServiceState::Served => None,
                ServiceState::Missing => Some(Finding::error(format!(
                    "the Service {namespace}/{name} does not exist; {consequence}"
                ))),
                ServiceState::Unserved(reason) => Some(Finding::error(format!(
                    "nothing enforces this {what} for the Service {namespace}/{name}: {reason}"
                ))),
            },
            TargetKind::Gateway => match self.resources.gateways.get(namespace, name) {
                None => Some(Finding::error(format!(
                    "the Gateway {namespace}/{name} does not exist; {consequence}"
                ))),
                Some(gateway) => {
                    let class = &gateway.object.spec.gateway_class_name;
                    role_of(class, self.resources).is_none().then(|| {
                        Finding::hint(format!(
                            "Wayline does not serve the class `{class}` of this Gateway"
                        ))
                    })
                }
            },
            TargetKind::GatewayClass if namespace != self.root => Some(Finding::error(format!(
                "a GatewayClass can only be targeted from the root namespace `{}`; {consequence}",
                self.root
            ))),
            TargetKind::GatewayClass => role_of(name, self.resources)
                .is_none()
                .then(|| Finding::hint(format!("Wayline does not serve the class `{name}`"))),
            TargetKind::ServiceEntry => Some(Finding::error(
                "ServiceEntry is not yet supported; its hosts are not served",
            )),
        }
    }

    /// Whether something with or without targets can reach a proxy of this process: without them only
    /// a gateway.
    pub(super) fn reaches(
        &self,
        object: &ObjectRef,
        targets: &[PolicyTargetReference],
        selector: Option<&Labels>,
    ) -> bool {
        !targets.is_empty()
            || self.proxies.played.iter().any(|entry| {
                entry.proxy.role == ProxyRole::Gateway
                    && (object.namespace == entry.proxy.namespace
                        || *object.namespace == *self.root)
                    && selects(selector, &entry.labels())
            })
    }
}

pub(super) fn selects(selector: Option<&Labels>, labels: &BTreeMap<&str, &str>) -> bool {
    selector.is_none_or(|selector| {
        selector
            .iter()
            .all(|(key, value)| labels.get(&**key) == Some(&&**value))
    })
}
