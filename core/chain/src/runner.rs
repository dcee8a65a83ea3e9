//! [`ChainRun`]: one exchange on its way through the filters that follow it.
//!
//! The run owns the request context and both directions of the exchange; the bodies made from it
//! ([`FilteredRequest`], [`FilteredResponse`]) share it, so that different tasks of one core may drive
//! the upstream and the client. When the last handle is dropped, the filters are told that the exchange
//! is over.
//!
//! The way of an exchange:
//!
//! 1. [`ChainRun::poll_request`] until the head may go upstream or is answered here.
//! 2. [`ChainRun::request_body`] is what the upstream reads; the upstream's answer is awaited within
//!    [`ChainRun::unless_interrupted`], because filters may answer while the body flows.
//! 3. [`ChainRun::respond`] takes the upstream's response back, [`ChainRun::reply`] one made here.

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{self, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::Body;

use crate::body::{BodyError, FilteredRequest, FilteredResponse};
use crate::chain::{Chain, Slot};
use crate::context::RequestContext;
use crate::exchange::{Exchange, Remainder};
use crate::filter::{LocalReply, Needs, ResponseHead};
use crate::flow::Part;

/// One exchange and the filters that follow it. Clones are handles of the same exchange.
#[derive(Clone)]
pub struct ChainRun(Rc<RefCell<Exchange>>);

/// What became of a request head.
#[derive(Debug)]
#[must_use]
pub enum Outcome {
    /// It goes upstream.
    Continue {
        /// Whether a filter changed method, path or authority: make the request canonical again, then
        /// ask [`ChainRun::judge_again`].
        rewritten: bool,
    },
    /// It is answered here: pass this to [`ChainRun::reply`].
    Reply(LocalReply),
    /// The exchange is to be reset; the text is for `%RESPONSE_CODE_DETAILS%`.
    Reset(Arc<str>),
}

/// What ends an exchange before the upstream has answered.
#[derive(Debug)]
#[must_use]
pub enum Interrupt {
    /// The response: pass it to [`ChainRun::reply`].
    Reply(LocalReply),
    /// The exchange is to be reset; the text is for `%RESPONSE_CODE_DETAILS%`.
    Reset(Arc<str>),
}

impl ChainRun {
    pub(crate) fn new(chain: Rc<Chain>, next: usize, first: Slot, context: RequestContext) -> Self {
        Self(Rc::new(RefCell::new(Exchange::new(
            chain, next, first, context,
        ))))
    }

    /// Takes the request head through the chain. Body bytes are read only while a filter pauses the
    /// head and needs them; they are kept for [`ChainRun::request_body`].
    ///
    /// Fails when reading the body fails. Not to be called again after it was ready.
    pub fn poll_request<B>(
        &self,
        body: &mut B,
        task: &mut task::Context<'_>,
    ) -> Poll<Result<Outcome, B::Error>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let exchange = &mut *self.0.borrow_mut();
        let outcome = match ready!(exchange.poll_request_head(body, task))? {
            None => Outcome::Continue {
                rewritten: exchange.context.take_rewritten(),
            },
            Some(Interrupt::Reply(reply)) => Outcome::Reply(reply),
            Some(Interrupt::Reset(details)) => Outcome::Reset(details),
        };
        Poll::Ready(Ok(outcome))
    }

    /// [`ChainRun::poll_request`], awaited.
    pub async fn request<B>(&self, body: &mut B) -> Result<Outcome, B::Error>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        poll_fn(|task| self.poll_request(body, task)).await
    }

    /// Judges the request again after it was rewritten and made canonical again. A reply goes to
    /// [`ChainRun::reply`].
    #[must_use]
    pub fn judge_again(&self) -> Option<LocalReply> {
        self.0.borrow_mut().judge_again()
    }

    /// The request body as the upstream shall read it, once the head may go there. Where
    /// [`ChainRun::needs`] names neither request body nor trailers the bytes pass untouched, and the
    /// raw body may as well be handed upstream; filters are then told no count of them.
    pub fn request_body<B>(&self, body: B) -> FilteredRequest<B> {
        FilteredRequest::new(self.clone(), body)
    }

    /// Whether a filter ended the exchange while the request body was read. Told once.
    pub fn poll_interrupt(&self, task: &mut task::Context<'_>) -> Poll<Interrupt> {
        self.0.borrow_mut().poll_interrupt(task)
    }

    /// Awaits the upstream's answer, unless a filter ends the exchange before. That wins also where
    /// the upstream fails because its request body ended early.
    pub async fn unless_interrupted<F: Future>(&self, upstream: F) -> Result<F::Output, Interrupt> {
        let mut upstream = pin!(upstream);
        poll_fn(|task| {
            if let Poll::Ready(interrupt) = self.poll_interrupt(task) {
                return Poll::Ready(Err(interrupt));
            }
            let answer = ready!(upstream.as_mut().poll(task));
            match self.poll_interrupt(task) {
                Poll::Ready(interrupt) => Poll::Ready(Err(interrupt)),
                Poll::Pending => Poll::Ready(Ok(answer)),
            }
        })
        .await
    }

    /// Sets out a reply made here, by a filter or by the data path: its head is then taken through the
    /// chain by [`ChainRun::poll_response`] (with any body, which is not read), and its body comes from
    /// [`ChainRun::response_body`].
    #[must_use]
    pub fn start_reply(&self, reply: LocalReply) -> ResponseHead {
        self.0.borrow_mut().start_reply(reply)
    }

    /// Takes a response head through the chain, in reverse. Body bytes are read only while a filter
    /// pauses the head and needs them. A filter may put its own reply in the response's place: then
    /// the head is that reply's, and `body` is not read any more.
    ///
    /// Not to be called again after it was ready.
    pub fn poll_response<B>(
        &self,
        head: &mut ResponseHead,
        body: &mut B,
        task: &mut task::Context<'_>,
    ) -> Poll<Result<(), BodyError<B::Error>>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        self.0
            .borrow_mut()
            .poll_response_head(head, Some(body), task)
    }

    /// The response body as the client shall read it, once [`ChainRun::poll_response`] was ready.
    pub fn response_body<B>(&self, body: Option<B>) -> FilteredResponse<B> {
        let wanted = !self.0.borrow().is_response_closed();
        FilteredResponse::new(self.clone(), body.filter(|_| wanted))
    }

    /// Takes the upstream's response through the chain: [`ChainRun::poll_response`] and
    /// [`ChainRun::response_body`] in one. The response's extensions and version stay.
    pub async fn respond<B>(
        &self,
        response: Response<B>,
    ) -> Result<Response<FilteredResponse<B>>, BodyError<B::Error>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let (mut parts, mut body) = response.into_parts();
        let mut head = ResponseHead {
            status: parts.status,
            headers: std::mem::take(&mut parts.headers),
        };
        poll_fn(|task| self.poll_response(&mut head, &mut body, task)).await?;
        parts.status = head.status;
        parts.headers = head.headers;
        Ok(Response::from_parts(parts, self.response_body(Some(body))))
    }

    /// Takes a reply made here through the chain.
    pub async fn reply<B>(
        &self,
        reply: LocalReply,
    ) -> Result<Response<FilteredResponse<B>>, BodyError<B::Error>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let mut head = self.start_reply(reply);
        poll_fn(|task| {
            self.0
                .borrow_mut()
                .poll_response_head::<B>(&mut head, None, task)
        })
        .await?;
        let mut response = Response::new(self.response_body(None));
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        Ok(response)
    }

    /// What the filters that follow this exchange need. Complete once the request head has passed.
    #[must_use]
    pub fn needs(&self) -> Needs {
        self.0.borrow().needs()
    }

    /// Reads or edits the context. `visit` must not use this run or its bodies.
    pub fn with_context<R>(&self, visit: impl FnOnce(&mut RequestContext) -> R) -> R {
        visit(&mut self.0.borrow_mut().context)
    }

    pub(crate) fn poll_request_part<B>(
        &self,
        body: &mut B,
        task: &mut task::Context<'_>,
    ) -> Poll<Result<Option<Part>, BodyError<B::Error>>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        self.0.borrow_mut().poll_request_part(body, task)
    }

    pub(crate) fn poll_response_part<B>(
        &self,
        body: Option<&mut B>,
        task: &mut task::Context<'_>,
    ) -> Poll<Result<Option<Part>, BodyError<B::Error>>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        self.0.borrow_mut().poll_response_part(body, task)
    }

    pub(crate) fn request_remainder(&self) -> Remainder {
        self.0.borrow().request_remainder()
    }

    pub(crate) fn response_remainder(&self) -> Remainder {
        self.0.borrow().response_remainder()
    }
}

impl Interrupt {
    /// For `%RESPONSE_CODE_DETAILS%`.
    #[must_use]
    pub fn details(&self) -> &Arc<str> {
        match self {
            Self::Reply(reply) => &reply.details,
            Self::Reset(details) => details,
        }
    }
}

impl fmt::Debug for ChainRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChainRun")
            .field("needs", &self.needs())
            .finish_non_exhaustive()
    }
}
