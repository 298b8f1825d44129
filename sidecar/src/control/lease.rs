//! Borrows shares of mesh-wide limits from the control plane, on a stream beside that of discovery and over the same
//! connection.
//!
//! What is decided by is never waited for here: without this stream, what limits say of that holds.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
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
const OUTGOING_MAX: usize = 4;
/// Time between two reports, at least: a flood of new keys must not be one of reports, and the control plane takes no
/// more than so many of them. With more keys than reports in that time can tell of, each is told of less often.
const GAP: Duration = Duration::from_millis(25);
/// Time in which the connection takes a report.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
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

/// Reports that are made as they are sent, each with when that was.
type Reports = Box<dyn Iterator<Item = (pb::LeaseReport, u64)> + Send>;

/// What is sent on a stream, and was.
struct Sending {
    to: mpsc::Sender<pb::LeaseReport>,
    node: NodeId,
    timing: Timing,
    /// What is left to tell of everything, and of what is urgent. They take turns, so that neither waits for the other.
    all: Option<Reports>,
    urgent: Option<Reports>,
    urgent_is_next: bool,
    /// When the reports were made that are not answered yet, by the clock of the counts.
    made: BTreeMap<u64, u64>,
    /// When everything was to be reported.
    began: Instant,
    /// When anything was, or nothing was left to report.
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
        let mut sending = Sending::new(reports, self.node.clone());
        let mut client = QuotaClient::new(channel).max_decoding_message_size(GRANT_BYTES_MAX);
        // The first is there before the stream is: it is by its first report that a stream is taken.
        sending.all = Some(self.reports(true, sending.timing));
        sending.next().await?;
        let opening = timeout(OPEN_TIMEOUT, client.lease(ReceiverStream::new(outgoing))).await;
        let mut grants = opening.map_err(|_| Status::unavailable("no leases in time"))??.into_inner();
        loop {
            let due = sending.began + Duration::from_nanos(sending.timing.refresh_nanos);
            tokio::select! {
                grant = grants.message() => {
                    let ended = || Status::unavailable("the control plane ended the stream");
                    self.take(&grant?.ok_or_else(ended)?, &mut sending);
                }
                sent = sending.next(), if sending.has_some() => sent?,
                () = sleep_until(due), if sending.all.is_none() => {
                    sending.began = Instant::now();
                    sending.all = Some(self.reports(true, sending.timing));
                }
                () = self.quotas.asked(), if sending.urgent.is_none() => {
                    sending.urgent = Some(self.reports(false, sending.timing));
                }
            }
        }
    }

    fn reports(&self, all: bool, timing: Timing) -> Reports {
        Box::new(self.quotas.lease_reports(all, KEYS_PER_REPORT_MAX, timing))
    }

    fn take(&self, grant: &pb::LeaseGrant, sending: &mut Sending) {
        sending.timing = Timing {
            lease_nanos: nanos(grant.valid_for).unwrap_or(TIMING.lease_nanos),
            refresh_nanos: nanos(grant.refresh_after).unwrap_or(TIMING.refresh_nanos).max(REFRESH_NANOS_MIN),
            drift_per_million: DRIFT_PER_MILLION,
        };
        let answers = grant.acknowledged_sequence;
        let asked_at = if answers > 0 { sending.made.remove(&answers) } else { None };
        if answers == 0 || asked_at.is_some() {
            self.quotas.take_leases(grant, asked_at, sending.timing);
        }
    }
}

impl Sending {
    fn new(to: mpsc::Sender<pb::LeaseReport>, node: NodeId) -> Self {
        let now = Instant::now();
        Self {
            to,
            node,
            timing: TIMING,
            all: None,
            urgent: None,
            urgent_is_next: false,
            made: BTreeMap::new(),
            began: now,
            last: now,
        }
    }

    const fn has_some(&self) -> bool {
        self.all.is_some() || self.urgent.is_some()
    }

    /// Sends the next report once it is time and the connection takes one; nothing if it is dropped before. What there is
    /// to report is found out only then.
    async fn next(&mut self) -> Result<(), Status> {
        let due = self.last + GAP;
        sleep_until(due).await;
        let taken = timeout_at(due.max(self.began) + SEND_TIMEOUT, self.to.reserve()).await;
        let Ok(Ok(permit)) = taken else {
            return Err(Status::unavailable("reports are not taken in time"));
        };
        let turns = [self.urgent_is_next, !self.urgent_is_next];
        let made = turns.into_iter().find_map(|is_urgent| {
            let reports = if is_urgent { &mut self.urgent } else { &mut self.all };
            let next = reports.as_mut()?.next();
            if next.is_none() {
                *reports = None;
            }
            next.map(|next| (is_urgent, next))
        });
        let Some((is_urgent, (mut report, at))) = made else { return Ok(()) };
        self.urgent_is_next = !is_urgent;
        report.node = self.node.as_str().to_owned();
        self.made.insert(report.sequence, at);
        if self.made.len() > UNANSWERED_MAX {
            self.made.pop_first();
        }
        self.last = Instant::now();
        permit.send(report);
        Ok(())
    }
}

fn nanos(duration: Option<prost_types::Duration>) -> Option<u64> {
    let duration = Duration::try_from(duration?).ok()?;
    u64::try_from(duration.as_nanos()).ok().filter(|nanos| *nanos > 0)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    static SEQUENCE: AtomicU64 = AtomicU64::new(1);

    /// So many reports.
    fn reports(many: usize, handle: u64) -> Reports {
        let made = std::iter::repeat_with(move || {
            let demands = vec![pb::LeaseDemand { handle, ..pb::LeaseDemand::default() }; KEYS_PER_REPORT_MAX];
            let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
            (pb::LeaseReport { sequence, demands, ..pb::LeaseReport::default() }, 0)
        });
        Box::new(made.take(many))
    }

    fn sending() -> (Sending, mpsc::Receiver<pb::LeaseReport>) {
        let (to, outgoing) = mpsc::channel(OUTGOING_MAX);
        (Sending::new(to, NodeId::parse("research/files-1").unwrap()), outgoing)
    }

    async fn send_all(sending: &mut Sending) -> Result<(), Status> {
        while sending.has_some() {
            sending.next().await?;
        }
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn any_number_of_keys_is_told_of_at_a_pace_that_is_taken() {
        let (mut sending, mut outgoing) = sending();
        // As many counts as a sidecar has.
        let many = 131_072 / KEYS_PER_REPORT_MAX;
        sending.all = Some(reports(many, 1));
        let began = Instant::now();
        let taken = async {
            for n in 0..many {
                let report = outgoing.recv().await.unwrap();
                assert_eq!(
                    (report.demands.len(), &*report.node),
                    (KEYS_PER_REPORT_MAX, "research/files-1"),
                    "{n}"
                );
            }
        };
        let (sent, ()) = tokio::join!(send_all(&mut sending), taken);
        sent.unwrap();
        let took = began.elapsed();
        // The control plane takes 50 each second.
        let fastest = Duration::from_secs(many as u64) / 50;
        assert!(took > fastest && took < Duration::from_nanos(TIMING.lease_nanos) / 2, "it took {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_urgent_waits_for_no_more_than_one_report_of_everything_and_keeps_none_of_it_waiting() {
        let (mut sending, mut outgoing) = sending();
        sending.all = Some(reports(20, 1));
        let mut order = Vec::new();
        while sending.all.is_some() {
            if sending.urgent.is_none() && order.len() > 3 {
                sending.urgent = Some(reports(8, 2));
            }
            sending.next().await.unwrap();
            order.extend(outgoing.try_recv().map(|report| report.demands[0].handle));
        }
        assert_eq!(order[..8], [1, 1, 1, 1, 2, 1, 2, 1]);
        let of_all = order.iter().filter(|handle| **handle == 1).count();
        assert!(of_all == 20 && order.len() <= 40, "{order:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_whose_reports_nobody_takes_but_not_before() {
        let (mut sending, _outgoing) = sending();
        sending.all = Some(reports(100, 1));
        let began = Instant::now();
        let ended = send_all(&mut sending).await.unwrap_err();
        assert_eq!(ended.code(), Code::Unavailable);
        assert_eq!(sending.made.len(), OUTGOING_MAX);
        let took = began.elapsed();
        assert!(took >= SEND_TIMEOUT && took < SEND_TIMEOUT * 2, "it took {took:?}");
    }
}
