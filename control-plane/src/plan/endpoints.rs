//! Where the instances of servers are, as callers are told.

use std::sync::Arc;

use weft_proto::name::{ServerName, ServiceAccount, SpiffeId, Workload};
use weft_proto::resource::Spec;
use weft_proto::resource::kinds::{Location, McpServer, StaticEndpoint};
use weft_proto::wire::{self, Endpoint, Endpoints, ResourceType};

use super::observed::Instance;
use super::world::{Published, World};
use super::{Audience, Touched};

impl World {
    /// Publishes where the instances of a server are: those given in its spec, and those seen.
    pub(super) fn publish_endpoints(&mut self, server: &ServerName, touched: &mut Vec<Touched>) {
        let ty = ResourceType::Endpoints;
        let name: Arc<str> = server.to_string().into();
        let spec = self.servers.of(&server.namespace).and_then(|servers| servers.get(&server.name));
        let spec = spec.and_then(|object| object.object.clone());
        let endpoints = match spec.as_deref().map(|resource| &resource.spec) {
            Some(Spec::McpServer(spec)) => self.endpoints_of(server, spec),
            _ => {
                if self.tables[ty.index()].remove(&name).is_some() {
                    touched.push(Touched { ty, name, audience: Audience::Calling });
                }
                return;
            }
        };
        let bytes = wire::encode_endpoints(server, &endpoints);
        let published = Arc::new(Published::new(ty, Arc::clone(&name), Vec::new(), bytes, None));
        if self.tables[ty.index()].version(&name) != Some(&published.version) {
            self.tables[ty.index()].insert(&published);
            touched.push(Touched { ty, name, audience: Audience::Calling });
        }
    }

    fn endpoints_of(&self, server: &ServerName, spec: &McpServer) -> Vec<Endpoint> {
        match &spec.location {
            Location::Endpoints(given) => {
                let identity = spec.service_account.as_ref().map(|account| self.identity(server, account));
                let endpoint = |it: &StaticEndpoint| Endpoint {
                    address: it.address.clone(),
                    node: None,
                    weight: it.weight,
                    locality: it.locality.clone(),
                    identity: identity.clone(),
                };
                let left_out = self.observed.addresses_left_out(server);
                let told: Vec<_> = given.iter().filter(|it| !left_out.contains(&it.address)).collect();
                // Whoever serves may be known by another address, and then none of these is the last one.
                let told = if told.is_empty() { given.iter().collect() } else { told };
                told.into_iter().map(endpoint).collect()
            }
            Location::Workload(_) | Location::Stdio(_) | Location::External(_) => {
                let instances = self.observed.of(server).take(Endpoints::ENDPOINTS_MAX);
                let endpoint = |it: &Instance| Endpoint {
                    address: it.address.clone(),
                    node: Some(it.node.clone()),
                    weight: None,
                    locality: it.locality.clone(),
                    identity: Some(it.identity.clone()),
                };
                instances.map(endpoint).collect()
            }
        }
    }

    fn identity(&self, server: &ServerName, account: &ServiceAccount) -> SpiffeId {
        let namespace = server.namespace.clone();
        Workload { trust_domain: self.trust_domain.clone(), namespace, account: account.clone() }.id()
    }
}
