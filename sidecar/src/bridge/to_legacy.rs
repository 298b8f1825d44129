//! A caller of the modern era at a server of the legacy one.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use weft_proto::mcp::{
    self, Bounds, Message, Notification, Outcome, Raw, Request, Revision, code, edit, method, splice,
};

use crate::exchange::Introduction;
use crate::refusal::Refusal;

use super::object::{Edit, Object};
use super::{
    Abilities, AboutTasks, Level, Outgoing, input, is_cacheable, meta, response_in, tasks, with_code,
};

/// What only the modern era says in `_meta` of a request.
const MODERN_ONLY: [&str; 4] =
    [meta::PROTOCOL_VERSION, meta::CLIENT_CAPABILITIES, meta::CLIENT_INFO, meta::LOG_LEVEL];

/// Translates for one server.
#[derive(Clone, Debug)]
pub struct ToLegacy {
    /// As JSON.
    server_info: String,
    /// The result of `server/discover`.
    discovered: String,
    /// Whether calls of tools can be tasks.
    has_tasks: bool,
    bounds: Bounds,
}

/// What has to be known of a request when its answers come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    is_cacheable: bool,
    /// From which level on the caller wants to hear log messages.
    log_level: Option<Level>,
    /// What the caller can be asked for.
    abilities: Abilities,
    tasks: AboutTasks,
}

impl Asked {
    pub fn of(request: &Request<'_>, abilities: Abilities) -> Self {
        Self {
            abilities,
            is_cacheable: is_cacheable(&request.method),
            log_level: request.params.meta.log_level.as_deref().and_then(Level::parse),
            tasks: AboutTasks::Nothing,
        }
    }

    /// The same of a caller who can be asked for this.
    #[must_use]
    pub const fn with_abilities(self, abilities: Abilities) -> Self {
        Self { abilities, ..self }
    }

    /// The same where the answer of a modern server says something of tasks.
    #[must_use]
    pub const fn with_tasks(self, tasks: AboutTasks) -> Self {
        Self { tasks, ..self }
    }

    pub(super) const fn tasks(self) -> AboutTasks {
        self.tasks
    }

    pub(super) fn is_cacheable(self) -> bool {
        self.is_cacheable
    }

    /// Whether the caller can be asked for this.
    pub(super) fn can(self, wish: &input::Wish) -> bool {
        self.abilities.has(&wish.method, wish.params.as_deref())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InitializeResult<'a> {
    #[serde(borrow)]
    capabilities: &'a RawValue,
    #[serde(borrow)]
    server_info: &'a RawValue,
    #[serde(borrow, default)]
    instructions: Option<&'a RawValue>,
}

impl ToLegacy {
    /// From what the server answered to `initialize`.
    pub fn new(introduction: &Introduction, bounds: Bounds) -> Result<Self, Refusal> {
        let broke = |what: String| Refusal::UpstreamBroke(format!("the result of initialize: {what}"));
        let text = std::str::from_utf8(&introduction.result).map_err(|error| broke(error.to_string()))?;
        let result: InitializeResult<'_> =
            serde_json::from_str(text).map_err(|error| broke(error.to_string()))?;
        let capabilities = Object::parse(result.capabilities);
        let capabilities = capabilities.ok_or_else(|| broke("`capabilities` is no object".to_owned()))?;
        let offered = tasks::offered(result.capabilities, &capabilities);
        Ok(Self {
            server_info: result.server_info.get().to_owned(),
            discovered: discovered(&offered, &result),
            has_tasks: tasks::are_taken(result.capabilities),
            bounds,
        })
    }

    /// The result of `server/discover`.
    pub fn discovered(&self) -> &str {
        &self.discovered
    }

    /// Whether calls of tools can be tasks.
    pub const fn has_tasks(&self) -> bool {
        self.has_tasks
    }

    /// What becomes of a request.
    pub fn request(&self, message: &Bytes, request: &Request<'_>) -> Result<Outgoing, Refusal> {
        match &*request.method {
            method::SERVER_DISCOVER => {
                let result =
                    serde_json::from_str(&self.discovered).expect("what was written as JSON is JSON");
                Ok(Outgoing::Answer(edit::result(request.id.raw(), result).into()))
            }
            method::SUBSCRIPTIONS_LISTEN => Ok(Outgoing::Listen),
            // Either these are no methods of the caller's era, or those of the server's era by the same names are
            // something else. Where a server has tasks they are answered before this.
            method::INITIALIZE
            | method::PING
            | method::LOGGING_SET_LEVEL
            | method::RESOURCES_SUBSCRIBE
            | method::RESOURCES_UNSUBSCRIBE
            | method::TASKS_GET
            | method::TASKS_UPDATE
            | method::TASKS_CANCEL
            | method::TASKS_RESULT
            | method::TASKS_LIST => Err(Refusal::MethodNotFound(request.method.clone().into_owned())),
            _ => Ok(Outgoing::Forward(without_modern(message, request.params.raw))),
        }
    }

    /// What becomes of a notification of the caller's.
    pub fn notification(&self, message: &Bytes, notification: &Notification<'_>) -> Bytes {
        without_modern(message, notification.params.raw)
    }

    /// What becomes of a notification that comes in answer to a request. Only what belongs to the request may be told
    /// with it.
    pub fn note(&self, asked: Asked, message: Bytes) -> Option<Bytes> {
        let Ok(mcp::Body::One(Message::Notification(note))) = mcp::parse(&message, self.bounds) else {
            return None;
        };
        let is_told = match &*note.method {
            method::MESSAGE => {
                let level = note.params.level.as_deref().and_then(Level::parse);
                asked.log_level.is_some_and(|wanted| level.is_some_and(|level| level >= wanted))
            }
            method::TOOLS_LIST_CHANGED
            | method::PROMPTS_LIST_CHANGED
            | method::RESOURCES_LIST_CHANGED
            | method::RESOURCES_UPDATED
            | method::TASKS_STATUS
            | method::CANCELLED => false,
            _ => true,
        };
        is_told.then(|| message.clone())
    }

    /// What becomes of a response.
    pub fn response(&self, asked: Asked, message: &Bytes) -> Result<Bytes, Refusal> {
        let response = response_in(message, self.bounds)?;
        match &response.outcome {
            Outcome::Result(result) => {
                let edits = self.completed(asked, message, *result)?;
                Ok(splice(message, edits).into())
            }
            Outcome::Error(fault) => match fault.code {
                code::RESOURCE_NOT_FOUND => with_code(message, &response, code::INVALID_PARAMS),
                code::URL_ELICITATION_REQUIRED => {
                    let wishes =
                        input::elsewhere(fault).filter(|wishes| wishes.iter().all(|it| asked.can(it)));
                    Ok(match (wishes, &response.id) {
                        // Nothing waits at the server: it is called anew, and knows by itself what was done.
                        (Some(wishes), Some(id)) => self.asking(id.raw(), &wishes, None),
                        (_, id) => super::refused(id.as_ref(), &Refusal::InputNeeded),
                    })
                }
                // These would say something of the caller's headers, and prove a server that is none.
                code if code::proves_modern(code) => with_code(message, &response, code::INTERNAL_ERROR),
                _ => Ok(message.clone()),
            },
        }
    }

    /// Gives a result what every one of the modern era has.
    fn completed(&self, asked: Asked, message: &[u8], result: Raw<'_>) -> Result<Vec<Edit>, Refusal> {
        let object = Object::parse(result);
        let object = object.ok_or_else(|| Refusal::UpstreamBroke("the result is no object".to_owned()))?;
        let info = [(meta::SERVER_INFO, self.server_info.as_str())];
        let info_alone = format!("{{\"{}\":{}}}", info[0].0, info[0].1);
        let mut away = Vec::new();
        let mut new = Vec::new();
        let mut edits = match (object.value("_meta"), object.object("_meta")) {
            (_, Some(own)) if own.value(meta::SERVER_INFO).is_some() => Vec::new(),
            (_, Some(own)) => own.edits(message, &[], &info),
            (present, None) => {
                away.extend(present.map(|_| "_meta"));
                new.push(("_meta", info_alone.as_str()));
                Vec::new()
            }
        };
        // A legacy server has no say in these; where it uses the names, it means nothing by them.
        away.push("resultType");
        new.push(("resultType", "\"complete\""));
        if asked.is_cacheable {
            away.extend(["ttlMs", "cacheScope"]);
            new.extend([("ttlMs", "0"), ("cacheScope", "\"private\"")]);
        }
        edits.extend(object.edits(message, &away, &new));
        Ok(edits)
    }

    /// What becomes of a request of the server's own.
    pub fn request_of_server(&self, asked: Asked, message: &[u8]) -> Turn {
        match input::Question::read(message, self.bounds) {
            Some(question) if asked.can(&question.wish) => Turn::Ask(question),
            Some(_) | None => decline(message, self.bounds).map_or(Turn::Nothing, Turn::Answer),
        }
    }

    /// The response by which a caller is asked for something. Whoever answers gives the state back with it.
    pub fn asking(&self, id: &str, wishes: &[input::Wish], state: Option<&str>) -> Bytes {
        let keys: Vec<String> = (1..=wishes.len()).map(|n| n.to_string()).collect();
        let wishes = keys.iter().map(String::as_str).zip(wishes);
        input::asking(id, wishes, state, &self.server_info)
    }
}

/// What becomes of a request that a server makes of its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The caller is asked.
    Ask(input::Question),
    /// The server is answered, because this caller cannot be asked.
    Answer(Bytes),
    /// It was no request.
    Nothing,
}

/// The answer to a request of a legacy server's that is not passed on.
fn decline(message: &[u8], bounds: Bounds) -> Option<Bytes> {
    let Ok(mcp::Body::One(Message::Request(request))) = mcp::parse(message, bounds) else { return None };
    Some(match &*request.method {
        method::PING => super::nothing(&request.id),
        _ => {
            edit::error(Some(request.id.raw()), code::METHOD_NOT_FOUND, "the client did not offer this", None)
                .into()
        }
    })
}

fn discovered(capabilities: &str, result: &InitializeResult<'_>) -> String {
    let mut discovered = String::from(r#"{"resultType":"complete","supportedVersions":"#);
    discovered += &json!([Revision::LATEST.as_str()]).to_string();
    discovered += ",\"capabilities\":";
    discovered += capabilities;
    if let Some(instructions) = result.instructions.filter(|it| it.get() != "null") {
        discovered += ",\"instructions\":";
        discovered += instructions.get();
    }
    discovered += r#","ttlMs":0,"cacheScope":"private","_meta":{"#;
    discovered += &format!("\"{}\":{}}}}}", meta::SERVER_INFO, result.server_info.get());
    discovered
}

/// Takes away what only the modern era says; `_meta` goes with it if nothing is left.
fn without_modern(message: &Bytes, params: Option<Raw<'_>>) -> Bytes {
    let Some(params) = params.and_then(Object::parse) else { return message.clone() };
    let mut edits = Vec::new();
    // An input that no legacy server has asked for.
    let mut away = vec!["inputResponses", "requestState"];
    match params.object("_meta") {
        Some(own) if own.has_only(&MODERN_ONLY) => away.push("_meta"),
        Some(own) => edits.extend(own.edits(message, &MODERN_ONLY, &[])),
        None => {}
    }
    edits.extend(params.edits(message, &away, &[]));
    match edits.is_empty() {
        true => message.clone(),
        false => splice(message, edits).into(),
    }
}
