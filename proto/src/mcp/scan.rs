//! One pass over the bytes of a message that refuses whatever two readers could understand differently: a key that an
//! object has twice, half of a surrogate pair, bytes that are no UTF-8, text after the end, nesting that a reader may
//! give up on.
//!
//! No recursion, and memory in proportion to the message: twelve bytes for a key of an open object. Not here: what the
//! message means.

use memchr::memchr2;

use super::raw::SHORT;
use super::{Bounds, Error, Raw};

/// Largest message that is looked at, so that places fit 32 bits. The limit on bodies is far below.
const BYTES_MAX: usize = 1 << 31;
/// Up to so many keys of an object are compared pair by pair; more are sorted.
const PAIRWISE_MAX: usize = 8;

/// Passes if every reader of JSON understands the bytes alike.
pub(super) fn scan(bytes: &[u8], bounds: Bounds) -> Result<Raw<'_>, Error> {
    if bytes.len() >= BYTES_MAX {
        return Err(syntax(BYTES_MAX, "the message is too large"));
    }
    let text =
        std::str::from_utf8(bytes).map_err(|error| syntax(error.valid_up_to(), "the bytes are not UTF-8"))?;
    let (frames, keys) = (Vec::with_capacity(8), Vec::with_capacity(16));
    let mut scanner = Scanner { bytes, at: 0, bounds, frames, keys, unescaped: Vec::new(), elements: 0 };
    scanner.message().map(|()| Raw::scanned(text))
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
    /// The texts of keys that were written with escapes.
    unescaped: Vec<u8>,
    /// So far, of an outermost array.
    elements: usize,
}

enum Frame {
    Array,
    /// With its first key's place in the list of keys.
    Object(usize),
}

#[derive(Clone, Copy)]
struct Key {
    /// Of its opening quote.
    place: u32,
    len: u32,
    /// Where its text begins among the unescaped; `PLAIN` for a key that stands in the message as it is.
    unescaped: u32,
}

const PLAIN: u32 = u32::MAX;

impl Scanner<'_> {
    fn message(&mut self) -> Result<(), Error> {
        self.blank();
        loop {
            if self.value_or_opening()? {
                continue;
            }
            if self.closings()? {
                return Ok(());
            }
        }
    }

    /// Reads a value, or the start of one, in which case another value follows.
    fn value_or_opening(&mut self) -> Result<bool, Error> {
        match self.peek() {
            Some(b'{') => {
                self.open(Frame::Object(self.keys.len()))?;
                if self.peek() == Some(b'}') {
                    return Ok(false);
                }
                self.key()?;
                Ok(true)
            }
            Some(b'[') => {
                self.open(Frame::Array)?;
                Ok(self.peek() != Some(b']'))
            }
            Some(b'"') => self.string().map(|_| false),
            Some(b'-' | b'0'..=b'9') => self.number().map(|()| false),
            Some(b't') => self.word(b"true").map(|()| false),
            Some(b'f') => self.word(b"false").map(|()| false),
            Some(b'n') => self.word(b"null").map(|()| false),
            Some(_) => Err(syntax(self.at, "expected a value")),
            None => Err(self.early_end()),
        }
    }

    /// Reads what follows a value, up to the next one. True at the end of the message.
    fn closings(&mut self) -> Result<bool, Error> {
        loop {
            self.blank();
            let next = self.peek();
            match (self.frames.last(), next) {
                (None, None) => return Ok(true),
                (None, Some(_)) => return Err(syntax(self.at, "the message goes on after its end")),
                (Some(_), None) => return Err(self.early_end()),
                (Some(Frame::Array), Some(b',')) => {
                    self.at += 1;
                    self.blank();
                    self.count_element()?;
                    return Ok(false);
                }
                (Some(Frame::Object(_)), Some(b',')) => {
                    self.at += 1;
                    self.blank();
                    self.key()?;
                    return Ok(false);
                }
                (Some(Frame::Array), Some(b']')) => {}
                (Some(&Frame::Object(first)), Some(b'}')) => self.no_key_twice(first)?,
                (Some(Frame::Array), Some(_)) => return Err(syntax(self.at, "expected `,` or `]`")),
                (Some(Frame::Object(_)), Some(_)) => return Err(syntax(self.at, "expected `,` or `}`")),
            }
            self.frames.pop();
            self.at += 1;
        }
    }

    fn open(&mut self, frame: Frame) -> Result<(), Error> {
        if self.frames.len() >= self.bounds.depth_max {
            return Err(syntax(self.at, "the message is nested too deeply"));
        }
        self.frames.push(frame);
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
        if key.unescaped != PLAIN && text_of(self.bytes, &self.unescaped, &key).contains(&0) {
            return Err(syntax(place, "the key contains NUL"));
        }
        self.keys.push(key);
        self.blank();
        match self.peek() {
            Some(b':') => self.at += 1,
            Some(_) => return Err(syntax(self.at, "expected `:`")),
            None => return Err(self.early_end()),
        }
        self.blank();
        Ok(())
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
        let near = self.bytes.len().min(self.at + SHORT);
        while self.at < near {
            match self.bytes[self.at] {
                b'"' => {
                    self.at += 1;
                    return Ok(escapes);
                }
                b'\\' => {
                    self.escape()?;
                    escapes = true;
                }
                ..b' ' => return Err(syntax(self.at, "a control character in a string")),
                _ => self.at += 1,
            }
        }
        loop {
            let rest = &self.bytes[self.at..];
            let end = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
            // Without an early exit the compiler looks at many bytes at a time.
            if rest[..end].iter().fold(false, |seen, byte| seen | (*byte < b' ')) {
                let control = rest.iter().position(|byte| *byte < b' ').unwrap_or(end);
                return Err(syntax(self.at + control, "a control character in a string"));
            }
            self.at += end;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escapes);
                }
                Some(_) => self.escape()?,
                None => return Err(self.early_end()),
            }
            escapes = true;
        }
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

fn text_of<'t>(bytes: &'t [u8], unescaped: &'t [u8], key: &Key) -> &'t [u8] {
    let (within, at) = match key.unescaped {
        PLAIN => (bytes, key.place as usize + 1),
        at => (unescaped, at as usize),
    };
    &within[at..at + key.len as usize]
}

fn small(place: usize) -> u32 {
    u32::try_from(place).expect("a message has less than `BYTES_MAX` bytes")
}

#[cfg(test)]
mod tests;
