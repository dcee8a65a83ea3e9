//! The state of one exchange, shared by its [`crate::ChainRun`] and its bodies.
//!
//! Here a [`Fate`] that a direction met becomes what happens to the exchange: a reply as long as the
//! response head is not sent, a reset afterwards.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{self, Poll, Waker, ready};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use http_body::Body;

use crate::body::BodyError;
use crate::chain::{Begun, Chain, Slot};
use crate::context::RequestContext;
use crate::filter::{Direction, LocalReply, Needs, ResponseHead, Summary};
use crate::flow::{Fate, Flow, Part, Told};
use crate::runner::Interrupt;

/// `%RESPONSE_CODE_DETAILS%` where a filter changed the length of a body whose length was announced.
const LENGTH_CHANGED: &str = "filter_changed_announced_body_length";

pub(crate) struct Exchange {
    pub(crate) context: RequestContext,
    chain: Rc<Chain>,
    /// The first filter of the chain that was not asked yet.
    next: usize,
    slots: Vec<Slot>,
    needs: Needs,
    request: Lane,
    response: Lane,
    stage: Stage,
    /// What the request side did to the exchange, until the response side takes it.
    interrupt: Option<Interrupt>,
    /// Why the request goes no further.
    request_ended: Option<Arc<str>>,
    /// Who waits for the response, or sends it.
    waiting: Option<Waker>,
    sent_status: Option<StatusCode>,
}

/// One direction and what is counted on it.
struct Lane {
    flow: Flow,
    /// Body bytes read from its sender.
    taken: u64,
    /// Body bytes handed on.
    handed: u64,
    /// Body bytes that the head announces, where filters could spoil it.
    announced: Option<u64>,
    /// Whether the head alone was the message.
    bodiless: bool,
}

/// How far the response is.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Stage {
    Awaited,
    Filtered,
    Sent,
}

impl Exchange {
    pub(crate) fn new(chain: Rc<Chain>, next: usize, first: Slot, context: RequestContext) -> Self {
        let limit = chain.buffer_limit();
        let end = context.end_of_stream;
        let mut exchange = Self {
            context,
            chain,
            next,
            slots: Vec::with_capacity(1),
            needs: Needs::default(),
            request: Lane::new(Direction::Request, limit),
            response: Lane::new(Direction::Response, limit),
            stage: Stage::Awaited,
            interrupt: None,
            request_ended: None,
            waiting: None,
            sent_status: None,
        };
        exchange.request.bodiless = end;
        exchange.request.flow.push_head(end);
        exchange.open(first);
        exchange
    }

    pub(crate) fn needs(&self) -> Needs {
        self.needs
    }

    /// Takes the request head as far as filters let it.
    pub(crate) fn poll_request_head<B>(
        &mut self,
        body: &mut B,
        task: &mut task::Context<'_>,
    ) -> Poll<Result<Option<Interrupt>, B::Error>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        loop {
            if let Err(fate) = self.advance_request(task) {
                return Poll::Ready(Ok(Some(self.end_request(fate))));
            }
            if self.request.flow.head_passed() {
                let filtered = self.needs.request_body;
                self.request
                    .settle_length(self.context.headers_mut(), filtered);
                return Poll::Ready(Ok(None));
            }
            if !self.request.flow.wants_more(&self.slots) {
                return Poll::Pending;
            }
            ready!(self.request.pull(body, task))?;
        }
    }

    /// The next part of the request body that passed all filters.
    pub(crate) fn poll_request_part<B>(
        &mut self,
        body: &mut B,
        task: &mut task::Context<'_>,
    ) -> Poll<Result<Option<Part>, BodyError<B::Error>>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        loop {
            if let Some(details) = &self.request_ended {
                return Poll::Ready(Err(BodyError::Interrupted(Arc::clone(details))));
            }
            let fate = match self.advance_request(task) {
                Ok(()) => match self.request.take_part() {
                    Ok(Progress::Part(part)) => return Poll::Ready(Ok(Some(part))),
                    Ok(Progress::Finished) => return Poll::Ready(Ok(None)),
                    Ok(Progress::Nothing) => None,
                    Err(fate) => Some(fate),
                },
                Err(fate) => Some(fate),
            };
            if let Some(fate) = fate {
                let interrupt = self.end_request(fate);
                self.interrupt(interrupt);
                continue;
            }
            if !self.request.flow.wants_more(&self.slots) {
                return Poll::Pending;
            }
            ready!(self.request.pull(body, task)).map_err(BodyError::Source)?;
        }
    }

    /// Takes the response head as far as filters let it, or the reply of a filter in its place.
    pub(crate) fn poll_response_head<B>(
        &mut self,
        head: &mut ResponseHead,
        mut body: Option<&mut B>,
        task: &mut task::Context<'_>,
    ) -> Poll<Result<(), BodyError<B::Error>>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        self.wait(task);
        if self.stage == Stage::Awaited {
            let end = body.as_ref().is_none_or(|body| body.is_end_stream());
            self.enter_response();
            self.response.bodiless = end;
            self.response.flow.push_head(end);
        }
        loop {
            match self.interrupt.take() {
                Some(Interrupt::Reply(reply)) => self.substitute(reply, head),
                Some(Interrupt::Reset(details)) => return Poll::Ready(Err(self.reset(details))),
                None => {}
            }
            if let Err(fate) = self.advance_response(Some(head), task) {
                self.interrupt = Some(response_interrupt(fate));
                continue;
            }
            if self.response.flow.head_passed() {
                self.send_head(head);
                return Poll::Ready(Ok(()));
            }
            if !self.response.flow.wants_more(&self.slots) {
                return Poll::Pending;
            }
            let Some(body) = body.as_deref_mut() else {
                return Poll::Pending;
            };
            ready!(self.response.pull(body, task)).map_err(BodyError::Source)?;
        }
    }

    /// The next part of the response body that passed all filters.
    pub(crate) fn poll_response_part<B>(
        &mut self,
        mut body: Option<&mut B>,
        task: &mut task::Context<'_>,
    ) -> Poll<Result<Option<Part>, BodyError<B::Error>>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        self.wait(task);
        loop {
            if let Some(interrupt) = self.interrupt.take() {
                return Poll::Ready(Err(self.reset(Arc::clone(interrupt.details()))));
            }
            let fate = match self.advance_response(None, task) {
                Ok(()) => match self.response.take_part() {
                    Ok(Progress::Part(part)) => return Poll::Ready(Ok(Some(part))),
                    Ok(Progress::Finished) => return Poll::Ready(Ok(None)),
                    Ok(Progress::Nothing) => None,
                    Err(fate) => Some(fate),
                },
                Err(fate) => Some(fate),
            };
            if let Some(fate) = fate {
                let details = Arc::clone(response_interrupt(fate).details());
                return Poll::Ready(Err(self.reset(details)));
            }
            if !self.response.flow.wants_more(&self.slots) {
                return Poll::Pending;
            }
            let Some(body) = body.as_deref_mut() else {
                return Poll::Pending;
            };
            ready!(self.response.pull(body, task)).map_err(BodyError::Source)?;
        }
    }

    /// What ended the exchange while its request body was read.
    pub(crate) fn poll_interrupt(&mut self, task: &task::Context<'_>) -> Poll<Interrupt> {
        self.wait(task);
        match self.interrupt.take() {
            Some(interrupt) => Poll::Ready(interrupt),
            None => Poll::Pending,
        }
    }

    /// Sets out a reply as the response, which is then taken through the filters that have not seen
    /// a response head yet.
    pub(crate) fn start_reply(&mut self, reply: LocalReply) -> ResponseHead {
        let mut head = ResponseHead::default();
        self.request_ended
            .get_or_insert_with(|| Arc::clone(&reply.details));
        self.interrupt = None;
        if self.stage == Stage::Awaited {
            self.enter_response();
        }
        self.substitute(reply, &mut head);
        head
    }

    pub(crate) fn judge_again(&mut self) -> Option<LocalReply> {
        self.chain.judge_again(&mut self.context)
    }

    pub(crate) fn request_remainder(&self) -> Remainder {
        self.request.remainder()
    }

    pub(crate) fn response_remainder(&self) -> Remainder {
        self.response.remainder()
    }

    /// Whether nothing more is read of the upstream's response.
    pub(crate) fn is_response_closed(&self) -> bool {
        self.response.flow.is_closed()
    }

    fn open(&mut self, slot: Slot) {
        self.needs = self.needs.union(slot.needs);
        self.slots.push(slot);
        self.request.flow.add_station();
    }

    /// Lets the request go on, and opens the filters that its head reaches on the way.
    fn advance_request(&mut self, task: &mut task::Context<'_>) -> Result<(), Fate> {
        loop {
            let mut told = Told {
                slots: &mut self.slots,
                context: &mut self.context,
                head: None,
                task,
            };
            self.request.flow.advance_head(&mut told)?;
            if self.request.flow.head_passed() {
                match self.chain.begin_from(&mut self.next, &mut self.context) {
                    Begun::All => {}
                    Begun::Reply(reply) => return Err(Fate::Reply(Box::new(reply))),
                    Begun::Stream(slot) => {
                        self.open(slot);
                        continue;
                    }
                }
            }
            let mut told = Told {
                slots: &mut self.slots,
                context: &mut self.context,
                head: None,
                task,
            };
            if !self.request.flow.advance(&mut told)? {
                return Ok(());
            }
        }
    }

    fn advance_response(
        &mut self,
        head: Option<&mut ResponseHead>,
        task: &mut task::Context<'_>,
    ) -> Result<(), Fate> {
        let mut told = Told {
            slots: &mut self.slots,
            context: &mut self.context,
            head,
            task,
        };
        loop {
            self.response.flow.advance_head(&mut told)?;
            if !self.response.flow.advance(&mut told)? {
                return Ok(());
            }
        }
    }

    /// Ends the request side.
    fn end_request(&mut self, fate: Fate) -> Interrupt {
        let interrupt = match fate {
            Fate::Reply(reply) => Interrupt::Reply(*reply),
            Fate::Reset(details) => Interrupt::Reset(details),
            Fate::Overflow => Interrupt::Reply(LocalReply::text(
                StatusCode::PAYLOAD_TOO_LARGE,
                "Payload Too Large",
                "request_payload_too_large",
            )),
        };
        let details = interrupt.details();
        self.context.details = Some(Arc::clone(details));
        self.request_ended = Some(Arc::clone(details));
        interrupt
    }

    /// Tells the response side.
    fn interrupt(&mut self, interrupt: Interrupt) {
        self.interrupt = Some(interrupt);
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }

    /// Remembers who is to be woken when the request side interrupts.
    fn wait(&mut self, task: &task::Context<'_>) {
        match &mut self.waiting {
            Some(waker) => waker.clone_from(task.waker()),
            None => self.waiting = Some(task.waker().clone()),
        }
    }

    fn enter_response(&mut self) {
        self.stage = Stage::Filtered;
        for _ in &self.slots {
            self.response.flow.add_station();
        }
    }

    /// Puts a reply in the response's place.
    fn substitute(&mut self, reply: LocalReply, head: &mut ResponseHead) {
        self.context.details = Some(Arc::clone(&reply.details));
        let (replacement, body) = reply.into_parts(&self.context.request().method);
        *head = replacement;
        self.response.bodiless = body.is_empty();
        self.response.flow.restart(body);
    }

    fn send_head(&mut self, head: &mut ResponseHead) {
        let filtered = self.needs.response_body;
        self.response.settle_length(&mut head.headers, filtered);
        self.stage = Stage::Sent;
        self.sent_status = Some(head.status);
        if self.needs.response_headers {
            self.context.response = Some(ResponseHead {
                status: head.status,
                headers: head.headers.clone(),
            });
        }
    }

    fn reset<E>(&mut self, details: Arc<str>) -> BodyError<E> {
        self.context.details = Some(Arc::clone(&details));
        self.request_ended = Some(Arc::clone(&details));
        BodyError::Interrupted(details)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let summary = Summary {
            status: self.sent_status,
            request_bytes: self.request.taken,
            response_bytes: self.response.handed,
        };
        for slot in &mut self.slots {
            // A filter that panics costs its own exchange nothing more, and the process nothing at all:
            // this may already run because of a panic.
            let told = catch_unwind(AssertUnwindSafe(|| {
                slot.stream.complete(&mut self.context, &summary);
            }));
            drop(told);
        }
    }
}

/// What is known of the bytes still to come.
#[derive(Clone, Copy)]
pub(crate) enum Remainder {
    Unknown,
    Exactly(u64),
    /// Nothing at all, trailers included.
    Finished,
}

/// What can be taken of a direction.
enum Progress {
    Part(Part),
    Nothing,
    Finished,
}

impl Lane {
    fn new(direction: Direction, limit: usize) -> Self {
        Self {
            flow: Flow::new(direction, limit),
            taken: 0,
            handed: 0,
            announced: None,
            bodiless: false,
        }
    }

    /// Lets one frame of the sender in.
    fn pull<B>(&mut self, body: &mut B, task: &mut task::Context<'_>) -> Poll<Result<(), B::Error>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(task)) else {
            self.flow.push_end(None);
            return Poll::Ready(Ok(()));
        };
        match frame?.into_data() {
            Ok(data) => {
                self.taken += data.len() as u64;
                self.flow.push_data(data, body.is_end_stream());
            }
            Err(other) => {
                if let Ok(trailers) = other.into_trailers() {
                    self.flow.push_end(Some(trailers));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn take_part(&mut self) -> Result<Progress, Fate> {
        match self.flow.take_part() {
            Some(Part::Data(data)) => {
                self.handed += data.len() as u64;
                if self.announced.is_some_and(|length| self.handed > length) {
                    return Err(Fate::Reset(LENGTH_CHANGED.into()));
                }
                Ok(Progress::Part(Part::Data(data)))
            }
            Some(trailers) => Ok(Progress::Part(trailers)),
            None if self.flow.is_finished() => {
                if self.announced.is_some_and(|length| self.handed != length) {
                    return Err(Fate::Reset(LENGTH_CHANGED.into()));
                }
                Ok(Progress::Finished)
            }
            None => Ok(Progress::Nothing),
        }
    }

    /// Makes the announced length true where the whole body is known, and remembers it where a filter
    /// could still make it a lie: a length that does not hold must never reach a peer.
    fn settle_length(&mut self, headers: &mut HeaderMap, filtered: bool) {
        if !filtered || self.bodiless {
            return;
        }
        if let Some(length) = self.flow.exact_remainder() {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        self.announced = headers
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok());
    }

    fn remainder(&self) -> Remainder {
        if self.flow.is_finished() {
            return Remainder::Finished;
        }
        match (self.flow.exact_remainder(), self.announced) {
            (Some(length), _) => Remainder::Exactly(length as u64),
            (None, Some(length)) => Remainder::Exactly(length.saturating_sub(self.handed)),
            (None, None) => Remainder::Unknown,
        }
    }
}

fn response_interrupt(fate: Fate) -> Interrupt {
    match fate {
        Fate::Reply(reply) => Interrupt::Reply(*reply),
        Fate::Reset(details) => Interrupt::Reset(details),
        Fate::Overflow => Interrupt::Reply(LocalReply::text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Internal Server Error",
            "response_payload_too_large",
        )),
    }
}
