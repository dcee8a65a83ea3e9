//! One running module: its store, its callbacks, and the streams inside.
//!
//! An instance belongs to one core and is entered by one caller at a time. What it is asked to do
//! while it runs (resume a stream, answer it, reach out) is remembered and done afterwards: nobody
//! calls into a module from within a call.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustc_hash::FxHashMap;
use wasmtime::Store;
use wayline_chain::{Callout, RequestContext};
use wayline_model::plugin::Plugin;

use crate::book::{Origin, PluginBook, SAMPLED, Tally};
use crate::budget::{self, Budget};
use crate::callbacks::{Callback, Callbacks, bind};
use crate::callouts::{self, Callouts, Delivery, Event};
use crate::control::StreamControl;
use crate::error::StartError;
use crate::fault::{Exit, Fault};
use crate::host::Host;
use crate::image::{Image, Pristine, Unfit};
use crate::prepared::{Entry, Prepared};
use crate::seat::is_thread_ending;
use crate::state::{Exchange, Limits, ROOT, Role, State};

/// What instances are made from.
#[derive(Clone)]
pub(crate) struct Recipe {
    pub(crate) host: Arc<Host>,
    pub(crate) prepared: Arc<Prepared>,
    pub(crate) plugin: Arc<Plugin>,
    pub(crate) book: Arc<PluginBook>,
    pub(crate) tally: Rc<Tally>,
    /// `NAME=value`.
    pub(crate) environment: Arc<[String]>,
    pub(crate) callout: Rc<dyn Callout>,
}

/// Where an instance is found by tasks that it may not outlive.
pub(crate) type Home = Rc<RefCell<Weak<Instance>>>;

/// A running module.
pub(crate) struct Instance {
    running: RefCell<Option<Running>>,
    alive: Cell<bool>,
    /// Streams that came to their end in it.
    pub(crate) finished: Cell<u64>,
}

/// The instance from within.
pub(crate) struct Running {
    store: Store<State>,
    callbacks: Callbacks,
    /// Calls so far, by which some are chosen to be timed.
    calls: u64,
    next_stream: u32,
    /// Bytes of memory that the tally knows of.
    counted: usize,
}

/// The instance has trapped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dead;

/// How long a root that is not done yet may take to end its work.
const FAREWELL: Duration = Duration::from_secs(5);

impl Instance {
    /// Instantiates the module and takes it through its start and configuration.
    pub(crate) fn start(recipe: &Recipe, role: Role) -> Result<Rc<Self>, StartError> {
        Self::settle(|home| Running::start(recipe, home, role))
    }

    /// The same, with what the instance remembers afterwards.
    pub(crate) fn start_for_image(
        recipe: &Recipe,
        role: Role,
    ) -> Result<(Rc<Self>, Result<Image, Unfit>), StartError> {
        let mut image = Err(Unfit::State);
        let instance = Self::settle(|home| {
            let (running, made) = Running::start_for_image(recipe, home, role)?;
            image = made;
            Ok(running)
        })?;
        Ok((instance, image))
    }

    /// Makes an instance for a stream that remembers what an image says.
    pub(crate) fn copy(recipe: &Recipe, image: &Image) -> Result<Rc<Self>, StartError> {
        Self::settle(|home| Running::copy(recipe, home, image))
    }

    /// Whether it has not trapped.
    pub(crate) fn is_alive(&self) -> bool {
        self.alive.get()
    }

    /// Does something inside. A fault ends the instance and every stream in it.
    pub(crate) fn enter<R>(
        &self,
        visit: impl FnOnce(&mut Running) -> Result<R, Fault>,
    ) -> Result<R, Dead> {
        if !self.alive.get() {
            return Err(Dead);
        }
        let mut running = self.running.try_borrow_mut().map_err(|_| Dead)?;
        let inside = running.as_mut().ok_or(Dead)?;
        // False until it went well: should our own code panic in there, nobody enters again.
        self.alive.set(false);
        let result = visit(inside);
        if let Ok(result) = result {
            self.alive.set(true);
            return Ok(result);
        }
        let streams: Vec<_> = inside.state().streams.values().cloned().collect();
        drop(running);
        for stream in streams {
            stream.wake_all();
        }
        Err(Dead)
    }

    /// A callout has ended: its stream takes it where it waits, else the module hears of it at once.
    pub(crate) fn deliver(&self, delivery: Delivery) {
        // A dead instance has no streams that could still wait for it.
        let _: Result<(), Dead> = self.enter(|running| {
            let owner = running.state().callouts.owner(&delivery);
            let stream = running.state().streams.get(&owner).cloned();
            match stream {
                Some(stream) if stream.is_paused() => stream.deliver(delivery),
                Some(stream) => {
                    while let Some(earlier) = stream.take_delivery() {
                        running.deliver(earlier)?;
                    }
                    running.deliver(delivery)?;
                }
                None => running.deliver(delivery)?,
            }
            Ok(())
        });
    }

    fn settle(
        make: impl FnOnce(Home) -> Result<Running, StartError>,
    ) -> Result<Rc<Self>, StartError> {
        let home = Home::default();
        let running = make(Rc::clone(&home))?;
        let instance = Rc::new(Self::of(running));
        *home.borrow_mut() = Rc::downgrade(&instance);
        Ok(instance)
    }

    fn of(running: Running) -> Self {
        Self {
            running: RefCell::new(Some(running)),
            alive: Cell::new(true),
            finished: Cell::new(0),
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let alive = self.alive.get();
        let Some(mut running) = self.running.get_mut().take() else {
            return;
        };
        let alive = alive && !is_thread_ending();
        if alive
            && !std::mem::replace(&mut running.state_mut().retiring, true)
            && let Ok(false) = running.done(ROOT)
        {
            running.retire();
            return;
        }
        if alive {
            running.delete(ROOT).ok();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let tally = &self.store.data().tally;
        tally.resized(self.counted, 0);
        tally.ended();
    }
}

impl Running {
    fn start(recipe: &Recipe, home: Home, role: Role) -> Result<Self, StartError> {
        Made::of(recipe, home, role)?.start(recipe)
    }

    fn start_for_image(
        recipe: &Recipe,
        home: Home,
        role: Role,
    ) -> Result<(Self, Result<Image, Unfit>), StartError> {
        let made = Made::of(recipe, home, role)?;
        let (Some(parts), Some(memory)) = (&recipe.prepared.parts, made.store.data().memory) else {
            return Ok((made.start(recipe)?, Err(Unfit::State)));
        };
        let instance = made.instance;
        let pristine = Pristine::of(memory, &made.store);
        let mut running = made.start(recipe)?;
        let image = Image::of(parts, &pristine, memory, &instance, &mut running.store);
        Ok((running, image))
    }

    /// What is made so was never started, nor has it to be.
    fn copy(recipe: &Recipe, home: Home, image: &Image) -> Result<Self, StartError> {
        let failed = |error: wasmtime::Error| StartError::Instantiate(format!("{error:#}").into());
        let mut made = Made::of(recipe, home, Role::Transient)?;
        if let (Some(parts), Some(memory)) = (&recipe.prepared.parts, made.store.data().memory) {
            image
                .give(parts, memory, &made.instance, &mut made.store)
                .map_err(failed)?;
        }
        let mut running = made.bind(recipe, Origin::Image).map_err(failed)?;
        running.state_mut().starting = false;
        Ok(running)
    }

    /// Makes the root context, and tells it its configuration.
    fn configure(&mut self) -> Result<(), StartError> {
        let trap = |fault: Fault| StartError::Trap {
            callback: fault.callback.name(),
            reason: fault.reason,
        };
        self.create(ROOT, 0).map_err(trap)?;
        let size = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let vm_size = 0;
        let started = self.call(Callback::vm_start, ROOT, |callbacks, store| {
            Some(callbacks.vm_start.as_ref()?.call(store, (ROOT, vm_size)))
        });
        if started.map_err(trap)? == Some(0) {
            return Err(StartError::Refused {
                callback: Callback::vm_start.name(),
            });
        }
        let size = size(&self.state().plugin.configuration);
        let configured = self.call(Callback::configure, ROOT, |callbacks, store| {
            Some(callbacks.configure.as_ref()?.call(store, (ROOT, size)))
        });
        if configured.map_err(trap)? == Some(0) {
            return Err(StartError::Refused {
                callback: Callback::configure.name(),
            });
        }
        self.state_mut().starting = false;
        Ok(())
    }

    /// Lets the root end its work: callouts and ticks go on reaching it at its old home.
    fn retire(self) {
        let state = self.state();
        let (callout, home) = (Rc::clone(&state.callout), Rc::clone(&state.callouts.home));
        let done = Rc::clone(&state.done);
        let farewell = Rc::new(Instance::of(self));
        *home.borrow_mut() = Rc::downgrade(&farewell);
        let mut time = callout.sleep(FAREWELL);
        callout.spawn(Box::pin(async move {
            poll_fn(|task| match done.poll(task) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => time.as_mut().poll(task),
            })
            .await;
            drop(farewell);
        }));
    }

    pub(crate) fn state(&self) -> &State {
        self.store.data()
    }

    pub(crate) fn state_mut(&mut self) -> &mut State {
        self.store.data_mut()
    }

    /// Calls into the module, within its budget. Nothing where the callback is not exported.
    pub(crate) fn call<R>(
        &mut self,
        callback: Callback,
        context: u32,
        call: impl FnOnce(&Callbacks, &mut Store<State>) -> Option<wasmtime::Result<R>>,
    ) -> Result<Option<R>, Fault> {
        let state = self.store.data_mut();
        state.enter(callback, context);
        let granted = if callback.is_on_request_path() {
            state.plugin.limits.callback
        } else {
            state.plugin.limits.background
        };
        budget::grant(&mut self.store, granted);
        self.calls = self.calls.wrapping_add(1);
        let begin = self.calls.is_multiple_of(SAMPLED).then(Instant::now);
        let Some(result) = call(&self.callbacks, &mut self.store) else {
            return Ok(None);
        };
        self.state().tally.called(callback);
        if let Some(begin) = begin {
            let took = begin.elapsed();
            self.state().tally.took(callback, took, SAMPLED);
            self.count_memory();
        }
        let error = match result {
            Ok(result) => return Ok(Some(result)),
            Err(error) => error,
        };
        let state = self.store.data();
        let request_id = state.exchange.context.request().headers.get("x-request-id");
        let request_id = request_id.and_then(|id| id.to_str().ok());
        Err(Fault::new(&state.book, callback, &error, request_id))
    }

    fn count_memory(&mut self) {
        let state = self.store.data();
        state.tally.resized(self.counted, state.limits.used);
        self.counted = state.limits.used;
    }

    /// Makes a context for a stream.
    pub(crate) fn open(&mut self, control: &Rc<StreamControl>) -> Result<u32, Fault> {
        let id = self.next_id();
        self.store.data_mut().streams.insert(id, Rc::clone(control));
        self.create(id, ROOT)?;
        Ok(id)
    }

    /// Ends a stream's context.
    pub(crate) fn close(&mut self, id: u32) -> Result<(), Fault> {
        let ended = self.end(id);
        self.store.data_mut().streams.remove(&id);
        ended
    }

    fn end(&mut self, id: u32) -> Result<(), Fault> {
        self.call(Callback::log, id, |callbacks, store| {
            Some(callbacks.log.as_ref()?.call(store, id))
        })?;
        self.done(id)?;
        self.delete(id)
    }

    /// Hands an exchange to the module, until [`Running::restore`].
    pub(crate) fn lend(&mut self, owner: u32, context: &mut RequestContext) {
        let exchange = &mut self.store.data_mut().exchange;
        exchange.owner = owner;
        std::mem::swap(&mut exchange.context, context);
    }

    /// Takes the exchange back.
    pub(crate) fn restore(&mut self, context: &mut RequestContext) {
        let exchange = &mut self.store.data_mut().exchange;
        exchange.owner = 0;
        std::mem::swap(&mut exchange.context, context);
    }

    /// Tells the module how a callout ended.
    pub(crate) fn deliver(&mut self, delivery: Delivery) -> Result<(), Fault> {
        let state = self.store.data_mut();
        let (ended, event) = state.callouts.accept(delivery);
        if let Some(owner) = ended {
            callouts::settle(state, owner);
        }
        let Some(event) = event else {
            return Ok(());
        };
        let told = self.tell(event);
        self.store.data_mut().callouts.forget();
        told
    }

    fn tell(&mut self, event: Event) -> Result<(), Fault> {
        let told = match event {
            Event::HttpResponse {
                token,
                headers,
                body,
                trailers,
            } => self.call(Callback::http_call_response, ROOT, |callbacks, store| {
                let callback = callbacks.http_call_response.as_ref()?;
                Some(callback.call(store, (ROOT, token, headers, body, trailers)))
            }),
            Event::InitialMetadata { token, headers } => {
                self.call(Callback::grpc_initial_metadata, ROOT, |callbacks, store| {
                    let callback = callbacks.grpc_initial_metadata.as_ref()?;
                    Some(callback.call(store, (ROOT, token, headers)))
                })
            }
            Event::Message { token, size } => {
                self.call(Callback::grpc_receive, ROOT, |callbacks, store| {
                    let callback = callbacks.grpc_receive.as_ref()?;
                    Some(callback.call(store, (ROOT, token, size)))
                })
            }
            Event::TrailingMetadata { token, headers } => self.call(
                Callback::grpc_trailing_metadata,
                ROOT,
                |callbacks, store| {
                    let callback = callbacks.grpc_trailing_metadata.as_ref()?;
                    Some(callback.call(store, (ROOT, token, headers)))
                },
            ),
            Event::Close { token, code } => {
                let state = self.store.data_mut();
                let message = state.callouts.message.take().unwrap_or_default();
                state.status = (code, message);
                self.call(Callback::grpc_close, ROOT, |callbacks, store| {
                    let callback = callbacks.grpc_close.as_ref()?;
                    Some(callback.call(store, (ROOT, token, code)))
                })
            }
        };
        told.map(drop)
    }

    fn create(&mut self, id: u32, parent: u32) -> Result<(), Fault> {
        self.call(Callback::context_create, id, |callbacks, store| {
            Some(callbacks.context_create.as_ref()?.call(store, (id, parent)))
        })
        .map(drop)
    }

    /// Whether that context is done.
    pub(crate) fn done(&mut self, id: u32) -> Result<bool, Fault> {
        let done = self.call(Callback::done, id, |callbacks, store| {
            Some(callbacks.done.as_ref()?.call(store, id))
        })?;
        Ok(done != Some(0))
    }

    pub(crate) fn delete(&mut self, id: u32) -> Result<(), Fault> {
        self.call(Callback::delete, id, |callbacks, store| {
            Some(callbacks.delete.as_ref()?.call(store, id))
        })
        .map(drop)
    }

    fn next_id(&mut self) -> u32 {
        loop {
            self.next_stream = self.next_stream.wrapping_add(1).max(ROOT + 1);
            if !self.store.data().streams.contains_key(&self.next_stream) {
                return self.next_stream;
            }
        }
    }
}

/// An instance before anything of it ran.
struct Made {
    store: Store<State>,
    instance: wasmtime::Instance,
}

impl Made {
    fn of(recipe: &Recipe, home: Home, role: Role) -> Result<Self, StartError> {
        let prepared = &recipe.prepared;
        let mut store = Store::new(prepared.engine.inner(), state(recipe, home, role)?);
        store.limiter(|state| &mut state.limits);
        budget::install(&mut store);
        budget::grant(&mut store, recipe.plugin.limits.background);
        let instance = match prepared.pre.instantiate(&mut store) {
            Ok(instance) => instance,
            Err(error) if error.is::<wasmtime::Trap>() => return Err(trap(recipe, &error)),
            Err(error) => return Err(StartError::Instantiate(format!("{error:#}").into())),
        };
        let memory = instance
            .get_module_export(&mut store, &prepared.memory)
            .and_then(wasmtime::Extern::into_memory);
        store.data_mut().memory = memory;
        Ok(Self { store, instance })
    }

    /// Takes the module through its entry and its configuration.
    fn start(self, recipe: &Recipe) -> Result<Running, StartError> {
        let trap = |error: wasmtime::Error| trap(recipe, &error);
        let instance = self.instance;
        let mut running = self.bind(recipe, Origin::Module).map_err(trap)?;
        enter_module(&recipe.prepared.entry, &instance, &mut running.store).map_err(trap)?;
        running.configure()?;
        Ok(running)
    }

    fn bind(mut self, recipe: &Recipe, origin: Origin) -> wasmtime::Result<Running> {
        let (prepared, store) = (&recipe.prepared, &mut self.store);
        store.data_mut().allocator = Some(bind(&prepared.allocator, &self.instance, store)?);
        let callbacks = Callbacks::of(&prepared.exported, &self.instance, store)?;
        recipe.tally.started(origin);
        let mut running = Running {
            store: self.store,
            callbacks,
            calls: 0,
            next_stream: ROOT,
            counted: 0,
        };
        running.count_memory();
        Ok(running)
    }
}

fn trap(recipe: &Recipe, error: &wasmtime::Error) -> StartError {
    let fault = Fault::new(&recipe.book, Callback::entry, error, None);
    StartError::Trap {
        callback: fault.callback.name(),
        reason: fault.reason,
    }
}

impl Callback {
    /// Whether a request waits for it.
    fn is_on_request_path(self) -> bool {
        !matches!(
            self,
            Self::entry | Self::vm_start | Self::configure | Self::tick | Self::queue_ready
        )
    }
}

fn state(recipe: &Recipe, home: Home, role: Role) -> Result<State, StartError> {
    let limits = &recipe.plugin.limits;
    Ok(State {
        memory: None,
        allocator: None,
        allocating: false,
        trapped: None,
        limits: Limits {
            memory: usize::try_from(limits.memory).unwrap_or(usize::MAX),
            refused: false,
            used: 0,
        },
        budget: Budget::default(),
        scratch: Vec::new(),
        host: Arc::clone(&recipe.host),
        plugin: Arc::clone(&recipe.plugin),
        tally: Rc::clone(&recipe.tally),
        book: Arc::clone(&recipe.book),
        abi: recipe.prepared.abi(),
        callout: Rc::clone(&recipe.callout),
        callback: Callback::entry,
        current: 0,
        effective: 0,
        streams: FxHashMap::default(),
        exchange: Exchange::nobodys()?,
        callouts: Callouts::new(home),
        status: (0, Bytes::new()),
        arguments: Bytes::new(),
        tick_period: 0,
        metrics: Vec::new(),
        queues: Vec::new(),
        listener: recipe.host.next_listener(),
        properties: Vec::new(),
        ticking: false,
        retiring: false,
        done: Rc::default(),
        environment: Arc::clone(&recipe.environment),
        saw_chance: false,
        role,
        starting: true,
    })
}

fn enter_module(
    entry: &Entry,
    instance: &wasmtime::Instance,
    store: &mut Store<State>,
) -> wasmtime::Result<()> {
    match entry {
        Entry::Reactor {
            initialize,
            main,
            main_void,
        } => {
            let function = bind::<(), ()>(initialize, instance, store)?;
            leave(function.call(&mut *store, ()))?;
            if let Some(main) = main {
                let function = bind::<(u32, u32), u32>(main, instance, store)?;
                leave(function.call(&mut *store, (0, 0)).map(drop))?;
            } else if let Some(main) = main_void {
                let function = bind::<(), u32>(main, instance, store)?;
                leave(function.call(&mut *store, ()).map(drop))?;
            }
            Ok(())
        }
        Entry::Command(start) => {
            let function = bind::<(), ()>(start, instance, store)?;
            leave(function.call(&mut *store, ()))
        }
        Entry::None => Ok(()),
    }
}

/// `proc_exit(0)` is a way to end a start function.
fn leave(result: wasmtime::Result<()>) -> wasmtime::Result<()> {
    match result {
        Err(error) if matches!(error.downcast_ref(), Some(Exit(0))) => Ok(()),
        result => result,
    }
}
