//! What the mesh reports: which instances of each server there are.

use std::collections::{BTreeMap, HashMap};

use weft_proto::name::{HostPort, NodeId, ServerName, SpiffeId};
use weft_proto::resource::bounded::Text;

/// Something that was seen.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// A sidecar serves these servers at this address.
    Present { instance: Instance, servers: Vec<ServerName> },
    /// A sidecar has been gone for longer than a restart takes.
    Gone { node: NodeId },
}

/// A sidecar that takes calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    pub node: NodeId,
    pub address: HostPort,
    pub identity: SpiffeId,
    /// Where it stands, as `region/zone`, if it says so.
    pub locality: Option<Text<128>>,
}

/// Instances by server and by node.
#[derive(Debug, Default)]
pub(super) struct Observed {
    by_server: HashMap<ServerName, BTreeMap<NodeId, Instance>>,
    by_node: HashMap<NodeId, Vec<ServerName>>,
}

impl Observed {
    /// Takes an observation in and returns the servers whose instances it changed.
    pub(super) fn take(&mut self, observation: Observation) -> Vec<ServerName> {
        let (node, present) = match observation {
            Observation::Present { instance, servers } => (instance.node.clone(), Some((instance, servers))),
            Observation::Gone { node } => (node, None),
        };
        let before = self.by_node.remove(&node).unwrap_or_default();
        let (instance, now) = present.map_or((None, Vec::new()), |(instance, now)| (Some(instance), now));
        let mut changed = Vec::new();
        for server in before.iter().filter(|server| !now.contains(server)) {
            if let Some(instances) = self.by_server.get_mut(server) {
                instances.remove(&node);
                if instances.is_empty() {
                    self.by_server.remove(server);
                }
            }
            changed.push(server.clone());
        }
        if let Some(instance) = instance {
            for server in &now {
                let instances = self.by_server.entry(server.clone()).or_default();
                if instances.get(&node) != Some(&instance) {
                    instances.insert(node.clone(), instance.clone());
                    changed.push(server.clone());
                }
            }
            if !now.is_empty() {
                self.by_node.insert(node, now);
            }
        }
        changed
    }

    pub(super) fn of(&self, server: &ServerName) -> impl Iterator<Item = &Instance> {
        self.by_server.get(server).into_iter().flat_map(BTreeMap::values)
    }
}
