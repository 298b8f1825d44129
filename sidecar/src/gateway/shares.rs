//! How much each caller of a gateway has under way.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// What is under way, by whoever it is of. Clones are the same.
#[derive(Debug)]
pub struct Shares<K>(Arc<Mutex<HashMap<K, usize>>>);

impl<K> Clone for Shares<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> Default for Shares<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// One more under way, until this is dropped.
#[derive(Debug)]
pub struct Share<K: Eq + Hash> {
    all: Shares<K>,
    of: K,
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// None where it would be more than `max`.
    pub fn take(&self, of: &K, max: usize) -> Option<Share<K>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.get(of).copied().unwrap_or_default();
        if count >= max {
            return None;
        }
        all.insert(of.clone(), count + 1);
        Some(Share { all: self.clone(), of: of.clone() })
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(&self.of) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(all.remove(&self.of)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_no_more_than_its_share_and_nothing_is_left_of_those_who_went() {
        let shares = Shares::default();
        let held = [shares.take(&"a", 2), shares.take(&"a", 2)];
        assert!(held.iter().all(Option::is_some) && shares.take(&"a", 2).is_none());
        assert!(shares.take(&"b", 2).is_some());
        drop(held);
        assert!(shares.take(&"a", 1).is_some());
        assert!(shares.0.lock().unwrap().is_empty());
    }
}
