//! How a command ends: the exit codes, and failures that say what happened, why, and what to do next.
//!
//! Not here: printing them (`terminal`), and the reasons for which a request fails (`client::Error`).

use std::fmt;

/// How a command ends. `weft --help` documents the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitCode {
    Done = 0,
    Failed = 1,
    Usage = 2,
    /// By policy, or because of a conflict.
    Refused = 3,
    Unreachable = 4,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Whoever read the output has gone, as `head` does. That is no error.
    ReaderGone,
    Told(Box<Told>),
}

/// A failure, for people.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) code: ExitCode,
    pub(crate) what: String,
    /// Mistakes in files, a line each: `file:line:column: field: message`.
    pub(crate) places: Vec<String>,
    pub(crate) why: Option<String>,
    pub(crate) next: Option<String>,
}

impl Failure {
    fn told(code: ExitCode, what: String) -> Self {
        Self::Told(Box::new(Told { code, what, places: Vec::new(), why: None, next: None }))
    }

    pub(crate) fn failed(what: impl Into<String>) -> Self {
        Self::told(ExitCode::Failed, what.into())
    }

    /// The command line is wrong.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::told(ExitCode::Usage, what.into())
    }

    pub(crate) fn refused(what: impl Into<String>) -> Self {
        Self::told(ExitCode::Refused, what.into())
    }

    pub(crate) fn unreachable(what: impl Into<String>) -> Self {
        Self::told(ExitCode::Unreachable, what.into())
    }

    /// The same, where what was given to read counts as the command line.
    #[must_use]
    pub(crate) fn into_usage(mut self) -> Self {
        if let Self::Told(told) = &mut self {
            told.code = ExitCode::Usage;
        }
        self
    }

    #[must_use]
    pub(crate) fn because(mut self, why: impl fmt::Display) -> Self {
        if let Self::Told(told) = &mut self {
            told.why = Some(why.to_string());
        }
        self
    }

    #[must_use]
    pub(crate) fn then(mut self, next: impl Into<String>) -> Self {
        if let Self::Told(told) = &mut self {
            told.next = Some(next.into());
        }
        self
    }

    #[must_use]
    pub(crate) fn at(mut self, places: Vec<String>) -> Self {
        if let Self::Told(told) = &mut self {
            told.places = places;
        }
        self
    }

    pub(crate) fn code(&self) -> ExitCode {
        match self {
            Self::ReaderGone => ExitCode::Done,
            Self::Told(told) => told.code,
        }
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for place in &self.places {
            write!(f, "\n  {place}")?;
        }
        for (label, text) in [("why", &self.why), ("next", &self.next)] {
            if let Some(text) = text {
                write!(f, "\n  {label}: {}", text.replace('\n', "\n    "))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(failure: &Failure) -> String {
        match failure {
            Failure::Told(told) => told.to_string(),
            Failure::ReaderGone => String::new(),
        }
    }

    #[test]
    fn a_failure_says_what_where_why_and_what_to_do_next() {
        let failure = Failure::failed("2 mistakes in a.yaml")
            .at(vec!["a.yaml:3:1: spec: wrong".to_owned(), "a.yaml:9:2: kind: unknown".to_owned()])
            .because("nothing was sent")
            .then("mend the places\nand repeat");
        assert_eq!(
            text(&failure),
            "2 mistakes in a.yaml\n  a.yaml:3:1: spec: wrong\n  a.yaml:9:2: kind: unknown\n  \
             why: nothing was sent\n  next: mend the places\n    and repeat"
        );
    }

    #[test]
    fn every_way_to_end_has_the_number_that_is_documented() {
        let numbers = [
            (Failure::ReaderGone, 0),
            (Failure::failed(""), 1),
            (Failure::usage(""), 2),
            (Failure::refused(""), 3),
            (Failure::unreachable(""), 4),
        ];
        for (failure, number) in numbers {
            assert_eq!(failure.code() as u8, number);
        }
    }
}
