//! Borrows shares of mesh-wide limits from the control plane, on a stream beside that of discovery and over the same
//! connection.
//!
//! What is decided by is never waited for here: without this stream, what limits say of that holds.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use weft_proto::name::NodeId;
use weft_proto::pb::weft::quota::v1 as pb;
use weft_proto::pb::weft::quota::v1::quota_client::QuotaClient;
use weft_proto::policy::quota::lease::Timing;

use super::connect::Channel;
use crate::quota::Quotas;

/// Keys in one report.
const KEYS_PER_REPORT_MAX: usize = 512;
/// Largest grant, in bytes.
const GRANT_BYTES_MAX: usize = 1 << 20;
/// Reports that wait for the connection to take them.
const OUTGOING_MAX: usize = 64;
/// Time between two reports, at least: a flood of new keys must not be one of reports.
const GAP: Duration = Duration::from_millis(50);
/// Time until the stream is open.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// Time until leases are asked for again, at least and at most.
const AGAIN_SECS: std::ops::Range<f64> = 0.2..2.0;
/// Reports whose answers may still come.
const UNANSWERED_MAX: usize = 1024;
/// By how much clocks may differ. Only the lender counts with it.
const DRIFT_PER_MILLION: u64 = 10_000;
/// How leases are counted until the control plane says so.
const TIMING: Timing = Timing {
    lease_nanos: 15_000_000_000,
    refresh_nanos: 1_000_000_000,
    drift_per_million: DRIFT_PER_MILLION,
};
/// The shortest time between reports of everything that is believed.
const REFRESH_NANOS_MIN: u64 = 50_000_000;

/// Who borrows.
#[derive(Debug)]
pub(super) struct Borrower {
    pub(super) node: NodeId,
    pub(super) quotas: Quotas,
}

/// What was sent on a stream.
struct Sent {
    timing: Timing,
    /// When the reports were made that are not answered yet, by the clock of the counts.
    made: BTreeMap<u64, u64>,
    /// When everything was reported.
    all: Instant,
    /// When anything was.
    last: Instant,
}

impl Borrower {
    /// Goes on until it is dropped, or the control plane turns out to lend nothing.
    pub(super) async fn run(self, channel: Channel) {
        loop {
            let Err(status) = self.stream(channel.clone()).await else { return };
            if status.code() == Code::Unimplemented {
                tracing::info!("the control plane lends no shares of limits");
                return;
            }
            tracing::debug!(error = status.message(), code = ?status.code(), "stream of leases ended");
            let again = rand::rng().random_range(AGAIN_SECS);
            sleep(Duration::from_secs_f64(again)).await;
        }
    }

    async fn stream(&self, channel: Channel) -> Result<(), Status> {
        let (reports, outgoing) = mpsc::channel(OUTGOING_MAX);
        let now = Instant::now();
        let mut sent = Sent { timing: TIMING, made: BTreeMap::new(), all: now, last: now };
        let mut client = QuotaClient::new(channel).max_decoding_message_size(GRANT_BYTES_MAX);
        // The first is there before the stream is: it is by its first report that a stream is taken.
        self.report(true, &reports, &mut sent)?;
        let opening = timeout(OPEN_TIMEOUT, client.lease(ReceiverStream::new(outgoing))).await;
        let mut grants = opening.map_err(|_| Status::unavailable("no leases in time"))??.into_inner();
        loop {
            let due = sent.all + Duration::from_nanos(sent.timing.refresh_nanos);
            let last = sent.last;
            tokio::select! {
                grant = grants.message() => {
                    let ended = || Status::unavailable("the control plane ended the stream");
                    self.take(&grant?.ok_or_else(ended)?, &mut sent);
                }
                () = sleep_until(due) => self.report(true, &reports, &mut sent)?,
                () = self.urgent(last) => self.report(false, &reports, &mut sent)?,
            }
        }
    }

    /// Waits until it is time for another report and there is something urgent.
    async fn urgent(&self, last: Instant) {
        sleep_until(last + GAP).await;
        self.quotas.asked().await;
    }

    fn report(
        &self,
        all: bool,
        reports: &mpsc::Sender<pb::LeaseReport>,
        sent: &mut Sent,
    ) -> Result<(), Status> {
        let made = self.quotas.lease_reports(all, KEYS_PER_REPORT_MAX, sent.timing);
        sent.last = Instant::now();
        if all {
            sent.all = sent.last;
        }
        for (mut report, at) in made {
            report.node = self.node.as_str().to_owned();
            sent.made.insert(report.sequence, at);
            if sent.made.len() > UNANSWERED_MAX {
                sent.made.pop_first();
            }
            if reports.try_send(report).is_err() {
                return Err(Status::unavailable("reports are not taken in time"));
            }
        }
        Ok(())
    }

    fn take(&self, grant: &pb::LeaseGrant, sent: &mut Sent) {
        sent.timing = Timing {
            lease_nanos: nanos(grant.valid_for).unwrap_or(TIMING.lease_nanos),
            refresh_nanos: nanos(grant.refresh_after).unwrap_or(TIMING.refresh_nanos).max(REFRESH_NANOS_MIN),
            drift_per_million: DRIFT_PER_MILLION,
        };
        let answers = grant.acknowledged_sequence;
        let asked_at = if answers > 0 { sent.made.remove(&answers) } else { None };
        if answers == 0 || asked_at.is_some() {
            self.quotas.take_leases(grant, asked_at, sent.timing);
        }
    }
}

fn nanos(duration: Option<prost_types::Duration>) -> Option<u64> {
    let duration = Duration::try_from(duration?).ok()?;
    u64::try_from(duration.as_nanos()).ok().filter(|nanos| *nanos > 0)
}
