//! `/config_dump`: the snapshot in force in the shape of Envoy's dump (envoy.admin.v3), so that
//! `istioctl proxy-config`, Kiali and people who know it find what they look for.
//!
//! Nothing here was configured in Envoy's terms; it is said in them. What they can not say stands in
//! the last element, our own `SnapshotDump`.

mod clusters;
mod listeners;
mod routes;
mod secrets;
mod snapshot;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;
use serde_json::{Map, Value, json};
use wayline_model::Snapshot;
use wayline_model::service::{AppProtocol, Cluster};
use wayline_model::snapshot::{Entrance, ProxyRole, Target};

use super::server::{Answer, Asked};
use super::{Admin, server};

/// Envoy's messages about its own state.
const ADMIN: &str = "type.googleapis.com/envoy.admin.v3";

/// The lists that `?resource=` may name: list, message of its items within the section's.
const RESOURCES: &[(&str, &str)] = &[
    (
        "dynamic_active_clusters",
        "ClustersConfigDump.DynamicCluster",
    ),
    (
        "dynamic_endpoint_configs",
        "EndpointsConfigDump.DynamicEndpointConfig",
    ),
    ("dynamic_listeners", "ListenersConfigDump.DynamicListener"),
    ("static_listeners", "ListenersConfigDump.StaticListener"),
    (
        "dynamic_route_configs",
        "RoutesConfigDump.DynamicRouteConfig",
    ),
    ("dynamic_active_secrets", "SecretsConfigDump.DynamicSecret"),
    ("dynamic_warming_secrets", "SecretsConfigDump.DynamicSecret"),
];

/// The page; `include_eds` adds endpoints, `resource` leaves one list of one section. Other parameters
/// of Envoy's (`mask`, `name_regex`) only ever leave something out, so they change nothing.
pub(super) fn page(admin: &Admin, asked: &Asked) -> Answer {
    let wanted = asked.parameter("resource").filter(|name| !name.is_empty());
    let with_endpoints = asked.flag("include_eds") || wanted == Some("dynamic_endpoint_configs");
    let view = View::of(admin);
    let sections = sections(&view, admin, with_endpoints);
    let Some(wanted) = wanted else {
        return Answer::json(&json!({"configs": sections}));
    };
    let Some((list, message)) = RESOURCES.iter().find(|(list, _)| *list == wanted) else {
        let known: Vec<&str> = RESOURCES.iter().map(|(list, _)| *list).collect();
        let text = format!(
            "there is no resource {wanted:?}; there are: {}\n",
            known.join(", ")
        );
        return Answer::refusal(StatusCode::NOT_FOUND, text);
    };
    let items: Vec<Value> = sections
        .into_iter()
        .filter_map(
            |mut section| match section.get_mut(*list).map(Value::take) {
                Some(Value::Array(items)) => Some(items),
                _ => None,
            },
        )
        .flatten()
        .map(|item| typed(&format!("{ADMIN}.{message}"), item))
        .collect();
    Answer::json(&json!({"configs": items}))
}

fn sections(view: &View, admin: &Admin, with_endpoints: bool) -> Vec<Value> {
    let section = |name: &str, content| typed(&format!("{ADMIN}.{name}"), content);
    let mut sections = vec![
        section("BootstrapConfigDump", bootstrap(view, admin)),
        section("ClustersConfigDump", clusters::section(view)),
        // Wasm extensions do not come one by one.
        section("EcdsConfigDump", json!({})),
    ];
    if with_endpoints {
        sections.push(section("EndpointsConfigDump", clusters::endpoints(view)));
    }
    sections.extend([
        section("ListenersConfigDump", listeners::section(view, admin)),
        // Routes are selected by listener and caller, never by scope.
        section("ScopedRoutesConfigDump", json!({})),
        section("RoutesConfigDump", routes::section(view)),
        section("SecretsConfigDump", secrets::section(admin)),
        typed(
            "type.googleapis.com/wayline.admin.v1.SnapshotDump",
            snapshot::section(view, admin),
        ),
    ]);
    sections
}

/// One snapshot with what every resource says of its age.
struct View {
    snapshot: Arc<Snapshot>,
    /// `version_info`.
    version: String,
    /// `last_updated`.
    applied: String,
}

impl View {
    fn of(admin: &Admin) -> Self {
        let snapshot = admin.snapshot();
        Self {
            version: snapshot.generation.to_string(),
            applied: timestamp(admin.applied()),
            snapshot,
        }
    }

    /// The targets of tunnels, each once, with the addresses and hosts that lead to it.
    fn targets(&self) -> Vec<Reached<'_>> {
        let mut all: Vec<Reached<'_>> = Vec::new();
        let mut known = std::collections::HashMap::new();
        let tunnels = &self.snapshot.tunnels;
        let by_address = tunnels
            .by_address
            .iter()
            .map(|((_, ip, port), target)| (SocketAddr::new(*ip, *port), target));
        for (address, target) in by_address {
            let at = *known.entry(Arc::as_ptr(target)).or_insert_with(|| {
                all.push(Reached::new(target));
                all.len() - 1
            });
            all[at].addresses.push(address);
        }
        for (host, targets) in &tunnels.by_host {
            for (port, target) in targets {
                let at = *known.entry(Arc::as_ptr(target)).or_insert_with(|| {
                    all.push(Reached::new(target));
                    all.len() - 1
                });
                all[at].hosts.push((host.as_str(), *port));
            }
        }
        for reached in &mut all {
            reached.addresses.sort();
            reached.hosts.sort();
        }
        all.sort_by(|one, other| (&one.name, &one.addresses).cmp(&(&other.name, &other.addresses)));
        all
    }
}

/// A target and what leads to it.
struct Reached<'a> {
    target: &'a Arc<Target>,
    /// Name of its filter chain and route configuration, as istiod names them at waypoints.
    name: String,
    addresses: Vec<SocketAddr>,
    hosts: Vec<(&'a str, u16)>,
}

impl<'a> Reached<'a> {
    fn new(target: &'a Arc<Target>) -> Self {
        let port = target.port;
        let spoken = if target.protocol.is_opaque() {
            "tcp"
        } else {
            "http"
        };
        let name = match (&target.service, &target.workload) {
            (Some(service), _) => format!("inbound-vip|{port}|{spoken}|{}", service.hostname),
            (None, Some(workload)) => format!(
                "inbound-pod|{port}|{spoken}|{}.{}",
                workload.name, workload.namespace
            ),
            (None, None) => format!("inbound|{port}|{spoken}|"),
        };
        Self {
            target,
            name,
            addresses: Vec::new(),
            hosts: Vec::new(),
        }
    }

    /// Whether requests are routed; bytes of an undeclared protocol may turn out to be.
    fn routes_requests(&self) -> bool {
        !self.target.protocol.is_opaque()
    }

    /// Whether bytes may be passed on as they are.
    fn passes_bytes(&self) -> bool {
        !self.target.protocol.is_http()
    }
}

/// Name of an entrance's listener and route configuration.
fn entrance_name(entrance: &Entrance) -> String {
    let proxy = &entrance.proxy;
    format!("{}/{}:{}", proxy.namespace, proxy.name, entrance.port)
}

/// All clusters in the order of their names.
pub(super) fn cluster_names(snapshot: &Snapshot) -> Vec<&Arc<Cluster>> {
    let mut clusters: Vec<_> = snapshot.clusters.values().collect();
    clusters.sort_by_key(|cluster| (&cluster.name, cluster.id));
    clusters
}

/// envoy.config.core.v3.Address.
pub(super) fn socket_address(address: SocketAddr) -> Value {
    json!({
        "socket_address": {
            "address": address.ip().to_string(),
            "port_value": address.port(),
        },
    })
}

/// envoy.config.core.v3.Locality.
pub(super) fn locality(zone: &str) -> Value {
    if zone.is_empty() {
        json!({})
    } else {
        json!({"zone": zone})
    }
}

/// envoy.config.core.v3.Node: who this process is, by the first waypoint it plays, else its first
/// gateway.
///
/// The address is the one traffic comes in at, which is the unspecified one when that is all of them.
pub(super) fn node(admin: &Admin) -> Value {
    let snapshot = admin.snapshot();
    let mut proxies = snapshot.proxies.iter();
    let first = proxies
        .find(|proxy| proxy.role == ProxyRole::Waypoint)
        .or_else(|| snapshot.proxies.first());
    let role = match first.map(|proxy| proxy.role) {
        Some(ProxyRole::Gateway) => "router",
        Some(ProxyRole::Waypoint) | None => "waypoint",
    };
    let (name, namespace) = first.map_or(("", ""), |proxy| (&*proxy.name, &*proxy.namespace));
    let ip = crate::listener::names(&snapshot)
        .iter()
        .find_map(|name| admin.listeners.bound(name))
        .map_or_else(|| "0.0.0.0".to_owned(), |address| address.ip().to_string());
    let domain = &snapshot.mesh.cluster_domain;
    json!({
        "id": format!("{role}~{ip}~{name}.{namespace}~{namespace}.svc.{domain}"),
        "cluster": format!("{name}.{namespace}"),
        "metadata": {
            "CLUSTER_ID": &*snapshot.mesh.cluster_id,
            "NAMESPACE": namespace,
            "NETWORK": &*snapshot.mesh.network,
            "SERVICE_ACCOUNT": first.map(|proxy| proxy.identity.service_account()),
        },
        "user_agent_name": "wayline",
        "user_agent_version": env!("CARGO_PKG_VERSION"),
    })
}

fn bootstrap(view: &View, admin: &Admin) -> Value {
    let address = admin.listener(server::Port::Admin.name());
    let address = address.map(|status| socket_address(status.bound.unwrap_or(status.wanted)));
    json!({
        "bootstrap": {
            "node": node(admin),
            "admin": {"address": address},
            "static_resources": {},
            "dynamic_resources": {},
        },
        "last_updated": timestamp(admin.started.1),
        "version_info": &view.version,
    })
}

/// google.protobuf.Any: a message with its type.
fn typed(message: &str, content: Value) -> Value {
    let mut fields = Map::new();
    fields.insert("@type".to_owned(), message.into());
    if let Value::Object(content) = content {
        fields.extend(content);
    }
    Value::Object(fields)
}

/// google.protobuf.Timestamp as JSON.
fn timestamp(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time)
        .map(|time| format!("{time:.3}"))
        .unwrap_or_default()
}

/// Envoy's `codec_type` and friends do not say it: what is spoken on a port.
fn protocol(protocol: AppProtocol) -> &'static str {
    match protocol {
        AppProtocol::Http => "http",
        AppProtocol::Http2 => "http2",
        AppProtocol::Grpc => "grpc",
        AppProtocol::Tcp => "tcp",
        AppProtocol::Tls => "tls",
        AppProtocol::Undeclared => "undeclared",
    }
}
