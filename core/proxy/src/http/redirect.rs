//! RequestRedirect: the Location of an answer (Gateway API, HTTPRequestRedirectFilter).

use http::{HeaderMap, HeaderValue, header};
use wayline_chain::LocalReply;
use wayline_model::CanonicalRequest;
use wayline_model::route::Redirect;

/// The redirect for a request that came on `port`.
pub(crate) fn reply(redirect: &Redirect, request: &CanonicalRequest, port: u16) -> LocalReply {
    let mut headers = HeaderMap::with_capacity(1);
    // Made of a host and a path that were valid already.
    if let Ok(location) = HeaderValue::try_from(location(redirect, request, port)) {
        headers.insert(header::LOCATION, location);
    }
    LocalReply {
        status: redirect.status,
        headers,
        body: bytes::Bytes::new(),
        details: "direct_response".into(),
    }
}

/// The `Location` of that answer.
pub(crate) fn location(
    redirect: &Redirect,
    request: &CanonicalRequest,
    listener_port: u16,
) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or("http");
    let host = redirect
        .hostname
        .as_deref()
        .unwrap_or_else(|| request.authority.host());
    // The port given, else that of a new scheme, else the listener's own.
    let port = match (redirect.port, redirect.scheme.as_deref()) {
        (Some(port), _) => port,
        (None, Some("https")) => 443,
        (None, Some("http")) => 80,
        (None, _) => listener_port,
    };
    let mut location = format!("{scheme}://{host}");
    if !matches!((scheme, port), ("http", 80) | ("https", 443)) {
        location.push_str(&format!(":{port}"));
    }
    match &redirect.path {
        Some(rewrite) => location.push_str(&rewrite.apply(request.path())),
        None => location.push_str(request.path()),
    }
    if let Some(query) = request.query() {
        location.push('?');
        location.push_str(query);
    }
    location
}
