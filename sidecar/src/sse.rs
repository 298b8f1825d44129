//! Event streams (`text/event-stream`): split into events as the bytes come in, and written.
//!
//! Whatever the cuts between the chunks, the events are the same. An event that lies within one chunk is not copied.
//! Not here: what events mean, connections, and resuming.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memchr2};

/// A comment that keeps a silent stream alive.
pub const KEEP_ALIVE: &[u8] = b":\n\n";

/// The media type.
pub const MEDIA_TYPE: &str = "text/event-stream";

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Why a stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("an event is larger than {max} bytes")]
    TooLarge { max: usize },
}

/// What stands between two blank lines. Without [`Event::data`] it is nothing to be told of, but its id and its retry
/// count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The id that it sets; an empty one takes back those before it.
    pub id: Option<Bytes>,
    /// What kind of event it is, if it says so; see [`Event::is`].
    pub name: Option<Bytes>,
    /// The data, its lines joined.
    pub data: Option<Bytes>,
    /// How long to wait before connecting anew.
    pub retry: Option<Duration>,
    /// All of it as it came, comments and the blank line included. Where lines end in CRLF, the last LF is missing;
    /// written one after the other, such events mean the same.
    pub raw: Bytes,
}

impl Event {
    /// Whether it is of a kind; those that do not say are of the kind `message`.
    pub fn is(&self, name: &str) -> bool {
        match self.name.as_deref() {
            None | Some([]) => name == "message",
            Some(own) => own == name.as_bytes(),
        }
    }
}

/// Splits a stream into events.
#[derive(Debug)]
pub struct Splitter {
    event_bytes_max: usize,
    /// What came of the present event with earlier chunks.
    pending: BytesMut,
    /// What was not looked at yet.
    chunk: Bytes,
    /// Nothing of the present line was seen yet.
    line_is_empty: bool,
    /// The byte before was a CR, so that an LF belongs to it.
    after_cr: bool,
    /// No event was found yet, so that a byte order mark may come.
    first: bool,
    broken: Option<Error>,
}

impl Splitter {
    pub fn new(event_bytes_max: usize) -> Self {
        Self {
            event_bytes_max,
            pending: BytesMut::new(),
            chunk: Bytes::new(),
            line_is_empty: true,
            after_cr: false,
            first: true,
            broken: None,
        }
    }

    /// Takes the next bytes of the stream. Call [`Splitter::next_event`] until it has no more.
    pub fn feed(&mut self, chunk: Bytes) {
        self.chunk = match self.chunk.is_empty() {
            true => chunk,
            false => [self.chunk.as_ref(), chunk.as_ref()].concat().into(),
        };
    }

    /// The next whole event, if it came already. After an error there is nothing but the error.
    pub fn next_event(&mut self) -> Result<Option<Event>, Error> {
        self.broken.map_or(Ok(()), Err)?;
        while let Some(end) = self.end_of_event() {
            let block = self.cut(end)?;
            let first = std::mem::take(&mut self.first);
            let is_blank = matches!(block.as_ref(), b"\n" | b"\r");
            if !is_blank {
                return Ok(Some(parse(block, first)));
            }
        }
        self.within_limit(self.chunk.len())?;
        self.pending.extend_from_slice(&self.chunk);
        self.chunk.clear();
        Ok(None)
    }

    /// The stream has ended. An event that was begun does not count, says the standard; here it is, for the log.
    pub fn finish(self) -> Option<Bytes> {
        let rest = [self.pending.as_ref(), self.chunk.as_ref()].concat();
        (!rest.is_empty()).then(|| rest.into())
    }

    /// Where the present event ends in the chunk. Without an end the whole chunk belongs to it.
    fn end_of_event(&mut self) -> Option<usize> {
        let between_events = self.pending.is_empty();
        if between_events && self.after_cr && self.chunk.first() == Some(&b'\n') {
            self.chunk.advance(1);
            self.after_cr = false;
        }
        let mut at = 0;
        while at < self.chunk.len() {
            let ends_crlf = std::mem::take(&mut self.after_cr) && self.chunk[at] == b'\n';
            if ends_crlf {
                at += 1;
                continue;
            }
            let Some(length) = memchr2(b'\r', b'\n', &self.chunk[at..]) else {
                self.line_is_empty = false;
                return None;
            };
            let is_blank = std::mem::replace(&mut self.line_is_empty, true) && length == 0;
            at += length + 1;
            self.after_cr = self.chunk[at - 1] == b'\r';
            if is_blank {
                return Some(at);
            }
        }
        None
    }

    fn cut(&mut self, end: usize) -> Result<Bytes, Error> {
        self.within_limit(end)?;
        let last = self.chunk.split_to(end);
        if self.pending.is_empty() {
            return Ok(last);
        }
        self.pending.extend_from_slice(&last);
        Ok(self.pending.split().freeze())
    }

    fn within_limit(&mut self, more: usize) -> Result<(), Error> {
        if self.pending.len() + more > self.event_bytes_max {
            let error = Error::TooLarge { max: self.event_bytes_max };
            self.broken = Some(error);
            self.pending = BytesMut::new();
            self.chunk = Bytes::new();
            return Err(error);
        }
        Ok(())
    }
}

fn parse(block: Bytes, first: bool) -> Event {
    let mut event = Event::default();
    let mut data = Data::None;
    let mut at = match first && block.starts_with(BYTE_ORDER_MARK) {
        true => BYTE_ORDER_MARK.len(),
        false => 0,
    };
    while at < block.len() {
        let length = memchr2(b'\r', b'\n', &block[at..]).unwrap_or(block.len() - at);
        let line = block.slice(at..at + length);
        at += length + if block[at + length..].starts_with(b"\r\n") { 2 } else { 1 };
        let (field, value) = field(&line);
        match field.as_ref() {
            b"data" => data = data.with(value),
            b"event" => event.name = Some(value),
            b"id" if memchr(0, &value).is_none() => event.id = Some(value),
            b"retry" => event.retry = millis(&value).or(event.retry),
            _ => {}
        }
    }
    event.data = data.joined();
    event.raw = block;
    event
}

/// Name and value of a line's field; the name of a comment is empty.
fn field(line: &Bytes) -> (Bytes, Bytes) {
    let Some(colon) = memchr(b':', line) else { return (line.clone(), Bytes::new()) };
    let value = colon + if line[colon + 1..].starts_with(b" ") { 2 } else { 1 };
    (line.slice(..colon), line.slice(value..))
}

fn millis(value: &[u8]) -> Option<Duration> {
    let digits = value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| digits)?;
    text.parse().ok().map(Duration::from_millis)
}

/// The data so far: copied only once there is a second line.
enum Data {
    None,
    Line(Bytes),
    Lines(BytesMut),
}

impl Data {
    fn with(self, line: Bytes) -> Self {
        let mut lines = match self {
            Self::None => return Self::Line(line),
            Self::Line(first) => BytesMut::from(first.as_ref()),
            Self::Lines(lines) => lines,
        };
        lines.extend_from_slice(b"\n");
        lines.extend_from_slice(&line);
        Self::Lines(lines)
    }

    fn joined(self) -> Option<Bytes> {
        match self {
            Self::None => None,
            Self::Line(line) => Some(line),
            Self::Lines(lines) => Some(lines.freeze()),
        }
    }
}

/// Writes an event. Line ends in the data are kept as line ends, though not of which kind; id and name cannot have any
/// and lose them.
pub fn event(id: Option<&str>, name: Option<&str>, data: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(data.len() + 64);
    if let Some(id) = id {
        line(&mut out, "id", id.bytes().filter(|byte| *byte != 0));
    }
    if let Some(name) = name {
        line(&mut out, "event", name.bytes());
    }
    let mut rest = data;
    loop {
        let length = memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&rest[..length]);
        out.extend_from_slice(b"\n");
        rest = match &rest[length..] {
            [] => break,
            [b'\r', b'\n', after @ ..] | [_, after @ ..] => after,
        };
    }
    out.extend_from_slice(b"\n");
    out.freeze()
}

fn line(out: &mut BytesMut, field: &str, value: impl Iterator<Item = u8>) {
    out.extend_from_slice(field.as_bytes());
    out.extend_from_slice(b": ");
    out.extend(value.filter(|byte| !matches!(byte, b'\r' | b'\n')));
    out.extend_from_slice(b"\n");
}

/// Writes a comment.
pub fn comment(text: &str) -> Bytes {
    let mut out = BytesMut::new();
    line(&mut out, "", text.bytes());
    out.extend_from_slice(b"\n");
    out.freeze()
}

/// Writes how long a client shall wait before it connects anew.
pub fn retry(after: Duration) -> Bytes {
    format!("retry: {}\n\n", after.as_millis()).into()
}

#[cfg(test)]
mod tests;
