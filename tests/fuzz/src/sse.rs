//! Event streams as servers send them.

use weft_sidecar::sse::{self, Error, Event, Splitter};

const EVENT_BYTES_MAX: usize = 256;

/// The first byte chooses where the rest is cut. Whole, cut, and read as simply as the standard tells it, a stream must
/// have the same events; written again, they must be read as the same.
pub fn sse(data: &[u8]) {
    let Some((choice, stream)) = data.split_first() else { return };
    let whole = split([stream]);
    assert_eq!(whole, split(stream.chunks(usize::from(*choice % 17) + 1)), "the cuts changed the events");
    assert_eq!(whole, split(uneven(stream, *choice)), "the cuts changed the events");
    let (events, end) = whole;
    if end.is_ok() {
        let told: Vec<Plain> = events.iter().map(plain).filter(|it| *it != Plain::default()).collect();
        assert_eq!(told, simply(stream));
    }
    for event in &events {
        assert!(event.raw.len() <= EVENT_BYTES_MAX, "an event past the limit");
        is_written_as_itself(event);
    }
}

/// Id, name, data and retry in milliseconds.
type Plain = (Option<Vec<u8>>, Option<Vec<u8>>, Option<Vec<u8>>, Option<u128>);

fn plain(event: &Event) -> Plain {
    let owned = |it: &Option<_>| it.as_ref().map(|bytes: &bytes::Bytes| bytes.to_vec());
    (owned(&event.id), owned(&event.name), owned(&event.data), event.retry.map(|it| it.as_millis()))
}

fn split<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Event>, Result<bool, Error>) {
    let mut splitter = Splitter::new(EVENT_BYTES_MAX);
    let mut events = Vec::new();
    for chunk in chunks {
        splitter.feed(bytes::Bytes::copy_from_slice(chunk));
        loop {
            match splitter.next_event() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Err(error)),
            }
        }
    }
    (events, Ok(splitter.finish().is_some()))
}

/// Chunks of many lengths.
fn uneven(mut stream: &[u8], choice: u8) -> Vec<&[u8]> {
    let mut chunks = Vec::new();
    let mut length = usize::from(choice);
    while !stream.is_empty() {
        length = (length * 7 + 3) % 23;
        let (chunk, rest) = stream.split_at(length.min(stream.len()));
        chunks.push(chunk);
        stream = rest;
    }
    chunks
}

/// The events of a stream that say anything, as the standard tells how to find them.
fn simply(stream: &[u8]) -> Vec<Plain> {
    let stream = stream.strip_prefix("\u{feff}".as_bytes()).unwrap_or(stream);
    let mut events = Vec::new();
    let mut event = Plain::default();
    for line in lines(stream) {
        if line.is_empty() {
            events.push(std::mem::take(&mut event));
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value).to_vec();
        match &line[..colon] {
            b"id" if !value.contains(&0) => event.0 = Some(value),
            b"event" => event.1 = Some(value),
            b"data" => match &mut event.2 {
                Some(data) => data.extend([b"\n".as_slice(), &value].concat()),
                none => *none = Some(value),
            },
            b"retry" if value.iter().all(u8::is_ascii_digit) => {
                let millis: Option<u64> = str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
                event.3 = millis.map(u128::from).or(event.3);
            }
            _ => {}
        }
    }
    events.retain(|event| *event != Plain::default());
    events
}

/// The lines that have an end.
fn lines(mut stream: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    while let Some(length) = stream.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        lines.push(&stream[..length]);
        stream = &stream[length..];
        stream = stream.strip_prefix(b"\r\n").unwrap_or_else(|| &stream[1..]);
    }
    lines
}

fn is_written_as_itself(event: &Event) {
    let (id, name, data, _) = plain(event);
    let text = |bytes: Option<Vec<u8>>| bytes.map(String::from_utf8).transpose();
    let (Ok(id), Ok(name), Some(data)) = (text(id), text(name), data) else { return };
    let written = sse::event(id.as_deref(), name.as_deref(), &data);
    let mut splitter = Splitter::new(usize::MAX);
    splitter.feed(written);
    let again = splitter.next_event().ok().flatten().expect("what was written is an event");
    let bytes = |text: Option<String>| text.map(String::into_bytes);
    assert_eq!(plain(&again), (bytes(id), bytes(name), Some(data), None));
}
