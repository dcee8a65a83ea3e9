//! gRPC over HTTP/2 for modules: framing messages, and one task per call that tells what comes.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};
use wayline_chain::{CalloutError, OpenFuture, Task};

use crate::callouts::RESPONSE_LIMIT;

/// Codes of gRPC that we make ourselves.
const UNKNOWN: u32 = 2;
const DEADLINE_EXCEEDED: u32 = 4;
const RESOURCE_EXHAUSTED: u32 = 8;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;

/// Messages that may wait to be sent, in bytes.
const OUTBOX_LIMIT: usize = 1 << 20;

/// Bytes before each message: whether it is compressed, and its length.
const HEAD: usize = 5;

/// What a call does.
pub(crate) enum GrpcEvent {
    InitialMetadata(HeaderMap),
    Message(Bytes),
    TrailingMetadata(HeaderMap),
    /// It is over: code and message.
    Close(u32, Bytes),
}

/// What a module sends on a call.
#[derive(Default)]
pub(crate) struct Outbox {
    frames: RefCell<VecDeque<Bytes>>,
    bytes: Cell<usize>,
    ended: Cell<bool>,
    cancelled: Cell<bool>,
    body_waits: RefCell<Option<Waker>>,
    task_waits: RefCell<Option<Waker>>,
}

impl Outbox {
    /// Sends a message. Says whether there was room.
    pub(crate) fn send(&self, message: &[u8]) -> bool {
        if self.bytes.get() + HEAD + message.len() > OUTBOX_LIMIT {
            return false;
        }
        let mut frame = BytesMut::with_capacity(HEAD + message.len());
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
        frame.put_slice(message);
        self.bytes.set(self.bytes.get() + frame.len());
        self.frames.borrow_mut().push_back(frame.freeze());
        wake(&self.body_waits);
        true
    }

    /// No more messages follow.
    pub(crate) fn end(&self) {
        self.ended.set(true);
        wake(&self.body_waits);
    }

    /// The call is given up.
    pub(crate) fn cancel(&self) {
        self.cancelled.set(true);
        wake(&self.task_waits);
        wake(&self.body_waits);
    }
}

/// The outbox as a request body.
pub(crate) struct OutboxBody(pub(crate) Rc<Outbox>);

impl Body for OutboxBody {
    type Data = Bytes;
    type Error = CalloutError;

    fn poll_frame(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CalloutError>>> {
        let outbox = &self.0;
        if outbox.cancelled.get() {
            return Poll::Ready(Some(Err(CalloutError::Reset("cancelled".into()))));
        }
        if let Some(frame) = outbox.frames.borrow_mut().pop_front() {
            outbox
                .bytes
                .set(outbox.bytes.get().saturating_sub(frame.len()));
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        if outbox.ended.get() {
            return Poll::Ready(None);
        }
        *outbox.body_waits.borrow_mut() = Some(task.waker().clone());
        Poll::Pending
    }
}

/// Takes a call to its end. `tell` says whether anybody still listens.
pub(crate) async fn drive(
    open: OpenFuture,
    outbox: Rc<Outbox>,
    mut deadline: Option<Task>,
    mut tell: impl FnMut(GrpcEvent) -> bool,
) {
    let mut call = Box::pin(run(open, &mut tell));
    let ended = poll_fn(|task| {
        if outbox.cancelled.get() {
            return Poll::Ready(None);
        }
        *outbox.task_waits.borrow_mut() = Some(task.waker().clone());
        if let Poll::Ready(end) = call.as_mut().poll(task) {
            return Poll::Ready(end);
        }
        let late = |deadline: &mut Task| deadline.as_mut().poll(task).is_ready();
        if deadline.as_mut().is_some_and(late) {
            return Poll::Ready(Some((DEADLINE_EXCEEDED, Bytes::from_static(b"deadline"))));
        }
        Poll::Pending
    })
    .await;
    drop(call);
    if let Some((code, message)) = ended {
        tell(GrpcEvent::Close(code, message));
    }
}

/// The code and message at the end; nothing where nobody listens any more.
async fn run(open: OpenFuture, tell: &mut impl FnMut(GrpcEvent) -> bool) -> Option<(u32, Bytes)> {
    let response = match open.await {
        Ok(response) => response,
        Err(error) => return Some((UNAVAILABLE, error.to_string().into())),
    };
    let (parts, mut body) = response.into_parts();
    if parts.status != http::StatusCode::OK {
        return Some((
            code_of(parts.status.as_u16()),
            parts.status.to_string().into(),
        ));
    }
    let in_head = status(&parts.headers);
    if !tell(GrpcEvent::InitialMetadata(parts.headers)) {
        return None;
    }
    if in_head.is_some() {
        return in_head;
    }
    let mut received = BytesMut::new();
    loop {
        let frame = match poll_fn(|task| body.as_mut().poll_frame(task)).await {
            None => return Some((UNKNOWN, Bytes::from_static(b"there is no status"))),
            Some(Err(error)) => return Some((UNAVAILABLE, error.to_string().into())),
            Some(Ok(frame)) => frame,
        };
        match frame.into_data() {
            Ok(data) => {
                received.extend_from_slice(&data);
                loop {
                    match message(&mut received) {
                        Ok(None) => break,
                        Ok(Some(message)) => {
                            if !tell(GrpcEvent::Message(message)) {
                                return None;
                            }
                        }
                        Err(code) => return Some((code, Bytes::from_static(b"bad message"))),
                    }
                }
            }
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                let end = status(&trailers).unwrap_or((UNKNOWN, Bytes::new()));
                return tell(GrpcEvent::TrailingMetadata(trailers)).then_some(end);
            }
        }
    }
}

/// The next whole message.
fn message(received: &mut BytesMut) -> Result<Option<Bytes>, u32> {
    let Some((&compressed, rest)) = received.split_first() else {
        return Ok(None);
    };
    let Some(length) = rest.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length) as usize;
    if compressed != 0 {
        return Err(INTERNAL);
    }
    if length > RESPONSE_LIMIT {
        return Err(RESOURCE_EXHAUSTED);
    }
    if received.len() < HEAD + length {
        return Ok(None);
    }
    received.advance(HEAD);
    Ok(Some(received.split_to(length).freeze()))
}

fn status(headers: &HeaderMap) -> Option<(u32, Bytes)> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let message = headers.get("grpc-message").map(HeaderValue::as_bytes);
    Some((code, Bytes::copy_from_slice(message.unwrap_or_default())))
}

/// <https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>
fn code_of(status: u16) -> u32 {
    match status {
        400 => INTERNAL,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

fn wake(waker: &RefCell<Option<Waker>>) {
    if let Some(waker) = waker.borrow_mut().take() {
        waker.wake();
    }
}
