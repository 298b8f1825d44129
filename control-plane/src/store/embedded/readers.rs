//! The connections that read. SQLite blocks, so they are used on the runtime's blocking threads only.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use crate::store::error::{Error, Result};

/// Most reads at a time.
const READERS_MAX: usize = 4;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Readers {
    file: PathBuf,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(file: PathBuf) -> Self {
        Self { file, permits: Arc::new(Semaphore::new(READERS_MAX)), idle: Mutex::default() }
    }

    /// Reads from one committed state.
    pub(super) fn read<T: Send + 'static>(
        self: &Arc<Self>,
        query: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> BoxFuture<'static, Result<T>> {
        let this = Arc::clone(self);
        async move {
            let permit = Arc::clone(&this.permits).acquire_owned().await.map_err(|_| Error::Closed)?;
            let reading = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                this.read_blocking(query)
            });
            match reading.await {
                Ok(answer) => answer,
                Err(failure) if failure.is_panic() => std::panic::resume_unwind(failure.into_panic()),
                Err(_) => Err(Error::Closed),
            }
        }
        .boxed()
    }

    fn read_blocking<T>(&self, query: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = idle.map_or_else(|| self.connect(), Ok)?;
        let state = connection.transaction()?;
        let answer = query(&state);
        // A connection that cannot even end a read is not used again.
        state.finish()?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        answer
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.file, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.execute_batch("PRAGMA query_only = ON; PRAGMA trusted_schema = OFF;")?;
        Ok(connection)
    }
}
