//! The forms of answers.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;
use serde_json::value::RawValue;
use weft_proto::mcp::{self, Message, Outcome, code, edit};

use crate::body::Body;
use crate::refusal::Refusal;

pub(super) fn json(message: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::full(message));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The answer to what is not answered.
pub(super) fn accepted() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

/// A refusal as the response to a request, where there is no other way to tell it any more.
pub(super) fn refused(id: &str, refusal: &Refusal) -> Bytes {
    let told = refusal.told();
    let data = serde_json::value::to_raw_value(&json!({ "reason": told.reason })).ok();
    edit::error(Some(id), told.code, &refusal.message(), data.as_deref()).into()
}

/// A result of our own.
pub(super) fn result(id: &str, result: &str) -> Result<Bytes, Refusal> {
    let result: &RawValue =
        serde_json::from_str(result).map_err(|error| Refusal::UpstreamBroke(error.to_string()))?;
    Ok(edit::result(id, result).into())
}

/// Several messages as one.
pub(super) fn batch(messages: &[Bytes]) -> Bytes {
    let mut text = b"[".to_vec();
    for (at, message) in messages.iter().enumerate() {
        if at > 0 {
            text.push(b',');
        }
        text.extend_from_slice(message);
    }
    text.push(b']');
    text.into()
}

/// The status that the modern era has for what a response says; errors in the content of a request have none of their
/// own.
pub(super) fn modern_status(response: &[u8], bounds: mcp::Bounds) -> StatusCode {
    if memchr::memmem::find(response, b"\"error\"").is_none() {
        return StatusCode::OK;
    }
    let code = match mcp::parse(response, bounds) {
        Ok(mcp::Body::One(Message::Response(response))) => match response.outcome {
            Outcome::Error(fault) => fault.code,
            Outcome::Result(_) => return StatusCode::OK,
        },
        Ok(_) | Err(_) => return StatusCode::OK,
    };
    match code {
        code::METHOD_NOT_FOUND => StatusCode::NOT_FOUND,
        code::PARSE_ERROR | code::INVALID_REQUEST => StatusCode::BAD_REQUEST,
        code if code::proves_modern(code) => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}

/// Of a header that is to say one thing.
pub(super) fn header<'a>(headers: &'a http::HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

/// Whether the caller takes event streams.
pub(super) fn accepts_events(headers: &http::HeaderMap) -> bool {
    let kinds = headers.get_all(http::header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds = kinds.flat_map(|value| value.split(','));
    kinds.any(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        ["text/event-stream", "text/*", "*/*"].iter().any(|it| kind.eq_ignore_ascii_case(it))
    })
}
