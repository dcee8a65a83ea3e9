//! Settings of the whole mesh, distilled from MeshConfig (ConfigMap `istio-system/istio`, key `mesh`).

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderName;
use serde_json::Value;

use crate::ext_authz::{self, ExtAuthzProviders};
use crate::finding::Finding;
use crate::identity::TrustDomain;
use crate::request::PathNormalization;
use crate::tracing::{self, TracingProvider};

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
    /// Whether requests pass that Istio would let pass and we refuse by default (`docs/security.md`
    /// lists them): annotation [`ISTIO_COMPAT`] of the ConfigMap; default false.
    pub istio_compat: bool,
    /// Trailers that pass beside those that always do, in lower case: annotation [`TRAILERS`] of the
    /// ConfigMap, a list with commas.
    pub trailers: Arc<[HeaderName]>,
    /// Those of them that external authorization asks.
    pub ext_authz: ExtAuthzProviders,
    /// How many proxies before a gateway are believed about who the client is
    /// (`defaultConfig.gatewayTopology.numTrustedProxies`); default 0. Of no meaning at waypoints.
    pub trusted_proxies: u32,
}

/// Annotation of MeshConfig's ConfigMap that asks for Istio's ways where they are laxer than ours.
pub const ISTIO_COMPAT: &str = "wayline.dev/istio-compat";

/// Annotation of MeshConfig's ConfigMap that names further trailers that pass.
pub const TRAILERS: &str = "wayline.dev/trailers";

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
            istio_compat: false,
            trailers: Arc::default(),
            ext_authz: ExtAuthzProviders::new(),
            trusted_proxies: 0,
        }
    }
}

impl MeshSettings {
    /// Reads MeshConfig, already parsed. A key that is not read is a hint; a value that can not be
    /// read is an error and leaves its default, but for path normalisation, where the strictest mode
    /// takes its place. Findings name fields within MeshConfig.
    #[must_use]
    pub fn from_value(config: &Value) -> (Self, Vec<Finding>) {
        let mut reader = MeshReader {
            settings: Self::default(),
            findings: Vec::new(),
        };
        match config {
            Value::Null => {}
            Value::Object(fields) => reader.all(fields),
            _ => {
                reader.settings = Self::unreadable();
                reader
                    .findings
                    .push(Finding::error("MeshConfig must be a mapping"));
            }
        }
        (reader.settings, reader.findings)
    }

    /// Reads our own annotations of the ConfigMap. Findings name the annotation.
    pub fn annotate(&mut self, annotations: &BTreeMap<String, String>) -> Vec<Finding> {
        let mut findings = Vec::new();
        match annotations.get(ISTIO_COMPAT).map(String::as_str) {
            None | Some("false") => {}
            Some("true") => self.istio_compat = true,
            Some(_) => findings.push(
                Finding::error("it must be \"true\" or \"false\"; it counts as false")
                    .field(ISTIO_COMPAT),
            ),
        }
        let names = annotations.get(TRAILERS).map_or("", String::as_str);
        let mut trailers = Vec::new();
        for name in names
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
        {
            match name.parse() {
                Ok(name) => trailers.push(name),
                Err(_) => findings.push(
                    Finding::error(format!("`{name}` is not the name of a header")).field(TRAILERS),
                ),
            }
        }
        self.trailers = trailers.into();
        findings
    }

    /// What is in force while MeshConfig can not be read and never could: Istio's defaults, but the
    /// strictest path normalisation, because its author may have asked for that.
    #[must_use]
    pub fn unreadable() -> Self {
        Self {
            path_normalization: PathNormalization::DecodeAndMergeSlashes,
            ..Self::default()
        }
    }
}

/// Reads the keys of MeshConfig one by one.
struct MeshReader {
    settings: MeshSettings,
    findings: Vec<Finding>,
}

impl MeshReader {
    fn all(&mut self, fields: &serde_json::Map<String, Value>) {
        for (key, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
            self.key(key, value);
        }
        self.settings.tracing.provider = tracing::provider(&self.settings, &mut self.findings);
        self.settings.ext_authz =
            ext_authz::providers(&self.settings.extension_providers, &mut self.findings);
        // Encoding and format mean something only beside a file.
        let Some(file) = fields.get("accessLogFile").and_then(Value::as_str) else {
            return;
        };
        if file.is_empty() {
            return;
        }
        let encoding = match fields.get("accessLogEncoding").and_then(Value::as_str) {
            Some("JSON") => AccessLogEncoding::Json,
            _ => AccessLogEncoding::Text,
        };
        let format = fields.get("accessLogFormat").and_then(Value::as_str);
        self.settings.access_log = Some(AccessLogSettings {
            file: file.into(),
            encoding,
            format: format.filter(|format| !format.is_empty()).map(Into::into),
        });
    }

    fn key(&mut self, key: &str, value: &Value) {
        match key {
            "trustDomain" => {
                if let Some(domain) = self.trust_domain(key, value) {
                    self.settings.trust_domain = domain;
                }
            }
            "trustDomainAliases" => {
                for (index, alias) in self.list(key, value).iter().enumerate() {
                    let domain = self.trust_domain(&format!("{key}[{index}]"), alias);
                    self.settings.trust_domain_aliases.extend(domain);
                }
            }
            "rootNamespace" => {
                if let Some(namespace) = self.text(key, value).filter(|text| !text.is_empty()) {
                    self.settings.root_namespace = namespace;
                }
            }
            "pathNormalization" => self.path_normalization(value),
            "accessLogFile" | "accessLogFormat" => {
                self.text(key, value);
            }
            "accessLogEncoding" => {
                if !matches!(value.as_str(), Some("TEXT" | "JSON")) {
                    self.wrong(key, "it must be TEXT or JSON");
                }
            }
            "enableTracing" => match value.as_bool() {
                Some(enabled) => self.settings.tracing.enabled = enabled,
                None => self.wrong(key, "it must be true or false"),
            },
            "connectTimeout" => match value.as_str().and_then(duration_ms) {
                Some(ms) if ms > 0 => self.settings.connect_timeout_ms = ms,
                _ => self.wrong(key, "it must be a duration such as 10s"),
            },
            "defaultProviders" => self.default_providers(value),
            "defaultConfig" => self.default_config(value),
            "extensionProviders" => self.extension_providers(value),
            _ => self.unread(key),
        }
    }

    fn path_normalization(&mut self, value: &Value) {
        let mode = match value.get("normalization") {
            None | Some(Value::Null) => Some(PathNormalization::Base),
            Some(mode) => match mode.as_str() {
                Some("DEFAULT" | "BASE") => Some(PathNormalization::Base),
                Some("NONE") => Some(PathNormalization::None),
                Some("MERGE_SLASHES") => Some(PathNormalization::MergeSlashes),
                Some("DECODE_AND_MERGE_SLASHES") => Some(PathNormalization::DecodeAndMergeSlashes),
                _ => None,
            },
        };
        self.settings.path_normalization = mode.unwrap_or_else(|| {
            self.wrong(
                "pathNormalization.normalization",
                "it must be DEFAULT, NONE, BASE, MERGE_SLASHES or DECODE_AND_MERGE_SLASHES; \
                 the last of them, the strictest, is in force",
            );
            PathNormalization::DecodeAndMergeSlashes
        });
    }

    fn default_providers(&mut self, value: &Value) {
        let Some(fields) = self.fields("defaultProviders", value) else {
            return;
        };
        for (key, value) in fields {
            let path = format!("defaultProviders.{key}");
            if key != "tracing" {
                self.unread(&path);
                continue;
            }
            for (index, name) in self.list(&path, value).iter().enumerate() {
                let name = self.text(&format!("{path}[{index}]"), name);
                self.settings.tracing.default_providers.extend(name);
            }
        }
    }

    fn default_config(&mut self, value: &Value) {
        let Some(fields) = self.fields("defaultConfig", value) else {
            return;
        };
        for (key, value) in fields {
            match key.as_str() {
                "tracing" => self.tracing(value),
                "gatewayTopology" => self.gateway_topology(value),
                _ => self.unread(&format!("defaultConfig.{key}")),
            }
        }
    }

    fn gateway_topology(&mut self, value: &Value) {
        let Some(fields) = self.fields("defaultConfig.gatewayTopology", value) else {
            return;
        };
        for (key, value) in fields {
            let path = format!("defaultConfig.gatewayTopology.{key}");
            match key.as_str() {
                "numTrustedProxies" => match value.as_u64().and_then(|it| u32::try_from(it).ok()) {
                    Some(number) => self.settings.trusted_proxies = number,
                    None => self.wrong(&path, "it must be a number from 0; none is trusted"),
                },
                // What we do anyway: nobody's word for a certificate is taken.
                "forwardClientCertDetails"
                    if matches!(value.as_str(), Some("UNDEFINED" | "SANITIZE")) => {}
                "forwardClientCertDetails" => self.wrong(
                    &path,
                    "x-forwarded-client-cert is always taken away from what clients send",
                ),
                _ => self.unread(&path),
            }
        }
    }

    fn tracing(&mut self, value: &Value) {
        let Some(fields) = self.fields("defaultConfig.tracing", value) else {
            return;
        };
        for (key, value) in fields {
            let path = format!("defaultConfig.tracing.{key}");
            match key.as_str() {
                // As in Istio, where 0 is what a field has that was not written.
                "sampling" if value.as_f64() == Some(0.0) => self.findings.push(
                    Finding::hint("0 means Istio's default, 1 %")
                        .field(path)
                        .remedy("remove the provider to trace nothing"),
                ),
                "sampling" => match value.as_f64() {
                    Some(percent) if (0.0..=100.0).contains(&percent) => {
                        self.settings.tracing.sampling_percent = Some(percent);
                    }
                    _ => self.wrong(&path, "it must be a number from 0 to 100"),
                },
                "zipkin" => match value.get("address").and_then(Value::as_str) {
                    Some(address) => self.settings.tracing.zipkin_address = Some(address.into()),
                    None => self.wrong(&path, "it must have an address"),
                },
                "lightstep" | "datadog" | "stackdriver" | "openCensusAgent" => self.wrong(
                    &path,
                    "Wayline sends no spans there; name a provider of the kind zipkin or \
                     opentelemetry in defaultProviders.tracing",
                ),
                _ => self.unread(&path),
            }
        }
    }

    fn extension_providers(&mut self, value: &Value) {
        for (index, provider) in self.list("extensionProviders", value).iter().enumerate() {
            let path = format!("extensionProviders[{index}]");
            let Some(name) = provider["name"].as_str().filter(|name| !name.is_empty()) else {
                self.wrong(&path, "it must have a name");
                continue;
            };
            let known = |other: &ExtensionProvider| &*other.name == name;
            if self.settings.extension_providers.iter().any(known) {
                self.wrong(
                    &path,
                    "another provider has this name; the first one counts",
                );
                continue;
            }
            let kinds: Vec<_> = provider
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(key, value)| *key != "name" && !value.is_null())
                .collect();
            let [(kind, settings)] = kinds[..] else {
                self.wrong(&path, "it must have exactly one key beside its name");
                continue;
            };
            self.settings.extension_providers.push(ExtensionProvider {
                name: name.into(),
                kind: kind.as_str().into(),
                settings: settings.clone(),
            });
        }
    }

    fn trust_domain(&mut self, path: &str, value: &Value) -> Option<TrustDomain> {
        let text = self.text(path, value)?;
        match TrustDomain::parse(&text) {
            Ok(domain) => Some(domain),
            Err(error) => {
                self.wrong(path, &error.to_string());
                None
            }
        }
    }

    fn text(&mut self, path: &str, value: &Value) -> Option<Arc<str>> {
        let text = value.as_str().map(Arc::from);
        if text.is_none() {
            self.wrong(path, "it must be a string");
        }
        text
    }

    fn list<'a>(&mut self, path: &str, value: &'a Value) -> &'a [Value] {
        match value {
            Value::Array(items) => items,
            Value::Null => &[],
            _ => {
                self.wrong(path, "it must be a list");
                &[]
            }
        }
    }

    fn fields<'a>(
        &mut self,
        path: &str,
        value: &'a Value,
    ) -> Option<&'a serde_json::Map<String, Value>> {
        let fields = value.as_object();
        if fields.is_none() {
            self.wrong(path, "it must be a mapping");
        }
        fields
    }

    fn wrong(&mut self, path: &str, reason: &str) {
        self.findings.push(Finding::error(reason).field(path));
    }

    fn unread(&mut self, path: &str) {
        self.findings
            .push(Finding::hint("Wayline does not read this setting").field(path));
    }
}

/// Milliseconds of a protobuf duration as MeshConfig writes it: `10s`, `0.5s`, `250ms`, `1m`.
pub(crate) fn duration_ms(text: &str) -> Option<u64> {
    let (number, scale) = if let Some(number) = text.strip_suffix("ms") {
        (number, 1.0)
    } else if let Some(number) = text.strip_suffix('s') {
        (number, 1_000.0)
    } else if let Some(number) = text.strip_suffix('m') {
        (number, 60_000.0)
    } else {
        (text.strip_suffix('h')?, 3_600_000.0)
    };
    let number: f64 = number.parse().ok()?;
    // At most a day: longer is a slip of the pen, and the cast below stays exact.
    let ms = number * scale;
    (ms.is_finite() && (0.0..=86_400_000.0).contains(&ms)).then_some(ms as u64)
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
#[derive(Clone, Debug, PartialEq)]
pub struct TracingSettings {
    /// `enableTracing`, by default true; it means something only where no provider is named.
    pub enabled: bool,
    /// `defaultProviders.tracing`: names of extension providers.
    pub default_providers: Vec<Arc<str>>,
    /// `defaultConfig.tracing.sampling` in percent; `None` means Istio's 1 %.
    pub sampling_percent: Option<f64>,
    /// `defaultConfig.tracing.zipkin.address`.
    pub zipkin_address: Option<Arc<str>>,
    /// What follows from all that: who gets the spans. `None` means that nothing is traced.
    pub provider: Option<Arc<TracingProvider>>,
}

impl Default for TracingSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            default_providers: Vec::new(),
            sampling_percent: None,
            zipkin_address: None,
            provider: None,
        }
    }
}

/// One entry of `extensionProviders`, kept as written for the rooms that implement providers.
#[derive(Clone, Debug, PartialEq)]
pub struct ExtensionProvider {
    /// Its unique name.
    pub name: Arc<str>,
    /// The provider's kind, i.e. the key beside `name`, e.g. `zipkin`, `envoyExtAuthzGrpc`.
    pub kind: Arc<str>,
    /// The object under that key.
    pub settings: Value,
}
