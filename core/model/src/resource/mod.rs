//! The resource types Wayline reads, and reading them.
//!
//! Our own types hold exactly the fields that are read or that must be known by name; folder, API
//! server and dump all pass through the one [`parse`]. Unknown fields of what we read are findings,
//! because a misspelt field is one that its author believes to be in force.
//!
//! It refuses to know YAML, files and lines: a document is a [`Value`], and findings name object and
//! field, by which the caller finds the line.

pub mod authentication;
mod broken;
pub mod core;
pub mod extension;
pub mod gateway;
pub mod http_route;
mod later;
pub mod meta;
pub mod policy;
mod read;
pub(crate) mod ready;
pub(crate) mod secret;

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::finding::Finding;
use crate::mesh::MeshSettings;
use crate::names::ObjectRef;

pub use self::core::{EndpointSlice, Namespace, Node, Pod, Service, ServiceAccount};
pub use authentication::{PeerAuthentication, RequestAuthentication};
pub use broken::{Broken, BrokenRoute};
pub use extension::Extension;
pub use gateway::{Gateway, GatewayClass, ReferenceGrant};
pub use http_route::HttpRoute;
pub use meta::Metadata;
pub use policy::{Attachment, AuthorizationPolicy, Restriction};
pub use secret::RegistryCredentials;

use broken::broken;
use read::{Read, ReadError};

pub(crate) const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
pub(crate) const ISTIO_NETWORKING_GROUP: &str = "networking.istio.io";
const EXTENSIONS_GROUP: &str = "extensions.istio.io";

/// Turns the YAML text of MeshConfig into a value; handed in because this room knows no YAML.
pub type YamlParser<'a> = &'a dyn Fn(&str) -> Result<Value, String>;

/// What one document turned out to be.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The object it describes; `None` where it does not even say that.
    pub object: Option<ObjectRef>,
    /// Where it came from; set by the caller, used to tell duplicates apart.
    pub origin: Option<Origin>,
    /// What is in it.
    pub content: Content,
    /// What is wrong with it, with object and field.
    pub findings: Vec<Finding>,
}

/// Where a document came from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Origin {
    /// File, or another name of the source.
    pub file: Arc<str>,
    /// Line of the document's beginning, from 1.
    pub line: Option<u32>,
}

/// What is in a document.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// An object that can be served.
    Valid(Resource),
    /// An object of a kind we serve that can not be read: its last good version stays in force.
    Broken(Broken),
    /// A kind that is served later; what it would have restricted is denied.
    Later(Option<Restriction>),
    /// No business of ours.
    Skipped,
}

/// An object that can be served.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each variant holds the kind of its name")]
pub enum Resource {
    Namespace(Arc<Namespace>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    Pod(Arc<Pod>),
    Node(Arc<Node>),
    ServiceAccount(Arc<ServiceAccount>),
    /// The ConfigMap `istio-system/istio`.
    MeshConfig(Arc<MeshSettings>),
    GatewayClass(Arc<GatewayClass>),
    Gateway(Arc<Gateway>),
    HttpRoute(Arc<HttpRoute>),
    ReferenceGrant(Arc<ReferenceGrant>),
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    /// A WasmPlugin, or a TrafficExtension with `wasm`.
    Extension(Arc<Extension>),
    /// A Secret of type `kubernetes.io/dockerconfigjson`.
    Secret(Arc<RegistryCredentials>),
    RequestAuthentication(Arc<RequestAuthentication>),
    PeerAuthentication(Arc<PeerAuthentication>),
}

/// The documents of a Kubernetes `List` (`items` of a kind that ends in `List`); `None` for anything
/// else.
#[must_use]
pub fn list_items(document: &Value) -> Option<&[Value]> {
    document["kind"].as_str()?.strip_suffix("List")?;
    document["items"].as_array().map(Vec::as_slice)
}

/// Reads one document.
#[must_use]
pub fn parse(document: &Value, yaml: YamlParser<'_>) -> Parsed {
    let (api_version, kind) = match (document["apiVersion"].as_str(), document["kind"].as_str()) {
        (Some(api_version), Some(kind)) => (api_version, kind),
        // `istio.workload.Address` documents have no apiVersion.
        (None, Some("Address")) => ("", "Address"),
        _ => return nameless("the document has no apiVersion or no kind"),
    };
    let known = Known::of(api_version, kind);
    let Some(name) = document["metadata"]["name"]
        .as_str()
        .filter(|name| !name.is_empty())
    else {
        if known.is_none() {
            return match kind {
                "Address" => {
                    nameless("Address is not yet supported; it is no workload and no service here")
                }
                _ => skipped(),
            };
        }
        return nameless(&format!("the {kind} has no metadata.name"));
    };
    let object = ObjectRef::new(
        &kind_name(api_version, kind),
        namespace_of(document, known),
        name,
    );
    let Some(known) = known else {
        return later_or_skipped(object, api_version, document);
    };
    if !known.versions().contains(&version_of(api_version)) {
        let error = ReadError {
            path: "apiVersion".to_owned(),
            reason: format!(
                "{kind} is read in version {} of {}, not in {}",
                known.versions().join(" or "),
                group_of(api_version),
                version_of(api_version)
            ),
        };
        return broken(object, document, known, error);
    }
    if known == Known::ConfigMap {
        return mesh_config(object, document, yaml);
    }
    match known {
        Known::WasmPlugin => return extension_of(object, document, known, false),
        Known::TrafficExtension => return extension_of(object, document, known, true),
        Known::Secret => return secret_of(object, api_version, document),
        _ => {}
    }
    match known.read(document) {
        Ok(read) => valid(object, document, known, read),
        Err(error) => broken(object, document, known, error),
    }
}

impl Parsed {
    /// An object of which is known that it exists, but nothing of what it says, e.g. because its
    /// file does not parse.
    #[must_use]
    pub fn unreadable(object: ObjectRef, finding: Finding) -> Self {
        let reason = format!("{object} can not be read: {}", finding.reason);
        Self {
            content: Content::Broken(match &*object.kind {
                "AuthorizationPolicy" | "RequestAuthentication" => Broken::Policy(Restriction {
                    object: object.clone(),
                    attachment: None,
                    reason: reason.into(),
                }),
                "WasmPlugin" | "TrafficExtension" => Broken::Extension(Some(Restriction {
                    object: object.clone(),
                    attachment: None,
                    reason: reason.into(),
                })),
                _ => Broken::Other,
            }),
            findings: vec![finding.on(&object)],
            object: Some(object),
            origin: None,
        }
    }

    fn new(object: Option<ObjectRef>, content: Content, findings: Vec<Finding>) -> Self {
        Self {
            object,
            origin: None,
            content,
            findings,
        }
    }
}

/// The kinds that are read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Known {
    Namespace,
    Service,
    EndpointSlice,
    Pod,
    Node,
    ServiceAccount,
    ConfigMap,
    GatewayClass,
    Gateway,
    HttpRoute,
    ReferenceGrant,
    AuthorizationPolicy,
    WasmPlugin,
    TrafficExtension,
    Secret,
    RequestAuthentication,
    PeerAuthentication,
}

impl Known {
    fn of(api_version: &str, kind: &str) -> Option<Self> {
        Some(match (group_of(api_version), kind) {
            ("", "Namespace") => Self::Namespace,
            ("", "Service") => Self::Service,
            ("", "Pod") => Self::Pod,
            ("", "Node") => Self::Node,
            ("", "ServiceAccount") => Self::ServiceAccount,
            ("", "ConfigMap") => Self::ConfigMap,
            ("discovery.k8s.io", "EndpointSlice") => Self::EndpointSlice,
            (GATEWAY_GROUP, "GatewayClass") => Self::GatewayClass,
            (GATEWAY_GROUP, "Gateway") => Self::Gateway,
            (GATEWAY_GROUP, "HTTPRoute") => Self::HttpRoute,
            (GATEWAY_GROUP, "ReferenceGrant") => Self::ReferenceGrant,
            ("security.istio.io", "AuthorizationPolicy") => Self::AuthorizationPolicy,
            (EXTENSIONS_GROUP, "WasmPlugin") => Self::WasmPlugin,
            (EXTENSIONS_GROUP, "TrafficExtension") => Self::TrafficExtension,
            ("", "Secret") => Self::Secret,
            ("security.istio.io", "RequestAuthentication") => Self::RequestAuthentication,
            ("security.istio.io", "PeerAuthentication") => Self::PeerAuthentication,
            _ => return None,
        })
    }

    fn versions(self) -> &'static [&'static str] {
        match self {
            Self::GatewayClass
            | Self::Gateway
            | Self::HttpRoute
            | Self::ReferenceGrant
            | Self::AuthorizationPolicy
            | Self::RequestAuthentication
            | Self::PeerAuthentication => &["v1", "v1beta1"],
            Self::WasmPlugin | Self::TrafficExtension => &["v1alpha1"],
            _ => &["v1"],
        }
    }

    fn is_cluster_scoped(self) -> bool {
        matches!(self, Self::Namespace | Self::Node | Self::GatewayClass)
    }

    /// Whether every field is known, so that another one is a finding. Of the others only small
    /// parts are modelled.
    fn is_modelled(self) -> bool {
        !matches!(
            self,
            Self::Namespace | Self::Pod | Self::Node | Self::ServiceAccount | Self::ConfigMap
        )
    }

    /// Whether it only ever takes away, so that half of one must not count as one.
    fn restricts(self) -> bool {
        matches!(
            self,
            Self::AuthorizationPolicy | Self::RequestAuthentication
        )
    }

    fn read(self, document: &Value) -> Result<Read<Resource>, ReadError> {
        match self {
            Self::Namespace => typed(document, Resource::Namespace),
            Self::Service => typed(document, Resource::Service),
            Self::EndpointSlice => typed(document, Resource::EndpointSlice),
            Self::Pod => typed(document, Resource::Pod),
            Self::Node => typed(document, Resource::Node),
            Self::ServiceAccount => typed(document, Resource::ServiceAccount),
            Self::GatewayClass => typed(document, Resource::GatewayClass),
            Self::Gateway => typed(document, Resource::Gateway),
            Self::HttpRoute => typed(document, Resource::HttpRoute),
            Self::ReferenceGrant => typed(document, Resource::ReferenceGrant),
            Self::AuthorizationPolicy => typed(document, Resource::AuthorizationPolicy),
            Self::RequestAuthentication => typed(document, Resource::RequestAuthentication),
            Self::PeerAuthentication => typed(document, Resource::PeerAuthentication),
            // Read by functions of their own, each in its own way.
            Self::ConfigMap | Self::WasmPlugin | Self::TrafficExtension | Self::Secret => {
                Err(ReadError {
                    path: String::new(),
                    reason: "it is not read field by field".to_owned(),
                })
            }
        }
    }
}

fn typed<T: DeserializeOwned>(
    document: &Value,
    resource: fn(Arc<T>) -> Resource,
) -> Result<Read<Resource>, ReadError> {
    let Read { value, unknown } = read::read::<T>(document)?;
    Ok(Read {
        value: resource(Arc::new(value)),
        unknown,
    })
}

fn valid(object: ObjectRef, document: &Value, known: Known, read: Read<Resource>) -> Parsed {
    let mut unknown = read.unknown;
    if !known.is_modelled() {
        unknown.clear();
    }
    if known.restricts()
        && let Some(path) = unknown.first()
    {
        let error = ReadError {
            path: path.clone(),
            reason: "there is no such field".to_owned(),
        };
        return broken(object, document, known, error);
    }
    if let Some(parsed) = invalid_by_itself(&object, document, known, &read.value) {
        return parsed;
    }
    let findings = unknown
        .into_iter()
        .map(|path| {
            Finding::error("there is no such field; it is ignored")
                .on(&object)
                .field(path)
                .remedy("correct the spelling or indentation, or remove it")
        })
        .collect();
    Parsed::new(Some(object), Content::Valid(read.value), findings)
}

/// Objects that read well and yet can not mean anything.
fn invalid_by_itself(
    object: &ObjectRef,
    document: &Value,
    known: Known,
    resource: &Resource,
) -> Option<Parsed> {
    let mut incompatible = false;
    let errors = match resource {
        Resource::HttpRoute(route) => {
            let problems = ready::problems(route);
            incompatible = problems.iter().any(|problem| problem.incompatible);
            problems
                .into_iter()
                .map(|ready::Problem { path, reason, .. }| ReadError { path, reason })
                .collect()
        }
        Resource::AuthorizationPolicy(policy) => policy::problems(&policy.spec, &object.namespace),
        Resource::RequestAuthentication(it) => {
            authentication::problems(&it.spec, &object.namespace)
        }
        _ => Vec::new(),
    };
    if errors.is_empty() {
        return None;
    }
    let mut parsed = broken_by_all(object.clone(), document, known, errors);
    if let Content::Broken(Broken::Route(route)) = &mut parsed.content {
        route.incompatible_filters = incompatible;
    }
    Some(parsed)
}

/// The first error says what becomes of the object, the others follow.
fn broken_by_all(
    object: ObjectRef,
    document: &Value,
    known: Known,
    errors: Vec<ReadError>,
) -> Parsed {
    let mut errors = errors.into_iter();
    let first = errors.next().unwrap_or_else(|| ReadError {
        path: String::new(),
        reason: "it can not be read".to_owned(),
    });
    let mut parsed = broken(object.clone(), document, known, first);
    parsed
        .findings
        .extend(errors.map(|error| Finding::error(error.reason).on(&object).field(error.path)));
    parsed
}

fn extension_of(object: ObjectRef, document: &Value, known: Known, nested: bool) -> Parsed {
    match extension::read(&object, document, nested) {
        Ok(extension::Readable {
            extension,
            findings,
        }) => Parsed::new(
            Some(object),
            Content::Valid(Resource::Extension(Arc::new(extension))),
            findings,
        ),
        Err(errors) => broken_by_all(object, document, known, errors),
    }
}

fn secret_of(object: ObjectRef, api_version: &str, document: &Value) -> Parsed {
    if document["type"] != secret::DOCKER_CONFIG {
        return later_or_skipped(object, api_version, document);
    }
    match secret::read(document) {
        Ok(credentials) => Parsed::new(
            Some(object),
            Content::Valid(Resource::Secret(Arc::new(credentials))),
            Vec::new(),
        ),
        Err(error) => broken(object, document, Known::Secret, error),
    }
}

fn mesh_config(object: ObjectRef, document: &Value, yaml: YamlParser<'_>) -> Parsed {
    if &*object.namespace != "istio-system" || &*object.name != "istio" {
        return Parsed::new(Some(object), Content::Skipped, Vec::new());
    }
    let settings = read::read::<core::ConfigMap>(document).and_then(|read| {
        let config = match read.value.data.get("mesh") {
            Some(text) => yaml(text).map_err(|reason| ReadError {
                path: "data.mesh".to_owned(),
                reason,
            })?,
            None => Value::Null,
        };
        Ok((config, read.value.metadata.annotations))
    });
    match settings {
        Ok((config, annotations)) => {
            let (mut settings, findings) = MeshSettings::from_value(&config);
            let own = settings.annotate(&annotations);
            let findings = findings.into_iter().map(|finding| {
                let field = match &finding.field {
                    Some(field) => format!("data.mesh.{field}"),
                    None => "data.mesh".to_owned(),
                };
                finding.on(&object).field(field)
            });
            let own = own.into_iter().map(|finding| {
                let field = format!(
                    "metadata.annotations.{}",
                    finding.field.as_deref().unwrap_or_default()
                );
                finding.on(&object).field(field)
            });
            let findings = findings.chain(own).collect();
            Parsed::new(
                Some(object),
                Content::Valid(Resource::MeshConfig(Arc::new(settings))),
                findings,
            )
        }
        Err(error) => broken(object, document, Known::ConfigMap, error),
    }
}

fn later_or_skipped(object: ObjectRef, api_version: &str, document: &Value) -> Parsed {
    match later::judge(&object, api_version, document) {
        Some(later) => Parsed::new(
            Some(object),
            Content::Later(later.restriction),
            vec![later.finding],
        ),
        None => Parsed::new(Some(object), Content::Skipped, Vec::new()),
    }
}

fn nameless(reason: &str) -> Parsed {
    Parsed::new(None, Content::Skipped, vec![Finding::error(reason)])
}

fn skipped() -> Parsed {
    Parsed::new(None, Content::Skipped, Vec::new())
}

fn namespace_of(document: &Value, known: Option<Known>) -> &str {
    if known.is_some_and(Known::is_cluster_scoped) {
        return "";
    }
    document["metadata"]["namespace"]
        .as_str()
        .filter(|namespace| !namespace.is_empty())
        .unwrap_or("default")
}

/// Istio's Gateway is not the Gateway API's: they are told apart by the group, as kubectl does.
fn kind_name(api_version: &str, kind: &str) -> String {
    match (group_of(api_version), kind) {
        (ISTIO_NETWORKING_GROUP, "Gateway") => format!("Gateway.{ISTIO_NETWORKING_GROUP}"),
        _ => kind.to_owned(),
    }
}

fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

fn version_of(api_version: &str) -> &str {
    api_version
        .split_once('/')
        .map_or(api_version, |(_, version)| version)
}
