//! The HTTP/1 servers of the three ports, and the bounds that keep a client from hurting.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use wayline_telemetry::Throttle;

use super::pages::{self, Page};
use super::{Admin, LAST_WORD, guard};
use crate::Settings;
use crate::listener;

/// Connections a port serves at a time; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 64;

/// Most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// Most header lines of a request.
const MAX_HEADERS: usize = 64;

/// Most bytes of a request's body.
const MAX_BODY_BYTES: usize = 64 << 10;

/// How long a head or a body may take to come, and how long a connection may idle.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection takes no further request after this long, so that no client keeps its place for ever.
const CONNECTION_AGE: Duration = Duration::from_secs(120);

/// How long the last answer of such a connection may take.
const LAST_ANSWER: Duration = Duration::from_secs(30);

/// One of the three ports.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Port {
    /// For operators: shows everything and has the switches.
    Admin,
    /// For probes.
    Status,
    /// For Prometheus.
    Metrics,
}

impl Port {
    /// Its name among the listeners.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Status => "status",
            Self::Metrics => "metrics",
        }
    }
}

/// The servers at work.
pub(crate) struct Serving {
    ended: watch::Receiver<bool>,
    connections: Vec<Arc<Semaphore>>,
}

impl Serving {
    /// Resolves when everything else has ended and the answers under way are out, or took too long.
    pub(crate) async fn finished(mut self) {
        // An error means the same: nobody is left who could end it later.
        let _told = self.ended.wait_for(|ended| *ended).await;
        let all_out = async {
            for connections in &self.connections {
                let _permit = connections.acquire_many(MAX_CONNECTIONS as u32).await;
            }
        };
        let _late = tokio::time::timeout(LAST_WORD, all_out).await;
    }
}

/// Starts the three servers on the runtime this is called in.
pub(crate) fn serve(
    admin: Arc<Admin>,
    settings: &Settings,
    ended: watch::Receiver<bool>,
) -> Serving {
    tokio::spawn(Arc::clone(&admin).follow_configuration());
    let ports = [
        (Port::Admin, settings.admin),
        (Port::Status, settings.status),
        (Port::Metrics, settings.metrics),
    ];
    let connections = ports.map(|(port, address)| {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let server = Server {
            admin: Arc::clone(&admin),
            port,
            loopback: address.ip().to_canonical().is_loopback(),
            permits: Arc::clone(&permits),
            ended: ended.clone(),
        };
        tokio::spawn(server.run(address));
        permits
    });
    Serving {
        ended,
        connections: connections.into(),
    }
}

#[derive(Clone)]
struct Server {
    admin: Arc<Admin>,
    port: Port,
    loopback: bool,
    permits: Arc<Semaphore>,
    ended: watch::Receiver<bool>,
}

impl Server {
    async fn run(self, address: SocketAddr) {
        if self.port == Port::Admin && !self.loopback {
            tracing::warn!(
                %address,
                "the admin port is open to others than this machine: whoever reaches it may end the process"
            );
        }
        let listeners = self.admin.listeners.clone();
        let listener = listener::open(self.port.name(), address, &listeners).await;
        let throttle = Throttle::per_minute();
        let mut ended = self.ended.clone();
        tokio::select! {
            () = self.accept(&listener, &throttle) => {}
            _ = ended.wait_for(|ended| *ended) => {}
        }
    }

    async fn accept(&self, listener: &TcpListener, throttle: &Throttle) {
        // The semaphore is never closed.
        while let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let server = self.clone();
                    tokio::spawn(async move {
                        server.connection(stream).await;
                        drop(permit);
                    });
                }
                Err(error) if listener::is_exhausted(&error) => {
                    if throttle.admit("exhausted", Instant::now()).is_some() {
                        tracing::error!(%error, "accepting pauses: raise the limit of open files");
                    }
                    tokio::time::sleep(listener::EXHAUSTED_PAUSE).await;
                }
                // The client was gone before we got to it.
                Err(_) => {}
            }
        }
    }

    async fn connection(mut self, stream: TcpStream) {
        let (admin, port, loopback) = (&self.admin, self.port, self.loopback);
        let service = service_fn(|request| answer(Arc::clone(admin), port, loopback, request));
        let mut connection = std::pin::pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_TIMEOUT)
                .max_buf_size(MAX_HEAD_BYTES)
                .max_headers(MAX_HEADERS)
                .serve_connection(TokioIo::new(stream), service)
        );
        tokio::select! {
            // What went wrong is the client's to know.
            _ = &mut connection => return,
            () = tokio::time::sleep(CONNECTION_AGE) => {}
            _ = self.ended.wait_for(|ended| *ended) => {}
        }
        connection.as_mut().graceful_shutdown();
        let _late = tokio::time::timeout(LAST_ANSWER, connection).await;
    }
}

/// An answer as a page gives it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

/// `Content-Type` of text for people.
const PLAIN: &str = "text/plain; charset=utf-8";

impl Answer {
    /// 200 with text.
    pub(super) fn text(body: impl Into<String>) -> Self {
        Self::refusal(StatusCode::OK, body)
    }

    /// 200 with JSON.
    pub(super) fn json(value: &serde_json::Value) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: "application/json",
            body: format!("{value:#}\n"),
        }
    }

    /// Another status with text that says why.
    pub(super) fn refusal(status: StatusCode, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type: PLAIN,
            body: body.into(),
        }
    }
}

/// What a page may look at of a request.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) port: Port,
    /// Whether only this machine can reach the port.
    pub(super) loopback: bool,
    pub(super) method: Method,
    pub(super) path: String,
    /// The parameters of query and form, decoded, in the order sent.
    pub(super) parameters: Vec<(String, String)>,
}

impl Asked {
    /// The first parameter of that name.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether a parameter is there and does not say no.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.parameter(name)
            .is_some_and(|value| !matches!(value, "false" | "0" | "off"))
    }
}

async fn answer(
    admin: Arc<Admin>,
    port: Port,
    loopback: bool,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let mut allow = None;
    let answer = match guard::admit(&head, port == Port::Admin && loopback) {
        Err(reason) => Answer::refusal(StatusCode::FORBIDDEN, format!("{reason}\n")),
        Ok(()) => match pages::find(port, &head.method, head.uri.path()) {
            Err(refusal) => {
                allow = refusal.allow;
                Answer::refusal(refusal.status, refusal.text)
            }
            Ok(page) => match read(body).await {
                Err(refusal) => refusal,
                Ok(form) => {
                    let asked = Asked {
                        port,
                        loopback,
                        parameters: guard::parameters(&head, &form),
                        path: head.uri.path().to_owned(),
                        method: head.method,
                    };
                    make(admin, page, asked).await
                }
            },
        },
    };
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    // What is shown here is no document: a browser shall neither guess nor keep it.
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        "cache-control",
        HeaderValue::from_static("no-cache, max-age=0"),
    );
    if let Some(allow) = allow {
        headers.insert(ALLOW, HeaderValue::from_static(allow));
    }
    Ok(response)
}

fn read(body: Incoming) -> impl Future<Output = Result<Bytes, Answer>> {
    let refuse = |status, text: &str| Err(Answer::refusal(status, text));
    async move {
        let collected = Limited::new(body, MAX_BODY_BYTES).collect();
        match tokio::time::timeout(REQUEST_TIMEOUT, collected).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => refuse(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the request's body is larger than 64 KiB\n",
            ),
            Ok(Err(_)) => refuse(StatusCode::BAD_REQUEST, "the request's body is broken\n"),
            Err(_) => refuse(
                StatusCode::REQUEST_TIMEOUT,
                "the request's body took too long\n",
            ),
        }
    }
}

/// Makes a page, a large one on a thread of its own.
async fn make(admin: Arc<Admin>, page: Page, asked: Asked) -> Answer {
    if !page.is_large() {
        return page.make(&admin, &asked);
    }
    let made = tokio::task::spawn_blocking(move || page.make(&admin, &asked)).await;
    made.unwrap_or_else(|_| {
        Answer::refusal(
            StatusCode::INTERNAL_SERVER_ERROR,
            "this page could not be made; that is a defect of Wayline, please report it\n",
        )
    })
}
