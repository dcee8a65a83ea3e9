//! How filters reach out: the port that the data path implements over its own per-core pools.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body;

/// Sends requests of filters to backends the snapshot knows.
///
/// Providers and callout targets are named as Istio names them (`outbound|<port>||<hostname>`, or
/// `<hostname>:<port>`); what the snapshot does not know is refused, never dialled.
pub trait Callout {
    /// Sends one request and waits for the whole response. Dropping the future cancels it.
    fn call(&self, request: CalloutRequest) -> CalloutFuture;

    /// Opens an exchange over HTTP/2 whose two bodies are sent and read bit by bit, as gRPC wants it.
    /// Dropping the future, or the response's body, cancels it. Nobody is known to those who do not
    /// implement it.
    fn open(&self, stream: CalloutStream) -> OpenFuture {
        let unknown = CalloutError::UnknownBackend(stream.backend);
        Box::pin(std::future::ready(Err(unknown)))
    }

    /// Whether there is a backend of that name now.
    fn knows(&self, backend: &str) -> bool {
        let _ = backend;
        false
    }

    /// Drives a filter's own task on this core until it ends. Where nothing is driven, as in benches
    /// without a runtime, it is dropped.
    fn spawn(&self, task: Task) {
        drop(task);
    }

    /// Ready after that time; never where no clock is.
    fn sleep(&self, time: Duration) -> Task {
        let _ = time;
        Box::pin(std::future::pending())
    }
}

/// The head of the response, some time later, on the same core.
pub type OpenFuture = Pin<Box<dyn Future<Output = Result<Response<CalloutBody>, CalloutError>>>>;

/// A body of an exchange that a filter opened.
pub type CalloutBody = Pin<Box<dyn Body<Data = Bytes, Error = CalloutError>>>;

/// An exchange that a filter opens.
pub struct CalloutStream {
    /// The backend by name.
    pub backend: Arc<str>,
    /// Head, and the body as it will come.
    pub request: Request<CalloutBody>,
}

/// Something that goes on beside exchanges.
pub type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Knows no backend: for benches of filters that do not reach out.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoCallout;

impl Callout for NoCallout {
    fn call(&self, request: CalloutRequest) -> CalloutFuture {
        Box::pin(std::future::ready(Err(CalloutError::UnknownBackend(
            request.backend,
        ))))
    }
}

/// The outcome, some time later, on the same core.
pub type CalloutFuture =
    Pin<Box<dyn Future<Output = Result<(Response<Bytes>, HeaderMap), CalloutError>>>>;

/// One request of a filter.
#[derive(Debug)]
pub struct CalloutRequest {
    /// The backend by name.
    pub backend: Arc<str>,
    /// Head and body.
    pub request: Request<Bytes>,
    /// Request trailers.
    pub trailers: Option<HeaderMap>,
    /// Time for everything, from connect to the last byte.
    pub deadline: Duration,
    /// Longest response body taken, in bytes.
    pub response_limit: usize,
}

/// Why a callout has no response. The message goes to logs, never to clients.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CalloutError {
    /// No such backend in the snapshot.
    UnknownBackend(Arc<str>),
    /// No endpoint could be reached.
    Unreachable(Arc<str>),
    /// The deadline passed.
    Timeout,
    /// The backend reset or sent what is not HTTP.
    Reset(Arc<str>),
    /// The response is longer than the limit.
    TooLarge,
}

impl std::fmt::Display for CalloutError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownBackend(name) => write!(f, "no backend `{name}` is known"),
            Self::Unreachable(why) => write!(f, "no endpoint could be reached: {why}"),
            Self::Timeout => f.write_str("the deadline passed"),
            Self::Reset(why) => write!(f, "the backend ended the exchange: {why}"),
            Self::TooLarge => f.write_str("the response is longer than the limit"),
        }
    }
}

impl std::error::Error for CalloutError {}
