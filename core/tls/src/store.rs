//! The certificate in force, and how it is replaced.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;
use wayline_model::TrustDomain;

use crate::epoch::Epoch;
use crate::error::CredentialError;
use crate::files::PemBundle;
use crate::revoked::PeerChain;
use crate::verify::TrustDomainAliases;

/// Holds the current [`Epoch`]. Cheap to clone; all clones share one state. It is locked for a
/// moment per handshake and never on the request path.
///
/// A rotation is seen by new handshakes only, and by those whose certificates it takes back. A bundle that fails its checks changes nothing but
/// the status: the last good epoch stays in force until it expires.
#[derive(Clone, Debug, Default)]
pub struct CertificateStore {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    aliases: Arc<TrustDomainAliases>,
    state: Mutex<State>,
    /// Number of the epoch in force.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Arc<Epoch>>,
    loaded: Option<PemBundle>,
    failure: Option<CredentialError>,
    last_id: u64,
}

/// What a reload did.
#[derive(Clone, Debug)]
pub enum Reload {
    /// The material is the one already in force.
    Unchanged(Arc<Epoch>),
    /// A new epoch is in force.
    Replaced(Arc<Epoch>),
}

/// What readiness, metrics and the admin port show.
#[derive(Clone, Debug)]
pub struct StoreStatus {
    /// The epoch in force, if any was ever good.
    pub current: Option<Arc<Epoch>>,
    /// Why the latest reload failed; `None` after a good one. With a `current` epoch this is an
    /// alarm, without one it is why we are not ready.
    pub failure: Option<CredentialError>,
}

impl CertificateStore {
    /// A store without a certificate: not ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads `cert-chain.pem`, `key.pem` and `root-cert.pem` of `dir` and puts them in force.
    /// The caller watches the folder and calls again on every change.
    pub fn reload_from(&self, dir: &Path) -> Result<Reload, CredentialError> {
        match PemBundle::read(dir) {
            Ok(bundle) => self.replace(bundle),
            Err(error) => {
                self.lock().failure = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Puts a bundle in force that did not come from a folder, e.g. one signed by a CA server.
    pub fn replace(&self, bundle: PemBundle) -> Result<Reload, CredentialError> {
        let mut state = self.lock();
        if let Some(current) = &state.current
            && state.loaded.as_ref() == Some(&bundle)
        {
            let current = Arc::clone(current);
            state.failure = None;
            return Ok(Reload::Unchanged(current));
        }
        let id = state.last_id + 1;
        let aliases = Arc::clone(&self.shared.aliases);
        match Epoch::build(id, &bundle, aliases, SystemTime::now()) {
            Ok(epoch) => {
                let epoch = Arc::new(epoch);
                state.last_id = id;
                state.current = Some(Arc::clone(&epoch));
                state.loaded = Some(bundle);
                state.failure = None;
                self.shared.changes.send_replace(id);
                Ok(Reload::Replaced(epoch))
            }
            Err(error) => {
                state.failure = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Accepts peers of these trust domains besides our own, from the next handshake on
    /// (MeshConfig `trustDomainAliases`).
    pub fn set_trust_domain_aliases(&self, aliases: &[TrustDomain]) {
        self.shared.aliases.set(aliases.into());
    }

    /// The epoch for the next handshake; an error says why there is none, or that it has expired.
    pub fn current(&self) -> Result<Arc<Epoch>, CredentialError> {
        let state = self.lock();
        let Some(epoch) = &state.current else {
            return Err(state.failure.clone().unwrap_or(CredentialError::NotLoaded));
        };
        match SystemTime::now().duration_since(epoch.not_after()) {
            Ok(since) => Err(CredentialError::Expired(since)),
            Err(_) => Ok(Arc::clone(epoch)),
        }
    }

    /// Resolves when an epoch comes into force by which one of a peer's certificates was taken back. For
    /// connections that were made before: handshakes are judged by themselves.
    pub async fn taken_back(&self, chain: &PeerChain) {
        let mut changes = self.shared.changes.subscribe();
        loop {
            let current = self.lock().current.clone();
            if current.is_some_and(|epoch| epoch.has_taken_back(chain)) {
                return;
            }
            // The sender lives as long as this store does.
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether mesh traffic can be served now; if not, why.
    pub fn readiness(&self) -> Result<(), CredentialError> {
        self.current().map(drop)
    }

    /// The epoch in force and the latest failure.
    #[must_use]
    pub fn status(&self) -> StoreStatus {
        let state = self.lock();
        StoreStatus {
            current: state.current.clone(),
            failure: state.failure.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
