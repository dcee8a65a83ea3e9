//! Servers that are asked whether a request may pass: from MeshConfig's `extensionProviders`, and from
//! ExternalAuth filters of HTTPRoutes.
//!
//! AuthorizationPolicies with action CUSTOM ask an `envoyExtAuthzGrpc` or `envoyExtAuthzHttp` server. A
//! provider that can not be read refuses what its policies match. This room refuses to know
//! the exchange with the server, which is the native filter's.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use crate::finding::Finding;
use crate::mesh::{ExtensionProvider, duration_ms};

/// How long a check may take where the provider does not say (istiod: `extauthz.go`).
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// The providers by name; `Err` holds why one can not be asked.
pub type ExtAuthzProviders = HashMap<Arc<str>, Result<Arc<ExtAuthzProvider>, Arc<str>>>;

/// One server that decides, and how it is asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExtAuthzProvider {
    /// Its name.
    pub name: Arc<str>,
    /// Its cluster, `outbound|<port>||<host>`.
    pub backend: Arc<str>,
    /// Its host and port, for the `Host` of checks over HTTP.
    pub authority: Arc<str>,
    /// How it is asked.
    pub settings: AuthSettings,
}

impl ExtAuthzProvider {
    /// The server at a port of a host that the mesh knows.
    #[must_use]
    pub fn at(name: &str, host: &str, port: u16, settings: AuthSettings) -> Self {
        Self {
            name: name.into(),
            backend: format!("outbound|{port}||{host}").into(),
            authority: format!("{host}:{port}").into(),
            settings,
        }
    }
}

/// What servers tell filters and logs about a request (Envoy's dynamic metadata): objects by namespace.
pub type DynamicMetadata = Map<String, Value>;

/// Where what servers tell stands (Envoy).
pub const METADATA_NAMESPACE: &str = "envoy.filters.http.ext_authz";

/// How a server is asked, wherever it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AuthSettings {
    /// What is spoken to it.
    pub protocol: CheckProtocol,
    /// Time for one check; default 600 s for providers, 10 s for routes.
    pub timeout: Duration,
    /// Whether requests pass when it can not be asked; default false.
    pub fail_open: bool,
    /// Status of the refusal when it can not be asked; default 403.
    pub status_on_error: StatusCode,
    /// What of the body it is shown; `None` for nothing.
    pub body: Option<CheckBody>,
}

/// How a server is asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CheckProtocol {
    /// `envoy.service.auth.v3.Authorization/Check`.
    Grpc(GrpcCheck),
    /// A request of the same method.
    Http(Box<HttpCheck>),
}

/// What a check over gRPC carries.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GrpcCheck {
    /// Request headers that are shown; `None` for all of them.
    pub request_headers: Option<NameSet>,
}

/// What a check over HTTP carries, there and back.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HttpCheck {
    /// Written before the path.
    pub path_prefix: Arc<str>,
    /// Request headers that are shown, besides `authorization`.
    pub request_headers: NameSet,
    /// Headers added to the check.
    pub additional_headers: Vec<(HeaderName, HeaderValue)>,
    /// Headers of an approval that go upstream.
    pub to_upstream_on_allow: NameSet,
    /// Headers of an approval that go to the client.
    pub to_downstream_on_allow: NameSet,
    /// Headers of a refusal that go to the client; `None` means all of them.
    pub to_downstream_on_deny: Option<NameSet>,
}

/// `includeRequestBodyInCheck`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CheckBody {
    /// Most bytes shown.
    pub max_bytes: usize,
    /// Whether longer bodies are shown in part; else they are refused with 413.
    pub allow_partial: bool,
    /// Whether it is shown as bytes, not as text (gRPC only).
    pub as_bytes: bool,
}

/// Header names: exact, `prefix*` or `*suffix`, without regard to case.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NameSet {
    exact: Vec<Box<str>>,
    prefixes: Vec<Box<str>>,
    suffixes: Vec<Box<str>>,
    /// Begins of names that are not in it, whatever else is said.
    not: Vec<Box<str>>,
}

impl NameSet {
    /// Every name but those that begin like this.
    #[must_use]
    pub fn all_but(prefix: &str) -> Self {
        Self {
            prefixes: vec!["".into()],
            not: vec![prefix.into()],
            ..Self::default()
        }
    }

    /// Reads names as MeshConfig writes them.
    #[must_use]
    pub fn new<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> Self {
        let mut set = Self::default();
        for name in names {
            let name = name.as_ref().to_ascii_lowercase();
            if let Some(suffix) = name.strip_prefix('*') {
                set.suffixes.push(suffix.into());
            } else if let Some(prefix) = name.strip_suffix('*') {
                set.prefixes.push(prefix.into());
            } else {
                set.exact.push(name.into());
            }
        }
        set
    }

    /// Whether it holds no name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty() && self.suffixes.is_empty()
    }

    /// Whether a name in lower case is one of them.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        let listed = self.exact.iter().any(|it| **it == *name)
            || self.prefixes.iter().any(|it| name.starts_with(&**it))
            || self.suffixes.iter().any(|it| name.ends_with(&**it));
        listed && !self.not.iter().any(|it| name.starts_with(&**it))
    }
}

/// The external authorization providers among all. Findings name fields within MeshConfig.
pub(crate) fn providers(
    all: &[ExtensionProvider],
    findings: &mut Vec<Finding>,
) -> ExtAuthzProviders {
    let mut providers = HashMap::new();
    for (index, provider) in all.iter().enumerate() {
        let is_http = match &*provider.kind {
            "envoyExtAuthzHttp" => true,
            "envoyExtAuthzGrpc" => false,
            _ => continue,
        };
        let mut reader = Reader {
            place: format!("extensionProviders[{index}].{}", provider.kind),
            settings: &provider.settings,
            findings,
            fault: None,
        };
        let read = reader.provider(&provider.name, is_http);
        let read = match reader.fault {
            Some(fault) => Err(fault.into()),
            None => Ok(Arc::new(read)),
        };
        providers.insert(Arc::clone(&provider.name), read);
    }
    providers
}

/// Reads one provider's settings. The first fault makes it one that can not be asked.
struct Reader<'r> {
    place: String,
    settings: &'r Value,
    findings: &'r mut Vec<Finding>,
    fault: Option<String>,
}

const OF_BOTH: [&str; 7] = [
    "service",
    "port",
    "timeout",
    "failOpen",
    "clearRouteCache",
    "statusOnError",
    "includeRequestBodyInCheck",
];

const OF_HTTP: [&str; 7] = [
    "pathPrefix",
    "includeHeadersInCheck",
    "includeRequestHeadersInCheck",
    "includeAdditionalHeadersInCheck",
    "headersToUpstreamOnAllow",
    "headersToDownstreamOnDeny",
    "headersToDownstreamOnAllow",
];

impl<'r> Reader<'r> {
    fn provider(&mut self, name: &Arc<str>, is_http: bool) -> ExtAuthzProvider {
        let no_settings = Map::new();
        let settings = self.settings.as_object().unwrap_or(&no_settings);
        for key in settings.keys() {
            let known = OF_BOTH.contains(&&**key) || (is_http && OF_HTTP.contains(&&**key));
            if !known {
                let finding = Finding::error("there is no such setting; it is ignored");
                self.findings
                    .push(finding.field(format!("{}.{key}", self.place)));
            }
        }
        // `namespace/host`: hosts are known by their full names here.
        let service = self.text("service").unwrap_or_default();
        let host = service.rsplit_once('/').map_or(service, |(_, host)| host);
        if host.is_empty() {
            self.wrong("service", "it must name a service by its full host name");
        }
        let port = match &self.settings["port"] {
            Value::Null => None,
            value => value.as_u64().and_then(|port| u16::try_from(port).ok()),
        };
        let port = port.filter(|port| *port > 0).unwrap_or_else(|| {
            self.wrong("port", "it must be a number between 1 and 65535");
            0
        });
        let settings = AuthSettings {
            protocol: match is_http {
                true => CheckProtocol::Http(Box::new(self.http())),
                false => CheckProtocol::Grpc(GrpcCheck::default()),
            },
            timeout: self.timeout(),
            fail_open: self.flag("failOpen"),
            status_on_error: self.status_on_error(),
            body: self.body(),
        };
        ExtAuthzProvider::at(name, host, port, settings)
    }

    fn http(&mut self) -> HttpCheck {
        let path_prefix = self.text("pathPrefix").unwrap_or_default();
        let is_path = path_prefix.is_empty()
            || (path_prefix.starts_with('/')
                && !path_prefix.contains(['?', '#'])
                && path_prefix.parse::<http::uri::PathAndQuery>().is_ok());
        if !is_path {
            self.wrong("pathPrefix", "it must be a path that begins with a slash");
        }
        let mut shown = self
            .names("includeRequestHeadersInCheck")
            .unwrap_or_default();
        shown.extend(self.names("includeHeadersInCheck").unwrap_or_default());
        let to_upstream = self.names("headersToUpstreamOnAllow").unwrap_or_default();
        let on_allow = self.names("headersToDownstreamOnAllow").unwrap_or_default();
        let on_deny = self.names("headersToDownstreamOnDeny");
        HttpCheck {
            path_prefix: path_prefix.trim_end_matches('/').into(),
            request_headers: NameSet::new(shown),
            additional_headers: self.additional_headers(),
            to_upstream_on_allow: NameSet::new(to_upstream),
            to_downstream_on_allow: NameSet::new(on_allow),
            to_downstream_on_deny: on_deny.filter(|it| !it.is_empty()).map(NameSet::new),
        }
    }

    fn additional_headers(&mut self) -> Vec<(HeaderName, HeaderValue)> {
        const FIELD: &str = "includeAdditionalHeadersInCheck";
        let settings = self.settings;
        let Some(headers) = settings.get(FIELD) else {
            return Vec::new();
        };
        let mut read = Vec::new();
        for (name, value) in headers.as_object().into_iter().flatten() {
            let name = HeaderName::from_bytes(name.as_bytes()).ok();
            let value = value.as_str().and_then(|it| HeaderValue::from_str(it).ok());
            match name.zip(value) {
                Some(header) => read.push(header),
                None => self.wrong(FIELD, "it must map header names to values"),
            }
        }
        if !headers.is_object() {
            self.wrong(FIELD, "it must map header names to values");
        }
        read
    }

    fn timeout(&mut self) -> Duration {
        let Some(text) = self.text("timeout") else {
            return DEFAULT_TIMEOUT;
        };
        match duration_ms(text).filter(|ms| *ms > 0) {
            Some(ms) => Duration::from_millis(ms),
            None => {
                self.wrong("timeout", "it must be a duration such as 5s");
                DEFAULT_TIMEOUT
            }
        }
    }

    fn status_on_error(&mut self) -> StatusCode {
        let value = &self.settings["statusOnError"];
        let code = match value {
            Value::Null => return StatusCode::FORBIDDEN,
            Value::String(text) => text.parse().ok(),
            other => other.as_u64(),
        };
        let code = code.and_then(|code| u16::try_from(code).ok());
        let code = code.filter(|code| (200..600).contains(code));
        code.and_then(|code| StatusCode::from_u16(code).ok())
            .unwrap_or_else(|| {
                self.wrong("statusOnError", "it must be an HTTP status such as \"503\"");
                StatusCode::FORBIDDEN
            })
    }

    fn body(&mut self) -> Option<CheckBody> {
        const FIELD: &str = "includeRequestBodyInCheck";
        let settings = self.settings.get(FIELD).filter(|it| !it.is_null())?;
        let flag = |name: &str| settings[name].as_bool().unwrap_or(false);
        let Some(max_bytes) = settings["maxRequestBytes"].as_u64().filter(|max| *max > 0) else {
            self.wrong(FIELD, "it must say maxRequestBytes");
            return None;
        };
        Some(CheckBody {
            max_bytes: usize::try_from(max_bytes).unwrap_or(usize::MAX),
            allow_partial: flag("allowPartialMessage"),
            as_bytes: flag("packAsBytes"),
        })
    }

    fn names(&mut self, field: &str) -> Option<Vec<String>> {
        let settings = self.settings;
        let value = settings.get(field).filter(|it| !it.is_null())?;
        let names: Option<Vec<String>> = value.as_array().and_then(|names| {
            let name = |name: &Value| name.as_str().map(str::to_owned);
            names.iter().map(name).collect()
        });
        if names.is_none() {
            self.wrong(field, "it must be a list of header names");
        }
        names
    }

    fn flag(&mut self, field: &str) -> bool {
        match &self.settings[field] {
            Value::Null => false,
            Value::Bool(flag) => *flag,
            _ => {
                self.wrong(field, "it must be true or false");
                false
            }
        }
    }

    fn text(&mut self, field: &str) -> Option<&'r str> {
        let settings = self.settings;
        let value = settings.get(field).filter(|it| !it.is_null())?;
        let text = value.as_str();
        if text.is_none() {
            self.wrong(field, "it must be a text");
        }
        text
    }

    fn wrong(&mut self, field: &str, reason: &str) {
        let finding = Finding::error(format!(
            "{reason}; what its policies match is refused without asking"
        ));
        self.findings
            .push(finding.field(format!("{}.{field}", self.place)));
        self.fault
            .get_or_insert_with(|| format!("{}.{field}: {reason}", self.place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(kind: &str, settings: Value) -> (Result<Arc<ExtAuthzProvider>, Arc<str>>, usize) {
        let provider = ExtensionProvider {
            name: "p".into(),
            kind: kind.into(),
            settings,
        };
        let mut findings = Vec::new();
        let mut all = providers(&[provider], &mut findings);
        (all.remove("p").unwrap(), findings.len())
    }

    #[test]
    fn defaults_are_istios() {
        let (provider, findings) = read(
            "envoyExtAuthzGrpc",
            json!({"service": "authz/ext.authz.svc.cluster.local", "port": 9000}),
        );
        let provider = provider.unwrap();
        assert_eq!(findings, 0);
        assert_eq!(
            &*provider.backend,
            "outbound|9000||ext.authz.svc.cluster.local"
        );
        assert_eq!(provider.settings.timeout, Duration::from_secs(600));
        assert_eq!(provider.settings.status_on_error, StatusCode::FORBIDDEN);
        assert!(!provider.settings.fail_open && provider.settings.body.is_none());
    }

    #[test]
    fn every_option_is_read() {
        let (provider, findings) = read(
            "envoyExtAuthzHttp",
            json!({
                "service": "ext.authz.svc.cluster.local", "port": 8000, "timeout": "0.5s",
                "failOpen": true, "statusOnError": "503", "pathPrefix": "/check/",
                "clearRouteCache": true, "includeRequestHeadersInCheck": ["x-a", "x-b-*", "*-c"],
                "includeAdditionalHeadersInCheck": {"x-k": "v"},
                "includeRequestBodyInCheck": {"maxRequestBytes": 10, "allowPartialMessage": true},
                "headersToUpstreamOnAllow": ["x-u"], "headersToDownstreamOnAllow": ["x-d"],
                "headersToDownstreamOnDeny": ["x-n"],
            }),
        );
        assert_eq!(findings, 0);
        let provider = provider.unwrap();
        let CheckProtocol::Http(http) = &provider.settings.protocol else {
            panic!("{provider:?}");
        };
        assert_eq!(&*http.path_prefix, "/check");
        for (name, shown) in [
            ("x-a", true),
            ("x-b-1", true),
            ("q-c", true),
            ("x-d", false),
        ] {
            assert_eq!(http.request_headers.contains(name), shown, "{name}");
        }
        assert!(http.to_downstream_on_deny.as_ref().unwrap().contains("x-n"));
        assert_eq!(
            provider.settings.status_on_error,
            StatusCode::SERVICE_UNAVAILABLE
        );
        assert_eq!(provider.settings.body.unwrap().max_bytes, 10);
    }

    #[test]
    fn a_provider_that_can_not_be_read_can_not_be_asked() {
        for (field, value) in [
            ("service", json!("")),
            ("service", Value::Null),
            ("service", json!(7)),
            ("port", json!(0)),
            ("port", json!("80")),
            ("timeout", json!("soon")),
            ("failOpen", json!("yes")),
            ("statusOnError", json!("9999")),
            ("statusOnError", json!("no")),
            ("pathPrefix", json!("check")),
            ("includeRequestBodyInCheck", json!({})),
            ("headersToUpstreamOnAllow", json!("x")),
            ("includeAdditionalHeadersInCheck", json!({"a b": "c"})),
        ] {
            let mut settings = json!({"service": "a.b", "port": 80});
            settings[field] = value.clone();
            let (provider, findings) = read("envoyExtAuthzHttp", settings);
            assert!(provider.is_err() && findings > 0, "{field}: {value}");
        }
        let unknown = json!({"service": "a.b", "port": 80, "failOpenn": true});
        let (provider, findings) = read("envoyExtAuthzHttp", unknown);
        assert!(provider.is_ok() && findings == 1);
        let of_http = json!({"service": "a.b", "port": 80, "pathPrefix": "/x"});
        assert_eq!(read("envoyExtAuthzGrpc", of_http).1, 1);
    }
}
