//! Answers kept and given again: of tools that a policy says so of, and what a server itself says may be kept.
//!
//! Bounded in number and bytes; what was not asked for the longest goes first. A change of the policies that they were
//! kept by forgets everything. Not here: which answers may be kept.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use tokio::time::Instant;
use weft_proto::resource::kinds::ToolPolicy;
use weft_proto::wire::Object;

use crate::answer::Answer;
use crate::body::Body;
use crate::headers::CACHE;
use crate::limits::Limits;

/// What an entry takes besides its answer, about.
const ENTRY_BYTES: usize = 256;

/// What makes two calls the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// None where everyone is given the same.
    pub caller: Option<Arc<str>>,
    /// The tool, or the address of a resource.
    pub about: Box<str>,
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

/// A result that is kept, in two parts: between them may stand how long it is still good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts(pub Bytes, pub Bytes);

impl Parts {
    const fn len(&self) -> usize {
        self.0.len() + self.1.len()
    }

    /// The result as the answer to a request, with what stands between its parts.
    pub(crate) fn response(&self, id: &str, between: &str) -> Response<Answer> {
        let (Self(before, after), mut body) = (self, Vec::with_capacity(self.len() + id.len() + 64));
        body.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
        for part in [id.as_bytes(), b",\"result\":", before, between.as_bytes(), after, b"}"] {
            body.extend_from_slice(part);
        }
        let mut response = Response::new(Answer::from(Body::full(body)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().insert(CACHE, HeaderValue::from_static("hit"));
        response
    }
}

#[derive(Debug)]
struct Entry {
    result: Parts,
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

    /// The result that is kept for a call, by these policies, and how long it is still good.
    pub fn find(&self, key: &Key, policies: &[Arc<Object<ToolPolicy>>]) -> Option<(Parts, Duration)> {
        let mut inner = self.inner();
        inner.follow(policies);
        let entry = inner.entries.get(key)?;
        let left = entry.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            inner.forget(key);
            return None;
        }
        let result = entry.result.clone();
        inner.use_it(key);
        Some((result, left))
    }

    /// Forgets some of them.
    pub(crate) fn forget(&self, which: impl Fn(&Key) -> bool) {
        let mut inner = self.inner();
        let gone: Vec<_> = inner.entries.keys().filter(|key| which(key)).cloned().collect();
        for key in gone {
            inner.forget(&key);
        }
    }

    /// Keeps a result, if the policies are still those that it was asked by.
    pub fn keep(&self, key: Key, result: Parts, ttl: Duration, policies: &[Arc<Object<ToolPolicy>>]) {
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
        Key { caller: None, about: "t".into(), revision: "r".into(), asked: [n; 32] }
    }

    const TTL: Duration = Duration::from_secs(10);

    fn found(kept: &Kept, n: u8) -> Option<Bytes> {
        kept.find(&key(n), &[]).map(|(Parts(result, _), _)| result)
    }

    fn keep(kept: &Kept, n: u8, result: &[u8]) {
        kept.keep(key(n), Parts(Bytes::copy_from_slice(result), Bytes::new()), TTL, &[]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_given_until_its_time_is_over() {
        let kept = kept(10, 10_000);
        keep(&kept, 1, b"one");
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
        keep(&kept, 1, b"one");
        keep(&kept, 2, b"two");
        assert!(found(&kept, 1).is_some());
        keep(&kept, 3, b"three");
        assert_eq!([1, 2, 3].map(|n| found(&kept, n).is_some()), [true, false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_bounded_and_what_is_too_large_is_not_kept() {
        let kept = kept(100, 2 * (500 + ENTRY_BYTES));
        for n in 0..5 {
            keep(&kept, n, &[b'x'; 500]);
        }
        assert_eq!((0..5).filter(|n| found(&kept, *n).is_some()).count(), 2);
        keep(&kept, 9, &[b'x'; 1001]);
        assert_eq!(found(&kept, 9), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_forgotten_leaves_its_room_and_the_rest_stays() {
        let kept = kept(10, 10_000);
        keep(&kept, 1, b"one");
        keep(&kept, 2, b"two");
        kept.forget(|key| key.asked == [1; 32]);
        assert_eq!([1, 2].map(|n| found(&kept, n).is_some()), [false, true]);
        assert_eq!(kept.inner().bytes, 3 + ENTRY_BYTES);
    }

    #[test]
    fn callers_tools_and_revisions_are_kept_apart() {
        let one = Key { caller: Some("a".into()), ..key(1) };
        for other in [
            key(1),
            Key { caller: Some("b".into()), ..key(1) },
            Key { about: "u".into(), ..one.clone() },
            Key { revision: "s".into(), ..one.clone() },
        ] {
            assert_ne!(one, other);
        }
    }
}
