//! What is known of each client: for operators, and for whatever must wait until every client has something.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use weft_proto::name::{NodeId, ServerName, SpiffeId};
use weft_proto::wire::ResourceType;

use crate::catalog::Advertised;
use crate::reports::Report;

/// How far a client is with one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// It acknowledged all that it was sent.
    Synced,
    /// Something awaits its answer.
    Waiting,
    /// It refused the last thing it was sent.
    Rejected,
}

impl Sync {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Synced => "synced",
            Self::Waiting => "waiting",
            Self::Rejected => "rejected",
        }
    }
}

/// One type of one client.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TypeStatus {
    pub resources: usize,
    /// Revision of the mesh when something of this type was last sent.
    pub sent_revision: u64,
    pub acknowledged_revision: u64,
    pub sent_at: Option<SystemTime>,
    pub acknowledged_at: Option<SystemTime>,
    pub waiting: usize,
    pub nack: Option<NackStatus>,
}

/// A refusal, until the next acknowledgement.
#[derive(Clone, Debug, PartialEq)]
pub struct NackStatus {
    pub at: SystemTime,
    pub message: String,
}

impl TypeStatus {
    pub const fn sync(&self) -> Sync {
        match (&self.nack, self.waiting) {
            (Some(_), _) => Sync::Rejected,
            (None, 0) => Sync::Synced,
            (None, _) => Sync::Waiting,
        }
    }
}

/// One client, connected or lately gone.
#[derive(Clone, Debug)]
pub struct ClientStatus {
    pub node: NodeId,
    pub identity: SpiffeId,
    pub version: String,
    pub peer: String,
    pub connected: bool,
    pub connected_at: SystemTime,
    pub disconnected_at: Option<SystemTime>,
    pub serves: Vec<ServerName>,
    /// Revision of the mesh that the client was last compared with.
    pub seen_revision: u64,
    /// Newest revision of the mesh that may concern the client.
    pub told_revision: u64,
    pub types: BTreeMap<ResourceType, TypeStatus>,
    pub certificate_serial: String,
    pub certificate_expires: SystemTime,
    /// Fingerprint of the root under which the client's certificate was issued.
    pub certificate_root: String,
    /// Version of the mesh's own trust bundle that it acknowledged last.
    pub trust_bundle: Option<Arc<str>>,
    /// What it said of itself last; none while it is not connected, or does not report.
    pub report: Option<Arc<Report>>,
    /// What its servers advertise, as far as it read that; empty while it is not connected.
    pub tools: BTreeMap<ServerName, Arc<Advertised>>,
}

impl ClientStatus {
    /// The worst of its types; and what it was not compared with yet, it cannot have acknowledged.
    pub fn sync(&self) -> Sync {
        let of = |wanted: Sync| self.types.values().any(|status| status.sync() == wanted);
        match () {
            () if of(Sync::Rejected) => Sync::Rejected,
            () if of(Sync::Waiting) || self.is_behind() => Sync::Waiting,
            () => Sync::Synced,
        }
    }

    /// Of one that is gone only what it acknowledged is known.
    const fn is_behind(&self) -> bool {
        self.connected && self.seen_revision < self.told_revision
    }
}
