//! The route of an admitted request: which rule, why, and what it does.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use wayline_model::ext_authz::CheckProtocol;
use wayline_model::route::{
    Fitting, Forward, HeaderEdits, Mirror, PathMatch, RouteAction, RouteMatch, RouteRule, Routes,
    ValueMatch, WeightedBackend,
};
use wayline_model::service::{Cluster, Endpoint, Transport};
use wayline_model::{CanonicalRequest, ObjectRef, Snapshot};
use wayline_proxy::decisions;

use super::evaluate::outcome;
use super::report::{
    BackendReport, EditsReport, EndpointReport, ExternalAuthReport, MirrorReport, OtherReport,
    Outcome, OutcomeKind, RedirectReport, RewriteReport, RouteReport,
};

/// The rule a request takes, with those that would have fitted as well.
pub(super) struct Chosen {
    rule: Arc<RouteRule>,
    fitting: Vec<Fitting>,
    consumer_namespace: Option<String>,
}

/// Looks the route up as the data path does.
pub(super) fn choose(
    routes: &Routes,
    caller_namespace: Option<&str>,
    request: &CanonicalRequest,
) -> Option<Chosen> {
    let table = routes.table_for(caller_namespace);
    let rule = table.lookup(request)?;
    let is_consumers = !std::ptr::eq(table, &*routes.producer);
    Some(Chosen {
        rule: Arc::clone(rule),
        fitting: table.trace(request),
        consumer_namespace: caller_namespace.filter(|_| is_consumers).map(str::to_owned),
    })
}

impl Chosen {
    /// The objects that the rule and its backends are made from.
    pub(super) fn objects(&self, snapshot: &Snapshot) -> Vec<ObjectRef> {
        let mut objects: Vec<ObjectRef> = self.rule.route.iter().cloned().collect();
        if let RouteAction::Forward(forward) = &self.rule.action {
            let clusters = forward.backends.iter().filter_map(|backend| {
                let id = backend.cluster.as_ref().ok()?;
                snapshot.clusters.get(id)?.service.as_ref()
            });
            objects.extend(clusters.map(|it| ObjectRef::new("Service", &it.namespace, &it.name)));
        }
        objects
    }

    /// What the rule does with the request, and what comes of it.
    pub(super) fn report(
        &self,
        snapshot: &Snapshot,
        request: &CanonicalRequest,
        port: u16,
    ) -> (RouteReport, Outcome) {
        let rule = &*self.rule;
        let mut report = RouteReport {
            name: Arc::clone(&rule.name),
            object: rule.route.as_ref().map(ToString::to_string),
            matched: self
                .fitting
                .first()
                .map_or_else(String::new, |it| match_text(&it.entry.matches)),
            reason: self.reason(),
            consumer_namespace: self.consumer_namespace.clone(),
            others: self.fitting.iter().skip(1).map(other).collect(),
            redirect: None,
            failure: None,
            rewrite: None,
            request_headers: edits(&rule.request_headers),
            response_headers: edits(&rule.response_headers),
            timeout_ms: None,
            backend_timeout_ms: None,
            mirrors: Vec::new(),
            external_auth: rule.external_auth.as_ref().map(|it| ExternalAuthReport {
                cluster: Arc::clone(&it.backend),
                protocol: match it.settings.protocol {
                    CheckProtocol::Grpc(_) => "GRPC",
                    CheckProtocol::Http(_) => "HTTP",
                },
            }),
            backends: Vec::new(),
        };
        let result = match &rule.action {
            RouteAction::Forward(forward) => forward_to(&mut report, forward, snapshot, request),
            RouteAction::Redirect(redirect) => {
                let location = decisions::redirect_location(redirect, request, port);
                let summary = format!("answered {}: redirect to {location}", redirect.status);
                report.redirect = Some(RedirectReport {
                    status: redirect.status.as_u16(),
                    location,
                });
                let answer = (redirect.status, "direct_response".into());
                outcome(OutcomeKind::Answered, Some(answer), &summary)
            }
            RouteAction::Fail { status, reason } => {
                report.failure = Some(reason.to_string());
                let summary = format!("answered {status}: {reason}");
                outcome(
                    OutcomeKind::Answered,
                    Some((*status, Arc::clone(reason))),
                    &summary,
                )
            }
        };
        (report, result)
    }

    fn reason(&self) -> String {
        let Some(second) = self.fitting.get(1) else {
            return "nothing else fits".to_owned();
        };
        let why = second
            .loses_by
            .map_or_else(String::new, |by| format!(": {by}"));
        format!("wins over {}{why}", match_text(&second.entry.matches))
    }
}

fn other(fitting: &Fitting) -> OtherReport {
    let rule = &fitting.entry.rule;
    OtherReport {
        name: Arc::clone(&rule.name),
        object: rule.route.as_ref().map(ToString::to_string),
        matched: match_text(&fitting.entry.matches),
        loses_because: fitting
            .loses_by
            .map_or_else(String::new, |by| by.to_string()),
    }
}

fn forward_to(
    report: &mut RouteReport,
    forward: &Forward,
    snapshot: &Snapshot,
    request: &CanonicalRequest,
) -> Outcome {
    let millis = |it: Duration| u64::try_from(it.as_millis()).unwrap_or(u64::MAX);
    report.timeout_ms = forward.timeouts.request.map(millis);
    report.backend_timeout_ms = forward.timeouts.backend_request.map(millis);
    report.rewrite = forward.rewrite.as_ref().map(|rewrite| RewriteReport {
        authority: rewrite
            .hostname
            .as_ref()
            .map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned()),
        path: rewrite.path.as_ref().map(|path| {
            let path = path.apply(request.path());
            match request.query() {
                Some(query) => format!("{path}?{query}"),
                None => path,
            }
        }),
    });
    let mirrors = forward.mirrors.iter();
    report.mirrors = mirrors.map(|it| mirror_report(it, snapshot)).collect();
    let backends = forward.backends.iter();
    report.backends = backends
        .map(|it| backend_report(it, forward.total_weight, snapshot))
        .collect();
    // With several backends, what comes of it depends on which is chosen.
    let [only] = &report.backends[..] else {
        let summary = format!("forwarded to one of {} backends", report.backends.len());
        return outcome(OutcomeKind::Forwarded, None, &summary);
    };
    match (&only.error, &only.cluster) {
        (Some(reason), _) => {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            let summary = format!("answered {status}: {reason}");
            let answer = Some((status, Arc::clone(reason)));
            outcome(OutcomeKind::Answered, answer, &summary)
        }
        (None, Some(cluster)) if only.endpoints.is_empty() => {
            let answer = decisions::no_endpoint();
            let summary = format!("answered {}: {cluster} has no endpoint", answer.0);
            outcome(OutcomeKind::Answered, Some(answer), &summary)
        }
        (None, cluster) => {
            let name = cluster.as_deref().unwrap_or("-");
            outcome(
                OutcomeKind::Forwarded,
                None,
                &format!("forwarded to {name}"),
            )
        }
    }
}

fn backend_report(backend: &WeightedBackend, total: u32, snapshot: &Snapshot) -> BackendReport {
    let cluster: Result<Option<&Arc<Cluster>>, _> = match &backend.cluster {
        Ok(id) => Ok(snapshot.clusters.get(id)),
        Err(reason) => Err(Arc::clone(reason)),
    };
    let (cluster, error) = match cluster {
        Ok(Some(cluster)) => (Some(cluster), None),
        Ok(None) => (None, Some("the cluster is gone".into())),
        Err(reason) => (None, Some(reason)),
    };
    let endpoints = cluster.into_iter().flat_map(|it| &it.endpoints);
    BackendReport {
        weight: backend.weight,
        percent: f64::from(backend.weight) * 100.0 / f64::from(total.max(1)),
        cluster: cluster.map(|it| Arc::clone(&it.name)),
        service: cluster
            .and_then(|it| it.service.as_ref())
            .map(|it| format!("{}/{}", it.namespace, it.name)),
        error,
        request_headers: edits(&backend.request_headers),
        response_headers: edits(&backend.response_headers),
        mirrors: backend
            .mirrors
            .iter()
            .map(|it| mirror_report(it, snapshot))
            .collect(),
        endpoints: endpoints.map(|it| endpoint_report(it)).collect(),
    }
}

fn mirror_report(mirror: &Mirror, snapshot: &Snapshot) -> MirrorReport {
    let cluster = snapshot.clusters.get(&mirror.cluster);
    let share = f64::from(mirror.numerator) / f64::from(mirror.denominator.max(1));
    MirrorReport {
        percent: (share * 100.0).min(100.0),
        cluster: cluster.map(|it| Arc::clone(&it.name)),
    }
}

fn endpoint_report(endpoint: &Endpoint) -> EndpointReport {
    let (transport, identity) = match &endpoint.transport {
        Transport::Plain => ("plain", None),
        Transport::Hbone { identity, .. } => ("hbone", Some(identity.to_string())),
    };
    let workload = endpoint.workload.as_ref();
    EndpointReport {
        address: endpoint.address.to_string(),
        transport,
        identity,
        workload: workload.map(|it| format!("{}/{}", it.namespace, it.name)),
    }
}

fn edits(edits: &HeaderEdits) -> EditsReport {
    let text = |(name, value): &(http::HeaderName, http::HeaderValue)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.to_string(), value)
    };
    EditsReport {
        set: edits.set.iter().map(text).collect(),
        add: edits.add.iter().map(text).collect(),
        remove: edits.remove.iter().map(ToString::to_string).collect(),
    }
}

/// A match in words, e.g. `prefix /reviews, method GET, header x-canary=yes`.
fn match_text(matches: &RouteMatch) -> String {
    let value = |value: &ValueMatch| match value {
        ValueMatch::Exact(text) => format!("={text}"),
        ValueMatch::Regex(pattern) => format!("~{}", pattern.as_str()),
    };
    let mut parts = vec![match &matches.path {
        PathMatch::Exact(path) => format!("exactly {path}"),
        PathMatch::Prefix(path) => format!("prefix {path}"),
        PathMatch::Regex(pattern) => format!("pattern {}", pattern.as_str()),
    }];
    parts.extend(matches.method.iter().map(|it| format!("method {it}")));
    let headers = matches.headers.iter();
    parts.extend(headers.map(|it| format!("header {}{}", it.name, value(&it.value))));
    let query = matches.query.iter();
    parts.extend(query.map(|it| format!("query {}{}", it.name, value(&it.value))));
    parts.join(", ")
}
