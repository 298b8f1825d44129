//! What goes on of a request whose call is traced: its context, in the message and in the headers.

use std::borrow::Cow;
use std::fmt::Display;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use weft_proto::mcp::Meta;
use weft_proto::trace::{Baggage, Carried, State, carry};

use super::open::Trace;
use crate::classify::{Call, Kind};
use crate::limits::Limits;
use crate::receive::Received;
use crate::room::Room;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// A request on its way. Without a trace it is what came.
#[derive(Debug)]
pub struct Onward {
    pub body: Bytes,
    /// Whether the body is another than the one that was read.
    pub is_changed: bool,
    headers: Option<Box<Headers>>,
}

#[derive(Debug, Default)]
struct Headers {
    parent: Option<HeaderValue>,
    state: Option<HeaderValue>,
    baggage: Option<HeaderValue>,
}

impl Onward {
    /// What came, as it came.
    pub fn untouched(received: &Received) -> Self {
        Self { body: received.body.clone(), is_changed: false, headers: None }
    }

    /// Puts the context into the headers of a request.
    pub fn sign(&self, headers: &mut HeaderMap) {
        let Some(ours) = &self.headers else { return };
        let Headers { parent, state, baggage } = &**ours;
        // A state belongs to the trace that it came with.
        if parent.is_some() {
            headers.remove(TRACESTATE);
        }
        for (name, value) in [(TRACEPARENT, parent), (TRACESTATE, state), (BAGGAGE, baggage)] {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
    }
}

/// A recorded call goes on with its own span for a parent. Of one that is not recorded, the context goes on as it came;
/// where there was none, whoever is called hears in a header that it was decided.
pub fn onward(
    trace: Option<&Trace>,
    received: &Received,
    call: &Call<'_>,
    limits: &Limits,
    room: &Room,
) -> Onward {
    let untouched = Onward::untouched(received);
    let Some(trace) = trace else { return untouched };
    let Some(more) = &trace.more else {
        let decided = trace.parent.is_none().then(|| text(trace.own)).flatten();
        let headers = decided.map(|parent| Box::new(Headers { parent: Some(parent), ..Headers::default() }));
        return Onward { headers, ..untouched };
    };
    let meta = call.messages().first().and_then(|first| first.meta());
    let in_message = meta.and_then(Meta::baggage);
    let in_header = received.head.headers.get(BAGGAGE).and_then(|it| it.to_str().ok()).map(Cow::Borrowed);
    let carried = Carried {
        parent: trace.own,
        state: more.state.as_deref().and_then(State::parse),
        baggage: in_message.as_deref().or(in_header.as_deref()).and_then(Baggage::parse),
    };
    let headers = Headers {
        parent: text(trace.own),
        state: carried.state.and_then(|it| text(it.as_str())),
        baggage: carried.baggage.and_then(|it| text(it.as_str())),
    };
    let headers = Some(Box::new(headers));
    match rewritten(received, call, carried, limits, room) {
        Some(body) => Onward { body, is_changed: true, headers },
        None => Onward { headers, ..untouched },
    }
}

/// None where the message has no place for it, or none is left.
fn rewritten(
    received: &Received,
    call: &Call<'_>,
    carried: Carried<'_>,
    limits: &Limits,
    room: &Room,
) -> Option<Bytes> {
    let Kind::Message(message) = &call.kind else { return None };
    let body = carry(&received.body, message, carried)?;
    if body.len() > limits.body_bytes_max {
        return None;
    }
    let mut held = room.hold();
    held.grow(body.len()).ok()?;
    Some(held.with(body.into()))
}

fn text(value: impl Display) -> Option<HeaderValue> {
    HeaderValue::try_from(value.to_string()).ok()
}
