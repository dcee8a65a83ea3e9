//! GatewayClass, Gateway and ReferenceGrant (gateway.networking.k8s.io v1, v1beta1).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::meta::{LabelSelector, Metadata, Unread};

/// A GatewayClass.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct GatewayClass {
    /// Its metadata; `istio.io/waypoint-for` may be among the labels.
    pub metadata: Metadata,
    /// Who serves it.
    #[serde(default)]
    pub spec: GatewayClassSpec,
    #[serde(rename = "apiVersion", default)]
    _api_version: Unread,
    #[serde(rename = "kind", default)]
    _kind: Unread,
    #[serde(rename = "status", default)]
    _status: Unread,
}

/// `spec` of a GatewayClass.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayClassSpec {
    /// The controller.
    pub controller_name: String,
    #[serde(rename = "parametersRef")]
    _parameters_ref: Unread,
    #[serde(rename = "description")]
    _description: Unread,
}

/// A Gateway.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Gateway {
    /// Its metadata.
    pub metadata: Metadata,
    /// What it listens on.
    pub spec: GatewaySpec,
    #[serde(rename = "apiVersion", default)]
    _api_version: Unread,
    #[serde(rename = "kind", default)]
    _kind: Unread,
    #[serde(rename = "status", default)]
    _status: Unread,
}

/// `spec` of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// Its class.
    pub gateway_class_name: String,
    /// Its listeners.
    #[serde(default)]
    pub listeners: Vec<Listener>,
    /// Addresses asked for.
    #[serde(default)]
    pub addresses: Vec<GatewayAddress>,
    /// Labels and annotations of what is made for it.
    #[serde(default)]
    pub infrastructure: Infrastructure,
    #[serde(default, rename = "allowedListeners")]
    _allowed_listeners: Unread,
    #[serde(default, rename = "tls")]
    _tls: Unread,
    #[serde(default, rename = "defaultScope")]
    _default_scope: Unread,
}

/// `spec.infrastructure`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Infrastructure {
    /// Labels; where there are none, the Gateway's own count.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    #[serde(rename = "parametersRef")]
    _parameters_ref: Unread,
}

/// One address.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct GatewayAddress {
    /// `IPAddress` (the default), `Hostname`, or a domain-prefixed type.
    #[serde(rename = "type", default = "ip_address")]
    pub kind: String,
    /// The address.
    #[serde(default)]
    pub value: String,
}

fn ip_address() -> String {
    "IPAddress".to_owned()
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// Its name, unique within the Gateway.
    pub name: String,
    /// The hosts it serves; all where absent.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Its port.
    pub port: u16,
    /// HTTP, HTTPS, TLS, TCP, UDP, HBONE or a domain-prefixed protocol.
    pub protocol: String,
    /// TLS settings.
    #[serde(default)]
    pub tls: Option<Value>,
    /// Which routes may attach (and, at a waypoint, which namespaces may enrol).
    #[serde(default)]
    pub allowed_routes: AllowedRoutes,
}

/// `allowedRoutes` of a listener.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AllowedRoutes {
    /// From which namespaces.
    pub namespaces: RouteNamespaces,
    /// Of which kinds; empty means those that fit the protocol.
    pub kinds: Vec<RouteGroupKind>,
}

/// `allowedRoutes.namespaces`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RouteNamespaces {
    /// Same, All or Selector.
    pub from: FromNamespaces,
    /// The selector of namespaces where `from` is Selector.
    pub selector: Option<LabelSelector>,
}

/// Which namespaces are meant.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize)]
pub enum FromNamespaces {
    /// The Gateway's own.
    #[default]
    Same,
    /// All.
    All,
    /// Those a selector picks.
    Selector,
    /// None.
    None,
}

/// A kind of route.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct RouteGroupKind {
    /// Its API group.
    #[serde(default = "gateway_group")]
    pub group: String,
    /// The kind.
    pub kind: String,
}

fn gateway_group() -> String {
    super::GATEWAY_GROUP.to_owned()
}

/// A ReferenceGrant.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ReferenceGrant {
    /// Its metadata.
    pub metadata: Metadata,
    /// What it grants.
    pub spec: ReferenceGrantSpec,
    #[serde(rename = "apiVersion", default)]
    _api_version: Unread,
    #[serde(rename = "kind", default)]
    _kind: Unread,
    #[serde(rename = "status", default)]
    _status: Unread,
}

/// `spec` of a ReferenceGrant: any of `from` may refer to any of `to`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct ReferenceGrantSpec {
    /// Who may refer.
    pub from: Vec<GrantFrom>,
    /// To what in the grant's namespace.
    pub to: Vec<GrantTo>,
}

/// Who may refer.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct GrantFrom {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
}

/// What may be referred to.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct GrantTo {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name; any where absent.
    #[serde(default)]
    pub name: Option<String>,
}
