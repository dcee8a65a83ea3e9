//! The modules that are loaded, for cores that bind them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wayline_model::plugin::PluginKey;

/// Modules by plugin and by the digest of their bytes. Looked at when a chain is made, never by a
/// request.
#[derive(Debug)]
pub struct Shelf<M>(Mutex<Modules<M>>);

type Modules<M> = HashMap<(PluginKey, Arc<str>), Arc<M>>;

impl<M> Default for Shelf<M> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<M> Shelf<M> {
    /// The module that a verdict speaks of.
    #[must_use]
    pub fn get(&self, key: PluginKey, digest: &Arc<str>) -> Option<Arc<M>> {
        self.lock().get(&(key, Arc::clone(digest))).map(Arc::clone)
    }

    pub(super) fn put(&self, key: PluginKey, digest: Arc<str>, module: Arc<M>) {
        self.lock().insert((key, digest), module);
    }

    pub(super) fn remove(&self, key: PluginKey, digest: &Arc<str>) {
        self.lock().remove(&(key, Arc::clone(digest)));
    }

    pub(super) fn forget(&self, key: &PluginKey) {
        self.lock().retain(|(other, _), _| other != key);
    }

    fn lock(&self) -> MutexGuard<'_, Modules<M>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
