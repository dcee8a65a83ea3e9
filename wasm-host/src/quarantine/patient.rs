//! A stream in treatment: the plugin's filter as on any core, for events that come by post.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http::HeaderMap;
use tokio::sync::mpsc::UnboundedReceiver;
use wayline_chain::{Begin, Callout, Direction, Held, RequestContext, Step, StreamFilter, Summary};
use wayline_model::plugin::Plugin;

use super::reach::Reach;
use super::{Answer, Answers, Event, Facts, Kind, Pieces};
use crate::filter::WasmFilter;
use crate::host::Host;
use crate::place::Place;
use crate::prepared::Prepared;

/// A stream that comes in.
pub(super) struct Admission {
    pub(super) host: Arc<Host>,
    pub(super) prepared: Arc<Prepared>,
    pub(super) plugin: Arc<Plugin>,
    pub(super) place: Place,
    pub(super) reach: Reach,
    pub(super) events: UnboundedReceiver<Event>,
    pub(super) answers: Open,
}

/// One stream from its first event to its last.
pub(super) async fn attend(admission: Admission) {
    let Admission {
        host,
        prepared,
        plugin,
        place,
        reach,
        mut events,
        answers,
    } = admission;
    let callout: Rc<dyn Callout> = Rc::new(reach);
    let filter = WasmFilter::at(&host, &prepared, &plugin, &callout, place);
    let mut patient = Patient {
        filter,
        stream: None,
        context: None,
        lanes: [None, None],
        over: false,
    };
    while let Some(event) = patient.next(&mut events, &answers.0).await {
        let (direction, number) = (event.direction, event.number);
        let Some((step, held, rewritten)) = patient.hear(event) else {
            return;
        };
        patient.answer(&answers.0, direction, number, step, held, rewritten);
    }
    patient.abandoned();
}

/// Tells the core when it is dropped, however that came about.
pub(super) struct Open(pub(super) Arc<Answers>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A stream in treatment.
struct Patient {
    filter: WasmFilter,
    stream: Option<Box<dyn StreamFilter>>,
    context: Option<RequestContext>,
    /// What is held of the directions that pause, and the event that did.
    lanes: [Option<(u64, Pieces)>; 2],
    over: bool,
}

const DIRECTIONS: [Direction; 2] = [Direction::Request, Direction::Response];

impl Patient {
    /// The next event; meanwhile directions that pause may go on.
    async fn next(
        &mut self,
        events: &mut UnboundedReceiver<Event>,
        answers: &Answers,
    ) -> Option<Event> {
        poll_fn(|task| {
            if let Poll::Ready(event) = events.poll_recv(task) {
                return Poll::Ready(event);
            }
            for (index, direction) in DIRECTIONS.into_iter().enumerate() {
                let (Some(stream), Some(context)) = (&mut self.stream, &mut self.context) else {
                    break;
                };
                let Some((number, mut held)) = self.lanes[index].take() else {
                    continue;
                };
                let shown = Held {
                    direction,
                    response: held.head.as_mut(),
                    body: &mut held.body,
                    trailers: held.trailers.as_mut(),
                };
                match stream.poll_resume(context, shown, task) {
                    Poll::Pending => self.lanes[index] = Some((number, held)),
                    Poll::Ready(step) => {
                        let rewritten = context.take_rewritten();
                        self.answer(answers, direction, number, step, held, rewritten);
                    }
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Tells the filter; nothing when that was the last it hears.
    fn hear(&mut self, event: Event) -> Option<(Step, Pieces, bool)> {
        let mut context = context_of(event.facts);
        let mut held = event.held;
        let step = match (event.direction, event.kind) {
            (_, Kind::Complete(summary)) => {
                if let Some(stream) = &mut self.stream {
                    stream.complete(&mut context, &summary);
                }
                return None;
            }
            (Direction::Request, Kind::Headers { end }) => match self.filter.begin_here(&context) {
                Begin::Pass => {
                    self.over = true;
                    Step::Continue
                }
                Begin::Reply(reply) => {
                    self.over = true;
                    Step::Reply(reply)
                }
                Begin::Stream(mut stream) => {
                    let step = stream.request_headers(&mut context, end);
                    self.stream = Some(stream);
                    step
                }
            },
            (direction, kind) => self.tell(&mut context, direction, kind, &mut held),
        };
        let rewritten = context.take_rewritten();
        self.context = Some(context);
        Some((step, held, rewritten))
    }

    /// The core has gone without a word.
    fn abandoned(&mut self) {
        if let (Some(stream), Some(context)) = (&mut self.stream, &mut self.context) {
            let nothing = Summary {
                status: None,
                request_bytes: 0,
                response_bytes: 0,
            };
            stream.complete(context, &nothing);
        }
    }

    fn tell(
        &mut self,
        context: &mut RequestContext,
        direction: Direction,
        kind: Kind,
        held: &mut Pieces,
    ) -> Step {
        let Some(stream) = &mut self.stream else {
            return Step::Continue;
        };
        let body = &mut held.body;
        match (direction, kind) {
            (Direction::Response, Kind::Headers { end }) => {
                let head = held.head.get_or_insert_default();
                stream.response_headers(context, head, end)
            }
            (direction, kind) => {
                let kept = std::mem::replace(&mut context.response, held.head.take());
                let mut none = HeaderMap::new();
                let trailers = held.trailers.as_mut().unwrap_or(&mut none);
                let step = match (direction, kind) {
                    (Direction::Request, Kind::Body { end }) => {
                        stream.request_body(context, body, end)
                    }
                    (Direction::Response, Kind::Body { end }) => {
                        stream.response_body(context, body, end)
                    }
                    (Direction::Request, _) => stream.request_trailers(context, body, trailers),
                    (Direction::Response, _) => stream.response_trailers(context, body, trailers),
                };
                held.head = std::mem::replace(&mut context.response, kept);
                step
            }
        }
    }

    /// Lets the core know, and keeps what is held where the direction pauses.
    fn answer(
        &mut self,
        answers: &Answers,
        direction: Direction,
        number: u64,
        step: Step,
        held: Pieces,
        rewritten: bool,
    ) {
        let index = usize::from(direction == Direction::Response);
        self.lanes[index] = match step {
            Step::Pause | Step::Hold => Some((number, held.copy())),
            Step::Continue | Step::Reply(_) | Step::Reset(_) => None,
        };
        let Some(context) = &self.context else {
            return;
        };
        answers.post(
            direction,
            Answer {
                number,
                step,
                over: self.over,
                rewritten,
                facts: Facts::of(context),
                held,
            },
        );
    }
}

fn context_of(facts: Facts) -> RequestContext {
    let connection = Rc::new(facts.connection);
    let mut context = RequestContext::new(connection, facts.request, facts.end_of_stream);
    context.remote_ip = facts.remote_ip;
    context.began = facts.began;
    context.details = facts.details;
    context.response = facts.response;
    context.made_trailers = facts.made_trailers;
    context.token = facts.token.map(Rc::new);
    context.routed = facts.routed;
    context.flags = facts.flags;
    context.filter_state = facts.filter_state;
    context
}
