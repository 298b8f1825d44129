//! Who waits for a place among the calls under way: callers take turns, so that one with many calls keeps none of the
//! others waiting longer than one call of each.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use weft_proto::policy::quota::Gauge;

use super::key::Key;
use super::table::Claim;

/// Counters of calls that ended, each for many counts.
const COUNTERS: usize = 64;

/// Everyone who waits, by what they wait for.
#[derive(Debug)]
pub(super) struct Line {
    queues: Mutex<HashMap<Key, Queue>>,
    /// In all queues, those included whose turn it is.
    waiting: AtomicUsize,
    /// Calls that ended, so that none ends unnoticed between a look at a count and standing in line for it.
    ended: [AtomicU64; COUNTERS],
    waiting_max: usize,
    per_caller_max: usize,
}

#[derive(Debug, Default)]
struct Queue {
    /// Who waits, each once, in the order of their turns.
    callers: VecDeque<u64>,
    calls: HashMap<u64, VecDeque<Call>>,
    /// Those whose turn it is and who have not said yet whether they took it.
    called: usize,
    next_id: u64,
}

#[derive(Debug)]
struct Call {
    id: u64,
    turn: oneshot::Sender<()>,
}

/// A place in a queue. Leaving it passes the turn on.
#[derive(Debug)]
pub(super) struct Waits {
    line: Arc<Line>,
    key: Key,
    owner: u64,
    id: u64,
    turn: oneshot::Receiver<()>,
    passes_on: bool,
    took: bool,
}

impl Line {
    pub(super) fn new(waiting_max: usize, per_caller_max: usize) -> Self {
        Self {
            queues: Mutex::default(),
            waiting: AtomicUsize::new(0),
            ended: [const { AtomicU64::new(0) }; COUNTERS],
            waiting_max,
            per_caller_max,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counter(&self, key: Key) -> &AtomicU64 {
        &self.ended[key.handle() as usize % COUNTERS]
    }

    /// A number that is another once a call ended that held what one of these claims wants.
    pub(super) fn ended(&self, claims: &[Claim<'_>]) -> u64 {
        let slots = claims.iter().filter(|claim| is_for_a_slot(claim));
        slots.map(|claim| self.counter(claim.key).load(Ordering::SeqCst)).fold(0, u64::wrapping_add)
    }

    /// The claim for which others wait already.
    pub(super) fn is_before(&self, claims: &[Claim<'_>]) -> Option<usize> {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let queues = self.lock();
        claims.iter().position(|claim| is_for_a_slot(claim) && queues.contains_key(&claim.key))
    }

    /// Stands in line for a claim; whoever had its turn and found no place after all stands in front. None where too many
    /// wait.
    pub(super) fn join(
        self: &Arc<Self>,
        claims: &[Claim<'_>],
        by: usize,
        owner: u64,
        seen: u64,
        before: Option<Waits>,
    ) -> Option<Waits> {
        let key = claims.get(by)?.key;
        let had_its_turn = before.as_ref().is_some_and(|before| before.key == key);
        if let Some(mut before) = before {
            before.passes_on = !had_its_turn;
        }
        let mut queues = self.lock();
        if self.waiting.load(Ordering::SeqCst) >= self.waiting_max {
            return None;
        }
        let queue = queues.entry(key).or_default();
        let calls = queue.calls.entry(owner).or_default();
        if calls.len() >= self.per_caller_max {
            return None;
        }
        let (sender, turn) = oneshot::channel();
        let id = queue.next_id;
        queue.next_id += 1;
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let call = Call { id, turn: sender };
        match had_its_turn {
            true => calls.push_front(call),
            false => calls.push_back(call),
        }
        if calls.len() == 1 {
            match had_its_turn {
                true => queue.callers.push_front(owner),
                false => queue.callers.push_back(owner),
            }
        }
        // What ended before this stood in line woke nobody.
        if self.ended(claims) != seen {
            queue.call_next();
        }
        drop(queues);
        Some(Waits { line: Arc::clone(self), key, owner, id, turn, passes_on: true, took: false })
    }

    /// A call ended that held one of these places.
    pub(super) fn one_ended(&self, key: Key) {
        self.counter(key).fetch_add(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0
            && let Some(queue) = self.lock().get_mut(&key)
        {
            queue.call_next();
        }
    }
}

fn is_for_a_slot(claim: &Claim<'_>) -> bool {
    matches!(claim.ready.limit.gauge, Gauge::Slots(_))
}

impl Queue {
    /// Calls one of the caller whose turn it is; that caller then stands last.
    fn call_next(&mut self) {
        while let Some(owner) = self.callers.pop_front() {
            let Some(calls) = self.calls.get_mut(&owner) else { continue };
            let next = calls.pop_front();
            match calls.is_empty() {
                true => _ = self.calls.remove(&owner),
                false => self.callers.push_back(owner),
            }
            if let Some(call) = next {
                // Whoever gave up meanwhile says so when it leaves, and passes the turn on.
                let _ = call.turn.send(());
                self.called += 1;
                return;
            }
        }
    }

    /// True if it still waited.
    fn remove(&mut self, owner: u64, id: u64) -> bool {
        let Some(calls) = self.calls.get_mut(&owner) else { return false };
        let Some(at) = calls.iter().position(|call| call.id == id) else { return false };
        calls.remove(at);
        if calls.is_empty() {
            self.calls.remove(&owner);
            self.callers.retain(|caller| *caller != owner);
        }
        true
    }

    fn is_empty(&self) -> bool {
        self.called == 0 && self.calls.is_empty()
    }
}

impl Waits {
    /// There was a place. There may be more, where the limit or the share of it grew, of which nobody in line hears:
    /// so the next is called as well, and stands in front again if there is none.
    pub(super) fn took(&mut self) {
        self.took = true;
    }

    /// Ends when it is this one's turn.
    pub(super) async fn turn(&mut self) {
        // The sender is kept until it sends.
        let _ = (&mut self.turn).await;
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.line.waiting.fetch_sub(1, Ordering::SeqCst);
        let mut queues = self.line.lock();
        let Some(queue) = queues.get_mut(&self.key) else { return };
        let was_called = !queue.remove(self.owner, self.id);
        if was_called {
            queue.called = queue.called.saturating_sub(1);
        }
        if self.took || was_called && self.passes_on {
            queue.call_next();
        }
        if queue.is_empty() {
            queues.remove(&self.key);
        }
    }
}
