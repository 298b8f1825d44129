//! The counts, by what tells them apart: in shards with a lock each, those of one caller in the same, so that calls of
//! different callers seldom meet and most calls take one lock. A call that takes from several counts locks their shards
//! in order, looks, and takes: it is exact, whoever else calls.
//!
//! There are at most so many counts. One is forgotten only while nothing is taken of it, where a fresh one would be the
//! same. Where a caller has made as many as one may — tools are called by names of its choice — further calls of it
//! share one count for each limit; and where no count can be forgotten at all, further ones share one for each limit. So
//! a flood of names costs whoever makes it, and never makes a limit start anew.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, UNIX_EPOCH};

use hashbrown::HashTable;
use smallvec::SmallVec;
use tokio::sync::Notify;
use weft_proto::policy::quota::{Cost, Facts, Gauge, Limit, Meter, Now, Outcome, Taking, Verdict, take_all};

use super::borrowed::Borrowed;
use super::key::{Key, Owner, SHARDS, Share};
use super::leased::{self, By, Leased};
use super::plan::Ready;
use crate::clock;

mod lent;

pub(super) use lent::Asks;

/// A call with no more claims than this allocates nothing.
pub(super) const CLAIMS_FEW: usize = 8;
/// A shard that is full of counts in use is not searched again for so long, however many new names come.
const SEARCH_AGAIN_NANOS: u64 = 100_000_000;

pub(super) type Claims<'a> = SmallVec<[Claim<'a>; CLAIMS_FEW]>;
type Guards<'t> = SmallVec<[MutexGuard<'t, Shard>; CLAIMS_FEW]>;

/// What a call wants of one count.
#[derive(Clone, Debug)]
pub(super) struct Claim<'a> {
    pub(super) key: Key,
    pub(super) ready: &'a Arc<Ready>,
    pub(super) cost: Cost,
    share: Share,
    facts: &'a Facts<'a>,
    /// Its shard among those that are locked.
    guard: usize,
    /// Where in its shard the count is, if there is one.
    place: Option<usize>,
    /// What became of it.
    pub(super) verdict: Verdict,
    /// Of a budget that it took from: the end of the window.
    pub(super) window: Option<i64>,
}

#[derive(Debug)]
pub(super) struct Table {
    shards: Box<[Apart<Mutex<Shard>>]>,
    keys_max: usize,
    /// Counts by the callers that made them.
    owners: Box<[Mutex<HashMap<u64, usize>>]>,
    per_caller_max: usize,
    len: AtomicUsize,
    began: Instant,
    /// Counts that are lent, by who lends.
    by_control_plane: Borrowed,
    by_journal: Borrowed,
    /// Whether budgets are written down.
    has_journal: bool,
    /// Something was lent of a budget, so many times.
    lent: Notify,
    lendings: AtomicU64,
}

/// Alone in what processors fetch at once, so that one shard's lock slows down nobody at another.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart<T>(T);

#[derive(Debug, Default)]
struct Shard {
    counts: HashTable<Count>,
    /// When it was searched in vain for a count to forget.
    searched_nanos: Option<u64>,
}

/// What is written down of a limit.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) ready: Arc<Ready>,
    /// Where most is taken.
    pub(super) used: u64,
    /// What may be used of it here in each window, over all its counts.
    pub(super) lent: u64,
    /// Counts without a lease.
    pub(super) fallbacks: usize,
    /// Age of the lease that was confirmed longest ago, in nanoseconds.
    pub(super) age: Option<u64>,
}

#[derive(Debug)]
struct Count {
    key: Key,
    meter: Meter,
    ready: Arc<Ready>,
    owner: u64,
    lease: Option<Box<Leased>>,
}

impl Table {
    pub(super) fn new(keys_max: usize, per_caller_max: usize, has_journal: bool) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Apart::default()).collect(),
            keys_max,
            owners: (0..SHARDS).map(|_| Mutex::default()).collect(),
            per_caller_max,
            len: AtomicUsize::new(0),
            began: Instant::now(),
            by_control_plane: Borrowed::default(),
            by_journal: Borrowed::default(),
            has_journal,
            lent: Notify::new(),
            lendings: AtomicU64::new(0),
        }
    }

    /// By whom a limit is lent.
    pub(super) const fn by(&self, limit: &Limit) -> Option<By> {
        leased::by(limit, self.has_journal)
    }

    pub(super) const fn borrowed(&self, by: By) -> &Borrowed {
        match by {
            By::ControlPlane => &self.by_control_plane,
            By::Journal => &self.by_journal,
        }
    }

    pub(super) fn now(&self) -> Now {
        let since = clock::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            nanos: u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX),
            unix_secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        }
    }

    /// What a call of a caller wants of a limit.
    pub(super) fn claim<'a>(ready: &'a Arc<Ready>, owner: Owner, facts: &'a Facts<'a>) -> Claim<'a> {
        Claim {
            key: ready.seed.own(&ready.limit, owner, facts),
            ready,
            cost: Cost::one(ready.limit.weight(*facts)),
            share: Share::Own,
            facts,
            guard: 0,
            place: None,
            verdict: Verdict::Allowed,
            window: None,
        }
    }

    /// Takes what all claims say, or nothing. The claims are put in order, and those of one count together.
    pub(super) fn take(&self, claims: &mut Claims<'_>, owner: Owner, now: Now) -> Outcome {
        loop {
            in_order(claims);
            let mut guards = self.lock(claims);
            if find(claims, &guards) || self.find_room(claims, &mut guards, owner, now) {
                return self.settle(claims, &mut guards, owner, now);
            }
        }
    }

    /// The shards of the claims, each once, in order.
    fn lock(&self, claims: &mut [Claim<'_>]) -> Guards<'_> {
        let (mut guards, mut last) = (Guards::new(), None);
        for claim in claims {
            let at = claim.key.shard();
            if last != Some(at) {
                guards.push(self.shard(claim.key));
                last = Some(at);
            }
            claim.guard = guards.len() - 1;
        }
        guards
    }

    fn shard(&self, key: Key) -> MutexGuard<'_, Shard> {
        self.shards[key.shard()].0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that every claim has a count or room for one. False if some now want another.
    fn find_room(&self, claims: &mut [Claim<'_>], guards: &mut Guards<'_>, owner: Owner, now: Now) -> bool {
        let mut found = true;
        for claim in claims.iter_mut() {
            let shard = &mut *guards[claim.guard];
            if shard.place(claim.key).is_some() || claim.share == Share::OfAll {
                continue;
            }
            let ready = claim.ready;
            if self.len() >= self.keys_max && !self.forget_idle(shard, now) {
                (claim.share, claim.key) = (Share::OfAll, ready.seed.of_all());
                found = false;
            } else if claim.share == Share::Own
                && ready.limit.is_split_by_choice()
                && self.owned(owner) >= self.per_caller_max
            {
                // A count of its own besides the one that all share would be more than the limit.
                (claim.share, claim.key) = match ready.limit.is_of_callers() {
                    true => (Share::OfCaller, ready.seed.of_caller(owner)),
                    false => (Share::OfAll, ready.seed.of_all()),
                };
                found = false;
            }
        }
        if found {
            self.begin_leases(claims, guards, owner, now);
            find(claims, guards);
        }
        found
    }

    /// A share of a limit is asked for even where the call is refused.
    fn begin_leases(&self, claims: &[Claim<'_>], guards: &mut Guards<'_>, owner: Owner, now: Now) {
        for claim in claims {
            let shard = &mut *guards[claim.guard];
            if let Some(by) = claim.ready.by.filter(|_| shard.place(claim.key).is_none()) {
                self.begin(shard, claim, claim.ready.limit.gauge.fresh(), owner, now);
                self.borrowed(by).tell_soon(claim.key);
            }
        }
    }

    fn settle(&self, claims: &mut [Claim<'_>], guards: &mut Guards<'_>, owner: Owner, now: Now) -> Outcome {
        let found = claims.iter().map(|claim| match claim.count_mut(guards) {
            Some(count) => {
                count.look(claim.ready, now);
                count.meter
            }
            None => claim.ready.limit.gauge.fresh(),
        });
        let mut meters: SmallVec<[Meter; CLAIMS_FEW]> = found.collect();
        let takings = claims.iter().zip(&mut meters).map(|(claim, meter)| {
            let limit = &claim.ready.limit;
            let gauge = claim.count(guards).map_or(&limit.gauge, Count::gauge);
            Taking { gauge, meter, cost: claim.cost, shadow: limit.shadow, verdict: Verdict::Allowed }
        });
        let mut takings: SmallVec<[Taking<'_>; CLAIMS_FEW]> = takings.collect();
        let outcome = take_all(&mut takings, now);
        for (claim, taking) in claims.iter_mut().zip(&takings) {
            claim.verdict = taking.verdict;
        }
        drop(takings);
        self.note(claims, guards, outcome);
        if outcome == Outcome::Taken {
            self.put(claims, &meters, guards, owner, now);
        }
        outcome
    }

    /// What limits decided that are lent, from which follows how much of them is wanted here.
    fn note(&self, claims: &[Claim<'_>], guards: &mut Guards<'_>, outcome: Outcome) {
        for claim in claims {
            let Some(by) = claim.ready.by else { continue };
            let Some(Count { meter, lease: Some(lease), .. }) = claim.count_mut(guards) else { continue };
            let held = if let Meter::Held(held) = meter { *held } else { 0 };
            let refuses = claim.is_refused();
            let passed = outcome == Outcome::Taken && !refuses;
            // What another limit refuses is no demand for this one.
            if (passed || refuses) && lease.note(claim.cost, held, claim.verdict) {
                self.borrowed(by).tell_soon(claim.key);
            }
        }
    }

    /// Puts down what was taken.
    fn put(
        &self,
        claims: &mut [Claim<'_>],
        meters: &[Meter],
        guards: &mut Guards<'_>,
        owner: Owner,
        now: Now,
    ) {
        let mut are_new = false;
        for (claim, meter) in claims.iter_mut().zip(meters).filter(|(claim, _)| !claim.is_refused()) {
            claim.window = meter.window();
            match claim.count_mut(guards) {
                Some(count) => count.meter = *meter,
                None => are_new = true,
            }
        }
        // Only now, for a count that comes may move those that are there.
        if are_new {
            for (claim, meter) in claims.iter().zip(meters) {
                if claim.place.is_none() && !claim.is_refused() {
                    self.begin(&mut guards[claim.guard], claim, *meter, owner, now);
                }
            }
        }
    }

    fn begin(&self, shard: &mut Shard, claim: &Claim<'_>, meter: Meter, owner: Owner, now: Now) {
        // What all share is nobody's own.
        let owner = if claim.share == Share::OfAll { 0 } else { owner.number() };
        let lease = claim.ready.by.map(|by| {
            self.borrowed(by).keys().insert(claim.key.handle(), claim.key);
            Box::new(Leased::new(&claim.ready.limit, by, claim.key, claim.told(), now))
        });
        let count = Count { key: claim.key, meter, ready: Arc::clone(claim.ready), owner, lease };
        shard.counts.insert_unique(count.key.hash(), count, |count| count.key.hash());
        self.len.fetch_add(1, Ordering::Relaxed);
        *self.owners_of(owner).entry(owner).or_default() += 1;
    }

    pub(super) fn give_back(&self, key: Key, cost: Cost, window: Option<i64>, now: Now) {
        if let Some(count) = self.shard(key).count_mut(key) {
            let gauge = count.lease.as_ref().map_or(&count.ready.limit.gauge, |lease| lease.gauge());
            gauge.give_back(&mut count.meter, cost, window, now);
        }
    }

    /// Forgets every count of a shard that is idle. False if there was none.
    fn forget_idle(&self, shard: &mut Shard, now: Now) -> bool {
        if shard.searched_nanos.is_some_and(|at| now.nanos < at.saturating_add(SEARCH_AGAIN_NANOS)) {
            return false;
        }
        let before = shard.counts.len();
        shard.counts.retain(|count| {
            // What is held of a limit that is lent is given up first.
            let given_up = count.lease.as_ref().is_none_or(|lease| lease.is_released());
            let idle = given_up && count.gauge().is_idle(&count.meter, now);
            if idle {
                self.disown(count.owner);
                if let Some(lease) = &count.lease {
                    self.borrowed(lease.by).keys().remove(&count.key.handle());
                }
            }
            !idle
        });
        let forgotten = before - shard.counts.len();
        self.len.fetch_sub(forgotten, Ordering::Relaxed);
        shard.searched_nanos = (forgotten == 0).then_some(now.nanos);
        forgotten > 0
    }

    /// Forgets every count that is idle, and finds the fullest of each limit, by the limit's identity.
    pub(super) fn sweep(&self, now: Now) -> HashMap<Arc<str>, Shown> {
        let mut fullest: HashMap<Arc<str>, Shown> = HashMap::new();
        for shard in &self.shards {
            let mut shard = shard.0.lock().unwrap_or_else(PoisonError::into_inner);
            shard.searched_nanos = None;
            self.forget_idle(&mut shard, now);
            for count in &shard.counts {
                let used = count.gauge().used_milli(&count.meter, now);
                if !fullest.contains_key(&count.ready.limit.identity) {
                    let (identity, ready) =
                        (Arc::clone(&count.ready.limit.identity), Arc::clone(&count.ready));
                    fullest.insert(identity, Shown { ready, used: 0, lent: 0, fallbacks: 0, age: None });
                }
                if let Some(shown) = fullest.get_mut(&count.ready.limit.identity) {
                    shown.used = used.max(shown.used);
                    if let Some(lease) = &count.lease {
                        shown.lent = shown.lent.saturating_add(lease.share_milli());
                        shown.fallbacks += usize::from(lease.is_fallback());
                        shown.age = shown.age.max(lease.age(now));
                    }
                }
            }
        }
        fullest
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    fn owners_of(&self, owner: u64) -> MutexGuard<'_, HashMap<u64, usize>> {
        let at = owner as usize % self.owners.len();
        self.owners[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owned(&self, owner: Owner) -> usize {
        self.owners_of(owner.number()).get(&owner.number()).copied().unwrap_or(0)
    }

    fn disown(&self, owner: u64) {
        let mut owners = self.owners_of(owner);
        if let Some(count) = owners.get_mut(&owner) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                owners.remove(&owner);
            }
        }
    }
}

impl Shard {
    fn place(&self, key: Key) -> Option<usize> {
        self.counts.find_bucket_index(key.hash(), |count| count.key == key)
    }

    fn count_mut(&mut self, key: Key) -> Option<&mut Count> {
        self.counts.find_mut(key.hash(), |count| count.key == key)
    }
}

impl Count {
    fn gauge(&self) -> &Gauge {
        self.lease.as_ref().map_or(&self.ready.limit.gauge, |lease| lease.gauge())
    }

    /// Brings it up to date, for a limit that may have been edited since.
    fn look(&mut self, ready: &Arc<Ready>, now: Now) {
        let edited = !Arc::ptr_eq(&self.ready, ready);
        match &mut self.lease {
            Some(lease) if edited => lease.edited(&ready.limit, &mut self.meter, now),
            Some(lease) => lease.go_over(&mut self.meter, 0, now),
            None if edited => self.ready.limit.gauge.settle(&mut self.meter, now),
            None => {}
        }
        if edited {
            self.ready = Arc::clone(ready);
        }
    }
}

impl<'a> Claim<'a> {
    const fn is_refused(&self) -> bool {
        matches!(self.verdict, Verdict::Denied(_))
    }

    fn count<'g>(&self, guards: &'g Guards<'_>) -> Option<&'g Count> {
        guards[self.guard].counts.get_bucket(self.place?)
    }

    fn count_mut<'g>(&self, guards: &'g mut Guards<'_>) -> Option<&'g mut Count> {
        guards[self.guard].counts.get_bucket_mut(self.place?)
    }

    /// The values by which the control plane knows the count: none where several share one.
    fn told(&self) -> impl Iterator<Item = Option<&'a str>> {
        let (share, caller) = (self.share, self.facts.caller);
        let ready: &'a Ready = self.ready;
        ready.limit.values(*self.facts).map(move |value| match share {
            Share::Own => value,
            Share::OfCaller => value.filter(|value| *value == caller),
            Share::OfAll => None,
        })
    }
}

/// By count, with one claim for each.
fn in_order(claims: &mut Claims<'_>) {
    claims.sort_unstable_by_key(|claim| claim.key);
    claims.dedup_by(|later, first| {
        let same = later.key == first.key;
        if same {
            first.cost = first.cost + later.cost;
        }
        same
    });
}

/// Finds the counts that there are. True if there is one for each claim.
fn find(claims: &mut [Claim<'_>], guards: &Guards<'_>) -> bool {
    let mut all = true;
    for claim in claims {
        claim.place = guards[claim.guard].place(claim.key);
        all &= claim.place.is_some();
    }
    all
}
