//! Everything that is published, with the indexes that answer who may see what.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use aws_lc_rs::digest;
use weft_proto::compile;
use weft_proto::name::{IdentityPattern, Namespace, ObjectName, ServerName, TrustDomain};
use weft_proto::offer::Offer;
use weft_proto::resource::bounded::List;
use weft_proto::resource::kinds::{DefaultAction, Location, ServerSelector, Trust};
use weft_proto::resource::{Key, Kind, ROOT_NAMESPACE, Resource, Spec};
use weft_proto::wire::{self, Encoded, MESH_NAME, ResourceType};

use super::index::{ByNamespace, Selecting, exact_names};
use super::observed::{Observation, Observed};
use super::offers::Offers;
use super::table::Table;
use super::{Audience, Touched};

/// A resource as it is sent, shared by every client that gets it.
#[derive(Debug)]
pub struct Published {
    pub ty: ResourceType,
    pub name: Arc<str>,
    pub aliases: Vec<Arc<str>>,
    /// Digest of the content: equal on every replica and after every restart.
    pub version: Arc<str>,
    pub bytes: Vec<u8>,
    /// The object it was made from; none for what the control plane itself publishes.
    pub object: Option<Arc<Resource>>,
}

/// Something that changes what is published.
#[derive(Clone, Debug)]
pub enum Change {
    Put {
        resource: Box<Resource>,
        created_revision: u64,
    },
    Delete {
        key: Key,
    },
    Observed(Observation),
    /// What a server offers, by the word of the sidecars beside it; none where nobody knows.
    Offered {
        server: ServerName,
        offer: Option<Arc<Offer>>,
    },
    /// The mesh's own roots and those it federates with, whole.
    Trust(Vec<TrustRoots>),
}

/// The roots of one trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustRoots {
    pub trust_domain: TrustDomain,
    pub roots: Vec<Vec<u8>>,
    pub sequence: u64,
    pub revoked_serials: Vec<String>,
    pub renew_unless_root: Vec<String>,
}

/// Changes of one revision.
#[derive(Clone, Debug, Default)]
pub struct Update {
    pub revision: u64,
    pub changes: Vec<Change>,
}

/// What is published now.
#[derive(Debug)]
pub struct World {
    revision: u64,
    pub(super) trust_domain: TrustDomain,
    pub(super) root: Namespace,
    pub(super) default_action: DefaultAction,
    /// The workloads that are gateways, by the mesh's trust.
    pub(super) gateways: List<IdentityPattern, 64>,
    pub(super) tables: [Table; ResourceType::ALL.len()],
    pub(super) servers: ByNamespace<BTreeMap<ObjectName, Arc<Published>>>,
    pub(super) selecting: [ByNamespace<Selecting>; ResourceType::ALL.len()],
    /// Access policies that speak about virtual servers, which only those that call have to know.
    pub(super) of_virtual_servers: BTreeMap<Arc<str>, Arc<Published>>,
    /// Policies for tools that callers have to know.
    pub(super) of_callers: BTreeMap<Arc<str>, Arc<Published>>,
    /// Routes by the server whose calls they shape.
    routes: HashMap<ServerName, BTreeSet<Arc<str>>>,
    pub(super) observed: Observed,
    pub(super) offers: Offers,
    /// Whether the sidecars are still coming back after a start, so that what was seen of them is not yet all.
    settling: bool,
}

impl World {
    pub fn new(trust_domain: TrustDomain) -> Self {
        let mut world = Self {
            revision: 0,
            root: Namespace::parse(ROOT_NAMESPACE).expect("the root namespace is a namespace"),
            default_action: DefaultAction::default(),
            gateways: List::default(),
            tables: Default::default(),
            servers: ByNamespace::default(),
            selecting: Default::default(),
            of_virtual_servers: BTreeMap::new(),
            of_callers: BTreeMap::new(),
            routes: HashMap::new(),
            observed: Observed::default(),
            offers: Offers::default(),
            settling: true,
            trust_domain,
        };
        world.publish_mesh(None);
        world
    }

    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// From now on what was seen is taken for all there is.
    pub const fn settle(&mut self) {
        self.settling = false;
    }

    /// Whether a client that holds this keeps it as it is: the instances of a server are not known to be gone merely
    /// because they have not come back yet. Whoever holds that there are none loses none by what is seen.
    pub fn keeps(&self, ty: ResourceType, name: &str, held: Option<&Arc<str>>) -> bool {
        let observed = |object: &Arc<Published>| match object.object.as_deref().map(|resource| &resource.spec)
        {
            Some(Spec::McpServer(spec)) => {
                matches!(spec.location, Location::Workload(_) | Location::Stdio(_))
            }
            _ => false,
        };
        let none = |object: &Arc<Published>| {
            server_of(object).map(|server| version_of(&wire::encode_endpoints(&server, &[])))
        };
        let server = || self.tables[ResourceType::Server.index()].by_name.get(name);
        let holds_some = |object: &Arc<Published>| observed(object) && held != none(object).as_ref();
        self.settling && ty == ResourceType::Endpoints && server().is_some_and(holds_some)
    }

    /// The last revision taken in.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// How many resources of a type are published.
    pub fn count(&self, ty: ResourceType) -> usize {
        self.tables[ty.index()].by_name.len()
    }

    /// The names of all resources of a type.
    pub fn names(&self, ty: ResourceType) -> impl Iterator<Item = &str> {
        self.tables[ty.index()].by_name.keys().map(|name| &**name)
    }

    /// The object that a published resource was made from.
    pub fn object(&self, ty: ResourceType, name: &str) -> Option<Arc<Resource>> {
        self.tables[ty.index()].by_name.get(name)?.object.clone()
    }

    /// Takes changes in and tells what they touched.
    pub fn apply(&mut self, update: Update) -> Vec<Touched> {
        let mut touched = Vec::new();
        for change in update.changes {
            match change {
                Change::Put { resource, created_revision } => {
                    self.put(*resource, created_revision, &mut touched)
                }
                Change::Delete { key } => self.delete(&key, &mut touched),
                Change::Observed(observation) => {
                    for server in self.observed.take(observation) {
                        self.publish_endpoints(&server, &mut touched);
                    }
                }
                Change::Offered { server, offer } => self.offered(&server, offer, &mut touched),
                Change::Trust(domains) => self.publish_trust(domains, &mut touched),
            }
        }
        self.revision = self.revision.max(update.revision);
        touched
    }

    fn put(&mut self, resource: Resource, created_revision: u64, touched: &mut Vec<Touched>) {
        if let Spec::Trust(trust) = &resource.spec {
            self.default_action_changed(trust.default_action, touched);
            self.gateways_changed(&trust.gateways, touched);
            self.publish_mesh(Some(trust));
            touched.push(everyone(ResourceType::Mesh, MESH_NAME));
            return;
        }
        let Some(Encoded { ty, name, aliases, bytes }) = wire::encode(&resource, created_revision) else {
            return;
        };
        let key = resource.key();
        self.withdraw(ty, &name, touched);
        let object = Some(Arc::new(resource));
        let aliases = aliases.into_iter().map(Into::into).collect();
        let published = Arc::new(Published::new(ty, name.into(), aliases, bytes, object));
        self.tables[ty.index()].insert(&published);
        self.index(&key, &published);
        self.touch(&published, touched);
        if let Some(server) = server_of(&published) {
            self.publish_endpoints(&server, touched);
            self.publish_offer(&server, touched);
        }
    }

    fn delete(&mut self, key: &Key, touched: &mut Vec<Touched>) {
        if key.kind == Kind::Trust {
            self.default_action_changed(DefaultAction::default(), touched);
            self.gateways_changed(&List::default(), touched);
            self.publish_mesh(None);
            touched.push(everyone(ResourceType::Mesh, MESH_NAME));
            return;
        }
        let name = format!("{}/{}", key.namespace, key.name);
        self.withdraw(type_of(key.kind), &name, touched);
        if key.kind == Kind::McpServer {
            let server = ServerName { namespace: key.namespace.clone(), name: key.name.clone() };
            self.publish_endpoints(&server, touched);
            self.publish_offer(&server, touched);
        }
    }

    /// Takes a resource out of the tables, and tells those who saw it.
    fn withdraw(&mut self, ty: ResourceType, name: &str, touched: &mut Vec<Touched>) {
        let Some(old) = self.tables[ty.index()].remove(name) else { return };
        // Whoever saw it is found with the indexes as they were.
        self.touch(&old, touched);
        let Some(resource) = old.object.as_deref() else { return };
        if let Some(selector) = selector_of(&resource.spec) {
            self.selecting[ty.index()].entry(&resource.metadata.namespace).remove(selector, name);
        }
        if ty == ResourceType::Server {
            self.servers.entry(&resource.metadata.namespace).remove(&resource.metadata.name);
        }
        if ty == ResourceType::AccessPolicy {
            self.of_virtual_servers.remove(name);
        }
        if ty == ResourceType::ToolPolicy {
            self.of_callers.remove(name);
        }
        if let Spec::Route(route) = &resource.spec
            && let Some(names) = self.routes.get_mut(&route.server)
        {
            names.remove(name);
            if names.is_empty() {
                self.routes.remove(&route.server);
            }
        }
    }

    fn index(&mut self, key: &Key, published: &Arc<Published>) {
        let Some(resource) = published.object.as_deref() else { return };
        if let Some(selector) = selector_of(&resource.spec) {
            self.selecting[published.ty.index()].entry(&key.namespace).insert(selector, published);
        }
        if published.ty == ResourceType::Server {
            self.servers.entry(&key.namespace).insert(key.name.clone(), Arc::clone(published));
        }
        if matches!(&resource.spec, Spec::AccessPolicy(policy) if policy.virtual_servers.is_some()) {
            self.of_virtual_servers.insert(Arc::clone(&published.name), Arc::clone(published));
        }
        if matches!(&resource.spec, Spec::ToolPolicy(policy) if policy.is_for_callers()) {
            self.of_callers.insert(Arc::clone(&published.name), Arc::clone(published));
        }
        if let Spec::Route(route) = &resource.spec {
            self.routes.entry(route.server.clone()).or_default().insert(Arc::clone(&published.name));
        }
    }

    /// Notes a resource and everything whose audience depends on it.
    fn touch(&self, object: &Published, touched: &mut Vec<Touched>) {
        let note = |audience| Touched { ty: object.ty, name: Arc::clone(&object.name), audience };
        let Some(resource) = object.object.as_deref() else {
            return touched.push(note(Audience::Everyone));
        };
        let namespace = &resource.metadata.namespace;
        match (&resource.spec, selector_of(&resource.spec)) {
            (Spec::McpServer(_), _) => {
                // Whether a sidecar of the namespace serves it may have changed, and with it what else it sees.
                touched.push(note(Audience::Namespace(namespace.clone())));
                self.reach_changed(&object.name, touched);
            }
            (_, Some(selector)) => {
                touched.push(note(self.audience_of(namespace, selector)));
                touched.push(note(Audience::Calling));
                match object.ty {
                    // Callers may now reach other servers than before.
                    ResourceType::AccessPolicy => {
                        for server in self.servers_selected(namespace, selector) {
                            self.reach_changed(&server, touched);
                        }
                    }
                    // Definitions may be withheld that were not before, or the other way round.
                    ResourceType::ToolPolicy => {
                        for server in self.servers_selected(namespace, selector) {
                            self.offer_changed(&server, touched);
                        }
                    }
                    _ => {}
                }
            }
            (Spec::VirtualServer(_), _) => {
                touched.push(note(Audience::Calling));
                for name in self.of_virtual_servers.keys() {
                    let (ty, name) = (ResourceType::AccessPolicy, Arc::clone(name));
                    touched.push(Touched { ty, name, audience: Audience::Calling });
                }
            }
            _ => touched.push(note(Audience::Calling)),
        }
    }

    /// Notes everything that a caller sees only if it may reach a server.
    fn reach_changed(&self, server: &Arc<str>, touched: &mut Vec<Touched>) {
        let mut note = |ty, name: &Arc<str>| {
            touched.push(Touched { ty, name: Arc::clone(name), audience: Audience::Calling });
        };
        note(ResourceType::Server, server);
        note(ResourceType::Endpoints, server);
        let Ok(name) = ServerName::parse(server) else { return };
        self.perhaps_selecting(ResourceType::ToolPolicy, &name)
            .filter(|it| self.of_callers.contains_key(&it.name))
            .for_each(|it| note(ResourceType::ToolPolicy, &it.name));
        // Gateways are told by which policies their callers are judged.
        if !self.gateways.is_empty() {
            let ty = ResourceType::AccessPolicy;
            self.perhaps_selecting(ty, &name).for_each(|it| note(ty, &it.name));
        }
        let routes = self.routes.get(&name);
        routes.into_iter().flatten().for_each(|route| note(ResourceType::Route, route));
        self.offer_changed(server, touched);
    }

    /// Notes that a caller may see another part of what a server offers.
    fn offer_changed(&self, server: &Arc<str>, touched: &mut Vec<Touched>) {
        let Ok(name) = ServerName::parse(server) else { return };
        self.offers.judge_anew(&name);
        let ty = ResourceType::Offer;
        if self.tables[ty.index()].by_name.contains_key(server) {
            touched.push(Touched { ty, name: Arc::clone(server), audience: Audience::Calling });
        }
    }

    fn audience_of(&self, namespace: &Namespace, selector: &ServerSelector) -> Audience {
        match exact_names(selector) {
            _ if *namespace == self.root => Audience::Everyone,
            Some(names) => {
                let server = |name| ServerName { namespace: namespace.clone(), name };
                Audience::Serving(names.into_iter().map(server).collect())
            }
            None => Audience::Namespace(namespace.clone()),
        }
    }

    pub(super) fn servers_selected(&self, namespace: &Namespace, selector: &ServerSelector) -> Vec<Arc<str>> {
        let selected = |object: &&Arc<Published>| {
            let resource = object.object.as_deref();
            resource.is_some_and(|it| compile::selects(selector, namespace, &self.root, &it.metadata))
        };
        let names = |object: &Arc<Published>| Arc::clone(&object.name);
        if *namespace == self.root {
            let servers = self.tables[ResourceType::Server.index()].by_name.values();
            return servers.filter(selected).map(names).collect();
        }
        let Some(servers) = self.servers.of(namespace) else { return Vec::new() };
        match exact_names(selector) {
            Some(exact) => {
                exact.iter().filter_map(|name| servers.get(name)).filter(selected).map(names).collect()
            }
            None => servers.values().filter(selected).map(names).collect(),
        }
    }

    /// A different default changes whom callers may reach, wherever no policy speaks.
    fn default_action_changed(&mut self, action: DefaultAction, touched: &mut Vec<Touched>) {
        if self.default_action == action {
            return;
        }
        self.default_action = action;
        for server in self.tables[ResourceType::Server.index()].by_name.keys() {
            self.reach_changed(server, touched);
        }
    }

    /// Other workloads may see what they are to know callers by, and what those could be allowed.
    fn gateways_changed(&mut self, gateways: &List<IdentityPattern, 64>, touched: &mut Vec<Touched>) {
        if self.gateways == *gateways {
            return;
        }
        self.gateways = gateways.clone();
        for ty in [ResourceType::Authentication, ResourceType::AccessPolicy] {
            touched.extend(self.tables[ty.index()].by_name.keys().map(|name| everyone(ty, name)));
        }
        for server in self.tables[ResourceType::Server.index()].by_name.keys() {
            self.offer_changed(server, touched);
        }
    }

    fn publish_mesh(&mut self, trust: Option<&Trust>) {
        let bytes = wire::encode_mesh(&self.trust_domain, trust, &self.root);
        self.tables[ResourceType::Mesh.index()].insert(&Arc::new(Published::new(
            ResourceType::Mesh,
            MESH_NAME.into(),
            Vec::new(),
            bytes,
            None,
        )));
    }

    fn publish_trust(&mut self, domains: Vec<TrustRoots>, touched: &mut Vec<Touched>) {
        let ty = ResourceType::TrustBundle;
        let kept: HashSet<Arc<str>> = domains.iter().map(|it| it.trust_domain.as_str().into()).collect();
        let gone: Vec<_> =
            self.tables[ty.index()].by_name.keys().filter(|name| !kept.contains(*name)).cloned().collect();
        for name in gone {
            self.tables[ty.index()].remove(&name);
            touched.push(everyone(ty, &name));
        }
        for domain in domains {
            let bytes = wire::encode_trust_bundle(
                &domain.trust_domain,
                &domain.roots,
                domain.sequence,
                &domain.revoked_serials,
                &domain.renew_unless_root,
            );
            let name: Arc<str> = domain.trust_domain.as_str().into();
            let aliases = vec![format!("spiffe://{name}").into()];
            let published = Arc::new(Published::new(ty, Arc::clone(&name), aliases, bytes, None));
            if self.tables[ty.index()].version(&name) != Some(&published.version) {
                self.tables[ty.index()].insert(&published);
                touched.push(everyone(ty, &name));
            }
        }
    }
}

/// The version of a content: its digest, equal on every replica and after every restart.
pub fn version_of(bytes: &[u8]) -> Arc<str> {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

impl Published {
    pub(super) fn new(
        ty: ResourceType,
        name: Arc<str>,
        aliases: Vec<Arc<str>>,
        bytes: Vec<u8>,
        object: Option<Arc<Resource>>,
    ) -> Self {
        Self { ty, name, aliases, version: version_of(&bytes), bytes, object }
    }
}

fn everyone(ty: ResourceType, name: &str) -> Touched {
    Touched { ty, name: name.into(), audience: Audience::Everyone }
}

pub(super) fn server_of(object: &Published) -> Option<ServerName> {
    let resource = object.object.as_deref()?;
    matches!(resource.spec, Spec::McpServer(_)).then(|| ServerName {
        namespace: resource.metadata.namespace.clone(),
        name: resource.metadata.name.clone(),
    })
}

pub(super) fn selector_of(spec: &Spec) -> Option<&ServerSelector> {
    match spec {
        Spec::AccessPolicy(policy) => Some(&policy.servers),
        Spec::QuotaPolicy(policy) => Some(&policy.servers),
        Spec::ToolPolicy(policy) => Some(&policy.servers),
        Spec::Telemetry(telemetry) => Some(&telemetry.servers),
        Spec::McpServer(_)
        | Spec::VirtualServer(_)
        | Spec::Route(_)
        | Spec::Authentication(_)
        | Spec::Trust(_) => None,
    }
}

/// As which type the objects of a kind are published.
pub const fn type_of(kind: Kind) -> ResourceType {
    match kind {
        Kind::McpServer => ResourceType::Server,
        Kind::VirtualServer => ResourceType::VirtualServer,
        Kind::Route => ResourceType::Route,
        Kind::AccessPolicy => ResourceType::AccessPolicy,
        Kind::QuotaPolicy => ResourceType::QuotaPolicy,
        Kind::ToolPolicy => ResourceType::ToolPolicy,
        Kind::Authentication => ResourceType::Authentication,
        Kind::Telemetry => ResourceType::Telemetry,
        Kind::Trust => ResourceType::Mesh,
    }
}
