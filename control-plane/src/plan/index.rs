//! Finding the objects that bear on a server without looking at all of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use weft_proto::name::{Namespace, ObjectName};
use weft_proto::resource::kinds::ServerSelector;

use super::world::Published;

/// The objects of one type in one namespace that select servers, by how they select.
#[derive(Debug, Default)]
pub(super) struct Selecting {
    /// Those that name every server they select.
    by_name: HashMap<ObjectName, Vec<Arc<Published>>>,
    /// Those that must be asked.
    others: BTreeMap<Arc<str>, Arc<Published>>,
}

/// The servers that a selector names, if names without stars are how it selects within one namespace.
pub(crate) fn exact_names(selector: &ServerSelector) -> Option<Vec<ObjectName>> {
    if selector.namespaces.is_some() {
        return None;
    }
    let names = selector.names.as_ref()?;
    let exact: HashSet<&str> = names.iter().map(|glob| glob.exact()).collect::<Option<_>>()?;
    // A text that is no server's name selects nothing.
    Some(exact.into_iter().filter_map(|name| ObjectName::parse(name).ok()).collect())
}

impl Selecting {
    pub(super) fn insert(&mut self, selector: &ServerSelector, object: &Arc<Published>) {
        match exact_names(selector) {
            Some(names) => {
                for name in names {
                    self.by_name.entry(name).or_default().push(Arc::clone(object));
                }
            }
            None => {
                self.others.insert(Arc::clone(&object.name), Arc::clone(object));
            }
        }
    }

    pub(super) fn remove(&mut self, selector: &ServerSelector, name: &str) {
        match exact_names(selector) {
            Some(names) => {
                for server in names {
                    if let Some(objects) = self.by_name.get_mut(&server) {
                        objects.retain(|object| &*object.name != name);
                        if objects.is_empty() {
                            self.by_name.remove(&server);
                        }
                    }
                }
            }
            None => {
                self.others.remove(name);
            }
        }
    }

    /// The objects that may select a server of this name; those not found by name must still be asked.
    pub(super) fn candidates(&self, server: &ObjectName) -> impl Iterator<Item = &Arc<Published>> {
        self.by_name.get(server).into_iter().flatten().chain(self.others.values())
    }

    /// The objects that do not name their servers.
    pub(super) fn unnamed(&self) -> impl Iterator<Item = &Arc<Published>> {
        self.others.values()
    }
}

/// One map for each namespace, without empty ones.
#[derive(Debug)]
pub(super) struct ByNamespace<T>(HashMap<Namespace, T>);

impl<T> Default for ByNamespace<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Default> ByNamespace<T> {
    pub(super) fn entry(&mut self, namespace: &Namespace) -> &mut T {
        self.0.entry(namespace.clone()).or_default()
    }

    pub(super) fn of(&self, namespace: &Namespace) -> Option<&T> {
        self.0.get(namespace)
    }
}
