//! Where plugins run that have overrun their budget: on a thread of their own, each.
//!
//! A budget bounds what one request costs a core, and not what many do. So once a plugin has overrun
//! its budget, its new streams are taken elsewhere until it has been clean for a while: the core hands
//! each event over and goes on with other exchanges, as with a filter that waits for a backend
//! ([`Stranger`]); a thread with a lesser claim to the processor has an instance of its own for them
//! (`ward.rs`; `patient.rs` for requests). What the module asks of backends comes back to a core
//! (`reach.rs`).
//!
//! Owns who is in quarantine and for how long, and what goes over the wall. Refuses to know what a
//! module does.

mod patient;
mod reach;
mod stranger;
mod ward;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::HeaderMap;
use tokio::sync::mpsc::UnboundedSender;
use wayline_chain::{Connection, Direction, RequestContext, ResponseHead, Routed, Step, Summary};
use wayline_model::authentication::VerifiedToken;
use wayline_model::request::CanonicalRequest;

pub(crate) use reach::Reach;
pub(crate) use stranger::Stranger;
pub(crate) use ward::Visit;

/// Streams of one plugin that may be in quarantine at once; more meet its `failStrategy`.
const MAX_STREAMS: u32 = 1024;

/// The quarantine of one plugin.
#[derive(Default)]
pub(crate) struct Quarantine {
    /// Whether `overrun` is worth looking at: for nearly all plugins at nearly all times it is not.
    suspected: AtomicBool,
    overrun: Mutex<Option<Instant>>,
    /// Streams inside.
    streams: AtomicU32,
    ward: Mutex<Option<UnboundedSender<Visit>>>,
}

impl Quarantine {
    /// The plugin has overrun its budget.
    pub(crate) fn begin(&self) {
        *self.overrun() = Some(Instant::now());
        self.suspected.store(true, Ordering::Relaxed);
    }

    /// Whether it overran its budget within the last `time`.
    pub(crate) fn holds(&self, time: Duration) -> bool {
        if !self.suspected.load(Ordering::Relaxed) {
            return false;
        }
        let overrun = self.overrun();
        let holds = overrun.is_some_and(|since| since.elapsed() < time);
        self.suspected.store(holds, Ordering::Relaxed);
        holds
    }

    /// Takes a stream in, if there is room.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Seated> {
        let more = |streams: u32| (streams < MAX_STREAMS).then_some(streams + 1);
        let (before, after) = (Ordering::Relaxed, Ordering::Relaxed);
        self.streams.fetch_update(before, after, more).ok()?;
        Some(Seated(Arc::clone(self)))
    }

    /// Hands a stream to the plugin's thread, which is started if need be.
    pub(crate) fn admit(self: &Arc<Self>, name: &str, visit: Visit) -> std::io::Result<()> {
        let mut ward = self.ward.lock().unwrap_or_else(PoisonError::into_inner);
        let visit = match &*ward {
            None => visit,
            Some(open) => match open.send(visit) {
                Ok(()) => return Ok(()),
                // It has had nobody for a while, and left.
                Err(back) => back.0,
            },
        };
        let (sender, visits) = tokio::sync::mpsc::unbounded_channel();
        // The other end is in our hands.
        let _ = sender.send(visit);
        ward::start(name, visits)?;
        *ward = Some(sender);
        Ok(())
    }

    fn overrun(&self) -> MutexGuard<'_, Option<Instant>> {
        self.overrun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream's place, until it is dropped.
pub(crate) struct Seated(Arc<Quarantine>);

impl Drop for Seated {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Something to tell the module's filter.
struct Event {
    /// Answers with the number of the last event of their direction are the current ones.
    number: u64,
    direction: Direction,
    kind: Kind,
    facts: Facts,
    held: Pieces,
}

/// What an event is about.
enum Kind {
    Headers { end: bool },
    Body { end: bool },
    Trailers,
    Complete(Summary),
}

/// An exchange as it can be carried from thread to thread.
struct Facts {
    connection: Connection,
    request: CanonicalRequest,
    remote_ip: std::net::IpAddr,
    began: Option<Instant>,
    end_of_stream: bool,
    details: Option<Arc<str>>,
    response: Option<ResponseHead>,
    made_trailers: Option<HeaderMap>,
    token: Option<VerifiedToken>,
    routed: Option<Routed>,
    flags: u32,
    filter_state: Vec<(Box<[u8]>, Bytes)>,
}

/// What the filter holds of a direction.
#[derive(Default)]
struct Pieces {
    head: Option<ResponseHead>,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

/// What the filter did.
struct Answer {
    number: u64,
    step: Step,
    /// Whether it wants to hear nothing more.
    over: bool,
    rewritten: bool,
    facts: Facts,
    held: Pieces,
}

/// Answers on their way back to the core.
#[derive(Default)]
struct Answers {
    lanes: [Mail; 2],
}

#[derive(Default)]
struct Mail {
    letter: Mutex<Letter>,
    waker: AtomicWaker,
}

#[derive(Default)]
enum Letter {
    #[default]
    None,
    Answer(Box<Answer>),
    /// Nobody is there any more.
    Gone,
}

impl Answers {
    fn lane(&self, direction: Direction) -> &Mail {
        match direction {
            Direction::Request => &self.lanes[0],
            Direction::Response => &self.lanes[1],
        }
    }

    fn post(&self, direction: Direction, mut answer: Answer) {
        let lane = self.lane(direction);
        // One that was not read yet is part of this one.
        if let Letter::Answer(earlier) = &*lane.letter() {
            answer.rewritten |= earlier.rewritten;
        }
        lane.put(Letter::Answer(Box::new(answer)));
    }

    /// Lets everybody who waits know that there will be no answer.
    fn close(&self) {
        for lane in &self.lanes {
            let keep = matches!(*lane.letter(), Letter::Answer(_));
            if !keep {
                lane.put(Letter::Gone);
            }
        }
    }
}

impl Mail {
    fn put(&self, letter: Letter) {
        *self.letter() = letter;
        self.waker.wake();
    }

    fn letter(&self) -> MutexGuard<'_, Letter> {
        self.letter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Facts {
    fn of(context: &RequestContext) -> Self {
        Self {
            connection: (*context.connection).clone(),
            request: context.request().clone(),
            remote_ip: context.remote_ip,
            began: context.began,
            end_of_stream: context.end_of_stream,
            details: context.details.clone(),
            response: context.response.as_ref().map(copy),
            made_trailers: context.made_trailers.clone(),
            token: context.token.as_deref().cloned(),
            routed: context.routed.clone(),
            flags: context.flags,
            filter_state: context.filter_state.clone(),
        }
    }
}

impl Pieces {
    fn copy(&self) -> Self {
        Self {
            head: self.head.as_ref().map(copy),
            body: self.body.clone(),
            trailers: self.trailers.clone(),
        }
    }
}

fn copy(head: &ResponseHead) -> ResponseHead {
    ResponseHead {
        status: head.status,
        headers: head.headers.clone(),
    }
}
