//! To whom a message of a server's belongs.

use bytes::Bytes;
use weft_proto::mcp::{self, Bounds, Id, Message, edit, method};

use crate::refusal::Refusal;

/// What one message is to whoever waits for the response to a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sorted {
    /// The response.
    Response(Bytes),
    /// A notification that belongs to a request.
    Note(Bytes),
    /// A notification that belongs to none.
    Aside(Bytes),
    /// A request of the server's own.
    Request(Bytes),
    /// The server wants to know whether anyone is there; this is the answer.
    Ping(Bytes),
    /// A response to something else.
    Stray,
}

/// Sorts a message that came in answer to the request with this id, or to none. What cannot be read breaks the
/// exchange: it might have been what is waited for.
pub(crate) fn sort(message: &Bytes, id: Option<&Id<'_>>, bounds: Bounds) -> Result<Sorted, Refusal> {
    let broke = |what: String| Refusal::UpstreamBroke(format!("a message cannot be read: {what}"));
    let body = match mcp::parse(message, bounds) {
        Ok(body) => body,
        // Whatever it wants to say, it is no response.
        Err(error @ mcp::Error::BadParams { .. }) => {
            tracing::debug!(%error, "message passed over");
            return Ok(Sorted::Stray);
        }
        Err(error) => return Err(broke(error.to_string())),
    };
    let mcp::Body::One(parsed) = body else { return Err(broke("it is several".to_owned())) };
    Ok(match parsed {
        Message::Response(response) => match (&response.id, id) {
            (Some(own), Some(id)) if own == id => Sorted::Response(message.clone()),
            // An error about a request whose id the server could not read.
            (None, Some(id)) => Sorted::Response(edit::response_with_id(message, &response, id.raw()).into()),
            (Some(_), Some(_)) | (_, None) => Sorted::Stray,
        },
        Message::Request(request) if request.method == method::PING => {
            Sorted::Ping(edit::result(request.id.raw(), empty()).into())
        }
        Message::Request(_) => Sorted::Request(message.clone()),
        Message::Notification(note) => match &*note.method {
            method::TOOLS_LIST_CHANGED
            | method::PROMPTS_LIST_CHANGED
            | method::RESOURCES_LIST_CHANGED
            | method::RESOURCES_UPDATED
            | method::TASKS_STATUS => Sorted::Aside(message.clone()),
            _ => Sorted::Note(message.clone()),
        },
    })
}

fn empty() -> &'static serde_json::value::RawValue {
    serde_json::from_str("{}").expect("an empty object is JSON")
}
