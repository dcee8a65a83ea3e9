//! The authorization of each target: the policies attached to it, compiled.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::attachment::{AttachmentIndex, Judge, ServiceState};
use super::memo::Memo;
use super::proxies::{Proxies, ProxyEntry};
use crate::authentication::{AttachedAuthentication, Authentication, JwksLocation, KeySource};
use crate::authorization::spec::parse_dry_run;
use crate::authorization::{AttachedPolicy, Authorization};
use crate::finding::Finding;
use crate::mesh::MeshSettings;
use crate::names::ObjectRef;
use crate::resource::{AuthorizationPolicy, RequestAuthentication, Restriction};
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
    Tokens(&'a RequestAuthentication),
    Denial(&'a Restriction),
}

/// What one target demands, with the findings of compiling it.
#[derive(Debug)]
pub(super) struct Compiled {
    demands: Demands,
    findings: Vec<Finding>,
}

/// Who may do what at a target, and whose tokens are taken there.
#[derive(Clone, Debug)]
pub(super) struct Demands {
    pub(super) authorization: Arc<Authorization>,
    pub(super) authentication: Arc<Authentication>,
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
        for (namespace, name, entry) in resources.authentications.iter() {
            let attached = Attached {
                revision: entry.revision,
                namespace,
                name,
                content: Content::Tokens(&entry.object),
            };
            let spec = &entry.object.spec;
            let selector = spec.selector.as_ref().map(|it| &it.match_labels);
            index.add(namespace, spec.targets(), selector, attached);
            let object = ObjectRef::new("RequestAuthentication", namespace, name);
            judge.targets(&object, spec.targets(), &mut findings);
            if !judge.reaches(&object, spec.targets(), selector) {
                findings.push(
                    Finding::hint(
                        "without targetRefs it does not apply at waypoints, and no gateway is \
                         selected: nobody reads it",
                    )
                    .on(object)
                    .field("spec")
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
) -> Demands {
    let key = attached.iter().map(|attached| attached.revision).collect();
    let compiled = memo.get(key, |_| make(attached, mesh));
    findings.extend(compiled.findings.iter().cloned());
    compiled.demands.clone()
}

/// The keys that have to be fetched for all that is in force, each once.
pub(super) fn locations(resources: &Resources) -> Arc<[JwksLocation]> {
    let mut all = BTreeSet::new();
    for (namespace, name, entry) in resources.authentications.iter() {
        let (authentication, _) =
            Authentication::compile(&[authentication_of(namespace, name, &entry.object)]);
        for rule in authentication.rules() {
            if let KeySource::Remote(location) = &rule.keys {
                all.insert(location.clone());
            }
        }
    }
    all.into_iter().collect()
}

fn make(attached: &[Attached<'_>], mesh: &MeshSettings) -> Compiled {
    let mut policies = Vec::with_capacity(attached.len());
    let mut tokens = Vec::new();
    for one in attached {
        match one.content {
            Content::Policy(policy) => policies.push(policy_of(one, policy)),
            Content::Tokens(it) => tokens.push(authentication_of(one.namespace, one.name, it)),
            Content::Denial(restriction) => {
                let reason = Arc::clone(&restriction.reason);
                return Compiled {
                    demands: Demands {
                        authorization: Arc::new(Authorization::deny_all(reason)),
                        authentication: Arc::default(),
                    },
                    findings: Vec::new(),
                };
            }
        }
    }
    let (authorization, mut findings) = Authorization::compile(&policies, mesh);
    let (authentication, of_tokens) = Authentication::compile(&tokens);
    findings.extend(of_tokens);
    Compiled {
        demands: Demands {
            authorization: Arc::new(authorization),
            authentication: Arc::new(authentication),
        },
        findings,
    }
}

fn authentication_of(
    namespace: &str,
    name: &str,
    object: &RequestAuthentication,
) -> AttachedAuthentication {
    AttachedAuthentication {
        object: ObjectRef::new("RequestAuthentication", namespace, name),
        spec: Arc::clone(&object.spec),
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
