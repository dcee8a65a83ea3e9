//! Where a plugin sits on a core: the one place that owns instances.
//!
//! A seat has one resident instance at a time, which streams share. Where each stream has its own, the
//! resident sees to ticks and queues, and the streams' are copies of what it was after its start. One
//! that died is replaced, unless instances die without having served anybody, again and again.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use wayline_chain::Callout;
use wayline_model::defence::stands;
use wayline_model::plugin::{Isolation, Plugin, PluginKey};

use crate::error::StartError;
use crate::host::Host;
use crate::image::{Image, Unfit};
use crate::instance::{Instance, Recipe};
use crate::prepared::Prepared;
use crate::state::Role;

/// A plugin on this core.
pub(crate) struct Seat {
    pub(crate) recipe: Recipe,
    resident: RefCell<Option<Rc<Instance>>>,
    crashes: Cell<Crashes>,
    /// What streams' own instances are copies of.
    image: RefCell<Option<Rc<Image>>>,
    /// The crashes of streams' own instances.
    transient: Cell<Crashes>,
}

/// No instance can be had now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unavailable;

#[derive(Clone, Copy, Debug, Default)]
struct Crashes {
    /// Instances in a row that died before any stream came to its end in them.
    barren: u32,
    /// No instance is started before.
    not_before: Option<Instant>,
    /// Time spent on starting instances since then, and how many were.
    spent: Option<(Instant, Duration, u32)>,
}

/// Shortest and longest pause between two attempts to start an instance.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Of each second, how much of a core's time may go into starting instances.
const START_SHARE: Duration = Duration::from_millis(50);

/// How many instances may be started in a second, however long each takes: a trap now and then is to
/// cost the streams after it nothing, also where a module is slow to start.
const FREE_STARTS: u32 = 4;

/// How long a seat stays that no chain uses: chains are made anew when configuration changes, and the
/// plugin's state is to survive that.
const GRACE: Duration = Duration::from_secs(60);

type Key = (PluginKey, [u8; 32]);

thread_local! {
    static SEATS: RefCell<FxHashMap<Key, Rc<Seat>>> = RefCell::default();
}

impl Seat {
    /// The seat of a plugin on this core; its first user makes it and starts its instance.
    pub(crate) fn of(
        host: &Arc<Host>,
        prepared: &Arc<Prepared>,
        plugin: &Arc<Plugin>,
        callout: &Rc<dyn Callout>,
    ) -> Rc<Self> {
        let own = if stands("wasm-own-instance") {
            plugin.key
        } else {
            PluginKey([0; 32])
        };
        let key = (own, *prepared.fingerprint());
        let known = SEATS.with_borrow(|seats| seats.get(&key).cloned());
        if let Some(seat) = known
            && Arc::ptr_eq(&seat.recipe.host, host)
        {
            return seat;
        }
        let book = host.book(plugin);
        let seat = Rc::new(Self::new(Recipe {
            host: Arc::clone(host),
            prepared: Arc::clone(prepared),
            plugin: Arc::clone(plugin),
            tally: Rc::new(book.open()),
            environment: host.environment(plugin),
            book,
            callout: Rc::clone(callout),
        }));
        SEATS.with_borrow_mut(|seats| seats.insert(key, Rc::clone(&seat)));
        callout.spawn(Box::pin(keep(
            key,
            Rc::downgrade(&seat),
            Rc::clone(callout),
        )));
        // A failure is told by the first stream.
        seat.resident().ok();
        seat
    }

    fn new(recipe: Recipe) -> Self {
        Self {
            recipe,
            resident: RefCell::default(),
            crashes: Cell::default(),
            image: RefCell::default(),
            transient: Cell::default(),
        }
    }

    /// An instance for a stream.
    pub(crate) fn instance(&self) -> Result<Rc<Instance>, Unavailable> {
        match self.recipe.plugin.isolation {
            Isolation::Plugin => self.resident(),
            Isolation::Stream => self.transient(),
        }
    }

    /// A stream has left its instance.
    pub(crate) fn left(&self, instance: &Instance) {
        if self.recipe.plugin.isolation != Isolation::Stream {
            return;
        }
        let mut crashes = self.transient.get();
        if !instance.is_alive() {
            crashes.mourn(instance);
            self.transient.set(crashes);
        } else if crashes.barren > 0 {
            // It has served its stream, and with it shown that instances can.
            self.transient.set(Crashes::default());
        }
    }

    /// The instance that stays.
    fn resident(&self) -> Result<Rc<Instance>, Unavailable> {
        let mut resident = self.resident.borrow_mut();
        if let Some(instance) = &*resident {
            if instance.is_alive() {
                return Ok(Rc::clone(instance));
            }
            let mut crashes = self.crashes.get();
            crashes.mourn(instance);
            self.crashes.set(crashes);
        }
        *resident = None;
        let instance = self.guarded(&self.crashes, true, || self.start_resident())?;
        *resident = Some(Rc::clone(&instance));
        Ok(instance)
    }

    /// An instance for one stream. A resident that can not work is no reason against it.
    fn transient(&self) -> Result<Rc<Instance>, Unavailable> {
        self.resident().ok();
        let image = self.image.borrow().clone();
        // Making one is part of serving its stream; only after crashes is it a repair.
        let repairs = self.transient.get().barren > 0;
        self.guarded(&self.transient, repairs, || match &image {
            Some(image) => Instance::copy(&self.recipe, image),
            None => Instance::start(&self.recipe, Role::Transient),
        })
    }

    fn start_resident(&self) -> Result<Rc<Instance>, StartError> {
        if self.recipe.plugin.isolation == Isolation::Plugin {
            return Instance::start(&self.recipe, Role::Resident);
        }
        let (instance, image) = Instance::start_for_image(&self.recipe, Role::Resident)?;
        match image {
            Ok(image) => {
                let book = &self.recipe.book;
                tracing::debug!(
                    plugin = &*book.name,
                    bytes = image.bytes(),
                    "the instances of a Wasm plugin's streams are copies of a started one"
                );
                *self.image.borrow_mut() = Some(Rc::new(image));
            }
            Err(unfit) => self.tell_unfit(unfit),
        }
        Ok(instance)
    }

    fn tell_unfit(&self, unfit: Unfit) {
        let book = &self.recipe.book;
        if let Some(suppressed) = book.throttle.admit("image", Instant::now()) {
            tracing::info!(
                plugin = &*book.name,
                suppressed,
                "a Wasm plugin with isolation by stream is started anew for each of them, because {unfit}"
            );
        }
    }

    /// Makes an instance, as far as earlier ones did not crash too often.
    fn guarded(
        &self,
        kept: &Cell<Crashes>,
        repairs: bool,
        make: impl FnOnce() -> Result<Rc<Instance>, StartError>,
    ) -> Result<Rc<Instance>, Unavailable> {
        let mut crashes = kept.get();
        if !repairs && crashes.not_before.is_none() {
            // Nothing has to be timed.
            return make().map_err(|error| {
                self.report(&error);
                crashes.failed(Instant::now());
                kept.set(crashes);
                Unavailable
            });
        }
        let begin = Instant::now();
        let too_soon = crashes.not_before.is_some_and(|time| begin < time);
        if (too_soon || repairs && !crashes.may_spend(begin)) && stands("wasm-crash-backoff") {
            return Err(Unavailable);
        }
        let made = make();
        if let Some((_, spent, starts)) = &mut crashes.spent {
            *spent += begin.elapsed();
            *starts += 1;
        }
        if let Err(error) = &made {
            self.report(error);
            crashes.failed(Instant::now());
        }
        kept.set(crashes);
        made.map_err(|_| Unavailable)
    }

    fn report(&self, error: &StartError) {
        let book = &self.recipe.book;
        if let Some(suppressed) = book.throttle.admit("start", Instant::now()) {
            tracing::error!(
                plugin = &*book.name,
                suppressed,
                "no instance of a Wasm plugin could be started: {error}"
            );
        }
    }
}

impl Crashes {
    /// An instance has died.
    fn mourn(&mut self, instance: &Instance) {
        if instance.finished.get() > 0 {
            self.barren = 0;
            return;
        }
        self.barren += 1;
        if self.barren > 1 {
            self.not_before = Some(Instant::now() + backoff(self.barren - 2));
        }
    }

    /// An instance could not be made.
    fn failed(&mut self, now: Instant) {
        self.not_before = Some(now + backoff(self.barren));
        self.barren += 1;
    }

    /// Whether starting one more instance would leave time for requests.
    fn may_spend(&mut self, now: Instant) -> bool {
        let this_second =
            |since: Instant| now.saturating_duration_since(since) < Duration::from_secs(1);
        match self.spent {
            Some((since, spent, starts)) if this_second(since) => {
                spent < START_SHARE || starts < FREE_STARTS
            }
            _ => {
                self.spent = Some((now, Duration::ZERO, 0));
                true
            }
        }
    }
}

/// Whether this thread is about to end, so that nothing of it may be called any more.
pub(crate) fn is_thread_ending() -> bool {
    SEATS.try_with(|_| ()).is_err()
}

fn backoff(failures: u32) -> Duration {
    BACKOFF
        .0
        .saturating_mul(1 << failures.min(6))
        .min(BACKOFF.1)
}

/// Gives a seat up that no chain and no stream has used for a while.
async fn keep(key: Key, seat: Weak<Seat>, callout: Rc<dyn Callout>) {
    let mut idle = false;
    loop {
        callout.sleep(GRACE / 2).await;
        let unused = match seat.upgrade() {
            // The table's, and ours.
            Some(seat) => Rc::strong_count(&seat) <= 2,
            None => return,
        };
        if unused && idle && stands("wasm-retirement") {
            let seat = SEATS.with_borrow_mut(|seats| seats.remove(&key));
            drop(seat);
            return;
        }
        idle = unused;
    }
}
