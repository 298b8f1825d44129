//! What is known here of the tasks of callers of the legacy era: those that a server of the modern era holds, so that they
//! can be listed, and what such a server answered at once to calls that were to be tasks, until it is asked for.
//!
//! Every call that is to be a task has its place before the server is asked, so that no answer comes for which there is
//! none. A task that its server holds gives its place up for another: it can be asked about all the same.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::bridge::extension::Task;
use crate::bridge::tasks::End;
use crate::clock;
use crate::limits::Limits;
use crate::refusal::Refusal;

/// For how long a result is kept at least, however short its caller would have it.
const TTL_MIN: Duration = Duration::from_secs(10);

/// All tasks that are known at one server.
#[derive(Clone, Debug)]
pub(super) struct Shelf(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max: usize,
    per_caller_max: usize,
    bytes_max: usize,
    age_max: Duration,
    /// The oldest first.
    entries: Mutex<Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    key: u128,
    caller: Arc<str>,
    what: What,
}

#[derive(Debug)]
enum What {
    /// It is not known yet what its server makes of it.
    Expected,
    There(Begun),
    Here(Arc<Finished>),
}

/// A task that its server holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Begun {
    /// As its caller knows it.
    pub(super) id: Arc<str>,
    /// As its server does.
    pub(super) own: Arc<str>,
}

/// What a server answered at once.
#[derive(Debug)]
pub(super) struct Finished {
    /// As its caller knows it.
    pub(super) id: String,
    pub(super) end: End,
    at: String,
    ttl: Duration,
    until: Instant,
}

impl Finished {
    pub(super) fn task(&self) -> Task {
        Task::ended(&self.id, &self.end, &self.at, self.ttl)
    }

    fn bytes(&self) -> usize {
        let (End::Result(end) | End::Error(end)) = &self.end;
        end.len()
    }
}

/// One of a caller's tasks.
#[derive(Debug)]
pub(super) enum Listed {
    There(Begun),
    Here(Arc<Finished>),
}

/// Room for one task; given back when it is dropped without use.
#[derive(Debug)]
pub(super) struct Place {
    shelf: Shelf,
    pub(super) key: u128,
}

impl Shelf {
    pub(super) fn new(limits: &Limits) -> Self {
        Self(Arc::new(Shared {
            max: limits.tasks_max,
            per_caller_max: limits.tasks_per_caller_max,
            bytes_max: limits.tasks_bytes_max,
            age_max: *limits.task_result_timeout,
            entries: Mutex::default(),
        }))
    }

    /// Room for one more task of a caller's.
    pub(super) fn reserve(&self, caller: &Arc<str>) -> Result<Place, Refusal> {
        let mut entries = self.entries();
        let of_caller = |entry: &Entry| entry.caller == *caller;
        if entries.iter().filter(|entry| of_caller(entry)).count() >= self.0.per_caller_max {
            make_room(&mut entries, of_caller)?;
        }
        if entries.len() >= self.0.max {
            make_room(&mut entries, |_| true)?;
        }
        let key = rand::random();
        entries.push(Entry { key, caller: Arc::clone(caller), what: What::Expected });
        Ok(Place { shelf: self.clone(), key })
    }

    /// What was kept for a caller.
    pub(super) fn find(&self, caller: &str, key: u128) -> Result<Arc<Finished>, Refusal> {
        let entries = self.entries();
        let entry = entries.iter().find(|entry| entry.key == key && *entry.caller == *caller);
        match entry.map(|entry| &entry.what) {
            Some(What::Here(finished)) => Ok(Arc::clone(finished)),
            _ => Err(Refusal::TaskUnknown),
        }
    }

    /// All of a caller's, the latest first.
    pub(super) fn of(&self, caller: &str) -> Vec<Listed> {
        let entries = self.entries();
        let own = entries.iter().rev().filter(|entry| *entry.caller == *caller);
        own.filter_map(|entry| match &entry.what {
            What::Expected => None,
            What::There(begun) => Some(Listed::There(begun.clone())),
            What::Here(finished) => Some(Listed::Here(Arc::clone(finished))),
        })
        .collect()
    }

    /// Lists a task no more that its server does not know.
    pub(super) fn forget(&self, id: &str) {
        self.entries().retain(|entry| !matches!(&entry.what, What::There(begun) if *begun.id == *id));
    }

    /// What is there, without what is too old.
    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        let mut entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        entries.retain(|entry| !matches!(&entry.what, What::Here(finished) if finished.until <= now));
        entries
    }
}

/// Forgets the oldest of these that its server holds.
fn make_room(entries: &mut Vec<Entry>, among: impl Fn(&Entry) -> bool) -> Result<(), Refusal> {
    let oldest = entries.iter().position(|entry| among(entry) && matches!(entry.what, What::There(_)));
    entries.remove(oldest.ok_or(Refusal::TooManyTasks)?);
    Ok(())
}

impl Place {
    /// The server holds the task.
    pub(super) fn begun(self, begun: Begun) {
        self.fill(&mut self.shelf.entries(), What::There(begun));
    }

    /// The server answered at once. Of an answer for which there is no room it is kept that it was lost.
    pub(super) fn keep(self, id: String, end: End, wanted: Option<Duration>) -> Arc<Finished> {
        let shared = &self.shelf.0;
        let ttl = wanted.unwrap_or(shared.age_max).max(TTL_MIN).min(shared.age_max);
        let at = jiff::Timestamp::try_from(clock::now()).map(|at| format!("{at:.3}")).unwrap_or_default();
        let mut finished = Finished { id, end, at, ttl, until: Instant::now() + ttl };
        let held = |entry: &Entry| match &entry.what {
            What::Here(finished) => finished.bytes(),
            What::Expected | What::There(_) => 0,
        };
        let mut entries = self.shelf.entries();
        let held: usize = entries.iter().map(held).sum();
        if held + finished.bytes() > shared.bytes_max {
            finished.end = End::Error(lost());
        }
        let finished = Arc::new(finished);
        self.fill(&mut entries, What::Here(Arc::clone(&finished)));
        drop(entries);
        finished
    }

    fn fill(&self, entries: &mut [Entry], what: What) {
        if let Some(entry) = entries.iter_mut().find(|entry| entry.key == self.key) {
            entry.what = what;
        }
    }
}

/// The error that stands for an answer that was not kept.
fn lost() -> String {
    let refusal = Refusal::TooManyTasks;
    let told = refusal.told();
    let (code, message) = (told.code, refusal.message());
    serde_json::json!({ "code": code, "message": message, "data": { "reason": told.reason } }).to_string()
}

impl Drop for Place {
    fn drop(&mut self) {
        let key = self.key;
        self.shelf.entries().retain(|entry| entry.key != key || !matches!(entry.what, What::Expected));
    }
}

#[cfg(test)]
mod tests;
