//! A filter that writes down what it is told and answers by a script.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use wayline_chain::bench::{Bench, Head};
use wayline_chain::{
    Begin, Chain, Direction, Filter, Held, LocalReply, Needs, Phase, Placed, RequestContext,
    ResponseHead, Step, StreamFilter, Summary,
};

/// What a probe answers to events by name; without a line it continues.
pub(crate) type Script = Rc<RefCell<HashMap<&'static str, Step>>>;
pub(crate) type Log = Rc<RefCell<Vec<String>>>;

pub(crate) const EVERYTHING: Needs = Needs {
    request_body: true,
    request_trailers: true,
    response_headers: true,
    response_body: true,
    response_trailers: true,
};

/// A filter that writes down what it is told and answers by a script.
#[derive(Clone)]
pub(crate) struct Probe {
    name: &'static str,
    needs: Needs,
    log: Log,
    script: Script,
    waker: Rc<RefCell<Option<Waker>>>,
    edit: Option<fn(&mut Bytes)>,
}

impl Probe {
    pub(crate) fn new(name: &'static str, needs: Needs, log: &Log) -> Self {
        Self {
            name,
            needs,
            log: Rc::clone(log),
            script: Script::default(),
            waker: Rc::default(),
            edit: None,
        }
    }

    pub(crate) fn on(self, event: &'static str, step: Step) -> Self {
        self.answer(event, step);
        self
    }

    pub(crate) fn editing(mut self, edit: fn(&mut Bytes)) -> Self {
        self.edit = Some(edit);
        self
    }

    pub(crate) fn answer(&self, event: &'static str, step: Step) {
        self.script.borrow_mut().insert(event, step);
    }

    /// Resumes, and wakes whoever waits.
    pub(crate) fn resume(&self, event: &'static str, step: Step) {
        self.answer(event, step);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    pub(crate) fn at(&self, phase: Phase, priority: i32) -> Placed {
        Placed {
            phase,
            priority,
            filter: Rc::new(self.clone()),
        }
    }

    fn say(&self, what: std::fmt::Arguments<'_>) {
        self.log.borrow_mut().push(format!("{} {what}", self.name));
    }

    fn step(&self, event: &'static str) -> Step {
        self.script
            .borrow_mut()
            .remove(event)
            .unwrap_or(Step::Continue)
    }
}

impl Filter for Probe {
    fn name(&self) -> &str {
        self.name
    }

    fn needs(&self) -> Needs {
        self.needs
    }

    fn begin(&self, _: &mut RequestContext) -> Begin {
        match self.script.borrow_mut().remove("begin") {
            Some(Step::Reply(reply)) => Begin::Reply(reply),
            Some(_) => Begin::Pass,
            None => Begin::Stream(Box::new(self.clone())),
        }
    }
}

impl StreamFilter for Probe {
    fn request_headers(&mut self, context: &mut RequestContext, end: bool) -> Step {
        let path = context.request().path().to_owned();
        self.say(format_args!("request_headers {path} {end}"));
        self.step("request_headers")
    }

    fn request_body(&mut self, _: &mut RequestContext, body: &mut Bytes, end: bool) -> Step {
        self.say(format_args!("request_body {body:?} {end}"));
        if let Some(edit) = self.edit {
            edit(body);
        }
        self.step("request_body")
    }

    fn request_trailers(
        &mut self,
        _: &mut RequestContext,
        body: &mut Bytes,
        trailers: &mut HeaderMap,
    ) -> Step {
        self.say(format_args!("request_trailers {body:?} {}", trailers.len()));
        self.step("request_trailers")
    }

    fn response_headers(
        &mut self,
        _: &mut RequestContext,
        response: &mut ResponseHead,
        end: bool,
    ) -> Step {
        self.say(format_args!(
            "response_headers {} {end}",
            response.status.as_u16()
        ));
        response
            .headers
            .append("x-seen-by", HeaderValue::from_static(self.name));
        self.step("response_headers")
    }

    fn response_body(&mut self, _: &mut RequestContext, body: &mut Bytes, end: bool) -> Step {
        self.say(format_args!("response_body {body:?} {end}"));
        if let Some(edit) = self.edit {
            edit(body);
        }
        self.step("response_body")
    }

    fn response_trailers(
        &mut self,
        _: &mut RequestContext,
        body: &mut Bytes,
        trailers: &mut HeaderMap,
    ) -> Step {
        self.say(format_args!(
            "response_trailers {body:?} {}",
            trailers.len()
        ));
        self.step("response_trailers")
    }

    fn poll_resume(
        &mut self,
        _: &mut RequestContext,
        held: Held<'_>,
        task: &mut Context<'_>,
    ) -> Poll<Step> {
        *self.waker.borrow_mut() = Some(task.waker().clone());
        let event = match held.direction {
            Direction::Request => "resume_request",
            Direction::Response => "resume_response",
        };
        match self.script.borrow_mut().remove(event) {
            Some(step) => {
                if let Some(response) = held.response {
                    response
                        .headers
                        .insert("x-resumed-by", HeaderValue::from_static(self.name));
                }
                Poll::Ready(step)
            }
            None => Poll::Pending,
        }
    }

    fn complete(&mut self, _: &mut RequestContext, summary: &Summary) {
        self.say(format_args!(
            "complete {:?} {} {}",
            summary.status.map(|status| status.as_u16()),
            summary.request_bytes,
            summary.response_bytes
        ));
    }
}

pub(crate) fn chain(filters: Vec<Placed>) -> Rc<Chain> {
    Rc::new(Chain::new(filters))
}

pub(crate) fn reply(status: StatusCode) -> Step {
    Step::Reply(LocalReply::text(status, "no", "said_no"))
}

pub(crate) fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(
        http::HeaderName::from_static("x-sum"),
        HeaderValue::from_static("1"),
    )])
}

pub(crate) fn shout(body: &mut Bytes) {
    *body = body.to_ascii_uppercase().into();
}

pub(crate) fn lines(log: &Log) -> Vec<String> {
    log.borrow_mut().drain(..).collect()
}

pub(crate) fn assert_passed(bench: &mut Bench) {
    let head = bench.head();
    assert!(
        matches!(head, Head::Passed { rewritten: false }),
        "{head:?}"
    );
}
