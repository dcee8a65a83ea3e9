//! Authorization: AuthorizationPolicies compiled when configuration changes, judged per request.
//!
//! Order as in Istio: any DENY that may match refuses; with no ALLOW policy the rest is admitted;
//! else one ALLOW must match. Every atom is evaluated in two readings, *may* and *must*: DENY fires
//! on may, ALLOW only on must, so that what is ambiguous tightens.

pub mod spec;

use std::net::IpAddr;
use std::sync::Arc;

use crate::finding::Finding;
use crate::identity::Identity;
use crate::mesh::MeshSettings;
use crate::request::CanonicalRequest;

pub use spec::AuthorizationPolicySpec;

/// One AuthorizationPolicy that applies to a target.
#[derive(Clone, Debug, PartialEq)]
pub struct AttachedPolicy {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// What it says.
    pub spec: Arc<AuthorizationPolicySpec>,
    /// Whether it only tells what it would do (annotation `istio.io/dry-run`).
    pub dry_run: bool,
    /// `metadata.creationTimestamp`; decides only which of several matching rules is named.
    pub creation: Option<Arc<str>>,
}

/// The policies of one target, compiled.
#[derive(Clone, Debug, Default)]
pub struct Authorization {
    denied: Option<Arc<str>>,
}

/// What policies may look at.
#[derive(Clone, Copy, Debug)]
pub struct PolicyInput<'a> {
    /// The verified identity of the peer; `None` for plain-text clients of a gateway.
    pub identity: Option<&'a Identity>,
    /// Where the connection came from.
    pub source_ip: IpAddr,
    /// Where the request came from as trusted hops tell it; the source where nobody tells.
    pub remote_ip: IpAddr,
    /// The address the client asked for, when it named one.
    pub destination_ip: Option<IpAddr>,
    /// The service port (never the HBONE port).
    pub destination_port: u16,
    /// The server name of the TLS handshake.
    pub sni: Option<&'a str>,
    /// The request; `None` for opaque bytes, on which HTTP fields can not match.
    pub request: Option<&'a CanonicalRequest>,
}

/// The outcome of judging one request or connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// Whether it may pass, and what decided.
    pub verdict: Verdict,
    /// What dry-run policies would have said, when there are any.
    pub shadow: Option<Verdict>,
}

/// Whether something may pass, and the policy that decided.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Admitted; by which ALLOW rule, or `None` when no ALLOW policy applies.
    Allow(Option<RuleRef>),
    /// Refused by a rule, or `None` when no ALLOW policy matched.
    Deny(Option<RuleRef>),
}

impl Verdict {
    /// Whether it may pass.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }
}

/// One rule of one policy, for logs: `ns[<namespace>]-policy[<name>]-rule[<index>]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RuleRef {
    /// Namespace of the policy.
    pub namespace: Arc<str>,
    /// Name of the policy.
    pub policy: Arc<str>,
    /// Index of the rule, from 0.
    pub rule: usize,
}

impl std::fmt::Display for RuleRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "ns[{}]-policy[{}]-rule[{}]",
            self.namespace, self.policy, self.rule
        )
    }
}

impl Authorization {
    /// Compiles the policies of one target; their order does not matter. What can not be enforced as
    /// written is enforced more tightly, and named by a finding.
    #[must_use]
    pub fn compile(policies: &[AttachedPolicy], _mesh: &MeshSettings) -> (Self, Vec<Finding>) {
        if policies.is_empty() {
            return (Self::default(), Vec::new());
        }
        (Self::deny_all("policies are not evaluated yet"), Vec::new())
    }

    /// Refuses everything: for targets with a policy that never was valid.
    #[must_use]
    pub fn deny_all(reason: impl Into<Arc<str>>) -> Self {
        Self {
            denied: Some(reason.into()),
        }
    }

    /// Whether nothing is restricted, so that callers may skip building a [`PolicyInput`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.denied.is_none()
    }

    /// Judges one request or connection.
    #[must_use]
    pub fn judge(&self, _input: &PolicyInput<'_>) -> Judgement {
        Judgement {
            verdict: if self.denied.is_some() {
                Verdict::Deny(None)
            } else {
                Verdict::Allow(None)
            },
            shadow: None,
        }
    }
}
