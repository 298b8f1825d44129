//! The pods without the label of a sidecar, as far as they are of interest, and what is known of each. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::PartialObjectMeta;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use tokio::time::Instant;
use weft_proto::name::Namespace;

use crate::admission::mutate::Labels;
use crate::inject::annotations::{INJECT, REVISION};
use crate::inject::{Door, Facts, SYSTEM_NAMESPACES, Settings, is_asked};

/// Pods that are kept.
pub const PODS_MAX: usize = 50_000;
/// A pod is told of again after this, as the cluster forgets events after an hour.
const TOLD_FOR: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// What the pod itself says, once it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It should have a sidecar.
    Missing,
    /// It could have none.
    Right,
}

#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) uid: String,
    /// Those of its labels that ask for a sidecar, as a pod has them; of most pods there are none.
    labels: Option<Value>,
    /// Whether it asks for one, as far as its labels and its namespace's tell.
    asks: bool,
    verdict: Option<Verdict>,
    pub(super) told_at: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Candidates {
    own: Namespace,
    pods: BTreeMap<Name, Candidate>,
    /// What a list that is under way has brought so far.
    listed: Option<BTreeMap<Name, Candidate>>,
    is_read: bool,
    is_beyond: bool,
}

impl Candidates {
    pub(super) fn new(own: &Namespace) -> Self {
        Self { own: own.clone(), pods: BTreeMap::new(), listed: None, is_read: false, is_beyond: false }
    }

    pub(super) fn take(&mut self, event: Event<PartialObjectMeta<Pod>>) {
        match event {
            Event::Init => (self.listed, self.is_beyond) = (Some(BTreeMap::new()), false),
            Event::InitApply(pod) => {
                let mut listed = self.listed.take().unwrap_or_default();
                self.put(&pod, &mut listed);
                self.listed = Some(listed);
            }
            Event::InitDone => {
                self.pods = self.listed.take().unwrap_or_default();
                self.is_read = true;
            }
            Event::Apply(pod) => {
                let mut pods = std::mem::take(&mut self.pods);
                self.put(&pod, &mut pods);
                self.pods = pods;
            }
            Event::Delete(pod) => {
                if let Some(name) = name(&pod) {
                    self.pods.remove(&name);
                }
            }
        }
    }

    fn put(&mut self, pod: &PartialObjectMeta<Pod>, pods: &mut BTreeMap<Name, Candidate>) {
        let (Some(name), Some(uid)) = (name(pod), pod.metadata.uid.clone()) else { return };
        // Nothing is ever injected there, and what ends is past help.
        let is_apart =
            name.namespace == self.own.as_str() || SYSTEM_NAMESPACES.contains(&name.namespace.as_str());
        if is_apart || pod.metadata.deletion_timestamp.is_some() {
            pods.remove(&name);
            return;
        }
        if pods.len() >= PODS_MAX && !pods.contains_key(&name) {
            self.is_beyond = true;
            return;
        }
        let before = pods.get(&name).or_else(|| self.pods.get(&name)).filter(|it| it.uid == uid);
        let (verdict, told_at) = before.map(|it| (it.verdict, it.told_at)).unwrap_or_default();
        let of = |key: &str| Some((key.to_owned(), json!(pod.labels().get(key)?)));
        let labels: serde_json::Map<_, _> = [INJECT, REVISION].into_iter().filter_map(of).collect();
        let labels = (!labels.is_empty()).then(|| json!({ "metadata": { "labels": labels } }));
        pods.insert(name, Candidate { uid, labels, asks: false, verdict, told_at });
    }

    /// Whether all pods were listed once.
    pub(super) const fn is_read(&self) -> bool {
        self.is_read
    }

    pub(super) const fn is_beyond(&self) -> bool {
        self.is_beyond
    }

    /// Finds out who asks for a sidecar, as labels are now.
    pub(super) fn ask(&mut self, settings: &Settings, labels: impl Fn(&str) -> Option<Labels>) {
        let mut of: Option<(String, Option<Labels>)> = None;
        for (name, candidate) in &mut self.pods {
            // They come in the order of their namespaces.
            if of.as_ref().is_none_or(|(namespace, _)| *namespace != name.namespace) {
                of = Some((name.namespace.clone(), labels(&name.namespace)));
            }
            // Of a namespace that is not known, nobody knows what it asks for.
            let labels = of.as_ref().and_then(|(_, labels)| labels.as_ref());
            let facts = Facts { door: Door::Admission, namespace: Some(&name.namespace), labels };
            let pod = candidate.labels.as_ref().unwrap_or(&Value::Null);
            candidate.asks = labels.is_some() && is_asked(pod, &facts, settings);
        }
    }

    /// The first of those that ask for a sidecar and were not read yet.
    pub(super) fn unknown(&self, max: usize) -> Vec<(Name, String)> {
        let unknown = self.pods.iter().filter(|(_, it)| it.asks && it.verdict.is_none());
        unknown.take(max).map(|(name, it)| (name.clone(), it.uid.clone())).collect()
    }

    pub(super) fn judged(&mut self, name: &Name, uid: &str, verdict: Verdict) {
        if let Some(candidate) = self.pods.get_mut(name).filter(|it| it.uid == uid) {
            candidate.verdict = Some(verdict);
        }
    }

    /// Those that should have a sidecar.
    pub(super) fn missing(&self) -> impl Iterator<Item = &Name> {
        self.pods.iter().filter(|(_, it)| it.is_missing()).map(|(name, _)| name)
    }

    /// Those of them that nobody was told of lately.
    pub(super) fn untold(&mut self, now: Instant) -> impl Iterator<Item = (&Name, &mut Candidate)> {
        let is_due = move |it: &Candidate| it.told_at.is_none_or(|at| now >= at + TOLD_FOR);
        self.pods.iter_mut().filter(move |(_, it)| it.is_missing() && is_due(it))
    }
}

impl Candidate {
    fn is_missing(&self) -> bool {
        self.asks && self.verdict == Some(Verdict::Missing)
    }
}

fn name(pod: &PartialObjectMeta<Pod>) -> Option<Name> {
    Some(Name { namespace: pod.metadata.namespace.clone()?, name: pod.metadata.name.clone()? })
}
