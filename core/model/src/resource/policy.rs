//! AuthorizationPolicy (security.istio.io v1 and v1beta1) as written.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::meta::{Metadata, Unread};

/// One AuthorizationPolicy.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationPolicy {
    /// Its metadata; the annotation `istio.io/dry-run` lives there.
    pub metadata: Metadata,
    /// What it demands; an absent spec is an empty one.
    #[serde(default)]
    pub spec: AuthorizationPolicySpec,
    #[serde(rename = "apiVersion", default)]
    _api_version: Unread,
    #[serde(rename = "kind", default)]
    _kind: Unread,
    #[serde(rename = "status", default)]
    _status: Unread,
}

/// `spec` of an AuthorizationPolicy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationPolicySpec {
    /// Workloads it applies to; never together with target references.
    pub selector: Option<WorkloadSelector>,
    /// The older, singular form of `target_refs`; counts only where that is empty.
    pub target_ref: Option<PolicyTargetRef>,
    /// What it applies to.
    pub target_refs: Vec<PolicyTargetRef>,
    /// Rules; any of them may match. None at all means that the policy never matches.
    pub rules: Vec<Rule>,
    /// What a match means.
    pub action: Action,
    /// Who decides when the action is CUSTOM.
    pub provider: Option<Provider>,
}

/// What a match means.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    /// Admit.
    #[default]
    Allow,
    /// Refuse.
    Deny,
    /// Only tell.
    Audit,
    /// Ask a provider.
    Custom,
}

/// The extension provider of a CUSTOM policy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Provider {
    /// A name in MeshConfig's `extensionProviders`.
    pub name: String,
}

/// A selector of workloads by labels.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadSelector {
    /// Labels that must all be there; none at all selects everything in scope.
    pub match_labels: BTreeMap<String, String>,
}

/// One entry of `targetRefs`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct PolicyTargetRef {
    /// API group; empty (or `core`) for Service.
    #[serde(default)]
    pub group: String,
    /// Kind: Service, ServiceEntry, Gateway or GatewayClass.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Namespace; must be absent or the policy's own.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Section; not used by Istio.
    #[serde(default, rename = "sectionName")]
    pub section_name: Option<String>,
}

/// One rule: from AND to AND when; an absent list admits anything.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// Sources, any of them.
    pub from: Vec<From>,
    /// Operations, any of them.
    pub to: Vec<To>,
    /// Conditions, all of them.
    pub when: Vec<Condition>,
}

/// One entry of `from`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct From {
    /// The source.
    pub source: Option<Source>,
}

/// Who sends: fields AND, values within a field OR, `not` forms negate the OR.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are Istio's and say what they hold")]
pub struct Source {
    pub principals: Vec<String>,
    pub not_principals: Vec<String>,
    pub request_principals: Vec<String>,
    pub not_request_principals: Vec<String>,
    pub namespaces: Vec<String>,
    pub not_namespaces: Vec<String>,
    pub service_accounts: Vec<String>,
    pub not_service_accounts: Vec<String>,
    pub trust_domains: Vec<String>,
    pub not_trust_domains: Vec<String>,
    pub ip_blocks: Vec<String>,
    pub not_ip_blocks: Vec<String>,
    pub remote_ip_blocks: Vec<String>,
    pub not_remote_ip_blocks: Vec<String>,
}

/// One entry of `to`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct To {
    /// The operation.
    pub operation: Option<Operation>,
}

/// What is asked for: fields AND, values within a field OR, `not` forms negate the OR.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are Istio's and say what they hold")]
pub struct Operation {
    pub hosts: Vec<String>,
    pub not_hosts: Vec<String>,
    pub ports: Vec<String>,
    pub not_ports: Vec<String>,
    pub methods: Vec<String>,
    pub not_methods: Vec<String>,
    pub paths: Vec<String>,
    pub not_paths: Vec<String>,
}

/// One entry of `when`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// The attribute, e.g. `source.namespace`.
    pub key: String,
    /// Values, any of them.
    #[serde(default)]
    pub values: Vec<String>,
    /// Values, none of them.
    #[serde(default)]
    pub not_values: Vec<String>,
}
