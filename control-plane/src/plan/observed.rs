//! What the mesh reports: which instances of each server there are, and which of them say that they do not serve.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use weft_proto::name::{HostPort, NodeId, ServerName, SpiffeId};
use weft_proto::resource::bounded::Text;

/// Something that was seen of one sidecar, by one of its streams. Streams are numbered; what an older one says after a
/// newer one has spoken is not heard.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// It serves these servers at its address; nothing, if it has none.
    Announced { by: Speaker, instance: Option<Instance>, servers: Vec<ServerName> },
    /// For these servers it does not serve at the moment, for all others it does.
    Reported { by: Speaker, unfit: BTreeSet<ServerName> },
    /// Its stream has ended. It may be back in a moment, but nobody can say how it is.
    Away { by: Speaker },
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
    unfit: BTreeSet<ServerName>,
    away: bool,
}

impl Observed {
    /// Takes an observation in and returns the servers whose instances it changed.
    pub(super) fn take(&mut self, observation: Observation) -> Vec<ServerName> {
        let (by, announced) = match observation {
            Observation::Announced { by, instance, servers } => (by, Some((instance, servers))),
            Observation::Gone { by } => (by, None),
            Observation::Reported { by, unfit } => return self.reported(by, unfit),
            Observation::Away { by } => return self.away(by),
        };
        let who = (by.identity, by.node);
        if self.known.get(&who).is_some_and(|known| known.stream > by.stream) {
            return Vec::new();
        }
        let Known { servers: before, stream, unfit, .. } = self.known.remove(&who).unwrap_or_default();
        // What an earlier stream said may have been about a process that is no more.
        let unfit = if stream == by.stream { unfit } else { BTreeSet::new() };
        let mut changed: Vec<ServerName> = match stream == by.stream {
            true => Vec::new(),
            false => before.clone(),
        };
        let gone = announced.is_none();
        let (instance, servers) =
            announced.and_then(|(instance, servers)| Some((instance?, servers))).unzip();
        let servers: Vec<ServerName> = servers.unwrap_or_default();
        if !gone {
            let known = Known { stream: by.stream, servers: servers.clone(), unfit, away: false };
            self.known.insert(who.clone(), known);
        }
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

    fn reported(&mut self, by: Speaker, unfit: BTreeSet<ServerName>) -> Vec<ServerName> {
        let known = self.known.get_mut(&(by.identity, by.node)).filter(|known| known.stream == by.stream);
        let Some(known) = known else { return Vec::new() };
        let before = std::mem::replace(&mut known.unfit, unfit);
        before.symmetric_difference(&known.unfit).filter(|it| known.servers.contains(it)).cloned().collect()
    }

    /// Others may have been left out because this one served.
    fn away(&mut self, by: Speaker) -> Vec<ServerName> {
        let known = self.known.get_mut(&(by.identity, by.node)).filter(|known| known.stream == by.stream);
        let Some(known) = known else { return Vec::new() };
        known.away = true;
        known.servers.clone()
    }

    /// The instances that callers are told: without those that say that they do not serve, as long as another one is
    /// connected and says nothing of the kind. If none is, all are told: a caller that tries finds out more than one
    /// that has nobody to try.
    pub(super) fn of(&self, server: &ServerName) -> impl Iterator<Item = &Instance> {
        let left_out = self.left_out(server);
        let all = self.by_server.get(server).into_iter().flatten();
        all.filter(move |(who, _)| !left_out.contains(who)).map(|(_, instance)| instance)
    }

    /// Where the instances are that callers are not told of, for servers whose instances are not only those seen.
    pub(super) fn addresses_left_out(&self, server: &ServerName) -> HashSet<&HostPort> {
        let left_out = self.left_out(server);
        let all = self.by_server.get(server).into_iter().flatten();
        all.filter(|(who, _)| left_out.contains(who)).map(|(_, instance)| &instance.address).collect()
    }

    fn left_out(&self, server: &ServerName) -> HashSet<&Who> {
        let known = || self.by_server.get(server).into_iter().flat_map(BTreeMap::keys);
        let of = |who: &&Who| self.known.get(*who);
        let serves = |it: &Known| !it.away && !it.unfit.contains(server);
        match known().any(|who| of(&who).is_some_and(serves)) {
            true => known().filter(|who| of(who).is_some_and(|it| it.unfit.contains(server))).collect(),
            false => HashSet::new(),
        }
    }
}
