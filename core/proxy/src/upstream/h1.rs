//! HTTP/1 connections to backends, driven inline: the connection is polled by the exchange that uses
//! it, not by a task of its own, which saves two wake-ups a request. One whose answer comes before the
//! request is out gets a task after all.

use std::cell::Cell;
use std::error::Error as _;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::UPGRADE;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;

use crate::http::body::RequestBody;
use crate::io::Io;

/// A connection with the state machine that drives it.
pub(crate) struct H1Connection {
    sender: SendRequest<RequestBody>,
    /// `None` when the connection is over: dropping the driver answers whoever still waits.
    driver: Option<Connection<TokioIo<Io>, RequestBody>>,
    /// The driver of a connection that speaks another protocol now.
    switched: Option<Connection<TokioIo<Io>, RequestBody>>,
    asked: bool,
    failed: bool,
    used: bool,
}

/// A connection that a task drives; dropping this ends both.
pub(crate) struct Detached {
    _sender: SendRequest<RequestBody>,
    failed: Rc<Cell<bool>>,
    task: Option<JoinHandle<()>>,
}

impl Detached {
    /// Whether the connection broke; what it carried is not complete.
    pub(crate) fn failed(&self) -> bool {
        self.failed.get()
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// A request that got no response.
pub(crate) struct SendFailure {
    /// Why.
    pub(crate) error: hyper::Error,
    /// The request, if nothing of it was written.
    pub(crate) unsent: Option<Request<RequestBody>>,
}

impl H1Connection {
    /// Starts HTTP/1 on a fresh connection.
    pub(crate) async fn handshake(io: Io) -> hyper::Result<Box<Self>> {
        // hyper's own limit of 100 headers, which is Envoy's: with any other it allocates and fills the
        // room for them anew for every response.
        let (sender, driver) = http1::handshake(TokioIo::new(io)).await?;
        Ok(Box::new(Self {
            sender,
            driver: Some(driver),
            switched: None,
            asked: false,
            failed: false,
            used: false,
        }))
    }

    /// Whether it can take a request now. Costs no system call unless something arrived; no waker of a
    /// finished exchange stays behind.
    pub(crate) fn is_usable(&mut self) -> bool {
        self.poll_driver(&mut Context::from_waker(Waker::noop()));
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Sends a request and waits for the response head; the connection comes back to carry the body.
    pub(crate) async fn send(
        mut self: Box<Self>,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Box<Self>), SendFailure> {
        self.used = true;
        self.asked = request.headers().contains_key(UPGRADE);
        let mut response = pin!(self.sender.try_send_request(request));
        // The response is only ever completed by the driver, which this future polls itself: waking
        // the task for it once more would be a wasted turn.
        let mut unwoken = Context::from_waker(Waker::noop());
        let outcome = poll_fn(|cx| {
            self.poll_driver(cx);
            let polled = response.as_mut().poll(&mut unwoken);
            if polled.is_pending() && self.switched.take().is_some() {
                // It ended without an answer; with the driver gone this is told.
                return response.as_mut().poll(&mut unwoken);
            }
            polled
        })
        .await;
        match outcome {
            Ok(response) => Ok((response, self)),
            Err(mut failure) => {
                let unsent = failure.take_message();
                Err(SendFailure {
                    error: failure.into_error(),
                    unsent,
                })
            }
        }
    }

    /// The connection behind a response that changed the protocol, and what arrived with it.
    pub(crate) async fn into_switched(mut self: Box<Self>) -> Option<(Io, Bytes)> {
        poll_fn(|cx| {
            self.poll_driver(cx);
            match self.driver {
                Some(_) => Poll::Pending,
                None => Poll::Ready(()),
            }
        })
        .await;
        let parts = self.switched.take()?.into_parts();
        Some((parts.io.into_inner(), parts.read_buf))
    }

    /// Has a task drive the connection to the end of this exchange. An answer that comes while the
    /// request is still being sent must not hold it up: nobody would drive the connection while the
    /// client does not take the answer, and many clients take nothing before they have sent all.
    pub(crate) fn detach(mut self: Box<Self>) -> Detached {
        let failed = Rc::new(Cell::new(self.failed));
        let told = Rc::clone(&failed);
        let task = self.driver.take().map(|driver| {
            tokio::task::spawn_local(async move {
                told.set(driver.await.is_err());
            })
        });
        Detached {
            _sender: self.sender,
            failed,
            task,
        }
    }

    /// Whether it has served requests before.
    pub(crate) fn is_reused(&self) -> bool {
        self.used
    }

    /// Lets the connection make progress.
    pub(crate) fn poll_driver(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && let Poll::Ready(outcome) = Pin::new(driver).poll(cx)
        {
            let driver = self.driver.take();
            if self.asked && outcome.is_ok() {
                self.switched = driver;
            }
            self.failed = outcome.is_err_and(|error| !is_unasked(&error));
        }
    }

    /// Whether the connection broke; what it carried is not complete.
    pub(crate) fn failed(&self) -> bool {
        self.failed
    }
}

/// Whether something came behind a message that was complete. hyper has no name for it: it is the only
/// error of a connection that has neither a cause nor a name.
fn is_unasked(error: &hyper::Error) -> bool {
    let named = error.is_parse()
        || error.is_user()
        || error.is_canceled()
        || error.is_closed()
        || error.is_incomplete_message()
        || error.is_body_write_aborted()
        || error.is_timeout();
    !named && error.source().is_none()
}
