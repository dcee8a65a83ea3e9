//! HTTP/2 connections to backends: shared by the requests of one core, each driven by a task.

use std::cell::Cell;
use std::rc::Rc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::TokioIo;

use crate::http::body::RequestBody;
use crate::io::Io;
use crate::worker::LocalExecutor;

/// Streams put on one connection before another is opened.
const MAX_STREAMS: u32 = 100;

/// Receive window of a stream, and of a connection: enough for a gigabit at 10 ms, and the bound of
/// what a stalled client makes us hold.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// One shared connection.
#[derive(Clone)]
pub(crate) struct H2Connection {
    sender: SendRequest<RequestBody>,
    streams: Rc<Cell<u32>>,
}

/// Counts a stream for as long as it lives.
pub(crate) struct StreamCount(Rc<Cell<u32>>);

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl H2Connection {
    /// Starts HTTP/2 with prior knowledge.
    pub(crate) async fn handshake(io: Io) -> hyper::Result<Self> {
        let (sender, driver) = http2::Builder::new(LocalExecutor)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(64 * 1024)
            .handshake(TokioIo::new(io))
            .await?;
        LocalExecutor::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "an upstream HTTP/2 connection ended");
            }
        });
        Ok(Self {
            sender,
            streams: Rc::default(),
        })
    }

    /// Whether another stream fits.
    pub(crate) fn has_room(&self) -> bool {
        !self.sender.is_closed() && self.streams.get() < MAX_STREAMS
    }

    /// Whether it is over.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Counts a stream before it is opened.
    pub(crate) fn reserve(&self) -> StreamCount {
        self.streams.set(self.streams.get() + 1);
        StreamCount(Rc::clone(&self.streams))
    }

    /// Sends a request and waits for the response head.
    pub(crate) async fn send(
        mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, (hyper::Error, Option<Request<RequestBody>>)> {
        if let Err(error) = self.sender.ready().await {
            return Err((error, Some(request)));
        }
        self.sender
            .try_send_request(request)
            .await
            .map_err(|mut failure| {
                let unsent = failure.take_message();
                (failure.into_error(), unsent)
            })
    }
}
