//! `/inject`: pods that are created get their sidecars. Pure: a question goes in, an answer comes out.

use std::collections::BTreeMap;

use super::patch;
use super::review::{Answer, Error, Request};
use crate::inject::settings::OnMistake;
use crate::inject::{Door, Facts, Settings, Skip, Weight, inject};

/// What became of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub namespace: String,
    /// Of the pod, or what its name will begin with.
    pub name: String,
    pub outcome: Outcome,
    /// Nothing comes of it, and nobody is to be told.
    pub dry_run: bool,
    /// Who made the pod, if somebody did: what an event is about, as the pod itself is not there yet.
    pub owner: Option<Owner>,
}

/// The object that made a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub uid: String,
}

/// What was done with a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Injected,
    Skipped(Skip),
    /// It asks about something else than a pod that is created.
    Other,
    /// It could not be understood.
    Misunderstood(String),
}

impl Outcome {
    /// The outcome as a label.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Skipped(skip) => skip.word(),
            Self::Other => "other",
            Self::Misunderstood(_) => "misunderstood",
        }
    }
}

/// An answer, and what it says.
#[derive(Debug)]
pub struct Answered {
    pub body: Vec<u8>,
    pub told: Told,
}

/// The labels of a namespace, if they are known.
pub type Labels = BTreeMap<String, String>;

/// Answers a question.
pub fn answer(body: &[u8], settings: &Settings, labels: impl FnOnce(&str) -> Option<Labels>) -> Answered {
    match Request::read(body) {
        Ok(request) => answer_request(&request, settings, labels),
        Err(error) => misunderstood(&error),
    }
}

fn misunderstood(error: &Error) -> Answered {
    let message = error.to_string();
    let status = if matches!(error, Error::TooLong(_)) { 413 } else { 400 };
    Answered {
        body: Answer::refused(status, &message).written(""),
        told: Told {
            namespace: String::new(),
            name: String::new(),
            outcome: Outcome::Misunderstood(message),
            dry_run: false,
            owner: None,
        },
    }
}

fn answer_request(
    request: &Request,
    settings: &Settings,
    labels: impl FnOnce(&str) -> Option<Labels>,
) -> Answered {
    let (answer, outcome) = match is_new_pod(request) {
        true => put_in(request, settings, labels(&request.namespace).as_ref()),
        false => (Answer::allowed(), Outcome::Other),
    };
    let metadata = request.object.get("metadata");
    let text = |field: &str| metadata.and_then(|it| it.get(field)?.as_str()).filter(|it| !it.is_empty());
    let name = text("name").or_else(|| text("generateName")).unwrap_or(&request.name);
    let told = Told {
        namespace: request.namespace.clone(),
        name: name.to_owned(),
        outcome,
        dry_run: request.dry_run,
        owner: owner(request),
    };
    Answered { body: answer.written(&request.uid), told }
}

fn is_new_pod(request: &Request) -> bool {
    let kind = &request.kind;
    (kind.group.as_str(), kind.version.as_str(), kind.kind.as_str()) == ("", "v1", "Pod")
        && request.operation == "CREATE"
        && request.sub_resource.is_empty()
}

fn put_in(request: &Request, settings: &Settings, labels: Option<&Labels>) -> (Answer, Outcome) {
    // A pod that is to be given a name has no namespace of its own yet either.
    let facts = Facts { door: Door::Admission, namespace: Some(&request.namespace), labels };
    match inject(&request.object, &facts, settings) {
        Ok(injected) => {
            let patch = patch::between(&request.object, &injected.pod);
            let warnings = injected.warnings.into_iter().map(said).collect();
            (Answer { patch, warnings, refused: None }, Outcome::Injected)
        }
        Err(skip) => {
            let answer = match (skip.weight(), settings.on_mistake) {
                (Weight::Quiet, _) => Answer::allowed(),
                (Weight::Mistake, OnMistake::Refuse) => Answer::refused(400, format!("no sidecar: {skip}")),
                (Weight::Told, _) | (Weight::Mistake, OnMistake::Skip) => {
                    Answer { warnings: vec![said(format!("no sidecar: {skip}"))], ..Answer::allowed() }
                }
            };
            (answer, Outcome::Skipped(skip))
        }
    }
}

fn said(what: impl std::fmt::Display) -> String {
    format!("weft: {what}")
}

fn owner(request: &Request) -> Option<Owner> {
    let owners = request.object.get("metadata")?.get("ownerReferences")?.as_array()?;
    let text = |owner: &serde_json::Value, field: &str| owner.get(field)?.as_str().map(str::to_owned);
    let owner =
        owners.iter().find(|it| it.get("controller").and_then(serde_json::Value::as_bool) == Some(true))?;
    Some(Owner {
        api_version: text(owner, "apiVersion")?,
        kind: text(owner, "kind")?,
        name: text(owner, "name")?,
        uid: text(owner, "uid")?,
    })
}
