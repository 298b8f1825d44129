//! Whom a sidecar is, as far as it decides what the sidecar is told.

use std::collections::BTreeMap;

use weft_proto::name::{NodeId, ServerName, Workload};

/// A connected sidecar. The identity is proved; the rest is what it says of itself, which can only choose among what the
/// identity allows.
#[derive(Clone, Debug, PartialEq)]
pub struct Viewer {
    pub identity: Workload,
    pub node: NodeId,
    pub labels: BTreeMap<String, String>,
    /// Servers of its own namespace that it says it stands beside, for servers that are not found by labels.
    pub claims: Vec<ServerName>,
    pub stances: Stances,
}

/// What a sidecar does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stances {
    /// Takes calls for a local server.
    pub inbound: bool,
    /// Makes calls for a local agent.
    pub outbound: bool,
    /// Makes calls for clients from outside.
    pub gateway: bool,
}

impl Stances {
    /// Whether it needs to know other servers.
    pub const fn calls(self) -> bool {
        self.outbound || self.gateway
    }
}

impl Default for Stances {
    fn default() -> Self {
        Self { inbound: true, outbound: false, gateway: false }
    }
}
