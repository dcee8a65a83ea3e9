//! One connection as a context inside an instance.

use std::mem;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use wayline_chain::{
    Closer, ConnectionContext, ConnectionFilter, Direction, NetworkEnd, NetworkStep, RequestContext,
};
use wayline_model::plugin::FailStrategy;

use super::failed;
use crate::callbacks::Callback;
use crate::control::StreamControl;
use crate::error::StartError;
use crate::fault::Fault;
use crate::instance::{Dead, Instance, Running};
use crate::place::Place;
use crate::seat::Seat;
use crate::state::Exchange;
use crate::status::Buffer;

/// A connection of a plugin.
pub(crate) struct WasmConnection {
    seat: Rc<Seat>,
    instance: Rc<Instance>,
    control: Rc<StreamControl>,
    /// Its context; 0 before there is one.
    id: u32,
    over: bool,
    /// Directions that wait for callouts and for nothing else.
    waiting: [bool; 2],
    /// What is lent to the instance: of a request it has nothing but the connection.
    lent: RequestContext,
}

/// The ABI's peers: who closed a connection.
const LOCAL: u32 = 1;
const REMOTE: u32 = 2;

impl WasmConnection {
    pub(crate) fn new(
        seat: Rc<Seat>,
        instance: Rc<Instance>,
        place: Rc<Place>,
    ) -> Result<Self, StartError> {
        Ok(Self {
            seat,
            instance,
            control: Rc::new(StreamControl::new(place, Instant::now())),
            id: 0,
            over: false,
            waiting: [false; 2],
            lent: Exchange::nobodys()?.context,
        })
    }

    /// Whether the module hears nothing more of it.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Lets the module work on the connection, with these bytes in its hands.
    fn enter<R>(
        &mut self,
        context: &mut ConnectionContext,
        bytes: Option<(Buffer, &mut Bytes)>,
        visit: impl FnOnce(&mut Running, u32) -> Result<R, Fault>,
    ) -> Result<R, Dead> {
        if !Rc::ptr_eq(&self.lent.connection, &context.connection) {
            self.lent.connection = Rc::clone(&context.connection);
        }
        if self.lent.routed.is_none() {
            self.lent.routed.clone_from(&context.upstream);
        }
        mem::swap(&mut self.lent.filter_state, &mut context.filter_state);
        let (id, lent, control) = (&mut self.id, &mut self.lent, &self.control);
        let entered = self.instance.enter(|running| {
            if *id == 0 {
                *id = running.open(control)?;
            }
            let (buffer, mut bytes) = bytes.unzip();
            running.lend(*id, lent);
            let exchange = &mut running.state_mut().exchange;
            exchange.is_connection = true;
            exchange.body = buffer.zip(bytes.as_mut().map(|bytes| mem::take(*bytes)));
            let result = visit(running, *id);
            let exchange = &mut running.state_mut().exchange;
            exchange.is_connection = false;
            if let (Some(bytes), Some((_, left))) = (bytes, exchange.body.take()) {
                *bytes = left;
            }
            running.restore(lent);
            result
        });
        mem::swap(&mut self.lent.filter_state, &mut context.filter_state);
        entered
    }

    /// What a callback asked for, as the chain knows it.
    fn settle(&mut self, direction: Direction, answer: Result<Option<u32>, Dead>) -> NetworkStep {
        let Ok(action) = answer else {
            return self.fail();
        };
        let passes = matches!(action, None | Some(0));
        if self.control.is_closed() && !(passes && direction == Direction::Response) {
            // What it let go to the client is written before the end, which is then told by itself.
            return NetworkStep::End(self.closed());
        }
        if passes {
            self.control.go_on(direction);
            return NetworkStep::Continue;
        }
        if !self.control.pause(direction) {
            return NetworkStep::Continue;
        }
        self.pause(direction)
    }

    /// A module that has callouts under way waits for them; any other for more bytes, or for a tick.
    fn pause(&mut self, direction: Direction) -> NetworkStep {
        let waits = self.control.callouts.get() > 0;
        self.waiting[index(direction)] = waits;
        if waits {
            NetworkStep::Hold
        } else {
            NetworkStep::Pause
        }
    }

    fn closed(&mut self) -> NetworkEnd {
        self.over = true;
        NetworkEnd::Close("wasm_close_stream".into())
    }

    /// What becomes of a connection whose instance died.
    fn fail(&mut self) -> NetworkStep {
        self.over = true;
        let recipe = &self.seat.recipe;
        if recipe.plugin.fail_strategy == FailStrategy::FailOpen {
            recipe.book.bypassed();
            return NetworkStep::Continue;
        }
        recipe.book.refused();
        NetworkStep::End(failed())
    }

    /// The answer to an event that the module does not hear of.
    fn early(&mut self) -> Option<NetworkStep> {
        if self.over {
            return Some(NetworkStep::Continue);
        }
        (!self.instance.is_alive()).then(|| self.fail())
    }
}

impl ConnectionFilter for WasmConnection {
    fn new_connection(&mut self, context: &mut ConnectionContext) -> NetworkStep {
        self.control.begin(Direction::Request);
        let answer = self.enter(context, None, |running, id| {
            running.call(Callback::new_connection, id, |callbacks, store| {
                Some(callbacks.new_connection.as_ref()?.call(store, id))
            })
        });
        self.settle(Direction::Request, answer)
    }

    fn data(
        &mut self,
        context: &mut ConnectionContext,
        direction: Direction,
        data: &mut Bytes,
        end_of_stream: bool,
    ) -> NetworkStep {
        if let Some(step) = self.early() {
            return step;
        }
        self.control.begin(direction);
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let callback = match direction {
            Direction::Request => Callback::downstream_data,
            Direction::Response => Callback::upstream_data,
        };
        let bytes = Some((buffer(direction), data));
        let answer = self.enter(context, bytes, |running, id| {
            running.call(callback, id, |callbacks, store| {
                let callback = match direction {
                    Direction::Request => callbacks.downstream_data.as_ref()?,
                    Direction::Response => callbacks.upstream_data.as_ref()?,
                };
                Some(callback.call(store, (id, size, end_of_stream.into())))
            })
        });
        self.settle(direction, answer)
    }

    fn poll_resume(
        &mut self,
        context: &mut ConnectionContext,
        direction: Direction,
        held: &mut Bytes,
        task: &mut Context<'_>,
    ) -> Poll<NetworkStep> {
        if let Some(step) = self.early() {
            return Poll::Ready(step);
        }
        self.control.wait(direction, task.waker());
        if self.control.has_delivery() {
            let control = Rc::clone(&self.control);
            let bytes = Some((buffer(direction), held));
            let told = self.enter(context, bytes, |running, _| {
                while let Some(delivery) = control.take_delivery() {
                    running.deliver(delivery)?;
                }
                Ok(())
            });
            if told.is_err() {
                return Poll::Ready(self.fail());
            }
        }
        if self.control.is_closed() {
            return Poll::Ready(NetworkStep::End(self.closed()));
        }
        if self.control.take_resumed(direction) {
            return Poll::Ready(NetworkStep::Continue);
        }
        if self.waiting[index(direction)] && self.control.callouts.get() == 0 {
            return Poll::Ready(self.pause(direction));
        }
        Poll::Pending
    }

    fn poll_end(&mut self, _: &mut ConnectionContext, task: &mut Context<'_>) -> Poll<NetworkEnd> {
        if self.over {
            return Poll::Pending;
        }
        if !self.instance.is_alive() {
            return match self.fail() {
                NetworkStep::End(end) => Poll::Ready(end),
                _ => Poll::Pending,
            };
        }
        if self.control.is_closed() {
            return Poll::Ready(self.closed());
        }
        self.control.wait(Direction::Request, task.waker());
        self.control.wait(Direction::Response, task.waker());
        Poll::Pending
    }

    fn upstream_closed(&mut self, context: &mut ConnectionContext, by: Closer) {
        if self.id == 0 || self.early().is_some() {
            return;
        }
        // Should it trap, that is found when the connection is driven next.
        let _: Result<_, Dead> = self.enter(context, None, |running, id| {
            running.call(Callback::upstream_close, id, |callbacks, store| {
                let callback = callbacks.upstream_close.as_ref()?;
                Some(callback.call(store, (id, peer(by))))
            })
        });
    }

    fn complete(&mut self, context: &mut ConnectionContext, by: Closer) {
        if self.id == 0 {
            return;
        }
        let control = Rc::clone(&self.control);
        let ended = self.enter(context, None, |running, id| {
            while let Some(delivery) = control.take_delivery() {
                running.deliver(delivery)?;
            }
            let ended = end(running, id, by);
            running.state_mut().streams.remove(&id);
            ended
        });
        if ended.is_ok() {
            self.instance.finished.set(self.instance.finished.get() + 1);
        }
        self.seat.left(&self.instance);
    }
}

/// The end of a connection's context, in Envoy's order, which is not that of requests.
fn end(running: &mut Running, id: u32, by: Closer) -> Result<(), Fault> {
    running.call(Callback::downstream_close, id, |callbacks, store| {
        let callback = callbacks.downstream_close.as_ref()?;
        Some(callback.call(store, (id, peer(by))))
    })?;
    running.done(id)?;
    running.call(Callback::log, id, |callbacks, store| {
        Some(callbacks.log.as_ref()?.call(store, id))
    })?;
    running.delete(id)
}

fn peer(by: Closer) -> u32 {
    match by {
        Closer::Local => LOCAL,
        Closer::Remote => REMOTE,
    }
}

fn buffer(direction: Direction) -> Buffer {
    match direction {
        Direction::Request => Buffer::DownstreamData,
        Direction::Response => Buffer::UpstreamData,
    }
}

fn index(direction: Direction) -> usize {
    match direction {
        Direction::Request => 0,
        Direction::Response => 1,
    }
}
