//! One sidecar's stream of leases, from its first report to its end.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use weft_proto::name::{NodeId, SpiffeId};
use weft_proto::pb::weft::quota::v1::quota_server::Quota;
use weft_proto::pb::weft::quota::v1::{LeaseGrant, LeaseReport};

use super::{Lender, Refused};
use crate::identity::Bucket;
use crate::peer::Peer;
use crate::store::Store;
use crate::xds::Hub;

/// When budgets are read again that could not be.
const READ_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);
/// Grants that wait for the connection to take them.
const OUTGOING_MAX: usize = 4;

/// The service that lends.
#[derive(Clone, Debug)]
pub struct Leases {
    hub: Arc<Hub>,
    lender: Arc<Lender>,
    /// Where budgets are kept.
    store: Arc<dyn Store>,
}

impl Leases {
    pub const fn new(hub: Arc<Hub>, lender: Arc<Lender>, store: Arc<dyn Store>) -> Self {
        Self { hub, lender, store }
    }

    /// Calls back what is too much whenever policies change, until the control plane stops.
    pub async fn follow(self) {
        let mut revisions = self.hub.revision();
        let mut every = interval(self.lender.settings.lease);
        loop {
            self.lender.limits_changed(|name| self.hub.quota_policy(name));
            let changed = async {
                loop {
                    tokio::select! {
                        changed = revisions.changed() => return changed.is_ok(),
                        _ = every.tick() => self.lender.sweep(),
                    }
                }
            };
            tokio::select! {
                () = self.hub.stopping() => return,
                goes_on = changed => if !goes_on { return },
            }
        }
    }

    async fn run(
        self,
        peer: Peer,
        mut reports: Streaming<LeaseReport>,
        sender: mpsc::Sender<Result<LeaseGrant, Status>>,
    ) {
        if let Err(status) = self.lend(&peer, &mut reports, &sender).await {
            tracing::debug!(error = status.message(), "stream of leases ended");
            let _ = timeout(self.lender.settings.send_timeout, sender.send(Err(status))).await;
        }
    }

    async fn lend(
        &self,
        peer: &Peer,
        reports: &mut Streaming<LeaseReport>,
        sender: &mpsc::Sender<Result<LeaseGrant, Status>>,
    ) -> Result<(), Status> {
        if !self.lender.lends() {
            return Err(lends_not());
        }
        let identity = peer
            .workload()
            .filter(|workload| workload.trust_domain == self.hub.trust_domain())
            .ok_or_else(|| {
                Status::unauthenticated("a client certificate of a workload of this mesh is needed")
            })?
            .id();
        let first = self.next(reports).await?;
        let node =
            NodeId::parse(&first.node).map_err(|_| Status::invalid_argument("node is no name of a node"))?;
        // Before it is counted as one of the sidecars that borrow.
        drop(self.hub.quotas_of(&identity, &node).ok_or_else(unknown)?);
        let opened = self.lender.open(&identity, &node, first.session);
        let (holder, mut pushed) = opened.map_err(|refused| match refused {
            Refused::Streams => Status::resource_exhausted("too many streams of leases are open"),
            Refused::Sessions => {
                Status::resource_exhausted("earlier sessions of this node may still hold leases")
            }
            Refused::Replaced => Status::aborted("a newer session of this node took over"),
        })?;
        let lending = Lending { leases: self, identity, node, holder, sender };
        let ended = Box::pin(lending.run(first, reports, &mut pushed)).await;
        self.lender.close(holder, &pushed);
        ended
    }

    async fn next(&self, reports: &mut Streaming<LeaseReport>) -> Result<LeaseReport, Status> {
        match timeout(self.lender.settings.silence_max, reports.next()).await {
            Ok(Some(report)) => report,
            Ok(None) => Err(Status::cancelled("the sidecar ended the stream")),
            Err(_) => Err(Status::deadline_exceeded("no report came in time")),
        }
    }
}

/// The loop of one sidecar that borrows.
struct Lending<'a> {
    leases: &'a Leases,
    identity: SpiffeId,
    node: NodeId,
    holder: u64,
    sender: &'a mpsc::Sender<Result<LeaseGrant, Status>>,
}

impl Lending<'_> {
    async fn run(
        &self,
        first: LeaseReport,
        reports: &mut Streaming<LeaseReport>,
        pushed: &mut mpsc::Receiver<LeaseGrant>,
    ) -> Result<(), Status> {
        let Leases { hub, lender, store } = self.leases;
        let mut bucket = Bucket::new(lender.settings.rate, Instant::now());
        let session = first.session;
        let mut report = Some(first);
        loop {
            if let Some(report) = report.take() {
                if report.session != session || report.demands.len() > lender.settings.keys_per_report_max {
                    return Err(Status::invalid_argument("another session, or too many keys in one report"));
                }
                if bucket.take(lender.settings.rate, Instant::now()).is_err() {
                    return Err(Status::resource_exhausted("more reports than are taken"));
                }
                // Between two waits the answer may have changed.
                if !lender.lends() {
                    return Err(lends_not());
                }
                let seen = hub.quotas_of(&self.identity, &self.node).ok_or_else(unknown)?;
                let mut grant =
                    lender.report(self.holder, &report, |name, server| seen.policy(hub, name, server));
                lender.write_budgets(&**store, &mut grant).await;
                self.send(grant).await?;
            }
            tokio::select! {
                () = hub.stopping() => return Ok(()),
                () = lender.lends_no_more() => return Err(lends_not()),
                next = self.leases.next(reports) => report = Some(next?),
                grant = pushed.recv() => match grant {
                    Some(grant) => self.send(grant).await?,
                    None => return Err(Status::aborted("another stream took over")),
                },
            }
        }
    }

    async fn send(&self, grant: LeaseGrant) -> Result<(), Status> {
        let sent = timeout(self.leases.lender.settings.send_timeout, self.sender.send(Ok(grant))).await;
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Status::cancelled("the sidecar is gone")),
            Err(_) => Err(Status::deadline_exceeded("a grant was not taken in time")),
        }
    }
}

/// Budgets are lent once it is known what is spent of them.
pub async fn read_budgets(lender: Arc<Lender>, store: Arc<dyn Store>, shutdown: CancellationToken) {
    let read = async {
        while let Err(error) = lender.read_budgets(&*store).await {
            tracing::error!(%error, "what is spent of budgets cannot be read; trying again");
            tokio::time::sleep(READ_AGAIN).await;
        }
    };
    tokio::select! {
        () = read => {}
        () = shutdown.cancelled() => {}
    }
}

fn lends_not() -> Status {
    Status::unavailable("another control plane lends, or none can at present")
}

fn unknown() -> Status {
    Status::failed_precondition("this sidecar has no discovery stream here")
}

#[tonic::async_trait]
impl Quota for Leases {
    type LeaseStream = Pin<Box<dyn Stream<Item = Result<LeaseGrant, Status>> + Send>>;

    async fn lease(
        &self,
        request: Request<Streaming<LeaseReport>>,
    ) -> Result<Response<Self::LeaseStream>, Status> {
        let peer = Peer::of(&request)?;
        let (sender, receiver) = mpsc::channel(OUTGOING_MAX);
        tokio::spawn(Box::pin(self.clone().run(peer, request.into_inner(), sender)));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
