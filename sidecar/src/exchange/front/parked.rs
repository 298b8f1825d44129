//! Calls of callers without a session that wait until these come back with what the server wants to know.
//!
//! The caller is answered with what it is asked for and a state that leads it back here: the state names the instance, the
//! end of the wait and the call, under a keyed tag that holds for this caller alone. What the call was about has to be the
//! same when the caller comes back. Whoever does not come back is given up for the server, too.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use weft_proto::audit::Digest;
use weft_proto::mcp::{Request, Target};

use crate::bridge::input::{self, Question, WISHES_MAX, Wish};
use crate::clock;
use crate::limits::Limits;
use crate::refusal::Refusal;
use crate::session_id::{Key, Whence};

use super::Patience;
use super::conversation::{Conversation, Heard};

/// Bytes of what a server asks more of a caller who is away.
const ASKED_BYTES_MAX: usize = 1 << 20;

/// All calls that wait at one server.
#[derive(Clone, Debug)]
pub(super) struct Parked(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    here: Whence,
    /// What waits is in memory, and so is the key.
    key: Key,
    max: usize,
    per_caller_max: usize,
    bytes_max: usize,
    table: Mutex<HashMap<u128, Entry>>,
    drain: CancellationToken,
}

/// One that waits.
#[derive(Debug)]
struct Entry {
    caller: Arc<str>,
    matter: Digest,
    questions: Vec<Question>,
    /// Whoever keeps it gives it back to who comes for it.
    keeper: oneshot::Sender<oneshot::Sender<Conversation>>,
}

/// What became of a call that was to wait.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The caller is answered this.
    Waits(Bytes),
    /// There is no room, so that the server was told that it gets no answer; the call goes on.
    GoesOn(Box<Conversation>),
}

impl Parked {
    pub(super) fn new(here: Whence, limits: &Limits, drain: CancellationToken) -> Self {
        Self(Arc::new(Shared {
            here,
            key: Key::random(),
            max: limits.parked_max,
            per_caller_max: limits.parked_per_caller_max,
            bytes_max: limits.parked_bytes_max,
            table: Mutex::default(),
            drain,
        }))
    }

    /// Lets a call wait.
    pub(super) fn park(&self, mut conversation: Conversation, questions: Vec<Question>) -> Outcome {
        let shared = &self.0;
        let (id, after) = (rand::random::<u128>(), conversation.input_timeout());
        let wishes: Vec<Wish> = questions.iter().map(|question| question.wish.clone()).collect();
        let until = clock::seconds() + after.as_secs();
        let caller = Arc::clone(conversation.caller());
        let bound = shared.key.bind(&format!("{id:032x}-{until:x}"), &caller);
        let state = bound.map(|bound| shared.here.state(&bound));
        let asking = state.and_then(|state| conversation.asking(&wishes, &state));
        let (Some(asking), Some(matter)) = (asking, conversation.matter()) else {
            return given_up(conversation, &questions);
        };
        let (keeper, claimed) = oneshot::channel();
        {
            let mut table = shared.table();
            let own = table.values().filter(|entry| entry.caller == caller).count();
            let held = table.values().flat_map(|entry| &entry.questions);
            let bytes: usize = held.chain(&questions).map(Question::bytes).sum();
            let is_full =
                table.len() >= shared.max || own >= shared.per_caller_max || bytes > shared.bytes_max;
            if is_full || shared.drain.is_cancelled() {
                drop(table);
                return given_up(conversation, &questions);
            }
            table.insert(id, Entry { caller, matter, questions: questions.clone(), keeper });
        }
        let keep = Keep { shared: Arc::clone(shared), id, after, questions };
        tokio::spawn(keep.run(conversation, claimed));
        Outcome::Waits(asking)
    }

    /// Whether a request goes on with a call that waits here for this caller.
    pub(super) fn waits(&self, caller: &str, request: &Request<'_>) -> bool {
        let Some(Ok(id)) = self.named(caller, request) else { return false };
        // Arguments are read before anybody has to wait for the table.
        let matter = matter(request);
        self.0.table().get(&id).is_some_and(|entry| entry.is_for(caller, matter))
    }

    /// The call that a request goes on with; none if it goes on with nothing of ours.
    pub(super) async fn resume(
        &self,
        caller: &str,
        request: &Request<'_>,
        patience: Patience,
    ) -> Result<Option<Conversation>, Refusal> {
        let id = match self.named(caller, request) {
            None => return Ok(None),
            Some(named) => named?,
        };
        let matter = matter(request);
        let (Entry { keeper, .. }, answers) = {
            let mut table = self.0.table();
            let entry = table.get(&id).filter(|entry| entry.is_for(caller, matter));
            // Nothing is taken out for an answer that is none: the caller may try again.
            let answers = entry.ok_or(Refusal::InputUnknown)?.answers(request)?;
            (table.remove(&id).ok_or(Refusal::InputUnknown)?, answers)
        };
        let (back, given) = oneshot::channel();
        keeper.send(back).map_err(|_| Refusal::InputUnknown)?;
        let mut conversation = given.await.map_err(|_| Refusal::InputUnknown)?;
        conversation.resume(request, patience, answers).await?;
        Ok(Some(conversation))
    }

    /// The call that the state of a request names, if it is a state of ours. Of one that is another instance's, one that
    /// was made for another caller, and one that was made by nobody, it is only said that nothing waits.
    fn named(&self, caller: &str, request: &Request<'_>) -> Option<Result<u128, Refusal>> {
        let state = request.params.request_state?;
        let state: std::borrow::Cow<'_, str> = serde_json::from_str(state.get()).ok()?;
        let (whence, bound) = Whence::read(&state)?;
        let read = || {
            let text = self.0.key.unbind(bound, caller).filter(|_| whence == self.0.here)?;
            let (id, until) = text.split_once('-')?;
            let until = u64::from_str_radix(until, 16).ok()?;
            u128::from_str_radix(id, 16).ok().filter(|_| clock::seconds() <= until)
        };
        Some(read().ok_or(Refusal::InputUnknown))
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.table().len()
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, HashMap<u128, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn is_for(&self, caller: &str, matter: Digest) -> bool {
        &*self.caller == caller && matter == self.matter
    }

    /// What the server is answered.
    fn answers(&self, request: &Request<'_>) -> Result<Vec<Bytes>, Refusal> {
        let missing =
            || Refusal::Invalid("not everything that was asked for is in `inputResponses`".to_owned());
        let given = input::given(request).ok_or_else(missing)?;
        let answer = |(at, question): (usize, &Question)| {
            let result = given.value(&(at + 1).to_string()).ok_or_else(missing)?;
            if !result.get().starts_with('{') {
                return Err(Refusal::Invalid("an answer in `inputResponses` is no object".to_owned()));
            }
            Ok(question.answered(result))
        };
        self.questions.iter().enumerate().map(answer).collect()
    }
}

/// Keeps one call until somebody comes for it.
struct Keep {
    shared: Arc<Shared>,
    id: u128,
    after: Duration,
    questions: Vec<Question>,
}

impl Keep {
    async fn run(
        self,
        mut conversation: Conversation,
        mut claimed: oneshot::Receiver<oneshot::Sender<Conversation>>,
    ) {
        let (mut said, mut asked_bytes, mut over) = (VecDeque::new(), 0, false);
        let until = sleep(self.after);
        tokio::pin!(until);
        loop {
            tokio::select! {
                claim = &mut claimed => {
                    if let Ok(back) = claim {
                        conversation.say_first(said);
                        // Who wanted it may be gone; with it goes the call.
                        _ = back.send(conversation);
                    }
                    return;
                }
                heard = conversation.next(), if !over => match heard {
                    // There is nobody to tell.
                    Some(Heard::Note(_) | Heard::Request(_)) => {}
                    Some(Heard::Asked(question))
                        if said.len() == WISHES_MAX || asked_bytes + question.bytes() > ASKED_BYTES_MAX =>
                    {
                        conversation.answer(question.given_up());
                    }
                    Some(Heard::Asked(question)) => {
                        asked_bytes += question.bytes();
                        said.push_back(Heard::Asked(question));
                    }
                    Some(heard @ (Heard::Response(_) | Heard::Refused(_) | Heard::Cancelled)) => {
                        said.push_back(heard);
                        over = true;
                    }
                    None => over = true,
                },
                () = &mut until => break,
                () = self.shared.drain.cancelled() => break,
            }
        }
        self.shared.table().remove(&self.id);
        for question in &self.questions {
            conversation.answer(question.given_up());
        }
        // And with this the server is told that nobody wants the answer.
        drop(conversation);
    }
}

fn given_up(conversation: Conversation, questions: &[Question]) -> Outcome {
    for question in questions {
        conversation.answer(question.given_up());
    }
    Outcome::GoesOn(Box::new(conversation))
}

/// What a request is about, however its JSON is written: what is answered must be what was asked.
pub(super) fn matter(request: &Request<'_>) -> Digest {
    let target = request.target().map(|target| match target {
        Target::Tool(name) | Target::Prompt(name) | Target::Resource(name) | Target::Task(name) => name,
    });
    let arguments = request.params.arguments.and_then(|it| serde_json::from_str::<Value>(it.get()).ok());
    Digest::of(serde_json::json!([request.method, target, arguments]).to_string().as_bytes())
}
