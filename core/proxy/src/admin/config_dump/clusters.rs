//! Clusters and their endpoints (envoy.config.cluster.v3, envoy.config.endpoint.v3).

use std::collections::BTreeMap;

use serde_json::{Value, json};
use wayline_model::service::{Cluster, Endpoint, Transport};
use wayline_model::workload::Workload;

use super::{View, cluster_names, locality, socket_address, typed};

/// ClustersConfigDump.
pub(super) fn section(view: &View) -> Value {
    let clusters: Vec<Value> = cluster_names(&view.snapshot)
        .into_iter()
        .map(|it| {
            json!({
                "version_info": &view.version,
                "cluster": cluster(it),
                "last_updated": &view.applied,
            })
        })
        .collect();
    json!({"version_info": &view.version, "dynamic_active_clusters": clusters})
}

/// EndpointsConfigDump.
pub(super) fn endpoints(view: &View) -> Value {
    let assignments: Vec<Value> = cluster_names(&view.snapshot)
        .into_iter()
        .map(|it| {
            json!({
                "version_info": &view.version,
                "endpoint_config": assignment(it),
                "last_updated": &view.applied,
            })
        })
        .collect();
    json!({"dynamic_endpoint_configs": assignments})
}

fn cluster(cluster: &Cluster) -> Value {
    let services: Vec<Value> = cluster
        .service
        .iter()
        .map(|service| {
            json!({
                "host": service.hostname.as_str(),
                "name": &*service.name,
                "namespace": &*service.namespace,
            })
        })
        .collect();
    let content = json!({
        "name": &*cluster.name,
        "type": "EDS",
        "eds_cluster_config": {
            "eds_config": {"ads": {}, "resource_api_version": "V3"},
            "service_name": &*cluster.name,
        },
        "connect_timeout": seconds(cluster.connect_timeout_ms),
        "lb_policy": "LEAST_REQUEST",
        "metadata": {
            "filter_metadata": {
                "istio": {"services": services},
                "wayline": {"protocol": super::protocol(cluster.protocol)},
            },
        },
    });
    typed(
        "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        content,
    )
}

fn assignment(cluster: &Cluster) -> Value {
    let mut by_zone: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for endpoint in &cluster.endpoints {
        by_zone
            .entry(&endpoint.zone)
            .or_default()
            .push(lb_endpoint(endpoint));
    }
    let localities: Vec<Value> = by_zone
        .into_iter()
        .map(|(zone, endpoints)| json!({"locality": locality(zone), "lb_endpoints": endpoints}))
        .collect();
    let content = json!({"cluster_name": &*cluster.name, "endpoints": localities});
    typed(
        "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        content,
    )
}

fn lb_endpoint(endpoint: &Endpoint) -> Value {
    let mut metadata = json!({});
    if let Some(workload) = &endpoint.workload {
        metadata["istio"] = json!({"workload": workload_tag(workload)});
    }
    if let Transport::Hbone { gateway, identity } = &endpoint.transport {
        metadata["wayline"] = json!({"tunnel": gateway.to_string(), "identity": identity.uri()});
    }
    json!({
        "endpoint": {"address": socket_address(endpoint.address)},
        "health_status": "HEALTHY",
        "load_balancing_weight": 1,
        "metadata": {"filter_metadata": metadata},
    })
}

/// Istio's `workload;namespace;canonical service;canonical revision;cluster`.
fn workload_tag(workload: &Workload) -> String {
    format!(
        "{};{};{};{};{}",
        workload.workload_name,
        workload.namespace,
        workload.canonical_name,
        workload.canonical_revision,
        workload.cluster
    )
}

/// google.protobuf.Duration as JSON.
pub(super) fn seconds(ms: u64) -> String {
    match ms % 1_000 {
        0 => format!("{}s", ms / 1_000),
        rest => format!("{}.{rest:03}s", ms / 1_000),
    }
}
