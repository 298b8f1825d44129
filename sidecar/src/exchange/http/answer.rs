//! What comes back for a request: one JSON text, or a stream of events.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::value::RawValue;
use weft_proto::mcp::{self, Bounds, Message, span};

use crate::refusal::Refusal;
use crate::sse::{self, Event, Splitter};

use super::{AnswerBody, Settings};

/// The form of an answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Events,
    Other,
}

impl Form {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = value.split(';').next().unwrap_or_default().trim();
        match kind {
            _ if kind.eq_ignore_ascii_case("application/json") => Self::Json,
            _ if kind.eq_ignore_ascii_case(sse::MEDIA_TYPE) => Self::Events,
            _ => Self::Other,
        }
    }
}

/// Reads a whole body.
pub(crate) async fn whole(body: AnswerBody, bytes_max: usize) -> Result<Bytes, Refusal> {
    match Limited::new(body, bytes_max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Refusal::UpstreamBroke(format!("the answer is larger than {bytes_max} bytes")))
        }
        Err(error) => Err(Refusal::UpstreamBroke(error.to_string())),
    }
}

/// The messages of a JSON body: one, or several where they came as an array.
pub(crate) fn messages(body: &Bytes, bounds: Bounds) -> Result<Vec<Bytes>, Refusal> {
    let broke = |what: String| Refusal::UpstreamBroke(format!("the answer cannot be read: {what}"));
    match mcp::parse(body, bounds).map_err(|error| broke(error.to_string()))? {
        mcp::Body::One(_) => Ok(vec![body.clone()]),
        mcp::Body::Batch(_) => {
            let parts: Vec<&RawValue> =
                serde_json::from_slice(body).map_err(|error| broke(error.to_string()))?;
            Ok(parts.iter().map(|part| body.slice(span(body, part.get()))).collect())
        }
    }
}

/// The code of the error that a body is.
pub(crate) fn error_code(body: &[u8], bounds: Bounds) -> Option<i64> {
    match mcp::parse(body, bounds) {
        Ok(mcp::Body::One(Message::Response(response))) => match response.outcome {
            mcp::Outcome::Error(fault) => Some(fault.code),
            mcp::Outcome::Result(_) => None,
        },
        Ok(_) | Err(_) => None,
    }
}

/// The events of a stream, as they come.
#[derive(Debug)]
pub(crate) struct Events {
    body: AnswerBody,
    splitter: Splitter,
    is_over: bool,
    /// An event was too large; it would be again.
    is_broken: bool,
    /// The last id that an event set.
    pub(crate) last_id: Option<Bytes>,
    /// How long the server wants to be left alone between connections.
    pub(crate) retry: Option<Duration>,
}

impl Events {
    pub(crate) fn new(response: Response<AnswerBody>, settings: &Settings) -> Self {
        Self {
            body: response.into_body(),
            splitter: Splitter::new(settings.event_bytes_max),
            is_over: false,
            is_broken: false,
            last_id: None,
            retry: None,
        }
    }

    /// The next event with data; none at the end of the stream. Nothing is lost if the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, Refusal> {
        self.next_with(|| {}).await
    }

    /// The next event with data, as with [`Self::next`]; calls for each piece of the stream that comes meanwhile.
    pub(crate) async fn next_with(&mut self, on_piece: impl Fn()) -> Result<Option<Event>, Refusal> {
        loop {
            let event = self.splitter.next_event().map_err(|error| {
                self.is_broken = true;
                Refusal::UpstreamBroke(error.to_string())
            })?;
            if let Some(event) = event {
                self.note(&event);
                // The first event of a stream that can be resumed has an id and nothing in it.
                if event.data.as_ref().is_some_and(|data| !data.is_empty()) {
                    return Ok(Some(event));
                }
                continue;
            }
            if self.is_over {
                return Ok(None);
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(bytes) = frame?.into_data() {
                        self.splitter.feed(bytes);
                        on_piece();
                    }
                }
                None => self.is_over = true,
            }
        }
    }

    /// From where the rest of a stream that ended can be asked for.
    pub(crate) fn resumable(&self) -> Option<&Bytes> {
        self.last_id.as_ref().filter(|_| !self.is_broken)
    }

    fn note(&mut self, event: &Event) {
        if let Some(id) = &event.id {
            self.last_id = (!id.is_empty()).then(|| Bytes::copy_from_slice(id));
        }
        self.retry = event.retry.or(self.retry);
    }
}
