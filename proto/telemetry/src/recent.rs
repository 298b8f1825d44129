//! The newest lines of a log, in memory, for whoever looks into a fault and cannot reach where they were written to.
//!
//! Not here: what is logged. What is not for operators must not be handed to this.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of all lines that are kept. Older ones make room.
pub const LINES_BYTES_MAX: usize = 128 << 10;
/// Bytes that are kept of one line.
pub const LINE_BYTES_MAX: usize = 2 << 10;
/// Lines that are kept, however short.
pub const LINES_MAX: usize = 1000;

/// See the module. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Recent(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<Box<str>>,
    bytes: usize,
}

impl Recent {
    /// What is written at once is a line.
    pub fn add(&self, line: &str) {
        let line = line.trim_end();
        if line.is_empty() {
            return;
        }
        let line = &line[..line.floor_char_boundary(LINE_BYTES_MAX)];
        let mut kept = self.lock();
        kept.bytes += line.len();
        kept.lines.push_back(line.into());
        while kept.bytes > LINES_BYTES_MAX || kept.lines.len() > LINES_MAX {
            let Some(oldest) = kept.lines.pop_front() else { break };
            kept.bytes -= oldest.len();
        }
    }

    /// The oldest first.
    pub fn lines(&self) -> Vec<String> {
        self.lock().lines.iter().map(ToString::to_string).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl io::Write for Recent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.add(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_kept_and_no_more_than_there_is_room_for() {
        let recent = Recent::default();
        for number in 0..2 * LINES_MAX {
            recent.clone().add(&format!("line {number}\n"));
        }
        let lines = recent.lines();
        assert_eq!((lines.len(), &*lines[0], &*lines[LINES_MAX - 1]), (LINES_MAX, "line 1000", "line 1999"));
        for _ in 0..LINES_MAX {
            recent.add(&"é".repeat(LINE_BYTES_MAX));
        }
        let lines = recent.lines();
        assert_eq!(lines.len(), LINES_BYTES_MAX / LINE_BYTES_MAX);
        assert!(lines.iter().all(|line| line.len() == LINE_BYTES_MAX));
        recent.add("\n");
        assert_eq!(recent.lines().len(), lines.len(), "nothing was said");
    }
}
