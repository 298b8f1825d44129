//! Tasks of a server of the modern era, where they are an extension, for callers of the legacy one.
//!
//! Such a caller says itself that a call shall be a task, and waits for its result with a request that lasts as long. The
//! server is asked again and again for it; what it asks in the middle goes to the caller who waits. A server that answers
//! at once makes no task: what it answered is kept here until the caller asks for it. The ids that callers see are theirs
//! alone.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use weft_proto::mcp::{self, Message, Outcome, Request, code, edit, method};

use crate::admit::Admitted;
use crate::bridge::extension::{self, Task};
use crate::bridge::input::Needs;
use crate::bridge::tasks::{End, Status};
use crate::bridge::{self, AboutTasks, Answered, ToModern};
use crate::exchange::sessions::Session;
use crate::exchange::{Asker, Reply, Said};
use crate::refusal::Refusal;

use super::conversation::{Asked, Heard, Question};
use super::rounds::{ROUNDS_MAX, Round, Step};
use super::shelf::{Begun, Listed};
use super::translate::Way;
use super::{Front, Incoming, Patience, answer};

/// Tasks that are asked about at once for one list.
const AT_ONCE_MAX: usize = 8;

/// What has been said and was not told yet.
const QUEUE_MAX: usize = 8;

/// What a caller's id of a task says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Held {
    /// What it is called at its server.
    There(String),
    /// Under which key its result is kept.
    Here(u128),
}

impl Held {
    fn text(&self) -> String {
        match self {
            Self::There(own) => format!("there {own}"),
            Self::Here(key) => format!("here {key:x}"),
        }
    }

    fn read(text: &str) -> Option<Self> {
        match text.split_once(' ')? {
            ("there", own) => Some(Self::There(own.to_owned())),
            ("here", key) => u128::from_str_radix(key, 16).ok().map(Self::Here),
            _ => None,
        }
    }
}

/// What is wanted of tasks.
enum Wanted {
    /// A call, as the server shall have it, and for how long its result is wanted.
    Begin(Bytes, Option<Duration>),
    Standing(Held),
    Result(Held),
    Cancel(Held),
    List,
}

/// One request about tasks, with all that it takes while nobody else keeps it.
struct About {
    front: Arc<Front>,
    session: Arc<Session>,
    bridge: Arc<ToModern>,
    /// What has to be known of the request when its answer comes.
    asked: bridge::Asked,
    asker: Asker,
    patience: Patience,
    admitted: Admitted,
    /// The request's, as JSON.
    id: String,
    /// The task's, as the caller knows it.
    task: String,
    said: mpsc::Sender<Result<Said, Refusal>>,
}

impl Front {
    /// The answer to a request that is about tasks, of a caller who knows them; none of one that goes the way of every
    /// other.
    pub(super) async fn legacy_task(
        self: &Arc<Self>,
        incoming: &Incoming<'_>,
        session: &Arc<Session>,
        (request, message): (&Request<'_>, &Bytes),
    ) -> Result<Option<Reply>, Refusal> {
        let wish = extension::wanted(request);
        let is_about_one =
            matches!(&*request.method, method::TASKS_GET | method::TASKS_RESULT | method::TASKS_CANCEL);
        if wish.is_none() && !is_about_one && request.method != method::TASKS_LIST {
            return Ok(None);
        }
        let Some(bridge) = self.server().await?.extension() else { return Ok(None) };
        let task = request.params.task_id.as_deref().filter(|_| is_about_one).unwrap_or_default();
        let held = || self.held(&session.asker.caller, task);
        let wanted = match (&*request.method, wish) {
            (_, Some(ttl)) => {
                let message = bridge.as_task(session.client.as_caller(), message, request)?;
                Wanted::Begin(message, ttl.map(Duration::from_millis))
            }
            (method::TASKS_GET, _) => Wanted::Standing(held()?),
            (method::TASKS_RESULT, _) => Wanted::Result(held()?),
            (method::TASKS_CANCEL, _) => Wanted::Cancel(held()?),
            // All are on one page.
            _ if request.params.cursor.is_some() => {
                return Err(Refusal::BadMeta("there is no such page".to_owned()));
            }
            _ => Wanted::List,
        };
        let (said, reply) = mpsc::channel(QUEUE_MAX);
        let asker = Asker { said: incoming.said.cloned(), ..session.asker.clone() };
        let about = About {
            front: Arc::clone(self),
            session: Arc::clone(session),
            bridge,
            asked: bridge::Asked::of(request, asker.abilities),
            asker,
            patience: incoming.patience,
            admitted: incoming.admitted.clone(),
            id: request.id.raw().to_owned(),
            task: task.to_owned(),
            said,
        };
        tokio::spawn(about.run(wanted));
        Ok(Some(Reply(reply)))
    }

    fn held(&self, caller: &str, id: &str) -> Result<Held, Refusal> {
        Held::read(&self.task_ids.open(caller, id)?).ok_or(Refusal::TaskUnknown)
    }
}

impl About {
    async fn run(self, wanted: Wanted) {
        let said = self.said.clone();
        let response = tokio::select! {
            biased;
            // The caller takes it back, or the sidecar waits no longer.
            () = said.closed() => return,
            response = self.respond(wanted) => response,
        };
        // Whoever is gone by now does not want to know.
        _ = said.send(response.map(Said::Response)).await;
    }

    async fn respond(self, wanted: Wanted) -> Result<Bytes, Refusal> {
        match wanted {
            Wanted::Begin(message, ttl) => self.begin(message, ttl).await,
            Wanted::Standing(held) => self.standing(&held).await,
            Wanted::Result(Held::There(own)) => self.wait(&own).await,
            Wanted::Result(Held::Here(key)) => {
                let finished = self.front.shelf.find(&self.asker.caller, key)?;
                // It was translated when it came.
                let response = extension::outcome(&self.id, &finished.end);
                extension::related(&response, &self.task, self.bounds())
            }
            Wanted::Cancel(held) => self.cancel(&held).await,
            Wanted::List => self.list().await,
        }
    }

    /// A call that is to be a task.
    async fn begin(self, message: Bytes, ttl: Option<Duration>) -> Result<Bytes, Refusal> {
        let place = self.front.shelf.reserve(&self.asker.caller)?;
        let can_be_asked = self.asker.abilities.any();
        let question = Question {
            asker: self.asker.clone(),
            asked: Asked::Server(message.clone()),
            id: self.id.clone(),
            renamed: false,
            way: Way::ToModern(Arc::clone(&self.bridge), self.asked.with_tasks(AboutTasks::Begun)),
            questions: can_be_asked.then(|| self.session.questions.clone()),
            first: can_be_asked.then_some(message),
            under_way: None,
        };
        let response = self.converse(question, self.patience).await?;
        let result = match mcp::parse(&response, self.bounds()) {
            Ok(mcp::Body::One(Message::Response(it))) => match it.outcome {
                Outcome::Result(result) => result,
                Outcome::Error(_) => return Ok(response),
            },
            Ok(_) | Err(_) => return Err(Refusal::UpstreamBroke("the response is none".to_owned())),
        };
        let seal = |held: &Held| self.front.task_ids.seal(&self.asker.caller, &held.text());
        if crate::task_id::begun_by(result).is_some() {
            let broke = || Refusal::UpstreamBroke("the task cannot be read".to_owned());
            let task = Task::read(result).ok_or_else(broke)?;
            let id = seal(&Held::There(task.task_id.clone()))?;
            if !task.has_ended() {
                self.front.add_task(&self.session, &task.task_id, &id);
            }
            place.begun(Begun { id: id.as_str().into(), own: task.task_id.as_str().into() });
            return self.say(&task.begun(&id));
        }
        let id = seal(&Held::Here(place.key))?;
        let finished = place.keep(id, End::Result(result.get().to_owned()), ttl);
        self.say(&finished.task().begun(&finished.id))
    }

    async fn standing(&self, held: &Held) -> Result<Bytes, Refusal> {
        match self.look(held).await? {
            Ok(task) => self.say(&task.standing(&self.task)),
            Err(response) => Ok(response),
        }
    }

    /// How a task stands, or what is told instead.
    async fn look(&self, held: &Held) -> Result<Result<Task, Bytes>, Refusal> {
        let own = match held {
            Held::Here(key) => return Ok(Ok(self.front.shelf.find(&self.asker.caller, *key)?.task())),
            Held::There(own) => own,
        };
        let response = self.ask(method::TASKS_GET, own, None).await?;
        match extension::task_in(&response, self.bounds())? {
            Some(task) => {
                if task.has_ended() {
                    self.front.remove_task(&self.session, own);
                }
                Ok(Ok(task))
            }
            None => self.pass(&response).map(Err),
        }
    }

    /// Waits for the end of a task, and gives its result.
    async fn wait(&self, own: &str) -> Result<Bytes, Refusal> {
        let after = self.front.settings.task_wait_timeout;
        let until = Instant::now() + after;
        let (mut answered, mut rounds) = (HashSet::new(), 0);
        let held = Held::There(own.to_owned());
        loop {
            let task = match self.look(&held).await? {
                Ok(task) => task,
                Err(response) => return Ok(response),
            };
            if let Some(end) = task.end() {
                let response = self.pass(&extension::outcome(&self.id, &end))?;
                return extension::related(&response, &self.task, self.bounds());
            }
            if task.has_ended() {
                return self.refuse(match task.status() {
                    Status::Cancelled => "the task was cancelled, and has no result",
                    _ => "the server has no result of the task",
                });
            }
            match task.needs(&self.task, &answered)? {
                Some(needs) => {
                    rounds += 1;
                    answered.extend(needs.wishes.iter().map(|(key, _)| key.clone()));
                    if let Some(response) = self.meet(own, needs, rounds).await? {
                        return Ok(response);
                    }
                }
                None => sleep_until((Instant::now() + task.pause()).min(until)).await,
            }
            if Instant::now() >= until {
                return Err(Refusal::TimedOut { after });
            }
        }
    }

    /// Asks the caller what the server of a task wants to know, and tells the server. What the server says against it is
    /// given back.
    async fn meet(&self, own: &str, needs: Needs, rounds: u32) -> Result<Option<Bytes>, Refusal> {
        let can = |method: &str, params: Option<&str>| self.asker.abilities.has(method, params);
        if !needs.wishes.iter().all(|(_, wish)| can(&wish.method, wish.params.as_deref())) {
            return Err(Refusal::InputNeeded);
        }
        if rounds > ROUNDS_MAX {
            return Err(Refusal::UpstreamBroke("it asks for input again and again".to_owned()));
        }
        let mut round = Round::new(needs, &self.session.questions, self.front.settings.input_timeout, rounds);
        let answers = loop {
            match round.next().await? {
                Step::Ask(request) => self.tell(Said::Request(request)).await,
                Step::Met(answers) => break answers,
            }
        };
        let answers: Vec<_> = answers.iter().map(|(key, it)| format!("{}:{it}", json!(key))).collect();
        let answers = format!("{{{}}}", answers.join(","));
        let response = self.ask(method::TASKS_UPDATE, own, Some(&answers)).await?;
        match is_error(&response, self.bounds()) {
            true => self.pass(&response).map(Some),
            false => Ok(None),
        }
    }

    /// In the legacy era a task that has ended cannot be cancelled.
    async fn cancel(&self, held: &Held) -> Result<Bytes, Refusal> {
        let task = match self.look(held).await? {
            Ok(task) => task,
            Err(response) => return Ok(response),
        };
        match held {
            Held::There(own) if !task.has_ended() => {
                let response = self.ask(method::TASKS_CANCEL, own, None).await?;
                match is_error(&response, self.bounds()) {
                    true => self.pass(&response),
                    false => self.standing(held).await,
                }
            }
            Held::There(_) | Held::Here(_) => self.refuse("the task has ended already"),
        }
    }

    /// All tasks of the caller that are known here and that their server still knows.
    async fn list(&self) -> Result<Bytes, Refusal> {
        let all = self.front.shelf.of(&self.asker.caller);
        let standing = futures_util::stream::iter(all).map(|listed| async move {
            match listed {
                Listed::Here(finished) => Some(finished.task().standing(&finished.id)),
                Listed::There(Begun { id, own }) => {
                    let response = self.ask(method::TASKS_GET, &own, None).await.ok()?;
                    match extension::task_in(&response, self.bounds()).ok()? {
                        Some(task) => Some(task.standing(&id)),
                        None => {
                            self.front.shelf.forget(&id);
                            None
                        }
                    }
                }
            }
        });
        let standing: Vec<_> = standing.buffered(AT_ONCE_MAX).filter_map(std::future::ready).collect().await;
        self.say(&format!(r#"{{"tasks":[{}]}}"#, standing.join(",")))
    }

    /// Asks the server about a task, and waits for its response.
    async fn ask(&self, method: &str, own: &str, answers: Option<&str>) -> Result<Bytes, Refusal> {
        let id = format!("\"weft-{:032x}\"", rand::random::<u128>());
        let own = json!(own).to_string();
        let mut members = vec![("taskId", own.as_str())];
        members.extend(answers.map(|answers| ("inputResponses", answers)));
        let message = extension::request(self.session.client.as_caller(), method, &id, &members);
        let question = Question::as_it_is(self.asker.clone(), Asked::Server(message), id, None);
        self.converse(question, Patience { result_bytes_max: None, ..self.patience }).await
    }

    /// The response to what is asked of the server; what comes before it is told.
    async fn converse(&self, question: Question, patience: Patience) -> Result<Bytes, Refusal> {
        let mut conversation = self.front.conversation(question, patience, self.admitted.clone());
        loop {
            match conversation.next().await {
                Some(Heard::Response(response)) => return Ok(response),
                Some(Heard::Refused(refusal)) => return Err(refusal),
                Some(Heard::Note(note)) => self.tell(Said::Note(note)).await,
                Some(Heard::Request(request)) => self.tell(Said::Request(request)).await,
                Some(Heard::Asked(_)) => {}
                Some(Heard::Cancelled) | None => return Err(Refusal::UpstreamBroke("no answer".to_owned())),
            }
        }
    }

    async fn tell(&self, said: Said) {
        // Who is gone is noticed elsewhere.
        _ = self.said.send(Ok(said)).await;
    }

    /// A response of the server's in the caller's era, under the id of the request.
    fn pass(&self, message: &Bytes) -> Result<Bytes, Refusal> {
        let broke = || Refusal::UpstreamBroke("the response is none".to_owned());
        let message = match mcp::parse(message, self.bounds()) {
            Ok(mcp::Body::One(Message::Response(it))) => {
                edit::response_with_id(message, &it, &self.id).into()
            }
            Ok(_) | Err(_) => return Err(broke()),
        };
        match self.bridge.response(self.asked, &message)? {
            Answered::Response(response) => Ok(response),
            Answered::Needs(_) => Err(Refusal::InputNeeded),
        }
    }

    fn refuse(&self, why: &str) -> Result<Bytes, Refusal> {
        Ok(edit::error(Some(&self.id), code::INVALID_PARAMS, why, None).into())
    }

    fn say(&self, result: &str) -> Result<Bytes, Refusal> {
        answer::result(&self.id, result)
    }

    fn bounds(&self) -> mcp::Bounds {
        self.front.settings.bounds
    }
}

fn is_error(response: &[u8], bounds: mcp::Bounds) -> bool {
    match mcp::parse(response, bounds) {
        Ok(mcp::Body::One(Message::Response(response))) => matches!(response.outcome, Outcome::Error(_)),
        Ok(_) | Err(_) => true,
    }
}
