//! A matcher that reads policies as they are written, in three-valued logic and with patterns built
//! afresh each time: slow, plain, and unlike the compiled one.

use super::*;
use crate::authorization::spec::{Condition, Rule, Source};

/// `No` < `Perhaps` < `Yes`: and is the minimum, or the maximum.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Truth {
    No,
    Perhaps,
    Yes,
}
use Truth::{No, Perhaps, Yes};

fn not(truth: Truth) -> Truth {
    match truth {
        No => Yes,
        Perhaps => Perhaps,
        Yes => No,
    }
}

fn sure(holds: bool) -> Truth {
    if holds { Yes } else { No }
}

pub(super) fn allowed(policies: &[AttachedPolicy], mesh: &MeshSettings, case: &Case) -> bool {
    let matches = |action: Action, least: Truth| {
        policies.iter().any(|policy| {
            let rules = &policy.spec.rules;
            policy.spec.action == action
                && rules
                    .iter()
                    .any(|rule| rule_holds(rule, policy, mesh, case) >= least)
        })
    };
    if matches(Action::Deny, Perhaps) || matches(Action::Custom, Perhaps) {
        return false;
    }
    let restricted = policies
        .iter()
        .any(|policy| policy.spec.action == Action::Allow);
    !restricted || matches(Action::Allow, Yes)
}

fn rule_holds(rule: &Rule, policy: &AttachedPolicy, mesh: &MeshSettings, case: &Case) -> Truth {
    let one = |key: &str, values: &[Arc<str>], not_values: &[Arc<str>]| {
        let any = |list: &[Arc<str>]| {
            let each = list
                .iter()
                .map(|value| value_holds(key, value, policy, mesh, case));
            let best = each.max().unwrap();
            if key == "request.headers[x-role]" && all_lines_hold(list, case) {
                Yes
            } else {
                best
            }
        };
        let positive = if values.is_empty() { Yes } else { any(values) };
        let negative = if not_values.is_empty() {
            Yes
        } else {
            not(any(not_values))
        };
        positive.min(negative)
    };
    let from = |s: &Source| {
        [
            one("source.principal", &s.principals, &s.not_principals),
            one(
                "request.auth.principal",
                &s.request_principals,
                &s.not_request_principals,
            ),
            one("source.namespace", &s.namespaces, &s.not_namespaces),
            one(
                "source.serviceAccount",
                &s.service_accounts,
                &s.not_service_accounts,
            ),
            one("source.trustDomain", &s.trust_domains, &s.not_trust_domains),
            one("source.ip", &s.ip_blocks, &s.not_ip_blocks),
            one("remote.ip", &s.remote_ip_blocks, &s.not_remote_ip_blocks),
        ]
        .into_iter()
        .min()
    };
    let from = rule
        .from
        .iter()
        .filter_map(|entry| from(&entry.source))
        .max()
        .unwrap_or(Yes);
    let to = rule.to.iter().map(|entry| {
        let o = &entry.operation;
        one("host", &o.hosts, &o.not_hosts)
            .min(one("destination.port", &o.ports, &o.not_ports))
            .min(one("method", &o.methods, &o.not_methods))
            .min(one("path", &o.paths, &o.not_paths))
    });
    let to = to.max().unwrap_or(Yes);
    let when = rule.when.iter().map(|condition| match condition {
        Condition {
            values, not_values, ..
        } if values.is_empty() && not_values.is_empty() => Perhaps,
        Condition {
            key,
            values,
            not_values,
        } => one(key, values, not_values),
    });
    from.min(to).min(when.min().unwrap_or(Yes))
}

fn value_holds(
    key: &str,
    value: &str,
    policy: &AttachedPolicy,
    mesh: &MeshSettings,
    case: &Case,
) -> Truth {
    let too_early = key.starts_with("request.auth.") && policy.spec.action == Action::Custom;
    if value.is_empty() || too_early {
        return Perhaps;
    }
    let peer = case.identity.as_ref();
    let request = case.request.as_ref();
    match key {
        "source.principal" => {
            if value.starts_with("spiffe://") {
                return Perhaps;
            }
            let Some(peer) = peer else { return No };
            let wanted = match value.split_once('/') {
                Some((domain, rest)) => domains(domain, mesh)
                    .map(|d| format!("{d}/{rest}"))
                    .collect(),
                None => vec![value.to_owned()],
            };
            let id = peer.uri().replacen("spiffe://", "", 1);
            sure(wanted.iter().any(|wanted| ends(wanted, &id)))
        }
        "source.trustDomain" => sure(peer.is_some_and(|peer| {
            domains(value, mesh).any(|wanted| ends(&wanted, peer.trust_domain().as_str()))
        })),
        "source.namespace" => sure(peer.is_some_and(|peer| {
            let parts: Vec<String> = value.split('*').map(regex::escape).collect();
            let pattern = if value == "*" {
                ".+".to_owned()
            } else {
                parts.join(".*")
            };
            whole(&pattern, peer.namespace())
        })),
        "source.serviceAccount" => {
            let parts: Vec<&str> = value.split('/').collect();
            let (namespace, account) = match parts[..] {
                _ if value.contains('*') => return Perhaps,
                [account] => (&*policy.namespace, account),
                [namespace, account] if !namespace.is_empty() && !account.is_empty() => {
                    (namespace, account)
                }
                _ => return Perhaps,
            };
            sure(peer.is_some_and(|p| p.namespace() == namespace && p.service_account() == account))
        }
        "source.ip" => address(value, Some(case.source)),
        "remote.ip" => address(value, Some(case.remote)),
        "destination.ip" => address(value, case.destination),
        "destination.port" => match value.parse::<u16>() {
            Ok(0) | Err(_) => Perhaps,
            Ok(port) => sure(port == case.port),
        },
        "connection.sni" => sure(ends(value, case.sni.unwrap_or(""))),
        "method" => request.map_or(Perhaps, |request| {
            sure(ends(value, request.method.as_str()))
        }),
        "path" if value.contains(['{', '}']) => {
            let pattern = regex::escape(value)
                .replace(r"\{\*\}", "[^/]+")
                .replace(r"\{\*\*\}", ".*");
            let malformed = pattern.contains(['{', '}']) || value.matches("{**}").count() > 1;
            match request {
                Some(request) if !malformed => sure(whole(&pattern, request.path())),
                _ => Perhaps,
            }
        }
        "path" => request.map_or(Perhaps, |request| sure(ends(value, request.path()))),
        "host" | "request.headers[host]" => {
            let Some(request) = request else {
                return Perhaps;
            };
            let is_header = key != "host";
            if is_header && ends(value, request.authority.as_str()) {
                return Yes;
            }
            let value = value.to_lowercase();
            let sent = request.authority.as_str().to_lowercase();
            if ends(&value, &sent) {
                return if is_header { Perhaps } else { Yes };
            }
            let host = request.authority.host().to_lowercase();
            let name = host.trim_end_matches('.').to_owned();
            let port = request.authority.port().unwrap_or(case.port);
            let with_port = format!("{name}:{port}");
            let readings = [host, name, with_port];
            if readings.iter().any(|reading| ends(&value, reading)) {
                Perhaps
            } else {
                No
            }
        }
        "request.headers[x-role]" => {
            let Some(request) = request else {
                return Perhaps;
            };
            let lines: Vec<&str> = request
                .headers
                .get_all("x-role")
                .iter()
                .map(|v| v.to_str().unwrap())
                .collect();
            if lines.is_empty() || value == "*" {
                return sure(!lines.is_empty());
            }
            let joined = lines.join(",");
            let mut readings: Vec<&str> = joined.split(',').collect();
            readings.extend(&lines);
            readings.push(&joined);
            if readings.iter().any(|reading| ends(value, reading)) {
                Perhaps
            } else {
                No
            }
        }
        "request.auth.principal" => principal(value, case),
        _ if key.starts_with("request.auth.") => claim(key, value, case),
        _ => Perhaps,
    }
}

/// Istio's table of request principals; where only the joined text matches, perhaps.
fn principal(value: &str, case: &Case) -> Truth {
    if case.request.is_none() {
        return Perhaps;
    }
    let Some(token) = &case.token else { return No };
    let of = |name: &str| token.claims().get(name).and_then(|claim| claim.as_str());
    let (Some(issuer), Some(subject)) = (of("iss"), of("sub")) else {
        return No;
    };
    let quote = regex::escape;
    let pattern = |text: &str| match text {
        "*" => ".+".to_owned(),
        _ => quote(text).replace(r"\*", ".*"),
    };
    let (issuers, subjects) = match value.rfind('/').map(|at| value.split_at(at)) {
        _ if value == "*" => (".+".to_owned(), ".+".to_owned()),
        None if value.starts_with('*') => (".+".to_owned(), pattern(value)),
        None if value.ends_with('*') => (pattern(value), ".+".to_owned()),
        None => (quote(value), String::new()),
        Some((left, right)) if value.starts_with('*') => (pattern(left), quote(&right[1..])),
        Some((left, right)) if value.ends_with('*') => (quote(left), pattern(&right[1..])),
        Some((left, right)) => (quote(left), quote(&right[1..])),
    };
    if whole(&issuers, issuer) && whole(&subjects, subject) {
        Yes
    } else if ends(value, &format!("{issuer}/{subject}")) {
        Perhaps
    } else {
        No
    }
}

fn claim(key: &str, value: &str, case: &Case) -> Truth {
    if case.request.is_none() {
        return Perhaps;
    }
    let Some(token) = &case.token else { return No };
    let names: Vec<&str> = match key {
        "request.auth.audiences" => vec!["aud"],
        "request.auth.presenter" => vec!["azp"],
        _ => key["request.auth.claims[".len()..key.len() - 1]
            .split("][")
            .collect(),
    };
    let whole_set = serde_json::Value::Object(token.claims().clone());
    let found = names.iter().fold(&whole_set, |value, name| &value[*name]);
    let scalar = |found: &serde_json::Value| match found.as_str() {
        Some(text) => sure(ends(value, text)),
        None if found.is_number() || found.is_boolean() => {
            if ends(value, &found.to_string()) {
                Perhaps
            } else {
                No
            }
        }
        None if found.is_null() || value != "*" => No,
        None => Perhaps,
    };
    match found {
        serde_json::Value::Array(list) => list.iter().map(scalar).max().unwrap_or(No),
        serde_json::Value::String(text) if names == ["scope"] && text.contains(' ') => {
            let words = text.split_whitespace().map(|word| sure(ends(value, word)));
            let perhaps = if ends(value, text) { Perhaps } else { No };
            words.max().unwrap_or(No).max(perhaps)
        }
        other => scalar(other),
    }
}

/// Every line of the header is one of the values, though not the same one.
fn all_lines_hold(list: &[Arc<str>], case: &Case) -> bool {
    let Some(request) = &case.request else {
        return false;
    };
    let mut lines = request.headers.get_all("x-role").iter().peekable();
    let listed = |line: &str| list.iter().any(|v| !v.is_empty() && ends(v, line));
    lines.peek().is_some() && lines.all(|line| listed(line.to_str().unwrap()))
}

fn domains(value: &str, mesh: &MeshSettings) -> impl Iterator<Item = String> + use<> {
    let ours: Vec<String> = std::iter::once(mesh.trust_domain.to_string())
        .chain(mesh.trust_domain_aliases.iter().map(ToString::to_string))
        .collect();
    let mut all = vec![value.to_owned()];
    if value != "*" && ours.iter().any(|own| ends(value, own)) {
        all.extend(ours);
    }
    all.into_iter()
}

fn address(value: &str, address: Option<&str>) -> Truth {
    let network = match value.contains('/') {
        true => value.parse().ok(),
        false => value.parse().ok().map(|ip: IpAddr| ipnet::IpNet::from(ip)),
    };
    let (Some(network), Some(address)) = (network, address) else {
        return Perhaps;
    };
    let address: IpAddr = address.parse().unwrap();
    sure(network.contains(&address.to_canonical()))
}

/// Exact, prefix, suffix or presence.
fn ends(value: &str, text: &str) -> bool {
    let pattern = match (value, value.strip_prefix('*'), value.strip_suffix('*')) {
        ("*", ..) => "(?s).+".to_owned(),
        (_, Some(suffix), _) => format!("(?s).*{}", regex::escape(suffix)),
        (_, _, Some(prefix)) => format!("(?s){}.*", regex::escape(prefix)),
        _ => regex::escape(value),
    };
    whole(&pattern, text)
}

fn whole(pattern: &str, text: &str) -> bool {
    thread_local! {
        static KNOWN: std::cell::RefCell<std::collections::HashMap<String, regex::Regex>> = Default::default();
    }
    KNOWN.with_borrow_mut(|known| {
        let pattern = format!("^(?:{pattern})$");
        let regex = known
            .entry(pattern)
            .or_insert_with_key(|pattern| regex::Regex::new(pattern).unwrap());
        regex.is_match(text)
    })
}
