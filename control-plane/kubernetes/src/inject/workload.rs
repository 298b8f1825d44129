//! Objects that make pods: where the template of a pod is in each of them, and what became of it.

use serde_json::Value;

use super::settings::Settings;
use super::skip::Skip;
use super::{Door, Facts, NotOut};

/// Kinds of objects that make pods: group of the API, kind, and where in it the pod is.
const KINDS: [(&str, &str, &[&str]); 9] = [
    ("", "Pod", &[]),
    ("", "PodTemplate", &["template"]),
    ("", "ReplicationController", &["spec", "template"]),
    ("apps", "Deployment", &["spec", "template"]),
    ("apps", "ReplicaSet", &["spec", "template"]),
    ("apps", "StatefulSet", &["spec", "template"]),
    ("apps", "DaemonSet", &["spec", "template"]),
    ("batch", "Job", &["spec", "template"]),
    ("batch", "CronJob", &["spec", "jobTemplate", "spec", "template"]),
];
/// Lists in lists that are looked into.
const LISTS_DEPTH_MAX: usize = 4;

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    pub kind: String,
    pub namespace: Option<String>,
    pub name: String,
    pub outcome: Outcome,
}

/// What was done, or why nothing was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Injected {
        warnings: Vec<String>,
    },
    Uninjected,
    Skipped(Skip),
    /// It is not to have its sidecar any more, and has none.
    WithoutSidecar,
    /// Its record cannot be read.
    NoRecord(String),
    /// It makes no pods.
    NoWorkload,
}

impl Outcome {
    pub const fn is_changed(&self) -> bool {
        matches!(self, Self::Injected { .. } | Self::Uninjected)
    }
}

/// What to do with each pod.
#[derive(Clone, Copy, Debug)]
pub enum Task<'a> {
    /// In this namespace, where an object names none.
    Inject {
        settings: &'a Settings,
        namespace: Option<&'a str>,
    },
    Uninject,
}

/// Does the task with an object, or with every object of a list. Answers what became of each.
pub fn change(object: &mut Value, task: Task<'_>) -> Vec<Fate> {
    let mut fates = Vec::new();
    change_within(object, task, 0, &mut fates);
    fates
}

fn change_within(object: &mut Value, task: Task<'_>, depth: usize, fates: &mut Vec<Fate>) {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if kind.ends_with("List") && depth < LISTS_DEPTH_MAX && object.get("items").is_some_and(Value::is_array) {
        let element = kind.trim_end_matches("List").to_owned();
        for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
            // Elements of a PodList need not say what they are.
            match item.get("kind") {
                Some(_) => change_within(item, task, depth + 1, fates),
                None => fates.push(change_one(item, (&version, &element), task)),
            }
        }
        return;
    }
    fates.push(change_one(object, (&version, &kind), task));
}

fn change_one(object: &mut Value, (version, kind): (&str, &str), task: Task<'_>) -> Fate {
    let metadata = object.get("metadata");
    let text = |field: &str| metadata.and_then(|it| it.get(field)?.as_str()).map(str::to_owned);
    let (own, name) = (text("namespace"), text("name").or_else(|| text("generateName")));
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let path = KINDS.iter().find(|(in_group, known, _)| (*in_group, *known) == (group, kind));
    let template = path.and_then(|(_, _, path)| {
        path.iter()
            .try_fold(object, |value, part| value.get_mut(*part))
            .filter(|template| template.is_object())
    });
    let outcome = match (template, task) {
        (None, _) => Outcome::NoWorkload,
        (Some(pod), Task::Inject { settings, namespace }) => {
            put_in(pod, own.as_deref().or(namespace), settings)
        }
        (Some(pod), Task::Uninject) => take_out(pod),
    };
    let namespace = own.or_else(|| match task {
        Task::Inject { namespace, .. } => namespace.map(str::to_owned),
        Task::Uninject => None,
    });
    Fate { kind: kind.to_owned(), namespace, name: name.unwrap_or_default(), outcome }
}

fn put_in(pod: &mut Value, namespace: Option<&str>, settings: &Settings) -> Outcome {
    let facts = Facts { door: Door::File, namespace, labels: None };
    match super::inject(pod, &facts, settings) {
        Ok(injected) => {
            *pod = injected.pod;
            Outcome::Injected { warnings: injected.warnings }
        }
        Err(skip) => Outcome::Skipped(skip),
    }
}

fn take_out(pod: &mut Value) -> Outcome {
    match super::uninject(pod) {
        Ok(without) => {
            *pod = without;
            Outcome::Uninjected
        }
        Err(NotOut::NotInjected) => Outcome::WithoutSidecar,
        Err(NotOut::Record(error)) => Outcome::NoRecord(error.to_string()),
    }
}
