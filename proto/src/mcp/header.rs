//! The headers that repeat what a message says, and whether they repeat it faithfully.
//!
//! Nothing is ever decided by a header; the body is what the server obeys. Not here: which revisions have these
//! headers.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Request, method};

pub const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
pub const METHOD: HeaderName = HeaderName::from_static("mcp-method");
pub const NAME: HeaderName = HeaderName::from_static("mcp-name");
pub const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
pub const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// How the names of headers begin that repeat arguments.
pub const PARAM_PREFIX: &str = "mcp-param-";

const SENTINEL_START: &str = "=?base64?";
const SENTINEL_END: &str = "?=";

/// A value that says it is base64 and is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value is marked as base64 of UTF-8 and is none")]
pub struct Undecodable;

/// Why headers and body do not agree. Says no values: they come from outside.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    #[error("the header `{0}` is missing")]
    Missing(HeaderName),
    #[error("the header `{0}` is there more than once")]
    Repeated(HeaderName),
    #[error("the header `{0}` does not say what the body says")]
    Differs(HeaderName),
    #[error("the header `{0}` cannot be decoded")]
    Undecodable(HeaderName),
}

/// What a value of `Mcp-Name` or `Mcp-Param-*` stands for.
pub fn decode(value: &str) -> Result<Cow<'_, str>, Undecodable> {
    let Some(encoded) = marked(value) else { return Ok(Cow::Borrowed(value)) };
    let bytes = STANDARD.decode(encoded).map_err(|_| Undecodable)?;
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| Undecodable)
}

/// How a value of `Mcp-Name` or `Mcp-Param-*` is written.
pub fn encode(text: &str) -> Cow<'_, str> {
    let plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let trimmed = !text.starts_with(' ') && !text.ends_with(' ');
    match plain && trimmed && marked(text).is_none() {
        true => Cow::Borrowed(text),
        false => Cow::Owned(format!("{SENTINEL_START}{}{SENTINEL_END}", STANDARD.encode(text))),
    }
}

/// Whether the headers of a request of the modern era repeat its body faithfully.
pub fn agree(headers: &HeaderMap, request: &Request<'_>) -> Result<(), Mismatch> {
    let version = exactly_one(headers, PROTOCOL_VERSION)?;
    let method = exactly_one(headers, METHOD)?;
    if version.is_none() || version != request.params.meta.protocol_version.as_deref() {
        return Err(absent_or_different(version, PROTOCOL_VERSION));
    }
    if method != Some(&request.method) {
        return Err(absent_or_different(method, METHOD));
    }
    let name = exactly_one(headers, NAME)?;
    if let Some(expected) = named(request) {
        let name = name.ok_or(Mismatch::Missing(NAME))?;
        let name = decode(name).map_err(|Undecodable| Mismatch::Undecodable(NAME))?;
        if name != expected {
            return Err(Mismatch::Differs(NAME));
        }
    }
    params_can_be_decoded(headers)
}

/// What `Mcp-Name` must say.
pub fn named<'r>(request: &'r Request<'_>) -> Option<&'r str> {
    let params = &request.params;
    match &*request.method {
        method::TOOLS_CALL | method::PROMPTS_GET => params.name.as_deref(),
        method::RESOURCES_READ => params.uri.as_deref(),
        method::TASKS_GET | method::TASKS_UPDATE | method::TASKS_CANCEL => params.task_id.as_deref(),
        _ => None,
    }
}

/// Which headers there must be is known to those who know the tool; the others are to be forwarded as they are.
fn params_can_be_decoded(headers: &HeaderMap) -> Result<(), Mismatch> {
    let params = headers.iter().filter(|(name, _)| name.as_str().starts_with(PARAM_PREFIX));
    for (name, value) in params {
        // What is no text is not marked either.
        let Some(value) = text(value) else { continue };
        decode(value).map_err(|Undecodable| Mismatch::Undecodable(name.clone()))?;
    }
    Ok(())
}

fn exactly_one(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, Mismatch> {
    let mut values = headers.get_all(&name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match (text(value), values.next()) {
        (_, Some(_)) => Err(Mismatch::Repeated(name)),
        (None, None) => Err(Mismatch::Undecodable(name)),
        (text, None) => Ok(text),
    }
}

/// A value without the blanks around it.
fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok().map(|value| value.trim_matches([' ', '\t']))
}

fn absent_or_different(found: Option<&str>, name: HeaderName) -> Mismatch {
    match found {
        None => Mismatch::Missing(name),
        Some(_) => Mismatch::Differs(name),
    }
}

/// What stands between the markers.
fn marked(value: &str) -> Option<&str> {
    value.strip_prefix(SENTINEL_START)?.strip_suffix(SENTINEL_END)
}

#[cfg(test)]
mod tests;
