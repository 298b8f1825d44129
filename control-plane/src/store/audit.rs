//! The audit trail: who asked for what, from where, and what came of it. Records are appended and read, never changed.

use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::types::Revision;

/// What is worth remembering about one act.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The identity that acted.
    pub who: String,
    /// The peer's address, if it came over a network.
    pub from: Option<SocketAddr>,
    /// What it did or wanted to do, in one word.
    pub action: String,
    /// What it did it to.
    pub object: String,
    pub outcome: Outcome,
    /// Why it did it, or why it was refused.
    pub reason: String,
    /// Anything else that belongs to it.
    pub details: Value,
}

impl Record {
    pub fn new(
        who: impl Into<String>,
        action: impl Into<String>,
        object: impl Into<String>,
        outcome: Outcome,
    ) -> Self {
        Self {
            who: who.into(),
            from: None,
            action: action.into(),
            object: object.into(),
            outcome,
            reason: String::new(),
            details: Value::Null,
        }
    }
}

/// What came of an act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was not allowed, or not valid.
    Refused,
    /// It was allowed, but did not succeed.
    Failed,
}

impl Outcome {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    pub(crate) fn find(name: &str) -> Option<Self> {
        [Self::Done, Self::Refused, Self::Failed].into_iter().find(|outcome| outcome.name() == name)
    }
}

/// A record in its place in the trail.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// 1, 2, 3, … in the order of appending.
    pub sequence: u64,
    pub at: Timestamp,
    /// The revision that the act made, if it made one.
    pub revision: Option<Revision>,
    #[serde(flatten)]
    pub record: Record,
}

/// Which records are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Only those of this identity.
    pub who: Option<String>,
    /// Only those from this time on.
    pub since: Option<Timestamp>,
    /// Only those before this time.
    pub until: Option<Timestamp>,
    /// Only those with a smaller sequence number: for the next page, that of the last record of this one.
    pub before: Option<u64>,
    /// At most this many, and never more than [`super::limits::PAGE_ENTRIES_MAX`].
    pub limit: usize,
}

impl Default for Filter {
    fn default() -> Self {
        Self { who: None, since: None, until: None, before: None, limit: super::limits::PAGE_ENTRIES_MAX }
    }
}
