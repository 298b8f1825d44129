//! The streams of one session: those that answer its calls, and the one on which the server speaks of its own accord.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast;

use crate::exchange::Aside;

use super::replay::{Kept, Log};

/// The stream on which the server speaks of its own accord; those of calls have other numbers.
pub(crate) const LISTENING: u64 = 0;

/// Streams that are over and kept for whoever lost the connection.
const ENDED_MAX: usize = 32;

#[derive(Debug)]
pub(crate) struct Streams {
    kept: Arc<Kept>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The number of the newest stream.
    newest: u64,
    /// The oldest first.
    calls: VecDeque<Arc<Log>>,
    listening: Arc<Log>,
    /// What the server says of its own accord, until somebody listens.
    asides: Option<broadcast::Receiver<Aside>>,
}

impl Streams {
    /// The numbers of calls' streams follow that of the newest.
    pub(crate) fn new(kept: Arc<Kept>, asides: broadcast::Receiver<Aside>, newest: u64) -> Self {
        let listening = Log::new(LISTENING, Arc::clone(&kept));
        let state = State { newest, calls: VecDeque::new(), listening, asides: Some(asides) };
        Self { kept, state: Mutex::new(state) }
    }

    /// A new stream for the answer to a call.
    pub(super) fn open(&self) -> Arc<Log> {
        let mut state = self.state();
        state.newest += 1;
        let log = Log::new(state.newest, Arc::clone(&self.kept));
        self.make_room(&mut state);
        state.calls.push_back(Arc::clone(&log));
        log
    }

    pub(super) fn find(&self, stream: u64) -> Option<Arc<Log>> {
        let state = self.state();
        match stream {
            LISTENING => Some(Arc::clone(&state.listening)),
            _ => state.calls.iter().find(|log| log.stream() == stream).cloned(),
        }
    }

    /// The stream on which the server speaks of its own accord.
    pub(super) fn listening(&self) -> Arc<Log> {
        Arc::clone(&self.state().listening)
    }

    /// The source of what is said there; to whoever asks first.
    pub(super) fn take_asides(&self) -> Option<broadcast::Receiver<Aside>> {
        self.state().asides.take()
    }

    /// Ends a stream that is worth nothing to anyone who comes back.
    pub(super) fn forget(&self, log: &Log) {
        log.end();
        self.state().calls.retain(|it| it.stream() != log.stream());
    }

    /// Ends a stream that may be asked for again.
    pub(super) fn end(&self, log: &Log) {
        log.end();
        self.make_room(&mut self.state());
    }

    pub(crate) fn forget_older_than(&self, age: Duration) {
        let is_old = |log: &Arc<Log>| log.ended().is_some_and(|ended| ended.elapsed() >= age);
        self.state().calls.retain(|log| !is_old(log));
    }

    fn make_room(&self, state: &mut State) {
        let mut ended = state.calls.iter().filter(|log| log.ended().is_some()).count();
        while ended > 0 && (ended > ENDED_MAX || self.kept.is_too_much()) {
            let Some(at) = state.calls.iter().position(|log| log.ended().is_some()) else { return };
            // With it goes what it kept, unless it is still being read.
            state.calls.remove(at);
            ended -= 1;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
