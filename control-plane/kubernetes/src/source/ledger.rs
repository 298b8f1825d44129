//! What is known of each object of the cluster: what became of it here, for whoever tells it back.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::watch;
use weft_control_plane::check::KeptOut;
use weft_control_plane::store::Revision;
use weft_proto::resource::Key;

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is in the store, as of this revision.
    Taken(Revision),
    /// It was kept out.
    KeptOut { message: String, before: Before },
}

/// What holds in place of an object that was kept out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    Nothing,
    /// What it said before.
    Itself,
    /// It may have restricted somebody, and nobody knows whom: what it could be about is refused.
    Denial,
}

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub uid: String,
    pub generation: i64,
    pub fate: Fate,
    /// Probable mistakes.
    pub warnings: Vec<String>,
    /// Its `status` as it was last seen in the cluster.
    pub status: Value,
}

/// All objects of the cluster that were seen.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: Mutex<BTreeMap<Key, Entry>>,
    version: watch::Sender<u64>,
}

impl Ledger {
    /// Every object, as it stands now.
    pub fn entries(&self) -> BTreeMap<Key, Entry> {
        self.locked().clone()
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.locked().keys().cloned().collect()
    }

    /// How many objects there are, and how many of them were kept out.
    pub fn counts(&self) -> (usize, usize) {
        let entries = self.locked();
        let out = entries.values().filter(|entry| matches!(entry.fate, Fate::KeptOut { .. })).count();
        (entries.len(), out)
    }

    /// The objects that were kept out, each with why.
    pub fn kept_out(&self) -> Vec<KeptOut> {
        let entries = self.locked();
        let out = entries.iter().filter_map(|(key, entry)| match &entry.fate {
            Fate::KeptOut { message, .. } => Some(KeptOut { key: key.clone(), why: message.clone() }),
            Fate::Taken(_) => None,
        });
        out.collect()
    }

    /// What was told of an object when it came, if it is still the same.
    pub(super) fn warnings(&self, key: &Key, uid: &str, generation: i64) -> Vec<String> {
        let known = self.locked();
        let entry = known.get(key).filter(|entry| entry.uid == uid && entry.generation == generation);
        entry.map(|entry| entry.warnings.clone()).unwrap_or_default()
    }

    /// Notes what was written of an object in the cluster; its news come later.
    pub(crate) fn was_told(&self, key: &Key, uid: &str, status: Value) {
        if let Some(entry) = self.locked().get_mut(key).filter(|entry| entry.uid == uid) {
            entry.status = status;
        }
    }

    /// Moves whenever something is written here.
    pub fn version(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    pub(super) fn write(&self, entries: impl IntoIterator<Item = (Key, Option<Entry>)>) {
        let mut known = self.locked();
        for (key, entry) in entries {
            match entry {
                Some(entry) => _ = known.insert(key, entry),
                None => _ = known.remove(&key),
            }
        }
        drop(known);
        self.version.send_modify(|version| *version += 1);
    }

    /// What these guard is consistent after every statement.
    fn locked(&self) -> MutexGuard<'_, BTreeMap<Key, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
