//! What the data path decides about one request without a socket, for those who explain it.
//!
//! Each function is the one that requests in production pass through; this module only gives it a
//! name outside. It owns no decision of its own.

use std::net::IpAddr;
use std::sync::Arc;

use http::StatusCode;
use http::request::Parts;
use wayline_hbone::TunnelAuthority;
use wayline_model::request::{CanonicalRequest, RequestError};
use wayline_model::route::{Redirect, Routes};
use wayline_model::snapshot::{Entrance, ProxyRole, Snapshot, Target};

use crate::http::{exchange, headers, redirect, reply};
use crate::random::Random;
use crate::{ingress, tunnel};

/// Where a tunnel to that authority leads; else the status with which CONNECT is refused, and why.
pub fn tunnel_target<'s>(
    snapshot: &'s Snapshot,
    authority: &TunnelAuthority,
) -> Result<&'s Arc<Target>, (StatusCode, String)> {
    ingress::target(snapshot, authority).ok_or_else(|| tunnel::unserved(snapshot, authority))
}

/// The request as filters, policies and routes see it, with the headers that the proxy adds; else the
/// reason why it is refused with 400.
pub fn canonical_request(
    parts: Parts,
    snapshot: &Snapshot,
    role: ProxyRole,
    source: IpAddr,
) -> Result<CanonicalRequest, RequestError> {
    let forwarded_for = headers::forwarded_for(source);
    exchange::canonical(parts, &snapshot.mesh, role, &forwarded_for, &Random::new())
}

/// Who the client of that request is, for policies: the source, or whoever trusted proxies name.
#[must_use]
pub fn remote_ip(
    request: &CanonicalRequest,
    snapshot: &Snapshot,
    role: ProxyRole,
    source: IpAddr,
) -> IpAddr {
    exchange::remote_ip(request, &snapshot.mesh, role, source)
}

/// The routes of a gateway's port for the host that a request names.
#[must_use]
pub fn entrance_routes<'e>(
    entrance: &'e Entrance,
    request: &CanonicalRequest,
) -> Option<&'e Arc<Routes>> {
    entrance.hosts.written(request.authority.host())
}

/// The `Location` of a redirect for a request that came on `port`.
#[must_use]
pub fn redirect_location(redirect: &Redirect, request: &CanonicalRequest, port: u16) -> String {
    redirect::location(redirect, request, port)
}

/// Status and details of the answer where no route matches.
#[must_use]
pub fn no_route() -> (StatusCode, Arc<str>) {
    let reply = reply::no_route().reply;
    (reply.status, reply.details)
}

/// Status and details of the answer to a request that has several readings, or none.
#[must_use]
pub fn bad_request(error: &RequestError) -> (StatusCode, Arc<str>) {
    let reply = reply::bad_request(error).reply;
    (reply.status, reply.details)
}

/// Status and details of the answer where a cluster has no endpoint.
#[must_use]
pub fn no_endpoint() -> (StatusCode, Arc<str>) {
    let reply = reply::upstream(&crate::upstream::send::UpstreamError::NoEndpoint).reply;
    (reply.status, reply.details)
}
