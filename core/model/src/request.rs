//! The one request that everybody reads: routing, authorization, filters, logs and the upstream.
//!
//! It is made once per request from what the codec parsed, by [`CanonicalRequest::new`], which
//! refuses what has two readings.

pub mod path;

use http::header::{HOST, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Version};

pub use path::PathNormalization;

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
    /// absolute form, RFC 9112 §3.2.2).
    pub fn new(
        method: Method,
        uri: &http::Uri,
        version: Version,
        headers: HeaderMap,
        normalization: PathNormalization,
    ) -> Result<Self, RequestError> {
        let mut headers = headers;
        let authority = authority(uri, version, &mut headers)?;
        check_method(&method)?;
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

/// Host and optional port, validated.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Authority {
    text: HeaderValue,
    host_length: u16,
    port: Option<u16>,
}

impl Authority {
    /// Parses `host`, `host:port` or `[v6]:port`: no user info, no path, no list, ASCII only.
    pub fn parse(text: HeaderValue) -> Result<Self, RequestError> {
        let bytes = text.as_bytes();
        let bad = |reason| Err(RequestError::Authority(reason));
        if bytes.is_empty() || bytes.len() > 255 + 6 {
            return bad("it is empty or longer than 261 bytes");
        }
        let host_length = if bytes[0] == b'[' {
            let Some(end) = memchr::memchr(b']', bytes) else {
                return bad("a bracket is not closed");
            };
            if std::str::from_utf8(&bytes[1..end])
                .ok()
                .and_then(|inside| inside.parse::<std::net::Ipv6Addr>().ok())
                .is_none()
            {
                return bad("what stands in brackets is not an IPv6 address");
            }
            end + 1
        } else {
            let end = memchr::memchr(b':', bytes).unwrap_or(bytes.len());
            let fits = end > 0
                && bytes[..end]
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
            if !fits {
                return bad("the host is empty or holds a character that no host has");
            }
            end
        };
        let port = match &bytes[host_length..] {
            [] => None,
            [b':', digits @ ..] if !digits.is_empty() && digits.len() <= 5 => {
                let mut port: u32 = 0;
                for digit in digits {
                    if !digit.is_ascii_digit() {
                        return bad("the port is not a number");
                    }
                    port = port * 10 + u32::from(digit - b'0');
                }
                match u16::try_from(port) {
                    Ok(port) if port > 0 => Some(port),
                    _ => return bad("the port is not between 1 and 65535"),
                }
            }
            _ => return bad("the port is empty or too long"),
        };
        // Bounded by 261 above.
        let host_length = host_length as u16;
        Ok(Self {
            text,
            host_length,
            port,
        })
    }

    /// The authority as sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.text.to_str().unwrap_or_default()
    }

    /// As a header value, e.g. for `host`.
    #[must_use]
    pub fn value(&self) -> &HeaderValue {
        &self.text
    }

    /// The host as sent, with brackets where it is IPv6.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.as_str()[..usize::from(self.host_length)]
    }

    /// The port, if one was sent.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
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
}

fn authority(
    uri: &http::Uri,
    version: Version,
    headers: &mut HeaderMap,
) -> Result<Authority, RequestError> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().cloned();
    if hosts.next().is_some() {
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
    if version >= Version::HTTP_2
        && let Some(host) = host
        && !host.as_bytes().eq_ignore_ascii_case(text.as_bytes())
    {
        return Err(RequestError::Authority(":authority and host differ"));
    }
    Authority::parse(text)
}

fn check_method(method: &Method) -> Result<(), RequestError> {
    let name = method.as_str();
    if name.len() > 32 {
        return Err(RequestError::Method("it is longer than 32 bytes"));
    }
    if name.bytes().any(|b| b.is_ascii_lowercase()) {
        return Err(RequestError::Method("methods are written in upper case"));
    }
    Ok(())
}

/// Drops what belongs to the connection, not to the message (RFC 9110 §7.6.1). `Connection` may only
/// name these: an attacker must not be able to strip identity headers with it. `te: trailers` stays,
/// and so does `upgrade` for the room that decides about upgrades.
fn remove_connection_headers(headers: &mut HeaderMap) {
    use http::header::{CONNECTION, TE, TRANSFER_ENCODING};
    if headers.contains_key(CONNECTION) {
        headers.remove(CONNECTION);
        headers.remove("keep-alive");
    }
    headers.remove("proxy-connection");
    headers.remove(TRANSFER_ENCODING);
    if headers
        .get(TE)
        .is_some_and(|te| te.as_bytes() != b"trailers")
    {
        headers.remove(TE);
    }
}
