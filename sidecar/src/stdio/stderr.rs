//! What a child says on its standard error: logged, as far as that is little.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;

use super::lines::{Line, Splitter};
use crate::limits::Limits;

const READ_BYTES: usize = 8 << 10;
const WINDOW: Duration = Duration::from_secs(1);

/// Logs one child's standard error, through all its restarts.
#[derive(Debug)]
pub(super) struct Stderr {
    server: String,
    lines_per_second_max: u32,
    line_bytes_max: usize,
    suppressed: AtomicU64,
    /// Often the reason, when a child ends.
    last: Mutex<String>,
}

/// How much was logged lately.
#[derive(Debug)]
struct Window {
    since: Instant,
    lines: u32,
    suppressed: u64,
}

impl Stderr {
    pub(super) fn new(server: String, limits: &Limits) -> Self {
        Self {
            server,
            lines_per_second_max: limits.stderr_lines_per_second_max,
            line_bytes_max: limits.stderr_line_bytes_max,
            suppressed: AtomicU64::new(0),
            last: Mutex::default(),
        }
    }

    /// Lines that were not logged because there were too many.
    pub(super) fn suppressed(&self) -> u64 {
        self.suppressed.load(Ordering::Relaxed)
    }

    /// The last line, which is then forgotten.
    pub(super) fn take_last(&self) -> Option<String> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        Some(std::mem::take(&mut *last)).filter(|last| !last.is_empty())
    }

    /// Reads to the end, whatever comes: a child must never wait for its log.
    pub(super) async fn log(&self, mut from: impl AsyncRead + Unpin) {
        let mut splitter = Splitter::new(self.line_bytes_max);
        let mut window = Window { since: Instant::now(), lines: 0, suppressed: 0 };
        loop {
            splitter.buffer().reserve(READ_BYTES);
            let read = from.read_buf(splitter.buffer()).await;
            while let Some(line) = splitter.next_line() {
                self.line(&line, &mut window);
            }
            if !matches!(read, Ok(1..)) {
                break;
            }
        }
        if let Some(line) = splitter.finish() {
            self.line(&line, &mut window);
        }
        self.tell_suppressed(&mut window);
    }

    fn line(&self, line: &Line, window: &mut Window) {
        if window.since.elapsed() >= WINDOW {
            self.tell_suppressed(window);
            *window = Window { since: Instant::now(), lines: 0, suppressed: 0 };
        }
        window.lines = window.lines.saturating_add(1);
        if window.lines > self.lines_per_second_max {
            window.suppressed += 1;
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let (Line::Whole(bytes) | Line::TooLong(bytes)) = line;
        let text = harmless(bytes);
        let truncated = matches!(line, Line::TooLong(_));
        tracing::info!(server = self.server, truncated, stderr = text, "a stdio server says");
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    fn tell_suppressed(&self, window: &mut Window) {
        let lines = std::mem::take(&mut window.suppressed);
        if lines > 0 {
            tracing::warn!(server = self.server, lines, "a stdio server says too much to log");
        }
    }
}

/// What the log calls lines that a server says. They are its own, whatever stands in them.
pub const SAID_BY_SERVERS: &str = module_path!();

/// Text without control characters, by which a child could forge lines of the log or speak to a terminal.
pub(super) fn harmless(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stderr(lines_per_second_max: u32) -> Stderr {
        let limits = Limits { stderr_lines_per_second_max: lines_per_second_max, ..Limits::default() };
        Stderr::new("research/files".to_owned(), &limits)
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_read_and_not_logged() {
        let stderr = stderr(10);
        stderr.log("no\n".repeat(100_000).as_bytes()).await;
        assert_eq!(stderr.suppressed(), 99_990);
    }

    #[tokio::test]
    async fn the_last_words_are_kept_and_harmless() {
        let stderr = stderr(10);
        stderr.log(&b"first\nError:\x1b[31m no such\xff file"[..]).await;
        assert_eq!(stderr.take_last().unwrap(), "Error:\u{fffd}[31m no such\u{fffd} file");
        assert_eq!(stderr.take_last(), None);
    }
}
