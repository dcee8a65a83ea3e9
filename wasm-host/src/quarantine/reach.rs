//! How a module on a thread of its own reaches backends: by the core that one of its streams came
//! from.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use wayline_chain::{Callout, CalloutError, CalloutFuture, CalloutRequest, Task};

type Outcome = Result<(Response<Bytes>, HeaderMap), CalloutError>;

/// A request, and who waits for its outcome.
struct Errand {
    request: CalloutRequest,
    outcome: oneshot::Sender<Outcome>,
}

/// The way to the backends of a core.
#[derive(Clone)]
pub(super) struct Reach {
    errands: UnboundedSender<Errand>,
}

thread_local! {
    static ERRANDS: std::cell::RefCell<Option<Reach>> = const { std::cell::RefCell::new(None) };
}

impl Reach {
    /// The way to this core; its first user makes it.
    pub(super) fn of_this_core(callout: &Rc<dyn Callout>) -> Self {
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
                let call = core.call(errand.request);
                core.spawn(Box::pin(async move {
                    let mut outcome = errand.outcome;
                    tokio::select! {
                        biased;
                        // Nobody waits any more, which cancels the call.
                        () = outcome.closed() => {}
                        answer = call => {
                            let _ = outcome.send(answer);
                        }
                    }
                }));
            }
        }));
        Self { errands }
    }
}

impl Callout for Reach {
    fn call(&self, request: CalloutRequest) -> CalloutFuture {
        let (outcome, answer) = oneshot::channel();
        let sent = self.errands.send(Errand { request, outcome });
        Box::pin(async move {
            let gone = || CalloutError::Reset("the core that it was sent by is gone".into());
            sent.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
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
