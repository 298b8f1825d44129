//! The objects as they are now, kept from one look to the next, so that a look costs what has happened in between.

use std::panic::resume_unwind;
use std::sync::Arc;

use futures_util::StreamExt as _;
use tokio::sync::Mutex;

use crate::desired::{self, Present};
use crate::store::{self, Event, Prefix, Revision, Store, list_all};

/// Most revisions that are read one by one; beyond, all objects are read again.
const EVENTS_MAX: u64 = 1000;

/// The objects in a store, as they were last read.
#[derive(Debug)]
pub struct Objects {
    store: Arc<dyn Store>,
    known: Mutex<Arc<Present>>,
}

impl Objects {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, known: Mutex::default() }
    }

    /// The objects as they are now.
    pub async fn present(&self) -> Result<Arc<Present>, store::Error> {
        let head = self.store.head().await?.revision;
        let mut known = self.known.lock().await;
        if known.revision() < head {
            // Who gives up in between leaves nothing known, and the next one reads it all.
            let before = std::mem::take(&mut *known);
            *known = match self.happened(before.revision(), head).await? {
                Some(events) => beside(move || advanced(before, &events)).await?,
                None => {
                    let (revision, entries) = list_all(&*self.store, &desired::prefix(), None).await?;
                    beside(move || Arc::new(before.follow(revision, &entries))).await?
                }
            };
        }
        Ok(Arc::clone(&known))
    }

    /// The objects as they were.
    pub async fn past(&self, at: Revision) -> Result<Present, store::Error> {
        let (revision, entries) = list_all(&*self.store, &desired::prefix(), Some(at)).await?;
        let known = Arc::clone(&*self.known.lock().await);
        beside(move || known.follow(revision, &entries)).await
    }

    /// What happened from one revision to another; none if that is too much, or too long ago.
    async fn happened(&self, from: Revision, to: Revision) -> Result<Option<Vec<Event>>, store::Error> {
        if from == Revision::ZERO || to.0 - from.0 > EVENTS_MAX {
            return Ok(None);
        }
        let mut watch = match self.store.watch(Prefix::all(), from).await {
            Ok(watch) => watch,
            Err(store::Error::Compacted { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut events: Vec<Event> = Vec::new();
        // Every revision changes something, so that each of them comes.
        while events.last().is_none_or(|last| last.revision < to) {
            match watch.next().await {
                Some(Ok(event)) => events.push(event),
                Some(Err(store::Error::Compacted { .. })) => return Ok(None),
                Some(Err(error)) => return Err(error),
                None => return Err(store::Error::Closed),
            }
        }
        Ok(Some(events))
    }
}

/// In place, unless somebody still looks at how it was.
fn advanced(mut present: Arc<Present>, events: &[Event]) -> Arc<Present> {
    let now = Arc::make_mut(&mut present);
    events.iter().for_each(|event| now.advance(event));
    present
}

/// Reading documents takes a processor for long: it is done away from the threads that serve others.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, store::Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(failure) if failure.is_panic() => resume_unwind(failure.into_panic()),
        // The threads are gone, and with them soon the store.
        Err(_) => Err(store::Error::Closed),
    }
}
