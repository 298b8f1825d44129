use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::store::audit::{Filter, Outcome, Record};
use crate::store::{Error as StoreError, conformance, list_all};

fn options(directory: &Path) -> Options {
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    Options::new(directory, Arc::new(move || start))
}

async fn open(directory: &Path) -> EmbeddedStore {
    EmbeddedStore::open(options(directory)).await.unwrap()
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn put(name: &str, value: impl Into<Bytes>) -> Txn {
    Txn::new("alice", "because").put(key(name), value)
}

/// Another program's connection to the file.
fn intrude(directory: &Path) -> Connection {
    Connection::open(directory.join("store.sqlite")).unwrap()
}

#[tokio::test]
async fn the_embedded_engine_conforms() {
    for (name, case) in conformance::CASES {
        let directory = TempDir::new().unwrap();
        let store = Arc::new(open(directory.path()).await);
        println!("{name}");
        case(store).await;
    }
}

#[test]
fn the_writer_waits_for_the_disk() {
    let directory = TempDir::new().unwrap();
    let writer = open::connect(&directory.path().join("store.sqlite"), u64::MAX).unwrap();
    let synchronous: i64 = writer.query_row("PRAGMA synchronous", (), |row| row.get(0)).unwrap();
    let journal: String = writer.query_row("PRAGMA journal_mode", (), |row| row.get(0)).unwrap();
    assert_eq!((synchronous, journal.as_str()), (2, "wal"));
}

#[tokio::test]
async fn what_was_committed_is_there_after_reopening() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path()).await;
    store.commit(put("a", "1")).await.unwrap();
    let lease = store.grant(Duration::from_secs(3600)).await.unwrap();
    store.commit(Txn::new("bob", "").put_leased(key("b"), "2", lease)).await.unwrap();
    let before = list_all(&store, &Prefix::all(), None).await.unwrap();
    drop(store);

    let store = open(directory.path()).await;
    assert_eq!(list_all(&store, &Prefix::all(), None).await.unwrap(), before);
    assert_eq!(store.keep_alive(lease).await.unwrap(), Duration::from_secs(3600));
    assert_eq!(store.commit(put("a", "2")).await.unwrap(), Committed::New(Revision(3)));
    let mut watch = store.watch(Prefix::all(), Revision(1)).await.unwrap();
    for expected in [2, 3] {
        assert_eq!(watch.next().await.unwrap().unwrap().revision, Revision(expected));
    }
}

#[tokio::test]
async fn a_lease_still_lapses_after_a_restart_and_its_number_is_not_used_again() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path()).await;
    let lease = store.grant(Duration::from_millis(700)).await.unwrap();
    store.commit(Txn::new("bob", "").put_leased(key("b"), "2", lease)).await.unwrap();
    drop(store);

    let store = open(directory.path()).await;
    let mut watch = store.watch(Prefix::all(), Revision(1)).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().author, "lease");
    drop((watch, store));
    let store = open(directory.path()).await;
    assert!(store.grant(Duration::from_secs(1)).await.unwrap() > lease);
}

#[tokio::test]
async fn a_directory_in_use_is_refused_by_name() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path()).await;
    let refused = EmbeddedStore::open(options(directory.path())).await.unwrap_err();
    assert!(
        matches!(refused, Error::Locked { pid: Some(pid), .. } if pid == std::process::id()),
        "{refused:?}"
    );
    assert!(refused.to_string().contains("in use by another process"));
    drop(store);
    open(directory.path()).await;
}

#[tokio::test]
async fn nobody_else_may_look_into_the_files() {
    let directory = TempDir::new().unwrap();
    let inner = directory.path().join("made/here");
    let store = open(&inner).await;
    store.commit(put("a", "1")).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&inner), 0o700);
    let files: Vec<_> = fs::read_dir(&inner).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn files_that_are_not_ours_are_refused_untouched() {
    let check = async |spoil: &dyn Fn(&Path), expected: fn(&Error) -> bool| {
        let directory = TempDir::new().unwrap();
        spoil(directory.path());
        let file = directory.path().join("store.sqlite");
        let before = fs::read(&file).unwrap();
        let refused = EmbeddedStore::open(options(directory.path())).await.unwrap_err();
        assert!(expected(&refused), "{refused:?}");
        assert_eq!(fs::read(&file).unwrap(), before);
    };
    let foreign: fn(&Error) -> bool = |error| matches!(error, Error::Foreign { .. });
    let newer: fn(&Error) -> bool = |error| matches!(error, Error::Newer { found: 2, known: 1, .. });
    check(&|directory| fs::write(directory.join("store.sqlite"), "x".repeat(5000)).unwrap(), foreign).await;
    check(&|directory| intrude(directory).execute_batch("CREATE TABLE t (a)").unwrap(), foreign).await;
    check(&|directory| intrude(directory).execute_batch("PRAGMA application_id = 7").unwrap(), foreign).await;
    let pragmas = format!("PRAGMA application_id = {}; PRAGMA user_version = 2", schema::APPLICATION_ID);
    check(&|directory| intrude(directory).execute_batch(&pragmas).unwrap(), newer).await;
}

#[tokio::test]
async fn an_empty_file_becomes_a_store() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("store.sqlite"), "").unwrap();
    open(directory.path()).await.commit(put("a", "1")).await.unwrap();
}

#[tokio::test]
async fn a_damaged_file_is_refused() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path()).await;
    for number in 0..100 {
        store.commit(put(&format!("k{number}"), vec![7; 1000])).await.unwrap();
    }
    drop(store);
    let file = directory.path().join("store.sqlite");
    let mut bytes = fs::read(&file).unwrap();
    bytes[8192..].iter_mut().step_by(13).for_each(|byte| *byte ^= 0x55);
    fs::write(&file, bytes).unwrap();
    let refused = EmbeddedStore::open(options(directory.path())).await.unwrap_err();
    assert!(matches!(refused, Error::Damaged { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_room() {
    let directory = TempDir::new().unwrap();
    let limited = Options { file_bytes_max: 2 * 1024 * 1024, ..options(directory.path()) };
    let store = EmbeddedStore::open(limited).await.unwrap();
    let mut kept = 0;
    let refused = loop {
        match store.commit(put("a", vec![kept; 100_000])).await {
            Ok(Committed::New(revision)) => kept = u8::try_from(revision.0).unwrap(),
            Ok(unchanged) => panic!("{unchanged:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::Full), "{refused:?}");
    let entry = store.get(&key("a")).await.unwrap().unwrap();
    assert_eq!((entry.modified, entry.value[0]), (Revision(kept.into()), kept - 1));

    store.compact(Revision(kept.into())).await.unwrap();
    let revision = store.commit(put("a", vec![kept; 100_000])).await.unwrap();
    assert_eq!(revision, Committed::New(Revision(u64::from(kept) + 1)));
}

#[tokio::test]
async fn after_a_failure_nothing_is_written_and_reading_goes_on() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path()).await;
    store.commit(put("a", "1")).await.unwrap();
    // Stands for a disk that fails in the middle of a transaction.
    let trap = "CREATE TRIGGER trap BEFORE INSERT ON entry WHEN NEW.key = 'trap'
                BEGIN SELECT RAISE(ABORT, 'broken'); END";
    intrude(directory.path()).execute_batch(trap).unwrap();

    let together = ["b", "trap", "c"].map(|name| store.commit(put(name, "1")));
    for answer in join_all(together).await.into_iter().skip(1) {
        let error = answer.unwrap_err();
        assert!(matches!(error, StoreError::Failed(_) | StoreError::ReadOnly { .. }), "{error:?}");
    }
    let refused = store.commit(put("d", "1")).await.unwrap_err();
    assert!(matches!(&refused, StoreError::ReadOnly { cause } if cause.contains("broken")), "{refused:?}");
    assert!(matches!(store.grant(Duration::from_secs(1)).await, Err(StoreError::ReadOnly { .. })));
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().value, "1");
    assert_eq!(store.get(&key("trap")).await.unwrap(), None);
    drop(store);

    intrude(directory.path()).execute_batch("DROP TRIGGER trap").unwrap();
    open(directory.path()).await.commit(put("trap", "1")).await.unwrap();
}

#[tokio::test]
async fn a_watcher_outlives_its_store_only_to_hear_of_the_end() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path()).await;
    let mut watch = store.watch(Prefix::all(), Revision::ZERO).await.unwrap();
    store.commit(put("a", "1")).await.unwrap();
    drop(store);
    assert_eq!(watch.next().await.unwrap().unwrap().revision, Revision(1));
    assert!(matches!(watch.next().await, Some(Err(StoreError::Closed))));
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_watcher_that_falls_behind_compaction_is_told_so_in_passing() {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path()).await;
    let mut watch = store.watch(Prefix::all(), Revision::ZERO).await.unwrap();
    let commits = (0..2000).map(|number| store.commit(put("a", number.to_string())));
    join_all(commits).await.into_iter().for_each(|commit| assert!(commit.is_ok()));
    store.compact(Revision(1500)).await.unwrap();
    assert!(matches!(watch.next().await, Some(Err(StoreError::Compacted { oldest: Revision(1500) }))));
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn the_oldest_audit_records_go_when_there_are_too_many() {
    let directory = TempDir::new().unwrap();
    let store =
        EmbeddedStore::open(Options { audit_records_max: 3, ..options(directory.path()) }).await.unwrap();
    for number in 1..=5 {
        let record = Record::new("me", "count", number.to_string(), Outcome::Done);
        assert_eq!(store.append_audit(record).await.unwrap(), number);
    }
    let kept = store.audit(Filter::default()).await.unwrap();
    assert_eq!(kept.iter().map(|entry| entry.sequence).collect::<Vec<_>>(), [5, 4, 3]);
}
