//! The catalogue: what every server of the mesh offers, in memory, with a copy on disk.
//!
//! A report costs what its server has, not what the mesh has. What servers offer stays known while no sidecar tells of
//! it, and over restarts, until the server itself is deleted. Not here: whose report is taken (that is the service's).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use rusqlite::Connection;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use weft_proto::catalogue::search::{Document, Hit, Index};
use weft_proto::mcp::lists::Listed;
use weft_proto::name::{NodeId, ServerName};
use weft_proto::offer::Offer;

use super::aggregate::{Known, Place, Server, Settled};
use super::database::{self, PAST_BYTES_MAX, Version};
use super::report::{Digest, Error as Refused, ItemKey, Told};
use crate::clock;

/// The file in the data folder.
pub const FILE: &str = "catalogue";
/// Items in which a sidecar differs that are told by name.
const DIFFERENCES_MAX: usize = 16;
/// How often what is past is looked at, and what became of servers.
const CLEAR_EVERY: Duration = Duration::from_secs(15);

/// Who is told when a server offers something else; nothing, when it is deleted. One server after the other.
pub type HandOver = Box<dyn Fn(ServerName, Option<Arc<Offer>>) -> BoxFuture<'static, ()> + Send + Sync>;

/// Why the catalogue cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the catalogue cannot be read or written")]
    Engine(#[from] rusqlite::Error),
    #[error("reading or writing the catalogue ended in a panic")]
    Panicked,
}

/// See the module.
pub struct Catalogue {
    state: Mutex<State>,
    disk: Arc<Mutex<Connection>>,
    /// There is something to hand over.
    handing: Notify,
    /// There is something to write.
    writing: Notify,
    streams: AtomicU64,
}

#[derive(Default)]
struct State {
    servers: BTreeMap<ServerName, Server>,
    index: Index<Key>,
    unhanded: BTreeSet<ServerName>,
    unwritten: BTreeSet<ServerName>,
}

/// An item of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub server: ServerName,
    pub kind: Listed,
    pub name: Box<str>,
}

/// A server, as the catalogue has it.
#[derive(Clone, Debug)]
pub struct Entry {
    pub server: ServerName,
    /// None before the first whole report.
    pub known: Option<Arc<Known>>,
    /// Since when no sidecar tells of it.
    pub away_since: Option<SystemTime>,
    pub replicas: Vec<Replica>,
}

/// A sidecar beside a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    pub node: NodeId,
    /// When it reported last.
    pub at: SystemTime,
    pub items: usize,
    /// Whether it read what the server offers by the word of most; none while its report is not whole.
    pub agrees: Option<bool>,
    /// Some of the items in which it differs, in their order.
    pub differs: Vec<ItemKey>,
}

/// What a sidecar read under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    pub node: NodeId,
    pub at: SystemTime,
    pub digest: Option<Digest>,
}

impl fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalogue").field("servers", &self.lock().servers.len()).finish_non_exhaustive()
    }
}

impl Catalogue {
    /// Opens what is on disk, or makes it. Without a path it lasts as long as the process.
    pub fn open(path: Option<&Path>) -> Result<Arc<Self>, Error> {
        let connection = match path {
            Some(path) => Connection::open(path)?,
            None => Connection::open_in_memory()?,
        };
        database::prepare(&connection)?;
        let mut state = State::default();
        for (name, remembered) in database::load(&connection)? {
            state.show(&name, None, &remembered.known);
            state.servers.insert(name, Server::remembered(remembered.known, remembered.heard));
        }
        Ok(Arc::new(Self {
            state: Mutex::new(state),
            disk: Arc::new(Mutex::new(connection)),
            handing: Notify::new(),
            writing: Notify::new(),
            streams: AtomicU64::new(1),
        }))
    }

    /// What every server offers, as far as it is known. Whoever it is handed over to takes this first.
    pub fn offers(&self) -> Vec<(ServerName, Arc<Offer>)> {
        let state = self.lock();
        let offer = |(name, server): (&ServerName, &Server)| {
            Some((name.clone(), Arc::clone(&server.known.as_ref()?.offer)))
        };
        state.servers.iter().filter_map(offer).collect()
    }

    /// A number for a stream of reports, so that the end of one takes nothing from another.
    pub fn stream(&self) -> u64 {
        self.streams.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes what a sidecar says of a server. Returns the digests whose definitions are needed before it counts.
    pub fn take(
        &self,
        from: (&Place, u64),
        name: &ServerName,
        told: Told,
        now: SystemTime,
    ) -> Result<Vec<Digest>, Refused> {
        let mut state = self.lock();
        let wanted = match told {
            Told::Nothing => {
                if let Some(server) = state.servers.get_mut(name) {
                    server.leave(from.0, from.1);
                }
                Vec::new()
            }
            Told::Something(something) => {
                let server = state.servers.entry(name.clone()).or_default();
                server.take(name, from, something, now)?
            }
        };
        self.settle(&mut state, name, now);
        Ok(wanted)
    }

    /// A sidecar tells of these servers no more on that stream.
    pub fn leave(&self, from: (&Place, u64), servers: &BTreeSet<ServerName>, now: SystemTime) {
        let mut state = self.lock();
        for name in servers {
            if let Some(server) = state.servers.get_mut(name) {
                server.leave(from.0, from.1);
            }
            self.settle(&mut state, name, now);
        }
    }

    fn settle(&self, state: &mut State, name: &ServerName, now: SystemTime) {
        let Some(server) = state.servers.get_mut(name) else { return };
        let before = server.known.clone();
        let settled = server.settle(now);
        if server.known.is_none() && server.replicas.is_empty() {
            state.servers.remove(name);
            return;
        }
        let Some(known) = server.known.clone().filter(|_| settled != Settled::Same) else { return };
        if settled == Settled::Offer {
            state.show(name, before.as_deref(), &known);
            state.unhanded.insert(name.clone());
            self.handing.notify_one();
            tracing::info!(server = %name, items = known.items.len(), "a server offers something else than before");
        }
        state.unwritten.insert(name.clone());
        self.writing.notify_one();
    }

    /// What a sidecar read of a server, once all of it is here.
    pub(super) fn read_by(&self, place: &Place, server: &ServerName) -> Option<Arc<Offer>> {
        let state = self.lock();
        let whole = state.servers.get(server)?.replicas.get(place)?.whole.as_ref()?;
        Some(Arc::clone(&whole.offer))
    }

    /// What a server offers.
    pub fn known(&self, server: &ServerName) -> Option<Arc<Known>> {
        self.lock().servers.get(server)?.known.clone()
    }

    pub fn entry(&self, server: &ServerName) -> Option<Entry> {
        self.lock().servers.get(server).map(|it| Entry::of(server, it))
    }

    /// What each sidecar beside a server read under a name; nothing where there is no such item.
    pub fn readings(&self, server: &ServerName, item: &ItemKey) -> Vec<Reading> {
        let state = self.lock();
        let replicas = state.servers.get(server).into_iter().flat_map(|server| &server.replicas);
        let reading = |((_, node), replica): (&Place, &super::aggregate::Replica)| Reading {
            node: node.clone(),
            at: replica.at,
            digest: replica.items.get(item).copied(),
        };
        replicas.map(reading).collect()
    }

    /// Every server, in the order of their names.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().servers.iter().map(|(name, server)| Entry::of(name, server)).collect()
    }

    /// The items that words find, the best first.
    pub fn search(&self, words: &str, limit: usize, wanted: impl Fn(&Key) -> bool) -> Vec<Hit<Key>> {
        self.lock().index.search(words, limit, wanted)
    }

    /// The definitions of an item that there were, and are; the newest first.
    pub async fn versions(&self, server: ServerName, item: ItemKey) -> Result<Vec<Version>, Error> {
        self.on_disk(move |connection| database::versions(connection, &server, &item)).await
    }

    /// A definition of a tool that there was once, by the digest that it is approved by. Waits for the disk.
    pub fn approved(&self, server: &ServerName, approval: &str) -> Option<Arc<str>> {
        let connection = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let found = database::approved(&connection, server, approval);
        found
            .inspect_err(|error| tracing::warn!(%error, "the catalogue cannot be read"))
            .ok()?
            .map(Into::into)
    }

    /// Hands over what changed, writes it, and forgets the servers that there are no more, until the stop. Of a server
    /// of which `exists` knows nothing yet, nobody can say that.
    pub async fn run(
        self: Arc<Self>,
        hand_over: HandOver,
        exists: impl Fn(&ServerName) -> Option<bool>,
        shutdown: CancellationToken,
    ) {
        let handing = async {
            loop {
                self.hand_over(&hand_over).await;
                self.handing.notified().await;
            }
        };
        // Whatever is being written when the stop comes is written to its end, and then what came meanwhile.
        let keeping = async {
            let mut clear = tokio::time::interval(CLEAR_EVERY);
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return self.write().await,
                    () = self.writing.notified() => self.write().await,
                    _ = clear.tick() => self.clear(&exists).await,
                }
            }
        };
        tokio::join!(shutdown.run_until_cancelled(handing), keeping);
    }

    async fn hand_over(&self, to: &HandOver) {
        loop {
            let next = {
                let mut state = self.lock();
                let name = state.unhanded.pop_first();
                name.map(|name| {
                    let known = state.servers.get(&name).and_then(|server| server.known.as_ref());
                    let offer = known.map(|known| Arc::clone(&known.offer));
                    (name, offer)
                })
            };
            let Some((name, offer)) = next else { return };
            to(name, offer).await;
        }
    }

    /// Writes what was not written yet.
    pub async fn write(&self) {
        let unwritten: Vec<_> = {
            let mut state = self.lock();
            let names = std::mem::take(&mut state.unwritten);
            let known = |name: ServerName| {
                let server = state.servers.get(&name)?;
                Some((name, Arc::clone(server.known.as_ref()?), server.away_since))
            };
            names.into_iter().filter_map(known).collect()
        };
        for (name, known, away_since) in unwritten {
            let heard = away_since.unwrap_or_else(clock::now);
            let again = name.clone();
            let written =
                self.on_disk(move |connection| database::store(connection, &name, &known, heard)).await;
            if let Err(error) = written {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, server = %again, "what a server offers cannot be written; it is tried again");
                self.lock().unwritten.insert(again);
            }
        }
    }

    async fn clear(&self, exists: &impl Fn(&ServerName) -> Option<bool>) {
        let gone: Vec<_> = {
            let state = self.lock();
            state.servers.keys().filter(|name| exists(name) == Some(false)).cloned().collect()
        };
        for name in gone {
            self.forget(&name).await;
        }
        let (now, heard): (_, Vec<_>) = {
            let state = self.lock();
            let heard = state.servers.iter().filter(|(_, server)| server.away_since.is_none());
            (clock::now(), heard.map(|(name, _)| name.clone()).collect())
        };
        let cleared = self.on_disk(move |connection| {
            let transaction = connection.transaction()?;
            for name in heard {
                database::heard(&transaction, &name, now)?;
            }
            database::clear(&transaction, PAST_BYTES_MAX)?;
            transaction.commit()
        });
        if let Err(error) = cleared.await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "the catalogue cannot be written");
        }
    }

    /// Forgets a server with its history: it is no more.
    pub async fn forget(&self, name: &ServerName) {
        {
            let mut state = self.lock();
            let Some(server) = state.servers.remove(name) else { return };
            state.unwritten.remove(name);
            if let Some(known) = server.known {
                state.hide(name, &known);
                state.unhanded.insert(name.clone());
                self.handing.notify_one();
            }
        }
        let gone = name.clone();
        let forgotten = self.on_disk(move |connection| database::forget(connection, &gone)).await;
        if let Err(error) = forgotten {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, server = %name, "what a server offered cannot be forgotten");
        }
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let disk = Arc::clone(&self.disk);
        let work = tokio::task::spawn_blocking(move || {
            work(&mut disk.lock().unwrap_or_else(PoisonError::into_inner))
        });
        Ok(work.await.map_err(|_| Error::Panicked)??)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Lets what is offered now be found, instead of what was.
    fn show(&mut self, server: &ServerName, before: Option<&Known>, known: &Known) {
        let key = |(kind, name): &ItemKey| Key { server: server.clone(), kind: *kind, name: name.clone() };
        if let Some(before) = before {
            for item in before.items.keys().filter(|item| !known.items.contains_key(*item)) {
                self.index.remove(&key(item));
            }
        }
        for (item, since) in &known.items {
            let is_same = before.and_then(|before| before.items.get(item)) == Some(since);
            if let (false, Some(offered)) = (is_same, known.offer.find(item.0, &item.1)) {
                self.index.put(key(item), &Document::of(&offered.name, &offered.definition));
            }
        }
    }

    fn hide(&mut self, server: &ServerName, known: &Known) {
        for (kind, name) in known.items.keys() {
            self.index.remove(&Key { server: server.clone(), kind: *kind, name: name.clone() });
        }
    }
}

impl Entry {
    fn of(name: &ServerName, server: &Server) -> Self {
        let known = server.known.as_deref();
        let replica = |((_, node), it): (&Place, &super::aggregate::Replica)| {
            let agrees =
                it.whole.as_ref().map(|whole| known.is_some_and(|k| k.fingerprint == whole.fingerprint));
            let differs = match (agrees, known) {
                (Some(false), Some(known)) => differences(known, &it.items),
                _ => Vec::new(),
            };
            Replica { node: node.clone(), at: it.at, items: it.items.len(), agrees, differs }
        };
        Self {
            server: name.clone(),
            known: server.known.clone(),
            away_since: server.away_since,
            replicas: server.replicas.iter().map(replica).collect(),
        }
    }
}

fn differences(known: &Known, items: &BTreeMap<ItemKey, Digest>) -> Vec<ItemKey> {
    let all: BTreeSet<&ItemKey> = known.items.keys().chain(items.keys()).collect();
    let differs = |key: &&ItemKey| known.items.get(*key).map(|it| it.digest) != items.get(*key).copied();
    all.into_iter().filter(differs).take(DIFFERENCES_MAX).cloned().collect()
}

#[cfg(test)]
mod tests;
