//! A caller of the legacy era at a server of the modern one.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use weft_proto::mcp::{
    self, Bounds, Message, Notification, Outcome, Request, Revision, code, edit, method, splice,
};
use weft_proto::resource::kinds::Era;

use crate::exchange::Introduction;
use crate::refusal::Refusal;

use super::input::Needs;
use super::object::Object;
use super::{
    Abilities, AboutTasks, Answered, Asked, Change, Level, Outgoing, extension, meta, response_in, with_code,
};

/// What a server is called that does not say who it is; callers of the legacy era insist on something.
const UNNAMED: &str = r#"{"name":"unnamed","version":"0"}"#;

/// Translates for one server.
#[derive(Clone, Debug)]
pub struct ToModern {
    /// What is said to callers, each as JSON: to those of the last legacy revision, which knows tasks, and to others.
    capabilities: [String; 2],
    server_info: String,
    instructions: Option<String>,
    has_logging: bool,
    has_tasks: bool,
    bounds: Bounds,
}

/// What a caller's session remembers of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller<'a> {
    /// As it was in `initialize`, as JSON.
    pub client_info: Option<&'a str>,
    /// The last that was set.
    pub log_level: Option<Level>,
    pub abilities: Abilities,
    /// Whether the server may make its call a task.
    pub knows_tasks: bool,
}

#[derive(Deserialize)]
struct DiscoverResult<'a> {
    #[serde(borrow)]
    capabilities: &'a RawValue,
    #[serde(borrow, default)]
    instructions: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "_meta")]
    meta: Option<&'a RawValue>,
}

/// The revision for a caller that asks for one: that one if it is known and of the legacy era, else the latest such.
pub fn agreed(asked: Option<&str>) -> Revision {
    asked
        .and_then(Revision::parse)
        .filter(|revision| revision.era() == Era::Legacy)
        .unwrap_or(Revision::LATEST_LEGACY)
}

impl ToModern {
    /// From what the server answered to `server/discover`.
    pub fn new(introduction: &Introduction, bounds: Bounds) -> Result<Self, Refusal> {
        let broke = |what: String| Refusal::UpstreamBroke(format!("the result of server/discover: {what}"));
        let text = std::str::from_utf8(&introduction.result).map_err(|error| broke(error.to_string()))?;
        let result: DiscoverResult<'_> =
            serde_json::from_str(text).map_err(|error| broke(error.to_string()))?;
        let capabilities = Object::parse(result.capabilities);
        let capabilities = capabilities.ok_or_else(|| broke("`capabilities` is no object".to_owned()))?;
        let server_info = result.meta.and_then(Object::parse).and_then(|it| it.value(meta::SERVER_INFO));
        let instructions = result.instructions.filter(|it| it.get() != "null");
        Ok(Self {
            has_logging: capabilities.value("logging").is_some(),
            has_tasks: extension::is_offered(&capabilities),
            capabilities: [Revision::V2025_11_25, Revision::V2025_06_18]
                .map(|revision| extension::capabilities(result.capabilities, &capabilities, revision)),
            server_info: server_info.map_or(UNNAMED, RawValue::get).to_owned(),
            instructions: instructions.map(|it| it.get().to_owned()),
            bounds,
        })
    }

    /// The result of `initialize` for a caller who got this revision.
    pub fn initialized(&self, revision: Revision) -> String {
        let Self { capabilities: [latest, earlier], server_info, instructions, .. } = self;
        let capabilities = if revision >= Revision::V2025_11_25 { latest } else { earlier };
        let instructions =
            instructions.as_ref().map_or_else(String::new, |it| format!(",\"instructions\":{it}"));
        format!(
            "{{\"protocolVersion\":\"{revision}\",\"capabilities\":{capabilities},\
             \"serverInfo\":{server_info}{instructions}}}"
        )
    }

    /// Whether calls of tools can become tasks.
    pub const fn has_tasks(&self) -> bool {
        self.has_tasks
    }

    /// A call that its caller wants to be a task; whether it becomes one the server says.
    pub fn as_task(
        &self,
        caller: Caller<'_>,
        message: &Bytes,
        request: &Request<'_>,
    ) -> Result<Bytes, Refusal> {
        let message = extension::without_wish(message, request);
        match mcp::parse(&message, self.bounds) {
            Ok(mcp::Body::One(Message::Request(request))) => {
                Ok(with_modern(Caller { knows_tasks: true, ..caller }, &message, &request))
            }
            Ok(_) | Err(_) => Err(Refusal::Invalid("the request is none".to_owned())),
        }
    }

    /// What becomes of a request.
    pub fn request(
        &self,
        caller: Caller<'_>,
        message: &Bytes,
        request: &Request<'_>,
    ) -> Result<Outgoing, Refusal> {
        let not_found = || Refusal::MethodNotFound(request.method.clone().into_owned());
        let remember = |change: Change| Ok(Outgoing::Remember(change, super::nothing(&request.id)));
        let uri = || request.params.uri.clone().unwrap_or_default().into_owned();
        match &*request.method {
            method::INITIALIZE => {
                let result = self.initialized(agreed(request.params.protocol_version.as_deref()));
                let result = serde_json::from_str(&result).expect("what was written as JSON is JSON");
                Ok(Outgoing::Answer(edit::result(request.id.raw(), result).into()))
            }
            method::PING => Ok(Outgoing::Answer(super::nothing(&request.id))),
            method::LOGGING_SET_LEVEL if self.has_logging => {
                match request.params.level.as_deref().and_then(Level::parse) {
                    Some(level) => remember(Change::LogLevel(level)),
                    None => Ok(Outgoing::Answer(
                        edit::error(Some(request.id.raw()), code::INVALID_PARAMS, "no such level", None)
                            .into(),
                    )),
                }
            }
            method::RESOURCES_SUBSCRIBE => remember(Change::Subscribe(uri())),
            method::RESOURCES_UNSUBSCRIBE => remember(Change::Unsubscribe(uri())),
            // Either these are no methods of the caller's era, or those of the server's era by the same names are
            // something else.
            method::LOGGING_SET_LEVEL
            | method::SERVER_DISCOVER
            | method::SUBSCRIPTIONS_LISTEN
            | method::TASKS_GET
            | method::TASKS_UPDATE
            | method::TASKS_CANCEL
            | method::TASKS_RESULT
            | method::TASKS_LIST => Err(not_found()),
            _ => Ok(Outgoing::Forward(with_modern(caller, message, request))),
        }
    }

    /// What becomes of a notification of the caller's, if the server has a use for it. Cancellations are not among
    /// them: they end the request that they name.
    pub fn notification(&self, message: &Bytes, notification: &Notification<'_>) -> Option<Bytes> {
        let is_for_server = !matches!(
            &*notification.method,
            method::INITIALIZED | method::CANCELLED | method::PROGRESS | method::ROOTS_LIST_CHANGED
        );
        is_for_server.then(|| message.clone())
    }

    /// What becomes of a notification, whether it comes in answer to a request or on a stream of changes.
    pub fn note(&self, message: Bytes) -> Option<Bytes> {
        let Ok(mcp::Body::One(Message::Notification(note))) = mcp::parse(&message, self.bounds) else {
            return None;
        };
        if matches!(&*note.method, method::SUBSCRIPTIONS_ACKNOWLEDGED | method::TASKS | method::CANCELLED) {
            return None;
        }
        let Some(params) = note.params.raw.and_then(Object::parse) else { return Some(message.clone()) };
        let edits = match params.object("_meta") {
            Some(own) if own.value(meta::SUBSCRIPTION_ID).is_none() => return Some(message.clone()),
            Some(own) if own.has_only(&[meta::SUBSCRIPTION_ID]) => params.edits(&message, &["_meta"], &[]),
            Some(own) => own.edits(&message, &[meta::SUBSCRIPTION_ID], &[]),
            None => return Some(message.clone()),
        };
        Some(splice(&message, edits).into())
    }

    /// What becomes of a response.
    pub fn response(&self, asked: Asked, message: &Bytes) -> Result<Answered, Refusal> {
        let response = response_in(message, self.bounds)?;
        let refused = || super::refused(response.id.as_ref(), &Refusal::InputNeeded);
        let response = match &response.outcome {
            Outcome::Result(result) => {
                let broke = || Refusal::UpstreamBroke("the result is no object".to_owned());
                let object = Object::parse(*result).ok_or_else(broke)?;
                let kind = object.value("resultType").map_or("\"complete\"", RawValue::get);
                match serde_json::from_str::<String>(kind).as_deref() {
                    Ok("complete") => {
                        let message = without_modern(asked, message, &object);
                        match asked.tasks() {
                            AboutTasks::Tools => extension::with_support(&message, self.bounds)?,
                            AboutTasks::Nothing | AboutTasks::Begun => message,
                        }
                    }
                    Ok("task") if asked.tasks() == AboutTasks::Begun => message.clone(),
                    Ok("input_required") => match Needs::read(&object)? {
                        needs if needs.wishes.iter().all(|(_, wish)| asked.can(wish)) => {
                            return Ok(Answered::Needs(needs));
                        }
                        _ => refused(),
                    },
                    _ => refused(),
                }
            }
            Outcome::Error(fault) => match fault.code {
                code::MISSING_CLIENT_CAPABILITY => refused(),
                // What is wrong with our own headers is nothing that the caller could mend.
                code if code::proves_modern(code) => with_code(message, &response, code::INTERNAL_ERROR)?,
                _ => message.clone(),
            },
        };
        Ok(Answered::Response(response))
    }
}

/// What the modern era wants to hear in `_meta` of each request, as JSON.
pub(super) fn said_of(caller: Caller<'_>) -> Vec<(&'static str, String)> {
    let abilities = caller.abilities.declared();
    let abilities = if caller.knows_tasks { extension::declared(&abilities) } else { abilities };
    let mut members = vec![
        (meta::PROTOCOL_VERSION, format!("\"{}\"", Revision::LATEST)),
        (meta::CLIENT_CAPABILITIES, abilities),
    ];
    members.extend(caller.client_info.map(|info| (meta::CLIENT_INFO, info.to_owned())));
    members.extend(caller.log_level.map(|level| (meta::LOG_LEVEL, format!("\"{}\"", level.as_str()))));
    members
}

/// A request with that.
fn with_modern(caller: Caller<'_>, message: &Bytes, request: &Request<'_>) -> Bytes {
    let members = said_of(caller);
    let members: Vec<_> = members.iter().map(|(key, value)| (*key, value.as_str())).collect();
    edit::with_meta(message, request, &members).into()
}

/// Takes away what only the modern era says in a result.
fn without_modern(asked: Asked, message: &Bytes, result: &Object<'_>) -> Bytes {
    let mut away = vec!["resultType"];
    if asked.is_cacheable() {
        away.extend(["ttlMs", "cacheScope"]);
    }
    let mut edits = Vec::new();
    match result.object("_meta") {
        Some(own) if own.value(meta::SERVER_INFO).is_none() => {}
        Some(own) if own.has_only(&[meta::SERVER_INFO]) => away.push("_meta"),
        Some(own) => edits.extend(own.edits(message, &[meta::SERVER_INFO], &[])),
        None => {}
    }
    edits.extend(result.edits(message, &away, &[]));
    splice(message, edits).into()
}
