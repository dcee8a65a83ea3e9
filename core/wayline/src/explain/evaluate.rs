//! From question and snapshot to the answer, in the order in which the data path decides: target,
//! canonical request, policies, route, backends.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use wayline_chain::{Begin, Callout, Connection, FilterSource, NoCallout, RequestContext, Scope};
use wayline_control::Checked;
use wayline_filters::authorization::{policy_input, refusal};
use wayline_filters::{JwtSource, RemoteKeys};
use wayline_hbone::TunnelAuthority;
use wayline_model::authentication::Authentication;
use wayline_model::authorization::spec::Action;
use wayline_model::authorization::{Authorization, PolicyInput, RuleRef, Trace, Verdict};
use wayline_model::plugin::{AttachedPlugin, PluginKind};
use wayline_model::route::Routes;
use wayline_model::service::AppProtocol;
use wayline_model::snapshot::{Entrance, Proxy, ProxyRole, Target, Ways};
use wayline_model::{CanonicalRequest, Finding, ObjectRef, Snapshot};
use wayline_proxy::decisions;

use super::question::{Caller, Entry, Question};
use super::report::{
    AuthorizationReport, DryRunReport, ExternalReport, Outcome, OutcomeKind, PluginReport,
    PolicyReport, Report, RequestReport, RuleReport, TargetReport, TokenReport,
};
use super::routing;
use crate::failure::Failure;

/// What serves the request.
pub(super) enum Place<'s> {
    /// A tunnel's target.
    Target(&'s Target),
    /// A gateway's port.
    Entrance(&'s Entrance),
}

impl Place<'_> {
    pub(super) fn port(&self) -> u16 {
        match self {
            Self::Target(target) => target.port,
            Self::Entrance(entrance) => entrance.port,
        }
    }

    fn proxy(&self) -> &Proxy {
        match self {
            Self::Target(target) => &target.proxy,
            Self::Entrance(entrance) => &entrance.proxy,
        }
    }

    fn plugins(&self) -> &[AttachedPlugin] {
        match self {
            Self::Target(target) => &target.plugins,
            Self::Entrance(entrance) => &entrance.plugins,
        }
    }

    fn authorization(&self) -> &Authorization {
        match self {
            Self::Target(target) => &target.authorization,
            Self::Entrance(entrance) => &entrance.authorization,
        }
    }

    fn authentication(&self) -> &Authentication {
        match self {
            Self::Target(target) => &target.authentication,
            Self::Entrance(entrance) => &entrance.authentication,
        }
    }

    /// The address the caller asked for, where one is known.
    fn destination_ip(&self, question: &Question) -> Option<IpAddr> {
        match (&question.entry, self) {
            (Entry::Tunnel(TunnelAuthority::IpPort(address)), _) => Some(address.ip()),
            (_, Self::Entrance(entrance)) => {
                Some(entrance.address).filter(|address| !address.is_unspecified())
            }
            _ => None,
        }
    }

    fn routes<'s>(&'s self, request: &CanonicalRequest) -> Option<&'s Arc<Routes>> {
        match self {
            Self::Target(target) => Some(&target.routes),
            Self::Entrance(entrance) => decisions::entrance_routes(entrance, request),
        }
    }
}

/// Answers the question.
pub(super) fn report(question: &Question, knowledge: &Checked) -> Result<Report, Failure> {
    let snapshot = &*knowledge.snapshot;
    let caller = question.caller(snapshot)?;
    let mut report = Report {
        api_version: "wayline.dev/v1",
        kind: "WaylineExplain",
        request: as_sent(question, &caller),
        target: None,
        token: None,
        plugins: Vec::new(),
        authorization: None,
        route: None,
        outcome: outcome(OutcomeKind::NotServed, None, ""),
        findings: Vec::new(),
    };
    let mut objects = Vec::new();
    match place(question, snapshot) {
        Ok(place) => {
            report.target = Some(target_report(&place));
            serve(
                &mut report,
                question,
                &caller,
                snapshot,
                &place,
                &mut objects,
            )?;
        }
        Err((status, reason)) => {
            report.outcome = Outcome {
                status: status.map(|it| it.as_u16()),
                ..outcome(
                    OutcomeKind::NotServed,
                    None,
                    &format!("not served: {reason}"),
                )
            };
            objects.extend(asked_for(question));
        }
    }
    report.findings = touching(&knowledge.findings, &objects);
    Ok(report)
}

/// The steps of an exchange. What they were made from is added to `objects`.
fn serve(
    report: &mut Report,
    question: &Question,
    caller: &Caller,
    snapshot: &Snapshot,
    place: &Place<'_>,
    objects: &mut Vec<ObjectRef>,
) -> Result<(), Failure> {
    objects.extend(objects_of(place));
    let destination_ip = place.destination_ip(question);
    let connection = question.connection(snapshot, caller, destination_ip, place.port());
    if let Place::Target(target) = place
        && target.protocol.is_opaque()
    {
        report_plugins(report, place, PluginKind::Network, objects);
        serve_opaque(report, snapshot, target, &connection, objects);
        return Ok(());
    }
    report_plugins(report, place, PluginKind::Http, objects);
    let role = place.proxy().role;
    let canonical = decisions::canonical_request(question.head(), snapshot, role, caller.source_ip);
    let request = match canonical {
        Ok(request) => request,
        Err(error) => {
            let answer = decisions::bad_request(&error);
            report.outcome = outcome(OutcomeKind::BadRequest, Some(answer), &error.to_string());
            return Ok(());
        }
    };
    take_request(&mut report.request, &request);

    let mut context = RequestContext::new(Rc::new(connection), request, true);
    let source = context.remote_ip;
    context.remote_ip = decisions::remote_ip(context.request(), snapshot, role, source);
    let rules = place.authentication().rules().iter();
    objects.extend(rules.map(|rule| rule.object.clone()));
    if !take_token(report, snapshot, place, &mut context) {
        return Ok(());
    }
    let trace = place.authorization().trace(&policy_input(&context));
    let asked = external(place.authorization(), &policy_input(&context));
    let denied = take_trace(report, place.authorization(), &trace, objects);
    let refused = asked.iter().find_map(|(report, rule)| {
        let failure = report.failure.as_ref()?;
        Some((refusal(Some(rule)), failure.clone()))
    });
    if let Some(authorization) = &mut report.authorization {
        authorization.external = asked.into_iter().map(|(report, _)| report).collect();
    }
    if let Some((reply, failure)) = refused {
        let summary = format!("denied: a provider can not be asked: {failure}");
        let answer = Some((reply.status, reply.details));
        report.outcome = outcome(OutcomeKind::Denied, answer, &summary);
        return Ok(());
    }
    if denied {
        return Ok(());
    }
    let request = context.request();
    let chosen = place.routes(request).and_then(|routes| {
        let caller = caller.identity.as_ref().map(|it| it.namespace());
        routing::choose(routes, caller, request)
    });
    let Some(chosen) = chosen else {
        let summary = "no route matches";
        report.outcome = outcome(OutcomeKind::Answered, Some(decisions::no_route()), summary);
        return Ok(());
    };
    objects.extend(chosen.objects(snapshot));
    let (route, result) = chosen.report(snapshot, request, place.port());
    report.route = Some(route);
    report.outcome = result;
    Ok(())
}

/// Verifies the request's token as the data path does, but for keys that would have to be fetched.
/// Whether the request goes on.
fn take_token(
    report: &mut Report,
    snapshot: &Snapshot,
    place: &Place<'_>,
    context: &mut RequestContext,
) -> bool {
    let callout: Rc<dyn Callout> = Rc::new(NoCallout);
    let none = Arc::default();
    let (proxy, service, authorization, authentication) = match place {
        Place::Target(it) => (
            &it.proxy,
            it.service.as_ref(),
            &it.authorization,
            &it.authentication,
        ),
        Place::Entrance(it) => (&it.proxy, None, &it.authorization, &it.authentication),
    };
    let filters = JwtSource::new(RemoteKeys::none()).filters(&Scope {
        callout: &callout,
        snapshot,
        proxy,
        service,
        port: place.port(),
        authorization,
        authentication,
        plugins: &none,
        ways: &Ways::default(),
    });
    for placed in filters {
        if let Begin::Reply(reply) = placed.filter.begin(context) {
            let said = String::from_utf8_lossy(&reply.body).into_owned();
            let answer = Some((reply.status, Arc::clone(&reply.details)));
            report.outcome = outcome(OutcomeKind::Denied, answer, &format!("denied: {said}"));
            report.token = Some(TokenReport {
                accepted: false,
                principal: None,
                reason: format!("{said} (no keys are fetched to explain)"),
            });
            return false;
        }
        let principal = context.token.as_ref().and_then(|token| token.principal());
        report.token = Some(TokenReport {
            accepted: true,
            reason: match (&context.token, &principal) {
                (None, _) => "there is none, which RequestAuthentication allows".to_owned(),
                (Some(_), Some(principal)) => format!("it is of {principal}"),
                (Some(_), None) => "it names no subject".to_owned(),
            },
            principal,
        });
    }
    true
}

/// Who is asked about a request, and because of which rule.
fn external(
    authorization: &Authorization,
    input: &PolicyInput<'_>,
) -> Vec<(ExternalReport, RuleRef)> {
    let asked = authorization.custom().iter().filter_map(|group| {
        let rule = group.asks(input)?;
        let report = ExternalReport {
            provider: Arc::clone(group.name()),
            rule: rule.to_string(),
            failure: group.provider().err().map(ToString::to_string),
        };
        Some((report, rule))
    });
    asked.collect()
}

/// Says which plugins hear what is asked about.
fn report_plugins(
    report: &mut Report,
    place: &Place<'_>,
    kind: PluginKind,
    objects: &mut Vec<ObjectRef>,
) {
    let plugins = place.plugins().iter();
    for it in plugins.filter(|it| it.plugin.kind == kind) {
        report.plugins.push(plugin_report(it));
        objects.push(it.plugin.object.clone());
    }
}

fn plugin_report(it: &AttachedPlugin) -> PluginReport {
    let plugin = &it.plugin;
    PluginReport {
        name: Arc::clone(&plugin.name),
        object: plugin.object.to_string(),
        phase: plugin.phase.as_str(),
        priority: plugin.priority,
        state: it.verdict.word(),
        fail_strategy: plugin.fail_strategy.as_str(),
        url: Arc::clone(&plugin.module.url),
        before_authorization: wayline_wasm_host::phase(plugin.phase)
            < wayline_chain::Phase::Authorization,
    }
}

/// Bytes that are not read: policy for connections, then the target's own endpoints.
fn serve_opaque(
    report: &mut Report,
    snapshot: &Snapshot,
    target: &Target,
    connection: &Connection,
    objects: &mut Vec<ObjectRef>,
) {
    let trace = target.authorization.trace(&PolicyInput {
        identity: connection.identity.as_ref(),
        source_ip: connection.source.ip(),
        remote_ip: connection.source.ip(),
        destination_ip: connection.destination_ip,
        destination_port: connection.destination_port,
        sni: connection.sni.as_deref(),
        request: None,
        token: None,
    });
    if take_trace(report, &target.authorization, &trace, objects) {
        // A tunnel is refused where a request would have been answered.
        report.outcome.status = Some(StatusCode::UNAUTHORIZED.as_u16());
        return;
    }
    let cluster = snapshot.clusters.get(&target.cluster);
    let name = cluster.map_or("-", |cluster| &*cluster.name);
    let summary = format!("forwarded as opaque bytes to {name}: the port is not read as HTTP");
    report.outcome = outcome(OutcomeKind::Forwarded, None, &summary);
}

fn place<'s>(
    question: &Question,
    snapshot: &'s Snapshot,
) -> Result<Place<'s>, (Option<StatusCode>, String)> {
    match &question.entry {
        Entry::Tunnel(authority) => match decisions::tunnel_target(snapshot, authority) {
            Ok(target) => Ok(Place::Target(target)),
            Err((status, reason)) => Err((Some(status), format!("{authority}: {reason}"))),
        },
        Entry::Gateway {
            namespace,
            name,
            port,
        } => {
            let doors = snapshot.entrances.iter().filter(|entrance| {
                *entrance.proxy.namespace == **namespace && *entrance.proxy.name == **name
            });
            let doors: Vec<&Arc<Entrance>> = doors.collect();
            match doors.iter().find(|entrance| entrance.port == *port) {
                Some(entrance) => Ok(Place::Entrance(entrance)),
                None => Err((None, closed(namespace, name, *port, &doors))),
            }
        }
    }
}

fn closed(namespace: &str, name: &str, port: u16, doors: &[&Arc<Entrance>]) -> String {
    if doors.is_empty() {
        return format!("no Gateway {namespace}/{name} with listeners is played");
    }
    let ports: Vec<String> = doors.iter().map(|door| door.port.to_string()).collect();
    format!(
        "the Gateway {namespace}/{name} does not listen on port {port}; it does on {}",
        ports.join(", ")
    )
}

/// Notes what the policies say; whether they refuse.
fn take_trace(
    report: &mut Report,
    authorization: &Authorization,
    trace: &Trace<'_>,
    objects: &mut Vec<ObjectRef>,
) -> bool {
    let verdict = &trace.judgement.verdict;
    let (decided_by, reason) = match verdict {
        Verdict::Allow(Some(rule)) => (Some(rule), format!("{} matches", words(rule))),
        Verdict::Allow(None) if authorization.is_empty() => (None, "no policy applies".to_owned()),
        Verdict::Allow(None) => (
            None,
            "no DENY rule matches and there is no ALLOW policy".to_owned(),
        ),
        Verdict::Deny(Some(rule)) => (Some(rule), format!("{} matches", words(rule))),
        Verdict::Deny(None) => (
            None,
            match authorization.denied_because() {
                Some(reason) => format!("everything is refused: {reason}"),
                None => format!("no rule of {} matches", allow_policies(trace)),
            },
        ),
    };
    let policies = trace.policies.iter();
    objects
        .extend(policies.map(|it| {
            ObjectRef::new("AuthorizationPolicy", &it.policy.namespace, &it.policy.name)
        }));
    if !verdict.is_allowed() {
        let rule = match verdict {
            Verdict::Deny(rule) => rule.as_ref(),
            Verdict::Allow(_) => None,
        };
        let reply = refusal(rule);
        let summary = format!("denied: {reason}");
        report.outcome = outcome(
            OutcomeKind::Denied,
            Some((reply.status, reply.details)),
            &summary,
        );
    }
    let marks = trace.judgement.marks.as_deref();
    report.authorization = Some(AuthorizationReport {
        allowed: verdict.is_allowed(),
        decided_by: decided_by.map(ToString::to_string),
        reason,
        dry_run: marks
            .and_then(|marks| marks.dry_run())
            .map(|verdict| DryRunReport {
                allowed: verdict.is_allowed(),
                decided_by: verdict.rule().map(ToString::to_string),
            }),
        audited_by: marks
            .and_then(|marks| marks.audited.as_ref())
            .map(ToString::to_string),
        external: Vec::new(),
        policies: trace.policies.iter().map(policy_report).collect(),
    });
    !verdict.is_allowed()
}

fn allow_policies(trace: &Trace<'_>) -> String {
    let policies = trace.policies.iter().map(|it| it.policy);
    let names: Vec<String> = policies
        .filter(|it| it.action == Action::Allow && !it.dry_run)
        .map(|it| format!("{}/{}", it.namespace, it.name))
        .collect();
    format!("the ALLOW policies ({})", names.join(", "))
}

fn words(rule: &RuleRef) -> String {
    format!(
        "rule {} of AuthorizationPolicy {}/{}",
        rule.rule, rule.namespace, rule.policy
    )
}

fn policy_report(trace: &wayline_model::authorization::PolicyTrace<'_>) -> PolicyReport {
    let rules = trace.rules.iter().map(|rule| RuleReport {
        index: rule.index,
        matched: rule.matched,
        unmet: rule.unmet.iter().map(ToString::to_string).collect(),
    });
    PolicyReport {
        namespace: Arc::clone(&trace.policy.namespace),
        name: Arc::clone(&trace.policy.name),
        action: trace.policy.action,
        dry_run: trace.policy.dry_run,
        rules: rules.collect(),
    }
}

fn as_sent(question: &Question, caller: &Caller) -> RequestReport {
    let head = question.head();
    RequestReport {
        method: head.method.to_string(),
        authority: None,
        path: head.uri.to_string(),
        original_path: None,
        identity: caller.identity.as_ref().map(ToString::to_string),
        source_ip: caller.source_ip.to_string(),
        source_ip_assumed: caller.is_assumed,
    }
}

fn take_request(report: &mut RequestReport, request: &CanonicalRequest) {
    report.authority = Some(request.authority.as_str().to_owned());
    report.path = request.path.to_string();
    report.original_path = request.original_path.as_ref().map(ToString::to_string);
}

fn target_report(place: &Place<'_>) -> TargetReport {
    let proxy = place.proxy();
    let target = TargetReport {
        proxy: format!("{}/{}", proxy.namespace, proxy.name),
        role: match proxy.role {
            ProxyRole::Waypoint => "waypoint",
            ProxyRole::Gateway => "gateway",
        },
        proxy_protocol: proxy.proxy_protocol,
        port: place.port(),
        protocol: "http",
        ..TargetReport::default()
    };
    match place {
        Place::Entrance(_) => target,
        Place::Target(it) => TargetReport {
            service: it.service.as_ref().map(|it| it.hostname.to_string()),
            workload: it
                .workload
                .as_ref()
                .map(|it| format!("{}/{}", it.namespace, it.name)),
            protocol: match it.protocol {
                AppProtocol::Http => "http",
                AppProtocol::Http2 => "http2",
                AppProtocol::Grpc => "grpc",
                AppProtocol::Tcp => "tcp",
                AppProtocol::Tls => "tls",
                AppProtocol::Undeclared => "undeclared",
            },
            ..target
        },
    }
}

pub(super) fn outcome(
    verdict: OutcomeKind,
    answer: Option<(StatusCode, Arc<str>)>,
    summary: &str,
) -> Outcome {
    Outcome {
        verdict,
        status: answer.as_ref().map(|(status, _)| status.as_u16()),
        details: answer.map(|(_, details)| details.to_string()),
        summary: summary.to_owned(),
    }
}

/// The objects a place is made from, but for policies and routes.
fn objects_of(place: &Place<'_>) -> Vec<ObjectRef> {
    let proxy = place.proxy();
    let mut objects = vec![ObjectRef::new("Gateway", &proxy.namespace, &proxy.name)];
    if let Place::Target(target) = place {
        let service = target.service.as_ref();
        objects.extend(service.map(|it| ObjectRef::new("Service", &it.namespace, &it.name)));
        let pod = target.workload.as_ref();
        objects.extend(pod.map(|it| ObjectRef::new("Pod", &it.namespace, &it.name)));
    }
    if let Some(reason) = place.authorization().denied_because() {
        objects.extend(named_in(reason));
    }
    objects
}

/// The objects that a reason names, as `Kind namespace/name`.
fn named_in(reason: &str) -> Vec<ObjectRef> {
    let words: Vec<&str> = reason.split_whitespace().collect();
    let pairs = words.windows(2).filter_map(|pair| {
        let (namespace, name) = pair[1]
            .trim_end_matches([',', ':', ';', '.'])
            .split_once('/')?;
        Some(ObjectRef::new(pair[0], namespace, name))
    });
    pairs.collect()
}

/// What a target that is not served is called.
fn asked_for(question: &Question) -> Vec<ObjectRef> {
    match &question.entry {
        Entry::Tunnel(TunnelAuthority::Host { host, .. }) => {
            let mut labels = host.as_str().split('.');
            match (labels.next(), labels.next()) {
                (Some(name), Some(namespace)) => {
                    vec![ObjectRef::new("Service", namespace, name)]
                }
                _ => Vec::new(),
            }
        }
        Entry::Tunnel(TunnelAuthority::IpPort(_)) => Vec::new(),
        Entry::Gateway {
            namespace, name, ..
        } => vec![ObjectRef::new("Gateway", namespace, name)],
    }
}

fn touching(findings: &[Finding], objects: &[ObjectRef]) -> Vec<Finding> {
    let names: Vec<String> = objects.iter().map(ToString::to_string).collect();
    let touches = |finding: &&Finding| {
        let object = finding.object.as_ref();
        object.is_some_and(|object| names.contains(object))
    };
    findings.iter().filter(touches).cloned().collect()
}
