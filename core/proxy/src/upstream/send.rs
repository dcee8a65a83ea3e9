//! Sending one request: choose an endpoint, take a connection, try again where that is safe.

use std::error::Error as _;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::uri::{PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use wayline_model::defence::stands;
use wayline_model::route::RetryPolicy;

use super::cluster::ClusterState;
use super::connect::{self, Checkout, ConnectFailure};
use super::endpoint::{EndpointState, InFlight};
use super::h1::{H1Connection, H1Error};
use super::response::{Lease, Switched, UpstreamBody};
use crate::http::body::{ClientBody, RequestBody};
use crate::random::Random;
use crate::worker::Worker;

/// A request as every attempt sends it.
pub(crate) struct UpstreamRequest {
    /// Method.
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) path: PathAndQuery,
    /// Host, and `:authority`.
    pub(crate) authority: HeaderValue,
    /// Headers without `host`.
    pub(crate) headers: HeaderMap,
    /// Body, if there is one.
    pub(crate) body: Option<Rc<ClientBody>>,
    /// Whether to speak HTTP/2.
    pub(crate) http2: bool,
    /// The protocol to change to, which only HTTP/1 can.
    pub(crate) upgrade: Option<HeaderValue>,
}

/// What the attempts left for the log.
#[derive(Default)]
pub(crate) struct Attempts {
    /// The endpoint tried last.
    pub(crate) endpoint: Option<Rc<EndpointState>>,
    /// Why the last connection attempt failed.
    pub(crate) transport_failure: Option<Arc<str>>,
    /// The endpoint to try first.
    pub(crate) wished: Option<Rc<EndpointState>>,
    /// How many there were.
    pub(crate) count: u32,
    /// The response is one that would be retried, had there not been enough attempts.
    pub(crate) exhausted: bool,
}

/// Why there is no response.
#[derive(Debug)]
pub(crate) enum UpstreamError {
    /// The cluster has no endpoint.
    NoEndpoint,
    /// No endpoint could be connected.
    Connect { reason: Arc<str>, retried: bool },
    /// The upstream ended the exchange before the response head.
    Reset { retried: bool },
    /// The upstream sent what is not HTTP.
    Protocol,
    /// The client broke off inside its body.
    Client,
    /// The client's body came too slowly.
    SlowClient,
    /// The last attempt took longer than one may.
    AttemptTimeout { retried: bool },
    /// All attempts together took longer than they may.
    RequestTimeout,
}

/// How one attempt failed.
enum Failure {
    Connect(ConnectFailure),
    /// A connection kept from earlier was closed under the request, which was not looked at.
    Stale,
    /// REFUSED_STREAM, or GOAWAY below the stream.
    Refused,
    Reset,
    Protocol,
    /// There was no response head in time.
    TimedOut,
}

/// Sends a request and waits for the response head, but no longer than one attempt may take. What could
/// not be sent again is taken from `request`.
pub(crate) async fn send(
    worker: &Worker,
    cluster: &Rc<ClusterState>,
    request: &mut Option<UpstreamRequest>,
    retry: &RetryPolicy,
    per_attempt: Option<Duration>,
    attempts: &mut Attempts,
) -> Result<(Response<()>, UpstreamBody), UpstreamError> {
    let timeout = Duration::from_millis(cluster.cluster().connect_timeout_ms);
    let client_body = request.as_ref().and_then(|request| request.body.clone());
    let mut tried: Vec<Rc<EndpointState>> = Vec::new();
    let mut left = retry.attempts.min(RetryPolicy::MAX_ATTEMPTS);
    let mut fresh = false;
    loop {
        let wished = attempts.wished.take();
        let endpoint = wished
            .or_else(|| worker.upstreams.pick(cluster, &tried))
            .ok_or(UpstreamError::NoEndpoint)?;
        attempts.count += 1;
        attempts.endpoint = Some(Rc::clone(&endpoint));
        let outcome = match per_attempt {
            None => attempt(worker, &endpoint, request, retry, fresh, timeout).await,
            // Boxed: few rules have a timeout, and its state would make every request's future larger.
            Some(limit) => {
                let attempt = attempt(worker, &endpoint, request, retry, fresh, timeout);
                Box::pin(tokio::time::timeout(limit, attempt))
                    .await
                    .unwrap_or(Err(Failure::TimedOut))
            }
        };
        let retried = attempts.count > 1;
        let failure = match outcome {
            Ok((response, body)) => {
                let again = left > 0 && request.as_ref().is_some_and(can_resend);
                let wanted = wants_retry(retry, &response);
                if !(again && wanted) {
                    attempts.exhausted = wanted && retried && left == 0;
                    return Ok((response, body));
                }
                None
            }
            Err(failure) => Some(failure),
        };
        let resendable = request.as_ref().is_some_and(can_resend);
        // Whoever got the request may have acted on it.
        let repeatable = resendable
            && request
                .as_ref()
                .is_some_and(|request| is_idempotent(&request.method));
        if let Some(body) = client_body.as_ref().filter(|body| body.client_failed()) {
            return Err(match body.was_slow() {
                true => UpstreamError::SlowClient,
                false => UpstreamError::Client,
            });
        }
        let spent = left == 0;
        let exhausted = |permitted: bool| retried && permitted && spent;
        match failure {
            None => left -= 1,
            Some(Failure::Stale) if resendable && !fresh => {
                // Not an attempt of the policy's: nobody has seen the request.
                fresh = true;
                continue;
            }
            Some(Failure::Connect(failure)) => {
                attempts.transport_failure = Some(Arc::clone(&failure.0));
                if !(retry.on_connect_failure && left > 0 && resendable) {
                    let retried = exhausted(retry.on_connect_failure);
                    return Err(UpstreamError::Connect {
                        reason: failure.0,
                        retried,
                    });
                }
                left -= 1;
            }
            Some(Failure::Refused) if retry.on_refused_stream && left > 0 && resendable => {
                left -= 1
            }
            Some(Failure::Refused) => {
                return Err(UpstreamError::Reset {
                    retried: exhausted(retry.on_refused_stream),
                });
            }
            Some(Failure::Stale | Failure::Reset) if retry.on_reset && left > 0 && repeatable => {
                left -= 1
            }
            Some(Failure::Stale | Failure::Reset) => {
                return Err(UpstreamError::Reset {
                    retried: exhausted(retry.on_reset),
                });
            }
            Some(Failure::TimedOut) if retry.on_timeout && left > 0 && repeatable => left -= 1,
            Some(Failure::TimedOut) => {
                return Err(UpstreamError::AttemptTimeout {
                    retried: exhausted(retry.on_timeout),
                });
            }
            Some(Failure::Protocol) => return Err(UpstreamError::Protocol),
        }
        if let Some(least) = retry.backoff {
            let pause = pause(least, attempts.count, &worker.random);
            Box::pin(tokio::time::sleep(pause)).await;
        }
        tried.push(endpoint);
    }
}

/// One attempt. Leaves the request in place where another attempt could send it.
async fn attempt(
    worker: &Worker,
    endpoint: &Rc<EndpointState>,
    request: &mut Option<UpstreamRequest>,
    retry: &RetryPolicy,
    fresh: bool,
    timeout: Duration,
) -> Result<(Response<()>, UpstreamBody), Failure> {
    let Some(wanted) = request.as_ref() else {
        return Err(Failure::Reset);
    };
    let in_flight = InFlight::on(endpoint);
    let connection = match connect::ready(endpoint, wanted.http2, fresh) {
        Some(connection) => connection,
        // Boxed: connecting is rare, and its state would make every request's future larger.
        None => Box::pin(connect::checkout(
            &worker.tunnels,
            endpoint,
            wanted.http2,
            timeout,
        ))
        .await
        .map_err(Failure::Connect)?,
    };
    match connection {
        Checkout::H1(mut connection) => {
            // Who may have closed this connection meanwhile gets what may be sent twice only; then it
            // stays for the second time.
            let reused = connection.is_reused();
            let asked = wanted.upgrade.is_some();
            let sending = wanted.body.clone();
            let may_be_stale = reused && is_idempotent(&wanted.method) && !endpoint.is_trusted();
            connection.begin(wanted, wanted.attempt_body());
            if !(may_be_stale || sends_again(retry))
                && let Some(sent) = request.take()
            {
                connection.lend(sent.headers);
            }
            let answered = poll_fn(|cx| connection.poll_answer(cx)).await;
            if reused {
                endpoint.reuse(answered.is_ok());
            }
            let response = answered.map_err(|error| match error {
                H1Error::Malformed => Failure::Protocol,
                H1Error::Broken if may_be_stale => Failure::Stale,
                H1Error::Broken => Failure::Reset,
            })?;
            if asked && response.status() == StatusCode::SWITCHING_PROTOCOLS {
                return switch(response, connection, in_flight);
            }
            if !has_one_reading(&response) && stands("response-framing") {
                return Err(Failure::Protocol);
            }
            let lease = if sending.is_some_and(|body| body.is_under_way()) {
                Lease::Detached {
                    connection: connection.detach(),
                    _in_flight: in_flight,
                }
            } else {
                Lease::H1(connection, in_flight)
            };
            Ok((without_length(response), UpstreamBody::new(lease)))
        }
        Checkout::H2(connection, stream) => {
            // Boxed: it would make the future of every HTTP/1 request larger, too.
            match Box::pin(connection.send(wanted.to_h2())).await {
                Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    Err(Failure::Protocol)
                }
                Ok(response) => {
                    let (parts, body) = response.into_parts();
                    let lease = Lease::H2 {
                        body,
                        _stream: stream,
                        _in_flight: in_flight,
                    };
                    let response = without_length(Response::from_parts(parts, ()));
                    Ok((response, UpstreamBody::new(lease)))
                }
                Err((error, unsent)) => Err(if unsent.is_some() || was_refused(&error) {
                    Failure::Refused
                } else if is_protocol_error(&error) {
                    Failure::Protocol
                } else {
                    Failure::Reset
                }),
            }
        }
    }
}

impl UpstreamRequest {
    fn to_h2(&self) -> Request<RequestBody> {
        let mut message = Request::new(self.attempt_body());
        *message.method_mut() = self.method.clone();
        *message.version_mut() = Version::HTTP_2;
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = http::uri::Authority::try_from(self.authority.as_bytes()).ok();
        uri.path_and_query = Some(self.path.clone());
        if let Ok(uri) = Uri::from_parts(uri) {
            *message.uri_mut() = uri;
        }
        *message.headers_mut() = self.headers.clone();
        message
    }

    fn attempt_body(&self) -> RequestBody {
        self.body
            .as_ref()
            .map_or(RequestBody::Empty, ClientBody::attempt)
    }
}

/// Takes a connection from its codec, whose upstream agreed to speak another protocol.
fn switch(
    response: Response<()>,
    connection: Box<H1Connection>,
    in_flight: InFlight,
) -> Result<(Response<()>, UpstreamBody), Failure> {
    let Some(protocol) = response.headers().get(UPGRADE).cloned() else {
        return Err(Failure::Protocol);
    };
    let (io, first) = connection.into_switched();
    let switched = Switched {
        io,
        first,
        protocol,
        _in_flight: in_flight,
    };
    Ok((response, UpstreamBody::switched(switched)))
}

/// Whether an HTTP/1 response can be read in one way only (RFC 9112 §6.3). One that switches protocols
/// answers what was not asked.
fn has_one_reading(response: &Response<()>) -> bool {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return false;
    }
    let headers = response.headers();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else {
        return true;
    };
    codings.next().is_none()
        && coding.as_bytes().eq_ignore_ascii_case(b"chunked")
        && !headers.contains_key(CONTENT_LENGTH)
}

/// RFC 9110 §8.6 forbids a length where there is no content, and HTTP/2 clients take it for a body that
/// is missing.
fn without_length(mut response: Response<()>) -> Response<()> {
    if response.status() == StatusCode::NO_CONTENT {
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    response
}

/// Whether a request may be sent another time, as far as its body goes.
fn can_resend(request: &UpstreamRequest) -> bool {
    request.body.as_ref().is_none_or(|body| body.can_replay())
}

/// RFC 9110 §9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// Whether a policy may ask for a request again that the upstream got.
fn sends_again(retry: &RetryPolicy) -> bool {
    retry.attempts > 0 && (retry.on_reset || retry.on_timeout || !retry.status_codes.is_empty())
}

/// How long to wait behind so many attempts: at least `least`; the upper end, twice as long at first,
/// doubles each time up to ten times as long. Drawn at random, lest those who failed together come
/// back together.
fn pause(least: Duration, attempts: u32, random: &Random) -> Duration {
    let most = least.saturating_mul(2u32.saturating_pow(attempts).min(10));
    let spread = most.saturating_sub(least).as_micros();
    let extra = random.below(usize::try_from(spread).unwrap_or(usize::MAX));
    least.saturating_add(Duration::from_micros(extra as u64))
}

fn wants_retry(retry: &RetryPolicy, response: &Response<()>) -> bool {
    if retry.status_codes.contains(&response.status()) {
        return true;
    }
    if response.status() != StatusCode::OK {
        return false;
    }
    match response
        .headers()
        .get("grpc-status")
        .map(HeaderValue::as_bytes)
    {
        Some(b"14") => retry.on_grpc_unavailable,
        Some(b"1") => retry.on_grpc_cancelled,
        _ => false,
    }
}

fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    error
        .source()
        .and_then(|source| source.downcast_ref::<h2::Error>())
}

fn was_refused(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|error| error.reason() == Some(h2::Reason::REFUSED_STREAM))
}

fn is_protocol_error(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|error| error.reason() == Some(h2::Reason::PROTOCOL_ERROR))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::pause;
    use crate::random::Random;

    #[test]
    fn pauses_grow_to_ten_times_the_least() {
        let random = Random::new();
        let least = Duration::from_millis(100);
        for (attempts, most) in [(1, 200), (2, 400), (3, 800), (4, 1000), (40, 1000)] {
            let drawn: Vec<_> = (0..1000).map(|_| pause(least, attempts, &random)).collect();
            let range = least..Duration::from_millis(most);
            assert!(drawn.iter().all(|it| range.contains(it)), "{attempts}");
            // Nine tenths of the range are seen.
            let widest = drawn.iter().max().unwrap().saturating_sub(least);
            assert!(
                widest > (range.end - least) * 9 / 10,
                "{attempts}: {widest:?}"
            );
        }
        assert_eq!(pause(Duration::MAX, 3, &random), Duration::MAX);
    }
}
