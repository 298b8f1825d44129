//! Desired state: what becomes of the objects in the store when documents are applied, deleted or brought back.
//!
//! Pure: the present state and wishes go in, and one transaction with everything that can be told about it comes out —
//! or every reason why there is none. A plan holds only for the state it was made from; its transaction says so, and
//! the store refuses it when anything under [`PREFIX`] has changed since. Not here: reading the store, and committing.

mod check;
mod diff;
mod present;

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use weft_proto::name::TrustDomain;
use weft_proto::resource::bounded::Map;
use weft_proto::resource::{Key, Place, Resource, ResourceVersion};

use crate::store::{self, Prefix, Revision, Txn, Write, limits};
pub use diff::Budget;
pub use present::{Object, Present};

/// Under which the objects are kept: `resources/<plural>/<namespace>/<name>`.
pub const PREFIX: &str = "resources/";

/// The annotation that says when an object was made where it comes from, where that is elsewhere (RFC 3339).
pub const MADE_AT: &str = "weft.dev/made-at";

/// How old an object is against others: the smaller the older. It decides between objects that contradict each other, so
/// what comes from elsewhere has its age from there: stores that follow the same objects then agree, whenever each of
/// them heard of what.
pub fn age(resource: &Resource, created: Revision) -> u64 {
    let made = resource.metadata.annotations.iter().find(|(key, _)| key.as_str() == MADE_AT);
    let made = made.and_then(|(_, at)| at.as_str().parse::<Timestamp>().ok());
    made.and_then(|at| u64::try_from(at.as_second()).ok()).unwrap_or(created.0)
}

/// All objects.
pub fn prefix() -> Prefix {
    Prefix::new(PREFIX).expect("the prefix is short and plain")
}

/// Where an object is kept. Names are at most 63 and 253 bytes long, so that the key is within the store's limit.
pub fn store_key(key: &Key) -> store::Key {
    store::Key::new(format!("{PREFIX}{key}")).expect("names hold no control characters and are short")
}

/// The object that is kept at a key of the store.
pub fn object_key(key: &store::Key) -> Option<Key> {
    key.as_str().strip_prefix(PREFIX)?.parse().ok()
}

/// Something that is asked for, and where in the input it stands.
#[derive(Clone, Debug)]
pub struct Wish {
    pub act: Act,
    pub place: Place,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub enum Act {
    Put(Box<Resource>),
    /// Deletes the object, if it is there.
    Delete {
        key: Key,
        version: Option<ResourceVersion>,
    },
}

impl Act {
    fn key(&self) -> Key {
        match self {
            Self::Put(resource) => resource.key(),
            Self::Delete { key, .. } => key.clone(),
        }
    }

    fn version(&self) -> Option<ResourceVersion> {
        match self {
            Self::Put(resource) => resource.metadata.resource_version,
            Self::Delete { version, .. } => *version,
        }
    }
}

/// What holds for the whole mesh, whatever the objects say.
#[derive(Clone, Debug)]
pub struct Mesh {
    pub trust_domain: TrustDomain,
}

/// What was made of one wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Created,
    Changed,
    Unchanged,
    Deleted,
}

/// One wish, carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub key: Key,
    pub action: Action,
    /// The object as YAML before and after, as a unified diff; empty if nothing changes.
    pub diff: String,
    /// Probable mistakes.
    pub warnings: Vec<String>,
}

/// What becomes of the wishes, as long as nothing changes after `seen`.
#[derive(Clone, Debug, PartialEq)]
pub struct Changes {
    pub seen: Revision,
    pub writes: Vec<Write>,
    pub outcomes: Vec<Outcome>,
    /// Probable mistakes that no single wish is to blame for.
    pub warnings: Vec<String>,
}

impl Changes {
    /// The transaction that carries them out, all or nothing.
    pub fn transaction(&self, author: &str, reason: &str) -> Txn {
        Txn { writes: self.writes.clone(), ..Txn::new(author, reason).unchanged_since(prefix(), self.seen) }
    }
}

/// A mistake, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct Mistake {
    pub place: Place,
    pub message: String,
}

/// A wish that was based on another version than the present one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} is {}, but the change is based on version {given}", at_version(*.present))]
pub struct Stale {
    pub key: Key,
    pub given: ResourceVersion,
    pub present: Option<Revision>,
}

fn at_version(revision: Option<Revision>) -> String {
    revision.map_or_else(|| "absent".to_owned(), |revision| format!("at version {revision}"))
}

/// Why nothing becomes of the wishes. All mistakes are told, not only the first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{} mistakes, the first: {}", .0.len(), .0.first().map(ToString::to_string).unwrap_or_default())]
    Invalid(Vec<Mistake>),
    #[error("{} conflicts, the first: {}", .0.len(), .0.first().map(ToString::to_string).unwrap_or_default())]
    Stale(Vec<Stale>),
    #[error(
        "the objects would have {bytes} bytes; at most {} are read when a control plane starts",
        limits::STATE_BYTES_MAX
    )]
    TooLarge { bytes: usize },
}

/// Plans to put parsed documents; `file` is what messages call the input.
pub fn plan_apply(
    mesh: &Mesh,
    present: &Present,
    file: &str,
    documents: Vec<(Resource, u64)>,
) -> Result<Changes, Error> {
    let wishes = documents.into_iter().map(|(resource, line)| Wish {
        act: Act::Put(Box::new(with_its_age(present, resource))),
        place: Place { file: file.to_owned(), line, column: 1, field: String::new() },
    });
    plan(mesh, present, wishes.collect())
}

/// An object that is there keeps its age from where it comes, which documents do not say.
fn with_its_age(present: &Present, mut resource: Resource) -> Resource {
    let made = |of: &Resource| {
        of.metadata
            .annotations
            .iter()
            .find(|(key, _)| key.as_str() == MADE_AT)
            .map(|(key, at)| (key.clone(), at.clone()))
    };
    let before = present.object(&resource.key()).and_then(|object| made(object.readable()?));
    if made(&resource).is_none()
        && let Some((key, at)) = before
    {
        let mut annotations = (*resource.metadata.annotations).clone();
        annotations.insert(key, at);
        // With as many annotations as there may be, it is as young as its last change.
        resource.metadata.annotations = Map::new(annotations).unwrap_or(resource.metadata.annotations);
    }
    resource
}

/// Plans to delete the objects that documents name, whatever else they say.
pub fn plan_delete(
    mesh: &Mesh,
    present: &Present,
    file: &str,
    documents: Vec<(Resource, u64)>,
) -> Result<Changes, Error> {
    let wishes = documents.into_iter().map(|(resource, line)| Wish {
        act: Act::Delete { key: resource.key(), version: resource.metadata.resource_version },
        place: Place { file: file.to_owned(), line, column: 1, field: String::new() },
    });
    plan(mesh, present, wishes.collect())
}

/// Plans to bring a past state back. Objects that are as they were are not spoken of.
pub fn plan_rollback(mesh: &Mesh, present: &Present, past: &Present) -> Result<Changes, Error> {
    let place = |key: &Key| Place { file: key.to_string(), line: 0, column: 0, field: String::new() };
    let (mut wishes, mut mistakes) = (Vec::new(), Vec::new());
    for (key, object) in past.objects() {
        if present.object(key).is_some_and(|now| now.value == object.value) {
            continue;
        }
        match &object.resource {
            Ok(resource) => {
                wishes.push(Wish { act: Act::Put(Box::new(resource.as_ref().clone())), place: place(key) })
            }
            Err(why) => mistakes.push(Mistake { place: place(key), message: why.to_string() }),
        }
    }
    let gone = present.objects().keys().filter(|key| past.object(key).is_none());
    wishes.extend(
        gone.map(|key| Wish { act: Act::Delete { key: key.clone(), version: None }, place: place(key) }),
    );
    match mistakes.is_empty() {
        true => plan(mesh, present, wishes),
        false => Err(Error::Invalid(mistakes)),
    }
}

/// Plans what is asked for, whole or not at all.
pub fn plan(mesh: &Mesh, present: &Present, wishes: Vec<Wish>) -> Result<Changes, Error> {
    let wishes = distinct(wishes)?;
    refuse_stale(present, &wishes)?;
    let mistakes = check::alone(present, &wishes);
    if !mistakes.is_empty() {
        return Err(Error::Invalid(mistakes));
    }
    let after = check::After::new(present, &wishes);
    let mistakes = after.mistakes(mesh, &wishes);
    if !mistakes.is_empty() {
        return Err(Error::Invalid(mistakes));
    }
    let mut changes = Changes {
        seen: present.revision(),
        writes: Vec::new(),
        outcomes: Vec::with_capacity(wishes.len()),
        warnings: after.warnings(&wishes),
    };
    let mut budget = Budget::default();
    for (key, wish) in &wishes {
        let (outcome, write) = carry_out(present, key, &wish.act, &mut budget);
        let warnings = after.warnings_of(key, &wish.act, outcome.action);
        changes.outcomes.push(Outcome { warnings, ..outcome });
        changes.writes.extend(write);
    }
    refuse_too_large(present, &changes.writes)?;
    Ok(changes)
}

/// Wishes by the object they are about, in the order in which they were made.
type Wishes = Vec<(Key, Wish)>;

fn distinct(wishes: Vec<Wish>) -> Result<Wishes, Error> {
    let mut first = BTreeMap::new();
    let mut mistakes = Vec::new();
    let keyed: Wishes = wishes.into_iter().map(|wish| (wish.act.key(), wish)).collect();
    for (key, wish) in &keyed {
        match first.get(key) {
            None => _ = first.insert(key, wish.place.line),
            Some(line) => mistakes.push(Mistake {
                place: Place { field: "metadata.name".to_owned(), ..wish.place.clone() },
                message: format!("{key} is given already on line {line}"),
            }),
        }
    }
    match mistakes.is_empty() {
        true => Ok(keyed),
        false => Err(Error::Invalid(mistakes)),
    }
}

fn refuse_stale(present: &Present, wishes: &Wishes) -> Result<(), Error> {
    let stale: Vec<_> = wishes
        .iter()
        .filter_map(|(key, wish)| {
            let given = wish.act.version()?;
            let present = present.object(key).map(|object| object.modified);
            (present != Some(Revision(given.0))).then(|| Stale { key: key.clone(), given, present })
        })
        .collect();
    match stale.is_empty() {
        true => Ok(()),
        false => Err(Error::Stale(stale)),
    }
}

/// More than can be read as a whole must not come to be: no control plane could start with it. What shrinks is welcome.
fn refuse_too_large(present: &Present, writes: &[Write]) -> Result<(), Error> {
    let (mut more, mut less) = (0, 0);
    for write in writes {
        if let Some((key, object)) =
            object_key(write.key()).and_then(|key| present.objects().get_key_value(&key))
        {
            less += present::store_bytes(key, object.value.len());
        }
        if let Write::Put { key, value, .. } = write {
            more += key.as_str().len() + value.len();
        }
    }
    let bytes = present.bytes() + more - less;
    match bytes > limits::STATE_BYTES_MAX && more > less {
        true => Err(Error::TooLarge { bytes }),
        false => Ok(()),
    }
}

fn carry_out(present: &Present, key: &Key, act: &Act, budget: &mut Budget) -> (Outcome, Option<Write>) {
    let before = present.object(key);
    let at = store_key(key);
    let (action, diff, write) = match (act, before) {
        (Act::Put(resource), before) => {
            let value = Bytes::from(resource.canonical());
            match before {
                Some(before) if before.value == value => (Action::Unchanged, String::new(), None),
                _ => {
                    let action = before.map_or(Action::Created, |_| Action::Changed);
                    let text = before.map(Object::yaml);
                    let diff = budget.diff(key, text.as_deref(), Some(&present::yaml(resource)));
                    (action, diff, Some(Write::Put { key: at, value, lease: None }))
                }
            }
        }
        (Act::Delete { .. }, Some(before)) => {
            (Action::Deleted, budget.diff(key, Some(&before.yaml()), None), Some(Write::Delete { key: at }))
        }
        (Act::Delete { .. }, None) => (Action::Unchanged, String::new(), None),
    };
    (Outcome { key: key.clone(), action, diff, warnings: Vec::new() }, write)
}

#[cfg(test)]
mod tests;
