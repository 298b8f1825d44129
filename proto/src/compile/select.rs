//! Which servers an object speaks about, how narrowly, and which of several objects comes first.
//!
//! An object of the root namespace may select servers of every namespace; any other selects within its own, whatever
//! it says. Among several objects of one kind that select the same server, this order holds:
//!
//! 1. the more specific selector, which is, compared one after the other:
//!    - how the server was named: by its exact name, by a pattern with a star, or not at all (`*` alone says nothing);
//!    - how many labels were asked for;
//!    - how its namespace was named: exactly (as every object outside the root namespace does), by a pattern, or not
//!      at all;
//! 2. objects of the server's namespace before those of the root namespace;
//! 3. the older object, by the revision that created it;
//! 4. the name.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::name::{Glob, Namespace, ObjectName, ServerName};
use crate::resource::Metadata;
use crate::resource::kinds::{
    AccessPolicy, Labels, Patterns, QuotaPolicy, ServerSelector, Telemetry, ToolPolicy,
};
use crate::wire::{Meta, Object};

/// What selectors look at in a server.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub namespace: &'a Namespace,
    pub name: &'a ObjectName,
    pub labels: &'a Labels,
}

impl<'a> From<&'a Metadata> for Subject<'a> {
    fn from(metadata: &'a Metadata) -> Self {
        Self { namespace: &metadata.namespace, name: &metadata.name, labels: &metadata.labels }
    }
}

impl<'a> From<&'a Meta> for Subject<'a> {
    fn from(meta: &'a Meta) -> Self {
        Self { namespace: &meta.namespace, name: &meta.name, labels: &meta.labels }
    }
}

/// How narrowly a name is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    /// Not given, or as `*`.
    Any,
    Pattern,
    Exact,
}

/// How narrowly a selector speaks of a server that it selects; the greater is the more specific.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Specificity {
    pub name: Precision,
    pub labels: usize,
    pub namespace: Precision,
}

impl Specificity {
    /// Of what selects nothing in particular.
    pub(super) const NONE: Self = Self { name: Precision::Any, labels: 0, namespace: Precision::Any };
}

/// Whether a selector in an object of `namespace` selects a server, in a mesh with this root namespace.
pub fn selects<'a>(
    selector: &ServerSelector,
    namespace: &Namespace,
    root: &Namespace,
    server: impl Into<Subject<'a>>,
) -> bool {
    specificity(selector, namespace, root, server).is_some()
}

/// How specifically a selector in an object of `namespace` selects a server; none if it does not.
pub fn specificity<'a>(
    selector: &ServerSelector,
    namespace: &Namespace,
    root: &Namespace,
    server: impl Into<Subject<'a>>,
) -> Option<Specificity> {
    let ServerSelector { names, labels, namespaces: _ } = selector;
    let server = server.into();
    let found = Specificity {
        namespace: precision_of_namespace(selector, namespace, root, server.namespace)?,
        name: precision(names.as_ref(), server.name.as_str())?,
        labels: labels.len(),
    };
    labels.iter().all(|(key, value)| server.labels.get(key) == Some(value)).then_some(found)
}

/// How specifically an access policy speaks of a virtual server; none if it does not. The servers' names and labels
/// have no part in that, its namespaces have.
pub fn specificity_of_virtual_server(
    policy: &AccessPolicy,
    namespace: &Namespace,
    root: &Namespace,
    virtual_server: &ServerName,
) -> Option<Specificity> {
    let patterns = policy.virtual_servers.as_ref()?;
    Some(Specificity {
        namespace: precision_of_namespace(&policy.servers, namespace, root, &virtual_server.namespace)?,
        name: precision(Some(patterns), virtual_server.name.as_str())?,
        labels: 0,
    })
}

/// The best that any pattern does for a text; none if no pattern matches.
fn precision(patterns: Option<&Patterns>, text: &str) -> Option<Precision> {
    let Some(patterns) = patterns else { return Some(Precision::Any) };
    let matching = patterns.iter().filter(|pattern| pattern.matches(text));
    let precision = |pattern: &Glob| match pattern.exact() {
        Some(_) => Precision::Exact,
        None if pattern.is_any() => Precision::Any,
        None => Precision::Pattern,
    };
    matching.map(precision).max()
}

fn precision_of_namespace(
    selector: &ServerSelector,
    own: &Namespace,
    root: &Namespace,
    server: &Namespace,
) -> Option<Precision> {
    let given = precision(selector.namespaces.as_ref(), server.as_str())?;
    match own == root {
        true => Some(given),
        // The namespace is the tenant: nothing that an object says takes it out of there.
        false => (own == server).then_some(Precision::Exact),
    }
}

/// What orders the objects of one kind that speak about the same thing: the least comes first.
pub(super) fn conflict_order(
    a: (Specificity, &Meta),
    b: (Specificity, &Meta),
    root: &Namespace,
) -> std::cmp::Ordering {
    let rank = |(specificity, meta): (Specificity, &Meta)| {
        (Reverse(specificity), meta.namespace == *root, meta.created_revision)
    };
    let name = |(_, meta): (Specificity, &Meta)| meta.full_name();
    rank(a).cmp(&rank(b)).then_with(|| name(a).cmp(&name(b)))
}

/// A kind whose objects select servers.
pub(super) trait Selecting {
    fn selector(&self) -> &ServerSelector;
}

impl Selecting for AccessPolicy {
    fn selector(&self) -> &ServerSelector {
        &self.servers
    }
}

impl Selecting for QuotaPolicy {
    fn selector(&self) -> &ServerSelector {
        &self.servers
    }
}

impl Selecting for ToolPolicy {
    fn selector(&self) -> &ServerSelector {
        &self.servers
    }
}

impl Selecting for Telemetry {
    fn selector(&self) -> &ServerSelector {
        &self.servers
    }
}

/// The objects of one kind, found by namespace and by the exact names that they select, so that a server is held
/// against those objects only that could select it.
pub(super) struct Index<'a, S> {
    root: &'a Namespace,
    scopes: BTreeMap<&'a Namespace, Scope<'a, S>>,
}

struct Scope<'a, S> {
    /// Those that give every name exactly, by each name.
    named: BTreeMap<&'a str, Vec<&'a Arc<Object<S>>>>,
    /// Those that must be asked about every server.
    others: Vec<&'a Arc<Object<S>>>,
}

impl<'a, S: Selecting> Index<'a, S> {
    pub(super) fn new(objects: &[&'a Arc<Object<S>>], root: &'a Namespace) -> Self {
        let mut scopes = BTreeMap::new();
        for &object in objects {
            let empty = || Scope { named: BTreeMap::new(), others: Vec::new() };
            let scope = scopes.entry(&object.meta.namespace).or_insert_with(empty);
            match exact_names(object.spec.selector()) {
                Some(names) => {
                    names.into_iter().for_each(|name| scope.named.entry(name).or_default().push(object));
                }
                None => scope.others.push(object),
            }
        }
        Self { root, scopes }
    }

    /// The objects that select a server, in the order of conflicts.
    pub(super) fn selecting(&self, server: Subject<'_>) -> Vec<Arc<Object<S>>> {
        // A set, because the server may be of the root namespace itself.
        let namespaces = BTreeSet::from([server.namespace, self.root]);
        let scopes = namespaces.into_iter().filter_map(|namespace| self.scopes.get(namespace));
        let candidates = scopes.flat_map(|scope| {
            scope.named.get(server.name.as_str()).into_iter().flatten().chain(&scope.others)
        });
        let mut found: Vec<_> = candidates
            .filter_map(|object| {
                let Object { meta, spec } = &***object;
                Some((specificity(spec.selector(), &meta.namespace, self.root, server)?, *object))
            })
            .collect();
        found.sort_by(|(a, x), (b, y)| conflict_order((*a, &x.meta), (*b, &y.meta), self.root));
        found.into_iter().map(|(_, object)| Arc::clone(object)).collect()
    }
}

/// The names that a selector is confined to, if it gives them all exactly; each once.
fn exact_names(selector: &ServerSelector) -> Option<BTreeSet<&str>> {
    selector.names.as_ref()?.iter().map(Glob::exact).collect()
}

#[cfg(test)]
mod tests;
