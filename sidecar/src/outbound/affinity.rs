//! Requests that belong to an instance: those of a session to the one that opened it, those of a task or a name to the
//! same one as long as that is there.
//!
//! Of sessions nothing is remembered. A session's id says where it was opened, and so does the address for messages that a server
//! of the revision 2024-11-05 names.

use weft_proto::name::ServerName;

use super::Outbound;
use crate::refusal::Refusal;
use crate::session_id::{Tag, Whence};

/// Where a request belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity<'a> {
    Any,
    /// To the same instance as every other request with this text, preferably.
    Key(&'a str),
    /// To this one and no other.
    Instance(Tag),
    /// To this one as long as it is there and well; else as by the text, if there is one.
    Rather(Tag, Option<&'a str>),
    /// To the one where the call waits that this goes on with, as long as it is there.
    Waits(Whence),
}

impl Affinity<'_> {
    pub(super) const fn is_bound(self) -> bool {
        matches!(self, Self::Instance(_))
    }
}

impl Outbound {
    /// The id of a session as its client is given it.
    pub fn stick(&self, server: &ServerName, instance: Tag, id: &str) -> Result<String, Refusal> {
        let stuck = self.config.key.stick(&server.to_string(), instance, id);
        stuck.ok_or_else(|| {
            Refusal::UpstreamBroke("the session id is not visible ASCII, or too long".to_owned())
        })
    }

    /// Where a session belongs, and its id as the server gave it.
    pub fn unstick<'a>(&self, server: &ServerName, text: &'a str) -> Result<(Tag, &'a str), Refusal> {
        self.config.key.unstick(&server.to_string(), text).ok_or(Refusal::SessionUnknown)
    }

    /// The address for messages as its client is given it, for the query of another.
    pub fn stick_in_query(&self, server: &ServerName, instance: Tag, uri: &str) -> Result<String, Refusal> {
        let stuck = self.config.key.stick_in_query(&server.to_string(), instance, uri);
        stuck.ok_or_else(|| Refusal::UpstreamBroke("the address for messages is too long".to_owned()))
    }

    pub fn unstick_in_query(&self, server: &ServerName, text: &str) -> Result<(Tag, String), Refusal> {
        self.config.key.unstick_in_query(&server.to_string(), text).ok_or(Refusal::SessionUnknown)
    }
}
