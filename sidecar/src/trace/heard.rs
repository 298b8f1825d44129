//! What an answer says that concerns its call's trace: whether it is an error, and which.
//!
//! Looked for only where it costs little: in pieces that hold whole messages, as nearly all do, and only where the words
//! stand in them. What is missed here is missed in a trace, and nowhere else.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use weft_proto::mcp::{self, Body, Bounds, Message, Outcome};

use crate::record::Event;

/// Largest piece that is looked into.
const PIECE_BYTES_MAX: usize = 256 << 10;
/// Longest message of an error that is kept.
const TEXT_BYTES_MAX: usize = 256;
const BOUNDS: Bounds = Bounds { depth_max: 128, batch_max: 1 };

static IS_ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"isError\""));
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"error\""));

/// What was heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Heard {
    #[default]
    Nothing,
    /// A tool that says that it failed.
    ToolError,
    /// An error of the protocol.
    Fault { code: i64, message: Box<str> },
}

impl Heard {
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        if *self != Self::Nothing || bytes.len() > PIECE_BYTES_MAX {
            return;
        }
        if IS_ERROR.find(bytes).is_some() || ERROR.find(bytes).is_some() {
            *self = messages(bytes)
                .map(|message| of(&message))
                .find(|it| *it != Self::Nothing)
                .unwrap_or_default();
        }
    }

    /// Whether a call went wrong, or was not let through. That a caller leaves is no failure: so it takes a call back.
    pub(super) fn is_failure(&self, event: &Event) -> bool {
        *self != Self::Nothing || !matches!(event.reason, "ok" | "caller_left")
    }
}

/// The messages in a piece: it is one, or events of which each holds one.
fn messages(bytes: &[u8]) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let whole = bytes.trim_ascii_start().starts_with(b"{");
    let lines = bytes.split(|byte| matches!(byte, b'\n' | b'\r'));
    let events = lines.filter_map(|line| line.strip_prefix(b"data:")).filter(move |_| !whole);
    whole.then_some(bytes).into_iter().chain(events).map(Cow::Borrowed)
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
