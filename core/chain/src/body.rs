//! Bodies as filters let them pass: what the upstream reads of the request, and the client of the
//! response.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::exchange::Remainder;
use crate::flow::Part;
use crate::runner::ChainRun;

/// Why a filtered body ends before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError<E> {
    /// Reading from the sender failed.
    #[error("the sender's body broke off")]
    Source(#[source] E),
    /// A filter ended the exchange; the text is for `%RESPONSE_CODE_DETAILS%`.
    #[error("a filter ended the exchange: {0}")]
    Interrupted(Arc<str>),
}

/// The request body behind the chain, made by [`ChainRun::request_body`].
///
/// When a filter ends the exchange it fails, and [`ChainRun::unless_interrupted`] has the reason.
pub struct FilteredRequest<B> {
    run: ChainRun,
    body: B,
    over: bool,
}

/// The response body behind the chain, made by [`ChainRun::response_body`]. It holds nothing of the
/// upstream when a filter replied.
pub struct FilteredResponse<B> {
    run: ChainRun,
    body: Option<B>,
    over: bool,
}

impl<B> FilteredRequest<B> {
    pub(crate) fn new(run: ChainRun, body: B) -> Self {
        Self {
            run,
            body,
            over: false,
        }
    }
}

impl<B> FilteredResponse<B> {
    pub(crate) fn new(run: ChainRun, body: Option<B>) -> Self {
        Self {
            run,
            body,
            over: false,
        }
    }
}

impl<B> Body for FilteredRequest<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError<B::Error>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        let part = ready!(this.run.poll_request_part(&mut this.body, task));
        Poll::Ready(frame(part, &mut this.over))
    }

    fn is_end_stream(&self) -> bool {
        self.over || matches!(self.run.request_remainder(), Remainder::Finished)
    }

    fn size_hint(&self) -> SizeHint {
        size_hint(self.run.request_remainder())
    }
}

impl<B> Body for FilteredResponse<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError<B::Error>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        let part = ready!(this.run.poll_response_part(this.body.as_mut(), task));
        Poll::Ready(frame(part, &mut this.over))
    }

    fn is_end_stream(&self) -> bool {
        self.over || matches!(self.run.response_remainder(), Remainder::Finished)
    }

    fn size_hint(&self) -> SizeHint {
        size_hint(self.run.response_remainder())
    }
}

impl<B> fmt::Debug for FilteredRequest<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilteredRequest")
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

impl<B> fmt::Debug for FilteredResponse<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilteredResponse")
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

/// One part as a frame; nothing follows the end, an error or trailers.
fn frame<E>(part: Result<Option<Part>, E>, over: &mut bool) -> Option<Result<Frame<Bytes>, E>> {
    match part {
        Ok(Some(Part::Data(data))) => Some(Ok(Frame::data(data))),
        Ok(Some(Part::Trailers(trailers))) => Some(Ok(Frame::trailers(trailers))),
        Ok(None) => {
            *over = true;
            None
        }
        Err(error) => {
            *over = true;
            Some(Err(error))
        }
    }
}

fn size_hint(remainder: Remainder) -> SizeHint {
    match remainder {
        Remainder::Unknown => SizeHint::default(),
        Remainder::Exactly(length) => SizeHint::with_exact(length),
        Remainder::Finished => SizeHint::with_exact(0),
    }
}
