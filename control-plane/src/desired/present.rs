//! The objects as they are at one revision.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use weft_proto::resource::{self, Key, Resource};

use super::object_key;
use crate::store::{Entry, Revision};

/// An object in the store.
#[derive(Clone, Debug)]
pub struct Object {
    /// As it is stored.
    pub value: Bytes,
    /// As it reads. An object that another version of Weft wrote may not; it can still be replaced and deleted.
    pub resource: Result<Arc<Resource>, Arc<str>>,
    pub created: Revision,
    pub modified: Revision,
}

impl Object {
    fn new(key: &Key, entry: &Entry) -> Self {
        Self {
            value: entry.value.clone(),
            resource: read(key, &entry.value).map(Arc::new).map_err(Arc::from),
            created: entry.created,
            modified: entry.modified,
        }
    }

    /// For people to compare; without the version.
    pub fn yaml(&self) -> String {
        match &self.resource {
            Ok(resource) => yaml(resource),
            Err(_) => String::from_utf8_lossy(&self.value).into_owned(),
        }
    }
}

/// For people to compare; without the version.
pub(super) fn yaml(resource: &Resource) -> String {
    match resource.metadata.resource_version {
        None => resource.to_yaml(),
        Some(_) => {
            let mut bare = resource.clone();
            bare.metadata.resource_version = None;
            bare.to_yaml()
        }
    }
}

fn read(key: &Key, value: &[u8]) -> Result<Resource, String> {
    let text = std::str::from_utf8(value).map_err(|_| "it is not text".to_owned())?;
    let resource = resource::parse_one(&key.to_string(), text).map_err(|errors| {
        errors.first().map_or_else(|| "it cannot be read".to_owned(), |error| error.problem.to_string())
    })?;
    match resource.key() == *key {
        true => Ok(resource),
        false => Err(format!("it says that it is {}", resource.key())),
    }
}

/// All objects at one revision.
#[derive(Clone, Debug, Default)]
pub struct Present {
    revision: Revision,
    objects: BTreeMap<Key, Object>,
}

impl Present {
    /// Reads the entries under [`super::PREFIX`], all of one revision.
    pub fn read(revision: Revision, entries: &[Entry]) -> Self {
        Self::default().follow(revision, entries)
    }

    /// The same for another revision, reading only what is not known already.
    #[must_use]
    pub fn follow(&self, revision: Revision, entries: &[Entry]) -> Self {
        let known = |key: &Key, entry: &Entry| {
            self.objects
                .get(key)
                .filter(|known| known.modified == entry.modified && known.value == entry.value)
        };
        let objects = entries.iter().filter_map(|entry| {
            let key = object_key(&entry.key)?;
            let object = known(&key, entry).cloned().unwrap_or_else(|| Object::new(&key, entry));
            Some((key, object))
        });
        Self { revision, objects: objects.collect() }
    }

    pub const fn revision(&self) -> Revision {
        self.revision
    }

    pub const fn objects(&self) -> &BTreeMap<Key, Object> {
        &self.objects
    }

    pub fn object(&self, key: &Key) -> Option<&Object> {
        self.objects.get(key)
    }
}
