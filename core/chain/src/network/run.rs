//! [`NetworkRun`]: one connection on its way through its filters.
//!
//! Whoever copies the bytes drives it: it [feeds](NetworkRun::feed) what it read where that is
//! [wanted](NetworkRun::wants), [polls](NetworkRun::poll) it, writes the [output](NetworkRun::output),
//! and looks whether it [ended](NetworkRun::end).

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::{
    Closer, ConnectionContext, ConnectionFilter, NetworkBegin, NetworkChain, NetworkEnd,
    NetworkStep,
};
use crate::context::Routed;
use crate::filter::Direction;
use crate::flow::append;

/// One connection and the filters that follow it. When it is dropped, the filters are told that the
/// connection is over.
pub struct NetworkRun {
    chain: Rc<NetworkChain>,
    context: ConnectionContext,
    /// As many as have met the connection.
    slots: Vec<Slot>,
    ways: [Way; 2],
    end: Option<NetworkEnd>,
    upstream: Upstream,
    client_left: bool,
}

/// A filter's place in one connection.
struct Slot {
    /// None where it is not interested.
    filter: Option<Box<dyn ConnectionFilter>>,
    lanes: [Lane; 2],
}

/// What a filter has of one direction.
#[derive(Default)]
struct Lane {
    mode: Mode,
    /// Shown to it, and not let go.
    held: Bytes,
    /// Not shown to it yet.
    unseen: Bytes,
    ended: bool,
    /// Whether it was told the end.
    told: bool,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Mode {
    #[default]
    Open,
    Paused,
    Held,
}

/// One direction, beyond its filters.
#[derive(Default)]
struct Way {
    output: Bytes,
    /// Whether the sender has ended.
    ended: bool,
    /// Whether that has come through.
    finished: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Upstream {
    None,
    Connected,
    Closed,
}

impl NetworkRun {
    /// A connection that begins: the filters are told until one of them pauses.
    #[must_use]
    pub fn start(chain: Rc<NetworkChain>, context: ConnectionContext) -> Self {
        let mut run = Self {
            slots: Vec::with_capacity(chain.filters.len()),
            chain,
            context,
            ways: Default::default(),
            end: None,
            upstream: Upstream::None,
            client_left: false,
        };
        run.carry(Direction::Request, 0, Bytes::new(), false);
        run
    }

    /// Whether every filter has let the connection pass, so that the upstream may be connected.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let passed = |slot: &Slot| {
            let lane = &slot.lanes[index(Direction::Request)];
            slot.filter.is_none() || lane.mode == Mode::Open
        };
        // Filters meet the connection one after the other: the last one is there when all others
        // have let something pass.
        self.slots.len() == self.chain.filters.len()
            && (self.upstream != Upstream::None || self.slots.last().is_none_or(passed))
    }

    /// The upstream is connected.
    pub fn connected(&mut self, upstream: Routed) {
        self.context.upstream = Some(upstream);
        self.upstream = Upstream::Connected;
    }

    /// Whether bytes of that direction may be read now.
    #[must_use]
    pub fn wants(&self, direction: Direction) -> bool {
        let way = &self.ways[index(direction)];
        let mut lanes = self.slots.iter().map(|slot| &slot.lanes[index(direction)]);
        self.end.is_none()
            && !way.ended
            && way.output.is_empty()
            && (direction == Direction::Request || self.upstream == Upstream::Connected)
            && lanes.all(|lane| lane.mode != Mode::Held)
            && !self.is_full(direction)
    }

    /// Whether filters hold so many bytes of that direction that no more are read.
    #[must_use]
    pub fn is_full(&self, direction: Direction) -> bool {
        let lanes = self.slots.iter().map(|slot| &slot.lanes[index(direction)]);
        let held: usize = lanes.map(|lane| lane.held.len() + lane.unseen.len()).sum();
        held >= self.chain.buffer_limit
    }

    /// Whether nothing that its sender could do would move that direction: filters hold all they may, or
    /// the end.
    #[must_use]
    pub fn is_stuck(&self, direction: Direction) -> bool {
        let way = &self.ways[index(direction)];
        let ending = way.ended && !way.finished && way.output.is_empty();
        ending || self.is_full(direction)
    }

    /// Shows what was read, and whether it was the last.
    pub fn feed(&mut self, direction: Direction, data: Bytes, end_of_stream: bool) {
        if end_of_stream {
            self.ways[index(direction)].ended = true;
            self.client_left |= direction == Direction::Request;
        }
        self.carry(direction, 0, data, end_of_stream);
    }

    /// Lets filters go on that waited for something. Says whether anything happened.
    pub fn poll(&mut self, task: &mut Context<'_>) -> bool {
        let mut happened = false;
        for position in 0..self.slots.len() {
            for direction in [Direction::Request, Direction::Response] {
                happened |= self.poll_lane(position, direction, task);
            }
        }
        for slot in &mut self.slots {
            let Some(filter) = &mut slot.filter else {
                continue;
            };
            if self.end.is_none()
                && let Poll::Ready(end) = filter.poll_end(&mut self.context, task)
            {
                self.end = Some(end);
                happened = true;
            }
        }
        happened
    }

    /// What is to be written in that direction; whoever writes takes it off the front.
    pub fn output(&mut self, direction: Direction) -> &mut Bytes {
        &mut self.ways[index(direction)].output
    }

    /// Whether nothing follows the output.
    #[must_use]
    pub fn is_finished(&self, direction: Direction) -> bool {
        self.ways[index(direction)].finished
    }

    /// How a filter ends the connection, if one does.
    #[must_use]
    pub fn end(&self) -> Option<&NetworkEnd> {
        self.end.as_ref()
    }

    /// The client's connection broke, or ended.
    pub fn client_left(&mut self) {
        self.client_left = true;
    }

    /// The upstream's connection is over.
    pub fn upstream_closed(&mut self, by: Closer) {
        if std::mem::replace(&mut self.upstream, Upstream::Closed) != Upstream::Connected {
            return;
        }
        for filter in self
            .slots
            .iter_mut()
            .filter_map(|slot| slot.filter.as_mut())
        {
            filter.upstream_closed(&mut self.context, by);
        }
    }

    /// Takes bytes to the filter at that place of the direction and to those behind it. Nothing, and
    /// no end, only asks whether the way is free.
    fn carry(&mut self, direction: Direction, place: usize, mut data: Bytes, mut end: bool) {
        for place in place..self.chain.filters.len() {
            let position = match direction {
                Direction::Request => place,
                Direction::Response => self.chain.filters.len() - 1 - place,
            };
            // Each meets the connection behind those before it, whatever comes first.
            while self.slots.len() <= position && self.end.is_none() {
                self.open(self.slots.len());
            }
            if self.end.is_some() || !self.show(position, direction, &mut data, &mut end) {
                return;
            }
        }
        let way = &mut self.ways[index(direction)];
        append(&mut way.output, data);
        way.finished |= end;
    }

    /// Lets a filter meet the connection.
    fn open(&mut self, position: usize) {
        let mut slot = Slot {
            filter: None,
            lanes: Default::default(),
        };
        let placed = &self.chain.filters[position];
        match placed.filter.open(&mut self.context) {
            NetworkBegin::Pass => {}
            NetworkBegin::End(end) => self.end = Some(end),
            NetworkBegin::Follow(mut filter) => {
                let step = filter.new_connection(&mut self.context);
                slot.lanes[index(Direction::Request)].mode = self.mode_of(step);
                slot.filter = Some(filter);
            }
        }
        self.slots.push(slot);
    }

    /// Shows a filter what has come to it. Says whether something goes on, which is then in the place
    /// of what came.
    fn show(
        &mut self,
        position: usize,
        direction: Direction,
        data: &mut Bytes,
        end: &mut bool,
    ) -> bool {
        let slot = &mut self.slots[position];
        let lane = &mut slot.lanes[index(direction)];
        let Some(filter) = &mut slot.filter else {
            return true;
        };
        let nothing = data.is_empty() && !*end;
        lane.ended |= *end;
        if nothing || lane.mode == Mode::Held {
            append(&mut lane.unseen, std::mem::take(data));
            return nothing && lane.mode == Mode::Open;
        }
        append(&mut lane.held, std::mem::take(data));
        lane.told = lane.ended;
        let step = filter.data(&mut self.context, direction, &mut lane.held, lane.ended);
        let mode = self.mode_of(step);
        let lane = &mut self.slots[position].lanes[index(direction)];
        lane.mode = mode;
        if mode != Mode::Open {
            return false;
        }
        *data = std::mem::take(&mut lane.held);
        *end = lane.ended;
        true
    }

    fn poll_lane(&mut self, position: usize, direction: Direction, task: &mut Context<'_>) -> bool {
        let slot = &mut self.slots[position];
        let lane = &mut slot.lanes[index(direction)];
        let Some(filter) = &mut slot.filter else {
            return false;
        };
        if self.end.is_some() || lane.mode == Mode::Open {
            return false;
        }
        let asked = filter.poll_resume(&mut self.context, direction, &mut lane.held, task);
        let Poll::Ready(step) = asked else {
            return false;
        };
        let mode = self.mode_of(step);
        if self.end.is_some() {
            return true;
        }
        let place = match direction {
            Direction::Request => position,
            Direction::Response => self.chain.filters.len() - 1 - position,
        };
        let lane = &mut self.slots[position].lanes[index(direction)];
        let happened = mode != lane.mode;
        lane.mode = mode;
        if mode == Mode::Open {
            let released = std::mem::take(&mut lane.held);
            let end = lane.told;
            self.carry(direction, place + 1, released, end);
        }
        let lane = &mut self.slots[position].lanes[index(direction)];
        if lane.mode != Mode::Held && (!lane.unseen.is_empty() || lane.ended && !lane.told) {
            let (unseen, ended) = (std::mem::take(&mut lane.unseen), lane.ended);
            self.carry(direction, place, unseen, ended);
        }
        happened
    }

    fn mode_of(&mut self, step: NetworkStep) -> Mode {
        match step {
            NetworkStep::Continue => Mode::Open,
            NetworkStep::Pause => Mode::Paused,
            NetworkStep::Hold => Mode::Held,
            NetworkStep::End(end) => {
                self.end = Some(end);
                Mode::Held
            }
        }
    }
}

impl Drop for NetworkRun {
    fn drop(&mut self) {
        self.upstream_closed(Closer::Local);
        let by = if self.client_left {
            Closer::Remote
        } else {
            Closer::Local
        };
        for filter in self
            .slots
            .iter_mut()
            .filter_map(|slot| slot.filter.as_mut())
        {
            filter.complete(&mut self.context, by);
        }
    }
}

impl std::fmt::Debug for NetworkRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NetworkRun")
            .field("chain", &self.chain)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

fn index(direction: Direction) -> usize {
    match direction {
        Direction::Request => 0,
        Direction::Response => 1,
    }
}
