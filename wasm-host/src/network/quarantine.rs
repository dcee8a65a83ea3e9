//! Connections of a plugin in quarantine: on the core a filter that waits, on the plugin's thread the
//! connection as on any core. Events and answers go over the wall by post.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use wayline_chain::{
    Callout, Closer, Connection, ConnectionContext, ConnectionFilter, Direction, NetworkEnd,
    NetworkStep, Routed,
};
use wayline_model::plugin::{FailStrategy, Plugin};

use super::connection::WasmConnection;
use super::{Opened, WasmNetworkFilter, failed};
use crate::host::Host;
use crate::instance::Recipe;
use crate::place::Place;
use crate::prepared::Prepared;
use crate::quarantine::{Reach, Seated};

/// A connection whose plugin works on a thread of its own.
pub(super) struct Guest {
    recipe: Recipe,
    events: UnboundedSender<Event>,
    post: Arc<Post>,
    /// Number of the last event of each direction.
    numbers: [u64; 2],
    last: u64,
    over: bool,
    _seated: Seated,
}

/// Something to tell the module.
struct Event {
    /// Answers with the number of the last event of their direction are the current ones.
    number: u64,
    kind: Kind,
    upstream: Option<Routed>,
    filter_state: FilterState,
}

enum Kind {
    New,
    Data {
        direction: Direction,
        data: Bytes,
        end: bool,
    },
    UpstreamClosed(Closer),
    Complete(Closer),
}

type FilterState = Vec<(Box<[u8]>, Bytes)>;

/// What the module did.
struct Answer {
    number: u64,
    step: NetworkStep,
    held: Bytes,
    /// Whether it wants to hear nothing more.
    over: bool,
    filter_state: FilterState,
}

/// Answers on their way back to the core.
#[derive(Default)]
struct Post {
    letters: Mutex<Letters>,
    waker: AtomicWaker,
}

#[derive(Default)]
struct Letters {
    lanes: [Option<Answer>; 2],
    end: Option<NetworkEnd>,
    /// Nobody is there any more.
    gone: bool,
}

impl Post {
    fn letters(&self) -> MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, write: impl FnOnce(&mut Letters)) {
        write(&mut self.letters());
        self.waker.wake();
    }
}

impl Guest {
    /// Takes a new connection to the plugin's thread; none where there is no room, or no thread.
    pub(super) fn admit(
        recipe: &Recipe,
        place: &Rc<Place>,
        connection: &Rc<Connection>,
    ) -> Option<Self> {
        let quarantine = &recipe.book.quarantine;
        let seated = quarantine.enter()?;
        let (events, inbox) = unbounded_channel();
        let post = Arc::<Post>::default();
        let admission = Admission {
            host: Arc::clone(&recipe.host),
            prepared: Arc::clone(&recipe.prepared),
            plugin: Arc::clone(&recipe.plugin),
            place: (**place).clone(),
            connection: (**connection).clone(),
            reach: Reach::of_this_core(&recipe.callout),
            events: inbox,
            post: Open(Arc::clone(&post)),
        };
        let visit = Box::new(move || Box::pin(attend(admission)) as Pin<Box<_>>);
        if let Err(error) = quarantine.admit(&recipe.plugin.name, visit) {
            tracing::error!(plugin = &*recipe.plugin.name, %error, "no thread for a plugin in quarantine");
            return None;
        }
        Some(Self {
            recipe: recipe.clone(),
            events,
            post,
            numbers: [0; 2],
            last: 0,
            over: false,
            _seated: seated,
        })
    }

    fn send(&mut self, context: &ConnectionContext, kind: Kind) -> bool {
        self.last += 1;
        let event = Event {
            number: self.last,
            kind,
            upstream: context.upstream.clone(),
            filter_state: context.filter_state.clone(),
        };
        self.events.send(event).is_ok()
    }

    /// Tells the other side, and waits for its answer.
    fn tell(
        &mut self,
        context: &ConnectionContext,
        direction: Direction,
        kind: Kind,
    ) -> NetworkStep {
        if self.over {
            return NetworkStep::Continue;
        }
        if !self.send(context, kind) {
            return self.fail();
        }
        self.numbers[index(direction)] = self.last;
        NetworkStep::Hold
    }

    fn fail(&mut self) -> NetworkStep {
        self.over = true;
        let book = &self.recipe.book;
        if self.recipe.plugin.fail_strategy == FailStrategy::FailOpen {
            book.bypassed();
            return NetworkStep::Continue;
        }
        book.refused();
        NetworkStep::End(failed())
    }
}

impl ConnectionFilter for Guest {
    fn new_connection(&mut self, context: &mut ConnectionContext) -> NetworkStep {
        self.tell(context, Direction::Request, Kind::New)
    }

    fn data(
        &mut self,
        context: &mut ConnectionContext,
        direction: Direction,
        data: &mut Bytes,
        end: bool,
    ) -> NetworkStep {
        let kind = Kind::Data {
            direction,
            data: data.clone(),
            end,
        };
        self.tell(context, direction, kind)
    }

    fn poll_resume(
        &mut self,
        context: &mut ConnectionContext,
        direction: Direction,
        held: &mut Bytes,
        task: &mut Context<'_>,
    ) -> Poll<NetworkStep> {
        if self.over {
            return Poll::Ready(NetworkStep::Continue);
        }
        self.post.waker.register(task.waker());
        let (letter, gone) = {
            let mut letters = self.post.letters();
            (letters.lanes[index(direction)].take(), letters.gone)
        };
        match letter {
            Some(answer) if answer.number == self.numbers[index(direction)] => {
                self.over = answer.over;
                context.filter_state = answer.filter_state;
                *held = answer.held;
                Poll::Ready(answer.step)
            }
            _ if gone => Poll::Ready(self.fail()),
            // It was about what came before the last event, whose answer is on its way.
            _ => Poll::Pending,
        }
    }

    fn poll_end(&mut self, _: &mut ConnectionContext, task: &mut Context<'_>) -> Poll<NetworkEnd> {
        if self.over {
            return Poll::Pending;
        }
        self.post.waker.register(task.waker());
        match self.post.letters().end.take() {
            Some(end) => Poll::Ready(end),
            None => Poll::Pending,
        }
    }

    fn upstream_closed(&mut self, context: &mut ConnectionContext, by: Closer) {
        // Should nobody be there, the next event finds out.
        self.send(context, Kind::UpstreamClosed(by));
    }

    fn complete(&mut self, context: &mut ConnectionContext, by: Closer) {
        self.send(context, Kind::Complete(by));
    }
}

/// A connection that comes in.
struct Admission {
    host: Arc<Host>,
    prepared: Arc<Prepared>,
    plugin: Arc<Plugin>,
    place: Place,
    connection: Connection,
    reach: Reach,
    events: UnboundedReceiver<Event>,
    post: Open,
}

/// Tells the core when it is dropped, however that came about.
struct Open(Arc<Post>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.put(|letters| letters.gone = true);
    }
}

/// One connection from its first event to its last.
async fn attend(admission: Admission) {
    let Admission {
        host,
        prepared,
        plugin,
        place,
        connection,
        reach,
        mut events,
        post,
    } = admission;
    let callout: Rc<dyn Callout> = Rc::new(reach);
    let mut patient = Patient {
        filter: WasmNetworkFilter::at(&host, &prepared, &plugin, &callout, place),
        context: ConnectionContext::new(Rc::new(connection)),
        connection: None,
        lanes: [None, None],
        over: false,
    };
    while let Some(event) = patient.next(&mut events, &post.0).await {
        if let Kind::Complete(by) = event.kind {
            patient.complete(by);
            return;
        }
        patient.hear(event, &post.0);
    }
    // The core has gone without a word.
    patient.complete(Closer::Local);
}

/// A connection in treatment.
struct Patient {
    filter: WasmNetworkFilter,
    context: ConnectionContext,
    connection: Option<WasmConnection>,
    /// What is held of the directions that pause, and the event that did.
    lanes: [Option<(u64, Bytes)>; 2],
    over: bool,
}

const DIRECTIONS: [Direction; 2] = [Direction::Request, Direction::Response];

impl Patient {
    /// The next event; meanwhile directions that pause may go on, and the module may end it.
    async fn next(&mut self, events: &mut UnboundedReceiver<Event>, post: &Post) -> Option<Event> {
        poll_fn(|task| {
            if let Poll::Ready(event) = events.poll_recv(task) {
                return Poll::Ready(event);
            }
            for direction in DIRECTIONS {
                self.poll_lane(direction, post, task);
            }
            if let Some(connection) = &mut self.connection
                && let Poll::Ready(end) = connection.poll_end(&mut self.context, task)
            {
                post.put(|letters| letters.end = Some(end));
            }
            Poll::Pending
        })
        .await
    }

    fn poll_lane(&mut self, direction: Direction, post: &Post, task: &mut Context<'_>) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        let Some((number, mut held)) = self.lanes[index(direction)].take() else {
            return;
        };
        match connection.poll_resume(&mut self.context, direction, &mut held, task) {
            Poll::Pending => self.lanes[index(direction)] = Some((number, held)),
            Poll::Ready(step) => self.answer(post, direction, number, step, held),
        }
    }

    fn hear(&mut self, event: Event, post: &Post) {
        self.context.upstream = event.upstream;
        self.context.filter_state = event.filter_state;
        let (direction, step, held) = match event.kind {
            Kind::New => (Direction::Request, self.meet(), Bytes::new()),
            Kind::Data {
                direction,
                mut data,
                end,
            } => {
                let step = match &mut self.connection {
                    Some(connection) => {
                        connection.data(&mut self.context, direction, &mut data, end)
                    }
                    None => NetworkStep::Continue,
                };
                (direction, step, data)
            }
            Kind::UpstreamClosed(by) => {
                if let Some(connection) = &mut self.connection {
                    connection.upstream_closed(&mut self.context, by);
                }
                return;
            }
            Kind::Complete(_) => return,
        };
        self.answer(post, direction, event.number, step, held);
    }

    fn meet(&mut self) -> NetworkStep {
        match self.filter.open_here() {
            Opened::Here(mut connection) => {
                let step = connection.new_connection(&mut self.context);
                self.connection = Some(connection);
                step
            }
            Opened::Unavailable => {
                self.over = true;
                let end = self.filter.unavailable();
                end.map_or(NetworkStep::Continue, NetworkStep::End)
            }
        }
    }

    /// Lets the core know, and keeps what is held where the direction pauses.
    fn answer(
        &mut self,
        post: &Post,
        direction: Direction,
        number: u64,
        step: NetworkStep,
        held: Bytes,
    ) {
        let pauses = matches!(step, NetworkStep::Pause | NetworkStep::Hold);
        self.lanes[index(direction)] = pauses.then(|| (number, held.clone()));
        let connection = self.connection.as_ref();
        let answer = Answer {
            number,
            step,
            held,
            over: self.over || connection.is_some_and(WasmConnection::is_over),
            filter_state: self.context.filter_state.clone(),
        };
        post.put(|letters| letters.lanes[index(direction)] = Some(answer));
    }

    fn complete(mut self, by: Closer) {
        if let Some(connection) = &mut self.connection {
            connection.complete(&mut self.context, by);
        }
    }
}

fn index(direction: Direction) -> usize {
    match direction {
        Direction::Request => 0,
        Direction::Response => 1,
    }
}
