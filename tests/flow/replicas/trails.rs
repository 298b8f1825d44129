//! Audit trails that sidecars delivered, where the leader that took them is killed.

use std::time::{Duration, Instant};

use weft_certs::audit as seals;
use weft_control_plane::audit::{Known, WantedTrails};
use weft_control_plane::clock;
use weft_proto::audit::{Asked, Call, Cursor, Outcome, Report, Review, Seal, Trail, What};
use weft_proto::pb::weft::audit::v1::Shipment;
use weft_proto::pb::weft::audit::v1::audit_client::AuditClient;
use weft_tests::link::Workload;

use super::{Plane, Shared};
use crate::mesh::Mesh;

const NODE: &str = "research/files-1";

/// A sidecar, as far as its trail goes. It keeps what it delivered.
struct Node {
    workload: Workload,
    cursor: Cursor,
    written: Vec<u8>,
}

impl Node {
    async fn join(mesh: &Mesh) -> Self {
        let workload = mesh.workload("research", "files").await;
        Self { workload, cursor: Cursor::new(NODE, Trail::from_random(7)), written: Vec::new() }
    }

    /// Writes a call and seals it.
    fn write(&mut self, closes: bool) {
        let at = || clock::now().try_into().unwrap();
        if !self.cursor.is_open() {
            self.written.extend(self.cursor.begin_segment(at()));
        }
        let identity = self.workload.live.load().unwrap();
        let certificates = seals::certificates(&identity);
        if self.cursor.certificates() != certificates {
            self.written.extend(self.cursor.write(at(), What::Certificate(certificates)));
        }
        self.written.extend(self.cursor.write(at(), call()));
        let statement = self.cursor.statement(at(), closes);
        let seal = Seal {
            segment: statement.segment,
            count: statement.count,
            before: statement.before,
            closes,
            signature: seals::sign(&identity, &statement).unwrap(),
        };
        self.written.extend(self.cursor.write(statement.at, What::Seal(seal)));
    }

    /// Delivers all that it wrote; what is there already is passed over. Which line was wanted next, before and after.
    async fn deliver(&self, mesh: &Mesh) -> (u64, u64) {
        let trail = self.cursor.trail().to_string();
        let first = Shipment { node: NODE.to_owned(), trail, ..Shipment::default() };
        let all = Shipment { from: 1, lines: self.written.clone(), ..Shipment::default() };
        let mut client = AuditClient::new(mesh.connect(&self.workload).await.unwrap());
        let mut receipts = client.ship(tokio_stream::iter([first, all])).await.unwrap().into_inner();
        let mut next = async || receipts.message().await.unwrap().unwrap().next;
        (next().await, next().await)
    }
}

fn call() -> What {
    What::Call(Box::new(Call {
        id: "1".repeat(16),
        caller: "spiffe://flow.test/ns/agents/sa/one".to_owned(),
        tenant: None,
        server: "research/files".to_owned(),
        outcome: Outcome::Done,
        reason: "ok".to_owned(),
        rule: None,
        limit: None,
        detail: None,
        status: 200,
        era: "modern".to_owned(),
        request_bytes: 0,
        response_bytes: 0,
        duration_us: 0,
        asked: Asked { method: "tools/call".to_owned(), ..Asked::default() },
        result_digest: None,
        result: None,
    }))
}

impl Plane {
    async fn known(&self) -> Option<Known> {
        let wanted = WantedTrails { node: Some(NODE.to_owned()), after: None, limit: 9 };
        self.mesh.running.trails.known(wanted).await.unwrap().pop()
    }

    /// Waits until it has a trail up to a line.
    async fn has(&self, line: u64) {
        let began = Instant::now();
        let has =
            async || self.known().await.and_then(|it| it.segments.last().map(|it| it.last)) >= Some(line);
        while !has().await {
            assert!(began.elapsed() < Duration::from_secs(20), "line {line} is not copied");
            tokio::task::yield_now().await;
        }
    }

    /// As `weft audit verify` does.
    async fn verify(&self) -> Report {
        let (known, bundles) = (self.known().await.unwrap(), self.mesh.running.trust.bundles.load());
        let mut check = |statement: &_, seal: &_, chain: &[String]| {
            seals::check(statement, seal, chain, &bundles).map(drop).map_err(|error| error.to_string())
        };
        let mut review = Review::new(known.anchors.clone(), &mut check);
        for (at, segment) in known.segments.iter().enumerate() {
            let lines =
                self.mesh.running.trails.segment(NODE.to_owned(), known.trail.clone(), segment.number);
            review.segment(&lines.await.unwrap().unwrap(), at + 1 == known.segments.len());
        }
        review.finish()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trails_outlive_the_leader_that_took_them_and_verify_at_the_next() {
    let shared = Shared::new();
    // On threads of its own, which end as those of a process that is killed: in the midst of whatever they do.
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build().unwrap();
    let of_first = shared.clone();
    let start = async move {
        let first = of_first.start("first", |_| {}).await;
        first.lead().await;
        first
    };
    let first = threads.spawn(Box::pin(start)).await.unwrap();
    let mut node = Node::join(&first.mesh).await;
    for closes in [false, true, false] {
        node.write(closes);
    }
    node.deliver(&first.mesh).await;
    // It comes anew, and is told what there was and what comes.
    let second = shared.start("second", |_| {}).await;
    second.follow(&first).await;
    second.has(node.cursor.next() - 1).await;
    node.write(true);
    node.deliver(&first.mesh).await;
    let copied = node.cursor.next() - 1;
    second.has(copied).await;
    let (one, other) = (first.known().await.unwrap(), second.known().await.unwrap());
    assert_eq!((one.segments, one.anchors, one.identity), (other.segments, other.anchors, other.identity));
    // Perhaps nobody copies this any more.
    node.write(false);
    node.deliver(&first.mesh).await;
    threads.shutdown_background();

    second.lead().await;
    let report = second.verify().await;
    assert_eq!(report.findings, []);
    assert!(report.anchored_to >= copied && report.sealed_to >= copied, "{report:?}");
    let (wanted, next) = node.deliver(&second.mesh).await;
    assert!(wanted > copied && next == node.cursor.next(), "{wanted} and {next}");
    node.write(true);
    node.deliver(&second.mesh).await;
    let report = second.verify().await;
    let last = node.cursor.next() - 1;
    assert_eq!((report.findings, report.last, report.anchored_to), (Vec::new(), last, last));
    second.stop().await;
}
