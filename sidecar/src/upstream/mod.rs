//! Connections to servers: one [`Pool`] for each destination, on hyper's own connections.
//!
//! A request that fails says exactly whether any byte of it may have left, because that decides who may send it again.
//! Dropping a response closes its connection or stream at once: that is how a cancellation reaches the server. Not
//! here: which destination a request goes to, and how long its answer may take.

mod body;
mod connect;
mod destination;
mod lease;
mod pool;
mod state;

pub use body::UpstreamBody;
pub use connect::Error as ConnectError;
pub use destination::{Address, Destination};
pub use pool::{Pool, Settings, Stats};

use std::error::Error as _;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use crate::external::CredentialsError;
use crate::refusal::Refusal;

/// A request to a server. Bodies are bounded and complete before anything is sent. It is shared: whoever may have to send
/// it again keeps it without a copy, and what leaves by HTTP/2 is a copy anyway.
pub type Outgoing = Arc<Request<Full<Bytes>>>;

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The server has seen nothing of the request, or said that it did nothing with it: it can be sent again, here or
    /// elsewhere.
    #[error("nothing was sent: {why}")]
    NeverSent { request: Outgoing, why: Unsent },
    /// The server may have the request and may have done what it asks.
    #[error("the connection broke before an answer came: {}", in_full(.0))]
    MaybeSent(hyper::Error),
}

impl SendError {
    /// What whoever asked is told, and the log.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::NeverSent { why: Unsent::Credentials(why), .. } if why.is_of_caller() => {
                Refusal::NotExchanged(why.to_string())
            }
            Self::NeverSent { why, .. } => Refusal::UpstreamUnreachable(why.to_string()),
            Self::MaybeSent(error) => Refusal::UpstreamBroke(in_full(error)),
        }
    }
}

/// The error with its causes, which it does not tell by itself.
fn in_full(error: &hyper::Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Why a request never left.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unsent {
    #[error(transparent)]
    Connect(#[from] Arc<ConnectError>),
    #[error("all connections are in use and {waiting} requests wait for one")]
    Full { waiting: usize },
    #[error("there are no credentials: {0}")]
    Credentials(Arc<CredentialsError>),
    #[error("the connection was closed before the request was written")]
    Closed,
    #[error("the server refused the request before it looked at it")]
    Refused,
    #[error("the destination is no longer in use")]
    Retired,
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
