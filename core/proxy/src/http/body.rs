//! Bodies on their way through: no copy, no box per frame, bounded by the peers' windows.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use wayline_chain::{CalloutBody, FilteredRequest};

use super::tap::{TapReader, TapWriter, tap};
use super::trailers::Trailers;
use crate::timers::Timer;

/// Body bytes kept so that a request can be sent again; beyond that it is sent once.
const REPLAY_LIMIT: usize = 64 * 1024;

/// Why a body ended before its end. Sent to nobody: it makes the codec reset or close.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The side that sends it broke off.
    #[error("the body broke off: {0}")]
    Broken(#[from] hyper::Error),
    /// It came too slowly.
    #[error("the body came too slowly")]
    Slow,
    /// A filter ended the exchange.
    #[error("a filter ended the exchange")]
    Filter,
    /// The response was not complete in time.
    #[error("the response was not complete in time")]
    Timeout,
    /// Another attempt reads the body now.
    #[error("another attempt reads the body")]
    Superseded,
    /// The body that is copied broke off, or the copy's reader is too slow.
    #[error("the copied body broke off")]
    Tapped,
    /// The upstream connection ended.
    #[error("the upstream connection ended inside the body")]
    Upstream,
}

impl From<wayline_chain::BodyError<Self>> for BodyError {
    fn from(error: wayline_chain::BodyError<Self>) -> Self {
        match error {
            wayline_chain::BodyError::Source(error) => error,
            wayline_chain::BodyError::Interrupted(_) => Self::Filter,
        }
    }
}

/// The request body as the upstream codec reads it.
pub(crate) enum RequestBody {
    /// There is none.
    Empty,
    /// The client's, or a filter's; may be read again from its start by another attempt.
    Client(Replay),
}

/// The client's request body, shared by the attempts of one exchange.
pub(crate) struct ClientBody {
    source: RefCell<ClientSource>,
    /// Frames handed out so far, while they are few enough to be handed out again.
    sent: RefCell<Vec<Bytes>>,
    sent_bytes: Cell<usize>,
    replayable: Cell<bool>,
    ended: Cell<bool>,
    failed: Cell<bool>,
    /// Number of the attempt that reads.
    attempt: Cell<u32>,
    taps: RefCell<Vec<TapWriter>>,
    trailers: Trailers,
    pace: Option<Pace>,
    slow: Cell<bool>,
}

/// Over how long a body's pace is measured.
const PACE_SPAN: Duration = Duration::from_secs(30);

/// The slowest a body may come.
pub(crate) struct Pace {
    timer: Timer,
    /// Bytes that must come within the span.
    least: u64,
    /// Bytes that had come when it began.
    before: Cell<u64>,
}

impl Pace {
    /// A pace in bytes a second.
    pub(crate) fn new(timer: Timer, rate: u32) -> Self {
        Self {
            timer,
            least: u64::from(rate) * PACE_SPAN.as_secs(),
            before: Cell::new(0),
        }
    }

    /// To be asked while nothing comes: whether too little has.
    fn is_missed(&self, received: u64, cx: &Context<'_>) -> bool {
        if self.timer.lasting_for(PACE_SPAN, cx).is_pending() {
            return false;
        }
        if received - self.before.get() < self.least {
            return true;
        }
        self.before.set(received);
        self.timer.clear();
        self.timer.lasting_for(PACE_SPAN, cx).is_ready()
    }
}

/// Where the client's bytes come from.
pub(crate) enum ClientSource {
    /// Straight from the codec.
    Direct(Incoming),
    /// Through filters that need them.
    Filtered(Box<FilteredRequest<Incoming>>),
    /// Made by a filter.
    Made(Option<Bytes>, Option<HeaderMap>),
    /// Made by a filter bit by bit.
    Streamed(CalloutBody),
    /// Another exchange's, while it goes by.
    Tap(TapReader),
}

impl ClientSource {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Direct(body) => body.is_end_stream(),
            Self::Filtered(body) => body.is_end_stream(),
            Self::Made(data, trailers) => data.is_none() && trailers.is_none(),
            Self::Streamed(body) => body.is_end_stream(),
            Self::Tap(tap) => tap.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Direct(body) => body.size_hint(),
            Self::Filtered(body) => body.size_hint(),
            Self::Made(Some(data), None) => SizeHint::with_exact(data.len() as u64),
            Self::Made(..) | Self::Streamed(_) => SizeHint::default(),
            Self::Tap(tap) => tap.size_hint(),
        }
    }
}

impl ClientBody {
    /// Shares a body, behind which these trailers may come.
    pub(crate) fn new(source: ClientSource, trailers: Trailers) -> Rc<Self> {
        Self::paced(source, trailers, None)
    }

    /// The same, if it comes no slower than that.
    pub(crate) fn paced(source: ClientSource, trailers: Trailers, pace: Option<Pace>) -> Rc<Self> {
        Rc::new(Self {
            source: RefCell::new(source),
            sent: RefCell::new(Vec::new()),
            sent_bytes: Cell::new(0),
            replayable: Cell::new(true),
            ended: Cell::new(false),
            failed: Cell::new(false),
            attempt: Cell::new(0),
            taps: RefCell::default(),
            trailers,
            pace,
            slow: Cell::new(false),
        })
    }

    /// Whether it came too slowly.
    pub(crate) fn was_slow(&self) -> bool {
        self.slow.get()
    }

    /// The body for one attempt.
    pub(crate) fn attempt(self: &Rc<Self>) -> RequestBody {
        self.attempt.set(self.attempt.get() + 1);
        RequestBody::Client(Replay {
            body: Rc::clone(self),
            position: 0,
            attempt: self.attempt.get(),
        })
    }

    /// Whether another attempt would see the body from its start.
    pub(crate) fn can_replay(&self) -> bool {
        self.replayable.get() && !self.failed.get()
    }

    /// Whether all of it has come.
    pub(crate) fn has_arrived(&self) -> bool {
        self.ended.get() || self.source.borrow().is_end_stream()
    }

    /// Body bytes received from the client.
    pub(crate) fn received(&self) -> u64 {
        self.sent_bytes.get() as u64
    }

    /// Whether the client broke off, so that the upstream is not to blame.
    pub(crate) fn client_failed(&self) -> bool {
        self.failed.get()
    }

    /// Whether the client is still sending it.
    pub(crate) fn is_under_way(&self) -> bool {
        let source = self.source.borrow();
        !self.ended.get() && matches!(&*source, ClientSource::Direct(body) if !body.is_end_stream())
    }

    /// A copy of the body for somebody who may not hold it up. Only before it is read.
    pub(crate) fn tap(&self) -> TapReader {
        let (writer, reader) = tap(self.source.borrow().size_hint());
        self.taps.borrow_mut().push(writer);
        reader
    }

    /// Which trailers may come behind it.
    pub(crate) fn trailers(&self) -> Trailers {
        self.trailers.clone()
    }

    fn tapped(&self, frame: &Frame<Bytes>) {
        for tap in &*self.taps.borrow() {
            if let Some(data) = frame.data_ref() {
                tap.data(data);
            } else if let Some(trailers) = frame.trailers_ref() {
                tap.trailers(trailers);
                tap.end();
            }
        }
        self.end_taps();
    }

    /// Codecs do not ask again once a body says that it has ended.
    fn end_taps(&self) {
        if self.ended.get() || self.source.borrow().is_end_stream() {
            self.taps.borrow().iter().for_each(TapWriter::end);
        }
    }

    fn falls_behind(&self, cx: &Context<'_>) -> bool {
        let pace = self.pace.as_ref();
        let behind = pace.is_some_and(|pace| pace.is_missed(self.received(), cx));
        self.slow.set(behind);
        behind
    }

    fn poll_source(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended.get() {
            return Poll::Ready(None);
        }
        let frame = match &mut *self.source.borrow_mut() {
            ClientSource::Direct(body) => match Pin::new(body).poll_frame(cx) {
                Poll::Ready(frame) => frame.map(|frame| frame.map_err(BodyError::from)),
                Poll::Pending if self.falls_behind(cx) => Some(Err(BodyError::Slow)),
                Poll::Pending => return Poll::Pending,
            },
            ClientSource::Filtered(body) => ready!(Pin::new(&mut **body).poll_frame(cx))
                .map(|frame| frame.map_err(|_| BodyError::Filter)),
            ClientSource::Streamed(body) => ready!(body.as_mut().poll_frame(cx))
                .map(|frame| frame.map_err(|_| BodyError::Filter)),
            ClientSource::Tap(tap) => ready!(tap.poll_frame(cx)),
            ClientSource::Made(data, trailers) => match data.take() {
                Some(data) => Some(Ok(Frame::data(data))),
                None => trailers
                    .take()
                    .map(|trailers| Ok(Frame::trailers(trailers))),
            },
        };
        let frame = match frame {
            None => {
                self.ended.set(true);
                self.end_taps();
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                self.failed.set(true);
                return Poll::Ready(Some(Err(error)));
            }
            Some(Ok(frame)) => frame,
        };
        if !self.taps.borrow().is_empty() {
            self.tapped(&frame);
        }
        match frame.into_data() {
            Ok(data) => {
                let total = self.sent_bytes.get() + data.len();
                self.sent_bytes.set(total);
                if total > REPLAY_LIMIT {
                    self.replayable.set(false);
                    self.sent.borrow_mut().clear();
                } else {
                    self.sent.borrow_mut().push(data.clone());
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Err(frame) => {
                // Trailers end the body; they are not kept, so there is no second reading.
                self.replayable.set(false);
                match frame.into_trailers() {
                    Ok(trailers) => {
                        let clean = self.trailers.pass(trailers);
                        Poll::Ready(Some(Ok(Frame::trailers(clean))))
                    }
                    Err(_) => Poll::Ready(None),
                }
            }
        }
    }
}

/// One attempt's reading of the client's body.
pub(crate) struct Replay {
    body: Rc<ClientBody>,
    position: usize,
    attempt: u32,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Client(replay) => {
                // The stream of an attempt that was given up may live on for a moment, and would
                // take away what the next one waits for.
                if replay.attempt != replay.body.attempt.get() {
                    return Poll::Ready(Some(Err(BodyError::Superseded)));
                }
                let again = replay.body.sent.borrow().get(replay.position).cloned();
                if let Some(data) = again {
                    replay.position += 1;
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                let frame = ready!(replay.body.poll_source(cx));
                if matches!(&frame, Some(Ok(frame)) if frame.is_data()) {
                    replay.position += 1;
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Client(replay) => {
                replay.body.sent_bytes.get() == 0 && replay.body.source.borrow().is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Client(replay) if replay.body.sent_bytes.get() == 0 => {
                replay.body.source.borrow().size_hint()
            }
            Self::Client(_) => SizeHint::default(),
        }
    }
}
