//! The body of an answer, whoever made it, and the end of its exchange: the book is closed when the last
//! byte, an error or a reset is seen. It refuses to know how the answer came to be.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use wayline_chain::FilteredResponse;
use wayline_telemetry::{GrpcStatus, ResponseFlag};

use super::body::BodyError;
use super::book::{Book, Details};
use super::reply;
use super::taking::Taking;
use crate::timers::Timer;
use crate::upstream::UpstreamBody;

/// A response body before its book.
pub(crate) enum ResponseBody {
    /// Made here.
    Full(Option<Bytes>),
    /// From upstream, untouched.
    Upstream(UpstreamBody),
    /// Through filters.
    Filtered(Box<FilteredResponse<UpstreamBody>>),
}

/// A response body that closes the book when it ends.
pub(crate) struct ExchangeBody {
    pub(super) body: ResponseBody,
    pub(super) book: Box<Book>,
    pub(super) idle: Timer,
    pub(super) patience: Duration,
    /// Whether its client takes it, in HTTP/2.
    pub(super) taking: Option<Rc<Taking>>,
}

impl Body for ExchangeBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(taking) = &this.taking {
            taking.waits(false);
        }
        let frame = match &mut this.body {
            ResponseBody::Full(data) => Poll::Ready(data.take().map(|data| Ok(Frame::data(data)))),
            ResponseBody::Upstream(body) => Pin::new(body).poll_frame(cx),
            ResponseBody::Filtered(body) => Pin::new(&mut **body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(BodyError::from))),
        };
        match &frame {
            Poll::Pending => {
                if this.idle.silent_for(this.patience, cx).is_ready() {
                    this.book.cut_short();
                    this.book.flags.insert(ResponseFlag::StreamIdleTimeout);
                    this.book.details = Details::Static("stream_idle_timeout");
                    return Poll::Ready(Some(Err(BodyError::Timeout)));
                }
            }
            Poll::Ready(None) => this.book.complete = true,
            Poll::Ready(Some(Ok(frame))) => this.note(frame),
            Poll::Ready(Some(Err(error))) => {
                this.book.cut_short();
                let (flag, details) = reply::broken_body(error);
                this.book.flags.insert(flag);
                this.book.details = Details::Static(details);
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            ResponseBody::Full(data) => data.is_none(),
            ResponseBody::Upstream(body) => body.is_end_stream(),
            ResponseBody::Filtered(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            ResponseBody::Full(data) => {
                SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64))
            }
            ResponseBody::Upstream(body) => body.size_hint(),
            ResponseBody::Filtered(body) => body.size_hint(),
        }
    }
}

impl ExchangeBody {
    /// The book, for whoever carries the exchange on in another protocol.
    pub(crate) fn book(&mut self) -> &mut Book {
        &mut self.book
    }

    fn note(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            if let Some(taking) = &self.taking {
                taking.waits(!data.is_empty());
            }
            self.book.response_bytes += data.len() as u64;
        }
        if let Some(trailers) = frame.trailers_ref() {
            if let Some(status) = trailers.get("grpc-status") {
                self.book.grpc_status = Some(GrpcStatus::parse(status));
            }
            self.book.complete = true;
        }
    }
}

impl Drop for ExchangeBody {
    fn drop(&mut self) {
        // Codecs do not ask again once a body says that it has ended.
        self.book.complete |= self.is_end_stream();
        if self.taking.as_ref().is_some_and(|it| it.gave_up()) {
            self.book.complete = false;
            self.book.details = Details::Static("client_takes_nothing");
        }
    }
}
