//! The counts, by what tells them apart: in shards with a lock each, so that calls of different callers seldom meet. A
//! call that takes from several counts locks their shards in order, looks, and takes: it is exact, whoever else calls.
//!
//! There are at most so many counts. One is forgotten only while nothing is taken of it, where a fresh one would be the
//! same. Where a caller has made as many as one may — tools are called by names of its choice — further calls of it
//! share one count for each limit; and where no count can be forgotten at all, further ones share one for each limit. So
//! a flood of names costs whoever makes it, and never makes a limit start anew.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, Hash as _, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, UNIX_EPOCH};

use tokio::sync::Notify;
use weft_proto::pb::weft::quota::v1 as pb;
use weft_proto::policy::quota::lease::{Grant, Loan, Timing, Told};
use weft_proto::policy::quota::{Cost, Facts, Gauge, Limit, Meter, Now, Outcome, Taking, Verdict, take_all};

use super::borrowed::Borrowed;
use super::journal::Id;
use super::key::{Digested, Key, Seed, Share};
use super::leased::{self, By, Leased};
use super::plan::Ready;
use crate::clock;

pub(super) const SHARDS: usize = 64;
/// A shard that is full of counts in use is not searched again for so long, however many new names come.
const SEARCH_AGAIN_NANOS: u64 = 100_000_000;

/// What a call wants of one count.
#[derive(Clone, Debug)]
pub(super) struct Claim<'a> {
    pub(super) key: Key,
    pub(super) ready: &'a Arc<Ready>,
    pub(super) cost: Cost,
    share: Share,
    facts: Facts<'a>,
    /// Of a budget that it took from: the end of the window.
    pub(super) window: Option<i64>,
}

#[derive(Debug)]
pub(super) struct Table {
    hashers: [RandomState; 2],
    shards: Box<[Mutex<Shard>]>,
    per_shard_max: usize,
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

#[derive(Debug, Default)]
struct Shard {
    counts: HashMap<Key, Count, BuildHasherDefault<Digested>>,
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
}

/// What one budget asks of the journal.
#[derive(Debug)]
pub(super) struct Asks {
    pub(super) handle: u64,
    pub(super) id: Id,
    pub(super) told: Told,
    pub(super) ready: Arc<Ready>,
}

#[derive(Debug)]
struct Count {
    meter: Meter,
    ready: Arc<Ready>,
    owner: u64,
    lease: Option<Box<Leased>>,
}

impl Table {
    pub(super) fn new(keys_max: usize, per_caller_max: usize, has_journal: bool) -> Self {
        Self {
            hashers: [RandomState::new(), RandomState::new()],
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            per_shard_max: keys_max.div_ceil(SHARDS),
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

    pub(super) fn seed(&self, limit: &Limit) -> Seed {
        Seed::new(&self.hashers, limit)
    }

    pub(super) fn owner(&self, caller: &str) -> u64 {
        self.hashers[0].hash_one(caller)
    }

    pub(super) fn claim<'a>(&self, ready: &'a Arc<Ready>, facts: Facts<'a>) -> Claim<'a> {
        let cost = Cost::one(ready.limit.weight(facts));
        let key = ready.seed.key(Share::Own, |hasher| {
            for value in ready.limit.values(facts) {
                value.hash(hasher);
            }
        });
        Claim { key, ready, cost, share: Share::Own, facts, window: None }
    }

    /// Takes what all claims say, or nothing. The claims are put in order, and those of one count together.
    pub(super) fn take(&self, claims: &mut Vec<Claim<'_>>, owner: u64, now: Now) -> (Outcome, Vec<Verdict>) {
        loop {
            in_order(claims);
            let mut guards = self.lock(claims);
            if self.find_room(claims, &mut guards, owner, now) {
                return self.settle(claims, &mut guards, owner, now);
            }
        }
    }

    /// The shards of the claims, each once, in order.
    fn lock(&self, claims: &[Claim<'_>]) -> Vec<(usize, MutexGuard<'_, Shard>)> {
        let mut guards: Vec<(usize, MutexGuard<'_, Shard>)> = Vec::with_capacity(claims.len());
        for claim in claims {
            let at = claim.key.shard();
            if guards.last().is_none_or(|(last, _)| *last != at) {
                guards.push((at, self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)));
            }
        }
        guards
    }

    /// Sees to it that every claim has a count or room for one. False if some now want another.
    fn find_room(
        &self,
        claims: &mut [Claim<'_>],
        guards: &mut [(usize, MutexGuard<'_, Shard>)],
        owner: u64,
        now: Now,
    ) -> bool {
        let mut found = true;
        for claim in claims.iter_mut() {
            let shard = shard_of(guards, claim.key);
            if shard.counts.contains_key(&claim.key) || claim.share == Share::OfAll {
                continue;
            }
            if shard.counts.len() >= self.per_shard_max && !self.forget_idle(shard, now) {
                claim.share = Share::OfAll;
                claim.key = claim.ready.seed.key(Share::OfAll, |_| {});
                found = false;
            } else if claim.share == Share::Own
                && claim.ready.limit.is_split_by_choice()
                && self.owned(owner) >= self.per_caller_max
            {
                // A count of its own besides the one that all share would be more than the limit.
                let own = claim.ready.limit.is_of_callers();
                claim.share = if own { Share::OfCaller } else { Share::OfAll };
                claim.key = match own {
                    true => claim.ready.seed.key(Share::OfCaller, |hasher| owner.hash(hasher)),
                    false => claim.ready.seed.key(Share::OfAll, |_| {}),
                };
                found = false;
            }
        }
        if found {
            self.begin_leases(claims, guards, owner, now);
        }
        found
    }

    /// A share of a limit is asked for even where the call is refused.
    fn begin_leases(
        &self,
        claims: &[Claim<'_>],
        guards: &mut [(usize, MutexGuard<'_, Shard>)],
        owner: u64,
        now: Now,
    ) {
        for claim in claims {
            let shard = shard_of(guards, claim.key);
            if let Some(by) = claim.ready.by.filter(|_| !shard.counts.contains_key(&claim.key)) {
                self.put(shard, claim, claim.ready.limit.gauge.fresh(), owner, now);
                self.borrowed(by).tell_soon(claim.key);
            }
        }
    }

    fn settle(
        &self,
        claims: &mut [Claim<'_>],
        guards: &mut [(usize, MutexGuard<'_, Shard>)],
        owner: u64,
        now: Now,
    ) -> (Outcome, Vec<Verdict>) {
        let found = claims.iter().map(|claim| match shard_of(guards, claim.key).counts.get_mut(&claim.key) {
            Some(count) => {
                count.look(claim.ready, now);
                (count.meter, count.lease.as_ref().map(|lease| lease.gauge().clone()))
            }
            None => (claim.ready.limit.gauge.fresh(), None),
        });
        let (mut meters, gauges): (Vec<Meter>, Vec<Option<Gauge>>) = found.unzip();
        let takings = claims.iter().zip(&mut meters).zip(&gauges).map(|((claim, meter), gauge)| Taking {
            gauge: gauge.as_ref().unwrap_or(&claim.ready.limit.gauge),
            meter,
            cost: claim.cost,
            shadow: claim.ready.limit.shadow,
            verdict: Verdict::Allowed,
        });
        let mut takings: Vec<_> = takings.collect();
        let outcome = take_all(&mut takings, now);
        let verdicts: Vec<_> = takings.iter().map(|taking| taking.verdict).collect();
        self.note(claims, guards, outcome, &verdicts);
        if outcome == Outcome::Taken {
            for ((claim, meter), verdict) in claims.iter_mut().zip(meters).zip(&verdicts) {
                if !matches!(verdict, Verdict::Denied(_)) {
                    claim.window = meter.window();
                    self.put(shard_of(guards, claim.key), claim, meter, owner, now);
                }
            }
        }
        (outcome, verdicts)
    }

    /// What limits decided that are lent, from which follows how much of them is wanted here.
    fn note(
        &self,
        claims: &[Claim<'_>],
        guards: &mut [(usize, MutexGuard<'_, Shard>)],
        outcome: Outcome,
        verdicts: &[Verdict],
    ) {
        for (claim, verdict) in claims.iter().zip(verdicts) {
            let Some(count) = shard_of(guards, claim.key).counts.get_mut(&claim.key) else { continue };
            let Some(lease) = &mut count.lease else { continue };
            let held = if let Meter::Held(held) = count.meter { held } else { 0 };
            let refuses = matches!(verdict, Verdict::Denied(_));
            let passed = outcome == Outcome::Taken && !refuses;
            // What another limit refuses is no demand for this one.
            if (passed || refuses) && lease.note(claim.cost, held, *verdict) {
                self.borrowed(lease.by).tell_soon(claim.key);
            }
        }
    }

    fn put(&self, shard: &mut Shard, claim: &Claim<'_>, meter: Meter, owner: u64, now: Now) {
        match shard.counts.get_mut(&claim.key) {
            Some(count) => count.meter = meter,
            None => {
                // What all share is nobody's own.
                let owner = if claim.share == Share::OfAll { 0 } else { owner };
                let lease = claim.ready.by.map(|by| {
                    self.borrowed(by).keys().insert(claim.key.low(), claim.key);
                    Box::new(Leased::new(&claim.ready.limit, by, claim.key, claim.told(), now))
                });
                let ready = Arc::clone(claim.ready);
                shard.counts.insert(claim.key, Count { meter, ready, owner, lease });
                self.len.fetch_add(1, Ordering::Relaxed);
                *self.owners_of(owner).entry(owner).or_default() += 1;
            }
        }
    }

    pub(super) fn give_back(&self, key: Key, cost: Cost, window: Option<i64>, now: Now) {
        let mut shard = self.shards[key.shard()].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = shard.counts.get_mut(&key) {
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
        shard.counts.retain(|key, count| {
            // What is held of a limit that is lent is given up first.
            let given_up = count.lease.as_ref().is_none_or(|lease| lease.is_released());
            let idle = given_up && count.gauge().is_idle(&count.meter, now);
            if idle {
                self.disown(count.owner);
                if let Some(lease) = &count.lease {
                    self.borrowed(lease.by).keys().remove(&key.low());
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
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.searched_nanos = None;
            self.forget_idle(&mut shard, now);
            for count in shard.counts.values() {
                let used = count.gauge().used_milli(&count.meter, now);
                if !fullest.contains_key(&count.ready.limit.identity) {
                    let (identity, ready) =
                        (Arc::clone(&count.ready.limit.identity), Arc::clone(&count.ready));
                    fullest.insert(identity, Shown { ready, used: 0, lent: 0, fallbacks: 0 });
                }
                if let Some(shown) = fullest.get_mut(&count.ready.limit.identity) {
                    shown.used = used.max(shown.used);
                    if let Some(lease) = &count.lease {
                        shown.lent = shown.lent.saturating_add(lease.share_milli());
                        shown.fallbacks += usize::from(lease.is_fallback());
                    }
                }
            }
        }
        fullest
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// What there is to say of a count; nothing of one that was given up.
    pub(super) fn demand(
        &self,
        key: Key,
        sequence: u64,
        timing: Timing,
        now: Now,
    ) -> Option<pb::LeaseDemand> {
        let mut shard = self.shards[key.shard()].lock().unwrap_or_else(PoisonError::into_inner);
        let Count { meter, lease, .. } = shard.counts.get_mut(&key)?;
        let lease = lease.as_mut().filter(|lease| !lease.is_released())?;
        Some(lease.demand(sequence, meter, timing, now))
    }

    /// What the journal is to hear of a budget; nothing of one that was given up.
    pub(super) fn asks(&self, key: Key, sequence: u64, is_end: bool) -> Option<Asks> {
        let mut shard = self.shards[key.shard()].lock().unwrap_or_else(PoisonError::into_inner);
        let Count { meter, lease, ready, .. } = shard.counts.get_mut(&key)?;
        let lease = lease.as_mut().filter(|lease| !lease.is_released())?;
        let told = lease.told(sequence, meter, is_end)?;
        Some(Asks { handle: key.low(), id: lease.id(), told, ready: Arc::clone(ready) })
    }

    /// How often something was lent of budgets.
    pub(super) fn lendings(&self) -> u64 {
        self.lendings.load(Ordering::SeqCst)
    }

    /// Tells those who wait that something was lent.
    pub(super) fn was_lent(&self) {
        self.lendings.fetch_add(1, Ordering::SeqCst);
        self.lent.notify_waiters();
    }

    /// Waits until more was lent than these times.
    pub(super) async fn is_lent(&self, seen: u64) {
        let lent = self.lent.notified();
        tokio::pin!(lent);
        // From here on no news is missed.
        lent.as_mut().enable();
        if self.lendings() == seen {
            lent.await;
        }
    }

    /// Takes what was lent of a budget for a handle.
    pub(super) fn lent(&self, by: By, handle: u64, epoch: u64, loan: Loan) {
        let Some(key) = self.borrowed(by).keys().get(&handle).copied() else { return };
        let mut shard = self.shards[key.shard()].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lease) = shard.counts.get_mut(&key).and_then(|count| count.lease.as_mut()) {
            lease.lent(epoch, loan);
        }
    }

    /// Takes what was granted for a handle.
    pub(super) fn granted(&self, handle: u64, grant: Grant, asked_at: Option<u64>, timing: Timing, now: Now) {
        let Some(key) = self.by_control_plane.keys().get(&handle).copied() else { return };
        let mut shard = self.shards[key.shard()].lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Count { meter, lease: Some(lease), .. }) = shard.counts.get_mut(&key) else { return };
        if lease.granted(grant, asked_at, meter, timing, now) {
            drop(shard);
            self.by_control_plane.tell_soon(key);
        }
    }

    fn owners_of(&self, owner: u64) -> MutexGuard<'_, HashMap<u64, usize>> {
        let at = owner as usize % self.owners.len();
        self.owners[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owned(&self, owner: u64) -> usize {
        self.owners_of(owner).get(&owner).copied().unwrap_or(0)
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
    /// The values by which the control plane knows the count: none where several share one.
    fn told(&self) -> impl Iterator<Item = Option<&'a str>> {
        let (share, caller) = (self.share, self.facts.caller);
        let ready: &'a Ready = self.ready;
        ready.limit.values(self.facts).map(move |value| match share {
            Share::Own => value,
            Share::OfCaller => value.filter(|value| *value == caller),
            Share::OfAll => None,
        })
    }
}

/// By count, with one claim for each.
fn in_order(claims: &mut Vec<Claim<'_>>) {
    claims.sort_unstable_by_key(|claim| claim.key);
    claims.dedup_by(|later, first| {
        let same = later.key == first.key;
        if same {
            first.cost = first.cost + later.cost;
        }
        same
    });
}

fn shard_of<'g>(guards: &'g mut [(usize, MutexGuard<'_, Shard>)], key: Key) -> &'g mut Shard {
    let at = guards.iter().position(|(at, _)| *at == key.shard());
    &mut guards[at.expect("every claim's shard is locked")].1
}
