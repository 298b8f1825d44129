//! Translation between the two eras of the protocol, message by message: a caller of one era at a server of the other.
//!
//! Whatever is not the business of an era passes byte by byte: arguments, content, unknown members, the precision of
//! numbers and the order of keys. Pure: no transports, no sessions, no clock. What a translation has to remember is a
//! value that its user keeps.
//!
//! What a server asks of its caller on the way (elicitation, sampling, roots) is translated here message by message;
//! whoever keeps calls waiting for the answers is elsewhere. A server gets to ask only for what the caller declared.
//!
//! A simplification, on purpose: a legacy server's log level is left as it is; what a modern caller did not ask for is not
//! passed on.

use bytes::Bytes;
use serde_json::value::RawValue;
use weft_proto::mcp::{self, Bounds, Id, Message, Outcome, Response, edit, method, splice};

use crate::refusal::Refusal;

mod abilities;
pub mod extension;
mod headers;
pub mod input;
mod level;
mod object;
pub mod tasks;
mod to_legacy;
mod to_modern;

pub use abilities::Abilities;
pub use extension::AboutTasks;
pub use headers::{HeaderParams, modern_headers, without_tools};
pub use level::Level;
pub use to_legacy::{Asked, ToLegacy, Turn};
pub use to_modern::{Caller, ToModern, agreed};

/// Members of `_meta`.
mod meta {
    pub(super) const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
    pub(super) const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
    pub(super) const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
    pub(super) const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
    pub(super) const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
    pub(super) const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";
}

/// What becomes of a caller's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// It goes to the server, in this form.
    Forward(Bytes),
    /// The server is not asked; this is the response.
    Answer(Bytes),
    /// The caller wants to hear of changes for as long as the request lasts. What it wants to hear of is in the
    /// request; how the server is made to tell is for whoever keeps connections.
    Listen,
    /// Something is to be remembered of the caller's session; this is the response once it is.
    Remember(Change, Bytes),
}

/// What is to be remembered of a session of the legacy era.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    LogLevel(Level),
    Subscribe(String),
    Unsubscribe(String),
}

/// Whether results of a method say for how long they hold.
fn is_cacheable(method: &str) -> bool {
    matches!(
        method,
        method::SERVER_DISCOVER
            | method::TOOLS_LIST
            | method::PROMPTS_LIST
            | method::RESOURCES_LIST
            | method::RESOURCES_TEMPLATES_LIST
            | method::RESOURCES_READ
    )
}

/// What a response comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// The response, in the caller's era.
    Response(Bytes),
    /// The server wants to know something first.
    Needs(input::Needs),
}

/// The response that a message is.
fn response_in(message: &[u8], bounds: Bounds) -> Result<Response<'_>, Refusal> {
    match mcp::parse(message, bounds) {
        Ok(mcp::Body::One(Message::Response(response))) => Ok(response),
        Ok(_) => Err(Refusal::UpstreamBroke("the response is none".to_owned())),
        Err(error) => Err(Refusal::UpstreamBroke(format!("the response cannot be read: {error}"))),
    }
}

/// The response with another code, and everything else of the error as it was.
fn with_code(message: &Bytes, response: &Response<'_>, code: i64) -> Result<Bytes, Refusal> {
    let Outcome::Error(fault) = &response.outcome else { return Ok(message.clone()) };
    let broke = || Refusal::UpstreamBroke("the error cannot be read".to_owned());
    let object = object::Object::parse(fault.raw).ok_or_else(broke)?;
    let old = object.value("code").ok_or_else(broke)?;
    let at = mcp::span(message, old.get());
    Ok(splice(message, vec![(at, code.to_string().into_bytes())]).into())
}

/// A refusal as the response to a request.
fn refused(id: Option<&Id<'_>>, refusal: &Refusal) -> Bytes {
    let told = refusal.told();
    let data = serde_json::value::to_raw_value(&serde_json::json!({ "reason": told.reason })).ok();
    edit::error(id.map(Id::raw), told.code, &refusal.message(), data.as_deref()).into()
}

/// A result with nothing in it.
fn nothing(id: &Id<'_>) -> Bytes {
    edit::result(id.raw(), empty()).into()
}

fn empty() -> &'static RawValue {
    serde_json::from_str("{}").expect("an empty object is JSON")
}

#[cfg(test)]
mod tests;
