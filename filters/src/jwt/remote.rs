//! Keys that somebody else fetches: how this core reads them, and asks for them to be fetched anew.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use wayline_model::authentication::{Jwks, JwksBook, JwksLocation, RemoteJwks};

use super::keys::KeySet;

/// The remote keys of all issuers, and the way to whoever fetches them.
#[derive(Clone, Debug)]
pub struct RemoteKeys {
    book: watch::Receiver<Arc<JwksBook>>,
    wanted: mpsc::Sender<JwksLocation>,
}

impl RemoteKeys {
    /// Reads the book; locations whose keys shall be fetched anew are sent to `wanted`.
    #[must_use]
    pub fn new(book: watch::Receiver<Arc<JwksBook>>, wanted: mpsc::Sender<JwksLocation>) -> Self {
        Self { book, wanted }
    }

    /// Nobody fetches: every token that needs remote keys is refused.
    #[must_use]
    pub fn none() -> Self {
        let (_, book) = watch::channel(Arc::default());
        let (wanted, _) = mpsc::channel(1);
        Self { book, wanted }
    }
}

/// The keys of one location, as this core knows them.
pub(super) struct RemoteKeySet {
    location: JwksLocation,
    wanted: mpsc::Sender<JwksLocation>,
    known: RefCell<Known>,
}

struct Known {
    book: watch::Receiver<Arc<JwksBook>>,
    entry: Option<RemoteJwks>,
    keys: Option<Rc<KeySet>>,
}

/// What there is of remote keys at the moment.
pub(super) struct Current {
    /// The keys, when some were ever fetched.
    pub(super) keys: Option<Rc<KeySet>>,
    /// Whether it is worth waiting: keys are on their way, or may be asked for anew.
    pub(super) may_come: bool,
}

impl RemoteKeySet {
    pub(super) fn new(location: JwksLocation, remote: &RemoteKeys) -> Self {
        let mut known = Known {
            book: remote.book.clone(),
            entry: None,
            keys: None,
        };
        known.read(&location);
        Self {
            location,
            wanted: remote.wanted.clone(),
            known: RefCell::new(known),
        }
    }

    /// What is known now. Costs an atomic load unless something was fetched since.
    pub(super) fn current(&self) -> Current {
        let mut known = self.known.borrow_mut();
        let has_changed = known.book.has_changed();
        if let Ok(true) = has_changed {
            known.read(&self.location);
        }
        let may_come = match &known.entry {
            None => has_changed.is_ok(),
            Some(entry) => entry.may_refetch(Instant::now()),
        };
        Current {
            keys: known.keys.clone(),
            may_come,
        }
    }

    /// Asks for the keys and waits until an attempt to fetch them has ended.
    pub(super) fn fetched(&self) -> impl Future<Output = ()> + use<> {
        let known = self.known.borrow();
        let before = known.entry.as_ref().map(|entry| entry.attempt);
        // Where the way is full, whoever fetches is busy enough; this location comes in its turn.
        let _ = self.wanted.try_send(self.location.clone());
        let mut book = known.book.clone();
        let location = self.location.clone();
        async move {
            let attempt = |book: &Arc<JwksBook>| book.entries.get(&location).map(|it| it.attempt);
            // An error means that nobody fetches any more.
            let _ = book.wait_for(|book| attempt(book) != before).await;
        }
    }
}

impl Known {
    fn read(&mut self, location: &JwksLocation) {
        let entry = self.book.borrow_and_update().entries.get(location).cloned();
        let set = |entry: &Option<RemoteJwks>| entry.as_ref().and_then(|it| it.keys.clone());
        let (old, new): (Option<Arc<Jwks>>, _) = (set(&self.entry), set(&entry));
        let same = match (&old, &new) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.keys = new.as_deref().map(|set| Rc::new(KeySet::new(set)));
        }
        self.entry = entry;
    }
}
