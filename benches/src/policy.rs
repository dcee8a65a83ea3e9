//! The policy of the scenes, written for each contestant: 10 rules, of which the last allows what
//! is measured. Each rule wants a method and a path and, where there is one, the client's identity.

use serde_json::{Value, json};

use crate::scene::client_identity;

const RULES: usize = 10;

/// The path prefixes of the rules.
fn prefixes() -> impl Iterator<Item = String> {
    let others = (1..RULES).map(|rule| format!("/section-{rule}/"));
    others.chain(std::iter::once("/api/".to_owned()))
}

/// The rules of an AuthorizationPolicy, as JSON.
#[must_use]
pub fn istio(with_identity: bool) -> Value {
    let rules = prefixes().map(|prefix| {
        let mut rule = json!({
            "to": [{ "operation": { "methods": ["GET"], "paths": [format!("{prefix}*")] } }],
        });
        if with_identity {
            rule["from"] = json!([{ "source": { "principals": [client_identity().principal()] } }]);
        }
        rule
    });
    rules.collect()
}

/// The one rule of the policy of that number among many, for a client that never comes.
#[must_use]
pub fn istio_of_another(index: usize, with_identity: bool) -> Value {
    let path = format!("/tenants/{index}/*");
    let mut rule = json!({ "to": [{ "operation": { "methods": ["GET"], "paths": [path] } }] });
    if with_identity {
        let principal = format!("cluster.local/ns/tenants/sa/tenant-{index}");
        rule["from"] = json!([{ "source": { "principals": [principal] } }]);
    }
    json!([rule])
}

/// The RBAC filter in the form that istiod gives it, as JSON.
#[must_use]
pub fn envoy(with_identity: bool) -> Value {
    let principal = if with_identity {
        json!({ "filter_state": {
            "key": "io.istio.peer_principal",
            "string_match": { "exact": client_identity().uri() },
        } })
    } else {
        json!({ "any": true })
    };
    let principal = json!({ "and_ids": { "ids": [{ "or_ids": { "ids": [principal] } }] } });
    let policies: serde_json::Map<String, Value> = prefixes()
        .enumerate()
        .map(|(rule, prefix)| {
            let method =
                json!({ "header": { "name": ":method", "string_match": { "exact": "GET" } } });
            let path = json!({ "url_path": { "path": { "prefix": prefix } } });
            let all_of = json!([
                { "or_rules": { "rules": [method] } },
                { "or_rules": { "rules": [path] } },
            ]);
            let policy = json!({
                "permissions": [{ "and_rules": { "rules": all_of } }],
                "principals": [principal],
            });
            (format!("ns[bench]-policy[echo]-rule[{rule}]"), policy)
        })
        .collect();
    json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": { "action": "ALLOW", "policies": policies },
        },
    })
}

/// HAProxy's rules, as lines of a frontend.
#[must_use]
pub fn haproxy() -> String {
    let mut lines = String::new();
    for prefix in prefixes() {
        lines += &format!("    http-request allow if METH_GET {{ path_beg {prefix} }}\n");
    }
    lines + "    http-request deny\n"
}
