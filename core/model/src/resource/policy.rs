//! AuthorizationPolicy (security.istio.io v1 and v1beta1), and what policies attach to.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::meta::{Metadata, Unread};
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
        // Nothing readable, yet something that looks like an attachment under another name.
        let suspicious = targets.is_empty()
            && selector.is_none()
            && spec.keys().any(|key| {
                let key = key.to_ascii_lowercase();
                (key.contains("target") || key.contains("selector"))
                    && !["targetrefs", "targetref"].contains(&key.as_str())
            });
        (!suspicious).then_some(Self { targets, selector })
    }
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
