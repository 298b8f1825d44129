//! The one place that reads from and writes to the terminal: data goes to stdout, talk to stderr.
//!
//! Whatever comes from elsewhere is made plain first ([`plain`]): a name or a message must not be able to move the
//! cursor or to recolour what an operator reads.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::sync::{Mutex, PoisonError};

use clap::ValueEnum;

use crate::failure::Failure;

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    Always,
    Never,
}

impl Color {
    fn on(self, terminal: bool, no_color: bool) -> bool {
        match self {
            Self::Auto => terminal && !no_color,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// What a piece of text means to its reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    #[default]
    Plain,
    Good,
    Warn,
    Bad,
    Dim,
    Strong,
}

impl Tone {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "32",
            Self::Warn => "33",
            Self::Bad => "31",
            Self::Dim => "2",
            Self::Strong => "1",
        }
    }

    /// The text, coloured if it may be.
    pub(crate) fn paint(self, text: &str, colour: bool) -> String {
        match colour && self != Self::Plain {
            true => format!("\u{1b}[{}m{text}\u{1b}[0m", self.code()),
            false => text.to_owned(),
        }
    }
}

/// The text with control characters, other than line breaks and tabs, shown as their codes.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    let unsafe_here = |c: char| (c.is_control() && !matches!(c, '\n' | '\t')) || is_direction(c);
    if !text.contains(unsafe_here) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match unsafe_here(c) {
            true => safe.extend(c.escape_default()),
            false => safe.push(c),
        }
    }
    Cow::Owned(safe)
}

/// Characters that reorder the text around them.
const fn is_direction(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Stdout or stderr.
struct Stream {
    sink: Mutex<Box<dyn Write + Send>>,
    color: bool,
}

impl Stream {
    fn new(sink: impl Write + Send + 'static, color: bool) -> Self {
        Self { sink: Mutex::new(Box::new(sink)), color }
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        sink.write_all(text.as_bytes())?;
        sink.flush()
    }
}

/// Where a command reads from and writes to.
pub(crate) struct Terminal {
    input: Mutex<Box<dyn Read + Send>>,
    out: Stream,
    err: Stream,
    /// Somebody is there to be asked.
    interactive: bool,
    /// Stdout is a terminal on which the cursor can be moved.
    drawable: bool,
    verbose: bool,
}

impl Terminal {
    /// The terminal of this process.
    pub(crate) fn real(color: Color, verbose: bool) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        Self {
            input: Mutex::new(Box::new(io::stdin())),
            out: Stream::new(io::stdout(), color.on(io::stdout().is_terminal(), no_color)),
            err: Stream::new(io::stderr(), color.on(io::stderr().is_terminal(), no_color)),
            interactive: io::stdin().is_terminal() && io::stderr().is_terminal(),
            drawable: io::stdout().is_terminal() && !dumb,
            verbose,
        }
    }

    /// Whether stdout takes colours.
    pub(crate) const fn color(&self) -> bool {
        self.out.color
    }

    pub(crate) const fn interactive(&self) -> bool {
        self.interactive
    }

    /// Whether what was printed can be drawn over.
    pub(crate) const fn drawable(&self) -> bool {
        self.drawable
    }

    /// Lines that the terminal shows now.
    pub(crate) fn lines(&self) -> usize {
        let size = rustix::termios::tcgetwinsize(io::stdout());
        size.map_or(LINES, |size| usize::from(size.ws_row)).max(LINES_MIN)
    }

    /// Writes data, as it is.
    pub(crate) fn print(&self, text: &str) -> Result<(), Failure> {
        self.out.write(text).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::ReaderGone,
            _ => Failure::failed("the output could not be written").because(error),
        })
    }

    /// Says something beside the data: progress, summaries, hints.
    pub(crate) fn say(&self, text: &str) {
        // Without anyone to hear it there is nobody to tell that either.
        let _ = self.err.write(&format!("{}\n", plain(text)));
    }

    pub(crate) fn warn(&self, text: &str) {
        let label = Tone::Warn.paint("warning:", self.err.color);
        let _ = self.err.write(&format!("{label} {}\n", plain(text)));
    }

    /// Says something that only those who asked for details want to know.
    pub(crate) fn detail(&self, text: &str) {
        if self.verbose {
            self.say(text);
        }
    }

    /// Says why a command ends without success.
    pub(crate) fn complain(&self, failure: &Failure) {
        if let Failure::Told(told) = failure {
            let label = Tone::Bad.paint("error:", self.err.color);
            let _ = self.err.write(&format!("{label} {}\n", plain(&told.to_string())));
        }
    }

    /// Asks a question that is answered with yes or no; anything but yes is no.
    pub(crate) fn ask(&self, question: &str) -> Result<bool, Failure> {
        let _ = self.err.write(&format!("{} [y/N] ", plain(question)));
        let mut answer = String::new();
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        io::BufReader::new((&mut *input).take(ANSWER_BYTES_MAX))
            .read_line(&mut answer)
            .map_err(|error| Failure::failed("the answer could not be read").because(error))?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    /// Everything on stdin, up to and including one byte more than `bytes_max`.
    pub(crate) fn read_input(&self, bytes_max: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        (&mut *input).take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

const ANSWER_BYTES_MAX: u64 = 1024;
/// Lines of a terminal that does not say how many it has.
const LINES: usize = 24;
/// Fewer are not drawn for.
const LINES_MIN: usize = 6;

impl std::fmt::Debug for Terminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terminal").field("interactive", &self.interactive).finish_non_exhaustive()
    }
}

/// A unified diff, its lines coloured by what they say.
pub(crate) fn paint_diff(diff: &str, colour: bool) -> String {
    let mut painted = String::with_capacity(diff.len());
    for line in plain(diff).lines() {
        let tone = match line.as_bytes() {
            [b'+', b'+', b'+', ..] | [b'-', b'-', b'-', ..] => Tone::Strong,
            [b'+', ..] => Tone::Good,
            [b'-', ..] => Tone::Bad,
            [b'@', b'@', ..] => Tone::Dim,
            _ => Tone::Plain,
        };
        let _ = writeln!(painted, "{}", tone.paint(line, colour));
    }
    painted
}

#[cfg(test)]
pub(crate) mod testing {
    //! A terminal whose output can be read.

    use std::sync::Arc;

    use super::*;

    /// What was written to one stream.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A stream whose reader has gone.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Terminal {
        /// With `input` on stdin; what was written to stdout and stderr can be read.
        pub(crate) fn captured(input: &str, interactive: bool) -> (Self, Captured, Captured) {
            let (out, err) = (Captured::default(), Captured::default());
            let terminal = Self {
                input: Mutex::new(Box::new(io::Cursor::new(input.to_owned()))),
                out: Stream::new(out.clone(), false),
                err: Stream::new(err.clone(), false),
                interactive,
                drawable: true,
                verbose: false,
            };
            (terminal, out, err)
        }

        #[must_use]
        pub(crate) fn verbose(mut self) -> Self {
            self.verbose = true;
            self
        }

        /// Without a reader.
        pub(crate) fn closed() -> Self {
            let (terminal, _, _) = Self::captured("", false);
            Self { out: Stream::new(Closed, false), ..terminal }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_follow_the_flag_then_no_color_then_the_terminal() {
        let check = |color: Color, terminal, no_color, expected| {
            assert_eq!(color.on(terminal, no_color), expected, "{color:?} {terminal} {no_color}");
        };
        check(Color::Auto, true, false, true);
        check(Color::Auto, true, true, false);
        check(Color::Auto, false, false, false);
        check(Color::Always, false, true, true);
        check(Color::Never, true, false, false);
    }

    #[test]
    fn text_from_elsewhere_cannot_steer_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\rc\u{9b}\u{202e}"), "a\\u{1b}[2Jb\\rc\\u{9b}\\u{202e}");
        assert_eq!(plain("line\n\tindented ü"), "line\n\tindented ü");
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        let failure = Terminal::closed().print("x").unwrap_err();
        assert!(matches!(failure, Failure::ReaderGone), "{failure:?}");
    }

    #[test]
    fn only_yes_is_yes() {
        for (answer, expected) in
            [("y\n", true), ("YES\n", true), ("n\n", false), ("", false), ("yep\n", false)]
        {
            let (terminal, _, err) = Terminal::captured(answer, true);
            assert_eq!(terminal.ask("sure?").unwrap(), expected, "{answer:?}");
            assert_eq!(err.text(), "sure? [y/N] ");
        }
    }

    #[test]
    fn a_diff_is_coloured_line_by_line() {
        let painted = paint_diff("--- a\n+++ b\n@@ -1 +1 @@\n-old\n+new\n same\n", true);
        assert!(painted.contains("\u{1b}[31m-old\u{1b}[0m\n\u{1b}[32m+new\u{1b}[0m\n same\n"), "{painted:?}");
        assert_eq!(paint_diff("-old\n+new\n", false), "-old\n+new\n");
    }
}
