//! HTTP/1.1 connections to backends, with a codec of their own.
//!
//! A connection carries one exchange at a time and is driven by whoever holds it: there is no task, no
//! channel and no wake-up between an exchange and its connection. What is sent is written straight from
//! the request, what is read is sliced from the buffer it arrived in. An answer that comes before the
//! request is out gets a task for the rest of the request after all.
//!
//! Not here: requests one behind the other on a connection, HTTP/1.0's kept connections, interim
//! responses (they are passed over).

mod decode;
mod encode;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};
use tokio::task::JoinHandle;

use super::send::UpstreamRequest;
use crate::http::body::{BodyError, RequestBody};
use crate::io::Io;
use decode::{Malformed, Next};
use encode::{Outgoing, SendError};

/// Room for one read: at first, and for bodies that come faster than they are taken.
const FIRST_ROOM: usize = 8 * 1024;
const MOST_ROOM: usize = 128 * 1024;

/// A connection to a backend.
pub(crate) struct H1Connection {
    io: Io,
    outgoing: Outgoing,
    arrived: BytesMut,
    /// Room for the next read.
    room: usize,
    /// Bytes of `arrived` in which the end of a head was looked for.
    searched: usize,
    awaited: Awaited,
    /// What the next response's headers are put into.
    spare: HeaderMap,
    keep_alive: bool,
    failed: bool,
    used: bool,
}

/// What is to be read next.
enum Awaited {
    Nothing,
    Head { bodiless: bool },
    Body(decode::Body),
}

/// Why a request got no response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum H1Error {
    /// The connection ended, or broke, or the request's body did.
    Broken,
    /// What came is not HTTP/1.
    Malformed,
}

impl From<SendError> for H1Error {
    fn from(_: SendError) -> Self {
        Self::Broken
    }
}

impl From<Malformed> for H1Error {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl H1Connection {
    /// Speaks HTTP/1.1 on a fresh connection.
    pub(crate) fn new(io: Io) -> Box<Self> {
        Box::new(Self {
            io,
            outgoing: Outgoing::default(),
            arrived: BytesMut::new(),
            room: FIRST_ROOM,
            searched: 0,
            awaited: Awaited::Nothing,
            spare: HeaderMap::new(),
            keep_alive: true,
            failed: false,
            used: false,
        })
    }

    /// Whether the exchange that it carried left it so that it may carry another.
    pub(crate) fn is_clean(&self) -> bool {
        self.keep_alive
            && !self.failed
            && matches!(self.awaited, Awaited::Nothing)
            && self.arrived.is_empty()
            && !self.outgoing.is_under_way()
    }

    /// Whether it can take a request now. Costs no system call unless something arrived, which nothing
    /// may where nothing was asked; no waker of a finished exchange stays behind.
    pub(crate) fn is_usable(&mut self) -> bool {
        let mut byte = [0];
        let mut space = ReadBuf::new(&mut byte);
        let mut unwoken = Context::from_waker(Waker::noop());
        self.is_clean()
            && Pin::new(&mut self.io)
                .poll_read(&mut unwoken, &mut space)
                .is_pending()
    }

    /// Gives room back before nothing is done for a while.
    pub(crate) fn rest(&mut self) {
        self.room = FIRST_ROOM;
        if self.arrived.capacity() > 2 * FIRST_ROOM {
            self.arrived = BytesMut::new();
        }
    }

    /// Whether it has served requests before.
    pub(crate) fn is_reused(&self) -> bool {
        self.used
    }

    /// Whether the connection broke; what it carried is not complete.
    pub(crate) fn failed(&self) -> bool {
        self.failed
    }

    /// Begins an exchange.
    pub(crate) fn begin(&mut self, request: &UpstreamRequest, body: RequestBody) {
        self.used = true;
        self.searched = 0;
        self.awaited = Awaited::Head {
            bodiless: request.method == Method::HEAD,
        };
        self.outgoing.begin(request, body);
    }

    /// Lends room for the headers of the response.
    pub(crate) fn lend(&mut self, headers: HeaderMap) {
        self.spare = headers;
        self.spare.clear();
    }

    /// Sends the request and waits for the response head.
    pub(crate) fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<()>, H1Error>> {
        // What has come counts, even where nothing can be sent any more.
        let mut polled = self.poll_head(cx);
        if matches!(polled, Poll::Ready(Ok(_))) && !self.outgoing.has_begun() {
            // It answers what nobody asked.
            polled = Poll::Ready(Err(H1Error::Broken));
        }
        if polled.is_pending()
            && self.outgoing.is_under_way()
            && let Poll::Ready(Err(error)) = self.outgoing.poll_send(&mut self.io, cx)
        {
            polled = Poll::Ready(Err(error.into()));
        }
        self.failed |= matches!(polled, Poll::Ready(Err(_)));
        polled
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, H1Error>> {
        let Awaited::Head { bodiless } = self.awaited else {
            return Poll::Ready(Err(H1Error::Broken));
        };
        loop {
            let head = decode::head(&mut self.arrived, self.searched, bodiless, &mut self.spare)?;
            let Some(head) = head else {
                self.searched = self.arrived.len();
                if ready!(self.poll_fill(cx)).map_err(|_| H1Error::Broken)? == 0 {
                    return Poll::Ready(Err(H1Error::Broken));
                }
                continue;
            };
            self.searched = 0;
            let status = head.response.status();
            if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
                self.lend(head.response.into_parts().0.headers);
                continue;
            }
            self.keep_alive = head.keep_alive && !status.is_informational();
            self.awaited = match head.body {
                body if body.has_ended() => Awaited::Nothing,
                body => Awaited::Body(body),
            };
            return Poll::Ready(Ok(head.response));
        }
    }

    /// Whether the response has been read to its end.
    pub(crate) fn is_end_stream(&self) -> bool {
        match &self.awaited {
            Awaited::Body(body) => body.has_ended(),
            Awaited::Nothing | Awaited::Head { .. } => true,
        }
    }

    /// What of the response's body is still to come.
    pub(crate) fn size_hint(&self) -> SizeHint {
        let left = match &self.awaited {
            Awaited::Body(body) => body.left(),
            Awaited::Nothing | Awaited::Head { .. } => Some(0),
        };
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    /// Takes the next frame of the response's body, if it has arrived already.
    pub(crate) fn take_frame(&mut self) -> Option<Result<Frame<Bytes>, BodyError>> {
        let Awaited::Body(body) = &mut self.awaited else {
            return None;
        };
        let frame = match body.next(&mut self.arrived) {
            Ok(Next::Frame(frame)) => Some(Ok(frame)),
            Ok(Next::End | Next::More) => None,
            Err(Malformed) => {
                self.failed = true;
                Some(Err(BodyError::Upstream))
            }
        };
        if self.is_end_stream() {
            self.awaited = Awaited::Nothing;
        }
        frame
    }

    /// Reads the response's body, and sends what is left of the request.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.poll_received(cx);
        if polled.is_pending()
            && self.outgoing.is_under_way()
            && let Poll::Ready(Err(_)) = self.outgoing.poll_send(&mut self.io, cx)
        {
            self.failed = true;
            return Poll::Ready(Some(Err(BodyError::Upstream)));
        }
        polled
    }

    fn poll_received(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if let Some(frame) = self.take_frame() {
                return Poll::Ready(Some(frame));
            }
            let Awaited::Body(body) = &self.awaited else {
                return Poll::Ready(None);
            };
            let until_close = matches!(body, decode::Body::UntilClose);
            match ready!(self.poll_fill(cx)) {
                Ok(0) if until_close => {
                    self.awaited = Awaited::Nothing;
                    return Poll::Ready(None);
                }
                Ok(0) | Err(_) => {
                    self.failed = true;
                    return Poll::Ready(Some(Err(BodyError::Upstream)));
                }
                Ok(_) => {}
            }
        }
    }

    /// Reads once; 0 at the end of the connection.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.arrived.capacity() - self.arrived.len() < self.room {
            self.arrived.reserve(self.room);
        }
        let free = self.arrived.capacity() - self.arrived.len();
        let read = ready!(pin!(self.io.read_buf(&mut self.arrived)).poll(cx))?;
        if read == free {
            self.room = (self.room * 2).min(MOST_ROOM);
        }
        Poll::Ready(Ok(read))
    }

    /// The connection behind a response that changed the protocol, and what arrived with it.
    pub(crate) fn into_switched(self: Box<Self>) -> (Io, Bytes) {
        (self.io, self.arrived.freeze())
    }

    /// Has a task send the rest of the request. An answer that comes while the request is still being
    /// sent must not hold it up: nobody would send while the client does not take the answer, and many
    /// clients take nothing before they have sent all.
    pub(crate) fn detach(self: Box<Self>) -> Detached {
        let shared = Rc::new(RefCell::new(Shared {
            connection: self,
            reader: None,
        }));
        let sending = Rc::clone(&shared);
        let task = tokio::task::spawn_local(async move {
            let sent = poll_fn(|cx| {
                let connection = &mut *sending.borrow_mut().connection;
                connection.outgoing.poll_send(&mut connection.io, cx)
            });
            if sent.await.is_err() {
                let mut shared = sending.borrow_mut();
                shared.connection.failed = true;
                if let Some(reader) = shared.reader.take() {
                    reader.wake();
                }
            }
        });
        Detached { shared, task }
    }
}

/// A connection that is sent on by a task and read by whoever has this; dropping it ends both.
pub(crate) struct Detached {
    shared: Rc<RefCell<Shared>>,
    task: JoinHandle<()>,
}

struct Shared {
    connection: Box<H1Connection>,
    /// Who waits for the response, in case that sending fails.
    reader: Option<Waker>,
}

impl Detached {
    /// Whether the response has been read to its end.
    pub(crate) fn is_end_stream(&self) -> bool {
        self.shared.borrow().connection.is_end_stream()
    }

    /// What of the response's body is still to come.
    pub(crate) fn size_hint(&self) -> SizeHint {
        self.shared.borrow().connection.size_hint()
    }

    /// Reads the response's body.
    pub(crate) fn poll_frame(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut shared = self.shared.borrow_mut();
        // What has come counts, even where nothing can be sent any more.
        let polled = shared.connection.poll_received(cx);
        if polled.is_pending() && shared.connection.failed() {
            return Poll::Ready(Some(Err(BodyError::Upstream)));
        }
        if polled.is_pending() {
            shared.reader = Some(cx.waker().clone());
        }
        polled
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests;
