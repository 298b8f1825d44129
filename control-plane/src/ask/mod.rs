//! Questions to sidecars while they run: what each holds and logs, and which calls end there.
//!
//! Sidecars open the streams that they are asked on; here is who is listening, and which questions are open. Everything
//! has a limit, and nobody waits for a sidecar for longer than they said. Not here: who may cause a question, which the
//! operator API decides, and what is made of the answers.

mod service;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use weft_proto::name::{NodeId, SpiffeId};
use weft_proto::pb::weft::ask::v1::answer::Says;
use weft_proto::pb::weft::ask::v1::question::Asks;
use weft_proto::pb::weft::ask::v1::{Answer, Question, Stop};

pub use service::Asking;

/// Largest answer, in bytes.
pub const ANSWER_BYTES_MAX: usize = 256 << 10;
/// Bytes of all answers to one question, but for those about calls, which have no end.
pub const ANSWERS_BYTES_MAX: usize = 32 << 20;
/// Questions to one sidecar at once.
pub const QUESTIONS_PER_SIDECAR_MAX: usize = 16;
/// Questions to all sidecars at once.
pub const QUESTIONS_MAX: usize = 20_000;
/// Questions that wait for the connection to take them.
const OUTGOING_MAX: usize = 2 * QUESTIONS_PER_SIDECAR_MAX;
/// Answers to one question that wait for whoever asked; more end the question.
const ANSWERS_MAX: usize = 512;
/// Answers about calls that wait for whoever taps; more are lost, and counted.
const TAPPED_MAX: usize = 16;

/// Who is asked.
pub type Whom = (SpiffeId, NodeId);

/// Why a question is not answered, or not any further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the sidecar is not connected")]
    Away,
    #[error("the sidecar takes no questions: it has just connected, or is of a version that knows none")]
    Unasked,
    #[error("{QUESTIONS_PER_SIDECAR_MAX} questions to one sidecar, or {QUESTIONS_MAX} to all, are open")]
    Busy,
    #[error("the sidecar did not answer in time")]
    Silent,
    #[error("the sidecar left before it had answered")]
    Left,
    #[error("the sidecar's answer is longer than is taken")]
    TooLong,
    /// In the sidecar's words.
    #[error("{0}")]
    Refused(String),
}

/// Sidecars that listen, and what they are asked.
#[derive(Debug)]
pub(crate) struct Lines {
    listening: Mutex<HashMap<Whom, Arc<Line>>>,
    room: Arc<Semaphore>,
}

impl Default for Lines {
    fn default() -> Self {
        Self { listening: Mutex::default(), room: Arc::new(Semaphore::new(QUESTIONS_MAX)) }
    }
}

/// One sidecar that listens.
#[derive(Debug)]
struct Line {
    questions: mpsc::Sender<Result<Question, Status>>,
    open: Mutex<HashMap<u64, Open>>,
    asked: AtomicU64,
    over: CancellationToken,
}

/// One question that is open.
#[derive(Debug)]
struct Open {
    answers: mpsc::Sender<Result<Says, Error>>,
    beyond: Arc<Beyond>,
    /// Of the answers that came.
    bytes: usize,
}

/// What found no room, and whether that was all.
#[derive(Debug, Default)]
struct Beyond {
    calls: AtomicU64,
    others: AtomicBool,
    /// The last answer was in time.
    is_done: AtomicBool,
}

/// The answers to one question. Whoever drops them wants no more.
#[derive(Debug)]
pub struct Answers {
    id: u64,
    line: Arc<Line>,
    answers: mpsc::Receiver<Result<Says, Error>>,
    beyond: Arc<Beyond>,
    _room: OwnedSemaphorePermit,
}

impl Lines {
    /// Asks a sidecar that is connected.
    pub(crate) fn ask(&self, whom: &Whom, asks: Asks) -> Result<Answers, Error> {
        let line = lock(&self.listening).get(whom).cloned().ok_or(Error::Unasked)?;
        let room = Arc::clone(&self.room).try_acquire_owned().map_err(|_| Error::Busy)?;
        let waiting_max = if matches!(asks, Asks::Tap(_)) { TAPPED_MAX } else { ANSWERS_MAX };
        let (sender, answers) = mpsc::channel(waiting_max);
        let (id, beyond) = (line.asked.fetch_add(1, Ordering::Relaxed) + 1, Arc::<Beyond>::default());
        {
            let mut open = lock(&line.open);
            if open.len() >= QUESTIONS_PER_SIDECAR_MAX {
                return Err(Error::Busy);
            }
            open.insert(id, Open { answers: sender, beyond: Arc::clone(&beyond), bytes: 0 });
        }
        let answers = Answers { id, line, answers, beyond, _room: room };
        let question = Question { id, asks: Some(asks) };
        // A connection that takes none is one of a sidecar that hangs.
        answers.line.questions.try_send(Ok(question)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::Silent,
            mpsc::error::TrySendError::Closed(_) => Error::Left,
        })?;
        Ok(answers)
    }

    /// A sidecar listens, instead of whoever listened for it before, until `over`.
    fn listens(
        &self,
        whom: Whom,
        questions: mpsc::Sender<Result<Question, Status>>,
        over: CancellationToken,
    ) -> Arc<Line> {
        let line = Arc::new(Line { questions, open: Mutex::default(), asked: AtomicU64::new(0), over });
        if let Some(former) = lock(&self.listening).insert(whom, Arc::clone(&line)) {
            former.over.cancel();
        }
        line
    }

    /// A sidecar listens no more; whoever waits for its answers is told.
    fn left(&self, whom: &Whom, line: &Arc<Line>) {
        let mut listening = lock(&self.listening);
        if listening.get(whom).is_some_and(|it| Arc::ptr_eq(it, line)) {
            listening.remove(whom);
        }
        drop(listening);
        lock(&line.open).clear();
    }
}

impl Line {
    /// Takes one answer in; false if nothing of that name was asked, or is not any more.
    fn answered(&self, answer: Answer) -> bool {
        let bytes = answer.encoded_len();
        let Answer { id, last, failure, says, .. } = answer;
        let mut open = lock(&self.open);
        let Some(question) = open.get_mut(&id) else { return false };
        let told = match (says, failure.is_empty()) {
            (Some(says), true) => Some(Ok(says)),
            (_, false) => Some(Err(Error::Refused(failure.chars().take(1000).collect()))),
            (None, true) => None,
        };
        let fits = match told {
            Some(told) => question.take(told, bytes),
            None => true,
        };
        if last && fits {
            question.beyond.is_done.store(true, Ordering::Relaxed);
        }
        if last || !fits {
            open.remove(&id);
        }
        true
    }
}

impl Open {
    /// Hands an answer over; false if the rest of them would make no sense any more.
    fn take(&mut self, told: Result<Says, Error>, bytes: usize) -> bool {
        let calls = match &told {
            Ok(Says::Tapped(tapped)) => Some(tapped.calls.len() as u64 + tapped.lost),
            _ => None,
        };
        self.bytes = self.bytes.saturating_add(bytes);
        let is_too_long = calls.is_none() && self.bytes > ANSWERS_BYTES_MAX;
        match (is_too_long || self.answers.try_send(told).is_err(), calls) {
            (false, _) => true,
            (true, Some(calls)) => {
                self.beyond.calls.fetch_add(calls, Ordering::Relaxed);
                true
            }
            (true, None) => {
                self.beyond.others.store(true, Ordering::Relaxed);
                false
            }
        }
    }
}

impl Answers {
    /// The next answer; none after the last.
    pub async fn next(&mut self, deadline: Instant) -> Result<Option<Says>, Error> {
        match timeout_at(deadline, self.answers.recv()).await {
            Err(_) => Err(Error::Silent),
            Ok(Some(told)) => told.map(Some),
            Ok(None) if self.beyond.is_done.load(Ordering::Relaxed) => Ok(None),
            Ok(None) if self.line.over.is_cancelled() || self.line.questions.is_closed() => Err(Error::Left),
            Ok(None) if self.beyond.others.load(Ordering::Relaxed) => Err(Error::TooLong),
            Ok(None) => Ok(None),
        }
    }

    /// How many calls came faster than they were taken here, since this was asked last.
    pub fn take_lost(&self) -> u64 {
        self.beyond.calls.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        let was_open = lock(&self.line.open).remove(&self.id).is_some();
        if was_open {
            // Where there is no room to say so, the sidecar hangs, or is told by the end of its stream.
            let stop = Question { id: self.id, asks: Some(Asks::Stop(Stop {})) };
            let _ = self.line.questions.try_send(Ok(stop));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
