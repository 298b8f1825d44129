//! Tasks of a server of the legacy era for a caller of the modern one, who knows them as an extension.
//!
//! In the legacy era the caller says that a call shall be a task, and asks for how it stands and for its result apart. In
//! the modern one the server says so, and one answer has both. So here the sidecar says it in the server's place, as the
//! tool declares itself, and asks twice.

use std::collections::HashMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Number, json};
use weft_proto::mcp::{self, Bounds, Message, Outcome, Raw, Request, code, edit, method, splice};

use crate::refusal::Refusal;
use crate::task_id;

use super::input::{self, Wish};
use super::object::{Edit, Object};

/// Tools of one server that say whether they can be tasks.
const TOOLS_MAX: usize = 4096;

/// The member of `_meta` that says which task something belongs to.
pub(super) const RELATED: &str = "io.modelcontextprotocol/related-task";

/// How a task stands, in the words that both eras have for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Working,
    InputRequired,
    Completed,
    Failed,
    Cancelled,
}

/// A task as a legacy server tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    pub task_id: String,
    pub status: Status,
    status_message: Option<String>,
    created_at: String,
    last_updated_at: Option<String>,
    ttl: Option<Number>,
    poll_interval: Option<Number>,
}

/// What a tool says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Support {
    Required,
    Optional,
    #[default]
    #[serde(other)]
    Forbidden,
}

/// How the call of a task came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// As JSON.
    Result(String),
    /// As JSON.
    Error(String),
}

impl Task {
    /// A task that a result is, or that stands in it as `task`.
    pub fn read(result: Raw<'_>) -> Option<Self> {
        let within = result.member("task").filter(|it| it.get().starts_with('{')).unwrap_or(result);
        serde_json::from_str(within.get()).ok()
    }

    /// The members of a task of the modern era, under this id. What only the other era says of a result and nobody has
    /// asked for goes away.
    fn members(&self, id: &str, status: Status) -> serde_json::Value {
        let mut task = json!({
            "taskId": id,
            "status": status,
            "createdAt": self.created_at,
            "lastUpdatedAt": self.last_updated_at.as_ref().unwrap_or(&self.created_at),
            "ttlMs": self.ttl,
        });
        if let Some(message) = &self.status_message {
            task["statusMessage"] = message.as_str().into();
        }
        if let Some(interval) = &self.poll_interval {
            task["pollIntervalMs"] = interval.clone().into();
        }
        task
    }

    /// The result of a call that goes on as this task.
    pub fn begun(&self, id: &str) -> String {
        let mut result = self.members(id, self.status);
        result["resultType"] = "task".into();
        result.to_string()
    }

    /// The result of `tasks/get`. A call that came out as a result is complete for the modern era, also where the tool
    /// failed, which the legacy era calls a failed task.
    pub fn standing(&self, id: &str, end: Option<&End>) -> String {
        self.standing_with(id, end, &[])
    }

    /// The same of a task that wants to know something first, each under its name.
    pub fn asking(&self, id: &str, wishes: &[(String, Wish)]) -> String {
        self.standing_with(id, None, wishes)
    }

    fn standing_with(&self, id: &str, end: Option<&End>, wishes: &[(String, Wish)]) -> String {
        let status = match (self.status, end) {
            (Status::Failed | Status::Completed, Some(End::Result(_))) => Status::Completed,
            (Status::Failed | Status::Completed, Some(End::Error(_))) => Status::Failed,
            (status, _) => status,
        };
        let mut result = self.members(id, status);
        result["resultType"] = "complete".into();
        let text = result.to_string();
        let (key, end) = match end {
            Some(End::Result(end)) => ("result", end),
            Some(End::Error(end)) => ("error", end),
            None if wishes.is_empty() => return text,
            None => {
                let wishes = wishes.iter().map(|(name, wish)| (name.as_str(), wish));
                return format!(
                    "{},\"inputRequests\":{{{}}}}}",
                    text.strip_suffix('}').expect("an object ends with a brace"),
                    input::requests(wishes)
                );
            }
        };
        // Put in as it was written, numbers and all.
        format!("{},\"{key}\":{end}}}", text.strip_suffix('}').expect("an object ends with a brace"))
    }

    /// The same where its server has what it waits for and does not say so yet.
    #[must_use]
    pub fn working(self) -> Self {
        Self { status: Status::Working, ..self }
    }

    /// Whether there is something to be got with `tasks/result`.
    pub const fn has_ended(&self) -> bool {
        matches!(self.status, Status::Completed | Status::Failed)
    }
}

impl End {
    /// What `tasks/result` was answered with. That it belongs to a task is said where it is put.
    pub fn read(response: &[u8], bounds: Bounds) -> Result<Self, Refusal> {
        match super::response_in(response, bounds)?.outcome {
            Outcome::Error(fault) => Ok(Self::Error(fault.raw.get().to_owned())),
            Outcome::Result(result) => {
                let text = result.get();
                let broke = || Refusal::UpstreamBroke("the result of the task is no object".to_owned());
                let object = Object::parse(result).ok_or_else(broke)?;
                let edits: Vec<Edit> = match object.object("_meta") {
                    Some(own) if own.has_only(&[RELATED]) => object.edits(text.as_bytes(), &["_meta"], &[]),
                    Some(own) => own.edits(text.as_bytes(), &[RELATED], &[]),
                    None => Vec::new(),
                };
                let text = splice(text.as_bytes(), edits);
                Ok(Self::Result(String::from_utf8(text).expect("whole members were cut from a text")))
            }
        }
    }
}

/// How a task stands, told without being asked.
pub fn told(standing: &str) -> Option<Bytes> {
    let object = Object::parse(serde_json::from_str::<&RawValue>(standing).ok()?)?;
    let told = splice(standing.as_bytes(), object.edits(standing.as_bytes(), &["resultType"], &[]));
    let told = RawValue::from_string(String::from_utf8(told).ok()?).ok()?;
    Some(edit::notification(method::TASKS, Some(&told)).into())
}

/// Whether a server of the legacy era takes calls of tools as tasks, by its capabilities.
pub fn are_taken(capabilities: &RawValue) -> bool {
    let tools = ["requests", "tools"];
    let tasks = Object::parse(capabilities).and_then(|it| it.object("tasks"));
    let tools = tools.into_iter().fold(tasks, |within, key| within?.object(key));
    tools.is_some_and(|it| it.value("call").is_some_and(|call| call.get().starts_with('{')))
}

/// The capabilities of a legacy server as the modern era has them: tasks are an extension there, or nothing.
pub(super) fn offered(capabilities: &RawValue, object: &Object<'_>) -> String {
    let text = capabilities.get();
    let extension = json!({ task_id::EXTENSION: {} }).to_string();
    let is_there = |it: &Object<'_>| it.value(task_id::EXTENSION).is_some();
    let edits = match (are_taken(capabilities), object.object("extensions")) {
        (true, Some(own)) if !is_there(&own) => {
            let mut edits = own.edits(text.as_bytes(), &[], &[(task_id::EXTENSION, "{}")]);
            edits.extend(object.edits(text.as_bytes(), &["tasks"], &[]));
            edits
        }
        (true, None) => {
            object.edits(text.as_bytes(), &["tasks", "extensions"], &[("extensions", &extension)])
        }
        // What is no legacy server's to say is not believed.
        (false, Some(own)) => {
            let mut edits = own.edits(text.as_bytes(), &[task_id::EXTENSION], &[]);
            edits.extend(object.edits(text.as_bytes(), &["tasks"], &[]));
            edits
        }
        (true, Some(_)) | (false, None) => object.edits(text.as_bytes(), &["tasks"], &[]),
    };
    String::from_utf8(splice(text.as_bytes(), edits)).expect("whole members were changed in a text")
}

/// The tools of a page of `tools/list` that can be tasks, put to those that are known, and where the next page begins.
pub fn learn(
    known: &mut HashMap<String, Support>,
    response: &[u8],
    bounds: Bounds,
) -> Result<Option<String>, Refusal> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Page {
        tools: Vec<Tool>,
        next_cursor: Option<String>,
    }
    #[derive(Deserialize)]
    struct Tool {
        name: String,
        execution: Option<Execution>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Execution {
        #[serde(default)]
        task_support: Support,
    }
    let broke = |how: String| Refusal::UpstreamBroke(format!("the list of tools: {how}"));
    let result = match super::response_in(response, bounds)?.outcome {
        Outcome::Result(result) => result,
        Outcome::Error(fault) => return Err(broke(fault.code.to_string())),
    };
    let page: Page = serde_json::from_str(result.get()).map_err(|error| broke(error.to_string()))?;
    for Tool { name, execution } in page.tools {
        let support = execution.map_or(Support::Forbidden, |it| it.task_support);
        if support != Support::Forbidden && known.len() < TOOLS_MAX {
            known.insert(name, support);
        }
    }
    Ok(page.next_cursor)
}

/// A call that is to be a task, for a server of the legacy era.
pub fn as_task(message: &Bytes, bounds: Bounds) -> Option<Bytes> {
    let Ok(mcp::Body::One(Message::Request(request))) = mcp::parse(message, bounds) else { return None };
    let params = Object::parse(request.params.raw?)?;
    Some(splice(message, params.edits(message, &["task"], &[("task", "{}")])).into())
}

/// A request of our own about a task of a legacy server.
pub fn about(method: &str, id: &str, own: &str) -> Bytes {
    let params = serde_json::value::to_raw_value(&json!({ "taskId": own })).ok();
    edit::request(id, method, params.as_deref()).into()
}

/// A request for a page of the list of tools.
pub fn listing(id: &str, cursor: Option<&str>) -> Bytes {
    let params = cursor.and_then(|cursor| serde_json::value::to_raw_value(&json!({ "cursor": cursor })).ok());
    edit::request(id, method::TOOLS_LIST, params.as_deref()).into()
}

/// Whether a server refused `tasks/cancel` as it must where the task has come to its end already, among other things.
pub fn is_over(response: &[u8], bounds: Bounds) -> bool {
    let response = super::response_in(response, bounds).map(|it| match it.outcome {
        Outcome::Error(fault) => fault.code == code::INVALID_PARAMS,
        Outcome::Result(_) => false,
    });
    response.unwrap_or(false)
}

/// The tool that a request calls as one that may be a task.
pub fn called<'a>(request: &'a Request<'_>) -> Option<&'a str> {
    match request.target() {
        Some(mcp::Target::Tool(tool)) if request.method == method::TOOLS_CALL => Some(tool),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
