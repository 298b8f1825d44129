//! The values that pass through the store's door.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::audit;
use super::limits::{self, Violation};

/// The number of a committed transaction. The first is 1; 0 stands for the time before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// Before anything was committed.
    pub const ZERO: Self = Self(0);

    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The number of a lease; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The name of a value: 1 to [`limits::KEY_BYTES_MAX`] bytes of UTF-8 without control characters. Keys are ordered by
/// their bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(Arc<str>);

impl Key {
    pub fn new(text: impl Into<Arc<str>>) -> Result<Self, Violation> {
        let text = text.into();
        if text.is_empty() {
            return Err(Violation::KeyEmpty);
        }
        limits::check_key(&text)?;
        Ok(Self(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The keys that begin with a text; the empty prefix is all keys.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix(Arc<str>);

impl Prefix {
    pub fn new(text: impl Into<Arc<str>>) -> Result<Self, Violation> {
        let text = text.into();
        limits::check_key(&text)?;
        Ok(Self(text))
    }

    /// All keys.
    pub fn all() -> Self {
        Self("".into())
    }

    pub fn contains(&self, key: &Key) -> bool {
        key.as_str().starts_with(self.as_str())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! text_type {
    ($name:ident) => {
        impl FromStr for $name {
            type Err = Violation;

            fn from_str(text: &str) -> Result<Self, Violation> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Violation;

            fn try_from(text: String) -> Result<Self, Violation> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.as_str().fmt(formatter)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), formatter)
            }
        }
    };
}

text_type!(Key);
text_type!(Prefix);

/// A sum that is written often and has no history, such as what is spent of a budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    pub name: Key,
    /// The end of the window that it is of, in seconds since 1970. It is forgotten some days after.
    pub ends: i64,
    pub milli: u64,
}

/// A key with its value, as of some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    pub value: Bytes,
    /// The revision that made the key, after its last absence.
    pub created: Revision,
    /// The revision that gave the key this value.
    pub modified: Revision,
    /// The lease that the key lives and dies with.
    pub lease: Option<LeaseId>,
}

impl Entry {
    pub(super) fn bytes(&self) -> usize {
        self.key.as_str().len() + self.value.len()
    }
}

/// What is known about a store's log without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The newest revision.
    pub revision: Revision,
    /// The oldest revision that can be shown; the state just before it can still be listed. 1 as long as nothing was
    /// compacted.
    pub oldest: Revision,
}

/// Which part of a long answer is wanted. An answer may be shorter than `limit`, since pages are limited in bytes too:
/// there is more if and only if it says `next`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Start behind this key: the `next` of the page before.
    pub after: Option<Key>,
    /// At most this many, but never less than one nor more than [`limits::PAGE_ENTRIES_MAX`].
    pub limit: usize,
}

impl Default for Page {
    fn default() -> Self {
        Self { after: None, limit: limits::PAGE_ENTRIES_MAX }
    }
}

/// One page of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The revision that the state was read at.
    pub revision: Revision,
    pub entries: Vec<Entry>,
    /// Where the next page starts, if there is one.
    pub next: Option<Key>,
}

/// What must hold of a key for a transaction to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key has no value.
    Absent,
    /// The key has a value.
    Present,
    /// The key has the value that this revision gave it.
    Revision(Revision),
}

impl Expect {
    /// Whether it holds of a key that was last changed in `modified`, or is absent.
    pub(super) fn holds(self, modified: Option<Revision>) -> bool {
        match self {
            Self::Absent => modified.is_none(),
            Self::Present => modified.is_some(),
            Self::Revision(revision) => modified == Some(revision),
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => formatter.write_str("absent"),
            Self::Present => formatter.write_str("present"),
            Self::Revision(revision) => write!(formatter, "at revision {revision}"),
        }
    }
}

/// One change that a transaction asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    Put { key: Key, value: Bytes, lease: Option<LeaseId> },
    Delete { key: Key },
}

impl Write {
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.as_str().len() + value.len(),
            Self::Delete { key } => key.as_str().len(),
        }
    }
}

/// A guard against every change under a prefix, deletions too. With [`Prefix::all`] it is compare-and-swap on the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnchangedSince {
    pub prefix: Prefix,
    /// The newest revision that the caller has taken into account.
    pub since: Revision,
}

/// A transaction: if every guard and condition holds, every write is made.
#[derive(Clone, Debug, PartialEq)]
pub struct Txn {
    pub guard: Option<UnchangedSince>,
    pub conditions: Vec<(Key, Expect)>,
    /// At most one for each key.
    pub writes: Vec<Write>,
    pub author: String,
    pub reason: String,
    /// Appended if, and only if, the transaction is accepted; the store notes the revision in it.
    pub audit: Option<audit::Record>,
}

impl Txn {
    pub fn new(author: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            guard: None,
            conditions: Vec::new(),
            writes: Vec::new(),
            author: author.into(),
            reason: reason.into(),
            audit: None,
        }
    }

    #[must_use]
    pub fn unchanged_since(mut self, prefix: Prefix, since: Revision) -> Self {
        self.guard = Some(UnchangedSince { prefix, since });
        self
    }

    #[must_use]
    pub fn expect(mut self, key: Key, expect: Expect) -> Self {
        self.conditions.push((key, expect));
        self
    }

    #[must_use]
    pub fn put(mut self, key: Key, value: impl Into<Bytes>) -> Self {
        self.writes.push(Write::Put { key, value: value.into(), lease: None });
        self
    }

    #[must_use]
    pub fn put_leased(mut self, key: Key, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        self.writes.push(Write::Put { key, value: value.into(), lease: Some(lease) });
        self
    }

    #[must_use]
    pub fn delete(mut self, key: Key) -> Self {
        self.writes.push(Write::Delete { key });
        self
    }

    #[must_use]
    pub fn audited(mut self, record: audit::Record) -> Self {
        self.audit = Some(record);
        self
    }
}

/// The answer to an accepted transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It is this revision.
    New(Revision),
    /// Everything already was as it asks, so that it made no revision. This one was the newest.
    Unchanged(Revision),
}

impl Committed {
    /// The revision at which things are as the transaction asked.
    pub fn revision(self) -> Revision {
        match self {
            Self::New(revision) | Self::Unchanged(revision) => revision,
        }
    }
}

/// Who made a revision, when, why, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionInfo {
    pub revision: Revision,
    pub at: Timestamp,
    pub author: String,
    pub reason: String,
    /// How many keys it changed, under any prefix.
    pub changes: usize,
    /// The first [`limits::KEYS_SHOWN_MAX`] of the changed keys that are under the prefix asked for.
    pub keys: Vec<Key>,
}

/// A key before and after a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diff {
    pub key: Key,
    pub before: Option<Entry>,
    pub after: Option<Entry>,
}

/// One page of what a revision changed, in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionDiff {
    pub info: RevisionInfo,
    pub diffs: Vec<Diff>,
    /// Where the next page starts, if there is one.
    pub next: Option<Key>,
}

/// What a revision made of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Put(Entry),
    Delete(Key),
}

impl Change {
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete(key) => key,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Put(entry) => entry.bytes(),
            Self::Delete(key) => key.as_str().len(),
        }
    }
}

/// One committed revision, as watchers see it: the changes under the prefix they watch, in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub revision: Revision,
    pub at: Timestamp,
    pub author: String,
    pub reason: String,
    pub changes: Vec<Change>,
}

impl Event {
    pub(crate) fn bytes(&self) -> usize {
        self.author.len() + self.reason.len() + self.changes.iter().map(Change::bytes).sum::<usize>()
    }
}
