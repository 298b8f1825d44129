//! Streams of server-sent events, read with a limit on every line and every event.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::connect::chain;
use super::error::Error;

/// Longest line: an object in JSON is one line.
const LINE_BYTES_MAX: usize = 4 << 20;
/// Longest data of one event.
const EVENT_BYTES_MAX: usize = 8 << 20;
/// Longest silence on a stream: a control plane that lives sends a comment now and then.
const SILENCE_SECS_MAX: u64 = 120;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// `message` if the stream names none.
    pub(crate) name: String,
    pub(crate) id: Option<String>,
    pub(crate) data: String,
}

/// A stream of events.
#[derive(Debug)]
pub(crate) struct Events {
    body: Incoming,
    parser: Parser,
    ready: std::collections::VecDeque<Event>,
}

impl Events {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, parser: Parser::default(), ready: std::collections::VecDeque::new() }
    }

    /// The next event; none when the stream has ended or has been silent for too long.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let Ok(frame) = timeout(Duration::from_secs(SILENCE_SECS_MAX), self.body.frame()).await else {
                return Ok(None);
            };
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| Error::Broken(chain(&error)))?;
            if let Ok(bytes) = frame.into_data() {
                self.parser.push(&bytes, &mut self.ready).map_err(|why| Error::Strange(why.to_owned()))?;
            }
        }
    }
}

/// The text so far that is no event yet.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    after_return: bool,
    event: Event,
    has_data: bool,
}

impl Parser {
    fn push(
        &mut self,
        bytes: &[u8],
        events: &mut std::collections::VecDeque<Event>,
    ) -> Result<(), &'static str> {
        for byte in bytes {
            let after_return = std::mem::replace(&mut self.after_return, *byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => events.extend(self.end_line()?),
                _ if self.line.len() == LINE_BYTES_MAX => return Err("a line of the stream is too long"),
                _ => self.line.push(*byte),
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<Option<Event>, &'static str> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            let complete = std::mem::take(&mut self.has_data);
            return Ok(complete.then(|| match event.name.is_empty() {
                true => Event { name: "message".to_owned(), ..event },
                false => event,
            }));
        }
        let line = String::from_utf8_lossy(&line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "id" => self.event.id = Some(value.to_owned()),
            "data" => {
                if self.event.data.len() + value.len() > EVENT_BYTES_MAX {
                    return Err("an event of the stream is too long");
                }
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            // Comments, `retry`, and what later versions may say.
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, size: usize) -> Result<Vec<Event>, &'static str> {
        let (mut parser, mut events) = (Parser::default(), std::collections::VecDeque::new());
        for chunk in text.as_bytes().chunks(size) {
            parser.push(chunk, &mut events)?;
        }
        Ok(events.into())
    }

    #[test]
    fn events_are_the_same_however_the_bytes_arrive() {
        let text =
            ": hello\n\nevent: put\r\nid: 7\r\ndata: {\"a\":\ndata: 1}\r\n\r\nretry: 5\ndata\n\ndata: cut";
        let expected = vec![
            Event { name: "put".to_owned(), id: Some("7".to_owned()), data: "{\"a\":\n1}".to_owned() },
            Event { name: "message".to_owned(), id: None, data: String::new() },
        ];
        for size in 1..text.len() {
            assert_eq!(parse(text, size).unwrap(), expected, "in pieces of {size}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let text = format!("data: {}", "x".repeat(LINE_BYTES_MAX));
        assert_eq!(parse(&text, 65536).unwrap_err(), "a line of the stream is too long");
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let line = format!("data: {}\n", "x".repeat(LINE_BYTES_MAX - 6));
        let text = line.repeat(EVENT_BYTES_MAX / LINE_BYTES_MAX + 1);
        assert_eq!(parse(&text, 65536).unwrap_err(), "an event of the stream is too long");
    }
}
