//! Session ids that carry what must be known of them, so that no table is kept and a restart or another replica
//! forgets nothing: which instance opened a session ([`Key::stick`]), and whose it is ([`Key::bind`]).
//!
//! What is handed out is the server's own id behind a keyed tag. Without the key nobody can make a tag, so nobody can
//! address an instance that never opened the session, or use the session of somebody else. Not here: whether the
//! session still exists, which only the server knows.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

mod file;
mod ring;
mod whence;

pub use file::Error as FileError;
pub(crate) use file::is_about_the_disk;
pub use ring::Ring;
pub use whence::Whence;

/// Longest id of a server's own, in bytes.
pub const ID_BYTES_MAX: usize = 4096;

/// Bytes of a key.
pub const KEY_LEN: usize = 32;

// Multiples of three, so that their base64 has no odd bits that could be written in two ways.
const TAG_LEN: usize = 9;
const STICK_LEN: usize = 15;
const BIND_LEN: usize = 18;

const STICK_CHARS: usize = (TAG_LEN + STICK_LEN) / 3 * 4;
const BIND_CHARS: usize = BIND_LEN / 3 * 4;

/// What stands between the tag and the server's own id.
const DOT: char = '.';

/// Where an id was opened: a keyed name of an instance, which says nothing to those without the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag([u8; TAG_LEN]);

impl Tag {
    /// As it is written.
    pub fn parse(text: &str) -> Option<Self> {
        decode(text).map(Self)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag({self})")
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// What tags are made with. Replicas that share sessions share it.
#[derive(Clone)]
pub struct Key(hmac::Key);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    pub fn new(secret: &[u8; KEY_LEN]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// A key of this process alone: what it tagged is unknown after a restart.
    pub fn random() -> Self {
        Self::new(&rand::random())
    }

    /// The tag of an instance, by whatever names it: its node, or its address.
    pub fn tag(&self, instance: &str) -> Tag {
        Tag(self.mac(Purpose::Instance, &[instance]))
    }

    /// An id that leads back to the instance that opened it. None if the server's own id is none by the protocol's
    /// rules, or is longer than is accepted.
    pub fn stick(&self, server: &str, instance: Tag, id: &str) -> Option<String> {
        is_id(id).then(|| self.stuck(Purpose::Session, server, instance, id, id))
    }

    /// The instance, and the server's own id. None if this key never stuck these together for this server.
    pub fn unstick<'a>(&self, server: &str, text: &'a str) -> Option<(Tag, &'a str)> {
        let (prefix, id) = split(text, STICK_CHARS)?;
        let instance = self.instance(Purpose::Session, server, prefix, id)?;
        is_id(id).then_some((instance, id))
    }

    /// The same for what goes into the query of a URI, of characters that need no escaping there.
    pub fn stick_in_query(&self, server: &str, instance: Tag, value: &str) -> Option<String> {
        let fits = value.len() <= ID_BYTES_MAX;
        fits.then(|| self.stuck(Purpose::Query, server, instance, value, &URL_SAFE_NO_PAD.encode(value)))
    }

    pub fn unstick_in_query(&self, server: &str, text: &str) -> Option<(Tag, String)> {
        let (prefix, encoded) = split(text, STICK_CHARS)?;
        if encoded.len() > ID_BYTES_MAX.div_ceil(3) * 4 {
            return None;
        }
        let value = String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()?;
        let instance = self.instance(Purpose::Query, server, prefix, &value)?;
        (value.len() <= ID_BYTES_MAX).then_some((instance, value))
    }

    /// An id that only this caller can use. None if the server's own id is none by the protocol's rules, or is longer
    /// than is accepted.
    pub fn bind(&self, id: &str, caller: &str) -> Option<String> {
        let mac: [u8; BIND_LEN] = self.mac(Purpose::Caller, &[caller, id]);
        is_id(id).then(|| format!("{}{DOT}{id}", URL_SAFE_NO_PAD.encode(mac)))
    }

    /// The server's own id. None if this key never bound it to this caller.
    pub fn unbind<'a>(&self, text: &'a str, caller: &str) -> Option<&'a str> {
        let (prefix, id) = split(text, BIND_CHARS)?;
        let mac: [u8; BIND_LEN] = decode(prefix)?;
        let expected: [u8; BIND_LEN] = self.mac(Purpose::Caller, &[caller, id]);
        verify_slices_are_equal(&mac, &expected).ok()?;
        is_id(id).then_some(id)
    }

    fn stuck(&self, purpose: Purpose, server: &str, instance: Tag, value: &str, shown: &str) -> String {
        let mac: [u8; STICK_LEN] = self.mac(purpose, &[server, &instance.to_string(), value]);
        let mut prefix = [0; TAG_LEN + STICK_LEN];
        prefix[..TAG_LEN].copy_from_slice(&instance.0);
        prefix[TAG_LEN..].copy_from_slice(&mac);
        format!("{}{DOT}{shown}", URL_SAFE_NO_PAD.encode(prefix))
    }

    fn instance(&self, purpose: Purpose, server: &str, prefix: &str, value: &str) -> Option<Tag> {
        let prefix: [u8; TAG_LEN + STICK_LEN] = decode(prefix)?;
        let (tag, mac) = prefix.split_first_chunk::<TAG_LEN>()?;
        let tag = Tag(*tag);
        let expected: [u8; STICK_LEN] = self.mac(purpose, &[server, &tag.to_string(), value]);
        verify_slices_are_equal(mac, &expected).ok()?;
        Some(tag)
    }

    /// Truncated HMAC-SHA-256 over the purpose and the parts, each behind its length so that no two lists of parts are
    /// the same bytes.
    fn mac<const LEN: usize>(&self, purpose: Purpose, parts: &[&str]) -> [u8; LEN] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&[purpose as u8]);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        *context.sign().as_ref().first_chunk().expect("no tag is longer than a digest")
    }
}

/// What a mac is for; none holds for another purpose.
#[derive(Clone, Copy)]
enum Purpose {
    Instance = 1,
    Session = 2,
    Query = 3,
    Caller = 4,
    Ring = 5,
}

/// Visible ASCII, as the protocol wants it.
fn is_id(id: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

fn split(text: &str, prefix_chars: usize) -> Option<(&str, &str)> {
    let (prefix, rest) = text.split_at_checked(prefix_chars)?;
    Some((prefix, rest.strip_prefix(DOT)?))
}

fn decode<const LEN: usize>(text: &str) -> Option<[u8; LEN]> {
    let mut bytes = [0; LEN];
    let len = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
    (len == LEN).then_some(bytes)
}

#[cfg(test)]
mod tests;
