//! Many askers, one connection: whose each message is.
//!
//! A state machine without IO and without a clock. Requests go in under ids and progress tokens of our own, dense
//! integers that are never used twice; what comes back is given to whom it belongs, under the asker's own. Every other
//! byte of a message stays as it was. What the server says of its own accord goes to who must have been meant, and to
//! nobody where that cannot be told: callers never see each other's messages.
//!
//! Not here: queues, time, and what the messages mean beyond that.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use weft_proto::mcp::{self, Id, Notification, Request, Response, code, edit, method};

use crate::exchange::{Aside, Asker, Said};
use crate::refusal::Refusal;

mod hear;
mod topics;

pub use hear::{Heard, read};
use topics::Topics;

/// What is to be done about a message, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// To the server; a whole line.
    Write(Bytes),
    /// To who waits for this call.
    Say(u64, Said),
    /// To who waits for this call; the last.
    Refuse(u64, Refusal),
    /// Outside of any call.
    Aside(Audience, Aside),
}

/// Whom a message outside of any call is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    Everyone,
    /// Everyone who listens, if all of them are one caller's: the message may be about what that caller does.
    OneCaller,
    Askers(Vec<Asker>),
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The line goes to the server; the answer will be this call's.
    Forward { call: u64, line: Bytes },
    /// There is no need to ask the server: this is the response.
    Answered(Bytes),
}

/// What came from the server and was for nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Lines that are no messages.
    pub garbage: u64,
    /// Answers and notifications for calls that are unknown, over, or cancelled.
    pub strays: u64,
    /// Requests and notifications of the server's of which it cannot be told whom they are for.
    pub unplaced: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Mux {
    in_flight_max: usize,
    next: u64,
    calls: HashMap<u64, Call>,
    under_way: HashMap<Asker, BTreeSet<u64>>,
    /// Requests of the server's that wait for an asker's answer, by the id that the asker knows them by.
    open: HashMap<u64, Open>,
    topics: Topics,
    counts: Counts,
}

/// A request that waits for the server's answer.
#[derive(Debug)]
struct Call {
    /// None for our own.
    asker: Option<Asker>,
    /// The id that the asker knows it by, as JSON.
    id: Box<str>,
    /// The asker's progress token, as JSON.
    token: Option<Box<str>>,
    kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// Does work on the asker's behalf, so that the server may need the asker for it.
    Work,
    /// Tells what is there.
    Look,
    Subscribe(Box<str>),
    /// The answers carry the id of the call inside, too.
    Listen,
}

/// A request of the server's.
#[derive(Debug)]
struct Open {
    asker: Asker,
    call: u64,
    /// The server's own id, as JSON.
    id: Box<str>,
}

impl Mux {
    pub fn new(in_flight_max: usize) -> Self {
        Self {
            in_flight_max,
            next: 1,
            calls: HashMap::new(),
            under_way: HashMap::new(),
            open: HashMap::new(),
            topics: Topics::default(),
            counts: Counts::default(),
        }
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    pub fn in_flight(&self) -> usize {
        self.calls.len()
    }

    /// Takes a request of an asker's.
    pub fn ask(&mut self, asker: &Asker, message: &[u8], request: &Request<'_>) -> Result<Asked, Refusal> {
        let kind = match (&*request.method, &request.params.uri) {
            (method::INITIALIZE, _) => {
                return Err(Refusal::Invalid("the server has been initialised already".to_owned()));
            }
            (method::RESOURCES_SUBSCRIBE, Some(uri)) => match self.topics.subscribe(asker, uri) {
                Ok(topics::Step::Forward) => Kind::Subscribe((**uri).into()),
                Ok(topics::Step::Done) => return Ok(Asked::Answered(nothing(&request.id))),
                Err(topics::Full) => return Err(Refusal::ChildBusy("too many subscriptions".to_owned())),
            },
            (method::RESOURCES_UNSUBSCRIBE, Some(uri)) => match self.topics.unsubscribe(asker, uri) {
                topics::Step::Forward => Kind::Look,
                topics::Step::Done => return Ok(Asked::Answered(nothing(&request.id))),
            },
            (method::SUBSCRIPTIONS_LISTEN, _) => Kind::Listen,
            // The only ones for which the protocol lets a server ask back in every revision, and the one that stands
            // for them when they go on as tasks.
            (method::TOOLS_CALL | method::PROMPTS_GET | method::RESOURCES_READ | method::TASKS_RESULT, _) => {
                Kind::Work
            }
            _ => Kind::Look,
        };
        if self.calls.len() >= self.in_flight_max {
            if let Kind::Subscribe(uri) = &kind {
                self.topics.leave(asker, uri);
            }
            return Err(Refusal::InFlight { after: std::time::Duration::from_secs(1) });
        }
        let call = self.take_id();
        let token = request.params.meta.progress_token.map(mcp::Raw::get);
        let own = call.to_string();
        let mut edits = vec![(mcp::span(message, request.id.raw()), own.clone().into_bytes())];
        edits.extend(token.map(|token| (mcp::span(message, token), own.into_bytes())));
        let line = line(mcp::splice(message, edits));
        self.under_way.entry(asker.clone()).or_default().insert(call);
        let asker = Some(asker.clone());
        self.calls
            .insert(call, Call { asker, id: request.id.raw().into(), token: token.map(Into::into), kind });
        Ok(Asked::Forward { call, line })
    }

    /// A request of our own. The parameters are JSON.
    pub fn own(&mut self, method: &str, params: &str) -> (u64, Bytes) {
        let call = self.take_id();
        let id = call.to_string();
        self.calls.insert(call, Call { asker: None, id: id.as_str().into(), token: None, kind: Kind::Look });
        let message = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#);
        (call, line(message.into_bytes()))
    }

    /// Takes a notification of an asker's. Returns what goes to the server, if anything.
    pub fn notify(&mut self, asker: &Asker, message: &[u8], note: &Notification<'_>) -> Option<Bytes> {
        match &*note.method {
            // Said once by us for everyone.
            method::INITIALIZED => None,
            method::CANCELLED => {
                let id = note.params.request_id.as_ref()?;
                let mine = self.under_way.get(asker)?;
                let is_meant = |call: &&u64| self.calls.get(*call).is_some_and(|it| same(&it.id, id));
                let call = mine.iter().find(is_meant)?;
                Some(line(mcp::splice(
                    message,
                    vec![(mcp::span(message, id.raw()), call.to_string().into())],
                )))
            }
            _ => Some(line(message.to_vec())),
        }
    }

    /// Takes an asker's answer to a request of the server's.
    pub fn answer(
        &mut self,
        asker: &Asker,
        message: &[u8],
        response: &Response<'_>,
    ) -> Result<Bytes, Refusal> {
        let unknown = || Refusal::Invalid("the server asks nothing under this id".to_owned());
        let call = response.id.as_ref().and_then(number).ok_or_else(unknown)?;
        self.open.get(&call).filter(|open| open.asker == *asker).ok_or_else(unknown)?;
        let open = self.open.remove(&call).ok_or_else(unknown)?;
        Ok(line(edit::response_with_id(message, response, &open.id)))
    }

    /// Nobody waits for the call any more. Returns what goes to the server; about our own calls, nothing: one of them is
    /// the handshake, which must not be cancelled.
    pub fn cancel(&mut self, call: u64) -> Vec<Bytes> {
        let Some(Call { asker: Some(asker), kind, .. }) = self.forget(call) else { return Vec::new() };
        let cancelled = format!(
            r#"{{"jsonrpc":"2.0","method":"{}","params":{{"requestId":{call},"reason":"nobody waits for it"}}}}"#,
            method::CANCELLED
        );
        let mut lines = vec![line(cancelled.into_bytes())];
        if let Kind::Subscribe(uri) = &kind {
            self.topics.leave(&asker, uri);
        }
        lines.extend(self.refuse_open(|open| open.call == call));
        lines
    }

    /// Forgets an asker who will not come back. Returns what goes to the server.
    pub fn end(&mut self, asker: &Asker) -> Vec<Bytes> {
        let mut lines = self.refuse_open(|open| open.asker == *asker);
        for uri in self.topics.leave_all(asker) {
            lines.push(self.own(method::RESOURCES_UNSUBSCRIBE, &topics::params(&uri)).1);
        }
        lines
    }

    /// The server is gone, and with it everything that it was asked and that it asked. Returns the calls that will not
    /// be answered.
    pub fn lost(&mut self) -> Vec<u64> {
        self.open.clear();
        self.under_way.clear();
        let mut calls: Vec<u64> = self.calls.drain().map(|(call, _)| call).collect();
        calls.sort_unstable();
        calls
    }

    /// There is a server again. Returns what makes it know what the last one knew.
    pub fn resume(&mut self) -> Vec<Bytes> {
        let uris = self.topics.all();
        uris.iter().map(|uri| self.own(method::RESOURCES_SUBSCRIBE, &topics::params(uri)).1).collect()
    }

    fn take_id(&mut self) -> u64 {
        let id = self.next;
        self.next += 1;
        id
    }

    fn forget(&mut self, call: u64) -> Option<Call> {
        let found = self.calls.remove(&call)?;
        if let Some(asker) = &found.asker
            && let Some(calls) = self.under_way.get_mut(asker)
        {
            calls.remove(&call);
            if calls.is_empty() {
                self.under_way.remove(asker);
            }
        }
        Some(found)
    }

    /// Tells the server that nobody will answer what it asked.
    fn refuse_open(&mut self, is_meant: impl Fn(&Open) -> bool) -> Vec<Bytes> {
        let mut refused: Vec<(u64, Open)> = self.open.extract_if(|_, open| is_meant(open)).collect();
        refused.sort_unstable_by_key(|(id, _)| *id);
        let gone =
            |open: &Open| edit::error(Some(&open.id), code::INTERNAL_ERROR, "the caller is gone", None);
        refused.iter().map(|(_, open)| line(gone(open))).collect()
    }
}

/// A message as a line. A line break can stand in JSON only between tokens, where a blank does as well.
fn line(mut message: Vec<u8>) -> Bytes {
    let mut from = 0;
    while let Some(at) = memchr::memchr2(b'\n', b'\r', &message[from..]) {
        message[from + at] = b' ';
        from += at + 1;
    }
    message.push(b'\n');
    message.into()
}

/// An answer that says no more than that all is well.
fn nothing(id: &Id<'_>) -> Bytes {
    format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, id.raw()).into()
}

/// An id that may be one of ours.
fn number(id: &Id<'_>) -> Option<u64> {
    id.canonical().parse().ok()
}

fn same(raw: &str, id: &Id<'_>) -> bool {
    raw == id.raw() || Id::parse(raw).as_ref() == Some(id)
}

#[cfg(test)]
mod tests;
