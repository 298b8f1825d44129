//! Records as a syslog daemon takes them: RFC 5424, over TCP with octet counting (RFC 6587), UDP, or a unix datagram
//! socket.

use jiff::Timestamp;
use weft_proto::audit::{Outcome, What};

use super::query::Record;

/// "Log audit".
const FACILITY: u8 = 13;
const NOTICE: u8 = 5;
const WARNING: u8 = 4;
const INFORMATIONAL: u8 = 6;
/// Longest host name of a message.
const HOST_CHARS_MAX: usize = 255;

/// A record as one message. The text is the record in JSON, as its node wrote it.
pub(super) fn message(record: &Record) -> String {
    let (id, severity) = match &record.line.is {
        What::Begun(_) => ("begun", INFORMATIONAL),
        What::Call(call) => ("call", severity(call.outcome)),
        What::Operator(act) => ("operator", severity(act.outcome)),
        What::Dropped(_) => ("dropped", WARNING),
        What::Resumed(_) => ("resumed", NOTICE),
        What::Later(_) => ("later", NOTICE),
        What::Segment(_) | What::Certificate(_) | What::Seal(_) => ("trail", INFORMATIONAL),
    };
    let priority = FACILITY * 8 + severity;
    let at = Timestamp::from_microsecond(record.line.at.as_microsecond()).unwrap_or_default();
    let host: String = record.node.chars().filter(char::is_ascii_graphic).take(HOST_CHARS_MAX).collect();
    let host = if host.is_empty() { "-" } else { &host };
    let text = &record.text;
    // The mark says that the text is UTF-8.
    format!("<{priority}>1 {at} {host} weft - {id} - \u{feff}{text}")
}

const fn severity(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Begun | Outcome::Done => INFORMATIONAL,
        Outcome::Refused => NOTICE,
        Outcome::Failed => WARNING,
    }
}

/// A message as TCP carries it.
pub(super) fn counted(message: &str) -> String {
    format!("{} {message}", message.len())
}

#[cfg(test)]
mod tests {
    use weft_proto::audit::{Cursor, Dropped, Line, Trail};

    use super::*;

    #[test]
    fn a_record_is_a_message_of_the_standard() {
        let mut cursor = Cursor::new("research/files-1", Trail::from_random(1));
        let at = Timestamp::from_microsecond(1_800_000_000_000_001).unwrap();
        let is = What::Dropped(Dropped { count: 2, reason: "disk_full".to_owned(), since: at });
        let bytes = cursor.write(at, is);
        let text = String::from_utf8(bytes).unwrap().trim_end().replacen('{', "{\"later\":1,", 1);
        let line = Line::parse(text.as_bytes()).unwrap();
        let message = message(&Record { place: 1, node: "research/files-1".to_owned(), line, text });
        let head = "<108>1 2027-01-15T08:00:00.000001Z research/files-1 weft - dropped - \u{feff}{\"later\":1,\"n\":1,";
        assert!(message.starts_with(head), "{message}");
        assert_eq!(counted("é"), "2 é");
    }
}
