//! What a child says: lines out of bytes, and messages to whom they belong.

use std::collections::HashSet;

use weft_proto::mcp::{self, Body, Bounds, Message};
use weft_sidecar::exchange::{Asker, Said};
use weft_sidecar::stdio::lines::{Line, Splitter};
use weft_sidecar::stdio::mux::{self, Asked, Effect, Mux};

const BOUNDS: Bounds = Bounds { depth_max: 16, batch_max: 8 };

/// The first byte is the largest line, the second how many bytes arrive at once. The rest arrives.
pub fn stdio(data: &[u8]) {
    let [max, piece, said @ ..] = data else { return };
    let line_bytes_max = usize::from(*max) * 4 + 1;
    let lines = split(said, line_bytes_max, usize::from(*piece) + 1);
    assert_eq!(lines, by_hand(said, line_bytes_max), "lines depend on how they arrive");
    hear(lines.iter().filter_map(|line| line.as_deref()));
}

/// The lines; none for one that is too long.
fn split(said: &[u8], line_bytes_max: usize, piece: usize) -> Vec<Option<Vec<u8>>> {
    let mut splitter = Splitter::new(line_bytes_max);
    let mut lines = Vec::new();
    for piece in said.chunks(piece) {
        splitter.buffer().extend_from_slice(piece);
        lines.extend(std::iter::from_fn(|| splitter.next_line()));
        assert!(splitter.buffer().len() <= line_bytes_max + 1, "more is held than a line");
    }
    lines.extend(splitter.finish());
    let whole = |line| match line {
        Line::Whole(line) => Some(line.to_vec()),
        Line::TooLong(_) => None,
    };
    lines.into_iter().map(whole).collect()
}

/// The same, told as simply as it can be.
fn by_hand(said: &[u8], line_bytes_max: usize) -> Vec<Option<Vec<u8>>> {
    let lines = said.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let lines = lines.filter(|line| line.len() > line_bytes_max || !line.trim_ascii().is_empty());
    lines.map(|line| (line.len() <= line_bytes_max).then(|| line.to_vec())).collect()
}

/// Two askers wait; whatever is said, each call ends at most once, and what goes out is what it should be.
fn hear<'a>(lines: impl Iterator<Item = &'a [u8]>) {
    let mut mux = Mux::new(64);
    let askers = ["a", "b"].map(|caller| Asker { caller: caller.into(), ..Asker::nobody() });
    let request: &[u8] =
        br#"{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{"name":"t","_meta":{"progressToken":7}}}"#;
    let Ok(Body::One(Message::Request(read))) = mcp::parse(request, BOUNDS) else {
        panic!("the request is written here")
    };
    let mut waiting = HashSet::new();
    for asker in &askers {
        match mux.ask(asker, request, &read) {
            Ok(Asked::Forward { call, .. }) => waiting.insert(call),
            other => panic!("{other:?}"),
        };
    }
    let mut effects = Vec::new();
    for line in lines {
        mux::read(line, BOUNDS).into_iter().for_each(|heard| mux.hear(heard, &mut effects));
    }
    for effect in effects {
        match effect {
            Effect::Write(line) => {
                assert_eq!(
                    line.iter().position(|byte| *byte == b'\n'),
                    Some(line.len() - 1),
                    "one line each"
                );
                is_message(&line);
            }
            Effect::Say(call, Said::Response(response)) => {
                assert!(waiting.remove(&call), "an answer to a call that is over");
                is_message(&response);
            }
            Effect::Say(call, Said::Note(message) | Said::Request(message)) => {
                assert!(waiting.contains(&call), "a message for a call that is over");
                is_message(&message);
            }
            // Only servers spoken to over HTTP give signs of life besides messages.
            Effect::Say(_, Said::Sign) => panic!("a child gives no signs"),
            Effect::Refuse(call, _) => assert!(waiting.remove(&call), "a refusal of a call that is over"),
            Effect::Aside(..) => {}
        }
    }
}

fn is_message(bytes: &[u8]) {
    let wider = Bounds { depth_max: BOUNDS.depth_max + 4, ..BOUNDS };
    assert!(mcp::parse(bytes, wider).is_ok(), "{:?} is no message", String::from_utf8_lossy(bytes));
}
