//! What became of each object, told back to the cluster: whether it was understood, and how many of the sidecars that it
//! concerns hold it. Only whoever leads tells, only what changed, and never faster than an API server likes.

mod told;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kube::core::DynamicObject;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_control_plane::clock;
use weft_control_plane::metrics::Metrics;
use weft_control_plane::xds::Hub;
use weft_proto::resource::{API_VERSION, Key};

use crate::source::{Entry, Ledger, api_resource};
use told::{Told, Way, published_as, tell};

/// Whom the API server takes for the owner of what is told.
pub const FIELD_MANAGER: &str = "weft";
/// Shortest time between two looks at all objects.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause after failures.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long it is waited for news before the sidecars are counted again.
const QUIET: Duration = Duration::from_secs(3);
/// A look may take this share of the time, at most: one part in so many.
const SHARE: u32 = 20;
/// Most objects that are told of in one look.
const WRITES_MAX: usize = 50;
/// What was held and is not any more is told once it has lasted so long: whoever comes back soon was never away.
const LAPSE: Duration = Duration::from_secs(5);
/// Least time between two tellings of an object that differ only in counts.
const COUNTS_EVERY: Duration = Duration::from_secs(30);

/// What telling takes.
#[derive(Clone)]
pub struct Deps {
    pub client: Client,
    pub hub: Arc<Hub>,
    pub ledger: Arc<Ledger>,
    pub metrics: Arc<Metrics>,
    /// Whether this control plane leads.
    pub leads: watch::Receiver<bool>,
}

impl std::fmt::Debug for Deps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deps").finish_non_exhaustive()
    }
}

/// What is remembered from one look to the next.
#[derive(Debug, Default)]
struct Memory {
    /// Where the next look goes on, if the last one told as much as it might.
    next: Option<Key>,
    /// How long it took to count.
    counting: Duration,
    told_at: BTreeMap<Key, Instant>,
    lapsed_at: BTreeMap<Key, Instant>,
}

/// Tells until the end.
pub async fn run(deps: Deps, shutdown: CancellationToken) {
    tokio::select! {
        () = go_on(deps) => {}
        () = shutdown.cancelled() => {}
    }
}

async fn go_on(mut deps: Deps) {
    let (mut memory, mut failures) = (Memory::default(), 0u32);
    let mut news = deps.ledger.version();
    while deps.leads.wait_for(|leads| *leads).await.is_ok() {
        news.mark_unchanged();
        match look(&deps, &mut memory).await {
            Ok(()) => failures = 0,
            Err(error) => {
                failures = failures.saturating_add(1);
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "what became of objects cannot be told"
                );
            }
        }
        let pause = (PAUSE_MIN * 2u32.saturating_pow(failures.min(6))).min(PAUSE_MAX);
        tokio::time::sleep(pause.max(memory.counting * SHARE)).await;
        if memory.next.is_none() {
            let _ = tokio::time::timeout(QUIET, news.changed()).await;
        }
    }
}

/// One look at all objects. The first failure that is not of one object alone ends it.
async fn look(deps: &Deps, memory: &mut Memory) -> Result<(), kube::Error> {
    let entries = deps.ledger.entries();
    let published = *deps.hub.revision().borrow();
    let (hub, started) = (Arc::clone(&deps.hub), Instant::now());
    // Counting looks at every sidecar: away from the threads that serve them.
    let Ok(held) = tokio::task::spawn_blocking(move || hub.held()).await else { return Ok(()) };
    let held: HashMap<_, _> =
        held.into_iter().map(|((ty, name), held)| ((ty, name.to_string()), held)).collect();
    memory.counting = started.elapsed();
    memory.told_at.retain(|key, _| entries.contains_key(key));
    memory.lapsed_at.retain(|key, _| entries.contains_key(key));
    let mut room = WRITES_MAX;
    // Where more must be told than may be, everyone has a turn.
    let next = memory.next.take();
    let is_earlier = |key: &Key| next.as_ref().is_some_and(|next| key < next);
    let later = entries.iter().filter(|(key, _)| !is_earlier(key));
    for (key, entry) in later.chain(entries.iter().filter(|(key, _)| is_earlier(key))) {
        let told = tell(entry, published, held.get(&published_as(key)));
        if memory.is_worth_telling(key, &entry.status, &told, Instant::now()) {
            if room == 0 {
                memory.next = Some(key.clone());
                break;
            }
            room -= 1;
            write(deps, key, entry, &told).await?;
            memory.told_at.insert(key.clone(), Instant::now());
        }
    }
    Ok(())
}

impl Memory {
    fn is_worth_telling(&mut self, key: &Key, status: &Value, told: &Told, now: Instant) -> bool {
        if told.is_said(status) {
            self.lapsed_at.remove(key);
            return false;
        }
        if told.way == Way::Pending && told.was_programmed(status) {
            let since = *self.lapsed_at.entry(key.clone()).or_insert(now);
            return now.duration_since(since) >= LAPSE;
        }
        self.lapsed_at.remove(key);
        let lately = self.told_at.get(key).is_some_and(|at| now.duration_since(*at) < COUNTS_EVERY);
        !(lately && told.is_nearly_said(status))
    }
}

async fn write(deps: &Deps, key: &Key, entry: &Entry, told: &Told) -> Result<(), kube::Error> {
    let api: Api<DynamicObject> =
        Api::namespaced_with(deps.client.clone(), key.namespace.as_str(), &api_resource(key.kind));
    // With the UID, another object of the same name that came meanwhile is not told what is not its own.
    let patch = json!({
        "apiVersion": API_VERSION,
        "kind": key.kind.name(),
        "metadata": { "name": key.name, "uid": entry.uid },
        "status": told.status(&entry.status, now()),
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    match api.patch_status(key.name.as_str(), &params, &Patch::Apply(&patch)).await {
        Ok(object) => {
            deps.metrics.cluster_tellings.inc();
            deps.ledger.was_told(key, &entry.uid, object.data["status"].clone());
            Ok(())
        }
        // It is gone, or is another one now: its own news are on their way.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        // Others are not to wait for one that cannot be told.
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => {
            tracing::warn!(object = %key, message = status.message, "what became of an object is not taken");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn now() -> Timestamp {
    Timestamp::try_from(clock::now()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use weft_control_plane::store::Revision;
    use weft_control_plane::xds::Held;
    use weft_proto::resource::Kind;

    use super::*;
    use crate::source::{Fate, key};

    fn told(concerned: usize, holding: usize) -> Told {
        let entry = Entry {
            uid: "u".to_owned(),
            generation: 1,
            fate: Fate::Taken(Revision(1)),
            warnings: Vec::new(),
            status: Value::Null,
        };
        tell(&entry, 1, Some(&Held { concerned, holding, ..Held::default() }))
    }

    #[test]
    fn what_changes_is_told_at_once_what_lapses_after_a_while_and_counts_now_and_then() {
        let key = key(Kind::Route, Some("a"), Some("r")).unwrap();
        let (mut memory, start) = (Memory::default(), Instant::now());
        let status = told(2, 2).status(&Value::Null, now());
        let mut check = |told: Told, status: &Value, after: Duration, expected| {
            assert_eq!(memory.is_worth_telling(&key, status, &told, start + after), expected, "{told:?}");
        };
        check(told(2, 2), &Value::Null, Duration::ZERO, true);
        check(told(2, 2), &status, Duration::ZERO, false);
        check(told(3, 2), &status, Duration::ZERO, false);
        check(told(3, 2), &status, LAPSE, true);
        // It came back: the next lapse is another one.
        check(told(2, 2), &status, LAPSE, false);
        check(told(3, 2), &status, LAPSE, false);
        memory.told_at.insert(key.clone(), start);
        let mut check = |told: Told, after: Duration, expected| {
            assert_eq!(memory.is_worth_telling(&key, &status, &told, start + after), expected, "{told:?}");
        };
        check(told(3, 3), Duration::ZERO, false);
        check(told(3, 3), COUNTS_EVERY, true);
    }
}
