//! What must hold of objects: each alone, as sidecars will read it, and all together after a change. Certain nonsense
//! is a mistake and refuses the change; probable mistakes are warnings.

use std::collections::{BTreeMap, BTreeSet};

use weft_proto::compile::{Subject, selects};
use weft_proto::name::{Namespace, ObjectName, ServerName, TrustDomain};
use weft_proto::resource::kinds::{Authentication, Route, ServerSelector, Trust, VirtualServer};
use weft_proto::resource::{Key, Kind, Place, ROOT_NAMESPACE, Resource, Spec};
use weft_proto::wire;

use super::present::names;
use super::{Act, Action, Mesh, Mistake, Present, Wish, Wishes};
use crate::plan::exact_names;

/// Most names that one warning lists.
const NAMED_MAX: usize = 5;

/// What the objects say each for itself: every one must survive the way to a sidecar.
pub(super) fn alone(present: &Present, wishes: &Wishes) -> Vec<Mistake> {
    let check = |(key, wish): &(Key, Wish)| {
        let Act::Put(resource) = &wish.act else { return None };
        let created = present.object(key).map_or_else(|| present.revision().next(), |object| object.created);
        let encoded = wire::encode(resource, created.0)?;
        let error = wire::decode(encoded.ty, &encoded.bytes).err()?;
        Some(Mistake { place: wish.place.clone(), message: format!("a sidecar would refuse it: {error}") })
    };
    wishes.iter().filter_map(check).collect()
}

/// The objects as they will be: those that are there, and over them what is asked for. Nothing here looks at more of the
/// present ones than it must.
pub(super) struct After<'a> {
    present: &'a Present,
    /// What is put, and none for what goes.
    changed: BTreeMap<&'a Key, Option<&'a Resource>>,
    /// Every name that a server that is put answers to, and the servers.
    called: BTreeMap<(&'a Namespace, &'a ObjectName), BTreeSet<&'a ObjectName>>,
}

impl<'a> After<'a> {
    pub(super) fn new(present: &'a Present, wishes: &'a Wishes) -> Self {
        let wish = |(key, wish): &'a (Key, Wish)| match &wish.act {
            Act::Put(resource) => (key, Some(&**resource)),
            Act::Delete { .. } => (key, None),
        };
        let changed: BTreeMap<_, _> = wishes.iter().map(wish).collect();
        let mut called: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (key, resource) in &changed {
            for name in names(key, *resource) {
                called.entry((&key.namespace, name)).or_default().insert(&key.name);
            }
        }
        Self { present, changed, called }
    }

    /// The objects of one kind, or those of one namespace.
    fn of(&self, kind: Kind, namespace: Option<&Namespace>) -> impl Iterator<Item = (&'a Key, &'a Resource)> {
        let untouched = self.present.of(kind, namespace).filter(|(key, _)| !self.changed.contains_key(key));
        let untouched = untouched.filter_map(|(key, object)| Some((key, object.readable()?)));
        let wanted = move |key: &Key| {
            key.kind == kind && namespace.is_none_or(|namespace| key.namespace == *namespace)
        };
        let put = self.changed.iter().filter(move |(key, _)| wanted(key));
        untouched.chain(put.filter_map(|(key, resource)| Some((*key, (*resource)?))))
    }

    fn find(&self, key: &Key) -> Option<&'a Resource> {
        match self.changed.get(key) {
            Some(changed) => *changed,
            None => self.present.object(key)?.readable(),
        }
    }

    fn trust(&self) -> Option<&'a Trust> {
        self.of(Kind::Trust, None).find_map(|(_, resource)| match &resource.spec {
            Spec::Trust(trust) => Some(trust),
            _ => None,
        })
    }

    /// The servers that nobody touches and that answer to a name.
    fn untouched(&self, name: &ServerName) -> impl Iterator<Item = Key> {
        let key = |server: &ObjectName| Key {
            kind: Kind::McpServer,
            namespace: name.namespace.clone(),
            name: server.clone(),
        };
        self.present.called(name).map(key).filter(|key| !self.changed.contains_key(key))
    }

    /// Certain nonsense.
    pub(super) fn mistakes(&self, mesh: &Mesh, wishes: &Wishes) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        for (_, wish) in wishes {
            if let Act::Put(resource) = &wish.act
                && let Spec::Trust(trust) = &resource.spec
                && trust.trust_domain != mesh.trust_domain
            {
                mistakes.push(Mistake {
                    place: Place { field: "spec.trustDomain".to_owned(), ..wish.place.clone() },
                    message: format!(
                        "this mesh's trust domain is {}; it was chosen when the mesh was made and cannot become {}",
                        mesh.trust_domain, trust.trust_domain
                    ),
                });
            }
        }
        mistakes.extend(self.contested_names(wishes));
        mistakes
    }

    /// Within a namespace, no two servers may be asked for by one name.
    fn contested_names(&self, wishes: &Wishes) -> Vec<Mistake> {
        let contested =
            |(&(namespace, name), servers): (&(&Namespace, &ObjectName), &BTreeSet<&ObjectName>)| {
                let called = ServerName { namespace: namespace.clone(), name: name.clone() };
                let changed = servers.iter().map(|name| Key {
                    kind: Kind::McpServer,
                    namespace: namespace.clone(),
                    name: (*name).clone(),
                });
                let changed: Vec<Key> = changed.collect();
                // Whoever changes is to blame, and of those whoever calls itself so besides its name.
                let alias = |key: &Key| match &self.find(key)?.spec {
                    Spec::McpServer(server) if key.name != *name => {
                        server.aliases.iter().position(|alias| alias == name)
                    }
                    _ => None,
                };
                let blamed = changed.iter().max_by_key(|key| key.name != *name)?;
                let mut others =
                    self.untouched(&called).chain(changed.iter().filter(|key| *key != blamed).cloned());
                let other = others.next()?;
                let (_, wish) = wishes.iter().find(|(key, _)| key == blamed)?;
                let field = match alias(blamed) {
                    Some(place) => format!("spec.aliases[{place}]"),
                    None => "metadata.name".to_owned(),
                };
                let message = format!("{other} is called {name:?} already");
                Some(Mistake { place: Place { field, ..wish.place.clone() }, message })
            };
        self.called.iter().filter_map(contested).collect()
    }

    /// Probable mistakes that no single wish is to blame for: what others lose by a changed `Trust`.
    pub(super) fn warnings(&self, wishes: &Wishes) -> Vec<String> {
        if !wishes.iter().any(|(key, _)| key.kind == Kind::Trust) {
            return Vec::new();
        }
        let authentications = self.of(Kind::Authentication, None);
        let authentications = authentications.filter(|(key, _)| !self.changed.contains_key(key));
        authentications
            .filter_map(|(key, resource)| match &resource.spec {
                Spec::Authentication(spec) => self.unfederated(spec).map(|text| format!("{key}: {text}")),
                _ => None,
            })
            .collect()
    }

    /// Probable mistakes of one wish.
    pub(super) fn warnings_of(&self, key: &Key, act: &Act, action: Action) -> Vec<String> {
        match (act, action) {
            (Act::Put(resource), _) => match &resource.spec {
                Spec::VirtualServer(it) => self.unknown_servers(named_by_virtual(it)),
                Spec::Route(route) => self.unknown_servers(named_by_route(route)),
                Spec::Authentication(spec) => self.unfederated(spec).into_iter().collect(),
                _ => self.selects_nothing(resource).into_iter().collect(),
            },
            (Act::Delete { .. }, Action::Unchanged) => vec!["it was not there".to_owned()],
            (Act::Delete { .. }, _) if key.kind == Kind::McpServer => {
                self.still_named(key).into_iter().collect()
            }
            (Act::Delete { .. }, _) => Vec::new(),
        }
    }

    fn unknown_servers<'b>(&self, named: impl Iterator<Item = &'b ServerName>) -> Vec<String> {
        let unknown: BTreeSet<&ServerName> = named.filter(|name| !self.answers_to(name)).collect();
        unknown.into_iter().map(|name| format!("there is no server {name}")).collect()
    }

    fn answers_to(&self, name: &ServerName) -> bool {
        self.called.contains_key(&(&name.namespace, &name.name)) || self.untouched(name).next().is_some()
    }

    fn unfederated(&self, spec: &Authentication) -> Option<String> {
        let federated: BTreeSet<&TrustDomain> = self
            .trust()
            .into_iter()
            .flat_map(|trust| trust.federated.iter().map(|it| &it.trust_domain))
            .collect();
        let mut missing = spec.federated_domains.iter().filter(|domain| !federated.contains(domain));
        let first = missing.next()?;
        Some(format!("trust domain {first} is not federated in Trust, so that nobody of it is let in"))
    }

    fn selects_nothing(&self, policy: &Resource) -> Option<String> {
        let selector = selector(policy)?;
        let namespace = &policy.metadata.namespace;
        let root = Namespace::parse(ROOT_NAMESPACE).expect("the root namespace is a namespace");
        let is_selected =
            |server: &Resource| selects(selector, namespace, &root, Subject::from(&server.metadata));
        // Beyond the root namespace, an object speaks of servers of its own.
        let own = (*namespace != root).then_some(namespace);
        let any = match (own, exact_names(selector)) {
            (Some(namespace), Some(names)) => names.into_iter().any(|name| {
                let key = Key { kind: Kind::McpServer, namespace: namespace.clone(), name };
                self.find(&key).is_some_and(is_selected)
            }),
            _ => self.of(Kind::McpServer, own).any(|(_, server)| is_selected(server)),
        };
        if any {
            return None;
        }
        let patterns = match &policy.spec {
            Spec::AccessPolicy(policy) => policy.virtual_servers.as_ref(),
            _ => None,
        };
        let speaks_of = |name: &ObjectName| {
            patterns.is_some_and(|patterns| patterns.iter().any(|glob| glob.matches(name.as_str())))
        };
        let mut virtual_servers = self.of(Kind::VirtualServer, Some(namespace));
        match patterns.is_some() && virtual_servers.any(|(key, _)| speaks_of(&key.name)) {
            true => None,
            false => Some("it selects no server that exists".to_owned()),
        }
    }

    /// Who still names a server that goes.
    fn still_named(&self, server: &Key) -> Option<String> {
        let name = ServerName { namespace: server.namespace.clone(), name: server.name.clone() };
        if self.answers_to(&name) {
            return None;
        }
        let names = |resource: &Resource| match &resource.spec {
            Spec::VirtualServer(it) => named_by_virtual(it).any(|named| *named == name),
            Spec::Route(route) => named_by_route(route).any(|named| *named == name),
            _ => selector(resource)
                .and_then(|it| it.names.as_ref())
                .is_some_and(|names| names.iter().any(|glob| glob.exact() == Some(name.name.as_str()))),
        };
        let own = Some(&name.namespace);
        let kinds = Kind::ALL.iter().map(|kind| match kind {
            Kind::VirtualServer | Kind::Route => (*kind, None),
            _ => (*kind, own),
        });
        let naming = kinds.flat_map(|(kind, namespace)| self.of(kind, namespace)).filter(|(_, it)| names(it));
        let named: BTreeSet<&Key> = naming.map(|(key, _)| key).collect();
        let shown: Vec<_> = named.iter().take(NAMED_MAX).map(ToString::to_string).collect();
        let shown = shown.join(", ");
        match named.len() {
            0 => None,
            count if count > NAMED_MAX => {
                Some(format!("it is still named by {shown} and {} more", count - NAMED_MAX))
            }
            _ => Some(format!("it is still named by {shown}")),
        }
    }
}

fn named_by_virtual(it: &VirtualServer) -> impl Iterator<Item = &ServerName> {
    it.members.iter().map(|member| &member.server)
}

fn named_by_route(route: &Route) -> impl Iterator<Item = &ServerName> {
    let by_rules = route.rules.iter().flat_map(|rule| {
        let targets = rule.to.iter().map(|to| &to.server);
        let mirror = rule.mirror.iter().map(|mirror| &mirror.server);
        targets.chain(mirror).chain(rule.fallback.iter().flat_map(|list| list.iter()))
    });
    std::iter::once(&route.server).chain(by_rules)
}

fn selector(resource: &Resource) -> Option<&ServerSelector> {
    match &resource.spec {
        Spec::AccessPolicy(policy) => Some(&policy.servers),
        Spec::QuotaPolicy(policy) => Some(&policy.servers),
        Spec::ToolPolicy(policy) => Some(&policy.servers),
        Spec::Telemetry(telemetry) => Some(&telemetry.servers),
        _ => None,
    }
}
