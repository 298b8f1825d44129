//! Who wants to know of changes to which resource. The server is asked once for many.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::exchange::Asker;

/// Resources with anyone who wants to know of them, at one server.
const TOPICS_MAX: usize = 4096;
/// Those who want to know of one resource.
const HOLDERS_MAX: usize = 16 << 10;

#[derive(Debug, Default)]
pub(super) struct Topics(HashMap<Box<str>, Topic>);

#[derive(Debug, Default)]
struct Topic {
    holders: HashSet<Asker>,
    /// The server said that it will tell.
    confirmed: bool,
}

/// What a subscription or its end asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The server must be asked.
    Forward,
    /// Nothing changes for the server.
    Done,
}

/// There are as many subscriptions as there may be.
#[derive(Debug)]
pub(super) struct Full;

impl Topics {
    pub(super) fn subscribe(&mut self, asker: &Asker, uri: &str) -> Result<Step, Full> {
        if self.0.get(uri).map_or(self.0.len() >= TOPICS_MAX, |topic| topic.holders.len() >= HOLDERS_MAX) {
            return Err(Full);
        }
        let topic = self.0.entry(uri.into()).or_default();
        topic.holders.insert(asker.clone());
        // Until the server has said yes, it is asked for each: its no must reach everyone who asked.
        Ok(if topic.confirmed { Step::Done } else { Step::Forward })
    }

    /// What the server said to a subscription.
    pub(super) fn answered(&mut self, asker: &Asker, uri: &str, is_yes: bool) {
        match self.0.get_mut(uri) {
            Some(topic) if is_yes => topic.confirmed = true,
            Some(topic) if !topic.confirmed => drop(self.leave(asker, uri)),
            _ => {}
        }
    }

    pub(super) fn unsubscribe(&mut self, asker: &Asker, uri: &str) -> Step {
        match self.0.contains_key(uri) && !self.leave(asker, uri) {
            true => Step::Done,
            // Whoever never subscribed gets whatever the server says to that.
            false => Step::Forward,
        }
    }

    /// Whether this was the last who wanted to know.
    pub(super) fn leave(&mut self, asker: &Asker, uri: &str) -> bool {
        let Some(topic) = self.0.get_mut(uri) else { return false };
        topic.holders.remove(asker);
        let is_last = topic.holders.is_empty();
        if is_last {
            self.0.remove(uri);
        }
        is_last
    }

    /// The resources of which now nobody wants to know.
    pub(super) fn leave_all(&mut self, asker: &Asker) -> Vec<Box<str>> {
        let mut held: Vec<Box<str>> = self
            .0
            .iter()
            .filter(|(_, topic)| topic.holders.contains(asker))
            .map(|(uri, _)| uri.clone())
            .collect();
        held.sort_unstable();
        held.retain(|uri| self.leave(asker, uri));
        held
    }

    /// Every resource of which someone wants to know.
    pub(super) fn all(&self) -> Vec<Box<str>> {
        let uris: BTreeSet<Box<str>> = self.0.keys().cloned().collect();
        uris.into_iter().collect()
    }

    /// Who wants to know of a change. A server may tell of a part of what was subscribed to.
    pub(super) fn of(&self, uri: &str) -> Vec<Asker> {
        let is_meant = |of: &str| {
            uri.strip_prefix(of)
                .is_some_and(|rest| rest.is_empty() || of.ends_with('/') || rest.starts_with(['/', '?', '#']))
        };
        let meant = self.0.iter().filter(|(of, _)| is_meant(of));
        let mut askers: Vec<Asker> = meant.flat_map(|(_, topic)| topic.holders.iter().cloned()).collect();
        askers.sort_unstable_by(|a, b| (&a.caller, &a.session).cmp(&(&b.caller, &b.session)));
        askers.dedup();
        askers
    }
}

pub(super) fn params(uri: &str) -> String {
    serde_json::json!({ "uri": uri }).to_string()
}
