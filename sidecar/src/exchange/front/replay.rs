//! What is said on one stream of a session, kept for a while so that a caller who lost the connection gets the rest.
//!
//! A [`Log`] is written by one task and read by the connection that the stream is on. A reader that does not keep up
//! holds the writer up; without a reader the writer goes on, and what is too old or too much is forgotten. Not here:
//! where messages come from, and which stream a message belongs on.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::body::Body;

use super::events::{self, EventId};

/// Events that a reader may be behind before the writer waits.
const BEHIND_MAX: u64 = 8;

/// Connections at once that one stream may be on. The newest gets what is said; the others wait to take its place.
const READERS_MAX: usize = 4;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Events of one stream.
    pub(crate) events_max: usize,
    /// Bytes of one session.
    pub(crate) bytes_max: usize,
    /// Bytes of all sessions.
    pub(crate) total_bytes_max: usize,
}

/// What one session keeps, counted together with what all others keep.
#[derive(Debug)]
pub(crate) struct Kept {
    bounds: Bounds,
    bytes: AtomicUsize,
    total_bytes: Arc<AtomicUsize>,
}

impl Kept {
    pub(crate) fn new(bounds: Bounds, total_bytes: Arc<AtomicUsize>) -> Self {
        Self { bounds, bytes: AtomicUsize::new(0), total_bytes }
    }

    pub(crate) fn is_too_much(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > self.bounds.bytes_max
            || self.total_bytes.load(Ordering::Relaxed) > self.bounds.total_bytes_max
    }

    fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.total_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn subtract(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.total_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What was said on one stream.
#[derive(Debug)]
pub(crate) struct Log {
    stream: u64,
    state: watch::Sender<State>,
    kept: Arc<Kept>,
}

#[derive(Debug)]
struct State {
    /// The last events, each with its number, ready to be sent.
    events: VecDeque<(u64, Bytes)>,
    /// The number of the event that is said next; they begin with 1.
    next: u64,
    /// The number of the event that is read next.
    read: u64,
    /// Who reads; the last is given what is said.
    readers: Vec<u64>,
    readers_ever: u64,
    /// When the last event was said; nothing follows.
    over: Option<Instant>,
}

impl State {
    const fn unread(&self) -> u64 {
        self.next - self.read
    }

    fn push(&mut self, stream: u64, message: &[u8], kept: &Kept) {
        let event = events::event(Some(EventId { stream, number: self.next }), message);
        kept.add(event.len());
        self.events.push_back((self.next, event));
        self.next += 1;
        self.forget(kept);
    }

    /// What a reader has yet to get stays while there is one, and the last event stays in any case: it may be the
    /// response that somebody is waiting for.
    fn forget(&mut self, kept: &Kept) {
        while self.events.len() > 1 && (self.events.len() > kept.bounds.events_max || kept.is_too_much()) {
            match self.events.front() {
                Some((number, _)) if *number < self.read || self.readers.is_empty() => {}
                _ => return,
            }
            if let Some((number, event)) = self.events.pop_front() {
                kept.subtract(event.len());
                self.read = self.read.max(number + 1);
            }
        }
    }

    fn take(&mut self, reader: u64) -> Taken {
        if !self.readers.contains(&reader) {
            return Taken::Over;
        }
        if self.readers.last() != Some(&reader) {
            return Taken::Nothing;
        }
        let at = self.events.partition_point(|(number, _)| *number < self.read);
        match (self.events.get(at), self.over) {
            (Some((number, event)), _) => {
                self.read = number + 1;
                Taken::Event(event.clone())
            }
            (None, Some(_)) => Taken::Over,
            (None, None) => Taken::Nothing,
        }
    }
}

enum Taken {
    Event(Bytes),
    Nothing,
    /// Nothing more will come, for this reader at least.
    Over,
}

impl Log {
    pub(crate) fn new(stream: u64, kept: Arc<Kept>) -> Arc<Self> {
        let state = State {
            events: VecDeque::new(),
            next: 1,
            read: 1,
            readers: Vec::new(),
            readers_ever: 0,
            over: None,
        };
        Arc::new(Self { stream, state: watch::Sender::new(state), kept })
    }

    pub(crate) const fn stream(&self) -> u64 {
        self.stream
    }

    /// Says a message; waits while a reader is too far behind.
    pub(super) async fn say(&self, message: &[u8]) {
        let mut states = self.state.subscribe();
        let has_room = |state: &State| state.readers.is_empty() || state.unread() < BEHIND_MAX;
        // The sender is this log's own, so it is there.
        drop(states.wait_for(has_room).await);
        self.state.send_modify(|state| state.push(self.stream, message, &self.kept));
    }

    /// Says a message at once. Readers that have let more than so many messages wait are sent away; they may come
    /// again for what is kept.
    pub(super) fn say_now(&self, message: &[u8], unread_max: usize) {
        self.state.send_modify(|state| {
            if state.unread() >= unread_max as u64 {
                state.readers.clear();
            }
            state.push(self.stream, message, &self.kept);
        });
    }

    /// Nothing more will be said.
    pub(super) fn end(&self) {
        self.state.send_modify(|state| state.over = Some(Instant::now()));
    }

    pub(crate) fn ended(&self) -> Option<Instant> {
        self.state.borrow().over
    }

    /// A body that is given what is said from now on, after what is yet unread or what came after an event. It ends
    /// with the stream, or when `until` does.
    pub(super) fn read(
        self: &Arc<Self>,
        after: Option<u64>,
        manner: Manner,
        until: impl Future<Output = ()> + Send + 'static,
    ) -> Body {
        let (sender, body) = Body::channel(events::CHUNKS_MAX);
        let reader = self.attach(after);
        tokio::spawn(async move { reader.run(sender, manner, until).await });
        body
    }

    fn attach(self: &Arc<Self>, after: Option<u64>) -> Reader {
        let mut me = 0;
        self.state.send_modify(|state| {
            state.readers_ever += 1;
            me = state.readers_ever;
            if state.readers.len() >= READERS_MAX {
                state.readers.remove(0);
            }
            state.readers.push(me);
            if let Some(after) = after {
                state.read = after.saturating_add(1).min(state.next);
            }
        });
        Reader { log: Arc::clone(self), me, states: self.state.subscribe() }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let bytes = self.state.borrow().events.iter().map(|(_, event)| event.len()).sum();
        self.kept.subtract(bytes);
    }
}

/// How a stream is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// Silence after which a comment is sent.
    pub(super) comment_every: Duration,
    /// Whether the caller's revision knows events that only tell an id.
    pub(super) primed: bool,
}

/// One connection that a stream is on.
struct Reader {
    log: Arc<Log>,
    me: u64,
    states: watch::Receiver<State>,
}

impl Reader {
    async fn run(mut self, sender: mpsc::Sender<Bytes>, manner: Manner, until: impl Future<Output = ()>) {
        let mut until = pin!(until);
        if manner.primed {
            let number = self.states.borrow().read - 1;
            // The channel is new and has room.
            _ = sender.try_send(events::priming(EventId { stream: self.log.stream, number }));
        }
        let mut comment_at = Instant::now() + manner.comment_every;
        loop {
            let room = tokio::select! {
                biased;
                () = &mut until => return,
                () = self.sent_away() => return,
                room = sender.reserve() => room,
            };
            let Ok(room) = room else { return };
            match self.take() {
                Taken::Event(event) => {
                    room.send(event);
                    comment_at = Instant::now() + manner.comment_every;
                    continue;
                }
                Taken::Over => return,
                Taken::Nothing => drop(room),
            }
            tokio::select! {
                () = &mut until => return,
                () = sender.closed() => return,
                changed = self.states.changed() => if changed.is_err() { return },
                () = sleep_until(comment_at) => {
                    // Where there is no room, the stream is not idle.
                    _ = sender.try_send(events::COMMENT);
                    comment_at = Instant::now() + manner.comment_every;
                }
            }
        }
    }

    async fn sent_away(&mut self) {
        let me = self.me;
        drop(self.states.wait_for(|state| !state.readers.contains(&me)).await);
    }

    fn take(&self) -> Taken {
        let mut taken = Taken::Over;
        self.log.state.send_if_modified(|state| {
            let was_full = state.unread() >= BEHIND_MAX;
            taken = state.take(self.me);
            // Only who waits for room needs to know.
            was_full
        });
        taken
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.log.state.send_modify(|state| state.readers.retain(|reader| *reader != self.me));
    }
}
