//! The product: a folder of manifests, as a user would write them, and `wayline run`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use wayline_benches::{AUTHORITY, HOST, POD_AUTHORITY};

use crate::contestant::workspace_root;
use crate::error::{Error, at};
use crate::policy;
use crate::process::{free_port, output, pinned};
use crate::scene::Scene;
use crate::stage::Places;

/// The command, and where it will say that it is ready.
pub(crate) fn command(
    scene: Scene,
    core: usize,
    dir: &Path,
    address: SocketAddr,
    places: &Places,
) -> Result<(Command, SocketAddr), Error> {
    let folder = dir.join("manifests");
    std::fs::create_dir_all(&folder).map_err(at("create", &folder))?;
    let path = folder.join("bench.json");
    let list = json!({
        "apiVersion": "v1",
        "kind": "List",
        "items": manifests(scene, address, places),
    });
    std::fs::write(&path, format!("{list:#}")).map_err(at("write", &path))?;

    let status = free_port()?;
    let mut command = pinned(core, program());
    command
        .arg("run")
        .arg("-f")
        .arg(&folder)
        .arg("--dev-ca")
        .arg(&places.ca);
    for (flag, address) in [
        ("--status", status),
        ("--admin", free_port()?),
        ("--metrics", free_port()?),
    ] {
        command.args([flag, &address.to_string()]);
    }
    let hbone = if scene.hbone_in() {
        address
    } else {
        free_port()?
    };
    command.args(["--hbone", &hbone.to_string(), "--workers", "1"]);
    Ok((command, status))
}

pub(crate) fn version() -> Result<String, Error> {
    let said = output(Command::new(program()).arg("--version"))?;
    let commit = output(
        Command::new("git")
            .args(["describe", "--always", "--dirty"])
            .current_dir(workspace_root()),
    )?;
    let version = said.split_ascii_whitespace().nth(1).unwrap_or_default();
    Ok(format!("Wayline {version} at commit {}", commit.trim()))
}

/// Built into the folder that the bench's own programs are in.
fn program() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_bench-bare")).with_file_name("wayline")
}

fn manifests(scene: Scene, address: SocketAddr, places: &Places) -> Vec<Value> {
    let (cluster_ip, port) = AUTHORITY.split_once(':').unwrap_or_default();
    let port: u16 = port.parse().unwrap_or_default();
    let pod: Option<SocketAddr> = POD_AUTHORITY.parse().ok();
    let endpoint = pod.filter(|_| scene.hbone_out()).unwrap_or(places.backend);

    let mut items = vec![
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": "echo", "namespace": "bench" },
            "spec": {
                "clusterIP": cluster_ip,
                "selector": { "app": "echo" },
                "ports": [
                    { "name": "http", "port": port, "targetPort": endpoint.port(), "appProtocol": "http" },
                ],
            },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "echo-1",
                "namespace": "bench",
                "labels": { "kubernetes.io/service-name": "echo" },
            },
            "addressType": "IPv4",
            "endpoints": [slice_endpoint(scene, endpoint)],
            "ports": [{ "name": "http", "port": endpoint.port(), "protocol": "TCP" }],
        }),
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": { "name": "echo", "namespace": "bench" },
            "spec": {
                "parentRefs": [parent(scene)],
                "hostnames": hostnames(scene),
                "rules": [{ "backendRefs": [{ "name": "echo", "port": port }] }],
            },
        }),
    ];
    if scene.hbone_in() {
        items.push(json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": "bench", "labels": { "istio.io/use-waypoint": "waypoint" } },
        }));
        items.push(gateway(
            "waypoint",
            "wayline-waypoint",
            &json!({ "name": "mesh", "port": 15008, "protocol": "HBONE" }),
        ));
    } else {
        items.push(gateway(
            "edge",
            "wayline",
            &json!({ "name": "http", "port": address.port(), "protocol": "HTTP" }),
        ));
    }
    if scene.hbone_out() {
        items.push(captured_pod(endpoint));
    }
    if scene.has_policy() {
        items.push(json!({
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": { "name": "echo", "namespace": "bench" },
            "spec": {
                "action": "ALLOW",
                "targetRefs": [parent(scene)],
                "rules": policy::istio(scene.hbone_in()),
            },
        }));
    }
    items
}

/// What route and policy are attached to.
fn parent(scene: Scene) -> Value {
    if scene.hbone_in() {
        json!({ "group": "", "kind": "Service", "name": "echo" })
    } else {
        json!({ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge" })
    }
}

/// A route of a Service applies to whatever the Host header says.
fn hostnames(scene: Scene) -> Vec<&'static str> {
    if scene.hbone_in() { vec![] } else { vec![HOST] }
}

fn gateway(name: &str, class: &str, listener: &Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": { "name": name, "namespace": "bench" },
        "spec": { "gatewayClassName": class, "listeners": [listener] },
    })
}

fn slice_endpoint(scene: Scene, endpoint: SocketAddr) -> Value {
    let mut value = json!({
        "addresses": [endpoint.ip().to_string()],
        "conditions": { "ready": true },
    });
    if scene.hbone_out() {
        value["targetRef"] = json!({ "kind": "Pod", "name": "echo", "namespace": "bench" });
    }
    value
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
