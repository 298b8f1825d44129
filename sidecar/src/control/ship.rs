//! Ships the audit trail to the control plane, on a stream beside that of discovery and over the same connection.
//!
//! The control plane says which line it wants next, so nothing is sent twice for good and nothing is left out, whatever
//! was lost on the way. What it has stored may be cleared away here; nothing else ever is.

use std::time::Duration;

use rand::Rng as _;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use weft_proto::name::NodeId;
use weft_proto::pb::weft::audit::v1 as pb;
use weft_proto::pb::weft::audit::v1::audit_client::AuditClient;

use super::connect::Channel;
use crate::audit::{Audit, Batch, Reader};

/// Largest receipt, in bytes.
const RECEIPT_BYTES_MAX: usize = 4 << 10;
/// Time for a receipt: what was sent is on the control plane's disk by then.
const RECEIPT_TIMEOUT: Duration = Duration::from_secs(30);
/// Time until it is tried again, at least and at most.
const AGAIN_SECS: std::ops::Range<f64> = 0.5..2.0;
/// The same where the control plane does not take the trail: an operator has to see to it.
const REFUSED_AGAIN_SECS: std::ops::Range<f64> = 20.0..40.0;

/// Who ships.
#[derive(Debug)]
pub(super) struct Shipper {
    pub(super) node: NodeId,
    pub(super) audit: Audit,
}

impl Shipper {
    /// Goes on until it is dropped, or the control plane turns out to take no trails.
    pub(super) async fn run(self, channel: Channel) {
        let Some(trail) = self.audit.trail().map(ToString::to_string) else { return };
        loop {
            let Err(status) = self.stream(channel.clone(), &trail).await else { return };
            let again = match status.code() {
                Code::Unimplemented => {
                    tracing::info!("the control plane takes no audit trails");
                    return;
                }
                Code::FailedPrecondition | Code::InvalidArgument | Code::PermissionDenied => {
                    tracing::error!(
                        error = status.message(),
                        "the control plane does not take the audit trail"
                    );
                    self.audit.not_shipped("ship_refused");
                    REFUSED_AGAIN_SECS
                }
                code => {
                    tracing::debug!(error = status.message(), ?code, "shipping of the audit trail ended");
                    self.audit.not_shipped("ship");
                    AGAIN_SECS
                }
            };
            let again = rand::rng().random_range(again);
            sleep(Duration::from_secs_f64(again)).await;
        }
    }

    async fn stream(&self, channel: Channel, trail: &str) -> Result<(), Status> {
        let (shipments, outgoing) = mpsc::channel(1);
        let mut reader = self.audit.reader();
        let first = pb::Shipment {
            node: self.node.as_str().to_owned(),
            trail: trail.to_owned(),
            oldest: reader.oldest(),
            ..pb::Shipment::default()
        };
        send(&shipments, first).await?;
        let mut client = AuditClient::new(channel).max_decoding_message_size(RECEIPT_BYTES_MAX);
        let mut receipts =
            late(timeout(RECEIPT_TIMEOUT, client.ship(ReceiverStream::new(outgoing))).await)?.into_inner();
        let mut next = received(&mut receipts).await?;
        let mut grown = self.audit.grown();
        loop {
            self.audit.shipped(next);
            grown.borrow_and_update();
            let batch;
            (reader, batch) = self.read(reader, next.max(1)).await?;
            if batch.bytes.is_empty() {
                tokio::select! {
                    // The writer goes only with the sidecar.
                    changed = grown.changed() => changed.map_err(|_| Status::cancelled("stopping"))?,
                    ended = receipts.message() => {
                        ended?.ok_or_else(|| Status::unavailable("the control plane ended the stream"))?;
                    }
                }
                continue;
            }
            let shipment = pb::Shipment { from: batch.from, lines: batch.bytes, ..pb::Shipment::default() };
            send(&shipments, shipment).await?;
            next = received(&mut receipts).await?;
        }
    }

    async fn read(&self, mut reader: Reader, from: u64) -> Result<(Reader, Batch), Status> {
        let oldest = reader.oldest();
        let read = tokio::task::spawn_blocking(move || {
            let batch = reader.read(from.max(oldest));
            (reader, batch)
        });
        let (reader, batch) = read.await.map_err(|error| Status::internal(error.to_string()))?;
        let batch = batch.map_err(|error| {
            self.audit.not_shipped("read");
            Status::internal(format!("the audit trail cannot be read: {error}"))
        })?;
        Ok((reader, batch))
    }
}

async fn send(shipments: &mpsc::Sender<pb::Shipment>, shipment: pb::Shipment) -> Result<(), Status> {
    let sent = timeout(RECEIPT_TIMEOUT, shipments.send(shipment)).await;
    match sent {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Status::unavailable("the control plane ended the stream")),
        Err(_) => Err(Status::unavailable("the audit trail is not taken in time")),
    }
}

async fn received(receipts: &mut Streaming<pb::Receipt>) -> Result<u64, Status> {
    let receipt = late(timeout(RECEIPT_TIMEOUT, receipts.message()).await)?;
    receipt.map(|it| it.next).ok_or_else(|| Status::unavailable("the control plane ended the stream"))
}

fn late<T>(answer: Result<Result<T, Status>, tokio::time::error::Elapsed>) -> Result<T, Status> {
    answer.unwrap_or_else(|_| Err(Status::unavailable("the control plane does not answer")))
}
