//! Hears an answer on its way to the caller, who waits for nothing of it.

use std::sync::Arc;

use bytes::Bytes;
use weft_proto::mcp::{self, Body, Message};

use crate::sse::Splitter;

use super::{Reads, Wanted};

/// What hears an answer.
#[derive(Debug)]
pub(crate) struct Ear {
    reads: Arc<Reads>,
    to: To,
}

#[derive(Debug)]
enum To {
    /// The answer to a read: all of it so far.
    Answer { wanted: Wanted, bytes: Vec<u8>, is_stream: bool },
    /// What is said on a stream that only listens.
    Changes(Splitter),
    /// Nothing more.
    Nothing,
}

impl Ear {
    pub(super) const fn to_answer(reads: Arc<Reads>, wanted: Wanted, is_stream: bool) -> Self {
        Self { reads, to: To::Answer { wanted, bytes: Vec::new(), is_stream } }
    }

    pub(super) fn to_changes(reads: Arc<Reads>) -> Self {
        let splitter = Splitter::new(reads.event_bytes_max);
        Self { reads, to: To::Changes(splitter) }
    }

    /// Bytes go to the caller.
    pub(crate) fn hear(&mut self, data: &Bytes) {
        match &mut self.to {
            To::Answer { bytes, .. } if bytes.len() + data.len() <= self.reads.kept.answer_bytes_max() => {
                bytes.extend_from_slice(data);
            }
            To::Answer { .. } => self.to = To::Nothing,
            To::Changes(splitter) => {
                splitter.feed(data.clone());
                while let Some(event) = splitter.next_event().transpose() {
                    match event {
                        Ok(event) => event.data.iter().for_each(|data| self.reads.hear(data)),
                        // What cannot be read may have said anything.
                        Err(_) => {
                            self.reads.changed(None);
                            self.to = To::Nothing;
                            return;
                        }
                    }
                }
            }
            To::Nothing => {}
        }
    }

    /// What follows is not the answer as the server gave it.
    pub(crate) fn ignore_answer(&mut self) {
        if matches!(self.to, To::Answer { .. }) {
            self.to = To::Nothing;
        }
    }

    /// The answer went to the caller, to its end.
    pub(crate) fn ended(self) {
        let To::Answer { wanted, bytes, is_stream } = self.to else { return };
        let answer = if is_stream { self.reads.only_response(bytes) } else { Some(bytes.into()) };
        if let Some(answer) = answer {
            self.reads.keep(wanted, &answer);
        }
    }
}

impl Reads {
    /// The response on a stream that says nothing else but of how it goes on.
    fn only_response(&self, stream: Vec<u8>) -> Option<Bytes> {
        let mut splitter = Splitter::new(self.event_bytes_max);
        splitter.feed(stream.into());
        let mut found = None;
        while let Some(event) = splitter.next_event().ok()? {
            let Some(data) = event.data.filter(|data| !data.is_empty()) else { continue };
            match mcp::parse(&data, self.bounds) {
                Ok(Body::One(Message::Response(_))) if found.is_none() => found = Some(data.clone()),
                Ok(Body::One(Message::Notification(_))) => {}
                Ok(_) | Err(_) => return None,
            }
        }
        found
    }
}
