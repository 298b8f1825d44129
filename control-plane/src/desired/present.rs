//! The objects as they are at one revision.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use weft_proto::name::{Namespace, ObjectName, ServerName};
use weft_proto::resource::{self, Key, Kind, Resource, Spec};

use super::{object_key, store_key};
use crate::store::{self, Change, Event, Revision};

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
    fn new(key: &Key, entry: &store::Entry) -> Self {
        Self {
            value: entry.value.clone(),
            resource: read(key, &entry.value).map(Arc::new).map_err(Arc::from),
            created: entry.created,
            modified: entry.modified,
        }
    }

    /// What it says, if it can be read, and how old it is against others.
    pub fn aged(&self) -> Option<(&Resource, u64)> {
        let resource = self.readable()?;
        Some((resource, super::age(resource, self.created)))
    }

    /// If it can be read.
    pub(super) fn readable(&self) -> Option<&Resource> {
        self.resource.as_deref().ok()
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
///
/// It is kept from one change to the next and follows what happens, so that a change costs what it touches.
#[derive(Clone, Debug, Default)]
pub struct Present {
    revision: Revision,
    objects: BTreeMap<Key, Object>,
    /// The servers that answer to a name of a namespace, by their own name or by an alias.
    called: BTreeMap<ServerName, BTreeSet<ObjectName>>,
    /// Of all keys and values, as the store reckons.
    bytes: usize,
}

impl Present {
    /// Reads the entries under [`super::PREFIX`], all of one revision.
    pub fn read(revision: Revision, entries: &[store::Entry]) -> Self {
        Self::default().follow(revision, entries)
    }

    /// The same for another revision, reading only what is not known already.
    #[must_use]
    pub fn follow(&self, revision: Revision, entries: &[store::Entry]) -> Self {
        let mut other = Self { revision, ..Self::default() };
        for entry in entries {
            let Some(key) = object_key(&entry.key) else { continue };
            let same = |known: &&Object| known.modified == entry.modified && known.value == entry.value;
            let known = self.objects.get(&key).filter(same).cloned();
            let object = known.unwrap_or_else(|| Object::new(&key, entry));
            other.put(key, object);
        }
        other
    }

    /// What happened next.
    pub fn advance(&mut self, event: &Event) {
        for change in &event.changes {
            let Some(key) = object_key(change.key()) else { continue };
            match change {
                Change::Put(entry) => {
                    let object = Object::new(&key, entry);
                    self.put(key, object);
                }
                Change::Delete(_) => self.remove(&key),
            }
        }
        self.revision = event.revision;
    }

    fn put(&mut self, key: Key, object: Object) {
        self.remove(&key);
        for name in names(&key, object.readable()) {
            let name = ServerName { namespace: key.namespace.clone(), name: name.clone() };
            self.called.entry(name).or_default().insert(key.name.clone());
        }
        self.bytes += store_bytes(&key, object.value.len());
        self.objects.insert(key, object);
    }

    fn remove(&mut self, key: &Key) {
        let Some(object) = self.objects.remove(key) else { return };
        self.bytes -= store_bytes(key, object.value.len());
        for name in names(key, object.readable()) {
            let name = ServerName { namespace: key.namespace.clone(), name: name.clone() };
            if let Entry::Occupied(mut servers) = self.called.entry(name) {
                servers.get_mut().remove(&key.name);
                if servers.get().is_empty() {
                    servers.remove();
                }
            }
        }
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

    /// The bytes of all keys and values.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The objects of one kind, or those of one namespace.
    pub(super) fn of(
        &self,
        kind: Kind,
        namespace: Option<&Namespace>,
    ) -> impl Iterator<Item = (&Key, &Object)> {
        let first = Key {
            kind,
            namespace: namespace.cloned().unwrap_or_else(|| least(Namespace::parse)),
            name: least(ObjectName::parse),
        };
        let wanted = move |key: &Key| {
            key.kind == kind && namespace.is_none_or(|namespace| key.namespace == *namespace)
        };
        self.objects.range(first..).take_while(move |(key, _)| wanted(key))
    }

    /// The servers that answer to a name.
    pub(super) fn called(&self, name: &ServerName) -> impl Iterator<Item = &ObjectName> {
        self.called.get(name).into_iter().flatten()
    }
}

/// The name that comes before all others.
fn least<T, E: fmt::Debug>(parse: impl Fn(&str) -> Result<T, E>) -> T {
    parse("0").expect("names may begin with a digit, and with nothing that comes before it")
}

/// What a server answers to: its name, and its aliases. Other objects answer to nothing.
pub(super) fn names<'a>(
    key: &'a Key,
    resource: Option<&'a Resource>,
) -> impl Iterator<Item = &'a ObjectName> {
    let server = resource.and_then(|resource| match &resource.spec {
        Spec::McpServer(server) => Some(server),
        _ => None,
    });
    server.into_iter().flat_map(|server| std::iter::once(&key.name).chain(&server.aliases))
}

/// What the store reckons for an object.
pub(super) fn store_bytes(key: &Key, value: usize) -> usize {
    store_key(key).as_str().len() + value
}
