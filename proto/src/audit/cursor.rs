//! Reads a trail line by line, strictly: each must be the one that follows.

use std::fmt;

use super::line::Error;
use super::{Digest, Line, Segment, Statement, Trail, What};

/// Why a line does not follow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error(transparent)]
    Form(#[from] Error),
    #[error("line {found} follows line {}", .expected.saturating_sub(1))]
    Number { expected: u64, found: u64 },
    #[error("line {n} is not linked to the line before it")]
    Link { n: u64 },
    #[error("line {n} belongs to {found}, not to {expected}")]
    Stranger { n: u64, expected: String, found: String },
    #[error("line {n} begins segment {found}; expected {expected}")]
    Segment { n: u64, expected: u64, found: u64 },
    #[error("line {n} stands outside of any segment")]
    Homeless { n: u64 },
    #[error("the seal in line {n} says something else than the lines before it")]
    Seal { n: u64 },
    #[error("the seal in line {n} comes without certificates")]
    Unsigned { n: u64 },
}

/// A place in a trail: everything that the next line is measured by.
#[derive(Clone, Debug, PartialEq)]
pub struct Cursor {
    node: String,
    trail: Trail,
    next: u64,
    head: Digest,
    segment: u64,
    /// The number of the segment's first line.
    first: u64,
    before: Digest,
    is_open: bool,
    certificates: Vec<String>,
}

/// A line that follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    pub line: Line,
    pub digest: Digest,
    /// What the seal says that is in it, to be checked against its signature and the certificates.
    pub sealed: Option<Statement>,
}

impl Cursor {
    /// Before the first line of a trail.
    pub fn new(node: impl Into<String>, trail: Trail) -> Self {
        Self {
            node: node.into(),
            trail,
            next: 1,
            head: Digest::NONE,
            segment: 0,
            first: 0,
            before: Digest::NONE,
            is_open: false,
            certificates: Vec::new(),
        }
    }

    /// Before a segment whose predecessors are not there any more; what its first line says of them is believed.
    pub fn before_segment(line: &Line) -> Option<Self> {
        let What::Segment(segment) = &line.is else { return None };
        let number = segment.number.checked_sub(1)?;
        let cursor = Self::new(segment.node.clone(), segment.trail.clone());
        Some(Self { next: line.n, head: line.prev, segment: number, ..cursor })
    }

    pub fn node(&self) -> &str {
        &self.node
    }

    pub fn trail(&self) -> &Trail {
        &self.trail
    }

    /// The number of the line that follows.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The digest of the last line.
    pub fn head(&self) -> Digest {
        self.head
    }

    /// The segment that was begun last.
    pub fn segment(&self) -> u64 {
        self.segment
    }

    /// The number of that segment's first line.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Whether that segment takes lines.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// The certificates that the segment has named last, leaf first.
    pub fn certificates(&self) -> &[String] {
        &self.certificates
    }

    /// What a seal would say here.
    pub fn statement(&self, at: jiff::Timestamp, closes: bool) -> Statement {
        Statement {
            node: self.node.clone(),
            trail: self.trail.clone(),
            segment: self.segment,
            count: self.next - self.first,
            last: self.next - 1,
            head: self.head,
            before: self.before,
            at,
            closes,
        }
    }

    /// Goes past a line, without its end. After an error it stands where it stood.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Taken, Broken> {
        let line = Line::parse(bytes)?;
        let n = line.n;
        if n != self.next {
            return Err(Broken::Number { expected: self.next, found: n });
        }
        if line.prev != self.head {
            return Err(Broken::Link { n });
        }
        let sealed = self.check(&line)?;
        let digest = Digest::of(bytes);
        self.pass(&line, digest);
        Ok(Taken { line, digest, sealed })
    }

    fn check(&self, line: &Line) -> Result<Option<Statement>, Broken> {
        let n = line.n;
        match &line.is {
            What::Segment(segment) => {
                let (expected, found) = (self.called(), format!("{}, trail {}", segment.node, segment.trail));
                if expected != found {
                    return Err(Broken::Stranger { n, expected, found });
                }
                // One that nobody closed may be followed: the node could not go on in it.
                match segment.number == self.segment + 1 {
                    true => Ok(None),
                    false => Err(Broken::Segment { n, expected: self.segment + 1, found: segment.number }),
                }
            }
            _ if !self.is_open => Err(Broken::Homeless { n }),
            What::Seal(seal) => {
                let statement = self.statement(line.at, seal.closes);
                let said = (seal.segment, seal.count, seal.before);
                if said != (statement.segment, statement.count, statement.before) {
                    return Err(Broken::Seal { n });
                }
                if self.certificates.is_empty() {
                    return Err(Broken::Unsigned { n });
                }
                Ok(Some(statement))
            }
            _ => Ok(None),
        }
    }

    fn called(&self) -> String {
        format!("{}, trail {}", self.node, self.trail)
    }

    fn pass(&mut self, line: &Line, digest: Digest) {
        match &line.is {
            What::Segment(segment) => {
                self.segment = segment.number;
                self.first = line.n;
                self.before = line.prev;
                self.is_open = true;
                self.certificates.clear();
            }
            What::Certificate(chain) => self.certificates.clone_from(chain),
            What::Seal(seal) => self.is_open = !seal.closes,
            _ => {}
        }
        self.head = digest;
        self.next = line.n.saturating_add(1);
    }

    /// Writes the line that says this here, with its end, and goes past it.
    pub fn write(&mut self, at: jiff::Timestamp, is: What) -> Vec<u8> {
        let (line, mut bytes) = self.draft(at, is);
        self.pass(&line, Digest::of(&bytes));
        bytes.push(b'\n');
        bytes
    }

    /// The same, if it takes no more than so many bytes; else what `less` makes of it.
    pub fn write_within(
        &mut self,
        bytes_max: usize,
        at: jiff::Timestamp,
        is: What,
        less: impl FnOnce(What) -> What,
    ) -> Vec<u8> {
        let (line, mut bytes) = self.draft(at, is);
        if bytes.len() > bytes_max {
            return self.write(at, less(line.is));
        }
        self.pass(&line, Digest::of(&bytes));
        bytes.push(b'\n');
        bytes
    }

    fn draft(&self, at: jiff::Timestamp, is: What) -> (Line, Vec<u8>) {
        let line = Line { n: self.next, prev: self.head, at, is };
        let bytes = line.encode();
        (line, bytes)
    }

    /// Writes the first line of the segment that follows.
    pub fn begin_segment(&mut self, at: jiff::Timestamp) -> Vec<u8> {
        let number = self.segment + 1;
        let segment = Segment { node: self.node.clone(), trail: self.trail.clone(), number };
        self.write(at, What::Segment(segment))
    }

    /// Goes past something that is no line.
    pub(super) fn skip(&mut self) {
        self.next = self.next.saturating_add(1);
    }

    /// Goes past a line that does not follow, as if it did, so that what comes after can be looked at.
    pub(super) fn force(&mut self, line: &Line, bytes: &[u8]) {
        if !matches!(line.is, What::Segment(_)) {
            self.is_open = true;
        }
        self.pass(line, Digest::of(bytes));
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} before line {}", self.called(), self.next)
    }
}
