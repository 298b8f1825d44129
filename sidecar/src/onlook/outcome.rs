//! What became of a call, in one of four words, and which sidecar's word counts.

use std::collections::HashMap;

use crate::metrics::METHODS;
use crate::record::Event;
use crate::refusal::Refusal;

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    /// Not let through: by policy, by a limit, or because it is no good request.
    Refused,
    /// Let through, and not answered properly.
    Failed,
    /// The caller did not wait for the answer.
    Left,
}

impl Outcome {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Answered => "ok",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Left => "left",
        }
    }
}

/// The outcome of each reason.
#[derive(Debug)]
pub struct Outcomes(HashMap<&'static str, u16>);

impl Default for Outcomes {
    fn default() -> Self {
        let told = Refusal::every().into_iter().map(|refusal| refusal.told());
        Self(told.map(|told| (told.reason, told.status)).collect())
    }
}

impl Outcomes {
    pub fn of(&self, reason: &str) -> Outcome {
        match (reason, self.0.get(reason)) {
            ("ok", _) => Outcome::Answered,
            ("caller_left", _) => Outcome::Left,
            (_, Some(400..500)) => Outcome::Refused,
            _ => Outcome::Failed,
        }
    }
}

/// Whether it is to be counted: once, although two sidecars record it, and handshakes and notifications only where they
/// went wrong.
pub fn is_counted(event: &Event) -> bool {
    let went_well = matches!(event.reason, "ok" | "caller_left");
    is_counted_here(event) && (!went_well || is_call(event))
}

/// Each call is recorded twice, by the agent's sidecar and by the server's. The server's counts; the agent's only where
/// it was as far as the call came.
fn is_counted_here(event: &Event) -> bool {
    let relayed = matches!(event.reason, "ok" | "caller_left" | "client_error" | "server_error");
    event.listener == "inbound" || !relayed
}

/// Whether somebody wanted something of the server, rather than a connection with it.
fn is_call(event: &Event) -> bool {
    let method = METHODS[event.method];
    let is_about_the_connection = method.starts_with("notifications/")
        || matches!(
            method,
            "none" | "initialize" | "server/discover" | "ping" | "response" | "GET" | "DELETE"
        );
    !event.listens && !is_about_the_connection
}
