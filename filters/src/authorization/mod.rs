//! AuthorizationPolicy AUDIT, DENY and ALLOW, and what dry-run policies would have said.
//!
//! Compiling and matching belong to [`wayline_model::authorization`]; this filter shows a request to
//! the compiled policies and turns a refusal into Envoy's reply. What decided goes into the access log
//! and never to the caller.

use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use wayline_chain::{
    Begin, Filter, FilterSource, LocalReply, Phase, Placed, RequestContext, Scope,
};
use wayline_model::authorization::{Authorization, PolicyInput, RuleRef, Verdict};

/// Body of every refusal, as Envoy writes it.
const DENIED: &str = "RBAC: access denied";

/// Yields the filter where policies apply.
#[derive(Clone, Copy, Debug, Default)]
pub struct AuthorizationSource;

impl FilterSource for AuthorizationSource {
    fn filters(&self, scope: &Scope<'_>) -> Vec<Placed> {
        if scope.authorization.is_empty() {
            return Vec::new();
        }
        vec![Placed {
            phase: Phase::Authorization,
            priority: 0,
            filter: Rc::new(AuthorizationFilter {
                policies: Arc::clone(scope.authorization),
            }),
        }]
    }
}

struct AuthorizationFilter {
    policies: Arc<Authorization>,
}

impl Filter for AuthorizationFilter {
    fn name(&self) -> &str {
        "authorization"
    }

    fn begin(&self, context: &mut RequestContext) -> Begin {
        match self.judge_again(context) {
            Some(reply) => Begin::Reply(reply),
            None => Begin::Pass,
        }
    }

    fn judge_again(&self, context: &mut RequestContext) -> Option<LocalReply> {
        let judgement = self.policies.judge(&policy_input(context));
        context.marks = judgement.marks;
        match &judgement.verdict {
            Verdict::Allow(_) => None,
            Verdict::Deny(rule) => Some(refusal(rule.as_ref())),
        }
    }
}

/// What policies see of an exchange.
#[must_use]
pub fn policy_input(context: &RequestContext) -> PolicyInput<'_> {
    let connection = &*context.connection;
    PolicyInput {
        identity: connection.identity.as_ref(),
        source_ip: connection.source.ip(),
        remote_ip: context.remote_ip,
        destination_ip: connection.destination_ip,
        destination_port: connection.destination_port,
        sni: connection.sni.as_deref(),
        request: Some(context.request()),
        token: context.token.as_deref(),
    }
}

/// The answer to what was refused, by a rule or because no ALLOW policy matched.
#[must_use]
pub fn refusal(rule: Option<&RuleRef>) -> LocalReply {
    let details = format!("rbac_access_denied_matched_policy[{}]", rule_text(rule));
    LocalReply::text(StatusCode::FORBIDDEN, DENIED, details)
}

/// The rule by Istio's name; `none` where no ALLOW policy matched.
fn rule_text(rule: Option<&RuleRef>) -> String {
    match rule {
        Some(rule) => rule.to_string(),
        None => "none".to_owned(),
    }
}
