//! An event stream none of whose events is larger than an answer may be. Events pass whole or not at all: in the place
//! of one that is too large stands an error, and nothing comes after it.

use bytes::{Bytes, BytesMut};

use crate::refusal::Refusal;

/// What holds a stream to its limit.
#[derive(Debug)]
pub struct Cap {
    max: usize,
    /// The last event of a stream that broke the limit.
    last: Bytes,
    /// What came of the present event.
    pending: BytesMut,
    line_is_empty: bool,
    after_cr: bool,
}

/// What of a stream may pass now.
#[derive(Debug, PartialEq, Eq)]
pub struct Passed {
    pub bytes: Bytes,
    /// The stream ends here, for this.
    pub over: Option<Refusal>,
}

impl Cap {
    /// `id` is that of the request, as it was written.
    pub fn new(max: u64, id: Option<&str>) -> Self {
        let body = Refusal::ResultTooLarge { max }.body(id);
        let last = [b"event: message\ndata: ", body.as_ref(), b"\n\n"].concat().into();
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        Self { max, last, pending: BytesMut::new(), line_is_empty: true, after_cr: false }
    }

    /// Takes bytes of the stream.
    pub fn feed(&mut self, chunk: &[u8]) -> Passed {
        let (mut ready, mut from) = (BytesMut::new(), 0);
        for (at, byte) in chunk.iter().enumerate() {
            if !self.ends_event(*byte) {
                continue;
            }
            self.pending.extend_from_slice(&chunk[from..=at]);
            from = at + 1;
            if self.pending.len() > self.max {
                return self.broken(ready);
            }
            ready.unsplit(self.pending.split());
        }
        self.pending.extend_from_slice(&chunk[from..]);
        if self.pending.len() > self.max {
            return self.broken(ready);
        }
        Passed { bytes: ready.freeze(), over: None }
    }

    /// What is left when the stream has ended: part of an event that nobody is told of, or a comment.
    pub fn rest(&mut self) -> Bytes {
        self.pending.split().freeze()
    }

    fn broken(&self, mut ready: BytesMut) -> Passed {
        ready.extend_from_slice(&self.last);
        let over = Some(Refusal::ResultTooLarge { max: self.max as u64 });
        Passed { bytes: ready.freeze(), over }
    }

    /// Whether a byte is the end of a blank line. The LF of a CRLF belongs to the CR, wherever it comes.
    const fn ends_event(&mut self, byte: u8) -> bool {
        let belongs_to_cr = byte == b'\n' && self.after_cr;
        self.after_cr = byte == b'\r';
        if belongs_to_cr {
            return false;
        }
        let ends_line = matches!(byte, b'\r' | b'\n');
        let ends_event = ends_line && self.line_is_empty;
        self.line_is_empty = ends_line;
        ends_event
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(max: u64) -> String {
        String::from_utf8(Cap::new(max, Some("7")).last.to_vec()).unwrap()
    }

    /// All that passes of chunks.
    fn passed(max: u64, chunks: &[&str]) -> (String, bool) {
        let (mut cap, mut all) = (Cap::new(max, Some("7")), String::new());
        for chunk in chunks {
            let Passed { bytes, over } = cap.feed(chunk.as_bytes());
            all.push_str(std::str::from_utf8(&bytes).unwrap());
            if over.is_some() {
                return (all, true);
            }
        }
        all.push_str(std::str::from_utf8(&cap.rest()).unwrap());
        (all, false)
    }

    #[test]
    fn events_pass_whole_until_one_is_too_large() {
        let check = |chunks: &[&str], before: &str| {
            assert_eq!(passed(12, chunks), (format!("{before}{}", told(12)), true), "{chunks:?}");
        };
        check(&["data: a\n\ndata: 12345678\n\n"], "data: a\n\n");
        check(&["data: a\n\nda", "ta: 123", "45678"], "data: a\n\n");
        check(&["data: a\r\n\r\ndata: 12345678\r\n\r\n"], "data: a\r\n\r");
        check(&["data: 12345678"], "");
        assert!(told(12).contains("\"id\":7") && told(12).contains("result_too_large"));
    }

    #[test]
    fn small_events_pass_for_ever() {
        let text = "data: 1234\n\n".repeat(1000);
        assert_eq!(passed(12, &[&text]), (text.clone(), false));
        assert_eq!(passed(12, &["data: 1\r\rdata: half"]), ("data: 1\r\rdata: half".to_owned(), false));
    }

    proptest! {
        #[test]
        fn the_cuts_between_chunks_change_nothing(text in "(data: [ab]{0,9}|\n|\r|\r\n|: c){0,24}", cut in 0..200_usize) {
            let cut = text.floor_char_boundary(cut.min(text.len()));
            let (one, other) = text.split_at(cut);
            let whole = passed(14, &[&text]);
            let parts = passed(14, &[one, other]);
            if whole.1 || parts.1 {
                prop_assert_eq!(whole, parts);
            } else {
                prop_assert_eq!((&whole.0, &parts.0), (&text, &text));
            }
        }
    }
}
