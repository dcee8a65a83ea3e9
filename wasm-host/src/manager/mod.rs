//! From the plugins that snapshots want to verdicts on them.
//!
//! Owns which modules are loaded: each plugin that a snapshot wants is obtained, compiled and started
//! once, off the data path and without waiting for any other; what came of it is published as
//! [`Verdicts`], with which the next snapshot is made. Where there is none after 15 s, failing is the
//! verdict until there is a better one. What failed is tried again, what may change is looked at
//! again, and a module that can not take the place of a good one leaves it there.
//!
//! Refuses to know how a module is obtained and started, which is a [`Load`]er's business, and what is
//! done with verdicts.

mod metrics;
mod shelf;
mod tend;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use wayline_model::Snapshot;
use wayline_model::plugin::{Plugin, PluginKey, Verdict, Verdicts};

pub use metrics::ManagerMetrics;
pub use shelf::Shelf;

/// How modules are obtained and started.
pub trait Load: Send + Sync + 'static {
    /// A module that was compiled.
    type Compiled: Send + Sync + 'static;
    /// A module of which instances can be made.
    type Module: Send + Sync + 'static;

    /// The plugin's module, compiled.
    fn obtain(
        &self,
        plugin: &Arc<Plugin>,
    ) -> impl Future<Output = Result<Obtained<Self::Compiled>, LoadFailure>> + Send;

    /// Makes a compiled module ready and tries the plugin once. Takes its time: called on a thread that
    /// may be blocked.
    fn start(
        &self,
        plugin: &Arc<Plugin>,
        compiled: &Arc<Self::Compiled>,
    ) -> Result<Self::Module, LoadFailure>;
}

/// A module that was obtained.
#[derive(Clone, Debug)]
pub struct Obtained<C> {
    /// SHA-256 of the module's bytes, 64 hex digits.
    pub digest: Arc<str>,
    /// The module.
    pub compiled: Arc<C>,
}

/// Why a plugin can not run.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct LoadFailure {
    /// One sentence, with a remedy.
    pub reason: Arc<str>,
    /// Whether trying again may help without anybody changing anything.
    pub retriable: bool,
    /// `result` of Istio's `wasm_remote_fetch_count`; empty where nothing was fetched.
    pub fetch_result: &'static str,
}

/// Bounds on time.
#[derive(Clone, Copy, Debug)]
pub struct ManagerSettings {
    /// Without a verdict for this long, failing is the verdict; default 15 s.
    pub first_verdict: Duration,
    /// How often an image or URL that may change is looked at; default 5 min.
    pub refresh: Duration,
    /// How often a file is looked at; default 2 s.
    pub refresh_file: Duration,
    /// Shortest and longest pause before something is tried again; default 1 s and 60 s.
    pub backoff: (Duration, Duration),
    /// How long a module that nothing wants any more is kept, because a core may still work by an older
    /// snapshot, and people undo edits; default 60 s.
    pub grace: Duration,
    /// Plugins that are started at the same time; default the cores of the machine.
    pub parallel: usize,
}

impl Default for ManagerSettings {
    fn default() -> Self {
        Self {
            first_verdict: Duration::from_secs(15),
            refresh: Duration::from_secs(5 * 60),
            refresh_file: Duration::from_secs(2),
            backoff: (Duration::from_secs(1), Duration::from_secs(60)),
            grace: Duration::from_secs(60),
            parallel: thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// [`manage`] on a thread of its own.
///
/// # Errors
/// Where the system has no thread or no event loop for it.
pub fn start<L: Load>(
    loader: Arc<L>,
    shelf: Arc<Shelf<L::Module>>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    publish: impl Fn(Verdicts) + Send + 'static,
    metrics: ManagerMetrics,
    settings: ManagerSettings,
) -> io::Result<JoinHandle<()>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new()
        .name("wayline-wasm".to_owned())
        .spawn(move || {
            let managing = manage(loader, shelf, snapshots, publish, metrics, settings);
            runtime.block_on(managing);
            // A compiler may still be at work.
            runtime.shutdown_background();
        })
}

/// Loads what snapshots want and tells `publish` what came of it, all that is known each time. Ends
/// when nobody publishes snapshots any more.
pub async fn manage<L: Load>(
    loader: Arc<L>,
    shelf: Arc<Shelf<L::Module>>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    publish: impl Fn(Verdicts),
    metrics: ManagerMetrics,
    settings: ManagerSettings,
) {
    let (news, mut outcomes) = mpsc::unbounded_channel();
    let mut manager = Manager {
        tools: Arc::new(tend::Tools {
            loader,
            settings,
            metrics: metrics.clone(),
            started_at_once: Semaphore::new(settings.parallel.max(1)),
            news,
        }),
        shelf,
        metrics,
        plugins: HashMap::new(),
        retired: Vec::new(),
    };
    let first = Arc::clone(&snapshots.borrow_and_update());
    manager.follow(&first);
    loop {
        let timer = manager.next_deadline();
        let mut changed = false;
        tokio::select! {
            alive = snapshots.changed() => {
                if alive.is_err() {
                    return;
                }
                let snapshot = Arc::clone(&snapshots.borrow_and_update());
                manager.follow(&snapshot);
            }
            Some(outcome) = outcomes.recv() => {
                changed |= manager.take(outcome);
                while let Ok(outcome) = outcomes.try_recv() {
                    changed |= manager.take(outcome);
                }
            }
            () = at(timer) => changed |= manager.on_time(),
        }
        if changed {
            manager.metrics.states(
                manager
                    .plugins
                    .values()
                    .map(|it| (&*it.plugin, &it.verdict)),
            );
            publish(manager.verdicts());
        }
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// All plugins that are wanted, or were a moment ago.
struct Manager<L: Load> {
    tools: Arc<tend::Tools<L>>,
    shelf: Arc<Shelf<L::Module>>,
    metrics: ManagerMetrics,
    plugins: HashMap<PluginKey, Tended>,
    /// Modules whose place others have taken, and when they are forgotten.
    retired: Vec<(Instant, PluginKey, Arc<str>)>,
}

/// A plugin that is looked after.
struct Tended {
    plugin: Arc<Plugin>,
    verdict: Verdict,
    /// Until when there must be a verdict.
    deadline: Instant,
    /// When it is forgotten, because no snapshot wants it any more.
    forget_at: Option<Instant>,
    task: AbortHandle,
}

impl Drop for Tended {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<L: Load> Manager<L> {
    /// Begins with what is wanted anew, and notes what is wanted no more.
    fn follow(&mut self, snapshot: &Snapshot) {
        let now = Instant::now();
        let grace = self.tools.settings.grace;
        for tended in self.plugins.values_mut() {
            tended.forget_at.get_or_insert(now + grace);
        }
        for attached in snapshot.plugins.iter() {
            match self.plugins.entry(attached.plugin.key) {
                Entry::Occupied(mut known) => known.get_mut().forget_at = None,
                Entry::Vacant(free) => {
                    let plugin = Arc::clone(&attached.plugin);
                    let tend = tend::tend(Arc::clone(&self.tools), Arc::clone(&plugin));
                    free.insert(Tended {
                        plugin,
                        verdict: Verdict::Pending,
                        deadline: now + self.tools.settings.first_verdict,
                        forget_at: None,
                        task: tokio::spawn(tend).abort_handle(),
                    });
                }
            }
        }
    }

    /// Takes what came of one attempt; whether a verdict changed.
    fn take(&mut self, (key, outcome): tend::News<L::Module>) -> bool {
        let Some(tended) = self.plugins.get_mut(&key) else {
            return false;
        };
        self.metrics.loaded(outcome.as_ref().map(|_| ()));
        let known = match &tended.verdict {
            Verdict::Ready { digest, .. } => Some(Arc::clone(digest)),
            Verdict::Pending | Verdict::Failed(_) => None,
        };
        let verdict = match (outcome, known) {
            (Ok(tend::Good::Unchanged), Some(digest)) => Verdict::Ready {
                digest,
                trouble: None,
            },
            // Nobody can say so of what was never loaded.
            (Ok(tend::Good::Unchanged), None) => return false,
            (Ok(tend::Good::New { digest, module }), known) => {
                tracing::info!(
                    plugin = &*tended.plugin.name,
                    url = &*tended.plugin.module.url,
                    digest = &*digest,
                    "a Wasm plugin is ready"
                );
                self.shelf.put(key, Arc::clone(&digest), module);
                if let Some(old) = known.filter(|old| *old != digest) {
                    let forget_at = Instant::now() + self.tools.settings.grace;
                    self.retired.push((forget_at, key, old));
                }
                self.retired
                    .retain(|(_, other, old)| *other != key || *old != digest);
                Verdict::Ready {
                    digest,
                    trouble: None,
                }
            }
            (Err(failure), Some(digest)) => Verdict::Ready {
                digest,
                trouble: Some(failure.reason),
            },
            (Err(failure), None) => Verdict::Failed(failure.reason),
        };
        let changed = tended.verdict != verdict;
        tended.verdict = verdict;
        changed
    }

    /// Gives verdicts that are due, forgets what is not wanted; whether a verdict changed.
    fn on_time(&mut self) -> bool {
        let now = Instant::now();
        let patience = self.tools.settings.first_verdict;
        let mut changed = false;
        for tended in self.plugins.values_mut() {
            if tended.verdict == Verdict::Pending && tended.deadline <= now {
                let reason = format!(
                    "its module {} was not ready after {} s; it is still being loaded",
                    tended.plugin.module.url,
                    patience.as_secs()
                );
                tended.verdict = Verdict::Failed(reason.into());
                changed = true;
            }
        }
        let shelf = &self.shelf;
        self.plugins.retain(|key, tended| {
            let keep = tended.forget_at.is_none_or(|at| at > now);
            if !keep {
                shelf.forget(key);
                changed = true;
            }
            keep
        });
        self.retired.retain(|(at, key, digest)| {
            let keep = *at > now;
            if !keep {
                shelf.remove(*key, digest);
            }
            keep
        });
        changed
    }

    fn next_deadline(&self) -> Option<Instant> {
        let of_plugins = self.plugins.values().flat_map(|it| {
            let verdict = (it.verdict == Verdict::Pending).then_some(it.deadline);
            [verdict, it.forget_at].into_iter().flatten()
        });
        of_plugins.chain(self.retired.iter().map(|it| it.0)).min()
    }

    fn verdicts(&self) -> Verdicts {
        let all = self.plugins.iter();
        all.map(|(key, it)| (*key, it.verdict.clone())).collect()
    }
}
