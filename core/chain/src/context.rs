//! What is known about an exchange while it runs.

use std::net::{IpAddr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use wayline_model::authentication::VerifiedToken;
use wayline_model::authorization::Marks;
use wayline_model::defence::stands;
use wayline_model::ext_authz::DynamicMetadata;
use wayline_model::identity::Identity;
use wayline_model::request::CanonicalRequest;
use wayline_model::route::RouteRule;
use wayline_model::workload::Workload;

use crate::filter::ResponseHead;

/// The connection or tunnel stream that a request came on: made once, shared by its requests.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The verified peer; `None` for plain-text clients of a gateway.
    pub identity: Option<Identity>,
    /// The peer's workload, when known.
    pub workload: Option<Arc<Workload>>,
    /// Where the connection came from.
    pub source: SocketAddr,
    /// Our end of it.
    pub local: SocketAddr,
    /// The address the tunnel asked for, when it named one.
    pub destination_ip: Option<IpAddr>,
    /// The port policies speak of.
    pub destination_port: u16,
    /// Server name of the TLS handshake.
    pub sni: Option<Arc<str>>,
    /// Whether the peer spoke mTLS.
    pub mutual_tls: bool,
    /// The peer's certificate, DER.
    pub certificate: Option<Arc<[u8]>>,
    /// Tells it apart from all other connections of this process: see [`Connection::next_id`].
    pub id: u64,
}

impl Connection {
    /// A number that no connection of this process has had, from 1.
    pub fn next_id() -> u64 {
        static LAST: AtomicU64 = AtomicU64::new(0);
        LAST.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// One exchange. As wide as a pointer: plugins are lent it at each callback, by swapping it into their
/// store and back.
#[derive(Debug)]
pub struct RequestContext(Box<RequestFacts>);

/// What is known of an exchange.
#[derive(Debug)]
pub struct RequestFacts {
    /// Where it came from.
    pub connection: Rc<Connection>,
    /// The request, as everybody reads it. Whoever changes method, path or authority does so through
    /// [`RequestContext::request_mut`], and the request is canonicalised and authorized again.
    request: CanonicalRequest,
    rewritten: bool,
    /// Address of the original client as trusted hops tell it; the source where nobody tells.
    pub remote_ip: IpAddr,
    /// When the exchange began, where the data path says so: filters need not look at the clock.
    pub began: Option<Instant>,
    /// Whether the request has no body.
    pub end_of_stream: bool,
    /// `%RESPONSE_CODE_DETAILS%` as far as a filter decided it.
    pub details: Option<Arc<str>>,
    /// What policies said of it that changes nothing, for logs, metrics and traces.
    pub marks: Option<Box<Marks>>,
    /// The response head while its body and trailers are told: edits count as long as a filter holds
    /// it up. Once it was sent it is what was sent, and stays to the end; only where a filter of the
    /// chain needs response headers.
    pub response: Option<ResponseHead>,
    /// Trailers that a filter makes for a message that has none: taken by the chain when it has told
    /// the filter of the end of a body ([`crate::StreamFilter`]), whose direction they are of.
    pub made_trailers: Option<http::HeaderMap>,
    /// The providers of external authorization that were asked about it.
    pub consulted: Vec<Arc<str>>,
    /// What servers that were asked told about it.
    pub metadata: Option<Box<DynamicMetadata>>,
    /// The rule whose own server admitted it: it takes that rule, whatever the server made of it.
    pub admitted_to: Option<Arc<RouteRule>>,
    /// What the request's token says, once it was verified.
    pub token: Option<Rc<VerifiedToken>>,
    /// Where the request went, once it was routed.
    pub routed: Option<Routed>,
    /// Envoy's response flags as far as they are known when the response head goes out; bits as Envoy
    /// counts them.
    pub flags: u32,
    /// What filters tell each other, by name (Envoy's filter state).
    pub filter_state: Vec<(Box<[u8]>, Bytes)>,
}

/// Where a request went.
#[derive(Clone, Debug)]
pub struct Routed {
    /// The route rule, as access logs name it.
    pub route: Arc<str>,
    /// The cluster, as Istio names it.
    pub cluster: Arc<str>,
    /// The endpoint tried last, once it answered.
    pub address: Option<SocketAddr>,
    /// How many attempts there were.
    pub attempts: u32,
    /// When it went there.
    pub since: Instant,
}

impl RequestContext {
    /// An exchange that begins.
    #[must_use]
    pub fn new(connection: Rc<Connection>, request: CanonicalRequest, end_of_stream: bool) -> Self {
        let remote_ip = connection.source.ip();
        Self(Box::new(RequestFacts {
            connection,
            request,
            rewritten: false,
            remote_ip,
            began: None,
            end_of_stream,
            details: None,
            marks: None,
            response: None,
            made_trailers: None,
            consulted: Vec::new(),
            metadata: None,
            admitted_to: None,
            token: None,
            routed: None,
            flags: 0,
            filter_state: Vec::new(),
        }))
    }

    /// The request.
    #[must_use]
    pub fn request(&self) -> &CanonicalRequest {
        &self.request
    }

    /// The request's headers, to edit. Header edits do not make the request a different one.
    pub fn headers_mut(&mut self) -> &mut http::HeaderMap {
        &mut self.request.headers
    }

    /// The request, to change its method, path or authority: it will be judged again.
    pub fn request_mut(&mut self) -> &mut CanonicalRequest {
        self.rewritten = true;
        &mut self.request
    }

    /// Puts another query in place of the request's; `None` leaves no question mark. Policies never look
    /// at it, so that the request need not be judged again. A query that no URI can hold changes nothing.
    pub fn set_query(&mut self, query: Option<&str>) {
        let path = self.request.path();
        let whole = match query {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        if let Ok(path) = http::uri::PathAndQuery::try_from(whole) {
            self.request.path = path;
        }
    }

    /// Whether somebody changed what policies look at since the last time this was asked.
    pub fn take_rewritten(&mut self) -> bool {
        std::mem::take(&mut self.rewritten) && stands("reauthorization")
    }

    /// The request, when the exchange goes upstream.
    #[must_use]
    pub fn into_request(self) -> CanonicalRequest {
        self.0.request
    }
}

impl Deref for RequestContext {
    type Target = RequestFacts;

    fn deref(&self) -> &RequestFacts {
        &self.0
    }
}

impl DerefMut for RequestContext {
    fn deref_mut(&mut self) -> &mut RequestFacts {
        &mut self.0
    }
}
