//! One exchange as a context inside an instance.

use std::rc::Rc;
use std::task;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use wayline_chain::{
    Direction, Held, LocalReply, RequestContext, ResponseHead, Step, StreamFilter, Summary,
};
use wayline_model::plugin::FailStrategy;

use crate::callbacks::Callback;
use crate::control::StreamControl;
use crate::fault::Fault;
use crate::instance::{Dead, Instance, Running};
use crate::seat::Seat;
use crate::status::{Action, Buffer, Map};

/// A stream of a plugin.
pub(crate) struct WasmStream {
    seat: Rc<Seat>,
    instance: Rc<Instance>,
    control: Rc<StreamControl>,
    /// Its context; 0 before there is one.
    id: u32,
    fate: Fate,
}

/// How a stream fares.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    Running,
    /// The module hears nothing more of it.
    Over,
}

/// What a callback was about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Headers,
    Body,
    Trailers,
}

impl WasmStream {
    pub(crate) fn new(seat: Rc<Seat>, instance: Rc<Instance>, control: Rc<StreamControl>) -> Self {
        Self {
            seat,
            instance,
            control,
            id: 0,
            fate: Fate::Running,
        }
    }

    /// Lets the module work on the exchange.
    fn enter<R>(
        &self,
        context: &mut RequestContext,
        visit: impl FnOnce(&mut Running) -> Result<R, Fault>,
    ) -> Result<R, Dead> {
        self.instance.enter(|running| {
            running.lend(self.id, context);
            let result = visit(running);
            running.restore(context);
            result
        })
    }

    /// What a callback asked for, as the chain knows it.
    fn settle(&mut self, direction: Direction, stage: Stage, answer: Result<Action, Dead>) -> Step {
        let Ok(action) = answer else {
            return self.fail();
        };
        if let Some(step) = self.verdict() {
            self.control.go_on(direction);
            return step;
        }
        let step = self.step(stage, action);
        if matches!(step, Step::Continue) {
            self.control.go_on(direction);
            return step;
        }
        if self.control.pause(direction) {
            step
        } else {
            Step::Continue
        }
    }

    fn step(&self, stage: Stage, action: Action) -> Step {
        match (stage, action.0) {
            (_, 0) => Step::Continue,
            (Stage::Headers, 1) if self.seat.recipe.plugin.allow_on_headers_stop_iteration => {
                Step::Pause
            }
            (Stage::Headers, 2) => {
                self.warn_of_ending();
                Step::Continue
            }
            (Stage::Body, _) => Step::Pause,
            (Stage::Headers | Stage::Trailers, _) => Step::Hold,
        }
    }

    /// Envoy's ContinueAndEndStream cuts the body off. We let it pass, and say so.
    fn warn_of_ending(&self) {
        let book = &self.seat.recipe.book;
        if let Some(suppressed) = book.throttle.admit("end_stream", Instant::now()) {
            tracing::warn!(
                plugin = &*book.name,
                suppressed,
                "a Wasm plugin ends a stream with its headers, which is not offered: its body passes"
            );
        }
    }

    /// How the exchange ends, if the module ends it.
    fn verdict(&mut self) -> Option<Step> {
        if self.control.is_closed() {
            self.fate = Fate::Over;
            return Some(Step::Reset("wasm_close_stream".into()));
        }
        self.control.take_reply().map(Step::Reply)
    }

    /// What becomes of an exchange whose instance died.
    fn fail(&mut self) -> Step {
        self.fate = Fate::Over;
        let book = &self.seat.recipe.book;
        if self.seat.recipe.plugin.fail_strategy == FailStrategy::FailOpen {
            book.bypassed();
            return Step::Continue;
        }
        book.refused();
        Step::Reply(failed())
    }

    /// The answer to an event that the module does not hear of.
    fn early(&mut self) -> Option<Step> {
        if self.is_over() {
            return Some(Step::Continue);
        }
        (!self.instance.is_alive()).then(|| self.fail())
    }

    fn is_over(&self) -> bool {
        self.fate == Fate::Over
    }
}

/// The answer in the place of a plugin that can not work.
pub(crate) fn failed() -> LocalReply {
    LocalReply::text(StatusCode::SERVICE_UNAVAILABLE, "", "wasm_fail_stream")
}

impl StreamFilter for WasmStream {
    fn request_headers(&mut self, context: &mut RequestContext, end_of_stream: bool) -> Step {
        let control = Rc::clone(&self.control);
        control.begin(Direction::Request);
        let mut id = 0;
        let answer = self.instance.enter(|running| {
            id = running.open(&control)?;
            running.lend(id, context);
            let count = count(context_headers(running));
            let action = running.call(Callback::request_headers, id, |callbacks, store| {
                let callback = callbacks.request_headers.as_ref()?;
                Some(callback.call(store, id, count, end_of_stream))
            });
            running.restore(context);
            action.map(action_of)
        });
        self.id = id;
        self.settle(Direction::Request, Stage::Headers, answer)
    }

    fn request_body(
        &mut self,
        context: &mut RequestContext,
        body: &mut Bytes,
        end_of_stream: bool,
    ) -> Step {
        self.body(context, Direction::Request, body, end_of_stream)
    }

    fn request_trailers(
        &mut self,
        context: &mut RequestContext,
        body: &mut Bytes,
        trailers: &mut HeaderMap,
    ) -> Step {
        self.trailers(context, Direction::Request, body, trailers)
    }

    fn response_headers(
        &mut self,
        context: &mut RequestContext,
        response: &mut ResponseHead,
        end_of_stream: bool,
    ) -> Step {
        if let Some(step) = self.early() {
            return step;
        }
        self.control.begin(Direction::Response);
        let (id, count) = (self.id, count(response.headers.len() + 1));
        let kept = context.response.replace(std::mem::take(response));
        let answer = self.enter(context, |running| {
            running.call(Callback::response_headers, id, |callbacks, store| {
                let callback = callbacks.response_headers.as_ref()?;
                Some(callback.call(store, id, count, end_of_stream))
            })
        });
        if let Some(head) = std::mem::replace(&mut context.response, kept) {
            *response = head;
        }
        let answer = answer.map(action_of);
        self.settle(Direction::Response, Stage::Headers, answer)
    }

    fn response_body(
        &mut self,
        context: &mut RequestContext,
        body: &mut Bytes,
        end_of_stream: bool,
    ) -> Step {
        self.body(context, Direction::Response, body, end_of_stream)
    }

    fn response_trailers(
        &mut self,
        context: &mut RequestContext,
        body: &mut Bytes,
        trailers: &mut HeaderMap,
    ) -> Step {
        self.trailers(context, Direction::Response, body, trailers)
    }

    fn poll_resume(
        &mut self,
        context: &mut RequestContext,
        held: Held<'_>,
        task: &mut task::Context<'_>,
    ) -> task::Poll<Step> {
        if self.is_over() {
            return task::Poll::Ready(Step::Continue);
        }
        if !self.instance.is_alive() {
            return task::Poll::Ready(self.fail());
        }
        let direction = held.direction;
        self.control.wait(direction, task.waker());
        if self.control.has_delivery() && self.take_deliveries(context, held).is_err() {
            return task::Poll::Ready(self.fail());
        }
        if let Some(step) = self.verdict() {
            return task::Poll::Ready(step);
        }
        if self.control.take_resumed(direction) {
            return task::Poll::Ready(Step::Continue);
        }
        task::Poll::Pending
    }

    fn complete(&mut self, context: &mut RequestContext, summary: &Summary) {
        if self.id == 0 {
            return;
        }
        let id = self.id;
        let control = Rc::clone(&self.control);
        let ended = self.enter(context, |running| {
            while let Some(delivery) = control.take_delivery() {
                running.deliver(delivery)?;
            }
            running.state_mut().exchange.bytes =
                Some((summary.request_bytes, summary.response_bytes));
            let ended = running.close(id);
            running.state_mut().exchange.bytes = None;
            ended
        });
        if ended.is_ok() && !self.is_over() {
            self.instance.finished.set(self.instance.finished.get() + 1);
        }
        self.seat.left(&self.instance);
    }
}

impl WasmStream {
    fn body(
        &mut self,
        context: &mut RequestContext,
        direction: Direction,
        body: &mut Bytes,
        end_of_stream: bool,
    ) -> Step {
        if let Some(step) = self.early() {
            return step;
        }
        self.control.begin(direction);
        let (id, size) = (self.id, count(body.len()));
        let (callback, buffer, map) = match direction {
            Direction::Request => (
                Callback::request_body,
                Buffer::RequestBody,
                Map::RequestTrailers,
            ),
            Direction::Response => (
                Callback::response_body,
                Buffer::ResponseBody,
                Map::ResponseTrailers,
            ),
        };
        let mut made = None;
        let shown = std::mem::take(body);
        let answer = self.enter(context, |running| {
            let exchange = &mut running.state_mut().exchange;
            exchange.body = Some((buffer, shown));
            // No trailers have come, and now the module may make some.
            exchange.trailers = end_of_stream.then(|| (map, HeaderMap::new()));
            let action = running.call(callback, id, |callbacks, store| {
                let callback = match direction {
                    Direction::Request => callbacks.request_body.as_ref()?,
                    Direction::Response => callbacks.response_body.as_ref()?,
                };
                Some(callback.call(store, (id, size, end_of_stream.into())))
            });
            let exchange = &mut running.state_mut().exchange;
            made = exchange.trailers.take();
            let left = exchange.body.take();
            *body = left.map(|(_, bytes)| bytes).unwrap_or_default();
            action.map(action_of)
        });
        if answer.is_ok() {
            context.made_trailers = made.map(|(_, map)| map).filter(|map| !map.is_empty());
        }
        // Envoy's StopIterationNoBuffer: what was shown is the module's, and goes nowhere.
        if let Ok(Action(3)) = answer {
            body.clear();
        }
        self.settle(direction, Stage::Body, answer)
    }

    fn trailers(
        &mut self,
        context: &mut RequestContext,
        direction: Direction,
        body: &mut Bytes,
        trailers: &mut HeaderMap,
    ) -> Step {
        if let Some(step) = self.early() {
            return step;
        }
        self.control.begin(direction);
        let (id, count) = (self.id, count(trailers.len()));
        let (callback, buffer, map) = match direction {
            Direction::Request => (
                Callback::request_trailers,
                Buffer::RequestBody,
                Map::RequestTrailers,
            ),
            Direction::Response => (
                Callback::response_trailers,
                Buffer::ResponseBody,
                Map::ResponseTrailers,
            ),
        };
        let (shown, ending) = (std::mem::take(body), std::mem::take(trailers));
        let answer = self.enter(context, |running| {
            let exchange = &mut running.state_mut().exchange;
            exchange.body = Some((buffer, shown));
            exchange.trailers = Some((map, ending));
            let action = running.call(callback, id, |callbacks, store| {
                let callback = match direction {
                    Direction::Request => callbacks.request_trailers.as_ref()?,
                    Direction::Response => callbacks.response_trailers.as_ref()?,
                };
                Some(callback.call(store, (id, count)))
            });
            let exchange = &mut running.state_mut().exchange;
            let (left, ending) = (exchange.body.take(), exchange.trailers.take());
            *body = left.map(|(_, bytes)| bytes).unwrap_or_default();
            *trailers = ending.map(|(_, map)| map).unwrap_or_default();
            action.map(action_of)
        });
        self.settle(direction, Stage::Trailers, answer)
    }

    /// Tells the module of callouts that have ended, with everything held in its hands.
    fn take_deliveries(&self, context: &mut RequestContext, held: Held<'_>) -> Result<(), Dead> {
        let (buffer, map) = match held.direction {
            Direction::Request => (Buffer::RequestBody, Map::RequestTrailers),
            Direction::Response => (Buffer::ResponseBody, Map::ResponseTrailers),
        };
        let mut head = held.response;
        let mut kept = None;
        if let Some(head) = &mut head {
            kept = context.response.replace(std::mem::take(*head));
        }
        let (body, mut trailers) = (held.body, held.trailers);
        let shown = std::mem::take(body);
        let ending = trailers.as_mut().map(|trailers| std::mem::take(*trailers));
        let control = Rc::clone(&self.control);
        let result = self.enter(context, |running| {
            let exchange = &mut running.state_mut().exchange;
            exchange.body = Some((buffer, shown));
            exchange.trailers = ending.map(|trailers| (map, trailers));
            let mut told = Ok(());
            while let Some(delivery) = control.take_delivery()
                && told.is_ok()
            {
                told = running.deliver(delivery);
            }
            let exchange = &mut running.state_mut().exchange;
            let left = exchange.body.take();
            *body = left.map(|(_, bytes)| bytes).unwrap_or_default();
            if let (Some(place), Some((_, edited))) = (trailers, exchange.trailers.take()) {
                *place = edited;
            }
            told
        });
        if let Some(head) = head
            && let Some(edited) = std::mem::replace(&mut context.response, kept)
        {
            *head = edited;
        }
        result
    }
}

/// How many headers the module may see of the request that is in its hands.
fn context_headers(running: &Running) -> usize {
    let exchange = &running.state().exchange;
    exchange.context.request().headers.len() + crate::headers::REQUEST_PSEUDO.len()
}

/// A callback that is not exported lets everything pass.
fn action_of(answer: Option<u32>) -> Action {
    Action(answer.unwrap_or(0))
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
