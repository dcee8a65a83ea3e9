//! How a module on a thread of its own reaches backends: by the core that one of its streams came
//! from.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use tokio::sync::mpsc::{Receiver, Sender, UnboundedSender, channel, unbounded_channel};
use tokio::sync::oneshot;
use wayline_chain::{
    Callout, CalloutBody, CalloutError, CalloutFuture, CalloutRequest, CalloutStream, OpenFuture,
    Task,
};

/// Frames of a body that may be under way between the threads.
const FRAMES: usize = 8;

type Outcome = Result<(Response<Bytes>, HeaderMap), CalloutError>;
type Opened = Result<Response<Piped>, CalloutError>;

/// Something to ask of a backend, and who waits for the outcome.
enum Errand {
    Call {
        request: CalloutRequest,
        outcome: oneshot::Sender<Outcome>,
    },
    Open {
        backend: std::sync::Arc<str>,
        request: Request<Piped>,
        outcome: oneshot::Sender<Opened>,
    },
}

/// The way to the backends of a core.
#[derive(Clone)]
pub(crate) struct Reach {
    errands: UnboundedSender<Errand>,
}

thread_local! {
    static ERRANDS: std::cell::RefCell<Option<Reach>> = const { std::cell::RefCell::new(None) };
}

impl Reach {
    /// The way to this core; its first user makes it.
    pub(crate) fn of_this_core(callout: &Rc<dyn Callout>) -> Self {
        ERRANDS.with_borrow_mut(|known| {
            if let Some(reach) = known
                && !reach.errands.is_closed()
            {
                return reach.clone();
            }
            let reach = Self::open(callout);
            *known = Some(reach.clone());
            reach
        })
    }

    fn open(callout: &Rc<dyn Callout>) -> Self {
        let (errands, mut inbox) = unbounded_channel::<Errand>();
        let core = Rc::clone(callout);
        callout.spawn(Box::pin(async move {
            while let Some(errand) = inbox.recv().await {
                core.spawn(Box::pin(run(Rc::clone(&core), errand)));
            }
        }));
        Self { errands }
    }
}

/// Runs an errand on the core.
async fn run(core: Rc<dyn Callout>, errand: Errand) {
    match errand {
        Errand::Call {
            request,
            mut outcome,
        } => {
            let call = core.call(request);
            tokio::select! {
                biased;
                // Nobody waits any more, which cancels the call.
                () = outcome.closed() => {}
                answer = call => {
                    let _ = outcome.send(answer);
                }
            }
        }
        Errand::Open {
            backend,
            request,
            mut outcome,
        } => {
            let request = request.map(|body| Box::pin(body) as CalloutBody);
            let open = core.open(CalloutStream { backend, request });
            let opened = tokio::select! {
                biased;
                () = outcome.closed() => return,
                opened = open => opened,
            };
            let opened = opened.map(|response| {
                response.map(|body| {
                    let (frames, piped) = channel(FRAMES);
                    core.spawn(Box::pin(pump(body, frames)));
                    Piped(piped)
                })
            });
            let _ = outcome.send(opened);
        }
    }
}

/// Carries a body to the other thread, as far as somebody takes it.
async fn pump(mut body: CalloutBody, frames: Sender<Result<Frame<Bytes>, CalloutError>>) {
    loop {
        let frame = tokio::select! {
            biased;
            () = frames.closed() => return,
            frame = body.frame() => frame,
        };
        let Some(frame) = frame else {
            return;
        };
        if frames.send(frame).await.is_err() {
            return;
        }
    }
}

/// A body that comes from the other thread.
struct Piped(Receiver<Result<Frame<Bytes>, CalloutError>>);

impl Body for Piped {
    type Data = Bytes;
    type Error = CalloutError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CalloutError>>> {
        self.0.poll_recv(task)
    }
}

fn gone() -> CalloutError {
    CalloutError::Reset("the core that it was sent by is gone".into())
}

impl Callout for Reach {
    fn call(&self, request: CalloutRequest) -> CalloutFuture {
        let (outcome, answer) = oneshot::channel();
        let sent = self.errands.send(Errand::Call { request, outcome });
        Box::pin(async move {
            sent.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        })
    }

    fn open(&self, stream: CalloutStream) -> OpenFuture {
        let (outcome, answer) = oneshot::channel();
        let (frames, piped) = channel(FRAMES);
        let (head, body) = stream.request.into_parts();
        self.spawn(Box::pin(pump(body, frames)));
        let sent = self.errands.send(Errand::Open {
            backend: stream.backend,
            request: Request::from_parts(head, Piped(piped)),
            outcome,
        });
        Box::pin(async move {
            sent.map_err(|_| gone())?;
            let opened = answer.await.map_err(|_| gone())??;
            Ok(opened.map(|body| Box::pin(body) as CalloutBody))
        })
    }

    fn knows(&self, _: &str) -> bool {
        // The core knows, when it is asked: the outcome says so.
        true
    }

    fn spawn(&self, task: Task) {
        tokio::task::spawn_local(task);
    }

    fn sleep(&self, time: Duration) -> Task {
        Box::pin(tokio::time::sleep(time))
    }
}
