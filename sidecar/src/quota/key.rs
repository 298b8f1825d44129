//! What tells a count from all others: a digest with a key that is drawn anew in each run, so that no caller can choose
//! names whose counts meet.

use std::hash::{BuildHasher as _, DefaultHasher, Hash as _, Hasher, RandomState};

use weft_proto::policy::quota::Limit;

/// What tells a count from all others: a keyed digest of the limit and the values that split it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(u128);

/// The beginning of the digests of a limit.
#[derive(Clone, Debug)]
pub(super) struct Seed([DefaultHasher; 2]);

/// Whose count it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Share {
    Own,
    /// One for all further values of a caller.
    OfCaller,
    /// One for all further values.
    OfAll,
}

impl Key {
    pub(super) const fn low(self) -> u64 {
        self.0 as u64
    }

    /// By the highest bits, so that keys in order are in the order of their shards.
    pub(super) const fn shard(self) -> usize {
        (self.0 >> 122) as usize
    }
}

impl Seed {
    pub(super) fn new(hashers: &[RandomState; 2], limit: &Limit) -> Self {
        Self(hashers.each_ref().map(|state| {
            let mut hasher = state.build_hasher();
            limit.identity.hash(&mut hasher);
            hasher
        }))
    }

    pub(super) fn key(&self, share: Share, values: impl Fn(&mut DefaultHasher)) -> Key {
        let [high, low] = self.0.each_ref().map(|seed| {
            let mut hasher = seed.clone();
            hasher.write_u8(share as u8);
            values(&mut hasher);
            hasher.finish()
        });
        Key(u128::from(high) << 64 | u128::from(low))
    }
}

/// Keys are digests already.
#[derive(Debug, Default)]
pub(super) struct Digested(u64);

impl Hasher for Digested {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, digest: u128) {
        self.0 = digest as u64;
    }
}
