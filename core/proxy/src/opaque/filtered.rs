//! Opaque bytes with filters on their way. Without filters nothing here is reached.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _};
use tokio::time::Sleep;
use wayline_chain::{Closer, ConnectionContext, Direction, NetworkEnd, NetworkRun, Routed};
use wayline_hbone::Responder;
use wayline_telemetry::{ResponseFlag, ResponseFlags, TcpSeries};

use super::{Opaque, RELAY_BUFFER, Upstream};
use crate::io::Io;
use crate::tunnel::unless_abandoned;

/// How long filters may hold as many bytes as they may, or the end of a direction, before the
/// connection is ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long bytes that filters let go are still written after one of them closed the connection.
const FLUSH: Duration = Duration::from_secs(1);

/// Rounds after which other connections of the core have their turn.
const ROUNDS: usize = 32;

impl Opaque {
    /// The run of this connection through its filters; `None` where there are none.
    pub(super) fn follow(&self) -> Option<NetworkRun> {
        let chain = &self.bound.network;
        if chain.is_empty() {
            return None;
        }
        let context = ConnectionContext::new(Rc::clone(&self.connection));
        Some(NetworkRun::start(Rc::clone(chain), context))
    }

    /// Answers a tunnel. Where filters wait for the first bytes the upstream is connected afterwards,
    /// else before, so that the client is told when it can not be reached.
    pub(super) async fn serve_filtered(self, mut run: NetworkRun, mut respond: Responder) {
        if let Some(end) = run.end() {
            let status = match end {
                NetworkEnd::Close(_) => StatusCode::FORBIDDEN,
                NetworkEnd::Fail(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            self.ended(&Ending::of(end), (0, 0));
            respond.refuse(status);
            return;
        }
        let mut upstream = None;
        if run.is_open() {
            let Some(outcome) = unless_abandoned(&mut respond, self.connect()).await else {
                run.client_left();
                return;
            };
            match outcome {
                Ok(connected) => upstream = Some(connected),
                Err(failure) => {
                    self.failed(&failure);
                    respond.refuse(StatusCode::SERVICE_UNAVAILABLE);
                    return;
                }
            }
        }
        match respond.accept(HeaderMap::new()) {
            Ok(tunnel) => {
                self.relay_filtered(run, Io::Tunnel(tunnel), BytesMut::new(), upstream)
                    .await;
            }
            Err(error) => tracing::debug!(%error, "a tunnel was gone before it was answered"),
        }
    }

    /// Takes bytes both ways through the filters until both sides are done, or a filter ends it.
    pub(super) async fn relay_filtered(
        self,
        run: NetworkRun,
        client: Io,
        first: BytesMut,
        upstream: Option<Upstream>,
    ) {
        let mut passage = Passage {
            received: first.len() as u64,
            sent: 0,
            run,
            client: Side::new(client),
            server: None,
            series: None,
            patience: None,
        };
        if !first.is_empty() {
            passage.run.feed(Direction::Request, first.freeze(), false);
        }
        // What an upstream says first, too, is for those whom every filter has let pass.
        if let Some(ending) = poll_fn(|task| passage.poll_open(task)).await {
            let bytes = passage.finish(&ending).await;
            self.ended(&ending, bytes);
            return;
        }
        let upstream = match upstream {
            Some(upstream) => upstream,
            None => match self.connect().await {
                Ok(upstream) => upstream,
                Err(failure) => return self.failed(&failure),
            },
        };
        let Upstream {
            io,
            endpoint,
            cluster,
            destination,
            said,
            _in_flight,
        } = upstream;
        let series = self.series(Some((&destination, &endpoint)), ResponseFlags::NONE);
        series.opened();
        series.received(passage.received);
        passage.series = Some(Rc::clone(&series));
        passage.run.connected(Routed {
            route: "".into(),
            cluster: Arc::clone(&cluster),
            address: Some(endpoint.endpoint.address),
            attempts: 1,
            since: Instant::now(),
        });
        passage.server = Some(Side::new(io));
        if !said.is_empty() {
            passage.run.feed(Direction::Response, said.freeze(), false);
        }
        let ending = poll_fn(|task| passage.poll(task)).await;
        let bytes = passage.finish(&ending).await;
        series.closed();
        let chosen = Some((&cluster, &endpoint));
        self.log(chosen, ending.flags(), ending.details(), None, bytes);
    }

    /// Counts and logs a connection that came to no endpoint.
    fn ended(&self, ending: &Ending, bytes: (u64, u64)) {
        let series = self.series(None, ending.flags());
        series.opened();
        series.received(bytes.0);
        series.closed();
        self.log(None, ending.flags(), ending.details(), None, bytes);
    }
}

/// How a connection ended.
enum Ending {
    /// Both sides had nothing more to say.
    Done,
    /// The client's side broke.
    Client,
    /// The upstream's side broke.
    Upstream,
    /// A filter ended it.
    Filter(NetworkEnd),
    /// Filters held too much, or the end, for too long.
    Hoarded,
}

impl Ending {
    fn of(end: &NetworkEnd) -> Self {
        Self::Filter(end.clone())
    }

    fn flags(&self) -> ResponseFlags {
        match self {
            Self::Done | Self::Filter(NetworkEnd::Close(_)) => ResponseFlags::NONE,
            Self::Client => ResponseFlag::DownstreamConnectionTermination.into(),
            Self::Upstream => ResponseFlag::UpstreamConnectionTermination.into(),
            Self::Filter(NetworkEnd::Fail(_)) | Self::Hoarded => ResponseFlag::LocalReset.into(),
        }
    }

    fn details(&self) -> Option<&str> {
        match self {
            Self::Done | Self::Client | Self::Upstream => None,
            Self::Filter(end) => Some(end.details()),
            Self::Hoarded => Some("filters_held_too_much"),
        }
    }

    /// Whether neither side may take what it got for complete.
    fn is_broken(&self) -> bool {
        !matches!(self, Self::Done | Self::Filter(NetworkEnd::Close(_)))
    }
}

/// One end of a connection.
struct Side {
    io: Io,
    buffer: BytesMut,
    /// Whether what was written may still lie in a buffer.
    unflushed: bool,
    shut: bool,
}

impl Side {
    fn new(io: Io) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
            unflushed: false,
            shut: false,
        }
    }

    /// Reads once: how many bytes there are now, none where the peer has ended.
    fn poll_read(&mut self, task: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.buffer.reserve(RELAY_BUFFER);
        pin!(self.io.read_buf(&mut self.buffer)).poll(task)
    }

    /// Writes what there is, then flushes; `finished` also says that nothing will follow. Says how
    /// many bytes went.
    fn poll_write(
        &mut self,
        output: &mut Bytes,
        finished: bool,
        task: &mut Context<'_>,
    ) -> io::Result<(usize, bool)> {
        let mut written = 0;
        while !output.is_empty() {
            match Pin::new(&mut self.io).poll_write(task, output) {
                Poll::Pending => return Ok((written, written > 0)),
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => {
                    output.advance(count);
                    written += count;
                    self.unflushed = true;
                }
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.io).poll_flush(task)
        {
            flushed?;
            self.unflushed = false;
        }
        let mut shut = false;
        if finished
            && !self.shut
            && let Poll::Ready(ended) = Pin::new(&mut self.io).poll_shutdown(task)
        {
            ended?;
            (self.shut, shut) = (true, true);
        }
        Ok((written, written > 0 || shut))
    }
}

/// A connection under way.
struct Passage {
    run: NetworkRun,
    client: Side,
    server: Option<Side>,
    series: Option<Rc<TcpSeries>>,
    received: u64,
    sent: u64,
    patience: Option<Pin<Box<Sleep>>>,
}

impl Passage {
    /// Ready when the upstream may be connected, or with the end if it never may.
    fn poll_open(&mut self, task: &mut Context<'_>) -> Poll<Option<Ending>> {
        match self.drive(task, true) {
            Poll::Ready(ending) => Poll::Ready(ending),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Ready when it is over.
    fn poll(&mut self, task: &mut Context<'_>) -> Poll<Ending> {
        match self.drive(task, false) {
            Poll::Ready(Some(ending)) => Poll::Ready(ending),
            Poll::Ready(None) => Poll::Ready(Ending::Done),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Moves whatever can be moved. Ready with nothing where the upstream may be connected, if that
    /// is what it is driven for.
    fn drive(&mut self, task: &mut Context<'_>, until_open: bool) -> Poll<Option<Ending>> {
        for _ in 0..ROUNDS {
            let mut moved = self.run.poll(task);
            if let Some(end) = self.run.end() {
                return Poll::Ready(Some(Ending::of(end)));
            }
            if until_open && self.run.is_open() {
                return Poll::Ready(None);
            }
            match self.move_bytes(task) {
                Ok(more) => moved |= more,
                Err(broken) => return Poll::Ready(Some(broken)),
            }
            if let Some(end) = self.run.end() {
                return Poll::Ready(Some(Ending::of(end)));
            }
            let server_shut = self.server.as_ref().is_some_and(|server| server.shut);
            if self.client.shut && server_shut {
                return Poll::Ready(Some(Ending::Done));
            }
            if self.poll_patience(task).is_ready() {
                return Poll::Ready(Some(Ending::Hoarded));
            }
            if !moved {
                return Poll::Pending;
            }
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ready when filters have held all they may, or the end, for too long.
    fn poll_patience(&mut self, task: &mut Context<'_>) -> Poll<()> {
        let directions = [Direction::Request, Direction::Response];
        if !directions.into_iter().any(|it| self.run.is_stuck(it)) {
            self.patience = None;
            return Poll::Pending;
        }
        let patience = self
            .patience
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(PATIENCE)));
        patience.as_mut().poll(task)
    }

    /// Writes what filters let go, then reads what they want. Says whether anything moved.
    fn move_bytes(&mut self, task: &mut Context<'_>) -> Result<bool, Ending> {
        let mut moved = self.write(task)?;
        if self.run.wants(Direction::Request)
            && let Poll::Ready(read) = self.client.poll_read(task)
        {
            let read = read.map_err(|_| {
                self.run.client_left();
                Ending::Client
            })?;
            self.received += read as u64;
            if let Some(series) = &self.series {
                series.received(read as u64);
            }
            let data = self.client.buffer.split().freeze();
            self.run.feed(Direction::Request, data, read == 0);
            moved = true;
        }
        let Some(server) = &mut self.server else {
            return Ok(moved);
        };
        if self.run.wants(Direction::Response)
            && let Poll::Ready(read) = server.poll_read(task)
        {
            let read = read.map_err(|_| {
                self.run.upstream_closed(Closer::Remote);
                Ending::Upstream
            })?;
            let data = server.buffer.split().freeze();
            self.run.feed(Direction::Response, data, read == 0);
            if read == 0 {
                self.run.upstream_closed(Closer::Remote);
            }
            moved = true;
        }
        Ok(moved)
    }

    fn write(&mut self, task: &mut Context<'_>) -> Result<bool, Ending> {
        let finished = self.run.is_finished(Direction::Response);
        let output = self.run.output(Direction::Response);
        let written = self.client.poll_write(output, finished, task);
        let (sent, mut moved) = written.map_err(|_| {
            self.run.client_left();
            Ending::Client
        })?;
        self.sent += sent as u64;
        if let Some(series) = &self.series {
            series.sent(sent as u64);
        }
        if let Some(server) = &mut self.server {
            let finished = self.run.is_finished(Direction::Request);
            let output = self.run.output(Direction::Request);
            let written = server.poll_write(output, finished, task);
            let (_, more) = written.map_err(|_| {
                self.run.upstream_closed(Closer::Remote);
                Ending::Upstream
            })?;
            moved |= more;
        }
        Ok(moved)
    }

    /// Ends both sides as the connection ended, and tells the filters. Answers how many bytes came from
    /// the client and went to it.
    async fn finish(mut self, ending: &Ending) -> (u64, u64) {
        if matches!(ending, Ending::Filter(NetworkEnd::Close(_))) {
            let closed = poll_fn(|task| self.poll_closed(task));
            // A peer that does not read loses what is left.
            let _ = tokio::time::timeout(FLUSH, closed).await;
        }
        if ending.is_broken() {
            self.client.io.reset();
            if let Some(server) = self.server {
                server.io.reset();
            }
        }
        (self.received, self.sent)
    }

    /// Ready when everything that filters let go is written, and both sides are told that it was all.
    fn poll_closed(&mut self, task: &mut Context<'_>) -> Poll<()> {
        let output = self.run.output(Direction::Response);
        let client = self.client.poll_write(output, true, task);
        self.sent += client.as_ref().map_or(0, |(sent, _)| *sent as u64);
        let client_done = client.is_err() || self.client.shut;
        let server_done = self.server.as_mut().is_none_or(|server| {
            let output = self.run.output(Direction::Request);
            server.poll_write(output, true, task).is_err() || server.shut
        });
        if client_done && server_done {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}
