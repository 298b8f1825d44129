//! Where the reports of a connected sidecar go: beside what else is known of it, and to the planner.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use weft_proto::name::{NodeId, ServerName, SpiffeId, TrustDomain};
use weft_proto::offer::Offer;
use weft_proto::wire::ResourceType;

use super::{Client, Hub, lock};
use crate::catalog::{Advertised, Seen};
use crate::metrics::Metrics;
use crate::plan::{Change, Observation, Update};
use crate::reports::{self, Report};

/// A connected sidecar that reports. What it said last goes with this.
#[derive(Debug)]
pub struct Reporter {
    hub: Arc<Hub>,
    client: Arc<Client>,
    over: CancellationToken,
}

impl Hub {
    /// Lets a connected sidecar report, instead of whoever reported for it before; none if it is not connected.
    pub fn reporter(self: &Arc<Self>, identity: &SpiffeId, node: &NodeId) -> Option<Reporter> {
        let clients = lock(&self.clients);
        let id = clients.by_node.get(&(identity.clone(), node.clone()))?;
        let client = Arc::clone(clients.by_id.get(id)?);
        drop(clients);
        let over = client.replaced.child_token();
        std::mem::replace(&mut *lock(&client.reporting), over.clone()).cancel();
        Some(Reporter { hub: Arc::clone(self), client, over })
    }

    /// Whether a connected sidecar stands beside a server. It does no more when what is returned is cancelled.
    pub fn beside(
        &self,
        identity: &SpiffeId,
        node: &NodeId,
        server: &ServerName,
    ) -> Option<CancellationToken> {
        let clients = lock(&self.clients);
        let id = clients.by_node.get(&(identity.clone(), node.clone()))?;
        let client = Arc::clone(clients.by_id.get(id)?);
        drop(clients);
        let stands_there = lock(&client.status).serves.contains(server);
        stands_there.then(|| client.replaced.clone())
    }

    /// Whether there is such a server; none while that is not known yet.
    pub fn exists(&self, server: &ServerName) -> Option<bool> {
        let found = || self.world().object(ResourceType::Server, &server.to_string()).is_some();
        self.is_ready().then(found)
    }

    /// Takes what a server advertises, from a connected sidecar that stands beside it; none if it is not known as that.
    pub fn advertise(
        &self,
        identity: &SpiffeId,
        node: &NodeId,
        server: ServerName,
        tools: Option<Arc<Advertised>>,
    ) -> Option<()> {
        let clients = lock(&self.clients);
        let id = clients.by_node.get(&(identity.clone(), node.clone()))?;
        let client = Arc::clone(clients.by_id.get(id)?);
        drop(clients);
        let mut status = lock(&client.status);
        if !status.connected || !status.serves.contains(&server) {
            return None;
        }
        match tools {
            Some(tools) => {
                status.tools.remove(&server);
                let tools = tools.beside(status.tools.values());
                status.tools.insert(server, tools);
            }
            None => _ = status.tools.remove(&server),
        }
        Some(())
    }

    /// Takes over what a server offers, by the word of all sidecars beside it. Those of one server must come one after
    /// the other.
    pub async fn offered(&self, server: ServerName, offer: Option<Arc<Offer>>) {
        self.take_offers(vec![Change::Offered { server, offer }]).await;
    }

    /// Takes over what servers offered before a start.
    pub async fn remembered(&self, offers: Vec<(ServerName, Arc<Offer>)>) {
        let change = |(server, offer)| Change::Offered { server, offer: Some(offer) };
        self.take_offers(offers.into_iter().map(change).collect()).await;
    }

    async fn take_offers(&self, changes: Vec<Change>) {
        let update = Update { revision: 0, changes };
        if self.intake.send(update).await.is_err() {
            tracing::debug!("an offer came while the control plane stops");
        }
    }

    /// Definitions that were advertised.
    pub const fn seen(&self) -> &Seen {
        &self.seen
    }

    /// How reports are taken.
    pub fn report_settings(&self) -> reports::Settings {
        self.settings.reports.clone()
    }

    pub fn trust_domain(&self) -> TrustDomain {
        self.world().trust_domain().clone()
    }

    pub const fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Ends when the control plane is about to.
    pub async fn stopping(&self) {
        self.shutdown.cancelled().await;
    }
}

impl Reporter {
    /// Ends when the sidecar is gone, or somebody else reports for it.
    pub fn over(&self) -> CancellationToken {
        self.over.clone()
    }

    pub fn show(&self, report: Report) {
        let _current = lock(&self.client.reporting);
        if !self.over.is_cancelled() {
            let mut status = lock(&self.client.status);
            status.report = Some(Arc::new(report.after(status.report.as_deref())));
        }
    }

    /// Tells the planner for which servers the sidecar does not serve.
    pub fn tell(&self, unfit: BTreeSet<ServerName>) {
        self.hub.observe(Observation::Reported { by: self.client.speaker(), unfit });
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        let _current = lock(&self.client.reporting);
        if !self.over.is_cancelled() {
            lock(&self.client.status).report = None;
        }
    }
}
