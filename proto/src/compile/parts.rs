//! What was received so far, one part per resource.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::offer::Offer;
use crate::resource::kinds::{
    AccessPolicy, Authentication, McpServer, QuotaPolicy, Route, Telemetry, ToolPolicy, VirtualServer,
};
use crate::wire::{Endpoints, Mesh, Object, Part, ResourceType, TrustBundle};

/// Decoded parts by type and name, in that order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parts {
    tables: [BTreeMap<String, Part>; ResourceType::ALL.len()],
}

impl Parts {
    /// Takes a part in, under its own name, and returns the one that it replaces.
    pub fn insert(&mut self, part: Part) -> Option<Part> {
        self.tables[part.ty().index()].insert(part.name(), part)
    }

    pub fn remove(&mut self, ty: ResourceType, name: &str) -> Option<Part> {
        self.tables[ty.index()].remove(name)
    }

    pub fn find(&self, ty: ResourceType, name: &str) -> Option<&Part> {
        self.tables[ty.index()].get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Part> {
        self.tables.iter().flat_map(BTreeMap::values)
    }

    /// How many parts of a type there are.
    pub fn count(&self, ty: ResourceType) -> usize {
        self.tables[ty.index()].len()
    }
}

impl FromIterator<Part> for Parts {
    fn from_iter<I: IntoIterator<Item = Part>>(parts: I) -> Self {
        let mut all = Self::default();
        for part in parts {
            all.insert(part);
        }
        all
    }
}

/// The parts by type, each type in the order of names.
#[derive(Default)]
pub(super) struct Sorted<'a> {
    pub(super) mesh: Option<&'a Arc<Mesh>>,
    pub(super) trust: Vec<&'a Arc<TrustBundle>>,
    pub(super) access: Vec<&'a Arc<Object<AccessPolicy>>>,
    pub(super) quotas: Vec<&'a Arc<Object<QuotaPolicy>>>,
    pub(super) tools: Vec<&'a Arc<Object<ToolPolicy>>>,
    pub(super) authentication: Vec<&'a Arc<Object<Authentication>>>,
    pub(super) telemetry: Vec<&'a Arc<Object<Telemetry>>>,
    pub(super) servers: Vec<&'a Arc<Object<McpServer>>>,
    pub(super) endpoints: Vec<&'a Arc<Endpoints>>,
    pub(super) routes: Vec<&'a Arc<Object<Route>>>,
    pub(super) offers: Vec<&'a Arc<Offer>>,
    pub(super) virtual_servers: Vec<&'a Arc<Object<VirtualServer>>>,
}

impl<'a> Sorted<'a> {
    pub(super) fn new(parts: &'a Parts) -> Self {
        let mut sorted = Self::default();
        for part in parts.iter() {
            match part {
                Part::Mesh(it) => sorted.mesh = Some(it),
                Part::TrustBundle(it) => sorted.trust.push(it),
                Part::AccessPolicy(it) => sorted.access.push(it),
                Part::QuotaPolicy(it) => sorted.quotas.push(it),
                Part::ToolPolicy(it) => sorted.tools.push(it),
                Part::Authentication(it) => sorted.authentication.push(it),
                Part::Telemetry(it) => sorted.telemetry.push(it),
                Part::Server(it) => sorted.servers.push(it),
                Part::Endpoints(it) => sorted.endpoints.push(it),
                Part::Route(it) => sorted.routes.push(it),
                Part::Offer(it) => sorted.offers.push(it),
                Part::VirtualServer(it) => sorted.virtual_servers.push(it),
            }
        }
        sorted
    }
}
