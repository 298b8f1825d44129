//! What tasks of servers of the legacy era want to know, in their middle, of callers of the modern one.
//!
//! Such a server asks whoever waits for the task's result. So somebody waits for it here, for as long as the server has
//! something to ask: the caller sees that when it asks how the task stands, and answers with another request. Whoever does
//! not answer is given up for the server.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use weft_proto::mcp::Request;

use crate::bridge::input::{self, Question, WISHES_MAX, Wish};
use crate::limits::Limits;
use crate::refusal::Refusal;

use super::conversation::{Conversation, Heard};

/// All tasks at one server whose questions wait for callers.
#[derive(Clone, Debug)]
pub(super) struct Inquiries(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max: usize,
    per_caller_max: usize,
    bytes_max: usize,
    table: Mutex<HashMap<Key, Asked>>,
    drain: CancellationToken,
}

/// A caller, and a task as its id opens.
pub(super) type Key = (Arc<str>, String);

/// What one task wants to know.
#[derive(Debug, Default)]
struct Asked {
    /// Each under a name that no other has.
    open: Vec<(String, Question)>,
    /// Whether all that the server asked so far was answered.
    is_answered: bool,
    /// Told whenever the server has said something.
    said: Arc<Notify>,
}

/// There is no room for one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Inquiries {
    pub(super) fn new(limits: &Limits, drain: CancellationToken) -> Self {
        Self(Arc::new(Shared {
            max: limits.parked_max,
            per_caller_max: limits.parked_per_caller_max,
            bytes_max: limits.parked_bytes_max,
            table: Mutex::default(),
            drain,
        }))
    }

    /// What a task wants to know; asks its server, and waits a while for the first of it, where nobody does yet.
    pub(super) async fn of(
        &self,
        key: &Key,
        within: Duration,
        wait: impl FnOnce() -> Conversation,
    ) -> Result<Vec<(String, Wish)>, Full> {
        let said = {
            let mut table = self.0.table();
            let own = table.keys().filter(|(caller, _)| *caller == key.0).count();
            let is_full = table.len() >= self.0.max || own >= self.0.per_caller_max;
            match table.entry(key.clone()) {
                Entry::Occupied(asked) if !asked.get().open.is_empty() => return Ok(wishes(asked.get())),
                Entry::Occupied(asked) => Arc::clone(&asked.get().said),
                Entry::Vacant(_) if is_full || self.0.drain.is_cancelled() => return Err(Full),
                Entry::Vacant(place) => {
                    let said = Arc::clone(&place.insert(Asked::default()).said);
                    tokio::spawn(Keep { shared: Arc::clone(&self.0), key: key.clone() }.run(wait()));
                    said
                }
            }
        };
        let heard = said.notified();
        tokio::pin!(heard);
        // What is said from here on is heard, and what was said before is there to be seen.
        heard.as_mut().enable();
        if let Some(asked) = self.0.table().get(key).filter(|it| !it.open.is_empty()) {
            return Ok(wishes(asked));
        }
        _ = timeout(within, heard).await;
        Ok(self.0.table().get(key).map(wishes).unwrap_or_default())
    }

    /// The answers in a request, for the server; none where nothing was asked. Of what nobody asks nothing is made.
    pub(super) fn answered(&self, key: &Key, request: &Request<'_>) -> Result<Option<Vec<Bytes>>, Refusal> {
        let mut table = self.0.table();
        let Some(asked) = table.get_mut(key) else { return Ok(None) };
        let missing = || Refusal::Invalid("`inputResponses` is missing".to_owned());
        let given = input::given(request).ok_or_else(missing)?;
        let is_none = |(name, _): &(String, Question)| {
            given.value(name).is_some_and(|result| !result.get().starts_with('{'))
        };
        if asked.open.iter().any(is_none) {
            return Err(Refusal::Invalid("an answer in `inputResponses` is no object".to_owned()));
        }
        let mut answers = Vec::new();
        asked.open.retain(|(name, question)| {
            let result = given.value(name);
            answers.extend(result.map(|result| question.answered(result)));
            result.is_none()
        });
        asked.is_answered |= !answers.is_empty() && asked.open.is_empty();
        Ok(Some(answers))
    }

    /// Whether a task's server has all answers, whatever it still says of the task.
    pub(super) fn are_answered(&self, key: &Key) -> bool {
        self.0.table().get(key).is_some_and(|asked| asked.is_answered)
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.table().len()
    }
}

fn wishes(asked: &Asked) -> Vec<(String, Wish)> {
    asked.open.iter().map(|(name, question)| (name.clone(), question.wish.clone())).collect()
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, HashMap<Key, Asked>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the result of one task, for the sake of what is asked meanwhile.
struct Keep {
    shared: Arc<Shared>,
    key: Key,
}

impl Keep {
    async fn run(self, mut conversation: Conversation) {
        let mut until = None;
        loop {
            let is_open = self.is_open();
            tokio::select! {
                heard = conversation.next() => match heard {
                    Some(Heard::Asked(question)) => match self.ask(question) {
                        Ok(()) => until = Some(Instant::now() + conversation.input_timeout()),
                        Err(question) => conversation.answer(question.given_up()),
                    },
                    Some(Heard::Note(_) | Heard::Request(_)) => {}
                    Some(Heard::Response(_) | Heard::Refused(_) | Heard::Cancelled) | None => break,
                },
                () = sleep_until(until.unwrap_or_else(Instant::now)), if is_open => {
                    // It may have been answered meanwhile.
                    if self.is_open() {
                        break;
                    }
                }
                () = self.shared.drain.cancelled() => break,
            }
        }
        let asked = self.shared.table().remove(&self.key).unwrap_or_default();
        for (_, question) in &asked.open {
            conversation.answer(question.given_up());
        }
        asked.said.notify_waiters();
    }

    fn is_open(&self) -> bool {
        self.shared.table().get(&self.key).is_some_and(|asked| !asked.open.is_empty())
    }

    /// Lets a question wait, if there is room.
    fn ask(&self, question: Question) -> Result<(), Question> {
        let mut table = self.shared.table();
        let held = table.values().flat_map(|asked| &asked.open).map(|(_, it)| it.bytes()).sum::<usize>();
        let fits = held + question.bytes() <= self.shared.bytes_max;
        match table.get_mut(&self.key) {
            Some(asked) if fits && asked.open.len() < WISHES_MAX => {
                asked.open.push((format!("{:016x}", rand::random::<u64>()), question.without_task()));
                asked.is_answered = false;
                asked.said.notify_waiters();
                Ok(())
            }
            _ => Err(question),
        }
    }
}
