//! What a scan writes down of a message: where the members of its outer objects stand.

use std::borrow::Cow;

use super::raw::{self, Raw};

/// A message that was passed.
#[derive(Debug)]
pub(super) struct Scanned<'a> {
    pub(super) text: &'a str,
    pub(super) whole: (usize, usize),
    /// Each before those within it.
    pub(super) members: Vec<Member>,
    pub(super) unescaped: Vec<u8>,
}

/// A member of an outer object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) key: Key,
    pub(super) value: (u32, u32),
    /// Whether the value is a string that says what it is without reading escapes.
    pub(super) plain: bool,
    /// Where in the list the first member stands that is not within this one.
    pub(super) next: u32,
}

/// A value of a scanned message that is not too deep in it, and with it what it holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'s, 'a> {
    scanned: &'s Scanned<'a>,
    pub(super) raw: Raw<'a>,
    plain: bool,
    members: (u32, u32),
}

impl<'a> Scanned<'a> {
    pub(super) fn whole(&self) -> Part<'_, 'a> {
        let raw = Raw::scanned(&self.text[self.whole.0..self.whole.1]);
        Part { scanned: self, raw, plain: false, members: (0, small(self.members.len())) }
    }

    fn key(&self, member: &Member) -> &str {
        let text = text_of(self.text.as_bytes(), &self.unescaped, &member.key);
        // Both are pieces of text, cut at quotes.
        std::str::from_utf8(text).unwrap_or_default()
    }
}

impl<'s, 'a> Part<'s, 'a> {
    /// The members that are asked for, as [`Raw::members`] finds them.
    pub(super) fn members<const N: usize>(
        self,
        known: &[&'static str; N],
    ) -> Result<[Option<Self>; N], String> {
        let (mut at, end) = self.members;
        let scanned = self.scanned;
        raw::pick(
            known,
            std::iter::from_fn(|| {
                let member = (at < end).then(|| &scanned.members[at as usize])?;
                let within = (at + 1, member.next);
                at = member.next;
                let (start, stop) = member.value;
                let raw = Raw::scanned(&scanned.text[start as usize..stop as usize]);
                let part = Part { scanned, raw, plain: member.plain, members: within };
                Some((Cow::Borrowed(scanned.key(member)), part))
            }),
        )
    }

    /// The text of a string; none for other values.
    pub(super) fn text(self) -> Option<Cow<'a, str>> {
        match self.plain {
            true => self.raw.get().get(1..self.raw.get().len() - 1).map(Cow::Borrowed),
            false => self.raw.text(),
        }
    }

    /// A string that something is decided by. NUL ends a string for some readers; it cannot come but by an escape.
    pub(super) fn name(self) -> Option<Cow<'a, str>> {
        match self.plain {
            true => self.text(),
            false => self.raw.name(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    /// Of its opening quote.
    pub(super) place: u32,
    pub(super) len: u32,
    /// Where its text begins among the unescaped; `PLAIN` for a key that stands in the message as it is.
    pub(super) unescaped: u32,
}

pub(super) const PLAIN: u32 = u32::MAX;

pub(super) fn text_of<'t>(bytes: &'t [u8], unescaped: &'t [u8], key: &Key) -> &'t [u8] {
    let (within, at) = match key.unescaped {
        PLAIN => (bytes, key.place as usize + 1),
        at => (unescaped, at as usize),
    };
    &within[at..at + key.len as usize]
}

pub(super) fn small(place: usize) -> u32 {
    u32::try_from(place).expect("a message has less than `BYTES_MAX` bytes")
}
