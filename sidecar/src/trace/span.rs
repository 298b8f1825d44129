//! A span whose call ended, as it waits to be sent: what was recorded, not yet in the words of the conventions.

use std::time::Duration;

use weft_proto::trace::Context;

use super::content::Content;
use super::open::{More, Part};
use crate::heard::Heard;
use crate::record::Event;

/// A part of a call that took less is not worth a span.
const CHILD_MIN: Duration = Duration::from_micros(100);

/// A call that ended.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) own: Context,
    pub(super) parent: Option<Context>,
    pub(super) is_client: bool,
    pub(super) heard: Heard,
    /// None of one that is kept only because it failed.
    pub(super) more: Option<Box<More>>,
    pub(super) event: Event,
}

impl Span {
    /// Bytes of arguments and results that it carries.
    pub(super) fn content_bytes(&self) -> usize {
        let content = self.more.as_ref().and_then(|more| more.content.as_ref());
        content.map_or(0, Content::bytes)
    }
}

/// A part of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Child {
    pub(super) part: Part,
    /// Since the call began.
    pub(super) after: Duration,
    pub(super) took: Duration,
}

impl Child {
    /// None of what took no time to speak of.
    pub(super) fn new(part: Part, after: Duration, took: Duration) -> Option<Self> {
        (took >= CHILD_MIN).then_some(Self { part, after, took })
    }
}
