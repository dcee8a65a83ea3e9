//! What a filter is.

use std::rc::Rc;
use std::sync::Arc;
use std::task;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use wayline_model::Snapshot;
use wayline_model::authentication::Authentication;
use wayline_model::authorization::Authorization;
use wayline_model::plugin::AttachedPlugin;
use wayline_model::service::Service;
use wayline_model::snapshot::{Proxy, Ways};

use crate::callout::Callout;
use crate::context::RequestContext;
use crate::network::PlacedNetwork;

/// Where in the chain a filter stands, in Istio's order for waypoints (istiod: listener_waypoint.go).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Phase {
    /// Client certificate header (XFCC).
    ClientCertificate,
    /// AuthorizationPolicy CUSTOM: external authorization.
    Custom,
    /// Extensions with `phase: AUTHN`.
    ExtensionAuthn,
    /// RequestAuthentication.
    Jwt,
    /// Extensions with `phase: AUTHZ`.
    ExtensionAuthz,
    /// AuthorizationPolicy AUDIT, DENY, ALLOW.
    Authorization,
    /// Rate limits.
    RateLimit,
    /// Injected faults.
    Fault,
    /// CORS.
    Cors,
    /// Extensions with `phase: STATS`.
    ExtensionStats,
    /// Extensions without a phase.
    Extension,
    /// ExternalAuth filters of routes: which route a request takes is known when nobody changes it any
    /// more.
    Route,
}

/// What of an exchange a filter has to see. The chain states the union, and a chain that needs no
/// body never touches one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Needs {
    /// Request body chunks.
    pub request_body: bool,
    /// Request trailers.
    pub request_trailers: bool,
    /// Response head.
    pub response_headers: bool,
    /// Response body chunks.
    pub response_body: bool,
    /// Response trailers.
    pub response_trailers: bool,
}

impl Needs {
    /// Both needs together.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self {
            request_body: self.request_body || other.request_body,
            request_trailers: self.request_trailers || other.request_trailers,
            response_headers: self.response_headers || other.response_headers,
            response_body: self.response_body || other.response_body,
            response_trailers: self.response_trailers || other.response_trailers,
        }
    }
}

/// A configured filter, shared by all exchanges of one core.
pub trait Filter {
    /// Its name, for logs, metrics and `explain`.
    fn name(&self) -> &str;

    /// What the filters it opens have to see beyond the request head.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Meets a request. A filter that can decide from the head answers [`Begin::Pass`] or
    /// [`Begin::Reply`] and costs no allocation; one that stays with the exchange opens a stream,
    /// which is then told everything from [`StreamFilter::request_headers`] on.
    ///
    /// The filters of a chain begin one after the other: this one is asked when every filter before it
    /// has let the request head pass, and so reads the head as those have left it.
    fn begin(&self, context: &mut RequestContext) -> Begin;

    /// Judges a request once more after a filter changed its method, path or authority and the data
    /// path made it canonical again. Only filters whose verdict hangs on those answer anything.
    fn judge_again(&self, context: &mut RequestContext) -> Option<LocalReply> {
        let _ = context;
        None
    }
}

/// A filter's first answer.
pub enum Begin {
    /// Not interested in the rest of this exchange.
    Pass,
    /// Answer now; nothing goes upstream.
    Reply(LocalReply),
    /// Follow this exchange.
    Stream(Box<dyn StreamFilter>),
}

/// A filter at work on one exchange.
///
/// Request events arrive in the order headers, body chunks, trailers; response events likewise, in
/// reverse chain order. A filter hears only what its [`Needs`] name (request headers always), and the
/// response side starts with the response even where the request side still pauses.
///
/// While a filter pauses, later filters hear nothing; the paused one still gets the body chunks it
/// needs, and they are buffered for it up to the chain's limit (413 on the way up, 500 on the way
/// down). A filter that pauses with [`Step::Hold`], or does not need the body, gets none: the bytes
/// stay with their sender.
///
/// The end of a body is told once: with `end_of_stream` on the headers when there is no body, else on
/// the last body call, which may be empty, or by the trailers where trailers follow and the filter
/// needs them. A filter that is told the end of a body by a body call may leave trailers in
/// [`made_trailers`](crate::RequestFacts::made_trailers) of the context, which then end the message.
pub trait StreamFilter {
    /// The request head, in `context.request`.
    fn request_headers(&mut self, context: &mut RequestContext, end_of_stream: bool) -> Step {
        let _ = (context, end_of_stream);
        Step::Continue
    }

    /// Body bytes: on entry all bytes held for this filter with the new ones appended, on exit what
    /// shall go on. `Pause` keeps them held.
    fn request_body(
        &mut self,
        context: &mut RequestContext,
        body: &mut Bytes,
        end_of_stream: bool,
    ) -> Step {
        let _ = (context, body, end_of_stream);
        Step::Continue
    }

    /// Request trailers. `body` is what is held for this filter; it goes on with the trailers.
    fn request_trailers(
        &mut self,
        context: &mut RequestContext,
        body: &mut Bytes,
        trailers: &mut HeaderMap,
    ) -> Step {
        let _ = (context, body, trailers);
        Step::Continue
    }

    /// The response head, from upstream or from a local reply of another filter.
    fn response_headers(
        &mut self,
        context: &mut RequestContext,
        response: &mut ResponseHead,
        end_of_stream: bool,
    ) -> Step {
        let _ = (context, response, end_of_stream);
        Step::Continue
    }

    /// Response bytes, as for the request.
    fn response_body(
        &mut self,
        context: &mut RequestContext,
        body: &mut Bytes,
        end_of_stream: bool,
    ) -> Step {
        let _ = (context, body, end_of_stream);
        Step::Continue
    }

    /// Response trailers. `body` is what is held for this filter; it goes on with the trailers.
    fn response_trailers(
        &mut self,
        context: &mut RequestContext,
        body: &mut Bytes,
        trailers: &mut HeaderMap,
    ) -> Step {
        let _ = (context, body, trailers);
        Step::Continue
    }

    /// Asked after a pause, at once and whenever the task is woken: still waiting, or on with it? A
    /// filter that pauses to wait for more body (and nothing else) keeps the default. Asked for each
    /// direction that this filter pauses; `held` tells which, and is all that can still be edited.
    fn poll_resume(
        &mut self,
        context: &mut RequestContext,
        held: Held<'_>,
        task: &mut task::Context<'_>,
    ) -> task::Poll<Step> {
        let _ = (context, held, task);
        task::Poll::Pending
    }

    /// The exchange is over. Called exactly once, whatever happened, in chain order.
    fn complete(&mut self, context: &mut RequestContext, summary: &Summary) {
        let _ = (context, summary);
    }
}

/// A filter's answer to one event.
#[derive(Debug)]
pub enum Step {
    /// On to the next filter.
    Continue,
    /// Hold it here until [`StreamFilter::poll_resume`] or a later event says otherwise.
    Pause,
    /// As [`Step::Pause`], and without later events: only [`StreamFilter::poll_resume`] ends it, and
    /// nothing more is read from the sender meanwhile.
    Hold,
    /// Answer with this; nothing (more) goes upstream. Once the response head was sent the exchange
    /// is reset instead.
    Reply(LocalReply),
    /// End the exchange without an answer; the text is for `%RESPONSE_CODE_DETAILS%`.
    Reset(Arc<str>),
}

/// Which way something travels.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Direction {
    /// From the client to the upstream.
    Request,
    /// From the upstream to the client.
    Response,
}

/// What a paused filter holds of one direction.
#[derive(Debug)]
pub struct Held<'a> {
    /// The direction.
    pub direction: Direction,
    /// The response head, while it is not sent; `None` for the request, whose head is in the context.
    pub response: Option<&'a mut ResponseHead>,
    /// Body bytes shown to this filter and not let go.
    pub body: &'a mut Bytes,
    /// Trailers, when they have come.
    pub trailers: Option<&'a mut HeaderMap>,
}

/// A response made here.
#[derive(Clone, Debug)]
pub struct LocalReply {
    /// Status.
    pub status: StatusCode,
    /// Headers; `content-length` is computed.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// `%RESPONSE_CODE_DETAILS%` of the access log.
    pub details: Arc<str>,
}

impl LocalReply {
    /// A plain-text reply.
    #[must_use]
    pub fn text(status: StatusCode, body: &'static str, details: impl Into<Arc<str>>) -> Self {
        let mut headers = HeaderMap::new();
        if !body.is_empty() {
            headers.insert(
                http::header::CONTENT_TYPE,
                http::HeaderValue::from_static("text/plain"),
            );
        }
        Self {
            status,
            headers,
            body: Bytes::from_static(body.as_bytes()),
            details: details.into(),
        }
    }

    /// Head, with `content-length`, and body, ready to be sent in answer to `method`: HEAD gets the
    /// length and no body.
    #[must_use]
    pub fn into_parts(self, method: &http::Method) -> (ResponseHead, Bytes) {
        let mut head = ResponseHead {
            status: self.status,
            headers: self.headers,
        };
        let bodiless = self.status.is_informational() || matches!(self.status.as_u16(), 204 | 304);
        if bodiless {
            head.headers.remove(http::header::CONTENT_LENGTH);
            return (head, Bytes::new());
        }
        head.headers
            .insert(http::header::CONTENT_LENGTH, self.body.len().into());
        let body = if method == http::Method::HEAD {
            Bytes::new()
        } else {
            self.body
        };
        (head, body)
    }
}

/// A response head that filters may edit.
#[derive(Debug, Default)]
pub struct ResponseHead {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
}

/// How an exchange ended, for [`StreamFilter::complete`].
#[derive(Debug)]
pub struct Summary {
    /// Status sent; `None` when the client got no response head.
    pub status: Option<StatusCode>,
    /// Body bytes taken from the client.
    pub request_bytes: u64,
    /// Body bytes handed to the client.
    pub response_bytes: u64,
}

/// A filter with its place.
#[derive(Clone)]
pub struct Placed {
    /// Its phase.
    pub phase: Phase,
    /// Order within the phase: higher first.
    pub priority: i32,
    /// The filter.
    pub filter: Rc<dyn Filter>,
}

/// What a chain is made for: one target of a waypoint, or one entrance of a gateway.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// How these filters reach out.
    pub callout: &'a Rc<dyn Callout>,
    /// The knowledge in force.
    pub snapshot: &'a Snapshot,
    /// The waypoint or gateway.
    pub proxy: &'a Arc<Proxy>,
    /// The service at a waypoint; `None` at gateways and for workloads addressed directly.
    pub service: Option<&'a Arc<Service>>,
    /// The port policies speak of.
    pub port: u16,
    /// The compiled policies.
    pub authorization: &'a Arc<Authorization>,
    /// The plugins in force, in their order.
    pub plugins: &'a Arc<[AttachedPlugin]>,
    /// Whose tokens are taken.
    pub authentication: &'a Arc<Authentication>,
    /// Where requests go from here.
    pub ways: &'a Ways,
}

/// Where filters come from: asked on each core whenever a target's configuration changed.
pub trait FilterSource: Send + Sync {
    /// The filters for a scope, ready to use.
    fn filters(&self, scope: &Scope<'_>) -> Vec<Placed>;

    /// The filters of opaque bytes for a scope; none by default.
    fn network_filters(&self, scope: &Scope<'_>) -> Vec<PlacedNetwork> {
        let _ = scope;
        Vec::new()
    }
}
