//! The store's promise: what was acknowledged is there after a crash, whole; what was not is there whole or not at all.
//!
//! A child process — this test binary once more, in another role — writes to a store and prints each revision that was
//! acknowledged. It is killed at a moment that nobody chose, and the store is opened and examined; round after round on
//! the same directory.

use std::collections::BTreeMap;
use std::collections::hash_map::{DefaultHasher, RandomState};
use std::hash::{BuildHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use weft_control_plane::store::embedded::{EmbeddedStore, Options};
use weft_control_plane::store::{
    Committed, Entry, Error, Key, Page, Prefix, Revision, RevisionDiff, Store, Txn, Write, list_all,
};

const TEST: &str = "store_kill::acknowledged_revisions_survive_a_kill";
/// Tells the child its role, and the store's directory.
const ROLE: &str = "WEFT_STORE_KILL_DIRECTORY";

const ROUNDS: u64 = 30;
const ROUND_MS: std::ops::Range<u64> = 20..250;
const WRITERS: usize = 4;
/// The keys that each transaction of a writer writes, all of them or none.
const SLOTS: usize = 5;
const REVISIONS_KEPT: u64 = 300;
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn acknowledged_revisions_survive_a_kill() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Some(directory) = std::env::var_os(ROLE) {
        return runtime.block_on(write_until_killed(Path::new(&directory)));
    }
    let directory = tempfile::tempdir().unwrap();
    let mut told = Told::default();
    for round in 1..=ROUNDS {
        let duration = Duration::from_millis(ROUND_MS.start + random() % (ROUND_MS.end - ROUND_MS.start));
        let before = told.acknowledged.len();
        run_and_kill(directory.path(), duration, &mut told);
        let (oldest, head) = runtime.block_on(examine(directory.path(), &told));
        let acknowledged = told.acknowledged.len() - before;
        println!("round {round}: {acknowledged} acknowledged in {duration:?}, {oldest} to {head} examined");
    }
    assert!(told.compacted_to > Revision::ZERO, "nothing was compacted, so compaction was not tested");
}

/// A number that is different each time.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

async fn open(directory: &Path) -> EmbeddedStore {
    let clock = Arc::new(|| SystemTime::UNIX_EPOCH);
    EmbeddedStore::open(Options::new(directory, clock)).await.unwrap()
}

/// What identifies a revision: its author, its reason, and each key with its new value.
fn digest<'a>(
    author: &str,
    reason: &str,
    changes: impl IntoIterator<Item = (&'a Key, Option<&'a [u8]>)>,
) -> u64 {
    let mut hasher = DefaultHasher::new();
    (author, reason, BTreeMap::from_iter(changes)).hash(&mut hasher);
    hasher.finish()
}

// The child.

async fn write_until_killed(directory: &Path) {
    let store: Arc<dyn Store> = Arc::new(open(directory).await);
    say("open");
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        tasks.spawn(write(Arc::clone(&store), writer));
    }
    tasks.spawn(lease(Arc::clone(&store)));
    tasks.spawn(compact(store));
    // No task ever ends, unless it fails.
    tasks.join_next().await.unwrap().unwrap();
}

/// One line, at once.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).unwrap();
}

/// Commits a transaction of which every write makes a difference, and says so once it is acknowledged.
async fn commit(store: &dyn Store, txn: Txn) -> Result<(), Error> {
    let changes = txn.writes.iter().map(|write| match write {
        Write::Put { key, value, .. } => (key, Some(value.as_ref())),
        Write::Delete { key } => (key, None),
    });
    let digest = digest(&txn.author, &txn.reason, changes);
    let Committed::New(revision) = store.commit(txn).await? else { panic!("it made no difference") };
    say(&format!("ack {revision} {digest}"));
    Ok(())
}

/// Gives a writer's keys new values all at once, or deletes them all at once.
async fn write(store: Arc<dyn Store>, writer: usize) {
    let slots: Vec<_> = (0..SLOTS).map(|slot| Key::new(format!("writer/{writer}/{slot}")).unwrap()).collect();
    let mut present = store.get(&slots[0]).await.unwrap().is_some();
    loop {
        let stamp = random();
        let txn = Txn::new(format!("writer {writer}"), stamp.to_string());
        let deletes = present && stamp.is_multiple_of(7);
        let txn = slots.iter().enumerate().fold(txn, |txn, (slot, key)| match deletes {
            true => txn.delete(key.clone()),
            false => {
                let length = usize::try_from(stamp % 3000).unwrap() * slot;
                txn.put(key.clone(), format!("{stamp}:{}", "x".repeat(length)))
            }
        });
        present = !deletes;
        commit(&*store, txn).await.unwrap();
    }
}

/// Attaches pairs of keys to leases, some of which are revoked and some of which lapse.
async fn lease(store: Arc<dyn Store>) {
    loop {
        let lease = store.grant(Duration::from_millis(40)).await.unwrap();
        let pair = ["a", "b"].map(|half| Key::new(format!("lease/{lease}/{half}")).unwrap());
        let attach = pair.iter().fold(Txn::new("holder", lease.to_string()), |txn, key| {
            txn.put_leased(key.clone(), lease.to_string(), lease)
        });
        // Each of these fails if the disk is so slow that the lease has lapsed by then.
        lapsed_or(commit(&*store, attach).await);
        lapsed_or(store.keep_alive(lease).await);
        if random().is_multiple_of(2) {
            lapsed_or(store.revoke(lease).await);
        }
    }
}

fn lapsed_or<T>(done: Result<T, Error>) {
    match done {
        Ok(_) | Err(Error::NoLease { .. }) => {}
        Err(error) => panic!("{error:?}"),
    }
}

async fn compact(store: Arc<dyn Store>) {
    loop {
        let head = store.head().await.unwrap();
        if head.revision.0 > head.oldest.0 + 2 * REVISIONS_KEPT {
            let keep_from = Revision(head.revision.0 - REVISIONS_KEPT);
            say(&format!("compact {keep_from}"));
            store.compact(keep_from).await.unwrap();
        }
        tokio::task::yield_now().await;
    }
}

// The parent.

/// What children have said, in all rounds.
#[derive(Default)]
struct Told {
    acknowledged: BTreeMap<Revision, u64>,
    /// No child has asked to forget this revision or a later one.
    compacted_to: Revision,
}

impl Told {
    fn hear(&mut self, line: &str) {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        // Between the child's lines are those of its test harness, which has no newline where it begins a test.
        match words[..] {
            [.., "ack", revision, digest] => {
                let revision = Revision(revision.parse().unwrap());
                let earlier = self.acknowledged.insert(revision, digest.parse().unwrap());
                assert_eq!(earlier, None, "revision {revision} was acknowledged twice");
            }
            [.., "compact", keep_from] => {
                self.compacted_to = self.compacted_to.max(Revision(keep_from.parse().unwrap()));
            }
            _ => {}
        }
    }
}

/// A child that does not survive a failing test.
struct Doomed(Child);

impl Drop for Doomed {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run_and_kill(directory: &Path, duration: Duration, told: &mut Told) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", TEST, "--nocapture", "--test-threads=1"]).env(ROLE, directory);
    let mut child = Doomed(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
    let lines = lines(child.0.stdout.take().unwrap());

    while !lines.recv_timeout(PATIENCE).expect("the child opens the store").ends_with("open") {}
    let (end, before) = (Instant::now() + duration, told.acknowledged.len());
    // On a slow disk it may take longer until there is anything to verify.
    while told.acknowledged.len() == before || Instant::now() < end {
        let idle = told.acknowledged.len() == before;
        let patience = if idle { PATIENCE } else { end.saturating_duration_since(Instant::now()) };
        match lines.recv_timeout(patience) {
            Ok(line) => told.hear(&line),
            Err(RecvTimeoutError::Timeout) if idle => panic!("the child gets nothing done"),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => panic!("the child ended by itself"),
        }
    }
    drop(child);
    // What it said before it died counts as well.
    lines.iter().for_each(|line| told.hear(&line));
}

/// The whole lines that a child says; half a line at its death was not said.
fn lines(out: ChildStdout) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut out = BufReader::new(out);
        let mut line = String::new();
        while out.read_line(&mut line).is_ok() && line.ends_with('\n') {
            if sender.send(line.trim_end().to_owned()).is_err() {
                break;
            }
            line.clear();
        }
    });
    lines
}

async fn examine(directory: &Path, told: &Told) -> (Revision, Revision) {
    let store = open(directory).await;
    let known = store.head().await.unwrap();
    let last = told.acknowledged.last_key_value().map_or(Revision::ZERO, |(revision, _)| *revision);
    assert!(known.revision >= last, "{last} was acknowledged, but the newest is {}", known.revision);
    assert!(known.oldest <= told.compacted_to.max(Revision(1)), "{} was forgotten unasked", known.oldest);

    let (_, base) = list_all(&store, &Prefix::all(), Some(known.oldest.previous())).await.unwrap();
    let mut state: BTreeMap<_, _> = base.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
    for revision in (known.oldest.0..=known.revision.0).map(Revision) {
        let made = store.revision(revision, Page::default()).await.unwrap();
        if let Some(acknowledged) = told.acknowledged.get(&revision) {
            assert_eq!(content(&made), *acknowledged, "revision {revision} is not what was acknowledged");
        }
        replay(&mut state, made);
        assert_whole(&state, revision);
    }
    let (_, present) = list_all(&store, &Prefix::all(), Some(known.revision)).await.unwrap();
    assert_eq!(present, state.into_values().collect::<Vec<_>>(), "the state is not what the log says");
    (known.oldest, known.revision)
}

fn content(made: &RevisionDiff) -> u64 {
    assert_eq!(made.diffs.len(), made.info.changes);
    let changes = made.diffs.iter().map(|diff| {
        let value = diff.after.as_ref().map(|entry| entry.value.as_ref());
        (&diff.key, value)
    });
    digest(&made.info.author, &made.info.reason, changes)
}

fn replay(state: &mut BTreeMap<Key, Entry>, made: RevisionDiff) {
    for diff in made.diffs {
        assert_eq!(state.remove(&diff.key), diff.before, "{} before {}", diff.key, made.info.revision);
        state.extend(diff.after.map(|entry| (diff.key, entry)));
    }
}

/// A writer's keys all come from one transaction, and so do the two of a lease.
fn assert_whole(state: &BTreeMap<Key, Entry>, revision: Revision) {
    let mut families = BTreeMap::<&str, Vec<Revision>>::new();
    for entry in state.values() {
        let (family, _) = entry.key.as_str().rsplit_once('/').unwrap();
        families.entry(family).or_default().push(entry.modified);
    }
    for (family, modified) in families {
        let members = if family.starts_with("lease") { 2 } else { SLOTS };
        assert_eq!(modified, vec![modified[0]; members], "half of {family} at {revision}");
    }
}
