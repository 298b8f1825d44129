//! Changing a part of a message and nothing else, and building messages of our own.
//!
//! Functions here take JSON texts as they are: whoever calls says that `id` and the like are JSON.

use std::ops::Range;

use serde_json::value::RawValue;

use super::method::{self, Subject};
use super::params::PROGRESS_TOKEN;
use super::raw::json_string;
use super::{Outcome, Raw, Request, Response};

/// Where a part that was borrowed from a message stands in it.
///
/// # Panics
/// If the part was not borrowed from it.
pub fn span(within: &[u8], part: &str) -> Range<usize> {
    let start = (part.as_ptr() as usize).checked_sub(within.as_ptr() as usize);
    let span = start.map(|start| start..start + part.len()).filter(|span| span.end <= within.len());
    span.expect("the part is borrowed from the message")
}

/// Replaces parts of a message and leaves every other byte. The parts must not overlap; what is inserted at one place
/// comes in the order given.
pub fn splice(bytes: &[u8], mut edits: Vec<(Range<usize>, Vec<u8>)>) -> Vec<u8> {
    edits.sort_by_key(|(span, _)| (span.start, span.end));
    let more: usize = edits.iter().map(|(_, with)| with.len()).sum();
    let mut spliced = Vec::with_capacity(bytes.len() + more);
    let mut done = 0;
    for (span, with) in edits {
        spliced.extend_from_slice(&bytes[done..span.start]);
        spliced.extend_from_slice(&with);
        done = span.end;
    }
    spliced.extend_from_slice(&bytes[done..]);
    spliced
}

/// The request under another id.
pub fn with_id(message: &[u8], request: &Request<'_>, id: &str) -> Vec<u8> {
    splice(message, vec![(span(message, request.id.raw()), id.into())])
}

/// The request about something else of the same kind; none where it names nothing.
pub fn with_target(message: &[u8], request: &Request<'_>, target: &str) -> Option<Vec<u8>> {
    let params = request.params.raw?;
    let named = match method::subject(&request.method)? {
        Subject::Tool | Subject::Prompt => params.member("name"),
        Subject::Resource => params.member("uri"),
        Subject::Task => params.member("taskId"),
        Subject::Reference => {
            let reference = params.member("ref")?;
            request
                .params
                .ref_name
                .as_ref()
                .map_or_else(|| reference.member("uri"), |_| reference.member("name"))
        }
    };
    Some(splice(message, vec![(span(message, named?.get()), json_string(target).into())]))
}

/// A call of another tool, with other arguments; none where the request names none.
pub fn with_call(message: &[u8], request: &Request<'_>, tool: &str, arguments: &str) -> Option<Vec<u8>> {
    let params = request.params.raw?;
    let named = span(message, params.member("name")?.get());
    let mut edits = vec![(named, json_string(tool).into())];
    match params.member("arguments") {
        Some(old) => edits.push((span(message, old.get()), arguments.into())),
        None => edits.push(insertion(message, params, &format!(r#""arguments":{arguments}"#))),
    }
    Some(splice(message, edits))
}

/// The request with another progress token, whether it had one or not.
pub fn with_progress_token(message: &[u8], request: &Request<'_>, token: &str) -> Vec<u8> {
    with_meta(message, request, &[(PROGRESS_TOKEN, token)])
}

/// The request with members of `_meta` set to JSON texts; what is there already is replaced.
pub fn with_meta(message: &[u8], request: &Request<'_>, members: &[(&'static str, &str)]) -> Vec<u8> {
    if members.is_empty() {
        return message.to_vec();
    }
    let Some(params) = request.params.raw else {
        let after_id = span(message, request.id.raw()).end;
        let inserted = format!(r#","params":{{"_meta":{}}}"#, object(members));
        return splice(message, vec![(after_id..after_id, inserted.into())]);
    };
    with_meta_in(message, params, members)
}

/// A message with members of `_meta` set in its parameters.
pub(crate) fn with_meta_in(message: &[u8], params: Raw<'_>, members: &[(&'static str, &str)]) -> Vec<u8> {
    let edits = match params.member("_meta") {
        Some(meta) if meta.is_object() => set(message, meta, members),
        Some(null) => vec![(span(message, null.get()), object(members).into())],
        None => vec![insertion(message, params, &format!(r#""_meta":{}"#, object(members)))],
    };
    splice(message, edits)
}

/// The answer under another id.
pub fn response_with_id(message: &[u8], response: &Response<'_>, id: &str) -> Vec<u8> {
    match (&response.id, &response.outcome) {
        (Some(old), _) => splice(message, vec![(span(message, old.raw()), id.into())]),
        (None, Outcome::Error(fault)) => answer(Some(id), "error", fault.raw.get()),
        (None, Outcome::Result(result)) => answer(Some(id), "result", result.get()),
    }
}

/// An error of our own; without an id where the request's could not be read.
pub fn error(id: Option<&str>, code: i64, message: &str, data: Option<&RawValue>) -> Vec<u8> {
    let data = data.map_or_else(String::new, |data| format!(r#","data":{}"#, data.get()));
    let message = json_string(message);
    answer(id, "error", &format!(r#"{{"code":{code},"message":{message}{data}}}"#))
}

/// A result of our own.
pub fn result(id: &str, result: &RawValue) -> Vec<u8> {
    answer(Some(id), "result", result.get())
}

/// A request of our own.
pub fn request(id: &str, method: &str, params: Option<&RawValue>) -> Vec<u8> {
    call(&format!(r#","id":{id}"#), method, params)
}

/// A notification of our own.
pub fn notification(method: &str, params: Option<&RawValue>) -> Vec<u8> {
    call("", method, params)
}

fn call(id: &str, method: &str, params: Option<&RawValue>) -> Vec<u8> {
    let params = params.map_or_else(String::new, |params| format!(r#","params":{}"#, params.get()));
    format!(r#"{{"jsonrpc":"2.0"{id},"method":{}{params}}}"#, json_string(method)).into_bytes()
}

fn answer(id: Option<&str>, key: &str, outcome: &str) -> Vec<u8> {
    let id = id.map_or_else(String::new, |id| format!(r#","id":{id}"#));
    format!(r#"{{"jsonrpc":"2.0"{id},"{key}":{outcome}}}"#).into_bytes()
}

/// The edits that give an object these members.
fn set(message: &[u8], object: Raw<'_>, members: &[(&'static str, &str)]) -> Vec<(Range<usize>, Vec<u8>)> {
    let (mut edits, mut new) = (Vec::new(), Vec::new());
    for (key, value) in members {
        match object.member(key) {
            Some(old) => edits.push((span(message, old.get()), (*value).into())),
            None => new.push((*key, *value)),
        }
    }
    if !new.is_empty() {
        edits.push(insertion(message, object, &listed(&new)));
    }
    edits
}

/// Puts members at the beginning of an object.
fn insertion(message: &[u8], object: Raw<'_>, members: &str) -> (Range<usize>, Vec<u8>) {
    let at = span(message, object.get()).start + 1;
    let is_empty = object.get()[1..].trim_start().starts_with('}');
    let separator = if is_empty { "" } else { "," };
    (at..at, format!("{members}{separator}").into())
}

fn object(members: &[(&'static str, &str)]) -> String {
    format!("{{{}}}", listed(members))
}

fn listed(members: &[(&'static str, &str)]) -> String {
    let members: Vec<_> =
        members.iter().map(|(key, value)| format!("{}:{value}", json_string(key))).collect();
    members.join(",")
}

#[cfg(test)]
mod tests;
