//! Requests of filters, over the same pools as everybody's.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::HOST;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Response, Uri, Version};
use http_body::{Body, Frame};
use wayline_chain::{
    Callout, CalloutBody, CalloutError, CalloutFuture, CalloutRequest, CalloutStream, OpenFuture,
    Task,
};
use wayline_model::Snapshot;
use wayline_model::route::RetryPolicy;
use wayline_model::service::{AppProtocol, Cluster, ClusterId};

use crate::http::body::{BodyError, ClientBody, ClientSource};
use crate::http::trailers::Trailers;
use crate::upstream::send::{self, UpstreamError};
use crate::upstream::{Attempts, ClusterState, UpstreamBody, UpstreamRequest};
use crate::worker::{LocalExecutor, Worker};

/// The port by which this core's filters reach out.
pub(crate) struct UpstreamCallout {
    worker: Weak<Worker>,
}

impl UpstreamCallout {
    /// Reaches out from that core.
    pub(crate) fn new(worker: Weak<Worker>) -> Self {
        Self { worker }
    }
}

impl Callout for UpstreamCallout {
    fn call(&self, request: CalloutRequest) -> CalloutFuture {
        let worker = Weak::clone(&self.worker);
        Box::pin(async move {
            let Some(worker) = worker.upgrade() else {
                return Err(CalloutError::UnknownBackend(request.backend));
            };
            let deadline = request.deadline;
            tokio::time::timeout(deadline, call(&worker, request))
                .await
                .unwrap_or(Err(CalloutError::Timeout))
        })
    }

    fn open(&self, stream: CalloutStream) -> OpenFuture {
        let worker = Weak::clone(&self.worker);
        Box::pin(async move {
            match worker.upgrade() {
                Some(worker) => open(&worker, stream).await,
                None => Err(CalloutError::UnknownBackend(stream.backend)),
            }
        })
    }

    fn knows(&self, backend: &str) -> bool {
        let Some(worker) = self.worker.upgrade() else {
            return false;
        };
        let plan = worker.plan();
        plan.clusters.find(&plan.snapshot, backend).is_some()
    }

    fn spawn(&self, task: Task) {
        // Without its worker the core is ending, and nothing is driven any more.
        if self.worker.strong_count() > 0 {
            LocalExecutor::spawn(task);
        }
    }

    fn sleep(&self, time: Duration) -> Task {
        Box::pin(tokio::time::sleep(time))
    }
}

async fn call(
    worker: &Worker,
    request: CalloutRequest,
) -> Result<(Response<Bytes>, HeaderMap), CalloutError> {
    let cluster = cluster(worker, &request.backend)?;
    // gRPC is HTTP/2, whatever its port is called.
    let http2 = request.request.version() == Version::HTTP_2
        || matches!(
            cluster.cluster().protocol,
            AppProtocol::Http2 | AppProtocol::Grpc
        );
    let (mut parts, body) = request.request.into_parts();
    let authority = authority(&mut parts, &request.backend);
    let bodiless = body.is_empty() && request.trailers.is_none();
    let sent = UpstreamRequest {
        method: parts.method,
        path: path(&parts.uri),
        authority,
        headers: parts.headers,
        body: (!bodiless).then(|| {
            let made = ClientSource::Made(Some(body), request.trailers);
            ClientBody::new(made, Trailers::ours())
        }),
        http2,
        upgrade: None,
    };
    let (mut sent, mut attempts) = (Some(sent), Attempts::default());
    let (response, body) = send::send(
        worker,
        &cluster,
        &mut sent,
        &RetryPolicy::default(),
        None,
        &mut attempts,
    )
    .await
    .map_err(describe)?;
    let body = body.with_trailers(Trailers::ours());
    let (body, trailers) = collect(body, request.response_limit).await?;
    Ok((response.map(|()| body), trailers))
}

async fn open(
    worker: &Worker,
    stream: CalloutStream,
) -> Result<Response<CalloutBody>, CalloutError> {
    let cluster = cluster(worker, &stream.backend)?;
    let (mut parts, body) = stream.request.into_parts();
    let authority = authority(&mut parts, &stream.backend);
    let source = ClientSource::Streamed(body);
    let sent = UpstreamRequest {
        method: parts.method,
        path: path(&parts.uri),
        authority,
        headers: parts.headers,
        body: Some(ClientBody::new(source, Trailers::ours())),
        http2: true,
        upgrade: None,
    };
    let (retry, mut attempts) = (RetryPolicy::default(), Attempts::default());
    let mut sent = Some(sent);
    let answered = send::send(worker, &cluster, &mut sent, &retry, None, &mut attempts).await;
    let (response, body) = answered.map_err(describe)?;
    let body: CalloutBody = Box::pin(Answer(body));
    Ok(response.map(|()| body))
}

fn cluster(worker: &Worker, backend: &Arc<str>) -> Result<Rc<ClusterState>, CalloutError> {
    let plan = worker.plan();
    plan.clusters
        .find(&plan.snapshot, backend)
        .and_then(|id| worker.upstreams.cluster(&plan.snapshot, id))
        .ok_or_else(|| CalloutError::UnknownBackend(Arc::clone(backend)))
}

fn authority(parts: &mut Parts, backend: &str) -> HeaderValue {
    let named = parts.uri.authority();
    named
        .and_then(|authority| HeaderValue::from_str(authority.as_str()).ok())
        .or_else(|| parts.headers.remove(HOST))
        .or_else(|| HeaderValue::from_str(backend).ok())
        .unwrap_or(HeaderValue::from_static("localhost"))
}

fn path(uri: &Uri) -> PathAndQuery {
    let path = uri.path_and_query();
    path.cloned().unwrap_or(PathAndQuery::from_static("/"))
}

/// A response as a filter reads it.
struct Answer(UpstreamBody);

impl Body for Answer {
    type Data = Bytes;
    type Error = CalloutError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CalloutError>>> {
        let frame = ready!(Pin::new(&mut self.0).poll_frame(task));
        let broken = |error: BodyError| CalloutError::Reset(error.to_string().into());
        Poll::Ready(frame.map(|frame| frame.map_err(broken)))
    }
}

/// Clusters by the names filters know them by.
#[derive(Default)]
pub(crate) struct ClusterNames(RefCell<Option<Rc<Index>>>);

type Index = HashMap<Arc<str>, ClusterId>;

impl ClusterNames {
    /// The cluster called `outbound|<port>||<host>`, or `<host>:<port>`.
    pub(crate) fn find(&self, snapshot: &Snapshot, name: &str) -> Option<ClusterId> {
        let names = self.0.borrow().clone();
        let names = names.unwrap_or_else(|| {
            let names = Rc::new(index(snapshot));
            *self.0.borrow_mut() = Some(Rc::clone(&names));
            names
        });
        names.get(name).copied()
    }
}

fn index(snapshot: &Snapshot) -> Index {
    let short = |cluster: &Cluster| -> Option<Arc<str>> {
        let service = cluster.service.as_ref()?;
        Some(format!("{}:{}", service.hostname, cluster.port).into())
    };
    snapshot
        .clusters
        .values()
        .flat_map(|cluster| {
            let names = [Some(Arc::clone(&cluster.name)), short(cluster)];
            names.into_iter().flatten().map(|name| (name, cluster.id))
        })
        .collect()
}

async fn collect(mut body: UpstreamBody, limit: usize) -> Result<(Bytes, HeaderMap), CalloutError> {
    let mut bytes = BytesMut::new();
    let mut trailers = HeaderMap::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| CalloutError::Reset(error.to_string().into()))?;
        match frame.into_data() {
            Ok(data) if bytes.len() + data.len() > limit => return Err(CalloutError::TooLarge),
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    Ok((bytes.freeze(), trailers))
}

fn describe(error: UpstreamError) -> CalloutError {
    match error {
        UpstreamError::NoEndpoint => CalloutError::Unreachable("it has no endpoint".into()),
        UpstreamError::Connect { reason, .. } => CalloutError::Unreachable(reason),
        UpstreamError::Reset { .. } => CalloutError::Reset("connection termination".into()),
        UpstreamError::Protocol => CalloutError::Reset("protocol error".into()),
        UpstreamError::AttemptTimeout { .. } | UpstreamError::RequestTimeout => {
            CalloutError::Timeout
        }
        UpstreamError::Client | UpstreamError::SlowClient => {
            CalloutError::Reset("the request was withdrawn".into())
        }
    }
}
