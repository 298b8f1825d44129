//! Watching objects: server-sent events from a revision on, resumable, with signs of life.
//!
//! Only the last event of a revision carries the revision as its id, so that whoever resumes with `Last-Event-ID` never
//! loses the rest of a revision that was cut off in the middle.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Interval;
use tracing::warn;
use weft_proto::name::Namespace;
use weft_proto::resource::{Key, Kind};

use super::call::Call;
use super::objects::{kind, shown};
use super::{Api, Error, WatchEvent};
use crate::auth::Principal;
use crate::desired;
use crate::store::{self, Change, Revision, Watch};

/// What is to be watched.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WatchQuery {
    /// A kind, by its name, plural or short form; every kind if not given.
    kind: Option<String>,
    /// A namespace; every namespace if not given.
    #[schemars(with = "Option<String>")]
    namespace: Option<Namespace>,
    /// Changes after this revision; after now if not given. The header `Last-Event-ID` wins over it.
    after: Option<u64>,
}

/// What is to be told next. Changes become events only when they are: a revision may hold thousands.
enum Ready {
    Event(Event),
    Change { revision: Revision, key: Key, change: Change, is_last: bool },
}

/// One watcher.
struct Watcher {
    api: Arc<Api>,
    principal: Option<Principal>,
    kind: Option<Kind>,
    namespace: Option<Namespace>,
    changes: Watch,
    heartbeat: Interval,
    ready: VecDeque<Ready>,
    /// Everything up to here was looked at, and everything up to there was told.
    seen: Revision,
    told: Revision,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

pub(super) async fn watch(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    let query: WatchQuery = call.query()?;
    let kind = kind(query.kind.as_deref())?;
    let resumed = last_event_id(&call)?;
    let watchers_max = api.deps.limits.watchers_max;
    let place = Arc::clone(&api.watchers).try_acquire_owned();
    let place = place.map_err(|_| Error::TooManyWatchers { watchers_max })?;
    let head = api.deps.store.head().await?;
    let after = resumed.or(query.after).map_or(head.revision, Revision);
    if after.next() < head.oldest {
        return Err(Error::Compacted { oldest: head.oldest.0 });
    }
    let changes = api.deps.store.watch(desired::prefix(), after).await?;
    let mut heartbeat = tokio::time::interval(api.deps.limits.heartbeat);
    heartbeat.reset();
    let mut watcher = Watcher {
        kind,
        namespace: query.namespace,
        changes,
        heartbeat,
        // Says from where on, and that the watch has begun.
        ready: VecDeque::from([Ready::Event(bookmark(after))]),
        seen: after,
        told: after,
        ended: false,
        _place: place,
        principal: call.principal,
        api,
    };
    watcher.heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    Ok(Sse::new(events(watcher)).into_response())
}

fn last_event_id(call: &Call) -> Result<Option<u64>, Error> {
    let Some(value) = call.headers.get("last-event-id") else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| Error::BadParameter {
        name: "last-event-id",
        problem: "expected a revision".to_owned(),
    })
}

fn events(watcher: Watcher) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(watcher, |mut watcher| async move {
        loop {
            match watcher.ready.pop_front() {
                Some(Ready::Event(event)) => return Some((Ok(event), watcher)),
                Some(Ready::Change { revision, key, change, is_last }) => {
                    if let Some(event) = told(revision, &key, &change, is_last) {
                        return Some((Ok(event), watcher));
                    }
                    continue;
                }
                None => {}
            }
            if watcher.ended {
                return None;
            }
            watcher.step().await;
        }
    })
}

impl Watcher {
    /// Waits for whatever comes next and makes events of it.
    async fn step(&mut self) {
        tokio::select! {
            () = self.api.deps.shutdown.cancelled() => self.ended = true,
            change = self.changes.next() => match change {
                Some(Ok(event)) => self.take(event),
                Some(Err(store::Error::Closed)) | None => self.ended = true,
                Some(Err(error)) => self.fail(error.into()),
            },
            _ = self.heartbeat.tick() => self.beat().await,
        }
    }

    fn take(&mut self, event: store::Event) {
        let revision = event.revision;
        self.seen = revision;
        let before = self.ready.len();
        for change in event.changes {
            if let Some(key) = desired::object_key(change.key()).filter(|key| self.wants(key)) {
                self.ready.push_back(Ready::Change { revision, key, change, is_last: false });
            }
        }
        if self.ready.len() > before
            && let Some(Ready::Change { is_last, .. }) = self.ready.back_mut()
        {
            *is_last = true;
            self.told = revision;
        }
    }

    fn wants(&self, key: &Key) -> bool {
        self.kind.is_none_or(|kind| kind == key.kind)
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
    }

    /// A sign of life, and the moment at which a key that no longer holds is noticed.
    async fn beat(&mut self) {
        if let Some(principal) = &self.principal {
            match self.api.deps.keys.still_holds(principal, self.api.now()).await {
                Ok(true) => {}
                Ok(false) => return self.fail(Error::Unauthenticated { why: crate::auth::Denied::Expired }),
                Err(error) => warn!(%error, "a watcher's key could not be looked up"),
            }
        }
        if self.seen > self.told {
            self.told = self.seen;
            self.ready.push_back(Ready::Event(bookmark(self.seen)));
        } else {
            self.ready.push_back(Ready::Event(Event::default().comment("heartbeat")));
        }
    }

    /// The last event says why there are no more.
    fn fail(&mut self, error: Error) {
        let data = error.problem("");
        self.ready.extend(Event::default().event("error").json_data(&data).ok().map(Ready::Event));
        self.ended = true;
    }
}

fn told(revision: Revision, key: &Key, change: &Change, is_last: bool) -> Option<Event> {
    let (name, resource) = match change {
        Change::Put(entry) => ("put", shown(entry)),
        Change::Delete(_) => ("delete", None),
    };
    let data = WatchEvent {
        revision: revision.0,
        kind: Some(key.kind.name().to_owned()),
        namespace: Some(key.namespace.to_string()),
        name: Some(key.name.to_string()),
        resource,
    };
    let event = Event::default().event(name).json_data(&data).ok()?;
    Some(if is_last { event.id(revision.to_string()) } else { event })
}

fn bookmark(at: Revision) -> Event {
    let data = WatchEvent { revision: at.0, kind: None, namespace: None, name: None, resource: None };
    let event = Event::default().event("bookmark").id(at.to_string());
    event.json_data(&data).unwrap_or_default()
}
