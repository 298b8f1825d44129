//! Which quota policies a connected sidecar may ask for leases of: those that select servers it stands beside.

use std::sync::Arc;

use weft_proto::name::{NodeId, ServerName, SpiffeId};
use weft_proto::resource::Resource;
use weft_proto::wire::ResourceType;

use super::{Hub, lock};
use crate::plan::{Lookup, Stances, Viewer};

/// What a sidecar stands beside now.
#[derive(Debug)]
pub(crate) struct Quotas {
    viewer: Viewer,
    served: Vec<ServerName>,
}

impl Hub {
    /// None if the sidecar is not connected.
    pub(crate) fn quotas_of(&self, identity: &SpiffeId, node: &NodeId) -> Option<Quotas> {
        let clients = lock(&self.clients);
        let id = clients.by_node.get(&(identity.clone(), node.clone()))?;
        let mut viewer = clients.by_id.get(id)?.viewer.clone();
        drop(clients);
        // What it sees as one that calls gives it no share.
        viewer.stances = Stances { inbound: viewer.stances.inbound, outbound: false, gateway: false };
        let served = self.world().served_by(&viewer);
        Some(Quotas { viewer, served })
    }

    /// A policy as it is, for the control plane itself.
    pub(crate) fn quota_policy(&self, name: &str) -> Option<Arc<Resource>> {
        self.world().object(ResourceType::QuotaPolicy, name)
    }
}

impl Quotas {
    /// A policy by its name, if it concerns this sidecar.
    pub(crate) fn policy(&self, hub: &Hub, name: &str) -> Option<Arc<Resource>> {
        match hub.world().lookup(&self.viewer, &self.served, ResourceType::QuotaPolicy, name) {
            Lookup::Found(found) => found.object.clone(),
            Lookup::Missing | Lookup::Denied => None,
        }
    }
}
