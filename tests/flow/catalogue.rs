//! Reports of what servers offer, as the control plane hears them: what it asks for, what it takes, and what it refuses.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use weft_control_plane::catalog::Entry;
use weft_proto::catalogue::digest;
use weft_proto::pb::weft::catalog::v1::catalog_client::CatalogClient;
use weft_proto::pb::weft::catalog::v1::{CapabilityReport, Item, ItemKind, ReportAnswer};
use weft_proto::wire::ResourceType;
use weft_tests::link::Channel;

use crate::mesh::{Mesh, Stream, eventually};

const SERVER: &str = "apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: { namespace: research, name: files }\n\
    spec: { stdio: { command: x } }\n";

/// A sidecar that reports.
struct Sidecar {
    reports: mpsc::Sender<CapabilityReport>,
    answers: Streaming<ReportAnswer>,
    node: String,
    sequence: u64,
    _discovery: Stream,
}

impl Sidecar {
    async fn start(mesh: &Mesh, number: u16) -> Self {
        let workload = mesh.workload("research", "files").await;
        let channel = mesh.connect(&workload).await.unwrap();
        Self::beside(channel, number).await
    }

    async fn beside(channel: Channel, number: u16) -> Self {
        let (node, address) = (format!("research/files-{number}"), format!("10.0.0.{number}:7443"));
        let types = [ResourceType::Server];
        let mut discovery =
            Stream::instance(channel.clone(), &node, "research/files", &address, &types).await;
        // The server may have been applied a moment ago.
        while discovery.next().await.unwrap().resources.is_empty() {}
        let (reports, outgoing) = mpsc::channel(4);
        let answers = CatalogClient::new(channel).report(ReceiverStream::new(outgoing)).await.unwrap();
        Self { reports, answers: answers.into_inner(), node, sequence: 0, _discovery: discovery }
    }

    async fn send(&mut self, report: CapabilityReport) -> Result<ReportAnswer, Status> {
        self.sequence += 1;
        let report = CapabilityReport {
            server: if report.server.is_empty() {
                "research/files".to_owned()
            } else {
                report.server.clone()
            },
            node: if report.node.is_empty() { self.node.clone() } else { report.node.clone() },
            sequence: self.sequence,
            ..report
        };
        self.reports.send(report).await.map_err(|_| Status::cancelled("nobody listens"))?;
        let answer = self.answers.message().await?;
        answer.ok_or_else(|| Status::cancelled("the stream ended"))
    }

    /// Tells of one tool, as a sidecar does.
    async fn tell(&mut self, description: &str) -> ReportAnswer {
        let answer = self.send(full(vec![tool(description, false)])).await.unwrap();
        match answer.wanted_digests.is_empty() {
            true => answer,
            false => self.send(change(vec![tool(description, true)])).await.unwrap(),
        }
    }
}

fn tool(description: &str, with_definition: bool) -> Item {
    let definition = format!(r#"{{"name":"read","description":"{description}"}}"#);
    Item {
        kind: ItemKind::Tool.into(),
        name: "read".to_owned(),
        digest: digest(&definition).unwrap().to_vec().into(),
        definition: if with_definition { definition.into() } else { bytes::Bytes::new() },
    }
}

fn full(changed: Vec<Item>) -> CapabilityReport {
    CapabilityReport { full: true, changed, ..CapabilityReport::default() }
}

fn change(changed: Vec<Item>) -> CapabilityReport {
    CapabilityReport { changed, ..CapabilityReport::default() }
}

fn entry(mesh: &Mesh) -> Option<Entry> {
    mesh.running.catalogue.entry(&"research/files".parse().unwrap())
}

fn definition(mesh: &Mesh) -> String {
    entry(mesh).unwrap().known.unwrap().offer.items()[0].definition.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_is_asked_for_once_and_most_sidecars_say_what_is_offered() {
    let mesh = Mesh::start().await;
    mesh.apply(SERVER).await;
    let mut first = Sidecar::start(&mesh, 1).await;
    let bare = first.send(full(vec![tool("old", false)])).await.unwrap();
    assert_eq!(bare.wanted_digests, [tool("old", false).digest]);
    assert!(entry(&mesh).unwrap().known.is_none(), "it does not count yet");
    let whole = first.send(change(vec![tool("old", true)])).await.unwrap();
    assert_eq!(whole.wanted_digests.len(), 0);
    let mut second = Sidecar::start(&mesh, 2).await;
    let again = second.send(full(vec![tool("old", false)])).await.unwrap();
    assert_eq!(again.wanted_digests.len(), 0, "it is had already");

    let mut third = Sidecar::start(&mesh, 3).await;
    third.tell("new").await;
    assert!(definition(&mesh).contains("old"));
    let agreeing = |mesh: &Mesh| entry(mesh).unwrap().replicas.iter().map(|it| it.agrees).collect::<Vec<_>>();
    assert_eq!(agreeing(&mesh), [Some(true), Some(true), Some(false)]);
    second.tell("new").await;
    assert!(definition(&mesh).contains("new"));
    assert_eq!(agreeing(&mesh), [Some(false), Some(true), Some(true)]);

    // Who goes is not asked any more; who comes back is.
    drop((second, third));
    eventually("the only one left is believed", || definition(&mesh).contains("old")).await;
    first.send(CapabilityReport { nothing: true, ..CapabilityReport::default() }).await.unwrap();
    assert!(entry(&mesh).unwrap().away_since.is_some());
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_that_are_not_the_sidecars_or_not_in_order_end_their_stream_with_the_reason() {
    let mesh = Mesh::start().await;
    mesh.apply(SERVER).await;
    let wrong_digest = Item { digest: tool("x", false).digest, ..tool("y", true) };
    let foreign = CapabilityReport { server: "other/files".to_owned(), ..full(Vec::new()) };
    let elsewhere = CapabilityReport { server: "research/mail".to_owned(), ..full(Vec::new()) };
    let node = CapabilityReport { node: "other/files-1".to_owned(), ..full(Vec::new()) };
    let many = full(vec![tool("x", false); weft_proto::offer::ITEMS_MAX + 1]);
    for (number, report, code) in [
        (1, full(vec![wrong_digest]), Code::InvalidArgument),
        (2, foreign, Code::PermissionDenied),
        (3, node, Code::PermissionDenied),
        (4, elsewhere, Code::FailedPrecondition),
        (5, many, Code::ResourceExhausted),
        (6, change(Vec::new()), Code::InvalidArgument),
    ] {
        let mut sidecar = Sidecar::start(&mesh, number).await;
        let refused = sidecar.send(report).await.unwrap_err();
        assert_eq!(refused.code(), code, "{number}: {refused:?}");
    }
    assert!(entry(&mesh).is_none_or(|it| it.known.is_none()));
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_servers_offered_is_published_again_before_sidecars_are_let_in() {
    let mesh = Mesh::start().await;
    mesh.apply(SERVER).await;
    let mut sidecar = Sidecar::start(&mesh, 1).await;
    sidecar.tell("old").await;
    let published = |mesh: &Mesh| {
        let counts = mesh.running.hub.counts();
        counts.into_iter().find_map(|(ty, count)| (ty == ResourceType::Offer).then_some(count))
    };
    eventually("it is published", || published(&mesh) == Some(1)).await;
    drop(sidecar);
    // Each start is another race between the two files that are read.
    let mut folder = mesh.stop().await;
    for _ in 0..5 {
        let again = Mesh::again(folder, |_| {}).await;
        assert_eq!(published(&again), Some(1));
        folder = again.stop().await;
    }
}
