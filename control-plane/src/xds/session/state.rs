//! What one client asked for and is believed to hold, of one type.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use weft_proto::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;

use super::{Error, SUBSCRIPTIONS_MAX};
use crate::plan::Published;

const WILDCARD: &str = "*";
/// Most nonces of one type that are remembered.
const AWAITING_MAX: usize = 1024;

/// One type of one client.
#[derive(Debug, Default)]
pub(in crate::xds) struct TypeState {
    /// Whether anything was ever said about this type on the stream.
    heard: bool,
    wildcard: bool,
    /// Names and aliases as they were asked for, and the names that they stand for.
    names: HashMap<Arc<str>, Arc<str>>,
    /// What the client is believed to hold, with versions.
    held: HashMap<Arc<str>, Arc<str>>,
    /// What of that the client brought along from an earlier stream, and was not sent on this one.
    brought: HashSet<Arc<str>>,
    /// Nonces of responses that were not answered yet, oldest first.
    awaiting: VecDeque<String>,
    /// Names whose change the client has not been told yet.
    dirty: BTreeSet<Arc<str>>,
}

/// What a request asks to be answered.
#[derive(Debug, Default)]
pub(super) struct Ask {
    /// The first request of this type on the stream.
    pub(super) first: bool,
    /// The wildcard is new.
    pub(super) wildcard: bool,
    pub(super) names: Vec<Arc<str>>,
    pub(super) unsubscribed_under_wildcard: Vec<Arc<str>>,
    /// Names that the client held when it connected.
    pub(super) brought: Vec<Arc<str>>,
}

/// What is to be sent.
#[derive(Debug, Default)]
pub(in crate::xds) struct Answer {
    pub(super) send: Vec<Arc<Published>>,
    pub(super) removed: Vec<Arc<str>>,
    /// Names that cannot be had, with the code that says why.
    pub(super) refused: Vec<(Arc<str>, i32)>,
    pub(super) even_if_empty: bool,
}

impl Answer {
    pub(super) fn refuse(&mut self, name: Arc<str>, code: i32) {
        self.removed.push(Arc::clone(&name));
        self.refused.push((name, code));
    }
}

impl TypeState {
    pub(super) fn is_subscribed(&self) -> bool {
        self.wildcard || !self.names.is_empty()
    }

    pub(super) const fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    pub(super) fn names_any(&self) -> bool {
        !self.names.is_empty()
    }

    pub(super) fn asked_for(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Notes which resource an asked name stands for.
    pub(super) fn resolve(&mut self, asked: &str, canonical: &Arc<str>) {
        if let Some(known) = self.names.get_mut(asked) {
            *known = Arc::clone(canonical);
        }
    }

    pub(super) fn version(&self, name: &str) -> Option<&Arc<str>> {
        self.held.get(name)
    }

    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    pub(super) fn unanswered(&self) -> usize {
        self.awaiting.len()
    }

    pub(super) fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub(super) fn take_dirty(&mut self) -> BTreeSet<Arc<str>> {
        std::mem::take(&mut self.dirty)
    }

    pub(super) fn mark(&mut self, name: &Arc<str>) {
        self.dirty.insert(Arc::clone(name));
    }

    /// Marks everything that is wanted, asked for or held.
    pub(super) fn mark_all(&mut self, wanted: &[Arc<Published>]) {
        let names = wanted.iter().map(|published| &published.name);
        self.dirty.extend(names.chain(self.names.keys()).chain(self.held.keys()).cloned());
    }

    pub(super) fn sent(&mut self, published: &Published) {
        self.brought.remove(&published.name);
        self.held.insert(Arc::clone(&published.name), Arc::clone(&published.version));
    }

    pub(super) fn brought(&self, name: &str) -> bool {
        self.brought.contains(name)
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.brought.remove(name);
        self.held.remove(name);
    }

    pub(super) fn awaits(&mut self, nonce: String) {
        // A client that asks on and on without answering only loses the oldest of its own business.
        if self.awaiting.len() == AWAITING_MAX {
            self.awaiting.pop_front();
        }
        self.awaiting.push_back(nonce);
    }

    /// Takes an answer in; false if it answers nothing that is outstanding. An answer to a response answers those
    /// before it too: a client may skip some, and never goes back.
    pub(super) fn answered(&mut self, nonce: &str) -> bool {
        match self.awaiting.iter().position(|awaited| awaited == nonce) {
            Some(at) => {
                self.awaiting.drain(..=at);
                true
            }
            None => false,
        }
    }

    /// Applies the subscription part of a request, whatever it answers.
    pub(super) fn subscribe(&mut self, request: DeltaDiscoveryRequest) -> Result<Ask, Error> {
        let DeltaDiscoveryRequest {
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            initial_resource_versions: brought,
            ..
        } = request;
        let mut ask = Ask { first: !self.heard, ..Ask::default() };
        if ask.first {
            self.heard = true;
            // An empty version stands for a name that was asked for and never came.
            let held = brought.into_iter().filter(|(_, version)| !version.is_empty());
            self.held = held.map(|(name, version)| (name.into(), version.into())).collect();
            // Only on the first request does saying nothing mean everything.
            if subscribe.is_empty() && unsubscribe.is_empty() {
                self.wildcard = true;
                ask.wildcard = true;
            }
        }
        for name in subscribe {
            if name == WILDCARD {
                ask.wildcard = true;
                self.wildcard = true;
                continue;
            }
            let name: Arc<str> = name.into();
            if self.names.len() == SUBSCRIPTIONS_MAX && !self.names.contains_key(&name) {
                return Err(Error::TooManySubscriptions);
            }
            self.names.entry(Arc::clone(&name)).or_insert_with(|| Arc::clone(&name));
            ask.names.push(name);
        }
        for name in unsubscribe {
            self.unsubscribe(&name, &mut ask);
        }
        if ask.first {
            ask.brought = self.held.keys().cloned().collect();
            self.brought = ask.brought.iter().cloned().collect();
        }
        Ok(ask)
    }

    fn unsubscribe(&mut self, name: &str, ask: &mut Ask) {
        if name == WILDCARD {
            self.wildcard = false;
            ask.wildcard = false;
            // What came only through the wildcard is the client's to drop.
            let named: HashSet<&Arc<str>> = self.names.values().collect();
            self.held.retain(|held, _| named.contains(held));
            return;
        }
        ask.names.retain(|asked| &**asked != name);
        let Some((name, canonical)) = self.names.remove_entry(name) else {
            return;
        };
        match self.wildcard {
            true => ask.unsubscribed_under_wildcard.push(name),
            false if self.names.values().any(|other| *other == canonical) => {}
            false => self.forget(&canonical),
        }
    }
}
