//! Keys of token issuers: fetched, kept and refreshed, off the data path.
//!
//! Owns which keys are fetched when. A location is fetched as soon as a rule names it, anew every
//! twenty minutes (or as its server's `cache-control` says, within bounds), and once more when a token
//! names a key that is not known, but then at most once in half a minute. Keys that were fetched stay
//! in force when a later attempt fails; there is no other fallback. Where may be connected to is the
//! business of `wayline-fetch`.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use wayline_fetch::{Client, Fetched, Limits, Request, Url};
use wayline_model::Snapshot;
use wayline_model::authentication::jwks::MAX_BYTES;
use wayline_model::authentication::{Jwks, JwksBook, JwksLocation, RemoteJwks};

/// How long keys are good for, where their server does not say (Istio's default).
const REFRESH: Duration = Duration::from_secs(20 * 60);

/// Bounds on what a server may say.
const SOONEST: Duration = Duration::from_secs(60);
const LATEST: Duration = Duration::from_secs(60 * 60);

/// The first pause after a failure; it doubles up to [`SOONEST`].
const RETRY: Duration = Duration::from_secs(1);

/// Most attempts under way at once.
const AT_ONCE: usize = 8;

/// Requests for keys that may wait.
const WANTED: usize = 64;

/// Fetches keys until it is dropped.
#[derive(Debug)]
pub struct JwksFetcher {
    _stop: watch::Sender<()>,
}

/// How the data path reads keys and asks for them.
#[derive(Clone, Debug)]
pub struct JwksKeys {
    /// What is known of each location.
    pub book: watch::Receiver<Arc<JwksBook>>,
    /// Takes locations whose keys shall be fetched anew.
    pub wanted: mpsc::Sender<JwksLocation>,
}

impl JwksFetcher {
    /// Follows the snapshots on a thread of its own. Each attempt's outcome, `fetched` or `failed`, is
    /// told to `told`.
    ///
    /// # Errors
    ///
    /// Where no thread or no runtime can be made.
    pub fn start(
        snapshots: watch::Receiver<Arc<Snapshot>>,
        client: Client,
        told: impl Fn(&'static str) + Send + 'static,
    ) -> io::Result<(Self, JwksKeys)> {
        let (book, reader) = watch::channel(Arc::default());
        let (wanted, asked) = mpsc::channel(WANTED);
        let (stop, stopped) = watch::channel(());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let board = Board {
            client,
            told: Box::new(told),
            snapshots,
            book,
            entries: HashMap::new(),
            under_way: JoinSet::new(),
        };
        thread::Builder::new()
            .name("wayline-jwks".to_owned())
            .spawn(move || runtime.block_on(board.run(asked, stopped)))?;
        let keys = JwksKeys {
            book: reader,
            wanted,
        };
        Ok((Self { _stop: stop }, keys))
    }
}

/// What is known, and what is under way.
struct Board {
    client: Client,
    told: Box<dyn Fn(&'static str) + Send>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    book: watch::Sender<Arc<JwksBook>>,
    entries: HashMap<JwksLocation, Entry>,
    under_way: JoinSet<(JwksLocation, Result<Keys, String>)>,
}

/// One location.
struct Entry {
    known: Option<RemoteJwks>,
    /// When it is fetched next.
    due: Instant,
    /// Whether it is being fetched.
    is_under_way: bool,
    /// Failures since the last success.
    failures: u32,
}

/// Keys that came, and for how long they are good.
struct Keys {
    set: Jwks,
    lifetime: Duration,
}

impl Board {
    async fn run(
        mut self,
        mut asked: mpsc::Receiver<JwksLocation>,
        mut stopped: watch::Receiver<()>,
    ) {
        self.follow();
        loop {
            self.begin();
            let next = self.next_due();
            tokio::select! {
                _ = stopped.changed() => return,
                changed = self.snapshots.changed() => match changed {
                    Ok(()) => self.follow(),
                    Err(_) => return,
                },
                Some(location) = asked.recv() => self.ask(&location),
                Some(ended) = self.under_way.join_next() => {
                    if let Ok((location, outcome)) = ended {
                        self.end(location, outcome);
                    }
                }
                () = sleep_until(next) => {}
            }
        }
    }

    /// Takes up the locations of the snapshot in force, and forgets the others.
    fn follow(&mut self) {
        let wanted = Arc::clone(&self.snapshots.borrow_and_update().jwks);
        let before = self.entries.len();
        self.entries.retain(|location, _| wanted.contains(location));
        let forgotten = self.entries.len() < before;
        for location in wanted.iter() {
            self.entries
                .entry(location.clone())
                .or_insert_with(|| Entry {
                    known: None,
                    due: Instant::now(),
                    is_under_way: false,
                    failures: 0,
                });
        }
        if forgotten {
            self.publish();
        }
    }

    /// A token names a key that is not known.
    fn ask(&mut self, location: &JwksLocation) {
        let now = Instant::now();
        if let Some(entry) = self.entries.get_mut(location)
            && entry
                .known
                .as_ref()
                .is_some_and(|known| known.may_refetch(now))
        {
            entry.due = entry.due.min(now);
        }
    }

    /// Begins with what is due.
    fn begin(&mut self) {
        let now = Instant::now();
        for (location, entry) in &mut self.entries {
            if self.under_way.len() >= AT_ONCE {
                return;
            }
            if entry.is_under_way || entry.due > now {
                continue;
            }
            entry.is_under_way = true;
            let (client, location) = (self.client.clone(), location.clone());
            let snapshot = Arc::clone(&self.snapshots.borrow());
            self.under_way.spawn(async move {
                let outcome = fetch(&client, &snapshot, &location).await;
                (location, outcome)
            });
        }
    }

    fn end(&mut self, location: JwksLocation, outcome: Result<Keys, String>) {
        let Some(entry) = self.entries.get_mut(&location) else {
            return;
        };
        (self.told)(if outcome.is_ok() { "fetched" } else { "failed" });
        let now = Instant::now();
        let before = entry.known.take();
        let attempt = before.as_ref().map_or(0, |known| known.attempt) + 1;
        entry.is_under_way = false;
        let keys = match outcome {
            Ok(keys) => {
                entry.failures = 0;
                entry.due = now + keys.lifetime;
                tracing::debug!(%location, keys = keys.set.keys.len(), "keys were fetched");
                for reason in &keys.set.left_out {
                    tracing::warn!(%location, "{reason}; it verifies nothing");
                }
                // The same keys stay the same, so that no core makes them ready again.
                match before.and_then(|known| known.keys) {
                    Some(old) if *old == keys.set => Some(old),
                    _ => Some(Arc::new(keys.set)),
                }
            }
            Err(reason) => {
                let pause = RETRY.saturating_mul(2u32.saturating_pow(entry.failures));
                entry.failures = entry.failures.saturating_add(1);
                entry.due = now + pause.min(SOONEST);
                let keys = before.and_then(|known| known.keys);
                let consequence = match keys {
                    Some(_) => "the keys fetched before stay in force",
                    None => "every token that needs them is refused",
                };
                tracing::warn!(%location, "keys can not be fetched: {reason}; {consequence}");
                keys
            }
        };
        entry.known = Some(RemoteJwks {
            keys,
            attempt,
            at: now,
        });
        self.publish();
    }

    fn publish(&self) {
        let known = |(location, entry): (&JwksLocation, &Entry)| {
            Some((location.clone(), entry.known.clone()?))
        };
        let entries = self.entries.iter().filter_map(known).collect();
        self.book.send_replace(Arc::new(JwksBook { entries }));
    }

    fn next_due(&self) -> Option<Instant> {
        let waiting = self.entries.values().filter(|entry| !entry.is_under_way);
        // While all hands are busy the next to end begins the next.
        let busy = self.under_way.len() >= AT_ONCE;
        waiting.map(|entry| entry.due).min().filter(|_| !busy)
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn fetch(
    client: &Client,
    snapshot: &Snapshot,
    location: &JwksLocation,
) -> Result<Keys, String> {
    let uri = match location {
        JwksLocation::Uri(uri) => uri.to_string(),
        JwksLocation::Discovery(issuer) => {
            let base = issuer.trim_end_matches('/');
            let address = format!("{base}/.well-known/openid-configuration");
            let configuration = get(client, snapshot, &address).await?;
            let configuration: Value = serde_json::from_slice(&configuration.body)
                .map_err(|_| "the OpenID configuration is no JSON".to_owned())?;
            let uri = configuration["jwks_uri"].as_str();
            uri.ok_or("the OpenID configuration names no jwks_uri")?
                .to_owned()
        }
    };
    let fetched = get(client, snapshot, &uri).await?;
    let set = Jwks::parse(&fetched.body).map_err(|error| error.to_string())?;
    if set.keys.is_empty() {
        return Err("no key in it can verify a signature".to_owned());
    }
    let lifetime = lifetime(&fetched);
    Ok(Keys { set, lifetime })
}

async fn get(client: &Client, snapshot: &Snapshot, uri: &str) -> Result<Fetched, String> {
    const LIMITS: Limits = Limits {
        head: 64 << 10,
        body: MAX_BYTES as u64,
        timeout: Duration::from_secs(10),
        redirects: 3,
    };
    let url: Url = uri.parse().map_err(|error| format!("{error}"))?;
    let at = endpoints(snapshot, &url);
    let request = Request::get(url).at(at);
    let fetched = client.send(request, &LIMITS).await;
    let fetched = fetched.map_err(|error| error.to_string())?;
    if !fetched.status.is_success() {
        return Err(format!("{} answered {}", fetched.url, fetched.status));
    }
    Ok(fetched)
}

/// Where a service of the mesh is; empty for hosts of which the snapshot knows nothing.
fn endpoints(snapshot: &Snapshot, url: &Url) -> Vec<SocketAddr> {
    let host = url.host().trim_end_matches('.').to_ascii_lowercase();
    let cluster = snapshot.clusters.values().find(|cluster| {
        let service = cluster.service.as_ref();
        cluster.port == url.port() && service.is_some_and(|it| *it.hostname.as_str() == *host)
    });
    let endpoints = cluster.into_iter().flat_map(|cluster| &cluster.endpoints);
    endpoints.map(|endpoint| endpoint.address).collect()
}

/// For how long the server says that its answer is good, within bounds.
fn lifetime(fetched: &Fetched) -> Duration {
    let control = fetched.headers.get("cache-control");
    let said = control
        .and_then(|control| control.to_str().ok())
        .into_iter()
        .flat_map(|control| control.split(','))
        .filter_map(|directive| directive.trim().strip_prefix("max-age="))
        .find_map(|seconds| seconds.parse().ok());
    said.map_or(REFRESH, Duration::from_secs)
        .clamp(SOONEST, LATEST)
}
