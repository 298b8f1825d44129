//! Ids of sessions that carry the session: sealed, so that nobody reads or makes them, and bound to whom and what they
//! are for. Whoever has the keys can go on with a session that another opened.
//!
//! The keys come from the control plane, the same for all sidecars of one identity, and others every day; without one,
//! there is a key of this sidecar's own.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{KEY_LEN, Key, Purpose};

/// Most keys that are held at once.
const KEYS_MAX: usize = 8;

/// The keys that ids are sealed and opened with. Clones are the same.
#[derive(Clone)]
pub struct Ring(Arc<ArcSwap<Keys>>);

struct Keys {
    current: u64,
    all: Vec<(u64, LessSafeKey)>,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring({} keys)", self.0.load().all.len())
    }
}

impl Ring {
    /// A key of this sidecar's own, until others are given.
    pub fn own(key: &Key) -> Self {
        let secret: [u8; KEY_LEN] = key.mac(Purpose::Ring, &[]);
        Self(Arc::new(ArcSwap::from_pointee(Keys { current: 0, all: vec![(0, unbound(&secret))] })))
    }

    /// Goes by these keys from now on; by what is none of them nothing can be opened any more. False if they are none.
    pub fn take(&self, current: u64, keys: impl IntoIterator<Item = (u64, [u8; KEY_LEN])>) -> bool {
        let all: Vec<_> =
            keys.into_iter().take(KEYS_MAX).map(|(epoch, secret)| (epoch, unbound(&secret))).collect();
        let has_current = all.iter().any(|(epoch, _)| *epoch == current);
        if has_current {
            self.0.store(Arc::new(Keys { current, all }));
        }
        has_current
    }

    /// An id that carries a text, and is for nobody and nothing else than this.
    pub fn seal(&self, text: &[u8], about: &[&str]) -> Option<String> {
        let keys = self.0.load();
        let (epoch, key) = keys.all.iter().find(|(epoch, _)| *epoch == keys.current)?;
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut sealed = text.to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad(about), &mut sealed).ok()?;
        let mut bytes = vec![low(*epoch)];
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&sealed);
        Some(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// What an id carries, if it was sealed with one of these keys for this.
    pub fn open(&self, id: &str, about: &[&str]) -> Option<Vec<u8>> {
        let bytes = URL_SAFE_NO_PAD.decode(id).ok()?;
        let (epoch, rest) = bytes.split_first()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let keys = self.0.load();
        let (_, key) = keys.all.iter().find(|(it, _)| low(*it) == *epoch)?;
        let mut sealed = sealed.to_vec();
        let text = key.open_in_place(Nonce::assume_unique_for_key(*nonce), aad(about), &mut sealed).ok()?;
        Some(text.to_vec())
    }
}

fn unbound(secret: &[u8; KEY_LEN]) -> LessSafeKey {
    LessSafeKey::new(
        UnboundKey::new(&AES_256_GCM, secret).expect("the key is as long as the algorithm wants it"),
    )
}

/// Each part behind its length, so that no two lists of parts are the same bytes.
fn aad(about: &[&str]) -> Aad<Vec<u8>> {
    let mut bytes = b"weft session".to_vec();
    for part in about {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    Aad::from(bytes)
}

/// Enough of an epoch to tell the few that are there apart.
#[expect(clippy::cast_possible_truncation, reason = "the lowest byte is what is wanted")]
const fn low(epoch: u64) -> u8 {
    epoch as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_for_the_same_alone() {
        let ring = Ring::own(&Key::new(&[1; KEY_LEN]));
        let id = ring.seal(b"text", &["caller", "all"]).unwrap();
        assert_eq!(ring.open(&id, &["caller", "all"]).as_deref(), Some(&b"text"[..]));
        for about in [&["thief", "all"][..], &["caller", "one"], &["callera", "ll"], &["caller"], &[]] {
            assert_eq!(ring.open(&id, about), None, "{about:?}");
        }
        assert_eq!(Ring::own(&Key::new(&[2; KEY_LEN])).open(&id, &["caller", "all"]), None);
        assert_ne!(id, ring.seal(b"text", &["caller", "all"]).unwrap());
    }

    #[test]
    fn every_bit_of_an_id_counts() {
        let ring = Ring::own(&Key::random());
        let id = ring.seal(b"text", &[]).unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(&id).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(ring.open(&URL_SAFE_NO_PAD.encode(bytes), &[]), None, "bit {bit}");
        }
        for id in ["", "A", "AAAA", "!", &id[..id.len() - 2]] {
            assert_eq!(ring.open(id, &[]), None);
        }
    }

    #[test]
    fn keys_that_come_and_go_take_their_ids_along() {
        let (one, other) = (Ring::own(&Key::random()), Ring::own(&Key::random()));
        let key = |epoch: u8| (u64::from(epoch) + 1000, [epoch; KEY_LEN]);
        assert!(one.take(1001, [key(0), key(1), key(2)]));
        // Another sidecar of the same identity is a day ahead.
        assert!(other.take(1002, [key(1), key(2), key(3)]));
        let (old, new) = (one.seal(b"old", &[]).unwrap(), other.seal(b"new", &[]).unwrap());
        assert_eq!(other.open(&old, &[]).as_deref(), Some(&b"old"[..]));
        assert_eq!(one.open(&new, &[]).as_deref(), Some(&b"new"[..]));
        assert!(other.take(1004, [key(3), key(4), key(5)]));
        assert_eq!(other.open(&old, &[]), None);
        assert!(!other.take(1009, [key(3)]), "the present one is missing");
        assert!(other.seal(b"", &[]).is_some());
    }
}
