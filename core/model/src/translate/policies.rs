//! What policies attach to, and the authorization of each target.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::memo::Memo;
use super::proxies::{Proxies, ProxyEntry, role_of};
use crate::authorization::spec::parse_dry_run;
use crate::authorization::{AttachedPolicy, Authorization};
use crate::finding::Finding;
use crate::mesh::MeshSettings;
use crate::names::ObjectRef;
use crate::resource::policy::{TargetKind, target_kind};
use crate::resource::{Attachment, AuthorizationPolicy, Restriction};
use crate::snapshot::ProxyRole;
use crate::store::Resources;

/// A policy, or what stands for one that can not be enforced as written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attached<'a> {
    revision: u64,
    namespace: &'a Arc<str>,
    name: &'a Arc<str>,
    content: Content<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Content<'a> {
    Policy(&'a AuthorizationPolicy),
    Denial(&'a Restriction),
}

/// One target's authorization with the findings of compiling it.
#[derive(Debug)]
pub(super) struct Compiled {
    authorization: Arc<Authorization>,
    findings: Vec<Finding>,
}

/// Remembered by the revisions of the policies.
pub(super) type PolicyMemo = Memo<Vec<u64>, Compiled>;

/// Policies by what they attach to.
#[derive(Debug)]
pub(super) struct PolicyIndex<'a> {
    root: &'a str,
    /// By kind, the policy's namespace and the target's name. Classes are cluster-wide: only what
    /// stands in the root namespace is ever looked up.
    by_target: HashMap<(TargetKind, &'a str, &'a str), Vec<Attached<'a>>>,
    /// Policies without targets, by namespace; they reach gateways only.
    by_namespace: HashMap<&'a str, Vec<ByLabels<'a>>>,
    /// What can not be read, by namespace: it may mean anything in scope.
    unreadable: HashMap<&'a str, Vec<Attached<'a>>>,
    pub(super) findings: Vec<Finding>,
}

/// A policy without targets and the labels it selects.
type ByLabels<'a> = (Option<BTreeMap<Arc<str>, Arc<str>>>, Attached<'a>);

impl<'a> PolicyIndex<'a> {
    pub(super) fn new(
        resources: &'a Resources,
        mesh: &'a MeshSettings,
        proxies: &Proxies,
        is_enrolled: &dyn Fn(&str, &str) -> ServiceState,
    ) -> Self {
        let mut index = Self {
            root: &mesh.root_namespace,
            by_target: HashMap::new(),
            by_namespace: HashMap::new(),
            unreadable: HashMap::new(),
            findings: Vec::new(),
        };
        for (namespace, name, entry) in resources.policies.iter() {
            let attached = Attached {
                revision: entry.revision,
                namespace,
                name,
                content: Content::Policy(&entry.object),
            };
            let attachment = Attachment::of(&entry.object.spec);
            let object = ObjectRef::new("AuthorizationPolicy", namespace, name);
            index.add(attached, Some(attachment.clone()));
            index.judge_targets(&object, &attachment, resources, is_enrolled);
            index.judge_labels(&object, &attachment, proxies);
        }
        for (namespace, name, entry) in resources.restrictions.iter() {
            let attached = Attached {
                revision: entry.revision,
                namespace,
                name,
                content: Content::Denial(&entry.object),
            };
            index.add(attached, entry.object.attachment.clone());
        }
        index
    }

    fn add(&mut self, attached: Attached<'a>, attachment: Option<Attachment>) {
        let namespace: &'a str = attached.namespace;
        let Some(attachment) = attachment else {
            self.unreadable.entry(namespace).or_default().push(attached);
            return;
        };
        if attachment.targets.is_empty() {
            self.by_namespace
                .entry(namespace)
                .or_default()
                .push((attachment.selector, attached));
            return;
        }
        let targets: &'a [_] = match attached.content {
            Content::Policy(policy) => policy.spec.targets(),
            Content::Denial(restriction) => restriction
                .attachment
                .as_ref()
                .map_or(&[], |attachment| &attachment.targets),
        };
        for target in targets {
            let Some(kind) = target_kind(target) else {
                continue;
            };
            self.by_target
                .entry((kind, namespace, &target.name))
                .or_default()
                .push(attached);
        }
    }

    /// What applies to a service (or, without one, to workloads) behind a waypoint.
    pub(super) fn at_waypoint(
        &self,
        proxy: &ProxyEntry,
        service: Option<(&str, &str)>,
    ) -> Vec<Attached<'a>> {
        let mut all = self.of_proxy(proxy);
        if let Some((namespace, name)) = service {
            all.extend(self.targeting(TargetKind::Service, namespace, name));
            all.extend(self.unreadable.get(namespace).into_iter().flatten());
        }
        distinct(all)
    }

    /// What applies to a gateway: also by labels, and for the whole namespace.
    pub(super) fn at_gateway(&self, proxy: &ProxyEntry) -> Vec<Attached<'a>> {
        let mut all = self.of_proxy(proxy);
        let labels = proxy.labels();
        for scope in [&*proxy.proxy.namespace, self.root] {
            let policies = self.by_namespace.get(scope).into_iter().flatten();
            all.extend(
                policies
                    .filter(|(selector, _)| selects(selector.as_ref(), &labels))
                    .map(|(_, attached)| *attached),
            );
        }
        distinct(all)
    }

    fn of_proxy(&self, proxy: &ProxyEntry) -> Vec<Attached<'a>> {
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
    ) -> impl Iterator<Item = &'s Attached<'a>> {
        self.by_target
            .get(&(kind, namespace, name))
            .into_iter()
            .flatten()
    }

    fn judge_targets(
        &mut self,
        object: &ObjectRef,
        attachment: &Attachment,
        resources: &Resources,
        service_state: &dyn Fn(&str, &str) -> ServiceState,
    ) {
        let namespace = &*object.namespace;
        for (t, target) in attachment.targets.iter().enumerate() {
            let name = &*target.name;
            let finding = match target_kind(target) {
                Some(TargetKind::Service) => match service_state(namespace, name) {
                    ServiceState::Served => None,
                    ServiceState::Missing => Some(Finding::error(format!(
                        "the Service {namespace}/{name} does not exist; nothing is restricted"
                    ))),
                    ServiceState::Unserved(reason) => Some(Finding::error(format!(
                        "nothing enforces this policy for the Service {namespace}/{name}: {reason}"
                    ))),
                },
                Some(TargetKind::Gateway) => match resources.gateways.get(namespace, name) {
                    None => Some(Finding::error(format!(
                        "the Gateway {namespace}/{name} does not exist; nothing is restricted"
                    ))),
                    Some(gateway) => {
                        let class = &gateway.object.spec.gateway_class_name;
                        role_of(class, resources).is_none().then(|| {
                            Finding::hint(format!(
                                "Wayline does not serve the class `{class}` of this Gateway"
                            ))
                        })
                    }
                },
                Some(TargetKind::GatewayClass) if namespace != self.root => {
                    Some(Finding::error(format!(
                        "a GatewayClass can only be targeted from the root namespace `{}`; nothing is restricted",
                        self.root
                    )))
                }
                Some(TargetKind::GatewayClass) => role_of(name, resources)
                    .is_none()
                    .then(|| Finding::hint(format!("Wayline does not serve the class `{name}`"))),
                Some(TargetKind::ServiceEntry) => Some(Finding::error(
                    "ServiceEntry is not yet supported; its hosts are not served",
                )),
                None => None,
            };
            let field = format!("spec.targetRefs[{t}]");
            self.findings
                .extend(finding.map(|finding| finding.on(object).field(field)));
        }
    }

    /// Policies without targets are ztunnel's business, but for those that reach a gateway.
    fn judge_labels(&mut self, object: &ObjectRef, attachment: &Attachment, proxies: &Proxies) {
        if !attachment.targets.is_empty() {
            return;
        }
        let root = self.root;
        let reaches = |entry: &&ProxyEntry| {
            entry.proxy.role == ProxyRole::Gateway
                && (*object.namespace == *entry.proxy.namespace || &*object.namespace == root)
                && selects(attachment.selector.as_ref(), &entry.labels())
        };
        if proxies.played.iter().find(reaches).is_none() {
            let (field, what) = match attachment.selector {
                Some(_) => ("spec.selector", "a selector"),
                None => ("spec", "neither targetRefs nor selector"),
            };
            self.findings.push(
                Finding::hint(format!(
                    "a policy with {what} does not apply at waypoints; ztunnel enforces what it can of it"
                ))
                .on(object)
                .field(field)
                .remedy("use targetRefs to have it enforced at a waypoint"),
            );
        }
    }
}

/// What is known of a Service that a policy targets.
pub(super) enum ServiceState {
    Served,
    Missing,
    Unserved(Arc<str>),
}

fn selects(selector: Option<&BTreeMap<Arc<str>, Arc<str>>>, labels: &BTreeMap<&str, &str>) -> bool {
    selector.is_none_or(|selector| {
        selector
            .iter()
            .all(|(key, value)| labels.get(&**key) == Some(&&**value))
    })
}

fn distinct(mut all: Vec<Attached<'_>>) -> Vec<Attached<'_>> {
    all.sort_by_key(|attached| attached.revision);
    all.dedup_by_key(|attached| attached.revision);
    all
}

/// Compiles what applies to one target.
pub(super) fn compile(
    attached: &[Attached<'_>],
    mesh: &MeshSettings,
    memo: &mut PolicyMemo,
    findings: &mut Vec<Finding>,
) -> Arc<Authorization> {
    let key = attached.iter().map(|attached| attached.revision).collect();
    let compiled = memo.get(key, |_| make(attached, mesh));
    findings.extend(compiled.findings.iter().cloned());
    Arc::clone(&compiled.authorization)
}

fn make(attached: &[Attached<'_>], mesh: &MeshSettings) -> Compiled {
    let mut policies = Vec::with_capacity(attached.len());
    for one in attached {
        match one.content {
            Content::Policy(policy) => policies.push(policy_of(one, policy)),
            Content::Denial(restriction) => {
                return Compiled {
                    authorization: Arc::new(Authorization::deny_all(Arc::clone(
                        &restriction.reason,
                    ))),
                    findings: Vec::new(),
                };
            }
        }
    }
    let (authorization, findings) = Authorization::compile(&policies, mesh);
    Compiled {
        authorization: Arc::new(authorization),
        findings,
    }
}

fn policy_of(attached: &Attached<'_>, policy: &AuthorizationPolicy) -> AttachedPolicy {
    let dry_run = policy
        .metadata
        .annotations
        .get("istio.io/dry-run")
        .and_then(|value| parse_dry_run(value))
        // What is no boolean leaves the policy enforced.
        .unwrap_or(false);
    AttachedPolicy {
        namespace: Arc::clone(attached.namespace),
        name: Arc::clone(attached.name),
        spec: Arc::clone(&policy.spec),
        dry_run,
        creation: policy.metadata.creation_timestamp.as_deref().map(Arc::from),
    }
}
