//! Servers that are spoken to message by message: what lies between a caller's transport and a server whose own is
//! another.
//!
//! A server is a [`Peer`]. Whatever it speaks over — the pipes of a child, an HTTP connection with a session, an event
//! stream with a message endpoint — a peer takes one request at a time and gives back what comes in answer to it, each
//! message as the bytes of one JSON-RPC object. Messages are always in the peer's own era; translating them is the
//! bridge's business, and so is everything about the caller's transport.

pub mod front;
pub mod http;
pub mod probe;
mod sessions;
pub mod sse_server;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use ::http::HeaderValue;
use bytes::Bytes;
use tokio::sync::{broadcast, mpsc};
use weft_proto::resource::kinds::Era;

use crate::bridge::Abilities;
use crate::refusal::Refusal;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who asks: one session of one caller, or all of a caller's requests that have none and declare the same abilities. Two
/// with the same key are the same.
#[derive(Clone, Debug)]
pub struct Asker {
    /// The caller's identity, as text.
    pub caller: Arc<str>,
    /// The session, where the caller's era has one; unique among all callers.
    pub session: Option<Arc<str>>,
    /// What a server may ask of the caller in turn.
    pub abilities: Abilities,
    /// What a gateway says of the caller, which each request may say anew: it is no part of who asks.
    pub said: Option<HeaderValue>,
}

impl Asker {
    /// This sidecar itself.
    pub fn nobody() -> Self {
        Self { caller: "".into(), session: None, abilities: Abilities::default(), said: None }
    }

    fn key(&self) -> (&Arc<str>, &Option<Arc<str>>, &Abilities) {
        (&self.caller, &self.session, &self.abilities)
    }
}

impl PartialEq for Asker {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Asker {}

impl std::hash::Hash for Asker {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// One request. It is complete and in the peer's era; the id in it is the asker's own, unique among what the asker has
/// under way.
#[derive(Clone, Debug)]
pub struct Ask {
    pub asker: Asker,
    pub message: Bytes,
}

/// What a server says in answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A notification that belongs to the request: progress, a log message.
    Note(Bytes),
    /// A request of the server's own to the asker (sampling, elicitation, roots). The id in it is one that
    /// [`Peer::answer`] understands.
    Request(Bytes),
    /// Nothing, but it is at work: bytes came that are no message, or not yet. Peers that cannot tell do not say it.
    Sign,
    /// The response, under the asker's own id. Always the last.
    Response(Bytes),
}

/// What comes in answer to one request: any number of notes and requests, then the response or a refusal. Dropping it
/// before the end cancels the request at the server, in whatever way the server's era has.
#[derive(Debug)]
pub struct Reply(pub mpsc::Receiver<Result<Said, Refusal>>);

/// What a server says to nobody in particular, or to one session outside of any request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Aside {
    /// A notification: a list changed, a resource was updated, a log message.
    Note(Bytes),
    /// A request of the server's own.
    Request(Bytes),
}

/// What a server says of itself, as it answered to `initialize` or `server/discover`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduction {
    pub era: Era,
    /// The revision spoken with it.
    pub revision: String,
    /// The whole result, as JSON.
    pub result: Bytes,
}

/// A server that is spoken to message by message.
pub trait Peer: Send + Sync + std::fmt::Debug + 'static {
    /// What the server said of itself; waits for it to be ready, within the peer's own limits.
    fn introduction(&self) -> BoxFuture<'_, Result<Arc<Introduction>, Refusal>>;

    /// Sends a request. Returns when the server has it, or cannot have it.
    fn call(&self, ask: Ask) -> BoxFuture<'_, Result<Reply, Refusal>>;

    /// Passes on a notification of an asker. Cancellations go by dropping the [`Reply`] instead.
    fn notify(&self, asker: &Asker, message: Bytes) -> BoxFuture<'_, Result<(), Refusal>>;

    /// Passes on an asker's response to a request of the server's.
    fn answer(&self, asker: &Asker, message: Bytes) -> BoxFuture<'_, Result<(), Refusal>>;

    /// What the server says outside of requests, to this asker or to everyone. Who lags behind misses messages and is
    /// told so by the channel.
    fn asides(&self, asker: &Asker) -> broadcast::Receiver<Aside>;

    /// Everything of a session may be forgotten.
    fn end(&self, asker: &Asker);
}
