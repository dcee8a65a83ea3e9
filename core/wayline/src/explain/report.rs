//! The answer as programs read it. Fields are added, never changed, within one `apiVersion`.

use std::sync::Arc;

use serde::Serialize;
use wayline_model::authorization::spec::Action;
use wayline_model::{Finding, Severity};

/// What would happen to the request.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) api_version: &'static str,
    pub(super) kind: &'static str,
    pub(super) request: RequestReport,
    /// Absent when nothing serves it.
    pub(super) target: Option<TargetReport>,
    /// The plugins that would meet the request, in their order.
    pub(super) plugins: Vec<PluginReport>,
    /// Absent when it was not asked.
    /// Absent where no token is looked for.
    pub(super) token: Option<TokenReport>,
    pub(super) authorization: Option<AuthorizationReport>,
    /// Absent when no route was looked up, or none matched.
    pub(super) route: Option<RouteReport>,
    pub(super) outcome: Outcome,
    /// What is wrong with the objects the answer was made from.
    pub(super) findings: Vec<Finding>,
}

impl Report {
    pub(super) fn has_errors(&self) -> bool {
        let mut findings = self.findings.iter();
        findings.any(|finding| finding.severity == Severity::Error)
    }
}

/// The request.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RequestReport {
    pub(super) method: String,
    pub(super) authority: Option<String>,
    /// Path and query as policies and routes see them.
    pub(super) path: String,
    /// As sent, where normalisation changed it.
    pub(super) original_path: Option<String>,
    pub(super) identity: Option<String>,
    pub(super) source_ip: String,
    pub(super) source_ip_assumed: bool,
}

/// What was asked for.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TargetReport {
    /// `namespace/name` of the waypoint or gateway.
    pub(super) proxy: String,
    pub(super) role: &'static str,
    /// The port at which a ztunnel in front of it hands connections over; absent where HBONE comes in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) proxy_protocol: Option<u16>,
    pub(super) service: Option<String>,
    pub(super) workload: Option<String>,
    pub(super) port: u16,
    pub(super) protocol: &'static str,
}

/// A plugin in force at the target. What it would do is nothing that can be told without running it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PluginReport {
    /// `<namespace>.<name>`.
    pub(super) name: Arc<str>,
    /// The object.
    pub(super) object: String,
    /// As it is written in a manifest; empty for the last one.
    pub(super) phase: &'static str,
    pub(super) priority: Option<i32>,
    /// `pending`, `ready` or `failed`. From files nothing is loaded, so that it is always pending.
    pub(super) state: &'static str,
    pub(super) fail_strategy: &'static str,
    pub(super) url: Arc<str>,
    /// Whether it comes before the policies.
    pub(super) before_authorization: bool,
}

/// What the policies say.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AuthorizationReport {
    pub(super) allowed: bool,
    /// The rule that decided, as logs name it.
    pub(super) decided_by: Option<String>,
    pub(super) reason: String,
    /// What dry-run policies would have said.
    pub(super) dry_run: Option<DryRunReport>,
    /// The AUDIT rule that marks the request.
    pub(super) audited_by: Option<String>,
    /// Who is asked before anything else; what they answer is not known here.
    pub(super) external: Vec<ExternalReport>,
    pub(super) policies: Vec<PolicyReport>,
}

/// One provider of external authorization that is asked.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExternalReport {
    pub(super) provider: Arc<str>,
    /// The CUSTOM rule because of which it is asked.
    pub(super) rule: String,
    /// Why it can not be asked, so that the request is refused.
    pub(super) failure: Option<String>,
}

/// What was made of the request's token.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TokenReport {
    pub(super) accepted: bool,
    /// Issuer and subject, of an accepted one.
    pub(super) principal: Option<String>,
    pub(super) reason: String,
}

/// What dry-run policies would have said.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DryRunReport {
    pub(super) allowed: bool,
    pub(super) decided_by: Option<String>,
}

/// One policy.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PolicyReport {
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) action: Action,
    pub(super) dry_run: bool,
    pub(super) rules: Vec<RuleReport>,
}

/// One rule of a policy.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RuleReport {
    pub(super) index: usize,
    pub(super) matched: bool,
    /// The conditions that failed.
    pub(super) unmet: Vec<String>,
}

/// The route.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RouteReport {
    /// As access logs name it.
    pub(super) name: Arc<str>,
    /// The HTTPRoute; absent for a service's own default route.
    pub(super) object: Option<String>,
    #[serde(rename = "match")]
    pub(super) matched: String,
    /// Why it won among those that fit.
    pub(super) reason: String,
    /// The namespace whose own routes for its callers count.
    pub(super) consumer_namespace: Option<String>,
    /// What would have fitted as well.
    pub(super) others: Vec<OtherReport>,
    pub(super) redirect: Option<RedirectReport>,
    /// Why the rule can not be followed.
    pub(super) failure: Option<String>,
    pub(super) rewrite: Option<RewriteReport>,
    pub(super) request_headers: EditsReport,
    pub(super) response_headers: EditsReport,
    /// For the whole exchange.
    pub(super) timeout_ms: Option<u64>,
    /// For the head of the response to one attempt.
    pub(super) backend_timeout_ms: Option<u64>,
    pub(super) backends: Vec<BackendReport>,
    /// Who gets copies.
    pub(super) mirrors: Vec<MirrorReport>,
    /// The server that is asked before; what it answers is not known here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) external_auth: Option<ExternalAuthReport>,
}

/// The server that a route asks.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExternalAuthReport {
    /// The cluster as logs name it.
    pub(super) cluster: Arc<str>,
    /// `GRPC` or `HTTP`.
    pub(super) protocol: &'static str,
}

/// Who gets copies of requests.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MirrorReport {
    /// Of how many requests, in percent.
    pub(super) percent: f64,
    /// The cluster as logs name it.
    pub(super) cluster: Option<Arc<str>>,
}

/// A match that fits and does not win.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OtherReport {
    pub(super) name: Arc<str>,
    pub(super) object: Option<String>,
    #[serde(rename = "match")]
    pub(super) matched: String,
    /// By what the one before it precedes it.
    pub(super) loses_because: String,
}

/// A redirect.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RedirectReport {
    pub(super) status: u16,
    pub(super) location: String,
}

/// What the backend is asked instead.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RewriteReport {
    pub(super) authority: Option<String>,
    pub(super) path: Option<String>,
}

/// Header edits.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EditsReport {
    pub(super) set: Vec<(String, String)>,
    pub(super) add: Vec<(String, String)>,
    pub(super) remove: Vec<String>,
}

impl EditsReport {
    pub(super) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// One backend.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BackendReport {
    pub(super) weight: u32,
    /// Its share of the requests, in percent.
    pub(super) percent: f64,
    /// The cluster as logs name it.
    pub(super) cluster: Option<Arc<str>>,
    pub(super) service: Option<String>,
    /// Why there is none: that share is answered with 500.
    pub(super) error: Option<Arc<str>>,
    pub(super) request_headers: EditsReport,
    pub(super) response_headers: EditsReport,
    /// Who gets copies of what it gets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) mirrors: Vec<MirrorReport>,
    pub(super) endpoints: Vec<EndpointReport>,
}

/// One endpoint.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointReport {
    pub(super) address: String,
    /// `plain` or `hbone`.
    pub(super) transport: &'static str,
    /// The identity that must answer.
    pub(super) identity: Option<String>,
    pub(super) workload: Option<String>,
}

/// What comes of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Outcome {
    pub(super) verdict: OutcomeKind,
    /// The status of the answer, where the proxy itself gives it.
    pub(super) status: Option<u16>,
    /// `%RESPONSE_CODE_DETAILS%` of that answer.
    pub(super) details: Option<String>,
    /// The same in words.
    pub(super) summary: String,
}

/// What comes of it, in a word.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum OutcomeKind {
    /// No proxy takes it.
    NotServed,
    /// It is no request that has one reading.
    BadRequest,
    /// Policy refuses it.
    Denied,
    /// The proxy answers it.
    Answered,
    /// A backend gets it.
    Forwarded,
}
