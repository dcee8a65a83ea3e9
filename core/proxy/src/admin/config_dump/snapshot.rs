//! The snapshot in our own words: what Envoy's have no place for.

use serde_json::{Value, json};
use wayline_model::authorization::Authorization;
use wayline_model::authorization::spec::Action;
use wayline_model::snapshot::{Proxy, ProxyRole};

use super::{Reached, View, entrance_name, protocol};
use crate::admin::Admin;

/// wayline.admin.v1.SnapshotDump.
pub(super) fn section(view: &View, admin: &Admin) -> Value {
    let snapshot = &view.snapshot;
    let proxies: Vec<Value> = snapshot.proxies.iter().map(|it| proxy(it)).collect();
    let tunnels: Vec<Value> = view.targets().iter().flat_map(tunnel).collect();
    let entrances: Vec<Value> = snapshot
        .entrances
        .iter()
        .map(|it| {
            json!({
                "listener": entrance_name(it),
                "address": it.address.to_string(),
                "port": it.port,
                "policies": policies(&it.authorization),
            })
        })
        .collect();
    let mut unserved: Vec<_> = snapshot.tunnels.unserved.iter().collect();
    unserved.sort();
    let unserved: Vec<Value> = unserved
        .into_iter()
        .map(|(address, reason)| json!({"address": address.to_string(), "reason": &**reason}))
        .collect();
    json!({
        "generation": snapshot.generation,
        "last_updated": &view.applied,
        "proxies": proxies,
        "tunnels": tunnels,
        "entrances": entrances,
        "unserved": unserved,
        "findings": &*admin.findings(),
    })
}

fn proxy(proxy: &Proxy) -> Value {
    json!({
        "name": &*proxy.name,
        "namespace": &*proxy.namespace,
        "class": &*proxy.class,
        "role": match proxy.role {
            ProxyRole::Waypoint => "waypoint",
            ProxyRole::Gateway => "gateway",
        },
        "identity": proxy.identity.uri(),
    })
}

/// One entry by authority that a CONNECT may name.
fn tunnel(reached: &Reached<'_>) -> Vec<Value> {
    let target = reached.target;
    let addresses = reached.addresses.iter().map(ToString::to_string);
    let hosts = reached
        .hosts
        .iter()
        .map(|(host, port)| format!("{host}:{port}"));
    addresses
        .chain(hosts)
        .map(|authority| {
            let service = target.service.as_ref();
            json!({
                "authority": authority,
                "proxy": format!("{}/{}", target.proxy.namespace, target.proxy.name),
                "service": service.map(|it| format!("{}/{}", it.namespace, it.hostname)),
                "workload": target.workload.as_ref().map(|it| &*it.uid),
                "port": target.port,
                "protocol": protocol(target.protocol),
                "routes": reached.routes_requests().then_some(&reached.name),
                "policies": policies(&target.authorization),
            })
        })
        .collect()
}

fn policies(authorization: &Authorization) -> Value {
    let rules: Vec<Value> = authorization
        .rules()
        .map(|(action, dry_run, rule)| {
            json!({
                "rule": rule.to_string(),
                "action": match action {
                    Action::Allow => "ALLOW",
                    Action::Deny => "DENY",
                    Action::Custom => "CUSTOM",
                    Action::Audit => "AUDIT",
                },
                "dry_run": dry_run,
            })
        })
        .collect();
    json!({
        "denies_everything_because": authorization.denied_because(),
        "admits_only_what_is_allowed": authorization.admits_only_what_is_allowed(),
        "rules": rules,
    })
}
