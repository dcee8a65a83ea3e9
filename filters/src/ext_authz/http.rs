//! Asking over HTTP: a request of the same method for the same path.

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderName, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use wayline_chain::RequestContext;
use wayline_model::ext_authz::{HttpCheck, NameSet};

use super::Shown;
use super::verdict::{Changes, Denial, Edit, EditName, How, Said};

/// Headers that belong to one hop, or to the body of one message.
const OWN: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The request that asks.
pub(super) fn request(
    check: &HttpCheck,
    context: &RequestContext,
    shown: Option<&Shown>,
) -> Option<Request<Bytes>> {
    let request = context.request();
    let mut asked = Request::builder()
        .method(request.method.clone())
        .uri(format!("{}{}", check.path_prefix, request.path.as_str()))
        .body(shown.map_or_else(Bytes::new, |shown| shown.body.clone()))
        .ok()?;
    let headers = asked.headers_mut();
    for (name, value) in &request.headers {
        let is_shown = name == AUTHORIZATION || check.request_headers.contains(name.as_str());
        if is_shown && !OWN.contains(&name.as_str()) {
            headers.append(name, value.clone());
        }
    }
    headers.insert(HOST, request.authority.value().clone());
    if let Some(shown) = shown {
        let partial = if shown.is_partial { "true" } else { "false" };
        headers.insert(
            HeaderName::from_static(super::PARTIAL_BODY),
            HeaderValue::from_static(partial),
        );
    }
    for (name, value) in &check.additional_headers {
        headers.insert(name, value.clone());
    }
    Some(asked)
}

/// What came back; an error where the server failed (5xx).
pub(super) fn said(check: &HttpCheck, response: &Response<Bytes>) -> Result<Said, String> {
    let headers = response.headers();
    match response.status() {
        StatusCode::OK => Ok(Said::Allow(Changes {
            request: edits(headers, |name| contains(&check.to_upstream_on_allow, name)),
            response: edits(headers, |name| {
                contains(&check.to_downstream_on_allow, name)
            }),
            ..Changes::default()
        })),
        status if status.is_server_error() => Err(format!("it answered {status}")),
        status => Ok(Said::Deny(Denial {
            status,
            headers: edits(headers, |name| match &check.to_downstream_on_deny {
                None => true,
                Some(set) => contains(set, name) || *name == WWW_AUTHENTICATE || *name == LOCATION,
            }),
            body: response.body().clone(),
        })),
    }
}

fn contains(set: &NameSet, name: &HeaderName) -> bool {
    set.contains(name.as_str())
}

/// The first line of a header replaces what is there, and further ones follow it.
fn edits(headers: &HeaderMap, is_taken: impl Fn(&HeaderName) -> bool) -> Vec<Edit> {
    let mut edits = Vec::new();
    for name in headers.keys() {
        if OWN.contains(&name.as_str()) || !is_taken(name) {
            continue;
        }
        for (at, value) in headers.get_all(name).iter().enumerate() {
            edits.push(Edit {
                name: EditName::Header(name.clone()),
                value: value.clone(),
                how: if at == 0 { How::Set } else { How::Add },
            });
        }
    }
    edits
}
