//! Counts that are lent: what their lenders are told of them, and what they say.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use weft_proto::pb::weft::quota::v1 as pb;
use weft_proto::policy::quota::Now;
use weft_proto::policy::quota::lease::{Grant, Loan, Timing, Told};

use super::{Count, Table};
use crate::quota::journal::Id;
use crate::quota::key::Key;
use crate::quota::leased::By;
use crate::quota::plan::Ready;

/// What one budget asks of the journal.
#[derive(Debug)]
pub(in crate::quota) struct Asks {
    pub(in crate::quota) handle: u64,
    pub(in crate::quota) id: Id,
    pub(in crate::quota) told: Told,
    pub(in crate::quota) ready: Arc<Ready>,
}

impl Table {
    /// What there is to say of a count; nothing of one that was given up.
    pub(in crate::quota) fn demand(
        &self,
        key: Key,
        sequence: u64,
        timing: Timing,
        now: Now,
    ) -> Option<pb::LeaseDemand> {
        let mut shard = self.shard(key);
        let Count { meter, lease, .. } = shard.count_mut(key)?;
        let lease = lease.as_mut().filter(|lease| !lease.is_released())?;
        Some(lease.demand(sequence, meter, timing, now))
    }

    /// What the journal is to hear of a budget; nothing of one that was given up.
    pub(in crate::quota) fn asks(&self, key: Key, sequence: u64, is_end: bool) -> Option<Asks> {
        let mut shard = self.shard(key);
        let Count { meter, lease, ready, .. } = shard.count_mut(key)?;
        let lease = lease.as_mut().filter(|lease| !lease.is_released())?;
        let told = lease.told(sequence, meter, is_end)?;
        Some(Asks { handle: key.handle(), id: lease.id(), told, ready: Arc::clone(ready) })
    }

    /// How often something was lent of budgets.
    pub(in crate::quota) fn lendings(&self) -> u64 {
        self.lendings.load(Ordering::SeqCst)
    }

    /// Tells those who wait that something was lent.
    pub(in crate::quota) fn was_lent(&self) {
        self.lendings.fetch_add(1, Ordering::SeqCst);
        self.lent.notify_waiters();
    }

    /// Waits until more was lent than these times.
    pub(in crate::quota) async fn is_lent(&self, seen: u64) {
        let lent = self.lent.notified();
        tokio::pin!(lent);
        // From here on no news is missed.
        lent.as_mut().enable();
        if self.lendings() == seen {
            lent.await;
        }
    }

    /// Takes what was lent of a budget for a handle.
    pub(in crate::quota) fn lent(&self, by: By, handle: u64, epoch: u64, loan: Loan) {
        let Some(key) = self.borrowed(by).keys().get(&handle).copied() else { return };
        let mut shard = self.shard(key);
        if let Some(lease) = shard.count_mut(key).and_then(|count| count.lease.as_mut()) {
            lease.lent(epoch, loan);
        }
    }

    /// Takes what was granted for a handle.
    pub(in crate::quota) fn granted(
        &self,
        handle: u64,
        grant: Grant,
        asked_at: Option<u64>,
        timing: Timing,
        now: Now,
    ) {
        let Some(key) = self.by_control_plane.keys().get(&handle).copied() else { return };
        let mut shard = self.shard(key);
        let Some(Count { meter, lease: Some(lease), .. }) = shard.count_mut(key) else { return };
        if lease.granted(grant, asked_at, meter, timing, now) {
            drop(shard);
            self.by_control_plane.tell_soon(key);
        }
    }
}
