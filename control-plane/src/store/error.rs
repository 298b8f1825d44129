//! What can go wrong, by whose fault it is and what can be done about it.

use std::sync::Arc;

use super::limits::Violation;
use super::types::{Expect, Key, LeaseId, Prefix, Revision};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a store did not do what it was asked to. Clonable, since one failed write answers everyone who took part in it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else was faster: read anew, then decide anew.
    #[error("{key} was expected to be {expected}, but is {}", whereabouts(*found))]
    Conflict { key: Key, expected: Expect, found: Option<Revision> },
    /// Somebody else was faster, somewhere under the guarded prefix.
    #[error("{prefix} changed in revision {found}, after revision {since}")]
    Moved { prefix: Prefix, since: Revision, found: Revision },

    /// The request breaks a limit, and always will.
    #[error(transparent)]
    Invalid(#[from] Violation),
    /// The past that was asked for has been compacted away.
    #[error("history before revision {oldest} has been compacted")]
    Compacted { oldest: Revision },
    /// The revision that was asked for has not been made.
    #[error("the newest revision is {head}")]
    Future { head: Revision },
    /// The lease lapsed, was revoked, or never was.
    #[error("there is no lease {lease}")]
    NoLease { lease: LeaseId },

    /// The store is a copy that follows another, which is the one to write to.
    #[error("the store follows another control plane's, and takes nothing but what that one wrote")]
    Follows,
    /// The store leads, and is nobody's copy.
    #[error("the store leads, and takes nothing from another")]
    Leads,
    /// What was to be copied does not come next.
    #[error("what was to be copied does not follow revision {head}")]
    OutOfOrder { head: Revision },
    /// There is no room. Nothing was written, and the store works again when there is.
    #[error("no room is left to write to the store")]
    Full,
    /// The engine failed. Of a write it is unknown whether it will be there after a restart.
    #[error("the store failed")]
    Failed(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// An earlier write failed in a way that leaves the engine's state in doubt. Nothing was written, and nothing will
    /// be until the store is opened anew; reading goes on.
    #[error("the store takes no more writes since one failed: {cause}")]
    ReadOnly { cause: Arc<str> },
    /// The store was closed. Of a write under way it is unknown whether it was made.
    #[error("the store is closed")]
    Closed,
}

fn whereabouts(revision: Option<Revision>) -> String {
    match revision {
        Some(revision) => format!("at revision {revision}"),
        None => "absent".to_owned(),
    }
}
