//! The store of the one that leads, as everybody else sees it: what was written is answered once those that keep up have
//! it too, so that a fail-over to one of them loses nothing that anybody was told.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::Standbys;
use crate::store::embedded::EmbeddedStore;
use crate::store::{
    Committed, Count, Entry, Head, Key, LeaseId, Listing, Page, Prefix, Result, Revision, RevisionDiff,
    RevisionInfo, Store, Txn, Watch, audit,
};

/// A store that others follow.
pub struct Kept {
    pub store: Arc<EmbeddedStore>,
    pub standbys: Arc<Standbys>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Kept").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Kept {
    /// Waits with what was written for those that keep up.
    async fn settled<T>(&self, written: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let answer = written.await?;
        self.standbys.settled(self.store.mark()).await;
        Ok(answer)
    }
}

impl Store for Kept {
    fn head(&self) -> BoxFuture<'_, Result<Head>> {
        self.store.head()
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Entry>>> {
        self.store.get(key)
    }

    fn list<'a>(
        &'a self,
        prefix: &'a Prefix,
        at: Option<Revision>,
        page: Page,
    ) -> BoxFuture<'a, Result<Listing>> {
        self.store.list(prefix, at, page)
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed>> {
        self.settled(self.store.commit(txn)).boxed()
    }

    fn history<'a>(
        &'a self,
        prefix: &'a Prefix,
        before: Option<Revision>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<RevisionInfo>>> {
        self.store.history(prefix, before, limit)
    }

    fn revision(&self, revision: Revision, page: Page) -> BoxFuture<'_, Result<RevisionDiff>> {
        self.store.revision(revision, page)
    }

    fn watch(&self, prefix: Prefix, after: Revision) -> BoxFuture<'_, Result<Watch>> {
        self.store.watch(prefix, after)
    }

    fn compact(&self, keep_from: Revision) -> BoxFuture<'_, Result<Revision>> {
        self.store.compact(keep_from)
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId>> {
        self.settled(self.store.grant(ttl)).boxed()
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<Duration>> {
        self.store.keep_alive(lease)
    }

    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<()>> {
        self.settled(self.store.revoke(lease)).boxed()
    }

    fn keep_counts(&self, counts: Vec<Count>) -> BoxFuture<'_, Result<()>> {
        self.settled(self.store.keep_counts(counts)).boxed()
    }

    fn counts(&self, after: Option<Key>) -> BoxFuture<'_, Result<Vec<Count>>> {
        self.store.counts(after)
    }

    fn append_audit(&self, record: audit::Record) -> BoxFuture<'_, Result<u64>> {
        self.settled(self.store.append_audit(record)).boxed()
    }

    fn audit(&self, filter: audit::Filter) -> BoxFuture<'_, Result<Vec<audit::Entry>>> {
        self.store.audit(filter)
    }
}
