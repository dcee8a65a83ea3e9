//! One direction of an exchange as a row of stations, one per filter that follows it.
//!
//! What arrives at a station is told to its filter, event by event; what the filter lets go arrives at
//! the next station, and what passes the last one is the outcome. Knows nothing of where bytes come
//! from or go to, nor of what a reply means: [`crate::runner`] does.

use std::sync::Arc;
use std::task;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use wayline_model::defence::stands;

use crate::chain::Slot;
use crate::context::RequestContext;
use crate::filter::{Direction, Held, LocalReply, Needs, ResponseHead, Step};

/// One direction of one exchange.
pub(crate) struct Flow {
    direction: Direction,
    /// In the order in which this direction meets the filters.
    stations: Vec<Station>,
    /// What passed all stations and was not taken yet.
    passed: Arrival,
    /// Whether more may come in.
    open: bool,
    limit: usize,
}

/// Why a flow ends before its time.
pub(crate) enum Fate {
    /// A filter answers instead.
    Reply(Box<LocalReply>),
    /// A filter ends the exchange.
    Reset(Arc<str>),
    /// A filter was shown more than may be held for it.
    Overflow,
}

/// What may be told apart of a message that passed.
pub(crate) enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Flow {
    pub(crate) fn new(direction: Direction, limit: usize) -> Self {
        Self {
            direction,
            stations: Vec::new(),
            passed: Arrival::default(),
            open: true,
            limit,
        }
    }

    /// Lets the head in, with `end` when nothing follows it.
    pub(crate) fn push_head(&mut self, end: bool) {
        let arrival = self.entry();
        arrival.head = true;
        if end {
            arrival.end = End::Body;
            self.open = false;
        }
    }

    /// Lets body bytes in, with `end` when nothing follows them.
    pub(crate) fn push_data(&mut self, data: Bytes, end: bool) {
        let arrival = self.entry();
        append(&mut arrival.body, data);
        if end {
            self.push_end(None);
        }
    }

    /// Lets the end in.
    pub(crate) fn push_end(&mut self, trailers: Option<HeaderMap>) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        self.entry().end = trailers.map_or(End::Body, End::Trailers);
    }

    /// Puts a station behind the others; what passed so far arrives there.
    pub(crate) fn add_station(&mut self) {
        let arrival = std::mem::take(&mut self.passed);
        self.stations.push(Station {
            arrival,
            ..Station::default()
        });
    }

    /// Whether nothing more may come in.
    pub(crate) fn is_closed(&self) -> bool {
        !self.open
    }

    /// Whether the head passed all stations.
    pub(crate) fn head_passed(&self) -> bool {
        self.passed.head
    }

    /// Whether everything passed and was taken.
    pub(crate) fn is_finished(&self) -> bool {
        self.passed.body.is_empty() && matches!(self.passed.end, End::Body)
    }

    /// How many bytes are still to be taken, when all of them passed and no trailers follow.
    pub(crate) fn exact_remainder(&self) -> Option<usize> {
        matches!(self.passed.end, End::Body).then_some(self.passed.body.len())
    }

    /// Takes the next part of what passed.
    pub(crate) fn take_part(&mut self) -> Option<Part> {
        if !self.passed.head {
            return None;
        }
        if !self.passed.body.is_empty() {
            return Some(Part::Data(std::mem::take(&mut self.passed.body)));
        }
        match std::mem::take(&mut self.passed.end) {
            End::Trailers(trailers) => {
                self.passed.end = End::Body;
                Some(Part::Trailers(trailers))
            }
            end => {
                self.passed.end = end;
                None
            }
        }
    }

    /// Whether more should be let in: the first filter that pauses wants body, or none pauses.
    pub(crate) fn wants_more(&self, slots: &[Slot]) -> bool {
        let waiting = self
            .stations
            .iter()
            .position(|station| station.pause != Pause::No);
        self.open
            && waiting.is_none_or(|position| {
                let needs = slots[slot_at(self.direction, self.stations.len(), position)].needs;
                self.stations[position].pause == Pause::Fed && body_needed(self.direction, needs)
            })
    }

    /// Drops what is under way and shuts the stations that have seen the head; the head and body of a
    /// reply then arrive at the others.
    pub(crate) fn restart(&mut self, body: Bytes) {
        self.passed = Arrival::default();
        for station in &mut self.stations {
            let shut = station.told_head;
            *station = Station {
                shut,
                ..Station::default()
            };
        }
        self.open = false;
        let arrival = self.entry();
        *arrival = Arrival {
            head: true,
            body,
            end: End::Body,
        };
    }

    /// Takes the head on as far as the filters let it, ahead of what follows it.
    pub(crate) fn advance_head(&mut self, told: &mut Told<'_, '_>) -> Result<(), Fate> {
        for position in 0..self.stations.len() {
            let station = &self.stations[position];
            if !station.arrival.head || station.head_gone {
                continue;
            }
            self.visit(position, told, Scope::Head)?;
            let gone = self.stations[position].release_head();
            self.pass_on(position, gone);
        }
        Ok(())
    }

    /// Moves everything on as far as the filters let it, but for a head that a filter lets go now:
    /// says true then, and [`Flow::advance_head`] is to take it on before what follows it.
    pub(crate) fn advance(&mut self, told: &mut Told<'_, '_>) -> Result<bool, Fate> {
        for position in 0..self.stations.len() {
            let waited = !self.stations[position].head_gone;
            self.visit(position, told, Scope::Everything)?;
            let gone = self.stations[position].release();
            let head_goes = waited && gone.head;
            self.pass_on(position, gone);
            if head_goes {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn visit(
        &mut self,
        position: usize,
        told: &mut Told<'_, '_>,
        scope: Scope,
    ) -> Result<(), Fate> {
        let slot = slot_at(self.direction, self.stations.len(), position);
        let mut visit = Visit {
            direction: self.direction,
            limit: self.limit,
            slot: &mut told.slots[slot],
            context: told.context,
            head: told.head.as_deref_mut(),
        };
        visit.run(&mut self.stations[position], told.task, scope)
    }

    fn pass_on(&mut self, position: usize, gone: Arrival) {
        let next = match self.stations.get_mut(position + 1) {
            Some(station) => &mut station.arrival,
            None => &mut self.passed,
        };
        next.merge(gone);
    }

    fn entry(&mut self) -> &mut Arrival {
        match self.stations.first_mut() {
            Some(station) => &mut station.arrival,
            None => &mut self.passed,
        }
    }
}

/// Whom a flow tells, and of what.
pub(crate) struct Told<'a, 't> {
    pub(crate) slots: &'a mut [Slot],
    pub(crate) context: &'a mut RequestContext,
    /// The response head, while it may be edited.
    pub(crate) head: Option<&'a mut ResponseHead>,
    pub(crate) task: &'a mut task::Context<'t>,
}

/// What a filter is told at one visit.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Scope {
    Head,
    Everything,
}

/// What has come to a place and not gone on.
#[derive(Default)]
struct Arrival {
    /// Whether the head has come; it stays true.
    head: bool,
    body: Bytes,
    end: End,
}

#[derive(Default)]
enum End {
    /// More may come.
    #[default]
    Open,
    /// Nothing follows the body.
    Body,
    /// These end the message.
    Trailers(HeaderMap),
}

impl Arrival {
    fn merge(&mut self, other: Self) {
        self.head |= other.head;
        append(&mut self.body, other.body);
        if !matches!(other.end, End::Open) {
            self.end = other.end;
        }
    }
}

/// Where a filter stands in one direction.
#[derive(Default)]
struct Station {
    /// What its filter was not told yet.
    arrival: Arrival,
    /// What its filter was shown and did not let go.
    held: Bytes,
    pause: Pause,
    told_head: bool,
    /// Whether the head went on from here.
    head_gone: bool,
    told_end: bool,
    /// Its filter hears nothing more of this direction; everything passes.
    shut: bool,
}

#[derive(Clone, Copy, Default, Eq, PartialEq)]
enum Pause {
    #[default]
    No,
    /// Later events are told.
    Fed,
    /// Only a resumption ends it.
    Held,
}

/// What a filter is told next.
enum Event {
    Head { end: bool },
    Body { end: bool },
    Trailers,
}

impl Station {
    fn next_event(&self, direction: Direction, needs: Needs) -> Option<Event> {
        if self.shut || !self.arrival.head {
            return None;
        }
        let bare = self.arrival.body.is_empty();
        if !self.told_head {
            let end = bare && matches!(self.arrival.end, End::Body);
            return Some(Event::Head { end });
        }
        if self.pause == Pause::Held || self.told_end {
            return None;
        }
        let hears_trailers = trailers_needed(direction, needs);
        let end = match self.arrival.end {
            End::Open => false,
            End::Body => true,
            End::Trailers(_) => !hears_trailers,
        };
        if body_needed(direction, needs) && (end || !bare) {
            return Some(Event::Body { end });
        }
        (hears_trailers && matches!(self.arrival.end, End::Trailers(_))).then_some(Event::Trailers)
    }

    /// What goes on from here ahead of the body: the head, and the end where there is no body.
    fn release_head(&mut self) -> Arrival {
        if self.pause != Pause::No {
            return Arrival::default();
        }
        self.head_gone = true;
        let bare = self.held.is_empty() && self.arrival.body.is_empty();
        let end = match &mut self.arrival.end {
            end @ End::Body if bare => std::mem::take(end),
            _ => End::Open,
        };
        Arrival {
            head: true,
            body: Bytes::new(),
            end,
        }
    }

    /// What goes on from here.
    fn release(&mut self) -> Arrival {
        if self.pause != Pause::No {
            return Arrival::default();
        }
        self.head_gone = self.arrival.head;
        let mut body = std::mem::take(&mut self.held);
        append(&mut body, std::mem::take(&mut self.arrival.body));
        Arrival {
            head: self.arrival.head,
            body,
            end: std::mem::take(&mut self.arrival.end),
        }
    }
}

/// One visit at a station.
struct Visit<'a> {
    direction: Direction,
    limit: usize,
    slot: &'a mut Slot,
    context: &'a mut RequestContext,
    head: Option<&'a mut ResponseHead>,
}

impl Visit<'_> {
    fn run(
        &mut self,
        station: &mut Station,
        task: &mut task::Context<'_>,
        scope: Scope,
    ) -> Result<(), Fate> {
        loop {
            // Asked right after each pause too, so that a filter always holds the task's waker.
            if station.pause != Pause::No
                && let task::Poll::Ready(step) = self.resume(station, task)
            {
                station.pause = pause_of(step)?;
            }
            let Some(event) = station.next_event(self.direction, self.slot.needs) else {
                return Ok(());
            };
            if scope == Scope::Head && !matches!(event, Event::Head { .. }) {
                return Ok(());
            }
            let step = match event {
                Event::Head { end } => self.tell_head(station, end),
                Event::Body { end } => self.tell_body(station, end)?,
                Event::Trailers => self.tell_trailers(station),
            };
            station.pause = pause_of(step)?;
        }
    }

    fn resume(&mut self, station: &mut Station, task: &mut task::Context<'_>) -> task::Poll<Step> {
        let held = Held {
            direction: self.direction,
            response: self.head.as_deref_mut(),
            body: &mut station.held,
            trailers: match &mut station.arrival.end {
                End::Trailers(trailers) => Some(trailers),
                End::Open | End::Body => None,
            },
        };
        let step = self.slot.stream.poll_resume(self.context, held, task);
        self.take_made_trailers(station);
        step
    }

    fn tell_head(&mut self, station: &mut Station, end: bool) -> Step {
        station.told_head = true;
        station.told_end = end;
        let stream = &mut self.slot.stream;
        match (self.direction, self.head.as_deref_mut()) {
            (Direction::Request, _) => stream.request_headers(self.context, end),
            (Direction::Response, Some(head)) if self.slot.needs.response_headers => {
                stream.response_headers(self.context, head, end)
            }
            (Direction::Response, _) => Step::Continue,
        }
    }

    fn tell_body(&mut self, station: &mut Station, end: bool) -> Result<Step, Fate> {
        let more = std::mem::take(&mut station.arrival.body);
        if station.pause == Pause::Fed
            && station.held.len() + more.len() > self.limit
            && stands("held-bodies")
        {
            return Err(Fate::Overflow);
        }
        append(&mut station.held, more);
        station.told_end = end;
        self.show_head();
        let (stream, body) = (&mut self.slot.stream, &mut station.held);
        let step = match self.direction {
            Direction::Request => stream.request_body(self.context, body, end),
            Direction::Response => stream.response_body(self.context, body, end),
        };
        self.take_head_back();
        self.take_made_trailers(station);
        Ok(step)
    }

    /// Ends a message with the trailers that its filter made, having been told that it has none.
    fn take_made_trailers(&mut self, station: &mut Station) {
        let Some(made) = self.context.made_trailers.take() else {
            return;
        };
        match &mut station.arrival.end {
            _ if !station.told_end => {}
            end @ End::Body => *end = End::Trailers(made),
            // It does not hear of trailers, and took the message for one without.
            End::Trailers(arrived) => arrived.extend(made),
            End::Open => {}
        }
    }

    fn tell_trailers(&mut self, station: &mut Station) -> Step {
        station.told_end = true;
        let End::Trailers(trailers) = &mut station.arrival.end else {
            return Step::Continue;
        };
        self.show_head();
        let (stream, body) = (&mut self.slot.stream, &mut station.held);
        let step = match self.direction {
            Direction::Request => stream.request_trailers(self.context, body, trailers),
            Direction::Response => stream.response_trailers(self.context, body, trailers),
        };
        self.take_head_back();
        step
    }

    /// Lets a filter edit the response head while it is told what follows it.
    fn show_head(&mut self) {
        if let Some(head) = &mut self.head {
            self.context.response = Some(std::mem::take(*head));
        }
    }

    fn take_head_back(&mut self) {
        if let Some(head) = &mut self.head
            && let Some(shown) = self.context.response.take()
        {
            **head = shown;
        }
    }
}

fn pause_of(step: Step) -> Result<Pause, Fate> {
    match step {
        Step::Continue => Ok(Pause::No),
        Step::Pause => Ok(Pause::Fed),
        Step::Hold => Ok(Pause::Held),
        Step::Reply(reply) => Err(Fate::Reply(Box::new(reply))),
        Step::Reset(details) => Err(Fate::Reset(details)),
    }
}

/// Responses meet the filters in reverse.
fn slot_at(direction: Direction, count: usize, position: usize) -> usize {
    match direction {
        Direction::Request => position,
        Direction::Response => count - 1 - position,
    }
}

fn body_needed(direction: Direction, needs: Needs) -> bool {
    match direction {
        Direction::Request => needs.request_body,
        Direction::Response => needs.response_body,
    }
}

fn trailers_needed(direction: Direction, needs: Needs) -> bool {
    match direction {
        Direction::Request => needs.request_trailers,
        Direction::Response => needs.response_trailers,
    }
}

/// Joins bytes without copying where one side is empty; a growing buffer is copied once, not per chunk.
pub(crate) fn append(held: &mut Bytes, more: Bytes) {
    if more.is_empty() {
        return;
    }
    if held.is_empty() {
        *held = more;
        return;
    }
    let mut whole = match std::mem::take(held).try_into_mut() {
        Ok(unique) => unique,
        Err(shared) => {
            let mut copy = BytesMut::with_capacity(2 * (shared.len() + more.len()));
            copy.extend_from_slice(&shared);
            copy
        }
    };
    whole.extend_from_slice(&more);
    *held = whole.freeze();
}
