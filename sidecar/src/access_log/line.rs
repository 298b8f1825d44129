//! An event as one line: an object of JSON, or words of the form `name=value`. Both have the same names in the same
//! order. Written by hand: it is made for every request.
//!
//! In words, a value that callers could choose stands in quotes unless it is plain, and within quotes everything that is
//! not printable ASCII is escaped: a line cannot be made to look like two, nor one field like another.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use weft_proto::resource::kinds::LogFormat;

use crate::authorize::Decided;
use crate::metrics::METHODS;
use crate::record::Event;

/// Longest text of a caller's choice that is written, in bytes.
const TEXT_BYTES_MAX: usize = 256;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Has the event as a line, and then whatever is done with it.
pub(super) fn with<T>(event: &Event, format: LogFormat, done: impl FnOnce(&str) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| done(scratch.line(event, format)))
}

/// What a thread writes its lines with.
#[derive(Debug, Default)]
struct Scratch {
    line: String,
    /// The second that was last written, and how.
    second: Option<u64>,
    stamp: String,
    written: String,
}

impl Scratch {
    fn line(&mut self, event: &Event, format: LogFormat) -> &str {
        self.line.clear();
        let (begin, end) = match format {
            LogFormat::Json => ("{\"at\":\"", "\""),
            LogFormat::Text => ("at=", ""),
        };
        self.line.push_str(begin);
        self.at(event.at);
        self.line.push_str(end);
        let mut line = Line { text: &mut self.line, format };
        line.word("listener", event.listener);
        line.word("reason", event.reason);
        line.word("method", METHODS[event.method]);
        line.word("era", event.era);
        line.number("status", event.status.into());
        line.number("requestBytes", event.request_bytes);
        line.number("responseBytes", event.response_bytes);
        let micros = u64::try_from(event.duration.as_micros()).unwrap_or(u64::MAX);
        line.number("durationMs", micros / 1000);
        line.text.push('.');
        digits(line.text, micros % 1000, 3);
        line.chosen("http", Some(event.http_method.as_str()));
        line.chosen("caller", Some(&event.caller));
        line.chosen("server", Some(&event.server));
        line.chosen("target", event.target.as_deref());
        line.chosen("id", event.rpc_id.as_deref());
        let Decided { rule, audit, shadow } = &event.decided;
        if let Some(rule) = rule {
            line.chosen("rule", Some(written(&mut self.written, rule)));
        }
        if let Some(shadow) = shadow {
            line.chosen("shadow", Some(written(&mut self.written, shadow)));
        }
        if audit.is_marked() {
            line.name("audit");
            line.text.push_str("true");
        }
        line.chosen("limit", event.limit.as_deref());
        line.chosen("shadowLimit", event.shadow_limit.as_deref());
        line.chosen("tools", event.tools.as_deref());
        line.chosen("detail", event.detail.as_deref());
        self.line.push_str(if format == LogFormat::Json { "}\n" } else { "\n" });
        &self.line
    }

    /// A time, to the microsecond. Everything but the microseconds is the same for many lines.
    fn at(&mut self, at: SystemTime) {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let second = since.as_secs();
        if self.second != Some(second) {
            let time = i64::try_from(second).ok().and_then(|it| jiff::Timestamp::from_second(it).ok());
            self.stamp =
                time.unwrap_or(jiff::Timestamp::UNIX_EPOCH).strftime("%Y-%m-%dT%H:%M:%S.").to_string();
            self.second = Some(second);
        }
        self.line.push_str(&self.stamp);
        digits(&mut self.line, since.subsec_micros().into(), 6);
        self.line.push('Z');
    }
}

/// A line that has begun.
struct Line<'l> {
    text: &'l mut String,
    format: LogFormat,
}

impl Line<'_> {
    fn name(&mut self, name: &str) {
        let (before, after) = match self.format {
            LogFormat::Json => (",\"", "\":"),
            LogFormat::Text => (" ", "="),
        };
        self.text.push_str(before);
        self.text.push_str(name);
        self.text.push_str(after);
    }

    /// A word of this program's own.
    fn word(&mut self, name: &str, value: &str) {
        self.name(name);
        let quote = if self.format == LogFormat::Json { "\"" } else { "" };
        self.text.push_str(quote);
        self.text.push_str(if value.is_empty() && quote.is_empty() { "-" } else { value });
        self.text.push_str(quote);
    }

    fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        self.text.push_str(itoa::Buffer::new().format(value));
    }

    /// A text that somebody else chose; clipped, and left out if there is none.
    fn chosen(&mut self, name: &str, value: Option<&str>) {
        let Some(value) = value.filter(|value| !value.is_empty()) else { return };
        let value = &value[..value.floor_char_boundary(TEXT_BYTES_MAX)];
        self.name(name);
        match self.format {
            LogFormat::Json if value.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') => {
                self.text.push('"');
                self.text.push_str(value);
                self.text.push('"');
            }
            // A text can always be written as JSON.
            LogFormat::Json => self.text.push_str(&serde_json::to_string(value).unwrap_or_default()),
            LogFormat::Text if value.bytes().all(is_plain) => self.text.push_str(value),
            LogFormat::Text => {
                self.text.push('"');
                self.text.extend(value.escape_default());
                self.text.push('"');
            }
        }
    }
}

/// What stands in words without quotes.
const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'.' | b'_' | b':' | b'/' | b'@' | b'+' | b'-' | b'*' | b'#')
}

fn written<'s>(scratch: &'s mut String, value: &impl fmt::Display) -> &'s str {
    scratch.clear();
    // Writing to a text cannot fail.
    let _ = write!(scratch, "{value}");
    scratch
}

/// A number with leading zeros.
fn digits(line: &mut String, number: u64, width: usize) {
    let mut buffer = itoa::Buffer::new();
    let number = buffer.format(number);
    line.extend(std::iter::repeat_n('0', width.saturating_sub(number.len())));
    line.push_str(number);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::access_log::tests::event;

    fn line(event: &Event, format: LogFormat) -> String {
        Scratch::default().line(event, format).to_owned()
    }

    #[test]
    fn a_line_is_one_json_object_whatever_callers_choose() {
        for target in ["echo", "a\"b\\c\n\u{1}", &"ü".repeat(500)] {
            let line = line(&event(target), LogFormat::Json);
            assert_eq!(line.matches('\n').count(), 1);
            let read: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(read["durationMs"], 1.5);
            assert_eq!(read["at"], "1970-01-01T00:00:00.000000Z");
            let written = read["target"].as_str().unwrap();
            assert!(target.starts_with(written) && written.len() <= TEXT_BYTES_MAX);
        }
    }

    #[test]
    fn a_line_of_words_says_the_same() {
        let check = |target: &str, expected: &str| {
            let line = line(&event(target), LogFormat::Text);
            let start = "at=1970-01-01T00:00:00.000000Z listener=inbound reason=ok method=tools/call era=modern \
                 status=200 requestBytes=1 responseBytes=2 durationMs=1.500 http=POST \
                 caller=spiffe://mesh.test/ns/agents/sa/a server=research/files target=";
            assert_eq!(line, format!("{start}{expected} id=7\n"));
        };
        check("read", "read");
        check("two words", "\"two words\"");
        check("x status=500", "\"x status=500\"");
        check("x\nat=1970", "\"x\\nat=1970\"");
        check("a\"b\\", "\"a\\\"b\\\\\"");
        check("\u{2028}\u{1b}[2Jü", "\"\\u{2028}\\u{1b}[2J\\u{fc}\"");
    }

    /// What a reader of words makes of a line: fields by name, in order.
    fn fields(line: &str) -> Vec<(String, String)> {
        let (mut found, mut rest) = (Vec::new(), line);
        while let Some((name, after)) = rest.split_once('=') {
            let end = match after.strip_prefix('"') {
                None => after.find(' ').unwrap_or(after.len()),
                Some(quoted) => {
                    let mut escaped = false;
                    let close = quoted.find(|c| {
                        let ends = c == '"' && !escaped;
                        escaped = c == '\\' && !escaped;
                        ends
                    });
                    close.map_or(after.len(), |close| close + 2)
                }
            };
            found.push((name.trim_start().to_owned(), after[..end].to_owned()));
            rest = &after[end..];
        }
        found
    }

    proptest! {
        #[test]
        fn no_text_of_a_caller_makes_another_line_or_another_field(target in any::<String>(), id in ".*") {
            let whole = Event { rpc_id: Some(id.clone().into()), ..event(&target) };
            let line = line(&whole, LogFormat::Text);
            prop_assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte) || byte == b'\n'));
            prop_assert_eq!(line.find('\n'), Some(line.len() - 1));
            let names: Vec<_> = fields(line.trim_end()).into_iter().map(|(name, _)| name).collect();
            let mut expected = vec![
                "at", "listener", "reason", "method", "era", "status", "requestBytes", "responseBytes",
                "durationMs", "http", "caller", "server",
            ];
            expected.extend((!target.is_empty()).then_some("target"));
            expected.extend((!id.is_empty()).then_some("id"));
            prop_assert_eq!(names, expected);
        }
    }

    #[test]
    fn a_method_of_a_callers_making_does_not_fill_the_log() {
        let method = http::Method::from_bytes(&[b'X'; 60_000]).unwrap();
        let line = line(&Event { http_method: method, ..event("a") }, LogFormat::Json);
        assert!(line.len() < 1024, "{}", line.len());
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&line).unwrap()["http"],
            "X".repeat(TEXT_BYTES_MAX)
        );
    }

    #[test]
    fn times_are_written_to_the_microsecond() {
        let mut scratch = Scratch::default();
        let mut at = |micros| {
            scratch.line.clear();
            scratch.at(SystemTime::UNIX_EPOCH + Duration::from_micros(micros));
            scratch.line.clone()
        };
        assert_eq!(at(1_795_737_600_000_001), "2026-11-27T00:00:00.000001Z");
        assert_eq!(at(1_795_737_600_999_999), "2026-11-27T00:00:00.999999Z");
        assert_eq!(at(1_795_737_601_000_000), "2026-11-27T00:00:01.000000Z");
    }
}
