//! Tokens that were verified, so that the signature of each is verified once; and whatever else is found out of callers.
//! They are known by their digest, so that what is remembered is of no use to anybody; and as many are kept as a limit says.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest;

/// The digest of a token, or of a key.
pub(crate) type Digest = [u8; 32];

pub(crate) fn digest(of: impl AsRef<[u8]>) -> Digest {
    let digest = digest::digest(&digest::SHA256, of.as_ref());
    *digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes")
}

/// What was found out lately. Those that were not asked for in a while are forgotten: of two generations the older,
/// whenever the younger is full.
#[derive(Debug)]
pub(crate) struct Known<T> {
    max: usize,
    generations: Mutex<[HashMap<Digest, T>; 2]>,
}

impl<T: Clone> Known<T> {
    pub(crate) fn new(max: usize) -> Self {
        Self { max: max / 2, generations: Mutex::default() }
    }

    pub(crate) fn find(&self, digest: &Digest) -> Option<T> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        self.look(&mut generations, digest)
    }

    /// What is remembered, or else what is remembered from now on.
    pub(crate) fn find_or(&self, digest: Digest, make: impl FnOnce() -> T) -> T {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        self.look(&mut generations, &digest).unwrap_or_else(|| {
            let made = make();
            Self::put(&mut generations, self.max, digest, made.clone());
            made
        })
    }

    fn look(&self, generations: &mut [HashMap<Digest, T>; 2], digest: &Digest) -> Option<T> {
        if let Some(found) = generations[0].get(digest) {
            return Some(found.clone());
        }
        let found = generations[1].remove(digest)?;
        Self::put(generations, self.max, *digest, found.clone());
        Some(found)
    }

    pub(crate) fn keep(&self, digest: Digest, it: T) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        Self::put(&mut generations, self.max, digest, it);
    }

    pub(crate) fn forget(&self, digest: &Digest) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.iter_mut().for_each(|it| drop(it.remove(digest)));
    }

    fn put(generations: &mut [HashMap<Digest, T>; 2], max: usize, digest: Digest, it: T) {
        if max == 0 {
            return;
        }
        if generations[0].len() >= max {
            generations[1] = std::mem::take(&mut generations[0]);
        }
        generations[0].insert(digest, it);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_remembered_and_no_more_than_the_limit() {
        let known = Known::new(8);
        for n in 0..100 {
            known.keep(digest(format!("t{n}")), n);
            assert_eq!(known.find(&digest("t0")), Some(0), "it is asked for again and again");
        }
        let generations = known.generations.lock().unwrap();
        assert!(generations.iter().map(HashMap::len).sum::<usize>() <= 8);
        assert!(!generations.iter().any(|it| it.contains_key(&digest("t50"))));
        drop(generations);
        known.forget(&digest("t0"));
        assert_eq!(known.find(&digest("t0")), None);
        let nothing = Known::new(0);
        nothing.keep(digest("a"), 1);
        assert_eq!(nothing.find(&digest("a")), None);
    }
}
