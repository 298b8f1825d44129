//! Which counts a lender is told of: all of them in turn, and those that cannot wait.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::key::Key;

/// Counts that a lender is to hear of before all others; further ones wait for their turn.
const URGENT_MAX: usize = 4096;

/// What one lender is told of.
#[derive(Debug, Default)]
pub(super) struct Borrowed {
    /// By their handles.
    keys: Mutex<HashMap<u64, Key>>,
    /// Those of them that it is to hear of at once.
    urgent: Mutex<Vec<Key>>,
    pub(super) asked: Notify,
}

impl Borrowed {
    pub(super) fn keys(&self) -> MutexGuard<'_, HashMap<u64, Key>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell_soon(&self, key: Key) {
        let mut urgent = self.urgent.lock().unwrap_or_else(PoisonError::into_inner);
        if urgent.len() < URGENT_MAX {
            urgent.push(key);
        }
        drop(urgent);
        self.asked.notify_one();
    }

    /// The counts that the lender is to hear of: all, or those that are urgent.
    pub(super) fn told(&self, all: bool) -> Vec<Key> {
        let urgent = std::mem::take(&mut *self.urgent.lock().unwrap_or_else(PoisonError::into_inner));
        if all { self.keys().values().copied().collect() } else { urgent }
    }
}
