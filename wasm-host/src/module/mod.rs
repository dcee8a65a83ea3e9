//! How modules come to the proxy: from a file, a web server or a registry, verified, compiled out of
//! harm's way, and kept.
//!
//! Owns the way from a [`ModuleSource`] to code that can be run ([`Modules::obtain`]): what is asked of
//! whom and with which credentials, which bytes are believed, who compiles, what is kept across restarts.
//! Refuses to know what a module does, which plugin wants it, and what happens to traffic meanwhile.
//! Addresses are judged by `wayline-fetch`, which dials.

mod cache;
mod compile;
mod digest;
mod error;
mod flights;
mod metrics;
mod oci;
mod source;
mod unpack;

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Semaphore;
use wayline_fetch::{Client, Limits};
use wayline_model::plugin::ModuleSource;

use self::cache::{Cache, Kind, Sealed};
use self::compile::Failure;
use self::flights::Flights;
use self::metrics::{CodeSource, ModuleMetrics};
use crate::engine::Engine;
use crate::inspect::{Inspection, inspect};
use crate::trusted::Artifact;

pub use self::cache::CacheError;
pub use self::compile::{COMPILER_ARGS, CompileLimits, Compiler, run_child};
pub use self::digest::Digest;
pub use self::error::ModuleError;

/// Verdicts on modules that are remembered, so that nobody compiles a bomb twice.
const MAX_REFUSALS: usize = 1024;

/// Bytes of modules that are kept in memory where there is no disk.
const MAX_BYTES_IN_MEMORY: usize = 64 << 20;

/// Time between two looks for what has not been used.
const PURGE_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// How modules are obtained.
#[derive(Clone, Debug)]
pub struct ModuleSettings {
    /// Who fetches.
    pub client: Client,
    /// The folder for what is kept across restarts; without one, everything lives in memory.
    pub cache: Option<PathBuf>,
    /// How long something unused stays there; default 7 days.
    pub expiry: Duration,
    /// Bytes that it may take; default 1 GiB.
    pub cache_bytes: u64,
    /// Registries, as `host[:port]` or `*`, that may be talked to without TLS if they have none.
    pub insecure_registries: Vec<String>,
    /// Attempts at something that may go better the next time; default 5 (Istio).
    pub attempts: u32,
    /// Time before the second attempt, doubled before each further one; default 500 ms (Istio).
    pub back_off: Duration,
    /// Time for one request with all its redirects; default 15 s (Istio).
    pub timeout: Duration,
    /// Who compiles.
    pub compiler: Compiler,
    /// Compilers at once; default the cores this process may use.
    pub compilers: usize,
}

impl ModuleSettings {
    /// The defaults: nothing on disk, no insecure registries.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            client,
            cache: None,
            expiry: Duration::from_secs(7 * 24 * 60 * 60),
            cache_bytes: 1 << 30,
            insecure_registries: Vec::new(),
            attempts: 5,
            back_off: Duration::from_millis(500),
            timeout: Limits::default().timeout,
            compiler: Compiler::default(),
            compilers: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    fn is_insecure(&self, registry: &str) -> bool {
        self.insecure_registries
            .iter()
            .any(|it| it == "*" || it.eq_ignore_ascii_case(registry))
    }
}

/// Where a module was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// Its bytes were fetched now.
    Fetched,
    /// Its source was asked, and has what we had already.
    Unchanged,
    /// It was here, and by its pull policy nobody was asked.
    Kept,
    /// It was here, and its source could not be asked.
    LastGood,
}

/// A module, compiled.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// SHA-256 of the module's bytes.
    pub digest: Digest,
    /// SHA-256 of the image's manifest, where it came in an image.
    pub manifest: Option<Digest>,
    /// What the module says about itself.
    pub inspection: Arc<Inspection>,
    /// Where it was found.
    pub origin: Origin,
    /// How long compiling took, where that was done now.
    pub compile_time: Option<Duration>,
    code: Code,
}

/// Compiled code. Only this program's own comes to be one.
#[derive(Clone, Debug)]
enum Code {
    /// In memory.
    Bytes(Arc<[u8]>),
    /// In a file of the cache, whose seal was right.
    File { file: Arc<File>, content: u64 },
}

impl Compiled {
    /// The code, for [`crate::Prepared::load`].
    #[must_use]
    pub fn artifact(&self) -> Artifact<'_> {
        match &self.code {
            Code::Bytes(bytes) => Artifact::Bytes(bytes),
            Code::File { file, .. } => Artifact::File(file),
        }
    }

    /// Length of the compiled code in bytes.
    #[must_use]
    pub fn code_bytes(&self) -> u64 {
        match &self.code {
            Code::Bytes(bytes) => bytes.len() as u64,
            Code::File { content, .. } => *content,
        }
    }

    /// Whether the code lies in the cache on disk.
    #[must_use]
    pub fn is_on_disk(&self) -> bool {
        matches!(self.code, Code::File { .. })
    }
}

/// Obtains modules. Cheap to clone; to be used within a tokio runtime of any kind, off the data path.
#[derive(Clone)]
pub struct Modules {
    shared: Arc<Shared>,
}

struct Shared {
    settings: ModuleSettings,
    cache: Option<Cache>,
    /// Whom compiled code is for; the sentence why nobody can be compiled for.
    native: Result<[u8; 32], String>,
    compilers: Semaphore,
    flights: Flights,
    known: Mutex<Known>,
    purged: Mutex<Option<Instant>>,
    metrics: Result<ModuleMetrics, String>,
}

/// What is in memory.
#[derive(Default)]
struct Known {
    modules: HashMap<Digest, Weak<Compiled>>,
    refused: HashMap<Digest, Arc<str>>,
    /// Which notes led to which module.
    noted: HashMap<String, Digest>,
    /// What would be on disk, if there were one.
    notes: HashMap<String, Vec<u8>>,
    bytes: HashMap<Digest, Bytes>,
}

impl Modules {
    /// Makes the folder ready. Where that fails, everything lives in memory, and the reason is logged.
    #[must_use]
    pub fn new(settings: ModuleSettings) -> Self {
        let cache = settings.cache.as_deref().and_then(|dir| {
            Cache::open(dir)
                .inspect_err(|error| {
                    tracing::warn!(%error, "modules are compiled anew at each start");
                })
                .ok()
        });
        Self {
            shared: Arc::new(Shared {
                native: Engine::for_compilation()
                    .map(|engine| engine.compatibility())
                    .map_err(|error| error.to_string()),
                compilers: Semaphore::new(settings.compilers.max(1)),
                settings,
                cache,
                flights: Flights::default(),
                known: Mutex::default(),
                purged: Mutex::default(),
                metrics: ModuleMetrics::new().map_err(|error| error.to_string()),
            }),
        }
    }

    /// Shows what is counted about modules.
    ///
    /// # Errors
    /// Where something else has one of the names: a fault of the program.
    pub fn register(&self, registry: &prometheus::Registry) -> Result<(), prometheus::Error> {
        match &self.shared.metrics {
            Ok(metrics) => metrics.register(registry),
            Err(reason) => Err(prometheus::Error::Msg(reason.clone())),
        }
    }

    /// The module of a source, verified and compiled. Asks its server as the pull policy says, several
    /// times if that may help; where it can not be reached, what it had before is still good.
    ///
    /// # Errors
    ///
    /// [`ModuleError`], one sentence, which also tells whether to ask again later.
    pub async fn obtain(&self, source: &ModuleSource) -> Result<Arc<Compiled>, ModuleError> {
        let shared = &self.shared;
        shared.purge_now_and_then();
        // Plugins with one source wait for one another, and for nobody else.
        let flight = shared.flights.of(source::key(source));
        let _turn = flight.lock().await;
        let found = source::bytes_of(shared, source).await?;
        shared.count(|metrics| metrics.looked_up(found.origin));
        let compiled = shared.compiled(&source.url, &found).await?;
        Ok(Arc::new(Compiled {
            manifest: found.manifest,
            origin: found.origin,
            ..(*compiled).clone()
        }))
    }
}

impl std::fmt::Debug for Modules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Modules").finish_non_exhaustive()
    }
}

impl Shared {
    /// The code of a module: that which runs already, that on disk, or fresh.
    async fn compiled(
        self: &Arc<Self>,
        url: &Arc<str>,
        found: &source::Found,
    ) -> Result<Arc<Compiled>, ModuleError> {
        let flight = self.flights.of(found.digest.0);
        let _turn = flight.lock().await;
        if let Some(compiled) = self.running(found.digest) {
            self.count(|metrics| metrics.code(CodeSource::Memory));
            return Ok(compiled);
        }
        if let Some(reason) = self.known().refused.get(&found.digest) {
            return Err(ModuleError::Refused {
                what: Arc::clone(url),
                reason: Arc::clone(reason),
            });
        }
        let native = self
            .native
            .as_ref()
            .map_err(|reason| ModuleError::Compile {
                what: Arc::clone(url),
                reason: reason.as_str().into(),
                retriable: false,
            })?;
        let name = code_name(found.digest, native);
        let (shared, url, module) = (Arc::clone(self), Arc::clone(url), found.bytes.clone());
        let digest = found.digest;
        // Only for those that compile; what lies on disk is had at once.
        let permit = self.compilers.acquire();
        let kept = {
            let (shared, name) = (Arc::clone(self), name.clone());
            blocking(move || shared.kept_code(&name)).await
        };
        let compiled = match kept {
            Some(code) => {
                drop(permit);
                self.count(|metrics| metrics.code(CodeSource::Disk));
                let inspection = inspected(&url, &module)?;
                Compiled::new(digest, inspection, code, None)
            }
            None => {
                let _permit = permit.await;
                self.count(|metrics| metrics.code(CodeSource::Compiler));
                blocking(move || {
                    let begin = Instant::now();
                    let outcome = shared.compile(&url, digest, &module, &name);
                    shared.count(|metrics| metrics.compiled(&outcome, begin.elapsed()));
                    outcome
                })
                .await?
            }
        };
        let compiled = Arc::new(compiled);
        let mut known = self.known();
        known.modules.retain(|_, it| it.strong_count() > 0);
        known.modules.insert(digest, Arc::downgrade(&compiled));
        self.count(|metrics| metrics.in_use(known.modules.len()));
        Ok(compiled)
    }

    fn count(&self, count: impl FnOnce(&ModuleMetrics)) {
        if let Ok(metrics) = &self.metrics {
            count(metrics);
        }
    }

    fn running(&self, digest: Digest) -> Option<Arc<Compiled>> {
        self.known().modules.get(&digest).and_then(Weak::upgrade)
    }

    fn kept_code(&self, name: &str) -> Option<Code> {
        let (sealed, _) = self.cache.as_ref()?.load(Kind::Code, name)?;
        Some(Code::from(sealed))
    }

    /// Inspects and compiles. Blocks.
    fn compile(
        &self,
        url: &Arc<str>,
        digest: Digest,
        module: &Bytes,
        name: &str,
    ) -> Result<Compiled, ModuleError> {
        let refused = |reason: &str| ModuleError::Refused {
            what: Arc::clone(url),
            reason: reason.into(),
        };
        let inspection = inspected(url, module)?;
        let start = Instant::now();
        let code = self
            .settings
            .compiler
            .compile(module)
            .map_err(|failure| match failure {
                Failure::Module(reason) => {
                    let mut known = self.known();
                    if known.refused.len() >= MAX_REFUSALS {
                        known.refused.clear();
                    }
                    known.refused.insert(digest, reason.as_str().into());
                    refused(&reason)
                }
                Failure::Machine(reason) => ModuleError::Compile {
                    what: Arc::clone(url),
                    reason: reason.into(),
                    retriable: true,
                },
            })?;
        let took = start.elapsed();
        let kept = self.cache.as_ref().and_then(|cache| {
            let kept = cache.keep(Kind::Code, name, &code);
            kept.inspect_err(|error| {
                tracing::warn!(%error, "compiled code can not be kept on disk; it lives in memory");
            })
            .ok()
        });
        let code = kept.map_or_else(|| Code::Bytes(code.into()), Code::from);
        Ok(Compiled::new(digest, inspection, code, Some(took)))
    }

    /// Tidies the folder up, at the start and then once an hour.
    fn purge_now_and_then(self: &Arc<Self>) {
        if self.cache.is_none() {
            return;
        }
        let mut purged = self.purged.lock().unwrap_or_else(PoisonError::into_inner);
        if purged.is_some_and(|last| last.elapsed() < PURGE_INTERVAL) {
            return;
        }
        *purged = Some(Instant::now());
        let shared = Arc::clone(self);
        tokio::task::spawn_blocking(move || shared.purge());
    }

    fn purge(&self) {
        let Some(cache) = &self.cache else {
            return;
        };
        let (running, notes) = {
            let mut known = self.known();
            known.modules.retain(|_, it| it.strong_count() > 0);
            self.count(|metrics| metrics.in_use(known.modules.len()));
            let running: Vec<Digest> = known.modules.keys().copied().collect();
            known.noted.retain(|_, digest| running.contains(digest));
            let notes: Vec<String> = known.noted.keys().cloned().collect();
            (running, notes)
        };
        for name in notes {
            cache.touch(Kind::Note, &name);
        }
        for digest in running {
            cache.touch(Kind::Module, &digest.to_string());
            if let Ok(native) = &self.native {
                cache.touch(Kind::Code, &code_name(digest, native));
            }
        }
        cache.purge(self.settings.expiry, self.settings.cache_bytes);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Keeps in memory what can not be on disk; what was there goes when it becomes too much.
    fn remember(&mut self, digest: Digest, bytes: Bytes, name: String, note: &[u8]) {
        let total: usize = self.bytes.values().map(Bytes::len).sum();
        if total + bytes.len() > MAX_BYTES_IN_MEMORY || self.notes.len() > MAX_REFUSALS {
            self.bytes.clear();
            self.notes.clear();
        }
        self.bytes.insert(digest, bytes);
        self.notes.insert(name, note.to_vec());
    }
}

impl Compiled {
    fn new(
        digest: Digest,
        inspection: Inspection,
        code: Code,
        compile_time: Option<Duration>,
    ) -> Self {
        Self {
            digest,
            manifest: None,
            inspection: Arc::new(inspection),
            origin: Origin::Fetched,
            compile_time,
            code,
        }
    }
}

impl From<Sealed> for Code {
    fn from(sealed: Sealed) -> Self {
        Self::File {
            file: Arc::new(sealed.file),
            content: sealed.content,
        }
    }
}

/// Looks at a module before anybody compiles it.
fn inspected(url: &Arc<str>, module: &[u8]) -> Result<Inspection, ModuleError> {
    let refused = |reason: String| ModuleError::Refused {
        what: Arc::clone(url),
        reason: reason.into(),
    };
    let inspection = inspect(module).map_err(|error| refused(error.to_string()))?;
    match inspection.obstacles().first() {
        None => Ok(inspection),
        Some(obstacle) => Err(refused(obstacle.to_string())),
    }
}

/// The name of compiled code: of which module, and for whom.
fn code_name(module: Digest, native: &[u8; 32]) -> String {
    let native = Digest(*native).to_string();
    format!("{module}-{}", &native[..32])
}

/// Does what takes time where that holds nobody up.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // It is never aborted, so that it panicked.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::prepared::Prepared;

    #[test]
    fn sealed_code_runs_as_it_lies_on_disk() {
        let module = wat::parse_str(
            r#"(module
                (memory (export "memory") 1)
                (func (export "proxy_abi_version_0_2_1"))
                (func (export "malloc") (param i32) (result i32) (i32.const 0)))"#,
        )
        .unwrap();
        let engine = Engine::for_compilation().unwrap();
        let code = engine.precompile(&module).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        cache.keep(Kind::Code, "x", &code).unwrap();
        let (sealed, content) = cache.load(Kind::Code, "x").unwrap();
        assert_eq!(content, code);
        let compiled = Compiled::new(
            Digest::of(&module),
            inspect(&module).unwrap(),
            Code::from(sealed),
            None,
        );
        // The file is not needed by its name: it may be purged while the module runs.
        drop(dir);
        assert!(compiled.is_on_disk());
        Prepared::load(&engine, compiled.artifact()).unwrap();
        let in_memory = Compiled {
            code: Code::Bytes(code.into()),
            ..compiled
        };
        Prepared::load(&engine, in_memory.artifact()).unwrap();
    }
}
