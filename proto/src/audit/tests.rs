//! A trail as a node writes it, and everything that somebody might do to it afterwards.

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;

const NODE: &str = "research/files-1";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn trail() -> Trail {
    Trail::from_random(7)
}

fn call(tool: &str) -> What {
    What::Call(Box::new(Call {
        id: "00".to_owned(),
        caller: "spiffe://corp.example/ns/agents/sa/a".to_owned(),
        tenant: Some("agents".to_owned()),
        server: "research/files".to_owned(),
        outcome: Outcome::Done,
        reason: "ok".to_owned(),
        rule: None,
        limit: None,
        detail: None,
        status: 200,
        era: "modern".to_owned(),
        request_bytes: 1,
        response_bytes: 2,
        duration_us: 3,
        asked: Asked { method: "tools/call".to_owned(), tool: Some(tool.to_owned()), ..Asked::default() },
        result_digest: Some(Digest::of(b"{}")),
        result: None,
    }))
}

/// Stands for a key: whoever has it signs.
fn sign(statement: &Statement, key: &str) -> String {
    Digest::of(format!("{key}{statement}").as_bytes()).to_string()
}

fn holds(statement: &Statement, seal: &Seal, _: &[String]) -> Result<(), String> {
    match seal.signature == sign(statement, "the node's") {
        true => Ok(()),
        false => Err("it is signed by somebody else".to_owned()),
    }
}

/// A trail, segment by segment, and what was anchored of it.
#[derive(Clone)]
struct Written {
    segments: Vec<Vec<Vec<u8>>>,
    anchors: Vec<Anchor>,
}

impl Written {
    /// Segments of so many calls, each sealed; the last is left open after its seal.
    fn new(segments: &[usize], key: &str) -> Self {
        let mut cursor = Cursor::new(NODE, trail());
        let mut written = Self { segments: Vec::new(), anchors: Vec::new() };
        for (index, calls) in segments.iter().enumerate() {
            let mut lines = vec![cursor.begin_segment(at(0))];
            lines.push(cursor.write(at(0), What::Certificate(vec!["AAAA".to_owned()])));
            for call_number in 0..*calls {
                lines.push(cursor.write(at(1), call(&format!("tool-{index}-{call_number}"))));
            }
            let closes = index + 1 < segments.len();
            let statement = cursor.statement(at(2), closes);
            let Statement { segment, count, before, .. } = statement;
            let seal = Seal { segment, count, before, closes, signature: sign(&statement, key) };
            lines.push(cursor.write(at(2), What::Seal(seal)));
            written.anchors.push(Anchor {
                node: NODE.to_owned(),
                trail: trail(),
                segment,
                first: cursor.first(),
                n: cursor.next() - 1,
                head: cursor.head(),
                closed: closes,
                sealed_at: at(2),
                received_at: at(3),
                signer: String::new(),
            });
            written.segments.push(lines);
        }
        written
    }

    fn review(&self, anchors: &[Anchor]) -> Report {
        let mut check = holds;
        let mut review = Review::new(anchors.iter().cloned(), &mut check);
        for (index, lines) in self.segments.iter().enumerate() {
            review.segment(&lines.concat(), index + 1 == self.segments.len());
        }
        review.finish()
    }

    fn lines(&self) -> u64 {
        self.segments.iter().map(Vec::len).sum::<usize>() as u64
    }
}

#[test]
fn a_trail_as_it_was_written_is_whole_and_says_how_far_it_is_sealed_and_anchored() {
    let written = Written::new(&[3, 0, 5], "the node's");
    let report = written.review(&written.anchors);
    assert_eq!(report.findings, []);
    assert_eq!((report.segments, report.lines, report.first), (3, written.lines(), 1));
    assert_eq!((report.seals, report.sealed_to, report.anchored_to), (3, report.last, report.last));
    assert_eq!((report.node.as_str(), report.trail), (NODE, Some(trail())));
}

#[test]
fn lines_are_read_as_they_were_written() {
    let mut cursor = Cursor::new(NODE, trail());
    let bytes = cursor.begin_segment(at(0));
    let line = Line::parse(&bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(line.encode(), bytes[..bytes.len() - 1]);
    let long = vec![b' '; LINE_BYTES_MAX + 1];
    assert_eq!(Line::parse(&long), Err(Error::TooLong { bytes: LINE_BYTES_MAX + 1 }));
}

/// Every object of a line with a field more, as a later version may write it.
fn later(line: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(line).unwrap().trim_end();
    // None in `is` itself, which says what kind of line it is.
    let more =
        text.replace('{', "{\"later\":[{\"n\":0}],").replace("\"is\":{\"later\":[{\"n\":0}],", "\"is\":{");
    more.into_bytes()
}

#[test]
fn a_reader_that_is_older_than_the_writer_reads_verifies_and_finds_what_was_changed() {
    let mut cursor = Cursor::new(NODE, trail());
    let mut lines: Vec<Vec<u8>> = Vec::new();
    let mut put = |cursor: &mut Cursor, is: What| {
        let prev = lines.last().map_or(Digest::NONE, |line| Digest::of(line));
        let line = Line { n: lines.len() as u64 + 1, prev, at: at(1), is };
        let bytes = later(&line.encode());
        let taken = cursor.take(&bytes).unwrap();
        assert_eq!(taken.line, line, "what is known of it is as it was");
        assert_eq!(taken.digest, Digest::of(&bytes));
        lines.push(bytes);
    };
    put(&mut cursor, What::Segment(Segment { node: NODE.to_owned(), trail: trail(), number: 1 }));
    put(&mut cursor, What::Certificate(vec!["AAAA".to_owned()]));
    put(&mut cursor, call("read"));
    put(&mut cursor, What::Dropped(Dropped { count: 2, reason: "disk_full".to_owned(), since: at(0) }));
    put(&mut cursor, What::Resumed(Cut { torn_bytes: 3, damaged: true }));
    put(&mut cursor, What::Later([("later".to_owned(), 1.into())].into()));
    let statement = cursor.statement(at(1), true);
    let Statement { segment, count, before, closes, .. } = statement;
    let signature = sign(&statement, "the node's");
    put(&mut cursor, What::Seal(Seal { segment, count, before, closes, signature }));
    let mut written = Written { segments: vec![lines], anchors: Vec::new() };
    for line in &mut written.segments[0] {
        line.push(b'\n');
    }
    let report = written.review(&[]);
    assert_eq!((report.findings.as_slice(), report.seals, report.dropped), (&[][..], 1, 2));
    // What it does not know is under the seal as well.
    let text = String::from_utf8(written.segments[0][2].clone()).unwrap();
    written.segments[0][2] = text.replacen("\"n\":0", "\"n\":1", 1).into_bytes();
    assert_eq!(written.review(&[]).findings, [Finding::Altered { n: 3 }]);
}

#[test]
fn a_line_that_only_a_later_version_knows_is_read_past_and_one_that_is_known_has_its_form() {
    let bytes = Cursor::new(NODE, trail()).begin_segment(at(0));
    let line = std::str::from_utf8(&bytes).unwrap().trim_end();
    let check = |from: &str, to: &str| Line::parse(line.replacen(from, to, 1).as_bytes());
    let later = line.replacen("\"segment\":", "\"later\":", 1);
    let read = Line::parse(later.as_bytes()).unwrap();
    assert!(matches!(&read.is, What::Later(said) if said["later"]["node"] == NODE), "{read:?}");
    assert_eq!(Line::parse(&read.encode()), Ok(read));
    for (from, to) in [
        ("\"is\":{", "\"is\":{\"later\":{},"),
        ("\"segment\":{", "\"segment\":{},\"later\":{"),
        ("\"node\":", "\"knot\":"),
        ("\"segment\":", "\"call\":"),
    ] {
        assert!(matches!(check(from, to), Err(Error::Form(_))), "{to}");
    }
    let nothing = line.split_once("\"is\":").unwrap().0.to_owned() + "\"is\":{}}";
    assert!(matches!(Line::parse(nothing.as_bytes()), Err(Error::Form(_))));
}

#[test]
fn each_change_is_told_for_what_it_is_and_once() {
    let written = Written::new(&[4, 4, 4], "the node's");
    let check = |change: &dyn Fn(&mut Written), expected: &[Finding]| {
        let mut changed = written.clone();
        change(&mut changed);
        let report = changed.review(&written.anchors);
        assert_eq!(report.findings, expected, "{report:#?}");
    };
    check(&|it| drop(it.segments[1].remove(3)), &[Finding::Removed { from: 11, to: 11 }]);
    check(&|it| drop(it.segments[1].drain(2..5)), &[Finding::Removed { from: 10, to: 12 }]);
    check(&|it| it.segments[1].swap(3, 4), &[Finding::Reordered { n: 11 }]);
    check(&|it| drop(it.segments.remove(1)), &[Finding::SegmentsRemoved { from: 2, to: 2 }]);
    let alter = |it: &mut Written| {
        let text = String::from_utf8(it.segments[1][3].clone()).unwrap();
        it.segments[1][3] = text.replace("agents/sa/a", "agents/sa/b").into_bytes();
    };
    check(&alter, &[Finding::Altered { n: 11 }]);
    let again = |it: &mut Written| {
        let line = it.segments[1][3].clone();
        it.segments[1].insert(5, line);
    };
    check(&again, &[Finding::Reordered { n: 11 }]);
    let truncate = |it: &mut Written| it.segments[2].truncate(4);
    check(&truncate, &[Finding::Truncated { last: 18, anchored: 21 }]);
    check(&|it| it.segments.clear(), &[Finding::Truncated { last: 0, anchored: 21 }]);
}

#[test]
fn a_trail_written_anew_fails_by_its_seals_and_with_the_nodes_own_key_by_its_anchors() {
    let written = Written::new(&[4, 4], "the node's");
    let forged = Written::new(&[4, 3], "somebody's").review(&[]);
    assert!(matches!(forged.findings[..], [Finding::Seal { n: 7, .. }, Finding::Seal { n: 13, .. }]));
    // Whoever has the key signs anything, but cannot take back what was anchored.
    let mut rewritten = written.clone();
    rewritten.segments = Written::new(&[3, 5], "the node's").segments;
    assert!(rewritten.review(&[]).is_whole());
    let found = rewritten.review(&written.anchors).findings;
    assert!(found.contains(&Finding::Rewritten { segment: 1, n: 7 }), "{found:?}");
}

#[test]
fn a_line_that_was_not_written_to_its_end_is_a_crash_and_no_finding_only_at_the_very_end() {
    let mut written = Written::new(&[2, 2], "the node's");
    written.segments[1].push(b"{\"n\":11,\"pr".to_vec());
    let report = written.review(&written.anchors);
    assert_eq!((report.findings.as_slice(), report.torn_bytes), (&[][..], 11));
    let mut written = Written::new(&[2, 2], "the node's");
    written.segments[0].push(b"{\"n\":6".to_vec());
    assert!(matches!(written.review(&written.anchors).findings[..], [Finding::Unreadable { .. }]));
}

#[test]
fn what_is_left_after_the_oldest_segments_went_is_whole_if_it_follows_what_was_anchored() {
    let mut written = Written::new(&[3, 3, 3], "the node's");
    let anchors = written.anchors.clone();
    written.segments.remove(0);
    let report = written.review(&anchors);
    assert_eq!((report.findings.as_slice(), report.first), (&[][..], 7));
    let other = Written::new(&[2, 3, 3], "the node's").anchors;
    let report = written.review(&other[..1]);
    assert_eq!(report.findings, [Finding::Rewritten { segment: 1, n: 7 }]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_byte_is_changed_unnoticed(
        sizes in prop::collection::vec(0..4_usize, 1..4), place in any::<prop::sample::Index>(), flip in 1..=255_u8,
    ) {
        let written = Written::new(&sizes, "the node's");
        let mut changed = written.clone();
        let mut at = place.index(written.segments.iter().flatten().map(Vec::len).sum());
        for line in changed.segments.iter_mut().flatten() {
            if at < line.len() {
                line[at] ^= flip;
                break;
            }
            at -= line.len();
        }
        let report = changed.review(&written.anchors);
        prop_assert!(!report.is_whole(), "{report:?}");
    }

    #[test]
    fn no_line_is_removed_moved_or_said_twice_unnoticed(
        sizes in prop::collection::vec(0..4_usize, 1..4),
        from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>(), how in 0..3,
    ) {
        let written = Written::new(&sizes, "the node's");
        let whole = written.segments.concat();
        let (from, to) = (from.index(whole.len()), to.index(whole.len()));
        let mut changed = whole.clone();
        let line = changed[from].clone();
        if how != 2 {
            changed.remove(from);
        }
        if how != 0 {
            changed.insert(to.min(changed.len()), line);
        }
        prop_assume!(changed != whole);
        let changed = Written { segments: vec![changed], anchors: Vec::new() };
        let report = changed.review(&written.anchors);
        prop_assert!(!report.is_whole(), "{report:?}");
    }

    #[test]
    fn nothing_that_is_read_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut check = holds;
        let mut review = Review::new([], &mut check);
        review.segment(&bytes, true);
        review.finish();
    }
}
