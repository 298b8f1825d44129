//! Bringing back the past, as a new revision.

use std::collections::BTreeMap;

use super::error::Result;
use super::types::{Committed, Entry, Prefix, Revision, Txn, Write};
use super::{Store, audit, list_all};

/// A wish to have the state under a prefix as it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollback {
    /// As of this revision.
    pub to: Revision,
    pub prefix: Prefix,
    /// The newest revision that the author has seen: if anything under the prefix changed since, nothing is done.
    pub seen: Revision,
    pub author: String,
    pub reason: String,
    pub audit: Option<audit::Record>,
}

/// The writes that lead from one state to another. Keys on a lease tell who is there, not what was decided: those of the
/// present are left alone, and those of the past stay gone.
pub fn restore(present: &[Entry], past: &[Entry]) -> Vec<Write> {
    let wanted: BTreeMap<_, _> =
        past.iter().filter(|entry| entry.lease.is_none()).map(|entry| (&entry.key, entry)).collect();
    let found: BTreeMap<_, _> = present.iter().map(|entry| (&entry.key, entry)).collect();

    let deletes = found
        .values()
        .filter(|entry| entry.lease.is_none() && !wanted.contains_key(&entry.key))
        .map(|entry| Write::Delete { key: entry.key.clone() });
    let puts = wanted
        .values()
        .filter(|entry| {
            found.get(&entry.key).is_none_or(|found| found.lease.is_none() && found.value != entry.value)
        })
        .map(|entry| Write::Put { key: entry.key.clone(), value: entry.value.clone(), lease: None });
    deletes.chain(puts).collect()
}

/// The transaction that a rollback would be, for showing it first.
pub async fn plan_rollback(store: &dyn Store, wish: Rollback) -> Result<Txn> {
    let (_, past) = list_all(store, &wish.prefix, Some(wish.to)).await?;
    let (_, present) = list_all(store, &wish.prefix, Some(wish.seen)).await?;
    Ok(Txn {
        writes: restore(&present, &past),
        audit: wish.audit,
        ..Txn::new(wish.author, wish.reason).unchanged_since(wish.prefix, wish.seen)
    })
}

/// Restores the state under a prefix as of a revision, as a new revision.
pub async fn rollback(store: &dyn Store, wish: Rollback) -> Result<Committed> {
    let txn = plan_rollback(store, wish).await?;
    store.commit(txn).await
}

#[cfg(test)]
mod tests {
    use super::super::types::{Key, LeaseId};
    use super::*;

    fn entry(key: &str, value: &'static str, lease: Option<u64>) -> Entry {
        Entry {
            key: Key::new(key).unwrap(),
            value: value.into(),
            created: Revision(1),
            modified: Revision(1),
            lease: lease.map(LeaseId),
        }
    }

    fn put(key: &str, value: &'static str) -> Write {
        Write::Put { key: Key::new(key).unwrap(), value: value.into(), lease: None }
    }

    fn delete(key: &str) -> Write {
        Write::Delete { key: Key::new(key).unwrap() }
    }

    #[test]
    fn restoring_writes_what_differs_and_nothing_else() {
        let check = |present: &[Entry], past: &[Entry], expected: &[Write]| {
            assert_eq!(restore(present, past), expected);
        };
        let a = || entry("a", "1", None);
        check(&[a()], &[a()], &[]);
        check(&[], &[a()], &[put("a", "1")]);
        check(&[a()], &[], &[delete("a")]);
        check(&[entry("a", "2", None), entry("b", "", None)], &[a()], &[delete("b"), put("a", "1")]);
    }

    #[test]
    fn restoring_leaves_leased_keys_alone() {
        let leased = || entry("a", "1", Some(7));
        assert_eq!(restore(&[leased()], &[]), []);
        assert_eq!(restore(&[], &[leased()]), []);
        assert_eq!(restore(&[leased()], &[entry("a", "2", None)]), []);
        assert_eq!(restore(&[entry("a", "2", None)], &[leased()]), [delete("a")]);
    }
}
