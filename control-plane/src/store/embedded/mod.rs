//! The engine of a single node: one SQLite file in one directory.
//!
//! One thread owns the one connection that writes. It takes whatever transactions have queued up, makes each of them or
//! refuses it, and commits the whole group with one flush to disk; only then are the callers answered. Readers have
//! connections of their own and see nothing but committed groups.
//!
//! A store may be opened as a copy that follows another: then it takes [`Piece`]s and nothing else, until it is told to
//! lead. A second process on the same directory is turned away.

mod copy;
mod leases;
mod ledger;
mod open;
mod query;
mod readers;
mod schema;
mod tail;
mod writer;

#[cfg(test)]
mod copies;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, broadcast, oneshot, watch};

use super::audit;
use super::error::Result;
use super::limits;
use super::replicated::{Beside, Piece, Position};
use super::types::{
    Committed, Count, Entry, Event, Head, Key, LeaseId, Listing, Page, Prefix, Revision, RevisionDiff,
    RevisionInfo, Txn, Write,
};
use super::{Clock, Store, Watch};
use readers::Readers;
use tail::Tail;
use writer::{Op, Reply, Request};

/// Most bytes that wait to be written; who comes with more waits outside.
const QUEUE_BYTES_MAX: usize = 2 * limits::TXN_BYTES_MAX;
/// What a waiting request counts for beside its keys and values.
const REQUEST_BYTES: usize = 4096;
/// Most groups of writes that wait for whoever copies the store; who is slower is told so.
pub const BESIDE_MAX: usize = 4096;
/// Most revisions that one step of a compaction drops, so that transactions get in between.
const COMPACT_STEP_REVISIONS: u64 = 500;

/// How to open a store.
#[derive(Clone)]
pub struct Options {
    /// The directory that belongs to the store alone; made if it is not there.
    pub directory: PathBuf,
    /// What the log is dated with.
    pub clock: Clock,
    /// How many audit records are kept; beyond, the oldest go.
    pub audit_records_max: u64,
    /// How large the file may grow. Beyond, writes are refused with [`super::Error::Full`].
    pub file_bytes_max: u64,
    /// Whether it is a copy, which follows until it is told to lead.
    pub follows: bool,
}

impl Options {
    pub fn new(directory: impl Into<PathBuf>, clock: Clock) -> Self {
        Self {
            directory: directory.into(),
            clock,
            audit_records_max: 1_000_000,
            file_bytes_max: 16 * 1024 * 1024 * 1024,
            follows: false,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Options").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// How much was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    pub revision: Revision,
    /// Of what makes no revision; see [`Beside::number`].
    pub number: u64,
}

impl Mark {
    /// Whether whoever came so far has everything up to another.
    pub fn has(self, other: Self) -> bool {
        self.revision >= other.revision && self.number >= other.number
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot prepare {}", path.display())]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("the store in {} is in use by another process{}", directory.display(), holder(pid))]
    Locked { directory: PathBuf, pid: Option<u32> },
    #[error("{} is not a store of this program", path.display())]
    Foreign { path: PathBuf },
    #[error("{} was written by a newer version: its schema is {found}, known are up to {known}", path.display())]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("{} is damaged: {finding}", path.display())]
    Damaged { path: PathBuf, finding: String },
    #[error("cannot open {}", path.display())]
    Engine { path: PathBuf, source: rusqlite::Error },
    #[error("cannot start the store's writer")]
    Thread(#[source] std::io::Error),
}

fn holder(pid: &Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(", {pid}"))
}

/// An open store. Dropping it waits for the transaction under way, if any, and lets go of the directory.
pub struct EmbeddedStore {
    directory: PathBuf,
    readers: Arc<Readers>,
    tail: Arc<Tail>,
    head: watch::Receiver<Revision>,
    beside: broadcast::Sender<Arc<Beside>>,
    number: Arc<AtomicU64>,
    queue_bytes: Arc<Semaphore>,
    /// Empty only while the store is dropped.
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
}

impl EmbeddedStore {
    /// Opens the store in a directory, or makes one.
    #[allow(clippy::missing_panics_doc, reason = "it only passes on a panic")]
    pub async fn open(options: Options) -> Result<Self, Error> {
        let opening = tokio::task::spawn_blocking(|| open::open(options));
        opening.await.unwrap_or_else(|failure| std::panic::resume_unwind(failure.into_panic()))
    }

    /// Hands a request to the writer and waits for its answer.
    async fn request<T>(&self, bytes: usize, op: impl FnOnce(Reply<T>) -> Op) -> Result<T> {
        let bytes = u32::try_from(bytes + REQUEST_BYTES).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.queue_bytes)
            .acquire_many_owned(bytes)
            .await
            .map_err(|_| super::Error::Closed)?;
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or(super::Error::Closed)?;
        requests.send(Request { op: op(reply), permit }).map_err(|_| super::Error::Closed)?;
        answer.await.unwrap_or(Err(super::Error::Closed))
    }

    /// How far the store is, and how it came there.
    pub async fn position(&self) -> Result<Position> {
        self.readers.read(|connection| Ok(query::position(connection)?)).await
    }

    /// Leads from now on, as a new epoch. One that leads already goes on.
    pub async fn lead(&self, epoch: u64) -> Result<()> {
        self.request(0, |reply| Op::Lead(epoch, reply)).await
    }

    /// Takes what the leader wrote, as it is. Refused on a store that leads.
    pub async fn take(&self, piece: Piece) -> Result<()> {
        let bytes = match &piece {
            Piece::Base(entries) => entries.iter().map(Entry::bytes).sum(),
            Piece::Events(events) => events.iter().map(Event::bytes).sum(),
            _ => 0,
        };
        self.request(bytes.min(limits::TXN_BYTES_MAX), |reply| Op::Take(Box::new(piece), reply)).await
    }

    /// Forgets everything, so that it can become the copy of another. Refused on a store that leads. Whoever reads it
    /// must begin anew.
    pub async fn wipe(&self) -> Result<()> {
        self.request(0, Op::Wipe).await
    }

    /// How much was written so far.
    pub fn mark(&self) -> Mark {
        Mark { revision: *self.head.borrow(), number: self.number.load(Ordering::Acquire) }
    }

    /// What is written from now on that makes no revision.
    pub fn beside(&self) -> broadcast::Receiver<Arc<Beside>> {
        self.beside.subscribe()
    }

    /// Audit records after one, the oldest first, at most [`limits::PAGE_ENTRIES_MAX`].
    pub async fn audited_after(&self, sequence: u64) -> Result<Vec<audit::Entry>> {
        self.readers.read(move |connection| query::audited_after(connection, sequence)).await
    }

    /// All leases that run, with the milliseconds that they run for.
    pub async fn leases(&self) -> Result<Vec<(LeaseId, u64)>> {
        self.readers.read(query::leases).await
    }

    async fn compact_in_steps(&self, keep_from: Revision) -> Result<Revision> {
        loop {
            let oldest = self.request(0, |reply| Op::Compact(keep_from, reply)).await?;
            if oldest >= keep_from {
                return Ok(oldest);
            }
        }
    }
}

impl Store for EmbeddedStore {
    fn head(&self) -> BoxFuture<'_, Result<Head>> {
        self.readers.read(|connection| Ok(query::head(connection)?)).boxed()
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Entry>>> {
        let key = key.clone();
        self.readers.read(move |connection| query::entry(connection, &key)).boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a Prefix,
        at: Option<Revision>,
        page: Page,
    ) -> BoxFuture<'a, Result<Listing>> {
        let prefix = prefix.clone();
        self.readers.read(move |connection| query::list(connection, &prefix, at, &page)).boxed()
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed>> {
        async move {
            limits::check_txn(&txn)?;
            let bytes = txn.writes.iter().map(Write::bytes).sum();
            self.request(bytes, |reply| Op::Commit(txn, reply)).await
        }
        .boxed()
    }

    fn history<'a>(
        &'a self,
        prefix: &'a Prefix,
        before: Option<Revision>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<RevisionInfo>>> {
        let prefix = prefix.clone();
        self.readers.read(move |connection| query::history(connection, &prefix, before, limit)).boxed()
    }

    fn revision(&self, revision: Revision, page: Page) -> BoxFuture<'_, Result<RevisionDiff>> {
        self.readers.read(move |connection| query::revision(connection, revision, &page)).boxed()
    }

    fn watch(&self, prefix: Prefix, after: Revision) -> BoxFuture<'_, Result<Watch>> {
        async move {
            let (readers, tail) = (Arc::clone(&self.readers), Arc::clone(&self.tail));
            tail::watch(readers, tail, self.head.clone(), prefix, after).await
        }
        .boxed()
    }

    fn compact(&self, keep_from: Revision) -> BoxFuture<'_, Result<Revision>> {
        self.compact_in_steps(keep_from).boxed()
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId>> {
        async move {
            let ttl_ms = limits::check_ttl(ttl)?;
            self.request(0, |reply| Op::Grant(ttl_ms, reply)).await
        }
        .boxed()
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<Duration>> {
        self.request(0, move |reply| Op::KeepAlive(lease, reply)).boxed()
    }

    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<()>> {
        self.request(0, move |reply| Op::Revoke(lease, reply)).boxed()
    }

    fn keep_counts(&self, counts: Vec<Count>) -> BoxFuture<'_, Result<()>> {
        async move {
            limits::check_counts(&counts)?;
            let bytes = counts.iter().map(|count| count.name.as_str().len() + size_of::<Count>()).sum();
            self.request(bytes, |reply| Op::Count(counts, reply)).await
        }
        .boxed()
    }

    fn counts(&self, after: Option<Key>) -> BoxFuture<'_, Result<Vec<Count>>> {
        self.readers.read(move |connection| query::counts(connection, after.as_ref())).boxed()
    }

    fn append_audit(&self, record: audit::Record) -> BoxFuture<'_, Result<u64>> {
        async move {
            limits::check_audit(&record)?;
            self.request(0, |reply| Op::Audit(record, reply)).await
        }
        .boxed()
    }

    fn audit(&self, filter: audit::Filter) -> BoxFuture<'_, Result<Vec<audit::Entry>>> {
        self.readers.read(move |connection| query::audit(connection, &filter)).boxed()
    }
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("EmbeddedStore").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.requests.take();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
    }
}

impl From<rusqlite::Error> for super::Error {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full,
            _ => Self::Failed(Arc::new(error)),
        }
    }
}
