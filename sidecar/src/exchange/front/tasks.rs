//! Tasks of a server of the legacy era, for callers of the modern one.
//!
//! What the modern era says in one answer takes two questions here, and whether a call becomes a task is decided here as
//! the tool declares it. What a task wants to know in its middle its caller sees when it asks how the task stands; before
//! there is one, nothing can be asked. The ids that callers see are theirs alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tokio::time::{Instant, timeout};
use weft_proto::mcp::{self, Message, Outcome, Request, Target, edit, method};

use crate::admit::Admitted;
use crate::body::Body;
use crate::bridge::input::Wish;
use crate::bridge::tasks::{self, End, Status, Support, Task};
use crate::bridge::{self, Abilities, Outgoing, ToLegacy};
use crate::exchange::Asker;
use crate::refusal::Refusal;
use crate::task_id;

use super::conversation::{Asked, Conversation, Heard, Question};
use super::inquiries::Key;
use super::translate::Way;
use super::{Front, Incoming, Patience, answer};

/// Pages of a list of tools that are read to learn which can be tasks.
const PAGES_MAX: usize = 32;

/// For how long that is believed.
const KNOWN_FOR: Duration = Duration::from_secs(60);

/// Time for a server to ask what it has to ask.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);

/// Time for the whole list: calls wait for it.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);

/// Until it is asked for again where it could not be had.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The tools of one server that can be tasks, as they were last listed.
#[derive(Debug, Default)]
pub(super) struct Tools(tokio::sync::Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    tools: HashMap<String, Support>,
    until: Option<Instant>,
}

/// How a server of the legacy era is asked about tasks, in the name of one caller.
pub(super) struct Asks {
    pub(super) front: Arc<Front>,
    pub(super) bridge: Arc<ToLegacy>,
    /// With what was declared when the task began: a server may know it by that alone.
    pub(super) asker: Asker,
    /// What has to be known of the request when answers come, but for what its caller can be asked for.
    pub(super) asked: bridge::Asked,
    pub(super) patience: Patience,
    pub(super) admitted: Admitted,
}

/// One request about tasks.
struct About<'a> {
    asks: Asks,
    request: &'a Request<'a>,
    body: &'a Bytes,
}

impl Front {
    /// Answers a request that is about tasks; none of one that goes the way of every other.
    pub(super) async fn modern_task(
        self: &Arc<Self>,
        asker: &Asker,
        request: &Request<'_>,
        incoming: &Incoming<'_>,
    ) -> Result<Option<Response<Body>>, Refusal> {
        let target = match (request.target(), &*request.method) {
            (Some(target @ Target::Tool(_)), method::TOOLS_CALL) => target,
            (
                Some(target @ Target::Task(_)),
                method::TASKS_GET | method::TASKS_UPDATE | method::TASKS_CANCEL,
            ) => target,
            _ => return Ok(None),
        };
        let server = self.server().await?;
        let Some(bridge) = server.tasks() else { return Ok(None) };
        let mut about = About {
            asks: Asks {
                front: Arc::clone(self),
                bridge,
                asker: asker.clone(),
                asked: bridge::Asked::of(request, Abilities::default()),
                patience: incoming.patience,
                admitted: incoming.admitted.clone(),
            },
            request,
            body: incoming.body,
        };
        let is_declared = task_id::is_declared(request);
        let missing = || Refusal::MissingCapability(task_id::EXTENSION.to_owned());
        match target {
            Target::Tool(tool) => match about.asks.support(&server.tools, tool).await {
                Support::Required if !is_declared => Err(missing()),
                Support::Required => about.begin().await.map(Some),
                Support::Optional if is_declared => about.begin().await.map(Some),
                Support::Optional | Support::Forbidden => Ok(None),
            },
            _ if !is_declared => Err(missing()),
            Target::Task(id) => {
                let own;
                (about.asks.asker.abilities, own) = self.opened(&asker.caller, id)?;
                match &*request.method {
                    method::TASKS_GET => about.standing(id, &own).await,
                    method::TASKS_CANCEL => about.cancel(&own).await,
                    _ => about.update(&own).await,
                }
                .map(Some)
            }
            Target::Prompt(_) | Target::Resource(_) => Ok(None),
        }
    }

    /// What was declared when a task began, and what it is called at its server.
    pub(super) fn opened(&self, caller: &str, id: &str) -> Result<(Abilities, String), Refusal> {
        let text = self.task_ids.open(caller, id)?;
        let (abilities, own) = text.split_once(' ').ok_or(Refusal::TaskUnknown)?;
        Ok((Abilities::decoded(abilities).ok_or(Refusal::TaskUnknown)?, own.to_owned()))
    }
}

impl About<'_> {
    /// Calls a tool as a task. A server that answers at once has that answer passed on.
    async fn begin(&self) -> Result<Response<Body>, Refusal> {
        let Asks { front, bridge, asker, patience, .. } = &self.asks;
        let Outgoing::Forward(message) = bridge.request(self.body, self.request)? else {
            return Err(Refusal::MethodNotFound(self.request.method.clone().into_owned()));
        };
        let id = own_id();
        let message = front.with_id(&message, &id)?;
        let message = tasks::as_task(&message, front.settings.bounds);
        let message = message.ok_or_else(|| Refusal::Invalid("the request has no parameters".to_owned()))?;
        let response = self.asks.ask(message, id, *patience).await?;
        match self.asks.task_in(&response) {
            Some(task) => {
                let text = format!("{} {}", asker.abilities.code(), task.task_id);
                let id = front.task_ids.seal(&asker.caller, &text)?;
                self.say(&task.begun(&id))
            }
            None => self.pass(&response),
        }
    }

    async fn standing(&self, id: &str, own: &str) -> Result<Response<Body>, Refusal> {
        match self.asks.standing(id, own).await? {
            Ok(standing) => self.say(&standing),
            Err(response) => self.pass(&response),
        }
    }

    /// Tells the server what the caller answered.
    async fn update(&self, own: &str) -> Result<Response<Body>, Refusal> {
        let Asks { front, asker, .. } = &self.asks;
        match front.inquiries.answered(&self.asks.key(own), self.request)? {
            Some(answers) => {
                for answer in answers {
                    front.peer.answer(asker, answer).await?;
                }
                self.acknowledge()
            }
            None => self.exists(own).await,
        }
    }

    async fn cancel(&self, own: &str) -> Result<Response<Body>, Refusal> {
        let response = self.asks.about(method::TASKS_CANCEL, own).await?;
        match tasks::is_over(&response, self.asks.front.settings.bounds) {
            // In the modern era there is nothing wrong with that, as long as there is such a task.
            true => self.exists(own).await,
            false if self.asks.task_in(&response).is_some() => self.acknowledge(),
            false => self.pass(&response),
        }
    }

    /// Acknowledges what changes nothing about a task.
    async fn exists(&self, own: &str) -> Result<Response<Body>, Refusal> {
        let response = self.asks.about(method::TASKS_GET, own).await?;
        match self.asks.task_in(&response) {
            Some(_) => self.acknowledge(),
            None => self.pass(&response),
        }
    }

    /// The response under the id of the request.
    fn pass(&self, message: &Bytes) -> Result<Response<Body>, Refusal> {
        match mcp::parse(message, self.asks.front.settings.bounds) {
            Ok(mcp::Body::One(Message::Response(response))) => {
                let response = edit::response_with_id(message, &response, self.request.id.raw());
                Ok(self.asks.front.at_once(response.into()))
            }
            Ok(_) | Err(_) => Err(Refusal::UpstreamBroke("the response is none".to_owned())),
        }
    }

    fn acknowledge(&self) -> Result<Response<Body>, Refusal> {
        self.say(r#"{"resultType":"complete"}"#)
    }

    fn say(&self, result: &str) -> Result<Response<Body>, Refusal> {
        answer::result(self.request.id.raw(), result).map(answer::json)
    }
}

impl Asks {
    /// What a tool says of itself, by a list that is not old.
    async fn support(&self, tools: &Tools, tool: &str) -> Support {
        let mut known = tools.0.lock().await;
        if known.until.is_none_or(|until| until <= Instant::now()) {
            let late = Refusal::TimedOut { after: LIST_TIMEOUT };
            let listed = timeout(LIST_TIMEOUT, self.list()).await.unwrap_or(Err(late));
            let believed_for = match listed {
                Ok(tools) => {
                    known.tools = tools;
                    KNOWN_FOR
                }
                Err(refusal) => {
                    tracing::debug!(detail = refusal.detail(), "tools not listed");
                    AGAIN_AFTER
                }
            };
            known.until = Some(Instant::now() + believed_for);
        }
        known.tools.get(tool).copied().unwrap_or_default()
    }

    async fn list(&self) -> Result<HashMap<String, Support>, Refusal> {
        let patience = Patience { result_bytes_max: None, ..self.patience };
        let (mut tools, mut cursor) = (HashMap::new(), None);
        for _ in 0..PAGES_MAX {
            let id = own_id();
            let page = self.ask(tasks::listing(&id, cursor.as_deref()), id, patience).await?;
            cursor = tasks::learn(&mut tools, &page, self.front.settings.bounds)?;
            if cursor.is_none() {
                break;
            }
        }
        Ok(tools)
    }

    /// How a task stands, under the id that its caller has for it, or what the server says instead.
    pub(super) async fn standing(&self, id: &str, own: &str) -> Result<Result<String, Bytes>, Refusal> {
        let mut response = self.about(method::TASKS_GET, own).await?;
        if let Some(task) = self.task_in(&response).filter(|task| task.status == Status::InputRequired) {
            let wishes = self.wishes(own).await;
            if !wishes.is_empty() {
                return Ok(Ok(task.asking(id, &wishes)));
            }
            response = self.about(method::TASKS_GET, own).await?;
        }
        let Some(task) = self.task_in(&response) else { return Ok(Err(response)) };
        if task.status == Status::InputRequired {
            return match self.front.inquiries.are_answered(&self.key(own)) {
                true => Ok(Ok(task.working().standing(id, None))),
                false => Err(Refusal::InputNeeded),
            };
        }
        let end = match task.has_ended() {
            true => {
                let end = self.about(method::TASKS_RESULT, own).await?;
                Some(End::read(&end, self.front.settings.bounds)?)
            }
            false => None,
        };
        Ok(Ok(task.standing(id, end.as_ref())))
    }

    /// What a task wants to know. Where its caller cannot be asked, the server is told that it gets no answer.
    async fn wishes(&self, own: &str) -> Vec<(String, Wish)> {
        let wait = || {
            let id = own_id();
            let message = tasks::about(method::TASKS_RESULT, &id, own);
            self.conversation(message, id, self.asker.abilities, self.patience)
        };
        if self.asker.abilities.any()
            && let Ok(wishes) = self.front.inquiries.of(&self.key(own), QUESTION_TIMEOUT, wait).await
        {
            return wishes;
        }
        self.decline(own).await;
        Vec::new()
    }

    fn key(&self, own: &str) -> Key {
        (Arc::clone(&self.asker.caller), format!("{} {own}", self.asker.abilities.code()))
    }

    /// A server that wants to know something asks whoever waits for the result. There it is told that it gets no answer.
    async fn decline(&self, own: &str) {
        let patience = Patience { call: QUESTION_TIMEOUT, idle: Some(QUESTION_TIMEOUT), ..self.patience };
        let id = own_id();
        // That the result does not come in this time says nothing.
        _ = self.ask(tasks::about(method::TASKS_RESULT, &id, own), id, patience).await;
    }

    async fn about(&self, method: &str, own: &str) -> Result<Bytes, Refusal> {
        let id = own_id();
        self.ask(tasks::about(method, &id, own), id, self.patience).await
    }

    /// Asks the server, and waits for its response. What it asks in turn is declined.
    async fn ask(&self, message: Bytes, id: String, patience: Patience) -> Result<Bytes, Refusal> {
        let mut conversation = self.conversation(message, id, Abilities::default(), patience);
        loop {
            match conversation.next().await {
                Some(Heard::Response(response)) => return Ok(response),
                Some(Heard::Refused(refusal)) => return Err(refusal),
                Some(Heard::Note(_) | Heard::Request(_) | Heard::Asked(_)) => {}
                Some(Heard::Cancelled) | None => return Err(Refusal::UpstreamBroke("no answer".to_owned())),
            }
        }
    }

    /// What is said between here and the server after a request of ours, in which it may ask for this.
    fn conversation(
        &self,
        message: Bytes,
        id: String,
        abilities: Abilities,
        patience: Patience,
    ) -> Conversation {
        let question = Question {
            asker: self.asker.clone(),
            asked: Asked::Server(message),
            id,
            renamed: false,
            way: Way::ToLegacy(Arc::clone(&self.bridge), self.asked.with_abilities(abilities)),
            questions: None,
            first: None,
            under_way: None,
        };
        self.front.conversation(question, patience, self.admitted.clone())
    }

    fn task_in(&self, response: &[u8]) -> Option<Task> {
        match mcp::parse(response, self.front.settings.bounds) {
            Ok(mcp::Body::One(Message::Response(response))) => match response.outcome {
                Outcome::Result(result) => Task::read(result),
                Outcome::Error(_) => None,
            },
            Ok(_) | Err(_) => None,
        }
    }
}

fn own_id() -> String {
    format!("\"weft-{:032x}\"", rand::random::<u128>())
}
