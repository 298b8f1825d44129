//! Watching. The log itself is the buffer between writers and watchers, so that a slow watcher costs nothing; the last
//! few revisions are also kept in memory, so that watchers who keep up need not read the log.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::watch;

use super::query::{self, Replay};
use super::readers::Readers;
use crate::store::Watch;
use crate::store::error::{Error, Result};
use crate::store::types::{Event, Prefix, Revision};

/// Most revisions kept in memory.
const EVENTS_MAX: usize = 1024;
/// Most bytes of keys and values kept in memory.
const BYTES_MAX: usize = 8 * 1024 * 1024;

/// The newest revisions, without gaps.
#[derive(Debug, Default)]
pub(super) struct Tail {
    newest: Mutex<Newest>,
}

#[derive(Debug, Default)]
struct Newest {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
}

/// What the tail knows of the time after some revision.
enum Later {
    /// This happened, before anything else did under the prefix.
    Event(Event),
    /// Nothing happened under the prefix up to here.
    Nothing(Revision),
    /// It is too long ago.
    Unknown,
}

impl Tail {
    pub(super) fn push(&self, event: Arc<Event>) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.bytes += event.bytes();
        newest.events.push_back(event);
        while newest.bytes > BYTES_MAX || newest.events.len() > EVENTS_MAX {
            let Some(oldest) = newest.events.pop_front() else { break };
            newest.bytes -= oldest.bytes();
        }
    }

    pub(super) fn clear(&self) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Newest::default();
    }

    fn later(&self, prefix: &Prefix, after: Revision) -> Later {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let events = &newest.events;
        if events.front().is_none_or(|oldest| oldest.revision > after.next()) {
            return Later::Unknown;
        }
        let later = events.range(events.partition_point(|event| event.revision <= after)..);
        later
            .filter_map(|event| under(prefix, event))
            .next()
            .map_or_else(|| Later::Nothing(events.back().map_or(after, |event| event.revision)), Later::Event)
    }
}

/// What an event means to those who watch a prefix.
fn under(prefix: &Prefix, event: &Event) -> Option<Event> {
    let changes: Vec<_> =
        event.changes.iter().filter(|change| prefix.contains(change.key())).cloned().collect();
    (!changes.is_empty()).then(|| Event {
        revision: event.revision,
        at: event.at,
        author: event.author.clone(),
        reason: event.reason.clone(),
        changes,
    })
}

struct Watcher {
    readers: Arc<Readers>,
    tail: Arc<Tail>,
    head: watch::Receiver<Revision>,
    prefix: Prefix,
    /// Everything up to here has been told, or lies in `ahead`.
    seen: Revision,
    /// Read from the log, but not told yet.
    ahead: VecDeque<Event>,
}

pub(super) async fn watch(
    readers: Arc<Readers>,
    tail: Arc<Tail>,
    head: watch::Receiver<Revision>,
    prefix: Prefix,
    after: Revision,
) -> Result<Watch> {
    let known = move |connection: &_| query::check_state_known(query::head(connection)?, after);
    readers.read(known).await?;
    let watcher = Watcher { readers, tail, head, prefix, seen: after, ahead: VecDeque::new() };
    let events = stream::unfold(Some(watcher), |watcher| async {
        let mut watcher = watcher?;
        match watcher.next().await {
            Ok(event) => Some((Ok(event), Some(watcher))),
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(events.boxed())
}

impl Watcher {
    async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.ahead.pop_front() {
                return Ok(event);
            }
            if self.seen >= *self.head.borrow_and_update() {
                self.head.changed().await.map_err(|_| Error::Closed)?;
                continue;
            }
            match self.tail.later(&self.prefix, self.seen) {
                Later::Event(event) => {
                    self.seen = event.revision;
                    return Ok(event);
                }
                Later::Nothing(up_to) => self.seen = up_to,
                Later::Unknown => self.read_ahead().await?,
            }
        }
    }

    async fn read_ahead(&mut self) -> Result<()> {
        let (prefix, seen) = (self.prefix.clone(), self.seen);
        let replay = self.readers.read(move |connection| query::replay(connection, &prefix, seen));
        let Replay { events, up_to } = replay.await?;
        self.ahead = events.into();
        self.seen = up_to;
        Ok(())
    }
}
