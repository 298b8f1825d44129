//! Objects judged before an API server keeps them: by the parser that reads every document, and against the objects that
//! there are, in the words that `weft apply` has for it.
//!
//! Pure: the request of an AdmissionReview goes in and a verdict comes out. What an API server takes away — fields that
//! no definition lists — is not seen here; `kubectl` refuses those itself. Not here: the review around the request.

use serde_json::Value;
use weft_control_plane::desired::{self, Act, Changes, Mesh, Present, Wish};
use weft_proto::resource::{Key, Kind, Place};

use super::review::Answer;
use crate::source;

/// Longest warning, in bytes: an API server cuts off what is longer than 256 characters.
const WARNING_BYTES_MAX: usize = 250;
/// Most warnings of one answer.
const WARNINGS_MAX: usize = 8;

/// What HTTP calls an object that reads and means nothing.
const UNPROCESSABLE: u16 = 422;

/// What becomes of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why not; nothing where it may.
    pub refusal: Option<String>,
    /// Probable mistakes.
    pub warnings: Vec<String>,
}

impl Verdict {
    fn refused(message: &str) -> Self {
        let refusal = Some(source::clipped(message, source::MESSAGE_BYTES_MAX));
        Self { refusal, warnings: Vec::new() }
    }
}

impl From<Verdict> for Answer {
    fn from(verdict: Verdict) -> Self {
        let Verdict { refusal, warnings } = verdict;
        Self { refused: refusal.map(|message| (UNPROCESSABLE, message)), warnings, ..Self::default() }
    }
}

/// Judges a request. Without the present objects, as before they were first read, each is judged alone.
pub fn judge(request: &Value, mesh: &Mesh, present: Option<&Present>) -> Verdict {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let kind = request["kind"]["kind"].as_str();
    let kind = kind.and_then(|name| Kind::ALL.iter().copied().find(|kind| kind.name() == name));
    // What is no object of ours is none of our business; neither is what is told back about one.
    let (Some(kind), true) = (kind, request["subResource"].as_str().unwrap_or_default().is_empty()) else {
        return Verdict::default();
    };
    let object = &request["object"];
    let namespace = text(&request["namespace"]).or_else(|| text(&object["metadata"]["namespace"]));
    let name = text(&request["name"]).filter(|name| !name.is_empty());
    let name = name.or_else(|| text(&object["metadata"]["name"]).filter(|name| !name.is_empty()));
    // A name that the API server makes up follows this.
    let name = name.or_else(|| text(&object["metadata"]["generateName"]).map(|prefix| format!("{prefix}0")));
    let Some(key) = source::key(kind, namespace.as_deref(), name.as_deref()) else {
        return Verdict::refused(
            "metadata.name: neither the name nor the namespace may be missing or malformed",
        );
    };
    match request["operation"].as_str() {
        Some("CREATE" | "UPDATE") if is_as_before(request) => Verdict::default(),
        Some("CREATE" | "UPDATE") => put(&key, object, mesh, present),
        Some("DELETE") => delete(key, mesh, present),
        _ => Verdict::default(),
    }
}

/// Whether an update says nothing new to the mesh, or is of an object that is about to go: notes on an object and its
/// going must not fail for what it says.
fn is_as_before(request: &Value) -> bool {
    let (old, new) = (&request["oldObject"], &request["object"]);
    let goes = !new["metadata"]["deletionTimestamp"].is_null();
    let same = old["spec"] == new["spec"] && old["metadata"]["labels"] == new["metadata"]["labels"];
    request["operation"] == "UPDATE" && (goes || same)
}

fn put(key: &Key, object: &Value, mesh: &Mesh, present: Option<&Present>) -> Verdict {
    let labels = match &object["metadata"]["labels"] {
        Value::Null => Value::Object(serde_json::Map::new()),
        labels => labels.clone(),
    };
    match source::read(key, &labels, &object["spec"], None) {
        Err(message) => Verdict::refused(&message),
        Ok(resource) => against(Act::Put(Box::new(resource)), key, mesh, present),
    }
}

fn delete(key: Key, mesh: &Mesh, present: Option<&Present>) -> Verdict {
    // Of what is not in the mesh nothing is left behind.
    match present.filter(|present| present.object(&key).is_some()) {
        Some(present) => against(Act::Delete { key: key.clone(), version: None }, &key, mesh, Some(present)),
        None => Verdict::default(),
    }
}

/// Judges a change against the objects that there are.
fn against(act: Act, key: &Key, mesh: &Mesh, present: Option<&Present>) -> Verdict {
    let (nothing, alone) = (Present::default(), present.is_none());
    let place = Place { file: key.to_string(), line: 0, column: 0, field: String::new() };
    match desired::plan(mesh, present.unwrap_or(&nothing), vec![Wish { act, place }]) {
        Err(why) => Verdict::refused(&source::told(&why)),
        // What is missing among nothing may well be there.
        Ok(_) if alone => Verdict::default(),
        Ok(changes) => Verdict { refusal: None, warnings: warnings(changes) },
    }
}

fn warnings(changes: Changes) -> Vec<String> {
    let of_objects = changes.outcomes.into_iter().flat_map(|outcome| outcome.warnings);
    let told = of_objects.chain(changes.warnings).take(WARNINGS_MAX);
    told.map(|text| source::clipped(&text, WARNING_BYTES_MAX)).collect()
}

#[cfg(test)]
mod tests;
