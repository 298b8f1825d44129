//! What one server offers, of what its sidecars report: what most of them say.
//!
//! Pure, but for what it remembers; time is an argument. What is offered is one report as a whole, so that definitions of
//! two versions of a server never stand side by side. Not here: other servers, the disk, and who is told.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};
use weft_proto::mcp::lists::Listed;
use weft_proto::name::{NodeId, ServerName, SpiffeId};
use weft_proto::offer::{self, DEFINITIONS_BYTES_MAX, ITEMS_MAX, Offer, Offered};

use super::report::{Digest, Error, Introduced, ItemKey, Something};

/// Digests that are asked for at once.
const WANTED_MAX: usize = 4096;

/// Whose word a report is.
pub type Place = (SpiffeId, NodeId);

/// What a server offers, as the mesh knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    pub offer: Arc<Offer>,
    pub revisions: Vec<String>,
    pub left_out: u32,
    /// Each item of the offer, in its order.
    pub items: BTreeMap<ItemKey, Since>,
    /// Of all items and their digests.
    pub fingerprint: Digest,
    /// Since when the items are these.
    pub since: SystemTime,
}

/// A definition, and since when it is the one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    pub digest: Digest,
    pub at: SystemTime,
}

/// One sidecar beside the server, and what it read.
#[derive(Clone, Debug)]
pub(super) struct Replica {
    /// The stream that it reports on.
    stream: u64,
    pub(super) items: BTreeMap<ItemKey, Digest>,
    introduced: Introduced,
    left_out: u32,
    /// Once all definitions are here.
    pub(super) whole: Option<Whole>,
    /// When it reported last.
    pub(super) at: SystemTime,
}

/// What a sidecar read, with all definitions.
#[derive(Clone, Debug)]
pub(super) struct Whole {
    pub(super) offer: Arc<Offer>,
    pub(super) fingerprint: Digest,
    since: SystemTime,
}

/// One server.
#[derive(Debug, Default)]
pub(super) struct Server {
    pub(super) replicas: BTreeMap<Place, Replica>,
    definitions: HashMap<(Listed, Digest), Arc<Offered>>,
    pub(super) known: Option<Arc<Known>>,
    /// Since when no sidecar tells of it.
    pub(super) away_since: Option<SystemTime>,
}

impl Server {
    /// As it was when it was last heard of.
    pub(super) fn remembered(known: Arc<Known>, away_since: SystemTime) -> Self {
        Self { known: Some(known), away_since: Some(away_since), ..Self::default() }
    }

    /// Takes a report. Returns the digests whose definitions are needed. What is not taken leaves nothing behind.
    pub(super) fn take(
        &mut self,
        server: &ServerName,
        from: (&Place, u64),
        told: Something,
        now: SystemTime,
    ) -> Result<Vec<Digest>, Error> {
        let taken = self.take_in(server, from, told, now);
        if taken.is_err() {
            self.clear();
        }
        taken
    }

    fn take_in(
        &mut self,
        server: &ServerName,
        (place, stream): (&Place, u64),
        told: Something,
        now: SystemTime,
    ) -> Result<Vec<Digest>, Error> {
        let before = self.replicas.get(place).filter(|replica| replica.stream == stream);
        let mut replica = match (told.full, before) {
            (true, _) => Replica {
                stream,
                items: BTreeMap::new(),
                introduced: Introduced::default(),
                left_out: 0,
                // To know since when it says the same.
                whole: self.replicas.get(place).and_then(|it| it.whole.clone()),
                at: now,
            },
            (false, Some(replica)) => replica.clone(),
            (false, None) => return Err(Error::NoBeginning(server.clone())),
        };
        (replica.at, replica.left_out) = (now, told.left_out);
        if let Some(introduced) = told.introduced {
            replica.introduced = introduced;
        }
        for key in &told.removed {
            replica.items.remove(key);
        }
        for said in told.changed {
            if let Some(offered) = said.offered {
                self.definitions.insert((said.key.0, said.digest), offered);
            }
            replica.items.insert(said.key, said.digest);
        }
        if replica.items.len() > ITEMS_MAX {
            return Err(Error::TooMany);
        }
        // Before all of it is there, too: whoever never sends the last could go on for ever.
        let definitions =
            replica.items.iter().filter_map(|((listed, _), digest)| self.definition(*listed, digest));
        match definitions.map(|it| it.definition.len()).sum() {
            ..=DEFINITIONS_BYTES_MAX => {}
            bytes => return Err(Error::Offer(offer::Error::TooMuch(bytes))),
        }
        let wanted = self.wanted(&replica);
        let whole = match wanted.is_empty() {
            true => Some(self.whole(server, &replica, now)?),
            false => None,
        };
        self.replicas.insert(place.clone(), Replica { whole, ..replica });
        self.clear();
        Ok(wanted)
    }

    /// Forgets a sidecar, if it still speaks on that stream.
    pub(super) fn leave(&mut self, place: &Place, stream: u64) {
        if self.replicas.get(place).is_some_and(|replica| replica.stream == stream) {
            self.replicas.remove(place);
            self.clear();
        }
    }

    fn wanted(&self, replica: &Replica) -> Vec<Digest> {
        let lacks = |((listed, _), digest): &(&ItemKey, &Digest)| !self.has(*listed, **digest);
        replica.items.iter().filter(lacks).map(|(_, digest)| *digest).take(WANTED_MAX).collect()
    }

    fn has(&self, listed: Listed, digest: Digest) -> bool {
        self.definition(listed, &digest).is_some()
    }

    /// Of this server alone: what another one sent under a digest is none of its words.
    fn definition(&self, listed: Listed, digest: &Digest) -> Option<&Arc<Offered>> {
        self.definitions.get(&(listed, *digest))
    }

    fn whole(&self, server: &ServerName, replica: &Replica, now: SystemTime) -> Result<Whole, Error> {
        let fingerprint = fingerprint(&replica.items);
        let named = |((listed, name), digest): (&ItemKey, &Digest)| {
            let definition = self.definition(*listed, digest).filter(|it| it.name == *name);
            definition.cloned().ok_or(Error::Digest)
        };
        let items = replica.items.iter().map(named).collect::<Result<Vec<_>, _>>()?;
        let offer =
            Offer::new(server.clone(), replica.introduced.said.clone(), items).map_err(Error::Offer)?;
        let before = replica.whole.as_ref().filter(|before| before.fingerprint == fingerprint);
        let since = before.map_or(now, |before| before.since);
        Ok(Whole { offer: Arc::new(offer), fingerprint, since })
    }

    /// Keeps the definitions that somebody reports, and those that are known.
    fn clear(&mut self) {
        let reported = self.replicas.values().flat_map(|replica| &replica.items);
        let mut needed: HashSet<_> = reported.map(|((listed, _), digest)| (*listed, *digest)).collect();
        if let Some(known) = &self.known {
            needed.extend(known.items.iter().map(|((listed, _), since)| (*listed, since.digest)));
        }
        self.definitions.retain(|key, _| needed.contains(key));
    }

    /// Makes known what most sidecars say. Returns whether that is something else than before, or whether somebody says
    /// it at all.
    pub(super) fn settle(&mut self, now: SystemTime) -> Settled {
        let Some(replica) = self.chosen() else {
            let is_news = self.known.is_some() && self.replicas.is_empty() && self.away_since.is_none();
            if is_news {
                self.away_since = Some(now);
            }
            return if is_news { Settled::Presence } else { Settled::Same };
        };
        let Some(whole) = &replica.whole else { return Settled::Same };
        let before = self.known.as_deref();
        let is_same = before.is_some_and(|known| {
            known.fingerprint == whole.fingerprint
                && known.offer.introduction == whole.offer.introduction
                && known.revisions == replica.introduced.revisions
                && known.left_out == replica.left_out
        });
        let known = (!is_same).then(|| Arc::new(Known::new(replica, whole, before, now)));
        let was_away = self.away_since.take().is_some();
        match known {
            Some(known) => {
                self.remember(&known);
                self.known = Some(known);
                self.clear();
                Settled::Offer
            }
            None if was_away => Settled::Presence,
            None => Settled::Same,
        }
    }

    /// What is known is had, whoever reports it next.
    fn remember(&mut self, known: &Known) {
        for (key, since) in &known.items {
            if let Some(offered) = known.offer.find(key.0, &key.1) {
                self.definitions.insert((key.0, since.digest), Arc::clone(offered));
            }
        }
    }

    /// What most say; where as many say something else, what was known; else what was said first.
    fn chosen(&self) -> Option<&Replica> {
        let mut said = HashMap::<Digest, (usize, SystemTime)>::new();
        let wholes = || self.replicas.values().filter_map(|replica| Some((replica, replica.whole.as_ref()?)));
        for (_, whole) in wholes() {
            let (count, since) = said.entry(whole.fingerprint).or_insert((0, whole.since));
            *count += 1;
            *since = whole.since.min(*since);
        }
        let known = self.known.as_ref().map(|known| known.fingerprint);
        let weight = |fingerprint: &Digest| {
            let (count, since) = said[fingerprint];
            (count, known == Some(*fingerprint), std::cmp::Reverse((since, *fingerprint)))
        };
        let most = said.keys().max_by_key(|fingerprint| weight(fingerprint))?;
        let of_most = wholes().filter(|(_, whole)| whole.fingerprint == *most);
        of_most.min_by_key(|(_, whole)| whole.since).map(|(replica, _)| replica)
    }
}

/// What became of what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    Same,
    /// Only whether somebody tells of the server.
    Presence,
    Offer,
}

impl Known {
    fn new(replica: &Replica, whole: &Whole, before: Option<&Self>, now: SystemTime) -> Self {
        let since = |(key, digest): (&ItemKey, &Digest)| {
            let same = before.and_then(|known| known.items.get(key)).filter(|it| it.digest == *digest);
            (key.clone(), same.copied().unwrap_or(Since { digest: *digest, at: now }))
        };
        let same = before.filter(|known| known.fingerprint == whole.fingerprint);
        Self {
            offer: Arc::clone(&whole.offer),
            revisions: replica.introduced.revisions.clone(),
            left_out: replica.left_out,
            items: replica.items.iter().map(since).collect(),
            fingerprint: whole.fingerprint,
            since: same.map_or(now, |known| known.since),
        }
    }
}

/// Of all items; the same for the same, in whatever order they came.
pub(super) fn fingerprint(items: &BTreeMap<ItemKey, Digest>) -> Digest {
    let mut context = Context::new(&SHA256);
    for ((listed, name), digest) in items {
        context.update(&[*listed as u8]);
        context.update(&(name.len() as u64).to_be_bytes());
        context.update(name.as_bytes());
        context.update(digest);
    }
    let mut bytes = Digest::default();
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

#[cfg(test)]
mod tests;
