//! Trails as sidecars ship them, into a real database.

mod copies;

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

    async fn known(&self) -> Result<Vec<Known>, Error> {
        self.trails.known(WantedTrails { node: Some(NODE.to_owned()), after: None, limit: 100 }).await
    }

    /// As after so many days.
    fn retain(&self, days: i64) -> clear::Retained {
        let now = Timestamp::from_second(stamp().as_second() + days * 86_400).unwrap();
        clear::retain(&mut self.trails.0.connection.lock().unwrap(), self.trails.0.settings, now).unwrap()
    }

    /// Opens a trail of a node, as an identity of its namespace.
    fn open(&self, node: &str, number: u128) -> Result<(), String> {
        let namespace = node.split('/').next().unwrap();
        let identity = format!("spiffe://corp.example/ns/{namespace}/sa/files");
        let trail = Trail::from_random(number);
        take_for_test(&self.trails, (node, &trail, &identity), &[], stamp()).map(|_| ())
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
    let known = stage.known().await.unwrap().remove(0);
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

#[tokio::test]
async fn a_line_of_a_later_version_is_stored_and_answered_as_it_was_written() {
    let stage = Stage::new(Settings::default());
    let mut cursor = stage.cursor();
    let mut bytes = cursor.begin_segment(stamp());
    let line = Line { n: cursor.next(), prev: cursor.head(), at: stamp(), is: call(1) };
    let text = String::from_utf8(line.encode()).unwrap().replace("\"call\":{", "\"call\":{\"later\":[1],");
    cursor.take(text.as_bytes()).unwrap();
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(b'\n');
    bytes.extend(cursor.write(stamp(), What::Later([("later".to_owned(), 1.into())].into())));
    assert_eq!(stage.ship(&bytes), Ok(4));
    let found = stage.trails.records(Wanted { limit: 100, ..Wanted::default() }).await.unwrap();
    assert_eq!((found[1].line.clone(), found[1].text.get()), (line, text.as_str()));
    assert!(found[0].text.get().ends_with("\"is\":{\"later\":1}}"), "{found:?}");
    assert!(serde_json::to_string(&found).unwrap().contains(&format!("\"line\":{text}")));
    let segment = stage.trails.segment(NODE.to_owned(), stage.trail.to_string(), 1).await.unwrap();
    assert_eq!(segment, Some(bytes));
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
    let clear::Retained { segments: removed, bytes: left, .. } = stage.retain(0);
    assert!(removed >= 3 && left <= 5000, "{removed} went, {left} bytes are left");
    let known = stage.known().await.unwrap().remove(0);
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
    let known = stage.known().await.unwrap().remove(0);
    let lines = stage.trails.segment(NODE.to_owned(), known.trail.clone(), 1).await.unwrap().unwrap();
    let mut check = |_: &_, _: &_, _: &[String]| Ok(());
    let mut review = Review::new(known.anchors.clone(), &mut check);
    review.segment(&lines, true);
    assert_eq!(review.finish().findings, [weft_proto::audit::Finding::Altered { n: 4 }]);
}

#[tokio::test]
async fn a_trail_of_which_nothing_is_heard_goes_whole_and_is_forgotten_as_long_after() {
    let stage = Stage::new(Settings { age_max: Duration::from_secs(10 * 86_400), ..Settings::default() });
    let mut cursor = stage.cursor();
    stage.ship(&stage.segment(&mut cursor, 2)).unwrap();
    stage.ship(&stage.segment(&mut cursor, 2)).unwrap();
    assert_eq!(stage.retain(9), clear::Retained { bytes: stage.retain(9).bytes, ..Default::default() });
    assert_eq!(stage.retain(11), clear::Retained { segments: 2, trails: 0, bytes: 0 });
    let known = stage.known().await.unwrap().remove(0);
    assert_eq!((known.segments.len(), known.anchors.len()), (0, 2), "what was sealed is still known");
    // The node may come back, and its trail goes on behind a gap.
    assert_eq!(stage.ship(&stage.segment(&mut cursor, 2)), Ok(16));
    assert_eq!(stage.retain(19), clear::Retained { segments: 1, trails: 0, bytes: 0 });
    assert_eq!(stage.retain(21), clear::Retained { segments: 0, trails: 1, bytes: 0 });
    assert_eq!(stage.known().await.unwrap(), []);
}

#[tokio::test]
async fn the_control_plane_keeps_the_end_of_its_own_trail() {
    let stage = Stage::new(Settings { age_max: Duration::from_secs(10 * 86_400), ..Settings::default() });
    let trail = Trail::from_random(9);
    let mut cursor = Cursor::new(own::NODE, trail.clone());
    let lines = stage.segment(&mut cursor, 2);
    take_for_test(&stage.trails, (own::NODE, &trail, ID), &lines, stamp()).unwrap();
    assert_eq!((stage.retain(100).segments, stage.retain(100).trails), (0, 0));
}

#[test]
fn one_trail_more_is_refused_of_an_identity_a_namespace_and_all() {
    let check = |settings: Settings, opened: &[&str], why: &str| {
        let stage = Stage::new(settings);
        for (number, node) in opened.iter().enumerate() {
            let last = number + 1 == opened.len();
            match stage.open(node, number as u128) {
                Ok(()) => assert!(!last, "{node} is one too many"),
                Err(error) => assert!(last && error.contains(why), "{node}: {error}"),
            }
        }
        // One that is known goes on.
        stage.open(opened[0], 0).unwrap();
    };
    let all = Settings::default();
    check(Settings { trails_max: 2, ..all }, &["a/1", "b/1", "c/1"], "2 trails are known already");
    let of_identity = Settings { trails_per_identity_max: 2, ..all };
    check(of_identity, &["a/1", "a/2", "b/1", "a/1"], "2 trails of spiffe://corp.example/ns/a/sa/files");
    let of_namespace = Settings { trails_per_namespace_max: 2, ..all };
    check(of_namespace, &["a/1", "a-b/1", "a/2", "a0/1", "a/3"], "2 trails of the namespace a are");
}

#[tokio::test]
async fn trails_come_page_by_page_and_tell_how_far_they_are() {
    let stage = Stage::new(Settings::default());
    let mut cursor = stage.cursor();
    stage.ship(&stage.segment(&mut cursor, 3)).unwrap();
    for number in 10..13 {
        stage.open("other/1", number).unwrap();
    }
    let page = async |after, limit| {
        let wanted = WantedTrails { node: None, after, limit };
        stage.trails.known(wanted).await.unwrap().iter().map(|it| it.place).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 3).await, [1, 2, 3]);
    assert_eq!(page(Some(3), 3).await, [4]);
    let heads = stage.trails.heads().await.unwrap();
    let told: Vec<_> = heads.iter().map(|it| (&*it.node, it.last_line, it.sealed_line)).collect();
    assert_eq!(told, [("other/1", 0, 0), ("other/1", 0, 0), ("other/1", 0, 0), (NODE, 6, 6)]);
}
