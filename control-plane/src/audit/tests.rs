//! Trails as sidecars ship them, into a real database.

use std::collections::BTreeSet;

use weft_certs::audit as seals;
use weft_certs::bundle::Bundles;
use weft_certs::ca::{Ca, Kek, Limits};
use weft_certs::csr;
use weft_certs::tls::Identity;
use weft_proto::audit::{Asked, Call, Cursor, Outcome, Review, Seal, Trail, What};
use weft_proto::name::{SpiffeId, TrustDomain};

use super::service::take_for_test;
use super::*;

const NODE: &str = "research/files-1";
const ID: &str = "spiffe://corp.example/ns/research/sa/files";

struct Stage {
    identity: Identity,
    trails: Trails,
    trail: Trail,
    _folder: tempfile::TempDir,
}

impl Stage {
    fn new(settings: Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kek = Kek::from_text(&"0a".repeat(32)).unwrap();
        let domain = TrustDomain::parse("corp.example").unwrap();
        let path = folder.path().join("ca");
        let ca = Ca::open_or_create(&path, kek, domain, Limits::default(), clock::now()).unwrap();
        let request = csr::Request::generate().unwrap();
        let id = SpiffeId::parse(ID).unwrap();
        let issued = ca.issue(request.der(), &id, &[], Duration::from_secs(3600), clock::now()).unwrap();
        let identity = Identity::new(issued.chain, request.into_key()).unwrap();
        let trust = TrustStore::new(Bundles::new([ca.bundle()]).unwrap());
        let path = folder.path().join(FILE);
        let trails = Trails::open(Some(&path), settings, trust, Arc::new(Metrics::new())).unwrap();
        Self { identity, trails, trail: Trail::from_random(5), _folder: folder }
    }

    /// A segment with so many calls, closed.
    fn segment(&self, cursor: &mut Cursor, calls: usize) -> Vec<u8> {
        let mut bytes = cursor.begin_segment(stamp());
        bytes.extend(cursor.write(stamp(), What::Certificate(seals::certificates(&self.identity))));
        for number in 0..calls {
            bytes.extend(cursor.write(stamp(), call(number)));
        }
        let statement = cursor.statement(stamp(), true);
        let seal = Seal {
            segment: statement.segment,
            count: statement.count,
            before: statement.before,
            closes: true,
            signature: seals::sign(&self.identity, &statement).unwrap(),
        };
        bytes.extend(cursor.write(statement.at, What::Seal(seal)));
        bytes
    }

    fn ship(&self, lines: &[u8]) -> Result<u64, String> {
        take_for_test(&self.trails, (NODE, &self.trail, ID), lines, stamp())
    }

    fn cursor(&self) -> Cursor {
        Cursor::new(NODE, self.trail.clone())
    }
}

fn call(number: usize) -> What {
    What::Call(Box::new(Call {
        id: format!("{number:016x}"),
        caller: "spiffe://corp.example/ns/agents/sa/a".to_owned(),
        tenant: None,
        server: "research/files".to_owned(),
        outcome: if number == 1 { Outcome::Refused } else { Outcome::Done },
        reason: "ok".to_owned(),
        rule: None,
        limit: None,
        detail: None,
        status: 200,
        era: "modern".to_owned(),
        request_bytes: 0,
        response_bytes: 0,
        duration_us: 0,
        asked: Asked {
            method: "tools/call".to_owned(),
            tool: Some(format!("t{number}")),
            ..Asked::default()
        },
        result_digest: None,
        result: None,
    }))
}

#[tokio::test]
async fn what_is_shipped_is_stored_once_anchored_and_found() {
    let stage = Stage::new(Settings::default());
    let mut cursor = stage.cursor();
    let (one, two) = (stage.segment(&mut cursor, 3), stage.segment(&mut cursor, 2));
    assert_eq!(stage.ship(&[]), Ok(1));
    assert_eq!(stage.ship(&one), Ok(7));
    // Again, as after a receipt that was lost.
    assert_eq!(stage.ship(&[one.clone(), two.clone()].concat()), Ok(12));
    let known = stage.trails.known(Some(NODE.to_owned())).await.unwrap().remove(0);
    assert_eq!(known.segments.iter().map(|it| (it.first, it.last)).collect::<Vec<_>>(), [(1, 6), (7, 11)]);
    assert_eq!(known.anchors.iter().map(|it| (it.n, it.closed)).collect::<Vec<_>>(), [(6, true), (11, true)]);
    let lines = stage.trails.segment(NODE.to_owned(), known.trail.clone(), 1).await.unwrap().unwrap();
    assert_eq!(lines, one);
    let find = async |wanted: Wanted| {
        let found = stage.trails.records(Wanted { limit: 100, ..wanted }).await.unwrap();
        found.iter().map(|it| it.line.n).collect::<Vec<_>>()
    };
    assert_eq!(find(Wanted::default()).await, [10, 9, 5, 4, 3]);
    let tool = |tool: &str| Wanted { tool: Some(tool.to_owned()), ..Wanted::default() };
    assert_eq!(find(tool("t1")).await, [10, 4]);
    assert_eq!(find(tool("t*")).await.len(), 5);
    assert_eq!(find(tool("t?")).await, [0; 0]);
    assert_eq!(find(Wanted { outcome: Some("refused".to_owned()), ..tool("t1") }).await, [10, 4]);
    assert_eq!(find(Wanted { before: Some(5), ..Wanted::default() }).await, [4, 3]);
    assert_eq!(find(Wanted { until: Some(Timestamp::UNIX_EPOCH), ..Wanted::default() }).await, [0; 0]);
}

#[test]
fn what_does_not_follow_is_not_taken_and_changes_nothing() {
    let stage = Stage::new(Settings::default());
    let mut cursor = stage.cursor();
    let (one, two) = (stage.segment(&mut cursor, 3), stage.segment(&mut cursor, 2));
    assert_eq!(stage.ship(&one), Ok(7));
    let altered = String::from_utf8(two.clone()).unwrap().replace("\"t0\"", "\"t9\"");
    assert!(stage.ship(altered.as_bytes()).unwrap_err().contains("not linked"));
    let mut other = stage.cursor();
    let fork = [stage.segment(&mut other, 2), stage.segment(&mut other, 3)].concat();
    assert!(stage.ship(&fork).is_err(), "a trail that forked");
    let strange = take_for_test(&stage.trails, (NODE, &stage.trail, "somebody else"), &two, stamp());
    assert!(strange.unwrap_err().contains("is of spiffe://corp.example/ns/research/sa/files"));
    assert_eq!(stage.ship(&two), Ok(12));
}

#[tokio::test]
async fn old_segments_go_as_a_whole_and_what_is_left_verifies_by_the_anchors_that_stay() {
    let stage = Stage::new(Settings { lines_bytes_max: 5000, ..Settings::default() });
    let mut cursor = stage.cursor();
    for _ in 0..6 {
        stage.ship(&stage.segment(&mut cursor, 4)).unwrap();
    }
    let settings = stage.trails.0.settings;
    let (removed, left) =
        stage.trails.with(move |connection| database::retain(connection, settings, stamp())).await.unwrap();
    assert!(removed >= 3 && left <= 5000, "{removed} went, {left} bytes are left");
    let known = stage.trails.known(None).await.unwrap().remove(0);
    let numbers: BTreeSet<_> = known.segments.iter().map(|it| it.number).collect();
    assert_eq!((numbers.last(), known.anchors.len()), (Some(&6), 6));
    let bundles = stage.trails.0.trust.load();
    let mut check = |statement: &_, seal: &_, chain: &[String]| {
        seals::check(statement, seal, chain, &bundles).map(|_| ()).map_err(|error| error.to_string())
    };
    let mut review = Review::new(known.anchors.clone(), &mut check);
    for number in numbers {
        let lines =
            stage.trails.segment(NODE.to_owned(), known.trail.clone(), number).await.unwrap().unwrap();
        review.segment(&lines, number == 6);
    }
    let report = review.finish();
    assert_eq!(report.findings, []);
    assert!(report.first > 1);
}

#[test]
fn anchors_stay_and_only_move_forward() {
    let stage = Stage::new(Settings::default());
    let mut cursor = stage.cursor();
    stage.ship(&stage.segment(&mut cursor, 3)).unwrap();
    let connection = stage.trails.0.connection.lock().unwrap();
    for sql in ["DELETE FROM anchor", "UPDATE anchor SET head = ''", "UPDATE anchor SET n = n + 1"] {
        assert!(connection.execute(sql, ()).unwrap_err().to_string().contains("anchors"), "{sql}");
    }
}

#[tokio::test]
async fn what_was_altered_in_the_database_is_found_by_whoever_verifies() {
    let stage = Stage::new(Settings::default());
    let mut cursor = stage.cursor();
    stage.ship(&stage.segment(&mut cursor, 3)).unwrap();
    {
        let connection = stage.trails.0.connection.lock().unwrap();
        let sql = "UPDATE line SET text = CAST(replace(CAST(text AS TEXT), 'agents', 'admins') AS BLOB) WHERE n = 4";
        assert_eq!(connection.execute(sql, ()).unwrap(), 1);
    }
    let known = stage.trails.known(None).await.unwrap().remove(0);
    let lines = stage.trails.segment(NODE.to_owned(), known.trail.clone(), 1).await.unwrap().unwrap();
    let mut check = |_: &_, _: &_, _: &[String]| Ok(());
    let mut review = Review::new(known.anchors.clone(), &mut check);
    review.segment(&lines, true);
    assert_eq!(review.finish().findings, [weft_proto::audit::Finding::Altered { n: 4 }]);
}
