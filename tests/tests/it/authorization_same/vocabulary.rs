//! Envoy's words for what policies ask, as short as the policies are, and a case that holds both.
//! Nothing here reads a policy: every translation is written by hand, in the forms that istiod uses.

use serde_json::{Map, Value, json};

/// Policies for one service, what istiod would make of them, and where the two proxies differ.
pub(super) struct Case {
    /// Name of the service; its policies are `<name>-p0`, `<name>-p1` …
    pub(super) name: &'static str,
    pub(super) policies: Vec<Written>,
    /// RBAC filters, in the order in which they stand.
    pub(super) envoy: Vec<Value>,
    /// Probes that Envoy lets pass and Wayline refuses, on purpose.
    pub(super) stricter: Vec<&'static str>,
    /// Probes that Envoy refuses and Wayline lets pass, on purpose.
    pub(super) laxer: Vec<&'static str>,
}

/// One AuthorizationPolicy: `spec` without targets.
pub(super) struct Written {
    pub(super) spec: &'static str,
    pub(super) is_dry_run: bool,
}

/// A case with one policy and one filter.
pub(super) fn case(name: &'static str, spec: &'static str, filter: Value) -> Case {
    none(name).policy(spec).filter(filter)
}

/// A case without policies.
pub(super) fn none(name: &'static str) -> Case {
    Case {
        name,
        policies: Vec::new(),
        envoy: Vec::new(),
        stricter: Vec::new(),
        laxer: Vec::new(),
    }
}

impl Case {
    pub(super) fn policy(self, spec: &'static str) -> Self {
        self.written(spec, false)
    }

    pub(super) fn dry_run(self, spec: &'static str) -> Self {
        self.written(spec, true)
    }

    pub(super) fn filter(mut self, filter: Value) -> Self {
        self.envoy.push(filter);
        self
    }

    pub(super) fn stricter(mut self, probes: &[&'static str]) -> Self {
        self.stricter.extend(probes);
        self
    }

    fn written(mut self, spec: &'static str, is_dry_run: bool) -> Self {
        self.policies.push(Written { spec, is_dry_run });
        self
    }
}

/// One rule as an Envoy policy.
pub(super) struct Rule {
    policy: usize,
    index: usize,
    permission: Value,
    principal: Value,
}

/// Rule `index` of the case's first policy.
pub(super) fn rule(index: usize, permission: Value, principal: Value) -> Rule {
    Rule {
        policy: 0,
        index,
        permission,
        principal,
    }
}

impl Rule {
    /// The rule as one of another policy of the case.
    pub(super) fn of(mut self, policy: usize) -> Self {
        self.policy = policy;
        self
    }
}

/// The filter of ALLOW policies.
pub(super) fn allow<const N: usize>(rules: [Rule; N]) -> Value {
    filter(&[("rules", policies("ALLOW", &rules))])
}

/// The filter of DENY policies.
pub(super) fn deny<const N: usize>(rules: [Rule; N]) -> Value {
    filter(&[("rules", policies("DENY", &rules))])
}

/// The filter of AUDIT policies.
pub(super) fn audit<const N: usize>(rules: [Rule; N]) -> Value {
    filter(&[("rules", policies("LOG", &rules))])
}

/// The filter of ALLOW policies on trial.
pub(super) fn shadow_allow<const N: usize>(rules: [Rule; N]) -> Value {
    let prefix = json!("istio_dry_run_allow_");
    filter(&[
        ("shadow_rules", policies("ALLOW", &rules)),
        ("shadow_rules_stat_prefix", prefix),
    ])
}

/// The filter of DENY policies on trial.
pub(super) fn shadow_deny<const N: usize>(rules: [Rule; N]) -> Value {
    let prefix = json!("istio_dry_run_deny_");
    filter(&[
        ("shadow_rules", policies("DENY", &rules)),
        ("shadow_rules_stat_prefix", prefix),
    ])
}

fn filter(fields: &[(&str, Value)]) -> Value {
    let kind = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
    let mut config = Map::from_iter([("@type".to_owned(), json!(kind))]);
    for (name, value) in fields {
        config.insert((*name).to_owned(), value.clone());
    }
    json!({"name": "envoy.filters.http.rbac", "typed_config": config})
}

fn policies(action: &str, rules: &[Rule]) -> Value {
    let policies: Map<String, Value> = rules
        .iter()
        .map(|rule| {
            let name = format!(
                "ns[default]-policy[CASE-p{}]-rule[{}]",
                rule.policy, rule.index
            );
            let body = json!({"permissions": [rule.permission], "principals": [rule.principal]});
            (name, body)
        })
        .collect();
    json!({"action": action, "policies": policies})
}

pub(super) fn exact(text: &str) -> Value {
    json!({"exact": text})
}

pub(super) fn prefix(text: &str) -> Value {
    json!({"prefix": text})
}

pub(super) fn suffix(text: &str) -> Value {
    json!({"suffix": text})
}

pub(super) fn regex(text: &str) -> Value {
    json!({"safe_regex": {"regex": text}})
}

/// What `*` asks for.
pub(super) fn present() -> Value {
    regex(".+")
}

fn network(text: &str) -> Value {
    let (address, length) = text.split_once('/').unwrap();
    json!({"address_prefix": address, "prefix_len": length.parse::<u8>().unwrap()})
}

fn header_of(name: &str, matcher: &Value) -> Value {
    json!({"header": {"name": name, "string_match": matcher}})
}

/// Principals.
pub(super) mod who {
    use super::*;

    pub(crate) fn any() -> Value {
        json!({"any": true})
    }

    pub(crate) fn all<const N: usize>(ids: [Value; N]) -> Value {
        json!({"and_ids": {"ids": ids.to_vec()}})
    }

    pub(crate) fn one_of<const N: usize>(ids: [Value; N]) -> Value {
        json!({"or_ids": {"ids": ids.to_vec()}})
    }

    pub(crate) fn not(id: Value) -> Value {
        json!({"not_id": id})
    }

    /// The tunnel's client.
    pub(crate) fn peer(matcher: Value) -> Value {
        json!({"filter_state": {"key": "io.istio.peer_principal", "string_match": matcher}})
    }

    /// `cluster.local/<path>` under either name of the trust domain.
    pub(crate) fn ours(path: &str, matcher: fn(&str) -> Value) -> Value {
        one_of([
            peer(matcher(&format!("spiffe://cluster.local/{path}"))),
            peer(matcher(&format!("spiffe://old.domain/{path}"))),
        ])
    }

    pub(crate) fn namespace(pattern: &str) -> Value {
        peer(regex(&format!(".*/ns/{pattern}/.*")))
    }

    pub(crate) fn account(namespace: &str, account: &str) -> Value {
        peer(regex(&format!(
            "spiffe://.+/ns/{namespace}/(.+/|)sa/{account}(/.+)?"
        )))
    }

    /// The tunnel's client. Istiod writes `direct_remote_ip`, which behind a tunnel is the address of
    /// Envoy's internal connection and never matches.
    pub(crate) fn source(network: &str) -> Value {
        remote(network)
    }

    pub(crate) fn remote(network: &str) -> Value {
        json!({"remote_ip": super::network(network)})
    }

    pub(crate) fn header(name: &str, matcher: Value) -> Value {
        header_of(name, &matcher)
    }

    pub(crate) fn has_header(name: &str) -> Value {
        json!({"header": {"name": name, "present_match": true}})
    }

    /// A claim that is a text, or a list with such a text.
    pub(crate) fn claim<const N: usize>(path: &[&str], matchers: [Value; N]) -> Value {
        let texts = matchers.iter().map(|it| json!({"string_match": it}));
        let mut texts: Vec<Value> = texts.collect();
        let text = match texts.len() {
            1 => texts.remove(0),
            _ => json!({"or_match": {"value_matchers": texts}}),
        };
        metadata(
            path,
            &json!({"or_match": {"value_matchers": [text, {"list_match": {"one_of": text}}]}}),
        )
    }

    /// Issuer and subject of the token.
    pub(crate) fn subject(issuer: Value, subject: Value) -> Value {
        all([
            metadata(&["iss"], &json!({"string_match": issuer})),
            metadata(&["sub"], &json!({"string_match": subject})),
        ])
    }

    fn metadata(path: &[&str], value: &Value) -> Value {
        let keys = std::iter::once(&"payload").chain(path);
        let path: Vec<Value> = keys.map(|key| json!({"key": key})).collect();
        json!({"metadata": {"filter": "envoy.filters.http.jwt_authn", "path": path, "value": value}})
    }
}

/// Permissions.
pub(super) mod what {
    use super::*;

    pub(crate) fn any() -> Value {
        json!({"any": true})
    }

    pub(crate) fn all<const N: usize>(rules: [Value; N]) -> Value {
        json!({"and_rules": {"rules": rules.to_vec()}})
    }

    pub(crate) fn one_of<const N: usize>(rules: [Value; N]) -> Value {
        json!({"or_rules": {"rules": rules.to_vec()}})
    }

    pub(crate) fn not(rule: Value) -> Value {
        json!({"not_rule": rule})
    }

    pub(crate) fn method(matcher: Value) -> Value {
        header_of(":method", &matcher)
    }

    pub(crate) fn path(matcher: Value) -> Value {
        json!({"url_path": {"path": matcher}})
    }

    /// Envoy's own form of a template: without the braces.
    pub(crate) fn template(text: &str) -> Value {
        let kind = "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig";
        json!({"uri_template": {"name": "uri-template",
            "typed_config": {"@type": kind, "path_template": text}}})
    }

    pub(crate) fn host(mut matcher: Value) -> Value {
        match matcher.get_mut("safe_regex") {
            Some(_) => {}
            None => matcher["ignore_case"] = json!(true),
        }
        header_of(":authority", &matcher)
    }

    pub(crate) fn port(number: u16) -> Value {
        json!({"destination_port": number})
    }

    pub(crate) fn address(network: &str) -> Value {
        json!({"destination_ip": super::network(network)})
    }

    pub(crate) fn server_name(matcher: Value) -> Value {
        json!({"requested_server_name": matcher})
    }
}
