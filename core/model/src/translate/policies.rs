//! The authorization of each target: the policies attached to it, compiled.

use std::sync::Arc;

use super::attachment::{AttachmentIndex, Judge, ServiceState};
use super::memo::Memo;
use super::proxies::{Proxies, ProxyEntry};
use crate::authorization::spec::parse_dry_run;
use crate::authorization::{AttachedPolicy, Authorization};
use crate::finding::Finding;
use crate::mesh::MeshSettings;
use crate::names::ObjectRef;
use crate::resource::{AuthorizationPolicy, Restriction};
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
    index: AttachmentIndex<'a, Attached<'a>>,
    pub(super) findings: Vec<Finding>,
}

impl<'a> PolicyIndex<'a> {
    pub(super) fn new(
        resources: &'a Resources,
        mesh: &'a MeshSettings,
        proxies: &Proxies,
        is_enrolled: &dyn Fn(&str, &str) -> ServiceState,
    ) -> Self {
        let mut index = AttachmentIndex::new(&mesh.root_namespace);
        let mut findings = Vec::new();
        let judge = Judge {
            resources,
            proxies,
            root: &mesh.root_namespace,
            service_state: is_enrolled,
            what: "policy",
            consequence: "nothing is restricted",
        };
        for (namespace, name, entry) in resources.policies.iter() {
            let attached = Attached {
                revision: entry.revision,
                namespace,
                name,
                content: Content::Policy(&entry.object),
            };
            let spec = &entry.object.spec;
            let selector = spec.selector.as_ref().map(|it| &it.match_labels);
            index.add(namespace, spec.targets(), selector, attached);
            let object = ObjectRef::new("AuthorizationPolicy", namespace, name);
            judge.targets(&object, spec.targets(), &mut findings);
            if !judge.reaches(&object, spec.targets(), selector) {
                let (field, what) = match selector {
                    Some(_) => ("spec.selector", "a selector"),
                    None => ("spec", "neither targetRefs nor selector"),
                };
                findings.push(
                    Finding::hint(format!(
                        "a policy with {what} does not apply at waypoints; ztunnel enforces what it can of it"
                    ))
                    .on(object)
                    .field(field)
                    .remedy("use targetRefs to have it enforced at a waypoint"),
                );
            }
        }
        for (namespace, name, entry) in resources.restrictions.iter() {
            let attached = Attached {
                revision: entry.revision,
                namespace,
                name,
                content: Content::Denial(&entry.object),
            };
            match &entry.object.attachment {
                Some(attachment) => index.add(
                    namespace,
                    &attachment.targets,
                    attachment.selector.as_ref(),
                    attached,
                ),
                None => index.add_unreadable(namespace, attached),
            }
        }
        Self { index, findings }
    }

    /// What applies to a service (or, without one, to workloads) behind a waypoint.
    pub(super) fn at_waypoint(
        &self,
        proxy: &ProxyEntry,
        service: Option<(&str, &str)>,
    ) -> Vec<Attached<'a>> {
        distinct(self.index.at_waypoint(proxy, service))
    }

    /// What applies to a gateway: also by labels, and for the whole namespace.
    pub(super) fn at_gateway(&self, proxy: &ProxyEntry) -> Vec<Attached<'a>> {
        distinct(self.index.at_gateway(proxy))
    }
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
