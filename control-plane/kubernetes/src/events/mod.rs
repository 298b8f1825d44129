//! Events of the cluster about pods and their sidecars, for whoever looks there: `kubectl get events`.
//!
//! A pod has neither a UID nor, as often as not, a name when it is asked about, so that what became of it is told of whoever
//! makes it; of its namespace if nobody does. Telling never waits: what cannot be written in time is dropped and counted,
//! and what happens again is one event with a count. Not here: what becomes of pods (`admission`, `uninjected`).

mod queue;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event as Written, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use weft_control_plane::clock;
use weft_control_plane::metrics::{Metrics, ReasonLabel};
use weft_proto::name::Namespace;

use crate::admission::mutate::{Outcome, Owner, Told};
use crate::admission::review::clip;
use crate::inject::Weight;
use crate::inject::settings::OnMistake;
use queue::{Queue, Series, Step};

/// Who tells, as events name it: `kubectl get events --field-selector reportingComponent=weft`.
const CONTROLLER: &str = "weft";
/// Time between two writings, so that there are ten a second at most.
const PAUSE: Duration = Duration::from_millis(100);
/// Time until what waits for its turn is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest note, in bytes: the API server takes 1024.
const NOTE_BYTES_MAX: usize = 1000;
/// Longest name of whoever tells, in bytes, as the API server takes it.
const INSTANCE_BYTES_MAX: usize = 128;
/// Longest name of an object, in bytes.
const NAME_BYTES_MAX: usize = 253;
/// Bytes of an object's name in the name of an event about it, which goes on with a number.
const STEM_BYTES_MAX: usize = 230;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    Injected,
    InjectionSkipped,
    InjectionRefused,
    SidecarMissing,
}

impl Reason {
    pub const ALL: [Self; 4] =
        [Self::Injected, Self::InjectionSkipped, Self::InjectionRefused, Self::SidecarMissing];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Injected => "Injected",
            Self::InjectionSkipped => "InjectionSkipped",
            Self::InjectionRefused => "InjectionRefused",
            Self::SidecarMissing => "SidecarMissing",
        }
    }

    const fn is_warning(self) -> bool {
        !matches!(self, Self::Injected)
    }
}

/// An object that an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct About {
    api_version: String,
    kind: String,
    name: String,
    /// Empty if it is not known.
    uid: String,
}

impl About {
    /// None if these are not such as an object of the cluster has: whoever makes a pod writes there what it likes.
    pub fn parse(api_version: &str, kind: &str, name: &str, uid: &str) -> Option<Self> {
        let holds = |text: &str, max: usize, others: &str| {
            text.len() <= max && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
        };
        let is_sound = holds(api_version, NAME_BYTES_MAX, "./-")
            && !api_version.is_empty()
            && holds(kind, 63, "")
            && !kind.is_empty()
            && is_name(name)
            && holds(uid, 64, "-");
        is_sound.then(|| Self {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
        })
    }

    fn owner(owner: &Owner) -> Option<Self> {
        Self::parse(&owner.api_version, &owner.kind, &owner.name, &owner.uid)
    }

    fn namespace(namespace: &Namespace) -> Self {
        let (api_version, kind, name) =
            ("v1".to_owned(), "Namespace".to_owned(), namespace.as_str().to_owned());
        Self { api_version, kind, name, uid: String::new() }
    }
}

fn is_name(text: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.chars().all(is_inner)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// What is told. What is the same in all of it is one event with a count.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    namespace: Namespace,
    about: About,
    reason: Reason,
    note: String,
}

impl Event {
    pub fn new(namespace: Namespace, about: About, reason: Reason, note: &str) -> Self {
        Self { namespace, about, reason, note: clip(note, NOTE_BYTES_MAX) }
    }
}

/// What is to be told of a pod that was asked about; nothing where nobody asked for a sidecar.
pub fn of(told: &Told, on_mistake: OnMistake) -> Option<Event> {
    let (reason, became) = match &told.outcome {
        Outcome::Injected => (Reason::Injected, "got its sidecar".to_owned()),
        Outcome::Skipped(skip) => match (skip.weight(), on_mistake) {
            (Weight::Quiet, _) => return None,
            (Weight::Mistake, OnMistake::Refuse) => {
                (Reason::InjectionRefused, format!("was refused, as it cannot have its sidecar: {skip}"))
            }
            (Weight::Told, _) | (Weight::Mistake, OnMistake::Skip) => {
                (Reason::InjectionSkipped, format!("is made without its sidecar: {skip}"))
            }
        },
        Outcome::Other | Outcome::Misunderstood(_) => return None,
    };
    // It becomes part of a path at the API server.
    let namespace = Namespace::parse(&told.namespace).ok()?;
    let owner = told.owner.as_ref().and_then(About::owner);
    let (about, who) = match owner {
        // Pods of one owner are told of as one.
        Some(owner) => (owner, "a pod of it".to_owned()),
        None if is_name(&told.name) => (About::namespace(&namespace), format!("the pod {}", told.name)),
        None => (About::namespace(&namespace), "a pod".to_owned()),
    };
    Some(Event::new(namespace, about, reason, &format!("{who} {became}")))
}

/// Events that are to be written.
#[derive(Debug)]
pub struct Events {
    queue: Mutex<Queue>,
    news: Notify,
    metrics: Arc<Metrics>,
}

impl Events {
    pub fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { queue: Mutex::default(), news: Notify::new(), metrics })
    }

    /// Takes an event to be written, without waiting; false if too many wait already.
    pub fn tell(&self, event: Event) -> bool {
        let taken = self.queue().push(event);
        match taken {
            true => self.news.notify_one(),
            false => self.count("dropped"),
        }
        taken
    }

    fn count(&self, reason: &'static str) {
        self.metrics.cluster_events.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// What it guards is consistent after every statement.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what is told, until the end. `me` is the pod that this process is in.
pub async fn write(events: Arc<Events>, client: Client, me: String) {
    let mut me = me;
    me.truncate(me.floor_char_boundary(INSTANCE_BYTES_MAX));
    // One failure is told in the log; what follows it is only counted, until something is written again.
    let mut fails = false;
    loop {
        let next = events.queue().next(Instant::now());
        let (event, series) = match next {
            Step::Nothing => {
                events.news.notified().await;
                continue;
            }
            Step::Later => {
                sleep(LOOK_AGAIN).await;
                continue;
            }
            Step::Write(event, series) => (event, series),
        };
        let api = Api::<Written>::namespaced(client.clone(), event.namespace.as_str());
        let asked = write_one(&api, &event, &series, &me);
        match timeout(ANSWER_TIMEOUT, asked).await {
            Ok(Ok(())) => {
                events.count("written");
                events.queue().wrote(event, series);
                fails = false;
            }
            Ok(Err(error)) => {
                events.count("failed");
                // It may be gone by now: what comes next begins anew.
                events.queue().forget(&event);
                if !std::mem::replace(&mut fails, true) {
                    tracing::warn!(error = &error as &dyn std::error::Error, "an event cannot be written");
                }
            }
            Err(_) => events.count("failed"),
        }
        sleep(PAUSE).await;
    }
}

async fn write_one(api: &Api<Written>, event: &Event, series: &Series, me: &str) -> kube::Result<()> {
    let now = Timestamp::try_from(clock::now()).map(MicroTime).ok();
    if series.is_known {
        let patch = json!({ "series": { "count": series.count, "lastObservedTime": now } });
        return api.patch(&series.name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop);
    }
    api.create(&PostParams::default(), &written(event, series, me, now)).await.map(drop)
}

fn written(event: &Event, series: &Series, me: &str, now: Option<MicroTime>) -> Written {
    let Event { namespace, about: About { api_version, kind, name, uid }, reason, note } = event;
    let namespace = Some(namespace.as_str().to_owned());
    let repeated = (series.count > 1).then(|| now.clone()).flatten();
    Written {
        metadata: ObjectMeta {
            name: Some(series.name.clone()),
            namespace: namespace.clone(),
            ..ObjectMeta::default()
        },
        action: Some(if *reason == Reason::SidecarMissing { "Look" } else { "Inject" }.to_owned()),
        event_time: now,
        note: Some(note.clone()),
        reason: Some(reason.word().to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some(api_version.clone()),
            kind: Some(kind.clone()),
            name: Some(name.clone()),
            namespace,
            uid: Some(uid.clone()).filter(|it| !it.is_empty()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(me.to_owned()),
        series: repeated.map(|last_observed_time| EventSeries { count: series.count, last_observed_time }),
        type_: Some(if reason.is_warning() { "Warning" } else { "Normal" }.to_owned()),
        ..Written::default()
    }
}

/// The limits of events, by name, for the page that is checked against them.
pub const fn limits() -> [(&'static str, usize); 4] {
    [
        ("events that wait to be written, in all", queue::WAITING_MAX),
        ("events that wait to be written, of one namespace", queue::NAMESPACE_WAITING_MAX),
        ("events written in a second", 1000 / PAUSE.as_millis() as usize),
        ("events that are remembered, so that more of the same is a count", queue::KNOWN_MAX),
    ]
}
