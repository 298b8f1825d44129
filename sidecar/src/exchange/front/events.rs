//! Event streams as the answer to a request: the ids of their events, and what a message looks like on them.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};

use crate::body::Body;
use crate::sse;

/// What is said on an idle stream so that nobody between takes it for dead.
pub(super) const COMMENT: Bytes = Bytes::from_static(sse::KEEP_ALIVE);

/// Chunks between the one who writes a stream and the connection. Few, so that who does not read is noticed.
pub(super) const CHUNKS_MAX: usize = 4;

/// Names an event within its session: the stream it was said on, and where in it. Ids are read back by
/// [`EventId::parse`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EventId {
    pub(super) stream: u64,
    pub(super) number: u64,
}

impl EventId {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (stream, number) = text.split_once('-')?;
        Some(Self { stream: number_of(stream)?, number: number_of(number)? })
    }
}

/// Digits only: `+1` is no number that was ever written here.
fn number_of(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

impl std::fmt::Display for EventId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.stream, self.number)
    }
}

/// One message as one event.
pub(super) fn event(id: Option<EventId>, message: &[u8]) -> Bytes {
    sse::event(id.map(|id| id.to_string()).as_deref(), Some("message"), message)
}

/// An event that says nothing but where the stream stands, so that it can be resumed before anything was said.
pub(super) fn priming(id: EventId) -> Bytes {
    format!("id: {id}\ndata: \n\n").into()
}

/// The answer that is an event stream.
pub(super) fn response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(sse::MEDIA_TYPE));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_carries_its_id_and_its_message() {
        let id = EventId { stream: 3, number: 7 };
        assert_eq!(event(Some(id), b"{}"), "id: 3-7\nevent: message\ndata: {}\n\n");
        assert_eq!(event(None, b"{}"), "event: message\ndata: {}\n\n");
        assert_eq!(priming(id), "id: 3-7\ndata: \n\n");
    }

    #[test]
    fn an_event_id_is_read_as_it_was_written_and_in_no_other_form() {
        let id = EventId { stream: 12, number: 0 };
        assert_eq!(EventId::parse(&id.to_string()), Some(id));
        for bad in ["", "-", "1", "1-", "-1", "+1-2", "1-2-3", "a-b", "1 -2", "99999999999999999999-1"] {
            assert_eq!(EventId::parse(bad), None, "{bad:?}");
        }
    }
}
