//! Arguments and results of tools, where telemetry wants them in spans: less what a policy redacts, as in the audit
//! trail. What cannot be shown so is left out, and the span says why.
//!
//! Not here: who is shown them. That is for whoever looks after the collector.

use weft_proto::mcp::{self, Body, Message, Outcome, Raw, Target};
use weft_proto::policy::tools::Redaction;
use weft_proto::resource::kinds::TracedContent;

use crate::audit::About;
use crate::heard;
use crate::limits::Limits;
use crate::record::Open;

/// A value, or why it is not shown.
pub(super) type Shown = Result<Box<str>, LeftOut>;

/// Why a value is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeftOut {
    /// Of a tool of whose arguments something is hidden, which could come back in the result.
    Redacted,
    TooLong,
    /// No result was found in what was answered.
    Unreadable,
}

impl LeftOut {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Redacted => "redacted",
            Self::TooLong => "too_long",
            Self::Unreadable => "unreadable",
        }
    }
}

/// What of a call stands in its span.
#[derive(Debug)]
pub(super) struct Content {
    /// None of a call without any.
    pub(super) arguments: Option<Shown>,
    /// The answer so far; none where it is not wanted.
    answer: Option<Result<Vec<u8>, LeftOut>>,
    value_bytes_max: usize,
}

/// Has the span of a call carry what telemetry wants in it, if the call is recorded.
pub(crate) fn show(about: About<'_>, limits: &Limits, record: &mut Open) {
    let more = record.trace.as_mut().and_then(|trace| trace.more.as_mut());
    let wanted = super::of(about.entry).and_then(|tracing| tracing.content);
    let (Some(more), Some(wanted)) = (more, wanted) else { return };
    let Some(request) = about.call.request() else { return };
    if let Some(Target::Tool(tool)) = request.target() {
        let redaction = about.redaction(tool);
        more.content =
            Some(Content::new(wanted, request.params.arguments, &redaction, limits.span_value_bytes_max));
    }
}

impl Content {
    fn new(
        wanted: TracedContent,
        arguments: Option<Raw<'_>>,
        redaction: &Redaction,
        value_bytes_max: usize,
    ) -> Self {
        let answer = match wanted {
            TracedContent::Arguments => None,
            TracedContent::Full if redaction.is_empty() => Some(Ok(Vec::new())),
            TracedContent::Full => Some(Err(LeftOut::Redacted)),
        };
        let arguments = arguments.map(|it| shown(it, redaction, value_bytes_max));
        Self { arguments, answer, value_bytes_max }
    }

    /// Bytes of the answer, as they go to the caller.
    pub(super) fn feed(&mut self, data: &[u8]) {
        let Some(Ok(answer)) = &mut self.answer else { return };
        if answer.len() + data.len() > self.value_bytes_max {
            self.answer = Some(Err(LeftOut::TooLong));
        } else {
            answer.extend_from_slice(data);
        }
    }

    /// What the tool answered; none if that was no result.
    pub(super) fn result(&self) -> Option<Shown> {
        match self.answer.as_ref()? {
            Ok(answer) => result(answer),
            Err(lack) => Some(Err(*lack)),
        }
    }

    /// As much as is held of the call.
    pub(super) fn bytes(&self) -> usize {
        let arguments = self.arguments.iter().flatten().map(|it| it.len());
        let answer = self.answer.iter().flatten().map(Vec::len);
        arguments.chain(answer).sum()
    }
}

fn shown(arguments: Raw<'_>, redaction: &Redaction, bytes_max: usize) -> Shown {
    // What is too long is not even read.
    let shown: Box<str> = match (arguments.get().len() <= bytes_max, redaction.is_empty()) {
        (false, _) => return Err(LeftOut::TooLong),
        (true, true) => arguments.get().into(),
        (true, false) => redaction.apply(arguments).into(),
    };
    Some(shown).filter(|shown| shown.len() <= bytes_max).ok_or(LeftOut::TooLong)
}

fn result(answer: &[u8]) -> Option<Shown> {
    if answer.is_empty() {
        return None;
    }
    let outcome = heard::messages(answer).find_map(|message| match mcp::parse(message, heard::BOUNDS) {
        Ok(Body::One(Message::Response(response))) => Some(response.outcome),
        _ => None,
    });
    match outcome {
        Some(Outcome::Result(result)) => Some(Ok(result.get().into())),
        Some(Outcome::Error(_)) => None,
        None => Some(Err(LeftOut::Unreadable)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 64;

    fn content(wanted: TracedContent, arguments: &str, redacted: &[&str]) -> Content {
        let arguments = Raw::scan(arguments, 8).unwrap();
        Content::new(wanted, Some(arguments), &Redaction::new(redacted.iter().copied()), MAX)
    }

    fn words(shown: Option<Shown>) -> Option<Result<String, &'static str>> {
        shown.map(|it| it.map(String::from).map_err(LeftOut::word))
    }

    #[test]
    fn arguments_are_shown_without_what_is_redacted_and_only_if_they_are_short() {
        let check = |arguments: &str, redacted: &[&str], expected: Result<&str, &'static str>| {
            let content = content(TracedContent::Arguments, arguments, redacted);
            assert_eq!(words(content.arguments), Some(expected.map(str::to_owned)), "{arguments}");
        };
        check(r#"{"a": 1}"#, &[], Ok(r#"{"a": 1}"#));
        check(r#"{"a": 1}"#, &["a"], Ok(r#"{"a":"[redacted]"}"#));
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX));
        check(&long, &[], Err("too_long"));
        // Not even where it would be short enough afterwards: it is not gone through.
        check(&long, &["a"], Err("too_long"));
        // Nor where hiding makes it long.
        let many = r#"{"a":[{"b":1},{"b":2},{"b":3},{"b":4}]}"#;
        check(many, &[], Ok(many));
        check(many, &["a.b"], Err("too_long"));
    }

    #[test]
    fn a_call_without_arguments_shows_none() {
        let content = Content::new(TracedContent::Full, None, &Redaction::default(), MAX);
        assert_eq!(content.arguments, None);
    }

    #[test]
    fn results_are_shown_where_they_are_wanted_and_nothing_is_hidden() {
        let check =
            |wanted, redacted: &[&str], pieces: &[&str], expected: Option<Result<&str, &'static str>>| {
                let mut content = content(wanted, "{}", redacted);
                for piece in pieces {
                    content.feed(piece.as_bytes());
                }
                assert_eq!(words(content.result()), expected.map(|it| it.map(str::to_owned)), "{pieces:?}");
            };
        let full = TracedContent::Full;
        let whole = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#;
        let result = Some(Ok(r#"{"content":[]}"#));
        check(full, &[], &[whole], result);
        check(full, &[], &[&whole[..9], &whole[9..]], result);
        check(full, &[], &["data: ", whole, "\n\n"], result);
        check(TracedContent::Arguments, &[], &[whole], None);
        check(full, &["a"], &[whole], Some(Err("redacted")));
        check(full, &[], &[], None);
        check(full, &[], &[r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"no"}}"#], None);
        check(full, &[], &[&whole[..20]], Some(Err("unreadable")));
        check(full, &[], &[whole, "                          "], Some(Err("too_long")));
        // What came before it is not shown either.
        check(full, &[], &[whole, whole, whole], Some(Err("too_long")));
    }
}
