//! Rules of HTTPRoutes as entries of a route table: matches compiled, edits and redirects ready,
//! weights counted; and what of a rule is not supported yet, named.

use std::sync::Arc;

use http::StatusCode;

use super::routes::{AuthServer, Backend, CompiledRoute, Resolved, RouteVerdict};
use crate::ext_authz::ExtAuthzProvider;
use crate::finding::Finding;
use crate::names::ObjectRef;
use crate::resource::http_route::{FilterType, HttpRouteMatch, HttpRouteRule, RequestMirror};
use crate::resource::ready::{self, Filters};
use crate::resource::{BrokenRoute, HttpRoute, Metadata};
use crate::route::{
    Forward, HeaderEdits, Mirror, PathMatch, RetryPolicy, RouteAction, RouteEntry, RouteMatch,
    RouteOrder, RouteRule, WeightedBackend,
};
use crate::status::reason;

/// Compiles a route of which all that it refers to is resolved.
pub(super) fn compile(
    route: &HttpRoute,
    object: &ObjectRef,
    resolved: &Resolved,
    serial: u64,
) -> CompiledRoute {
    let mut compiled = CompiledRoute {
        serial,
        entries: Vec::new(),
        findings: Vec::new(),
        verdict: RouteVerdict {
            rules: route.spec.rules.len(),
            ..RouteVerdict::default()
        },
    };
    let mut rest = (
        &resolved.backends[..],
        &resolved.mirrors[..],
        &resolved.backend_mirrors[..],
        &resolved.auths[..],
    );
    for (r, rule) in route.spec.rules.iter().enumerate() {
        let backends = rule.backend_refs.iter();
        let of_backends = backends.map(|it| it.mirrors().count()).sum();
        let compiler = RuleCompiler {
            object,
            rule,
            index: r,
            backends: take(&mut rest.0, rule.backend_refs.len()),
            mirrors: take(&mut rest.1, rule.mirrors().count()),
            backend_mirrors: take(&mut rest.2, of_backends),
            auths: take(&mut rest.3, rule.external_auths().count()),
        };
        compiler.compile(&route.metadata, &mut compiled);
    }
    compiled
}

/// So many from the front.
fn take<'r, T>(rest: &mut &'r [T], count: usize) -> &'r [T] {
    let (taken, left) = rest.split_at(count.min(rest.len()));
    *rest = left;
    taken
}

/// Compiles what is left of a route that never was valid.
pub(super) fn compile_broken(
    route: &BrokenRoute,
    object: &ObjectRef,
    serial: u64,
) -> CompiledRoute {
    let rule = Arc::new(RouteRule {
        name: format!("{}.{}", object.namespace, object.name).into(),
        route: Some(object.clone()),
        action: failure(&format!("{object} is not valid: {}", route.reason)),
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        cors: None,
        external_auth: None,
    });
    let entries = route
        .matches
        .iter()
        .enumerate()
        .map(|(m, written)| RouteEntry {
            matches: ready::widest_match(written),
            rule: Arc::clone(&rule),
            order: order(&route.metadata, object, 0, m),
        });
    CompiledRoute {
        serial,
        entries: entries.collect(),
        findings: Vec::new(),
        verdict: RouteVerdict::default(),
    }
}

fn order(metadata: &Metadata, object: &ObjectRef, rule: usize, matched: usize) -> RouteOrder {
    RouteOrder {
        created: metadata.creation_timestamp.as_deref().map(Arc::from),
        namespace: Arc::clone(&object.namespace),
        name: Arc::clone(&object.name),
        rule,
        matched,
    }
}

fn failure(reason: &str) -> RouteAction {
    RouteAction::Fail {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        reason: reason.into(),
    }
}

/// One rule on its way to entries of a table.
struct RuleCompiler<'a> {
    object: &'a ObjectRef,
    rule: &'a HttpRouteRule,
    index: usize,
    backends: &'a [Backend],
    mirrors: &'a [Backend],
    /// Of all backends in order.
    backend_mirrors: &'a [Backend],
    auths: &'a [AuthServer],
}

impl RuleCompiler<'_> {
    fn compile(&self, metadata: &Metadata, compiled: &mut CompiledRoute) {
        self.name_what_is_ignored(&mut compiled.findings);
        let filters = ready::rule_filters(&self.rule.filters);
        let backends = self.weighted(compiled);
        self.name_lost_mirrors(compiled);
        if let Ok(filters) = &filters {
            self.name_later(filters, compiled);
            self.name_lost_server(compiled);
        }
        let default = [HttpRouteMatch::default()];
        let matches = if self.rule.matches.is_empty() {
            &default[..]
        } else {
            &self.rule.matches
        };
        // One rule for all matches, but where what it does depends on the prefix that matched.
        let mut rules: Vec<(Arc<str>, Arc<RouteRule>)> = Vec::new();
        for (m, written) in matches.iter().enumerate() {
            // Documents with a match or filter that can not be read never become valid; should one
            // come here all the same, what it may match answers 500.
            let (matches, sound) = match ready::route_match(written) {
                Ok(matches) => (matches, true),
                Err(_) => (ready::widest_match(written), false),
            };
            let rule = match &filters {
                Ok(filters) if sound => {
                    let prefix = self.prefix_that_matters(filters, &matches);
                    match rules.iter().find(|(known, _)| **known == *prefix) {
                        Some((_, rule)) => Arc::clone(rule),
                        None => {
                            let action = self.action(filters, &backends, prefix);
                            let rule = Arc::new(self.rule_with(action, filters));
                            rules.push((prefix.into(), Arc::clone(&rule)));
                            rule
                        }
                    }
                }
                _ => {
                    Arc::new(self.rule_with(failure("the rule is not valid"), &Filters::default()))
                }
            };
            compiled.entries.push(RouteEntry {
                matches,
                rule,
                order: order(metadata, self.object, self.index, m),
            });
        }
    }

    fn rule_with(&self, action: RouteAction, filters: &Filters) -> RouteRule {
        let name = match self.rule.name.as_deref() {
            Some(name) if !name.is_empty() => name.into(),
            _ => format!(
                "{}.{}.{}",
                self.object.namespace, self.object.name, self.index
            )
            .into(),
        };
        RouteRule {
            name,
            route: Some(self.object.clone()),
            action,
            request_headers: filters.request_headers.clone(),
            response_headers: filters.response_headers.clone(),
            cors: filters.cors.clone(),
            external_auth: self.external_auth(filters),
        }
    }

    /// Who is asked; a rule whose server can not be reached answers 500.
    fn external_auth(&self, filters: &Filters) -> Option<Arc<ExtAuthzProvider>> {
        let settings = filters.external_auth.clone()?;
        let (host, port) = self.auths.first()?.as_ref().ok()?;
        let (object, rule) = (self.object, self.index);
        let name = format!("{object} rules[{rule}]");
        let provider = ExtAuthzProvider::at(&name, host.as_str(), *port, settings);
        Some(Arc::new(provider))
    }

    fn name_lost_server(&self, compiled: &mut CompiledRoute) {
        let filters = self.rule.filters.iter();
        let Some(at) = filters.clone().position(|it| it.external_auth.is_some()) else {
            return;
        };
        if let Some(Err(unresolved)) = self.auths.first() {
            let field = format!("spec.rules[{}].filters[{at}].externalAuth", self.index);
            let finding = Finding::error(format!("{}; the rule answers 500", unresolved.text))
                .on(self.object)
                .field(field.clone());
            compiled.findings.push(finding);
            compiled
                .verdict
                .unresolved
                .push((field, unresolved.clone()));
        }
    }

    fn prefix_that_matters<'m>(&self, filters: &Filters, matches: &'m RouteMatch) -> &'m str {
        let changes_path = filters.redirect.as_ref().is_some_and(|r| r.path.is_some())
            || filters.rewrite.as_ref().is_some_and(|r| r.path.is_some());
        match &matches.path {
            PathMatch::Prefix(prefix) if changes_path => prefix,
            _ => "",
        }
    }

    fn action(&self, filters: &Filters, backends: &[WeightedBackend], prefix: &str) -> RouteAction {
        if let Some((_, kind)) = filters.later.first() {
            return failure(&format!("the filter {kind:?} is not yet supported"));
        }
        if filters.external_auth.is_some() && !matches!(self.auths, [Ok(_)]) {
            return failure("the server that is to be asked can not be reached");
        }
        if let Some(redirect) = &filters.redirect {
            return match ready::redirect(redirect, prefix) {
                Ok(redirect) => RouteAction::Redirect(redirect),
                Err(problem) => failure(&problem.reason),
            };
        }
        let total_weight: u32 = backends
            .iter()
            .fold(0, |sum, backend| sum.saturating_add(backend.weight));
        if total_weight == 0 {
            return failure("the rule has no backend");
        }
        let rewrite = filters.rewrite.as_ref().map(|r| ready::rewrite(r, prefix));
        match rewrite.transpose() {
            Ok(rewrite) => RouteAction::Forward(Forward {
                backends: backends.to_vec(),
                total_weight,
                mirrors: reachable(filters, self.mirrors),
                rewrite,
                retry: ready::retry(self.rule).unwrap_or_default(),
                timeouts: ready::timeouts(self.rule).unwrap_or_default(),
                session: ready::session(self.rule, &self.object.name)
                    .ok()
                    .flatten()
                    .map(Box::new),
            }),
            Err(problem) => failure(&problem.reason),
        }
    }

    /// The backends that have a share, with findings about those that can not be reached.
    fn weighted(&self, compiled: &mut CompiledRoute) -> Vec<WeightedBackend> {
        let mut weighted = Vec::new();
        let mut mirrors_left = self.backend_mirrors;
        for (b, (written, resolved)) in self.rule.backend_refs.iter().zip(self.backends).enumerate()
        {
            let at = format!("spec.rules[{}].backendRefs[{b}]", self.index);
            let filters = ready::rule_filters(&written.filters);
            let mut cluster: Result<_, Arc<str>> = match resolved {
                Ok(cluster) => Ok(*cluster),
                Err(unresolved) => {
                    let unresolved = unresolved.clone();
                    let text = Arc::clone(&unresolved.text);
                    compiled.verdict.unresolved.push((at.clone(), unresolved));
                    Err(text)
                }
            };
            let own_mirrors = take(&mut mirrors_left, written.mirrors().count());
            let place = format!("{at}.filters");
            self.name_lost(written.mirrors().zip(own_mirrors), &place, compiled);
            let mut own = Filters::default();
            match filters {
                Ok(filters)
                    if filters.later.is_empty()
                        && filters.external_auth.is_none()
                        && filters.redirect.is_none()
                        && filters.rewrite.is_none() =>
                {
                    own = filters;
                }
                _ => {
                    let text: Arc<str> =
                        "a backend's filters can only be header modifiers, mirrors and CORS as yet"
                            .into();
                    let failed = (self.index, reason::UNSUPPORTED_VALUE, Arc::clone(&text));
                    compiled.verdict.failed.push(failed);
                    cluster = cluster.and(Err(text));
                }
            }
            if let Err(reason) = &cluster {
                compiled.findings.push(
                    Finding::error(format!("{reason}; its share is answered with 500"))
                        .on(self.object)
                        .field(at),
                );
            }
            if written.weight > 0 {
                weighted.push(WeightedBackend {
                    weight: written.weight,
                    cluster,
                    mirrors: reachable(&own, own_mirrors),
                    request_headers: own.request_headers,
                    response_headers: own.response_headers,
                    cors: own.cors,
                });
            }
        }
        weighted
    }

    fn name_lost_mirrors(&self, compiled: &mut CompiledRoute) {
        let place = format!("spec.rules[{}].filters", self.index);
        self.name_lost(self.rule.mirrors().zip(self.mirrors), &place, compiled);
    }

    fn name_lost<'m>(
        &self,
        mirrors: impl Iterator<Item = ((usize, &'m RequestMirror), &'m Backend)>,
        place: &str,
        compiled: &mut CompiledRoute,
    ) {
        for ((f, _), backend) in mirrors {
            if let Err(unresolved) = backend {
                let field = format!("{place}[{f}].requestMirror");
                let finding =
                    Finding::error(format!("{}; nothing is mirrored to it", unresolved.text))
                        .on(self.object)
                        .field(field.clone());
                compiled.findings.push(finding);
                let unresolved = (field, unresolved.clone());
                compiled.verdict.unresolved.push(unresolved);
            }
        }
    }

    fn name_what_is_ignored(&self, findings: &mut Vec<Finding>) {
        let attempts = self.rule.retry.as_ref().and_then(|retry| retry.attempts);
        if attempts.is_some_and(|attempts| attempts > i64::from(RetryPolicy::MAX_ATTEMPTS)) {
            findings.push(
                Finding::hint("more than 20 attempts count as 20")
                    .on(self.object)
                    .field(format!("spec.rules[{}].retry.attempts", self.index)),
            );
        }
        let redirects = self
            .rule
            .filters
            .iter()
            .any(|f| f.kind == FilterType::RequestRedirect);
        let has_share = self
            .rule
            .backend_refs
            .iter()
            .any(|backend| backend.weight > 0);
        if !redirects && !has_share {
            findings.push(
                Finding::error("the rule has no backend; it answers 500")
                    .on(self.object)
                    .field(format!("spec.rules[{}]", self.index)),
            );
        }
    }

    fn name_later(&self, filters: &Filters, compiled: &mut CompiledRoute) {
        for (f, kind) in &filters.later {
            let text = format!("the filter {kind:?} is not yet supported");
            let failed = (self.index, reason::UNSUPPORTED_VALUE, text.into());
            compiled.verdict.failed.push(failed);
            compiled.findings.push(
                Finding::error(format!(
                    "the filter {kind:?} is not yet supported; the rule answers 500"
                ))
                .on(self.object)
                .field(format!("spec.rules[{}].filters[{f}]", self.index)),
            );
        }
    }
}

/// The mirrors that can be reached and get something.
fn reachable(filters: &Filters, backends: &[Backend]) -> Vec<Mirror> {
    let mirrors = filters.mirrors.iter().zip(backends);
    mirrors
        .filter(|((numerator, _), _)| *numerator > 0)
        .filter_map(|((numerator, denominator), backend)| {
            Some(Mirror {
                cluster: *backend.as_ref().ok()?,
                numerator: *numerator,
                denominator: *denominator,
            })
        })
        .collect()
}
