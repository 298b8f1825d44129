//! What an answer says that concerns the record of its call: whether it is an error, and which.
//!
//! Looked for only where it costs little: in pieces that hold whole messages, as nearly all do, and only where the words
//! stand in them. What is missed here is missed in metrics and traces, and nowhere else.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use weft_proto::mcp::{self, Body, Bounds, Message, Outcome};

use crate::record::Event;

/// Largest piece that is looked into.
const PIECE_BYTES_MAX: usize = 64 << 10;
/// Longest message of an error that is kept.
const TEXT_BYTES_MAX: usize = 256;
pub(crate) const BOUNDS: Bounds = Bounds { depth_max: 128, batch_max: 1 };

/// What the keys of both kinds of errors end in.
static KEY_END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("rror\""));

/// Errors of the protocol that are the caller's, so that for a server they are none.
const CALLERS_OWN: [i64; 5] = [-32700, -32600, -32601, -32602, -32002];

/// What was heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Heard {
    #[default]
    Nothing,
    /// A tool that says that it failed.
    ToolError,
    /// An error of the protocol.
    Fault { code: i64, message: Box<str> },
}

impl Heard {
    pub fn hear(&mut self, bytes: &[u8]) {
        if *self != Self::Nothing || bytes.len() > PIECE_BYTES_MAX {
            return;
        }
        if may_fail(bytes) {
            *self = messages(bytes).map(of).find(|it| *it != Self::Nothing).unwrap_or_default();
        }
    }

    /// Whether a call went wrong, or was not let through. That a caller leaves is no failure: so it takes a call back.
    pub(crate) fn is_failure(&self, event: &Event) -> bool {
        *self != Self::Nothing || !matches!(event.reason, "ok" | "caller_left")
    }

    /// Whether an error of the protocol says that the caller did something wrong.
    pub(crate) fn is_callers_own(code: i64) -> bool {
        CALLERS_OWN.contains(&code)
    }
}

/// Whether a piece is worth reading. Servers say that nothing failed, too.
fn may_fail(bytes: &[u8]) -> bool {
    KEY_END.find_iter(bytes).any(|at| {
        let value = bytes[at + 5..].trim_ascii_start().strip_prefix(b":").map(<[u8]>::trim_ascii_start);
        match (&bytes[..at], value) {
            (before, Some(value)) if before.ends_with(b"\"isE") => !value.starts_with(b"false"),
            (before, Some(value)) if before.ends_with(b"\"e") => value.is_empty() || value.starts_with(b"{"),
            _ => false,
        }
    })
}

/// The messages in a piece: it is one, or events of which each holds one.
pub(crate) fn messages(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let whole = bytes.trim_ascii_start().starts_with(b"{");
    let lines = bytes.split(|byte| matches!(byte, b'\n' | b'\r'));
    let events = lines.filter_map(|line| line.strip_prefix(b"data:")).filter(move |_| !whole);
    whole.then_some(bytes).into_iter().chain(events)
}

fn of(message: &[u8]) -> Heard {
    let Ok(Body::One(Message::Response(response))) = mcp::parse(message, BOUNDS) else {
        return Heard::Nothing;
    };
    match response.outcome {
        Outcome::Error(fault) => {
            let message = &fault.message[..fault.message.floor_char_boundary(TEXT_BYTES_MAX)];
            Heard::Fault { code: fault.code, message: message.into() }
        }
        Outcome::Result(result) if result.is_tool_error() => Heard::ToolError,
        Outcome::Result(_) => Heard::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_heard_where_they_are_said_and_nowhere_else() {
        let check = |piece: &str, expected: Heard| {
            let mut heard = Heard::default();
            heard.hear(piece.as_bytes());
            assert_eq!(heard, expected, "{piece}");
        };
        let fault = || Heard::Fault { code: -32601, message: "no".into() };
        let (error, failed, fine) = (
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"isError":true}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"text":"\"isError\":true, \"error\""}],"isError":false}}"#,
        );
        check(error, fault());
        check(failed, Heard::ToolError);
        check(fine, Heard::Nothing);
        check(&format!("event: message\ndata: {error}\n\n"), fault());
        check(&format!(": hello\n\ndata: {fine}\n\nid: 1\r\ndata:{failed}\r\n\r\n"), Heard::ToolError);
        check(&failed[..40], Heard::Nothing);
        check(r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"isError":true}}"#, Heard::Nothing);
        check("", Heard::Nothing);
    }

    #[test]
    fn what_is_heard_first_counts_and_is_kept_short() {
        let mut heard = Heard::default();
        let long = "ü".repeat(TEXT_BYTES_MAX);
        heard.hear(
            format!(r#"{{"jsonrpc":"2.0","id":1,"error":{{"code":1,"message":"{long}"}}}}"#).as_bytes(),
        );
        heard.hear(br#"{"jsonrpc":"2.0","id":1,"result":{"isError":true}}"#);
        assert_eq!(heard, Heard::Fault { code: 1, message: "ü".repeat(TEXT_BYTES_MAX / 2).into() });
    }
}
