//! Waypoints behind a ztunnel ("sandwich"): `ambient.istio.io/waypoint-inbound-binding`.
//!
//! There the ztunnel of the waypoint's own Pod ends the tunnels, and hands each stream over on the
//! loopback interface, behind a header of the PROXY protocol. The same ztunnel wraps what the waypoint
//! sends, so that a whole process is either behind one or not.

use crate::finding::Finding;
use crate::names::ObjectRef;
use crate::resource::Gateway;
use crate::snapshot::ProxyRole;
use crate::store::Resources;

use super::clusters::HBONE_PORT;
use super::proxies::{Proxies, ProxyEntry};

/// Says how a waypoint is reached: `<protocol>` or `<protocol>/<port>`; that of the Gateway counts for
/// more than that of its class.
const ANNOTATION: &str = "ambient.istio.io/waypoint-inbound-binding";

/// The protocol of listeners for it.
pub(super) const PROTOCOL: &str = "istio.io/PROXY";

/// The port that a ztunnel connects to; `None` where HBONE comes in, which is so, too, where the
/// annotation can not be read.
pub(super) fn port(
    gateway: &Gateway,
    resources: &Resources,
    role: ProxyRole,
    object: &ObjectRef,
    findings: &mut Vec<Finding>,
) -> Option<u16> {
    let class = resources
        .classes
        .get("", &gateway.spec.gateway_class_name)
        .map(|class| &class.object.metadata.annotations);
    let of_gateway = gateway.metadata.annotations.get(ANNOTATION);
    let binding = of_gateway.or_else(|| class?.get(ANNOTATION))?;
    let (protocol, port) = match binding.split_once('/') {
        Some((protocol, port)) => (protocol, Some(port)),
        None => (binding.as_str(), None),
    };
    if protocol == "NONE" {
        return None;
    }
    let read = match role {
        ProxyRole::Gateway => Err("it binds waypoints, and this is a gateway".to_owned()),
        ProxyRole::Waypoint if protocol != "PROXY" => {
            Err(format!("`{protocol}` is not NONE or PROXY"))
        }
        ProxyRole::Waypoint => match port {
            Some(port) => written_port(port),
            None => only_listener(gateway),
        },
    };
    let problem = match read {
        Ok(port) => return Some(port),
        Err(problem) => problem,
    };
    findings.push(
        Finding::error(format!("`{binding}` is not in force: {problem}"))
            .on(object)
            .field(format!("metadata.annotations.{ANNOTATION}"))
            .remedy("write PROXY/15088, say, or remove it and leave the waypoint's Pods out of the mesh"),
    );
    None
}

fn written_port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("`{text}` is no port")),
        Ok(HBONE_PORT) => Err(format!("port {HBONE_PORT} is where ztunnel takes HBONE")),
        Ok(port) => Ok(port),
    }
}

/// Where no port is written, the only listener for the protocol tells it.
fn only_listener(gateway: &Gateway) -> Result<u16, String> {
    let listeners = gateway.spec.listeners.iter();
    let mut ports = listeners
        .filter(|it| it.protocol == PROTOCOL)
        .map(|it| it.port);
    match (ports.next(), ports.next()) {
        (Some(port), None) => written_port(&port.to_string()),
        _ => Err(format!(
            "it names no port, and there is not just one listener of protocol {PROTOCOL}"
        )),
    }
}

/// What follows for the process.
pub(super) fn check(proxies: &mut Proxies) {
    let behind = proxies.behind_ztunnel();
    let bound = |entry: &&ProxyEntry| entry.proxy.proxy_protocol.is_some();
    let field = format!("metadata.annotations.{ANNOTATION}");
    let said = proxies.played.iter().filter(bound).map(|entry| {
        let finding = if behind {
            Finding::hint(
                "nothing listens for HBONE, and workloads are reached in plain text: the ztunnel in \
                 front of this process does both",
            )
            .remedy("capture the waypoint's Pods: label istio.io/dataplane-mode: ambient")
        } else {
            Finding::error(
                "another waypoint of this process takes HBONE itself; this one is served, and \
                 workloads are reached by tunnels of our own, which a ztunnel in front refuses",
            )
            .remedy("bind all waypoints of a process alike, or name one of them with --gateway")
        };
        finding.on(entry.object()).field(field.clone())
    });
    let said: Vec<Finding> = said.collect();
    proxies.findings.extend(said);
}
