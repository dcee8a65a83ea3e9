//! One collector over HTTP: a connection that is kept, and made anew when it broke.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use wayline_model::tracing::{HeaderSource, TracingProvider};

use super::{ByteStream, Dialer, ExportError};

/// Most bytes of an answer that are read.
const MAX_ANSWER: usize = 64 * 1024;

/// The collector of one provider.
pub(super) struct Collector {
    provider: Arc<TracingProvider>,
    dialer: Box<dyn Dialer>,
    connection: Option<Connection>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// What it is asked.
pub(super) struct Delivery {
    /// HTTP/2 with prior knowledge, else HTTP/1.1.
    pub(super) http2: bool,
    /// Where to.
    pub(super) path: PathAndQuery,
    /// What comes with it.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub(super) body: Bytes,
}

/// What it answered.
pub(super) struct Answer {
    /// Status.
    pub(super) status: StatusCode,
    /// Headers.
    pub(super) headers: HeaderMap,
    /// The body.
    pub(super) body: Bytes,
    /// Trailers.
    pub(super) trailers: HeaderMap,
}

enum Connection {
    H1(http1::SendRequest<Full<Bytes>>),
    H2(http2::SendRequest<Full<Bytes>>),
}

impl Collector {
    /// Nothing is connected yet.
    pub(super) fn new(provider: Arc<TracingProvider>, dialer: Box<dyn Dialer>) -> Self {
        Self {
            headers: headers_of(&provider),
            provider,
            dialer,
            connection: None,
        }
    }

    /// Posts within the provider's timeout.
    pub(super) async fn post(&mut self, delivery: Delivery) -> Result<Answer, ExportError> {
        let timeout = Duration::from_millis(self.provider.timeout_ms);
        match tokio::time::timeout(timeout, self.try_post(&delivery)).await {
            Ok(answer) => answer,
            Err(_) => {
                self.connection = None;
                let reason = format!("no answer within {timeout:?}");
                Err(ExportError::Unreachable(reason))
            }
        }
    }

    /// A kept connection may have been closed meanwhile: then once more on a new one. Collectors
    /// know spans by their ids, so that one that comes twice is one.
    async fn try_post(&mut self, delivery: &Delivery) -> Result<Answer, ExportError> {
        if let Some(connection) = self.connection.take()
            && let Ok(answer) = self.exchange(connection, delivery).await
        {
            return Ok(answer);
        }
        let connection = self.connect(delivery.http2).await?;
        self.exchange(connection, delivery).await
    }

    async fn connect(&self, http2: bool) -> Result<Connection, ExportError> {
        let stream = self.dialer.dial(&self.provider).await;
        let stream: Box<dyn ByteStream> = stream.map_err(unreachable)?;
        let io = TokioIo::new(stream);
        if http2 {
            let (sender, driver) = http2::handshake(LocalExecutor, io)
                .await
                .map_err(unreachable)?;
            // How a connection ends is told to whoever waits for an answer.
            tokio::task::spawn_local(async { drop(driver.await) });
            return Ok(Connection::H2(sender));
        }
        let (sender, driver) = http1::handshake(io).await.map_err(unreachable)?;
        tokio::task::spawn_local(async { drop(driver.await) });
        Ok(Connection::H1(sender))
    }

    async fn exchange(
        &mut self,
        mut connection: Connection,
        delivery: &Delivery,
    ) -> Result<Answer, ExportError> {
        let request = self.request(delivery)?;
        let response = match &mut connection {
            Connection::H1(sender) => {
                sender.ready().await.map_err(unreachable)?;
                sender.send_request(request).await
            }
            Connection::H2(sender) => {
                sender.ready().await.map_err(unreachable)?;
                sender.send_request(request).await
            }
        };
        let answer = read(response.map_err(unreachable)?).await?;
        self.connection = Some(connection);
        Ok(answer)
    }

    fn request(&self, delivery: &Delivery) -> Result<Request<Full<Bytes>>, ExportError> {
        let TracingProvider { host, port, .. } = &*self.provider;
        let text = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        let authority = Authority::try_from(text)
            .map_err(|_| ExportError::Refused(format!("`{host}` is not a host")))?;
        let mut request = Request::new(Full::new(delivery.body.clone()));
        *request.method_mut() = http::Method::POST;
        let headers = request.headers_mut();
        for (name, value) in delivery.headers.iter().chain(&self.headers) {
            headers.insert(name.clone(), value.clone());
        }
        let mut uri = Uri::from(delivery.path.clone()).into_parts();
        if delivery.http2 {
            uri.scheme = Some(Scheme::HTTP);
            uri.authority = Some(authority);
            *request.version_mut() = Version::HTTP_2;
        } else if let Ok(value) = HeaderValue::from_str(authority.as_str()) {
            headers.entry(HOST).or_insert(value);
        }
        *request.uri_mut() =
            Uri::from_parts(uri).map_err(|error| ExportError::Refused(error.to_string()))?;
        Ok(request)
    }
}

async fn read(response: Response<Incoming>) -> Result<Answer, ExportError> {
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await;
    let body = body.map_err(|error| ExportError::Unreachable(error.to_string()))?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    Ok(Answer {
        status: parts.status,
        headers: parts.headers,
        body: body.to_bytes(),
        trailers,
    })
}

/// The provider's own headers; those that can not be sent are left out, loudly.
fn headers_of(provider: &TracingProvider) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::new();
    for header in &provider.headers {
        let value = match &header.value {
            HeaderSource::Value(value) => value.to_string(),
            HeaderSource::Environment(name) => match std::env::var(&**name) {
                Ok(value) => value,
                Err(error) => {
                    tracing::warn!(provider = %provider.name, header = %header.name, "not sent: environment variable {name}: {error}");
                    continue;
                }
            },
        };
        let name = HeaderName::try_from(&*header.name);
        match (name, HeaderValue::try_from(value)) {
            (Ok(name), Ok(value)) => headers.push((name, value)),
            _ => {
                tracing::warn!(provider = %provider.name, header = %header.name, "not sent: not a header");
            }
        }
    }
    headers
}

fn unreachable(error: impl Error) -> ExportError {
    // hyper tells what it did; what went wrong is below.
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    ExportError::Unreachable(text)
}

/// Runs tasks on the exporting thread; hyper's HTTP/2 asks for one.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}
