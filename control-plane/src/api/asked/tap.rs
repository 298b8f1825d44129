//! Calls as they end, on every sidecar that is asked, as server-sent events.
//!
//! Nothing waits for whoever listens: what comes faster than it is taken is lost, counted, and said. Sidecars that come
//! are asked, too, and those that leave are told of.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, stream};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tracing::warn;
use weft_proto::name::{Namespace, NodeId};
use weft_proto::pb::weft::ask::v1::answer::Says;
use weft_proto::pb::weft::ask::v1::question::Asks;
use weft_proto::pb::weft::ask::v1::{Call as Ended, Tap};

use super::{SIDECARS_MAX, callers, patterns, whom};
use crate::api::call::Call;
use crate::api::dto::DateTime;
use crate::api::serve::clip;
use crate::api::{Api, Error};
use crate::ask::{self, Whom};
use crate::auth::{Principal, timestamp};
use crate::store::limits::AUDIT_FIELD_BYTES_MAX;
use crate::xds::ClientStatus;

/// Events that wait for whoever listens.
const WAITING_MAX: usize = 1024;
/// How often sidecars are looked for that have come, and is told what was lost.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A sidecar that has connected so lately may not have opened its other streams.
const YOUNG: Duration = Duration::from_secs(10);
/// Longest time that is asked for, in seconds.
const FOR_SECS_MAX: u64 = 24 * 3600;

/// Which calls are wanted. Patterns have `*` for any run of characters, and commas between them.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct TapQuery {
    /// Only sidecars of this namespace.
    #[schemars(with = "Option<String>")]
    namespace: Option<Namespace>,
    /// Only this sidecar, `<namespace>/<instance>`.
    #[schemars(with = "Option<String>")]
    sidecar: Option<NodeId>,
    /// Servers, `<namespace>/<name>`.
    server: Option<String>,
    /// Tools, or whatever else a call names.
    tool: Option<String>,
    /// Identities, or `<namespace>/<account>`.
    caller: Option<String>,
    /// `ok`, `refused`, `failed`, `left`, or reasons.
    outcome: Option<String>,
    /// After so many calls it ends.
    max: Option<u64>,
    /// After so many seconds it ends.
    for_seconds: Option<u64>,
}

/// An event of a tap: `call`, or how the tap stands: `begun`, `joined`, `left`, `lost` and `end`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TapEvent {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DateTime>")]
    pub at: Option<Timestamp>,
    /// The sidecar that saw it, or came, or left.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sidecar: String,
    /// `inbound` or `outbound`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub listener: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub caller: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub server: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// The tool, prompt, resource or task.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub era: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u32>,
    /// `ok`, `refused`, `failed` or `left`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub outcome: String,
    /// The word of the metrics.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The limit of a quota that refused it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub limit: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micros: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_bytes: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub refused_in_shadow: bool,
    /// Sidecars that are asked, or calls that were lost since this was told last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Why a sidecar is not asked any more, or why this is the end.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// What the sidecars' tasks tell of.
struct Told {
    name: &'static str,
    event: Box<TapEvent>,
}

/// One operator who listens.
struct Listener {
    api: Arc<Api>,
    principal: Option<Principal>,
    query: TapQuery,
    wanted: Tap,
    /// Ends the sidecars' questions with this.
    tasks: JoinSet<Whom>,
    /// Sidecars that are asked, and connections that are not to be asked again.
    asked: HashSet<Whom>,
    given_up: HashSet<(Whom, SystemTime)>,
    sender: mpsc::Sender<Told>,
    told: mpsc::Receiver<Told>,
    lost: Arc<AtomicU64>,
    looks: Interval,
    heartbeat: Interval,
    left: u64,
    until: Option<Instant>,
    /// Events that are to be told before others.
    ready: Vec<Event>,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

pub(in crate::api) async fn tap(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    let query: TapQuery = call.query()?;
    let wanted = Tap {
        servers: patterns("server", query.server.as_deref())?,
        targets: patterns("tool", query.tool.as_deref())?,
        callers: callers(query.caller.as_deref())?,
        outcomes: patterns("outcome", query.outcome.as_deref())?,
    };
    if query.for_seconds.is_some_and(|secs| !(1..=FOR_SECS_MAX).contains(&secs)) {
        let problem = format!("1 to {FOR_SECS_MAX} are taken");
        return Err(Error::BadParameter { name: "forSeconds", problem });
    }
    let watchers_max = api.deps.limits.watchers_max;
    let place = Arc::clone(&api.watchers).try_acquire_owned();
    let place = place.map_err(|_| Error::TooManyWatchers { watchers_max })?;
    // Who looked on is known before anything is seen.
    let object = clip(call.uri.query().unwrap_or("everything"), AUDIT_FIELD_BYTES_MAX);
    api.deps.store.append_audit(call.actor().did("tap", object, "")).await?;
    let (sender, told) = mpsc::channel(WAITING_MAX);
    let mut heartbeat = interval(api.deps.limits.heartbeat);
    heartbeat.reset();
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looks = interval(LOOK_EVERY);
    looks.reset();
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut listener = Listener {
        principal: call.principal,
        wanted,
        tasks: JoinSet::new(),
        asked: HashSet::new(),
        given_up: HashSet::new(),
        sender,
        told,
        lost: Arc::default(),
        looks,
        heartbeat,
        left: query.max.unwrap_or(u64::MAX),
        until: query.for_seconds.map(|secs| Instant::now() + Duration::from_secs(secs)),
        ready: Vec::new(),
        ended: false,
        _place: place,
        query,
        api,
    };
    let count = listener.look();
    listener.ready.extend(event("begun", &TapEvent { count: Some(count as u64), ..TapEvent::default() }));
    Ok(Sse::new(events(listener)).into_response())
}

fn events(listener: Listener) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(listener, |mut listener| async move {
        loop {
            if !listener.ready.is_empty() {
                return Some((Ok(listener.ready.remove(0)), listener));
            }
            if listener.ended {
                return None;
            }
            listener.step().await;
        }
    })
}

impl Listener {
    /// Waits for whatever comes next and makes events of it.
    async fn step(&mut self) {
        let until = self.until;
        tokio::select! {
            () = self.api.deps.shutdown.cancelled() => self.end("the control plane is stopping"),
            told = self.told.recv() => if let Some(told) = told { self.take(told) },
            Some(done) = self.tasks.join_next() => if let Ok(whom) = done { _ = self.asked.remove(&whom) },
            _ = self.looks.tick() => {
                self.look();
                self.tell_lost();
            }
            _ = self.heartbeat.tick() => self.beat().await,
            () = at(until) => self.end("the time is over"),
        }
    }

    fn take(&mut self, told: Told) {
        self.ready.extend(event(told.name, &told.event));
        if told.name == "call" {
            self.left = self.left.saturating_sub(1);
            if self.left == 0 {
                self.end("as many calls as were asked for have been told");
            }
        }
    }

    /// Asks those who are there and are not asked yet; says how many are asked.
    fn look(&mut self) -> usize {
        for status in self.api.deps.sidecars.status() {
            let (whom, since) = (whom(&status), status.connected_at);
            let connection = (whom.clone(), since);
            let is_new = !self.asked.contains(&whom) && !self.given_up.contains(&connection);
            if !self.wants(&status) || !is_new || self.asked.len() >= SIDECARS_MAX {
                continue;
            }
            match self.api.deps.sidecars.ask(&whom, Asks::Tap(self.wanted.clone())) {
                Ok(answers) => {
                    self.asked.insert(whom.clone());
                    let timeout = self.api.deps.limits.sidecar_timeout;
                    let (sender, lost) = (self.sender.clone(), Arc::clone(&self.lost));
                    let feed = Feed { whom, sender, lost, timeout };
                    self.tasks.spawn(feed.run(answers));
                }
                // It may just be about to open its stream; the next look tells.
                Err(ask::Error::Unasked) if is_young(&status, self.api.now()) => {}
                Err(why) => {
                    self.given_up.insert(connection);
                    self.ready.extend(gone(&whom, &why));
                }
            }
        }
        self.asked.len()
    }

    fn wants(&self, status: &ClientStatus) -> bool {
        let TapQuery { namespace, sidecar, .. } = &self.query;
        status.connected
            && namespace.as_ref().is_none_or(|it| status.node.namespace() == it.as_str())
            && sidecar.as_ref().is_none_or(|it| *it == status.node)
    }

    fn tell_lost(&mut self) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            self.ready.extend(event("lost", &TapEvent { count: Some(lost), ..TapEvent::default() }));
        }
    }

    /// A sign of life, and the moment at which a key that no longer holds is noticed.
    async fn beat(&mut self) {
        if let Some(principal) = &self.principal {
            match self.api.deps.keys.still_holds(principal, self.api.now()).await {
                Ok(true) => {}
                Ok(false) => return self.end("the key does not hold any more"),
                Err(error) => warn!(%error, "a listener's key could not be looked up"),
            }
        }
        self.ready.push(Event::default().comment("heartbeat"));
    }

    fn end(&mut self, why: &str) {
        self.tell_lost();
        self.ready.extend(event("end", &TapEvent { why: why.to_owned(), ..TapEvent::default() }));
        self.ended = true;
    }
}

/// A sidecar that has just connected opens its other streams next.
fn is_young(status: &ClientStatus, now: SystemTime) -> bool {
    now.duration_since(status.connected_at).is_ok_and(|age| age < YOUNG)
}

/// What one sidecar tells.
struct Feed {
    whom: Whom,
    sender: mpsc::Sender<Told>,
    lost: Arc<AtomicU64>,
    /// In which the sidecar says that it has begun.
    timeout: Duration,
}

impl Feed {
    async fn run(self, mut answers: ask::Answers) -> Whom {
        // The first answer says that it has begun; from then on there may be nothing to tell for as long as there is.
        let mut deadline = Instant::now() + self.timeout;
        let mut begun = false;
        let why = loop {
            match answers.next(deadline).await {
                Ok(Some(Says::Tapped(tapped))) => {
                    if !begun {
                        (begun, deadline) = (true, Instant::now() + Duration::from_secs(FOR_SECS_MAX * 365));
                        self.tell(
                            "joined",
                            TapEvent { sidecar: self.whom.1.to_string(), ..TapEvent::default() },
                        );
                    }
                    self.lost.fetch_add(tapped.lost + answers.take_lost(), Ordering::Relaxed);
                    for call in tapped.calls {
                        if !self.tell("call", told(&self.whom.1, call)) {
                            self.lost.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => break "it ended".to_owned(),
                Err(error) => break error.to_string(),
            }
        };
        // The listener may have much to read; this it has to know.
        let event = TapEvent { sidecar: self.whom.1.to_string(), why, ..TapEvent::default() };
        let _ = self.sender.send(Told { name: "left", event: Box::new(event) }).await;
        self.whom
    }

    /// False if there is no room.
    fn tell(&self, name: &'static str, event: TapEvent) -> bool {
        match self.sender.try_reserve() {
            Ok(room) => {
                room.send(Told { name, event: Box::new(event) });
                true
            }
            Err(_) => false,
        }
    }
}

fn told(node: &NodeId, call: Ended) -> TapEvent {
    let at = call.at.and_then(|at| SystemTime::try_from(at).ok()).map(timestamp);
    TapEvent {
        at,
        sidecar: node.to_string(),
        listener: call.listener,
        caller: call.caller,
        server: call.server,
        method: call.method,
        target: call.target,
        era: call.era,
        status: Some(call.status),
        outcome: call.outcome,
        reason: call.reason,
        limit: call.limit,
        micros: Some(call.micros),
        request_bytes: Some(call.request_bytes),
        response_bytes: Some(call.response_bytes),
        refused_in_shadow: call.refused_in_shadow,
        count: None,
        why: String::new(),
    }
}

fn gone(whom: &Whom, why: &ask::Error) -> Option<Event> {
    event("left", &TapEvent { sidecar: whom.1.to_string(), why: why.to_string(), ..TapEvent::default() })
}

fn event(name: &'static str, data: &TapEvent) -> Option<Event> {
    Event::default().event(name).json_data(data).ok()
}

async fn at(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}
