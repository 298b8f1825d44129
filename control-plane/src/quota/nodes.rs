//! Which sidecars borrow. Each node of an identity counts once, whatever streams and sessions it opens: the newest
//! session has the share of the node, and what those before it were lent only runs out.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use tokio::sync::mpsc;
use weft_proto::name::{NodeId, SpiffeId};
use weft_proto::pb::weft::quota::v1 as pb;

/// Sessions of one node that may hold something: the one of now, and one that was killed. A further one waits until the
/// lease of the oldest is over.
const SESSIONS_MAX: usize = 2;

#[derive(Debug, Default)]
pub(super) struct Nodes {
    /// Makes numbers of names.
    hasher: RandomState,
    by_id: HashMap<u64, Node>,
    /// The nodes of holders.
    of: HashMap<u64, u64>,
    streams: usize,
}

#[derive(Debug, Default)]
struct Node {
    /// The newest last.
    sessions: Vec<Session>,
    /// Keys that it named and did not release.
    keys: usize,
}

#[derive(Debug)]
struct Session {
    holder: u64,
    /// When what it was lent is over.
    ends: u64,
    /// Of its open stream. None where there is none, and where a newer session took over.
    grants: Option<mpsc::Sender<pb::LeaseGrant>>,
}

/// Why a stream is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There are too many, of all sidecars.
    Streams,
    /// Too many sessions of this node may still hold something.
    Sessions,
    /// A newer session of this node took over.
    Replaced,
}

impl Refused {
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Streams => "streams",
            Self::Sessions => "sessions",
            Self::Replaced => "replaced",
        }
    }
}

impl Nodes {
    pub(super) const fn streams(&self) -> usize {
        self.streams
    }

    /// A stream of a session begins; an earlier one of it, or of another session of the node, gets no more grants.
    /// `ends` is when its lease is over if nothing more is heard.
    pub(super) fn open(
        &mut self,
        name: (&SpiffeId, &NodeId),
        session: u64,
        grants: mpsc::Sender<pb::LeaseGrant>,
        streams_max: usize,
        (now, ends): (u64, u64),
    ) -> Result<u64, Refused> {
        let id = self.hasher.hash_one(name);
        let holder = self.hasher.hash_one((name, session));
        self.forget_ended(id, now);
        let sessions = self.by_id.get(&id).map_or(&[][..], |node| &node.sessions);
        let had_streams = sessions.iter().filter(|it| it.grants.is_some()).count();
        match sessions.iter().position(|it| it.holder == holder) {
            Some(at) if at + 1 < sessions.len() => return Err(Refused::Replaced),
            None if sessions.len() >= SESSIONS_MAX => return Err(Refused::Sessions),
            Some(_) | None if self.streams - had_streams >= streams_max => return Err(Refused::Streams),
            Some(_) | None => {}
        }
        let node = self.by_id.entry(id).or_default();
        for older in &mut node.sessions {
            older.grants = None;
        }
        node.sessions.retain(|it| it.holder != holder);
        node.sessions.push(Session { holder, ends, grants: Some(grants) });
        self.of.insert(holder, id);
        self.streams = self.streams - had_streams + 1;
        Ok(holder)
    }

    /// The stream of a holder ended.
    pub(super) fn close(&mut self, holder: u64) {
        if let Some(session) = self.session(holder)
            && session.grants.take().is_some()
        {
            self.streams -= 1;
        }
    }

    /// A holder reports. Answers which node it is; none if another session took over.
    pub(super) fn heard(&mut self, holder: u64, ends: u64) -> Option<u64> {
        let session = self.session(holder).filter(|session| session.grants.is_some())?;
        session.ends = ends;
        self.of.get(&holder).copied()
    }

    pub(super) fn of(&self, holder: u64) -> Option<u64> {
        self.of.get(&holder).copied()
    }

    /// Where grants of a holder go.
    pub(super) fn grants(&self, holder: u64) -> Option<&mpsc::Sender<pb::LeaseGrant>> {
        let node = self.by_id.get(self.of.get(&holder)?)?;
        node.sessions.iter().find(|session| session.holder == holder)?.grants.as_ref()
    }

    /// How many keys a node named.
    pub(super) fn keys(&self, node: u64) -> usize {
        self.by_id.get(&node).map_or(0, |node| node.keys)
    }

    /// So many keys more are named by a node, or less.
    pub(super) fn named(&mut self, node: u64, change: isize) {
        if let Some(node) = self.by_id.get_mut(&node) {
            node.keys = node.keys.saturating_add_signed(change);
        }
    }

    /// Forgets sessions whose time is over, and nodes that have none and named nothing.
    pub(super) fn sweep(&mut self, now: u64) {
        let ids: Vec<u64> = self.by_id.keys().copied().collect();
        for id in ids {
            self.forget_ended(id, now);
            if self.by_id.get(&id).is_some_and(|node| node.sessions.is_empty() && node.keys == 0) {
                self.by_id.remove(&id);
            }
        }
    }

    fn forget_ended(&mut self, id: u64, now: u64) {
        if let Some(node) = self.by_id.get_mut(&id) {
            node.sessions.retain(|session| {
                let may_hold = session.grants.is_some() || now < session.ends;
                if !may_hold {
                    self.of.remove(&session.holder);
                }
                may_hold
            });
        }
    }

    fn session(&mut self, holder: u64) -> Option<&mut Session> {
        let node = self.by_id.get_mut(self.of.get(&holder)?)?;
        node.sessions.iter_mut().find(|session| session.holder == holder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: u64 = 10;

    fn names(n: usize) -> (SpiffeId, NodeId) {
        let identity = SpiffeId::parse("spiffe://corp.example/ns/research/sa/files").unwrap();
        (identity, NodeId::parse(&format!("research/files-{n}")).unwrap())
    }

    fn open(nodes: &mut Nodes, n: usize, session: u64, now: u64) -> Result<u64, Refused> {
        let (identity, node) = names(n);
        let (sender, _) = mpsc::channel(1);
        nodes.open((&identity, &node), session, sender, 3, (now, now + LEASE))
    }

    #[test]
    fn a_newer_session_takes_over_and_a_third_waits_for_the_lease_of_the_oldest() {
        let mut nodes = Nodes::default();
        let first = open(&mut nodes, 0, 1, 0).unwrap();
        assert!(nodes.heard(first, LEASE).is_some());
        let second = open(&mut nodes, 0, 2, 1).unwrap();
        assert_eq!((nodes.heard(first, 100), nodes.streams()), (None, 1), "the first was replaced");
        assert_ne!(first, second);
        assert_eq!(open(&mut nodes, 0, 1, 2), Err(Refused::Replaced));
        assert_eq!(open(&mut nodes, 0, 3, 9), Err(Refused::Sessions));
        assert!(open(&mut nodes, 1, 3, 9).is_ok(), "another node");
        let third = open(&mut nodes, 0, 3, LEASE).unwrap();
        assert_eq!(
            (nodes.of(first), nodes.of(second), nodes.of(third)),
            (None, nodes.of(third), nodes.of(second))
        );
    }

    #[test]
    fn a_session_that_comes_again_is_the_same_holder() {
        let mut nodes = Nodes::default();
        let holder = open(&mut nodes, 0, 1, 0).unwrap();
        nodes.close(holder);
        assert_eq!(nodes.streams(), 0);
        assert_eq!((open(&mut nodes, 0, 1, 1), nodes.streams()), (Ok(holder), 1));
        assert_eq!((open(&mut nodes, 0, 1, 2), nodes.streams()), (Ok(holder), 1));
    }

    #[test]
    fn there_are_no_more_streams_than_may_be() {
        let mut nodes = Nodes::default();
        for n in 0..3 {
            open(&mut nodes, n, 1, 0).unwrap();
        }
        assert_eq!(open(&mut nodes, 3, 1, 0), Err(Refused::Streams));
        assert!(open(&mut nodes, 2, 2, 0).is_ok(), "one that replaces another");
    }

    #[test]
    fn nodes_are_forgotten_once_they_hold_and_name_nothing() {
        let mut nodes = Nodes::default();
        let holder = open(&mut nodes, 0, 1, 0).unwrap();
        let node = nodes.of(holder).unwrap();
        nodes.named(node, 2);
        nodes.close(holder);
        nodes.sweep(LEASE);
        assert_eq!((nodes.keys(node), nodes.of(holder)), (2, None));
        nodes.named(node, -2);
        nodes.sweep(LEASE);
        assert!(nodes.by_id.is_empty());
    }
}
