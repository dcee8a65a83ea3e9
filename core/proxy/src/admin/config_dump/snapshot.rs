//! The snapshot in our own words: what Envoy's have no place for.

use serde_json::{Value, json};
use wayline_model::ObjectRef;
use wayline_model::authorization::Authorization;
use wayline_model::authorization::spec::Action;
use wayline_model::plugin::{AttachedPlugin, Verdict};
use wayline_model::snapshot::{Proxy, ProxyRole};
use wayline_model::status::{Status, Statuses};

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
                "plugins": names(&it.plugins),
            })
        })
        .collect();
    let plugins: Vec<Value> = snapshot.plugins.iter().map(plugin).collect();
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
        "plugins": plugins,
        "findings": &*admin.findings(),
        "statuses": statuses(view, admin),
    })
}

/// The statuses of the objects, with what only the data path knows: whether ports could be bound.
fn statuses(view: &View, admin: &Admin) -> Statuses {
    let snapshot = &view.snapshot;
    let mut statuses = (*snapshot.statuses).clone();
    let waypoints = snapshot
        .proxies
        .iter()
        .filter(|proxy| proxy.role == ProxyRole::Waypoint)
        .map(|proxy| (proxy, crate::listener::HBONE.to_owned()));
    let gateways = snapshot
        .entrances
        .iter()
        .map(|entrance| (&entrance.proxy, entrance_name(entrance)));
    for (proxy, listener) in waypoints.chain(gateways) {
        let Some(Err(failure)) = admin.listener(&listener).map(|status| status.bound) else {
            continue;
        };
        let object = ObjectRef::new("Gateway", &proxy.namespace, &proxy.name);
        let status = statuses.all.iter_mut().find(|it| it.object == object);
        if let Some(Status::Gateway(status)) = status.map(|it| &mut it.status) {
            status.deny_programmed(&failure);
        }
    }
    statuses
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
        "proxyProtocol": proxy.proxy_protocol,
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
                "plugins": names(&target.plugins),
            })
        })
        .collect()
}

/// The plugins in force, in their order.
fn names(plugins: &[AttachedPlugin]) -> Value {
    let names = plugins.iter().map(|it| &*it.plugin.name);
    names.collect()
}

/// A plugin and what became of it. Its configuration may hold secrets and stays out.
fn plugin(it: &AttachedPlugin) -> Value {
    let AttachedPlugin { plugin, verdict } = it;
    let (digest, trouble) = match verdict {
        Verdict::Ready { digest, trouble } => (Some(&**digest), trouble.as_deref()),
        Verdict::Failed(reason) => (None, Some(&**reason)),
        Verdict::Pending => (None, None),
    };
    json!({
        "name": &*plugin.name,
        "object": plugin.object.to_string(),
        "key": plugin.key.to_string(),
        "url": &*plugin.module.url,
        "phase": plugin.phase.as_str(),
        "priority": plugin.priority,
        "fail_strategy": plugin.fail_strategy.as_str(),
        "state": verdict.word(),
        "digest": digest,
        "reason": trouble,
    })
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
