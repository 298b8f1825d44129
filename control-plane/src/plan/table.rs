//! The resources of one type, by name and by alias.

use std::collections::HashMap;
use std::sync::Arc;

use super::world::Published;

#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) by_name: HashMap<Arc<str>, Arc<Published>>,
    pub(super) aliases: HashMap<Arc<str>, Arc<str>>,
}

impl Table {
    pub(super) fn insert(&mut self, published: &Arc<Published>) {
        self.remove(&published.name);
        for alias in &published.aliases {
            // The first to claim an alias keeps it; a canonical name is never an alias for something else.
            self.aliases.entry(Arc::clone(alias)).or_insert_with(|| Arc::clone(&published.name));
        }
        self.by_name.insert(Arc::clone(&published.name), Arc::clone(published));
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Arc<Published>> {
        let old = self.by_name.remove(name)?;
        for alias in &old.aliases {
            if self.aliases.get(alias).is_some_and(|canonical| **canonical == *old.name) {
                self.aliases.remove(alias);
            }
        }
        Some(old)
    }

    pub(super) fn version(&self, name: &str) -> Option<&Arc<str>> {
        self.by_name.get(name).map(|published| &published.version)
    }
}
