//! Parts into what a sidecar holds: for each server its policies in order, its instances and its route. One pure
//! function for both planes, so that what `apply` accepts is what a sidecar will make of it.
//!
//! Parts that contradict each other never fail here: an order settles them, what a tenant may not say is left out, and
//! both become warnings. Not here: what a policy decides about a call (that is `policy`), and who is sent what.

mod display;
mod parts;
mod resources;
mod select;
mod warning;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::name::{Namespace, ServerName, TrustDomain};
use crate::offer::Offer;
use crate::policy::access::Policies;
use crate::resource::ROOT_NAMESPACE;
use crate::resource::kinds::{
    AccessPolicy, AuditDetail, Authentication, DefaultAction, McpServer, Member, QuotaPolicy, Route,
    ServerSelector, Telemetry, ToolPolicy, VirtualServer,
};
use crate::wire::{Endpoint, Mesh, Object, ResourceType, TrustBundle};

pub use parts::Parts;
pub use resources::compile_resources;
pub use select::{Precision, Specificity, Subject, selects, specificity, specificity_of_virtual_server};
pub use warning::{Concern, Warning};

use parts::Sorted;
use select::{Index, conflict_order};

/// Everything that a sidecar decides with, as of one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// None until it was received; until then nothing is allowed by default.
    pub mesh: Option<Arc<Mesh>>,
    pub trust: BTreeMap<TrustDomain, Arc<TrustBundle>>,
    pub servers: BTreeMap<ServerName, Arc<ServerEntry>>,
    /// Other names of servers. Never the name of a server.
    pub aliases: BTreeMap<ServerName, ServerName>,
    pub virtual_servers: BTreeMap<ServerName, Arc<VirtualEntry>>,
    /// In the order of conflicts, where more labels are more specific.
    pub authentication: Vec<Arc<Object<Authentication>>>,
    /// Telemetry that selects no particular servers, for calls that a workload makes; in the order of conflicts. See
    /// `telemetry_at_large`.
    pub telemetry: Vec<Arc<Object<Telemetry>>>,
    /// What somebody probably did not mean, by type and name of the object.
    pub warnings: Vec<Warning>,
}

/// A server with everything that speaks about it. Policies are in the order of conflicts, see `select`.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerEntry {
    pub server: Arc<Object<McpServer>>,
    /// Empty when none is known, or none was told of yet.
    pub endpoints: Arc<[Endpoint]>,
    pub access: Policies,
    pub quotas: Vec<Arc<Object<QuotaPolicy>>>,
    pub tools: Vec<Arc<Object<ToolPolicy>>>,
    pub telemetry: Vec<Arc<Object<Telemetry>>>,
    pub route: Option<Arc<Object<Route>>>,
    /// What of it whoever holds this may use; none as long as nobody told.
    pub offer: Option<Arc<Offer>>,
}

impl ServerEntry {
    /// How much the audit trail keeps of a call that is marked. What is nearest says so; but where the mesh marks, by a
    /// policy of the root namespace or its default, whatever is nearer cannot keep that out of the trail.
    pub fn audit_detail(&self, root: &Namespace, marked_by_mesh: bool) -> AuditDetail {
        let heard = self.telemetry.iter().filter(|it| {
            let silences = it.spec.audit == Some(AuditDetail::None) && it.meta.namespace != *root;
            !(marked_by_mesh && silences)
        });
        heard.filter_map(|it| it.spec.audit).next().unwrap_or(AuditDetail::Digests)
    }
}

/// A virtual server with its members as they are.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualEntry {
    pub virtual_server: Arc<Object<VirtualServer>>,
    /// Whoever keeps a contested name comes first: the higher priority, then the earlier in the list. Only servers
    /// that are known.
    pub members: Vec<ResolvedMember>,
    pub access: Policies,
}

/// A member of a virtual server.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedMember {
    /// The server's own name, even where the member was given by an alias.
    pub server: ServerName,
    pub member: Member,
}

impl Snapshot {
    /// A server by its name or an alias.
    pub fn server(&self, name: &ServerName) -> Option<&Arc<ServerEntry>> {
        self.servers.get(self.aliases.get(name).unwrap_or(name))
    }

    /// The namespace whose objects reach the whole mesh.
    pub fn root_namespace(&self) -> Namespace {
        root_namespace(self.mesh.as_ref())
    }

    /// What holds for servers that no allow rule selects.
    pub fn default_action(&self) -> DefaultAction {
        self.mesh.as_ref().map_or(DefaultAction::Deny, |mesh| mesh.default_action)
    }

    /// What a workload of `namespace` records of the calls that it makes.
    pub fn telemetry_at_large(&self, namespace: &Namespace) -> impl Iterator<Item = &Arc<Object<Telemetry>>> {
        let root = self.root_namespace();
        self.telemetry.iter().filter(move |it| it.meta.namespace == *namespace || it.meta.namespace == root)
    }
}

fn root_namespace(mesh: Option<&Arc<Mesh>>) -> Namespace {
    let built_in = || Namespace::parse(ROOT_NAMESPACE).expect("the root namespace is a namespace");
    mesh.map_or_else(built_in, |mesh| mesh.root_namespace.clone())
}

/// Compiles what was received.
pub fn compile(parts: &Parts) -> Snapshot {
    let sorted = Sorted::new(parts);
    let root = root_namespace(sorted.mesh);
    let mut warnings = Vec::new();
    let aliases = aliases(&sorted, &mut warnings);
    let mut routes = routes(&sorted, &aliases, &root, &mut warnings);
    let servers = servers(&sorted, &root, &mut routes);
    let access_by_namespace = by_namespace(&sorted.access);
    let virtual_servers = sorted.virtual_servers.iter().map(|it| {
        let entry = virtual_entry(it, &servers, &aliases, &access_by_namespace, &root, &mut warnings);
        (it.meta.full_name(), Arc::new(entry))
    });
    let virtual_servers = virtual_servers.collect();
    let trust: BTreeMap<_, _> =
        sorted.trust.iter().map(|it| (it.trust_domain.clone(), Arc::clone(it))).collect();
    warn_of_idle_policies(&sorted, &servers, &virtual_servers, &mut warnings);
    warn_of_unknown_domains(&sorted, &trust, &mut warnings);
    warnings.sort();
    warnings.dedup();
    Snapshot {
        mesh: sorted.mesh.cloned(),
        trust,
        servers,
        aliases,
        virtual_servers,
        authentication: authentication(&sorted, &root),
        telemetry: telemetry_at_large(&sorted, &root),
        warnings,
    }
}

type Servers = BTreeMap<ServerName, Arc<ServerEntry>>;
type Aliases = BTreeMap<ServerName, ServerName>;

/// Where two servers claim an alias, the older keeps it; a server's own name is never another's alias.
fn aliases(sorted: &Sorted<'_>, warnings: &mut Vec<Warning>) -> Aliases {
    let names: BTreeSet<ServerName> = sorted.servers.iter().map(|server| server.meta.full_name()).collect();
    let mut by_age = sorted.servers.clone();
    by_age.sort_by_cached_key(|server| (server.meta.created_revision, server.meta.full_name()));
    let mut aliases = Aliases::new();
    for server in by_age {
        let name = server.meta.full_name();
        for alias in &server.spec.aliases {
            let alias = ServerName { namespace: name.namespace.clone(), name: alias.clone() };
            let taken = names.get(&alias).or_else(|| aliases.get(&alias)).filter(|by| **by != name);
            if let Some(by) = taken.cloned() {
                warnings.push(Warning::of(ResourceType::Server, &name, Concern::AliasTaken { alias, by }));
            } else if alias != name {
                aliases.insert(alias, name.clone());
            }
        }
    }
    aliases
}

/// The one route of each server. Between several, the order of conflicts decides.
fn routes(
    sorted: &Sorted<'_>,
    aliases: &Aliases,
    root: &Namespace,
    warnings: &mut Vec<Warning>,
) -> BTreeMap<ServerName, Arc<Object<Route>>> {
    let known: BTreeSet<ServerName> = sorted.servers.iter().map(|server| server.meta.full_name()).collect();
    let mut in_order = sorted.routes.clone();
    // Every route names its server, so none is more specific than another.
    in_order.sort_by(|a, b| conflict_order((Specificity::NONE, &a.meta), (Specificity::NONE, &b.meta), root));
    let mut routes: BTreeMap<ServerName, Arc<Object<Route>>> = BTreeMap::new();
    for route in in_order {
        let name = route.meta.full_name();
        let mut warn = |concern| warnings.push(Warning::of(ResourceType::Route, &name, concern));
        let foreign =
            |server: &&ServerName| route.meta.namespace != *root && server.namespace != route.meta.namespace;
        if let Some(server) = servers_of(&route.spec).find(foreign) {
            warn(Concern::OutOfScope(server.clone()));
            continue;
        }
        let resolve = |server| aliases.get(server).unwrap_or(server);
        let unknown: BTreeSet<_> =
            servers_of(&route.spec).filter(|it| !known.contains(resolve(*it))).collect();
        unknown.into_iter().for_each(|server| warn(Concern::UnknownServer(server.clone())));
        let server = resolve(&route.spec.server);
        match routes.get(server) {
            Some(first) => warn(Concern::OverriddenBy(first.meta.full_name())),
            None => {
                routes.insert(server.clone(), Arc::clone(route));
            }
        }
    }
    routes
}

/// Every server that a route names.
fn servers_of(route: &Route) -> impl Iterator<Item = &ServerName> {
    let of_rules = route.rules.iter().flat_map(|rule| {
        let to = rule.to.iter().map(|to| &to.server);
        let mirror = rule.mirror.iter().map(|mirror| &mirror.server);
        to.chain(mirror).chain(rule.fallback.iter().flatten())
    });
    std::iter::once(&route.server).chain(of_rules)
}

fn servers(
    sorted: &Sorted<'_>,
    root: &Namespace,
    routes: &mut BTreeMap<ServerName, Arc<Object<Route>>>,
) -> Servers {
    let access = Index::new(&sorted.access, root);
    let quotas = Index::new(&sorted.quotas, root);
    let tools = Index::new(&sorted.tools, root);
    let telemetry = Index::new(&sorted.telemetry, root);
    let endpoints: BTreeMap<_, _> = sorted.endpoints.iter().map(|it| (&it.server, &it.endpoints)).collect();
    let offers: BTreeMap<_, _> = sorted.offers.iter().map(|it| (&it.server, *it)).collect();
    let nowhere: Arc<[Endpoint]> = Arc::new([]);
    let entries = sorted.servers.iter().map(|&server| {
        let name = server.meta.full_name();
        let subject = Subject::from(&server.meta);
        let entry = ServerEntry {
            server: Arc::clone(server),
            endpoints: Arc::clone(endpoints.get(&name).unwrap_or(&&nowhere)),
            access: access.selecting(subject).into(),
            quotas: quotas.selecting(subject),
            tools: tools.selecting(subject),
            telemetry: telemetry.selecting(subject),
            route: routes.remove(&name),
            offer: offers.get(&name).map(|it| Arc::clone(it)),
        };
        (name, Arc::new(entry))
    });
    entries.collect()
}

type ByNamespace<'a> = BTreeMap<&'a Namespace, Vec<&'a Arc<Object<AccessPolicy>>>>;

/// The access policies that speak of virtual servers at all.
fn by_namespace<'a>(policies: &[&'a Arc<Object<AccessPolicy>>]) -> ByNamespace<'a> {
    let mut found = ByNamespace::new();
    for &policy in policies.iter().filter(|policy| policy.spec.virtual_servers.is_some()) {
        found.entry(&policy.meta.namespace).or_default().push(policy);
    }
    found
}

fn virtual_entry(
    it: &Arc<Object<VirtualServer>>,
    servers: &Servers,
    aliases: &Aliases,
    access: &ByNamespace<'_>,
    root: &Namespace,
    warnings: &mut Vec<Warning>,
) -> VirtualEntry {
    let name = it.meta.full_name();
    let mut members = Vec::new();
    for member in &it.spec.members {
        let server = aliases.get(&member.server).unwrap_or(&member.server);
        let concern = if name.namespace != *root && server.namespace != name.namespace {
            Concern::OutOfScope(server.clone())
        } else if !servers.contains_key(server) {
            Concern::UnknownServer(server.clone())
        } else {
            members.push(ResolvedMember { server: server.clone(), member: member.clone() });
            continue;
        };
        warnings.push(Warning::of(ResourceType::VirtualServer, &name, concern));
    }
    members.sort_by_key(|it| std::cmp::Reverse(it.member.priority));
    let namespaces = BTreeSet::from([&name.namespace, root]);
    let candidates = namespaces.into_iter().filter_map(|namespace| access.get(namespace)).flatten();
    let selecting = candidates.filter_map(|policy| {
        let Object { meta, spec } = &***policy;
        let specificity = specificity_of_virtual_server(spec, &meta.namespace, root, &name)?;
        Some((specificity, *policy))
    });
    let mut selecting: Vec<_> = selecting.collect();
    selecting.sort_by(|(a, x), (b, y)| conflict_order((*a, &x.meta), (*b, &y.meta), root));
    let access = selecting.into_iter().map(|(_, policy)| Arc::clone(policy)).collect();
    VirtualEntry { virtual_server: Arc::clone(it), members, access }
}

fn authentication(sorted: &Sorted<'_>, root: &Namespace) -> Vec<Arc<Object<Authentication>>> {
    let specificity =
        |it: &Object<Authentication>| Specificity { labels: it.spec.gateways.len(), ..Specificity::NONE };
    let mut found = sorted.authentication.clone();
    found.sort_by(|a, b| conflict_order((specificity(a), &a.meta), (specificity(b), &b.meta), root));
    found.into_iter().cloned().collect()
}

fn telemetry_at_large(sorted: &Sorted<'_>, root: &Namespace) -> Vec<Arc<Object<Telemetry>>> {
    let mut found = sorted.telemetry.clone();
    found.retain(|it| it.spec.servers == ServerSelector::default());
    found.sort_by(|a, b| conflict_order((Specificity::NONE, &a.meta), (Specificity::NONE, &b.meta), root));
    found.into_iter().cloned().collect()
}

fn warn_of_idle_policies(
    sorted: &Sorted<'_>,
    servers: &Servers,
    virtual_servers: &BTreeMap<ServerName, Arc<VirtualEntry>>,
    warnings: &mut Vec<Warning>,
) {
    let entries = || servers.values();
    let of_virtual_servers = virtual_servers.values().flat_map(|it| &it.access);
    let access = entries().flat_map(|it| &it.access).chain(of_virtual_servers);
    warnings.extend(idle(ResourceType::AccessPolicy, &sorted.access, access));
    warnings.extend(idle(ResourceType::QuotaPolicy, &sorted.quotas, entries().flat_map(|it| &it.quotas)));
    warnings.extend(idle(ResourceType::ToolPolicy, &sorted.tools, entries().flat_map(|it| &it.tools)));
    // Telemetry without a selector speaks of the calls that are made, too.
    let mut telemetry = sorted.telemetry.clone();
    telemetry.retain(|it| it.spec.servers != ServerSelector::default());
    warnings.extend(idle(ResourceType::Telemetry, &telemetry, entries().flat_map(|it| &it.telemetry)));
}

/// A warning for each object that is not among those that anything points at.
fn idle<'a, S: 'a>(
    ty: ResourceType,
    objects: &[&Arc<Object<S>>],
    busy: impl Iterator<Item = &'a Arc<Object<S>>>,
) -> Vec<Warning> {
    let busy: BTreeSet<_> = busy.map(Arc::as_ptr).collect();
    let idle = objects.iter().filter(|it| !busy.contains(&Arc::as_ptr(it)));
    idle.map(|it| Warning::of(ty, &it.meta.full_name(), Concern::SelectsNothing)).collect()
}

fn warn_of_unknown_domains(
    sorted: &Sorted<'_>,
    trust: &BTreeMap<TrustDomain, Arc<TrustBundle>>,
    warnings: &mut Vec<Warning>,
) {
    for it in &sorted.authentication {
        let unknown = it.spec.federated_domains.iter().filter(|domain| !trust.contains_key(*domain));
        let concerns = unknown.map(|domain| Concern::UnknownTrustDomain(domain.clone()));
        let name = it.meta.full_name();
        warnings.extend(concerns.map(|concern| Warning::of(ResourceType::Authentication, &name, concern)));
    }
}

#[cfg(test)]
mod tests;
