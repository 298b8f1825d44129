//! What must hold of objects: each alone, as sidecars will read it, and all together after a change. Certain nonsense
//! is a mistake and refuses the change; probable mistakes are warnings.

use std::collections::{BTreeMap, BTreeSet};

use weft_proto::compile::selects;
use weft_proto::name::{Namespace, ObjectName, ServerName, TrustDomain};
use weft_proto::resource::kinds::{Authentication, McpServer, Route, ServerSelector, Trust, VirtualServer};
use weft_proto::resource::{Key, Kind, Place, ROOT_NAMESPACE, Resource, Spec};
use weft_proto::wire;

use super::{Act, Action, Mesh, Mistake, Present, Wish, Wishes};

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

/// A server that is called something: by its name, or by an alias at this place in its list.
type Claim<'a> = (&'a Key, Option<usize>);

/// The objects as they will be.
pub(super) struct After<'a> {
    objects: BTreeMap<&'a Key, &'a Resource>,
    /// Every name that a server answers to, aliases too.
    names: BTreeSet<(&'a Namespace, &'a ObjectName)>,
}

impl<'a> After<'a> {
    pub(super) fn new(present: &'a Present, wishes: &'a Wishes) -> Self {
        let readable =
            |(key, object): (&'a Key, &'a super::Object)| Some((key, object.resource.as_deref().ok()?));
        let mut objects: BTreeMap<_, _> = present.objects().iter().filter_map(readable).collect();
        for (key, wish) in wishes {
            match &wish.act {
                Act::Put(resource) => _ = objects.insert(key, resource),
                Act::Delete { .. } => _ = objects.remove(key),
            }
        }
        let mut after = Self { objects, names: BTreeSet::new() };
        let named = |(key, _, server): (&'a Key, _, &'a McpServer)| {
            std::iter::once(&key.name).chain(&server.aliases).map(|name| (&key.namespace, name))
        };
        after.names = after.servers().flat_map(named).collect();
        after
    }

    fn servers(&self) -> impl Iterator<Item = (&'a Key, &'a Resource, &'a McpServer)> {
        self.objects.iter().filter_map(|(key, resource)| match &resource.spec {
            Spec::McpServer(server) => Some((*key, *resource, server)),
            _ => None,
        })
    }

    fn trust(&self) -> Option<&'a Trust> {
        self.objects.values().find_map(|resource| match &resource.spec {
            Spec::Trust(trust) => Some(trust),
            _ => None,
        })
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
        let changed: BTreeMap<&Key, &Wish> = wishes
            .iter()
            .filter(|(key, wish)| key.kind == Kind::McpServer && matches!(wish.act, Act::Put(_)))
            .map(|(key, wish)| (key, wish))
            .collect();
        if changed.is_empty() {
            return Vec::new();
        }
        let namespaces: BTreeSet<&Namespace> = changed.keys().map(|key| &key.namespace).collect();
        let mut owners: BTreeMap<(&Namespace, &ObjectName), Vec<Claim<'_>>> = BTreeMap::new();
        for (key, _, server) in self.servers().filter(|(key, ..)| namespaces.contains(&key.namespace)) {
            owners.entry((&key.namespace, &key.name)).or_default().push((key, None));
            for (place, alias) in server.aliases.iter().enumerate().filter(|(_, alias)| **alias != key.name) {
                let claims = owners.entry((&key.namespace, alias)).or_default();
                if claims.last().is_none_or(|(last, _)| *last != key) {
                    claims.push((key, Some(place)));
                }
            }
        }
        let contested = owners.into_iter().filter(|(_, claims)| claims.len() > 1);
        contested
            .filter_map(|((_, name), claims)| {
                // Whoever changes is to blame, and of those whoever calls itself so besides its name.
                let blamed = claims.iter().filter(|(key, _)| changed.contains_key(key));
                let (key, alias) = blamed.max_by_key(|(_, alias)| alias.is_some())?;
                let (other, _) = claims.iter().find(|(other, _)| other != key)?;
                let field = match alias {
                    Some(place) => format!("spec.aliases[{place}]"),
                    None => "metadata.name".to_owned(),
                };
                Some(Mistake {
                    place: Place { field, ..changed.get(key)?.place.clone() },
                    message: format!("{other} is called {name:?} already"),
                })
            })
            .collect()
    }

    /// Probable mistakes that no single wish is to blame for: what others lose by a changed `Trust`.
    pub(super) fn warnings(&self, wishes: &Wishes) -> Vec<String> {
        if !wishes.iter().any(|(key, _)| key.kind == Kind::Trust) {
            return Vec::new();
        }
        let untouched = |key: &Key| !wishes.iter().any(|(wished, _)| wished == key);
        let authentications = self.objects.iter().filter(|(key, _)| untouched(key));
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
        self.names.contains(&(&name.namespace, &name.name))
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
        if self.servers().any(|(_, server, _)| selects(selector, namespace, &root, &server.metadata)) {
            return None;
        }
        let virtual_too = |resource: &Resource| {
            matches!(&policy.spec, Spec::AccessPolicy(it) if it.virtual_servers.as_ref().is_some_and(|patterns| {
                resource.kind() == Kind::VirtualServer
                    && resource.metadata.namespace == *namespace
                    && patterns.iter().any(|glob| glob.matches(resource.metadata.name.as_str()))
            }))
        };
        match self.objects.values().any(|resource| virtual_too(resource)) {
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
            _ => {
                resource.metadata.namespace == name.namespace
                    && selector(resource).and_then(|it| it.names.as_ref()).is_some_and(|names| {
                        names.iter().any(|glob| glob.exact() == Some(name.name.as_str()))
                    })
            }
        };
        let named: Vec<_> =
            self.objects.iter().filter(|(_, it)| names(it)).map(|(key, _)| key.to_string()).collect();
        let shown = named.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
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
