//! The short pages: numbers, listeners, clusters, and who this process is.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::SystemTime;

use http::StatusCode;
use serde_json::{Value, json};
use wayline_model::Severity;
use wayline_model::service::{Cluster, Endpoint};

use super::config_dump::{cluster_names, locality, node, socket_address};
use super::server::{Answer, Asked};
use super::{Admin, State, server};

/// Content type of Prometheus' text format.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `/stats/prometheus`.
pub(super) fn prometheus(admin: &Admin) -> Answer {
    match admin.scrape() {
        Ok(body) => Answer {
            status: StatusCode::OK,
            content_type: PROMETHEUS,
            body,
        },
        Err(error) => Answer::refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// `/stats`: `name: value` by line.
pub(super) fn page(admin: &Admin, asked: &Asked) -> Answer {
    let format = asked.parameter("format");
    if format == Some("prometheus") {
        return prometheus(admin);
    }
    let filter = asked.parameter("filter").unwrap_or_default();
    let mut stats = match numbers(admin) {
        Ok(stats) => stats,
        Err(error) => {
            return Answer::refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"));
        }
    };
    stats.retain(|(name, _)| name.contains(filter));
    stats.sort();
    if format == Some("json") {
        let stats: Vec<Value> = stats
            .iter()
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect();
        return Answer::json(&json!({"stats": stats}));
    }
    let mut text = String::new();
    for (name, value) in stats {
        let _infallible = writeln!(text, "{name}: {value}");
    }
    Answer::text(text)
}

fn numbers(admin: &Admin) -> Result<Vec<(String, u64)>, String> {
    let snapshot = admin.snapshot();
    let listeners = admin.listeners.all();
    let state = admin.state();
    let mut stats: Vec<(String, u64)> = Vec::new();
    let mut add = |name: &str, value: u64| stats.push((name.to_owned(), value));
    add("server.live", u64::from(state == State::Live));
    add("server.state", state.number());
    add("server.uptime", admin.started.0.elapsed().as_secs());
    add("server.concurrency", admin.loads.len() as u64);
    let expiry = admin.known.certificates.status().current;
    if let Some(epoch) = expiry {
        let left = epoch.not_after().duration_since(SystemTime::now());
        let days = left.map_or(0, |left| left.as_secs() / 86_400);
        add("server.days_until_first_cert_expiring", days);
    }
    let open = listeners.iter().filter(|status| status.bound.is_ok());
    add(
        "listener_manager.total_listeners_active",
        open.count() as u64,
    );
    for status in &listeners {
        let is_open = u64::from(status.bound.is_ok());
        add(&format!("listener.{}.open", status.name), is_open);
    }
    add(
        "cluster_manager.active_clusters",
        snapshot.clusters.len() as u64,
    );
    let findings = admin.findings();
    for (name, severity) in [("error", Severity::Error), ("hint", Severity::Hint)] {
        let count = findings.iter().filter(|it| it.severity == severity).count();
        add(&format!("config.findings.{name}"), count as u64);
    }
    for (index, load) in admin.loads.iter().enumerate() {
        let (streams, connections) = load.weight();
        add(&format!("worker.{index}.connections"), connections as u64);
        add(&format!("worker.{index}.streams"), streams as u64);
    }
    stats.extend(own_metrics(&admin.scrape()?));
    Ok(stats)
}

/// Our own whole numbers out of the scrape, labels and all.
fn own_metrics(scrape: &str) -> impl Iterator<Item = (String, u64)> {
    scrape
        .lines()
        .filter(|line| line.starts_with("wayline_"))
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
}

/// `/listeners`.
pub(super) fn listeners(admin: &Admin, asked: &Asked) -> Answer {
    let all = admin.listeners.all();
    if asked.parameter("format") == Some("json") {
        let statuses: Vec<Value> = all
            .iter()
            .map(|status| match &status.bound {
                Ok(address) => {
                    json!({"name": status.name, "local_address": socket_address(*address)})
                }
                Err(reason) => json!({
                    "name": status.name,
                    "local_address": socket_address(status.wanted),
                    "not_open_because": reason,
                }),
            })
            .collect();
        return Answer::json(&json!({"listener_statuses": statuses}));
    }
    let mut text = String::new();
    for status in all {
        let _infallible = match status.bound {
            Ok(address) => writeln!(text, "{}::{address}", status.name),
            Err(reason) => writeln!(
                text,
                "{}::{}::not open: {reason}",
                status.name, status.wanted
            ),
        };
    }
    Answer::text(text)
}

/// `/clusters`.
///
/// Connections and requests of an endpoint are known to the cores that hold them, and are not shown.
pub(super) fn clusters(admin: &Admin, asked: &Asked) -> Answer {
    let snapshot = admin.snapshot();
    let clusters = cluster_names(&snapshot);
    if asked.parameter("format") == Some("json") {
        let statuses: Vec<Value> = clusters.iter().map(|it| cluster_status(it)).collect();
        return Answer::json(&json!({"cluster_statuses": statuses}));
    }
    let mut text = String::new();
    for cluster in clusters {
        let name = &cluster.name;
        let _infallible = writeln!(text, "{name}::added_via_api::true");
        for endpoint in &cluster.endpoints {
            let address: SocketAddr = endpoint.address;
            for (key, value) in [
                ("hostname", pod(endpoint)),
                ("health_flags", "healthy"),
                ("weight", "1"),
                ("zone", &endpoint.zone),
            ] {
                let _infallible = writeln!(text, "{name}::{address}::{key}::{value}");
            }
        }
    }
    Answer::text(text)
}

fn cluster_status(cluster: &Cluster) -> Value {
    let hosts: Vec<Value> = cluster
        .endpoints
        .iter()
        .map(|endpoint| {
            json!({
                "address": socket_address(endpoint.address),
                "health_status": {"eds_health_status": "HEALTHY"},
                "weight": 1,
                "hostname": pod(endpoint),
                "locality": locality(&endpoint.zone),
            })
        })
        .collect();
    json!({
        "name": &*cluster.name,
        "added_via_api": true,
        "host_statuses": hosts,
        "observability_name": &*cluster.name,
    })
}

fn pod(endpoint: &Endpoint) -> &str {
    let workload = endpoint.workload.as_ref();
    workload.map_or("", |workload| &workload.name)
}

/// `/server_info`.
pub(super) fn server_info(admin: &Admin) -> Answer {
    let uptime = format!("{}s", admin.started.0.elapsed().as_secs());
    let admin_address = admin.listener(server::Port::Admin.name());
    Answer::json(&json!({
        "version": concat!("wayline/", env!("CARGO_PKG_VERSION")),
        "state": admin.state().word(),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": "disabled",
        "command_line_options": {
            "concurrency": admin.loads.len(),
            "admin_address_path": admin_address.map(|status| status.wanted.to_string()),
        },
        "node": node(admin),
    }))
}

impl State {
    /// Envoy's enumerator.
    fn word(self) -> &'static str {
        match self {
            Self::Live => "LIVE",
            Self::Draining => "DRAINING",
            Self::PreInitializing => "PRE_INITIALIZING",
            Self::Initializing => "INITIALIZING",
        }
    }

    /// Envoy's number.
    fn number(self) -> u64 {
        match self {
            Self::Live => 0,
            Self::Draining => 1,
            Self::PreInitializing => 2,
            Self::Initializing => 3,
        }
    }
}
