//! Opaque bytes: ports declared TCP or TLS, and what turns out not to be HTTP.

mod filtered;

use std::cell::OnceCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use wayline_chain::Connection;
use wayline_hbone::Responder;
use wayline_model::authorization::{Marks, PolicyInput, Verdict};
use wayline_model::snapshot::Target;
use wayline_telemetry::{
    PeerId, Record, Reporter, ResponseFlag, ResponseFlags, SecurityPolicy, TcpKey, TcpSeries,
};

use crate::io::Io;
use crate::marks;
use crate::plan::{Bound, Place, Plan};
use crate::tunnel::unless_abandoned;
use crate::upstream::connect::{self, ConnectFailure};
use crate::upstream::endpoint::{EndpointState, InFlight};
use crate::worker::Worker;

/// Attempts at other endpoints when one can not be connected (Istio: `max_connect_attempts`).
const CONNECT_ATTEMPTS: usize = 3;

/// Buffer per direction of a relay.
const RELAY_BUFFER: usize = 16 * 1024;

/// One connection of opaque bytes, admitted or about to be.
pub(crate) struct Opaque {
    worker: Rc<Worker>,
    plan: Rc<Plan>,
    bound: Rc<Bound>,
    connection: Rc<Connection>,
    peer: PeerId,
    target: Arc<Target>,
    started: Instant,
    start: SystemTime,
    /// What policies said that changes nothing, once they were asked.
    marks: OnceCell<Option<Box<Marks>>>,
}

/// A connection to an endpoint.
pub(crate) struct Upstream {
    io: Io,
    endpoint: Rc<EndpointState>,
    cluster: Arc<str>,
    destination: wayline_telemetry::DestinationId,
    /// What the server said before anybody asked.
    said: BytesMut,
    _in_flight: InFlight,
}

impl Upstream {
    /// Ready when the server has said something (or has left) before the client did.
    pub(crate) fn poll_speaks(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.said.is_empty() {
            return Poll::Ready(());
        }
        let mut space = [0; 1024];
        let mut buffer = ReadBuf::new(&mut space);
        match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(_) => {
                self.said.extend_from_slice(buffer.filled());
                Poll::Ready(())
            }
        }
    }
}

/// Why there is no connection to an endpoint.
pub(crate) enum NoUpstream {
    /// The cluster has no endpoint, or is gone.
    NoEndpoint,
    /// None could be connected.
    Failed(ConnectFailure),
}

impl Opaque {
    /// A connection for a target.
    pub(crate) fn new(
        worker: Rc<Worker>,
        plan: Rc<Plan>,
        target: &Arc<Target>,
        connection: Rc<Connection>,
        peer: PeerId,
    ) -> Self {
        let bound = plan.bind(&Place::Target(Arc::clone(target)), &worker.callout());
        Self {
            worker,
            plan,
            bound,
            connection,
            peer,
            target: Arc::clone(target),
            started: Instant::now(),
            start: SystemTime::now(),
            marks: OnceCell::new(),
        }
    }

    /// Answers a tunnel to an opaque port: policy first, then the upstream, then 200.
    pub(crate) async fn serve(self, mut respond: Responder) {
        if !self.is_admitted() {
            respond.refuse(StatusCode::UNAUTHORIZED);
            return;
        }
        if let Some(run) = self.follow() {
            Box::pin(self.serve_filtered(run, respond)).await;
            return;
        }
        let Some(outcome) = unless_abandoned(&mut respond, self.connect()).await else {
            return;
        };
        let upstream = match outcome {
            Ok(upstream) => upstream,
            Err(failure) => {
                self.failed(&failure);
                respond.refuse(StatusCode::SERVICE_UNAVAILABLE);
                return;
            }
        };
        match respond.accept(HeaderMap::new()) {
            Ok(tunnel) => {
                self.copy(Io::Tunnel(tunnel), BytesMut::new(), Some(upstream))
                    .await
            }
            Err(error) => tracing::debug!(%error, "a tunnel was gone before it was answered"),
        }
    }

    /// Whether policy lets these bytes pass; a refusal is counted and logged.
    pub(crate) fn is_admitted(&self) -> bool {
        let denied_by = self.denied_by();
        self.note_marks();
        let Some(rule) = denied_by else {
            return true;
        };
        let series = self.series(None, ResponseFlags::NONE);
        series.opened();
        series.closed();
        let details = format!("rbac_access_denied_matched_policy[{rule}]");
        self.log(None, ResponseFlags::NONE, Some(&details), None, (0, 0));
        false
    }

    /// Tells everybody who shows it what policies said that changes nothing.
    pub(crate) fn note_marks(&self) {
        if let Some(Some(said)) = self.marks.get() {
            marks::note(&self.worker.process, said, None);
        }
    }

    /// The rule that refuses these bytes, `none` where no ALLOW policy admits them.
    pub(crate) fn denied_by(&self) -> Option<String> {
        let authorization = &self.target.authorization;
        if authorization.is_empty() {
            return None;
        }
        let judgement = authorization.judge(&PolicyInput {
            identity: self.connection.identity.as_ref(),
            source_ip: self.connection.source.ip(),
            remote_ip: self.connection.source.ip(),
            destination_ip: self.connection.destination_ip,
            destination_port: self.connection.destination_port,
            sni: self.connection.sni.as_deref(),
            request: None,
            token: None,
        });
        // Asked again about the same bytes, policies say the same.
        let _ = self.marks.set(judgement.marks);
        match judgement.verdict {
            Verdict::Allow(_) => None,
            Verdict::Deny(rule) => {
                Some(rule.map_or_else(|| "none".to_owned(), |rule| rule.to_string()))
            }
        }
    }

    /// Connects to an endpoint of the target's own cluster.
    pub(crate) async fn connect(&self) -> Result<Upstream, NoUpstream> {
        let upstreams = &self.worker.upstreams;
        let cluster = upstreams
            .cluster(&self.plan.snapshot, self.target.cluster)
            .ok_or(NoUpstream::NoEndpoint)?;
        let timeout = Duration::from_millis(cluster.cluster().connect_timeout_ms);
        let mut tried = Vec::new();
        loop {
            let endpoint = upstreams
                .pick(&cluster, &tried)
                .ok_or(NoUpstream::NoEndpoint)?;
            let in_flight = InFlight::on(&endpoint);
            match connect::open_within(&self.worker.tunnels, &endpoint, timeout).await {
                Ok(io) => {
                    return Ok(Upstream {
                        io,
                        endpoint,
                        cluster: Arc::clone(&cluster.cluster().name),
                        destination: cluster.destination.clone(),
                        said: BytesMut::new(),
                        _in_flight: in_flight,
                    });
                }
                Err(failure) if tried.len() + 1 >= CONNECT_ATTEMPTS => {
                    return Err(NoUpstream::Failed(failure));
                }
                Err(_) => tried.push(endpoint),
            }
        }
    }

    /// Relays bytes both ways, through the filters of the target if there are any, until both sides are
    /// done. `first` was read from the client already.
    pub(crate) async fn relay(self, client: Io, first: BytesMut, upstream: Option<Upstream>) {
        match self.follow() {
            None => self.copy(client, first, upstream).await,
            Some(run) => {
                Box::pin(self.relay_filtered(run, client, first, upstream)).await;
            }
        }
    }

    async fn copy(self, client: Io, first: BytesMut, upstream: Option<Upstream>) {
        let upstream = match upstream {
            Some(upstream) => upstream,
            None => match self.connect().await {
                Ok(upstream) => upstream,
                Err(failure) => return self.failed(&failure),
            },
        };
        let Upstream {
            mut io,
            endpoint,
            cluster,
            destination,
            said,
            _in_flight,
        } = upstream;
        let series = self.series(Some((&destination, &endpoint)), ResponseFlags::NONE);
        series.opened();
        series.received(first.len() as u64);
        let mut client = Counted {
            io: client,
            series: &series,
            received: 0,
            sent: 0,
        };
        client.received = first.len() as u64;
        let outcome = async {
            client.write_all(&said).await?;
            io.write_all(&first).await?;
            tokio::io::copy_bidirectional_with_sizes(
                &mut client,
                &mut io,
                RELAY_BUFFER,
                RELAY_BUFFER,
            )
            .await
        }
        .await;
        series.closed();
        let flags = match outcome {
            Ok(_) => ResponseFlags::NONE,
            Err(_) => ResponseFlag::UpstreamConnectionTermination.into(),
        };
        let bytes = (client.received, client.sent);
        self.log(Some((&cluster, &endpoint)), flags, None, None, bytes);
    }

    fn failed(&self, failure: &NoUpstream) {
        let (flags, reason): (ResponseFlags, Option<&str>) = match failure {
            NoUpstream::NoEndpoint => (ResponseFlag::NoHealthyUpstream.into(), None),
            NoUpstream::Failed(failure) => (
                ResponseFlags::from(ResponseFlag::UpstreamConnectionFailure)
                    .with(ResponseFlag::UpstreamRetryLimitExceeded),
                Some(&failure.0),
            ),
        };
        let series = self.series(None, flags);
        series.opened();
        series.closed();
        self.log(None, flags, None, reason, (0, 0));
    }

    fn series(
        &self,
        chosen: Option<(&wayline_telemetry::DestinationId, &Rc<EndpointState>)>,
        flags: ResponseFlags,
    ) -> Rc<TcpSeries> {
        self.worker.metrics.tcp_series(&TcpKey {
            reporter: Reporter::from(self.target.proxy.role),
            peer: &self.peer,
            destination: chosen.map_or(&self.bound.destination, |(destination, _)| destination),
            workload: chosen.map_or(&self.plan.unknown_workload, |(_, endpoint)| {
                &endpoint.workload
            }),
            flags,
            security: match self.connection.mutual_tls {
                true => SecurityPolicy::MutualTls,
                false => SecurityPolicy::Unknown,
            },
        })
    }

    fn log(
        &self,
        chosen: Option<(&Arc<str>, &Rc<EndpointState>)>,
        flags: ResponseFlags,
        termination: Option<&str>,
        transport_failure: Option<&str>,
        (received, sent): (u64, u64),
    ) {
        let Some(log) = &self.plan.log else {
            return;
        };
        log.writer.log(&Record {
            flags,
            connection_termination: termination,
            upstream_transport_failure: transport_failure,
            bytes_received: received,
            bytes_sent: sent,
            upstream_host: chosen.map(|(_, endpoint)| endpoint.endpoint.address),
            upstream_cluster: chosen.map(|(cluster, _)| &**cluster),
            downstream_local_address: Some(self.connection.local),
            downstream_remote_address: Some(self.connection.source),
            downstream_identity: self
                .connection
                .identity
                .as_ref()
                .map(|identity| identity.uri()),
            downstream_local_identity: Some(self.target.proxy.identity.uri()),
            requested_server_name: self.connection.sni.as_deref(),
            marks: self.marks.get().and_then(Option::as_deref),
            ..Record::new(self.start, self.started.elapsed())
        });
    }
}

/// Counts bytes as they pass, so that long connections show in the metrics while they last.
struct Counted<'s> {
    io: Io,
    series: &'s TcpSeries,
    received: u64,
    sent: u64,
}

impl AsyncRead for Counted<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut this.io).poll_read(cx, buffer);
        let read = (buffer.filled().len() - before) as u64;
        if read > 0 {
            this.received += read;
            this.series.received(read);
        }
        outcome
    }
}

impl AsyncWrite for Counted<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.io).poll_write(cx, data);
        if let Poll::Ready(Ok(written)) = outcome {
            this.sent += written as u64;
            this.series.sent(written as u64);
        }
        outcome
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
