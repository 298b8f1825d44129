//! Opening a store: the directory is ours, nobody else has it open, and the file is what we think it is.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::{Semaphore, broadcast, watch};

use super::ledger::Ledger;
use super::readers::Readers;
use super::schema::{APPLICATION_ID, COUNTS, EPOCHS, TABLES, VERSION, integer};
use super::tail::Tail;
use super::writer::{Request, Told, Writer};
use super::{BESIDE_MAX, EmbeddedStore, Error, Options, QUEUE_BYTES_MAX};
use crate::store::types::Revision;

const FILE_NAME: &str = "store.sqlite";
const LOCK_NAME: &str = "lock";
/// How long to wait for another program, such as a shell that looks into the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// What the log file is cut back to once it has been folded into the main file.
const LOG_BYTES_KEPT_MAX: i64 = 64 * 1024 * 1024;

pub(super) fn open(options: Options) -> Result<EmbeddedStore, Error> {
    let directory = options.directory.clone();
    prepare_directory(&directory)?;
    let lock = lock(&directory)?;
    let file = directory.join(FILE_NAME);
    let connection = connect(&file, options.file_bytes_max)?;

    let tail = Arc::new(Tail::default());
    let (head_sender, head) = watch::channel(Revision::ZERO);
    let (beside, number) = (broadcast::Sender::new(BESIDE_MAX), Arc::<AtomicU64>::default());
    let (requests, queue) = mpsc::channel::<Request>();
    let (ready, started) = mpsc::channel();
    let told = Told {
        tail: Arc::clone(&tail),
        head: head_sender,
        beside: beside.clone(),
        number: Arc::clone(&number),
    };
    let follows = options.follows;
    let writer = move || {
        // Held until the last thing was written and the file is closed.
        let _lock = lock;
        match Ledger::prepare(&connection, options.audit_records_max)
            .and_then(|ledger| Writer::new(ledger, queue, told, options.clock, follows))
        {
            Ok(writer) => {
                // Whoever opens the store waits for this.
                let _ = ready.send(Ok(()));
                writer.run();
            }
            Err(failure) => drop(ready.send(Err(failure))),
        }
        fold_log(connection);
    };
    let writer =
        std::thread::Builder::new().name("store-writer".to_owned()).spawn(writer).map_err(Error::Thread)?;
    let store = EmbeddedStore {
        directory,
        readers: Arc::new(Readers::new(file.clone())),
        tail,
        head,
        beside,
        number,
        queue_bytes: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)),
        requests: Some(requests),
        writer: Some(writer),
    };
    match started.recv() {
        Ok(Ok(())) => Ok(store),
        Ok(Err(source)) => Err(Error::Engine { path: file, source }),
        Err(mpsc::RecvError) => Err(damaged(&file, "its writer did not start".to_owned())),
    }
}

fn prepare_directory(directory: &Path) -> Result<(), Error> {
    let problem = |source| Error::Directory { path: directory.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(problem)?;
    let mode = directory.metadata().map_err(problem)?.permissions().mode();
    if mode & 0o007 != 0 {
        tracing::warn!(directory = %directory.display(), mode = format_args!("{mode:o}"), "store is open to everyone");
    }
    Ok(())
}

/// Takes the directory for this process. The lock goes with the process, however it ends.
fn lock(directory: &Path) -> Result<File, Error> {
    let path = directory.join(LOCK_NAME);
    let problem = |source| Error::Directory { path: path.clone(), source };
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = open.map_err(problem)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Only for the message.
            let _ = file.take(32).read_to_string(&mut pid);
            return Err(Error::Locked { directory: directory.to_owned(), pid: pid.trim().parse().ok() });
        }
        Err(TryLockError::Error(source)) => return Err(problem(source)),
    }
    let noted = file.set_len(0).and_then(|()| file.rewind());
    noted.and_then(|()| writeln!(file, "{}", std::process::id())).map_err(problem)?;
    Ok(file)
}

/// Opens the file for writing, having made sure that it is, or has just become, a sound store.
pub(super) fn connect(path: &Path, file_bytes_max: u64) -> Result<Connection, Error> {
    create_private(path)?;
    let problem = |source: rusqlite::Error| match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => Error::Foreign { path: path.to_owned() },
        Some(ErrorCode::DatabaseCorrupt) => damaged(path, source.to_string()),
        _ => Error::Engine { path: path.to_owned(), source },
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(problem)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(problem)?;
    let empty = is_empty(&connection, path).map_err(problem)??;
    configure(&connection, file_bytes_max).map_err(problem)?;
    if empty {
        create_tables(&connection).map_err(problem)?;
        sync_directory(path)?;
    } else {
        check_soundness(&connection, path).map_err(problem)??;
    }
    connection.execute_batch(COUNTS).and_then(|()| connection.execute_batch(EPOCHS)).map_err(problem)?;
    Ok(connection)
}

/// SQLite gives its other files the permissions of the main one.
fn create_private(path: &Path) -> Result<(), Error> {
    let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    open.map(drop).map_err(|source| Error::Directory { path: path.to_owned(), source })
}

/// Whether there is nothing in the file yet. A file that is neither empty nor ours is refused untouched.
fn is_empty(connection: &Connection, path: &Path) -> rusqlite::Result<Result<bool, Error>> {
    let number = |sql| connection.query_row(sql, (), |row| row.get::<_, i64>(0));
    let application = number("PRAGMA application_id")?;
    let version = number("PRAGMA user_version")?;
    let tables = number("SELECT count(*) FROM sqlite_schema")?;
    let path = path.to_owned();
    Ok(match (application, version) {
        (APPLICATION_ID, VERSION) => Ok(false),
        (APPLICATION_ID, found) if found > VERSION => Err(Error::Newer { path, found, known: VERSION }),
        (0, 0) if tables == 0 => Ok(true),
        _ => Err(Error::Foreign { path }),
    })
}

fn configure(connection: &Connection, file_bytes_max: u64) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA journal_size_limit = {LOG_BYTES_KEPT_MAX};
         PRAGMA trusted_schema = OFF;
         PRAGMA temp_store = MEMORY;"
    ))?;
    let page_bytes: i64 = connection.query_row("PRAGMA page_size", (), |row| row.get(0))?;
    let pages_max = (integer(file_bytes_max) / page_bytes).clamp(1, i64::from(u32::MAX) - 1);
    connection.execute_batch(&format!("PRAGMA max_page_count = {pages_max}"))
}

/// All or nothing, so that a crash here leaves an empty file.
fn create_tables(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; {TABLES}
         PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT;"
    ))
}

/// New files are safe only once the directory that names them is.
fn sync_directory(path: &Path) -> Result<(), Error> {
    let directory = path.parent().map_or_else(PathBuf::new, Path::to_owned);
    let synced = File::open(&directory).and_then(|directory| directory.sync_all());
    synced.map_err(|source| Error::Directory { path: directory, source })
}

fn check_soundness(connection: &Connection, path: &Path) -> rusqlite::Result<Result<(), Error>> {
    let finding: String = connection.query_row("PRAGMA quick_check(1)", (), |row| row.get(0))?;
    Ok(if finding == "ok" { Ok(()) } else { Err(damaged(path, finding)) })
}

fn damaged(path: &Path, finding: String) -> Error {
    Error::Damaged { path: path.to_owned(), finding }
}

/// Folds the log into the main file and closes it, so that the next start is quick. What stays in the log is just as safe.
fn fold_log(connection: Connection) {
    if let Err(error) = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())) {
        tracing::debug!(%error, "the store's log was not folded");
    }
}
