//! The sessions that the sidecar keeps for callers of the legacy era, so that no server has to be found again by one.
//!
//! A session belongs to the caller who opened it. Its id is no secret that opens anything: to anyone else the session
//! does not exist. Where nothing needs to be kept of a session but what was said when it was opened, the id carries that,
//! sealed: a sidecar that does not know such a session, because it was restarted or another sidecar of the same identity
//! opened it, makes it anew. Streams that were under way do not come along, nor do subscriptions and a log level.
//!
//! Not here: what is done with a session; that is the front's business.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_proto::audit::Digest;
use weft_proto::mcp::revision::Revision;

use crate::bridge::Abilities;
use crate::clock;
use crate::limits::Limits;
use crate::refusal::Refusal;
use crate::session_id::Ring;

use super::front::{
    calls::Calls,
    client::Client,
    questions::Questions,
    replay,
    streams::{LISTENING, Streams},
    topics::Topics,
};
use super::{Asker, Peer};

/// Longest that a client says of itself that its session's id carries, in bytes.
const CARRIED_INFO_BYTES_MAX: usize = 512;

/// Ends of sessions that are remembered.
const ENDED_MAX: usize = 4096;

/// Quiet time after which a session may have to make room for another of the same caller.
const QUIET_MIN: Duration = Duration::from_secs(60);

/// All sessions at one server.
#[derive(Debug)]
pub(crate) struct Sessions {
    peer: Arc<dyn Peer>,
    bounds: Bounds,
    /// Bytes that all sessions together keep for resumption.
    kept_bytes: Arc<AtomicUsize>,
    ring: Ring,
    scope: Arc<str>,
    table: Mutex<Table>,
    /// Sessions that were ended and whose ids would still open them.
    ended: Mutex<Ended>,
}

/// The ends that are remembered, the oldest first. They are forgotten with the ids' age, or for newer ones.
#[derive(Debug, Default)]
struct Ended {
    known: HashSet<Digest>,
    in_order: VecDeque<(Digest, u64)>,
}

impl Ended {
    fn add(&mut self, id: &str, until: u64, now: u64) {
        let is_over = |(_, until): &(Digest, u64)| *until <= now;
        while self.in_order.front().is_some_and(is_over) || self.in_order.len() >= ENDED_MAX {
            let Some((oldest, _)) = self.in_order.pop_front() else { break };
            self.known.remove(&oldest);
        }
        let id = Digest::of(id.as_bytes());
        if self.known.insert(id) {
            self.in_order.push_back((id, until));
        }
    }

    fn has(&self, id: &str) -> bool {
        !self.known.is_empty() && self.known.contains(&Digest::of(id.as_bytes()))
    }
}

/// What an id carries.
#[derive(Debug, Serialize, Deserialize)]
struct Carried<'a> {
    /// Seconds of the epoch after which it opens nothing.
    until: u64,
    revision: Cow<'a, str>,
    /// As the client declares them.
    #[serde(borrow)]
    abilities: &'a RawValue,
    #[serde(borrow)]
    info: Option<&'a RawValue>,
}

#[derive(Debug)]
struct Bounds {
    sessions_max: usize,
    per_caller_max: usize,
    idle_timeout: Duration,
    age_max: Duration,
    kept: replay::Bounds,
    kept_for: Duration,
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<Arc<str>, Arc<Session>>,
    /// How many each caller has.
    callers: HashMap<Arc<str>, usize>,
}

impl Table {
    fn insert(&mut self, id: &Arc<str>, session: &Arc<Session>) {
        self.by_id.insert(Arc::clone(id), Arc::clone(session));
        *self.callers.entry(Arc::clone(&session.asker.caller)).or_default() += 1;
    }

    fn remove(&mut self, id: &str) -> Option<Arc<Session>> {
        let session = self.by_id.remove(id)?;
        match self.callers.get_mut(&session.asker.caller) {
            Some(count) if *count > 1 => *count -= 1,
            // Forgotten, so that the map never outgrows the sessions.
            _ => drop(self.callers.remove(&session.asker.caller)),
        }
        Some(session)
    }

    fn remove_where(&mut self, over: impl Fn(&Session) -> bool) -> Vec<Arc<Session>> {
        let ids: Vec<_> =
            self.by_id.iter().filter(|(_, session)| over(session)).map(|(id, _)| Arc::clone(id)).collect();
        ids.iter().filter_map(|id| self.remove(id)).collect()
    }

    fn longest_quiet(&self, caller: &str) -> Option<Arc<str>> {
        self.by_id
            .iter()
            .filter(|(_, session)| &*session.asker.caller == caller)
            .filter_map(|(id, session)| Some((session.quiet_for()?, id)))
            .filter(|(quiet, _)| *quiet >= QUIET_MIN)
            .max_by_key(|(quiet, _)| *quiet)
            .map(|(_, id)| Arc::clone(id))
    }
}

impl Sessions {
    pub(crate) fn new(peer: Arc<dyn Peer>, limits: &Limits, (ring, scope): (Ring, Arc<str>)) -> Self {
        let bounds = Bounds {
            sessions_max: limits.sessions_max,
            per_caller_max: limits.sessions_per_caller_max,
            idle_timeout: *limits.session_idle_timeout,
            age_max: *limits.session_age_max,
            kept: replay::Bounds {
                events_max: limits.replay_events_max,
                bytes_max: limits.replay_bytes_max,
                total_bytes_max: limits.replay_total_bytes_max,
            },
            kept_for: *limits.replay_timeout,
        };
        Self {
            peer,
            bounds,
            kept_bytes: Arc::default(),
            ring,
            scope,
            table: Mutex::default(),
            ended: Mutex::default(),
        }
    }

    /// Opens a session, whose id carries it or does not. A caller who has as many as allowed loses the one that was quiet
    /// the longest; others' are never ended for its sake.
    pub(crate) fn open(
        &self,
        caller: &Arc<str>,
        said: Option<HeaderValue>,
        revision: Revision,
        client: Client,
        is_carried: bool,
    ) -> Result<Arc<Session>, Refusal> {
        let random = || format!("{:032x}", rand::random::<u128>());
        let sealed = is_carried.then(|| self.sealed(caller, revision, &client)).flatten();
        self.begin(sealed.unwrap_or_else(random).into(), (caller, said), revision, client, LISTENING)
    }

    /// An id that carries the session.
    fn sealed(&self, caller: &str, revision: Revision, client: &Client) -> Option<String> {
        let declared = client.abilities.declared();
        let info = client.info().filter(|info| info.len() <= CARRIED_INFO_BYTES_MAX);
        let carried = Carried {
            until: clock::seconds() + self.bounds.age_max.as_secs(),
            revision: revision.as_str().into(),
            abilities: serde_json::from_str(&declared).ok()?,
            info: info.and_then(|info| serde_json::from_str(info).ok()),
        };
        self.ring.seal(&serde_json::to_vec(&carried).ok()?, &[caller, &self.scope])
    }

    /// The session that an id carries, which nobody here knows.
    fn anew(&self, caller: &Arc<str>, said: Option<&HeaderValue>, id: &str) -> Result<Arc<Session>, Refusal> {
        let text = self.ring.open(id, &[caller, &self.scope]).ok_or(Refusal::SessionUnknown)?;
        let carried: Carried<'_> = serde_json::from_slice(&text).map_err(|_| Refusal::SessionUnknown)?;
        let revision = Revision::parse(&carried.revision).filter(|_| carried.until > clock::seconds());
        let revision = revision.filter(|_| !self.ended().has(id)).ok_or(Refusal::SessionUnknown)?;
        let client =
            Client::new(carried.info.map(RawValue::get), Abilities::of(Some(carried.abilities.into())));
        tracing::debug!(scope = &*self.scope, "session taken over");
        // Nobody takes the rest of a stream of before for one of the streams from now on.
        let newest = u64::from(rand::random::<u32>()) << 20;
        self.begin(id.into(), (caller, said.cloned()), revision, client, newest)
    }

    fn begin(
        &self,
        id: Arc<str>,
        (caller, said): (&Arc<str>, Option<HeaderValue>),
        revision: Revision,
        client: Client,
        newest: u64,
    ) -> Result<Arc<Session>, Refusal> {
        let abilities = client.abilities;
        let asker = Asker { caller: Arc::clone(caller), session: Some(Arc::clone(&id)), abilities, said };
        let kept = Arc::new(replay::Kept::new(self.bounds.kept, Arc::clone(&self.kept_bytes)));
        let session = Arc::new(Session {
            streams: Streams::new(kept, self.peer.asides(&asker), newest),
            asker,
            revision,
            client,
            calls: Calls::default(),
            topics: Topics::default(),
            questions: Questions::default(),
            over: CancellationToken::new(),
            users: AtomicUsize::new(0),
            used: Mutex::new(Instant::now()),
        });
        let mut table = self.table();
        // Two may come at once with an id that nobody knew.
        if let Some(known) = table.by_id.get(&id) {
            return Ok(Arc::clone(known));
        }
        let has_room = |table: &Table| {
            table.by_id.len() < self.bounds.sessions_max
                && table.callers.get(caller).is_none_or(|count| *count < self.bounds.per_caller_max)
        };
        let mut ended = Vec::new();
        if !has_room(&table) {
            ended = table.remove_where(|session| session.is_expired(self.bounds.idle_timeout));
        }
        if !has_room(&table) {
            ended.extend(table.longest_quiet(caller).and_then(|id| table.remove(&id)));
        }
        let opened = has_room(&table);
        if opened {
            table.insert(&id, &session);
        }
        drop(table);
        self.end_all(ended);
        if !opened {
            self.end_all([session]);
            return Err(Refusal::TooManySessions);
        }
        Ok(session)
    }

    /// The caller's own session with this id.
    pub(crate) fn find(
        &self,
        caller: &Arc<str>,
        said: Option<&HeaderValue>,
        id: &str,
    ) -> Result<Arc<Session>, Refusal> {
        let mut table = self.table();
        let Some(session) = table.by_id.get(id).map(Arc::clone) else {
            drop(table);
            return self.anew(caller, said, id);
        };
        if session.asker.caller != *caller {
            return Err(Refusal::SessionUnknown);
        }
        if session.is_expired(self.bounds.idle_timeout) {
            table.remove(id);
            drop(table);
            self.end_all([session]);
            return self.anew(caller, said, id);
        }
        session.touch();
        Ok(session)
    }

    /// Ends the caller's own session with this id.
    pub(crate) fn close(&self, caller: &Arc<str>, id: &str) -> Result<(), Refusal> {
        let session = self.find(caller, None, id)?;
        let now = clock::seconds();
        self.ended().add(id, now + self.bounds.age_max.as_secs(), now);
        // Two may close it at once; one of them finds it gone.
        self.table().remove(id).ok_or(Refusal::SessionUnknown)?;
        self.end_all([session]);
        Ok(())
    }

    /// Ends what was idle for too long, and forgets what nobody came back for.
    pub(crate) fn sweep(&self) {
        let mut table = self.table();
        let ended = table.remove_where(|session| session.is_expired(self.bounds.idle_timeout));
        for session in table.by_id.values() {
            session.streams.forget_older_than(self.bounds.kept_for);
        }
        drop(table);
        self.end_all(ended);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.table().by_id.len()
    }

    fn end_all(&self, sessions: impl IntoIterator<Item = Arc<Session>>) {
        for session in sessions {
            session.over.cancel();
            self.peer.end(&session.asker);
        }
    }

    fn ended(&self) -> MutexGuard<'_, Ended> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        let ended = self.table().remove_where(|_| true);
        self.end_all(ended);
    }
}

/// One session of one caller.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) asker: Asker,
    /// The revision agreed on with the caller.
    pub(crate) revision: Revision,
    pub(crate) client: Client,
    pub(crate) streams: Streams,
    pub(crate) calls: Calls,
    pub(crate) topics: Topics,
    /// What the caller was asked and has not answered.
    pub(crate) questions: Questions,
    /// Cancelled when the session has ended.
    pub(crate) over: CancellationToken,
    /// Streams and calls under way.
    users: AtomicUsize,
    used: Mutex<Instant>,
}

impl Session {
    /// The id, as the caller knows it.
    pub(crate) fn id(&self) -> &str {
        self.asker.session.as_deref().unwrap_or_default()
    }

    /// Keeps the session from being idle until dropped.
    pub(crate) fn use_it(self: &Arc<Self>) -> InUse {
        self.users.fetch_add(1, Ordering::AcqRel);
        InUse(Arc::clone(self))
    }

    fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// For how long nothing was done with it; nothing while something is.
    fn quiet_for(&self) -> Option<Duration> {
        let used = *self.used.lock().unwrap_or_else(PoisonError::into_inner);
        (self.users.load(Ordering::Acquire) == 0).then(|| used.elapsed())
    }

    fn is_expired(&self, idle_timeout: Duration) -> bool {
        self.quiet_for().is_some_and(|quiet| quiet >= idle_timeout)
    }
}

/// A stream or a call of a session.
#[derive(Debug)]
pub(crate) struct InUse(Arc<Session>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.touch();
        self.0.users.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_remembered_for_as_long_as_ids_would_open_and_no_more_than_so_many() {
        let mut ended = Ended::default();
        ended.add("first", 20, 10);
        ended.add("first", 20, 10);
        ended.add("second", 25, 15);
        assert!(ended.has("first") && ended.has("second") && !ended.has("third"));
        ended.add("third", 35, 21);
        assert!(!ended.has("first") && ended.has("second") && ended.has("third"));
        for n in 0..ENDED_MAX - 1 {
            ended.add(&n.to_string(), 40, 21);
        }
        assert!(!ended.has("second") && ended.has("third"));
        ended.add("last", 40, 21);
        assert!(!ended.has("third") && ended.has("last"));
        assert_eq!((ended.known.len(), ended.in_order.len()), (ENDED_MAX, ENDED_MAX));
    }
}
