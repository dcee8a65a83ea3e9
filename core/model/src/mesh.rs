//! Settings of the whole mesh, distilled from MeshConfig (ConfigMap `istio-system/istio`, key `mesh`).

use std::sync::Arc;

use crate::identity::TrustDomain;
use crate::request::PathNormalization;

/// What MeshConfig says, with Istio's defaults where it says nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct MeshSettings {
    /// The mesh's own trust domain; default `cluster.local`.
    pub trust_domain: TrustDomain,
    /// Further trust domains whose identities count as ours.
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// Namespace of mesh-wide policy; default `istio-system`.
    pub root_namespace: Arc<str>,
    /// DNS suffix of service names; default `cluster.local`.
    pub cluster_domain: Arc<str>,
    /// Value of the `source_cluster` and `destination_cluster` labels; default `Kubernetes`.
    pub cluster_id: Arc<str>,
    /// Network of this proxy; default empty.
    pub network: Arc<str>,
    /// How paths are normalised before anything reads them; default BASE.
    pub path_normalization: PathNormalization,
    /// Where access logs go; `None` means off, as in Istio.
    pub access_log: Option<AccessLogSettings>,
    /// How new connections to backends may take, in milliseconds; Istio's default is 10,000.
    pub connect_timeout_ms: u64,
    /// Tracing as MeshConfig describes it.
    pub tracing: TracingSettings,
    /// Names and endpoints of `extensionProviders`.
    pub extension_providers: Vec<ExtensionProvider>,
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            trust_domain: TrustDomain::default(),
            trust_domain_aliases: Vec::new(),
            root_namespace: "istio-system".into(),
            cluster_domain: "cluster.local".into(),
            cluster_id: "Kubernetes".into(),
            network: "".into(),
            path_normalization: PathNormalization::Base,
            access_log: None,
            connect_timeout_ms: 10_000,
            tracing: TracingSettings::default(),
            extension_providers: Vec::new(),
        }
    }
}

/// `accessLogFile`, `accessLogEncoding`, `accessLogFormat`.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLogSettings {
    /// The file, e.g. `/dev/stdout`.
    pub file: Arc<str>,
    /// Text or JSON; default text.
    pub encoding: AccessLogEncoding,
    /// The user's format (text pattern or JSON object of patterns); `None` means Istio's default.
    pub format: Option<Arc<str>>,
}

/// Encoding of access log lines.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum AccessLogEncoding {
    /// One line of text.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// What MeshConfig says about tracing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TracingSettings {
    /// `enableTracing`.
    pub enabled: bool,
    /// `defaultProviders.tracing`: names of extension providers.
    pub default_providers: Vec<Arc<str>>,
    /// `defaultConfig.tracing.sampling` in percent; `None` means Istio's 1 %.
    pub sampling_percent: Option<f64>,
    /// `defaultConfig.tracing.zipkin.address`.
    pub zipkin_address: Option<Arc<str>>,
}

/// One entry of `extensionProviders`, kept as written for the rooms that implement providers.
#[derive(Clone, Debug, PartialEq)]
pub struct ExtensionProvider {
    /// Its unique name.
    pub name: Arc<str>,
    /// The provider's kind, i.e. the key beside `name`, e.g. `zipkin`, `envoyExtAuthzGrpc`.
    pub kind: Arc<str>,
    /// The object under that key.
    pub settings: serde_json::Value,
}
