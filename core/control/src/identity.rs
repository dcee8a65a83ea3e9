//! Where this process's own certificate comes from: a folder that somebody else fills, or a
//! development CA of our own.
//!
//! Owns when the certificate is loaded again or renewed. Refuses to know what makes a certificate
//! good, which is `wayline-tls`'s: a bad one leaves the last good one in force there.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use wayline_model::Identity;
use wayline_tls::{
    CERT_CHAIN_FILE, CRL_FILE, CertificateStore, DEFAULT_LIFETIME, DevCa, KEY_FILE, ROOT_CERT_FILE,
    Reload,
};

use crate::folder::scan::{Inode, folder_at};
use crate::folder::watch::{POLL, Wake, Watcher};
use crate::folder::{PACE, SourceError};

/// How soon a failed issue is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Keeps a store filled from a folder with `cert-chain.pem`, `key.pem` and `root-cert.pem`, through
/// every rotation of them (atomic renames and `..data` swaps included). Ends when dropped.
#[derive(Debug)]
pub struct IdentityFolder {
    wake: Sender<Wake>,
    thread: Option<JoinHandle<()>>,
}

impl IdentityFolder {
    /// Loads the certificate once, so that the store says at once whether it is ready, and follows
    /// the folder from then on.
    pub fn follow(dir: PathBuf, store: CertificateStore) -> Result<Self, SourceError> {
        let (mut watcher, wake) = Watcher::new();
        watcher.follow(&folders(&dir));
        let mut outcome = None;
        load(&dir, &store, &mut outcome);
        let thread = thread::Builder::new()
            .name("wayline-identity".to_owned())
            .spawn(move || {
                while watcher.wait(Instant::now() + POLL) && watcher.collect(Instant::now() + PACE)
                {
                    watcher.batch();
                    load(&dir, &store, &mut outcome);
                    watcher.follow(&folders(&dir));
                }
            })
            .map_err(SourceError::Thread)?;
        Ok(Self {
            wake,
            thread: Some(thread),
        })
    }
}

impl Drop for IdentityFolder {
    fn drop(&mut self) {
        let _ = self.wake.send(Wake::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by its own hook.
            let _ = thread.join();
        }
    }
}

/// Keeps a store filled with certificates of a development CA for whatever identity is published,
/// renewed when two thirds of their life are over.
#[derive(Debug)]
pub struct Issuer {
    ca: DevCa,
    store: CertificateStore,
    identity: watch::Receiver<Option<Identity>>,
    /// How long until the next certificate is due.
    next: Duration,
}

impl Issuer {
    /// Issues the first certificate at once, if an identity is known.
    #[must_use]
    pub fn new(
        ca: DevCa,
        store: CertificateStore,
        identity: watch::Receiver<Option<Identity>>,
    ) -> Self {
        let mut issuer = Self {
            ca,
            store,
            identity,
            next: RETRY,
        };
        issuer.issue();
        issuer
    }

    /// Issues anew whenever that is due. It never ends; drop it.
    pub async fn run(mut self) -> Infallible {
        loop {
            let changed = tokio::time::timeout(self.next, self.identity.changed()).await;
            if let Ok(Err(_)) = changed {
                // The publisher is gone: what is left to do is to renew.
                tokio::time::sleep(self.next).await;
            }
            self.issue();
        }
    }

    fn issue(&mut self) {
        self.next = RETRY;
        let Some(identity) = self.identity.borrow_and_update().clone() else {
            return;
        };
        let issued = self
            .ca
            .issue(&identity, DEFAULT_LIFETIME)
            .map_err(|error| error.to_string())
            .and_then(|issued| {
                let replaced = self.store.replace(issued.bundle());
                replaced.map_err(|error| error.to_string())
            });
        match issued {
            Ok(_) => {
                tracing::info!("serving as {identity}");
                self.next = DEFAULT_LIFETIME * 2 / 3;
            }
            Err(error) => tracing::error!("no certificate for {identity}: {error}"),
        }
    }
}

/// Loads, and logs when the outcome is another than before.
fn load(dir: &Path, store: &CertificateStore, outcome: &mut Option<String>) {
    let said = match store.reload_from(dir) {
        Ok(Reload::Unchanged(_)) if outcome.as_deref() == Some("") => return,
        Ok(Reload::Unchanged(epoch) | Reload::Replaced(epoch)) => {
            tracing::info!("serving as {}", epoch.identity());
            String::new()
        }
        Err(error) => error.to_string(),
    };
    if !said.is_empty() && outcome.as_deref() != Some(said.as_str()) {
        tracing::warn!("the certificate in {} was not taken: {said}", dir.display());
    }
    *outcome = Some(said);
}

/// The folder, its parent (the folder may be replaced) and wherever symlinks in it lead.
fn folders(dir: &Path) -> HashMap<PathBuf, Inode> {
    let targets = [CERT_CHAIN_FILE, KEY_FILE, ROOT_CERT_FILE, CRL_FILE]
        .into_iter()
        .filter_map(|file| dir.join(file).canonicalize().ok())
        .filter_map(|file| file.parent().map(Path::to_owned));
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    // One watch per folder: two names for one would replace each other.
    let mut seen = HashMap::new();
    for path in [dir.to_owned(), parent].into_iter().chain(targets) {
        if let Some(inode) = folder_at(&path) {
            seen.entry(inode).or_insert(path);
        }
    }
    seen.into_iter()
        .map(|(inode, path)| (path, inode))
        .collect()
}
