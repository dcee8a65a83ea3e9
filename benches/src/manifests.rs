//! A [`Setup`] as the manifests a user of Wayline would write.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::policy;
use crate::scene::{AUTHORITY, HOST, POD_AUTHORITY, POISONED_AUTHORITY};
use crate::setup::{Door, Module, Setup, Upstream};
use crate::token;

/// Rules of one HTTPRoute, where there are many routes; the Gateway API allows 16.
const RULES_EACH: usize = 10;

/// The objects. `port` is the gateway's, where there is one; `backend` is where requests go, but for
/// the captured pod, which has an address of its own.
#[must_use]
pub fn manifests(setup: &Setup, port: u16, backend: SocketAddr) -> Vec<Value> {
    let pod: Option<SocketAddr> = POD_AUTHORITY.parse().ok();
    let captured = setup.upstream == Upstream::Hbone;
    let endpoint = pod.filter(|_| captured).unwrap_or(backend);
    let mut items = vec![
        service(setup, "echo", AUTHORITY, endpoint),
        slice(setup, "echo", endpoint),
    ];
    if setup.module == Some(Module::Poison) {
        items.push(service(setup, POISONED, POISONED_AUTHORITY, endpoint));
        items.push(slice(setup, POISONED, endpoint));
    }
    if setup.token {
        items.push(authentication(setup));
    }
    items.extend(routes(setup));
    match setup.door {
        Door::Hbone => items.extend([
            json!({
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": { "name": "bench", "labels": { "istio.io/use-waypoint": "waypoint" } },
            }),
            gateway(
                "waypoint",
                "wayline-waypoint",
                &json!({ "name": "mesh", "port": 15008, "protocol": "HBONE" }),
            ),
        ]),
        Door::Plain => items.push(gateway(
            "edge",
            "wayline",
            &json!({ "name": "http", "port": port, "protocol": "HTTP" }),
        )),
    }
    if captured {
        items.push(captured_pod(endpoint));
    }
    if setup.rules {
        let rules = policy::istio(setup.door == Door::Hbone);
        items.push(allow(setup, "echo", &rules));
    }
    items.extend((0..setup.policies).map(|index| {
        let rules = policy::istio_of_another(index, setup.door == Door::Hbone);
        allow(setup, &format!("another-{index}"), &rules)
    }));
    items
}

/// The plugin of a setup, with its module in a file; `None` where there is none.
#[must_use]
pub fn plugin(setup: &Setup, module: &Path) -> Option<Value> {
    let (target, configuration) = match setup.module? {
        Module::OneHeader => (
            parent(setup),
            json!({ "headers": [{ "name": "x-served-by", "value": "bench" }] }),
        ),
        Module::Poison => (
            json!({ "group": "", "kind": "Service", "name": POISONED }),
            json!({}),
        ),
    };
    Some(json!({
        "apiVersion": "extensions.istio.io/v1alpha1",
        "kind": "WasmPlugin",
        "metadata": { "name": "plugin", "namespace": "bench" },
        "spec": {
            "targetRefs": [target],
            "url": format!("file://{}", module.display()),
            "pluginConfig": configuration,
        },
    }))
}

/// The service's port, as policies and routes name it.
fn service_port() -> u16 {
    let port = AUTHORITY.split_once(':').map(|(_, port)| port.parse());
    port.and_then(Result::ok).unwrap_or_default()
}

/// The service with the poisoned plugin.
const POISONED: &str = "poisoned";

fn service(setup: &Setup, name: &str, authority: &str, endpoint: SocketAddr) -> Value {
    let (cluster_ip, _) = authority.split_once(':').unwrap_or_default();
    let protocol = match setup.upstream {
        Upstream::Http1 | Upstream::Hbone => "http",
        Upstream::Http2 => "kubernetes.io/h2c",
    };
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "namespace": "bench" },
        "spec": {
            "clusterIP": cluster_ip,
            "selector": { "app": "echo" },
            "ports": [{
                "name": "http",
                "port": service_port(),
                "targetPort": endpoint.port(),
                "appProtocol": protocol,
            }],
        },
    })
}

fn slice(setup: &Setup, name: &str, endpoint: SocketAddr) -> Value {
    let mut entry = json!({
        "addresses": [endpoint.ip().to_string()],
        "conditions": { "ready": true },
    });
    if setup.upstream == Upstream::Hbone {
        entry["targetRef"] = json!({ "kind": "Pod", "name": "echo", "namespace": "bench" });
    }
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{name}-1"),
            "namespace": "bench",
            "labels": { "kubernetes.io/service-name": name },
        },
        "addressType": "IPv4",
        "endpoints": [entry],
        "ports": [{ "name": "http", "port": endpoint.port(), "protocol": "TCP" }],
    })
}

/// One route for everything, or many: half of them by exact path and half by prefix, the measured
/// path by the last.
fn routes(setup: &Setup) -> Vec<Value> {
    let backends = json!([{ "name": "echo", "port": service_port() }]);
    if setup.routes <= 1 {
        return vec![http_route(
            setup,
            "echo",
            &json!([{ "backendRefs": backends }]),
        )];
    }
    let mut rules: Vec<Value> = (1..setup.routes)
        .map(|index| {
            let (kind, path) = match index % 2 {
                0 => ("Exact", format!("/shop/item-{index}")),
                _ => ("PathPrefix", format!("/api/section-{index}")),
            };
            json!({
                "matches": [{ "path": { "type": kind, "value": path } }],
                "backendRefs": backends,
            })
        })
        .collect();
    rules.push(json!({
        "matches": [{ "path": { "type": "PathPrefix", "value": "/api" } }],
        "backendRefs": backends,
    }));
    rules
        .chunks(RULES_EACH)
        .enumerate()
        .map(|(index, rules)| http_route(setup, &format!("echo-{index}"), &json!(rules)))
        .collect()
}

fn http_route(setup: &Setup, name: &str, rules: &Value) -> Value {
    // A route of a Service applies to whatever the Host header says.
    let hostnames: &[&str] = match setup.door {
        Door::Plain => &[HOST],
        Door::Hbone => &[],
    };
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": { "name": name, "namespace": "bench" },
        "spec": { "parentRefs": [parent(setup)], "hostnames": hostnames, "rules": rules },
    })
}

fn allow(setup: &Setup, name: &str, rules: &Value) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": { "name": name, "namespace": "bench" },
        "spec": { "action": "ALLOW", "targetRefs": [parent(setup)], "rules": rules },
    })
}

fn authentication(setup: &Setup) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "RequestAuthentication",
        "metadata": { "name": "issuer", "namespace": "bench" },
        "spec": {
            "targetRefs": [parent(setup)],
            "jwtRules": [{ "issuer": token::ISSUER, "jwks": token::JWKS }],
        },
    })
}

/// What routes and policies are attached to.
fn parent(setup: &Setup) -> Value {
    match setup.door {
        Door::Hbone => json!({ "group": "", "kind": "Service", "name": "echo" }),
        Door::Plain => {
            json!({ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge" })
        }
    }
}

fn gateway(name: &str, class: &str, listener: &Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": { "name": name, "namespace": "bench" },
        "spec": { "gatewayClassName": class, "listeners": [listener] },
    })
}

/// The backend's pod; the annotation says that HBONE reaches it.
fn captured_pod(endpoint: SocketAddr) -> Value {
    let ip = endpoint.ip().to_string();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "echo",
            "namespace": "bench",
            "labels": { "app": "echo" },
            "annotations": { "ambient.istio.io/redirection": "enabled" },
        },
        "spec": { "serviceAccountName": "echo", "nodeName": "node", "containers": [] },
        "status": {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{ "ip": ip }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    })
}
