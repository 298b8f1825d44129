//! Reads a whole trail, whatever was done to it, and says what is wrong with it.
//!
//! Where a line does not follow, reading goes on behind it, so that one change is told once and not for all that comes
//! after it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

use super::cursor::{Broken, Cursor, Taken};
use super::{Anchor, Digest, Line, Seal, Statement, Trail, What};

/// Most findings that are told.
const FINDINGS_MAX: usize = 1000;
/// Most lines out of their place that are remembered.
const MISPLACED_MAX: usize = 100_000;

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "what")]
pub enum Finding {
    /// Lines are not there.
    Removed { from: u64, to: u64 },
    /// Whole segments are not there.
    SegmentsRemoved { from: u64, to: u64 },
    /// A line is not the one that the next line follows.
    Altered { n: u64 },
    /// A line cannot be read.
    Unreadable { n: u64, why: String },
    /// A line is not in its place.
    Reordered { n: u64 },
    /// The end is missing: more was anchored than is there.
    Truncated { last: u64, anchored: u64 },
    /// What was anchored is not what is there.
    Rewritten { segment: u64, n: u64 },
    /// A seal does not hold.
    Seal { n: u64, why: String },
    /// A line belongs to another trail.
    Stranger { n: u64, found: String },
    /// A line stands behind the end of its segment.
    Homeless { n: u64 },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Removed { from, to } if from == to => write!(f, "line {from} was removed"),
            Self::Removed { from, to } => write!(f, "lines {from} to {to} were removed"),
            Self::SegmentsRemoved { from, to } if from == to => write!(f, "segment {from} was removed"),
            Self::SegmentsRemoved { from, to } => write!(f, "segments {from} to {to} were removed"),
            Self::Altered { n } => write!(f, "line {n} was altered, or the link of the line after it"),
            Self::Unreadable { n, why } => write!(f, "line {n} was altered and cannot be read: {why}"),
            Self::Reordered { n } => write!(f, "line {n} is not in its place"),
            Self::Truncated { last, anchored } => {
                write!(f, "the end is missing: line {anchored} was anchored, and the last line is {last}")
            }
            Self::Rewritten { segment, n } => {
                write!(f, "segment {segment} was rewritten: line {n} is not the one that was anchored")
            }
            Self::Seal { n, why } => write!(f, "the seal in line {n} does not hold: {why}"),
            Self::Stranger { n, found } => write!(f, "line {n} belongs to {found}"),
            Self::Homeless { n } => write!(f, "line {n} stands behind the end of its segment"),
        }
    }
}

/// What there is to say of a trail.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub node: String,
    pub trail: Option<Trail>,
    pub segments: u64,
    pub lines: u64,
    /// The numbers of the first and the last line.
    pub first: u64,
    pub last: u64,
    /// Seals that hold.
    pub seals: u64,
    /// The line up to which a seal holds.
    pub sealed_to: u64,
    /// When the last seal that holds was made, by the node's clock.
    pub sealed_at: Option<Timestamp>,
    /// The line up to which it is what was anchored.
    pub anchored_to: u64,
    /// Calls that the node itself says it did not record.
    pub dropped: u64,
    /// Bytes of a last line that was not written to its end, as after a crash.
    pub torn_bytes: u64,
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub more_findings: u64,
}

impl Report {
    pub fn is_whole(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Checks a seal: its statement, the signature in it, and the certificates that the trail names. Answers with what is
/// wrong.
pub type CheckSeal<'c> = dyn FnMut(&Statement, &Seal, &[String]) -> Result<(), String> + 'c;

/// The reading of one trail, segment by segment.
pub struct Review<'c> {
    cursor: Option<Cursor>,
    anchors: BTreeMap<u64, Anchor>,
    /// The digests of the lines with which segments were closed.
    closings: BTreeMap<u64, Digest>,
    check: &'c mut CheckSeal<'c>,
    /// The line before could not be read, so nothing is linked to it.
    is_blind: bool,
    removed: Vec<(u64, u64)>,
    misplaced: BTreeSet<u64>,
    report: Report,
}

impl fmt::Debug for Review<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Review").field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

impl<'c> Review<'c> {
    /// Of a trail of which these seals are remembered elsewhere.
    pub fn new(anchors: impl IntoIterator<Item = Anchor>, check: &'c mut CheckSeal<'c>) -> Self {
        let anchors: BTreeMap<_, _> = anchors.into_iter().map(|it| (it.n, it)).collect();
        let closed = anchors.values().filter(|it| it.closed);
        Self {
            cursor: None,
            closings: closed.map(|it| (it.segment, it.head)).collect(),
            anchors,
            check,
            is_blind: false,
            removed: Vec::new(),
            misplaced: BTreeSet::new(),
            report: Report::default(),
        }
    }

    /// Reads the next segment. Only the last may end within a line.
    pub fn segment(&mut self, bytes: &[u8], is_last: bool) {
        self.report.segments += 1;
        let (whole, torn) = bytes.split_at(bytes.iter().rposition(|it| *it == b'\n').map_or(0, |at| at + 1));
        for line in whole.split_inclusive(|it| *it == b'\n') {
            self.line(&line[..line.len() - 1]);
        }
        if torn.is_empty() {
            return;
        }
        match is_last {
            true => self.report.torn_bytes = torn.len() as u64,
            false => self.find(Finding::Unreadable { n: self.next(), why: "it has no end".to_owned() }),
        }
    }

    /// Reads one line without its end.
    pub fn line(&mut self, bytes: &[u8]) {
        let mut cursor = match self.cursor.take() {
            Some(cursor) => cursor,
            None => match self.begin(bytes) {
                Some(cursor) => cursor,
                None => return,
            },
        };
        self.report.lines += 1;
        match cursor.take(bytes) {
            Ok(taken) => self.taken(&taken, &cursor),
            Err(broken) => self.broken(broken, &mut cursor, bytes),
        }
        self.report.last = cursor.next() - 1;
        self.cursor = Some(cursor);
    }

    fn next(&self) -> u64 {
        self.cursor.as_ref().map_or(1, Cursor::next)
    }

    /// Where reading begins. Segments before it may be gone, as long as what was anchored of them leads here.
    fn begin(&mut self, bytes: &[u8]) -> Option<Cursor> {
        let line = match Line::parse(bytes) {
            Ok(line) => line,
            Err(why) => {
                self.find(Finding::Unreadable { n: 1, why: why.to_string() });
                return None;
            }
        };
        let Some(cursor) = Cursor::before_segment(&line) else {
            self.find(Finding::Homeless { n: line.n });
            return None;
        };
        let number = cursor.segment();
        let is_first = number == 0;
        let leads_here = match self.closings.get(&number) {
            Some(head) => *head == line.prev,
            // What was anchored of later segments only says that these were there.
            None if is_first => line.n == 1 && line.prev == Digest::NONE,
            None => true,
        };
        if !leads_here {
            self.find(Finding::Rewritten { segment: number.max(1), n: line.n });
        }
        self.report.node = cursor.node().to_owned();
        self.report.trail = Some(cursor.trail().clone());
        self.report.first = line.n;
        Some(cursor)
    }

    fn taken(&mut self, taken: &Taken, cursor: &Cursor) {
        self.is_blind = false;
        let n = taken.line.n;
        self.compare(n, taken.digest);
        match (&taken.line.is, &taken.sealed) {
            (What::Seal(seal), Some(statement)) => {
                match (self.check)(statement, seal, cursor.certificates()) {
                    Ok(()) => {
                        self.report.seals += 1;
                        self.report.sealed_to = n;
                        self.report.sealed_at = Some(statement.at);
                    }
                    Err(why) => self.find(Finding::Seal { n, why }),
                }
            }
            (What::Dropped(dropped), _) => {
                self.report.dropped = self.report.dropped.saturating_add(dropped.count);
            }
            _ => {}
        }
    }

    fn compare(&mut self, n: u64, digest: Digest) {
        let Some(anchor) = self.anchors.remove(&n) else { return };
        match anchor.head == digest {
            true => self.report.anchored_to = n,
            false => self.find(Finding::Rewritten { segment: anchor.segment, n }),
        }
    }

    fn broken(&mut self, broken: Broken, cursor: &mut Cursor, bytes: &[u8]) {
        let was_blind = std::mem::take(&mut self.is_blind);
        let Ok(line) = Line::parse(bytes) else {
            let n = cursor.next();
            self.find(Finding::Unreadable { n, why: broken.to_string() });
            cursor.skip();
            self.is_blind = true;
            return;
        };
        match broken {
            Broken::Number { found, expected } if found < expected => {
                if self.misplaced.len() < MISPLACED_MAX {
                    self.misplaced.insert(found);
                }
                return self.compare(found, Digest::of(bytes));
            }
            Broken::Number { found, expected } => self.gap(&line, cursor, (expected, found - 1)),
            Broken::Link { .. } if was_blind => {}
            Broken::Link { n } => self.find(Finding::Altered { n: n.saturating_sub(1) }),
            Broken::Stranger { n, found, .. } => self.find(Finding::Stranger { n, found }),
            Broken::Segment { expected, found, .. } if found > expected => {
                self.find(Finding::SegmentsRemoved { from: expected, to: found - 1 });
            }
            Broken::Segment { n, .. } => self.find(Finding::Altered { n }),
            Broken::Homeless { n } => self.find(Finding::Homeless { n }),
            Broken::Seal { n } | Broken::Unsigned { n } => {
                self.find(Finding::Seal { n, why: broken.to_string() });
            }
            Broken::Form(_) => {}
        }
        cursor.force(&line, bytes);
        self.compare(line.n, Digest::of(bytes));
    }

    fn gap(&mut self, line: &Line, cursor: &Cursor, missing: (u64, u64)) {
        let (expected, segment) = (cursor.segment() + 1, &line.is);
        match segment {
            What::Segment(segment) if segment.number > expected => {
                self.find(Finding::SegmentsRemoved { from: expected, to: segment.number - 1 });
            }
            _ if self.removed.len() < FINDINGS_MAX => self.removed.push(missing),
            _ => self.report.more_findings += 1,
        }
    }

    fn find(&mut self, finding: Finding) {
        match self.report.findings.len() < FINDINGS_MAX {
            true => self.report.findings.push(finding),
            false => self.report.more_findings += 1,
        }
    }

    /// Everything that there is was read.
    pub fn finish(mut self) -> Report {
        let misplaced = std::mem::take(&mut self.misplaced);
        for (from, to) in std::mem::take(&mut self.removed) {
            // What is missing here and stands elsewhere was moved.
            if misplaced.range(from..=to).next().is_none() {
                self.find(Finding::Removed { from, to });
            }
        }
        for n in misplaced {
            self.find(Finding::Reordered { n });
        }
        let last = self.report.last;
        if let Some((anchored, _)) = self.anchors.range(last + 1..).next_back() {
            let anchored = *anchored;
            self.find(Finding::Truncated { last, anchored });
        }
        self.report
    }
}
