//! The text form of a key, and the hash that is stored of it.

use std::fmt;

use aws_lc_rs::{constant_time, digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const PREFIX: &str = "weft_";
const ID_CHARS: usize = 16;
const ID_ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const SECRET_BYTES: usize = 32;
/// 32 bytes in base64 without padding.
const SECRET_CHARS: usize = 43;

/// A key in plain text. `Display` writes it whole, for the one time that it is handed over; `Debug` leaves the secret
/// out.
#[derive(Clone)]
pub struct Secret {
    id: String,
    secret: [u8; SECRET_BYTES],
}

impl Secret {
    /// Reads a key; nothing is told of why a text is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let id_ok = id.len() == ID_CHARS && id.bytes().all(|c| ID_ALPHABET.contains(&c));
        if !id_ok || secret.len() != SECRET_CHARS {
            return None;
        }
        let secret = URL_SAFE_NO_PAD.decode(secret).ok()?.try_into().ok()?;
        Some(Self { id: id.to_owned(), secret })
    }

    /// Makes one; none without randomness.
    pub fn mint() -> Option<Self> {
        let (mut id, mut secret) = ([0; ID_CHARS], [0; SECRET_BYTES]);
        rand::fill(&mut id).ok()?;
        rand::fill(&mut secret).ok()?;
        let letter = |byte: &u8| char::from(ID_ALPHABET[usize::from(byte % 32)]);
        Some(Self { id: id.iter().map(letter).collect(), secret })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// What is stored: SHA-256 in base64.
    pub(super) fn hash(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &self.secret))
    }

    /// Whether this is the key that was stored; takes the same time whatever the answer.
    pub(super) fn matches(&self, stored: &str) -> bool {
        constant_time::verify_slices_are_equal(self.hash().as_bytes(), stored.as_bytes()).is_ok()
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}_{}", self.id, URL_SAFE_NO_PAD.encode(self.secret))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_prints_as_it_was_read_and_matches_only_its_own_hash() {
        let (a, b) = (Secret::mint().unwrap(), Secret::mint().unwrap());
        let again = Secret::parse(&a.to_string()).unwrap();
        assert_eq!((again.id(), again.to_string()), (a.id(), a.to_string()));
        assert!(again.matches(&a.hash()));
        assert!(!b.matches(&a.hash()));
        assert!(!format!("{a:?}").contains(&a.to_string()[22..]));
    }

    #[test]
    fn other_texts_are_no_keys() {
        let good = Secret::mint().unwrap().to_string();
        let cut = &good[..good.len() - 1];
        let padded = format!("{good}=");
        let shouted = good.to_uppercase();
        for text in
            ["", "weft_", "weft__", "weft_a_b", "bearer", cut, &padded, &shouted, &good.replace("weft_", "")]
        {
            assert!(Secret::parse(text).is_none(), "{text}");
        }
    }
}
