//! HTTP/1.1 requests of the control side. Each hop of a redirect is dialled, and thereby judged, anew.

use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::{Either, select};
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Body as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use wayline_model::defence::stands;
use wayline_tls::PublicTls;

use crate::dial::{LONGEST, dial, dial_service};
use crate::error::FetchError;
use crate::policy::AddressPolicy;
use crate::url::Url;

/// What an answer may use up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Bytes of a response's head; 8 KiB at the least.
    pub head: usize,
    /// Bytes of a response's body.
    pub body: u64,
    /// Time for everything: names, connections, handshakes, redirects, the last byte. A day at most.
    pub timeout: Duration,
    /// Redirects that are followed.
    pub redirects: u32,
}

impl Default for Limits {
    /// 64 KiB of head, 1 MiB of body, 15 seconds (Istio's `WASM_HTTP_REQUEST_TIMEOUT`), 5 redirects.
    fn default() -> Self {
        Self {
            head: 64 << 10,
            body: 1 << 20,
            timeout: Duration::from_secs(15),
            redirects: 5,
        }
    }
}

/// A request: a GET, or with a form a POST.
#[derive(Clone)]
pub struct Request {
    url: Url,
    headers: HeaderMap,
    form: Option<Bytes>,
    at: Vec<SocketAddr>,
}

/// An answer, complete.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Where it came from, after redirects.
    pub url: Url,
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, as it was sent: no coding is offered, and none undone.
    pub body: Bytes,
}

/// Fetches. Cheap to clone; must be used within a tokio runtime, of any kind.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    policy: AddressPolicy,
    tls: PublicTls,
}

impl Client {
    /// Connects where `policy` permits and believes the servers that `tls` does.
    #[must_use]
    pub fn new(policy: AddressPolicy, tls: PublicTls) -> Self {
        Self {
            shared: Arc::new(Shared { policy, tls }),
        }
    }

    /// Fetches `url`, an http or https URL. Whatever is not a 2xx in the end is an error.
    ///
    /// # Errors
    ///
    /// [`FetchError`]; all of them name the host.
    pub async fn get(&self, url: &str, limits: &Limits) -> Result<Fetched, FetchError> {
        let fetched = self.send(Request::get(url.parse()?), limits).await?;
        if fetched.status.is_success() {
            return Ok(fetched);
        }
        Err(FetchError::Status {
            url: Box::new(fetched.url),
            status: fetched.status,
        })
    }

    /// Sends a request. The answer may have any status; redirects of a GET have been followed, and
    /// credentials were not taken along to another server.
    ///
    /// # Errors
    ///
    /// [`FetchError`] of every kind but [`FetchError::Status`].
    pub async fn send(&self, request: Request, limits: &Limits) -> Result<Fetched, FetchError> {
        let deadline = Instant::now() + limits.timeout.min(LONGEST);
        let at = Mutex::new(request.url.clone());
        let follow = Box::pin(self.follow(request, limits, deadline, &at));
        let outcome = timeout_at(deadline, follow).await;
        outcome.unwrap_or_else(|_| {
            let url = at.lock().unwrap_or_else(PoisonError::into_inner).clone();
            Err(FetchError::Timeout {
                url: Box::new(url),
                timeout: limits.timeout,
            })
        })
    }

    async fn follow(
        &self,
        mut request: Request,
        limits: &Limits,
        deadline: Instant,
        at: &Mutex<Url>,
    ) -> Result<Fetched, FetchError> {
        let first = request.url.clone();
        let redirects = if stands("fetch-redirects") {
            limits.redirects
        } else {
            100
        };
        for _ in 0..=redirects {
            let fetched = self.hop(&request, limits, deadline).await?;
            let Some(next) = redirection(&request, &fetched)? else {
                return Ok(fetched);
            };
            if !next.same_origin(&request.url) {
                request.at.clear();
                request.headers.remove(AUTHORIZATION);
                request.headers.remove(COOKIE);
            }
            at.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone_from(&next);
            request.url = next;
        }
        Err(FetchError::Redirects {
            url: Box::new(first),
            limit: limits.redirects,
        })
    }

    /// One connection, one request, one answer.
    async fn hop(
        &self,
        request: &Request,
        limits: &Limits,
        deadline: Instant,
    ) -> Result<Fetched, FetchError> {
        let url = &request.url;
        let left = deadline.saturating_duration_since(Instant::now());
        let tcp = if request.at.is_empty() {
            dial(url.host(), url.port(), &self.shared.policy, left).await?
        } else {
            let deadline = deadline.min(Instant::now() + LONGEST);
            dial_service(url.host(), &request.at, &self.shared.policy, deadline).await?
        };
        if !url.is_https() {
            return exchange(tcp, request, limits).await;
        }
        let stream = self.shared.tls.connect(url.host(), tcp).await;
        let stream = stream.map_err(|source| FetchError::Tls {
            host: url.authority().to_owned(),
            source,
        })?;
        exchange(stream, request, limits).await
    }
}

impl Request {
    /// A GET of `url`.
    #[must_use]
    pub fn get(url: Url) -> Self {
        Self {
            url,
            headers: HeaderMap::new(),
            form: None,
            at: Vec::new(),
        }
    }

    /// A POST of a form, `application/x-www-form-urlencoded`. Its redirects are not followed.
    #[must_use]
    pub fn post(url: Url, form: impl Into<Bytes>) -> Self {
        Self {
            url,
            headers: HeaderMap::new(),
            form: Some(form.into()),
            at: Vec::new(),
        }
    }

    /// Names the addresses of the URL's host, which is a service of the mesh: no name is resolved, and
    /// private addresses are permitted. Redirects to another server do not go there.
    #[must_use]
    pub fn at(mut self, addresses: Vec<SocketAddr>) -> Self {
        self.at = addresses;
        self
    }

    /// Adds a header; one of that name goes.
    #[must_use]
    pub fn header(mut self, name: http::HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    fn parts(&self) -> Result<http::Request<Full<Bytes>>, http::Error> {
        let mut parts = http::Request::builder()
            .uri(self.url.path_and_query())
            .header(HOST, self.url.authority())
            .header(USER_AGENT, concat!("wayline/", env!("CARGO_PKG_VERSION")));
        for (name, value) in &self.headers {
            parts = parts.header(name, value);
        }
        match &self.form {
            None => parts.body(Full::default()),
            Some(form) => parts
                .method(Method::POST)
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(Full::new(form.clone())),
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// Where an answer leads, if it does.
fn redirection(request: &Request, fetched: &Fetched) -> Result<Option<Url>, FetchError> {
    let leads = matches!(fetched.status.as_u16(), 301 | 302 | 303 | 307 | 308);
    if !leads || request.form.is_some() {
        return Ok(None);
    }
    let Some(location) = fetched.headers.get(LOCATION) else {
        return Ok(None);
    };
    let from = &request.url;
    let location = location.to_str().map_err(|_| FetchError::Url {
        url: format!("{location:?}"),
        reason: format!("{from} redirects there, and it is no ASCII"),
    })?;
    let to = from.join(location)?;
    if from.is_https() && !to.is_https() {
        return Err(FetchError::Downgrade {
            from: Box::new(from.clone()),
            to: Box::new(to),
        });
    }
    Ok(Some(to))
}

async fn exchange<IO>(io: IO, request: &Request, limits: &Limits) -> Result<Fetched, FetchError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let url = &request.url;
    let failed = |reason: String| FetchError::Http {
        host: url.authority().to_owned(),
        reason,
    };
    let broken = |error: hyper::Error| failed(told(&error));
    let parts = request.parts().map_err(|error| failed(error.to_string()))?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(limits.head.max(8 << 10))
        .handshake(TokioIo::new(io))
        .await
        .map_err(broken)?;

    let answer = async {
        let answer = sender.send_request(parts).await.map_err(broken)?;
        let (head, body) = answer.into_parts();
        let too_large = || FetchError::TooLarge {
            url: Box::new(url.clone()),
            limit: limits.body,
        };
        let mut body = pin!(body);
        if body.size_hint().lower() > limits.body && stands("fetch-length") {
            return Err(too_large());
        }
        let mut taken = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(broken)?.into_data() else {
                continue;
            };
            if (taken.len() + data.len()) as u64 > limits.body && stands("fetch-length") {
                return Err(too_large());
            }
            taken.extend_from_slice(&data);
        }
        Ok(Fetched {
            url: url.clone(),
            status: head.status,
            headers: head.headers,
            body: taken.freeze(),
        })
    };
    // A connection that ends has handed on all it had; what it failed by, the answer fails by.
    match select(pin!(answer), pin!(connection)).await {
        Either::Left((answer, _)) => answer,
        Either::Right((_, answer)) => answer.await,
    }
}

/// What hyper says, with what it says it by.
fn told(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn redirected(from: &str, to: &str) -> Result<Option<Url>, FetchError> {
        let request = Request::get(from.parse().unwrap());
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, HeaderValue::from_str(to).unwrap());
        let fetched = Fetched {
            url: request.url.clone(),
            status: StatusCode::FOUND,
            headers,
            body: Bytes::new(),
        };
        redirection(&request, &fetched)
    }

    #[test]
    fn a_redirect_never_leaves_tls() {
        let error = redirected("https://a/x", "http://a/x").unwrap_err();
        assert!(matches!(error, FetchError::Downgrade { .. }), "{error}");
        let up = redirected("http://a/x", "https://a/x").unwrap().unwrap();
        assert_eq!(up.to_string(), "https://a/x");
        // A reference without a scheme has that of the page it is on.
        let same = redirected("https://a/x", "//b/y").unwrap().unwrap();
        assert_eq!(same.to_string(), "https://b/y");
    }
}
