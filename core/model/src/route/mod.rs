//! Routes: HTTPRoute rules compiled for lookup, and the lookup itself.
//!
//! Everything resolvable is resolved here: header edits are ready values, backends are clusters with
//! weights, matches are indexed so that the cost of a lookup hardly depends on how many there are.
//! A header match is decided in [`mod@matches`]; precedence (Gateway API, HTTPRouteMatch) in [`order`];
//! which rule a request takes in [`table`].

mod bucket;
pub mod cors;
pub mod edits;
pub mod matches;
pub mod order;
pub mod pattern;
mod prefix;
pub mod session;
pub mod table;
mod trace;

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::ext_authz::ExtAuthzProvider;
use crate::names::ObjectRef;
use crate::service::ClusterId;

pub use cors::{Cors, Grant, OriginMatch};
pub use edits::{HeaderEdits, PathRewrite, Redirect, Rewrite};
pub use matches::{HeaderMatch, PathMatch, QueryMatch, RouteMatch, ValueMatch};
pub use order::{Advantage, RouteOrder};
pub use pattern::{CompiledPattern, PatternError};
pub use session::{Carrier, SessionPersistence, SessionToken};
pub use table::{RouteEntry, RouteTable};
pub use trace::Fitting;

/// What a request's target offers: producer routes, and consumer routes by the caller's namespace
/// (Gateway API GEP-1324, as GAMMA reads it: a consumer's routes win for that namespace's callers).
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// Routes from the service's own namespace, or of the gateway's listener.
    pub producer: Arc<RouteTable>,
    /// Routes that a client namespace made for its own calls.
    pub consumers: Vec<(Arc<str>, Arc<RouteTable>)>,
}

impl Routes {
    /// The table in force for callers from that namespace.
    #[must_use]
    pub fn table_for(&self, caller_namespace: Option<&str>) -> &RouteTable {
        caller_namespace
            .and_then(|caller| {
                self.consumers
                    .iter()
                    .find(|(namespace, _)| &**namespace == caller)
            })
            .map_or(&*self.producer, |(_, table)| table)
    }

    /// Whether a rule of some table asks a server.
    #[must_use]
    pub fn ask_externally(&self) -> bool {
        let mut tables = self.consumers.iter().map(|(_, table)| table);
        self.producer.asks_externally || tables.any(|table| table.asks_externally)
    }
}

/// One rule of one HTTPRoute, ready to execute.
#[derive(Clone, Debug)]
pub struct RouteRule {
    /// `rules[].name`, else `<namespace>.<route>.<index>`; shown in logs and traces.
    pub name: Arc<str>,
    /// The HTTPRoute; `None` for a service's default route.
    pub route: Option<ObjectRef>,
    /// What to do with a request that matches.
    pub action: RouteAction,
    /// Edits of the request's headers.
    pub request_headers: HeaderEdits,
    /// Edits of the response's headers.
    pub response_headers: HeaderEdits,
    /// What other origins may read; boxed, because few rules say.
    pub cors: Option<Box<Cors>>,
    /// Who is asked whether a request may pass.
    pub external_auth: Option<Arc<ExtAuthzProvider>>,
}

/// What to do with a matched request.
#[derive(Clone, Debug)]
pub enum RouteAction {
    /// Send it to one of the backends.
    Forward(Forward),
    /// Answer with a redirect.
    Redirect(Redirect),
    /// Answer with this status: a rule that never was valid, or one without backends.
    Fail {
        /// The status, 500 for what the specification calls invalid.
        status: StatusCode,
        /// Why, for log and `explain`.
        reason: Arc<str>,
    },
}

/// Forwarding: which backends in what share, and how.
#[derive(Clone, Debug)]
pub struct Forward {
    /// The backends whose weight is above 0, in the order written.
    pub backends: Vec<WeightedBackend>,
    /// Sum of the weights; above 0.
    pub total_weight: u32,
    /// Who gets copies.
    pub mirrors: Vec<Mirror>,
    /// Host and path rewrite.
    pub rewrite: Option<Rewrite>,
    /// Retries.
    pub retry: RetryPolicy,
    /// How long it may take; as long as it takes by default, as in Istio.
    pub timeouts: Timeouts,
    /// What keeps a client with the endpoint it got first.
    pub session: Option<Box<SessionPersistence>>,
}

impl Forward {
    /// The index of the backend at a point of the unit interval scaled to 2³²: shares are exact over
    /// an even sequence of points.
    #[must_use]
    pub fn backend_index_at(&self, point: u32) -> usize {
        let mut ticket = ((u64::from(point) * u64::from(self.total_weight)) >> 32) as u32;
        for (index, backend) in self.backends.iter().enumerate() {
            if ticket < backend.weight {
                return index;
            }
            ticket -= backend.weight;
        }
        self.backends.len().saturating_sub(1)
    }
}

/// One backend of a rule.
#[derive(Clone, Debug)]
pub struct WeightedBackend {
    /// Its share of the rule's total weight.
    pub weight: u32,
    /// The cluster, or why there is none: that share is answered with 500.
    pub cluster: Result<ClusterId, Arc<str>>,
    /// Edits of request headers for this backend only.
    pub request_headers: HeaderEdits,
    /// Edits of response headers for this backend only.
    pub response_headers: HeaderEdits,
    /// Who gets copies of what this backend gets.
    pub mirrors: Vec<Mirror>,
    /// What other origins may read of this backend, in the place of what the rule says.
    pub cors: Option<Box<Cors>>,
}

impl RouteRule {
    /// What other origins may read where this backend answers.
    #[must_use]
    pub fn cors_of<'r>(&'r self, backend: Option<&'r WeightedBackend>) -> Option<&'r Cors> {
        let of_backend = backend.and_then(|backend| backend.cors.as_deref());
        of_backend.or(self.cors.as_deref())
    }
}

/// A backend that gets copies of requests, whose answers nobody waits for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mirror {
    /// Who gets them.
    pub cluster: ClusterId,
    /// So many …
    pub numerator: u32,
    /// … of so many requests; above 0.
    pub denominator: u32,
}

/// How long an exchange may take; `None` means as long as it takes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Timeouts {
    /// From the choice of the backend to the last byte of the response, all attempts together.
    pub request: Option<Duration>,
    /// From the start of one attempt to the head of its response.
    pub backend_request: Option<Duration>,
}

/// When and how often a request is tried again.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Further attempts after the first; 0 switches retries off.
    pub attempts: u32,
    /// The upstream could not be connected.
    pub on_connect_failure: bool,
    /// The upstream refused the stream (REFUSED_STREAM), so it was not processed.
    pub on_refused_stream: bool,
    /// gRPC status `unavailable` in the response head.
    pub on_grpc_unavailable: bool,
    /// gRPC status `cancelled` in the response head.
    pub on_grpc_cancelled: bool,
    /// The upstream ended the exchange before the response head; methods that may be repeated only.
    pub on_reset: bool,
    /// An attempt took longer than [`Timeouts::backend_request`]; methods that may be repeated only.
    pub on_timeout: bool,
    /// Statuses that are retried, whatever the method.
    pub status_codes: Vec<StatusCode>,
    /// The least pause before another attempt; at once if there is none. Its upper end doubles from
    /// attempt to attempt, up to ten times as long.
    pub backoff: Option<Duration>,
}

impl RetryPolicy {
    /// Attempts that a policy may ask for at the most.
    pub const MAX_ATTEMPTS: u32 = 20;
}

impl Default for RetryPolicy {
    /// Istio's default: 2 further attempts on connect-failure, refused-stream, unavailable, cancelled.
    fn default() -> Self {
        Self {
            attempts: 2,
            on_connect_failure: true,
            on_refused_stream: true,
            on_grpc_unavailable: true,
            on_grpc_cancelled: true,
            on_reset: false,
            on_timeout: false,
            status_codes: Vec::new(),
            backoff: None,
        }
    }
}
