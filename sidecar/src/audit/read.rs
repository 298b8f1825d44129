//! Reads the trail back, from any line on, in pieces that are shipped.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Seek as _};

use super::Audit;

/// Bytes after which a piece takes no further line.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// Lines that follow each other, each with its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The number of the first.
    pub from: u64,
    /// The number after the last.
    pub to: u64,
    pub bytes: Vec<u8>,
}

/// Reads lines in their order. It knows where it is, so that reading on costs no searching.
#[derive(Debug)]
pub struct Reader {
    audit: Audit,
    /// The segment that is read, where in it, and the number of the line there.
    place: Option<(u64, u64, u64)>,
}

impl Reader {
    pub(super) fn new(audit: Audit) -> Self {
        Self { audit, place: None }
    }

    /// The number of the oldest line that is there.
    pub fn oldest(&self) -> u64 {
        let segments = self.audit.0.segments();
        let next = *self.audit.0.grown.borrow();
        segments.iter().find_map(|it| it.first).unwrap_or(next)
    }

    /// Lines from this one on; none if it is not there yet. Blocks.
    pub fn read(&mut self, from: u64) -> io::Result<Batch> {
        let to = *self.audit.0.grown.borrow();
        let mut batch = Batch { from, to: from, bytes: Vec::new() };
        while batch.to < to && batch.bytes.len() < BATCH_BYTES_MAX {
            if !self.seek(batch.to)? || !self.take(&mut batch, to)? {
                break;
            }
        }
        Ok(batch)
    }

    /// Finds the segment of a line.
    fn seek(&mut self, n: u64) -> io::Result<bool> {
        let segments = self.audit.0.segments();
        let held = segments.iter().rfind(|it| it.first.is_some_and(|first| first <= n));
        let Some(held) = held else { return Ok(false) };
        let first = held.first.unwrap_or(n);
        match self.place {
            Some((number, _, at)) if number == held.number && at <= n => {}
            _ => self.place = Some((held.number, 0, first)),
        }
        Ok(true)
    }

    /// Takes lines of the present segment.
    fn take(&mut self, batch: &mut Batch, to: u64) -> io::Result<bool> {
        let Some((number, offset, mut n)) = self.place else { return Ok(false) };
        let path = {
            let segments = self.audit.0.segments();
            let Some(held) = segments.iter().find(|it| it.number == number) else { return Ok(false) };
            held.path.clone()
        };
        let mut file = BufReader::new(File::open(path)?);
        let mut offset = file.seek(io::SeekFrom::Start(offset))?;
        let (mut line, before) = (Vec::new(), batch.to);
        while n < to && batch.bytes.len() < BATCH_BYTES_MAX {
            line.clear();
            let bytes = file.read_until(b'\n', &mut line)?;
            if bytes == 0 || line.last() != Some(&b'\n') {
                break;
            }
            if n >= batch.from {
                batch.bytes.extend_from_slice(&line);
                batch.to = n + 1;
            }
            offset += bytes as u64;
            n += 1;
        }
        self.place = Some((number, offset, n));
        Ok(batch.to > before)
    }
}
