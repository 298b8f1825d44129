//! What a server wants to know of a caller before it answers: requests of its own in the legacy era, a result that asks
//! for input in the modern one.

use std::fmt::Write as _;

use bytes::Bytes;
use serde_json::value::RawValue;
use weft_proto::mcp::{self, Bounds, Fault, Message, Request, code, edit, method, splice};

use crate::refusal::Refusal;

use super::object::Object;
use super::tasks::RELATED;

/// Most things that are asked for at once.
pub const WISHES_MAX: usize = 16;

/// Longest name under which something is asked for, in bytes.
const KEY_BYTES_MAX: usize = 256;

/// One thing that a server asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub method: String,
    /// As JSON.
    pub params: Option<String>,
}

impl Wish {
    /// As a request to a caller of the legacy era. The id is JSON.
    pub fn asked(&self, id: &str) -> Bytes {
        let Self { method, params } = self;
        let params = params.as_ref().map_or_else(String::new, |params| format!(",\"params\":{params}"));
        let method = serde_json::Value::from(method.as_str());
        format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":{method}{params}}}").into()
    }

    /// The same with what the legacy era wants to know of an address besides: a name for the matter.
    #[must_use]
    pub fn in_legacy(self, id: &str) -> Self {
        let named = |params: &str| {
            let raw: &RawValue = serde_json::from_str(params).ok()?;
            let object = Object::parse(raw)?;
            let by_address = object.value("mode").is_some_and(|mode| mode.get() == "\"url\"");
            (by_address && object.value("elicitationId").is_none()).then(|| {
                let edits = object.edits(params.as_bytes(), &[], &[("elicitationId", id)]);
                String::from_utf8(splice(params.as_bytes(), edits)).expect("a member was put into a text")
            })
        };
        match (&*self.method, self.params.as_deref()) {
            (method::ELICITATION_CREATE, Some(params)) => match named(params) {
                Some(params) => Self { params: Some(params), ..self },
                None => self,
            },
            _ => self,
        }
    }
}

/// A request of a legacy server's that waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// As the server has it, as JSON.
    id: String,
    pub wish: Wish,
}

impl Question {
    /// None for what is no request.
    pub fn read(message: &[u8], bounds: Bounds) -> Option<Self> {
        let Ok(mcp::Body::One(Message::Request(request))) = mcp::parse(message, bounds) else { return None };
        let params = request.params.raw.map(|params| params.get().to_owned());
        let wish = Wish { method: request.method.into_owned(), params };
        Some(Self { id: request.id.raw().to_owned(), wish })
    }

    /// The same without saying which task of its server's it belongs to, for whoever knows that by another name.
    #[must_use]
    pub fn without_task(mut self) -> Self {
        let Some(params) = self.wish.params.as_deref() else { return self };
        let raw = serde_json::from_str::<&RawValue>(params).ok();
        let Some(object) = raw.and_then(Object::parse) else { return self };
        let edits = match object.object("_meta") {
            Some(own) if own.has_only(&[RELATED]) => object.edits(params.as_bytes(), &["_meta"], &[]),
            Some(own) => own.edits(params.as_bytes(), &[RELATED], &[]),
            None => return self,
        };
        let params = String::from_utf8(splice(params.as_bytes(), edits));
        self.wish.params = Some(params.expect("whole members were cut from a text"));
        self
    }

    /// How much of it is kept for as long as it waits.
    pub fn bytes(&self) -> usize {
        self.wish.params.as_ref().map_or(0, String::len)
    }

    /// The answer, which is JSON.
    pub fn answered(&self, result: &RawValue) -> Bytes {
        edit::result(&self.id, result).into()
    }

    /// The answer where nobody gives one. Of the three things that can be asked for, one has a word for it.
    pub fn given_up(&self) -> Bytes {
        match &*self.wish.method {
            method::ELICITATION_CREATE => {
                let cancelled = serde_json::from_str(r#"{"action":"cancel"}"#).expect("this is JSON");
                self.answered(cancelled)
            }
            _ => {
                let why = "the caller gave no answer";
                edit::error(Some(&self.id), code::INTERNAL_ERROR, why, None).into()
            }
        }
    }
}

/// The response that asks a caller of the modern era for something, each under its name. The id and the information
/// about the server are JSON; the state is any text.
pub fn asking<'a>(
    id: &str,
    wishes: impl Iterator<Item = (&'a str, &'a Wish)>,
    state: Option<&str>,
    server_info: &str,
) -> Bytes {
    let requests = requests(wishes);
    let state = state.map(|state| format!(",\"requestState\":{}", serde_json::Value::from(state)));
    let state = state.unwrap_or_default();
    let info = super::meta::SERVER_INFO;
    format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"resultType\":\"input_required\",\
         \"inputRequests\":{{{requests}}}{state},\"_meta\":{{\"{info}\":{server_info}}}}}}}"
    )
    .into()
}

/// What is asked for, each under its name, as the members of an object.
pub(super) fn requests<'a>(wishes: impl Iterator<Item = (&'a str, &'a Wish)>) -> String {
    let mut requests = String::new();
    for (key, Wish { method, params }) in wishes {
        let comma = if requests.is_empty() { "" } else { "," };
        let (key, method) = (serde_json::Value::from(key), serde_json::Value::from(method.as_str()));
        _ = write!(requests, "{comma}{key}:{{\"method\":{method}");
        if let Some(params) = params {
            _ = write!(requests, ",\"params\":{params}");
        }
        requests.push('}');
    }
    requests
}

/// What a legacy server says that a caller has to do elsewhere before it calls again.
pub fn elsewhere(fault: &Fault<'_>) -> Option<Vec<Wish>> {
    let data = Object::parse(fault.data?)?;
    let wanted: Vec<&RawValue> = serde_json::from_str(data.value("elicitations")?.get()).ok()?;
    let wish = |params: &&RawValue| Wish {
        method: method::ELICITATION_CREATE.to_owned(),
        params: Some(params.get().to_owned()),
    };
    let is_some =
        (1..=WISHES_MAX).contains(&wanted.len()) && wanted.iter().all(|it| Object::parse(*it).is_some());
    is_some.then(|| wanted.iter().map(wish).collect())
}

/// What a modern server asks for before it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// By the names that the server gave.
    pub wishes: Vec<(String, Wish)>,
    /// What is to be given back as it is, as JSON.
    pub state: Option<String>,
}

impl Needs {
    /// Of a result that asks for input.
    pub(super) fn read(result: &Object<'_>) -> Result<Self, Refusal> {
        let wishes = result.value("inputRequests").map(wishes).transpose()?.unwrap_or_default();
        let state = result.value("requestState").filter(|it| it.get() != "null");
        let state = state.map(|state| state.get().to_owned());
        if wishes.is_empty() && state.is_none() {
            return Err(broken("it asks for nothing"));
        }
        Ok(Self { wishes, state })
    }

    /// The request once again, under another id, with what was asked for. The id and the answers are JSON.
    pub fn met(
        &self,
        message: &[u8],
        request: &Request<'_>,
        id: &str,
        answers: &[(String, String)],
    ) -> Option<Bytes> {
        let params = Object::parse(request.params.raw?)?;
        let mut members = Vec::new();
        let texts: Vec<_> = answers
            .iter()
            .map(|(key, it)| format!("{}:{it}", serde_json::Value::from(key.as_str())))
            .collect();
        let answers = format!("{{{}}}", texts.join(","));
        if !self.wishes.is_empty() {
            members.push(("inputResponses", answers.as_str()));
        }
        members.extend(self.state.as_ref().map(|state| ("requestState", state.as_str())));
        let mut edits = params.edits(message, &["inputResponses", "requestState"], &members);
        edits.push((mcp::span(message, request.id.raw()), id.as_bytes().to_vec()));
        Some(splice(message, edits).into())
    }
}

/// What a modern server asks for, each under its name.
pub(super) fn wishes(requests: &RawValue) -> Result<Vec<(String, Wish)>, Refusal> {
    let requests = Object::parse(requests).ok_or_else(|| broken("`inputRequests` is no object"))?;
    let mut wishes = Vec::new();
    for (key, request) in requests.members() {
        let request = Object::parse(request).ok_or_else(|| broken("a request is no object"))?;
        let method = request.value("method").and_then(|it| serde_json::from_str(it.get()).ok());
        let method = method.ok_or_else(|| broken("a request has no method"))?;
        let params = request.value("params").map(|params| params.get().to_owned());
        if key.len() > KEY_BYTES_MAX || wishes.len() == WISHES_MAX {
            return Err(broken("it is too much"));
        }
        wishes.push((key.to_owned(), Wish { method, params }));
    }
    Ok(wishes)
}

fn broken(what: &str) -> Refusal {
    Refusal::UpstreamBroke(format!("a result that asks for input: {what}"))
}

/// The answers in a request that gives them, each under its name, as JSON.
pub(crate) fn given<'a>(request: &'a Request<'_>) -> Option<Object<'a>> {
    request.params.input_responses.and_then(Object::parse)
}
