//! PeerAuthentication: what it means here, which is nothing that could be enforced.
//!
//! HBONE is mutual TLS whatever a PeerAuthentication says, and how the workloads behind a waypoint
//! are reached is enforced by their ztunnel. Listeners of a gateway say themselves what they take, in
//! Istio as here. So each object is told why it changes nothing, most of all where its author may
//! believe that it closes a door.

use super::attachment::selects;
use super::proxies::Proxies;
use crate::finding::Finding;
use crate::mesh::MeshSettings;
use crate::names::ObjectRef;
use crate::resource::PeerAuthentication;
use crate::resource::authentication::MutualTlsMode;
use crate::snapshot::ProxyRole;
use crate::store::Resources;

/// What is said about each PeerAuthentication.
pub(super) fn findings(
    resources: &Resources,
    mesh: &MeshSettings,
    proxies: &Proxies,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (namespace, name, entry) in resources.peers.iter() {
        let object = ObjectRef::new("PeerAuthentication", namespace, name);
        findings.push(
            Finding::hint(
                "it changes nothing here: HBONE is always mutual TLS, and which plain-text clients \
                 the workloads behind a waypoint take is enforced by their ztunnel",
            )
            .on(&object)
            .field("spec.mtls"),
        );
        if !demands_mutual_tls(&entry.object) {
            continue;
        }
        let selector = entry.object.spec.selector.as_ref();
        let gateways = proxies.played.iter().filter(|gateway| {
            gateway.proxy.role == ProxyRole::Gateway
                && (*gateway.proxy.namespace == **namespace || *mesh.root_namespace == **namespace)
                && selects(selector.map(|it| &it.match_labels), &gateway.labels())
        });
        for gateway in gateways {
            let reason = format!(
                "the plain-text listeners of the Gateway {}/{} stay open: a Gateway's listeners say \
                 themselves what they take, STRICT does not close them (as in Istio)",
                gateway.proxy.namespace, gateway.proxy.name
            );
            findings.push(
                Finding::hint(reason)
                    .on(&object)
                    .field("spec.mtls.mode")
                    .remedy(
                        "refuse callers without an identity by an AuthorizationPolicy with \
                         principals [\"*\"]",
                    ),
            );
        }
    }
    findings
}

fn demands_mutual_tls(object: &PeerAuthentication) -> bool {
    let of_ports = object.spec.port_level_mtls.values();
    let mut modes = object.spec.mtls.iter().chain(of_ports);
    modes.any(|mtls| mtls.mode == MutualTlsMode::Strict)
}
