//! What a caller sees of a server's lists: no more than it may call.
//!
//! An answer in one piece is looked at whole. On event streams each event passes as soon as it is whole, and those that
//! do not carry a list keep their bytes.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::Response;
use http::header::CONTENT_LENGTH;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use weft_proto::mcp::lists::{self, Item, Listed};
use weft_proto::mcp::{Bounds, Message, Target};
use weft_proto::policy::access::View;

use crate::answer::Answer;
use crate::body::Body;
use crate::classify::{Call, Kind};
use crate::forward::is_event_stream;
use crate::limits::Limits;
use crate::refusal::Refusal;
use crate::sse::{self, Event, Splitter};

/// Cuts lists down to what one caller may see.
#[derive(Clone, Debug)]
pub(crate) struct Cutter {
    view: Arc<View>,
    bounds: Bounds,
}

impl Cutter {
    /// None where nothing that the call is answered with could be a list, or where nothing is hidden from the caller.
    pub(crate) fn new(call: &Call<'_>, view: Option<&Arc<View>>, limits: &Limits) -> Option<Self> {
        let view = Arc::clone(view?);
        let bounds = Bounds { depth_max: limits.depth_max, batch_max: limits.batch_max };
        (may_list(call) && view.tells_callers_apart()).then_some(Self { view, bounds })
    }

    /// The message as the caller may see it; none where it already is. What cannot be read might show what is hidden.
    fn cut(&self, message: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        lists::cut(message, self.bounds, true, |item| self.may_show(item))
            .map_err(|error| Refusal::UpstreamBroke(format!("a list cannot be read: {error}")))
    }

    fn may_show(&self, item: &Item<'_>) -> bool {
        match item.listed {
            Listed::Tool => self.view.may_see(Target::Tool(&item.name)),
            Listed::Prompt => self.view.may_see(Target::Prompt(&item.name)),
            Listed::Resource => self.view.may_see(Target::Resource(&item.name)),
            Listed::ResourceTemplate => self.view.may_see_template(&item.name),
        }
    }
}

/// A stream that only listens may bring answers to earlier requests: lost ones again, and by the oldest transport all.
fn may_list(call: &Call<'_>) -> bool {
    let lists = |message: &Message<'_>| message.method().is_some_and(|method| Listed::by(method).is_some());
    matches!(call.kind, Kind::Listen) || call.messages().iter().any(lists)
}

/// The answer as the caller may see it.
pub(crate) async fn show(
    response: Response<Answer>,
    cutter: Option<Cutter>,
    limits: &Limits,
) -> Result<Response<Answer>, Refusal> {
    match cutter {
        Some(cutter) => Box::pin(cut(response, cutter, limits)).await,
        None => Ok(response),
    }
}

async fn cut(
    response: Response<Answer>,
    cutter: Cutter,
    limits: &Limits,
) -> Result<Response<Answer>, Refusal> {
    if is_event_stream(response.headers()) {
        let sieve = Sieve { splitter: Splitter::new(limits.event_bytes_max), cutter };
        return Ok(response.map(|answer| answer.watched(Some(sieve), None)));
    }
    let (mut head, answer) = response.into_parts();
    let whole = whole(answer, limits.answer_bytes_max).await?;
    let shown = match cutter.cut(&whole) {
        Ok(Some(cut)) => cut.into(),
        Ok(None) => whole,
        // Nobody reads a list out of an answer that failed.
        Err(_) if whole.is_empty() || !head.status.is_success() => whole,
        Err(refusal) => return Err(refusal),
    };
    head.headers.remove(CONTENT_LENGTH);
    Ok(Response::from_parts(head, Answer::from(Body::full(shown))))
}

async fn whole(answer: Answer, bytes_max: usize) -> Result<Bytes, Refusal> {
    match Limited::new(answer, bytes_max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Refusal::UpstreamBroke(format!("the list is larger than {bytes_max} bytes")))
        }
        Err(error) => Err(Refusal::UpstreamBroke(error.to_string())),
    }
}

/// An event stream's events, each looked at.
#[derive(Debug)]
pub(crate) struct Sieve {
    splitter: Splitter,
    cutter: Cutter,
}

impl Sieve {
    /// The events that are whole with these bytes, as the caller may see them. What the stream ends within is lost, as
    /// it would be to any reader.
    pub(crate) fn feed(&mut self, bytes: Bytes) -> Result<Bytes, Refusal> {
        self.splitter.feed(bytes);
        let mut shown = BytesMut::new();
        let broke = |error: sse::Error| Refusal::UpstreamBroke(error.to_string());
        while let Some(event) = self.splitter.next_event().map_err(broke)? {
            shown.extend_from_slice(&self.cut(event)?);
        }
        Ok(shown.freeze())
    }

    fn cut(&self, event: Event) -> Result<Bytes, Refusal> {
        let Some(data) = event.data.as_ref().filter(|_| event.is("message")) else { return Ok(event.raw) };
        // Some servers begin a stream with an event that says nothing, so that it can be resumed.
        if data.is_empty() {
            return Ok(event.raw);
        }
        let Some(cut) = self.cutter.cut(data)? else { return Ok(event.raw) };
        let text = |bytes: &Option<Bytes>| bytes.as_ref().map(|it| String::from_utf8_lossy(it).into_owned());
        let (id, name) = (text(&event.id), text(&event.name));
        let mut written = event.retry.map_or_else(BytesMut::new, |retry| sse::retry(retry).as_ref().into());
        // A wait of its own would be an event of its own.
        written.truncate(written.len().saturating_sub(1));
        written.extend_from_slice(&sse::event(id.as_deref(), name.as_deref(), &cut));
        Ok(written.freeze())
    }
}
