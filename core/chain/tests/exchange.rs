//! Exchanges through chains of scripted filters, driven by hand on the bench.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use wayline_chain::bench::{Bench, Head, Request, chain_of};
use wayline_chain::{
    Begin, Chain, Direction, Filter, Held, Interrupt, LocalReply, Needs, Phase, Placed,
    RequestContext, ResponseHead, Step, StreamFilter, Summary,
};

/// What a probe answers to events by name; without a line it continues.
type Script = Rc<RefCell<HashMap<&'static str, Step>>>;
type Log = Rc<RefCell<Vec<String>>>;

const EVERYTHING: Needs = Needs {
    request_body: true,
    request_trailers: true,
    response_headers: true,
    response_body: true,
    response_trailers: true,
};

/// A filter that writes down what it is told and answers by a script.
#[derive(Clone)]
struct Probe {
    name: &'static str,
    needs: Needs,
    log: Log,
    script: Script,
    waker: Rc<RefCell<Option<Waker>>>,
    edit: Option<fn(&mut Bytes)>,
}

impl Probe {
    fn new(name: &'static str, needs: Needs, log: &Log) -> Self {
        Self {
            name,
            needs,
            log: Rc::clone(log),
            script: Script::default(),
            waker: Rc::default(),
            edit: None,
        }
    }

    fn on(self, event: &'static str, step: Step) -> Self {
        self.answer(event, step);
        self
    }

    fn editing(mut self, edit: fn(&mut Bytes)) -> Self {
        self.edit = Some(edit);
        self
    }

    fn answer(&self, event: &'static str, step: Step) {
        self.script.borrow_mut().insert(event, step);
    }

    /// Resumes, and wakes whoever waits.
    fn resume(&self, event: &'static str, step: Step) {
        self.answer(event, step);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn at(&self, phase: Phase, priority: i32) -> Placed {
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

    fn complete(&mut self, _: &mut RequestContext, summary: &Summary<'_>) {
        self.say(format_args!(
            "complete {:?} {} {}",
            summary.status.map(|status| status.as_u16()),
            summary.request_bytes,
            summary.response_bytes
        ));
    }
}

fn chain(filters: Vec<Placed>) -> Rc<Chain> {
    Rc::new(Chain::new(filters))
}

fn reply(status: StatusCode) -> Step {
    Step::Reply(LocalReply::text(status, "no", "said_no"))
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(
        http::HeaderName::from_static("x-sum"),
        HeaderValue::from_static("1"),
    )])
}

fn shout(body: &mut Bytes) {
    *body = body.to_ascii_uppercase().into();
}

fn lines(log: &Log) -> Vec<String> {
    log.borrow_mut().drain(..).collect()
}

fn assert_passed(bench: &mut Bench) {
    let head = bench.head();
    assert!(
        matches!(head, Head::Passed { rewritten: false }),
        "{head:?}"
    );
}

#[test]
fn filters_stand_by_phase_then_priority_then_as_given_and_responses_meet_them_in_reverse() {
    let log = Log::default();
    let probe = |name| Probe::new(name, EVERYTHING, &log);
    let chain = chain(vec![
        probe("last").at(Phase::Extension, 0),
        probe("low").at(Phase::ExtensionAuthn, -1),
        probe("first").at(Phase::ExtensionAuthn, 7),
        probe("low-too").at(Phase::ExtensionAuthn, -1),
        probe("middle").at(Phase::Cors, 100),
    ]);
    let names: Vec<_> = chain.filters().iter().map(|f| f.filter.name()).collect();
    assert_eq!(names, ["first", "low", "low-too", "middle", "last"]);

    let mut bench = Bench::start(&chain, Request::get("/"));
    assert_passed(&mut bench);
    bench.respond(StatusCode::OK, &[]).end_back(None);
    let head = bench.response().unwrap();
    let seen: Vec<_> = head.headers.get_all("x-seen-by").iter().collect();
    assert_eq!(seen, ["last", "middle", "low-too", "low", "first"]);
    drop(bench);
    let told = lines(&log);
    assert_eq!(told[0], "first request_headers / true");
    assert_eq!(told[5], "last response_headers 200 true");
    assert_eq!(told[10], "first complete Some(200) 0 0");
    assert_eq!(told.len(), 15);
}

#[test]
fn a_chain_whose_filters_pass_is_done_at_once() {
    let log = Log::default();
    let probe = Probe::new("a", EVERYTHING, &log).on("begin", Step::Continue);
    let mut bench = Bench::start(&chain_of(probe), Request::post("/"));
    assert_passed(&mut bench);
    assert!(bench.run().is_none());
    bench.send("untouched").end(None);
    assert_eq!(bench.upstream().body(), "untouched");
    drop(bench);
    assert!(lines(&log).is_empty());
}

#[test]
fn a_later_filter_begins_with_the_head_as_an_earlier_one_left_it() {
    struct Rewrites;
    impl Filter for Rewrites {
        fn name(&self) -> &str {
            "rewrites"
        }
        fn begin(&self, _: &mut RequestContext) -> Begin {
            Begin::Stream(Box::new(Self))
        }
    }
    impl StreamFilter for Rewrites {
        fn request_headers(&mut self, context: &mut RequestContext, _: bool) -> Step {
            context.request_mut().path = http::uri::PathAndQuery::from_static("/changed");
            Step::Continue
        }
    }
    struct Refuses;
    impl Filter for Refuses {
        fn name(&self) -> &str {
            "refuses"
        }
        fn begin(&self, context: &mut RequestContext) -> Begin {
            match self.judge_again(context) {
                Some(reply) => Begin::Reply(reply),
                None => Begin::Pass,
            }
        }
        fn judge_again(&self, context: &mut RequestContext) -> Option<LocalReply> {
            (context.request().path() == "/changed")
                .then(|| LocalReply::text(StatusCode::FORBIDDEN, "", "judged"))
        }
    }
    let place = |phase, filter: Rc<dyn Filter>| Placed {
        phase,
        priority: 0,
        filter,
    };

    let before = chain(vec![
        place(Phase::ExtensionAuthn, Rc::new(Rewrites)),
        place(Phase::Authorization, Rc::new(Refuses)),
    ]);
    let mut bench = Bench::start(&before, Request::get("/"));
    let head = bench.head();
    assert!(matches!(head, Head::Replied(_)), "{head:?}");

    let after = chain(vec![
        place(Phase::Extension, Rc::new(Rewrites)),
        place(Phase::Authorization, Rc::new(Refuses)),
    ]);
    let mut bench = Bench::start(&after, Request::get("/"));
    let head = bench.head();
    assert!(matches!(head, Head::Passed { rewritten: true }), "{head:?}");
    let reply = bench.run().unwrap().judge_again().unwrap();
    assert_eq!(&*reply.details, "judged");
    assert_eq!(
        bench.context(|c| c.details.clone()).as_deref(),
        Some("judged")
    );
    assert!(!bench.context(RequestContext::take_rewritten));
}

#[test]
fn a_paused_head_goes_on_when_its_filter_is_woken() {
    let log = Log::default();
    let first = Probe::new("a", Needs::default(), &log).on("request_headers", Step::Pause);
    let second = Probe::new("b", Needs::default(), &log);
    let chain = chain(vec![
        first.at(Phase::Custom, 0),
        second.at(Phase::Extension, 0),
    ]);
    let mut bench = Bench::start(&chain, Request::post("/"));
    bench.send("body").end(None);
    assert!(matches!(bench.head(), Head::Paused));
    assert!(matches!(bench.head(), Head::Paused));
    assert_eq!(lines(&log), ["a request_headers / false"]);
    assert_eq!(
        bench.unread(),
        1,
        "nobody needs the body, so it stays with its sender"
    );
    assert_eq!(bench.wakes(), 0);

    first.resume("resume_request", Step::Continue);
    assert_eq!(bench.wakes(), 1);
    assert_passed(&mut bench);
    assert_eq!(lines(&log), ["b request_headers / false"]);
    assert_eq!(bench.upstream().body(), "body");
    assert!(bench.upstream().ended);
}

#[test]
fn a_filter_that_holds_is_fed_nothing() {
    let log = Log::default();
    let probe = Probe::new("a", EVERYTHING, &log).on("request_headers", Step::Hold);
    let mut bench = Bench::start(&chain_of(probe.clone()), Request::post("/"));
    bench.send("x").end(None);
    assert!(matches!(bench.head(), Head::Paused));
    assert_eq!(lines(&log), ["a request_headers / false"]);
    assert_eq!(bench.unread(), 1);

    probe.resume("resume_request", Step::Continue);
    assert_passed(&mut bench);
    assert_eq!(bench.upstream().body(), "x");
    assert_eq!(lines(&log), ["a request_body b\"x\" true"]);
}

#[test]
fn a_paused_filter_gathers_the_body_and_what_it_edits_goes_on_with_a_true_length() {
    let log = Log::default();
    let gather = Probe::new("a", EVERYTHING, &log)
        .on("request_headers", Step::Pause)
        .on("request_body", Step::Pause)
        .editing(|body| {
            let mut longer = body.to_vec();
            longer.push(b'!');
            *body = longer.into();
        });
    let next = Probe::new("b", EVERYTHING, &log);
    let chain = chain(vec![
        gather.at(Phase::Custom, 0),
        next.at(Phase::Extension, 0),
    ]);
    let request = Request::post("/").header("content-length", "4");
    let mut bench = Bench::start(&chain, request);
    assert!(matches!(bench.head(), Head::Paused));
    bench.send("ab");
    assert!(matches!(bench.head(), Head::Paused));
    gather.answer("request_body", Step::Pause);
    bench.send("cd");
    assert!(matches!(bench.head(), Head::Paused));
    bench.end(None);
    assert_passed(&mut bench);
    assert_eq!(
        lines(&log),
        [
            "a request_headers / false",
            "a request_body b\"ab\" false",
            "a request_body b\"ab!cd\" false",
            "a request_body b\"ab!cd!\" true",
            "b request_headers / false",
            "b request_body b\"ab!cd!!\" true",
        ]
    );
    let length = bench.context(|c| c.request().headers["content-length"].clone());
    assert_eq!(length, "7");
    assert_eq!(bench.upstream().body(), "ab!cd!!");
    assert!(bench.upstream().ended);
}

#[test]
fn a_streamed_body_is_edited_chunk_by_chunk_and_trailers_follow() {
    let log = Log::default();
    let probe = Probe::new("a", EVERYTHING, &log).editing(shout);
    let mut bench = Bench::start(&chain_of(probe), Request::post("/"));
    assert_passed(&mut bench);
    bench.send("ab");
    assert_eq!(bench.upstream().chunks, ["AB"]);
    bench.send("cd").end(Some(trailers()));
    assert_eq!(bench.upstream().chunks, ["AB", "CD"]);
    assert_eq!(bench.upstream().trailers.as_ref().unwrap()["x-sum"], "1");
    assert!(bench.upstream().ended);
    assert_eq!(
        lines(&log),
        [
            "a request_headers / false",
            "a request_body b\"ab\" false",
            "a request_body b\"cd\" false",
            "a request_trailers b\"\" 1",
        ]
    );
}

#[test]
fn trailers_let_a_held_body_go_and_end_the_body_for_who_does_not_need_them() {
    let log = Log::default();
    let hears = Probe::new("a", EVERYTHING, &log).on("request_body", Step::Pause);
    let deaf = Probe::new(
        "b",
        Needs {
            request_body: true,
            ..Needs::default()
        },
        &log,
    )
    .on("request_body", Step::Pause);
    let chain = chain(vec![
        hears.at(Phase::Custom, 0),
        deaf.at(Phase::Extension, 0),
    ]);
    let mut bench = Bench::start(&chain, Request::post("/"));
    assert_passed(&mut bench);
    bench.send("ab");
    assert!(bench.upstream().chunks.is_empty());
    deaf.answer("request_body", Step::Continue);
    bench.end(Some(trailers()));
    assert_eq!(bench.upstream().body(), "ab");
    assert!(bench.upstream().trailers.is_some());
    assert_eq!(
        lines(&log)[2..],
        [
            "a request_body b\"ab\" false",
            "a request_trailers b\"ab\" 1",
            "b request_body b\"ab\" true",
        ]
    );
}

#[test]
fn a_reply_from_the_head_goes_back_through_the_filters_that_were_met_and_no_others() {
    let log = Log::default();
    let outer = Probe::new("outer", EVERYTHING, &log);
    let refuses =
        Probe::new("refuses", EVERYTHING, &log).on("request_headers", reply(StatusCode::FORBIDDEN));
    let inner = Probe::new("inner", EVERYTHING, &log);
    let chain = chain(vec![
        outer.at(Phase::Custom, 0),
        refuses.at(Phase::Cors, 0),
        inner.at(Phase::Extension, 0),
    ]);
    let mut bench = Bench::start(&chain, Request::get("/"));
    let Head::Replied(reply) = bench.head() else {
        panic!("no reply");
    };
    let head = bench.reply(reply).response().unwrap();
    assert_eq!(head.status, StatusCode::FORBIDDEN);
    assert_eq!(head.headers["content-length"], "2");
    assert_eq!(head.headers["content-type"], "text/plain");
    assert_eq!(bench.client().body(), "no");
    assert!(bench.client().ended);
    assert_eq!(
        bench.context(|c| c.details.clone()).as_deref(),
        Some("said_no")
    );
    drop(bench);
    assert_eq!(
        lines(&log),
        [
            "outer request_headers / true",
            "refuses request_headers / true",
            "refuses response_headers 403 false",
            "outer response_headers 403 false",
            "refuses response_body b\"no\" true",
            "outer response_body b\"no\" true",
            "outer complete Some(403) 0 2",
            "refuses complete Some(403) 0 2",
        ]
    );
}

#[test]
fn a_reply_before_any_stream_needs_no_run() {
    let log = Log::default();
    let probe = Probe::new("a", EVERYTHING, &log).on("begin", reply(StatusCode::FORBIDDEN));
    let mut bench = Bench::start(&chain_of(probe), Request::new(Method::HEAD, "/"));
    assert!(bench.run().is_none());
    let Head::Replied(reply) = bench.head() else {
        panic!("no reply");
    };
    let head = bench.reply(reply).response().unwrap();
    assert_eq!(head.headers["content-length"], "2");
    assert_eq!(bench.client().body(), "", "HEAD has no body");
    assert_eq!(
        bench.context(|c| c.details.clone()).as_deref(),
        Some("said_no")
    );
}

#[test]
fn a_reply_while_the_request_body_flows_interrupts_the_upstream() {
    let log = Log::default();
    let probe = Probe::new("a", EVERYTHING, &log);
    let mut bench = Bench::start(&chain_of(probe.clone()), Request::post("/"));
    assert_passed(&mut bench);
    bench.send("fine");
    assert_eq!(bench.upstream().body(), "fine");
    assert!(bench.interrupt().is_none());

    probe.answer("request_body", reply(StatusCode::FORBIDDEN));
    bench.send("bad").end(None);
    assert!(bench.upstream().error.as_ref().unwrap().contains("said_no"));
    assert_eq!(bench.upstream().body(), "fine");
    assert_eq!(bench.wakes(), 1, "who awaits the response is woken");
    let Some(Interrupt::Reply(reply)) = bench.interrupt() else {
        panic!("no reply");
    };
    assert_eq!(bench.reply(reply).response().unwrap().status, 403);
    assert_eq!(bench.client().body(), "no");
    drop(bench);
    assert_eq!(lines(&log).last().unwrap(), "a complete Some(403) 7 2");
}

#[test]
fn a_reply_while_the_response_head_is_paused_takes_its_place() {
    let log = Log::default();
    let outer = Probe::new("outer", EVERYTHING, &log);
    let inner = Probe::new("inner", EVERYTHING, &log).on("response_headers", Step::Hold);
    let chain = chain(vec![
        outer.at(Phase::Custom, 0),
        inner.at(Phase::Extension, 0),
    ]);
    let mut bench = Bench::start(&chain, Request::post("/"));
    assert_passed(&mut bench);
    bench.respond(StatusCode::OK, &[]).send_back("never");
    assert!(bench.response().is_none());
    lines(&log);

    outer.answer("request_body", reply(StatusCode::FORBIDDEN));
    bench.send("bad");
    assert!(bench.upstream().error.is_some());
    assert_eq!(bench.response().unwrap().status, 403);
    assert_eq!(bench.client().body(), "no");
    assert_eq!(
        lines(&log),
        [
            "outer request_body b\"bad\" false",
            "outer response_headers 403 false",
            "outer response_body b\"no\" true",
        ],
        "the inner filter has seen its response head"
    );
}

#[test]
fn a_reply_after_the_response_head_resets() {
    let log = Log::default();
    let probe = Probe::new("a", EVERYTHING, &log);
    let mut bench = Bench::start(&chain_of(probe.clone()), Request::post("/"));
    assert_passed(&mut bench);
    bench.send("early");
    assert_eq!(bench.upstream().body(), "early");
    bench.respond(StatusCode::OK, &[]).send_back("so far");
    assert_eq!(bench.response().unwrap().status, 200);
    assert_eq!(bench.client().body(), "so far");

    probe.answer("request_body", reply(StatusCode::FORBIDDEN));
    bench.send("late");
    assert!(bench.upstream().error.is_some());
    assert!(bench.client().error.as_ref().unwrap().contains("said_no"));
    drop(bench);
    assert_eq!(lines(&log).last().unwrap(), "a complete Some(200) 9 6");
}

#[test]
fn a_filter_may_answer_in_place_of_the_upstreams_response() {
    let log = Log::default();
    let outer = Probe::new("outer", EVERYTHING, &log);
    let inner = Probe::new("inner", EVERYTHING, &log)
        .on("response_headers", reply(StatusCode::BAD_GATEWAY));
    let chain = chain(vec![
        outer.at(Phase::Custom, 0),
        inner.at(Phase::Extension, 0),
    ]);
    let mut bench = Bench::start(&chain, Request::get("/"));
    assert_passed(&mut bench);
    bench
        .respond(
            StatusCode::OK,
            &[("x-secret", "1"), ("content-length", "6")],
        )
        .send_back("secret")
        .end_back(None);
    let head = bench.response().unwrap();
    assert_eq!(head.status, StatusCode::BAD_GATEWAY);
    assert!(!head.headers.contains_key("x-secret"));
    assert_eq!(head.headers["content-length"], "2");
    assert_eq!(bench.client().body(), "no");
    assert_eq!(
        lines(&log)[2..],
        [
            "inner response_headers 200 false",
            "outer response_headers 502 false",
            "outer response_body b\"no\" true",
        ]
    );
}

#[test]
fn a_response_head_waits_for_its_body_and_may_still_be_edited() {
    let log = Log::default();
    let probe = Probe::new("a", EVERYTHING, &log)
        .on("response_headers", Step::Pause)
        .on("response_body", Step::Pause);
    let mut bench = Bench::start(&chain_of(probe.clone()), Request::get("/"));
    assert_passed(&mut bench);
    bench
        .respond(StatusCode::OK, &[])
        .send_back("body")
        .end_back(None);
    assert!(bench.response().is_none());
    assert_eq!(
        lines(&log)[1..],
        [
            "a response_headers 200 false",
            "a response_body b\"body\" true",
        ]
    );
    probe.resume("resume_response", Step::Continue);
    assert_eq!(bench.wakes(), 1);
    let head = bench.response().unwrap();
    assert_eq!(head.headers["x-resumed-by"], "a");
    assert_eq!(head.headers["content-length"], "4");
    assert_eq!(bench.client().body(), "body");
}

#[test]
fn too_much_held_is_413_upwards_and_500_downwards() {
    let log = Log::default();
    let limited = |probe: Probe| {
        Rc::new(Chain::new(vec![probe.at(Phase::Extension, 0)]).with_buffer_limit(6))
    };

    let up = Probe::new("a", EVERYTHING, &log)
        .on("request_headers", Step::Pause)
        .on("request_body", Step::Pause);
    let mut bench = Bench::start(&limited(up.clone()), Request::post("/"));
    assert!(matches!(bench.send("123456").head(), Head::Paused));
    up.answer("request_body", Step::Pause);
    let Head::Replied(reply) = bench.send("7").head() else {
        panic!("no reply");
    };
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(&*reply.details, "request_payload_too_large");

    let down = Probe::new("a", EVERYTHING, &log)
        .on("response_headers", Step::Pause)
        .on("response_body", Step::Pause);
    let mut bench = Bench::start(&limited(down), Request::get("/"));
    assert_passed(&mut bench);
    bench
        .respond(StatusCode::OK, &[])
        .send_back("123456")
        .send_back("7");
    assert_eq!(bench.response().unwrap().status, 500);
    assert_eq!(bench.client().body(), "Internal Server Error");
}

#[test]
fn an_early_response_does_not_end_the_request_body() {
    let log = Log::default();
    let probe = Probe::new("a", EVERYTHING, &log);
    let mut bench = Bench::start(&chain_of(probe), Request::post("/"));
    assert_passed(&mut bench);
    bench.send("one");
    assert_eq!(bench.upstream().body(), "one");
    bench
        .respond(StatusCode::OK, &[])
        .send_back("done")
        .end_back(Some(trailers()));
    assert_eq!(bench.response().unwrap().status, 200);
    assert_eq!(bench.client().body(), "done");
    assert!(bench.client().trailers.is_some());
    bench.send("two").end(None);
    assert_eq!(bench.upstream().body(), "onetwo");
    assert!(bench.upstream().ended);
}

#[test]
fn an_announced_length_that_a_filter_made_a_lie_never_reaches_a_peer() {
    let longer: fn(&mut Bytes) = |body| *body = [&body[..], b"!"].concat().into();
    for edit in [longer, Bytes::clear] {
        let log = Log::default();
        let probe = Probe::new("a", EVERYTHING, &log).editing(edit);
        let request = Request::post("/").header("content-length", "2");
        let mut bench = Bench::start(&chain_of(probe), request);
        assert_passed(&mut bench);
        bench.send("ab").end(None);
        assert!(bench.upstream().chunks.is_empty());
        assert!(bench.upstream().error.is_some());
        let interrupt = bench.interrupt();
        assert!(
            matches!(interrupt, Some(Interrupt::Reset(_))),
            "{interrupt:?}"
        );
    }
}

#[test]
fn needs_that_are_not_stated_are_not_served() {
    let log = Log::default();
    let probe = Probe::new("a", Needs::default(), &log);
    let mut bench = Bench::start(&chain_of(probe), Request::post("/"));
    assert_passed(&mut bench);
    bench.send("ab").end(Some(trailers()));
    assert!(bench.upstream().ended);
    bench
        .respond(StatusCode::OK, &[])
        .send_back("cd")
        .end_back(None);
    assert!(bench.response().is_some());
    assert!(bench.client().ended);
    drop(bench);
    assert_eq!(
        lines(&log),
        ["a request_headers / false", "a complete Some(200) 2 2"]
    );
}

#[test]
fn an_exchange_that_is_dropped_midway_is_completed_once_even_if_a_filter_panics() {
    struct Panics;
    impl Filter for Panics {
        fn name(&self) -> &str {
            "panics"
        }
        fn begin(&self, _: &mut RequestContext) -> Begin {
            Begin::Stream(Box::new(Self))
        }
    }
    impl StreamFilter for Panics {
        fn complete(&mut self, _: &mut RequestContext, _: &Summary<'_>) {
            panic!("on purpose");
        }
    }
    let log = Log::default();
    let probe = Probe::new("a", EVERYTHING, &log);
    let chain = chain(vec![
        Placed {
            phase: Phase::Custom,
            priority: 0,
            filter: Rc::new(Panics),
        },
        probe.at(Phase::Extension, 0),
    ]);
    let mut bench = Bench::start(&chain, Request::post("/"));
    assert_passed(&mut bench);
    bench.send("ab");
    assert_eq!(bench.upstream().body(), "ab");
    bench.respond(StatusCode::OK, &[]);
    assert!(bench.response().is_some());
    bench.client();
    lines(&log);
    drop(bench);
    assert_eq!(lines(&log), ["a complete Some(200) 2 0"]);
}

#[test]
fn a_reset_has_no_answer() {
    let log = Log::default();
    let probe = Probe::new("a", EVERYTHING, &log).on("request_headers", Step::Reset("gone".into()));
    let mut bench = Bench::start(&chain_of(probe), Request::get("/"));
    let head = bench.head();
    assert!(
        matches!(&head, Head::Reset(details) if &**details == "gone"),
        "{head:?}"
    );
    drop(bench);
    assert_eq!(lines(&log)[1..], ["a complete None 0 0"]);
}
