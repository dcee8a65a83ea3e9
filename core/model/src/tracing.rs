//! Which tracing provider is in force, from MeshConfig.
//!
//! As in Istio: the first of `defaultProviders.tracing`; without one, `defaultConfig.tracing.zipkin`
//! unless `enableTracing` is false. What a provider asks for and Wayline can not do is an error.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::finding::Finding;
use crate::mesh::{ExtensionProvider, MeshSettings, duration_ms};

/// Where Zipkin takes spans unless the provider says otherwise.
const ZIPKIN_PATH: &str = "/api/v2/spans";

/// Envoy's bound on the path within the `http.url` tag.
const MAX_PATH_LENGTH: usize = 256;

/// A collector of spans, and how it wants them.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct TracingProvider {
    /// Name of the extension provider, or `zipkin` for that of `defaultConfig`.
    pub name: Arc<str>,
    /// Namespace of the service, when written as `namespace/host`.
    pub namespace: Option<Arc<str>>,
    /// Host: of a service that we know, else of DNS.
    pub host: Arc<str>,
    /// Service port.
    pub port: u16,
    /// What is spoken to it.
    pub protocol: TracingProtocol,
    /// Which trace headers are written.
    pub trace_headers: TraceHeaders,
    /// Whether new traces have ids of 64 bits in the place of 128.
    pub short_trace_ids: bool,
    /// Most bytes of a path within the `http.url` tag.
    pub max_path_length: usize,
    /// Time for one delivery, in milliseconds; default 5,000.
    pub timeout_ms: u64,
    /// Headers sent with each delivery.
    pub headers: Vec<ProviderHeader>,
}

/// What a collector understands.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum TracingProtocol {
    /// Zipkin's JSON, version 2, by POST to this path.
    Zipkin {
        /// Path of the collector.
        path: Arc<str>,
    },
    /// OTLP over gRPC.
    OtlpGrpc,
    /// OTLP as protobuf, by POST to this path.
    OtlpHttp {
        /// Path of the collector.
        path: Arc<str>,
    },
}

/// Which headers carry the trace onwards.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum TraceHeaders {
    /// `x-b3-*`.
    B3,
    /// `x-b3-*` and `traceparent` (`USE_B3_WITH_W3C_PROPAGATION`).
    B3AndW3c,
    /// `traceparent`.
    W3c,
}

/// One header of a provider.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ProviderHeader {
    /// Its name.
    pub name: Arc<str>,
    /// Its value.
    pub value: HeaderSource,
}

/// Where a header's value comes from.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum HeaderSource {
    /// Written down.
    Value(Arc<str>),
    /// An environment variable of this process (`envName`).
    Environment(Arc<str>),
}

/// The provider in force under these settings; `None` when there is none, or it can not be used.
/// Findings name fields within MeshConfig.
pub(crate) fn provider(
    mesh: &MeshSettings,
    findings: &mut Vec<Finding>,
) -> Option<Arc<TracingProvider>> {
    let Some(name) = mesh.tracing.default_providers.first() else {
        return legacy(mesh, findings).map(Arc::new);
    };
    if mesh.tracing.default_providers.len() > 1 {
        findings.push(
            Finding::error(format!(
                "one provider gets the spans, and that is the first, `{name}`"
            ))
            .field("defaultProviders.tracing"),
        );
    }
    let known = |(_, provider): &(usize, &ExtensionProvider)| provider.name == *name;
    let Some((index, provider)) = mesh.extension_providers.iter().enumerate().find(known) else {
        findings.push(
            Finding::error(format!(
                "there is no extension provider `{name}`; nothing is traced"
            ))
            .field("defaultProviders.tracing[0]")
            .remedy("add it to extensionProviders, or name one that is there"),
        );
        return None;
    };
    let place = format!("extensionProviders[{index}].{}", provider.kind);
    let Some(settings) = provider.settings.as_object() else {
        findings.push(Finding::error("it must be a mapping; nothing is traced").field(place));
        return None;
    };
    let mut reader = Reader {
        place,
        settings,
        findings,
    };
    match &*provider.kind {
        "zipkin" => reader.zipkin(name),
        "opentelemetry" => reader.opentelemetry(name),
        kind => {
            reader.wrong(
                "",
                &format!(
                    "Wayline sends no spans to `{kind}`; nothing is traced. Providers of the kinds \
                     zipkin and opentelemetry are served"
                ),
            );
            None
        }
    }
    .map(Arc::new)
}

/// `defaultConfig.tracing.zipkin.address`, the way before providers.
fn legacy(mesh: &MeshSettings, findings: &mut Vec<Finding>) -> Option<TracingProvider> {
    let address = mesh.tracing.zipkin_address.as_ref()?;
    if !mesh.tracing.enabled {
        return None;
    }
    let parts = address.rsplit_once(':');
    let Some((host, Ok(port))) = parts.map(|(host, port)| (host, port.parse())) else {
        findings.push(
            Finding::error("it must be HOST:PORT; nothing is traced")
                .field("defaultConfig.tracing.zipkin.address"),
        );
        return None;
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some(TracingProvider {
        name: "zipkin".into(),
        namespace: None,
        host: host.into(),
        port,
        protocol: TracingProtocol::Zipkin {
            path: ZIPKIN_PATH.into(),
        },
        trace_headers: TraceHeaders::B3,
        short_trace_ids: false,
        max_path_length: MAX_PATH_LENGTH,
        timeout_ms: 5_000,
        headers: Vec::new(),
    })
}

/// Reads one provider's settings.
struct Reader<'a> {
    place: String,
    settings: &'a Map<String, Value>,
    findings: &'a mut Vec<Finding>,
}

impl Reader<'_> {
    fn zipkin(&mut self, name: &Arc<str>) -> Option<TracingProvider> {
        self.refuse_unknown(&[
            "service",
            "port",
            "maxTagLength",
            "enable64bitTraceId",
            "path",
            "traceContextOption",
            "timeout",
            "headers",
        ]);
        let trace_headers = match self.settings.get("traceContextOption") {
            None => TraceHeaders::B3,
            Some(option) => match option.as_str() {
                Some("USE_B3") => TraceHeaders::B3,
                Some("USE_B3_WITH_W3C_PROPAGATION") => TraceHeaders::B3AndW3c,
                _ => {
                    self.wrong(
                        ".traceContextOption",
                        "it must be USE_B3 or USE_B3_WITH_W3C_PROPAGATION; USE_B3 is in force",
                    );
                    TraceHeaders::B3
                }
            },
        };
        let short_trace_ids = self
            .settings
            .get("enable64bitTraceId")
            .is_some_and(|short| short.as_bool() == Some(true));
        let path = Self::path(self.settings.get("path"), ZIPKIN_PATH);
        let timeout_ms = self.timeout("", self.settings.get("timeout"));
        let headers = self.headers("headers", self.settings.get("headers"));
        Some(TracingProvider {
            protocol: TracingProtocol::Zipkin { path },
            trace_headers,
            short_trace_ids,
            timeout_ms,
            headers,
            ..self.base(name)?
        })
    }

    fn opentelemetry(&mut self, name: &Arc<str>) -> Option<TracingProvider> {
        self.refuse_unknown(&[
            "service",
            "port",
            "maxTagLength",
            "http",
            "grpc",
            "resourceDetectors",
            "dynatraceSampler",
        ]);
        for key in ["resourceDetectors", "dynatraceSampler"] {
            if self.settings.contains_key(key) {
                self.wrong(
                    &format!(".{key}"),
                    "Wayline does not do this; spans are sent without it",
                );
            }
        }
        let base = self.base(name)?;
        if let Some(http) = self.settings.get("http") {
            return Some(TracingProvider {
                protocol: TracingProtocol::OtlpHttp {
                    path: Self::path(http.get("path"), "/v1/traces"),
                },
                timeout_ms: self.timeout(".http", http.get("timeout")),
                headers: self.headers("http.headers", http.get("headers")),
                ..base
            });
        }
        let grpc = self.settings.get("grpc");
        let field = |key| grpc.and_then(|grpc| grpc.get(key));
        Some(TracingProvider {
            timeout_ms: self.timeout(".grpc", field("timeout")),
            headers: self.headers("grpc.initialMetadata", field("initialMetadata")),
            ..base
        })
    }

    /// What both kinds have.
    fn base(&mut self, name: &Arc<str>) -> Option<TracingProvider> {
        let service = self.settings.get("service").and_then(Value::as_str);
        let Some(service) = service.filter(|service| !service.is_empty()) else {
            self.wrong(
                ".service",
                "it must name the collector's host; nothing is traced",
            );
            return None;
        };
        let port = self.settings.get("port").and_then(Value::as_u64);
        let Some(port) = port
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port > 0)
        else {
            self.wrong(
                ".port",
                "it must be a number from 1 to 65535; nothing is traced",
            );
            return None;
        };
        let (namespace, host) = match service.split_once('/') {
            Some((namespace, host)) => (Some(namespace.into()), host),
            None => (None, service),
        };
        let max_path_length = match self.settings.get("maxTagLength") {
            None => MAX_PATH_LENGTH,
            Some(length) => match length.as_u64().and_then(|n| usize::try_from(n).ok()) {
                Some(0) => MAX_PATH_LENGTH,
                Some(length) => length,
                None => {
                    self.wrong(".maxTagLength", "it must be a number; 256 is in force");
                    MAX_PATH_LENGTH
                }
            },
        };
        Some(TracingProvider {
            name: Arc::clone(name),
            namespace,
            host: host.into(),
            port,
            protocol: TracingProtocol::OtlpGrpc,
            trace_headers: TraceHeaders::W3c,
            short_trace_ids: false,
            max_path_length,
            timeout_ms: 5_000,
            headers: Vec::new(),
        })
    }

    fn path(path: Option<&Value>, default: &str) -> Arc<str> {
        match path.and_then(Value::as_str) {
            None | Some("") => default.into(),
            Some(path) if path.starts_with('/') => path.into(),
            Some(path) => format!("/{path}").into(),
        }
    }

    fn timeout(&mut self, within: &str, timeout: Option<&Value>) -> u64 {
        const DEFAULT: u64 = 5_000;
        let Some(timeout) = timeout else {
            return DEFAULT;
        };
        match timeout.as_str().and_then(duration_ms) {
            Some(ms) if ms > 0 => ms,
            _ => {
                let field = format!("{within}.timeout");
                self.wrong(
                    &field,
                    "it must be a duration such as 5s, which is in force",
                );
                DEFAULT
            }
        }
    }

    fn headers(&mut self, field: &str, headers: Option<&Value>) -> Vec<ProviderHeader> {
        let mut read = Vec::new();
        let list = headers.and_then(Value::as_array).into_iter().flatten();
        for (index, header) in list.enumerate() {
            let text = |key| header.get(key).and_then(Value::as_str).map(Arc::from);
            let value = text("value")
                .map(HeaderSource::Value)
                .or_else(|| text("envName").map(HeaderSource::Environment));
            match text("name").zip(value) {
                Some((name, value)) => read.push(ProviderHeader { name, value }),
                None => self.wrong(
                    &format!(".{field}[{index}]"),
                    "it must have a name, and a value or envName; it is not sent",
                ),
            }
        }
        read
    }

    fn refuse_unknown(&mut self, known: &[&str]) {
        let unknown: Vec<String> = self
            .settings
            .keys()
            .filter(|key| !known.contains(&key.as_str()))
            .cloned()
            .collect();
        for key in unknown {
            self.findings.push(
                Finding::hint("Wayline does not read this setting")
                    .field(format!("{}.{key}", self.place)),
            );
        }
    }

    fn wrong(&mut self, field: &str, reason: &str) {
        self.findings
            .push(Finding::error(reason).field(format!("{}{field}", self.place)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(config: &Value) -> (Option<Arc<TracingProvider>>, Vec<Finding>) {
        let (settings, findings) = MeshSettings::from_value(config);
        (settings.tracing.provider, findings)
    }

    #[test]
    fn the_first_default_provider_is_in_force() {
        let (provider, findings) = read(&json!({
            "enableTracing": false,
            "defaultProviders": {"tracing": ["z"]},
            "extensionProviders": [
                {"name": "other", "datadog": {"service": "d", "port": 1}},
                {"name": "z", "zipkin": {
                    "service": "observability/zipkin.example.org", "port": 9411,
                    "path": "collect", "maxTagLength": 10, "enable64bitTraceId": true,
                    "traceContextOption": "USE_B3_WITH_W3C_PROPAGATION", "timeout": "250ms",
                    "headers": [{"name": "a", "value": "b"}, {"name": "c", "envName": "D"}]}},
            ],
        }));
        assert_eq!(findings, []);
        let provider = provider.unwrap();
        assert_eq!(provider.namespace.as_deref(), Some("observability"));
        assert_eq!(&*provider.host, "zipkin.example.org");
        assert_eq!(provider.port, 9411);
        assert_eq!(
            provider.protocol,
            TracingProtocol::Zipkin {
                path: "/collect".into()
            }
        );
        assert_eq!(provider.trace_headers, TraceHeaders::B3AndW3c);
        assert!(provider.short_trace_ids);
        assert_eq!((provider.max_path_length, provider.timeout_ms), (10, 250));
        assert_eq!(
            provider.headers[1].value,
            HeaderSource::Environment("D".into())
        );
    }

    #[test]
    fn opentelemetry_is_grpc_unless_it_says_http() {
        let config = |settings: Value| {
            json!({
                "defaultProviders": {"tracing": ["o"]},
                "extensionProviders": [{"name": "o", "opentelemetry": settings}],
            })
        };
        let (grpc, findings) = read(&config(json!({"service": "c", "port": 4317})));
        assert_eq!(findings, []);
        let grpc = grpc.unwrap();
        assert_eq!(grpc.protocol, TracingProtocol::OtlpGrpc);
        assert_eq!(grpc.trace_headers, TraceHeaders::W3c);
        let (http, _) = read(&config(
            json!({"service": "c", "port": 4318, "http": {"path": "/x", "timeout": "1s"}}),
        ));
        let http = http.unwrap();
        assert_eq!(
            http.protocol,
            TracingProtocol::OtlpHttp { path: "/x".into() }
        );
        assert_eq!(http.timeout_ms, 1000);
        let (_, findings) = read(&config(
            json!({"service": "c", "port": 1, "dynatraceSampler": {}}),
        ));
        assert_eq!(
            findings[0].field.as_deref(),
            Some("extensionProviders[0].opentelemetry.dynatraceSampler")
        );
    }

    #[test]
    fn the_address_of_default_config_counts_where_no_provider_is_named() {
        let config = |address: &str, enabled: Option<bool>| {
            json!({
                "enableTracing": enabled,
                "defaultConfig": {"tracing": {"zipkin": {"address": address}}},
            })
        };
        let (provider, findings) = read(&config("zipkin.istio-system:9411", None));
        assert_eq!(findings, []);
        let provider = provider.unwrap();
        assert_eq!(&*provider.host, "zipkin.istio-system");
        assert_eq!(provider.port, 9411);
        assert_eq!(provider.trace_headers, TraceHeaders::B3);
        assert_eq!(read(&config("z:9411", Some(false))).0, None);
        let (provider, findings) = read(&config("zipkin", None));
        assert_eq!(provider, None);
        assert_eq!(findings.len(), 1);
    }

    #[test]
    fn what_can_not_be_served_is_an_error() {
        for (config, field) in [
            (
                json!({"defaultProviders": {"tracing": ["gone"]}}),
                "defaultProviders.tracing[0]",
            ),
            (
                json!({"defaultProviders": {"tracing": ["s"]},
                       "extensionProviders": [{"name": "s", "skywalking": {"service": "s", "port": 1}}]}),
                "extensionProviders[0].skywalking",
            ),
            (
                json!({"defaultProviders": {"tracing": ["z"]},
                       "extensionProviders": [{"name": "z", "zipkin": {"port": 1}}]}),
                "extensionProviders[0].zipkin.service",
            ),
            (
                json!({"defaultProviders": {"tracing": ["z"]},
                       "extensionProviders": [{"name": "z", "zipkin": {"service": "z", "port": 0}}]}),
                "extensionProviders[0].zipkin.port",
            ),
            (
                json!({"defaultConfig": {"tracing": {"datadog": {"address": "d:1"}}}}),
                "defaultConfig.tracing.datadog",
            ),
        ] {
            let (provider, findings) = read(&config);
            assert_eq!(provider, None, "{config}");
            assert_eq!(findings[0].field.as_deref(), Some(field), "{config}");
            assert_eq!(findings[0].severity, crate::Severity::Error, "{config}");
        }
    }
}
