//! Routes (envoy.config.route.v3).

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};
use wayline_model::Snapshot;
use wayline_model::route::{
    Cors, Forward, Grant, HeaderEdits, Mirror, OriginMatch, PathMatch, PathRewrite, Redirect,
    RetryPolicy, RouteAction, RouteMatch, RouteRule, RouteTable, Routes, ValueMatch,
    WeightedBackend,
};
use wayline_model::snapshot::HostTable;

use super::clusters::seconds;
use super::{View, entrance_name, typed};

/// What stands for a value that may be a secret.
const REDACTED: &str = "[redacted]";

/// Envoy's name for a share of requests that nobody serves.
const NOBODY: &str = "BlackHoleCluster";

/// RoutesConfigDump: one configuration for each target and entrance, and one for each namespace that
/// has routes of its own to a target.
pub(super) fn section(view: &View) -> Value {
    let snapshot = &view.snapshot;
    let mut configs = Vec::new();
    for reached in view.targets().iter().filter(|it| it.routes_requests()) {
        let host = format!("inbound|http|{}", reached.target.port);
        for (suffix, table) in tables(&reached.target.routes) {
            let hosts = vec![virtual_host(snapshot, &host, &["*".to_owned()], table)];
            configs.push((format!("{}{suffix}", reached.name), hosts));
        }
    }
    for entrance in &snapshot.entrances {
        let name = entrance_name(entrance);
        configs.push((name, host_table(snapshot, &entrance.hosts)));
    }
    configs.sort_by(|(one, _), (other, _)| one.cmp(other));
    let configs: Vec<Value> = configs
        .into_iter()
        .map(|(name, hosts)| {
            let content = json!({"name": name, "virtual_hosts": hosts});
            json!({
                "version_info": &view.version,
                "route_config": typed(
                    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
                    content,
                ),
                "last_updated": &view.applied,
            })
        })
        .collect();
    json!({"dynamic_route_configs": configs})
}

/// The tables of a target, with what tells their names apart.
fn tables(routes: &Routes) -> impl Iterator<Item = (String, &Arc<RouteTable>)> {
    let consumers = routes.consumers.iter();
    let consumers = consumers.map(|(namespace, table)| (format!("|from={namespace}"), table));
    std::iter::once((String::new(), &routes.producer)).chain(consumers)
}

fn host_table(snapshot: &Snapshot, hosts: &HostTable) -> Vec<Value> {
    let mut exact: Vec<_> = hosts.exact.iter().collect();
    exact.sort_by_key(|(host, _)| *host);
    let exact = exact
        .into_iter()
        .map(|(host, routes)| (host.as_str().to_owned(), routes));
    let wildcards = hosts
        .wildcards
        .iter()
        .map(|(suffix, routes)| (format!("*{suffix}"), routes));
    let any = hosts.any.iter().map(|routes| ("*".to_owned(), routes));
    exact
        .chain(wildcards)
        .chain(any)
        .map(|(domain, routes)| {
            virtual_host(snapshot, &domain.clone(), &[domain], &routes.producer)
        })
        .collect()
}

fn virtual_host(snapshot: &Snapshot, name: &str, domains: &[String], table: &RouteTable) -> Value {
    let routes: Vec<Value> = table
        .entries()
        .into_iter()
        .map(|(matches, rule)| route(snapshot, &matches, rule))
        .collect();
    json!({"name": name, "domains": domains, "routes": routes})
}

fn route(snapshot: &Snapshot, matches: &RouteMatch, rule: &RouteRule) -> Value {
    let mut route = json!({"name": &*rule.name, "match": route_match(matches)});
    match &rule.action {
        RouteAction::Forward(to) => {
            route["route"] = forward(snapshot, to);
            let missing: Vec<Value> = to.backends.iter().filter_map(missing).collect();
            if !missing.is_empty() {
                route["metadata"] =
                    json!({"filter_metadata": {"wayline": {"missing_backends": missing}}});
            }
        }
        RouteAction::Redirect(to) => route["redirect"] = redirect(to),
        RouteAction::Fail { status, reason } => {
            route["direct_response"] = json!({"status": status.as_u16()});
            route["metadata"] = json!({"filter_metadata": {"wayline": {"reason": &**reason}}});
        }
    }
    if let Some(object) = &rule.route {
        route["metadata"]["filter_metadata"]["istio"] = json!({
            "config": format!(
                "/apis/gateway.networking.k8s.io/v1/namespaces/{}/http-route/{}",
                object.namespace, object.name
            ),
        });
    }
    if let Some(granted) = &rule.cors {
        route["typed_per_filter_config"] = json!({"envoy.filters.http.cors": cors(granted)});
    }
    edits(&mut route, &rule.request_headers, &rule.response_headers);
    route
}

fn cors(cors: &Cors) -> Value {
    let origins = cors.origins.iter().map(|origin| match origin {
        OriginMatch::Any => json!({"safe_regex": {"regex": ".*"}}),
        OriginMatch::Exact(origin) => json!({"exact": &**origin}),
        OriginMatch::Hosts { prefix, suffix } => {
            let [prefix, suffix] = [prefix, suffix].map(|text| text.replace('.', "\\."));
            json!({"safe_regex": {"regex": format!("{prefix}[^:/]+{suffix}")}})
        }
    });
    let origins: Vec<Value> = origins.collect();
    let grant = |grant: &Grant| match grant {
        Grant::Nothing => String::new(),
        Grant::Any => "*".to_owned(),
        Grant::List(list) => text(list),
    };
    typed(
        "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
        json!({
            "allow_origin_string_match": origins,
            "allow_methods": grant(&cors.methods),
            "allow_headers": grant(&cors.headers),
            "expose_headers": cors.expose.as_ref().map(text).unwrap_or_default(),
            "max_age": cors.max_age.to_string(),
            "allow_credentials": cors.credentials,
            "forward_not_matching_preflights": false,
        }),
    )
}

fn route_match(matches: &RouteMatch) -> Value {
    let mut value = match &matches.path {
        PathMatch::Exact(path) => json!({"path": &**path}),
        PathMatch::Prefix(path) if &**path == "/" => json!({"prefix": "/"}),
        PathMatch::Prefix(path) => json!({"path_separated_prefix": path.trim_end_matches('/')}),
        PathMatch::Regex(pattern) => json!({"safe_regex": {"regex": pattern.as_str()}}),
    };
    let method = matches
        .method
        .iter()
        .map(|method| json!({"name": ":method", "string_match": {"exact": method.as_str()}}));
    let headers = matches.headers.iter().map(|header| {
        let name = match header.name.as_str() {
            "host" => ":authority",
            name => name,
        };
        json!({"name": name, "string_match": string_match(&header.value, is_secret(&header.name))})
    });
    let headers: Vec<Value> = method.chain(headers).collect();
    let query: Vec<Value> = matches
        .query
        .iter()
        .map(|it| json!({"name": &*it.name, "string_match": string_match(&it.value, false)}))
        .collect();
    if !headers.is_empty() {
        value["headers"] = headers.into();
    }
    if !query.is_empty() {
        value["query_parameters"] = query.into();
    }
    value
}

fn string_match(value: &ValueMatch, secret: bool) -> Value {
    match value {
        _ if secret => json!({"exact": REDACTED}),
        ValueMatch::Exact(value) => json!({"exact": &**value}),
        ValueMatch::Regex(pattern) => json!({"safe_regex": {"regex": pattern.as_str()}}),
    }
}

fn forward(snapshot: &Snapshot, forward: &Forward) -> Value {
    let name = |backend: &WeightedBackend| match &backend.cluster {
        Ok(id) => snapshot
            .clusters
            .get(id)
            .map_or_else(|| NOBODY.to_owned(), |cluster| cluster.name.to_string()),
        Err(_) => NOBODY.to_owned(),
    };
    let plain = |backend: &WeightedBackend| {
        backend.cluster.is_ok()
            && backend.request_headers.is_empty()
            && backend.response_headers.is_empty()
    };
    let mut value = match &forward.backends[..] {
        [only] if plain(only) => json!({"cluster": name(only)}),
        backends => {
            let clusters: Vec<Value> = backends
                .iter()
                .map(|backend| {
                    let mut value = json!({"name": name(backend), "weight": backend.weight});
                    edits(
                        &mut value,
                        &backend.request_headers,
                        &backend.response_headers,
                    );
                    value
                })
                .collect();
            json!({"weighted_clusters": {"clusters": clusters}})
        }
    };
    value["timeout"] = seconds(millis(forward.timeouts.request.unwrap_or_default())).into();
    if !forward.mirrors.is_empty() {
        let mirrors = forward.mirrors.iter();
        value["request_mirror_policies"] = mirrors.map(|it| mirror(snapshot, it)).collect();
    }
    let per_try = forward.timeouts.backend_request;
    if forward.retry.attempts > 0 || per_try.is_some() {
        value["retry_policy"] = retry(&forward.retry, per_try);
    }
    if let Some(rewrite) = &forward.rewrite {
        if let Some(host) = &rewrite.hostname {
            value["host_rewrite_literal"] = text(host).into();
        }
        match &rewrite.path {
            Some(PathRewrite::Full(path)) => {
                value["regex_rewrite"] =
                    json!({"pattern": {"regex": "^/.*$"}, "substitution": &**path});
            }
            Some(PathRewrite::Prefix { replacement, .. }) => {
                value["prefix_rewrite"] = (**replacement).into();
            }
            None => {}
        }
    }
    value
}

fn mirror(snapshot: &Snapshot, mirror: &Mirror) -> Value {
    let cluster = snapshot.clusters.get(&mirror.cluster);
    let millionths = u64::from(mirror.numerator) * 1_000_000 / u64::from(mirror.denominator.max(1));
    json!({
        "cluster": cluster.map_or(NOBODY, |cluster| &cluster.name),
        "runtime_fraction": {
            "default_value": {"numerator": millionths, "denominator": "MILLION"},
        },
    })
}

/// A share of requests that is answered with 500, and why.
fn missing(backend: &WeightedBackend) -> Option<Value> {
    let reason = backend.cluster.as_ref().err()?;
    Some(json!({"weight": backend.weight, "reason": &**reason}))
}

fn retry(policy: &RetryPolicy, per_try: Option<Duration>) -> Value {
    let on: Vec<&str> = [
        (policy.on_connect_failure, "connect-failure"),
        (policy.on_refused_stream, "refused-stream"),
        (policy.on_grpc_unavailable, "unavailable"),
        (policy.on_grpc_cancelled, "cancelled"),
        (policy.on_reset, "reset"),
        (!policy.status_codes.is_empty(), "retriable-status-codes"),
    ]
    .into_iter()
    .filter_map(|(set, name)| set.then_some(name))
    .collect();
    let codes: Vec<u16> = policy.status_codes.iter().map(StatusCode::as_u16).collect();
    let mut value = json!({
        "retry_on": on.join(","),
        "num_retries": policy.attempts,
        "retriable_status_codes": codes,
    });
    if let Some(per_try) = per_try {
        value["per_try_timeout"] = seconds(millis(per_try)).into();
    }
    if let Some(base) = policy.backoff {
        value["retry_back_off"] = json!({
            "base_interval": seconds(millis(base)),
            "max_interval": seconds(millis(base.saturating_mul(10))),
        });
    }
    value
}

fn redirect(redirect: &Redirect) -> Value {
    let mut value = json!({
        "response_code": match redirect.status.as_u16() {
            301 => "MOVED_PERMANENTLY",
            303 => "SEE_OTHER",
            307 => "TEMPORARY_REDIRECT",
            308 => "PERMANENT_REDIRECT",
            _ => "FOUND",
        },
    });
    if let Some(scheme) = &redirect.scheme {
        value["scheme_redirect"] = (**scheme).into();
    }
    if let Some(host) = &redirect.hostname {
        value["host_redirect"] = (**host).into();
    }
    if let Some(port) = redirect.port {
        value["port_redirect"] = port.into();
    }
    match &redirect.path {
        Some(PathRewrite::Full(path)) => value["path_redirect"] = (**path).into(),
        Some(PathRewrite::Prefix { replacement, .. }) => {
            value["prefix_rewrite"] = (**replacement).into();
        }
        None => {}
    }
    value
}

fn edits(value: &mut Value, request: &HeaderEdits, response: &HeaderEdits) {
    for (edits, add, remove) in [
        (
            request,
            "request_headers_to_add",
            "request_headers_to_remove",
        ),
        (
            response,
            "response_headers_to_add",
            "response_headers_to_remove",
        ),
    ] {
        let set = edits
            .set
            .iter()
            .map(|it| (it, "OVERWRITE_IF_EXISTS_OR_ADD"));
        let append = edits.add.iter().map(|it| (it, "APPEND_IF_EXISTS_OR_ADD"));
        let added: Vec<Value> = set
            .chain(append)
            .map(|((name, content), action)| {
                let content = if is_secret(name) {
                    REDACTED.into()
                } else {
                    text(content)
                };
                json!({
                    "header": {"key": name.as_str(), "value": content},
                    "append_action": action,
                })
            })
            .collect();
        if !added.is_empty() {
            value[add] = added.into();
        }
        if !edits.remove.is_empty() {
            let removed: Vec<&str> = edits.remove.iter().map(HeaderName::as_str).collect();
            value[remove] = removed.into();
        }
    }
}

/// Whether values of that header are credentials.
fn is_secret(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(
        name,
        "authorization" | "proxy-authorization" | "cookie" | "set-cookie"
    ) || ["api-key", "apikey", "token", "secret", "password"]
        .iter()
        .any(|word| name.contains(word))
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
