//! Tells the control plane how this sidecar and its servers are, on a stream beside that of discovery and over the same
//! connection.
//!
//! A report goes out when the health of a server changes, and now and then in any case. Changes that come fast are told
//! as one; only that this sidecar is about to end is told at once. Trouble with reports leaves the discovery stream
//! alone.

use std::time::Duration;

use rand::Rng as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use weft_proto::name::{HostPort, NodeId};
use weft_proto::pb::weft::status::v1 as pb;
use weft_proto::pb::weft::status::v1::status_client::StatusClient;

use super::connect::Channel;
use super::losses::Losses;
use crate::clock;
use crate::health::{Health, Told};
use crate::servers::Servers;

/// Servers in one report; more are not told.
const SERVERS_MAX: usize = 256;
/// Longest reason that is told of one server, in bytes.
const DETAIL_BYTES_MAX: usize = 512;
/// Places that are told of one server at which it can be called past this sidecar.
const EXPOSED_MAX: usize = 8;
/// Largest receipt, in bytes.
const RECEIPT_BYTES_MAX: usize = 4 << 10;
/// Time for a receipt.
const RECEIPT_TIMEOUT: Duration = Duration::from_secs(20);
/// Time until reports are tried again, at least and at most.
const AGAIN_SECS: std::ops::Range<f64> = 5.0..15.0;

/// How often reports are sent.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Time between two reports, at least.
    pub gap: Duration,
    /// Time between two reports where nothing changes: half as much more or less.
    pub every: Duration,
}

/// What is reported.
#[derive(Debug)]
pub(super) struct Reporter {
    pub(super) node: NodeId,
    pub(super) address: Option<HostPort>,
    pub(super) servers: Servers,
    pub(super) losses: Option<Losses>,
    pub(super) began: Instant,
    pub(super) pace: Pace,
}

impl Reporter {
    /// Goes on until it is dropped, or the control plane turns out to know no reports.
    pub(super) async fn run(self, channel: Channel) {
        loop {
            let Err(status) = self.stream(channel.clone()).await else { return };
            match status.code() {
                Code::Unimplemented => {
                    tracing::info!("the control plane takes no reports");
                    return;
                }
                Code::Aborted | Code::Unavailable | Code::Cancelled | Code::Unknown => {
                    tracing::debug!(error = status.message(), "stream of reports ended");
                }
                code => {
                    tracing::warn!(
                        error = status.message(),
                        ?code,
                        "the control plane does not take reports"
                    );
                }
            }
            let again = rand::rng().random_range(AGAIN_SECS);
            sleep(Duration::from_secs_f64(again)).await;
        }
    }

    async fn stream(&self, channel: Channel) -> Result<(), Status> {
        let mut changes = self.servers.changes();
        let (reports, outgoing) = mpsc::channel(1);
        let mut sequence = 1;
        let mut told = self.servers.told();
        // The first is there before the stream is: it is by its first report that a stream is taken.
        let _ = reports.try_send(self.report(sequence, &told));
        let mut client = StatusClient::new(channel).max_decoding_message_size(RECEIPT_BYTES_MAX);
        let opening = client.report(ReceiverStream::new(outgoing));
        let mut receipts = late(timeout(RECEIPT_TIMEOUT, opening).await)?.into_inner();
        loop {
            let sent = Instant::now();
            while received(&mut receipts).await? != sequence {}
            told = self.next(&mut changes, &mut receipts, sent, told).await?;
            sequence += 1;
            if reports.try_send(self.report(sequence, &told)).is_err() {
                return Err(Status::unavailable("reports are not taken in time"));
            }
        }
    }

    /// Waits until there is something to report, and returns it.
    async fn next(
        &self,
        changes: &mut watch::Receiver<()>,
        receipts: &mut Streaming<pb::ReportReceipt>,
        sent: Instant,
        told: Vec<Told>,
    ) -> Result<Vec<Told>, Status> {
        let due = sent + self.pace.every.mul_f64(rand::rng().random_range(0.5..=1.5));
        let drain = self.servers.drain();
        // What is told already needs no haste.
        let is_draining = told.iter().any(|it| it.health == Health::Draining) || drain.is_cancelled();
        let mut early = due;
        loop {
            tokio::select! {
                () = drain.cancelled(), if !is_draining => return Ok(self.servers.told()),
                () = sleep_until(early) => {
                    let now = self.servers.told();
                    if early >= due || !alike(&told, &now) {
                        return Ok(now);
                    }
                    early = due;
                }
                changed = changes.changed() => match changed {
                    Ok(()) => early = due.min(sent + self.pace.gap),
                    // There are no servers any more, and so no sidecar.
                    Err(_) => return Err(Status::cancelled("stopping")),
                },
                receipt = receipts.message() => {
                    receipt?.ok_or_else(|| Status::unavailable("the control plane ended the stream"))?;
                }
            }
        }
    }

    fn report(&self, sequence: u64, told: &[Told]) -> pb::WorkloadReport {
        let uptime = prost_types::Duration::try_from(self.began.elapsed()).ok();
        pb::WorkloadReport {
            sequence,
            node: self.node.as_str().to_owned(),
            inbound_address: self.address.as_ref().map(ToString::to_string).unwrap_or_default(),
            servers: told.iter().take(SERVERS_MAX).map(server).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime,
            clock: Some(clock::now().into()),
            losses: self.losses.as_ref().map(Losses::told),
            state_room: self.losses.as_ref().and_then(Losses::room),
        }
    }
}

fn server(told: &Told) -> pb::ServedServer {
    let health = match told.health {
        Health::Starting => pb::Health::Starting,
        Health::Serving => pb::Health::Serving,
        Health::Degraded(_) => pb::Health::Degraded,
        Health::Draining => pb::Health::Draining,
    };
    pb::ServedServer {
        server: told.server.to_string(),
        health: health.into(),
        detail: clipped(told.health.detail()).to_owned(),
        in_flight: told.in_flight,
        exposed_at: told.exposed_at.iter().take(EXPOSED_MAX).map(ToString::to_string).collect(),
    }
}

fn clipped(text: &str) -> &str {
    let end = (0..=DETAIL_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

/// Whether two reports say the same of every server's health, and of where it is exposed. How many calls are under way is no news.
fn alike(one: &[Told], other: &[Told]) -> bool {
    let of = |it: &Told| (it.server.clone(), it.health.clone(), it.exposed_at.clone());
    one.iter().map(of).eq(other.iter().map(of))
}

/// The number of the next receipt, within the time for one.
async fn received(receipts: &mut Streaming<pb::ReportReceipt>) -> Result<u64, Status> {
    let receipt = late(timeout(RECEIPT_TIMEOUT, receipts.message()).await)?;
    let receipt = receipt.ok_or_else(|| Status::unavailable("the control plane ended the stream"))?;
    Ok(receipt.acknowledged_sequence)
}

fn late<T>(answer: Result<Result<T, Status>, tokio::time::error::Elapsed>) -> Result<T, Status> {
    answer.unwrap_or_else(|_| Err(Status::unavailable("the control plane does not answer reports")))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use super::*;

    fn told(health: Health, in_flight: u32) -> Vec<Told> {
        vec![Told { server: "research/files".into(), health, in_flight, exposed_at: Arc::default() }]
    }

    #[test]
    fn calls_under_way_are_no_news_and_another_reason_is() {
        let degraded = |why: &str| Health::Degraded(why.into());
        assert!(alike(&told(Health::Serving, 1), &told(Health::Serving, 9)));
        assert!(!alike(&told(Health::Serving, 1), &told(degraded("a"), 1)));
        assert!(!alike(&told(degraded("a"), 1), &told(degraded("b"), 1)));
        assert!(!alike(&told(Health::Serving, 1), &[]));
    }

    #[test]
    fn where_a_server_is_exposed_is_news_and_the_first_places_are_told() {
        let at: Arc<[SocketAddr]> = (1..=20).map(|port| SocketAddr::from(([0, 0, 0, 0], port))).collect();
        let exposed = [Told { exposed_at: at, ..told(Health::Serving, 1).remove(0) }];
        assert!(!alike(&told(Health::Serving, 1), &exposed) && alike(&exposed, &exposed));
        let sent = server(&exposed[0]).exposed_at;
        assert_eq!((sent.len(), sent[0].as_str()), (EXPOSED_MAX, "0.0.0.0:1"));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        assert_eq!(clipped("short"), "short");
        let long = format!("{}é", "x".repeat(DETAIL_BYTES_MAX - 1));
        assert_eq!(clipped(&long), "x".repeat(DETAIL_BYTES_MAX - 1));
        assert_eq!(server(&told(Health::Degraded(long.into()), 1)[0]).detail.len(), DETAIL_BYTES_MAX - 1);
    }
}
