//! AuthorizationPolicy (security.istio.io v1 and v1beta1), and what policies attach to.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::meta::{Metadata, Unread};
use super::read::ReadError;
use super::{GATEWAY_GROUP, ISTIO_NETWORKING_GROUP};
use crate::authorization::AuthorizationPolicySpec;
use crate::authorization::spec::PolicyTargetReference;
use crate::names::ObjectRef;

/// One AuthorizationPolicy.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct AuthorizationPolicy {
    /// Its metadata; the annotation `istio.io/dry-run` lives there.
    pub metadata: Metadata,
    /// What it demands; an absent spec is an empty one.
    #[serde(default)]
    pub spec: Arc<AuthorizationPolicySpec>,
    #[serde(rename = "apiVersion", default)]
    _api_version: Unread,
    #[serde(rename = "kind", default)]
    _kind: Unread,
    #[serde(rename = "status", default)]
    _status: Unread,
}

/// What a policy (or anything that attaches like one) applies to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Attachment {
    /// Named targets. Where there are any, nothing else counts.
    pub targets: Vec<PolicyTargetReference>,
    /// Workload labels. `None` with no targets means the whole namespace.
    pub selector: Option<BTreeMap<Arc<str>, Arc<str>>>,
}

impl Attachment {
    /// Of a policy that is valid.
    #[must_use]
    pub fn of(spec: &AuthorizationPolicySpec) -> Self {
        Self {
            targets: spec.targets().to_vec(),
            selector: spec.selector.as_ref().map(|s| s.match_labels.clone()),
        }
    }

    /// Reads the attachment of a policy that is not valid. Where anything that looks like a target
    /// stands in a place or under a name that means nothing, what the policy was to apply to is
    /// unknown. What stands under a key of `free` is the author's own business.
    pub(crate) fn salvage_policy(document: &Value, free: &[&str]) -> Option<Self> {
        let elsewhere = document
            .as_object()
            .into_iter()
            .flatten()
            .any(|(key, value)| {
                let status = matches!(key.as_str(), "status" | "spec");
                !status && (looks_like_target(key) || mentions_target(value))
            });
        let within = document["spec"]
            .as_object()
            .into_iter()
            .flatten()
            .any(|(key, value)| {
                let known = matches!(key.as_str(), "targetRefs" | "targetRef" | "selector")
                    || free.contains(&key.as_str());
                !known && (looks_like_target(key) || mentions_target(value))
            });
        if elsewhere || within {
            return None;
        }
        Self::salvage(&document["spec"], "selector")
    }

    /// Reads the attachment alone out of a `spec` whose rest may be unreadable or unknown; `None`
    /// where the attachment itself can not be read.
    pub(crate) fn salvage(spec: &Value, selector: &str) -> Option<Self> {
        let spec = match spec {
            Value::Null => return Some(Self::default()),
            Value::Object(spec) => spec,
            _ => return None,
        };
        let field = |name: &str| spec.get(name).filter(|value| !value.is_null());
        let mut targets = match field("targetRefs") {
            Some(targets) => Vec::<PolicyTargetReference>::deserialize(targets).ok()?,
            None => Vec::new(),
        };
        if targets.is_empty()
            && let Some(target) = field("targetRef")
        {
            targets.push(PolicyTargetReference::deserialize(target).ok()?);
        }
        let selector = match field(selector) {
            Some(Value::Object(selector)) => {
                let labels = selector
                    .get("matchLabels")
                    .or_else(|| selector.get("labels"));
                Some(match labels.filter(|labels| !labels.is_null()) {
                    Some(labels) => BTreeMap::deserialize(labels).ok()?,
                    // A key of another name may be a misspelt selector: what it meant is unknown.
                    None if selector.is_empty() => BTreeMap::new(),
                    None => return None,
                })
            }
            Some(_) => return None,
            None => None,
        };
        let nonsense = targets.iter().any(|target| target_kind(target).is_none());
        (!nonsense).then_some(Self { targets, selector })
    }
}

fn looks_like_target(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key.contains("target") || key.contains("selector")
}

fn mentions_target(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.iter().any(|(key, value)| {
            let free = matches!(key.as_str(), "labels" | "annotations" | "managedFields");
            !free && (looks_like_target(key) || mentions_target(value))
        }),
        Value::Array(items) => items.iter().any(mentions_target),
        _ => false,
    }
}

/// What makes a policy invalid by itself, as Istio's own validation has it.
pub(super) fn problems(spec: &AuthorizationPolicySpec, namespace: &str) -> Vec<ReadError> {
    attachment_problems(
        spec.selector.is_some(),
        spec.targets(),
        spec.target_refs.is_empty(),
        namespace,
    )
}

/// What is wrong with selector and targets of whatever attaches like a policy; `singular` where the
/// only target stands in `targetRef`.
pub(super) fn attachment_problems(
    has_selector: bool,
    targets: &[PolicyTargetReference],
    singular: bool,
    namespace: &str,
) -> Vec<ReadError> {
    let mut problems = Vec::new();
    let mut problem = |path: String, reason: &str| {
        problems.push(ReadError {
            path,
            reason: reason.to_owned(),
        });
    };
    if has_selector && !targets.is_empty() {
        problem(
            "spec.selector".to_owned(),
            "there is either a selector or targetRefs; remove one of them",
        );
    }
    if targets.len() > MAX_TARGETS {
        problem(
            "spec.targetRefs".to_owned(),
            "at most 16 targets are possible",
        );
    }
    for (t, target) in targets.iter().enumerate() {
        let at = if singular {
            "spec.targetRef".to_owned()
        } else {
            format!("spec.targetRefs[{t}]")
        };
        if target_kind(target).is_none() {
            problem(
                format!("{at}.kind"),
                "a target is a Service (group \"\"), a ServiceEntry (group networking.istio.io), \
                 or a Gateway or GatewayClass (group gateway.networking.k8s.io)",
            );
        }
        if target
            .namespace
            .as_deref()
            .is_some_and(|other| !other.is_empty() && other != namespace)
        {
            problem(
                format!("{at}.namespace"),
                "only targets of the own namespace are possible",
            );
        }
    }
    problems
}

/// Istio's limit.
const MAX_TARGETS: usize = 16;

/// Kinds that policies target.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum TargetKind {
    Service,
    ServiceEntry,
    Gateway,
    GatewayClass,
}

/// The kind of a target; `None` for what no policy can target.
pub(crate) fn target_kind(target: &PolicyTargetReference) -> Option<TargetKind> {
    Some(match (&*target.group, &*target.kind) {
        ("" | "core", "Service") => TargetKind::Service,
        (ISTIO_NETWORKING_GROUP, "ServiceEntry") => TargetKind::ServiceEntry,
        (GATEWAY_GROUP, "Gateway") => TargetKind::Gateway,
        (GATEWAY_GROUP, "GatewayClass") => TargetKind::GatewayClass,
        _ => return None,
    })
}

/// Something that restricts its target and can not be enforced as written: its target is denied.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Restriction {
    /// The object.
    pub object: ObjectRef,
    /// What it applies to; `None` where that can not be read, so that it may be anything in scope.
    pub attachment: Option<Attachment>,
    /// Why the target is denied.
    pub reason: Arc<str>,
}
