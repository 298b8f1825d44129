//! Trails on real disks, with real seals.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use tokio::sync::oneshot;
use weft_certs::audit as seals;
use weft_certs::bundle::Bundles;
use weft_proto::audit::{Anchor, Asked, Call, Finding, Outcome, Report, Review, What};

use super::queue::{Job, Place};
use super::*;
use crate::clock;
use crate::limits::Limited;
use crate::upstream::testing::{Authority, id};

const PATIENCE: Duration = Duration::from_secs(20);

struct Stage {
    authority: Authority,
    folder: tempfile::TempDir,
    limits: Limits,
    metrics: Arc<Metrics>,
}

fn node() -> NodeId {
    NodeId::parse("a/files-1").unwrap()
}

fn call(tool: &str) -> What {
    What::Call(Box::new(Call {
        id: "00".to_owned(),
        caller: "spiffe://mesh.example/ns/a/sa/b".to_owned(),
        tenant: None,
        server: "a/files".to_owned(),
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
        asked: Asked { method: "tools/call".to_owned(), tool: Some(tool.to_owned()), ..Asked::default() },
        result_digest: None,
        result: None,
    }))
}

impl Stage {
    fn new() -> Self {
        Self {
            authority: Authority::new(),
            folder: tempfile::tempdir().unwrap(),
            limits: Limits::default(),
            metrics: Arc::new(Metrics::new()),
        }
    }

    fn settings(&self) -> Settings {
        Settings::default().within(Some(self.folder.path()))
    }

    fn start(&self) -> Audit {
        let identity = self.authority.identity(&id("files"));
        let (limits, settings) = (Arc::new(self.limits.clone()), self.settings());
        Audit::start(settings, &node(), &limits, &self.metrics, identity).unwrap()
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path().join("audit")).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    fn review(&self, anchors: &[Anchor]) -> Report {
        let trust: Arc<Bundles> = self.authority.trust().load();
        let mut check = |statement: &_, seal: &_, chain: &[String]| {
            seals::check(statement, seal, chain, &trust).map(|_| ()).map_err(|error| error.to_string())
        };
        let mut review = Review::new(anchors.iter().cloned(), &mut check);
        let files = self.files();
        for (at, path) in files.iter().enumerate() {
            review.segment(&fs::read(path).unwrap(), at + 1 == files.len());
        }
        review.finish()
    }
}

fn place(audit: &Audit) -> Result<Arc<Place>, Lack> {
    audit.0.queue.place()
}

/// Writes a line, and waits until it is on disk.
fn write(audit: &Audit, tool: &str) {
    let (done, written) = oneshot::channel();
    audit.0.queue.add(Job { at: clock::now(), is: call(tool), done: Some(done), _place: place(audit).ok() });
    written.blocking_recv().unwrap();
}

#[track_caller]
fn soon(mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "it does not come to hold");
        std::thread::yield_now();
    }
}

#[test]
fn what_was_written_is_a_whole_trail_with_seals_over_restarts_and_segments() {
    let mut stage = Stage::new();
    stage.limits.audit_segment_bytes_max = 2000;
    for run in 0..3 {
        let audit = stage.start();
        for number in 0..10 {
            write(&audit, &format!("tool-{run}-{number}"));
        }
        audit.close();
    }
    let report = stage.review(&[]);
    assert_eq!(report.findings, []);
    assert!(report.segments > 3 && report.sealed_to == report.last, "{report:?}");
    let text: String = stage.files().iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let named = text.matches("\"tool-").count();
    assert_eq!((named, text.contains("resumed"), stage.metrics.audit_records.get()), (30, false, 30));
}

#[test]
fn a_trail_that_nobody_closed_goes_on_where_it_was_torn_and_says_so() {
    let stage = Stage::new();
    let audit = stage.start();
    write(&audit, "before");
    let path = stage.files().pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend_from_slice(b"{\"n\":3,\"prev\":\"00");
    // As a killed process leaves it: this one's file is another from here on.
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    let again = stage.start();
    write(&again, "after");
    again.close();
    let report = stage.review(&[]);
    assert_eq!((report.findings.as_slice(), report.segments, report.torn_bytes), (&[][..], 1, 0));
    assert!(fs::read_to_string(&path).unwrap().contains("{\"resumed\":{\"tornBytes\":17}}"));
}

#[test]
fn a_trail_that_was_damaged_is_left_as_it_is_and_goes_on_in_a_new_file() {
    let stage = Stage::new();
    let audit = stage.start();
    ["one", "two", "three"].iter().for_each(|tool| write(&audit, tool));
    let path = stage.files().pop().unwrap();
    let damaged = fs::read_to_string(&path).unwrap().replace("two", "six");
    fs::remove_file(&path).unwrap();
    fs::write(&path, &damaged).unwrap();
    let again = stage.start();
    write(&again, "after");
    again.close();
    assert_eq!(fs::read_to_string(&path).unwrap(), damaged);
    assert_eq!(stage.files().len(), 2);
    assert!(!stage.review(&[]).is_whole());
    assert!(matches!(stage.review(&[]).findings[0], Finding::Altered { n: 3 }));
}

#[test]
fn seals_come_by_themselves() {
    let mut stage = Stage::new();
    stage.limits.audit_seal_every = Limited(Duration::from_millis(20));
    let audit = stage.start();
    write(&audit, "one");
    soon(|| stage.review(&[]).sealed_to > 0);
    audit.close();
}

#[test]
fn without_room_there_are_no_places_and_with_what_was_shipped_cleared_away_there_are_again() {
    let mut stage = Stage::new();
    (stage.limits.audit_segment_bytes_max, stage.limits.audit_record_bytes_max) = (4096, 2048);
    stage.limits.audit_disk_bytes_max = queue::OWN_BYTES + 32 * 1024;
    stage.limits.audit_pending_max = 4;
    let audit = stage.start();
    let places: Vec<_> = (0..4).map(|_| place(&audit).unwrap()).collect();
    assert_eq!(place(&audit).unwrap_err(), Lack::Queue);
    drop(places);
    let full = |audit: &Audit| matches!(place(audit), Err(Lack::Space));
    let needs = 2 * stage.limits.audit_record_bytes_max as u64 + queue::OWN_BYTES;
    while audit.0.queue.used.load(Ordering::Relaxed) + needs <= stage.limits.audit_disk_bytes_max {
        write(&audit, "fills");
    }
    assert!(full(&audit));
    audit.drop_one(Lack::Space);
    let files = stage.files();
    audit.shipped(u64::MAX);
    soon(|| !full(&audit));
    assert!(!files[0].exists());
    audit.close();
    let report = stage.review(&[]);
    assert_eq!((report.findings.as_slice(), report.dropped), (&[][..], 1));
    assert!(report.first > 1, "{report:?}");
}

#[test]
fn after_the_disk_failed_what_waited_is_written_once() {
    let stage = Stage::new();
    let audit = stage.start();
    write(&audit, "one");
    audit.close();
    // A new segment cannot be made for now.
    let audit = stage.start();
    let (folder, moved) = (stage.folder.path().join("audit"), stage.folder.path().join("moved"));
    fs::rename(&folder, &moved).unwrap();
    audit.0.queue.add(Job { at: clock::now(), is: call("two"), done: None, _place: place(&audit).ok() });
    soon(|| matches!(place(&audit), Err(Lack::Disk)));
    fs::rename(&moved, &folder).unwrap();
    soon(|| place(&audit).is_ok());
    audit.close();
    let report = stage.review(&[]);
    assert_eq!(report.findings, []);
    let text: String = stage.files().iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    assert_eq!((text.matches("\"two\"").count(), text.matches("\"one\"").count()), (1, 1));
}

#[test]
fn lines_are_read_back_from_anywhere_in_pieces_that_follow_each_other() {
    let mut stage = Stage::new();
    stage.limits.audit_segment_bytes_max = 2000;
    let audit = stage.start();
    (0..20).for_each(|number| write(&audit, &format!("tool-{number}")));
    let whole: Vec<u8> = stage.files().iter().flat_map(|path| fs::read(path).unwrap()).collect();
    let mut reader = audit.reader();
    let read = |reader: &mut Reader, mut from: u64| {
        let mut bytes = Vec::new();
        loop {
            let batch = reader.read(from).unwrap();
            assert_eq!(batch.from, from);
            if batch.bytes.is_empty() {
                return bytes;
            }
            assert_eq!(batch.bytes.iter().filter(|it| **it == b'\n').count() as u64, batch.to - from);
            bytes.extend(batch.bytes);
            from = batch.to;
        }
    };
    assert_eq!((read(&mut reader, 1), reader.oldest()), (whole.clone(), 1));
    let lines: Vec<&[u8]> = whole.split_inclusive(|it| *it == b'\n').collect();
    for from in [7, 12, 3] {
        assert_eq!(read(&mut reader, from), lines[from as usize - 1..].concat(), "{from}");
    }
    write(&audit, "more");
    let batch = reader.read(lines.len() as u64 + 1).unwrap();
    assert!(String::from_utf8(batch.bytes).unwrap().contains("more"));
    audit.close();
}

#[test]
fn a_trail_of_another_node_is_not_gone_on_with() {
    let stage = Stage::new();
    let audit = stage.start();
    write(&audit, "one");
    audit.close();
    let other = NodeId::parse("a/other-1").unwrap();
    let (limits, empty) = (Arc::new(stage.limits.clone()), LiveIdentity::empty());
    let refused = Audit::start(stage.settings(), &other, &limits, &stage.metrics, empty);
    assert!(matches!(refused, Err(Error::AnotherNode { .. })));
}
