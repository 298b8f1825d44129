//! What every engine must do, as tests over `&dyn Store`. An engine's own tests run [`CASES`], each on a store of its own
//! that is new and empty.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, join_all};
use futures_util::{StreamExt, TryStreamExt};

use super::audit::{self, Outcome, Record};
use super::limits::{self, Violation};
use super::*;

pub(super) type Case = fn(Arc<dyn Store>) -> BoxFuture<'static, ()>;

macro_rules! cases {
    ($($name:ident)*) => {
        pub(super) const CASES: &[(&str, Case)] = &[$((stringify!($name), |store| $name(store).boxed())),*];
    };
}

cases! {
    a_new_store_is_empty
    a_transaction_is_one_revision_for_all_its_writes
    a_refused_transaction_leaves_no_trace
    a_transaction_that_changes_nothing_makes_no_revision
    a_key_that_comes_back_is_created_anew
    an_empty_value_is_a_value
    of_many_who_want_to_be_first_one_is
    counting_under_contention_loses_nothing
    a_guard_sees_every_change_under_its_prefix_and_no_other
    prefixes_are_told_apart_by_bytes
    the_pages_of_a_listing_show_one_state
    a_page_ends_when_it_is_heavy
    history_is_newest_first_and_filtered_by_prefix
    a_revision_is_shown_with_the_values_before_and_after
    past_states_can_be_listed_and_future_ones_cannot
    compaction_forgets_the_past_and_nothing_else
    a_rollback_is_a_new_revision
    a_rollback_is_refused_when_what_it_would_undo_was_not_seen
    a_watch_replays_and_then_follows
    a_watch_sees_its_prefix_only
    a_watcher_that_is_slow_misses_nothing
    a_watcher_behind_compaction_is_told_so
    a_lapsed_lease_takes_its_keys_along_in_one_revision
    a_lease_that_is_kept_alive_does_not_lapse
    a_revoked_lease_is_gone_at_once
    a_key_that_is_put_without_its_lease_outlives_it
    audit_records_are_found_by_who_and_when
    an_audit_record_goes_with_its_transaction
    sums_are_kept_without_making_revisions
    limits_hold_at_the_door
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn prefix(text: &str) -> Prefix {
    Prefix::new(text).unwrap()
}

fn txn() -> Txn {
    Txn::new("alice", "because")
}

async fn put(store: &dyn Store, name: &str, value: &'static str) -> Revision {
    match store.commit(txn().put(key(name), value)).await.unwrap() {
        Committed::New(revision) => revision,
        Committed::Unchanged(_) => panic!("{name} already was {value}"),
    }
}

async fn delete(store: &dyn Store, name: &str) -> Revision {
    store.commit(txn().delete(key(name))).await.unwrap().revision()
}

async fn value(store: &dyn Store, name: &str) -> Option<Bytes> {
    store.get(&key(name)).await.unwrap().map(|entry| entry.value)
}

async fn state(store: &dyn Store, at: Option<Revision>) -> Vec<(String, String)> {
    let (_, entries) = list_all(store, &Prefix::all(), at).await.unwrap();
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
    entries.into_iter().map(|entry| (entry.key.into(), text(&entry.value))).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A limit on patience, not a measure of time.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("in 30 seconds")
}

async fn next(watch: &mut Watch) -> Event {
    soon(watch.next()).await.expect("a watch does not end by itself").expect("no error")
}

async fn a_new_store_is_empty(store: Arc<dyn Store>) {
    assert_eq!(store.head().await.unwrap(), Head { revision: Revision::ZERO, oldest: Revision(1) });
    assert_eq!(store.get(&key("a")).await.unwrap(), None);
    assert_eq!(state(&*store, None).await, []);
    assert_eq!(state(&*store, Some(Revision::ZERO)).await, []);
    assert_eq!(store.history(&Prefix::all(), None, 10).await.unwrap(), []);
    assert_eq!(store.audit(audit::Filter::default()).await.unwrap(), []);
    assert_eq!(store.compact(Revision(1)).await.unwrap(), Revision(1));
}

async fn a_transaction_is_one_revision_for_all_its_writes(store: Arc<dyn Store>) {
    put(&*store, "old", "x").await;
    let writes = txn().put(key("b"), "2").put(key("a"), "1").delete(key("old")).delete(key("never"));
    assert_eq!(store.commit(writes).await.unwrap(), Committed::New(Revision(2)));
    let entry =
        Entry { key: key("a"), value: "1".into(), created: Revision(2), modified: Revision(2), lease: None };
    assert_eq!(store.get(&key("a")).await.unwrap(), Some(entry));
    assert_eq!(state(&*store, None).await, pairs(&[("a", "1"), ("b", "2")]));
    assert_eq!(store.head().await.unwrap().revision, Revision(2));
}

async fn a_refused_transaction_leaves_no_trace(store: Arc<dyn Store>) {
    put(&*store, "a", "1").await;
    put(&*store, "a", "2").await;
    for (name, expected, found) in [
        ("a", Expect::Absent, Some(Revision(2))),
        ("a", Expect::Revision(Revision(1)), Some(Revision(2))),
        ("b", Expect::Present, None),
        ("b", Expect::Revision(Revision(2)), None),
    ] {
        let record = Record::new("alice", "put", "a", Outcome::Done);
        let good = txn().expect(key("a"), Expect::Present).expect(key("b"), Expect::Absent);
        let refused = good.expect(key(name), expected).put(key("c"), "3").delete(key("a")).audited(record);
        let error = store.commit(refused).await.unwrap_err();
        assert!(
            matches!(&error, Error::Conflict { key, expected: e, found: f }
                if key.as_str() == name && *e == expected && *f == found),
            "{error:?}"
        );
    }
    assert_eq!(store.head().await.unwrap().revision, Revision(2));
    assert_eq!(state(&*store, None).await, pairs(&[("a", "2")]));
    assert_eq!(store.audit(audit::Filter::default()).await.unwrap(), []);

    let met = txn().expect(key("a"), Expect::Revision(Revision(2))).expect(key("b"), Expect::Absent);
    assert_eq!(store.commit(met.delete(key("a"))).await.unwrap(), Committed::New(Revision(3)));
}

async fn a_transaction_that_changes_nothing_makes_no_revision(store: Arc<dyn Store>) {
    put(&*store, "a", "1").await;
    for nothing in [txn(), txn().put(key("a"), "1").delete(key("b")), txn().expect(key("b"), Expect::Absent)]
    {
        assert_eq!(store.commit(nothing).await.unwrap(), Committed::Unchanged(Revision(1)));
    }
    assert_eq!(store.history(&Prefix::all(), None, 10).await.unwrap().len(), 1);
    let partly = txn().put(key("a"), "1").put(key("b"), "2");
    assert_eq!(store.commit(partly).await.unwrap(), Committed::New(Revision(2)));
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().modified, Revision(1));
    let diff = store.revision(Revision(2), Page::default()).await.unwrap();
    assert_eq!((diff.info.changes, diff.diffs.len()), (1, 1));
}

async fn a_key_that_comes_back_is_created_anew(store: Arc<dyn Store>) {
    put(&*store, "a", "1").await;
    put(&*store, "a", "2").await;
    let entry = store.get(&key("a")).await.unwrap().unwrap();
    assert_eq!((entry.created, entry.modified), (Revision(1), Revision(2)));
    delete(&*store, "a").await;
    put(&*store, "a", "2").await;
    let entry = store.get(&key("a")).await.unwrap().unwrap();
    assert_eq!((entry.created, entry.modified), (Revision(4), Revision(4)));
}

async fn an_empty_value_is_a_value(store: Arc<dyn Store>) {
    put(&*store, "a", "").await;
    assert_eq!(value(&*store, "a").await, Some(Bytes::new()));
    put(&*store, "b", "").await;
    assert_eq!(state(&*store, Some(Revision(1))).await, pairs(&[("a", "")]));
    let mut watch = store.watch(Prefix::all(), Revision::ZERO).await.unwrap();
    assert!(matches!(&next(&mut watch).await.changes[..], [Change::Put(_)]));
    delete(&*store, "a").await;
    assert_eq!(value(&*store, "a").await, None);
}

async fn of_many_who_want_to_be_first_one_is(store: Arc<dyn Store>) {
    let attempts = (0..50).map(|number| {
        let only = key(&format!("mine/{number}"));
        store.commit(txn().expect(key("throne"), Expect::Absent).put(key("throne"), "me").put(only, ""))
    });
    let (won, lost): (Vec<_>, Vec<_>) = join_all(attempts).await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 49));
    assert!(lost.iter().all(|lost| matches!(lost, Err(Error::Conflict { .. }))));
    assert_eq!(state(&*store, None).await.len(), 2);
}

async fn counting_under_contention_loses_nothing(store: Arc<dyn Store>) {
    put(&*store, "count", "0").await;
    let counters = (0..8).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut done = 0;
            while done < 10 {
                let entry = store.get(&key("count")).await.unwrap().unwrap();
                let count: u32 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                let more = txn().expect(entry.key.clone(), Expect::Revision(entry.modified));
                match store.commit(more.put(entry.key, (count + 1).to_string())).await {
                    Ok(_) => done += 1,
                    Err(Error::Conflict { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        })
    });
    soon(join_all(counters)).await.into_iter().for_each(|counter| counter.unwrap());
    assert_eq!(value(&*store, "count").await, Some("80".into()));
    assert_eq!(store.head().await.unwrap().revision, Revision(81));
}

async fn a_guard_sees_every_change_under_its_prefix_and_no_other(store: Arc<dyn Store>) {
    put(&*store, "a/1", "").await;
    put(&*store, "b/1", "").await;
    delete(&*store, "a/1").await;
    put(&*store, "c/1", "").await;
    let guarded = |under: &str, since, write: &str| {
        store.commit(txn().unchanged_since(prefix(under), Revision(since)).put(key(write), "x"))
    };
    let moved = |error: Error| match error {
        Error::Moved { since, found, .. } => (since.0, found.0),
        other => panic!("{other:?}"),
    };
    assert_eq!(moved(guarded("a/", 2, "x").await.unwrap_err()), (2, 3));
    assert_eq!(moved(guarded("", 3, "x").await.unwrap_err()), (3, 4));
    assert!(matches!(guarded("", 5, "x").await, Err(Error::Future { head: Revision(4) })));
    assert_eq!(guarded("a/", 3, "x").await.unwrap(), Committed::New(Revision(5)));
    assert_eq!(guarded("", 5, "y").await.unwrap(), Committed::New(Revision(6)));
    store.compact(Revision(5)).await.unwrap();
    assert!(matches!(guarded("a/", 3, "z").await, Err(Error::Compacted { oldest: Revision(5) })));
    assert_eq!(guarded("a/", 4, "z").await.unwrap(), Committed::New(Revision(7)));
}

async fn prefixes_are_told_apart_by_bytes(store: Arc<dyn Store>) {
    let names = ["a", "a/", "a/b", "a/b/c", "a/é", "a/\u{10fffe}", "a0", "b", "é"];
    for name in names {
        put(&*store, name, "v").await;
    }
    let check = async |under: &str, expected: &[&str]| {
        let (_, entries) = list_all(&*store, &prefix(under), None).await.unwrap();
        let found: Vec<_> = entries.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(found, expected, "{under}");
        let past = list_all(&*store, &prefix(under), Some(Revision(1))).await.unwrap().1;
        assert_eq!(past.len(), usize::from("a".starts_with(under)), "{under}");
    };
    check("", &names).await;
    check("a/", &names[1..6]).await;
    check("a/b", &names[2..4]).await;
    check("a/\u{10fffe}", &names[5..6]).await;
    check("a", &names[..7]).await;
    check("c", &[]).await;
}

async fn the_pages_of_a_listing_show_one_state(store: Arc<dyn Store>) {
    let names: Vec<_> = (0..10).map(|number| format!("k/{number}")).collect();
    let all = names.iter().fold(txn(), |txn, name| txn.put(key(name), "1"));
    store.commit(all).await.unwrap();
    put(&*store, "l", "beyond").await;

    let page = |after| Page { after, limit: 4 };
    let first = store.list(&prefix("k/"), None, page(None)).await.unwrap();
    assert_eq!((first.revision, first.entries.len()), (Revision(2), 4));
    assert_eq!(first.next, Some(key("k/3")));
    store.commit(txn().delete(key("k/4")).put(key("k/5"), "2").put(key("k/99"), "3")).await.unwrap();

    let second = store.list(&prefix("k/"), Some(first.revision), page(first.next)).await.unwrap();
    let third = store.list(&prefix("k/"), Some(first.revision), page(second.next.clone())).await.unwrap();
    assert_eq!(third.next, None);
    let listed = [first.entries, second.entries, third.entries].concat();
    assert_eq!(listed.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), names);
    assert!(listed.iter().all(|entry| entry.value == "1" && entry.modified == Revision(1)));
    let whole = store.list(&prefix("k/"), Some(Revision(2)), Page { after: None, limit: 10 }).await.unwrap();
    assert_eq!((whole.entries, whole.next), (listed, None));
}

async fn a_page_ends_when_it_is_heavy(store: Arc<dyn Store>) {
    let heavy = Bytes::from(vec![7; limits::VALUE_BYTES_MAX]);
    let all = (10..22).fold(txn(), |txn, number| txn.put(key(&format!("k{number}")), heavy.clone()));
    store.commit(all).await.unwrap();
    let first = store.list(&Prefix::all(), None, Page::default()).await.unwrap();
    assert_eq!((first.entries.len(), first.next), (8, Some(key("k17"))));
    assert_eq!(list_all(&*store, &Prefix::all(), None).await.unwrap().1.len(), 12);
    let first = store.revision(Revision(1), Page::default()).await.unwrap();
    assert_eq!((first.diffs.len(), first.next.clone(), first.info.changes), (8, Some(key("k17")), 12));
    let page = Page { after: first.next, ..Page::default() };
    let second = store.revision(Revision(1), page).await.unwrap();
    assert_eq!((second.diffs.len(), second.next, second.info), (4, None, first.info));
}

async fn history_is_newest_first_and_filtered_by_prefix(store: Arc<dyn Store>) {
    put(&*store, "a/1", "1").await;
    put(&*store, "b/1", "1").await;
    let many = Txn::new("bob", "both").put(key("a/1"), "2").put(key("b/2"), "2");
    store.commit(many).await.unwrap();
    delete(&*store, "a/1").await;

    let numbers = async |under: &str, before: Option<u64>, limit| {
        let history = store.history(&prefix(under), before.map(Revision), limit).await.unwrap();
        history.iter().map(|info| info.revision.0).collect::<Vec<_>>()
    };
    assert_eq!(numbers("", None, 10).await, [4, 3, 2, 1]);
    assert_eq!(numbers("", None, 2).await, [4, 3]);
    assert_eq!(numbers("", Some(3), 2).await, [2, 1]);
    assert_eq!(numbers("", Some(1), 2).await, [0_u64; 0]);
    assert_eq!(numbers("a/", None, 10).await, [4, 3, 1]);
    assert_eq!(numbers("b/", None, 10).await, [3, 2]);
    assert_eq!(numbers("c/", None, 10).await, [0_u64; 0]);

    let both = store.history(&prefix("b/"), None, 1).await.unwrap().remove(0);
    assert_eq!((both.author.as_str(), both.reason.as_str(), both.changes), ("bob", "both", 2));
    assert_eq!(both.keys, [key("b/2")]);
    store.compact(Revision(3)).await.unwrap();
    assert_eq!(numbers("", None, 10).await, [4, 3]);
}

async fn a_revision_is_shown_with_the_values_before_and_after(store: Arc<dyn Store>) {
    store.commit(txn().put(key("a"), "1").put(key("b"), "1")).await.unwrap();
    store.commit(txn().delete(key("a")).put(key("b"), "2").put(key("c"), "1")).await.unwrap();
    let shown = async |number| {
        let shown = store.revision(Revision(number), Page::default()).await.unwrap();
        let value =
            |entry: Option<Entry>| entry.map(|entry| String::from_utf8(entry.value.to_vec()).unwrap());
        assert_eq!(shown.info.keys.len(), shown.diffs.len());
        let diffs = shown.diffs.into_iter();
        diffs.map(|diff| (String::from(diff.key), value(diff.before), value(diff.after))).collect::<Vec<_>>()
    };
    let diff = |key: &str, before: Option<&str>, after: Option<&str>| {
        (key.to_owned(), before.map(str::to_owned), after.map(str::to_owned))
    };
    assert_eq!(shown(1).await, [diff("a", None, Some("1")), diff("b", None, Some("1"))]);
    let second = [diff("a", Some("1"), None), diff("b", Some("1"), Some("2")), diff("c", None, Some("1"))];
    assert_eq!(shown(2).await, second);
    assert!(matches!(
        store.revision(Revision(3), Page::default()).await,
        Err(Error::Future { head: Revision(2) })
    ));
    store.compact(Revision(2)).await.unwrap();
    assert_eq!(shown(2).await, second);
    for gone in [Revision(1), Revision::ZERO] {
        let error = store.revision(gone, Page::default()).await.unwrap_err();
        assert!(matches!(error, Error::Compacted { oldest: Revision(2) }), "{error:?}");
    }
}

async fn past_states_can_be_listed_and_future_ones_cannot(store: Arc<dyn Store>) {
    put(&*store, "a", "1").await;
    put(&*store, "b", "1").await;
    store.commit(txn().put(key("a"), "2").delete(key("b"))).await.unwrap();
    put(&*store, "b", "3").await;
    assert_eq!(state(&*store, Some(Revision(1))).await, pairs(&[("a", "1")]));
    assert_eq!(state(&*store, Some(Revision(2))).await, pairs(&[("a", "1"), ("b", "1")]));
    assert_eq!(state(&*store, Some(Revision(3))).await, pairs(&[("a", "2")]));
    assert_eq!(state(&*store, Some(Revision(4))).await, pairs(&[("a", "2"), ("b", "3")]));
    for future in [Revision(5), Revision(u64::MAX)] {
        let error = store.list(&Prefix::all(), Some(future), Page::default()).await.unwrap_err();
        assert!(matches!(error, Error::Future { head: Revision(4) }), "{error:?}");
        assert!(matches!(store.watch(Prefix::all(), future).await, Err(Error::Future { .. })));
        assert!(matches!(store.compact(future).await, Err(Error::Future { .. })));
    }
}

async fn compaction_forgets_the_past_and_nothing_else(store: Arc<dyn Store>) {
    put(&*store, "still", "1").await;
    put(&*store, "gone", "1").await;
    for value in ["1", "2", "3", "4"] {
        put(&*store, "busy", value).await;
    }
    delete(&*store, "gone").await;
    put(&*store, "busy", "5").await;
    let before = state(&*store, Some(Revision(5))).await;

    assert_eq!(store.compact(Revision(6)).await.unwrap(), Revision(6));
    assert_eq!(store.head().await.unwrap(), Head { revision: Revision(8), oldest: Revision(6) });
    assert_eq!(state(&*store, Some(Revision(5))).await, before);
    let sixth = pairs(&[("busy", "4"), ("gone", "1"), ("still", "1")]);
    assert_eq!(state(&*store, Some(Revision(6))).await, sixth);
    assert_eq!(state(&*store, Some(Revision(7))).await, pairs(&[("busy", "4"), ("still", "1")]));
    assert_eq!(state(&*store, None).await, pairs(&[("busy", "5"), ("still", "1")]));
    for gone in [Revision::ZERO, Revision(4)] {
        let error = store.list(&Prefix::all(), Some(gone), Page::default()).await.unwrap_err();
        assert!(matches!(error, Error::Compacted { oldest: Revision(6) }), "{error:?}");
    }
    assert_eq!(store.compact(Revision(3)).await.unwrap(), Revision(6));
    assert_eq!(store.compact(Revision(8)).await.unwrap(), Revision(8));
    assert_eq!(state(&*store, None).await, pairs(&[("busy", "5"), ("still", "1")]));
    assert_eq!(put(&*store, "gone", "2").await, Revision(9));
}

fn wish(to: u64, under: &str, seen: u64) -> Rollback {
    Rollback {
        to: Revision(to),
        prefix: prefix(under),
        seen: Revision(seen),
        author: "alice".into(),
        reason: "it was better before".into(),
        audit: None,
    }
}

async fn a_rollback_is_a_new_revision(store: Arc<dyn Store>) {
    store.commit(txn().put(key("a/1"), "1").put(key("a/2"), "1").put(key("b"), "1")).await.unwrap();
    store.commit(txn().put(key("a/1"), "2").delete(key("a/2")).put(key("a/3"), "2")).await.unwrap();
    put(&*store, "b", "2").await;
    assert_eq!(rollback(&*store, wish(1, "a/", 3)).await.unwrap(), Committed::New(Revision(4)));
    assert_eq!(state(&*store, None).await, pairs(&[("a/1", "1"), ("a/2", "1"), ("b", "2")]));
    assert_eq!(rollback(&*store, wish(1, "a/", 4)).await.unwrap(), Committed::Unchanged(Revision(4)));
    assert_eq!(rollback(&*store, wish(3, "", 4)).await.unwrap(), Committed::New(Revision(5)));
    assert_eq!(state(&*store, None).await, state(&*store, Some(Revision(3))).await);
    assert_eq!(rollback(&*store, wish(0, "", 5)).await.unwrap(), Committed::New(Revision(6)));
    assert_eq!(state(&*store, None).await, []);
}

async fn a_rollback_is_refused_when_what_it_would_undo_was_not_seen(store: Arc<dyn Store>) {
    put(&*store, "a/1", "1").await;
    put(&*store, "a/1", "2").await;
    put(&*store, "a/1", "3").await;
    let refused = rollback(&*store, wish(1, "a/", 2)).await.unwrap_err();
    assert!(matches!(refused, Error::Moved { found: Revision(3), .. }), "{refused:?}");
    put(&*store, "elsewhere", "").await;
    assert_eq!(rollback(&*store, wish(1, "a/", 3)).await.unwrap(), Committed::New(Revision(5)));
}

async fn a_watch_replays_and_then_follows(store: Arc<dyn Store>) {
    for value in ["1", "2", "3"] {
        put(&*store, "a", value).await;
    }
    let mut watch = store.watch(Prefix::all(), Revision(1)).await.unwrap();
    assert_eq!(next(&mut watch).await.revision, Revision(2));
    assert_eq!(next(&mut watch).await.revision, Revision(3));
    assert!(watch.next().now_or_never().is_none());
    let many = Txn::new("bob", "why not").put(key("b"), "1").delete(key("a")).put(key("c"), "1");
    store.commit(many).await.unwrap();
    let event = next(&mut watch).await;
    assert_eq!(
        (event.revision, event.author.as_str(), event.reason.as_str()),
        (Revision(4), "bob", "why not")
    );
    let entry = |name| Entry {
        key: key(name),
        value: "1".into(),
        created: Revision(4),
        modified: Revision(4),
        lease: None,
    };
    assert_eq!(event.changes, [Change::Delete(key("a")), Change::Put(entry("b")), Change::Put(entry("c"))]);
    let mut from_the_start = store.watch(Prefix::all(), Revision::ZERO).await.unwrap();
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(next(&mut from_the_start).await);
    }
    assert_eq!(all[3], event);
}

async fn a_watch_sees_its_prefix_only(store: Arc<dyn Store>) {
    put(&*store, "a/1", "1").await;
    put(&*store, "b/1", "1").await;
    let mut watch = store.watch(prefix("b/"), Revision::ZERO).await.unwrap();
    assert_eq!(next(&mut watch).await.revision, Revision(2));
    put(&*store, "a/1", "2").await;
    store.commit(txn().put(key("a/2"), "").put(key("b/2"), "")).await.unwrap();
    let event = next(&mut watch).await;
    assert_eq!(event.revision, Revision(4));
    assert_eq!(event.changes.iter().map(Change::key).collect::<Vec<_>>(), [&key("b/2")]);
}

async fn a_watcher_that_is_slow_misses_nothing(store: Arc<dyn Store>) {
    const REVISIONS: u64 = 3000;
    let mut idle = store.watch(prefix("k/"), Revision::ZERO).await.unwrap();
    let lively = store.watch(prefix("k/"), Revision::ZERO).await.unwrap();
    let lively = tokio::spawn(lively.take(REVISIONS as usize).try_collect::<Vec<_>>());
    for start in (0..REVISIONS).step_by(500) {
        let commits = (start..start + 500)
            .map(|number| store.commit(txn().put(key(&format!("k/{}", number % 7)), number.to_string())));
        join_all(commits).await.into_iter().for_each(|commit| assert!(commit.is_ok()));
    }
    let lively = soon(lively).await.unwrap().unwrap();
    for number in 1..=REVISIONS {
        let event = next(&mut idle).await;
        assert_eq!(event.revision, Revision(number));
        assert_eq!(event, lively[number as usize - 1]);
    }
    assert!(idle.next().now_or_never().is_none());
}

async fn a_watcher_behind_compaction_is_told_so(store: Arc<dyn Store>) {
    for value in ["1", "2", "3", "4"] {
        put(&*store, "a", value).await;
    }
    store.compact(Revision(3)).await.unwrap();
    for after in [Revision::ZERO, Revision(1)] {
        let refused = store.watch(Prefix::all(), after).await.err().unwrap();
        assert!(matches!(refused, Error::Compacted { oldest: Revision(3) }), "{refused:?}");
    }
    let mut watch = store.watch(Prefix::all(), Revision(2)).await.unwrap();
    assert_eq!(next(&mut watch).await.revision, Revision(3));
}

async fn leased(store: &dyn Store, ttl: Duration, names: &[&str]) -> LeaseId {
    let lease = store.grant(ttl).await.unwrap();
    let attach = names.iter().fold(txn(), |txn, name| txn.put_leased(key(name), "here", lease));
    store.commit(attach).await.unwrap();
    lease
}

async fn a_lapsed_lease_takes_its_keys_along_in_one_revision(store: Arc<dyn Store>) {
    const TTL: Duration = Duration::from_millis(700);
    put(&*store, "c", "stays").await;
    let start = Instant::now();
    let lease = leased(&*store, TTL, &["a", "b"]).await;
    let other = leased(&*store, Duration::from_secs(3600), &["d"]).await;
    assert_ne!(lease, other);
    let mut watch = store.watch(Prefix::all(), Revision(3)).await.unwrap();
    let event = next(&mut watch).await;
    assert!(start.elapsed() >= TTL);
    assert_eq!((event.revision, event.author.as_str()), (Revision(4), "lease"));
    assert_eq!(event.changes, [Change::Delete(key("a")), Change::Delete(key("b"))]);
    assert_eq!(state(&*store, None).await, pairs(&[("c", "stays"), ("d", "here")]));
    assert_eq!(store.get(&key("d")).await.unwrap().unwrap().lease, Some(other));
    assert!(matches!(store.keep_alive(lease).await, Err(Error::NoLease { lease: gone }) if gone == lease));
    let late = store.commit(txn().put_leased(key("a"), "here", lease)).await;
    assert!(matches!(late, Err(Error::NoLease { .. })), "{late:?}");
}

async fn a_lease_that_is_kept_alive_does_not_lapse(store: Arc<dyn Store>) {
    const TTL: Duration = Duration::from_secs(2);
    let kept = leased(&*store, TTL, &["kept"]).await;
    leased(&*store, TTL, &["lost"]).await;
    let mut watch = store.watch(prefix("lost"), store.head().await.unwrap().revision).await.unwrap();
    let mut beat = tokio::time::interval(TTL / 10);
    let lost = loop {
        tokio::select! {
            event = next(&mut watch) => break event,
            _ = beat.tick() => assert_eq!(store.keep_alive(kept).await.unwrap(), TTL),
        }
    };
    assert_eq!(lost.author, "lease");
    assert_eq!(value(&*store, "kept").await, Some("here".into()));
}

async fn a_revoked_lease_is_gone_at_once(store: Arc<dyn Store>) {
    let lease = leased(&*store, Duration::from_secs(3600), &["a", "b"]).await;
    store.revoke(lease).await.unwrap();
    assert_eq!(state(&*store, None).await, []);
    let history = store.history(&Prefix::all(), None, 1).await.unwrap();
    assert_eq!((history[0].author.as_str(), history[0].changes), ("lease", 2));
    assert!(matches!(store.revoke(lease).await, Err(Error::NoLease { .. })));

    let idle = store.grant(Duration::from_secs(3600)).await.unwrap();
    store.revoke(idle).await.unwrap();
    assert_eq!(store.head().await.unwrap().revision, Revision(2));
}

async fn a_key_that_is_put_without_its_lease_outlives_it(store: Arc<dyn Store>) {
    let lease = leased(&*store, Duration::from_secs(3600), &["a", "b"]).await;
    assert_eq!(put(&*store, "a", "here").await, Revision(2));
    store.revoke(lease).await.unwrap();
    assert_eq!(state(&*store, None).await, pairs(&[("a", "here")]));
}

async fn audit_records_are_found_by_who_and_when(store: Arc<dyn Store>) {
    for number in 1..=6 {
        let who = if number % 2 == 0 { "even" } else { "odd" };
        let record = Record {
            from: Some("[2001:db8::1]:7501".parse().unwrap()),
            reason: "testing".into(),
            details: serde_json::json!({ "number": number }),
            ..Record::new(who, "count", "numbers", Outcome::Refused)
        };
        assert_eq!(store.append_audit(record).await.unwrap(), number);
    }
    let found = async |filter| store.audit(filter).await.unwrap();
    let numbers = |entries: &[audit::Entry]| entries.iter().map(|entry| entry.sequence).collect::<Vec<_>>();
    let all = found(audit::Filter::default()).await;
    assert_eq!(numbers(&all), [6, 5, 4, 3, 2, 1]);
    assert_eq!(all[0].record.details, serde_json::json!({ "number": 6 }));
    assert_eq!(all[0].record.from, Some("[2001:db8::1]:7501".parse().unwrap()));
    assert_eq!((all[0].revision, all[0].record.outcome), (None, Outcome::Refused));

    let even = || audit::Filter { who: Some("even".into()), ..audit::Filter::default() };
    assert_eq!(numbers(&found(even()).await), [6, 4, 2]);
    assert_eq!(numbers(&found(audit::Filter { limit: 1, before: Some(6), ..even() }).await), [4]);
    let (first, last) = (all[5].at, all[0].at);
    let since = |since| audit::Filter { since: Some(since), ..audit::Filter::default() };
    let until = |until| audit::Filter { until: Some(until), ..audit::Filter::default() };
    assert_eq!(found(since(first)).await.len(), 6);
    assert_eq!(found(since(last + Duration::from_secs(1))).await, []);
    assert_eq!(found(until(first)).await, []);
    assert_eq!(found(until(last + Duration::from_secs(1))).await.len(), 6);
}

async fn an_audit_record_goes_with_its_transaction(store: Arc<dyn Store>) {
    let record = || Record::new("alice", "put", "a", Outcome::Done);
    store.commit(txn().put(key("a"), "1").audited(record())).await.unwrap();
    store.commit(txn().put(key("a"), "1").audited(record())).await.unwrap();
    store.commit(txn().expect(key("a"), Expect::Absent).audited(record())).await.unwrap_err();
    let trail = store.audit(audit::Filter::default()).await.unwrap();
    let revisions: Vec<_> = trail.iter().map(|entry| (entry.sequence, entry.revision)).collect();
    assert_eq!(revisions, [(2, None), (1, Some(Revision(1)))]);
}

async fn sums_are_kept_without_making_revisions(store: Arc<dyn Store>) {
    // Later than any clock of a test.
    let ends = 100_000_000_000;
    let count = |name: &str, ends, milli| Count { name: key(name), ends, milli };
    // One that is long over is forgotten.
    store.keep_counts(vec![count("b", ends, 1), count("a", ends, 2), count("over", 0, 1)]).await.unwrap();
    store.keep_counts(vec![count("b", ends, 3), count("c", ends - 7200, u64::MAX)]).await.unwrap();
    let most = i64::MAX as u64;
    let kept = [count("a", ends, 2), count("b", ends, 3), count("c", ends - 7200, most)];
    assert_eq!(store.counts(None).await.unwrap(), kept);
    assert_eq!(store.counts(Some(key("a"))).await.unwrap(), kept[1..]);
    assert_eq!(store.head().await.unwrap().revision, Revision::ZERO);
    let many = (0..=limits::PAGE_ENTRIES_MAX).map(|n| count(&format!("n{n:04}"), ends, 0));
    store.keep_counts(many.collect()).await.unwrap();
    let first = store.counts(Some(key("c"))).await.unwrap();
    let rest = store.counts(first.last().map(|count| count.name.clone())).await.unwrap();
    assert_eq!((first.len(), rest.len()), (limits::PAGE_ENTRIES_MAX, 1));
    let refused = store.keep_counts(vec![count("a", ends, 0); limits::COUNTS_MAX + 1]).await;
    assert!(matches!(refused, Err(Error::Invalid(Violation::TooManyCounts { .. }))), "{refused:?}");
}

async fn limits_hold_at_the_door(store: Arc<dyn Store>) {
    let large = Bytes::from(vec![0; limits::VALUE_BYTES_MAX + 1]);
    let refused = store.commit(txn().put(key("a"), large)).await;
    assert!(matches!(refused, Err(Error::Invalid(Violation::ValueTooLong { .. }))), "{refused:?}");
    for ttl in [Duration::ZERO, Duration::MAX] {
        let refused = store.grant(ttl).await;
        assert!(matches!(refused, Err(Error::Invalid(Violation::LeaseTtl { .. }))), "{refused:?}");
    }
    let record = Record::new("a".repeat(257), "", "", Outcome::Done);
    let refused = store.append_audit(record).await;
    assert!(matches!(refused, Err(Error::Invalid(Violation::AuditFieldTooLong { .. }))), "{refused:?}");

    let lease = store.grant(Duration::from_secs(3600)).await.unwrap();
    let full = |from: usize, count| {
        (from..from + count).fold(txn(), |txn, number| txn.put_leased(key(&format!("k{number}")), "", lease))
    };
    store.commit(full(0, limits::LEASE_KEYS_MAX)).await.unwrap();
    store.commit(full(0, 1)).await.unwrap();
    let refused = store.commit(full(limits::LEASE_KEYS_MAX, 1)).await;
    assert!(matches!(refused, Err(Error::Invalid(Violation::TooManyLeaseKeys { .. }))), "{refused:?}");
    store.revoke(lease).await.unwrap();
    assert_eq!(store.head().await.unwrap().revision, Revision(2));
}
