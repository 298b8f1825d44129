//! Sidecars that tell how they are, as the control plane hears them: what it takes, what it shows, and what others are
//! told of it.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use weft_proto::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use weft_proto::pb::weft::status::v1::status_client::StatusClient;
use weft_proto::pb::weft::status::v1::{Health, ReportReceipt, ServedServer, WorkloadReport};
use weft_proto::wire::ResourceType;
use weft_tests::link::Channel;

use crate::mesh::{Mesh, Stream, eventually};

const SERVER: &str = "apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: { namespace: research, name: files }\n\
    spec: { stdio: { command: x } }\n";

/// A stream of reports.
struct Reports {
    reports: mpsc::Sender<WorkloadReport>,
    receipts: Streaming<ReportReceipt>,
    last: WorkloadReport,
}

impl Reports {
    async fn open(channel: Channel, first: WorkloadReport) -> Result<Self, Status> {
        let (reports, outgoing) = mpsc::channel(64);
        reports.send(first.clone()).await.unwrap();
        let receipts = StatusClient::new(channel).report(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { reports, receipts, last: first })
    }

    /// The number of the report that was taken.
    async fn receipt(&mut self) -> Result<u64, Status> {
        let receipt = self.receipts.message().await?;
        Ok(receipt.ok_or_else(|| Status::cancelled("the stream ended"))?.acknowledged_sequence)
    }

    async fn send(&mut self, change: impl FnOnce(&mut WorkloadReport)) -> Result<u64, Status> {
        self.last.sequence += 1;
        change(&mut self.last);
        self.reports.send(self.last.clone()).await.map_err(|_| Status::cancelled("nobody listens"))?;
        self.receipt().await
    }

    async fn say(&mut self, health: Health) {
        self.send(|report| report.servers[0].health = health.into()).await.unwrap();
    }
}

fn report(node: &str, health: Health) -> WorkloadReport {
    let server = "research/files".to_owned();
    let detail = "the disk is full".to_owned();
    WorkloadReport {
        sequence: 1,
        node: node.to_owned(),
        inbound_address: "10.0.0.1:7443".to_owned(),
        servers: vec![ServedServer {
            server,
            health: health.into(),
            detail,
            in_flight: 3,
            exposed_at: Vec::new(),
        }],
        version: "9.9.9".to_owned(),
        ..WorkloadReport::default()
    }
}

/// An instance of the server, connected and known.
async fn instance(mesh: &Mesh, number: u16) -> (Channel, Stream) {
    let workload = mesh.workload("research", "files").await;
    let channel = mesh.connect(&workload).await.unwrap();
    let (node, address) = (format!("research/files-{number}"), format!("10.0.0.{number}:7443"));
    let types = [ResourceType::Server];
    let mut stream = Stream::instance(channel.clone(), &node, "research/files", &address, &types).await;
    stream.next().await.unwrap();
    (channel, stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_shown_beside_its_sidecar_and_goes_with_its_stream() {
    let mesh = Mesh::start().await;
    mesh.apply(SERVER).await;
    let (channel, stream) = instance(&mesh, 1).await;
    let shown = || mesh.running.hub.status()[0].report.clone();
    assert_eq!(shown(), None);
    let first = report("research/files-1", Health::Degraded);
    let mut reports = Reports::open(channel.clone(), first.clone()).await.unwrap();
    assert_eq!(reports.receipt().await.unwrap(), 1);
    let told = shown().unwrap();
    let served = told.servers.values().next().unwrap();
    assert_eq!(
        (served.health.word(), &served.detail[..], served.in_flight),
        ("degraded", "the disk is full", 3)
    );
    assert_eq!(
        (&told.version[..], told.inbound_address.as_ref().unwrap().as_str()),
        ("9.9.9", "10.0.0.1:7443")
    );
    assert_eq!(reports.send(|it| it.servers.clear()).await.unwrap(), 2);
    assert_eq!(shown().unwrap().health(), None);

    // Whoever comes last reports; who came before is told so, and takes nothing away when it goes.
    let mut newer = Reports::open(channel.clone(), first.clone()).await.unwrap();
    assert_eq!(newer.receipt().await.unwrap(), 1);
    assert_eq!(reports.receipt().await.unwrap_err().code(), Code::Aborted);
    drop(reports);
    newer.say(Health::Serving).await;
    assert_eq!(shown().unwrap().health().unwrap().word(), "serving");
    drop(newer);
    eventually("the report goes with its stream", || shown().is_none()).await;

    let mut last = Reports::open(channel, first).await.unwrap();
    assert_eq!(last.receipt().await.unwrap(), 1);
    drop(stream);
    assert_eq!(last.receipt().await.unwrap_err().code(), Code::Aborted);
    eventually("the sidecar is gone", || !mesh.running.hub.status()[0].connected).await;
    assert_eq!(shown(), None);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_the_certificate_does_not_allow_or_beyond_a_limit_ends_its_stream_with_the_reason() {
    let mesh = Mesh::start().await;
    mesh.apply(SERVER).await;
    let stranger = Reports::open(mesh.stranger().await, report("research/files-1", Health::Serving)).await;
    assert_eq!(stranger.err().unwrap().code(), Code::Unauthenticated);
    let (channel, _stream) = instance(&mesh, 1).await;
    let check = async |change: fn(&mut WorkloadReport), code: Code, why: &str| {
        let mut first = report("research/files-1", Health::Serving);
        change(&mut first);
        let refused = Reports::open(channel.clone(), first).await.unwrap().receipt().await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(why), "{:?} should contain {why:?}", refused.message());
    };
    check(|it| it.node = "payments/ledger-1".to_owned(), Code::PermissionDenied, "not in the namespace")
        .await;
    check(|it| it.node = "research/files-2".to_owned(), Code::FailedPrecondition, "no discovery stream")
        .await;
    check(|it| it.servers[0].server = "payments/x".to_owned(), Code::PermissionDenied, "namespace").await;
    check(|it| it.servers = vec![it.servers[0].clone(); 257], Code::ResourceExhausted, "at most 256").await;
    check(|it| it.servers[0].detail = "x".repeat(513), Code::InvalidArgument, "512 bytes").await;
    check(|it| it.servers[0].detail = "x".repeat(300 << 10), Code::ResourceExhausted, "too large").await;
    check(|it| it.servers[0].health = 0, Code::InvalidArgument, "none that is known").await;
    check(|it| it.sequence = 0, Code::InvalidArgument, "comes after").await;

    let good = || report("research/files-1", Health::Serving);
    let mut reports = Reports::open(channel.clone(), good()).await.unwrap();
    assert_eq!(reports.receipt().await.unwrap(), 1);
    let backwards = reports.send(|it| it.sequence = 1).await.unwrap_err();
    assert_eq!(backwards.code(), Code::InvalidArgument);
    let mut reports = Reports::open(channel, good()).await.unwrap();
    assert_eq!(reports.receipt().await.unwrap(), 1);
    let flood = async {
        loop {
            if let Err(status) = reports.send(|_| {}).await {
                return (reports.last.sequence, status);
            }
        }
    };
    let (taken, refused) = tokio::time::timeout(Duration::from_secs(20), flood).await.unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(taken > 10, "ten are taken at once: {taken}");
    assert!(mesh.running.hub.status()[0].connected, "the discovery stream is left alone");
    mesh.stop().await;
}

/// A sidecar that calls, and what it is told of the server's instances.
struct Caller(Stream);

impl Caller {
    async fn join(mesh: &Mesh) -> Self {
        let workload = mesh.workload("agents", "bot").await;
        let channel = mesh.connect(&workload).await.unwrap();
        Self(Stream::calling(channel, "agents/bot", &[ResourceType::Endpoints]).await)
    }

    /// The instances of the next response, by the last part of their addresses.
    async fn told(&mut self) -> Vec<u8> {
        let next = tokio::time::timeout(Duration::from_secs(20), self.0.next()).await;
        let response: DeltaDiscoveryResponse = next.expect("the caller is told").unwrap();
        // A server without instances has no endpoints to tell of.
        let Some(resource) = response.resources.first() else { return Vec::new() };
        let text = String::from_utf8_lossy(&resource.resource.as_ref().unwrap().value);
        (1..=9).filter(|n| text.contains(&format!("10.0.0.{n}:7443"))).collect()
    }

    /// The first that it is told of may have come before the others did.
    async fn comes_to_know(&mut self, all: &[u8]) {
        while self.told().await != all {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_are_told_of_no_instance_that_does_not_serve_unless_none_does() {
    let mesh = Mesh::with(|config| config.xds.reports.hold = Duration::ZERO).await;
    mesh.apply(SERVER).await;
    let (one, _one) = instance(&mesh, 1).await;
    let (two, two_stream) = instance(&mesh, 2).await;
    let mut caller = Caller::join(&mesh).await;
    caller.comes_to_know(&[1, 2]).await;
    let serving = |number: u16| report(&format!("research/files-{number}"), Health::Serving);
    let mut one = Reports::open(one, serving(1)).await.unwrap();
    let mut two = Reports::open(two, serving(2)).await.unwrap();
    assert_eq!((one.receipt().await.unwrap(), two.receipt().await.unwrap()), (1, 1));
    for health in [Health::Degraded, Health::Starting, Health::Draining] {
        one.say(health).await;
        assert_eq!(caller.told().await, [2], "{health:?}");
        one.say(Health::Serving).await;
        assert_eq!(caller.told().await, [1, 2]);
    }
    one.say(Health::Degraded).await;
    assert_eq!(caller.told().await, [2]);
    two.say(Health::Degraded).await;
    assert_eq!(caller.told().await, [1, 2], "somebody may still answer");
    two.say(Health::Serving).await;
    assert_eq!(caller.told().await, [2]);
    // Nobody knows how one is that has left without a word.
    drop((two, two_stream));
    assert_eq!(caller.told().await, [1, 2]);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_changes_its_mind_all_the_time_is_told_of_now_and_then() {
    let hold = Duration::from_secs(1);
    let mesh = Mesh::with(|config| config.xds.reports.hold = hold).await;
    mesh.apply(SERVER).await;
    let (one, _one) = instance(&mesh, 1).await;
    let (_two, _two_stream) = instance(&mesh, 2).await;
    let mut caller = Caller::join(&mesh).await;
    caller.comes_to_know(&[1, 2]).await;
    let mut one = Reports::open(one, report("research/files-1", Health::Degraded)).await.unwrap();
    assert_eq!(one.receipt().await.unwrap(), 1);
    let began = std::time::Instant::now();
    for health in [Health::Serving, Health::Degraded, Health::Serving, Health::Degraded, Health::Serving] {
        one.say(health).await;
    }
    assert!(began.elapsed() < hold, "the machine is too slow for this story");
    assert_eq!(caller.told().await, [2], "bad news travels at once");
    assert_eq!(caller.told().await, [1, 2], "and then its last word counts");
    assert!(began.elapsed() >= hold * 9 / 10, "told again after {:?}", began.elapsed());
    mesh.stop().await;
}
