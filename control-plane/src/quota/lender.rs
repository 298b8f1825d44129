//! The limits that are lent, and to whom.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::mpsc;
use weft_proto::name::SpiffeId;
use weft_proto::pb::weft::quota::v1 as pb;
use weft_proto::policy::quota::lease::{Allocator, Grant, Part, Report, Terms, Timing};
use weft_proto::policy::quota::{Gauge, Limit, Plan};
use weft_proto::resource::kinds::{LimitScope, QuotaPolicy};
use weft_proto::resource::{Resource, Spec};
use weft_proto::wire::{Meta, Object};

use super::Settings;
use super::recent::Recent;

/// Grants that wait for a connection to take them, beside answers; one that is slower loses them, and is answered
/// with its next report.
const PUSHED_MAX: usize = 256;
/// Longest value that splits a limit, in bytes. Sidecars shorten those that callers choose.
const VALUE_BYTES_MAX: usize = 2304;
/// Shortest span over which use is told. Sidecars report about every second, so that less would jump up and down.
const RECENT_NANOS_MIN: u64 = 5_000_000_000;

/// Lends every limit of the mesh.
#[derive(Debug)]
pub struct Lender {
    pub(super) settings: Settings,
    timing: Timing,
    epoch: u64,
    began: Instant,
    /// Makes holders of identities and their sessions.
    holders: RandomState,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    keys: HashMap<KeyOf, Lent>,
    streams: HashMap<u64, Open>,
}

/// The open stream of a holder.
#[derive(Debug)]
struct Open {
    grants: mpsc::Sender<pb::LeaseGrant>,
    /// Keys that it named on this stream and did not release.
    keys: usize,
}

/// A limit with the values that split it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct KeyOf {
    policy: String,
    limit: String,
    parts: Vec<(String, Option<String>)>,
}

#[derive(Debug)]
struct Lent {
    allocator: Allocator,
    name: Arc<str>,
    amount: String,
    users: HashMap<u64, User>,
    /// Of users that are gone.
    past: Totals,
    recent: Recent,
}

#[derive(Debug, Default)]
struct User {
    handle: u64,
    totals: Totals,
    wants: u64,
    /// When it reported last.
    heard: u64,
    /// It gave the limit up. Its sums are remembered for when it comes back.
    released: bool,
}

/// Counted since a session began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub allowed: u64,
    pub denied: u64,
    pub cost_milli: u64,
}

/// How one limit stands.
#[derive(Clone, Debug)]
pub struct Standing {
    pub policy: String,
    pub limit: Arc<str>,
    pub amount: String,
    pub parts: Vec<(String, Option<String>)>,
    pub whole: Part,
    pub lent: Part,
    pub holders: usize,
    pub totals: Totals,
    /// Of a rate, what passed lately, as of one window; of calls at once, the most that ran lately. In thousandths.
    pub used_milli: u64,
    /// Nothing new is lent yet, for what an earlier control plane lent may still be in use.
    pub learns: bool,
}

impl Lender {
    pub fn new(settings: Settings) -> Self {
        let timing = settings.timing();
        let (epoch, began, inner) = (rand::random(), Instant::now(), Mutex::default());
        Self { settings, timing, epoch, began, holders: RandomState::new(), inner }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// A stream of a session begins; an earlier one of it gets no more grants. None where there are too many.
    pub fn open(&self, identity: &SpiffeId, session: u64) -> Option<(u64, mpsc::Receiver<pb::LeaseGrant>)> {
        let mut inner = self.lock();
        if inner.streams.len() >= self.settings.streams_max {
            return None;
        }
        let holder = self.holders.hash_one((identity, session));
        let (grants, receiver) = mpsc::channel(PUSHED_MAX);
        inner.streams.insert(holder, Open { grants, keys: 0 });
        Some((holder, receiver))
    }

    /// The stream ended. What is lent stays so until its time is over.
    pub(super) fn close(&self, holder: u64, stream: &mpsc::Receiver<pb::LeaseGrant>) {
        let mut inner = self.lock();
        // One that took over is left alone: then this one's sender is gone already.
        if stream.sender_strong_count() > 0 {
            inner.streams.remove(&holder);
        }
    }

    /// Takes a report of a holder, and answers it. `policy` finds a policy that the holder may ask for.
    pub fn report(
        &self,
        holder: u64,
        report: &pb::LeaseReport,
        policy: impl Fn(&str) -> Option<Arc<Resource>>,
    ) -> pb::LeaseGrant {
        let now = self.now();
        let mut inner = self.lock();
        let mut answer = Vec::new();
        for demand in &report.demands {
            let Some(key) = demand.key.as_ref().and_then(KeyOf::read) else { continue };
            let Some(limit) = policy(&key.policy).and_then(|found| limit_of(&found, &key.limit)) else {
                continue;
            };
            let Some(terms) = terms(&limit).filter(|_| key.is_of(&limit)) else { continue };
            if !self.has_room(&mut inner, holder, &key, now) {
                continue;
            }
            let lent = inner.keys.entry(key.clone()).or_insert_with(|| Lent {
                // As of the start of this run: whatever an earlier one lent is over by the same time for every limit.
                allocator: Allocator::new(terms, self.timing, self.epoch, true, 0),
                name: Arc::clone(&limit.name),
                amount: limit.amount(),
                users: HashMap::new(),
                past: Totals::default(),
                recent: Recent::default(),
            });
            let mut grants = Vec::new();
            if lent.allocator.terms() != terms {
                lent.amount = limit.amount();
                grants.extend(lent.allocator.change(terms, now));
            }
            grants.extend(lent.allocator.report(holder, read(report.sequence, demand), now));
            let change = lent.count(holder, demand, now);
            if let Some(open) = inner.streams.get_mut(&holder) {
                open.keys = open.keys.saturating_add_signed(change);
            }
            let (own, others): (Vec<_>, Vec<_>) = grants.into_iter().partition(|(to, _)| *to == holder);
            answer.extend(own.into_iter().last().map(|(_, grant)| lease(demand.handle, grant)));
            self.push(&inner, &key, others);
        }
        self.message(report.sequence, answer)
    }

    /// Whether a holder may name this key: there is room, and it has not named too many.
    fn has_room(&self, inner: &mut Inner, holder: u64, key: &KeyOf, now: u64) -> bool {
        let known = inner.keys.get(key);
        if known.is_some_and(|lent| lent.is_held_by(holder)) {
            return true;
        }
        if inner.streams.get(&holder).is_none_or(|open| open.keys >= self.settings.keys_per_stream_max) {
            return false;
        }
        if known.is_none() && inner.keys.len() >= self.settings.keys_max {
            inner.keys.retain(|_, lent| !lent.allocator.is_idle(now));
        }
        inner.keys.contains_key(key) || inner.keys.len() < self.settings.keys_max
    }

    /// Looks at every limit that is lent: what is another by now is called back, without anybody's asking.
    pub(super) fn limits_changed(&self, policy: impl Fn(&str) -> Option<Arc<Resource>>) {
        let now = self.now();
        let mut inner = self.lock();
        inner.keys.retain(|_, lent| !lent.allocator.is_idle(now));
        let keys: Vec<KeyOf> = inner.keys.keys().cloned().collect();
        for key in keys {
            let found = policy(&key.policy).and_then(|found| limit_of(&found, &key.limit));
            // A limit that is no more is nobody's concern: sidecars drop it by themselves.
            let Some((limit, terms)) = found.and_then(|limit| terms(&limit).map(|terms| (limit, terms)))
            else {
                continue;
            };
            let Some(lent) = inner.keys.get_mut(&key).filter(|lent| lent.allocator.terms() != terms) else {
                continue;
            };
            lent.amount = limit.amount();
            let grants = lent.allocator.change(terms, now);
            self.push(&inner, &key, grants);
        }
    }

    fn push(&self, inner: &Inner, key: &KeyOf, grants: Vec<(u64, Grant)>) {
        for (holder, grant) in grants {
            let handle = inner.keys.get(key).and_then(|lent| lent.users.get(&holder)).map(|user| user.handle);
            let (Some(handle), Some(open)) = (handle, inner.streams.get(&holder)) else { continue };
            let _ = open.grants.try_send(self.message(0, vec![lease(handle, grant)]));
        }
    }

    fn message(&self, answers: u64, leases: Vec<pb::Lease>) -> pb::LeaseGrant {
        pb::LeaseGrant {
            acknowledged_sequence: answers,
            epoch: self.epoch,
            leases,
            valid_for: prost_types::Duration::try_from(self.settings.lease).ok(),
            refresh_after: prost_types::Duration::try_from(self.settings.refresh).ok(),
        }
    }

    /// How every limit that is lent stands.
    pub fn standing(&self) -> Vec<Standing> {
        self.busiest(usize::MAX, |_, _| true).0
    }

    /// How the limits stand that are lent and wanted, by policy and the values that split them: those of which most is
    /// used first, at most so many, and how many were left out.
    pub fn busiest(
        &self,
        counts_max: usize,
        wanted: impl Fn(&str, &[(String, Option<String>)]) -> bool,
    ) -> (Vec<Standing>, usize) {
        let (now, inner) = (self.now(), self.lock());
        let wanted = inner.keys.iter().filter(|(key, _)| wanted(&key.policy, &key.parts));
        let ordered = |(key, lent): (_, &Lent)| (Reverse(lent.used_per_million(self.timing, now)), key);
        let mut found: Vec<_> = wanted.map(ordered).collect();
        let left_out = found.len().saturating_sub(counts_max);
        if left_out > 0 {
            found.select_nth_unstable(counts_max);
            found.truncate(counts_max);
        }
        found.sort_unstable();
        let standing = found
            .iter()
            .filter_map(|(_, key)| inner.keys.get(*key).map(|lent| lent.standing(key, self.timing, now)));
        (standing.collect(), left_out)
    }
}

impl Lent {
    /// Sums of a session only ever grow: one that comes again, or late, counts nothing. Answers whether there is one
    /// user more, or less.
    fn count(&mut self, holder: u64, demand: &pb::LeaseDemand, now: u64) -> isize {
        self.forget_gone();
        let was_held = self.is_held_by(holder);
        let told = Totals {
            allowed: demand.allowed_total,
            denied: demand.denied_total,
            cost_milli: demand.cost_milli_total,
        };
        let is_new = !self.users.contains_key(&holder);
        let user = self.users.entry(holder).or_default();
        if user.released && told.are_less(user.totals) {
            // The sidecar forgot the count meanwhile, and began a new one.
            self.past = self.past.and(std::mem::take(&mut user.totals));
        }
        let before = user.totals;
        user.totals = before.most(told);
        // Nobody knows when that was which somebody unknown has counted.
        let passed = if is_new { 0 } else { user.totals.cost_milli - before.cost_milli };
        (user.handle, user.wants, user.heard) = (demand.handle, demand.wants_milli, now);
        user.released = demand.release;
        self.recent.add(passed, self.span(), now);
        isize::from(!demand.release) - isize::from(was_held)
    }

    fn is_held_by(&self, holder: u64) -> bool {
        self.users.get(&holder).is_some_and(|user| !user.released)
    }

    /// Over how long use is told.
    fn span(&self) -> u64 {
        self.allocator.terms().window_nanos.unwrap_or(0).max(RECENT_NANOS_MIN)
    }

    /// Who holds of it now. The allocator lets others go only when somebody reports.
    fn present(&self, timing: Timing, now: u64) -> impl Iterator<Item = &User> {
        let is_present =
            move |user: &&User| !user.released && now < user.heard.saturating_add(timing.counted_nanos());
        self.users.values().filter(is_present)
    }

    fn used_milli(&self, timing: Timing, now: u64) -> u64 {
        let Some(window) = self.allocator.terms().window_nanos else {
            // What is wanted is the most that ran lately or would have; no more than is lent can run.
            let wants = self.present(timing, now).fold(0, |sum: u64, user| sum.saturating_add(user.wants));
            return wants.min(self.allocator.lent().capacity);
        };
        let span = self.span();
        let milli = u128::from(self.recent.milli(span, now)) * u128::from(window) / u128::from(span);
        u64::try_from(milli).unwrap_or(u64::MAX)
    }

    /// How much is used, in millionths of the limit.
    fn used_per_million(&self, timing: Timing, now: u64) -> u64 {
        let whole = self.allocator.terms().whole.capacity.max(1);
        let share = u128::from(self.used_milli(timing, now)) * 1_000_000 / u128::from(whole);
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    fn standing(&self, key: &KeyOf, timing: Timing, now: u64) -> Standing {
        let holders = self.present(timing, now).count();
        Standing {
            policy: key.policy.clone(),
            limit: Arc::clone(&self.name),
            amount: self.amount.clone(),
            parts: key.parts.clone(),
            whole: self.allocator.terms().whole,
            lent: if holders == 0 { Part::NOTHING } else { self.allocator.lent() },
            holders,
            totals: self.users.values().fold(self.past, |sum, user| sum.and(user.totals)),
            used_milli: self.used_milli(timing, now),
            learns: self.allocator.learns(now),
        }
    }

    /// Those whose time is over are known by their sums only.
    fn forget_gone(&mut self) {
        if self.users.len() > 2 * self.allocator.holders() + 16 {
            let (allocator, past) = (&self.allocator, &mut self.past);
            self.users.retain(|holder, user| {
                let known = allocator.granted(*holder).is_some();
                if !known {
                    *past = past.and(user.totals);
                }
                known
            });
        }
    }
}

impl Totals {
    const fn are_less(self, than: Self) -> bool {
        self.allowed < than.allowed || self.denied < than.denied || self.cost_milli < than.cost_milli
    }

    fn most(self, other: Self) -> Self {
        Self {
            allowed: self.allowed.max(other.allowed),
            denied: self.denied.max(other.denied),
            cost_milli: self.cost_milli.max(other.cost_milli),
        }
    }

    const fn and(self, other: Self) -> Self {
        Self {
            allowed: self.allowed.saturating_add(other.allowed),
            denied: self.denied.saturating_add(other.denied),
            cost_milli: self.cost_milli.saturating_add(other.cost_milli),
        }
    }
}

impl KeyOf {
    /// None if it is larger than any that a sidecar sends.
    fn read(key: &pb::LimitKey) -> Option<Self> {
        let parts = key.parts.iter().map(|part| (part.dimension.clone(), part.value.clone()));
        let fits =
            |part: &pb::KeyPart| part.value.as_ref().is_none_or(|value| value.len() <= VALUE_BYTES_MAX);
        key.parts.iter().all(fits).then(|| Self {
            policy: key.policy.clone(),
            limit: key.limit.clone(),
            parts: parts.collect(),
        })
    }

    /// Whether it has a value for each that splits the limit, and no other.
    fn is_of(&self, limit: &Limit) -> bool {
        let names = limit.per.iter().map(ToString::to_string);
        names.eq(self.parts.iter().map(|(dimension, _)| dimension.clone()))
    }
}

fn read(sequence: u64, demand: &pb::LeaseDemand) -> Report {
    Report {
        sequence,
        epoch: demand.epoch,
        acknowledged: demand.number,
        has: Part { capacity: demand.has_milli, burst: demand.has_burst_milli },
        wants: demand.wants_milli,
        release: demand.release,
    }
}

const fn lease(handle: u64, grant: Grant) -> pb::Lease {
    pb::Lease {
        handle,
        number: grant.number,
        capacity_milli: grant.part.capacity,
        burst_milli: grant.part.burst,
        tokens_milli: grant.tokens,
        safe_milli: grant.safe,
    }
}

fn limit_of(resource: &Resource, identity: &str) -> Option<Limit> {
    let Spec::QuotaPolicy(spec) = &resource.spec else { return None };
    let object: Object<QuotaPolicy> = Object { meta: Meta::new(&resource.metadata, 0), spec: spec.clone() };
    let plan = Plan::new(&[Arc::new(object)]);
    plan.limits().iter().find(|limit| &*limit.identity == identity).cloned()
}

fn terms(limit: &Limit) -> Option<Terms> {
    match (&limit.scope, &limit.gauge) {
        (LimitScope::Mesh, Gauge::Rate(flow)) => {
            Some(Terms::rate(flow.amount_milli, flow.burst_milli, flow.window_nanos))
        }
        (LimitScope::Mesh, Gauge::Slots(calls)) => Some(Terms::slots(*calls)),
        (LimitScope::Mesh, Gauge::Budget { .. }) | (LimitScope::Instance, _) => None,
    }
}

#[cfg(test)]
mod tests;
