//! RequestAuthentication and PeerAuthentication (security.istio.io v1 and v1beta1).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::meta::{Metadata, Unread};
use super::policy;
use super::read::ReadError;
use crate::authentication::{self, RequestAuthenticationSpec};
use crate::authorization::spec::WorkloadSelector;

/// One RequestAuthentication.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct RequestAuthentication {
    /// Its metadata.
    pub metadata: Metadata,
    /// What it demands; an absent spec demands nothing.
    #[serde(default)]
    pub spec: Arc<RequestAuthenticationSpec>,
    #[serde(rename = "apiVersion", default)]
    _api_version: Unread,
    #[serde(rename = "kind", default)]
    _kind: Unread,
    #[serde(rename = "status", default)]
    _status: Unread,
}

/// One PeerAuthentication: read to be explained, because ztunnel enforces it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct PeerAuthentication {
    /// Its metadata.
    pub metadata: Metadata,
    /// What it demands.
    #[serde(default)]
    pub spec: PeerAuthenticationSpec,
    #[serde(rename = "apiVersion", default)]
    _api_version: Unread,
    #[serde(rename = "kind", default)]
    _kind: Unread,
    #[serde(rename = "status", default)]
    _status: Unread,
}

/// `spec` of a PeerAuthentication.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PeerAuthenticationSpec {
    /// Workloads by label; none means the namespace, or the mesh from the root namespace.
    pub selector: Option<WorkloadSelector>,
    /// For all ports.
    pub mtls: Option<MutualTls>,
    /// For single workload ports.
    pub port_level_mtls: BTreeMap<Arc<str>, MutualTls>,
}

/// `mtls`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct MutualTls {
    /// Default UNSET, which inherits.
    pub mode: MutualTlsMode,
}

/// `mtls.mode`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MutualTlsMode {
    /// As the parent says.
    #[default]
    Unset,
    /// Plain text only.
    Disable,
    /// Both.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

/// What makes a RequestAuthentication invalid by itself.
pub(super) fn problems(spec: &RequestAuthenticationSpec, namespace: &str) -> Vec<ReadError> {
    let rules = authentication::problems(spec).into_iter();
    let rules = rules.map(|(path, reason)| ReadError { path, reason });
    policy::attachment_problems(
        spec.selector.is_some(),
        spec.targets(),
        spec.target_refs.is_empty(),
        namespace,
    )
    .into_iter()
    .chain(rules)
    .collect()
}
