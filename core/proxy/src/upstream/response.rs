//! The response body on its way down, carrying the connection it comes from.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderValue;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::deadline::Deadline;
use super::endpoint::InFlight;
use super::h1::{Detached, H1Connection};
use super::h2::StreamCount;
use crate::http::body::BodyError;
use crate::http::trailers::Trailers;
use crate::io::Io;

/// A response body from upstream.
pub(crate) struct UpstreamBody {
    /// What arrived together with the head.
    first: Option<Result<Frame<Bytes>, BodyError>>,
    rest: Option<Rest>,
    switched: Option<Box<Switched>>,
    trailers: Trailers,
}

/// An HTTP/1 connection that speaks another protocol from now on.
pub(crate) struct Switched {
    /// The connection.
    pub(crate) io: Io,
    /// What arrived behind the response.
    pub(crate) first: Bytes,
    /// What is spoken now.
    pub(crate) protocol: HeaderValue,
    pub(crate) _in_flight: InFlight,
}

struct Rest {
    lease: Lease,
    deadline: Option<Deadline>,
}

/// What a response holds for as long as its body runs.
pub(crate) enum Lease {
    /// The connection, which this body drives and gives back.
    H1(Box<H1Connection>, InFlight),
    /// A connection that still carries the request, sent on by a task and used once.
    Detached {
        connection: Detached,
        _in_flight: InFlight,
    },
    /// A stream of a shared connection, driven by its own task; counted while it lasts.
    H2 {
        body: Incoming,
        _stream: StreamCount,
        _in_flight: InFlight,
    },
}

impl UpstreamBody {
    /// Takes over a body. One that has arrived whole gives its connection back at once.
    pub(crate) fn new(mut lease: Lease) -> Self {
        let first = match &mut lease {
            Lease::H1(connection, _) => connection.take_frame(),
            Lease::Detached { .. } | Lease::H2 { .. } => None,
        };
        let rest = if lease.has_ended() {
            lease.release();
            None
        } else {
            Some(Rest {
                lease,
                deadline: None,
            })
        };
        Self {
            first,
            rest,
            switched: None,
            trailers: Trailers::default(),
        }
    }

    /// No body: the connection speaks another protocol.
    pub(crate) fn switched(switched: Switched) -> Self {
        Self {
            first: None,
            rest: None,
            switched: Some(Box::new(switched)),
            trailers: Trailers::default(),
        }
    }

    /// The connection, if it speaks another protocol.
    pub(crate) fn take_switched(&mut self) -> Option<Box<Switched>> {
        self.switched.take()
    }

    /// With other trailers behind it than those that always pass.
    pub(crate) fn with_trailers(mut self, trailers: Trailers) -> Self {
        self.trailers = trailers;
        self
    }

    /// What has not come by then is cut off.
    pub(crate) fn until(mut self, deadline: Deadline) -> Self {
        if let Some(rest) = &mut self.rest {
            rest.deadline = Some(deadline);
        }
        self
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(first.map(|frame| clean(frame, &this.trailers))));
        }
        let Some(rest) = &mut this.rest else {
            return Poll::Ready(None);
        };
        let frame = match rest.poll(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(frame) => frame,
        };
        match frame {
            Some(Ok(frame)) => {
                if rest.lease.has_ended() {
                    this.release();
                }
                Poll::Ready(Some(Ok(clean(frame, &this.trailers))))
            }
            Some(Err(error)) => {
                this.rest = None;
                Poll::Ready(Some(Err(error)))
            }
            None => {
                this.release();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        // What is still to be read has not ended, or it would not be here.
        self.first.is_none() && self.rest.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let first = match &self.first {
            Some(Ok(frame)) => frame.data_ref().map_or(0, |data| data.len() as u64),
            Some(Err(_)) | None => 0,
        };
        let Some(rest) = &self.rest else {
            return SizeHint::with_exact(first);
        };
        let rest = rest.lease.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + first);
        }
        hint.set_lower(rest.lower() + first);
        hint
    }
}

impl UpstreamBody {
    fn release(&mut self) {
        if let Some(rest) = self.rest.take() {
            rest.lease.release();
        }
    }
}

/// Takes from trailers what must not arrive behind a body.
fn clean(frame: Frame<Bytes>, passing: &Trailers) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(trailers) => Frame::trailers(passing.pass(trailers)),
        Err(frame) => frame,
    }
}

impl Rest {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(BodyError::Timeout)));
        }
        match &mut self.lease {
            Lease::H1(connection, _) => connection.poll_frame(cx),
            Lease::Detached { connection, .. } => connection.poll_frame(cx),
            Lease::H2 { body, .. } => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
            }
        }
    }
}

impl Lease {
    /// Whether nothing of the response is still to come.
    fn has_ended(&self) -> bool {
        match self {
            // Of a connection that broke this is not the end, but there is nothing behind it either.
            Self::H1(connection, _) => connection.is_end_stream() || connection.failed(),
            Self::Detached { connection, .. } => connection.is_end_stream(),
            Self::H2 { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::H1(connection, _) => connection.size_hint(),
            Self::Detached { connection, .. } => connection.size_hint(),
            Self::H2 { body, .. } => body.size_hint(),
        }
    }

    /// The exchange is over: what can be used again is kept.
    fn release(self) {
        match self {
            Self::H1(connection, in_flight) => in_flight.endpoint().put_idle(connection),
            Self::Detached { .. } | Self::H2 { .. } => {}
        }
    }
}
