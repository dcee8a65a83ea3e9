//! Who is told what, and when an exchange begins and ends.

use std::cell::Cell;
use std::rc::Rc;

use http::StatusCode;
use wayline_chain::bench::{Bench, Head, Request, chain_of};
use wayline_chain::{
    Begin, Filter, LocalReply, Needs, Phase, Placed, RequestContext, Step, StreamFilter, Summary,
};

use crate::probe::{EVERYTHING, Log, Probe, assert_passed, chain, lines, trailers};

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
    bench.context(|context| {
        context.request_mut();
    });
    let reply = bench.run().unwrap().judge_again().unwrap();
    assert_eq!(&*reply.details, "judged");
    assert_eq!(
        bench.context(|c| c.details.clone()).as_deref(),
        Some("judged")
    );
    assert!(!bench.context(RequestContext::take_rewritten));
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
        fn complete(&mut self, _: &mut RequestContext, _: &Summary) {
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
fn the_summary_shows_the_response_headers_that_were_sent() {
    struct Watches(Rc<Cell<Option<usize>>>);
    impl Filter for Watches {
        fn name(&self) -> &str {
            "watches"
        }
        fn needs(&self) -> Needs {
            Needs {
                response_headers: true,
                ..Needs::default()
            }
        }
        fn begin(&self, _: &mut RequestContext) -> Begin {
            Begin::Stream(Box::new(Self(Rc::clone(&self.0))))
        }
    }
    impl StreamFilter for Watches {
        fn complete(&mut self, context: &mut RequestContext, _: &Summary) {
            self.0
                .set(context.response.as_ref().map(|sent| sent.headers.len()));
        }
    }
    let seen = Rc::new(Cell::new(None));
    let mut bench = Bench::start(&chain_of(Watches(Rc::clone(&seen))), Request::get("/"));
    assert_passed(&mut bench);
    bench.respond(StatusCode::OK, &[("x-a", "1"), ("x-b", "2")]);
    assert!(bench.response().is_some());
    drop(bench);
    assert_eq!(seen.get(), Some(2));
}
