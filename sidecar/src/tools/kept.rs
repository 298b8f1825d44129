//! Answers kept and given again, for tools that a policy says so of.
//!
//! Bounded in number and bytes; what was not asked for the longest goes first. A change of the policies of the server
//! forgets everything. Not here: which answers may be kept.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use weft_proto::resource::kinds::ToolPolicy;
use weft_proto::wire::Object;

use crate::limits::Limits;

/// What an entry takes besides its answer, about.
const ENTRY_BYTES: usize = 256;

/// What makes two calls the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// None where everyone is given the same.
    pub caller: Option<Arc<str>>,
    pub tool: Box<str>,
    /// Era and revision, for what an answer looks like depends on them.
    pub revision: Box<str>,
    /// SHA-256 of the parameters in canonical form, with `_meta`, and of the headers that a server may heed.
    pub asked: [u8; 32],
}

/// Answers of one server.
#[derive(Debug)]
pub struct Kept {
    entries_max: usize,
    bytes_max: usize,
    answer_bytes_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<Key, Entry>,
    /// By when they were last asked for.
    order: BTreeMap<u64, Key>,
    clock: u64,
    bytes: usize,
    /// What the answers were kept by.
    policies: Vec<Arc<Object<ToolPolicy>>>,
}

#[derive(Debug)]
struct Entry {
    result: Bytes,
    until: Instant,
    used: u64,
}

impl Kept {
    pub fn new(limits: &Limits) -> Self {
        Self {
            entries_max: limits.kept_answers_max,
            bytes_max: limits.kept_answers_bytes_max,
            answer_bytes_max: limits.kept_answer_bytes_max,
            inner: Mutex::default(),
        }
    }

    /// Bytes of the largest answer that is kept.
    pub const fn answer_bytes_max(&self) -> usize {
        self.answer_bytes_max
    }

    /// The result that is kept for a call, by these policies.
    pub fn find(&self, key: &Key, policies: &[Arc<Object<ToolPolicy>>]) -> Option<Bytes> {
        let mut inner = self.inner();
        inner.follow(policies);
        let entry = inner.entries.get(key)?;
        if entry.until <= Instant::now() {
            inner.forget(key);
            return None;
        }
        let result = entry.result.clone();
        inner.use_it(key);
        Some(result)
    }

    /// Keeps a result, if the policies are still those that it was asked by.
    pub fn keep(&self, key: Key, result: Bytes, ttl: Duration, policies: &[Arc<Object<ToolPolicy>>]) {
        let size = result.len() + ENTRY_BYTES;
        if result.len() > self.answer_bytes_max || size > self.bytes_max || self.entries_max == 0 {
            return;
        }
        let Some(until) = Instant::now().checked_add(ttl) else { return };
        let mut inner = self.inner();
        if !are_same(&inner.policies, policies) {
            return;
        }
        inner.forget(&key);
        while inner.entries.len() >= self.entries_max || inner.bytes + size > self.bytes_max {
            let Some((_, oldest)) = inner.order.first_key_value() else { return };
            let oldest = oldest.clone();
            inner.forget(&oldest);
        }
        inner.bytes += size;
        inner.clock += 1;
        let used = inner.clock;
        inner.order.insert(used, key.clone());
        inner.entries.insert(key, Entry { result, until, used });
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn follow(&mut self, policies: &[Arc<Object<ToolPolicy>>]) {
        if !are_same(&self.policies, policies) {
            *self = Self { policies: policies.to_vec(), ..Self::default() };
        }
    }

    fn use_it(&mut self, key: &Key) {
        self.clock += 1;
        let Some(entry) = self.entries.get_mut(key) else { return };
        let before = std::mem::replace(&mut entry.used, self.clock);
        if let Some(key) = self.order.remove(&before) {
            self.order.insert(self.clock, key);
        }
    }

    fn forget(&mut self, key: &Key) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.order.remove(&entry.used);
        self.bytes -= entry.result.len() + ENTRY_BYTES;
    }
}

fn are_same(one: &[Arc<Object<ToolPolicy>>], other: &[Arc<Object<ToolPolicy>>]) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|(one, other)| Arc::ptr_eq(one, other) || one == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(entries: usize, bytes: usize) -> Kept {
        Kept::new(&Limits {
            kept_answers_max: entries,
            kept_answers_bytes_max: bytes,
            kept_answer_bytes_max: 1000,
            ..Limits::default()
        })
    }

    fn key(n: u8) -> Key {
        Key { caller: None, tool: "t".into(), revision: "r".into(), asked: [n; 32] }
    }

    const TTL: Duration = Duration::from_secs(10);

    fn found(kept: &Kept, n: u8) -> Option<Bytes> {
        kept.find(&key(n), &[])
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_given_until_its_time_is_over() {
        let kept = kept(10, 10_000);
        kept.keep(key(1), "one".into(), TTL, &[]);
        tokio::time::advance(TTL - Duration::from_millis(1)).await;
        assert_eq!(found(&kept, 1).unwrap(), "one");
        assert_eq!(found(&kept, 2), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(found(&kept, 1), None);
        assert_eq!(kept.inner().bytes, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_asked_for_the_longest_goes_first() {
        let kept = kept(2, 10_000);
        kept.keep(key(1), "one".into(), TTL, &[]);
        kept.keep(key(2), "two".into(), TTL, &[]);
        assert!(found(&kept, 1).is_some());
        kept.keep(key(3), "three".into(), TTL, &[]);
        assert_eq!([1, 2, 3].map(|n| found(&kept, n).is_some()), [true, false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_bounded_and_what_is_too_large_is_not_kept() {
        let kept = kept(100, 2 * (500 + ENTRY_BYTES));
        for n in 0..5 {
            kept.keep(key(n), vec![b'x'; 500].into(), TTL, &[]);
        }
        assert_eq!((0..5).filter(|n| found(&kept, *n).is_some()).count(), 2);
        kept.keep(key(9), vec![b'x'; 1001].into(), TTL, &[]);
        assert_eq!(found(&kept, 9), None);
    }

    #[test]
    fn callers_tools_and_revisions_are_kept_apart() {
        let one = Key { caller: Some("a".into()), ..key(1) };
        for other in [
            key(1),
            Key { caller: Some("b".into()), ..key(1) },
            Key { tool: "u".into(), ..one.clone() },
            Key { revision: "s".into(), ..one.clone() },
        ] {
            assert_ne!(one, other);
        }
    }
}
