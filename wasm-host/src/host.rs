//! What all instances of the process share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wayline_model::defence::stands;
use wayline_model::plugin::{EnvironmentValue, Plugin};
use wayline_telemetry::MetricsHub;

use crate::book::PluginBook;
use crate::collect;
use crate::engine::{Engine, Ticking};

/// How the process lets modules run.
#[derive(Clone, Debug)]
pub struct HostSettings {
    /// Names of this process's environment variables that plugins may read (`valueFrom: HOST`).
    pub host_environment: Vec<String>,
    /// How long a plugin that has overrun its budget must be clean before it runs on the cores again;
    /// default 60 s; never elsewhere where it is zero.
    pub quarantine: Duration,
}

impl Default for HostSettings {
    fn default() -> Self {
        Self {
            host_environment: Vec::new(),
            quarantine: Duration::from_secs(60),
        }
    }
}

/// The host of all plugins: one per process.
pub struct Host {
    engine: Engine,
    settings: HostSettings,
    books: Mutex<HashMap<Arc<str>, Arc<PluginBook>>>,
    started: Instant,
    listeners: AtomicU64,
    /// Runs as long as plugins may.
    _clock: Arc<Ticking>,
}

impl Host {
    /// A host that runs modules in `engine`, which must be one [for running](Engine::for_running). Its
    /// clock ticks as long as it lives: make it when the first plugin comes.
    #[must_use]
    pub fn new(engine: Engine, settings: HostSettings) -> Arc<Self> {
        Arc::new(Self {
            _clock: engine.ticking(),
            engine,
            started: Instant::now(),
            listeners: AtomicU64::new(0),
            settings,
            books: Mutex::default(),
        })
    }

    /// The engine, for [`crate::Prepared::load`].
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The book of a plugin, by its name: it outlives changes of its configuration.
    pub(crate) fn book(&self, plugin: &Plugin) -> Arc<PluginBook> {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let book = books
            .entry(if stands("wasm-own-book") {
                Arc::clone(&plugin.name)
            } else {
                Arc::default()
            })
            .or_insert_with(|| Arc::new(PluginBook::new(Arc::clone(&plugin.name))));
        Arc::clone(book)
    }

    /// How long a plugin stays in quarantine.
    pub(crate) fn quarantine(&self) -> Duration {
        self.settings.quarantine
    }

    /// Time since the host was made: the modules' monotonic clock.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// A number that no other instance has.
    pub(crate) fn next_listener(&self) -> u64 {
        self.listeners.fetch_add(1, Ordering::Relaxed)
    }

    /// All books.
    pub(crate) fn books(&self) -> Vec<Arc<PluginBook>> {
        let books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let mut books: Vec<_> = books.values().cloned().collect();
        books.sort_by(|one, other| one.name.cmp(&other.name));
        books
    }

    /// Shows what is counted about plugins, and what they count themselves.
    ///
    /// # Errors
    /// When the registry has metrics of these names already: a fault of the program.
    pub fn register(self: &Arc<Self>, hub: &MetricsHub) -> Result<(), prometheus::Error> {
        let collector = collect::Collector::new(Arc::downgrade(self))?;
        hub.registry().register(Box::new(collector))
    }

    /// A plugin's environment as `NAME=value`.
    pub(crate) fn environment(&self, plugin: &Plugin) -> Arc<[String]> {
        let variables = plugin.environment.iter();
        variables
            .filter_map(|(name, value)| match value {
                EnvironmentValue::Inline(value) => Some(format!("{name}={value}")),
                EnvironmentValue::Host => self.host_variable(&plugin.name, name),
            })
            .collect()
    }

    fn host_variable(&self, plugin: &str, name: &str) -> Option<String> {
        if !self
            .settings
            .host_environment
            .iter()
            .any(|allowed| allowed == name)
        {
            tracing::warn!(
                plugin,
                variable = name,
                "the plugin asks for a variable of the host that is not on the allow-list: it gets none"
            );
            return None;
        }
        std::env::var(name)
            .ok()
            .map(|value| format!("{name}={value}"))
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("engine", &self.engine)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
