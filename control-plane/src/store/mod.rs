//! The revisioned store: everything that operators have said, every version of it, who said it and why.
//!
//! A store is an ordered map from keys to bytes with a memory. Each committed transaction is one new revision, with
//! its author, its reason and its time; revisions are numbered 1, 2, 3, … without gaps. The past can be listed,
//! compared and brought back (as a new revision), and followed: a [`Watch`] replays the log and then stays live.
//! Beside the map the store keeps leases, which delete the keys attached to them when their holder falls silent, and
//! an append-only audit trail.
//!
//! [`Store`] is shaped so that an etcd cluster can stand behind it; [`embedded`] is the engine of a single node.
//! Not here: what keys and values mean. The store never looks inside a value.

pub mod audit;
pub mod embedded;
mod error;
pub mod limits;
pub mod replicated;
mod retention;
mod rollback;
mod types;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod model;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

pub use error::{Error, Result};
pub use retention::{Retention, retain};
pub use rollback::{Rollback, plan_rollback, restore, rollback};
pub use types::{
    Change, Committed, Count, Diff, Entry, Event, Expect, Head, Key, LeaseId, Listing, Page, Prefix,
    Revision, RevisionDiff, RevisionInfo, Txn, UnchangedSince, Write,
};

/// Tells the time to a store: for its log, never for its leases, which run on the monotonic clock.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Revisions that touch a prefix, in order, each exactly once. An error is the last item: [`Error::Compacted`] when the
/// watcher fell behind compaction, [`Error::Closed`] when the store went away.
pub type Watch = BoxStream<'static, Result<Event>>;

/// One engine. Every engine passes the same conformance suite.
///
/// A future that is dropped may still take effect: whatever it asked for may be under way. An answer is given only once
/// what it says is durable.
pub trait Store: fmt::Debug + Send + Sync {
    /// The newest revision, and the oldest that can still be shown.
    fn head(&self) -> BoxFuture<'_, Result<Head>>;

    /// The present value of a key.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Entry>>>;

    /// One page of the state under a prefix, in key order: the present one, or the one as of the revision `at`. To read
    /// all pages of one state, ask for the pages after the first at the revision that the first was read at, or use
    /// [`list_all`].
    fn list<'a>(
        &'a self,
        prefix: &'a Prefix,
        at: Option<Revision>,
        page: Page,
    ) -> BoxFuture<'a, Result<Listing>>;

    /// All of the transaction, as one new revision, or nothing of it.
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed>>;

    /// Revisions that touch a prefix, the newest first, at most `limit` of them, all older than `before`.
    fn history<'a>(
        &'a self,
        prefix: &'a Prefix,
        before: Option<Revision>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<RevisionInfo>>>;

    /// One page of what a revision changed, with the values before and after.
    fn revision(&self, revision: Revision, page: Page) -> BoxFuture<'_, Result<RevisionDiff>>;

    /// Every change under a prefix that was committed after a revision, and those yet to come. A watcher never holds up
    /// a writer.
    fn watch(&self, prefix: Prefix, after: Revision) -> BoxFuture<'_, Result<Watch>>;

    /// Forgets the revisions before `keep_from`, but nothing that the state at `keep_from` or later consists of. Answers
    /// with the oldest revision that is left.
    fn compact(&self, keep_from: Revision) -> BoxFuture<'_, Result<Revision>>;

    /// A new lease. It lapses when it has not been kept alive for `ttl`; its keys are then deleted, as a revision.
    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId>>;

    /// Starts a lease's time anew, and answers with how much time that is.
    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<Duration>>;

    /// Ends a lease now: its keys are deleted, as a revision.
    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<()>>;

    /// Writes sums down, all of them or none, over those of the same names. No revision is made.
    fn keep_counts(&self, counts: Vec<Count>) -> BoxFuture<'_, Result<()>>;

    /// Sums that were written down, in the order of their names: those after a name, at most
    /// [`limits::PAGE_ENTRIES_MAX`].
    fn counts(&self, after: Option<Key>) -> BoxFuture<'_, Result<Vec<Count>>>;

    /// Appends to the audit trail, and answers with the sequence number given.
    fn append_audit(&self, record: audit::Record) -> BoxFuture<'_, Result<u64>>;

    /// Audit records, the newest first.
    fn audit(&self, filter: audit::Filter) -> BoxFuture<'_, Result<Vec<audit::Entry>>>;
}

/// Every entry under a prefix, of the present state or of the one at a revision, read page by page from one and the same
/// revision. Refuses states of more than [`limits::STATE_BYTES_MAX`].
pub async fn list_all(
    store: &dyn Store,
    prefix: &Prefix,
    at: Option<Revision>,
) -> Result<(Revision, Vec<Entry>)> {
    let first = store.list(prefix, at, Page::default()).await?;
    let (revision, mut entries, mut next) = (first.revision, first.entries, first.next);
    let mut bytes: usize = entries.iter().map(Entry::bytes).sum();
    while let Some(after) = next {
        let page = Page { after: Some(after), ..Page::default() };
        let listing = store.list(prefix, Some(revision), page).await?;
        bytes += listing.entries.iter().map(Entry::bytes).sum::<usize>();
        limits::check_state(bytes)?;
        entries.extend(listing.entries);
        next = listing.next;
    }
    Ok((revision, entries))
}
