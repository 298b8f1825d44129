//! From scanned bytes to messages.

use std::borrow::Cow;

use super::{Body, Bounds, Error, Fault, Id, Message, Notification, Outcome, Params, Raw, Request, Response};
use super::{scan, span};

/// Reads a body. What it says is what any server would see; see the module.
pub fn parse(body: &[u8], bounds: Bounds) -> Result<Body<'_>, Error> {
    let whole = scan::scan(body, bounds)?;
    let source = Source { body };
    let Some(messages) = whole.elements() else { return source.message(whole).map(Body::One) };
    if messages.is_empty() {
        return Err(source.refuse(whole, "the batch is empty"));
    }
    if messages.len() > bounds.batch_max {
        return Err(source.refuse(whole, "the batch is too long"));
    }
    let messages = messages.into_iter().map(|it| source.message(it)).collect::<Result<_, _>>()?;
    Ok(Body::Batch(messages))
}

/// The bytes that everything borrows from, to say where something stands.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    body: &'a [u8],
}

impl<'a> Source<'a> {
    fn message(self, raw: Raw<'a>) -> Result<Message<'a>, Error> {
        if !raw.is_object() {
            return Err(self.refuse(raw, "a message is an object"));
        }
        let known = ["jsonrpc", "id", "method", "params", "result", "error"];
        let members = raw.members(&known).map_err(|what| self.refuse(raw, what))?;
        let [version, id, method, params, result, error] = members;
        let version = version.ok_or_else(|| self.refuse(raw, "a message has a `jsonrpc`"))?;
        if version.text().as_deref() != Some("2.0") {
            return Err(self.refuse(version, "`jsonrpc` is not \"2.0\""));
        }
        match (method, result, error) {
            (Some(method), None, None) => self.call(raw, id, method, params),
            (None, Some(result), None) => self.result(raw, id, result),
            (None, None, Some(error)) => self.error(id, error),
            (Some(_), _, _) => Err(self.refuse(raw, "a message has either a `method` or an outcome")),
            (None, Some(_), Some(_)) => Err(self.refuse(raw, "an answer is either a `result` or an `error`")),
            (None, None, None) => Err(self.refuse(raw, "a message has a `method` or an outcome")),
        }
    }

    fn call(
        self,
        raw: Raw<'a>,
        id: Option<Raw<'a>>,
        method: Raw<'a>,
        params: Option<Raw<'a>>,
    ) -> Result<Message<'a>, Error> {
        let method = self.name(method).ok_or_else(|| self.refuse(method, "`method` is not a name"))?;
        let id = id.map(|id| self.id(id)).transpose()?;
        let params = Params::read(self, &method, raw, params).map_err(|bad| Error::BadParams {
            at: span(self.body, bad.at).start,
            what: bad.what,
            id: id.as_ref().map(|id| id.raw().into()),
        })?;
        Ok(match id {
            Some(id) => Message::Request(Request { id, method, params }),
            None => Message::Notification(Notification { method, params }),
        })
    }

    fn result(self, raw: Raw<'a>, id: Option<Raw<'a>>, result: Raw<'a>) -> Result<Message<'a>, Error> {
        let id = id.ok_or_else(|| self.refuse(raw, "a result has an `id`"))?;
        if !result.is_object() {
            return Err(self.refuse(result, "`result` is not an object"));
        }
        let id = Some(self.id(id)?);
        Ok(Message::Response(Response { id, outcome: Outcome::Result(result) }))
    }

    fn error(self, id: Option<Raw<'a>>, error: Raw<'a>) -> Result<Message<'a>, Error> {
        let id = id.filter(|id| !id.is_null()).map(|id| self.id(id)).transpose()?;
        if !error.is_object() {
            return Err(self.refuse(error, "`error` is not an object"));
        }
        let [code, message, data] =
            error.members(&["code", "message", "data"]).map_err(|what| self.refuse(error, what))?;
        let code = code.and_then(|code| code.get().parse().ok());
        let code = code.ok_or_else(|| self.refuse(error, "`error.code` is not an integer"))?;
        let message = message.and_then(Raw::text);
        let message = message.ok_or_else(|| self.refuse(error, "`error.message` is not a string"))?;
        let fault = Fault { code, message, data, raw: error };
        Ok(Message::Response(Response { id, outcome: Outcome::Error(fault) }))
    }

    fn id(self, raw: Raw<'a>) -> Result<Id<'a>, Error> {
        Id::from_raw(raw).ok_or_else(|| self.refuse(raw, "`id` is neither a string nor an integer"))
    }

    /// A string that something is decided by. NUL ends a string for some readers.
    pub(super) fn name(self, raw: Raw<'a>) -> Option<Cow<'a, str>> {
        raw.text().filter(|text| !text.contains('\0'))
    }

    fn refuse(self, at: Raw<'_>, what: impl Into<Cow<'static, str>>) -> Error {
        Error::NotAMessage { at: span(self.body, at.get()).start, what: what.into() }
    }
}
