//! One pass over the bytes of a message that refuses whatever two readers could understand differently: a key that an
//! object has twice, half of a surrogate pair, bytes that are no UTF-8, text after the end, nesting that a reader may
//! give up on.
//!
//! The pass writes down where the members of the outer objects stand, so that whoever reads the message need not look
//! for them again. No recursion, and memory in proportion to the message: twelve bytes for a key of an open object,
//! twenty-eight for a member that is written down. Not here: what the message means.

use memchr::memchr2;

use super::written::{Key, Member, PLAIN, Scanned, small, text_of};
use super::{Bounds, Error};

/// Largest message that is looked at, so that places fit 32 bits. The limit on bodies is far below.
const BYTES_MAX: usize = 1 << 31;
/// Up to so many keys of an object are compared pair by pair; more are sorted.
const PAIRWISE_MAX: usize = 8;
/// The members of a message, and of the objects in it, are written down; deeper only those of what is looked into.
const WRITTEN_DEPTH: usize = 2;
/// A reader of JSON in this house (serde_json) takes an object with such a key for what the text in it says: what is
/// judged would not be what is forwarded.
const RESERVED_KEYS: &[u8] = b"$serde_json::private::";
const LOOKED_INTO: [&[u8]; 3] = [b"_meta", b"ref", b"notifications"];
/// So many bytes of a string are looked at eight at a time: most strings are short, and a search that looks at more at
/// once takes longer to begin than these to end.
const SHORT: usize = 64;

/// Passes if every reader of JSON understands the bytes alike.
pub(super) fn scan(bytes: &[u8], bounds: Bounds) -> Result<Scanned<'_>, Error> {
    if bytes.len() >= BYTES_MAX {
        return Err(syntax(BYTES_MAX, "the message is too large"));
    }
    let text =
        std::str::from_utf8(bytes).map_err(|error| syntax(error.valid_up_to(), "the bytes are not UTF-8"))?;
    let mut scanner = Scanner {
        bytes,
        at: 0,
        bounds,
        frames: Vec::with_capacity(8),
        keys: Vec::with_capacity(16),
        members: Vec::with_capacity(24),
        unescaped: Vec::new(),
        elements: 0,
    };
    let whole = scanner.message()?;
    Ok(Scanned { text, whole, members: scanner.members, unescaped: scanner.unescaped })
}

fn syntax(at: usize, what: &'static str) -> Error {
    Error::Syntax { at, what }
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    bounds: Bounds,
    frames: Vec<Frame>,
    /// Of all open objects, the innermost last.
    keys: Vec<Key>,
    members: Vec<Member>,
    /// The texts of keys that were written with escapes.
    unescaped: Vec<u8>,
    /// So far, of an outermost array.
    elements: usize,
}

/// An array or an object that is open.
#[derive(Clone, Copy)]
struct Frame {
    /// Of an object: its first key's place in the list of keys.
    keys: Option<u32>,
    /// Of an object whose members are written down: the one that is being read.
    member: Option<u32>,
    written: bool,
}

impl Scanner<'_> {
    fn message(&mut self) -> Result<(usize, usize), Error> {
        self.blank();
        let start = self.at;
        loop {
            if self.value_or_opening()? {
                continue;
            }
            if let Some(end) = self.closings()? {
                return Ok((start, end));
            }
        }
    }

    /// Reads a value, or the start of one, in which case another value follows.
    fn value_or_opening(&mut self) -> Result<bool, Error> {
        match self.peek() {
            Some(b'{') => {
                self.open(Some(small(self.keys.len())))?;
                if self.peek() == Some(b'}') {
                    return Ok(false);
                }
                self.key()?;
                Ok(true)
            }
            Some(b'[') => {
                self.open(None)?;
                Ok(self.peek() != Some(b']'))
            }
            Some(b'"') => {
                if !self.string()?
                    && let Some(member) = self.frames.last().and_then(|frame| frame.member)
                {
                    self.members[member as usize].plain = true;
                }
                Ok(false)
            }
            Some(b'-' | b'0'..=b'9') => self.number().map(|()| false),
            Some(b't') => self.word(b"true").map(|()| false),
            Some(b'f') => self.word(b"false").map(|()| false),
            Some(b'n') => self.word(b"null").map(|()| false),
            Some(_) => Err(syntax(self.at, "expected a value")),
            None => Err(self.early_end()),
        }
    }

    /// Reads what follows a value, up to the next one. At the end of the message says where the last one ended.
    fn closings(&mut self) -> Result<Option<usize>, Error> {
        loop {
            let end = self.at;
            self.blank();
            let next = self.peek();
            let Some(frame) = self.frames.last_mut() else {
                return match next {
                    None => Ok(Some(end)),
                    Some(_) => Err(syntax(self.at, "the message goes on after its end")),
                };
            };
            if let Some(member) = frame.member.take() {
                let next = small(self.members.len());
                let member = &mut self.members[member as usize];
                (member.value.1, member.next) = (small(end), next);
            }
            match (frame.keys, next) {
                (_, None) => return Err(self.early_end()),
                (None, Some(b',')) => {
                    self.at += 1;
                    self.blank();
                    self.count_element()?;
                    return Ok(None);
                }
                (Some(_), Some(b',')) => {
                    self.at += 1;
                    self.blank();
                    self.key()?;
                    return Ok(None);
                }
                (None, Some(b']')) => {}
                (Some(first), Some(b'}')) => self.no_key_twice(first as usize)?,
                (None, Some(_)) => return Err(syntax(self.at, "expected `,` or `]`")),
                (Some(_), Some(_)) => return Err(syntax(self.at, "expected `,` or `}`")),
            }
            self.frames.pop();
            self.at += 1;
        }
    }

    fn open(&mut self, keys: Option<u32>) -> Result<(), Error> {
        if self.frames.len() >= self.bounds.depth_max {
            return Err(syntax(self.at, "the message is nested too deeply"));
        }
        let written = keys.is_some() && self.is_written();
        self.frames.push(Frame { keys, member: None, written });
        self.at += 1;
        self.blank();
        Ok(())
    }

    /// A batch that is too long is refused before the rest of it is read.
    fn count_element(&mut self) -> Result<(), Error> {
        if self.frames.len() > 1 {
            return Ok(());
        }
        self.elements += 1;
        match self.elements >= self.bounds.batch_max {
            true => Err(Error::NotAMessage { at: self.at, what: "the batch is too long".into() }),
            false => Ok(()),
        }
    }

    /// A key with its colon and what is blank around it.
    fn key(&mut self) -> Result<(), Error> {
        let place = self.at;
        match self.peek() {
            Some(b'"') => {}
            Some(_) => return Err(syntax(place, "expected a key")),
            None => return Err(self.early_end()),
        }
        let key = match self.string()? {
            false => Key { place: small(place), len: small(self.at - place - 2), unescaped: PLAIN },
            true => {
                let text: String = serde_json::from_slice(&self.bytes[place..self.at])
                    .map_err(|_| syntax(place, "the key cannot be read"))?;
                let unescaped = small(self.unescaped.len());
                self.unescaped.extend_from_slice(text.as_bytes());
                Key { place: small(place), len: small(text.len()), unescaped }
            }
        };
        let text = text_of(self.bytes, &self.unescaped, &key);
        if key.unescaped != PLAIN && text.contains(&0) {
            return Err(syntax(place, "the key contains NUL"));
        }
        if text.starts_with(RESERVED_KEYS) {
            return Err(syntax(place, "the key is one that readers take for an instruction"));
        }
        self.keys.push(key);
        self.blank();
        match self.peek() {
            Some(b':') => self.at += 1,
            Some(_) => return Err(syntax(self.at, "expected `:`")),
            None => return Err(self.early_end()),
        }
        self.blank();
        self.write_down(key);
        Ok(())
    }

    /// Whether the members of an object that opens here are written down. Of those in an array none are.
    fn is_written(&self) -> bool {
        let Some(outer) = self.frames.last() else { return true };
        let Some(member) = outer.member else { return false };
        let key = &self.members[member as usize].key;
        self.frames.len() < WRITTEN_DEPTH
            || self.frames.len() == WRITTEN_DEPTH
                && LOOKED_INTO.contains(&text_of(self.bytes, &self.unescaped, key))
    }

    /// The member whose value begins here.
    fn write_down(&mut self, key: Key) {
        let place = small(self.members.len());
        if let Some(frame) = self.frames.last_mut().filter(|frame| frame.written) {
            frame.member = Some(place);
            self.members.push(Member { key, value: (small(self.at), 0), plain: false, next: 0 });
        }
    }

    /// Closes an object, whose keys are the last of the list.
    fn no_key_twice(&mut self, first: usize) -> Result<(), Error> {
        let (bytes, unescaped) = (self.bytes, &self.unescaped);
        let text = |key: &Key| text_of(bytes, unescaped, key);
        let keys = &mut self.keys[first..];
        let twice = if keys.len() <= PAIRWISE_MAX {
            let later = |(n, key): (usize, &Key)| keys[..n].iter().any(|it| text(it) == text(key));
            keys.iter().enumerate().find(|it| later(*it)).map(|(_, key)| key.place)
        } else {
            keys.sort_unstable_by(|a, b| text(a).cmp(text(b)));
            let twice = keys.windows(2).find(|two| text(&two[0]) == text(&two[1]));
            twice.map(|two| two[0].place.max(two[1].place))
        };
        self.keys.truncate(first);
        match twice {
            Some(place) => Err(syntax(place as usize, "the object has this key twice")),
            None => Ok(()),
        }
    }

    /// A string, from quote to quote. True if it has escapes.
    fn string(&mut self) -> Result<bool, Error> {
        self.at += 1;
        let mut escapes = false;
        let near = self.at + SHORT;
        loop {
            self.at += if self.at < near { self.plain_eights() } else { self.plain_rest()? };
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escapes);
                }
                Some(b'\\') => {
                    self.escape()?;
                    escapes = true;
                }
                Some(..b' ') => return Err(syntax(self.at, "a control character in a string")),
                // The last few bytes of the message, or a string that turned out to be long.
                Some(_) => self.at += 1,
                None => return Err(self.early_end()),
            }
        }
    }

    /// How many bytes are nothing but themselves in a string, looked at eight at a time. The byte after them may be
    /// one more such.
    fn plain_eights(&self) -> usize {
        let mut plain = 0;
        for eight in self.bytes[self.at..].chunks_exact(8).take(SHORT / 8) {
            let special = special(u64::from_le_bytes(eight.try_into().expect("chunks of eight")));
            if special != 0 {
                return plain + special.trailing_zeros() as usize / 8;
            }
            plain += 8;
        }
        plain
    }

    /// The same, up to a quote or an escape, for strings that are not short.
    fn plain_rest(&self) -> Result<usize, Error> {
        let rest = &self.bytes[self.at..];
        let end = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
        // Without an early exit the compiler looks at many bytes at a time.
        if rest[..end].iter().fold(false, |seen, byte| seen | (*byte < b' ')) {
            let control = rest.iter().position(|byte| *byte < b' ').unwrap_or(end);
            return Err(syntax(self.at + control, "a control character in a string"));
        }
        Ok(end)
    }

    /// An escape; for the first half of a surrogate pair both.
    fn escape(&mut self) -> Result<(), Error> {
        let place = self.at;
        match self.bytes.get(place + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => match self.code_unit()? {
                0xd800..0xdc00 => {
                    let other =
                        self.bytes[self.at..].starts_with(b"\\u").then(|| self.code_unit()).transpose()?;
                    if !matches!(other, Some(0xdc00..0xe000)) {
                        return Err(syntax(place, "half of a surrogate pair"));
                    }
                }
                0xdc00..0xe000 => return Err(syntax(place, "half of a surrogate pair")),
                _ => {}
            },
            Some(_) => return Err(syntax(place, "an unknown escape")),
            None => return Err(self.early_end()),
        }
        Ok(())
    }

    /// `\uXXXX`.
    fn code_unit(&mut self) -> Result<u32, Error> {
        let Some(digits) = self.bytes.get(self.at + 2..self.at + 6) else { return Err(self.early_end()) };
        let mut unit = 0;
        for digit in digits {
            let Some(digit) = char::from(*digit).to_digit(16) else {
                return Err(syntax(self.at, "an escape of other than four hexadecimal digits"));
            };
            unit = unit * 16 + digit;
        }
        self.at += 6;
        Ok(unit)
    }

    fn number(&mut self) -> Result<(), Error> {
        let place = self.at;
        self.eat(b"-");
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits(place)?,
        }
        if self.eat(b".") {
            self.digits(place)?;
        }
        if self.eat(b"eE") {
            self.eat(b"+-");
            self.digits(place)?;
        }
        Ok(())
    }

    /// One digit or more.
    fn digits(&mut self, number: usize) -> Result<(), Error> {
        let rest = &self.bytes[self.at..];
        let count = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        self.at += count;
        match count {
            0 if self.peek().is_none() => Err(self.early_end()),
            0 => Err(syntax(number, "a number that is none")),
            _ => Ok(()),
        }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), Error> {
        let rest = &self.bytes[self.at..];
        match rest.starts_with(word) {
            true => self.at += word.len(),
            false if word.starts_with(rest) => return Err(self.early_end()),
            false => return Err(syntax(self.at, "expected a value")),
        }
        Ok(())
    }

    /// Takes the next byte if it is one of these.
    fn eat(&mut self, any: &[u8]) -> bool {
        let found = self.peek().is_some_and(|byte| any.contains(&byte));
        self.at += usize::from(found);
        found
    }

    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn early_end(&self) -> Error {
        syntax(self.bytes.len(), "the message ends early")
    }
}

/// The high bits of the bytes of `eight` that end a string or are none of it, at least up to the first such byte:
/// quotes, backslashes and control characters.
const fn special(eight: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGHS: u64 = u64::from_le_bytes([0x80; 8]);
    const fn less(bytes: u64, than: u8) -> u64 {
        bytes.wrapping_sub(ONES * than as u64) & !bytes & HIGHS
    }
    const fn equal(bytes: u64, byte: u8) -> u64 {
        less(bytes ^ (ONES * byte as u64), 1)
    }
    less(eight, b' ') | equal(eight, b'"') | equal(eight, b'\\')
}

#[cfg(test)]
mod tests;
