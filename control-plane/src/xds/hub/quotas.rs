//! Which quota policies a connected sidecar may ask for leases of: those that select servers it stands beside.

use std::collections::HashSet;
use std::sync::Arc;

use weft_proto::name::{NodeId, ServerName, SpiffeId};
use weft_proto::resource::Resource;
use weft_proto::wire::ResourceType;

use super::{Hub, lock};
use crate::plan::{Lookup, Stances, Viewer};

/// What a sidecar stands beside now.
#[derive(Debug)]
pub(crate) struct Quotas {
    viewer: Viewer,
    served: Vec<ServerName>,
}

impl Hub {
    /// None if the sidecar is not connected.
    pub(crate) fn quotas_of(&self, identity: &SpiffeId, node: &NodeId) -> Option<Quotas> {
        let clients = lock(&self.clients);
        let id = clients.by_node.get(&(identity.clone(), node.clone()))?;
        let mut viewer = clients.by_id.get(id)?.viewer.clone();
        drop(clients);
        // What it sees as one that calls gives it no share.
        viewer.stances = Stances { inbound: viewer.stances.inbound, outbound: false, gateway: false };
        let served = self.world().served_by(&viewer);
        Some(Quotas { viewer, served })
    }

    /// The names of all policies.
    pub(crate) fn quota_policies(&self) -> HashSet<String> {
        self.world().names(ResourceType::QuotaPolicy).map(str::to_owned).collect()
    }

    /// A policy as it is, for the control plane itself.
    pub(crate) fn quota_policy(&self, name: &str) -> Option<Arc<Resource>> {
        self.world().object(ResourceType::QuotaPolicy, name)
    }
}

impl Quotas {
    /// A policy by its name, if it selects this server that the sidecar stands beside; or if none is given, any of them.
    pub(crate) fn policy(&self, hub: &Hub, name: &str, server: Option<&str>) -> Option<Arc<Resource>> {
        let served = match server {
            Some(server) => {
                let at = self.served.iter().position(|served| served.to_string() == server)?;
                self.served.get(at..=at)?
            }
            None => &self.served,
        };
        match hub.world().lookup(&self.viewer, served, ResourceType::QuotaPolicy, name) {
            Lookup::Found(found) => found.object.clone(),
            Lookup::Missing | Lookup::Denied => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::metrics::Metrics;
    use crate::plan::tests::{INBOUND, object, server, viewer, world};
    use crate::xds::Settings;

    #[tokio::test]
    async fn a_policy_is_for_servers_that_it_selects_and_that_the_sidecar_stands_beside() {
        let quota = |name: &str, servers: &str| {
            let limits = "limits: [{ rate: 1/min, scope: mesh }]";
            object("QuotaPolicy", name, &format!("{{ servers: {{ names: [{servers}] }}, {limits} }}"))
        };
        // Another server of the workload of the first.
        let beside = object("McpServer", "research/second", "{ workload: { labels: { app: files } } }");
        let policies = quota("research/fair", "files") + &quota("research/unfair", "other");
        let world = world(&(server("research/files") + &beside + &server("research/other") + &policies));
        let viewer = viewer("research", "files", INBOUND);
        let seen = Quotas { served: world.served_by(&viewer), viewer };
        let hub = Hub::start(Settings::default(), world, Arc::new(Metrics::new()), CancellationToken::new());
        let check = |policy, server, expected| {
            let found = seen.policy(&hub, policy, server).is_some();
            assert_eq!(found, expected, "{policy} for {server:?}");
        };
        check("research/fair", Some("research/files"), true);
        check("research/fair", None, true);
        // It stands beside this one, which the policy does not select; and not beside that, nor does it exist.
        check("research/fair", Some("research/second"), false);
        check("research/fair", Some("research/other"), false);
        check("research/fair", Some("research/none"), false);
        check("research/unfair", Some("research/other"), false);
        check("research/unfair", None, false);
        assert_eq!(hub.quota_policies().len(), 2);
    }
}
