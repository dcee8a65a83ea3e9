//! Where an admitted request goes: its rule, its backend, and what the backend shall get of it.
//!
//! Decided at once, without waiting for anything. It refuses to know connections: whoever sends the
//! request finds them.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, StatusCode, Version};
use wayline_chain::{LocalReply, Routed};
use wayline_model::CanonicalRequest;
use wayline_model::route::{Cors, RouteAction, RouteRule, Routes, SessionToken};
use wayline_model::service::AppProtocol;
use wayline_model::snapshot::ProxyRole;
use wayline_telemetry::ResponseFlags;

use super::body::ClientBody;
use super::book::Book;
use super::reply::{self, Failure};
use super::{headers, mirror, redirect, session};
use crate::ingress::Ingress;
use crate::plan::{Bound, Place, Plan};
use crate::upstream::{self, UpstreamRequest};

/// What is to be done with an admitted request.
#[allow(
    clippy::large_enum_variant,
    reason = "made once per request and taken apart at once: a box would be an allocation per request"
)]
pub(super) enum Decision {
    Answer(LocalReply),
    Forward(Forwarding),
}

/// A request for a cluster.
pub(super) struct Forwarding {
    /// Gone once it was sent and can not be sent again.
    pub(super) request: Option<UpstreamRequest>,
    pub(super) cluster: Rc<upstream::ClusterState>,
    pub(super) rule: Arc<RouteRule>,
    pub(super) backend: usize,
    /// Who gets copies.
    pub(super) mirrors: Vec<Rc<upstream::ClusterState>>,
    /// The page that asks, where the rule grants pages of other origins something.
    pub(super) origin: Option<Box<HeaderValue>>,
    /// The session it belongs to, where the rule keeps any.
    pub(super) session: Option<Box<SessionToken>>,
}

impl Forwarding {
    /// Gives the request a body.
    pub(super) fn carry(&mut self, body: Rc<ClientBody>) {
        if let Some(request) = &mut self.request {
            request.body = Some(body);
        }
    }

    /// Who grants pages of other origins something.
    pub(super) fn cors(&self) -> Option<&Cors> {
        let backend = match &self.rule.action {
            RouteAction::Forward(forward) => forward.backends.get(self.backend),
            RouteAction::Redirect(_) | RouteAction::Fail { .. } => None,
        };
        self.rule.cors_of(backend)
    }

    /// For filters that ask where the request goes.
    pub(super) fn facts(&self) -> Routed {
        Routed {
            route: Arc::clone(&self.rule.name),
            cluster: Arc::clone(&self.cluster.cluster().name),
            address: None,
            attempts: 0,
            since: Instant::now(),
        }
    }
}

/// Looks up the route and the backend, and makes the request what the backend shall get.
pub(super) fn decide(
    ingress: &Ingress,
    plan: &Plan,
    bound: &Bound,
    mut request: CanonicalRequest,
    admitted_to: Option<Arc<RouteRule>>,
    book: &mut Book,
) -> Decision {
    if request.path() == "*" {
        let reply = reply::options();
        book.note(&reply, ResponseFlags::NONE);
        return Decision::Answer(reply);
    }
    let found = match &admitted_to {
        Some(rule) => Some(rule),
        None => rule_for(ingress, bound, &request),
    };
    let Some(rule) = found else {
        return Decision::Answer(fail(book, reply::no_route()));
    };
    if let Some(page) = &mut book.log {
        page.route = Some(Arc::clone(&rule.name));
    }
    if let Some(reply) = preflight(rule.cors.as_deref(), &request, book) {
        return Decision::Answer(reply);
    }
    // Whom its server did not admit gets no further, however he came here; where nobody does, a fault
    // says more.
    let leads_on = !matches!(rule.action, RouteAction::Fail { .. });
    if leads_on && rule.external_auth.is_some() && admitted_to.is_none() {
        return Decision::Answer(fail(book, reply::not_asked()));
    }
    let forward = match &rule.action {
        RouteAction::Forward(forward) => forward,
        RouteAction::Redirect(redirect) => {
            let reply = redirect::reply(redirect, &request, bound.place.port());
            let mut reply = book.local(reply, ResponseFlags::NONE);
            let cors = rule.cors.as_deref();
            share(cors, origin(cors, &request).as_deref(), &mut reply.headers);
            return Decision::Answer(reply);
        }
        RouteAction::Fail { status, reason } => {
            return Decision::Answer(fail(book, reply::broken_route(*status, reason)));
        }
    };
    let upstreams = &ingress.worker.upstreams;
    let resumed = session::resume(upstreams, &plan.snapshot, forward, &request.headers);
    let index = match (&resumed, &forward.backends[..]) {
        (Some(resumed), _) => resumed.backend,
        (None, [_]) => 0,
        (None, _) => forward.backend_index_at(ingress.worker.share(rule)),
    };
    let Some(backend) = forward.backends.get(index) else {
        return Decision::Answer(fail(book, reply::no_route()));
    };
    if backend.cors.is_some()
        && let Some(reply) = preflight(backend.cors.as_deref(), &request, book)
    {
        return Decision::Answer(reply);
    }
    let id = match &backend.cluster {
        Ok(id) => *id,
        Err(reason) => {
            let failure = reply::broken_route(StatusCode::INTERNAL_SERVER_ERROR, reason);
            return Decision::Answer(fail(book, failure));
        }
    };
    let Some(cluster) = upstreams.cluster(&plan.snapshot, id) else {
        return Decision::Answer(fail(book, reply::not_served()));
    };
    book.destination = Some(cluster.destination.clone());
    let http2 = speaks_http2(&cluster, &request, bound.place.proxy().role);

    let origin = origin(rule.cors_of(Some(backend)), &request);
    rule.request_headers.apply(&mut request.headers);
    backend.request_headers.apply(&mut request.headers);
    // The canonical request has no `host` header: one that is there now was set by the route.
    let mut authority = request
        .headers
        .remove(http::header::HOST)
        .unwrap_or_else(|| request.authority.value().clone());
    if let Some(rewrite) = &forward.rewrite {
        if let Some(hostname) = &rewrite.hostname {
            authority = hostname.clone();
        }
        if let Some(path) = &rewrite.path {
            let path = path.apply(request.path());
            rewrite_path(&mut request, &path, book);
        }
    }
    if let Some(page) = &mut book.log {
        page.cluster = Some(Arc::clone(&cluster.cluster().name));
    }
    if let Some(span) = &mut book.span {
        span.routed(Arc::clone(&cluster.cluster()));
    }
    let session = resumed.map(|resumed| {
        book.attempts.wished = Some(resumed.endpoint);
        Box::new(resumed.token)
    });
    let mut mirrors = mirror::chosen(&ingress.worker, &plan.snapshot, &forward.mirrors);
    if !backend.mirrors.is_empty() {
        let more = mirror::chosen(&ingress.worker, &plan.snapshot, &backend.mirrors);
        mirrors.extend(more);
    }
    Decision::Forward(Forwarding {
        request: Some(UpstreamRequest {
            method: request.method,
            path: request.path,
            authority,
            headers: request.headers,
            body: None,
            http2,
            upgrade: ingress.upgrade.asked().filter(|_| !http2),
        }),
        cluster,
        rule: Arc::clone(rule),
        backend: index,
        mirrors,
        origin,
        session,
    })
}

/// The answer to a preflight.
fn preflight(
    cors: Option<&Cors>,
    request: &CanonicalRequest,
    book: &mut Book,
) -> Option<LocalReply> {
    let response = cors?.preflight(&request.method, &request.headers)?;
    let reply = reply::preflight(response);
    book.note(&reply, ResponseFlags::NONE);
    Some(reply)
}

fn origin(cors: Option<&Cors>, request: &CanonicalRequest) -> Option<Box<HeaderValue>> {
    cors?;
    request
        .headers
        .get(http::header::ORIGIN)
        .cloned()
        .map(Box::new)
}

/// Lets the page that asked read a response.
pub(super) fn share(cors: Option<&Cors>, origin: Option<&HeaderValue>, response: &mut HeaderMap) {
    if let (Some(cors), Some(origin)) = (cors, origin) {
        cors.share(origin, response);
    }
}

fn rule_for<'b>(
    ingress: &Ingress,
    bound: &'b Bound,
    request: &CanonicalRequest,
) -> Option<&'b Arc<RouteRule>> {
    let routes: &Routes = match &bound.place {
        Place::Target(target) => &target.routes,
        Place::Entrance(entrance) => entrance.hosts.written(request.authority.host())?,
    };
    let caller = ingress
        .connection
        .identity
        .as_ref()
        .map(|identity| identity.namespace());
    routes.table_for(caller).lookup(request)
}

/// HTTP/2 where the port says so, and at waypoints where the client speaks it itself (Istio keeps the
/// client's protocol there).
fn speaks_http2(
    cluster: &upstream::ClusterState,
    request: &CanonicalRequest,
    role: ProxyRole,
) -> bool {
    match cluster.cluster().protocol {
        AppProtocol::Http2 | AppProtocol::Grpc => true,
        AppProtocol::Http | AppProtocol::Undeclared | AppProtocol::Tcp | AppProtocol::Tls => {
            role == ProxyRole::Waypoint && request.version >= Version::HTTP_2
        }
    }
}

fn rewrite_path(request: &mut CanonicalRequest, path: &str, book: &mut Book) {
    let original = request.path.clone();
    let rewritten = match request.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    // A replacement that is no path was refused when the route was translated.
    let Ok(rewritten) = rewritten else { return };
    if let Ok(value) = HeaderValue::from_str(original.as_str()) {
        request.headers.insert(headers::ORIGINAL_PATH, value);
    }
    if let Some(page) = &mut book.log {
        page.rewritten(rewritten.as_str());
    }
    request.path = rewritten;
}

pub(super) fn fail(book: &mut Book, failure: Failure) -> LocalReply {
    book.local(failure.reply, failure.flags)
}
