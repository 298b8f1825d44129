//! Objects: listed, shown, put, deleted, and applied many at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::HeaderValue;
use axum::http::header::ETAG;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use weft_proto::name::{LabelKey, LabelValue, Namespace};
use weft_proto::resource::{self, Key, Kind, Resource, ResourceVersion};

use super::call::{Call, json};
use super::changes::Intent;
use super::{Api, Error, FieldError, ObjectList, Version};
use crate::desired::{self, Action};
use crate::store::{self, Entry, Page, Prefix, Revision};

const LIMIT_DEFAULT: usize = 500;
const LIMIT_MAX: usize = 1000;
/// Most objects that one request looks at; a filter that passes few may give short pages.
const SCANNED_MAX: usize = 10_000;
/// Longest name of an input, in bytes.
const FILE_BYTES_MAX: usize = 1024;
const NO_FILE: &str = "body";

pub(super) async fn version(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    call.no_query()?;
    Ok(json(&Version {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api_version: resource::API_VERSION.to_owned(),
        trust_domain: api.mesh.trust_domain.to_string(),
        store_revision: api.deps.store.head().await?.revision.0,
        published_revision: api.deps.sidecars.published_revision(),
    }))
}

/// Which objects are wanted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// A kind, by its name, plural or short form; every kind if not given.
    kind: Option<String>,
    /// A namespace; every namespace if not given.
    #[schemars(with = "Option<String>")]
    namespace: Option<Namespace>,
    /// Labels that the objects must carry: `k=v,k2=v2`.
    labels: Option<String>,
    /// Most objects in the answer; 500 if not given, at most 1000.
    limit: Option<usize>,
    /// Where the page before said to go on.
    #[serde(rename = "continue")]
    next: Option<String>,
}

/// Reads a kind as people write it.
pub(super) fn kind(text: Option<&str>) -> Result<Option<Kind>, Error> {
    text.map(|text| {
        Kind::find(text).ok_or_else(|| {
            let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            Error::BadParameter { name: "kind", problem: format!("expected one of {}", names.join(", ")) }
        })
    })
    .transpose()
}

/// Reads the size of a page.
pub(super) fn limit(given: Option<usize>, default: usize) -> Result<usize, Error> {
    match given {
        None => Ok(default),
        Some(limit @ 1..=LIMIT_MAX) => Ok(limit),
        Some(_) => Err(Error::BadParameter { name: "limit", problem: format!("expected 1 to {LIMIT_MAX}") }),
    }
}

pub(super) async fn list(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    let query: ListQuery = call.query()?;
    let (kind, limit) = (kind(query.kind.as_deref())?, limit(query.limit, LIMIT_DEFAULT)?);
    let labels = labels(query.labels.as_deref())?;
    let prefixes = prefixes(kind, query.namespace.as_ref());
    let (at, mut after) = match &query.next {
        Some(token) => {
            let (at, key) = read_token(token, &prefixes)?;
            (at, Some(key))
        }
        None => (api.deps.store.head().await?.revision, None),
    };
    let start = after.as_ref().map_or(0, |key| prefixes.iter().position(|it| it.contains(key)).unwrap_or(0));
    let mut found = ObjectList { revision: at.0, items: Vec::new(), next: None };
    let mut scanned = 0;
    for prefix in &prefixes[start..] {
        loop {
            // One more than is wanted tells whether there are more; a filter may have to look at many.
            let wanted = limit + 1 - found.items.len();
            let page_max = if labels.is_empty() { wanted } else { LIMIT_MAX };
            let page = Page { after: after.take(), limit: page_max };
            let listing = api.deps.store.list(prefix, Some(at), page).await?;
            for entry in &listing.entries {
                if found.items.len() == limit || scanned == SCANNED_MAX {
                    return Ok(json(&found));
                }
                scanned += 1;
                found.next = Some(token(at, &entry.key));
                found.items.extend(shown(entry).filter(|object| carries(object, &labels)));
            }
            after = listing.next;
            if after.is_none() {
                break;
            }
        }
    }
    found.next = None;
    Ok(json(&found))
}

fn prefixes(kind: Option<Kind>, namespace: Option<&Namespace>) -> Vec<Prefix> {
    let prefix = |text: String| Prefix::new(text).expect("kinds and namespaces are short and plain");
    let of = |kind: Kind| match namespace {
        Some(namespace) => prefix(format!("{}{}/{namespace}/", desired::PREFIX, kind.plural())),
        None => prefix(format!("{}{}/", desired::PREFIX, kind.plural())),
    };
    match (kind, namespace) {
        (Some(kind), _) => vec![of(kind)],
        (None, Some(_)) => Kind::ALL.iter().map(|kind| of(*kind)).collect(),
        (None, None) => vec![desired::prefix()],
    }
}

fn token(at: Revision, last: &store::Key) -> String {
    URL_SAFE_NO_PAD.encode(format!("{at} {last}"))
}

fn read_token(token: &str, prefixes: &[Prefix]) -> Result<(Revision, store::Key), Error> {
    let read = || {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        let (at, key) = text.split_once(' ')?;
        let key = store::Key::new(key).ok()?;
        prefixes.iter().any(|prefix| prefix.contains(&key)).then_some((Revision(at.parse().ok()?), key))
    };
    read().ok_or_else(|| Error::BadParameter {
        name: "continue",
        problem: "expected what an answer to the same question gave".to_owned(),
    })
}

/// Labels that are wanted.
pub(super) type Labels = BTreeMap<LabelKey, LabelValue>;

pub(super) fn labels(text: Option<&str>) -> Result<Labels, Error> {
    let wrong = |problem: String| Error::BadParameter { name: "labels", problem };
    let pairs = text.into_iter().flat_map(|text| text.split(','));
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').ok_or_else(|| wrong("expected k=v,k2=v2".to_owned()))?;
            let key = LabelKey::parse(key).map_err(|error| wrong(error.to_string()))?;
            Ok((key, LabelValue::parse(value).map_err(|error| wrong(error.to_string()))?))
        })
        .collect()
}

/// Whether an object with these labels has those that are wanted.
pub(super) fn carried(wanted: &Labels, labels: &resource::kinds::Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn carries(object: &Value, wanted: &Labels) -> bool {
    let labels = &object["metadata"]["labels"];
    wanted.iter().all(|(key, value)| labels[key.as_str()].as_str() == Some(value.as_str()))
}

/// An object as it goes out: with the revision that it was last changed in.
pub(super) fn shown(entry: &Entry) -> Option<Value> {
    let mut object: Value = serde_json::from_slice(&entry.value).ok()?;
    let version = ResourceVersion(entry.modified.0).to_string();
    object.get_mut("metadata")?.as_object_mut()?.insert("resourceVersion".to_owned(), version.into());
    Some(object)
}

/// The object that a path names.
fn key(call: &Call) -> Result<Key, Error> {
    let plural: String = call.part("plural")?;
    let kind = Kind::ALL.iter().copied().find(|kind| kind.plural() == plural);
    let kind = kind.ok_or_else(|| Error::NotFound { what: format!("kind of object {plural:?}") })?;
    Ok(Key { kind, namespace: call.part("ns")?, name: call.part("name")? })
}

fn missing(key: &Key) -> Error {
    Error::NotFound { what: format!("object {key}") }
}

pub(super) async fn show(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    call.no_query()?;
    let key = key(&call)?;
    let entry = api.deps.store.get(&desired::store_key(&key)).await?.ok_or_else(|| missing(&key))?;
    let mut response = json(&shown(&entry).ok_or_else(|| missing(&key))?);
    let tag = HeaderValue::from_str(&format!("\"{}\"", entry.modified));
    response.headers_mut().extend(tag.ok().map(|tag| (ETAG, tag)));
    Ok(response)
}

/// How a change is meant.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ChangeQuery {
    /// Do everything but the change itself.
    dry_run: Option<bool>,
    /// Why; kept with the revision.
    reason: Option<String>,
}

impl ChangeQuery {
    fn intent(self, action: &'static str) -> Intent {
        let dry_run = self.dry_run.unwrap_or_default();
        Intent { action, reason: self.reason.unwrap_or_default(), dry_run }
    }
}

/// How a change of many objects is meant.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ApplyQuery {
    /// Do everything but the change itself.
    dry_run: Option<bool>,
    /// Why; kept with the revision.
    reason: Option<String>,
    /// What messages call the input.
    file: Option<String>,
}

/// How a deletion is meant.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DeleteQuery {
    /// Do everything but the change itself.
    dry_run: Option<bool>,
    /// Why; kept with the revision.
    reason: Option<String>,
    /// The version that the deletion is based on.
    #[schemars(with = "Option<String>")]
    resource_version: Option<ResourceVersion>,
}

/// Reads documents, away from the threads that serve others.
async fn documents(api: &Api, call: &Call, file: &str) -> Result<Vec<(Resource, u64)>, Error> {
    let (body, file) = (call.body.clone(), file.to_owned());
    let read = move || {
        let text = std::str::from_utf8(&body).map_err(|error| {
            let problem = format!("the body is not UTF-8 from byte {} on", error.valid_up_to());
            Error::BadBody { problem, line: 0, column: 0 }
        })?;
        let documents = resource::parse(&file, text)?;
        match documents.is_empty() {
            true => {
                Err(Error::BadBody { problem: "the body has no document".to_owned(), line: 0, column: 0 })
            }
            false => Ok(documents),
        }
    };
    api.heavy(read).await?
}

pub(super) async fn put(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    let (query, key): (ChangeQuery, _) = (call.query()?, key(&call)?);
    let documents = documents(&api, &call, NO_FILE).await?;
    let wrong = |line, field: &str, message: String| {
        let (file, field) = (Some(NO_FILE.to_owned()), field.to_owned());
        Error::Invalid(vec![FieldError { file, line, column: 1, field, message }])
    };
    match documents.as_slice() {
        [(resource, _)] if resource.key() == key => {}
        [(resource, line)] => {
            let message = format!("the path names {key}, but the document is {}", resource.key());
            return Err(wrong(*line, "metadata", message));
        }
        [_, (_, line), ..] => return Err(wrong(*line, "", "expected exactly one document".to_owned())),
        [] => return Err(wrong(0, "", "expected exactly one document".to_owned())),
    }
    let plan =
        move |mesh: &_, present: &_| Ok(desired::plan_apply(mesh, present, NO_FILE, documents.clone())?);
    Ok(json(&api.change(&call, query.intent("put"), plan).await?))
}

pub(super) async fn delete(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    let (query, key): (DeleteQuery, _) = (call.query()?, key(&call)?);
    let version = query.resource_version;
    let plan = move |mesh: &_, present: &_| {
        let place = resource::Place { file: NO_FILE.to_owned(), line: 0, column: 0, field: String::new() };
        let act = desired::Act::Delete { key: key.clone(), version };
        let changes = desired::plan(mesh, present, vec![desired::Wish { act, place }])?;
        match changes.outcomes.first() {
            Some(outcome) if outcome.action == Action::Deleted => Ok(changes),
            _ => Err(missing(&key)),
        }
    };
    let intent = ChangeQuery { dry_run: query.dry_run, reason: query.reason }.intent("delete");
    Ok(json(&api.change(&call, intent, plan).await?))
}

pub(super) async fn apply(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    let query: ApplyQuery = call.query()?;
    let file = query.file.unwrap_or_else(|| NO_FILE.to_owned());
    if file.len() > FILE_BYTES_MAX {
        let problem = format!("at most {FILE_BYTES_MAX} bytes are allowed");
        return Err(Error::BadParameter { name: "file", problem });
    }
    let documents = documents(&api, &call, &file).await?;
    let intent = ChangeQuery { dry_run: query.dry_run, reason: query.reason }.intent("apply");
    let plan = move |mesh: &_, present: &_| Ok(desired::plan_apply(mesh, present, &file, documents.clone())?);
    Ok(json(&api.change(&call, intent, plan).await?))
}

pub(super) async fn delete_many(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    let query: ChangeQuery = call.query()?;
    let documents = documents(&api, &call, NO_FILE).await?;
    let plan =
        move |mesh: &_, present: &_| Ok(desired::plan_delete(mesh, present, NO_FILE, documents.clone())?);
    Ok(json(&api.change(&call, query.intent("delete"), plan).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_continue_token_is_taken_only_for_the_same_question() {
        let all = prefixes(None, None);
        let key = store::Key::new("resources/routes/a/b").unwrap();
        assert_eq!(read_token(&token(Revision(7), &key), &all).unwrap(), (Revision(7), key.clone()));
        let other = prefixes(Some(Kind::McpServer), None);
        assert!(read_token(&token(Revision(7), &key), &other).is_err());
        let secrets = store::Key::new("auth/keys/x").unwrap();
        let forged = URL_SAFE_NO_PAD.encode("7");
        for bad in [token(Revision(7), &secrets), forged, "%%%".to_owned(), String::new()] {
            assert!(read_token(&bad, &all).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels_are_pairs() {
        assert_eq!(labels(Some("a=b,weft.dev/x=")).unwrap().len(), 2);
        for bad in ["", "a", "a=b,", "=b", "a=b c"] {
            assert!(labels(Some(bad)).is_err(), "{bad:?}");
        }
    }
}
