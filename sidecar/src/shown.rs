//! What a caller sees of a server's lists: no more than it may call, or could with a scope that it can ask for.
//!
//! An answer in one piece is looked at whole. On event streams each event passes as soon as it is whole, and those that
//! do not carry a list keep their bytes.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::Response;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use weft_proto::mcp::lists::{self, Item, Listed};
use weft_proto::mcp::{Bounds, Message};
use weft_proto::name::ServerName;
use weft_proto::policy::access::{Listing, WithScope};
use weft_proto::policy::tools;

use crate::answer::Answer;
use crate::body::Body;
use crate::classify::{Call, Kind};
use crate::forward::is_event_stream;
use crate::gateway::is_of_token;
use crate::identify::{Caller, Identified};
use crate::limits::Limits;
use crate::metrics::ServerSeries;
use crate::refusal::Refusal;
use crate::servers::Local;
use crate::sse::{self, Event, Splitter};
use crate::state::Live;
use crate::tools::pinned;

/// Cuts lists down to what one caller may see, by the configuration in force when they pass.
#[derive(Clone, Debug)]
pub(crate) struct Cutter {
    connection: Arc<Identified>,
    server: ServerName,
    series: Arc<ServerSeries>,
    live: Live,
    bounds: Bounds,
}

impl Cutter {
    /// None where nothing that the call is answered with could be a list.
    pub(crate) fn new(
        call: &Call<'_>,
        connection: &Arc<Identified>,
        server: &Local,
        live: &Live,
        limits: &Limits,
    ) -> Option<Self> {
        may_list(call).then(|| Self {
            connection: Arc::clone(connection),
            server: server.name.clone(),
            series: Arc::clone(&server.series),
            live: live.clone(),
            bounds: Bounds { depth_max: limits.depth_max, batch_max: limits.batch_max },
        })
    }

    /// The message as the caller may see it; none where it already is. What cannot be read might show what is hidden.
    fn cut(&self, message: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        self.series.learn(message, self.bounds);
        let current = self.live.load();
        let snapshot = &current.snapshot;
        let gone = || Refusal::UnknownServer(self.server.to_string());
        let entry = snapshot.server(&self.server).ok_or_else(gone)?;
        let view = match &self.connection.caller {
            Caller::Workload(proved) => {
                Some(proved.view(snapshot, entry)).filter(|it| it.tells_callers_apart())
            }
            Caller::Local | Caller::Anonymous | Caller::Guest(_) => None,
        };
        if view.is_none() && entry.tools.is_empty() {
            return Ok(None);
        }
        let is_approved = |item: &Item<'_>| {
            let digest = tools::digest(item.raw.get()).ok();
            pinned::may_show(snapshot, entry, &item.name, digest.as_ref())
        };
        let listing = view.map(|view| {
            let mut with_scope = WithScope::new(is_of_token(view.caller()));
            Listing::new(view, &mut with_scope)
        });
        let may_show = |item: &Item<'_>| {
            listing.as_ref().is_none_or(|listing| listing.shows(item.listed, &item.name))
                && (item.listed != Listed::Tool || is_approved(item))
        };
        lists::cut(message, self.bounds, listing.is_some(), may_show)
            .map_err(|error| Refusal::UpstreamBroke(format!("a list cannot be read: {error}")))
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
    let encodings = response.headers().get_all(CONTENT_ENCODING);
    if encodings.iter().any(|it| !it.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Refusal::UpstreamBroke("a list is encoded, which nobody asked for".to_owned()));
    }
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
            // An event is split off before the LF of its last CRLF came, without which readers wait for more.
            if shown.last() == Some(&b'\r') {
                shown.extend_from_slice(b"\n");
            }
        }
        Ok(shown.freeze())
    }

    fn cut(&self, event: Event) -> Result<Bytes, Refusal> {
        // Not all clients look at what an event is called. The one of the oldest transport that names an address is no
        // message, and some servers begin a stream with an event that says nothing, so that it can be resumed.
        let Some(data) = event.data.as_ref().filter(|_| !event.is("endpoint")) else { return Ok(event.raw) };
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
