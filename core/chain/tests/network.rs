//! Connections on their way through network filters.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use wayline_chain::{
    Closer, Connection, ConnectionContext, ConnectionFilter, Direction, NetworkBegin, NetworkChain,
    NetworkEnd, NetworkFilter, NetworkRun, NetworkStep, Phase, PlacedNetwork, Routed,
};

use Direction::{Request, Response};

type Log = Rc<RefCell<Vec<String>>>;
type Script = Rc<RefCell<HashMap<&'static str, NetworkStep>>>;

/// Writes down what it is told, and answers by a script; without a line it continues.
#[derive(Clone)]
struct Probe {
    name: &'static str,
    log: Log,
    script: Script,
}

impl Probe {
    fn new(name: &'static str, log: &Log) -> Self {
        Self {
            name,
            log: Rc::clone(log),
            script: Script::default(),
        }
    }

    fn on(&self, event: &'static str, step: NetworkStep) -> &Self {
        self.script.borrow_mut().insert(event, step);
        self
    }

    fn forget(&self, event: &'static str) {
        self.script.borrow_mut().remove(event);
    }

    fn note(&self, text: &str) {
        self.log.borrow_mut().push(format!("{} {text}", self.name));
    }

    fn scripted(&self, event: &str) -> Option<NetworkStep> {
        self.script.borrow().get(event).cloned()
    }

    fn answer(&self, event: &str) -> NetworkStep {
        self.scripted(event).unwrap_or(NetworkStep::Continue)
    }
}

impl NetworkFilter for Probe {
    fn name(&self) -> &str {
        self.name
    }

    fn open(&self, _: &mut ConnectionContext) -> NetworkBegin {
        match self.scripted("open") {
            None => NetworkBegin::Follow(Box::new(self.clone())),
            Some(NetworkStep::End(end)) => NetworkBegin::End(end),
            Some(_) => NetworkBegin::Pass,
        }
    }
}

fn word(direction: Direction) -> &'static str {
    match direction {
        Request => "down",
        Response => "up",
    }
}

impl ConnectionFilter for Probe {
    fn new_connection(&mut self, _: &mut ConnectionContext) -> NetworkStep {
        self.note("new");
        self.answer("new")
    }

    fn data(
        &mut self,
        _: &mut ConnectionContext,
        direction: Direction,
        data: &mut Bytes,
        end: bool,
    ) -> NetworkStep {
        let text = String::from_utf8_lossy(data).into_owned();
        let last = if end { "." } else { "" };
        self.note(&format!("{} {text}{last}", word(direction)));
        if !data.is_empty() && self.scripted("edit").is_some() {
            *data = format!("{}({text})", self.name).into();
        }
        self.answer(word(direction))
    }

    fn poll_resume(
        &mut self,
        _: &mut ConnectionContext,
        direction: Direction,
        _: &mut Bytes,
        _: &mut Context<'_>,
    ) -> Poll<NetworkStep> {
        let event = match direction {
            Request => "resume down",
            Response => "resume up",
        };
        self.scripted(event).map_or(Poll::Pending, Poll::Ready)
    }

    fn poll_end(&mut self, _: &mut ConnectionContext, _: &mut Context<'_>) -> Poll<NetworkEnd> {
        match self.scripted("end") {
            Some(NetworkStep::End(end)) => Poll::Ready(end),
            _ => Poll::Pending,
        }
    }

    fn upstream_closed(&mut self, _: &mut ConnectionContext, by: Closer) {
        self.note(&format!("upstream closed {by:?}"));
    }

    fn complete(&mut self, _: &mut ConnectionContext, by: Closer) {
        self.note(&format!("complete {by:?}"));
    }
}

fn start(filters: &[&Probe]) -> NetworkRun {
    start_limited(filters, 1 << 20)
}

fn start_limited(filters: &[&Probe], limit: usize) -> NetworkRun {
    let placed = filters.iter().map(|probe| PlacedNetwork {
        phase: Phase::Extension,
        priority: 0,
        filter: Rc::new((*probe).clone()),
    });
    let chain = NetworkChain::new(placed.collect()).with_buffer_limit(limit);
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let connection = Connection {
        identity: None,
        workload: None,
        source: nowhere,
        local: nowhere,
        destination_ip: None,
        destination_port: 1,
        sni: None,
        mutual_tls: false,
        certificate: None,
        id: Connection::next_id(),
    };
    NetworkRun::start(Rc::new(chain), ConnectionContext::new(Rc::new(connection)))
}

fn connected(run: &mut NetworkRun) {
    run.connected(Routed {
        route: "".into(),
        cluster: "c".into(),
        address: None,
        attempts: 1,
        since: Instant::now(),
    });
}

fn poll(run: &mut NetworkRun) -> bool {
    run.poll(&mut Context::from_waker(Waker::noop()))
}

/// What came out, and whether it was the last.
fn out(run: &mut NetworkRun, direction: Direction) -> (String, bool) {
    let data = std::mem::take(run.output(direction));
    let text = String::from_utf8_lossy(&data).into_owned();
    (text, run.is_finished(direction))
}

fn told(log: &Log) -> Vec<String> {
    std::mem::take(&mut *log.borrow_mut())
}

fn close(text: &str) -> NetworkStep {
    NetworkStep::End(NetworkEnd::Close(text.into()))
}

#[test]
fn bytes_meet_the_filters_in_order_and_in_reverse_on_the_way_back() {
    let log = Log::default();
    let (a, b) = (Probe::new("a", &log), Probe::new("b", &log));
    a.on("edit", NetworkStep::Continue);
    b.on("edit", NetworkStep::Continue);
    let mut run = start(&[&a, &b]);
    assert!(run.is_open());
    connected(&mut run);
    run.feed(Request, "x".into(), false);
    run.feed(Response, "y".into(), true);
    assert_eq!(out(&mut run, Request), ("b(a(x))".to_owned(), false));
    assert_eq!(out(&mut run, Response), ("a(b(y))".to_owned(), true));
    run.feed(Request, Bytes::new(), true);
    assert_eq!(out(&mut run, Request), (String::new(), true));
    run.upstream_closed(Closer::Remote);
    drop(run);
    assert_eq!(
        told(&log),
        [
            "a new",
            "b new",
            "a down x",
            "b down a(x)",
            "b up y.",
            "a up b(y).",
            "a down .",
            "b down .",
            "a upstream closed Remote",
            "b upstream closed Remote",
            "a complete Remote",
            "b complete Remote",
        ]
    );
}

#[test]
fn a_pause_shows_all_that_is_held_until_it_is_let_go() {
    let log = Log::default();
    let a = Probe::new("a", &log);
    a.on("down", NetworkStep::Pause);
    let mut run = start(&[&a]);
    connected(&mut run);
    run.feed(Request, "1".into(), false);
    run.feed(Request, "2".into(), false);
    assert_eq!(out(&mut run, Request).0, "");
    assert!(run.wants(Request) && run.wants(Response));
    a.forget("down");
    run.feed(Request, "3".into(), true);
    assert_eq!(out(&mut run, Request), ("123".to_owned(), true));
    assert_eq!(
        told(&log),
        ["a new", "a down 1", "a down 12", "a down 123."]
    );
}

#[test]
fn a_filter_that_resumes_lets_go_what_it_held_and_no_byte_is_shown_twice() {
    let log = Log::default();
    let (a, b) = (Probe::new("a", &log), Probe::new("b", &log));
    a.on("down", NetworkStep::Pause);
    b.on("down", NetworkStep::Hold);
    let mut run = start(&[&a, &b]);
    connected(&mut run);
    run.feed(Request, "1".into(), false);
    a.on("resume down", NetworkStep::Continue);
    assert!(poll(&mut run));
    a.forget("resume down");
    a.forget("down");
    assert!(!run.wants(Request), "b holds, so that nothing more is read");
    assert!(!poll(&mut run));
    // Something that was read before comes late.
    run.feed(Request, "2".into(), true);
    b.forget("down");
    b.on("resume down", NetworkStep::Continue);
    assert!(poll(&mut run));
    assert_eq!(out(&mut run, Request), ("12".to_owned(), true));
    assert_eq!(
        told(&log),
        [
            "a new",
            "b new",
            "a down 1",
            "b down 1",
            "a down 2.",
            "b down 2."
        ]
    );
}

#[test]
fn a_held_direction_can_become_one_that_waits_for_bytes() {
    let log = Log::default();
    let a = Probe::new("a", &log);
    a.on("up", NetworkStep::Hold);
    let mut run = start(&[&a]);
    connected(&mut run);
    run.feed(Response, "1".into(), false);
    assert!(!run.wants(Response) && run.wants(Request));
    a.on("resume up", NetworkStep::Pause);
    assert!(poll(&mut run));
    assert!(run.wants(Response));
    a.forget("up");
    run.feed(Response, "2".into(), false);
    assert_eq!(out(&mut run, Response), ("12".to_owned(), false));
}

#[test]
fn filters_meet_the_connection_in_order_even_where_the_upstream_speaks_first() {
    let log = Log::default();
    let probes = ["a", "b", "c"].map(|name| Probe::new(name, &log));
    probes[0].on("new", NetworkStep::Hold);
    let mut run = start(&probes.each_ref());
    connected(&mut run);
    run.feed(Response, "hello".into(), false);
    assert_eq!(
        told(&log),
        [
            "a new",
            "b new",
            "c new",
            "c up hello",
            "b up hello",
            "a up hello"
        ]
    );
}

#[test]
fn the_upstream_waits_until_every_filter_has_let_the_connection_pass() {
    let log = Log::default();
    let (a, b) = (Probe::new("a", &log), Probe::new("b", &log));
    a.on("new", NetworkStep::Pause);
    b.on("new", NetworkStep::Hold);
    let mut run = start(&[&a, &b]);
    assert!(!run.is_open());
    assert_eq!(told(&log), ["a new"], "b is not asked yet");
    run.feed(Request, "hello".into(), false);
    assert_eq!(told(&log), ["a down hello", "b new"]);
    assert!(!run.is_open());
    b.on("resume down", NetworkStep::Continue);
    assert!(poll(&mut run));
    assert!(run.is_open());
    assert!(!run.wants(Response), "it is not connected");
    assert_eq!(out(&mut run, Request).0, "hello");
    assert_eq!(told(&log), ["b down hello"]);
}

#[test]
fn a_filter_can_refuse_close_and_fail() {
    let log = Log::default();
    let (a, b) = (Probe::new("a", &log), Probe::new("b", &log));
    b.on("open", close("no"));
    let run = start(&[&a, &b]);
    assert_eq!(run.end(), Some(&NetworkEnd::Close("no".into())));
    drop(run);
    assert_eq!(told(&log), ["a new", "a complete Local"]);

    b.on("open", NetworkStep::Continue);
    a.on("down", close("enough"));
    let mut run = start(&[&a, &b]);
    connected(&mut run);
    run.feed(Request, "x".into(), false);
    assert_eq!(run.end(), Some(&NetworkEnd::Close("enough".into())));
    assert_eq!(out(&mut run, Request).0, "", "what is refused goes nowhere");
    assert!(!run.wants(Request) && !run.wants(Response));

    a.forget("down");
    let mut run = start(&[&a, &b]);
    assert!(!poll(&mut run));
    let failure = NetworkEnd::Fail("broken".into());
    a.on("end", NetworkStep::End(failure.clone()));
    assert!(poll(&mut run));
    assert_eq!(run.end(), Some(&failure));
    assert_eq!(failure.details().as_ref(), "broken");
}

#[test]
fn nothing_is_read_while_as_much_is_held_as_may_be() {
    let log = Log::default();
    let a = Probe::new("a", &log);
    a.on("down", NetworkStep::Pause)
        .on("up", NetworkStep::Pause);
    let mut run = start_limited(&[&a], 4);
    connected(&mut run);
    run.feed(Request, "123".into(), false);
    assert!(run.wants(Request) && !run.is_full(Request));
    run.feed(Request, "4".into(), false);
    assert!(!run.wants(Request) && run.is_full(Request));
    assert!(run.wants(Response), "the other direction goes on");
    assert!(run.is_stuck(Request) && !run.is_stuck(Response));
    run.feed(Response, Bytes::new(), true);
    assert!(run.is_stuck(Response), "its end is held");
    a.on("resume down", NetworkStep::Continue);
    poll(&mut run);
    assert!(!run.is_full(Request));
    assert!(!run.wants(Request), "the output is to be written first");
    assert_eq!(out(&mut run, Request).0, "1234");
    assert!(run.wants(Request));
}

#[test]
fn a_connection_without_upstream_has_none_that_closes() {
    let log = Log::default();
    let a = Probe::new("a", &log);
    let mut run = start(&[&a]);
    run.client_left();
    drop(run);
    assert_eq!(told(&log), ["a new", "a complete Remote"]);
}
