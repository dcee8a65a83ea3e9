//! What is said of Gateways and their listeners.

use super::Outcomes;
use crate::names::{Hostname, ObjectRef};
use crate::resource::GATEWAY_GROUP;
use crate::resource::gateway::Listener;
use crate::status::reason::{
    self, ACCEPTED, CONFLICTED, HOSTNAME_CONFLICT, PROGRAMMED, RESOLVED_REFS,
};
use crate::status::{
    Address, Condition, GatewayStatus, ListenerStatus, ObjectStatus, RouteKind, Status,
};
use crate::translate::entrances::{GatewayOutcome, is_http_route};
use crate::translate::proxies::{ProxyEntry, waypoint_listener_problem};

impl Outcomes<'_> {
    pub(super) fn add_gateways(&self, all: &mut Vec<ObjectStatus>) {
        for entry in &self.proxies.played {
            let status = self.gateway(entry);
            all.push(ObjectStatus {
                object: entry.object(),
                status: Status::Gateway(status),
            });
        }
        for (object, reason) in &self.proxies.refused {
            let refused = |kind| Condition::fails(kind, reason::INVALID, reason.clone());
            let written = self
                .resources
                .gateways
                .get(&object.namespace, &object.name)
                .and_then(|entry| entry.object.metadata.generation);
            let conditions = [ACCEPTED, PROGRAMMED].map(|kind| refused(kind).observing(written));
            all.push(ObjectStatus {
                object: object.clone(),
                status: Status::Gateway(GatewayStatus {
                    conditions: conditions.into(),
                    ..GatewayStatus::default()
                }),
            });
        }
    }

    fn gateway(&self, entry: &ProxyEntry) -> GatewayStatus {
        let key = (entry.proxy.namespace.clone(), entry.proxy.name.clone());
        let outcome = self.doors.gateways.get(&key);
        let generation = entry.gateway.metadata.generation;
        let written = &entry.gateway.spec.listeners;
        let mut refused = Vec::new();
        let mut listeners = Vec::with_capacity(written.len());
        for (index, listener) in written.iter().enumerate() {
            let problem = problem(entry, listener, index, outcome);
            if problem.is_some() {
                refused.push(listener.name.as_str());
            }
            let attached = outcome
                .and_then(|outcome| outcome.listeners.get(index))
                .map_or(0, |listener| listener.attached.len());
            listeners.push(ListenerStatus {
                name: listener.name.clone(),
                supported_kinds: supported_kinds(entry, listener),
                attached_routes: u32::try_from(attached).unwrap_or(u32::MAX),
                conditions: listener_conditions(entry, listener, problem, generation),
            });
        }
        let serves = refused.len() < listeners.len();
        let conditions = [
            accepted(&refused, serves, outcome),
            programmed(serves, outcome),
        ];
        GatewayStatus {
            addresses: self.addresses(entry),
            conditions: conditions.map(|it| it.observing(generation)).into(),
            listeners,
        }
    }

    /// The addresses asked for, else those of the Service of the Gateway's name, which is what
    /// provisioning makes for it.
    fn addresses(&self, entry: &ProxyEntry) -> Vec<Address> {
        let asked: Vec<Address> = entry
            .gateway
            .spec
            .addresses
            .iter()
            .filter(|address| address.kind == "IPAddress")
            .filter_map(|address| address.value.parse::<std::net::IpAddr>().ok())
            .take(1)
            .map(ip_address)
            .collect();
        if !asked.is_empty() {
            return asked;
        }
        let (namespace, name) = (&entry.proxy.namespace, &entry.proxy.name);
        let Some(service) = self.services.get(namespace, name) else {
            return Vec::new();
        };
        // istiod's readers prefer the first Hostname.
        let host = Hostname::of_service(name, namespace, &self.mesh.cluster_domain);
        let host = Address {
            kind: "Hostname",
            value: host.to_string(),
        };
        let addresses = service.service.addresses.iter().copied().map(ip_address);
        std::iter::once(host).chain(addresses).collect()
    }
}

fn ip_address(ip: std::net::IpAddr) -> Address {
    Address {
        kind: "IPAddress",
        value: ip.to_string(),
    }
}

type Problem = (&'static str, String);

/// Why a listener is not served.
fn problem(
    entry: &ProxyEntry,
    listener: &Listener,
    index: usize,
    outcome: Option<&GatewayOutcome>,
) -> Option<Problem> {
    if entry.is_waypoint() {
        return waypoint_listener_problem(entry, listener);
    }
    outcome?.listeners.get(index)?.refused.clone()
}

fn supported_kinds(entry: &ProxyEntry, listener: &Listener) -> Vec<RouteKind> {
    let kinds = &listener.allowed_routes.kinds;
    let takes =
        listener.protocol == "HTTP" && (kinds.is_empty() || kinds.iter().any(is_http_route));
    // At a waypoint routes attach to Services.
    if entry.is_waypoint() || !takes {
        return Vec::new();
    }
    vec![RouteKind {
        group: GATEWAY_GROUP,
        kind: "HTTPRoute",
    }]
}

fn listener_conditions(
    entry: &ProxyEntry,
    listener: &Listener,
    problem: Option<Problem>,
    generation: Option<i64>,
) -> Vec<Condition> {
    let conflict = problem
        .as_ref()
        .filter(|(reason, _)| *reason == HOSTNAME_CONFLICT)
        .map(|(reason, text)| Condition {
            status: crate::status::Truth::True,
            ..Condition::fails(CONFLICTED, reason, text.clone())
        });
    let unknown_kind = listener
        .allowed_routes
        .kinds
        .iter()
        .find(|kind| !is_http_route(kind))
        .filter(|_| !entry.is_waypoint());
    let resolved = match unknown_kind {
        Some(kind) => Condition::fails(
            RESOLVED_REFS,
            reason::INVALID_ROUTE_KINDS,
            format!("routes of kind {} are not yet supported", kind.kind),
        ),
        None => Condition::holds(RESOLVED_REFS, RESOLVED_REFS, ""),
    };
    let (accepted, programmed) = match problem {
        Some((reason, text)) => (
            Condition::fails(ACCEPTED, reason, text.clone()),
            Condition::fails(PROGRAMMED, reason::INVALID, text),
        ),
        None => (
            Condition::holds(ACCEPTED, ACCEPTED, ""),
            Condition::holds(PROGRAMMED, PROGRAMMED, ""),
        ),
    };
    let none = || Condition::fails(CONFLICTED, reason::NO_CONFLICTS, "");
    [
        accepted,
        conflict.unwrap_or_else(none),
        programmed,
        resolved,
    ]
    .map(|it| it.observing(generation))
    .into()
}

fn accepted(refused: &[&str], serves: bool, outcome: Option<&GatewayOutcome>) -> Condition {
    let address = outcome.and_then(|outcome| outcome.address.as_ref());
    if let Some((reason, text)) = address.filter(|(it, _)| *it == reason::UNSUPPORTED_ADDRESS) {
        return Condition::fails(ACCEPTED, reason, text.clone());
    }
    let text = || format!("not served: listener {}", refused.join(", "));
    match (refused.is_empty(), serves) {
        (true, true) => Condition::holds(ACCEPTED, ACCEPTED, ""),
        // Listeners come from ListenerSets, too, in the Gateway API; not here.
        (true, false) => Condition::fails(
            ACCEPTED,
            reason::LISTENERS_NOT_VALID,
            "there is no listener",
        ),
        (false, true) => Condition::holds(ACCEPTED, reason::LISTENERS_NOT_VALID, text()),
        (false, false) => Condition::fails(ACCEPTED, reason::LISTENERS_NOT_VALID, text()),
    }
}

fn programmed(serves: bool, outcome: Option<&GatewayOutcome>) -> Condition {
    match outcome.and_then(|outcome| outcome.address.as_ref()) {
        Some((_, text)) => Condition::fails(PROGRAMMED, reason::ADDRESS_NOT_USABLE, text.clone()),
        None if serves => Condition::holds(PROGRAMMED, PROGRAMMED, ""),
        None => Condition::fails(PROGRAMMED, reason::INVALID, "no listener is served"),
    }
}

/// The Gateway of a route's parent.
pub(super) fn gateway_object(namespace: &str, name: &str) -> ObjectRef {
    ObjectRef::new("Gateway", namespace, name)
}
