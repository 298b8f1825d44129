//! The ConfigMap `weft-roots` in every namespace that may have sidecars: the roots by which a pod knows the control plane
//! before it has a certificate.
//!
//! Kept right if it is edited or deleted, and when the roots change. One control plane of several does so, and only so much
//! at once. Not here: the roots themselves (`trust`), and how a pod mounts them (`inject`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, PartialObjectMeta, Patch, PatchParams};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch_all};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::MANAGER;

/// The name of the ConfigMap.
pub const NAME: &str = "weft-roots";
/// Its key.
pub const KEY: &str = "ca.crt";
/// Namespaces that are written to at once.
const AT_ONCE_MAX: usize = 8;
/// Namespaces that are written to before news is read again.
const ROUND_MAX: usize = 200;
/// When a namespace that could not be written to is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(50);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Namespaces of the cluster itself, in which nothing is ever injected.
pub const SYSTEM: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// Which namespaces there are, and what they have.
#[derive(Debug, Default)]
struct Known {
    namespaces: BTreeSet<String>,
    /// What a ConfigMap of ours says, by namespace.
    held: BTreeMap<String, String>,
    /// Read so far of a list that is being read anew.
    reading: (BTreeSet<String>, BTreeMap<String, String>),
    read: (bool, bool),
    /// Where writing failed, and when it is tried again.
    failed: HashMap<String, Instant>,
}

impl Known {
    fn namespace(&mut self, event: Event<PartialObjectMeta<Namespace>>) {
        let lives = |it: &PartialObjectMeta<Namespace>| it.metadata.deletion_timestamp.is_none();
        match event {
            Event::Init => self.reading.0.clear(),
            Event::InitApply(it) if lives(&it) => drop(self.reading.0.insert(it.name_any())),
            Event::InitApply(_) => {}
            Event::InitDone => {
                self.namespaces = std::mem::take(&mut self.reading.0);
                self.read.0 = true;
            }
            Event::Apply(it) if lives(&it) => drop(self.namespaces.insert(it.name_any())),
            Event::Apply(it) | Event::Delete(it) => {
                self.namespaces.remove(&it.name_any());
                self.failed.remove(&it.name_any());
            }
        }
    }

    fn config_map(&mut self, event: Event<ConfigMap>) {
        let said = |it: ConfigMap| {
            let text = it.data.and_then(|mut data| data.remove(KEY)).unwrap_or_default();
            (it.metadata.namespace.unwrap_or_default(), text)
        };
        match event {
            Event::Init => self.reading.1.clear(),
            Event::InitApply(it) => self.reading.1.extend([said(it)]),
            Event::InitDone => {
                self.held = std::mem::take(&mut self.reading.1);
                self.read.1 = true;
            }
            Event::Apply(it) => self.held.extend([said(it)]),
            Event::Delete(it) => drop(self.held.remove(&it.metadata.namespace.unwrap_or_default())),
        }
    }

    /// Namespaces in which something else stands than should, once all are known.
    fn wrong(&self, roots: &str, own: &str, now: Instant) -> Vec<String> {
        if self.read != (true, true) {
            return Vec::new();
        }
        let may_have = |name: &&String| !SYSTEM.contains(&name.as_str()) && *name != own;
        let is_wrong = |name: &&String| self.held.get(*name).is_none_or(|held| held != roots);
        let is_due = |name: &&String| self.failed.get(*name).is_none_or(|at| *at <= now);
        let wrong = self.namespaces.iter().filter(may_have).filter(is_wrong).filter(is_due);
        wrong.take(ROUND_MAX).cloned().collect()
    }
}

/// Keeps the ConfigMaps right for as long as this control plane leads.
pub async fn keep(
    client: Client,
    own: String,
    mut roots: watch::Receiver<Arc<str>>,
    mut leads: watch::Receiver<bool>,
) {
    let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(client.clone());
    let config_maps: Api<ConfigMap> = Api::all(client.clone());
    let ours = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
    let namespaces = watch_all(namespaces, watcher::Config::default()).default_backoff();
    let mut namespaces = std::pin::pin!(namespaces);
    let mut config_maps = std::pin::pin!(watch_all(config_maps, ours).default_backoff());
    let mut known = Known::default();
    loop {
        let now = Arc::clone(&roots.borrow_and_update());
        let wrong = match *leads.borrow_and_update() {
            true => known.wrong(&now, &own, Instant::now()),
            false => Vec::new(),
        };
        if !wrong.is_empty() {
            write(&client, wrong, &now, &mut known).await;
            // Whoever keeps writing something else gets no race.
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let again = known.failed.values().min().copied();
        tokio::select! {
            event = namespaces.next() => match event {
                Some(Ok(event)) => known.namespace(event),
                Some(Err(error)) => unseen(&error),
                None => return,
            },
            event = config_maps.next() => match event {
                Some(Ok(event)) => known.config_map(event),
                Some(Err(error)) => unseen(&error),
                None => return,
            },
            changed = roots.changed() => if changed.is_err() { return },
            changed = leads.changed() => if changed.is_err() { return },
            () = until(again) => known.failed.retain(|_, at| *at > Instant::now()),
        }
    }
}

fn unseen(error: &watcher::Error) {
    tracing::warn!(error = error as &dyn std::error::Error, "namespaces or the roots in them are not seen");
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn write(client: &Client, wrong: Vec<String>, roots: &str, known: &mut Known) {
    let written = stream::iter(wrong).map(|namespace| async {
        let done = timeout(ANSWER_TIMEOUT, apply(client, &namespace, roots)).await;
        (namespace, done)
    });
    let written: Vec<_> = written.buffer_unordered(AT_ONCE_MAX).collect().await;
    for (namespace, done) in written {
        match done {
            Ok(Ok(())) => {
                tracing::debug!(namespace, "roots written");
                known.failed.remove(&namespace);
                known.held.insert(namespace, roots.to_owned());
                continue;
            }
            // A namespace that goes takes nothing new.
            Ok(Err(kube::Error::Api(status))) if [403, 404].contains(&status.code) => {
                tracing::info!(namespace, why = status.message, "roots not written");
            }
            Ok(Err(error)) => {
                tracing::warn!(namespace, error = &error as &dyn std::error::Error, "roots not written");
            }
            Err(_) => tracing::warn!(namespace, "roots not written: the API server does not answer"),
        }
        known.failed.insert(namespace, Instant::now() + RETRY);
    }
}

async fn apply(client: &Client, namespace: &str, roots: &str) -> kube::Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let wanted = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": NAME, "labels": { "app.kubernetes.io/managed-by": MANAGER } },
        "data": { KEY: roots },
    });
    api.patch(NAME, &PatchParams::apply(MANAGER).force(), &Patch::Apply(wanted)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use kube::api::ObjectMeta;

    use super::*;

    fn namespace(name: &str, goes: bool) -> PartialObjectMeta<Namespace> {
        let gone = goes.then(|| serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        let metadata =
            ObjectMeta { name: Some(name.to_owned()), deletion_timestamp: gone, ..ObjectMeta::default() };
        PartialObjectMeta { metadata, ..PartialObjectMeta::default() }
    }

    fn config_map(namespace: &str, text: &str) -> ConfigMap {
        let map = json!({ "metadata": { "name": NAME, "namespace": namespace }, "data": { KEY: text } });
        serde_json::from_value(map).unwrap()
    }

    fn known() -> Known {
        let mut known = Known::default();
        known.namespace(Event::Init);
        for name in ["kube-system", "weft-system", "a", "b", "c"] {
            known.namespace(Event::InitApply(namespace(name, false)));
        }
        known.namespace(Event::InitApply(namespace("going", true)));
        known.namespace(Event::InitDone);
        known.config_map(Event::Init);
        known.config_map(Event::InitApply(config_map("a", "roots")));
        known.config_map(Event::InitApply(config_map("b", "others")));
        known
    }

    #[test]
    fn nothing_is_written_before_everything_is_known() {
        let mut known = known();
        assert!(known.wrong("roots", "weft-system", Instant::now()).is_empty());
        known.config_map(Event::InitDone);
        assert_eq!(known.wrong("roots", "weft-system", Instant::now()), ["b", "c"]);
        assert_eq!(known.wrong("new", "weft-system", Instant::now()), ["a", "b", "c"]);
    }

    #[test]
    fn what_is_deleted_or_edited_is_wrong_again_and_a_namespace_that_goes_is_left_alone() {
        let mut known = known();
        known.config_map(Event::InitDone);
        known.config_map(Event::Delete(config_map("a", "roots")));
        known.config_map(Event::Apply(config_map("b", "roots")));
        known.namespace(Event::Apply(namespace("c", true)));
        assert_eq!(known.wrong("roots", "weft-system", Instant::now()), ["a"]);
    }

    #[test]
    fn a_failure_is_waited_out_and_a_list_that_is_read_anew_forgets_what_is_gone() {
        let (mut known, now) = (known(), Instant::now());
        known.config_map(Event::InitDone);
        known.failed.insert("b".to_owned(), now + RETRY);
        assert_eq!(known.wrong("roots", "weft-system", now), ["c"]);
        assert_eq!(known.wrong("roots", "weft-system", now + RETRY), ["b", "c"]);
        known.namespace(Event::Init);
        known.namespace(Event::InitApply(namespace("b", false)));
        assert_eq!(known.wrong("roots", "weft-system", now + RETRY), ["b", "c"], "until it is read whole");
        known.namespace(Event::InitDone);
        assert_eq!(known.wrong("roots", "weft-system", now + RETRY), ["b"]);
    }
}
