//! A block of lines at the bottom of a terminal that is drawn over in place, while other lines scroll by above it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::failure::Failure;
use crate::terminal::Terminal;

/// See the module.
#[derive(Debug)]
pub(crate) struct Screen {
    terminal: Arc<Terminal>,
    /// The block that stands there now.
    drawn: Mutex<String>,
}

impl Screen {
    pub(crate) fn new(terminal: Arc<Terminal>) -> Self {
        Self { terminal, drawn: Mutex::default() }
    }

    /// Draws the block, if it is another than the one that stands there. What does not fit is cut off, and that is said.
    pub(crate) fn draw(&self, block: &str) -> Result<(), Failure> {
        let block = fitting(block, self.terminal.lines());
        let mut drawn = self.drawn();
        if *drawn == block {
            return Ok(());
        }
        self.terminal.print(&over(&drawn, &block))?;
        *drawn = block;
        Ok(())
    }

    /// The block stays where it is, and is not drawn over any more.
    pub(crate) fn leave(&self) {
        self.drawn().clear();
    }

    /// Has something said above the block.
    fn above<T>(&self, say: impl FnOnce() -> T) -> T {
        let drawn = self.drawn();
        if drawn.is_empty() {
            return say();
        }
        // Without a terminal to draw on there is nobody to tell.
        let _ = self.terminal.print(&over(&drawn, ""));
        let said = say();
        let _ = self.terminal.print(&over("", &drawn));
        said
    }

    fn drawn(&self) -> MutexGuard<'_, String> {
        self.drawn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stderr, for whoever shares the terminal with a block.
pub(crate) struct Above(pub(crate) Arc<Screen>);

impl io::Write for Above {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.above(|| io::stderr().write_all(bytes)).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// What replaces one block with another, in one go. Each line is cleared only behind its new text, so that nothing
/// flickers; and without wrapping, a line that is too long stays one line.
fn over(before: &str, block: &str) -> String {
    let mut text = String::from("\u{1b}[?7l");
    match before.lines().count() {
        0 => {}
        lines => text += &format!("\u{1b}[{lines}F"),
    }
    for line in block.lines() {
        text += &format!("{line}\u{1b}[K\n");
    }
    text + "\u{1b}[J\u{1b}[?7h"
}

/// As much of a block as `lines_max` lines show, with room for the cursor below.
fn fitting(block: &str, lines_max: usize) -> String {
    let lines: Vec<_> = block.lines().collect();
    let room = lines_max.saturating_sub(1);
    if lines.len() <= room {
        return block.to_owned();
    }
    let shown = room.saturating_sub(1);
    let text: String = lines[..shown].iter().map(|line| format!("{line}\n")).collect();
    format!("{text}… {} more lines than this terminal shows\n", lines.len() - shown)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn screen() -> (Arc<Screen>, crate::terminal::testing::Captured) {
        let (terminal, out, _) = Terminal::captured("", true);
        (Arc::new(Screen::new(Arc::new(terminal))), out)
    }

    #[test]
    fn a_block_is_drawn_over_in_place_and_only_if_it_changed() {
        let (screen, out) = screen();
        screen.draw("a\nb\n").unwrap();
        screen.draw("a\nb\n").unwrap();
        assert_eq!(out.text(), "\u{1b}[?7la\u{1b}[K\nb\u{1b}[K\n\u{1b}[J\u{1b}[?7h");
        screen.draw("c\n").unwrap();
        assert!(out.text().ends_with("\u{1b}[?7l\u{1b}[2Fc\u{1b}[K\n\u{1b}[J\u{1b}[?7h"), "{:?}", out.text());
        screen.leave();
        screen.draw("d\n").unwrap();
        assert!(out.text().ends_with("\u{1b}[?7ld\u{1b}[K\n\u{1b}[J\u{1b}[?7h"), "{:?}", out.text());
    }

    #[test]
    fn what_is_said_meanwhile_scrolls_by_above() {
        let (screen, out) = screen();
        screen.draw("a\nb\n").unwrap();
        let before = out.text();
        Above(screen).write_all(b"").unwrap();
        assert_eq!(out.text(), before, "nothing was said");
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        assert_eq!(fitting("1\n2\n3\n", 4), "1\n2\n3\n");
        assert_eq!(fitting("1\n2\n3\n4\n", 4), "1\n2\n… 2 more lines than this terminal shows\n");
    }
}
