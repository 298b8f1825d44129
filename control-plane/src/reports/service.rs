//! One sidecar's stream of reports, from its first to its end.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use weft_proto::name::{NodeId, ServerName, Workload};
use weft_proto::pb::weft::status::v1::status_server::Status as StatusService;
use weft_proto::pb::weft::status::v1::{ReportReceipt, WorkloadReport};

use super::Settings;
use super::read::{self, Error};
use crate::clock;
use crate::identity::Bucket;
use crate::metrics::ReasonLabel;
use crate::peer::Peer;
use crate::xds::{Hub, Reporter};

/// Receipts that wait for the connection to take them.
const OUTGOING_MAX: usize = 1;

/// The service that takes reports.
#[derive(Clone, Debug)]
pub struct Reports {
    hub: Arc<Hub>,
    settings: Settings,
}

impl Reports {
    pub fn new(hub: Arc<Hub>) -> Self {
        Self { settings: hub.report_settings(), hub }
    }
}

#[tonic::async_trait]
impl StatusService for Reports {
    type ReportStream = Pin<Box<dyn Stream<Item = Result<ReportReceipt, Status>> + Send>>;

    async fn report(
        &self,
        request: Request<Streaming<WorkloadReport>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let peer = Peer::of(&request)?;
        let identity = peer
            .workload()
            .ok_or_else(|| Status::unauthenticated("a client certificate of a workload is needed"))?;
        let (sender, receiver) = mpsc::channel(OUTGOING_MAX);
        let stream = ReportStream { reports: self.clone(), identity, sender };
        tokio::spawn(stream.run(request.into_inner()));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Why a stream ended, for the metric and, unless it ended quietly, for the sidecar.
struct End {
    reason: &'static str,
    status: Option<Status>,
}

impl End {
    const fn quietly(reason: &'static str) -> Self {
        Self { reason, status: None }
    }

    const fn with(reason: &'static str, status: Status) -> Self {
        Self { reason, status: Some(status) }
    }
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        let (reason, code) = match &error {
            error if error.is_about_identity() => ("denied", Code::PermissionDenied),
            Error::TooManyServers(_) => ("malformed", Code::ResourceExhausted),
            _ => ("malformed", Code::InvalidArgument),
        };
        Self::with(reason, Status::new(code, error.to_string()))
    }
}

struct ReportStream {
    reports: Reports,
    identity: Workload,
    sender: mpsc::Sender<Result<ReportReceipt, Status>>,
}

impl ReportStream {
    async fn run(self, mut reports: Streaming<WorkloadReport>) {
        let end = match self.admit(&mut reports).await {
            Ok((first, node, reporter)) => {
                let reporting = Reporting::new(&self, node, reporter);
                reporting.run(first, reports).await
            }
            Err(end) => end,
        };
        let metrics = &self.reports.hub.metrics();
        metrics.report_streams_ended.get_or_create(&ReasonLabel { reason: end.reason }).inc();
        if let Some(status) = end.status {
            tracing::info!(identity = %self.identity, reason = end.reason, error = status.message(),
                "reports of a sidecar are not taken any more");
            let _ = timeout(self.reports.settings.send_timeout, self.sender.send(Err(status))).await;
        }
    }

    /// Waits for the first report, and finds the sidecar that sends it among those that are connected.
    async fn admit(
        &self,
        reports: &mut Streaming<WorkloadReport>,
    ) -> Result<(WorkloadReport, NodeId, Reporter), End> {
        let mesh = self.reports.hub.trust_domain();
        if self.identity.trust_domain != mesh {
            let why = format!("the certificate's trust domain is not this mesh's {mesh}");
            return Err(End::with("denied", Status::permission_denied(why)));
        }
        let first = match timeout(self.reports.settings.first_timeout, reports.next()).await {
            Ok(Some(Ok(first))) => first,
            Ok(Some(Err(status))) => return Err(broken_off(status)),
            Ok(None) => return Err(End::quietly("closed")),
            Err(_) => return Err(End::with("silent", Status::deadline_exceeded("no report came in time"))),
        };
        let node = read::node(&first, &self.identity)?;
        let reporter = self.reports.hub.reporter(&self.identity.id(), &node).ok_or_else(|| {
            let why = "this sidecar has no discovery stream here; reports come beside one";
            End::with("unknown", Status::failed_precondition(why))
        })?;
        Ok((first, node, reporter))
    }
}

/// The loop of one sidecar that reports.
struct Reporting<'a> {
    stream: &'a ReportStream,
    node: NodeId,
    reporter: Reporter,
    bucket: Bucket,
    last_sequence: u64,
    /// What others were told of it last, and what they are yet to be told.
    told: BTreeSet<ServerName>,
    untold: Option<BTreeSet<ServerName>>,
    /// When others may be told something again.
    held_until: Instant,
}

impl<'a> Reporting<'a> {
    fn new(stream: &'a ReportStream, node: NodeId, reporter: Reporter) -> Self {
        let now = Instant::now();
        let bucket = Bucket::new(stream.reports.settings.rate, now);
        let (told, untold) = (BTreeSet::new(), None);
        Self { stream, node, reporter, bucket, last_sequence: 0, told, untold, held_until: now }
    }

    async fn run(mut self, first: WorkloadReport, mut reports: Streaming<WorkloadReport>) -> End {
        if let Err(end) = self.take(first).await {
            return end;
        }
        let hub = Arc::clone(&self.stream.reports.hub);
        let over = self.reporter.over();
        let mut heard = Instant::now();
        let end = loop {
            let silent_at = heard + self.stream.reports.settings.silence_max;
            tokio::select! {
                biased;
                () = over.cancelled() => {
                    let why = "another stream took over, or the discovery stream of this sidecar has ended";
                    break End::with("replaced", Status::aborted(why));
                }
                () = hub.stopping() => break End::quietly("shutdown"),
                report = reports.next() => {
                    heard = Instant::now();
                    let taken = match report {
                        Some(Ok(report)) => self.take(report).await,
                        Some(Err(status)) => Err(broken_off(status)),
                        None => Err(End::quietly("closed")),
                    };
                    if let Err(end) = taken {
                        break end;
                    }
                }
                () = sleep_until(self.held_until), if self.untold.is_some() => self.tell(),
                () = sleep_until(silent_at) => {
                    break End::with("silent", Status::deadline_exceeded("no report came in time"));
                }
            }
        };
        // Its last word counts, whatever became of the stream.
        self.tell();
        end
    }

    async fn take(&mut self, report: WorkloadReport) -> Result<(), End> {
        let Settings { rate, send_timeout, .. } = self.stream.reports.settings.clone();
        if self.bucket.take(rate, Instant::now()).is_err() {
            let why = format!(
                "more reports than are taken: {} at once, then {} each second",
                rate.burst, rate.per_second
            );
            return Err(End::with("too_many", Status::resource_exhausted(why)));
        }
        let sequence = report.sequence;
        if sequence <= self.last_sequence {
            return Err(Error::Sequence { found: sequence, last: self.last_sequence }.into());
        }
        let node = read::node(&report, &self.stream.identity)?;
        if node != self.node {
            return Err(Error::AnotherNode { found: node, expected: self.node.clone() }.into());
        }
        let report = read::read(report, &self.stream.identity, clock::now())?;
        self.last_sequence = sequence;
        self.untold = Some(report.unfit()).filter(|unfit| *unfit != self.told);
        self.stream.reports.hub.metrics().reports.inc();
        self.reporter.show(report);
        if Instant::now() >= self.held_until {
            self.tell();
        }
        let receipt = ReportReceipt { acknowledged_sequence: sequence };
        match timeout(send_timeout, self.stream.sender.send(Ok(receipt))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::quietly("closed")),
            Err(_) => Err(End::with("slow", Status::deadline_exceeded("a receipt was not taken in time"))),
        }
    }

    /// Tells the planner for which servers the sidecar does not serve, if that is news.
    fn tell(&mut self) {
        let Some(unfit) = self.untold.take() else { return };
        tracing::info!(node = %self.node, identity = %self.stream.identity, unfit = unfit.len(),
            "a sidecar says for how many of its servers it does not serve");
        self.reporter.tell(unfit.clone());
        self.told = unfit;
        self.held_until = Instant::now() + self.stream.reports.settings.hold;
    }
}

/// The end of a stream whose report could not be read. Too large a report is the sidecar's to mend, so it is told.
fn broken_off(status: Status) -> End {
    match status.code() {
        Code::Cancelled | Code::Unknown | Code::Unavailable => End::quietly("broken"),
        Code::OutOfRange => End::with("too_large", Status::resource_exhausted(status.message())),
        _ => End::with("malformed", status),
    }
}
