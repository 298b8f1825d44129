//! What a request is: its era, and the message in it. One bounded parse; what was read here is what decisions are made
//! by, and the bytes that were read are the bytes that are forwarded.

use http::{HeaderMap, Method};
use weft_proto::mcp::header::{self, PROTOCOL_VERSION as VERSION};
use weft_proto::mcp::{self, Body, Bounds, Message, Request, Revision, Target};
use weft_proto::resource::kinds::Era;

use crate::limits::Limits;
use crate::metrics::method_index;
use crate::receive::Received;
use crate::refusal::Refusal;

/// The revisions that modern callers are served in.
pub const MODERN: [&str; 1] = ["2026-07-28"];

/// Methods that name a subject and that the modern era has no more.
const LEGACY_ONLY: [&str; 2] = [mcp::method::RESOURCES_SUBSCRIBE, mcp::method::RESOURCES_UNSUBSCRIBE];

/// A request that is not understood, with the id to answer under, where one could be read.
#[derive(Debug)]
pub struct Unclear {
    pub refusal: Refusal,
    pub id: Option<Box<str>>,
}

/// A request that is understood.
#[derive(Debug)]
pub struct Call<'a> {
    pub era: Era,
    pub kind: Kind<'a>,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "the large variant is the usual one")]
pub enum Kind<'a> {
    Message(Message<'a>),
    /// Several messages at once, in the one revision that has them.
    Batch(Vec<Message<'a>>),
    /// A legacy caller listens.
    Listen,
    /// A legacy caller ends its session.
    End,
}

/// Reads what a request says.
pub fn classify<'a>(received: &'a Received, limits: &Limits) -> Result<Call<'a>, Unclear> {
    let headers = &received.head.headers;
    let named = version(headers)?;
    if received.head.method != Method::POST {
        return Ok(without_message(&received.head.method, named)?);
    }
    let bounds = Bounds { depth_max: limits.depth_max, batch_max: limits.batch_max };
    let body = mcp::parse(&received.body, bounds).map_err(|error| unread(error, headers, named))?;
    match body {
        Body::One(message) => {
            let era = era_of(&message, headers, named)?;
            Ok(Call { era, kind: Kind::Message(message) })
        }
        Body::Batch(messages) => {
            check_batch(&messages, named)?;
            Ok(Call { era: Era::Legacy, kind: Kind::Batch(messages) })
        }
    }
}

/// Reads again what was understood before, to be judged anew. Without a message it is a stream that listens.
pub fn again<'a>(body: &'a [u8], era: Era, limits: &Limits) -> Result<Call<'a>, Refusal> {
    if body.is_empty() {
        return Ok(Call { era, kind: Kind::Listen });
    }
    let bounds = Bounds { depth_max: limits.depth_max, batch_max: limits.batch_max };
    let kind = match mcp::parse(body, bounds).map_err(|error| Unclear::from(error).refusal)? {
        Body::One(message) => Kind::Message(message),
        Body::Batch(messages) => Kind::Batch(messages),
    };
    Ok(Call { era, kind })
}

/// A method that the modern era lacks is not there, whatever its parameters are.
fn unread(error: mcp::Error, headers: &HeaderMap, named: Option<&str>) -> Unclear {
    let method = headers.get(header::METHOD).and_then(|value| value.to_str().ok());
    match (&error, method) {
        (mcp::Error::BadParams { .. }, Some(method))
            if named.is_some_and(is_modern) && LEGACY_ONLY.contains(&method) =>
        {
            let id = error.id().map(Into::into);
            Unclear { refusal: Refusal::MethodNotFound(method.to_owned()), id }
        }
        _ => error.into(),
    }
}

fn era_of(message: &Message<'_>, headers: &HeaderMap, named: Option<&str>) -> Result<Era, Unclear> {
    let modern = named.is_some_and(is_modern);
    match message {
        Message::Request(request) if modern || request.params.meta.protocol_version.is_some() => {
            let unclear = |refusal| Unclear { refusal, id: Some(request.id.raw().into()) };
            check_modern(headers, request).map_err(unclear)?;
            Ok(Era::Modern)
        }
        Message::Response(_) if modern => {
            Err(Refusal::Invalid("this revision has no responses of callers".to_owned()).into())
        }
        Message::Notification(_) if modern => Ok(Era::Modern),
        Message::Request(_) | Message::Notification(_) | Message::Response(_) => Ok(Era::Legacy),
    }
}

/// The revision that the headers name, exactly once if at all.
fn version(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(VERSION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::HeaderMismatch(format!("there are several {VERSION} headers")));
    }
    let text = value.to_str().map_err(|_| Refusal::HeaderMismatch(format!("{VERSION} is no text")))?;
    Ok(Some(text.trim_matches([' ', '\t'])))
}

/// Revisions are dates, so that later ones, known or not, are told by their order.
fn is_modern(version: &str) -> bool {
    Revision::parse(version).map_or_else(
        || version.len() == 10 && version.as_bytes()[4] == b'-' && version > MODERN[0],
        |revision| revision.era() == Era::Modern,
    )
}

fn without_message(method: &Method, named: Option<&str>) -> Result<Call<'static>, Refusal> {
    if named.is_some_and(is_modern) {
        return Err(Refusal::HttpMethod { allow: "POST" });
    }
    let kind = if *method == Method::GET { Kind::Listen } else { Kind::End };
    Ok(Call { era: Era::Legacy, kind })
}

fn check_batch(messages: &[Message<'_>], named: Option<&str>) -> Result<(), Refusal> {
    // A caller that names no revision is taken for one of the first that has this transport.
    let batches = named.is_none_or(|version| Revision::parse(version) == Some(Revision::V2025_03_26));
    if !batches {
        return Err(Refusal::Invalid("this revision has no batches".to_owned()));
    }
    for message in messages {
        if let Message::Request(request) = message {
            if request.method == "initialize" {
                return Err(Refusal::Invalid("initialize stands in no batch".to_owned()));
            }
            if request.params.meta.protocol_version.is_some() {
                return Err(Refusal::Invalid("this revision has no batches".to_owned()));
            }
        }
    }
    Ok(())
}

/// What a modern request must say in its headers and its `_meta`, and that both say the same.
fn check_modern(headers: &HeaderMap, request: &Request<'_>) -> Result<(), Refusal> {
    let meta = &request.params.meta;
    let Some(asked) = meta.protocol_version.as_deref() else {
        return Err(Refusal::BadMeta("_meta has no io.modelcontextprotocol/protocolVersion".to_owned()));
    };
    header::agree(headers, request).map_err(|mismatch| Refusal::HeaderMismatch(mismatch.to_string()))?;
    if meta.client_capabilities.is_none() {
        return Err(Refusal::BadMeta("_meta has no io.modelcontextprotocol/clientCapabilities".to_owned()));
    }
    if !MODERN.contains(&asked) {
        return Err(Refusal::UnsupportedVersion { requested: asked.to_owned(), supported: MODERN.to_vec() });
    }
    Ok(())
}

impl<'a> Call<'a> {
    /// The messages, if any.
    pub fn messages(&self) -> &[Message<'a>] {
        match &self.kind {
            Kind::Message(message) => std::slice::from_ref(message),
            Kind::Batch(messages) => messages,
            Kind::Listen | Kind::End => &[],
        }
    }

    /// The one request, if it is one.
    pub const fn request(&self) -> Option<&Request<'a>> {
        match &self.kind {
            Kind::Message(Message::Request(request)) => Some(request),
            _ => None,
        }
    }

    /// What the call is counted under.
    pub fn method(&self) -> usize {
        match &self.kind {
            Kind::Message(message) => method_index(message.method().unwrap_or("response")),
            Kind::Batch(_) => method_index("batch"),
            Kind::Listen => method_index("GET"),
            Kind::End => method_index("DELETE"),
        }
    }

    /// Whether the answer is a stream that only listens, which may last for ever.
    pub fn listens(&self) -> bool {
        matches!(self.kind, Kind::Listen)
            || self.request().is_some_and(|request| request.method == "subscriptions/listen")
    }

    /// Handshakes and what only listens takes no place among the calls under way: a handshake that is turned away makes
    /// callers fall back to another era.
    pub fn is_exempt(&self) -> bool {
        let takes_a_place = |message: &Message<'_>| match message {
            Message::Request(request) => !matches!(
                &*request.method,
                "initialize" | "server/discover" | "ping" | "subscriptions/listen"
            ),
            Message::Notification(_) | Message::Response(_) => false,
        };
        !self.messages().iter().any(takes_a_place)
    }

    /// The name that the request acts on.
    pub fn target(&self) -> Option<String> {
        let target = self.request()?.target()?;
        Some(match target {
            Target::Tool(name) | Target::Prompt(name) | Target::Resource(name) | Target::Task(name) => {
                name.to_owned()
            }
        })
    }
}

impl From<Refusal> for Unclear {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, id: None }
    }
}

impl From<mcp::Error> for Unclear {
    fn from(error: mcp::Error) -> Self {
        let text = error.to_string();
        let id = error.id().map(Into::into);
        let refusal = match error {
            mcp::Error::Syntax { .. } => Refusal::Parse(text),
            mcp::Error::NotAMessage { .. } => Refusal::Invalid(text),
            mcp::Error::BadParams { .. } => Refusal::BadMeta(text),
        };
        Self { refusal, id }
    }
}
