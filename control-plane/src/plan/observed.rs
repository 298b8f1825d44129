//! What the mesh reports: which instances of each server there are.

use std::collections::{BTreeMap, HashMap};

use weft_proto::name::{HostPort, NodeId, ServerName, SpiffeId};
use weft_proto::resource::bounded::Text;

/// Something that was seen of one sidecar, by one of its streams. Streams are numbered; what an older one says after a
/// newer one has spoken is not heard.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// It serves these servers at its address; nothing, if it has none.
    Announced { by: Speaker, instance: Option<Instance>, servers: Vec<ServerName> },
    /// It has been gone for longer than a restart takes.
    Gone { by: Speaker },
}

/// Who is speaking of itself. The identity is proved and the node is chosen, so only both together are somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Speaker {
    pub identity: SpiffeId,
    pub node: NodeId,
    pub stream: u64,
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

/// What tells one sidecar from another.
type Who = (SpiffeId, NodeId);

/// Instances by server and by sidecar.
#[derive(Debug, Default)]
pub(super) struct Observed {
    by_server: HashMap<ServerName, BTreeMap<Who, Instance>>,
    known: HashMap<Who, Known>,
}

#[derive(Debug, Default)]
struct Known {
    stream: u64,
    servers: Vec<ServerName>,
}

impl Observed {
    /// Takes an observation in and returns the servers whose instances it changed.
    pub(super) fn take(&mut self, observation: Observation) -> Vec<ServerName> {
        let (by, announced) = match observation {
            Observation::Announced { by, instance, servers } => (by, Some((instance, servers))),
            Observation::Gone { by } => (by, None),
        };
        let who = (by.identity, by.node);
        if self.known.get(&who).is_some_and(|known| known.stream > by.stream) {
            return Vec::new();
        }
        let before = self.known.remove(&who).unwrap_or_default().servers;
        let gone = announced.is_none();
        let (instance, servers) =
            announced.and_then(|(instance, servers)| Some((instance?, servers))).unzip();
        let servers: Vec<ServerName> = servers.unwrap_or_default();
        if !gone {
            self.known.insert(who.clone(), Known { stream: by.stream, servers: servers.clone() });
        }
        let mut changed = Vec::new();
        for server in before.iter().filter(|server| !servers.contains(server)) {
            if let Some(instances) = self.by_server.get_mut(server) {
                instances.remove(&who);
                if instances.is_empty() {
                    self.by_server.remove(server);
                }
            }
            changed.push(server.clone());
        }
        if let Some(instance) = instance {
            for server in &servers {
                let instances = self.by_server.entry(server.clone()).or_default();
                if instances.get(&who) != Some(&instance) {
                    instances.insert(who.clone(), instance.clone());
                    changed.push(server.clone());
                }
            }
        }
        changed
    }

    pub(super) fn of(&self, server: &ServerName) -> impl Iterator<Item = &Instance> {
        self.by_server.get(server).into_iter().flat_map(BTreeMap::values)
    }
}
