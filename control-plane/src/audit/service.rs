//! Takes the trails that sidecars ship: each line must be the one that follows, and is acknowledged once it is stored.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use weft_certs::audit as seals;
use weft_certs::bundle::Bundles;
use weft_proto::audit::{Broken, Cursor, Line, Trail, What};
use weft_proto::name::{NodeId, TrustDomain, Workload};
use weft_proto::pb::weft::audit::v1::audit_server::Audit;
use weft_proto::pb::weft::audit::v1::{Receipt, Shipment};

use super::database::{self, Checked, Open};
use super::{Error, own, stamp};
use crate::metrics::ReasonLabel;
use crate::peer::Peer;

/// Largest shipment, in bytes.
pub const SHIPMENT_BYTES_MAX: usize = 1 << 20;
const FIRST_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
const SEND_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(20);

/// The service that takes trails.
#[derive(Clone, Debug)]
pub struct Trails {
    trails: super::Trails,
    trust_domain: TrustDomain,
}

impl Trails {
    pub const fn new(trails: super::Trails, trust_domain: TrustDomain) -> Self {
        Self { trails, trust_domain }
    }
}

#[tonic::async_trait]
impl Audit for Trails {
    type ShipStream = Pin<Box<dyn Stream<Item = Result<Receipt, Status>> + Send>>;

    async fn ship(
        &self,
        request: Request<Streaming<Shipment>>,
    ) -> Result<Response<Self::ShipStream>, Status> {
        let peer = Peer::of(&request)?;
        let identity = peer
            .workload()
            .filter(|it| it.trust_domain == self.trust_domain)
            .ok_or_else(|| Status::unauthenticated("a certificate of a workload of this mesh is needed"))?;
        let (receipts, receiver) = mpsc::channel(1);
        let taking = Taking { service: self.clone(), identity, receipts };
        tokio::spawn(taking.run(request.into_inner()));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// One trail on its way.
struct Taking {
    service: Trails,
    identity: Workload,
    receipts: mpsc::Sender<Result<Receipt, Status>>,
}

/// Why no more is taken, for the metric and for the sidecar.
struct End {
    reason: &'static str,
    status: Status,
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        let error_text = error.to_string();
        match error {
            Error::Refused(why) => Self { reason: "refused", status: Status::failed_precondition(why) },
            Error::Engine(_) | Error::Panicked => {
                let source = &error as &dyn std::error::Error;
                tracing::error!(error = source, "lines of an audit trail could not be stored");
                Self { reason: "not_stored", status: Status::unavailable(error_text) }
            }
        }
    }
}

impl Taking {
    async fn run(self, mut shipments: Streaming<Shipment>) {
        let Err(Some(end)) = self.take_all(&mut shipments).await else { return };
        tracing::warn!(identity = %self.identity, reason = end.reason, error = end.status.message(),
            "an audit trail is not taken");
        let metrics = &self.service.trails.0.metrics;
        metrics.audit_refused.get_or_create(&ReasonLabel { reason: end.reason }).inc();
        let _ = timeout(SEND_TIMEOUT, self.receipts.send(Err(end.status))).await;
    }

    /// Until the sidecar leaves, which is no end to be told of.
    async fn take_all(&self, shipments: &mut Streaming<Shipment>) -> Result<(), Option<End>> {
        let first = timeout(FIRST_TIMEOUT, shipments.next()).await.map_err(|_| None)?;
        let first = first.ok_or(None)?.map_err(|_| None)?;
        let (mut open, name) = self.open(&first).await.map_err(Some)?;
        self.receipt(open.cursor.as_ref().map_or(1, Cursor::next)).await?;
        while let Some(shipment) = shipments.next().await {
            let shipment = shipment.map_err(|_| None)?;
            open = self.take(open, &name, shipment).await.map_err(Some)?;
            self.receipt(open.cursor.as_ref().map_or(1, Cursor::next)).await?;
        }
        Ok(())
    }

    async fn receipt(&self, next: u64) -> Result<(), Option<End>> {
        match timeout(SEND_TIMEOUT, self.receipts.send(Ok(Receipt { next }))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(None),
        }
    }

    async fn open(&self, first: &Shipment) -> Result<(Open, (String, Trail)), End> {
        let malformed = |why: String| End { reason: "malformed", status: Status::invalid_argument(why) };
        let node = NodeId::parse(&first.node).map_err(|error| malformed(error.to_string()))?;
        let trail: Trail = first.trail.parse().map_err(|why: &str| malformed(why.to_owned()))?;
        // The control plane's own is written here, and goes on in the newest trail of that name.
        if node.as_str() == own::NODE {
            let why = "no sidecar writes the trail of the control plane".to_owned();
            return Err(End { reason: "denied", status: Status::permission_denied(why) });
        }
        if node.namespace() != self.identity.namespace.as_str() {
            let why =
                format!("the node {node} is not in the namespace of the certificate, {}", self.identity);
            return Err(End { reason: "denied", status: Status::permission_denied(why) });
        }
        let (node, identity) = (node.as_str().to_owned(), self.identity.id().to_string());
        let (named, settings) = (trail.to_string(), self.service.trails.0.settings);
        let name = (node.clone(), trail);
        let opened = self.service.trails.with(move |connection| {
            database::open(connection, (&node, &named, &identity), &settings, stamp())
        });
        Ok((opened.await?, name))
    }

    /// Checks and stores what was shipped. What is there already is passed over; nothing is if a line does not follow.
    async fn take(&self, open: Open, name: &(String, Trail), shipment: Shipment) -> Result<Open, End> {
        let (bundles, name) = (self.service.trails.0.trust.load(), name.clone());
        let taken = self.service.trails.with(move |connection| {
            let Open { id, cursor } = open;
            let (cursor, checked, unbelieved) = match check(cursor, &name, &shipment.lines, Some(&bundles)) {
                Ok(checked) => checked,
                Err(broken) => return Ok(Err(broken)),
            };
            database::store(connection, id, &checked, stamp())?;
            Ok(Ok((Open { id, cursor }, checked.len(), unbelieved)))
        });
        let metrics = &self.service.trails.0.metrics;
        match taken.await? {
            Ok((open, lines, unbelieved)) => {
                metrics.audit_lines.inc_by(lines as u64);
                metrics.audit_seals_unbelieved.inc_by(unbelieved);
                Ok(open)
            }
            Err(broken) => {
                Err(End { reason: "broken", status: Status::failed_precondition(broken.to_string()) })
            }
        }
    }
}

/// Follows the lines of a shipment. A gap is taken where a segment begins behind it: what is missing was cleared away
/// before this control plane heard of it, and the missing lines show in every verification. Seals are only looked at where
/// it is said who is believed.
pub(super) fn check(
    cursor: Option<Cursor>,
    (node, trail): &(String, Trail),
    lines: &[u8],
    bundles: Option<&Bundles>,
) -> Result<(Option<Cursor>, Vec<Checked>, u64), Broken> {
    let (mut cursor, mut checked, mut unbelieved) = (cursor, Vec::new(), 0);
    for text in lines.split(|it| *it == b'\n').filter(|text| !text.is_empty()) {
        let next = cursor.as_ref().map_or(1, Cursor::next);
        let line = Line::parse(text)?;
        if line.n < next {
            continue;
        }
        let mut at = match cursor.take() {
            Some(at) if !(line.n > next && matches!(line.is, What::Segment(_))) => at,
            _ => Cursor::before_segment(&line)
                .filter(|at| at.node() == node && at.trail() == trail)
                .ok_or(Broken::Number { expected: next, found: line.n })?,
        };
        let taken = at.take(text)?;
        let signer = match (&taken.sealed, &taken.line.is, bundles) {
            (Some(statement), What::Seal(seal), Some(bundles)) => {
                let signer = seals::check(statement, seal, at.certificates(), bundles);
                if let Err(error) = &signer {
                    unbelieved += 1;
                    let error = error as &dyn std::error::Error;
                    tracing::warn!(node, line = line.n, error, "a seal of an audit trail is not believed");
                }
                signer.ok().map(|signer| signer.to_string())
            }
            _ => None,
        };
        let (segment, first) = (at.segment(), at.first());
        checked.push(Checked { taken, text: text.to_vec(), segment, first, signer });
        cursor = Some(at);
    }
    Ok((cursor, checked, unbelieved))
}

#[cfg(test)]
pub(super) fn take_for_test(
    trails: &super::Trails,
    (node, trail, identity): (&str, &Trail, &str),
    lines: &[u8],
    now: jiff::Timestamp,
) -> Result<u64, String> {
    let mut connection = trails.0.connection.lock().unwrap();
    let named = (node, trail.as_str(), identity);
    let settings = trails.0.settings;
    let open = database::open(&mut connection, named, &settings, now).map_err(|error| error.to_string())?;
    let name = (node.to_owned(), trail.clone());
    let (cursor, checked, _) = check(open.cursor, &name, lines, Some(&trails.0.trust.load()))
        .map_err(|broken| broken.to_string())?;
    database::store(&mut connection, open.id, &checked, now).map_err(|error| error.to_string())?;
    Ok(cursor.map_or(1, |it| it.next()))
}
