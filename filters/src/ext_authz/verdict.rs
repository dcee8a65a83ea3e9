//! What a provider said, whatever it was asked in, and carrying it out.

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use wayline_chain::{LocalReply, RequestContext, ResponseHead};

/// `%RESPONSE_CODE_DETAILS%` of a refusal (Envoy).
const DENIED: &str = "ext_authz_denied";

/// The same where the provider could not be asked.
const ERROR: &str = "ext_authz_error";

/// What a provider said.
#[derive(Debug)]
pub(super) enum Said {
    /// The request may pass, changed like this.
    Allow(Changes),
    /// It may not, and this is the answer.
    Deny(Denial),
}

/// How a provider changes what passes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) request: Vec<Edit>,
    pub(super) remove: Vec<HeaderName>,
    pub(super) response: Vec<Edit>,
    pub(super) set_params: Vec<(String, String)>,
    pub(super) remove_params: Vec<String>,
}

/// One header, and how it is set.
#[derive(Debug)]
pub(super) struct Edit {
    pub(super) name: EditName,
    pub(super) value: HeaderValue,
    pub(super) how: How,
}

/// A header, or what HTTP/2 writes as one.
#[derive(Debug)]
pub(super) enum EditName {
    Header(HeaderName),
    Method,
    Path,
}

/// What happens to a header that is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum How {
    /// It is replaced.
    Set,
    /// Another line follows it; where there is none, nothing happens.
    AppendToPresent,
    /// Another line follows it; where there is none, it is the first.
    Add,
    /// It stays.
    IfAbsent,
    /// It is replaced; where there is none, nothing happens.
    IfPresent,
}

/// A refusal.
#[derive(Debug)]
pub(super) struct Denial {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<Edit>,
    pub(super) body: Bytes,
}

impl Changes {
    /// Changes the request; what the response shall get is given back.
    pub(super) fn apply(self, context: &mut RequestContext) -> Vec<Edit> {
        for edit in self.request {
            apply_to_request(edit, context);
        }
        for name in self.remove {
            if name != HOST && !is_framing(&name) {
                context.headers_mut().remove(name);
            }
        }
        if !self.set_params.is_empty() || !self.remove_params.is_empty() {
            let query = edited(
                context.request().query(),
                &self.set_params,
                &self.remove_params,
            );
            context.set_query(query.as_deref());
        }
        self.response
    }
}

/// Changes a response on its way to the client.
pub(super) fn apply_to_response(edits: &[Edit], response: &mut ResponseHead) {
    for edit in edits {
        if let EditName::Header(name) = &edit.name {
            apply(&mut response.headers, name, &edit.value, edit.how);
        }
    }
}

impl Denial {
    /// The answer.
    pub(super) fn reply(self) -> LocalReply {
        let mut headers = HeaderMap::new();
        if !self.body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        for edit in self.headers {
            let EditName::Header(name) = edit.name else {
                continue;
            };
            apply(&mut headers, &name, &edit.value, edit.how);
        }
        LocalReply {
            status: self.status,
            headers,
            body: self.body,
            details: DENIED.into(),
        }
    }
}

/// The answer where a provider could not be asked.
pub(super) fn error(status: StatusCode) -> LocalReply {
    LocalReply::text(status, "", ERROR)
}

/// The answer where a request came by a rule whose server was not asked.
pub(super) fn not_asked() -> LocalReply {
    LocalReply::text(StatusCode::FORBIDDEN, "", DENIED)
}

/// The answer to a body that is longer than the provider shall see (Envoy: 413).
pub(super) fn too_large() -> LocalReply {
    LocalReply::text(
        StatusCode::PAYLOAD_TOO_LARGE,
        "Payload Too Large",
        "request_payload_too_large",
    )
}

fn apply_to_request(edit: Edit, context: &mut RequestContext) {
    match edit.name {
        EditName::Header(name) => apply(context.headers_mut(), &name, &edit.value, edit.how),
        EditName::Method => {
            if let Ok(method) = Method::from_bytes(edit.value.as_bytes()) {
                context.request_mut().method = method;
            }
        }
        EditName::Path => {
            if let Ok(path) = PathAndQuery::try_from(edit.value.as_bytes())
                && path.as_str().starts_with('/')
            {
                context.request_mut().path = path;
            }
        }
    }
}

/// Where a message ends, and what becomes of its connection, is ours to say: a second length next to
/// the body's own would be a second reading of the message.
fn is_framing(name: &HeaderName) -> bool {
    [CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, UPGRADE].contains(name)
}

fn apply(headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue, how: How) {
    if is_framing(name) {
        return;
    }
    let is_there = headers.contains_key(name);
    match how {
        How::Set => drop(headers.insert(name, value.clone())),
        How::IfPresent if is_there => drop(headers.insert(name, value.clone())),
        How::AppendToPresent if is_there => drop(headers.append(name, value.clone())),
        How::Add => drop(headers.append(name, value.clone())),
        How::IfAbsent if !is_there => drop(headers.insert(name, value.clone())),
        How::IfPresent | How::AppendToPresent | How::IfAbsent => {}
    }
}

fn edited(query: Option<&str>, set: &[(String, String)], remove: &[String]) -> Option<String> {
    let key = |pair: &str| pair.split_once('=').map_or(pair, |(key, _)| key).to_owned();
    let goes = |pair: &&str| {
        let key = key(pair);
        !pair.is_empty() && !remove.contains(&key) && !set.iter().any(|(name, _)| *name == key)
    };
    let mut pairs: Vec<String> = query
        .unwrap_or_default()
        .split('&')
        .filter(goes)
        .map(str::to_owned)
        .collect();
    pairs.extend(set.iter().map(|(name, value)| format!("{name}={value}")));
    (!pairs.is_empty()).then(|| pairs.join("&"))
}
