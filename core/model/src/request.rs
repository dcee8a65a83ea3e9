//! The one request that everybody reads: routing, authorization, filters, logs and the upstream.
//!
//! It is made once per request from what the codec parsed, by [`CanonicalRequest::new`], which
//! refuses what has two readings.

mod authority;
mod forwarded;
pub mod path;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING,
};
use http::uri::PathAndQuery;
use http::{Method, Version};

use crate::defence::stands;

pub use authority::Authority;
pub use forwarded::forwarded_client;
pub use path::PathNormalization;

/// Header fields of a request, at most; as in Envoy.
pub const MAX_FIELDS: usize = 100;

/// A request whose method, authority and path have exactly one reading.
#[derive(Clone, Debug)]
pub struct CanonicalRequest {
    /// Method.
    pub method: Method,
    /// Host and optional port the client asked for. Never selects the service at a waypoint.
    pub authority: Authority,
    /// Normalised path and the query as sent; always begins with `/`, or is `*` for OPTIONS.
    pub path: PathAndQuery,
    /// The path and query as sent, when normalisation changed it.
    pub original_path: Option<PathAndQuery>,
    /// Headers without `host` and without connection-specific names.
    pub headers: HeaderMap,
    /// The version the client spoke.
    pub version: Version,
}

impl CanonicalRequest {
    /// Canonicalises a parsed head.
    ///
    /// `uri` and `headers` are what the codec parsed. The authority comes from the URI when it has
    /// one, else from the only Host header; both must agree (HTTP/2), or the URI wins (HTTP/1
    /// absolute form, RFC 9112 §3.2.2) over a Host that is well-formed.
    ///
    /// What passes inside the mesh and not from outside is for [`Self::check_at_gateway`] to refuse.
    pub fn new(
        method: Method,
        uri: &http::Uri,
        version: Version,
        headers: HeaderMap,
        normalization: PathNormalization,
    ) -> Result<Self, RequestError> {
        let mut headers = headers;
        if headers.len() > MAX_FIELDS && stands("field-count") {
            return Err(RequestError::TooManyFields);
        }
        check_scheme(uri)?;
        check_method(&method)?;
        let authority = authority(uri, version, &mut headers)?;
        check_length(&mut headers)?;
        if version >= Version::HTTP_2 {
            check_field_values(&headers)?;
        }
        let sent = uri
            .path_and_query()
            .ok_or(RequestError::Path("there is none"))?;
        let (path, original_path) = path::canonical(&method, sent, normalization)?;
        remove_connection_headers(&mut headers);
        Ok(Self {
            method,
            authority,
            path,
            original_path,
            headers,
            version,
        })
    }

    /// Checks and normalises again what somebody rewrote since, before it is judged again.
    pub fn canonicalize_again(
        &mut self,
        normalization: PathNormalization,
    ) -> Result<(), RequestError> {
        check_method(&self.method)?;
        check_length(&mut self.headers)?;
        let (path, rewritten) = path::canonical(&self.method, &self.path, normalization)?;
        self.path = path;
        self.original_path = self.original_path.take().or(rewritten);
        remove_connection_headers(&mut self.headers);
        Ok(())
    }

    /// Refuses what is sound inside the mesh, as in Istio, and not from outside: escapes that are none
    /// (`%zz`), and names with an underscore, which many a backend reads as a hyphen.
    pub fn check_at_gateway(&self) -> Result<(), RequestError> {
        if path::has_malformed_escape(self.path()) && stands("malformed-escape") {
            return Err(RequestError::Path(
                "an escape is not two hexadecimal digits",
            ));
        }
        let underscores = self.headers.keys().any(|name| name.as_str().contains('_'));
        if underscores && stands("underscores") {
            return Err(RequestError::Header("a name holds an underscore"));
        }
        Ok(())
    }

    /// Refuses an expectation other than `100-continue` (RFC 9110 §10.1.1), which the codec meets.
    pub fn check_expectation(&self) -> Result<(), RequestError> {
        let meets = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
        if self.headers.get_all(EXPECT).iter().all(meets) || !stands("expect") {
            return Ok(());
        }
        Err(RequestError::Expectation)
    }

    /// The normalised path without query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path.path()
    }

    /// The query without `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.path.query()
    }
}

/// Why a request is refused with 400 before anybody reads it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// The authority is missing, doubled or malformed.
    #[error("the request's authority is not usable: {0}")]
    Authority(&'static str),
    /// The method is not one a proxy forwards.
    #[error("the request's method is not usable: {0}")]
    Method(&'static str),
    /// The path is malformed.
    #[error("the request's path is not usable: {0}")]
    Path(&'static str),
    /// A header field is malformed.
    #[error("a header of the request is not usable: {0}")]
    Header(&'static str),
    /// CONNECT: requests make no tunnels here.
    #[error("CONNECT is not offered here")]
    Connect,
    /// There are more header fields than anybody has use for.
    #[error("there are more than {MAX_FIELDS} header fields")]
    TooManyFields,
    /// More is expected than anybody here knows of.
    #[error("only 100-continue may be expected")]
    Expectation,
}

fn authority(
    uri: &http::Uri,
    version: Version,
    headers: &mut HeaderMap,
) -> Result<Authority, RequestError> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().cloned();
    if hosts.next().is_some() && stands("host-count") {
        return Err(RequestError::Authority("there are several Host headers"));
    }
    headers.remove(HOST);
    let Some(named) = uri.authority() else {
        let Some(host) = host else {
            return Err(RequestError::Authority("there is no Host header"));
        };
        return Authority::parse(host);
    };
    let text = HeaderValue::from_str(named.as_str())
        .map_err(|_| RequestError::Authority("it holds bytes that no header may hold"))?;
    if let Some(host) = host {
        let differs = !host
            .as_bytes()
            .eq_ignore_ascii_case(named.as_str().as_bytes());
        if differs && version >= Version::HTTP_2 && stands("authority") {
            return Err(RequestError::Authority(":authority and host differ"));
        }
        if differs {
            Authority::parse(host)?;
        }
    }
    Authority::parse(text)
}

/// What an absolute target, or HTTP/2, names is spoken here or by whoever terminates TLS before us.
fn check_scheme(uri: &http::Uri) -> Result<(), RequestError> {
    let known =
        |scheme: &str| scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    match uri.scheme_str() {
        Some(scheme) if !known(scheme) && stands("scheme") => {
            Err(RequestError::Path("its scheme is not HTTP's"))
        }
        _ => Ok(()),
    }
}

/// A length is told once, in digits, and is sent on without leading zeros.
fn check_length(headers: &mut HeaderMap) -> Result<(), RequestError> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else {
        return Ok(());
    };
    let digits = length.as_bytes();
    let sound = (1..=18).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    if lengths.next().is_some() || !sound {
        return Err(RequestError::Header("Content-Length is not one number"));
    }
    if digits.len() > 1 && digits[0] == b'0' {
        let length = digits
            .iter()
            .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(())
}

fn check_method(method: &Method) -> Result<(), RequestError> {
    if *method == Method::CONNECT {
        return Err(RequestError::Connect);
    }
    let name = method.as_str();
    if name.len() > 32 {
        return Err(RequestError::Method("it is longer than 32 bytes"));
    }
    if name.bytes().any(|b| b.is_ascii_lowercase()) && stands("method-case") {
        return Err(RequestError::Method("methods are written in upper case"));
    }
    Ok(())
}

/// RFC 9113 §8.2.1: HTTP/2 knows no optional whitespace around a value, so one that carries it has two
/// readings. (The HTTP/1 codec has trimmed it away.)
fn check_field_values(headers: &HeaderMap) -> Result<(), RequestError> {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    for value in headers.values() {
        let bytes = value.as_bytes();
        if (is_space(bytes.first()) || is_space(bytes.last())) && stands("h2-field-values") {
            return Err(RequestError::Header(
                "a value begins or ends with whitespace",
            ));
        }
    }
    Ok(())
}

/// What belongs to the connection.
static OF_CONNECTION: [HeaderName; 5] = [
    CONNECTION,
    TRANSFER_ENCODING,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

/// Drops what belongs to the connection, not to the message (RFC 9110 §7.6.1). What `Connection` names
/// beyond these stays: an attacker must not be able to strip identity headers with it. `te: trailers`
/// stays, and so does `upgrade` for the room that decides about upgrades.
fn remove_connection_headers(headers: &mut HeaderMap) {
    if !stands("hop-by-hop") {
        remove_what_connection_names(headers);
    }
    // Mostly there is none: looking at the few names that are there costs less than hashing these.
    let first = |headers: &HeaderMap| {
        let mut names = headers.keys();
        names.find(|name| OF_CONNECTION.contains(name)).cloned()
    };
    while let Some(name) = first(headers) {
        headers.remove(name);
    }
    if !headers.contains_key(TE) {
        return;
    }
    let wants_trailers = headers.get_all(TE).iter().any(|te| {
        te.as_bytes()
            .split(|b| *b == b',')
            .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    });
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    } else {
        headers.remove(TE);
    }
}

/// What RFC 9110 asks of proxies to the letter, and what makes CVE-2024-45410.
fn remove_what_connection_names(headers: &mut HeaderMap) {
    let values: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
    let texts = values.iter().filter_map(|value| value.to_str().ok());
    for name in texts.flat_map(|text| text.split(',')) {
        headers.remove(name.trim());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(
        method: &str,
        uri: &str,
        version: Version,
        headers: &[(&'static str, &'static str)],
    ) -> Result<CanonicalRequest, RequestError> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        CanonicalRequest::new(
            method.parse().unwrap(),
            &uri.parse().unwrap(),
            version,
            map,
            PathNormalization::Base,
        )
    }

    #[test]
    fn one_host_and_only_one_reading_of_it() {
        fn h1(
            uri: &str,
            headers: &[(&'static str, &'static str)],
        ) -> Result<CanonicalRequest, RequestError> {
            request("GET", uri, Version::HTTP_11, headers)
        }
        let good = h1("/", &[("host", "A.com:8080")]).unwrap();
        assert_eq!(good.authority.as_str(), "A.com:8080");
        assert_eq!(good.authority.host(), "A.com");
        assert_eq!(good.authority.port(), Some(8080));
        assert!(!good.headers.contains_key(HOST));
        let v6 = h1("/", &[("host", "[::1]:80")]).unwrap();
        assert_eq!(
            (v6.authority.host(), v6.authority.port()),
            ("[::1]", Some(80))
        );

        assert!(h1("/", &[]).is_err());
        assert!(h1("/", &[("host", "a"), ("host", "a")]).is_err());
        for bad in [
            "", "a, b", "a@b", "a/b", "a:", "a:0", "a:65536", "a:x", "a:+1", "a b", "a?b", "[::1",
            "[::1]x", "[x]", ":80", "a:80:80", "a%41", "a\\b", "a#b",
        ] {
            assert!(h1("/", &[("host", bad)]).is_err(), "host {bad:?} passed");
        }
        assert!(Authority::parse(HeaderValue::from_bytes("ä.com".as_bytes()).unwrap()).is_err());
    }

    #[test]
    fn the_uri_names_the_authority_where_it_has_one() {
        let h1 = request("GET", "http://b/x", Version::HTTP_11, &[("host", "a")]).unwrap();
        assert_eq!(h1.authority.as_str(), "b");
        assert_eq!(h1.path(), "/x");
        assert!(request("GET", "http://b/x", Version::HTTP_11, &[("host", "a@c")]).is_err());
        assert!(request("GET", "http://u@b/x", Version::HTTP_11, &[]).is_err());

        assert!(request("GET", "http://b/x", Version::HTTP_2, &[("host", "a")]).is_err());
        assert!(request("GET", "http://b/x", Version::HTTP_2, &[("host", "B")]).is_ok());
        assert!(request("GET", "http://b/x", Version::HTTP_2, &[]).is_ok());
        assert!(request("GET", "/x", Version::HTTP_2, &[("host", "b")]).is_ok());
    }

    #[test]
    fn the_target_is_a_path_or_the_asterisk_of_options() {
        let host = &[("host", "a")];
        let path = |method, uri| request(method, uri, Version::HTTP_11, host);
        assert_eq!(path("OPTIONS", "*").unwrap().path(), "*");
        assert!(path("GET", "*").is_err());
        assert!(path("GET", "admin").is_err());
        assert!(path("CONNECT", "b:80").is_err());

        let empty = path("GET", "http://b?q=/../x").unwrap();
        assert_eq!(empty.path.as_str(), "/?q=/../x");
        let changed = path("GET", "/x/../%61?q=%61/../\\").unwrap();
        assert_eq!(changed.path.as_str(), "/a?q=%61/../\\");
        assert_eq!(changed.original_path.unwrap().path(), "/x/../%61");
        assert!(path("GET", "/a?q=%00").unwrap().original_path.is_none());
    }

    #[test]
    fn lengths_are_one_number_and_written_plainly() {
        let sent = |lengths: &[&'static str]| {
            let mut headers = vec![("host", "a")];
            headers.extend(lengths.iter().map(|length| ("content-length", *length)));
            request("POST", "/", Version::HTTP_2, &headers)
        };
        assert_eq!(sent(&["05"]).unwrap().headers[CONTENT_LENGTH], "5");
        assert_eq!(sent(&["00"]).unwrap().headers[CONTENT_LENGTH], "0");
        assert_eq!(sent(&["10"]).unwrap().headers[CONTENT_LENGTH], "10");
        for bad in [
            &[""][..],
            &["+1"],
            &["1", "1"],
            &["1,1"],
            &["1234567890123456789"],
        ] {
            assert!(sent(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn gateways_refuse_what_the_mesh_lets_pass() {
        let sent = |uri: &str, name: &'static str| {
            request("GET", uri, Version::HTTP_11, &[("host", "a"), (name, "x")]).unwrap()
        };
        assert!(sent("/a", "x-role").check_at_gateway().is_ok());
        assert!(sent("/a%zz", "x-role").check_at_gateway().is_err());
        assert!(sent("/a", "x_role").check_at_gateway().is_err());
    }

    #[test]
    fn methods_are_upper_case_and_short() {
        let method = |name: &str| request(name, "/", Version::HTTP_11, &[("host", "a")]);
        assert!(method("FOO-BAR").is_ok());
        assert!(method("get").is_err());
        assert!(method("Get").is_err());
        assert!(method(&"A".repeat(33)).is_err());
    }

    #[test]
    fn connection_can_not_strip_what_it_names() {
        let request = request(
            "GET",
            "/",
            Version::HTTP_11,
            &[
                ("host", "a"),
                ("connection", "x-role, authorization, keep-alive, te"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "x"),
                ("http2-settings", "x"),
                ("transfer-encoding", "chunked"),
                ("te", "gzip"),
                ("te", "deflate, Trailers"),
                ("x-role", "user"),
                ("authorization", "Bearer x"),
            ],
        )
        .unwrap();
        let mut names: Vec<_> = request.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["authorization", "te", "x-role"]);
        assert_eq!(request.headers[TE], "trailers");
    }

    #[test]
    fn whitespace_around_values_is_refused_where_no_codec_trims_it() {
        for value in [" admin", "admin ", "\tadmin"] {
            let headers = &[("host", "a"), ("x-role", value)];
            assert!(
                request("GET", "/", Version::HTTP_2, headers).is_err(),
                "{value:?}"
            );
        }
        let inner = &[("host", "a"), ("x-role", "a b")];
        assert!(request("GET", "/", Version::HTTP_2, inner).is_ok());
    }
}
