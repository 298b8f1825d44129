//! Tasks of a server of the modern era, where they are an extension, for a caller of the legacy one.
//!
//! Such a caller says itself that a call shall be a task, where the modern era leaves that to the server, and asks for a
//! task's result apart from how it stands. What the server says in one answer is told in two here; whoever keeps results
//! that a server gave at once, and waits for those that it did not, is elsewhere.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Number, json};
use weft_proto::mcp::{self, Bounds, Message, Outcome, Raw, Request, Revision, edit, method, splice};

use crate::refusal::Refusal;
use crate::task_id;

use super::input::{self, Needs, Wish};
use super::object::{Edit, Object};
use super::tasks::{End, RELATED, Status};
use super::{Caller, response_in};

/// What callers are told that they can do with tasks.
const OFFERED: &str = r#"{"list":{},"cancel":{},"requests":{"tools":{"call":{}}}}"#;

/// How often a task is asked for that does not say how often it wants to be.
const PAUSE: Duration = Duration::from_secs(1);

/// Bounds of what a server may say of that.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What the answer to a request says of tasks that has another form in the legacy era.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AboutTasks {
    #[default]
    Nothing,
    /// Tools, each of which can be called as a task.
    Tools,
    /// That the call goes on as a task, which passes as it is.
    Begun,
}

/// A task as a modern server tells of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    pub task_id: String,
    status: Status,
    status_message: Option<String>,
    created_at: String,
    last_updated_at: Option<String>,
    ttl_ms: Option<Number>,
    poll_interval_ms: Option<Number>,
    input_requests: Option<Box<RawValue>>,
    result: Option<Box<RawValue>>,
    error: Option<Box<RawValue>>,
}

impl Task {
    /// The task that a result begins or tells of, or that a notification does with its parameters.
    pub fn read(told: Raw<'_>) -> Option<Self> {
        serde_json::from_str(told.get()).ok()
    }

    /// The task of a call that was answered at once, as it has stood since. `ttl` is for how long that can be asked for.
    pub fn ended(id: &str, end: &End, at: &str, ttl: Duration) -> Self {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).ok();
        let (status, result, error) = match end {
            End::Result(result) => (Status::Completed, raw(result), None),
            End::Error(error) => (Status::Failed, None, raw(error)),
        };
        Self {
            task_id: id.to_owned(),
            status,
            status_message: None,
            created_at: at.to_owned(),
            last_updated_at: None,
            ttl_ms: Some(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).into()),
            poll_interval_ms: None,
            input_requests: None,
            result,
            error,
        }
    }

    /// As the legacy era calls it: there a task whose tool failed is a failed one.
    pub fn status(&self) -> Status {
        let failed = |result: &RawValue| Raw::from(result).is_tool_error();
        match self.status {
            Status::Completed if self.result.as_deref().is_some_and(failed) => Status::Failed,
            status => status,
        }
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.status, Status::Completed | Status::Failed | Status::Cancelled)
    }

    /// What its call would have been answered with; nothing where there is no such thing, or not yet.
    pub fn end(&self) -> Option<End> {
        let text = |raw: &RawValue| raw.get().to_owned();
        match self.status {
            Status::Completed => self.result.as_deref().map(text).map(End::Result),
            Status::Failed => self.error.as_deref().map(text).map(End::Error),
            Status::Working | Status::InputRequired | Status::Cancelled => None,
        }
    }

    /// How it stands, as the result of `tasks/get`, under this id.
    pub fn standing(&self, id: &str) -> String {
        let mut task = json!({
            "taskId": id,
            "status": self.status(),
            "createdAt": self.created_at,
            "lastUpdatedAt": self.last_updated_at.as_ref().unwrap_or(&self.created_at),
            "ttl": self.ttl_ms,
        });
        if let Some(message) = &self.status_message {
            task["statusMessage"] = message.as_str().into();
        }
        if let Some(interval) = &self.poll_interval_ms {
            task["pollInterval"] = interval.clone().into();
        }
        task.to_string()
    }

    /// The result of the call that goes on as this task.
    pub fn begun(&self, id: &str) -> String {
        format!(r#"{{"task":{}}}"#, self.standing(id))
    }

    /// That it stands otherwise than before.
    pub fn told(&self, id: &str) -> Bytes {
        let standing = RawValue::from_string(self.standing(id)).expect("what was written as JSON is JSON");
        edit::notification(method::TASKS_STATUS, Some(&standing)).into()
    }

    /// Until it is asked for again.
    pub fn pause(&self) -> Duration {
        let wanted = self.poll_interval_ms.as_ref().and_then(Number::as_f64).filter(|it| *it >= 0.0);
        let wanted = wanted.and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok());
        wanted.unwrap_or(PAUSE).clamp(PAUSE_MIN, PAUSE_MAX)
    }

    /// What its server wants to know that was not answered already, for a caller who has this id for it.
    pub fn needs(&self, id: &str, answered: &HashSet<String>) -> Result<Option<Needs>, Refusal> {
        let Some(requests) = self.input_requests.as_deref().filter(|_| self.status == Status::InputRequired)
        else {
            return Ok(None);
        };
        let mut wishes = input::wishes(requests)?;
        wishes.retain(|(key, _)| !answered.contains(key));
        for (_, wish) in &mut wishes {
            related_wish(wish, id);
        }
        Ok((!wishes.is_empty()).then_some(Needs { wishes, state: None }))
    }
}

/// Says which task it belongs to that something is asked.
fn related_wish(wish: &mut Wish, id: &str) {
    let related = json!({ "taskId": id }).to_string();
    let params = wish.params.take().unwrap_or_else(|| "{}".to_owned());
    let edits = serde_json::from_str::<&RawValue>(&params).ok().and_then(Object::parse);
    let edits = edits.map(|object| with_related(&object, params.as_bytes(), &related)).unwrap_or_default();
    let params = String::from_utf8(splice(params.as_bytes(), edits));
    wish.params = Some(params.expect("whole members were put into a text"));
}

/// Puts what belongs to a task under its id.
fn with_related(object: &Object<'_>, message: &[u8], related: &str) -> Vec<Edit> {
    match object.object("_meta") {
        Some(own) => own.edits(message, &[RELATED], &[(RELATED, related)]),
        None => {
            let alone = format!(r#"{{"{RELATED}":{related}}}"#);
            object.edits(message, &["_meta"], &[("_meta", &alone)])
        }
    }
}

/// The response to `tasks/result`, as the modern era would have answered the call. The id is JSON.
pub fn outcome(id: &str, end: &End) -> Bytes {
    let (key, end) = match end {
        End::Result(result) => ("result", result),
        End::Error(error) => ("error", error),
    };
    format!(r#"{{"jsonrpc":"2.0","id":{id},"{key}":{end}}}"#).into()
}

/// The same once it is of the legacy era, and says which task it belongs to.
pub fn related(response: &Bytes, task: &str, bounds: Bounds) -> Result<Bytes, Refusal> {
    let Outcome::Result(result) = response_in(response, bounds)?.outcome else { return Ok(response.clone()) };
    let broke = || Refusal::UpstreamBroke("the result of the task is no object".to_owned());
    let object = Object::parse(result).ok_or_else(broke)?;
    let edits = with_related(&object, response, &json!({ "taskId": task }).to_string());
    Ok(splice(response, edits).into())
}

/// For how long a caller wants to have a task, in milliseconds; none where the call shall be no task.
pub fn wanted(request: &Request<'_>) -> Option<Option<u64>> {
    let task = request.params.raw?.member("task").filter(|_| request.method == method::TOOLS_CALL)?;
    let ttl = Object::parse(task)?.value("ttl");
    Some(ttl.and_then(|ttl| serde_json::from_str(ttl.get()).ok()))
}

/// A call without the wish that it shall be a task, which is not said in the modern era.
pub(super) fn without_wish(message: &Bytes, request: &Request<'_>) -> Bytes {
    let edits = request.params.raw.and_then(Object::parse).map(|it| it.edits(message, &["task"], &[]));
    splice(message, edits.unwrap_or_default()).into()
}

/// A request of our own in the name of a caller who knows tasks. The members of its parameters are JSON texts.
pub fn request(caller: Caller<'_>, method: &str, id: &str, members: &[(&str, &str)]) -> Bytes {
    let said = super::to_modern::said_of(Caller { knows_tasks: true, ..caller });
    let object = |members: &mut dyn Iterator<Item = (&str, &str)>| {
        let members: Vec<_> = members.map(|(key, value)| format!(r#""{key}":{value}"#)).collect();
        format!("{{{}}}", members.join(","))
    };
    let meta = object(&mut said.iter().map(|(key, value)| (*key, value.as_str())));
    let params = object(&mut members.iter().copied().chain([("_meta", meta.as_str())]));
    let params = RawValue::from_string(params).expect("its parts are JSON");
    edit::request(id, method, Some(&params)).into()
}

/// What a caller declares, with the extension. Both are JSON.
pub(super) fn declared(abilities: &str) -> String {
    let extension = format!(r#""extensions":{{"{}":{{}}}}"#, task_id::EXTENSION);
    match abilities {
        "{}" => format!("{{{extension}}}"),
        other => format!("{{{extension},{}", other.strip_prefix('{').unwrap_or_default()),
    }
}

/// Whether a modern server has tasks, by its capabilities.
pub(super) fn is_offered(capabilities: &Object<'_>) -> bool {
    capabilities.object("extensions").is_some_and(|it| it.value(task_id::EXTENSION).is_some())
}

/// The capabilities of a modern server as callers of a revision have them: those of the last one of the legacy era know
/// tasks.
pub(super) fn capabilities(raw: &RawValue, object: &Object<'_>, revision: Revision) -> String {
    let text = raw.get().as_bytes();
    let new = (is_offered(object) && revision >= Revision::V2025_11_25).then_some(("tasks", OFFERED));
    let mut edits = Vec::new();
    let mut away = vec!["tasks"];
    match object.object("extensions") {
        Some(own) if own.has_only(&[task_id::EXTENSION]) => away.push("extensions"),
        Some(own) => edits.extend(own.edits(text, &[task_id::EXTENSION], &[])),
        None => {}
    }
    edits.extend(object.edits(text, &away, new.as_slice()));
    String::from_utf8(splice(text, edits)).expect("whole members were changed in a text")
}

/// A list of tools of which each says that it can be called as a task, where it does not say something else.
pub(super) fn with_support(message: &Bytes, bounds: Bounds) -> Result<Bytes, Refusal> {
    const SUPPORT: (&str, &str) = ("taskSupport", "\"optional\"");
    let Outcome::Result(result) = response_in(message, bounds)?.outcome else { return Ok(message.clone()) };
    let tools = result.member("tools").map(|it| serde_json::from_str::<Vec<&RawValue>>(it.get()));
    let mut edits = Vec::new();
    for tool in tools.and_then(Result::ok).unwrap_or_default() {
        let Some(tool) = Object::parse(tool) else { continue };
        match tool.object("execution") {
            Some(own) if own.value(SUPPORT.0).is_some() => {}
            Some(own) => edits.extend(own.edits(message, &[], &[SUPPORT])),
            None => {
                let alone = format!(r#"{{"{}":{}}}"#, SUPPORT.0, SUPPORT.1);
                edits.extend(tool.edits(message, &["execution"], &[("execution", &alone)]));
            }
        }
    }
    Ok(splice(message, edits).into())
}

/// The task that a notification tells of.
pub fn told_of(message: &[u8], bounds: Bounds) -> Option<Task> {
    match mcp::parse(message, bounds) {
        Ok(mcp::Body::One(Message::Notification(note))) if note.method == method::TASKS => {
            note.params.raw.and_then(Task::read)
        }
        Ok(_) | Err(_) => None,
    }
}

/// The task that a response tells of: one that a call began, or one that was asked for.
pub fn task_in(response: &[u8], bounds: Bounds) -> Result<Option<Task>, Refusal> {
    match response_in(response, bounds)?.outcome {
        Outcome::Result(result) => Ok(Task::read(result)),
        Outcome::Error(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests;
