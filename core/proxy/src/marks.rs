//! What policies say that changes nothing (dry runs and AUDIT), told to the metrics, to the log of the
//! process and to the trace. The access log shows it by `%DYNAMIC_METADATA(..)%`, from the same value.

use std::sync::Arc;

use wayline_model::authorization::{Marks, Verdict};
use wayline_telemetry::ProcessMetrics;
use wayline_telemetry::trace::OpenSpan;

/// Istio's tags of the trace: name and result.
const DENY_TAGS: (&str, &str) = (
    "istio.authorization.dry_run.deny_policy.name",
    "istio.authorization.dry_run.deny_policy.result",
);
const ALLOW_TAGS: (&str, &str) = (
    "istio.authorization.dry_run.allow_policy.name",
    "istio.authorization.dry_run.allow_policy.result",
);
const AUDIT_TAG: &str = "wayline.authorization.audit_policy.name";

/// Counts the marks, logs them, and tags the span when there is one.
pub(crate) fn note(process: &ProcessMetrics, marks: &Marks, mut span: Option<&mut OpenSpan>) {
    if let Some(verdict) = marks.dry_run() {
        let kind = match verdict {
            Verdict::Allow(_) => "dry_run_allowed",
            Verdict::Deny(_) => "dry_run_denied",
        };
        let rule = rule_text(verdict);
        process.marked(kind, &rule);
        let result = result(verdict);
        tracing::debug!(rule, "shadow {result}: a dry run changes nothing");
    }
    for (verdict, (name_tag, result_tag)) in [
        (&marks.dry_run_deny, DENY_TAGS),
        (&marks.dry_run_allow, ALLOW_TAGS),
    ] {
        let (Some(verdict), Some(span)) = (verdict, &mut span) else {
            continue;
        };
        span.mark(result_tag, result(verdict).into());
        if let Some(rule) = verdict.rule() {
            span.mark(name_tag, rule.to_string().into());
        }
    }
    if let Some(rule) = &marks.audited {
        let rule: Arc<str> = rule.to_string().into();
        process.marked("audit", &rule);
        tracing::debug!(rule = &*rule, "marked for audit");
        if let Some(span) = &mut span {
            span.mark(AUDIT_TAG, rule);
        }
    }
}

fn result(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Allow(_) => "allowed",
        Verdict::Deny(_) => "denied",
    }
}

fn rule_text(verdict: &Verdict) -> String {
    let rule = verdict.rule();
    rule.map_or_else(|| "none".to_owned(), ToString::to_string)
}
