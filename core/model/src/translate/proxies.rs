//! The Gateways that this process plays, and who it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::clusters::HBONE_PORT;
use super::{Options, binding};
use crate::finding::Finding;
use crate::identity::Identity;
use crate::mesh::MeshSettings;
use crate::names::ObjectRef;
use crate::resource::Gateway;
use crate::resource::gateway::{AllowedRoutes, FromNamespaces, Listener};
use crate::snapshot::{Proxy, ProxyRole, Snapshot};
use crate::status::reason;
use crate::store::Resources;

/// Who looks after the class `wayline`.
pub(super) const GATEWAY_CONTROLLER: &str = "wayline.dev/gateway-controller";
/// Who looks after the class `wayline-waypoint`, and Services behind its waypoints.
pub(super) const WAYPOINT_CONTROLLER: &str = "wayline.dev/waypoint-controller";

/// A Gateway that this process plays.
#[derive(Clone, Debug)]
pub(super) struct ProxyEntry {
    pub(super) proxy: Arc<Proxy>,
    pub(super) gateway: Arc<Gateway>,
    /// What a waypoint serves; meaningless for gateways.
    pub(super) serves: WaypointFor,
}

impl ProxyEntry {
    pub(super) fn object(&self) -> ObjectRef {
        ObjectRef::new("Gateway", &self.proxy.namespace, &self.proxy.name)
    }

    pub(super) fn is_waypoint(&self) -> bool {
        self.proxy.role == ProxyRole::Waypoint
    }

    /// The labels that selectors of policies see: those of the Pods made for the Gateway.
    pub(super) fn labels(&self) -> BTreeMap<&str, &str> {
        let infrastructure = &self.gateway.spec.infrastructure.labels;
        let labels = if infrastructure.is_empty() {
            &self.gateway.metadata.labels
        } else {
            infrastructure
        };
        let mut labels: BTreeMap<&str, &str> = labels
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        labels.insert("gateway.networking.k8s.io/gateway-name", &self.proxy.name);
        labels.insert(
            "gateway.networking.k8s.io/gateway-class-name",
            &self.proxy.class,
        );
        labels
    }
}

/// `istio.io/waypoint-for`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct WaypointFor {
    pub(super) services: bool,
    pub(super) workloads: bool,
}

impl WaypointFor {
    pub(super) fn nothing(self) -> bool {
        !self.services && !self.workloads
    }
}

/// All Gateways.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    /// Those that this process plays, by name, then namespace.
    pub(super) played: Vec<ProxyEntry>,
    /// Those that it would play, and why it does not.
    pub(super) refused: Vec<(ObjectRef, String)>,
    pub(super) identity: Option<Identity>,
    pub(super) findings: Vec<Finding>,
}

impl Proxies {
    /// Whether a ztunnel in front of this process takes tunnels apart for it, and wraps what it sends.
    pub(super) fn behind_ztunnel(&self) -> bool {
        let mut waypoints = self.played.iter().filter(|it| it.is_waypoint()).peekable();
        waypoints.peek().is_some() && waypoints.all(|it| it.proxy.proxy_protocol.is_some())
    }

    pub(super) fn find(&self, namespace: &str, name: &str) -> Option<&ProxyEntry> {
        self.played.get(self.place(namespace, name)?)
    }

    pub(super) fn place(&self, namespace: &str, name: &str) -> Option<usize> {
        self.played
            .iter()
            .position(|entry| &*entry.proxy.namespace == namespace && &*entry.proxy.name == name)
    }
}

/// What a Gateway of this class is, when Wayline serves it: by the class' name, which needs no
/// object, or by its controller.
pub(super) fn role_of(class: &str, resources: &Resources) -> Option<ProxyRole> {
    match class {
        "wayline-waypoint" | "istio-waypoint" => return Some(ProxyRole::Waypoint),
        "wayline" | "istio" => return Some(ProxyRole::Gateway),
        _ => {}
    }
    let class = resources.classes.get("", class)?;
    match class.object.spec.controller_name.as_str() {
        WAYPOINT_CONTROLLER => Some(ProxyRole::Waypoint),
        GATEWAY_CONTROLLER => Some(ProxyRole::Gateway),
        _ => None,
    }
}

/// The controller that a class names, or that stands behind its name.
pub(super) fn controller_of<'a>(class: &str, resources: &'a Resources) -> &'a str {
    if let Some(class) = resources.classes.get("", class) {
        return &class.object.spec.controller_name;
    }
    match class {
        "istio-waypoint" => "istio.io/mesh-controller",
        "istio" => "istio.io/gateway-controller",
        "wayline" => GATEWAY_CONTROLLER,
        _ => WAYPOINT_CONTROLLER,
    }
}

pub(super) fn collect(
    resources: &Resources,
    mesh: &MeshSettings,
    options: &Options,
    before: Option<&Snapshot>,
) -> Proxies {
    let mut proxies = Proxies::default();
    let wanted = |namespace: &str, name: &str| {
        options.gateways.is_empty()
            || options
                .gateways
                .iter()
                .any(|(ns, n)| ns == namespace && n == name)
    };
    for (namespace, name, entry) in resources.gateways.iter() {
        let gateway = &entry.object;
        let class = gateway.spec.gateway_class_name.as_str();
        let object = ObjectRef::new("Gateway", namespace, name);
        if !wanted(namespace, name) {
            continue;
        }
        let Some(role) = role_of(class, resources) else {
            proxies.findings.push(
                Finding::hint(format!("Wayline does not serve the class `{class}`"))
                    .on(object)
                    .field("spec.gatewayClassName"),
            );
            continue;
        };
        let identity = match identity(gateway, namespace, name, role, mesh) {
            Ok(identity) => identity,
            Err(error) => {
                let text = format!("the Gateway can have no identity: {error}");
                proxies
                    .findings
                    .push(Finding::error(text.clone()).on(&object).field("metadata"));
                proxies.refused.push((object, text));
                continue;
            }
        };
        let proxy = Proxy {
            name: Arc::clone(name),
            namespace: Arc::clone(namespace),
            class: class.into(),
            role,
            identity,
            proxy_protocol: binding::port(gateway, resources, role, &object, &mut proxies.findings),
        };
        let known = before.into_iter().flat_map(|snapshot| &snapshot.proxies);
        let proxy = known
            .into_iter()
            .find(|known| ***known == proxy)
            .map_or_else(|| Arc::new(proxy.clone()), Arc::clone);
        let serves = waypoint_for(gateway, resources, &object, &mut proxies.findings);
        let entry = ProxyEntry {
            proxy,
            gateway: Arc::clone(gateway),
            serves,
        };
        if entry.is_waypoint() {
            check_waypoint_listeners(&entry, &mut proxies.findings);
        }
        proxies.played.push(entry);
    }
    proxies.played.sort_by(|a, b| {
        (&a.proxy.name, &a.proxy.namespace).cmp(&(&b.proxy.name, &b.proxy.namespace))
    });
    choose_identity(&mut proxies, options);
    binding::check(&mut proxies);
    proxies
}

/// The first Gateway that was asked for and is there, else the first waypoint by name (the
/// certificate is what ztunnel checks on the HBONE port), else the first gateway.
fn choose_identity(proxies: &mut Proxies, options: &Options) {
    for (namespace, name) in &options.gateways {
        if proxies.find(namespace, name).is_none() {
            proxies.findings.push(
                Finding::error("this Gateway is asked for by --gateway and is not served")
                    .on(ObjectRef::new("Gateway", namespace, name)),
            );
        }
    }
    let named = options
        .gateways
        .iter()
        .find_map(|(namespace, name)| proxies.find(namespace, name));
    let first_waypoint = || proxies.played.iter().find(|entry| entry.is_waypoint());
    let Some(chosen) = named
        .or_else(first_waypoint)
        .or_else(|| proxies.played.first())
    else {
        return;
    };
    let identity = chosen.proxy.identity.clone();
    let others = proxies
        .played
        .iter()
        .filter(|entry| entry.proxy.identity != identity)
        .count();
    if named.is_none() && others > 0 {
        proxies.findings.push(
            Finding::hint(format!(
                "one process presents one certificate: that of {identity}, the first by name; \
                 ztunnel accepts it for no other Gateway"
            ))
            .on(chosen.object())
            .remedy("name one with --gateway, and run one process for each of the others"),
        );
    }
    proxies.identity = Some(identity);
}

fn identity(
    gateway: &Gateway,
    namespace: &str,
    name: &str,
    role: ProxyRole,
    mesh: &MeshSettings,
) -> Result<Identity, crate::identity::IdentityError> {
    let annotation = gateway
        .metadata
        .annotations
        .get("gateway.istio.io/service-account")
        .filter(|account| !account.is_empty());
    let account = match (annotation, role) {
        (Some(account), _) => account.clone(),
        (None, ProxyRole::Waypoint) => name.to_owned(),
        (None, ProxyRole::Gateway) => format!("{name}-{}", gateway.spec.gateway_class_name),
    };
    Identity::new(mesh.trust_domain.clone(), namespace, &account)
}

fn waypoint_for(
    gateway: &Gateway,
    resources: &Resources,
    object: &ObjectRef,
    findings: &mut Vec<Finding>,
) -> WaypointFor {
    const LABEL: &str = "istio.io/waypoint-for";
    let class = resources
        .classes
        .get("", &gateway.spec.gateway_class_name)
        .map(|class| &class.object.metadata.labels);
    let value = gateway
        .metadata
        .labels
        .get(LABEL)
        .or_else(|| class?.get(LABEL));
    let (services, workloads) = match value.map_or("service", String::as_str) {
        "service" => (true, false),
        "workload" => (false, true),
        "all" => (true, true),
        "none" => (false, false),
        other => {
            findings.push(
                Finding::error(format!(
                    "`{other}` is not service, workload, all or none; service is in force"
                ))
                .on(object)
                .field(format!("metadata.labels.{LABEL}")),
            );
            (true, false)
        }
    };
    WaypointFor {
        services,
        workloads,
    }
}

fn check_waypoint_listeners(entry: &ProxyEntry, findings: &mut Vec<Finding>) {
    for (index, listener) in entry.gateway.spec.listeners.iter().enumerate() {
        if let Some((_, text)) = waypoint_listener_problem(entry, listener) {
            findings.push(
                Finding::error(text)
                    .on(entry.object())
                    .field(format!("spec.listeners[{index}]")),
            );
        }
    }
}

/// Why a waypoint does not serve a listener: a reason of the Gateway API and a text.
pub(super) fn waypoint_listener_problem(
    entry: &ProxyEntry,
    listener: &Listener,
) -> Option<(&'static str, String)> {
    let bound = entry.proxy.proxy_protocol;
    let problem = match listener.protocol.as_str() {
        // Behind a ztunnel, that is where it listens for us.
        "HBONE" if listener.port == HBONE_PORT => return None,
        binding::PROTOCOL if bound == Some(listener.port) => return None,
        "HBONE" | binding::PROTOCOL => reason::PORT_UNAVAILABLE,
        _ => reason::UNSUPPORTED_PROTOCOL,
    };
    let places = match bound {
        Some(port) => format!(
            "HBONE on port {HBONE_PORT} and {} on port {port}",
            binding::PROTOCOL
        ),
        None => format!("HBONE on port {HBONE_PORT}"),
    };
    Some((
        problem,
        format!(
            "a waypoint takes {places} only; {} on port {} is not served",
            listener.protocol, listener.port
        ),
    ))
}

/// Whether `allowedRoutes.namespaces` lets a namespace in.
pub(super) fn admits(
    allowed: &AllowedRoutes,
    own_namespace: &str,
    namespace: &str,
    resources: &Resources,
) -> bool {
    match allowed.namespaces.from {
        FromNamespaces::All => true,
        FromNamespaces::Same => own_namespace == namespace,
        FromNamespaces::None => false,
        FromNamespaces::Selector => {
            let Some(selector) = &allowed.namespaces.selector else {
                return false;
            };
            let mut labels = resources
                .namespaces
                .get("", namespace)
                .map(|entry| entry.object.metadata.labels.clone())
                .unwrap_or_default();
            // Every namespace carries its name, written down or not.
            labels.insert(
                "kubernetes.io/metadata.name".to_owned(),
                namespace.to_owned(),
            );
            selector.matches(&labels)
        }
    }
}
