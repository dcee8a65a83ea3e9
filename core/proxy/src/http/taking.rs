//! HTTP/2 clients that take nothing of what they asked for.
//!
//! The codec holds a piece of a body until its stream's window has room for it, and asks for no more
//! meanwhile, so that the body itself can not notice. Whoever runs the stream can. (A client of HTTP/1
//! holds up its whole connection, which notices by itself.)

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use wayline_model::defence::stands;

use crate::ingress::Ingress;
use crate::timers::Timer;

/// Whether a stream's client takes what it is sent.
#[derive(Debug, Default)]
pub(crate) struct Taking {
    waits: Cell<bool>,
    /// Pieces handed over so far.
    pieces: Cell<u64>,
    gave_up: Cell<bool>,
}

impl Taking {
    /// A piece of the body was handed over, or the next one is asked for.
    pub(crate) fn waits(&self, waits: bool) {
        self.waits.set(waits);
        self.pieces.set(self.pieces.get() + u64::from(waits));
    }

    /// Whether the stream ended because nothing was taken.
    pub(crate) fn gave_up(&self) -> bool {
        self.gave_up.get()
    }
}

/// Runs the streams of one HTTP/2 connection, and resets those whose clients take nothing for too long.
#[derive(Clone)]
pub(crate) struct Streams(Rc<Ingress>);

impl Streams {
    /// Of the connection of an ingress.
    pub(crate) fn new(ingress: &Rc<Ingress>) -> Self {
        Self(Rc::clone(ingress))
    }
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        tokio::task::spawn_local(Watched {
            stream: Box::pin(stream),
            taking: Rc::default(),
            pieces: 0,
            timer: None,
            ingress: Rc::clone(&self.0),
        });
    }
}

struct Watched<F> {
    stream: Pin<Box<F>>,
    taking: Rc<Taking>,
    /// Pieces that had been handed over when it was last looked. The codec may send the piece it held
    /// and ask for the next in one go: then it waits as before, and yet something was taken.
    pieces: u64,
    /// Made when it is needed, which is seldom.
    timer: Option<Timer>,
    ingress: Rc<Ingress>,
}

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.ingress.taking.set(Some(Rc::clone(&this.taking)));
        let polled = this.stream.as_mut().poll(cx);
        this.ingress.taking.set(None);
        if polled.is_ready() {
            return polled;
        }
        if !this.taking.waits.get() {
            this.timer = None;
            return Poll::Pending;
        }
        let worker = &this.ingress.worker;
        let timer = this.timer.get_or_insert_with(|| worker.timers.timer());
        let pieces = this.taking.pieces.get();
        if std::mem::replace(&mut this.pieces, pieces) != pieces {
            timer.clear();
        }
        if timer.lasting_for(worker.timeouts.send, cx).is_pending() || !stands("send-timeout") {
            return Poll::Pending;
        }
        // What is dropped unfinished is reset.
        this.taking.gave_up.set(true);
        Poll::Ready(())
    }
}
