//! A store that followed another cannot be told from it, whatever happened on the way.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tempfile::TempDir;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::TryRecvError;

use super::{EmbeddedStore, Options};
use crate::store::audit::{Filter, Outcome, Record};
use crate::store::error::Error;
use crate::store::replicated::{Beside, Course, Epoch, Piece, Position};
use crate::store::types::{Count, Key, LeaseId, Page, Prefix, Revision, Txn};
use crate::store::{Clock, Store, list_all};

const KEYS: [&str; 4] = ["a", "a/1", "b", "é"];

/// What happens to a leader and the copy that follows it.
#[derive(Clone, Debug)]
enum Step {
    Put(&'static str, u8),
    Delete(&'static str),
    /// Puts a key on a new lease.
    Leased(&'static str),
    /// Ends the oldest lease that runs.
    Revoke,
    Audit(u8),
    Count(&'static str, u64),
    Compact(u64),
    /// The copy takes what there is.
    Follow,
    /// The connection breaks: what was written meanwhile is not heard of as it happens.
    Cut,
    ReopenCopy,
    ReopenLeader,
    /// The leader dies, the copy leads, and the former leader follows it.
    FailOver,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (select(&KEYS[..]), 0..4_u8).prop_map(|(key, value)| Step::Put(key, value)),
        3 => select(&KEYS[..]).prop_map(Step::Delete),
        2 => select(&KEYS[..]).prop_map(Step::Leased),
        1 => Just(Step::Revoke),
        3 => (0..9_u8).prop_map(Step::Audit),
        3 => (select(&KEYS[..]), 0..99_u64).prop_map(|(name, milli)| Step::Count(name, milli)),
        2 => (0..6_u64).prop_map(Step::Compact),
        5 => Just(Step::Follow),
        2 => Just(Step::Cut),
        1 => Just(Step::ReopenCopy),
        1 => Just(Step::ReopenLeader),
        1 => Just(Step::FailOver),
    ]
}

/// A store that can be closed, opened and given up.
struct Place {
    directory: TempDir,
    store: Option<EmbeddedStore>,
}

impl Place {
    async fn new() -> Self {
        let mut this = Self { directory: TempDir::new().unwrap(), store: None };
        this.open().await;
        this
    }

    async fn open(&mut self) {
        self.store = None;
        let clock: Clock = Arc::new(|| SystemTime::UNIX_EPOCH);
        let options = Options { follows: true, ..Options::new(self.directory.path(), clock) };
        self.store = Some(EmbeddedStore::open(options).await.unwrap());
    }

    fn store(&self) -> &EmbeddedStore {
        self.store.as_ref().unwrap()
    }
}

struct Pair {
    leader: Place,
    copy: Place,
    epochs: u64,
    /// While the two are connected.
    hears: Option<broadcast::Receiver<Arc<Beside>>>,
    given_up: usize,
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

impl Pair {
    async fn new() -> Self {
        let this = Self {
            leader: Place::new().await,
            copy: Place::new().await,
            epochs: 1,
            hears: None,
            given_up: 0,
        };
        this.leader.store().lead(1).await.unwrap();
        this
    }

    async fn take(&mut self, step: Step) {
        let leader = self.leader.store();
        match step {
            Step::Put(name, value) => {
                let txn = Txn::new("both", "to see").put(key(name), vec![value]);
                let record = Record::new("both", "put", name, Outcome::Done);
                leader.commit(if value % 2 == 0 { txn.audited(record) } else { txn }).await.unwrap();
            }
            Step::Delete(name) => {
                leader.commit(Txn::new("both", "to see").delete(key(name))).await.unwrap();
            }
            Step::Leased(name) => {
                let lease = leader.grant(Duration::from_secs(3600)).await.unwrap();
                leader.commit(Txn::new("both", "").put_leased(key(name), "leased", lease)).await.unwrap();
            }
            Step::Revoke => {
                if let Some((lease, _)) = leader.leases().await.unwrap().first() {
                    leader.revoke(*lease).await.unwrap();
                }
            }
            Step::Audit(what) => {
                let record = Record::new("somebody", "looked", what.to_string(), Outcome::Refused);
                leader.append_audit(record).await.unwrap();
            }
            Step::Count(name, milli) => {
                leader.keep_counts(vec![Count { name: key(name), ends: 1 << 40, milli }]).await.unwrap();
            }
            Step::Compact(back) => {
                let head = leader.head().await.unwrap().revision;
                leader.compact(Revision(head.0.saturating_sub(back))).await.unwrap();
            }
            Step::Follow => self.follow().await,
            Step::Cut => self.hears = None,
            Step::ReopenCopy => {
                self.hears = None;
                self.copy.open().await;
            }
            Step::ReopenLeader => {
                self.hears = None;
                self.leader.open().await;
                self.lead().await;
            }
            Step::FailOver => self.fail_over().await,
        }
    }

    async fn lead(&mut self) {
        self.epochs += 1;
        self.leader.store().lead(self.epochs).await.unwrap();
    }

    async fn fail_over(&mut self) {
        self.hears = None;
        std::mem::swap(&mut self.leader, &mut self.copy);
        self.copy.open().await;
        self.lead().await;
    }

    /// Brings the copy to where the leader is: anew after a cut, otherwise by what was heard.
    async fn follow(&mut self) {
        let (leader, copy) = (self.leader.store(), self.copy.store());
        // Compaction overtook the watch, which ends it.
        let copied = copy.head().await.unwrap().revision;
        if self.hears.is_none() || copied.next() < leader.head().await.unwrap().oldest {
            self.hears = Some(self.leader.store().beside());
            self.connect().await;
        }
        let (leader, copy) = (self.leader.store(), self.copy.store());
        let copied = copy.position().await.unwrap();
        let head = leader.head().await.unwrap();
        let from = copied.head.revision;
        let mut watch = leader.watch(Prefix::all(), from).await.unwrap();
        for _ in from.0..head.revision.0 {
            let event = watch.next().await.unwrap().unwrap();
            copy.take(Piece::Events(vec![event])).await.unwrap();
        }
        loop {
            match self.hears.as_mut().unwrap().try_recv() {
                Ok(beside) => {
                    let Beside { counts, began, ended, oldest, audited, .. } = (*beside).clone();
                    copy.take(Piece::Counts(counts)).await.unwrap();
                    copy.take(Piece::Leases { began, ended }).await.unwrap();
                    if let Some(oldest) = oldest {
                        copy.take(Piece::Oldest(oldest)).await.unwrap();
                    }
                    if audited {
                        let known = copy.position().await.unwrap().audited;
                        copy.take(Piece::Audit(leader.audited_after(known).await.unwrap())).await.unwrap();
                    }
                }
                Err(TryRecvError::Empty) => return,
                Err(lost) => panic!("{lost}"),
            }
        }
    }

    async fn connect(&mut self) {
        let position = self.leader.store().position().await.unwrap();
        let copied = self.copy.store().position().await.unwrap();
        let mut from = copied.head.revision;
        if position.course_of(&copied) == Course::BeginAnew {
            self.given_up += 1;
            self.copy.store().wipe().await.unwrap();
            self.copy.open().await;
            assert!(self.copy.store().position().await.unwrap().is_new());
            from = Revision::ZERO;
        }
        let (leader, copy) = (self.leader.store(), self.copy.store());
        if from == Revision::ZERO {
            let before = position.head.oldest.previous();
            let (_, entries) = list_all(leader, &Prefix::all(), Some(before)).await.unwrap();
            for entry in entries {
                copy.take(Piece::Base(vec![entry])).await.unwrap();
            }
            from = before;
        }
        copy.take(Piece::Epochs(position.epochs)).await.unwrap();
        let mut watch = leader.watch(Prefix::all(), from).await.unwrap();
        for _ in from.0..position.head.revision.0 {
            copy.take(Piece::Events(vec![watch.next().await.unwrap().unwrap()])).await.unwrap();
        }
        copy.take(Piece::Oldest(position.head.oldest)).await.unwrap();
        let running = leader.leases().await.unwrap();
        copy.take(Piece::AllLeases { running, last: position.leased }).await.unwrap();
        let known = copy.position().await.unwrap().audited;
        copy.take(Piece::Audit(leader.audited_after(known).await.unwrap())).await.unwrap();
        let counts = leader.counts(None).await.unwrap();
        let up_to = counts.first().map(|count| count.name.clone());
        let (first, rest) = counts.split_at(counts.len().min(1));
        copy.take(Piece::AllCounts { after: None, up_to: up_to.clone(), counts: first.to_vec() })
            .await
            .unwrap();
        copy.take(Piece::AllCounts { after: up_to, up_to: None, counts: rest.to_vec() }).await.unwrap();
    }
}

/// Everything that can be asked of a store.
async fn told(store: &EmbeddedStore) -> String {
    let Position { head, .. } = store.position().await.unwrap();
    let mut said = format!("{:#?}\n", store.position().await.unwrap());
    for revision in (0..=head.revision.0 + 1).map(Revision) {
        let listed = list_all(store, &Prefix::all(), Some(revision)).await;
        let shown = store.revision(revision, Page::default()).await;
        said += &format!("{revision}: {listed:#?} {shown:#?}\n");
    }
    for prefix in ["", "a", "b"] {
        let prefix = Prefix::new(prefix).unwrap();
        let history = store.history(&prefix, None, 1000).await.unwrap();
        let mut watch = store.watch(prefix, head.oldest.previous()).await.unwrap();
        for _ in &history {
            said += &format!("{:#?}\n", watch.next().await.unwrap().unwrap());
        }
        said += &format!("{history:#?}\n");
    }
    let (counts, leases) = (store.counts(None).await.unwrap(), store.leases().await.unwrap());
    said + &format!("{counts:#?} {leases:#?} {:#?}", store.audit(Filter::default()).await.unwrap())
}

async fn same(pair: &Pair) {
    let (copy, leader) = (told(pair.copy.store()).await, told(pair.leader.store()).await);
    for (number, (copy, leader)) in copy.lines().zip(leader.lines()).enumerate() {
        assert_eq!(copy, leader, "line {number}");
    }
    assert_eq!(copy.lines().count(), leader.lines().count());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_copy_that_followed_cannot_be_told_from_the_original(steps in vec(step(), 1..50)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut pair = Pair::new().await;
            for step in steps {
                pair.take(step).await;
            }
            pair.follow().await;
            same(&pair).await;
            // And it goes on as the original would.
            pair.fail_over().await;
            let lease = pair.leader.store().grant(Duration::from_secs(1)).await.unwrap();
            assert!(lease > LeaseId(pair.copy.store().position().await.unwrap().leased));
            pair.take(Step::Put("a", 9)).await;
            pair.follow().await;
            same(&pair).await;
        });
    }
}

#[tokio::test]
async fn a_former_leader_that_wrote_what_nobody_copied_is_given_up() {
    let mut pair = Pair::new().await;
    pair.take(Step::Put("a", 1)).await;
    pair.follow().await;
    pair.take(Step::Put("a", 3)).await;
    pair.fail_over().await;
    pair.take(Step::Put("b", 1)).await;
    pair.follow().await;
    assert_eq!(pair.given_up, 1);
    same(&pair).await;
}

#[tokio::test]
async fn a_store_that_follows_takes_nothing_of_its_own_and_one_that_leads_nothing_of_others() {
    let place = Place::new().await;
    let store = place.store();
    let put = || Txn::new("me", "").put(key("a"), "1");
    assert!(matches!(store.commit(put()).await, Err(Error::Follows)));
    assert!(matches!(store.keep_counts(Vec::new()).await, Err(Error::Follows)));
    assert!(matches!(store.grant(Duration::from_secs(1)).await, Err(Error::Follows)));
    assert!(matches!(store.compact(Revision(1)).await, Err(Error::Follows)));
    let record = Record::new("me", "x", "", Outcome::Done);
    assert!(matches!(store.append_audit(record).await, Err(Error::Follows)));
    store.lead(7).await.unwrap();
    store.lead(8).await.unwrap();
    let epochs = store.position().await.unwrap().epochs;
    assert_eq!(epochs, [Epoch { name: 7, after: Revision::ZERO, audited: 0 }], "it led already");
    store.commit(put()).await.unwrap();
    assert!(matches!(store.take(Piece::Counts(Vec::new())).await, Err(Error::Leads)));
    assert!(matches!(store.wipe().await, Err(Error::Leads)));
    assert_eq!(store.head().await.unwrap().revision, Revision(1));
}

#[tokio::test]
async fn what_does_not_come_next_is_not_taken() {
    let mut pair = Pair::new().await;
    for value in [1, 3, 5] {
        pair.take(Step::Put("a", value)).await;
    }
    let mut watch = pair.leader.store().watch(Prefix::all(), Revision::ZERO).await.unwrap();
    let mut events = Vec::new();
    for _ in 0..3 {
        events.push(watch.next().await.unwrap().unwrap());
    }
    let copy = pair.copy.store();
    let gap = vec![events[0].clone(), events[2].clone()];
    assert!(matches!(copy.take(Piece::Events(gap)).await, Err(Error::OutOfOrder { .. })));
    assert_eq!(copy.head().await.unwrap().revision, Revision::ZERO, "nothing of it was written");
    copy.take(Piece::Events(events[..1].to_vec())).await.unwrap();
    for wrong in [&events[0], &events[2]] {
        let refused = copy.take(Piece::Events(vec![wrong.clone()])).await;
        assert!(matches!(refused, Err(Error::OutOfOrder { head: Revision(1) })));
    }
    let (_, entries) = list_all(pair.leader.store(), &Prefix::all(), None).await.unwrap();
    assert!(matches!(copy.take(Piece::Base(entries)).await, Err(Error::OutOfOrder { .. })));
}

#[tokio::test]
async fn leases_of_a_copy_lapse_only_once_it_leads() {
    let mut pair = Pair::new().await;
    let lease = pair.leader.store().grant(Duration::from_millis(50)).await.unwrap();
    let leased = Txn::new("both", "").put_leased(key("a"), "1", lease);
    pair.leader.store().commit(leased).await.unwrap();
    pair.follow().await;
    // The one that leads ends it; whoever follows is told.
    let mut watch = pair.leader.store().watch(Prefix::all(), Revision(1)).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().author, "lease");
    assert_eq!(pair.copy.store().head().await.unwrap().revision, Revision(1));
    pair.fail_over().await;
    let mut watch = pair.leader.store().watch(Prefix::all(), Revision(1)).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().author, "lease");
}

#[tokio::test]
async fn audit_records_that_are_known_are_passed_over_wherever_they_stand() {
    let mut pair = Pair::new().await;
    for what in 0..3 {
        pair.take(Step::Audit(what)).await;
    }
    let records = pair.leader.store().audited_after(0).await.unwrap();
    let copy = pair.copy.store();
    copy.take(Piece::Audit(records[..2].to_vec())).await.unwrap();
    let again = [&records[1..], &records[..]].concat();
    copy.take(Piece::Audit(again)).await.unwrap();
    assert_eq!(copy.audited_after(0).await.unwrap(), records);
}
