//! One exchange: the function that reads like the path of a request.
//!
//! canonicalise → filters (policy among them) → route → backend → endpoint → and back up.

use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use wayline_chain::{FilteredResponse, Interrupt, LocalReply, Outcome, RequestContext, Started};
use wayline_model::CanonicalRequest;
use wayline_model::mesh::MeshSettings;
use wayline_model::request::{RequestError, forwarded_client};
use wayline_model::route::{Forward, RouteAction};
use wayline_model::snapshot::ProxyRole;
use wayline_telemetry::{GrpcStatus, RequestProtocol, ResponseFlag, ResponseFlags};

use super::answer::{ExchangeBody, ResponseBody};
use super::body::{BodyError, ClientBody, ClientSource, Pace};
use super::book::{Book, Details, Sent};
use super::decision::{Decision, Forwarding, decide, fail, share};
use super::reply::{self, Failure};
use super::trailers::Trailers;
use super::{headers, mirror, session};
use crate::ingress::Ingress;
use crate::marks;
use crate::plan::{Bound, Plan};
use crate::random::Random;
use crate::timers::Timer;
use crate::upstream::{self, UpstreamBody};

/// The exchange is cut without (further) answer.
#[derive(Debug, thiserror::Error)]
#[error("the exchange was cut")]
pub(crate) struct Cut;

/// What a request takes in memory beside its fields, and what a field takes, about.
const HEAD_BYTES: usize = 1024;
const FIELD_BYTES: usize = 128;

fn head_bytes(headers: &HeaderMap) -> usize {
    let fields = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD_BYTES);
    HEAD_BYTES + fields.sum::<usize>()
}

/// A response on its way to the client.
pub(crate) type Answer = Response<ResponseBody>;

/// Takes one request from its head to the head of its response.
///
/// What is decided at once is decided by functions that are not `async` and write where this future keeps
/// it: whatever is handed to an `async fn` by value is kept twice while it waits.
pub(crate) async fn exchange(
    ingress: Rc<Ingress>,
    request: Request<Incoming>,
) -> Result<Response<ExchangeBody>, Cut> {
    let (plan, bound) = ingress.in_force();
    // Boxed: it travels from here into the response body, through the codec, to its end.
    let mut book = Box::new(Book::open(&ingress, Rc::clone(&plan), bound.clone()));
    let idle = ingress.worker.timers.timer();
    let patience = ingress.worker.timeouts.stream_idle;
    let mut forwarding = None;
    let admitted = admit(
        &ingress,
        &plan,
        bound.as_deref(),
        request,
        &mut forwarding,
        &mut book,
    );
    let answer = match (admitted, &mut forwarding, &bound) {
        (Admitted::Forward, Some(forwarding), _) => {
            // Pinned here: handed on by value, the whole future would be copied for every request.
            let sent = {
                let mut sending = pin!(send(&ingress, forwarding, &mut book));
                idle.unless_silent(patience, sending.as_mut()).await
            };
            match sent {
                Some(sent) => passed_on(sent),
                None => stalled(&mut book),
            }
        }
        (Admitted::Filtered(opened), _, Some(bound)) => {
            let served = {
                let run = opened.run;
                let mut serving = Box::pin(filtered(
                    &ingress,
                    &plan,
                    bound,
                    run,
                    opened.body,
                    &mut book,
                ));
                idle.unless_silent(patience, serving.as_mut()).await
            };
            match served {
                Some(answer) => answer?,
                None => stalled(&mut book),
            }
        }
        (Admitted::Answered(answer), ..) => *answer,
        (Admitted::Forward | Admitted::Filtered(_), ..) => local(&mut book, reply::not_served()),
    };
    Ok(begun(&ingress, answer, book, idle, patience))
}

/// What became of a request before anybody was asked about it.
enum Admitted {
    /// It is answered here.
    Answered(Box<Answer>),
    /// It goes where the slot says.
    Forward,
    /// Filters follow it. Boxed: that is rare, and would make every request's future larger.
    Filtered(Box<Opened>),
}

/// An exchange that filters follow, and the request's body.
struct Opened {
    run: wayline_chain::ChainRun,
    body: Incoming,
}

impl From<Answer> for Admitted {
    fn from(answer: Answer) -> Self {
        Self::Answered(Box::new(answer))
    }
}

/// An answer whose head goes to the client now.
fn begun(
    ingress: &Ingress,
    answer: Answer,
    mut book: Box<Book>,
    idle: Timer,
    patience: Duration,
) -> Response<ExchangeBody> {
    let (mut parts, body) = answer.into_parts();
    book.code = parts.status.as_u16();
    parts.version = Version::HTTP_11;
    if let Some(status) = parts.headers.get("grpc-status") {
        book.grpc_status = Some(GrpcStatus::parse(status));
    }
    if let Some(page) = &mut book.log {
        page.response_headers = parts.headers.clone();
    }
    let body = ExchangeBody {
        body,
        book,
        idle,
        patience,
        taking: ingress.taking.take(),
    };
    Response::from_parts(parts, body)
}

/// From the head to where it goes: canonicalises it, asks the filters, finds route and backend.
fn admit(
    ingress: &Rc<Ingress>,
    plan: &Plan,
    bound: Option<&Bound>,
    request: Request<Incoming>,
    forwarding: &mut Option<Forwarding>,
    book: &mut Book,
) -> Admitted {
    let content_type = request.headers().get(http::header::CONTENT_TYPE);
    book.protocol = RequestProtocol::of_content_type(content_type);
    let head = head_bytes(request.headers());
    book.head = ingress
        .heads
        .take(head)
        .zip(ingress.worker.heads.take(head));
    if book.head.is_none() {
        let source = ingress.connection.source;
        let detail = "request heads take as much memory as they may";
        ingress.worker.refusals.note("overload", source, detail);
        return local(book, reply::overloaded()).into();
    }
    let Some(bound) = bound else {
        return local(book, reply::not_served()).into();
    };
    let (parts, body) = request.into_parts();
    let sent = book.is_logged().then(|| Sent::of(&parts));
    let canonical = canonical(
        parts,
        &plan.snapshot.mesh,
        bound.place.proxy().role,
        &ingress.forwarded_for,
        &ingress.worker.random,
    );
    let mut request = match canonical {
        Ok(request) => request,
        Err(error) => {
            book.malformed(sent);
            return local(book, reply::bad_request(&error)).into();
        }
    };
    let (mesh, role) = (&plan.snapshot.mesh, bound.place.proxy().role);
    if let Some(tracing) = &plan.tracing {
        book.span = tracing.begin(&mut request, mesh, role, &ingress.worker.random);
    }
    book.request(&request);

    if bound.chain.is_empty() {
        return route(ingress, plan, bound, request, body, forwarding, book);
    }
    let end_of_stream = body.is_end_stream();
    let mut context = RequestContext::new(Rc::clone(&ingress.connection), request, end_of_stream);
    context.began = Some(book.started());
    context.remote_ip = remote_ip(context.request(), mesh, role, context.remote_ip);
    let started = bound.chain.begin(&mut context);
    if !matches!(started, Started::Running(_)) {
        note_marks(ingress, &context, book);
    }
    match started {
        Started::Reply(reply) => refuse(book, reply).into(),
        Started::Passed { rewritten } => {
            if rewritten && let Some(reply) = rejudge(plan, bound, &mut context) {
                return refuse(book, reply).into();
            }
            let request = context.into_request();
            route(ingress, plan, bound, request, body, forwarding, book)
        }
        Started::Running(opened) => {
            let run = opened.run(context);
            Admitted::Filtered(Box::new(Opened { run, body }))
        }
    }
}

/// Tells everybody who shows it what policies say that changes nothing, and the log what servers that
/// were asked told.
fn note_marks(ingress: &Ingress, context: &RequestContext, book: &mut Book) {
    if let (Some(told), Some(page)) = (&context.metadata, &mut book.log) {
        page.metadata = Some(told.clone());
    }
    let Some(said) = &context.marks else {
        return;
    };
    marks::note(&ingress.worker.process, said, book.span.as_deref_mut());
    if let Some(page) = &mut book.log {
        page.marks = Some(said.clone());
    }
}

/// The request as everybody after this reads it.
#[inline]
pub(crate) fn canonical(
    parts: Parts,
    mesh: &MeshSettings,
    role: ProxyRole,
    forwarded_for: &HeaderValue,
    random: &Random,
) -> Result<CanonicalRequest, RequestError> {
    let mut request = CanonicalRequest::new(
        parts.method,
        &parts.uri,
        parts.version,
        parts.headers,
        mesh.path_normalization,
    )?;
    check(&request, mesh, role)?;
    let is_believed = mesh.trusted_proxies > 0;
    headers::prepare_request(
        &mut request.headers,
        forwarded_for,
        role,
        is_believed,
        random,
    );
    Ok(request)
}

/// Who the client is, as far as those say who are believed; else whoever is at the other end.
pub(crate) fn remote_ip(
    request: &CanonicalRequest,
    mesh: &MeshSettings,
    role: ProxyRole,
    source: IpAddr,
) -> IpAddr {
    match role {
        ProxyRole::Gateway => {
            forwarded_client(&request.headers, mesh.trusted_proxies).unwrap_or(source)
        }
        ProxyRole::Waypoint => source,
    }
}

/// Where we are stricter than Istio, unless the mesh asks for its ways.
fn check(
    request: &CanonicalRequest,
    mesh: &MeshSettings,
    role: ProxyRole,
) -> Result<(), RequestError> {
    if mesh.istio_compat {
        return Ok(());
    }
    request.check_expectation()?;
    match role {
        ProxyRole::Gateway => request.check_at_gateway(),
        ProxyRole::Waypoint => Ok(()),
    }
}

/// The same for a request that filters rewrote.
fn canonical_again(
    request: &mut CanonicalRequest,
    plan: &Plan,
    bound: &Bound,
) -> Result<(), RequestError> {
    let mesh = &plan.snapshot.mesh;
    request.canonicalize_again(mesh.path_normalization)?;
    check(request, mesh, bound.place.proxy().role)
}

/// Makes a request canonical again that filters rewrote, and judges it again.
fn rejudge(plan: &Plan, bound: &Bound, context: &mut RequestContext) -> Option<LocalReply> {
    if let Err(error) = canonical_again(context.request_mut(), plan, bound) {
        return Some(reply::bad_request(&error).reply);
    }
    bound.chain.judge_again(context)
}

/// An exchange that filters follow to its end.
async fn filtered(
    ingress: &Rc<Ingress>,
    plan: &Plan,
    bound: &Bound,
    run: wayline_chain::ChainRun,
    mut body: Incoming,
    book: &mut Book,
) -> Result<Answer, Cut> {
    let outcome = run.request(&mut body).await.map_err(|_| Cut)?;
    run.with_context(|context| note_marks(ingress, context, book));
    let refused = match outcome {
        Outcome::Reply(reply) => Some(reply),
        Outcome::Reset(details) => return Err(cut(book, details)),
        Outcome::Continue { rewritten: true } => {
            match run.with_context(|context| canonical_again(context.request_mut(), plan, bound)) {
                Ok(()) => run.judge_again(),
                Err(error) => Some(reply::bad_request(&error).reply),
            }
        }
        Outcome::Continue { rewritten: false } => None,
    };
    if let Some(reply) = refused {
        let reply = book.local(reply, ResponseFlags::NONE);
        return answer_here(&run, reply, book).await;
    }
    let (request, admitted_to) =
        run.with_context(|context| (context.request().clone(), context.admitted_to.take()));
    let source = ClientSource::Filtered(Box::new(run.request_body(body)));
    let trailers = Trailers::of(&plan.snapshot.mesh);
    let upstream = async {
        match decide(ingress, plan, bound, request, admitted_to, book) {
            Decision::Answer(reply) => Err(reply),
            Decision::Forward(mut forward) => {
                run.with_context(|context| context.routed = Some(forward.facts()));
                forward.carry(ClientBody::new(source, trailers));
                send(ingress, &mut forward, book).await
            }
        }
    };
    match run.unless_interrupted(upstream).await {
        Ok(Ok(response)) => {
            run.with_context(|context| answered(context, book));
            finish(run.respond(response).await, book)
        }
        Ok(Err(reply)) => answer_here(&run, reply, book).await,
        Err(Interrupt::Reply(reply)) => {
            let reply = book.local(reply, ResponseFlags::NONE);
            answer_here(&run, reply, book).await
        }
        Err(Interrupt::Reset(details)) => Err(cut(book, details)),
    }
}

/// Takes an answer made here back through the filters.
async fn answer_here(
    run: &wayline_chain::ChainRun,
    reply: LocalReply,
    book: &mut Book,
) -> Result<Answer, Cut> {
    run.with_context(|context| context.flags = book.flags.bits());
    finish(run.reply::<UpstreamBody>(reply).await, book)
}

/// Tells filters who answered.
fn answered(context: &mut RequestContext, book: &Book) {
    context.flags = book.flags.bits();
    if let Some(routed) = &mut context.routed {
        let endpoint = book.attempts.endpoint.as_ref();
        routed.address = endpoint.map(|endpoint| endpoint.endpoint.address);
        routed.attempts = book.attempts.count;
    }
}

fn finish(
    response: Result<Response<FilteredResponse<UpstreamBody>>, wayline_chain::BodyError<BodyError>>,
    book: &mut Book,
) -> Result<Answer, Cut> {
    match response {
        Ok(response) => Ok(response.map(|body| ResponseBody::Filtered(Box::new(body)))),
        Err(wayline_chain::BodyError::Interrupted(details)) => Err(cut(book, details)),
        Err(wayline_chain::BodyError::Source(_)) => {
            book.flags
                .insert(ResponseFlag::UpstreamConnectionTermination);
            Err(Cut)
        }
    }
}

fn cut(book: &mut Book, details: Arc<str>) -> Cut {
    book.flags.insert(ResponseFlag::LocalReset);
    book.details = Details::Shared(details);
    Cut
}

/// An admitted request that no filter follows.
fn route(
    ingress: &Ingress,
    plan: &Plan,
    bound: &Bound,
    request: CanonicalRequest,
    body: Incoming,
    forwarding: &mut Option<Forwarding>,
    book: &mut Book,
) -> Admitted {
    let forward = match decide(ingress, plan, bound, request, None, book) {
        Decision::Answer(reply) => return answer(reply).into(),
        Decision::Forward(forward) => forwarding.insert(forward),
    };
    if !body.is_end_stream() {
        let trailers = Trailers::of(&plan.snapshot.mesh);
        let rate = ingress.worker.limits.body_rate;
        let paced = rate > 0 && body.size_hint().exact().is_some();
        let pace = paced.then(|| Pace::new(ingress.worker.timers.timer(), rate));
        let source = ClientSource::Direct(body);
        forward.carry(ClientBody::paced(source, trailers, pace));
    }
    Admitted::Forward
}

fn passed_on(sent: Result<Response<UpstreamBody>, LocalReply>) -> Answer {
    match sent {
        Ok(response) => response.map(ResponseBody::Upstream),
        Err(reply) => answer(reply),
    }
}

/// Sends a request upstream and makes the response's head what the client shall get.
async fn send(
    ingress: &Ingress,
    forwarding: &mut Forwarding,
    book: &mut Book,
) -> Result<Response<UpstreamBody>, LocalReply> {
    let RouteAction::Forward(forward) = &forwarding.rule.action else {
        return Err(fail(book, reply::no_route()));
    };
    let worker = &ingress.worker;
    if let Some(request) = &forwarding.request {
        book.request_body = request.body.clone();
        if !forwarding.mirrors.is_empty() && mirror::is_copied(request) {
            let mirrors = std::mem::take(&mut forwarding.mirrors);
            mirror::start(worker, mirrors, request, forward.timeouts.request);
        }
    }
    let (retry, per_attempt) = (&forward.retry, forward.timeouts.backend_request);
    let (cluster, request) = (&forwarding.cluster, &mut forwarding.request);
    let attempts = &mut book.attempts;
    // Written twice, because a future that is made before the choice would be moved by it.
    let outcome = match forward.timeouts.request {
        None => upstream::send::send(worker, cluster, request, retry, per_attempt, attempts).await,
        Some(limit) => {
            // Boxed, because it is rare.
            Box::pin(upstream::deadline::within(
                limit,
                upstream::send::send(worker, cluster, request, retry, per_attempt, attempts),
            ))
            .await
        }
    };
    match outcome {
        Ok((response, body)) => Ok(responded(
            ingress, forwarding, forward, response, body, book,
        )),
        Err(error) => {
            let mut reply = fail(book, reply::upstream(&error));
            share(
                forwarding.cors(),
                forwarding.origin.as_deref(),
                &mut reply.headers,
            );
            Err(reply)
        }
    }
}

/// Makes the head of an upstream's response what the client shall get.
fn responded(
    ingress: &Ingress,
    forwarding: &Forwarding,
    forward: &Forward,
    response: Response<()>,
    mut body: UpstreamBody,
    book: &mut Book,
) -> Response<UpstreamBody> {
    if book.attempts.exhausted {
        book.flags.insert(ResponseFlag::UpstreamRetryLimitExceeded);
    }
    let took = book.elapsed();
    if let Some(page) = &mut book.log {
        page.service_time = Some(took);
    }
    book.details = Details::Static("via_upstream");
    if let Some(switched) = body.take_switched() {
        ingress.upgrade.agreed(switched);
    }
    let (mut parts, ()) = response.into_parts();
    let headers = &mut parts.headers;
    let trailers = Trailers::of(&book.plan().snapshot.mesh).of_answer(headers);
    let body = body.with_trailers(trailers);
    headers::prepare_response(headers);
    headers.insert(
        headers::SERVICE_TIME,
        HeaderValue::from(took.as_millis() as u64),
    );
    let rule = &forwarding.rule;
    rule.response_headers.apply(headers);
    if let Some(backend) = forward.backends.get(forwarding.backend) {
        backend.response_headers.apply(headers);
    }
    share(forwarding.cors(), forwarding.origin.as_deref(), headers);
    if let (Some(sessions), Some(endpoint)) = (&forward.session, &book.attempts.endpoint) {
        let name = &forwarding.cluster.cluster().name;
        let token = forwarding.session.as_deref().copied();
        session::tell(sessions, token, name, endpoint, headers);
    }
    Response::from_parts(parts, body)
}

/// A filter's refusal before anybody followed the exchange.
fn refuse(book: &mut Book, reply: LocalReply) -> Answer {
    answer(book.local(reply, ResponseFlags::NONE))
}

fn local(book: &mut Book, failure: Failure) -> Answer {
    let reply = fail(book, failure);
    answer(reply)
}

/// Nothing moved for too long.
fn stalled(book: &mut Book) -> Answer {
    let body = book.request_body.as_ref();
    let complete = body.is_none_or(|body| body.has_arrived());
    local(book, reply::stalled(complete))
}

fn answer(reply: LocalReply) -> Answer {
    let mut response = Response::new(ResponseBody::Full(
        (!reply.body.is_empty()).then_some(reply.body),
    ));
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    response
        .headers_mut()
        .insert(http::header::SERVER, HeaderValue::from_static("wayline"));
    response
}
