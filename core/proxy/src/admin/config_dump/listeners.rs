//! Listeners and their filter chains (envoy.config.listener.v3).

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use wayline_model::Snapshot;

use super::{Reached, View, entrance_name, socket_address, timestamp, typed};
use crate::admin::Admin;
use crate::admin::server::Port;
use crate::listener;

/// ListenersConfigDump: what traffic comes in at is dynamic, our own ports are static.
pub(super) fn section(view: &View, admin: &Admin) -> Value {
    let mut dynamic = Vec::new();
    let of_waypoints = listener::of_waypoints(&view.snapshot).into_iter();
    dynamic.extend(of_waypoints.map(|name| {
        let mut entry = listener(view, admin, &name, tunnels(view));
        if name != listener::HBONE {
            behind_proxy_protocol(&mut entry);
        }
        entry
    }));
    let mut entrances: Vec<_> = view.snapshot.entrances.iter().collect();
    entrances.sort_by_key(|it| (entrance_name(it), it.address));
    dynamic.extend(entrances.into_iter().map(|it| {
        let name = entrance_name(it);
        listener(view, admin, &name, vec![entrance_chain(&name)])
    }));
    let fixed: Vec<Value> = [Port::Status, Port::Metrics]
        .into_iter()
        .filter_map(|port| {
            let address = admin.listeners.bound(port.name())?;
            Some(json!({
                "listener": message(port.name(), address, vec![probes(port)]),
                "last_updated": timestamp(admin.started.1),
            }))
        })
        .collect();
    json!({
        "version_info": &view.version,
        "static_listeners": fixed,
        "dynamic_listeners": dynamic,
    })
}

fn listener(view: &View, admin: &Admin, name: &str, chains: Vec<Value>) -> Value {
    match admin.listener(name).map(|status| status.bound) {
        Some(Ok(address)) => json!({
            "name": name,
            "active_state": {
                "version_info": &view.version,
                "listener": message(name, address, chains),
                "last_updated": &view.applied,
            },
        }),
        failed => json!({
            "name": name,
            "error_state": {
                "last_update_attempt": &view.applied,
                "details": match failed {
                    Some(Err(reason)) => reason,
                    _ => "not opened yet".to_owned(),
                },
            },
        }),
    }
}

/// What a ztunnel hands over says in front who called.
fn behind_proxy_protocol(entry: &mut Value) {
    if let Some(listener) = entry.pointer_mut("/active_state/listener") {
        listener["listener_filters"] = json!([{
            "name": "envoy.filters.listener.proxy_protocol",
            "typed_config": typed(
                "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
                json!({"pass_through_tlvs": {"match_type": "INCLUDE", "tlv_type": [0xD0]}}),
            ),
        }]);
    }
}

fn message(name: &str, address: SocketAddr, chains: Vec<Value>) -> Value {
    let content = json!({
        "name": name,
        "address": socket_address(address),
        "filter_chains": chains,
        "traffic_direction": "INBOUND",
    });
    typed(
        "type.googleapis.com/envoy.config.listener.v3.Listener",
        content,
    )
}

/// One chain by target: what the CONNECT authority selects. Envoy would have an internal listener for
/// them; here the tunnel's own listener does it.
fn tunnels(view: &View) -> Vec<Value> {
    let targets = view.targets();
    targets
        .iter()
        .flat_map(|reached| chains(&view.snapshot, reached))
        .collect()
}

fn chains(snapshot: &Snapshot, reached: &Reached<'_>) -> Vec<Value> {
    let mut chains = Vec::new();
    let ports = reached.addresses.iter().map(SocketAddr::port);
    let port = ports
        .chain(reached.hosts.iter().map(|(_, port)| *port))
        .next();
    let ranges: Vec<Value> = reached
        .addresses
        .iter()
        .map(|it| prefix_range(it.ip()))
        .collect();
    let mut select = json!({"prefix_ranges": ranges});
    if let Some(port) = port {
        select["destination_port"] = port.into();
    }
    if reached.routes_requests() {
        let mut select = select.clone();
        if reached.passes_bytes() {
            select["application_protocols"] = json!(["http/1.1", "h2c"]);
        }
        chains.push(json!({
            "name": &reached.name,
            "filter_chain_match": select,
            "filters": [connection_manager(&reached.name, json!({
                "rds": {
                    "config_source": {"ads": {}, "resource_api_version": "V3"},
                    "route_config_name": &reached.name,
                },
            }))],
        }));
    }
    if reached.passes_bytes() {
        let cluster = snapshot.clusters.get(&reached.target.cluster);
        let content = json!({
            "stat_prefix": &reached.name,
            "cluster": cluster.map_or("", |cluster| &cluster.name),
        });
        chains.push(json!({
            "name": &reached.name,
            "filter_chain_match": select,
            "filters": [{
                "name": "envoy.filters.network.tcp_proxy",
                "typed_config": typed(
                    "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                    content,
                ),
            }],
        }));
    }
    chains
}

fn prefix_range(ip: IpAddr) -> Value {
    let length = if ip.is_ipv4() { 32 } else { 128 };
    json!({"address_prefix": ip.to_string(), "prefix_len": length})
}

fn entrance_chain(name: &str) -> Value {
    json!({
        "name": name,
        "filters": [connection_manager(name, json!({
            "rds": {
                "config_source": {"ads": {}, "resource_api_version": "V3"},
                "route_config_name": name,
            },
        }))],
    })
}

fn probes(port: Port) -> Value {
    let paths: &[&str] = match port {
        Port::Metrics => &["/stats/prometheus", "/metrics", "/healthz/ready"],
        Port::Admin | Port::Status => &["/healthz/ready", "/healthz/live"],
    };
    let routes: Vec<Value> = paths
        .iter()
        .map(|path| json!({"match": {"path": path}, "direct_response": {"status": 200}}))
        .collect();
    let routes = json!({
        "route_config": {
            "virtual_hosts": [{"name": port.name(), "domains": ["*"], "routes": routes}],
        },
    });
    json!({"filters": [connection_manager(port.name(), routes)]})
}

fn connection_manager(name: &str, mut content: Value) -> Value {
    content["stat_prefix"] = name.into();
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": typed(
            "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            content,
        ),
    })
}
