//! Kinds that Wayline means to serve later: what is lost until then, and whether ignoring one would
//! admit more than its author meant.

use std::sync::Arc;

use serde_json::Value;

use super::policy::{Attachment, Restriction};
use super::{ISTIO_NETWORKING_GROUP, group_of};
use crate::finding::{Finding, Severity};
use crate::names::ObjectRef;

/// What is done about an object of a kind that is served later.
pub(super) struct Later {
    pub(super) finding: Finding,
    pub(super) restriction: Option<Restriction>,
}

/// How ignoring a kind changes what is served.
enum Loss {
    /// Nothing that a proxy would have done.
    Nothing(&'static str),
    /// Something is served differently, but nobody gets in who should not. Routing counts as this:
    /// it says where requests go; who may send them is the business of policies.
    Differs(&'static str),
    /// Requests would pass that the author meant to stop: the target is denied.
    Admits(&'static str),
}

/// What ignoring this object means; `None` for kinds that are no business of a proxy's.
fn loss(group: &str, kind: &str, document: &Value) -> Option<Loss> {
    use Loss::{Differs, Nothing};
    let spec = &document["spec"];
    Some(match (group, kind) {
        ("telemetry.istio.io", "Telemetry") => {
            Differs("telemetry follows MeshConfig and Istio's defaults")
        }
        (ISTIO_NETWORKING_GROUP, "EnvoyFilter") => envoy_filter(spec),
        (ISTIO_NETWORKING_GROUP, "Sidecar" | "ProxyConfig") => {
            Nothing("it configures Envoy sidecars")
        }
        (ISTIO_NETWORKING_GROUP, "VirtualService") => {
            Differs("requests are routed as if it did not exist")
        }
        (ISTIO_NETWORKING_GROUP, "DestinationRule") => {
            Differs("subsets, TLS, pool and outlier settings have no effect")
        }
        (ISTIO_NETWORKING_GROUP, "ServiceEntry") => Differs("its hosts are not served"),
        (ISTIO_NETWORKING_GROUP, "WorkloadEntry" | "WorkloadGroup") => {
            Differs("it is no endpoint and nobody's peer")
        }
        (ISTIO_NETWORKING_GROUP, "Gateway") => Differs("nothing listens for it"),
        (super::GATEWAY_GROUP, "GRPCRoute" | "TLSRoute" | "TCPRoute" | "UDPRoute") => {
            Differs("traffic is routed as if it did not exist")
        }
        (super::GATEWAY_GROUP, "BackendTLSPolicy") => {
            Differs("the backend is spoken to without TLS of its own")
        }
        (super::GATEWAY_GROUP | "gateway.networking.x-k8s.io", "ListenerSet" | "XListenerSet") => {
            Differs("nothing listens for it")
        }
        ("gateway.networking.x-k8s.io", "XBackendTrafficPolicy" | "BackendTrafficPolicy") => {
            Differs("retry budgets and session persistence have no effect")
        }
        ("networking.k8s.io", "Ingress")
            if spec["ingressClassName"] == "istio"
                || document["metadata"]["annotations"]["kubernetes.io/ingress.class"]
                    == "istio" =>
        {
            Differs("nothing listens for it")
        }
        ("", "Secret") if document["type"] == "kubernetes.io/tls" => {
            Nothing("TLS listeners, which would use it, say so themselves")
        }
        _ => return None,
    })
}

/// Names that stand in the configuration of Envoy filters which can refuse a request.
const REFUSING_FILTERS: [&str; 11] = [
    "rbac",
    "ext_authz",
    "jwt_authn",
    "oauth2",
    "ext_proc",
    "lua",
    "wasm",
    "basic_auth",
    "api_key_auth",
    "csrf",
    "credential",
];

fn envoy_filter(spec: &Value) -> Loss {
    let patches = spec["configPatches"].as_array();
    let refuses = patches.into_iter().flatten().any(|patch| {
        let filter = matches!(
            patch["applyTo"].as_str(),
            Some("HTTP_FILTER" | "NETWORK_FILTER" | "LISTENER_FILTER")
        );
        let text = patch["patch"].to_string();
        filter
            && patch["patch"]["operation"] != "REMOVE"
            && REFUSING_FILTERS.iter().any(|name| text.contains(name))
    });
    if refuses {
        Loss::Admits("a filter that it adds may refuse requests")
    } else {
        Loss::Differs("Envoy's own configuration has no counterpart here")
    }
}

/// Judges an object of a kind that is not among those read.
pub(super) fn judge(object: &ObjectRef, api_version: &str, document: &Value) -> Option<Later> {
    let kind = document["kind"].as_str().unwrap_or_default();
    let loss = loss(group_of(api_version), kind, document)?;
    let (severity, why, denies) = match loss {
        Loss::Nothing(why) => (Severity::Hint, why, false),
        Loss::Differs(why) => (Severity::Error, why, false),
        Loss::Admits(why) => (Severity::Error, why, true),
    };
    let consequence = if denies { "; its target is denied" } else { "" };
    let reason = format!("{kind} is not yet supported: {why}{consequence}");
    let finding = match severity {
        Severity::Hint => Finding::hint(reason.clone()),
        Severity::Error => Finding::error(reason.clone()),
    };
    let selector = if kind == "EnvoyFilter" {
        "workloadSelector"
    } else {
        "selector"
    };
    let restriction = denies.then(|| Restriction {
        object: object.clone(),
        attachment: Attachment::salvage(&document["spec"], selector),
        reason: Arc::from(format!("{object}: {reason}")),
    });
    Some(Later {
        finding: finding.on(object).field("kind"),
        restriction,
    })
}
