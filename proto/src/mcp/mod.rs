//! The messages of the Model Context Protocol as a proxy reads them: one bounded parse that finds what decisions need
//! and leaves the bytes alone.
//!
//! What is found is what any server would find: a message that two readers could understand differently is refused,
//! never interpreted. Everything borrowed is a part of the message, so that [`edit`] can replace it and leave every
//! other byte as it was. Not here: transports, and what to do about a message.

use std::borrow::Cow;

pub mod code;
pub mod edit;
pub mod fresh;
pub mod header;
mod id;
pub mod lists;
pub mod method;
mod params;
mod raw;
mod read;
pub mod revision;
mod scan;
mod written;

pub use edit::{span, splice};
pub use id::Id;
pub use params::{Meta, Params};
pub use raw::Raw;
pub(crate) use raw::json_string;
pub use read::parse;
pub use revision::Revision;

/// How much of a message is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Arrays and objects within each other; the message itself is the first.
    pub depth_max: usize,
    /// Messages that may come as one array.
    pub batch_max: usize,
}

/// Why bytes are no message. Places are counted in bytes from the start of what was parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No JSON, or JSON that two readers could understand differently.
    #[error("at byte {at}: {what}")]
    Syntax { at: usize, what: &'static str },
    /// JSON, but no message of JSON-RPC 2.0.
    #[error("at byte {at}: {what}")]
    NotAMessage { at: usize, what: Cow<'static, str> },
    /// A message whose parameters are not those of its method.
    #[error("at byte {at}: {what}")]
    BadParams {
        at: usize,
        what: Cow<'static, str>,
        /// Of the request, as JSON text; none for a notification.
        id: Option<Box<str>>,
    },
}

impl Error {
    /// The code of JSON-RPC that says so.
    pub fn code(&self) -> i64 {
        match self {
            Self::Syntax { .. } => code::PARSE_ERROR,
            Self::NotAMessage { .. } => code::INVALID_REQUEST,
            Self::BadParams { .. } => code::INVALID_PARAMS,
        }
    }

    /// The id to answer with, as JSON text.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::BadParams { id, .. } => id.as_deref(),
            Self::Syntax { .. } | Self::NotAMessage { .. } => None,
        }
    }
}

/// What one body holds.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "the large variant is the usual one")]
pub enum Body<'a> {
    One(Message<'a>),
    /// Never empty. Whether the revision has batches is for the caller to say.
    Batch(Vec<Message<'a>>),
}

/// One message.
#[derive(Clone, Debug)]
pub enum Message<'a> {
    Request(Request<'a>),
    Notification(Notification<'a>),
    Response(Response<'a>),
}

/// What asks for an answer.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub id: Id<'a>,
    pub method: Cow<'a, str>,
    pub params: Params<'a>,
}

/// What asks for none.
#[derive(Clone, Debug)]
pub struct Notification<'a> {
    pub method: Cow<'a, str>,
    pub params: Params<'a>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Response<'a> {
    /// None only with an error about a request whose id could not be read.
    pub id: Option<Id<'a>>,
    pub outcome: Outcome<'a>,
}

/// How a request went.
#[derive(Clone, Debug)]
pub enum Outcome<'a> {
    Result(Raw<'a>),
    Error(Fault<'a>),
}

/// A JSON-RPC error.
#[derive(Clone, Debug)]
pub struct Fault<'a> {
    pub code: i64,
    pub message: Cow<'a, str>,
    pub data: Option<Raw<'a>>,
    /// The whole object.
    pub raw: Raw<'a>,
}

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    Tool(&'a str),
    Prompt(&'a str),
    Resource(&'a str),
    Task(&'a str),
}

impl Request<'_> {
    /// What the request is about; none where the method names nothing or is not known. A request that was parsed and
    /// whose method names something always has it.
    pub fn target(&self) -> Option<Target<'_>> {
        self.params.target(&self.method)
    }

    /// Whether `_meta` has what a request of the modern era must have.
    pub fn require_modern_meta(&self) -> Result<(), Error> {
        let meta = &self.params.meta;
        let missing = match (&meta.protocol_version, &meta.client_capabilities) {
            (None, _) => params::PROTOCOL_VERSION,
            (_, None) => params::CLIENT_CAPABILITIES,
            (Some(_), Some(_)) => return Ok(()),
        };
        let what = format!("`params._meta` lacks `{missing}`").into();
        Err(Error::BadParams { at: 0, what, id: Some(self.id.raw().into()) })
    }
}

impl Message<'_> {
    /// The method of a request or a notification.
    pub fn method(&self) -> Option<&str> {
        match self {
            Self::Request(request) => Some(&request.method),
            Self::Notification(notification) => Some(&notification.method),
            Self::Response(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
