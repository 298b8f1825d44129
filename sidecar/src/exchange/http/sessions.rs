//! The sessions that are kept at one server of the legacy era: one for each asker, made when it is first needed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bridge::Abilities;
use crate::exchange::{Aside, Asker, Said};
use crate::refusal::Refusal;

/// Who waits for an answer, by a number.
type Waiter = (u64, mpsc::Sender<Result<Said, Refusal>>);

/// One asker's session.
#[derive(Debug)]
pub(crate) struct Session<E = Established> {
    /// What the server agreed to; none until the first handshake is done. Locked while one is under way.
    pub(crate) established: tokio::sync::Mutex<Option<Arc<E>>>,
    pub(crate) asides: broadcast::Sender<Aside>,
    /// Whether someone listens for what the server says outside of requests. Who does holds the session and sets this
    /// for as long.
    pub(crate) is_listening: AtomicBool,
    /// Cancelled when the session has ended.
    pub(crate) over: CancellationToken,
    /// Who has it, as the server is told; none for a session of the sidecar's own.
    pub(crate) caller: Option<HeaderValue>,
    /// What the server may ask of whoever has it.
    pub(crate) abilities: Abilities,
    /// Whoever waits for answers to requests, the latest last, where nobody else could be told what the server asks
    /// outside of them.
    pub(crate) waiting: Mutex<Vec<Waiter>>,
    /// Whether the server can say something outside of requests by now, or never will.
    pub(crate) hears: watch::Sender<bool>,
    used: Mutex<Instant>,
}

/// What a handshake came to.
#[derive(Debug)]
pub(crate) struct Established {
    /// Servers without state have none.
    pub(crate) id: Option<HeaderValue>,
    pub(crate) revision: HeaderValue,
    pub(crate) caller: Option<HeaderValue>,
}

impl<E> Session<E> {
    fn new(asides_max: usize, asker: &Asker) -> Self {
        Self {
            established: tokio::sync::Mutex::new(None),
            asides: broadcast::Sender::new(asides_max),
            is_listening: AtomicBool::new(false),
            over: CancellationToken::new(),
            caller: HeaderValue::from_str(&asker.caller).ok().filter(|caller| !caller.is_empty()),
            abilities: asker.abilities,
            waiting: Mutex::default(),
            hears: watch::Sender::new(false),
            used: Mutex::new(Instant::now()),
        }
    }

    /// Notes who waits for an answer, until what is returned is dropped.
    pub(crate) fn wait(self: &Arc<Self>, sender: &mpsc::Sender<Result<Said, Refusal>>) -> Waits<E> {
        let mut waiting = self.waiting();
        let number = waiting.last().map_or(0, |(number, _)| number + 1);
        waiting.push((number, sender.clone()));
        Waits { session: Arc::clone(self), number }
    }

    /// The only one who waits for an answer, or the latest.
    pub(crate) fn meant(&self) -> Option<mpsc::Sender<Result<Said, Refusal>>> {
        self.waiting().last().map(|(_, sender)| sender.clone())
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiter>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn quiet_for(&self) -> Duration {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// Somebody who waits for an answer.
#[derive(Debug)]
pub(crate) struct Waits<E> {
    session: Arc<Session<E>>,
    number: u64,
}

impl<E> Drop for Waits<E> {
    fn drop(&mut self) {
        self.session.waiting().retain(|(number, _)| *number != self.number);
    }
}

/// All sessions at one server. A session is in use as long as anyone hears its asides, or holds it for anything but
/// listening for them.
#[derive(Debug)]
pub(crate) struct Sessions<E = Established> {
    sessions_max: usize,
    idle_timeout: Duration,
    asides_max: usize,
    table: Mutex<HashMap<Asker, Arc<Session<E>>>>,
}

/// A session, and those that had to go for it.
#[derive(Debug)]
pub(crate) struct Opened<E> {
    pub(crate) session: Arc<Session<E>>,
    pub(crate) gone: Vec<Arc<Session<E>>>,
}

impl<E> Sessions<E> {
    pub(crate) fn new(sessions_max: usize, idle_timeout: Duration, asides_max: usize) -> Self {
        Self { sessions_max, idle_timeout, asides_max, table: Mutex::default() }
    }

    /// The asker's session. Where there are as many as allowed, the one that was quiet the longest makes room.
    pub(crate) fn open(&self, asker: &Asker) -> Result<Opened<E>, Refusal> {
        let mut table = self.table();
        if let Some(session) = table.get(asker) {
            session.touch();
            return Ok(Opened { session: Arc::clone(session), gone: Vec::new() });
        }
        let mut gone = Vec::new();
        if table.len() >= self.sessions_max {
            gone = take_where(&mut table, |session| session.quiet_for() >= self.idle_timeout);
        }
        if table.len() >= self.sessions_max {
            let unused = table.iter().filter(|(_, session)| is_unused(session));
            let quietest = unused.max_by_key(|(_, session)| session.quiet_for());
            let quietest = quietest.map(|(asker, _)| asker.clone()).ok_or(Refusal::TooManySessions)?;
            gone.extend(table.remove(&quietest));
        }
        let session = Arc::new(Session::new(self.asides_max, asker));
        table.insert(asker.clone(), Arc::clone(&session));
        Ok(Opened { session, gone })
    }

    pub(crate) fn close(&self, asker: &Asker) -> Option<Arc<Session<E>>> {
        self.table().remove(asker)
    }

    /// Takes out those that were quiet for too long.
    pub(crate) fn take_idle(&self) -> Vec<Arc<Session<E>>> {
        take_where(&mut self.table(), |session| session.quiet_for() >= self.idle_timeout)
    }

    pub(crate) fn take_all(&self) -> Vec<Arc<Session<E>>> {
        self.table().drain().map(|(_, session)| session).collect()
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Asker, Arc<Session<E>>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_unused<E>(session: &Arc<Session<E>>) -> bool {
    let idle_holders = 1 + usize::from(session.is_listening.load(Ordering::Acquire));
    Arc::strong_count(session) <= idle_holders && session.asides.receiver_count() == 0
}

/// Takes out the unused ones of which something holds.
fn take_where<E>(
    table: &mut HashMap<Asker, Arc<Session<E>>>,
    holds: impl Fn(&Session<E>) -> bool,
) -> Vec<Arc<Session<E>>> {
    let mut gone = Vec::new();
    table.retain(|_, session| {
        let goes = is_unused(session) && holds(session);
        if goes {
            gone.push(Arc::clone(session));
        }
        !goes
    });
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(name: &str) -> Asker {
        Asker { caller: name.into(), ..Asker::nobody() }
    }

    const IDLE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn the_quietest_session_makes_room_unless_all_are_in_use() {
        let sessions: Sessions = Sessions::new(2, IDLE, 1);
        let a = sessions.open(&asker("a")).unwrap().session;
        drop(sessions.open(&asker("b")).unwrap());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(Arc::ptr_eq(&sessions.open(&asker("a")).unwrap().session, &a));
        let opened = sessions.open(&asker("c")).unwrap();
        assert_eq!(opened.gone.len(), 1, "b was quiet");
        assert_eq!(sessions.open(&asker("d")).unwrap_err(), Refusal::TooManySessions);
        drop(a);
        assert_eq!(sessions.open(&asker("d")).unwrap().gone.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_forgotten_when_it_was_idle_for_too_long() {
        let sessions: Sessions = Sessions::new(8, IDLE, 1);
        drop(sessions.open(&asker("a")).unwrap());
        let heard = sessions.open(&asker("b")).unwrap().session.asides.subscribe();
        let used = sessions.open(&asker("c")).unwrap().session;
        assert!(sessions.take_idle().is_empty());
        tokio::time::advance(IDLE).await;
        assert_eq!(sessions.take_idle().len(), 1);
        drop((heard, used));
        assert_eq!(sessions.take_idle().len(), 2);
        assert!(sessions.take_all().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_to_which_nobody_listens_any_more_is_idle_though_its_stream_goes_on() {
        let sessions: Sessions = Sessions::new(8, IDLE, 1);
        let listener = sessions.open(&asker("a")).unwrap().session;
        let heard = listener.asides.subscribe();
        listener.is_listening.store(true, Ordering::Release);
        tokio::time::advance(IDLE).await;
        assert!(sessions.take_idle().is_empty());
        drop(heard);
        let used = sessions.open(&asker("a")).unwrap().session;
        tokio::time::advance(IDLE).await;
        assert!(sessions.take_idle().is_empty());
        drop(used);
        assert_eq!(sessions.take_idle().len(), 1);
    }
}
