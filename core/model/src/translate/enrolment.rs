//! Which waypoint serves what, exactly as Istio tells (pilot, `fetchWaypointForTarget`): the object's
//! own label, else its namespace's; never a fallback from a waypoint that is named and missing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::binding;
use super::clusters::HBONE_PORT;
use super::proxies::{Proxies, admits, role_of};
use super::services::Services;
use super::workloads::Pods;
use crate::finding::Finding;
use crate::names::ObjectRef;
use crate::resource::Pod;
use crate::resource::gateway::{AllowedRoutes, Listener};
use crate::snapshot::ProxyRole;
use crate::status::reason;
use crate::store::Resources;

const USE_WAYPOINT: &str = "istio.io/use-waypoint";
const USE_WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
const CANARY: &str = "istio.io/use-waypoint-canary";
const CANARY_NAMESPACE: &str = "istio.io/use-waypoint-canary-namespace";

/// What came of an object's enrolment.
#[derive(Clone, Debug)]
pub(super) enum Enrolment {
    /// A waypoint of this process serves it: its place among those played.
    Here(usize),
    /// A waypoint that another process plays serves it.
    Elsewhere(Arc<str>),
    /// Nothing does.
    Nowhere(Unbound),
}

/// Why nothing serves an object.
#[derive(Clone, Debug)]
pub(super) struct Unbound {
    /// Istio's reason; `None` where no waypoint was asked for.
    pub(super) reason: Option<&'static str>,
    pub(super) text: Arc<str>,
}

impl Unbound {
    fn unasked(text: &str) -> Self {
        Self {
            reason: None,
            text: text.into(),
        }
    }

    fn because(reason: &'static str, text: String) -> Self {
        Self {
            reason: Some(reason),
            text: text.into(),
        }
    }
}

/// Where everything stands.
#[derive(Debug, Default)]
pub(super) struct Enrolments {
    services: HashMap<Arc<str>, HashMap<Arc<str>, Enrolment>>,
    /// Pods behind a waypoint of this process, and its place.
    pub(super) pods: Vec<(Arc<str>, Arc<str>, usize)>,
    pub(super) findings: Vec<Finding>,
}

impl Enrolments {
    pub(super) fn service(&self, namespace: &str, name: &str) -> Option<&Enrolment> {
        self.services.get(namespace)?.get(name)
    }
}

pub(super) fn collect(
    resources: &Resources,
    proxies: &Proxies,
    services: &Services,
    pods: &Pods,
) -> Enrolments {
    let enroller = Enroller { resources, proxies };
    let mut all = Enrolments::default();
    for entry in services.iter() {
        let service = &entry.service;
        let (namespace, name) = (&service.namespace, &service.name);
        let labels = &entry.written.metadata.labels;
        let enrolment = enroller.service(namespace, name, labels, &mut all.findings);
        if entry.is_external_name() && matches!(enrolment, Enrolment::Here(_)) {
            all.findings.push(
                Finding::error("ExternalName is not yet supported; the service is not served")
                    .on(ObjectRef::new("Service", namespace, name))
                    .field("spec.type"),
            );
        }
        all.services
            .entry(Arc::clone(namespace))
            .or_default()
            .insert(Arc::clone(name), enrolment);
    }
    let for_workloads = proxies
        .played
        .iter()
        .any(|entry| entry.is_waypoint() && entry.serves.workloads);
    for entry in pods.iter().filter(|entry| entry.workload.is_some()) {
        // Inheriting from the namespace a waypoint that is for services only means nothing.
        if !for_workloads && !entry.pod.metadata.labels.contains_key(USE_WAYPOINT) {
            continue;
        }
        let (namespace, name) = (&entry.namespace, &entry.name);
        if let Enrolment::Here(place) =
            enroller.workload(namespace, name, &entry.pod, &mut all.findings)
        {
            all.pods
                .push((Arc::clone(namespace), Arc::clone(name), place));
        }
    }
    all
}

/// What is addressed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Traffic {
    Service,
    Workload,
}

/// Finds the waypoint of services and workloads.
struct Enroller<'a> {
    resources: &'a Resources,
    proxies: &'a Proxies,
}

impl Enroller<'_> {
    fn service(
        &self,
        namespace: &str,
        name: &str,
        labels: &BTreeMap<String, String>,
        findings: &mut Vec<Finding>,
    ) -> Enrolment {
        // Istio's own gateways never stand behind a waypoint.
        if matches!(
            labels.get("gateway.istio.io/managed").map(String::as_str),
            Some("istio.io-mesh-controller" | "istio.io-eastwest-controller")
        ) {
            return Enrolment::Nowhere(Unbound::unasked("it is itself a waypoint or gateway"));
        }
        let object = ObjectRef::new("Service", namespace, name);
        self.find(Traffic::Service, &object, labels, findings)
    }

    fn workload(
        &self,
        namespace: &str,
        name: &str,
        pod: &Pod,
        findings: &mut Vec<Finding>,
    ) -> Enrolment {
        let labels = &pod.metadata.labels;
        let instance = labels
            .get("gateway.networking.k8s.io/gateway-name")
            .and_then(|gateway| self.resources.gateways.get(namespace, gateway));
        let of_waypoint = instance.is_some_and(|gateway| {
            role_of(&gateway.object.spec.gateway_class_name, self.resources)
                == Some(ProxyRole::Waypoint)
        });
        if of_waypoint {
            return Enrolment::Nowhere(Unbound::unasked("it is itself a waypoint"));
        }
        let object = ObjectRef::new("Pod", namespace, name);
        self.find(Traffic::Workload, &object, labels, findings)
    }

    fn find(
        &self,
        traffic: Traffic,
        object: &ObjectRef,
        labels: &BTreeMap<String, String>,
        findings: &mut Vec<Finding>,
    ) -> Enrolment {
        let namespace = &*object.namespace;
        if labels.contains_key(USE_WAYPOINT) {
            return self.labelled(traffic, object, namespace, labels, findings);
        }
        let Some(entry) = self.resources.namespaces.get("", namespace) else {
            return not_enrolled();
        };
        let holder = ObjectRef::new("Namespace", "", namespace);
        self.labelled(
            traffic,
            &holder,
            namespace,
            &entry.object.metadata.labels,
            findings,
        )
    }

    /// Follows the labels of `holder`: the object itself or its namespace.
    fn labelled(
        &self,
        traffic: Traffic,
        holder: &ObjectRef,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        findings: &mut Vec<Finding>,
    ) -> Enrolment {
        let Some(name) = labels.get(USE_WAYPOINT) else {
            return not_enrolled();
        };
        if name == "none" {
            return Enrolment::Nowhere(Unbound::unasked(&format!("{USE_WAYPOINT} is none")));
        }
        let place = |key: &str| labels.get(key).map_or(namespace, String::as_str);
        let inherited = &*holder.kind == "Namespace";
        let primary = self.candidate(traffic, place(USE_WAYPOINT_NAMESPACE), name, namespace);
        // A canary takes its share of the connections without being the service's waypoint.
        let canary = labels
            .get(CANARY)
            .filter(|canary| *canary != "none")
            .map(|name| self.candidate(traffic, place(CANARY_NAMESPACE), name, namespace));
        if let Some(finding) = primary.finding(inherited) {
            findings.push(
                finding
                    .on(holder)
                    .field(format!("metadata.labels.{USE_WAYPOINT}")),
            );
        }
        if let Some(finding) = canary.as_ref().and_then(|c| c.finding(inherited)) {
            findings.push(
                finding
                    .on(holder)
                    .field(format!("metadata.labels.{CANARY}")),
            );
        }
        match (primary, canary) {
            (Candidate::Here(place), _) | (_, Some(Candidate::Here(place))) => {
                Enrolment::Here(place)
            }
            (Candidate::Elsewhere(reason), _) => Enrolment::Elsewhere(reason),
            (Candidate::Missing(unbound) | Candidate::WrongTraffic { unbound, .. }, _) => {
                Enrolment::Nowhere(unbound)
            }
        }
    }

    fn candidate(
        &self,
        traffic: Traffic,
        waypoint_namespace: &str,
        waypoint: &str,
        namespace: &str,
    ) -> Candidate {
        let label = format!("{waypoint_namespace}/{waypoint}");
        let Some(gateway) = self.resources.gateways.get(waypoint_namespace, waypoint) else {
            return Candidate::Missing(Unbound::because(
                reason::WAYPOINT_IS_NOT_READY,
                format!("its waypoint {label} does not exist, and there is no fallback"),
            ));
        };
        if role_of(&gateway.object.spec.gateway_class_name, self.resources)
            == Some(ProxyRole::Gateway)
        {
            return Candidate::Missing(Unbound::because(
                reason::WAYPOINT_IS_NOT_READY,
                format!("its waypoint {label} is a gateway, not a waypoint"),
            ));
        }
        let Some(place) = self.proxies.place(waypoint_namespace, waypoint) else {
            return Candidate::Elsewhere(
                format!("its waypoint {label} is not played by this process").into(),
            );
        };
        let entry = &self.proxies.played[place];
        let listeners = &entry.gateway.spec.listeners;
        let bound = |listener: &&Listener| {
            listener.protocol == binding::PROTOCOL
                && entry.proxy.proxy_protocol == Some(listener.port)
        };
        let listener = listeners.iter().find(bound).or_else(|| {
            let mut listeners = listeners.iter();
            listeners.find(|it| it.protocol == "HBONE" && it.port == HBONE_PORT)
        });
        let default = AllowedRoutes::default();
        let allowed = listener.map_or(&default, |listener| &listener.allowed_routes);
        if !admits(allowed, waypoint_namespace, namespace, self.resources) {
            return Candidate::Missing(Unbound::because(
                reason::ATTACHMENT_DENIED,
                format!("the listener of its waypoint {label} does not allow its namespace"),
            ));
        }
        let serves = match traffic {
            Traffic::Service => entry.serves.services,
            Traffic::Workload => entry.serves.workloads,
        };
        if !serves {
            let what = match traffic {
                Traffic::Service => "services",
                Traffic::Workload => "workloads",
            };
            return Candidate::WrongTraffic {
                unbound: Unbound::because(
                    reason::UNSUPPORTED_TRAFFIC_TYPE,
                    format!("its waypoint {label} is not for {what} (istio.io/waypoint-for)"),
                ),
                serves_nothing: entry.serves.nothing(),
            };
        }
        Candidate::Here(place)
    }
}

fn not_enrolled() -> Enrolment {
    Enrolment::Nowhere(Unbound::unasked("it has no waypoint"))
}

/// A waypoint that a label names.
enum Candidate {
    Here(usize),
    Elsewhere(Arc<str>),
    Missing(Unbound),
    WrongTraffic {
        unbound: Unbound,
        /// Whether it is for no traffic at all.
        serves_nothing: bool,
    },
}

impl Candidate {
    /// What to say about it. A namespace's label may well name a waypoint that is for the other
    /// traffic only; an object's own label may not.
    fn finding(&self, inherited: bool) -> Option<Finding> {
        match self {
            Self::Missing(unbound) => Some(
                Finding::error(format!("not served: {}", unbound.text))
                    .remedy("correct the label, or add the waypoint"),
            ),
            Self::WrongTraffic { unbound, .. } if !inherited => {
                Some(Finding::error(format!("not served: {}", unbound.text)))
            }
            Self::WrongTraffic {
                serves_nothing: true,
                ..
            } => Some(
                Finding::hint(
                    "the waypoint is for no traffic at all (istio.io/waypoint-for: none)",
                )
                .remedy("change the waypoint's label, or set this one to none"),
            ),
            _ => None,
        }
    }
}
