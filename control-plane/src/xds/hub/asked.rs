//! What there is to know of a connected sidecar when it is asked something: that it is there, and what it is to hold.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use weft_proto::name::{NodeId, SpiffeId};
use weft_proto::pb::weft::ask::v1::question::Asks;
use weft_proto::wire::ResourceType;

use super::{Client, Hub, lock};
use crate::ask::{Answers, Error, Whom};

/// A resource that a sidecar is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intended {
    pub ty: ResourceType,
    pub name: Arc<str>,
    pub version: Arc<str>,
}

impl Hub {
    /// Ends when the sidecar is gone; none if it is not connected.
    pub(crate) fn presence(&self, identity: &SpiffeId, node: &NodeId) -> Option<CancellationToken> {
        Some(self.connected(identity, node)?.replaced.child_token())
    }

    /// Everything that a connected sidecar is to hold, by type and name.
    pub fn intended(&self, (identity, node): &Whom) -> Option<Vec<Intended>> {
        let client = self.connected(identity, node)?;
        let world = self.world();
        let served = world.served_by(&client.viewer);
        let of_type = |ty| world.concerning(&client.viewer, &served, ty);
        let all = ResourceType::ALL.into_iter().flat_map(of_type).map(|it| Intended {
            ty: it.ty,
            name: Arc::clone(&it.name),
            version: Arc::clone(&it.version),
        });
        Some(all.collect())
    }

    /// Asks a sidecar.
    pub fn ask(&self, whom: &Whom, asks: Asks) -> Result<Answers, Error> {
        match self.connected(&whom.0, &whom.1) {
            Some(_) => self.lines.ask(whom, asks),
            None => Err(Error::Away),
        }
    }

    fn connected(&self, identity: &SpiffeId, node: &NodeId) -> Option<Arc<Client>> {
        let clients = lock(&self.clients);
        let id = clients.by_node.get(&(identity.clone(), node.clone()))?;
        clients.by_id.get(id).cloned()
    }
}
