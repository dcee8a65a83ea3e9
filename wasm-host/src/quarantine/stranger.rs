//! The core's side: a filter that lets another thread do the work, and waits.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task;

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use wayline_chain::{Direction, Held, RequestContext, ResponseHead, Step, StreamFilter, Summary};
use wayline_model::plugin::FailStrategy;

use super::patient::{Admission, Open, attend};
use super::reach::Reach;
use super::{Answer, Answers, Event, Facts, Kind, Letter, Pieces, Seated};
use crate::instance::Recipe;
use crate::place::Place;
use crate::stream::failed;

/// A stream of a plugin in quarantine.
pub(crate) struct Stranger {
    recipe: Recipe,
    events: UnboundedSender<Event>,
    answers: Arc<Answers>,
    /// Number of the last event of each direction.
    numbers: [u64; 2],
    last: u64,
    over: bool,
    _seated: Seated,
}

impl Stranger {
    /// Takes a new stream to the plugin's thread; none where there is no room, or no thread.
    pub(crate) fn admit(recipe: &Recipe, place: &Rc<Place>) -> Option<Self> {
        let quarantine = &recipe.book.quarantine;
        let seated = quarantine.enter()?;
        let (events, inbox) = unbounded_channel();
        let answers = Arc::new(Answers::default());
        let admission = Admission {
            host: Arc::clone(&recipe.host),
            prepared: Arc::clone(&recipe.prepared),
            plugin: Arc::clone(&recipe.plugin),
            place: (**place).clone(),
            reach: Reach::of_this_core(&recipe.callout),
            events: inbox,
            answers: Open(Arc::clone(&answers)),
        };
        let visit = Box::new(move || Box::pin(attend(admission)) as Pin<Box<_>>);
        let admitted = quarantine.admit(&recipe.plugin.name, visit);
        if let Err(error) = admitted {
            tracing::error!(plugin = &*recipe.plugin.name, %error, "no thread for a plugin in quarantine");
            return None;
        }
        Some(Self {
            recipe: recipe.clone(),
            events,
            answers,
            numbers: [0; 2],
            last: 0,
            over: false,
            _seated: seated,
        })
    }

    /// Tells the other side, and waits for its answer.
    fn tell(
        &mut self,
        context: &RequestContext,
        direction: Direction,
        kind: Kind,
        held: Pieces,
    ) -> Step {
        if self.over {
            return Step::Continue;
        }
        self.last += 1;
        self.numbers[lane(direction)] = self.last;
        let event = Event {
            number: self.last,
            direction,
            kind,
            facts: Facts::of(context),
            held,
        };
        match self.events.send(event) {
            Ok(()) => Step::Hold,
            Err(_) => self.fail(),
        }
    }

    fn fail(&mut self) -> Step {
        self.over = true;
        let book = &self.recipe.book;
        if self.recipe.plugin.fail_strategy == FailStrategy::FailOpen {
            book.bypassed();
            return Step::Continue;
        }
        book.refused();
        Step::Reply(failed())
    }

    /// Does here what was done there.
    fn apply(&mut self, context: &mut RequestContext, held: Held<'_>, answer: Answer) -> Step {
        self.over = answer.over;
        let facts = answer.facts;
        if held.direction == Direction::Request {
            if answer.rewritten {
                *context.request_mut() = facts.request;
            } else {
                context.set_query(facts.request.path.query());
                *context.headers_mut() = facts.request.headers;
            }
        }
        context.details = facts.details;
        context.made_trailers = facts.made_trailers;
        context.filter_state = facts.filter_state;
        if let (Some(place), Some(head)) = (held.response, answer.held.head) {
            *place = head;
        }
        *held.body = answer.held.body;
        if let (Some(place), Some(trailers)) = (held.trailers, answer.held.trailers) {
            *place = trailers;
        }
        answer.step
    }
}

impl StreamFilter for Stranger {
    fn request_headers(&mut self, context: &mut RequestContext, end: bool) -> Step {
        let kind = Kind::Headers { end };
        self.tell(context, Direction::Request, kind, Pieces::default())
    }

    fn request_body(&mut self, context: &mut RequestContext, body: &mut Bytes, end: bool) -> Step {
        let held = with_body(context, body);
        self.tell(context, Direction::Request, Kind::Body { end }, held)
    }

    fn request_trailers(
        &mut self,
        context: &mut RequestContext,
        body: &mut Bytes,
        trailers: &mut HeaderMap,
    ) -> Step {
        let held = Pieces {
            trailers: Some(trailers.clone()),
            ..with_body(context, body)
        };
        self.tell(context, Direction::Request, Kind::Trailers, held)
    }

    fn response_headers(
        &mut self,
        context: &mut RequestContext,
        response: &mut ResponseHead,
        end: bool,
    ) -> Step {
        let held = Pieces {
            head: Some(super::copy(response)),
            ..Pieces::default()
        };
        self.tell(context, Direction::Response, Kind::Headers { end }, held)
    }

    fn response_body(&mut self, context: &mut RequestContext, body: &mut Bytes, end: bool) -> Step {
        let held = with_body(context, body);
        self.tell(context, Direction::Response, Kind::Body { end }, held)
    }

    fn response_trailers(
        &mut self,
        context: &mut RequestContext,
        body: &mut Bytes,
        trailers: &mut HeaderMap,
    ) -> Step {
        let held = Pieces {
            trailers: Some(trailers.clone()),
            ..with_body(context, body)
        };
        self.tell(context, Direction::Response, Kind::Trailers, held)
    }

    fn poll_resume(
        &mut self,
        context: &mut RequestContext,
        held: Held<'_>,
        task: &mut task::Context<'_>,
    ) -> task::Poll<Step> {
        if self.over {
            return task::Poll::Ready(Step::Continue);
        }
        let answers = Arc::clone(&self.answers);
        let mail = answers.lane(held.direction);
        mail.waker.register(task.waker());
        let letter = std::mem::take(&mut *mail.letter());
        match letter {
            Letter::Answer(answer) if answer.number == self.numbers[lane(held.direction)] => {
                task::Poll::Ready(self.apply(context, held, *answer))
            }
            // It was about what came before the last event, whose answer is on its way.
            Letter::Answer(_) | Letter::None => task::Poll::Pending,
            Letter::Gone => task::Poll::Ready(self.fail()),
        }
    }

    fn complete(&mut self, context: &mut RequestContext, summary: &Summary) {
        let summary = Summary { ..*summary };
        let kind = Kind::Complete(summary);
        // Whatever it answers comes too late.
        let _ = self.tell(context, Direction::Request, kind, Pieces::default());
    }
}

fn with_body(context: &RequestContext, body: &Bytes) -> Pieces {
    Pieces {
        head: context.response.as_ref().map(super::copy),
        body: body.clone(),
        trailers: None,
    }
}

fn lane(direction: Direction) -> usize {
    match direction {
        Direction::Request => 0,
        Direction::Response => 1,
    }
}
