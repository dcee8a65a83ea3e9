//! The answer as people read it: one block per decision, in the order in which they were made.

use std::fmt::Write as _;

use wayline_model::Severity;

use super::report::{
    AuthorizationReport, BackendReport, EditsReport, PluginReport, Report, RequestReport,
    RouteReport, TargetReport, TokenReport,
};

/// Where the text of a block begins.
const INDENT: &str = "          ";

/// The whole answer.
pub(super) fn text(report: &Report) -> String {
    let mut text = String::new();
    request(&mut text, &report.request);
    if let Some(it) = &report.target {
        target(&mut text, it);
    }
    let at = |phases: &[&str]| -> Vec<&PluginReport> {
        let all = report.plugins.iter();
        all.filter(|it| phases.contains(&it.phase)).collect()
    };
    plugins(&mut text, &at(&["AUTHN"]));
    if let Some(it) = &report.token {
        token(&mut text, it);
    }
    plugins(&mut text, &at(&["AUTHZ"]));
    if let Some(it) = &report.authorization {
        authorization(&mut text, it);
        // Whoever is refused gets no further.
        if it.allowed {
            plugins(&mut text, &at(&["STATS", ""]));
        }
    }
    if let Some(it) = &report.route {
        route(&mut text, it);
    }
    let status = report
        .outcome
        .status
        .map_or_else(String::new, |status| format!("{status} "));
    let _ = writeln!(text, "result    {status}{}", report.outcome.summary);
    for finding in &report.findings {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Hint => "hint",
        };
        let _ = writeln!(text, "{severity:<9} {finding}");
    }
    text
}

fn request(text: &mut String, request: &RequestReport) {
    let _ = write!(text, "request   {} {}", request.method, request.path);
    if let Some(authority) = &request.authority {
        let _ = write!(text, " host {authority}");
    }
    if let Some(original) = &request.original_path {
        let _ = write!(text, "\n{INDENT}the path was sent as {original}");
    }
    let who = request
        .identity
        .as_deref()
        .unwrap_or("a client in plain text");
    let assumed = if request.source_ip_assumed {
        " (assumed)"
    } else {
        ""
    };
    let _ = writeln!(
        text,
        "\n{INDENT}from {who} at {}{assumed}",
        request.source_ip
    );
}

fn target(text: &mut String, target: &TargetReport) {
    let asked_for = target
        .service
        .iter()
        .chain(&target.workload)
        .map(|it| format!("{it} "))
        .next()
        .unwrap_or_default();
    let protocol = match target.protocol {
        "undeclared" => "undeclared, so HTTP where the first bytes are",
        declared => declared,
    };
    let behind = match target.proxy_protocol {
        Some(port) => format!(", behind ztunnel (PROXY protocol, port {port})"),
        None => String::new(),
    };
    let _ = writeln!(
        text,
        "target    {asked_for}port {} ({protocol}), {} {}{behind}",
        target.port, target.role, target.proxy
    );
}

fn token(text: &mut String, it: &TokenReport) {
    let verdict = if it.accepted { "accepted" } else { "refused" };
    let _ = writeln!(text, "token     {verdict}: {}", it.reason);
}

fn plugins(text: &mut String, plugins: &[&PluginReport]) {
    for plugin in plugins {
        let phase = match plugin.phase {
            "" => "without a phase".to_owned(),
            phase => format!("phase {phase}"),
        };
        let _ = writeln!(
            text,
            "plugin    {} ({phase}, {}, {})\n{INDENT}{} of {}; it may answer or change the request",
            plugin.name, plugin.state, plugin.fail_strategy, plugin.object, plugin.url
        );
    }
}

fn authorization(text: &mut String, it: &AuthorizationReport) {
    let verdict = if it.allowed { "allowed" } else { "denied" };
    let _ = writeln!(text, "policy    {verdict}: {}", it.reason);
    if let Some(dry_run) = &it.dry_run {
        let verdict = if dry_run.allowed { "allowed" } else { "denied" };
        let by = dry_run.decided_by.as_deref().unwrap_or("no ALLOW rule");
        let _ = writeln!(text, "{INDENT}dry-run policies would have {verdict}: {by}");
    }
    if let Some(rule) = &it.audited_by {
        let _ = writeln!(text, "{INDENT}marked for audit by {rule}");
    }
    for external in &it.external {
        let provider = &external.provider;
        let how = match &external.failure {
            None => format!("{provider} is asked before"),
            Some(failure) => format!("{provider} can not be asked ({failure}): refused"),
        };
        let _ = writeln!(text, "{INDENT}{how}, because of {}", external.rule);
    }
    for policy in &it.policies {
        let action = format!("{:?}", policy.action).to_uppercase();
        let dry_run = if policy.dry_run { " (dry run)" } else { "" };
        let _ = writeln!(
            text,
            "{INDENT}{action:<6} {}/{}{dry_run}",
            policy.namespace, policy.name
        );
        for rule in &policy.rules {
            let how = if rule.matched {
                "matches".to_owned()
            } else {
                format!("does not match  {}", rule.unmet.join("; "))
            };
            let _ = writeln!(text, "{INDENT}  rule {}  {how}", rule.index);
        }
    }
}

fn route(text: &mut String, route: &RouteReport) {
    let object = route.object.as_deref().unwrap_or("the service's own");
    let _ = writeln!(text, "route     {} ({object})", route.name);
    let _ = writeln!(text, "{INDENT}{}; {}", route.matched, route.reason);
    if let Some(namespace) = &route.consumer_namespace {
        let _ = writeln!(
            text,
            "{INDENT}among the routes that namespace {namespace} made for its own callers"
        );
    }
    for other in &route.others {
        let _ = writeln!(
            text,
            "{INDENT}also fits: {} by {} (after the one before: {})",
            other.name, other.matched, other.loses_because
        );
    }
    if let Some(it) = &route.external_auth {
        let _ = writeln!(
            text,
            "{INDENT}asks {} over {} before; what it answers is not known here",
            it.cluster, it.protocol
        );
    }
    if let Some(rewrite) = &route.rewrite {
        let authority = rewrite.authority.iter().map(|it| format!("host {it}"));
        let path = rewrite.path.iter().map(|it| format!("path {it}"));
        let parts: Vec<String> = authority.chain(path).collect();
        let _ = writeln!(text, "{INDENT}rewritten to {}", parts.join(" and "));
    }
    edits(text, "request", &route.request_headers);
    edits(text, "response", &route.response_headers);
    if let Some(timeout) = route.timeout_ms {
        let _ = writeln!(text, "{INDENT}timeout {timeout} ms");
    }
    if let Some(timeout) = route.backend_timeout_ms {
        let _ = writeln!(text, "{INDENT}timeout of one attempt {timeout} ms");
    }
    for it in &route.backends {
        backend(text, it);
    }
    let of_backends = route.backends.iter().flat_map(|it| &it.mirrors);
    for it in route.mirrors.iter().chain(of_backends) {
        let name = it.cluster.as_deref().unwrap_or("-");
        let _ = writeln!(text, "mirror    {:>6} {name}", percent(it.percent));
    }
}

fn edits(text: &mut String, of: &str, edits: &EditsReport) {
    if edits.is_empty() {
        return;
    }
    for (verb, values) in [("set", &edits.set), ("add", &edits.add)] {
        for (name, value) in values {
            let _ = writeln!(text, "{INDENT}{of} header: {verb} {name}: {value}");
        }
    }
    for name in &edits.remove {
        let _ = writeln!(text, "{INDENT}{of} header: remove {name}");
    }
}

fn backend(text: &mut String, backend: &BackendReport) {
    let name = match (&backend.cluster, &backend.error) {
        (Some(name), _) => name.to_string(),
        (None, Some(reason)) => format!("answered 500: {reason}"),
        (None, None) => "-".to_owned(),
    };
    let _ = writeln!(text, "backend   {:>6} {name}", percent(backend.percent));
    edits(text, "request", &backend.request_headers);
    edits(text, "response", &backend.response_headers);
    if backend.cluster.is_some() && backend.endpoints.is_empty() {
        let _ = writeln!(text, "{INDENT}       no endpoint");
    }
    for endpoint in &backend.endpoints {
        let _ = write!(
            text,
            "{INDENT}       {} {}",
            endpoint.address, endpoint.transport
        );
        if let Some(workload) = &endpoint.workload {
            let _ = write!(text, " Pod {workload}");
        }
        if let Some(identity) = &endpoint.identity {
            let _ = write!(text, " as {identity}");
        }
        text.push('\n');
    }
}

/// To the hundredth.
fn percent(share: f64) -> String {
    format!("{}%", (share * 100.0).round() / 100.0)
}
