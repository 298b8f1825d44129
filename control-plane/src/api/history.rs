//! The history of objects: who changed what when and why, and bringing a past state back.

use std::sync::Arc;

use axum::response::Response;
use schemars::JsonSchema;
use serde::Deserialize;
use weft_proto::name::{Namespace, ObjectName};
use weft_proto::resource::{Key, Kind};

use super::call::{Call, json};
use super::changes::Intent;
use super::objects::{kind, limit};
use super::{Action, Api, Error, HistoryChange, HistoryItem, HistoryList, RollbackRequest};
use crate::desired::{self, Budget, Present};
use crate::store::{Diff, Page, Prefix, Revision, RevisionInfo, Store};

const LIMIT_DEFAULT: usize = 50;
/// Most changes of one revision that a list shows.
const CHANGES_SHOWN_MAX: usize = 100;
/// Most revisions that one request looks at.
const SCANNED_MAX: usize = 1000;

/// Which revisions are wanted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryQuery {
    /// Most revisions in the answer; 50 if not given, at most 1000.
    limit: Option<usize>,
    /// Only revisions before this one.
    before: Option<u64>,
    /// A kind, by its name, plural or short form.
    kind: Option<String>,
    #[schemars(with = "Option<String>")]
    namespace: Option<Namespace>,
    #[schemars(with = "Option<String>")]
    name: Option<ObjectName>,
}

/// Which objects' history is wanted.
#[derive(Debug)]
struct Wanted {
    kind: Option<Kind>,
    namespace: Option<Namespace>,
    name: Option<ObjectName>,
}

impl Wanted {
    fn takes(&self, key: &Key) -> bool {
        self.kind.is_none_or(|kind| kind == key.kind)
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
            && self.name.as_ref().is_none_or(|name| *name == key.name)
    }

    /// What all wanted objects are under, as narrow as can be.
    fn prefix(&self) -> Prefix {
        let text = match (self.kind, &self.namespace, &self.name) {
            (Some(kind), Some(namespace), Some(name)) => format!("{}/{namespace}/{name}", kind.plural()),
            (Some(kind), Some(namespace), None) => format!("{}/{namespace}/", kind.plural()),
            (Some(kind), None, _) => format!("{}/", kind.plural()),
            (None, ..) => String::new(),
        };
        Prefix::new(format!("{}{text}", desired::PREFIX)).expect("names are short and plain")
    }
}

pub(super) async fn list(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    let query: HistoryQuery = call.query()?;
    let limit = limit(query.limit, LIMIT_DEFAULT)?;
    let wanted = Wanted { kind: kind(query.kind.as_deref())?, namespace: query.namespace, name: query.name };
    let (store, prefix) = (&*api.deps.store, wanted.prefix());
    let mut found = HistoryList { items: Vec::new(), next: query.before };
    let mut scanned = 0;
    loop {
        let infos = store.history(&prefix, found.next.map(Revision), limit).await?;
        if infos.is_empty() {
            found.next = None;
            break;
        }
        for info in infos {
            if found.items.len() == limit || scanned == SCANNED_MAX {
                return Ok(json(&found));
            }
            scanned += 1;
            found.next = Some(info.revision.0);
            let diffs = diffs(store, info.revision, &wanted, CHANGES_SHOWN_MAX).await?;
            if !diffs.is_empty() {
                let changes = diffs.iter().map(|(key, diff)| told(key, diff, None)).collect();
                found.items.push(item(info, changes));
            }
        }
    }
    Ok(json(&found))
}

/// What a revision did to the wanted objects, at most so many of them.
async fn diffs(
    store: &dyn Store,
    revision: Revision,
    wanted: &Wanted,
    changes_max: usize,
) -> Result<Vec<(Key, Diff)>, Error> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.revision(revision, Page { after, ..Page::default() }).await?;
        let of_objects = page.diffs.into_iter().filter_map(|diff| {
            let key = desired::object_key(&diff.key).filter(|key| wanted.takes(key))?;
            Some((key, diff))
        });
        found.extend(of_objects.take(changes_max - found.len()));
        after = page.next;
        if after.is_none() || found.len() == changes_max {
            return Ok(found);
        }
    }
}

fn told(key: &Key, diff: &Diff, text: Option<String>) -> HistoryChange {
    let action = match (&diff.before, &diff.after) {
        (None, Some(_)) => Action::Created,
        (Some(before), Some(after)) if before.value == after.value => Action::Unchanged,
        (Some(_), Some(_)) => Action::Changed,
        (_, None) => Action::Deleted,
    };
    HistoryChange {
        kind: key.kind.name().to_owned(),
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        action,
        diff: text,
    }
}

fn item(info: RevisionInfo, changes: Vec<HistoryChange>) -> HistoryItem {
    let RevisionInfo { revision, at, author, reason, .. } = info;
    HistoryItem { revision: revision.0, at, author, reason, changes }
}

pub(super) async fn show(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    call.no_query()?;
    let revision = Revision(call.part("revision")?);
    let missing = || Error::UnknownRevision(format!("revision {revision} changed no object"));
    if revision == Revision::ZERO {
        return Err(missing());
    }
    let everything = Wanted { kind: None, namespace: None, name: None };
    let info = api.deps.store.revision(revision, Page { after: None, limit: 1 }).await?.info;
    let diffs = diffs(&*api.deps.store, revision, &everything, usize::MAX).await?;
    if diffs.is_empty() {
        return Err(missing());
    }
    let changes = api.heavy(move || with_text(revision, diffs)).await?;
    Ok(json(&item(info, changes)))
}

fn with_text(revision: Revision, diffs: Vec<(Key, Diff)>) -> Vec<HistoryChange> {
    let mut budget = Budget::default();
    let side = |entry: &Option<_>, key: &Key| {
        let present = Present::read(revision, entry.as_slice());
        present.object(key).map(desired::Object::yaml)
    };
    let mut change = |(key, diff): &(Key, Diff)| {
        let (before, after) = (side(&diff.before, key), side(&diff.after, key));
        told(key, diff, Some(budget.diff(key, before.as_deref(), after.as_deref())))
    };
    diffs.iter().map(&mut change).collect()
}

pub(super) async fn rollback(api: Arc<Api>, call: Call) -> Result<Response, Error> {
    call.no_query()?;
    let RollbackRequest { to, reason, dry_run, expect_revision } = call.json()?;
    let past = Arc::new(api.past(Revision(to)).await?);
    let newest = match expect_revision {
        Some(_) => api.deps.store.history(&desired::prefix(), None, 1).await?.first().map(|it| it.revision.0),
        None => None,
    };
    if let (Some(expected), Some(newest)) = (expect_revision, newest)
        && newest > expected
    {
        return Err(moved(newest, expected));
    }
    let reason = reason.unwrap_or_else(|| format!("rollback to revision {to}"));
    let intent = Intent { action: "rollback", reason, dry_run };
    let plan = move |mesh: &_, present: &Present| {
        let mut changes = desired::plan_rollback(mesh, present, &past)?;
        // Whoever was faster since the look at the history is noticed by the store.
        changes.seen = expect_revision.map_or(changes.seen, |expected| changes.seen.min(Revision(expected)));
        Ok(changes)
    };
    Ok(json(&api.change(&call, intent, plan).await?))
}

fn moved(newest: u64, expected: u64) -> Error {
    Error::Conflict(format!("objects changed in revision {newest}, after revision {expected}"))
}
