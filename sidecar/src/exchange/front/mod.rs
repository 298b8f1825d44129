//! The caller's half of speaking to a server message by message: both eras of Streamable HTTP towards the caller, a
//! [`Peer`] towards the server.
//!
//! Whoever comes here was let in: nothing is decided here about who may do what. What the two eras call by different
//! names is translated by the bridge.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Response};
use tokio::time::interval;
use tokio_util::sync::{CancellationToken, DropGuard};
use weft_proto::mcp;
use weft_proto::resource::kinds::Era;

use crate::admit::Admitted;
use crate::body::Body;
use crate::classify::Call;
use crate::limits::Limits;
use crate::refusal::Refusal;
use crate::session_id::{Ring, Whence};
use crate::task_id::TaskIds;

use super::Peer;
use super::sessions::Sessions;

mod answer;
pub(super) mod calls;
pub(super) mod client;
mod conversation;
mod discover;
mod events;
mod extension;
mod inquiries;
mod interest;
mod legacy;
mod modern;
mod parked;
mod pump;
pub(super) mod questions;
pub(super) mod replay;
mod rounds;
mod shelf;
pub(super) mod streams;
mod subscribe;
mod tasks;
mod told;
pub(super) mod topics;
mod translate;
mod watch;

/// How often sessions are looked through for those that were idle for too long.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// The part of the time to drain in which calls that are still under way are told that they will not be answered.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A request that was let in.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// Whoever has the same name is the same caller.
    pub caller: &'a Arc<str>,
    /// What a gateway says of the caller.
    pub said: Option<&'a HeaderValue>,
    pub head: &'a Parts,
    /// Where the message was read from.
    pub body: &'a Bytes,
    pub patience: Patience,
    /// The place that what is asked has, for as long as the server is busy with it.
    pub admitted: &'a Admitted,
}

/// How long a server is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until it says something.
    pub call: Duration,
    /// Between one thing that it says and the next. Without a limit it may be silent for ever.
    pub idle: Option<Duration>,
    /// Bytes of a response that are passed on.
    pub result_bytes_max: Option<u64>,
}

/// Where a front stands.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where callers without a session have to come back to with what they were asked for.
    pub here: Whence,
    /// What the ids of sessions are sealed with, where a session needs nothing but what its id carries.
    pub ring: Ring,
    /// What sessions are for; those of another scope do not exist here.
    pub scope: Arc<str>,
}

/// One server, as callers see it.
#[derive(Debug)]
pub struct Front {
    peer: Arc<dyn Peer>,
    known: translate::Known,
    sessions: Sessions,
    /// The calls of those who have no session.
    modern_calls: calls::Calls,
    discovered: discover::Discovered,
    watched: watch::Watched,
    parked: parked::Parked,
    task_ids: TaskIds,
    shelf: shelf::Shelf,
    inquiries: inquiries::Inquiries,
    settings: Settings,
    /// What has no end of its own ends now.
    drain: CancellationToken,
    /// Everything ends now.
    stop: CancellationToken,
    _background: DropGuard,
}

#[derive(Clone, Debug)]
struct Settings {
    comment_every: Duration,
    unread_max: usize,
    calls_per_session_max: usize,
    input_timeout: Duration,
    task_wait_timeout: Duration,
    bounds: mcp::Bounds,
}

impl Front {
    /// When `drain` is cancelled, streams that have no end of their own end, and calls under way have a while left.
    pub fn new(peer: Arc<dyn Peer>, limits: &Limits, drain: CancellationToken, place: Place) -> Arc<Self> {
        let Place { here, ring, scope } = place;
        let settings = Settings {
            comment_every: *limits.keep_alive_comment_every,
            unread_max: limits.stream_queue_max,
            calls_per_session_max: limits.calls_per_session_max,
            input_timeout: *limits.input_timeout,
            task_wait_timeout: *limits.task_wait_timeout,
            bounds: mcp::Bounds { depth_max: limits.depth_max, batch_max: limits.batch_max },
        };
        let background = CancellationToken::new();
        let stop = CancellationToken::new();
        let task_ids = TaskIds::new(ring.clone(), Arc::clone(&scope));
        let front = Arc::new(Self {
            sessions: Sessions::new(Arc::clone(&peer), limits, (ring, scope)),
            peer,
            known: translate::Known::default(),
            modern_calls: calls::Calls::default(),
            discovered: discover::Discovered::default(),
            watched: watch::Watched::default(),
            parked: parked::Parked::new(here, limits, drain.clone()),
            task_ids,
            shelf: shelf::Shelf::new(limits),
            inquiries: inquiries::Inquiries::new(limits, drain.clone()),
            settings,
            drain: drain.clone(),
            stop: stop.clone(),
            _background: background.clone().drop_guard(),
        });
        let left = limits.drain_timeout.saturating_sub(LAST_WORDS);
        let stopping = background.clone();
        tokio::spawn(stopping.run_until_cancelled_owned(async move {
            drain.cancelled().await;
            tokio::time::sleep(left).await;
            stop.cancel();
        }));
        let swept = Arc::downgrade(&front);
        tokio::spawn(background.run_until_cancelled_owned(async move {
            let mut ticks = interval(SWEEP_EVERY);
            loop {
                ticks.tick().await;
                let Some(front) = swept.upgrade() else { return };
                front.sessions.sweep();
            }
        }));
        front
    }

    /// Serves a request that was let in, and is to be answered in the era that it was taken for.
    pub async fn serve(
        self: &Arc<Self>,
        incoming: Incoming<'_>,
        call: &Call<'_>,
    ) -> Result<Response<Body>, Refusal> {
        match call.era {
            Era::Modern => self.modern(incoming, &call.kind).await,
            Era::Legacy => self.legacy(incoming, &call.kind).await,
        }
    }

    /// Whether a request goes on with a call that waits here for this caller.
    pub fn waits(&self, caller: &str, call: &Call<'_>) -> bool {
        call.era == Era::Modern && call.request().is_some_and(|request| self.parked.waits(caller, request))
    }

    /// Sessions that are open.
    pub fn sessions(&self) -> usize {
        self.sessions.count()
    }

    /// The server as it introduces itself; waits for it to be ready.
    async fn server(&self) -> Result<Arc<translate::Server>, Refusal> {
        self.known.ask(&*self.peer, self.settings.bounds).await
    }

    fn conversation(
        &self,
        question: conversation::Question,
        patience: Patience,
        admitted: Admitted,
    ) -> conversation::Conversation {
        let cancelled = question.under_way.as_ref().map(|call| call.cancelled.clone()).unwrap_or_default();
        let rules = conversation::Rules {
            patience,
            _admitted: admitted,
            cancelled,
            stop: self.stop.clone(),
            input_timeout: self.settings.input_timeout,
            bounds: self.settings.bounds,
        };
        conversation::Conversation::begin(&self.peer, question, rules)
    }
}

#[cfg(test)]
mod tests;
