//! Tasks of a server of the legacy era, for callers of the modern one.
//!
//! What the modern era says in one answer takes two questions here, and whether a call becomes a task is decided here as
//! the tool declares it. The server is asked in the name of a caller that cannot be asked for anything: nobody could pass
//! on what it would want to know in the middle of a task. The ids that callers see are theirs alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tokio::time::{Instant, timeout};
use weft_proto::mcp::{self, Message, Outcome, Request, Target, edit, method};

use crate::body::Body;
use crate::bridge::tasks::{self, End, Status, Support, Task};
use crate::bridge::{self, Abilities, Outgoing, ToLegacy};
use crate::exchange::Asker;
use crate::refusal::Refusal;
use crate::task_id;

use super::conversation::{Asked, Heard, Question};
use super::translate::Way;
use super::{Front, Incoming, Patience, answer};

/// Pages of a list of tools that are read to learn which can be tasks.
const PAGES_MAX: usize = 32;

/// For how long that is believed.
const KNOWN_FOR: Duration = Duration::from_secs(60);

/// Time for a server to ask what it has to ask.
const DECLINE_TIMEOUT: Duration = Duration::from_secs(1);

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

/// One request about tasks.
struct About<'a> {
    front: &'a Front,
    bridge: Arc<ToLegacy>,
    asker: Asker,
    request: &'a Request<'a>,
    incoming: &'a Incoming<'a>,
}

impl Front {
    /// Answers a request that is about tasks; none of one that goes the way of every other.
    pub(super) async fn modern_task(
        &self,
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
        let can_be_asked = asker.abilities.any();
        let asker = Asker { abilities: Abilities::default(), ..asker.clone() };
        let about = About { front: self, bridge, asker, request, incoming };
        let is_declared = task_id::is_declared(request);
        let missing = || Refusal::MissingCapability(task_id::EXTENSION.to_owned());
        match target {
            Target::Tool(tool) => match about.support(&server.tools, tool).await {
                Support::Required if !is_declared => Err(missing()),
                Support::Required => about.begin().await.map(Some),
                // As a task it could ask its caller nothing.
                Support::Optional if is_declared && !can_be_asked => about.begin().await.map(Some),
                Support::Optional | Support::Forbidden => Ok(None),
            },
            _ if !is_declared => Err(missing()),
            Target::Task(id) => {
                let own = self.task_ids.open(&about.asker.caller, id)?;
                match &*request.method {
                    method::TASKS_GET => about.standing(id, &own).await,
                    method::TASKS_CANCEL => about.cancel(&own).await,
                    // Nothing is ever asked for that could be answered.
                    _ => about.exists(&own).await,
                }
                .map(Some)
            }
            Target::Prompt(_) | Target::Resource(_) => Ok(None),
        }
    }
}

impl About<'_> {
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
        let patience = Patience { result_bytes_max: None, ..self.incoming.patience };
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

    /// Calls a tool as a task. A server that answers at once has that answer passed on.
    async fn begin(&self) -> Result<Response<Body>, Refusal> {
        let Outgoing::Forward(message) = self.bridge.request(self.incoming.body, self.request)? else {
            return Err(Refusal::MethodNotFound(self.request.method.clone().into_owned()));
        };
        let id = own_id();
        let message = self.front.with_id(&message, &id)?;
        let message = tasks::as_task(&message, self.front.settings.bounds);
        let message = message.ok_or_else(|| Refusal::Invalid("the request has no parameters".to_owned()))?;
        let response = self.ask(message, id, self.incoming.patience).await?;
        match self.task_in(&response) {
            Some(task) => {
                let id = self.front.task_ids.seal(&self.asker.caller, &task.task_id)?;
                self.say(&task.begun(&id))
            }
            None => self.pass(&response),
        }
    }

    async fn standing(&self, id: &str, own: &str) -> Result<Response<Body>, Refusal> {
        let mut response = self.ask_about(method::TASKS_GET, own).await?;
        if self.task_in(&response).is_some_and(|task| task.status == Status::InputRequired) {
            self.decline(own).await;
            response = self.ask_about(method::TASKS_GET, own).await?;
        }
        let Some(task) = self.task_in(&response) else { return self.pass(&response) };
        if task.status == Status::InputRequired {
            return Err(Refusal::InputNeeded);
        }
        let end = match task.has_ended() {
            true => {
                let end = self.ask_about(method::TASKS_RESULT, own).await?;
                Some(End::read(&end, self.front.settings.bounds)?)
            }
            false => None,
        };
        self.say(&task.standing(id, end.as_ref()))
    }

    /// A server that wants to know something asks whoever waits for the result. There it is told that it gets no answer.
    async fn decline(&self, own: &str) {
        let patience =
            Patience { call: DECLINE_TIMEOUT, idle: Some(DECLINE_TIMEOUT), ..self.incoming.patience };
        let id = own_id();
        // That the result does not come in this time says nothing.
        _ = self.ask(tasks::about(method::TASKS_RESULT, &id, own), id, patience).await;
    }

    async fn cancel(&self, own: &str) -> Result<Response<Body>, Refusal> {
        let response = self.ask_about(method::TASKS_CANCEL, own).await?;
        match tasks::is_over(&response, self.front.settings.bounds) {
            // In the modern era there is nothing wrong with that, as long as there is such a task.
            true => self.exists(own).await,
            false if self.task_in(&response).is_some() => self.acknowledge(),
            false => self.pass(&response),
        }
    }

    /// Acknowledges what changes nothing about a task.
    async fn exists(&self, own: &str) -> Result<Response<Body>, Refusal> {
        let response = self.ask_about(method::TASKS_GET, own).await?;
        match self.task_in(&response) {
            Some(_) => self.acknowledge(),
            None => self.pass(&response),
        }
    }

    async fn ask_about(&self, method: &str, own: &str) -> Result<Bytes, Refusal> {
        let id = own_id();
        self.ask(tasks::about(method, &id, own), id, self.incoming.patience).await
    }

    /// Asks the server, and waits for its response.
    async fn ask(&self, message: Bytes, id: String, patience: Patience) -> Result<Bytes, Refusal> {
        let asked = bridge::Asked::of(self.request, Abilities::default());
        let question = Question {
            asker: self.asker.clone(),
            asked: Asked::Server(message),
            id,
            renamed: false,
            way: Way::ToLegacy(Arc::clone(&self.bridge), asked),
            questions: None,
            first: None,
            under_way: None,
        };
        let mut conversation = self.front.conversation(question, patience, self.incoming.admitted.clone());
        loop {
            match conversation.next().await {
                Some(Heard::Response(response)) => return Ok(response),
                Some(Heard::Refused(refusal)) => return Err(refusal),
                Some(Heard::Note(_) | Heard::Request(_) | Heard::Asked(_)) => {}
                Some(Heard::Cancelled) | None => return Err(Refusal::UpstreamBroke("no answer".to_owned())),
            }
        }
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

    /// The response under the id of the request.
    fn pass(&self, message: &Bytes) -> Result<Response<Body>, Refusal> {
        match mcp::parse(message, self.front.settings.bounds) {
            Ok(mcp::Body::One(Message::Response(response))) => {
                let response = edit::response_with_id(message, &response, self.request.id.raw());
                Ok(self.front.at_once(response.into()))
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

fn own_id() -> String {
    format!("\"weft-{:032x}\"", rand::random::<u128>())
}
