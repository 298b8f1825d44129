//! A store that is too simple to be wrong — it remembers every state as a whole — and the test that a real one cannot be
//! told apart from it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::{FutureExt, StreamExt};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tempfile::TempDir;

use super::embedded::{EmbeddedStore, Options};
use super::*;

const KEYS: [&str; 6] = ["a", "a/1", "a/2", "b/1", "b/2", "é"];
const PREFIXES: [&str; 5] = ["", "a", "a/", "b/", "nothing"];
const VALUES: [&str; 4] = ["", "1", "2", "3"];

type State = BTreeMap<Key, Entry>;

struct Model {
    /// By revision.
    states: Vec<State>,
    oldest: Revision,
    /// What was the oldest after each compaction.
    overtaken_at: Vec<Revision>,
}

impl Model {
    fn new() -> Self {
        Self { states: vec![State::new()], oldest: Revision(1), overtaken_at: Vec::new() }
    }

    fn head(&self) -> Revision {
        Revision(self.states.len() as u64 - 1)
    }

    fn now(&self) -> &State {
        &self.states[self.states.len() - 1]
    }

    fn commit(&mut self, txn: &Txn) -> Result<Committed> {
        if let Some(UnchangedSince { prefix, since }) = &txn.guard {
            self.check_known(*since)?;
            let found =
                (since.0 + 1..=self.head().0).map(Revision).rfind(|later| self.touched(*later, prefix));
            if let Some(found) = found {
                return Err(Error::Moved { prefix: prefix.clone(), since: *since, found });
            }
        }
        for (key, expected) in &txn.conditions {
            let found = self.now().get(key).map(|entry| entry.modified);
            let holds = match expected {
                Expect::Absent => found.is_none(),
                Expect::Present => found.is_some(),
                Expect::Revision(revision) => found == Some(*revision),
            };
            if !holds {
                return Err(Error::Conflict { key: key.clone(), expected: *expected, found });
            }
        }
        let (mut state, revision) = (self.now().clone(), self.head().next());
        for write in &txn.writes {
            match write {
                Write::Delete { key } => drop(state.remove(key)),
                Write::Put { key, value, lease } => {
                    let old = state.get(key);
                    if old.is_some_and(|old| old.value == value && old.lease == *lease) {
                        continue;
                    }
                    let created = old.map_or(revision, |old| old.created);
                    let (key, value, lease) = (key.clone(), value.clone(), *lease);
                    state.insert(key.clone(), Entry { key, value, created, modified: revision, lease });
                }
            }
        }
        if state == *self.now() {
            return Ok(Committed::Unchanged(self.head()));
        }
        self.states.push(state);
        Ok(Committed::New(revision))
    }

    fn rollback(&mut self, to: Revision, prefix: &Prefix, seen: Revision) -> Result<Committed> {
        self.check_known(to)?;
        self.check_known(seen)?;
        let mut txn = Txn::new("model", "").unchanged_since(prefix.clone(), seen);
        for key in KEYS.map(|key| Key::new(key).unwrap()).into_iter().filter(|key| prefix.contains(key)) {
            txn = match self.states[to.0 as usize].get(&key) {
                Some(entry) => txn.put(key, entry.value.clone()),
                None => txn.delete(key),
            };
        }
        self.commit(&txn)
    }

    fn compact(&mut self, keep_from: Revision) -> Result<Revision> {
        if keep_from > self.head() && keep_from > self.oldest {
            return Err(Error::Future { head: self.head() });
        }
        self.oldest = self.oldest.max(keep_from);
        self.overtaken_at.push(self.oldest);
        Ok(self.oldest)
    }

    fn check_known(&self, revision: Revision) -> Result<()> {
        match revision {
            _ if revision > self.head() => Err(Error::Future { head: self.head() }),
            _ if revision.0 + 1 < self.oldest.0 => Err(Error::Compacted { oldest: self.oldest }),
            _ => Ok(()),
        }
    }

    fn diffs(&self, revision: Revision) -> Vec<Diff> {
        let (before, after) = (&self.states[revision.0 as usize - 1], &self.states[revision.0 as usize]);
        let keys = KEYS.map(|key| Key::new(key).unwrap()).into_iter();
        let diffs =
            keys.map(|key| Diff { before: before.get(&key).cloned(), after: after.get(&key).cloned(), key });
        diffs.filter(|diff| diff.before != diff.after).collect()
    }

    fn touched(&self, revision: Revision, prefix: &Prefix) -> bool {
        self.diffs(revision).iter().any(|diff| prefix.contains(&diff.key))
    }

    fn changes(&self, revision: Revision, prefix: &Prefix) -> Vec<Change> {
        let diffs = self.diffs(revision).into_iter().filter(|diff| prefix.contains(&diff.key));
        diffs.map(|diff| diff.after.map_or(Change::Delete(diff.key), Change::Put)).collect()
    }
}

/// What is done to both. Revisions are counted back from one past the head, so that some do not exist yet.
#[derive(Clone, Debug)]
enum Step {
    Commit { guard: Option<(&'static str, u64)>, conditions: Vec<(&'static str, Wanted)>, writes: Vec<Wish> },
    Rollback { to: u64, prefix: &'static str, seen: u64 },
    Compact { keep_from: u64 },
    Watch { prefix: &'static str, after: u64 },
    Follow { watch: usize, events: usize },
    Reopen,
}

#[derive(Clone, Copy, Debug)]
enum Wanted {
    Absent,
    Present,
    /// As it is now.
    Now,
    Back(u64),
}

type Wish = (&'static str, Option<&'static str>);

fn step() -> impl Strategy<Value = Step> {
    let wanted = prop_oneof![
        1 => Just(Wanted::Absent),
        1 => Just(Wanted::Present),
        4 => Just(Wanted::Now),
        1 => (0..5_u64).prop_map(Wanted::Back),
    ];
    let write = (select(&KEYS[..]), prop::option::weighted(0.75, select(&VALUES[..])));
    let guard = prop::option::weighted(0.2, (select(&PREFIXES[..]), 0..5_u64));
    let commit = (guard, vec((select(&KEYS[..]), wanted), 0..2), vec(write, 0..4));
    prop_oneof![
        12 => commit.prop_map(|(guard, conditions, writes)| Step::Commit { guard, conditions, writes }),
        2 => (0..12_u64, select(&PREFIXES[..]), 0..4_u64)
            .prop_map(|(to, prefix, seen)| Step::Rollback { to, prefix, seen }),
        1 => (0..10_u64).prop_map(|keep_from| Step::Compact { keep_from }),
        2 => (select(&PREFIXES[..]), 0..10_u64).prop_map(|(prefix, after)| Step::Watch { prefix, after }),
        4 => (0..4_usize, 1..5_usize).prop_map(|(watch, events)| Step::Follow { watch, events }),
        1 => Just(Step::Reopen),
    ]
}

/// A watch, and how far the model has followed it.
struct Followed {
    watch: Watch,
    prefix: Prefix,
    seen: Revision,
}

struct Pair {
    model: Model,
    /// Empty only while it is opened anew.
    store: Option<EmbeddedStore>,
    directory: TempDir,
    watches: Vec<Followed>,
}

async fn open(directory: &TempDir) -> Option<EmbeddedStore> {
    let clock: Clock = Arc::new(|| SystemTime::UNIX_EPOCH);
    Some(EmbeddedStore::open(Options::new(directory.path(), clock)).await.unwrap())
}

fn same<T: fmt::Debug>(found: Result<T>, expected: Result<T>) {
    assert_eq!(format!("{found:?}"), format!("{expected:?}"));
}

impl Pair {
    async fn new() -> Self {
        let directory = TempDir::new().unwrap();
        Self { model: Model::new(), store: open(&directory).await, directory, watches: Vec::new() }
    }

    fn store(&self) -> &dyn Store {
        self.store.as_ref().unwrap()
    }

    fn back(&self, back: u64) -> Revision {
        Revision((self.model.head().0 + 1).saturating_sub(back))
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Commit { guard, conditions, writes } => {
                let txn = self.txn(guard, &conditions, writes);
                let expected = self.model.commit(&txn);
                same(self.store().commit(txn).await, expected);
            }
            Step::Rollback { to, prefix, seen } => {
                let (to, seen, prefix) = (self.back(to), self.back(seen), Prefix::new(prefix).unwrap());
                let expected = self.model.rollback(to, &prefix, seen);
                let (author, reason) = ("store".to_owned(), String::new());
                let wish = Rollback { to, prefix, seen, author, reason, audit: None };
                same(rollback(self.store(), wish).await, expected);
            }
            Step::Compact { keep_from } => {
                let keep_from = self.back(keep_from);
                let expected = self.model.compact(keep_from);
                same(self.store().compact(keep_from).await, expected);
            }
            Step::Watch { prefix, after } => {
                let (prefix, seen) = (Prefix::new(prefix).unwrap(), self.back(after));
                let watch = self.store().watch(prefix.clone(), seen).await;
                same(watch.as_ref().map(drop).map_err(Clone::clone), self.model.check_known(seen));
                self.watches.extend(watch.ok().map(|watch| Followed { watch, prefix, seen }));
            }
            Step::Follow { watch, events } => {
                for _ in 0..events {
                    self.follow(watch).await;
                }
            }
            Step::Reopen => {
                self.watches.clear();
                self.store = None;
                self.store = open(&self.directory).await;
            }
        }
    }

    fn txn(
        &self,
        guard: Option<(&'static str, u64)>,
        conditions: &[(&'static str, Wanted)],
        writes: Vec<Wish>,
    ) -> Txn {
        let mut txn = Txn::new("both", "to see");
        if let Some((prefix, since)) = guard {
            txn = txn.unchanged_since(Prefix::new(prefix).unwrap(), self.back(since));
        }
        for (key, wanted) in conditions {
            let key = Key::new(*key).unwrap();
            let now = self.model.now().get(&key).map(|entry| entry.modified);
            let expect = match wanted {
                Wanted::Absent => Expect::Absent,
                Wanted::Present => Expect::Present,
                Wanted::Now => now.map_or(Expect::Absent, Expect::Revision),
                Wanted::Back(back) => Expect::Revision(self.back(*back)),
            };
            txn = txn.expect(key, expect);
        }
        for (key, value) in BTreeMap::from_iter(writes) {
            let key = Key::new(key).unwrap();
            txn = match value {
                Some(value) => txn.put(key, value),
                None => txn.delete(key),
            };
        }
        txn
    }

    /// Takes one event off a watch, and answers whether there was one to take.
    async fn follow(&mut self, watch: usize) -> bool {
        let Some(followed) = self.watches.get_mut(watch) else { return false };
        let model = &self.model;
        let (prefix, behind) = (&followed.prefix, model.check_known(followed.seen).is_err());
        let next =
            (followed.seen.0 + 1..=model.head().0).map(Revision).find(|later| model.touched(*later, prefix));
        let told = match next {
            Some(_) => followed.watch.next().await,
            None => followed.watch.next().now_or_never().flatten(),
        };
        match (told, next) {
            (None, None) => return false,
            (Some(Ok(event)), Some(revision)) => {
                assert_eq!((event.revision, event.changes), (revision, model.changes(revision, prefix)));
                followed.seen = revision;
            }
            (Some(Err(Error::Compacted { oldest })), _) if behind => {
                // As it was when the watch was overtaken: what came later may have let go of more.
                let overtook = oldest.0 > followed.seen.0 + 1 && model.overtaken_at.contains(&oldest);
                assert!(overtook, "{oldest:?} of {:?}", model.overtaken_at);
                self.watches.remove(watch);
            }
            (told, next) => panic!("told {told:?}, but {next:?} comes next"),
        }
        true
    }

    /// Compares everything that can be asked.
    async fn compare(mut self) {
        while !self.watches.is_empty() {
            while self.follow(0).await {}
            if !self.watches.is_empty() {
                self.watches.remove(0);
            }
        }
        let (model, store) = (&self.model, self.store());
        let head = Head { revision: model.head(), oldest: model.oldest };
        assert_eq!(store.head().await.unwrap(), head);
        for revision in (0..=head.revision.0 + 1).map(Revision) {
            let listed = list_all(store, &Prefix::all(), Some(revision)).await.map(|(_, entries)| entries);
            let known = model.check_known(revision);
            same(listed, known.map(|()| model.states[revision.0 as usize].values().cloned().collect()));
            let shown = store.revision(revision, Page::default()).await.map(|shown| shown.diffs);
            if revision < head.oldest {
                same(shown, Err(Error::Compacted { oldest: head.oldest }));
            } else if revision > head.revision {
                same(shown, Err(Error::Future { head: head.revision }));
            } else {
                assert_eq!(shown.unwrap(), model.diffs(revision));
            }
        }
        for prefix in PREFIXES.map(|prefix| Prefix::new(prefix).unwrap()) {
            let history = store.history(&prefix, None, 1000).await.unwrap();
            let expected: Vec<_> = (head.oldest.0..=head.revision.0)
                .map(Revision)
                .rev()
                .filter(|revision| model.touched(*revision, &prefix))
                .collect();
            assert_eq!(history.iter().map(|info| info.revision).collect::<Vec<_>>(), expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_store_cannot_be_told_from_its_model(steps in vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut pair = Pair::new().await;
            for step in steps {
                pair.take(step).await;
            }
            pair.compare().await;
        });
    }
}
