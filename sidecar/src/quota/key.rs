//! What tells a count from all others: a digest with a key that is drawn anew in each run, so that no caller can choose
//! names whose counts meet.
//!
//! It is SipHash-1-3 with a key of 128 bits that is never told, made for names that somebody hostile chooses: whoever
//! lacks the key finds no two names that meet more often than by chance. Of its 128 bits, all tell counts of different
//! callers apart. Where they are in memory follows from the caller for most of them, see [`Key::beside`], so that counts
//! of one caller are told apart by the 90 others. A faster function without that promise would save little: finding a
//! count in memory takes longer than its digest, of which what belongs to a connection is made once.

use std::hash::{Hash as _, Hasher as _};
use std::sync::{LazyLock, OnceLock};

use siphasher::sip128::{Hasher128 as _, SipHasher13};
use weft_proto::policy::quota::{Facts, Limit};
use weft_proto::resource::kinds::Dimension;

/// So many of the highest bits of a key say which shard it is in.
const SHARD_BITS: u32 = 6;
pub(super) const SHARDS: usize = 1 << SHARD_BITS;
const SHARD: u128 = !(u128::MAX >> SHARD_BITS);
/// And these where it is looked for first within its shard.
const PLACE: u128 = u32::MAX as u128;

/// What digests are made of, first of all in each.
const OF_A_CALLER: u64 = 0;
const OF_A_TENANT: u64 = 1;
const OF_A_LIMIT: u64 = 2;
const OF_A_COUNT: u64 = 3;

/// Who calls, as digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    caller: u128,
    tenant: u128,
}

/// Who calls on a connection, as digests that are made when they are needed first.
#[derive(Debug, Default)]
pub struct Mark(OnceLock<Owner>);

/// What tells a count from all others: a keyed digest of the limit and the values that split it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(u128);

/// The beginning of the digests of a limit.
#[derive(Clone, Copy)]
pub(super) struct Seed {
    own: SipHasher13,
    of_caller: SipHasher13,
    of_all: Key,
    is_of_callers: bool,
    is_split_by_choice: bool,
}

/// Whose count it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Share {
    Own,
    /// One for all further values of a caller.
    OfCaller,
    /// One for all further values.
    OfAll,
}

/// The beginning of a digest. Numbers of eight bytes first are the quickest.
fn digest_of(what: u64) -> SipHasher13 {
    static KEYED: LazyLock<SipHasher13> = LazyLock::new(|| SipHasher13::new_with_key(&rand::random()));
    let mut hasher = *KEYED;
    hasher.write_u64(what);
    hasher
}

fn write(hasher: &mut SipHasher13, digest: u128) {
    hasher.write_u64(digest as u64);
    hasher.write_u64((digest >> 64) as u64);
}

impl Owner {
    pub(super) fn new(caller: &str, tenant: Option<&str>) -> Self {
        let of = |what, name: Option<&str>| {
            let mut hasher = digest_of(what);
            name.hash(&mut hasher);
            hasher.finish128().into()
        };
        Self { caller: of(OF_A_CALLER, Some(caller)), tenant: of(OF_A_TENANT, tenant) }
    }

    /// By which a caller is known beside its counts.
    pub(super) const fn number(self) -> u64 {
        (self.caller >> 64) as u64
    }
}

impl Mark {
    pub(super) fn owner(&self, make: impl FnOnce() -> Owner) -> Owner {
        *self.0.get_or_init(make)
    }
}

impl Key {
    /// By the highest bits, so that keys in order are in the order of their shards.
    pub(super) const fn shard(self) -> usize {
        (self.0 >> (128 - SHARD_BITS)) as usize
    }

    /// Where it is looked for first in its shard, by the lowest bits; and what it is known by there, by higher ones.
    pub(super) const fn hash(self) -> u64 {
        self.0 as u64
    }

    /// By which lenders know it.
    pub(super) const fn handle(self) -> u64 {
        (self.0 >> 64) as u64
    }

    /// In the shard of its caller, so that a call finds all counts of the caller behind one lock; and one beside the
    /// other, unless callers choose how many they are: whoever chose many would have to look at all to find one.
    const fn beside(self, owner: Owner, is_split_by_choice: bool) -> Self {
        let of_caller = if is_split_by_choice { SHARD } else { SHARD | PLACE };
        Self(self.0 & !of_caller | owner.caller & of_caller)
    }
}

impl Seed {
    pub(super) fn new(limit: &Limit) -> Self {
        let mut of_limit = digest_of(OF_A_LIMIT);
        limit.identity.hash(&mut of_limit);
        let begin = |share: Share| {
            let mut hasher = digest_of(OF_A_COUNT);
            write(&mut hasher, of_limit.finish128().into());
            hasher.write_u64(share as u64);
            hasher
        };
        Self {
            own: begin(Share::Own),
            of_caller: begin(Share::OfCaller),
            of_all: Key(begin(Share::OfAll).finish128().into()),
            is_of_callers: limit.is_of_callers(),
            is_split_by_choice: limit.is_split_by_choice(),
        }
    }

    /// The count of a call.
    pub(super) fn own(&self, limit: &Limit, owner: Owner, facts: &Facts<'_>) -> Key {
        let mut hasher = self.own;
        for (dimension, value) in limit.per.iter().zip(limit.values(*facts)) {
            match dimension {
                Dimension::Caller => write(&mut hasher, owner.caller),
                Dimension::Tenant => write(&mut hasher, owner.tenant),
                Dimension::Server | Dimension::Tool | Dimension::Claim(_) => {
                    hasher.write_u64(value.map_or(u64::MAX, |value| value.len() as u64));
                    hasher.write(value.unwrap_or_default().as_bytes());
                }
            }
        }
        let key = Key(hasher.finish128().into());
        if self.is_of_callers { key.beside(owner, self.is_split_by_choice) } else { key }
    }

    /// The count that further values of a caller share.
    pub(super) fn of_caller(&self, owner: Owner) -> Key {
        let mut hasher = self.of_caller;
        write(&mut hasher, owner.caller);
        Key(hasher.finish128().into()).beside(owner, false)
    }

    /// The count that further values of everybody share.
    pub(super) const fn of_all(&self) -> Key {
        self.of_all
    }
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use weft_proto::mcp::Target;
    use weft_proto::policy::access::Call;
    use weft_proto::policy::quota::Plan;
    use weft_proto::resource::{Spec, parse_one};
    use weft_proto::wire::{Meta, Object};

    use super::*;

    /// Keys of a call of a tool by each of three limits: of a caller, of a caller and tool, of everybody.
    fn keys(caller: &str, tool: &str) -> [Key; 3] {
        let text = "{apiVersion: weft.dev/v1alpha1, kind: QuotaPolicy, metadata: {namespace: a, name: p}, spec: {limits: \
                    [{per: [caller], rate: 1/s}, {per: [caller, tool], rate: 1/s}, {per: [tool], rate: 1/s}]}}";
        let resource = parse_one("f", text).unwrap();
        let Spec::QuotaPolicy(spec) = resource.spec else { panic!("{text} is a quota policy") };
        let plan = Plan::new(&[Arc::new(Object { meta: Meta::new(&resource.metadata, 1), spec })]);
        let call = Call { method: "tools/call", target: Some(Target::Tool(tool)), arguments: None };
        let facts = Facts { caller, tenant: None, server: "a/s", call, over: None };
        let key = |limit| Seed::new(limit).own(limit, Owner::new(caller, None), &facts);
        plan.limits().iter().map(key).collect::<Vec<_>>().try_into().unwrap()
    }

    #[test]
    fn the_same_values_have_the_same_key_and_others_another() {
        assert_eq!(keys("a", "x"), keys("a", "x"));
        let [first, second] = [keys("a", "x"), keys("a", "y")];
        assert_eq!(first[0], second[0]);
        assert!(first[1] != second[1] && first[2] != second[2]);
        let all: HashSet<Key> =
            ["a", "ab", "b", ""].into_iter().flat_map(|caller| keys(caller, "x")).collect();
        assert_eq!(all.len(), 4 + 4 + 1);
    }

    #[test]
    fn counts_of_a_caller_are_together_and_those_that_it_chooses_are_not_all_in_one_place() {
        let all: Vec<_> = (0..100).map(|n| keys("a", &format!("t{n}"))).collect();
        let of_caller = all.iter().flat_map(|[of_caller, of_tool, _]| [of_caller, of_tool]);
        assert_eq!(of_caller.map(|key| key.shard()).collect::<HashSet<_>>().len(), 1);
        let places: HashSet<u128> = all.iter().map(|[_, of_tool, _]| of_tool.0 & PLACE).collect();
        assert_eq!(places.len(), 100);
        let shards: HashSet<usize> = all.iter().map(|[.., of_all]| of_all.shard()).collect();
        assert!(shards.len() > SHARDS / 2, "{}", shards.len());
    }
}
