//! The run as the data path drives it, without the bench.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Body, Frame};
use wayline_chain::bench::{Request, chain_of};
use wayline_chain::{BodyError, ChainRun, Interrupt, Outcome, Started, Step};

use crate::probe::{EVERYTHING, Log, Probe, lines, reply, shout};

/// A body of some chunks, ready at once.
struct Chunks(Vec<&'static str>);

impl Body for Chunks {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.0.pop() {
            Some("broken") => Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into()))),
            Some(chunk) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(chunk.as_bytes()))))),
            None => Poll::Ready(None),
        }
    }
}

/// The outcome of a future that is ready at once.
fn now<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("it waits"),
    }
}

fn running(probe: &Probe, request: Request) -> ChainRun {
    let mut context = request.context();
    match chain_of(probe.clone()).begin(&mut context) {
        Started::Running(opened) => opened.run(context),
        other => panic!("no filter stayed: {other:?}"),
    }
}

fn poll_data<B: Body<Data = Bytes> + Unpin>(body: &mut B) -> Option<Result<Bytes, B::Error>> {
    let mut task = Context::from_waker(Waker::noop());
    match Pin::new(body).poll_frame(&mut task) {
        Poll::Ready(Some(Ok(frame))) => Some(Ok(frame.into_data().unwrap())),
        Poll::Ready(Some(Err(error))) => Some(Err(error)),
        Poll::Ready(None) => None,
        Poll::Pending => panic!("it waits"),
    }
}

#[test]
fn the_whole_way_as_the_data_path_goes_it() {
    let log = Log::default();
    let probe = Probe::new("a", EVERYTHING, &log).editing(shout);
    let run = running(&probe, Request::post("/"));
    let mut body = Chunks(vec!["b", "a"]);
    let outcome = now(run.request(&mut body)).unwrap();
    assert!(matches!(outcome, Outcome::Continue { rewritten: false }));

    let mut upstream = run.request_body(body);
    assert!(!upstream.is_end_stream());
    assert_eq!(poll_data(&mut upstream).unwrap().unwrap(), "A");
    assert_eq!(poll_data(&mut upstream).unwrap().unwrap(), "B");
    assert!(poll_data(&mut upstream).is_none());
    assert!(upstream.is_end_stream());

    let answer = now(run.unless_interrupted(async { Response::new(Chunks(vec!["d", "c"])) }));
    let mut response = now(run.respond(answer.unwrap())).unwrap();
    assert_eq!(response.headers()["x-seen-by"], "a");
    drop((run, upstream));
    assert_eq!(poll_data(response.body_mut()).unwrap().unwrap(), "C");
    assert_eq!(poll_data(response.body_mut()).unwrap().unwrap(), "D");
    assert!(poll_data(response.body_mut()).is_none());
    assert_eq!(lines(&log).last().unwrap(), "a response_body b\"\" true");
    drop(response);
    assert_eq!(lines(&log), ["a complete Some(200) 2 2"]);
}

#[test]
fn an_interrupt_wins_over_an_upstream_that_fails_because_of_it() {
    let log = Log::default();
    let probe = Probe::new("a", EVERYTHING, &log).on("request_body", reply(StatusCode::FORBIDDEN));
    let run = running(&probe, Request::post("/"));
    let mut body = Chunks(vec!["a"]);
    let _ = now(run.request(&mut body)).unwrap();
    let mut sent = run.request_body(body);
    let upstream = async { poll_data(&mut sent).unwrap() };
    let Err(Interrupt::Reply(reply)) = now(run.unless_interrupted(upstream)) else {
        panic!("the upstream's failure was told instead");
    };
    let mut response = now(run.reply::<Chunks>(reply)).unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(response.body().size_hint().exact(), Some(2));
    assert_eq!(poll_data(response.body_mut()).unwrap().unwrap(), "no");
    assert!(response.body().is_end_stream());
}

#[test]
fn a_sender_that_breaks_off_is_told_apart_from_a_filter_that_does() {
    let log = Log::default();
    let probe = Probe::new("a", EVERYTHING, &log).on("request_headers", Step::Pause);
    let run = running(&probe, Request::post("/"));
    assert!(now(run.request(&mut Chunks(vec!["broken"]))).is_err());

    let probe = Probe::new("a", EVERYTHING, &log);
    let run = running(&probe, Request::post("/"));
    let _ = now(run.request(&mut Chunks(vec![]))).unwrap();
    let mut sent = run.request_body(Chunks(vec!["more", "broken"]));
    let error = poll_data(&mut sent).unwrap().unwrap_err();
    assert!(matches!(error, BodyError::Source(_)), "{error:?}");
    assert!(poll_data(&mut sent).is_none(), "nothing follows an error");
    let response = now(run.respond(Response::new(Chunks(vec!["broken"])))).unwrap();
    let error = poll_data(&mut response.into_body()).unwrap().unwrap_err();
    assert!(matches!(error, BodyError::Source(_)), "{error:?}");
}
