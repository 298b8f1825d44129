//! How much of the past is kept.

use super::error::Result;
use super::types::{Head, Revision};
use super::{Store, limits};

/// How many revisions stay readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// At least this many of the newest.
    pub revisions_min: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { revisions_min: 10_000 }
    }
}

impl Retention {
    /// From where on to keep, if it is worth compacting at all: only once a tenth more than needed has gathered, so
    /// that a busy store is not compacted with each transaction.
    pub fn keep_from(self, head: Head) -> Option<Revision> {
        let revisions_min = self.revisions_min.max(1);
        let gathered = (head.revision.0 + 1).saturating_sub(head.oldest.0);
        let slack = (revisions_min / 10).clamp(1, limits::PAGE_ENTRIES_MAX as u64);
        (gathered >= revisions_min + slack).then(|| Revision(head.revision.0 + 1 - revisions_min))
    }
}

/// Compacts a store if it keeps more than it has to. To be called now and then.
pub async fn retain(store: &dyn Store, retention: Retention) -> Result<Option<Revision>> {
    match retention.keep_from(store.head().await?) {
        Some(keep_from) => store.compact(keep_from).await.map(Some),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compaction_waits_for_a_tenth_more_than_is_kept() {
        let check = |revisions_min, revision, oldest, expected: Option<u64>| {
            let head = Head { revision: Revision(revision), oldest: Revision(oldest) };
            assert_eq!(Retention { revisions_min }.keep_from(head), expected.map(Revision));
        };
        check(100, 0, 1, None);
        check(100, 109, 1, None);
        check(100, 110, 1, Some(11));
        check(100, 119, 11, None);
        check(100, 120, 11, Some(21));
        check(1, 1, 1, None);
        check(1, 2, 1, Some(2));
        check(0, 2, 1, Some(2));
        check(10_000, 10_999, 1, None);
        check(10_000, 11_000, 1, Some(1001));
        check(u64::MAX - 1000, 10, 1, None);
    }
}
