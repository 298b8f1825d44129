//! Framing: a stream of bytes as lines, each at most so long.
//!
//! Pure; whoever reads puts bytes in and takes lines out. Not here: what a line means. A line ends with LF; CR LF is taken
//! for one, lines without anything but blanks are none.

use bytes::{Bytes, BytesMut};
use memchr::memchr;

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A line without its end.
    Whole(Bytes),
    /// The beginning of a line that is longer than allowed. What is left of it is thrown away, however long.
    TooLong(Bytes),
}

/// Splits a stream into lines. Holds no more than one line of the largest size, and what was put in last.
#[derive(Debug)]
pub struct Splitter {
    buffer: BytesMut,
    /// Bytes at the front in which there is no end of a line.
    looked: usize,
    /// Inside a line that is too long already.
    skipping: bool,
    line_bytes_max: usize,
}

impl Splitter {
    pub fn new(line_bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), looked: 0, skipping: false, line_bytes_max }
    }

    /// Where to put what was read, behind what is there.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next line, if there is a whole one.
    pub fn next_line(&mut self) -> Option<Line> {
        loop {
            let end = memchr(b'\n', &self.buffer[self.looked..]).map(|at| self.looked + at);
            let line = match end {
                Some(end) if self.skipping => {
                    self.skipping = false;
                    self.cut(end + 1);
                    continue;
                }
                Some(end) => Line::Whole(self.cut(end + 1).slice(..end)),
                None if self.skipping => {
                    self.throw_away();
                    return None;
                }
                // One byte more, for the CR that is no part of the line.
                None if self.buffer.len() > self.line_bytes_max + 1 => {
                    let head = Bytes::copy_from_slice(&self.buffer[..self.line_bytes_max]);
                    self.throw_away();
                    self.skipping = true;
                    Line::TooLong(head)
                }
                None => {
                    self.looked = self.buffer.len();
                    return None;
                }
            };
            if let Some(line) = self.judged(line) {
                return Some(line);
            }
        }
    }

    /// What was left without an end, once nothing more will come.
    pub fn finish(&mut self) -> Option<Line> {
        if std::mem::take(&mut self.skipping) {
            self.throw_away();
        }
        let rest = self.cut(self.buffer.len());
        self.judged(Line::Whole(rest))
    }

    fn cut(&mut self, at: usize) -> Bytes {
        self.looked = 0;
        self.buffer.split_to(at).freeze()
    }

    fn throw_away(&mut self) {
        self.looked = 0;
        self.buffer.clear();
    }

    /// A line without its CR, if it is one and not too long.
    fn judged(&self, line: Line) -> Option<Line> {
        let Line::Whole(mut line) = line else { return Some(line) };
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        if line.len() > self.line_bytes_max {
            return Some(Line::TooLong(Bytes::copy_from_slice(&line[..self.line_bytes_max])));
        }
        (!line.trim_ascii().is_empty()).then_some(Line::Whole(line))
    }
}

#[cfg(test)]
mod tests;
