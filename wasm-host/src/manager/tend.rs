//! One plugin: loading its module, again and again where that may help.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, sleep_until};
use wayline_model::plugin::{ModuleSource, Plugin, PluginKey, PullPolicy};

use super::{Load, LoadFailure, ManagerMetrics, ManagerSettings};

/// What came of one attempt.
pub(super) type News<M> = (PluginKey, Result<Good<M>, LoadFailure>);

/// A module that can run.
#[derive(Debug)]
pub(super) enum Good<M> {
    /// The one that was loaded before.
    Unchanged,
    /// Another one.
    New { digest: Arc<str>, module: Arc<M> },
}

/// What all plugins share.
pub(super) struct Tools<L: Load> {
    pub(super) loader: Arc<L>,
    pub(super) settings: ManagerSettings,
    pub(super) metrics: ManagerMetrics,
    pub(super) started_at_once: Semaphore,
    pub(super) news: mpsc::UnboundedSender<News<L::Module>>,
}

/// Loads a plugin's module and sends what came of it, until nobody wants it any more.
pub(super) async fn tend<L: Load>(tools: Arc<Tools<L>>, plugin: Arc<Plugin>) {
    let settings = &tools.settings;
    let source = &plugin.module;
    let mut known: Option<Arc<str>> = None;
    let mut failures = 0;
    loop {
        let stamp = Stamp::of(source);
        let begin = Instant::now();
        let outcome = load(&tools, &plugin, known.as_ref()).await;
        tools.metrics.took(begin.elapsed());
        if let Ok(Good::New { digest, .. }) = &outcome {
            known = Some(Arc::clone(digest));
        }
        let again = match &outcome {
            Ok(_) => {
                failures = 0;
                None
            }
            Err(failure) => {
                failures += 1;
                failure
                    .retriable
                    .then(|| Instant::now() + pause(settings.backoff, failures))
            }
        };
        if tools.news.send((plugin.key, outcome)).is_err() {
            return;
        }
        wait(settings, source, stamp, again).await;
    }
}

async fn load<L: Load>(
    tools: &Arc<Tools<L>>,
    plugin: &Arc<Plugin>,
    known: Option<&Arc<str>>,
) -> Result<Good<L::Module>, LoadFailure> {
    let obtained = tools.loader.obtain(plugin).await?;
    if known == Some(&obtained.digest) {
        return Ok(Good::Unchanged);
    }
    // The semaphore is never closed.
    let _turn = tools.started_at_once.acquire().await;
    let (tools, plugin) = (Arc::clone(tools), Arc::clone(plugin));
    let start = move || {
        let module = tools.loader.start(&plugin, &obtained.compiled)?;
        Ok(Good::New {
            digest: obtained.digest,
            module: Arc::new(module),
        })
    };
    tokio::task::spawn_blocking(start)
        .await
        .unwrap_or_else(|error| {
            Err(LoadFailure {
                reason: format!("it could not be started: {error}; this is a fault of Wayline")
                    .into(),
                retriable: false,
                fetch_result: "",
            })
        })
}

/// Waits until it is worth trying again: at `again`, or when the source may have changed.
async fn wait(
    settings: &ManagerSettings,
    source: &ModuleSource,
    stamp: Option<Stamp>,
    again: Option<Instant>,
) {
    let retry = async {
        match again {
            Some(again) => sleep_until(again).await,
            None => std::future::pending().await,
        }
    };
    let changed = async {
        match refresh(source) {
            Refresh::Never => std::future::pending().await,
            Refresh::Remote => sleep(settings.refresh).await,
            Refresh::File => loop {
                sleep(settings.refresh_file).await;
                if Stamp::of(source) != stamp {
                    return;
                }
            },
        }
    };
    tokio::select! {
        () = retry => {}
        () = changed => {}
    }
}

/// How a source may come to hold another module.
enum Refresh {
    Never,
    Remote,
    File,
}

/// Istio pulls again when the plugin changes, where the policy is Always; here that is also done now and
/// then. What is pinned by a digest can not change.
fn refresh(source: &ModuleSource) -> Refresh {
    if source.sha256.is_some() || source.pull_policy == PullPolicy::IfNotPresent {
        return Refresh::Never;
    }
    if source.url.starts_with("file://") {
        return Refresh::File;
    }
    let is_latest = source.url.starts_with("oci://") && source.url.ends_with(":latest");
    if source.pull_policy == PullPolicy::Always || is_latest {
        Refresh::Remote
    } else {
        Refresh::Never
    }
}

/// What tells that a file was written or replaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stamp {
    inode: u64,
    length: u64,
    written: (i64, i64),
}

impl Stamp {
    /// `None` where there is no file, or the source is none.
    fn of(source: &ModuleSource) -> Option<Self> {
        let metadata = fs::metadata(source.url.strip_prefix("file://")?).ok()?;
        Some(Self {
            inode: metadata.ino(),
            length: metadata.len(),
            written: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// Twice as long with each failure, and by chance up to a half less, so that many proxies do not come
/// back as one.
fn pause((least, most): (Duration, Duration), failures: u32) -> Duration {
    let whole = least
        .saturating_mul(1 << failures.saturating_sub(1).min(16))
        .min(most);
    let chance = RandomState::new().hash_one(failures) % 512;
    whole.mul_f64(1.0 - chance as f64 / 1024.0)
}
