//! The join token, with which a workload that has nothing else asks for its first certificate:
//! `weft1.<id>.<secret>.<root fingerprint>`.
//!
//! The id says which token it is, the secret proves it, and the fingerprint lets the workload recognise its control
//! plane before it sends the secret. The control plane keeps a [`SecretHash`], never the secret. Not here: how long a
//! token lives, how often it may be used, and which identity it grants.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::{constant_time, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::bundle::Fingerprint;

const VERSION: &str = "weft1";
const SECRET_BYTES: usize = 32;
/// 32 bytes in base64 without padding.
const SECRET_CHARS: usize = 43;

/// Why a text is not a join token. Never says what the text was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("join token is longer than {max} bytes", max = JoinToken::LEN_BYTES_MAX)]
    TooLong,
    #[error("join token does not start with {VERSION}.")]
    Version,
    #[error("join token does not have the form {VERSION}.<id>.<secret>.<root fingerprint>")]
    Form,
    #[error("join token's id is not {min} to {max} lower-case letters and digits", min = JoinToken::ID_BYTES_MIN, max = JoinToken::ID_BYTES_MAX)]
    Id,
    #[error("join token's secret is not 256 bits in base64url without padding")]
    Secret,
    #[error("join token's root fingerprint is not 64 lower-case hexadecimal digits")]
    Fingerprint,
}

/// A join token. `Display` writes it whole, for the one time that it is handed over; `Debug` leaves the secret out.
#[derive(Clone)]
pub struct JoinToken {
    id: Box<str>,
    secret: Zeroizing<[u8; SECRET_BYTES]>,
    root: Fingerprint,
}

impl JoinToken {
    pub const ID_BYTES_MIN: usize = 12;
    pub const ID_BYTES_MAX: usize = 32;
    /// Longest accepted token.
    pub const LEN_BYTES_MAX: usize = VERSION.len() + Self::ID_BYTES_MAX + SECRET_CHARS + 64 + 3;

    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > Self::LEN_BYTES_MAX {
            return Err(Error::TooLong);
        }
        let rest =
            text.strip_prefix(VERSION).and_then(|rest| rest.strip_prefix('.')).ok_or(Error::Version)?;
        let mut parts = rest.split('.');
        let (Some(id), Some(secret), Some(root), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Error::Form);
        };
        let id_chars = id.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if !id_chars || !(Self::ID_BYTES_MIN..=Self::ID_BYTES_MAX).contains(&id.len()) {
            return Err(Error::Id);
        }
        let root = Fingerprint::parse(root).ok_or(Error::Fingerprint)?;
        Ok(Self { id: id.into(), secret: parse_secret(secret)?, root })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Which root the control plane's chain ends in.
    pub fn root(&self) -> Fingerprint {
        self.root
    }

    pub fn secret_hash(&self) -> SecretHash {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, &*self.secret).as_ref());
        SecretHash(hash)
    }

    /// A new token with a random id and secret.
    #[cfg(feature = "ca")]
    pub fn mint(root: Fingerprint) -> Result<Self, aws_lc_rs::error::Unspecified> {
        const ID_ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let mut id = [0_u8; 16];
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        aws_lc_rs::rand::fill(&mut id)?;
        aws_lc_rs::rand::fill(&mut *secret)?;
        let id: String = id.iter().map(|byte| char::from(ID_ALPHABET[usize::from(byte % 32)])).collect();
        Ok(Self { id: id.into(), secret, root })
    }
}

fn parse_secret(text: &str) -> Result<Zeroizing<[u8; SECRET_BYTES]>, Error> {
    let mut secret = Zeroizing::new([0; SECRET_BYTES]);
    // Room for one byte more than a secret has, so that a longer one is noticed rather than cut.
    let mut buffer = Zeroizing::new([0; SECRET_BYTES + 1]);
    if text.len() != SECRET_CHARS {
        return Err(Error::Secret);
    }
    match URL_SAFE_NO_PAD.decode_slice(text, &mut *buffer) {
        Ok(SECRET_BYTES) => secret.copy_from_slice(&buffer[..SECRET_BYTES]),
        Ok(_) | Err(_) => return Err(Error::Secret),
    }
    Ok(secret)
}

impl FromStr for JoinToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(self.secret.as_slice()));
        write!(f, "{VERSION}.{}.{}.{}", self.id, *secret, self.root)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("id", &self.id).field("root", &self.root).finish_non_exhaustive()
    }
}

/// The SHA-256 of a token's secret: what the control plane stores. The secret has 256 random bits, so a plain hash
/// cannot be searched. Compared in constant time only, which is why there is no `PartialEq`.
#[derive(Clone, Copy)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// From 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        crate::hex::decode(text).map(Self)
    }

    /// Whether this is the token that was stored; takes the same time whatever the answer.
    pub fn matches(&self, token: &JoinToken) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &token.secret_hash().0).is_ok()
    }
}

impl fmt::Display for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::hex::encode(&self.0))
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOT: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

    fn text() -> String {
        format!("weft1.abcdefghijkl.{SECRET}.{ROOT}")
    }

    #[test]
    fn a_token_prints_as_it_was_read() {
        let token = JoinToken::parse(&text()).unwrap();
        assert_eq!(token.id(), "abcdefghijkl");
        assert_eq!(token.root().to_string(), ROOT);
        assert_eq!(token.to_string(), text());
    }

    #[test]
    fn malformed_tokens_are_refused_with_the_reason() {
        #[track_caller]
        fn refused(text: &str, expected: Error) {
            assert_eq!(JoinToken::parse(text).expect_err(text), expected, "{text}");
        }
        refused("", Error::Version);
        refused("weft1", Error::Version);
        refused(&text().replace("weft1", "weft2"), Error::Version);
        refused("weft1.abcdefghijkl", Error::Form);
        refused(&(text() + "."), Error::Form);
        refused(&text().replace("abcdefghijkl", "short"), Error::Id);
        refused(&text().replace("abcdefghijkl", "ABCDEFGHIJKL"), Error::Id);
        refused(&text().replace("abcdefghijkl", &"a".repeat(32)).replace(SECRET, "AA"), Error::Secret);
        refused(&text().replace("abcdefghijkl", &"a".repeat(33)), Error::TooLong);
        refused(&text().replace(SECRET, &SECRET.replace('A', "+")), Error::Secret);
        refused(&text().replace("Hh8", "Hh9"), Error::Secret);
        refused(&text().replace(ROOT, &ROOT.replace('f', "g")), Error::Fingerprint);
        refused(&text().replace(ROOT, &ROOT.to_uppercase()), Error::Fingerprint);
        refused(&text().replace(ROOT, "abc"), Error::Fingerprint);
    }

    #[test]
    fn neither_debug_nor_errors_reveal_the_secret() {
        let token = JoinToken::parse(&text()).unwrap();
        assert!(!format!("{token:?}").contains(&SECRET[..8]));
        assert!(!format!("{:?}", token.secret_hash()).contains(&token.secret_hash().to_string()));
        let broken = JoinToken::parse(&text().replace("abcdefghijkl", "x")).unwrap_err();
        assert!(!format!("{broken} {broken:?}").contains(&SECRET[..8]));
    }

    #[test]
    fn only_the_same_secret_matches_a_stored_hash() {
        let token = JoinToken::parse(&text()).unwrap();
        let stored = SecretHash::parse(&token.secret_hash().to_string()).unwrap();
        assert!(stored.matches(&token));
        let other = JoinToken::parse(&text().replace("AAEC", "AAED")).unwrap();
        assert!(!stored.matches(&other));
    }

    #[cfg(feature = "ca")]
    #[test]
    fn minted_tokens_are_well_formed_and_differ() {
        let mint = || JoinToken::mint(Fingerprint::parse(ROOT).unwrap()).unwrap().to_string();
        let (a, b) = (mint(), mint());
        assert_ne!(a, b);
        assert_eq!(JoinToken::parse(&a).unwrap().to_string(), a);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "(weft1\\.)?\\PC{0,300}") {
            let _ = JoinToken::parse(&text);
        }

        #[test]
        fn whatever_parses_prints_as_itself(text in "weft1\\.[a-z0-9]{12,32}\\.[A-Za-z0-9_-]{43}\\.[0-9a-f]{64}") {
            if let Ok(token) = JoinToken::parse(&text) {
                prop_assert_eq!(token.to_string(), text);
            }
        }
    }
}
