//! From scanned bytes to messages.

use std::borrow::Cow;

use super::written::Part;
use super::{Body, Bounds, Error, Fault, Id, Message, Notification, Outcome, Params, Raw, Request, Response};
use super::{scan, span};

/// Reads a body. What it says is what any server would see; see the module.
pub fn parse<'a>(body: &'a [u8], bounds: Bounds) -> Result<Body<'a>, Error> {
    let scanned = scan::scan(body, bounds)?;
    let source = Source { body };
    let whole = scanned.whole().raw;
    let Some(messages) = whole.elements() else { return source.message(scanned.whole()).map(Body::One) };
    if messages.is_empty() {
        return Err(source.refuse(whole, "the batch is empty"));
    }
    if messages.len() > bounds.batch_max {
        return Err(source.refuse(whole, "the batch is too long"));
    }
    // Members are written down of a message that stands alone.
    let message = |raw: Raw<'a>| source.message(scan::scan(raw.get().as_bytes(), bounds)?.whole());
    messages.into_iter().map(message).collect::<Result<_, _>>().map(Body::Batch)
}

/// The bytes that everything borrows from, to say where something stands.
#[derive(Clone, Copy)]
struct Source<'a> {
    body: &'a [u8],
}

impl<'a> Source<'a> {
    fn message(self, whole: Part<'_, 'a>) -> Result<Message<'a>, Error> {
        let raw = whole.raw;
        if !raw.is_object() {
            return Err(self.refuse(raw, "a message is an object"));
        }
        let known = ["jsonrpc", "id", "method", "params", "result", "error"];
        let members = whole.members(&known).map_err(|what| self.refuse(raw, what))?;
        let [version, id, method, params, result, error] = members;
        let version = version.ok_or_else(|| self.refuse(raw, "a message has a `jsonrpc`"))?;
        if version.text().as_deref() != Some("2.0") {
            return Err(self.refuse(version.raw, "`jsonrpc` is not \"2.0\""));
        }
        match (method, result, error) {
            (Some(method), None, None) => self.call(raw, id, method, params),
            (None, Some(result), None) => self.result(raw, id, result.raw),
            (None, None, Some(error)) => self.error(id, error),
            (Some(_), _, _) => Err(self.refuse(raw, "a message has either a `method` or an outcome")),
            (None, Some(_), Some(_)) => Err(self.refuse(raw, "an answer is either a `result` or an `error`")),
            (None, None, None) => Err(self.refuse(raw, "a message has a `method` or an outcome")),
        }
    }

    fn call(
        self,
        raw: Raw<'a>,
        id: Option<Part<'_, 'a>>,
        method: Part<'_, 'a>,
        params: Option<Part<'_, 'a>>,
    ) -> Result<Message<'a>, Error> {
        let method = method.name().ok_or_else(|| self.refuse(method.raw, "`method` is not a name"))?;
        let id = id.map(|id| self.id(id)).transpose()?;
        let params = Params::read(&method, raw, params).map_err(|bad| Error::BadParams {
            at: span(self.body, bad.at).start,
            what: bad.what,
            id: id.as_ref().map(|id| id.raw().into()),
        })?;
        Ok(match id {
            Some(id) => Message::Request(Request { id, method, params }),
            None => Message::Notification(Notification { method, params }),
        })
    }

    fn result(self, raw: Raw<'a>, id: Option<Part<'_, 'a>>, result: Raw<'a>) -> Result<Message<'a>, Error> {
        let id = id.ok_or_else(|| self.refuse(raw, "a result has an `id`"))?;
        if !result.is_object() {
            return Err(self.refuse(result, "`result` is not an object"));
        }
        let id = Some(self.id(id)?);
        Ok(Message::Response(Response { id, outcome: Outcome::Result(result) }))
    }

    fn error(self, id: Option<Part<'_, 'a>>, error: Part<'_, 'a>) -> Result<Message<'a>, Error> {
        let id = id.filter(|id| !id.raw.is_null()).map(|id| self.id(id)).transpose()?;
        let raw = error.raw;
        if !raw.is_object() {
            return Err(self.refuse(raw, "`error` is not an object"));
        }
        let [code, message, data] =
            error.members(&["code", "message", "data"]).map_err(|what| self.refuse(raw, what))?;
        let code = code.and_then(|code| code.raw.get().parse().ok());
        let code = code.ok_or_else(|| self.refuse(raw, "`error.code` is not an integer"))?;
        let message = message.and_then(Part::text);
        let message = message.ok_or_else(|| self.refuse(raw, "`error.message` is not a string"))?;
        let fault = Fault { code, message, data: data.map(|data| data.raw), raw };
        Ok(Message::Response(Response { id, outcome: Outcome::Error(fault) }))
    }

    fn id(self, id: Part<'_, 'a>) -> Result<Id<'a>, Error> {
        Id::from_part(id).ok_or_else(|| self.refuse(id.raw, "`id` is neither a string nor an integer"))
    }

    fn refuse(self, at: Raw<'_>, what: impl Into<Cow<'static, str>>) -> Error {
        Error::NotAMessage { at: span(self.body, at.get()).start, what: what.into() }
    }
}
