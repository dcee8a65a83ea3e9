//! HTTPRoute (gateway.networking.k8s.io v1, v1beta1), experimental fields included.

use serde::Deserialize;
use serde_json::Value;

use super::meta::{Metadata, Unread};

/// An HTTPRoute.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct HttpRoute {
    /// Its metadata.
    pub metadata: Metadata,
    /// What it says.
    #[serde(default)]
    pub spec: HttpRouteSpec,
    #[serde(rename = "apiVersion", default)]
    _api_version: Unread,
    #[serde(rename = "kind", default)]
    _kind: Unread,
    #[serde(rename = "status", default)]
    _status: Unread,
}

/// `spec` of an HTTPRoute.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteSpec {
    /// What it attaches to.
    pub parent_refs: Vec<ParentRef>,
    /// Hosts it serves; has no meaning for Service parents.
    pub hostnames: Vec<String>,
    /// Its rules; an absent list is one default rule.
    pub rules: Vec<HttpRouteRule>,
    #[serde(rename = "useDefaultGateways")]
    _use_default_gateways: Unread,
}

impl Default for HttpRouteSpec {
    fn default() -> Self {
        Self {
            parent_refs: Vec::new(),
            hostnames: Vec::new(),
            rules: vec![HttpRouteRule::default()],
            _use_default_gateways: Unread,
        }
    }
}

/// One parent.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// API group; default that of the Gateway API.
    #[serde(default = "gateway_group")]
    pub group: String,
    /// Kind; default Gateway.
    #[serde(default = "gateway_kind")]
    pub kind: String,
    /// Namespace; default the route's own.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Listener name.
    #[serde(default)]
    pub section_name: Option<String>,
    /// Port of the listener or of the service.
    #[serde(default)]
    pub port: Option<u16>,
}

impl ParentRef {
    /// Its namespace; that of its route where it names none.
    pub(crate) fn namespace_or<'a>(&'a self, of_route: &'a str) -> &'a str {
        match self.namespace.as_deref() {
            Some(namespace) if !namespace.is_empty() => namespace,
            _ => of_route,
        }
    }
}

fn gateway_group() -> String {
    super::GATEWAY_GROUP.to_owned()
}

fn gateway_kind() -> String {
    "Gateway".to_owned()
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteRule {
    /// Its name.
    pub name: Option<String>,
    /// Matches, any of them; none at all means every request.
    pub matches: Vec<HttpRouteMatch>,
    /// Filters.
    pub filters: Vec<HttpRouteFilter>,
    /// Backends.
    pub backend_refs: Vec<HttpBackendRef>,
    /// Timeouts; without them an exchange may take as long as it takes.
    pub timeouts: Option<HttpRouteTimeouts>,
    /// Retries; without them Istio's default policy.
    pub retry: Option<HttpRouteRetry>,
    /// Session persistence (GEP-1619); without it every request is balanced for itself.
    pub session_persistence: Option<HttpSessionPersistence>,
}

/// Keeps the requests of one client with one endpoint (GEP-1619).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpSessionPersistence {
    /// Name of the cookie or header; made from the route's where there is none.
    pub session_name: Option<String>,
    /// How long a session lasts at most, as a Gateway API Duration.
    pub absolute_timeout: Option<String>,
    /// How long a session lasts that is not used, as a Gateway API Duration.
    pub idle_timeout: Option<String>,
    /// What carries the session.
    #[serde(rename = "type")]
    pub kind: SessionCarrier,
    /// More about the cookie.
    #[serde(alias = "cookie")]
    pub cookie_config: SessionCookie,
}

/// What carries a session.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize)]
pub enum SessionCarrier {
    /// A cookie.
    #[default]
    Cookie,
    /// A header that the client sends back.
    Header,
}

/// `cookieConfig` of a session.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionCookie {
    /// How long clients keep the cookie.
    pub lifetime_type: CookieLifetime,
}

/// How long clients keep a cookie.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize)]
pub enum CookieLifetime {
    /// As long as a browser is open.
    #[default]
    Session,
    /// As long as `absoluteTimeout`.
    Permanent,
}

/// Timeouts of a rule, as Gateway API Durations (GEP-2257).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteTimeouts {
    /// For the whole exchange, all attempts of it.
    pub request: Option<String>,
    /// For one attempt.
    pub backend_request: Option<String>,
}

/// When a request is tried again (GEP-1731).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HttpRouteRetry {
    /// Statuses that are retried, besides connection errors.
    pub codes: Vec<u16>,
    /// Further attempts; 2 by default.
    pub attempts: Option<i64>,
    /// The least pause between attempts, as a Gateway API Duration; 25 ms by default.
    pub backoff: Option<String>,
}

/// One match: all of its parts must hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteMatch {
    /// The path; default prefix `/`.
    pub path: Option<HttpPathMatch>,
    /// Headers, all of them.
    pub headers: Vec<ValueMatch>,
    /// Query parameters, all of them.
    pub query_params: Vec<ValueMatch>,
    /// The method.
    pub method: Option<String>,
}

/// Match of a path.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct HttpPathMatch {
    /// How.
    #[serde(rename = "type", default)]
    pub kind: PathMatchType,
    /// With what.
    #[serde(default = "root_path")]
    pub value: String,
}

fn root_path() -> String {
    "/".to_owned()
}

/// How a path is matched.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize)]
pub enum PathMatchType {
    /// The whole path.
    Exact,
    /// Whole leading segments.
    #[default]
    PathPrefix,
    /// A regular expression over the whole path.
    RegularExpression,
}

/// Match of a header or a query parameter.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ValueMatch {
    /// How.
    #[serde(rename = "type", default)]
    pub kind: ValueMatchType,
    /// Of which name.
    pub name: String,
    /// With what.
    pub value: String,
}

/// How a value is matched.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize)]
pub enum ValueMatchType {
    /// The whole value.
    #[default]
    Exact,
    /// A regular expression over the whole value.
    RegularExpression,
}

/// One filter: its type and the field of that name.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteFilter {
    /// Which filter it is.
    #[serde(rename = "type")]
    pub kind: FilterType,
    /// Edits of request headers.
    #[serde(default)]
    pub request_header_modifier: Option<HeaderModifier>,
    /// Edits of response headers.
    #[serde(default)]
    pub response_header_modifier: Option<HeaderModifier>,
    /// A redirect.
    #[serde(default)]
    pub request_redirect: Option<RequestRedirect>,
    /// A rewrite.
    #[serde(default)]
    pub url_rewrite: Option<UrlRewrite>,
    /// A mirror.
    #[serde(default)]
    pub request_mirror: Option<RequestMirror>,
    /// What other origins may read.
    #[serde(default)]
    pub cors: Option<HttpCors>,
    /// A server that is asked (GEP-1494).
    #[serde(default)]
    pub external_auth: Option<HttpExternalAuth>,
    /// An extension; not supported yet.
    #[serde(default)]
    pub extension_ref: Option<Value>,
}

/// Types of filters.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize)]
#[allow(missing_docs, reason = "the names are the Gateway API's")]
pub enum FilterType {
    RequestHeaderModifier,
    ResponseHeaderModifier,
    RequestRedirect,
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    RequestMirror,
    #[serde(rename = "CORS")]
    Cors,
    ExternalAuth,
    ExtensionRef,
}

/// Edits of headers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HeaderModifier {
    /// Replaced values.
    pub set: Vec<HeaderEntry>,
    /// Added values.
    pub add: Vec<HeaderEntry>,
    /// Removed names.
    pub remove: Vec<String>,
}

/// A header.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct HeaderEntry {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// RequestRedirect.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestRedirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host.
    pub hostname: Option<String>,
    /// Path.
    pub path: Option<PathModifier>,
    /// Port.
    pub port: Option<u16>,
    /// Status; default 302.
    pub status_code: Option<u16>,
}

/// URLRewrite.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UrlRewrite {
    /// Host.
    pub hostname: Option<String>,
    /// Path.
    pub path: Option<PathModifier>,
}

/// CORS.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpCors {
    /// Origins that may read: `*`, `scheme://host[:port]`, or with `*.` before the host.
    pub allow_origins: Vec<String>,
    /// Whether credentials may be sent.
    pub allow_credentials: Option<bool>,
    /// Methods, or `*`.
    pub allow_methods: Vec<String>,
    /// Request headers, or `*`.
    pub allow_headers: Vec<String>,
    /// Response headers, or `*`.
    pub expose_headers: Vec<String>,
    /// Seconds for which a preflight's answer may be remembered; 5 by default.
    pub max_age: Option<u32>,
}

/// RequestMirror.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestMirror {
    /// Who gets the copies.
    pub backend_ref: ObjectBackendRef,
    /// How many of a hundred requests; all by default.
    #[serde(default)]
    pub percent: Option<u32>,
    /// Which share of the requests, in the place of `percent`.
    #[serde(default)]
    pub fraction: Option<Fraction>,
}

/// ExternalAuth (GEP-1494).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpExternalAuth {
    /// What is spoken to the server.
    pub protocol: ExternalAuthProtocol,
    /// The server.
    pub backend_ref: ObjectBackendRef,
    /// How it is asked over gRPC.
    #[serde(default)]
    pub grpc: Option<GrpcAuthConfig>,
    /// How it is asked over HTTP.
    #[serde(default)]
    pub http: Option<HttpAuthConfig>,
    /// What of the body it is shown; nothing by default.
    #[serde(default)]
    pub forward_body: Option<ForwardBody>,
}

/// What is spoken to a server that is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize)]
pub enum ExternalAuthProtocol {
    /// Requests; 200 means yes.
    #[serde(rename = "HTTP")]
    Http,
    /// Envoy's `Authorization/Check`.
    #[serde(rename = "GRPC")]
    Grpc,
}

/// How a server is asked over gRPC.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcAuthConfig {
    /// The request headers that it is shown; all of them where there is none.
    pub allowed_headers: Vec<String>,
}

/// How a server is asked over HTTP.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpAuthConfig {
    /// Written before the request's path.
    pub path: String,
    /// The request headers that it is shown besides `host` and `authorization`.
    pub allowed_headers: Vec<String>,
    /// The headers of its answer that go upstream; all of them where there is none.
    pub allowed_response_headers: Vec<String>,
}

/// What of the body a server is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ForwardBody {
    /// Most bytes; 0 for none.
    pub max_size: u16,
}

/// A share.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Fraction {
    /// So many …
    pub numerator: u32,
    /// … of so many; 100 by default.
    #[serde(default)]
    pub denominator: Option<u32>,
}

/// A backend without a share of its own.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ObjectBackendRef {
    /// API group; empty for Service.
    #[serde(default)]
    pub group: String,
    /// Kind.
    #[serde(default = "service_kind")]
    pub kind: String,
    /// Namespace; default the route's own.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Service port.
    #[serde(default)]
    pub port: Option<u16>,
}

/// Change of a path.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathModifier {
    /// How.
    #[serde(rename = "type")]
    pub kind: PathModifierType,
    /// The whole new path.
    #[serde(default)]
    pub replace_full_path: Option<String>,
    /// What takes the matched prefix' place.
    #[serde(default)]
    pub replace_prefix_match: Option<String>,
}

/// How a path is changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize)]
#[allow(clippy::enum_variant_names, reason = "the names are the Gateway API's")]
pub enum PathModifierType {
    /// All of it.
    ReplaceFullPath,
    /// The prefix that the rule matched.
    ReplacePrefixMatch,
}

impl HttpRouteRule {
    /// What the rule mirrors to.
    pub(crate) fn mirrors(&self) -> impl Iterator<Item = (usize, &RequestMirror)> {
        mirrors(&self.filters)
    }

    /// The servers that the rule asks; more than one is an error.
    pub(crate) fn external_auths(&self) -> impl Iterator<Item = &HttpExternalAuth> {
        let filters = self.filters.iter();
        filters.filter_map(|filter| filter.external_auth.as_ref())
    }
}

fn mirrors(filters: &[HttpRouteFilter]) -> impl Iterator<Item = (usize, &RequestMirror)> {
    let filters = filters.iter().enumerate();
    filters.filter_map(|(f, filter)| Some((f, filter.request_mirror.as_ref()?)))
}

/// One backend.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpBackendRef {
    /// API group; empty for Service.
    #[serde(default)]
    pub group: String,
    /// Kind.
    #[serde(default = "service_kind")]
    pub kind: String,
    /// Namespace; default the route's own.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Service port.
    #[serde(default)]
    pub port: Option<u16>,
    /// Its share; 0 means none.
    #[serde(default = "one")]
    pub weight: u32,
    /// Filters for this backend only.
    #[serde(default)]
    pub filters: Vec<HttpRouteFilter>,
}

impl HttpBackendRef {
    /// What requests for this backend are mirrored to.
    pub(crate) fn mirrors(&self) -> impl Iterator<Item = (usize, &RequestMirror)> {
        mirrors(&self.filters)
    }

    /// Which object it is.
    pub(crate) fn object(&self) -> ObjectBackendRef {
        ObjectBackendRef {
            group: self.group.clone(),
            kind: self.kind.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            port: self.port,
        }
    }
}

fn service_kind() -> String {
    "Service".to_owned()
}

fn one() -> u32 {
    1
}
