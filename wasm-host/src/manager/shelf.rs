//! The modules that are loaded, for cores that bind them.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use wayline_model::plugin::PluginKey;

/// Modules by plugin and by the digest of their bytes. Looked at when a chain is made, never by a
/// request.
#[derive(Debug)]
pub struct Shelf<M>(RwLock<HashMap<(PluginKey, Arc<str>), Arc<M>>>);

impl<M> Default for Shelf<M> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<M> Shelf<M> {
    /// The module that a verdict speaks of.
    #[must_use]
    pub fn get(&self, key: PluginKey, digest: &Arc<str>) -> Option<Arc<M>> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.get(&(key, Arc::clone(digest))).map(Arc::clone)
    }

    pub(super) fn put(&self, key: PluginKey, digest: Arc<str>, module: Arc<M>) {
        self.change(|all| {
            all.insert((key, digest), module);
        });
    }

    pub(super) fn remove(&self, key: PluginKey, digest: &Arc<str>) {
        self.change(|all| {
            all.remove(&(key, Arc::clone(digest)));
        });
    }

    pub(super) fn forget(&self, key: &PluginKey) {
        self.change(|all| all.retain(|(other, _), _| other != key));
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<(PluginKey, Arc<str>), Arc<M>>)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}
