//! The response body on its way down, carrying the connection it comes from.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

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
    body: Incoming,
    lease: Lease,
    deadline: Option<Deadline>,
}

/// What a response holds for as long as its body runs.
pub(crate) enum Lease {
    /// The connection, which this body drives and gives back.
    H1(Box<H1Connection>, InFlight),
    /// A connection that still carries the request, driven by its own task and used once.
    Detached {
        connection: Detached,
        _in_flight: InFlight,
    },
    /// A stream of a shared connection, driven by its own task; counted while it lasts.
    H2 {
        _stream: StreamCount,
        _in_flight: InFlight,
    },
}

impl UpstreamBody {
    /// Takes over a body. One that has arrived whole gives its connection back at once.
    pub(crate) fn new(mut body: Incoming, lease: Lease) -> Self {
        if body.is_end_stream() {
            lease.release();
            return Self {
                first: None,
                rest: None,
                switched: None,
                trailers: Trailers::default(),
            };
        }
        if !matches!(lease, Lease::H1(..)) {
            return Self {
                first: None,
                rest: Some(Rest::new(body, lease)),
                switched: None,
                trailers: Trailers::default(),
            };
        }
        let mut now = Context::from_waker(Waker::noop());
        let (first, ended) = match Pin::new(&mut body).poll_frame(&mut now) {
            Poll::Pending => (None, false),
            // Of a connection that broke this may not be the end; its driver knows.
            Poll::Ready(None) => (None, !lease.is_broken()),
            Poll::Ready(Some(frame)) => {
                (Some(frame.map_err(BodyError::from)), body.is_end_stream())
            }
        };
        if ended {
            lease.release();
            return Self {
                first,
                rest: None,
                switched: None,
                trailers: Trailers::default(),
            };
        }
        Self {
            first,
            rest: Some(Rest::new(body, lease)),
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
                if rest.body.is_end_stream() {
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
        self.first.is_none()
            && self
                .rest
                .as_ref()
                .is_none_or(|rest| rest.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let first = match &self.first {
            Some(Ok(frame)) => frame.data_ref().map_or(0, |data| data.len() as u64),
            Some(Err(_)) | None => 0,
        };
        let Some(rest) = &self.rest else {
            return SizeHint::with_exact(first);
        };
        let rest = rest.body.size_hint();
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
    fn new(body: Incoming, lease: Lease) -> Self {
        Self {
            body,
            lease,
            deadline: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(BodyError::Timeout)));
        }
        let Lease::H1(connection, _) = &mut self.lease else {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
            if frame.is_none() && self.lease.is_broken() {
                return Poll::Ready(Some(Err(BodyError::Upstream)));
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)));
        };
        // Only the driver fills the body, and it is driven right here: nobody needs waking.
        let mut unwoken = Context::from_waker(Waker::noop());
        for drive in [true, false] {
            if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(&mut unwoken) {
                if frame.is_none() && connection.failed() {
                    return Poll::Ready(Some(Err(BodyError::Upstream)));
                }
                return Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)));
            }
            if drive {
                connection.poll_driver(cx);
            }
        }
        Poll::Pending
    }
}

impl Lease {
    /// Whether the connection broke under the response.
    fn is_broken(&self) -> bool {
        match self {
            Self::H1(connection, _) => connection.failed(),
            Self::Detached { connection, .. } => connection.failed(),
            Self::H2 { .. } => false,
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
