//! Parts of an HTTPRoute as the ready values that the data path executes.
//!
//! Used twice: when a document is read, so that a route with a bad pattern or header counts as not
//! valid and its last good version stays; and when routes are compiled.

mod cors;
mod external_auth;
mod reliability;
mod session;

use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode};

use super::http_route::{
    FilterType, HeaderModifier, HttpPathMatch, HttpRoute, HttpRouteFilter, HttpRouteMatch,
    PathMatchType, PathModifier, PathModifierType, RequestMirror, RequestRedirect, UrlRewrite,
    ValueMatch as WrittenValue, ValueMatchType,
};
use crate::ext_authz::AuthSettings;
use crate::route::{
    CompiledPattern, Cors, HeaderEdits, HeaderMatch, PathMatch, PathRewrite, QueryMatch, Redirect,
    Rewrite, RouteMatch, ValueMatch,
};

pub(crate) use reliability::{retry, timeouts};
pub(crate) use session::session;

/// A time as the Gateway API writes it (GEP-2257), such as 1m30s or 250ms.
pub(super) fn duration(text: &str) -> Option<std::time::Duration> {
    reliability::duration(text, "").ok()
}

/// What is wrong with a part of a route, and where in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Problem {
    pub(crate) path: String,
    pub(crate) reason: String,
    /// Whether filters exclude each other: the Gateway API has a reason of its own for that.
    pub(crate) incompatible: bool,
}

impl Problem {
    fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            reason: reason.into(),
            incompatible: false,
        }
    }

    fn incompatible(mut self) -> Self {
        self.incompatible = true;
        self
    }

    fn below(mut self, parent: &str) -> Self {
        self.path = format!("{parent}.{}", self.path);
        self
    }
}

/// Everything that makes a route invalid by itself, whatever other objects there are.
pub(crate) fn problems(route: &HttpRoute) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (h, hostname) in route.spec.hostnames.iter().enumerate() {
        if !is_hostname(hostname) {
            problems.push(Problem::new(
                format!("spec.hostnames[{h}]"),
                format!("`{hostname}` is not a host name, with or without a leading `*.`"),
            ));
        }
    }
    for (r, rule) in route.spec.rules.iter().enumerate() {
        let at = format!("spec.rules[{r}]");
        for (m, written) in rule.matches.iter().enumerate() {
            if let Err(problem) = route_match(written) {
                problems.push(problem.below(&format!("{at}.matches[{m}]")));
            }
        }
        if let Err(problem) = rule_filters(&rule.filters) {
            problems.push(problem.below(&at));
        }
        if let Err(problem) = timeouts(rule) {
            problems.push(problem.below(&at));
        }
        if let Err(problem) = retry(rule) {
            problems.push(problem.below(&at));
        }
        if let Err(problem) = session(rule, &route.metadata.name) {
            problems.push(problem.below(&at));
        }
        for (b, backend) in rule.backend_refs.iter().enumerate() {
            if let Err(problem) = rule_filters(&backend.filters) {
                problems.push(problem.below(&format!("{at}.backendRefs[{b}]")));
            }
            if backend.weight > MAX_WEIGHT {
                problems.push(Problem::new(
                    format!("{at}.backendRefs[{b}].weight"),
                    "a weight is at most 1000000",
                ));
            }
        }
        if let Some(problem) = prefix_problem(rule) {
            problems.push(problem.below(&at));
        }
    }
    problems
}

/// The Gateway API's limit; sixteen of them still fit 32 bits.
const MAX_WEIGHT: u32 = 1_000_000;

/// A prefix can only be replaced where every match names one.
fn prefix_problem(rule: &super::http_route::HttpRouteRule) -> Option<Problem> {
    let replaces = rule.filters.iter().any(|filter| {
        let redirect = filter.request_redirect.as_ref();
        let rewrite = filter.url_rewrite.as_ref();
        let path = redirect
            .and_then(|redirect| redirect.path.as_ref())
            .or_else(|| rewrite.and_then(|rewrite| rewrite.path.as_ref()));
        path.is_some_and(|path| path.kind == PathModifierType::ReplacePrefixMatch)
    });
    let other = |written: &HttpRouteMatch| {
        written
            .path
            .as_ref()
            .is_some_and(|path| path.kind != PathMatchType::PathPrefix)
    };
    (replaces && rule.matches.iter().any(other)).then(|| {
        Problem::new(
            "filters",
            "ReplacePrefixMatch needs matches of type PathPrefix only",
        )
    })
}

/// A match as a ready value.
pub(crate) fn route_match(written: &HttpRouteMatch) -> Result<RouteMatch, Problem> {
    let mut ready = RouteMatch {
        path: path_match(written.path.as_ref())?,
        ..RouteMatch::default()
    };
    for (h, header) in written.headers.iter().enumerate() {
        let at = format!("headers[{h}]");
        ready.headers.push(HeaderMatch {
            name: header_name(&header.name).map_err(|problem| problem.below(&at))?,
            value: value_match(header).map_err(|problem| problem.below(&at))?,
        });
    }
    for (q, parameter) in written.query_params.iter().enumerate() {
        let at = format!("queryParams[{q}]");
        ready.query.push(QueryMatch {
            name: parameter.name.as_str().into(),
            value: value_match(parameter).map_err(|problem| problem.below(&at))?,
        });
    }
    if let Some(method) = &written.method {
        ready.method = Some(known_method(method)?);
    }
    Ok(ready)
}

/// What a match that is not valid may have meant, at its widest: conditions that can not be read
/// are dropped, so that whatever its author had in mind is among what matches.
pub(crate) fn widest_match(written: &HttpRouteMatch) -> RouteMatch {
    RouteMatch {
        path: path_match(written.path.as_ref()).unwrap_or_else(|_| RouteMatch::default().path),
        headers: written
            .headers
            .iter()
            .filter_map(|header| {
                Some(HeaderMatch {
                    name: header_name(&header.name).ok()?,
                    value: value_match(header).ok()?,
                })
            })
            .collect(),
        query: written
            .query_params
            .iter()
            .filter_map(|parameter| {
                Some(QueryMatch {
                    name: parameter.name.as_str().into(),
                    value: value_match(parameter).ok()?,
                })
            })
            .collect(),
        method: written
            .method
            .as_ref()
            .and_then(|method| known_method(method).ok()),
    }
}

fn path_match(written: Option<&HttpPathMatch>) -> Result<PathMatch, Problem> {
    let Some(written) = written else {
        return Ok(RouteMatch::default().path);
    };
    if written.kind == PathMatchType::RegularExpression {
        return Ok(PathMatch::Regex(pattern(&written.value, "path.value")?));
    }
    if !written.value.starts_with('/') {
        return Err(Problem::new("path.value", "a path must begin with /"));
    }
    if written.value.contains("//") || written.value.contains('#') {
        return Err(Problem::new(
            "path.value",
            "a path must not hold // or #: no normalised path does",
        ));
    }
    Ok(match written.kind {
        PathMatchType::Exact => PathMatch::Exact(written.value.as_str().into()),
        _ => PathMatch::Prefix(written.value.as_str().into()),
    })
}

fn value_match(written: &WrittenValue) -> Result<ValueMatch, Problem> {
    Ok(match written.kind {
        ValueMatchType::Exact => ValueMatch::Exact(written.value.as_str().into()),
        ValueMatchType::RegularExpression => ValueMatch::Regex(pattern(&written.value, "value")?),
    })
}

fn pattern(text: &str, at: &str) -> Result<CompiledPattern, Problem> {
    CompiledPattern::new(text).map_err(|error| Problem::new(at, error.to_string()))
}

fn known_method(name: &str) -> Result<Method, Problem> {
    // The Gateway API's enumeration.
    const METHODS: [&str; 9] = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
    ];
    METHODS
        .contains(&name)
        .then(|| Method::from_bytes(name.as_bytes()).ok())
        .flatten()
        .ok_or_else(|| Problem::new("method", format!("must be one of {}", METHODS.join(", "))))
}

/// What the filters of a rule or a backend ask for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filters {
    pub(crate) request_headers: HeaderEdits,
    pub(crate) response_headers: HeaderEdits,
    pub(crate) redirect: Option<RequestRedirect>,
    pub(crate) rewrite: Option<UrlRewrite>,
    /// Shares of the mirrors: so many of so many requests.
    pub(crate) mirrors: Vec<(u32, u32)>,
    pub(crate) cors: Option<Box<Cors>>,
    /// How a server is asked.
    pub(crate) external_auth: Option<AuthSettings>,
    /// Filters that are supported later: index and type.
    pub(crate) later: Vec<(usize, FilterType)>,
}

/// Reads filters. Paths are left as written, because a prefix depends on the match.
pub(crate) fn rule_filters(written: &[HttpRouteFilter]) -> Result<Filters, Problem> {
    let mut filters = Filters::default();
    for (f, filter) in written.iter().enumerate() {
        let at = format!("filters[{f}]");
        add_filter(&mut filters, f, filter).map_err(|problem| problem.below(&at))?;
    }
    if filters.redirect.is_some() && filters.rewrite.is_some() {
        return Err(Problem::new(
            "filters",
            "RequestRedirect and URLRewrite exclude each other",
        )
        .incompatible());
    }
    Ok(filters)
}

fn add_filter(
    filters: &mut Filters,
    index: usize,
    filter: &HttpRouteFilter,
) -> Result<(), Problem> {
    let fields = [
        (
            FilterType::RequestHeaderModifier,
            filter.request_header_modifier.is_some(),
        ),
        (
            FilterType::ResponseHeaderModifier,
            filter.response_header_modifier.is_some(),
        ),
        (
            FilterType::RequestRedirect,
            filter.request_redirect.is_some(),
        ),
        (FilterType::UrlRewrite, filter.url_rewrite.is_some()),
        (FilterType::RequestMirror, filter.request_mirror.is_some()),
        (FilterType::Cors, filter.cors.is_some()),
        (FilterType::ExternalAuth, filter.external_auth.is_some()),
        (FilterType::ExtensionRef, filter.extension_ref.is_some()),
    ];
    if fields
        .iter()
        .any(|(kind, given)| *given != (*kind == filter.kind))
    {
        return Err(Problem::new(
            "type",
            "a filter must have the field that its type names, and no other",
        ));
    }
    if let Some(modifier) = &filter.request_header_modifier {
        extend(&mut filters.request_headers, modifier)
            .map_err(|problem| problem.below("requestHeaderModifier"))?;
    } else if let Some(modifier) = &filter.response_header_modifier {
        extend(&mut filters.response_headers, modifier)
            .map_err(|problem| problem.below("responseHeaderModifier"))?;
    } else if let Some(written) = &filter.request_redirect {
        redirect(written, "").map_err(|problem| problem.below("requestRedirect"))?;
        if filters.redirect.replace(written.clone()).is_some() {
            return Err(Problem::new("type", "RequestRedirect stands twice"));
        }
    } else if let Some(written) = &filter.url_rewrite {
        rewrite(written, "").map_err(|problem| problem.below("urlRewrite"))?;
        if filters.rewrite.replace(written.clone()).is_some() {
            return Err(Problem::new("type", "URLRewrite stands twice"));
        }
    } else if let Some(written) = &filter.request_mirror {
        let share = mirror_share(written).map_err(|problem| problem.below("requestMirror"))?;
        filters.mirrors.push(share);
    } else if let Some(written) = &filter.cors {
        let cors = cors::cors(written).map_err(|problem| problem.below("cors"))?;
        if filters.cors.replace(Box::new(cors)).is_some() {
            return Err(Problem::new("type", "CORS stands twice"));
        }
    } else if let Some(written) = &filter.external_auth {
        let asked = external_auth::settings(written);
        let asked = asked.map_err(|problem| problem.below("externalAuth"))?;
        if filters.external_auth.replace(asked).is_some() {
            return Err(Problem::new("type", "ExternalAuth stands twice"));
        }
    } else {
        filters.later.push((index, filter.kind));
    }
    Ok(())
}

fn mirror_share(written: &RequestMirror) -> Result<(u32, u32), Problem> {
    match (written.percent, written.fraction) {
        (None, None) => Ok((100, 100)),
        (Some(percent), None) if percent <= 100 => Ok((percent, 100)),
        (Some(_), None) => Err(Problem::new("percent", "must be from 0 to 100")),
        (None, Some(fraction)) => {
            let denominator = fraction.denominator.unwrap_or(100);
            if denominator == 0 || fraction.numerator > denominator {
                return Err(Problem::new(
                    "fraction",
                    "the numerator must be at most the denominator, which must not be 0",
                ));
            }
            Ok((fraction.numerator, denominator))
        }
        (Some(_), Some(_)) => Err(Problem::new(
            "fraction",
            "percent and fraction exclude each other",
        )),
    }
}

fn extend(edits: &mut HeaderEdits, modifier: &HeaderModifier) -> Result<(), Problem> {
    for (i, entry) in modifier.set.iter().enumerate() {
        let at = format!("set[{i}]");
        edits
            .set
            .push(header(&entry.name, &entry.value).map_err(|p| p.below(&at))?);
    }
    for (i, entry) in modifier.add.iter().enumerate() {
        let at = format!("add[{i}]");
        edits
            .add
            .push(header(&entry.name, &entry.value).map_err(|p| p.below(&at))?);
    }
    for (i, name) in modifier.remove.iter().enumerate() {
        let name = editable(name)
            .map_err(|problem| Problem::new(format!("remove[{i}]"), problem.reason))?;
        edits.remove.push(name);
    }
    Ok(())
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), Problem> {
    let name = editable(name)?;
    let value = HeaderValue::from_str(value)
        .map_err(|_| Problem::new("value", "no header may hold these characters"))?;
    Ok((name, value))
}

/// A name that a route may edit: not what frames the message or belongs to the connection.
fn editable(name: &str) -> Result<HeaderName, Problem> {
    const FRAMING: [&str; 6] = [
        "connection",
        "content-length",
        "keep-alive",
        "te",
        "transfer-encoding",
        "upgrade",
    ];
    let name = header_name(name)?;
    if FRAMING.contains(&name.as_str()) {
        return Err(Problem::new(
            "name",
            format!("{name} frames the message and can not be edited"),
        ));
    }
    Ok(name)
}

fn header_name(name: &str) -> Result<HeaderName, Problem> {
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| Problem::new("name", format!("`{name}` is not a header name")))
}

/// A redirect for requests that matched this prefix.
pub(crate) fn redirect(written: &RequestRedirect, prefix: &str) -> Result<Redirect, Problem> {
    if let Some(scheme) = &written.scheme
        && !matches!(scheme.as_str(), "http" | "https")
    {
        return Err(Problem::new("scheme", "must be http or https"));
    }
    if let Some(hostname) = &written.hostname {
        host(hostname)?;
    }
    let status = written.status_code.unwrap_or(302);
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        return Err(Problem::new(
            "statusCode",
            "must be 301, 302, 303, 307 or 308",
        ));
    }
    Ok(Redirect {
        scheme: written.scheme.as_deref().map(Arc::from),
        hostname: written.hostname.as_deref().map(Arc::from),
        path: path_rewrite(written.path.as_ref(), prefix)?,
        port: written.port,
        status: StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND),
    })
}

/// A rewrite for requests that matched this prefix.
pub(crate) fn rewrite(written: &UrlRewrite, prefix: &str) -> Result<Rewrite, Problem> {
    Ok(Rewrite {
        hostname: written.hostname.as_deref().map(host).transpose()?,
        path: path_rewrite(written.path.as_ref(), prefix)?,
    })
}

/// Whether a listener or route may name this host: a DNS name, perhaps with `*.` before it.
pub(crate) fn is_hostname(name: &str) -> bool {
    let name = name.strip_prefix("*.").unwrap_or(name);
    host(name).is_ok() && name.parse::<std::net::IpAddr>().is_err()
}

fn host(name: &str) -> Result<HeaderValue, Problem> {
    let fits = !name.is_empty()
        && name.len() <= 253
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'));
    let value = HeaderValue::from_str(name).ok().filter(|_| fits);
    value.ok_or_else(|| Problem::new("hostname", format!("`{name}` is not a host name")))
}

fn path_rewrite(
    written: Option<&PathModifier>,
    prefix: &str,
) -> Result<Option<PathRewrite>, Problem> {
    let Some(written) = written else {
        return Ok(None);
    };
    let checked = |path: &str, at: &str| {
        let fits = path
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#'));
        if fits {
            Ok(Arc::from(path))
        } else {
            Err(Problem::new(
                format!("path.{at}"),
                "a path must not hold spaces, control characters, ? or #",
            ))
        }
    };
    match (
        written.kind,
        &written.replace_full_path,
        &written.replace_prefix_match,
    ) {
        (PathModifierType::ReplaceFullPath, Some(path), None) => {
            let path = if path.starts_with('/') {
                checked(path, "replaceFullPath")?
            } else {
                checked(&format!("/{path}"), "replaceFullPath")?
            };
            Ok(Some(PathRewrite::Full(path)))
        }
        (PathModifierType::ReplacePrefixMatch, None, Some(path)) => Ok(Some(PathRewrite::Prefix {
            matched: prefix.trim_end_matches('/').into(),
            replacement: if path.is_empty() || path.starts_with('/') {
                checked(path, "replacePrefixMatch")?
            } else {
                checked(&format!("/{path}"), "replacePrefixMatch")?
            },
        })),
        _ => Err(Problem::new(
            "path.type",
            "a path change must have the field that its type names, and no other",
        )),
    }
}
