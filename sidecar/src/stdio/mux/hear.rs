//! What the server says, and whose it is.

use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use weft_proto::mcp::{
    self, Body, Bounds, Error, Id, Message, Notification, Outcome, Raw, Request, Response, code, edit, method,
};

use super::{Audience, Call, Effect, Kind, Mux, Open, line, number, same};
use crate::exchange::{Aside, Asker, Said};
use crate::refusal::Refusal;

/// One message of the server's, read before anything is locked.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "the large variant is the usual one")]
pub enum Heard<'a> {
    Message(&'a [u8], Message<'a>),
    /// No message, but it can be told which request was meant to be answered by it.
    BadAnswer {
        call: u64,
        why: String,
    },
    /// No message, but a request all the same, by its id as JSON.
    BadRequest {
        id: Box<str>,
        why: String,
    },
    Garbage,
}

/// Reads a line. There is one message in it, or several where the revision has batches.
pub fn read(line: &[u8], bounds: Bounds) -> Vec<Heard<'_>> {
    if line.trim_ascii_start().first() != Some(&b'[') {
        return vec![one(line, bounds)];
    }
    // Each on its own, so that one that is bad costs no other.
    match serde_json::from_slice::<Vec<&RawValue>>(line) {
        Ok(parts) if parts.len() <= bounds.batch_max => {
            parts.into_iter().map(|part| one(part.get().as_bytes(), bounds)).collect()
        }
        _ => vec![Heard::Garbage],
    }
}

fn one(message: &[u8], bounds: Bounds) -> Heard<'_> {
    match mcp::parse(message, bounds) {
        Ok(Body::One(read)) => Heard::Message(message, read),
        Ok(Body::Batch(_)) => Heard::Garbage,
        Err(error) => bad(message, &error),
    }
}

/// Who waits for an answer that cannot be read had better know than wait on.
fn bad<'a>(message: &[u8], error: &Error) -> Heard<'a> {
    #[derive(Deserialize)]
    struct Answer {
        id: u64,
        method: Option<serde::de::IgnoredAny>,
    }
    if let Some(id) = error.id() {
        return Heard::BadRequest { id: id.into(), why: error.to_string() };
    }
    match serde_json::from_slice::<Answer>(message) {
        Ok(Answer { id, method: None }) => Heard::BadAnswer { call: id, why: error.to_string() },
        _ => Heard::Garbage,
    }
}

impl Mux {
    /// Takes what the server said; says what is to be done about it.
    pub fn hear(&mut self, heard: Heard<'_>, effects: &mut Vec<Effect>) {
        match heard {
            Heard::Message(bytes, Message::Response(response)) => self.response(bytes, &response, effects),
            Heard::Message(bytes, Message::Notification(note)) => self.note(bytes, &note, effects),
            Heard::Message(bytes, Message::Request(request)) => self.request(bytes, &request, effects),
            Heard::BadAnswer { call, why } => match self.forget(call) {
                Some(_) => effects.push(Effect::Refuse(call, Refusal::UpstreamBroke(why))),
                None => self.counts.garbage += 1,
            },
            Heard::BadRequest { id, why } => {
                self.counts.garbage += 1;
                effects.push(Effect::Write(line(edit::error(Some(&id), code::INVALID_PARAMS, &why, None))));
            }
            Heard::Garbage => self.counts.garbage += 1,
        }
    }

    /// A line that was too long to be looked at.
    pub fn hear_too_long(&mut self) {
        self.counts.garbage += 1;
    }

    fn response(&mut self, bytes: &[u8], response: &Response<'_>, effects: &mut Vec<Effect>) {
        let id = response.id.as_ref();
        let Some((id, call)) = id.and_then(|id| Some((id, number(id)?))) else {
            self.counts.strays += 1;
            return;
        };
        // Answered before, cancelled, or never asked.
        let Some(Call { asker, id: own, kind, .. }) = self.forget(call) else {
            self.counts.strays += 1;
            return;
        };
        let mut edits = vec![replaced(bytes, id.raw(), &own)];
        match (&kind, &response.outcome) {
            (Kind::Subscribe(uri), outcome) => {
                if let Some(asker) = &asker {
                    self.topics.answered(asker, uri, matches!(outcome, Outcome::Result(_)));
                }
            }
            (Kind::Listen, Outcome::Result(result)) => {
                edits.extend(subscription_in(*result, call).map(|raw| replaced(bytes, raw, &own)));
            }
            _ => {}
        }
        effects.push(Effect::Say(call, Said::Response(mcp::splice(bytes, edits).into())));
    }

    fn note(&mut self, bytes: &[u8], note: &Notification<'_>, effects: &mut Vec<Effect>) {
        let params = &note.params;
        if let Some(id) = params.meta.subscription_id {
            return self.note_of_call(bytes, id, |call| Some(&*call.id), effects);
        }
        match (&*note.method, &params.uri) {
            (method::PROGRESS, _) => match params.progress_token {
                Some(token) => self.note_of_call(bytes, token, |call| call.token.as_deref(), effects),
                None => self.counts.strays += 1,
            },
            (method::CANCELLED, _) => self.withdrawn(bytes, note, effects),
            (method::RESOURCES_UPDATED, Some(uri)) => match self.topics.of(uri) {
                askers if askers.is_empty() => self.counts.strays += 1,
                askers => {
                    let aside = Aside::Note(Bytes::copy_from_slice(bytes));
                    effects.push(Effect::Aside(Audience::Askers(askers), aside));
                }
            },
            (
                method::TOOLS_LIST_CHANGED | method::PROMPTS_LIST_CHANGED | method::RESOURCES_LIST_CHANGED,
                _,
            ) => effects.push(Effect::Aside(Audience::Everyone, Aside::Note(Bytes::copy_from_slice(bytes)))),
            _ => self.note_of_whom(bytes, effects),
        }
    }

    /// A notification that names the call it belongs to, by our id, in place of which the asker's own comes.
    fn note_of_call(
        &mut self,
        bytes: &[u8],
        named: Raw<'_>,
        own: impl Fn(&Call) -> Option<&str>,
        effects: &mut Vec<Effect>,
    ) {
        let call = Id::parse(named.get()).as_ref().and_then(number);
        let found = call.and_then(|call| Some((call, own(self.calls.get(&call)?)?)));
        match found {
            Some((call, own)) => {
                let note = mcp::splice(bytes, vec![replaced(bytes, named.get(), own)]);
                effects.push(Effect::Say(call, Said::Note(note.into())));
            }
            None => self.counts.strays += 1,
        }
    }

    /// A notification that does not say what it belongs to: to the one asker who has anything under way, or, where
    /// several have or none has, only among what is one caller's.
    fn note_of_whom(&mut self, bytes: &[u8], effects: &mut Vec<Effect>) {
        let note = Bytes::copy_from_slice(bytes);
        let mut askers = self.under_way.iter();
        let (first, second) = (askers.next(), askers.next());
        let effect = match (first, second) {
            (None, _) => Effect::Aside(Audience::OneCaller, Aside::Note(note)),
            (Some((_, calls)), None) => match calls.last() {
                Some(call) => Effect::Say(*call, Said::Note(note)),
                None => return,
            },
            (Some((first, _)), Some(_)) => {
                if self.under_way.keys().any(|asker| asker.caller != first.caller) {
                    self.counts.unplaced += 1;
                    return;
                }
                let askers = self.under_way.keys().cloned().collect();
                Effect::Aside(Audience::Askers(askers), Aside::Note(note))
            }
        };
        effects.push(effect);
    }

    /// The server no longer wants an answer to what it asked.
    fn withdrawn(&mut self, bytes: &[u8], note: &Notification<'_>, effects: &mut Vec<Effect>) {
        let named = note.params.request_id.as_ref();
        let found = named.and_then(|named| {
            let (id, _) = self.open.iter().find(|(_, open)| same(&open.id, named))?;
            Some((named, *id))
        });
        let Some((named, (id, Open { asker, call, .. }))) =
            found.and_then(|(named, id)| Some((named, (id, self.open.remove(&id)?))))
        else {
            self.counts.strays += 1;
            return;
        };
        let note: Bytes = mcp::splice(bytes, vec![replaced(bytes, named.raw(), &id.to_string())]).into();
        effects.push(match self.calls.contains_key(&call) {
            true => Effect::Say(call, Said::Note(note)),
            false => Effect::Aside(Audience::Askers(vec![asker]), Aside::Note(note)),
        });
    }

    fn request(&mut self, bytes: &[u8], request: &Request<'_>, effects: &mut Vec<Effect>) {
        let id = request.id.raw();
        if request.method == method::PING {
            let pong = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
            return effects.push(Effect::Write(line(pong.into_bytes())));
        }
        let full = self.open.len() >= self.in_flight_max;
        let refused = match self.meant() {
            _ if full => "too many requests wait for callers",
            Some((asker, call)) => {
                let own = self.take_id();
                self.open.insert(own, Open { asker, call, id: id.into() });
                let asked = mcp::splice(bytes, vec![replaced(bytes, id, &own.to_string())]);
                return effects.push(Effect::Say(call, Said::Request(asked.into())));
            }
            None => "which caller is meant cannot be told",
        };
        self.counts.unplaced += 1;
        effects.push(Effect::Write(line(edit::error(Some(id), code::INTERNAL_ERROR, refused, None))));
    }

    /// Whom a request of the server's is for, and the latest call that it may be about: the only asker who has anything
    /// under way, or the only one for whom work is done.
    fn meant(&self) -> Option<(Asker, u64)> {
        let working = |calls: &std::collections::BTreeSet<u64>| {
            calls
                .iter()
                .rev()
                .find(|call| self.calls.get(call).is_some_and(|it| it.kind == Kind::Work))
                .copied()
        };
        if let [(asker, calls)] = &self.under_way.iter().take(2).collect::<Vec<_>>()[..] {
            let call = working(calls).or_else(|| calls.last().copied())?;
            return Some(((*asker).clone(), call));
        }
        let mut workers = self.under_way.iter().filter_map(|(asker, calls)| Some((asker, working(calls)?)));
        match (workers.next(), workers.next()) {
            (Some((asker, call)), None) => Some((asker.clone(), call)),
            _ => None,
        }
    }
}

fn replaced(bytes: &[u8], part: &str, with: &str) -> (Range<usize>, Vec<u8>) {
    (mcp::span(bytes, part), with.into())
}

/// The subscription that a result names, if it is this call.
fn subscription_in(result: Raw<'_>, call: u64) -> Option<&str> {
    #[derive(Deserialize)]
    struct Result<'a> {
        #[serde(borrow, rename = "_meta")]
        meta: Meta<'a>,
    }
    #[derive(Deserialize)]
    struct Meta<'a> {
        #[serde(borrow, rename = "io.modelcontextprotocol/subscriptionId")]
        subscription: &'a RawValue,
    }
    let named = serde_json::from_str::<Result<'_>>(result.get()).ok()?.meta.subscription.get();
    (named.parse() == Ok(call)).then_some(named)
}
