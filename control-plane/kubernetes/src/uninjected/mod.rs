//! Pods that ask for a sidecar, could have one, and have none: they are older than the label, or were made while no webhook
//! answered. Whoever leads looks for them, and tells of each in an event, in metrics and in checks.
//!
//! Only metadata is watched, and only of pods that have not ended and lack the label that every pod with a sidecar has: in a
//! mesh that is as it should be these are few. Whether such a pod should have been injected is for the code that injects to
//! say, from the pod as it is; it is asked once for each. Not here: changing anything about them.

mod candidates;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::watcher;
use kube::runtime::{WatchStreamExt as _, watcher::Config};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use weft_control_plane::check::Pods;
use weft_control_plane::metrics::{Metrics, NamespaceLabel};
use weft_proto::name::Namespace;

use crate::admission::Injector;
use crate::events::{About, Event, Events, Reason};
use crate::inject::annotations::SIDECAR;
use crate::inject::{Door, Facts, inject};
pub use candidates::PODS_MAX;
use candidates::{Candidates, Name, Verdict};

/// Most pods in one page of a list.
const PAGE_PODS: u32 = 500;
/// Time between two looks at all pods that are known.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Pods that are read as a whole in one look.
const READS_MAX: usize = 200;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Namespaces that have a series of their own.
pub const NAMESPACES_MAX: usize = 100;
const NOTE: &str = "the pod asks for a sidecar and has none: it is older than the label weft.dev/inject, or was made while no \
                    webhook answered. Made anew, it gets one";

/// What looking takes, and where it says what it found.
#[derive(Clone, Debug)]
pub struct Uninjected {
    injector: Injector,
    events: Arc<Events>,
    pub known: Arc<Known>,
}

impl Uninjected {
    pub fn new(injector: Injector, events: Arc<Events>) -> Self {
        Self { injector, events, known: Arc::default() }
    }
}

/// What is known of pods without a sidecar, for checks.
#[derive(Debug)]
pub struct Known(Mutex<Pods>);

impl Default for Known {
    fn default() -> Self {
        Self(Mutex::new(Pods::Unread))
    }
}

impl Known {
    pub fn pods(&self) -> Pods {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, pods: Pods) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = pods;
    }
}

/// Looks while this control plane leads, until the end.
pub async fn follow(
    uninjected: Uninjected,
    client: Client,
    metrics: Arc<Metrics>,
    leads: watch::Receiver<bool>,
) {
    let (mut begins, mut ends) = (leads.clone(), leads);
    while begins.wait_for(|leads| *leads).await.is_ok() {
        tokio::select! {
            () = look_on(&uninjected, &client, &metrics) => {}
            _ = ends.wait_for(|leads| !*leads) => {}
        }
        uninjected.known.set(Pods::Unread);
        count(&metrics, std::iter::empty());
    }
}

/// Follows pods and looks at them, for ever.
async fn look_on(uninjected: &Uninjected, client: &Client, metrics: &Metrics) {
    let pods = Api::<PartialObjectMeta<Pod>>::all(client.clone());
    let wanted = Config::default()
        .labels(&format!("!{SIDECAR}"))
        .fields("status.phase!=Succeeded,status.phase!=Failed")
        .page_size(PAGE_PODS);
    let mut changes = pin!(watcher(pods, wanted).default_backoff());
    let mut candidates = Candidates::new(&uninjected.injector.settings.namespace);
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            change = changes.next() => match change {
                Some(Ok(change)) => candidates.take(change),
                Some(Err(error)) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "pods cannot be followed");
                }
                None => return,
            },
            _ = looks.tick() => if candidates.is_read() {
                look(uninjected, client, &mut candidates).await;
                tell(uninjected, &mut candidates, Instant::now());
                show(uninjected, &candidates, metrics);
            },
        }
    }
}

/// Finds out about those that ask for a sidecar and of which nothing is known yet.
async fn look(uninjected: &Uninjected, client: &Client, candidates: &mut Candidates) {
    let Injector { settings, namespaces, .. } = &uninjected.injector;
    candidates.ask(settings, |namespace| namespaces(namespace));
    for (name, uid) in candidates.unknown(READS_MAX) {
        let pods = Api::<Pod>::namespaced(client.clone(), &name.namespace);
        let verdict = match timeout(ANSWER_TIMEOUT, pods.get_opt(&name.name)).await {
            Ok(Ok(Some(pod))) if pod.metadata.uid.as_deref() == Some(&uid) => judge(&pod, &name, uninjected),
            // The watch has news of it, or will have.
            Ok(Ok(_)) => continue,
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a pod cannot be read");
                return;
            }
            Err(_) => return,
        };
        candidates.judged(&name, &uid, verdict);
    }
}

/// Whether it would get a sidecar, were it made now.
fn judge(pod: &Pod, name: &Name, uninjected: &Uninjected) -> Verdict {
    let Injector { settings, namespaces, .. } = &uninjected.injector;
    let labels = namespaces(&name.namespace);
    let facts = Facts { door: Door::Admission, namespace: Some(&name.namespace), labels: labels.as_ref() };
    let pod = serde_json::to_value(pod).unwrap_or_default();
    match inject(&pod, &facts, settings) {
        Ok(_) => Verdict::Missing,
        Err(skip) => {
            let reason = skip.word();
            tracing::debug!(
                namespace = name.namespace,
                pod = name.name,
                reason,
                "pod rightly without a sidecar"
            );
            Verdict::Right
        }
    }
}

/// Tells of those that were not told of lately; of those for which there is no room, the next time.
fn tell(uninjected: &Uninjected, candidates: &mut Candidates, now: Instant) {
    for (name, candidate) in candidates.untold(now) {
        let about = About::parse("v1", "Pod", &name.name, &candidate.uid);
        let Some((about, namespace)) = about.zip(Namespace::parse(&name.namespace).ok()) else { continue };
        if !uninjected.events.tell(Event::new(namespace, about, Reason::SidecarMissing, NOTE)) {
            return;
        }
        candidate.told_at = Some(now);
    }
}

fn show(uninjected: &Uninjected, candidates: &Candidates, metrics: &Metrics) {
    let pods = candidates.missing().map(|name| format!("{}/{}", name.namespace, name.name)).collect();
    uninjected.known.set(Pods::Without { pods, beyond: candidates.is_beyond() });
    count(metrics, candidates.missing().map(|name| name.namespace.as_str()));
}

/// Counts pods by their namespaces, which come in order.
fn count<'a>(metrics: &Metrics, namespaces: impl Iterator<Item = &'a str>) {
    let (mut all, mut by_namespace) = (0i64, BTreeMap::<&str, i64>::new());
    for namespace in namespaces {
        all += 1;
        let is_shown = by_namespace.len() < NAMESPACES_MAX || by_namespace.contains_key(namespace);
        *by_namespace.entry(if is_shown { namespace } else { "" }).or_default() += 1;
    }
    metrics.cluster_pods_without_sidecar.set(all);
    metrics.cluster_namespace_pods_without_sidecar.clear();
    for (namespace, count) in by_namespace {
        let label = NamespaceLabel { namespace: namespace.to_owned() };
        metrics.cluster_namespace_pods_without_sidecar.get_or_create(&label).set(count);
    }
}

/// The limits of looking, by name, for the page that is checked against them.
pub const fn limits() -> [(&'static str, usize); 4] {
    [
        ("pods without a sidecar that are looked at", PODS_MAX),
        ("of these, pods that are read as a whole in five seconds", READS_MAX),
        ("namespaces with a series of their own in metrics", NAMESPACES_MAX),
        ("hours until a pod without a sidecar is told of again", 1),
    ]
}
