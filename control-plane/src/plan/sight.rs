//! Who may see what: every question that a client's stream asks of the world.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use weft_proto::compile;
use weft_proto::name::ServerName;
use weft_proto::policy::placement::Place;
use weft_proto::policy::{self, placement};
use weft_proto::resource::kinds::ServerSelector;
use weft_proto::resource::{Resource, Spec};
use weft_proto::wire::ResourceType;

use super::Viewer;
use super::world::{Published, World, selector_of, server_of};

/// What a name means to a viewer.
#[derive(Debug)]
pub enum Lookup {
    /// As it is sent to the viewer.
    Found(Arc<Published>),
    Missing,
    Denied,
}

impl World {
    /// What a name, or an alias, of a type means to a viewer. Whether something exists elsewhere is not told to those
    /// who may not see it.
    pub fn lookup(&self, viewer: &Viewer, served: &[ServerName], ty: ResourceType, name: &str) -> Lookup {
        let table = &self.tables[ty.index()];
        let canonical = match table.by_name.contains_key(name) {
            true => name,
            false => table.aliases.get(name).map_or(name, |canonical| canonical),
        };
        let own = canonical.split_once('/').is_some_and(|(ns, _)| ns == viewer.identity.namespace.as_str());
        match table.by_name.get(canonical) {
            Some(found) if self.may_see(viewer, served, found) => Lookup::Found(self.as_sent(viewer, found)),
            None if own || matches!(ty, ResourceType::Mesh | ResourceType::TrustBundle) => Lookup::Missing,
            Some(_) | None => Lookup::Denied,
        }
    }

    /// Everything of a type that concerns a viewer without its naming it.
    pub fn concerning(
        &self,
        viewer: &Viewer,
        served: &[ServerName],
        ty: ResourceType,
    ) -> Vec<Arc<Published>> {
        let table = &self.tables[ty.index()];
        let mut seen = HashSet::new();
        let candidates: Vec<&Arc<Published>> = match ty {
            ResourceType::AccessPolicy
            | ResourceType::QuotaPolicy
            | ResourceType::ToolPolicy
            | ResourceType::Telemetry => self.selecting_candidates(viewer, served, ty),
            // Those that call see much of these; the others only their own servers.
            ResourceType::Server | ResourceType::Endpoints | ResourceType::Route
                if !viewer.stances.calls() =>
            {
                let named = |server: &ServerName| table.by_name.get(server.to_string().as_str());
                match ty {
                    ResourceType::Server => served.iter().filter_map(named).collect(),
                    _ => Vec::new(),
                }
            }
            ResourceType::VirtualServer | ResourceType::Offer if !viewer.stances.calls() => Vec::new(),
            ResourceType::Authentication if !self.is_gateway(viewer) => Vec::new(),
            _ => table.by_name.values().collect(),
        };
        let mut found: Vec<_> = candidates
            .into_iter()
            .filter(|object| self.concerns(viewer, served, object) && seen.insert(Arc::clone(&object.name)))
            .map(|object| self.as_sent(viewer, object))
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }

    /// Whether a published resource concerns a viewer without its naming it.
    pub fn concerns(&self, viewer: &Viewer, served: &[ServerName], object: &Published) -> bool {
        let calls = viewer.stances.calls();
        let in_scope = match object.ty {
            ResourceType::Mesh | ResourceType::TrustBundle => true,
            ResourceType::AccessPolicy
            | ResourceType::QuotaPolicy
            | ResourceType::ToolPolicy
            | ResourceType::Telemetry => true,
            ResourceType::Server => calls || served.iter().any(|server| names(object, server)),
            ResourceType::Endpoints
            | ResourceType::Route
            | ResourceType::Offer
            | ResourceType::VirtualServer => calls,
            ResourceType::Authentication => self.is_gateway(viewer),
        };
        in_scope && self.may_see(viewer, served, object)
    }

    /// The servers that a sidecar stands beside: those of its namespace whose instances it is one of.
    pub fn served_by(&self, viewer: &Viewer) -> Vec<ServerName> {
        if !viewer.stances.inbound {
            return Vec::new();
        }
        let servers = self.servers.of(&viewer.identity.namespace).into_iter().flat_map(BTreeMap::values);
        servers.filter_map(|object| served(viewer, object)).collect()
    }

    /// Whether an identity could be allowed to call a server.
    pub fn may_reach(&self, viewer: &Viewer, server: &Published) -> bool {
        let Some(resource) = server.object.as_deref() else { return false };
        let policies = self.selected_by(resource, ResourceType::AccessPolicy);
        let policies = policies.filter_map(|object| match &object.object.as_deref()?.spec {
            Spec::AccessPolicy(policy) => Some(policy),
            _ => None,
        });
        policy::may_reach(&viewer.identity, policies, self.default_action)
    }

    fn may_see(&self, viewer: &Viewer, served: &[ServerName], object: &Published) -> bool {
        match object.ty {
            ResourceType::Mesh | ResourceType::TrustBundle => true,
            ResourceType::AccessPolicy
            | ResourceType::QuotaPolicy
            | ResourceType::ToolPolicy
            | ResourceType::Telemetry => self.bears_on(viewer, served, object),
            ResourceType::Server | ResourceType::Endpoints | ResourceType::Route => {
                served.iter().any(|server| names(object, server)) || self.reaches_named(viewer, object)
            }
            ResourceType::Offer => viewer.stances.calls() && self.reaches_named(viewer, object),
            ResourceType::VirtualServer => match object.object.as_deref().map(|resource| &resource.spec) {
                Some(Spec::VirtualServer(it)) => policy::may_use(&viewer.identity, it),
                _ => false,
            },
            ResourceType::Authentication => {
                self.is_gateway(viewer)
                    && object.object.as_ref().is_some_and(|it| match &it.spec {
                        Spec::Authentication(spec) => {
                            it.metadata.namespace == viewer.identity.namespace
                                && spec.gateways.iter().all(|(key, value)| {
                                    viewer.labels.get(key.as_str()).is_some_and(|it| it == value.as_str())
                                })
                        }
                        _ => false,
                    })
            }
        }
    }

    /// Whether a client is a gateway. Where the mesh says which workloads are, it is no client's own word.
    fn is_gateway(&self, viewer: &Viewer) -> bool {
        viewer.stances.gateway && (self.gateways.is_empty() || self.is_named_gateway(viewer))
    }

    /// Whether a client is a gateway that the mesh names.
    pub(super) fn is_named_gateway(&self, viewer: &Viewer) -> bool {
        let id = viewer.identity.id();
        viewer.stances.gateway && self.gateways.iter().any(|pattern| pattern.matches(&id))
    }

    /// Endpoints and routes are seen by whoever may reach the server they belong to.
    fn reaches_named(&self, viewer: &Viewer, object: &Published) -> bool {
        let name: &str = match object.object.as_deref().map(|resource| &resource.spec) {
            Some(Spec::Route(route)) => &route.server.to_string(),
            _ => &object.name,
        };
        let server = self.tables[ResourceType::Server.index()].by_name.get(name);
        server.is_some_and(|server| self.may_reach(viewer, server))
    }

    /// Whether a policy says something about a server that the viewer serves, or for those that call, about their
    /// namespace at large.
    fn bears_on(&self, viewer: &Viewer, served: &[ServerName], object: &Published) -> bool {
        let Some(resource) = object.object.as_deref() else { return false };
        let Some(selector) = selector_of(&resource.spec) else { return false };
        let namespace = &resource.metadata.namespace;
        let server_bears = served.iter().any(|server| {
            let found = self.servers.of(&server.namespace).and_then(|servers| servers.get(&server.name));
            let found = found.and_then(|server| server.object.as_deref());
            found.is_some_and(|found| compile::selects(selector, namespace, &self.root, &found.metadata))
        });
        let at_large = object.ty == ResourceType::Telemetry
            && viewer.stances.calls()
            && *selector == ServerSelector::default()
            && (*namespace == viewer.identity.namespace || *namespace == self.root);
        server_bears
            || at_large
            || self.governs_a_virtual_server(viewer, resource)
            || self.governs_calls(viewer, resource)
            || self.governs_guests(viewer, resource)
    }

    /// Whether a policy says how to call the tools of a server that the viewer may reach.
    fn governs_calls(&self, viewer: &Viewer, resource: &Resource) -> bool {
        let Spec::ToolPolicy(policy) = &resource.spec else { return false };
        if !viewer.stances.calls() || !policy.is_for_callers() {
            return false;
        }
        let servers = &self.tables[ResourceType::Server.index()].by_name;
        let selected = self.servers_selected(&resource.metadata.namespace, &policy.servers);
        selected.iter().filter_map(|name| servers.get(name)).any(|server| self.may_reach(viewer, server))
    }

    /// Whether a policy says which callers of a gateway may use what of a server that the gateway may reach: it shows each
    /// what that one may use.
    fn governs_guests(&self, viewer: &Viewer, resource: &Resource) -> bool {
        let Spec::AccessPolicy(policy) = &resource.spec else { return false };
        if !self.is_named_gateway(viewer) {
            return false;
        }
        let servers = &self.tables[ResourceType::Server.index()].by_name;
        let selected = self.servers_selected(&resource.metadata.namespace, &policy.servers);
        selected.iter().filter_map(|name| servers.get(name)).any(|server| self.may_reach(viewer, server))
    }

    /// Whether a policy speaks about a virtual server that the viewer may use.
    fn governs_a_virtual_server(&self, viewer: &Viewer, resource: &Resource) -> bool {
        let Spec::AccessPolicy(policy) = &resource.spec else { return false };
        if policy.virtual_servers.is_none() || !viewer.stances.calls() {
            return false;
        }
        let mut virtual_servers = self.tables[ResourceType::VirtualServer.index()].by_name.iter();
        virtual_servers.any(|(name, object)| {
            let Ok(name) = ServerName::parse(name) else { return false };
            let namespace = &resource.metadata.namespace;
            compile::specificity_of_virtual_server(policy, namespace, &self.root, &name).is_some()
                && self.may_see(viewer, &[], object)
        })
    }

    fn selecting_candidates(
        &self,
        viewer: &Viewer,
        served: &[ServerName],
        ty: ResourceType,
    ) -> Vec<&Arc<Published>> {
        let index = &self.selecting[ty.index()];
        let (own, root) = (index.of(&viewer.identity.namespace), index.of(&self.root));
        let mut candidates = Vec::new();
        for server in served {
            for selecting in [own, root].into_iter().flatten() {
                candidates.extend(selecting.candidates(&server.name));
            }
        }
        if viewer.stances.calls() && ty == ResourceType::AccessPolicy {
            candidates.extend(self.of_virtual_servers.values());
            if self.is_named_gateway(viewer) {
                candidates.extend(self.tables[ty.index()].by_name.values());
            }
        }
        if viewer.stances.calls() && ty == ResourceType::ToolPolicy {
            candidates.extend(self.of_callers.values());
        }
        if viewer.stances.calls() && ty == ResourceType::Telemetry {
            for selecting in [own, root].into_iter().flatten() {
                candidates.extend(selecting.unnamed());
            }
        }
        candidates
    }

    /// The objects of a type that may select a server; each must still be asked.
    pub(super) fn perhaps_selecting<'w>(
        &'w self,
        ty: ResourceType,
        server: &'w ServerName,
    ) -> impl Iterator<Item = &'w Arc<Published>> {
        let index = &self.selecting[ty.index()];
        let selecting = [&server.namespace, &self.root].into_iter().filter_map(move |it| index.of(it));
        selecting.flat_map(move |it| it.candidates(&server.name))
    }

    /// The objects of a type that select a server.
    pub(super) fn selected_by(
        &self,
        server: &Resource,
        ty: ResourceType,
    ) -> impl Iterator<Item = &Arc<Published>> {
        let index = &self.selecting[ty.index()];
        let metadata = server.metadata.clone();
        let own = index.of(&metadata.namespace);
        let root = index.of(&self.root).filter(|_| metadata.namespace != self.root);
        let candidates: Vec<_> =
            own.into_iter().chain(root).flat_map(|it| it.candidates(&metadata.name)).collect();
        candidates.into_iter().filter(move |object| {
            object.object.as_deref().is_some_and(|resource| {
                selector_of(&resource.spec).is_some_and(|selector| {
                    compile::selects(selector, &resource.metadata.namespace, &self.root, &metadata)
                })
            })
        })
    }
}

fn names(object: &Published, server: &ServerName) -> bool {
    object.name.split_once('/') == Some((server.namespace.as_str(), server.name.as_str()))
}

/// The name of a server that the viewer is an instance of.
fn served(viewer: &Viewer, object: &Published) -> Option<ServerName> {
    let Spec::McpServer(spec) = &object.object.as_deref()?.spec else { return None };
    let name = server_of(object)?;
    let place = Place { identity: &viewer.identity, labels: &viewer.labels, claims: &viewer.claims };
    placement::serves(spec, &name, place).then_some(name)
}
