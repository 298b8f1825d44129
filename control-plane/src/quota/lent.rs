//! One limit that is lent: to whom, and what was counted by it.

use std::collections::HashMap;
use std::sync::Arc;

use weft_proto::pb::weft::quota::v1 as pb;
use weft_proto::policy::quota::Limit;
use weft_proto::policy::quota::lease::{Allocator, Grant, Part, Terms, Timing};

use super::lender::{KeyOf, Standing};
use super::recent::Recent;

/// Shortest span over which use is told. Sidecars report about every second, so that less would jump up and down.
const RECENT_NANOS_MIN: u64 = 5_000_000_000;

#[derive(Debug)]
pub(super) struct Lent {
    pub(super) allocator: Allocator,
    name: Arc<str>,
    amount: String,
    /// By their nodes.
    users: HashMap<u64, User>,
    /// Of users that are gone.
    past: Totals,
    recent: Recent,
}

#[derive(Debug, Default)]
struct User {
    /// Its session.
    holder: u64,
    handle: u64,
    totals: Totals,
    wants: u64,
    /// When it reported last.
    heard: u64,
    /// It gave the limit up, or fell silent. Its sums are remembered for when it comes back.
    released: bool,
}

/// Counted since a session began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub allowed: u64,
    pub denied: u64,
    pub cost_milli: u64,
}

impl Lent {
    pub(super) fn new(limit: &Limit, allocator: Allocator) -> Self {
        Self {
            allocator,
            name: Arc::clone(&limit.name),
            amount: limit.amount(),
            users: HashMap::new(),
            past: Totals::default(),
            recent: Recent::default(),
        }
    }

    /// The limit may be another by now. Answers what is called back, or lent beyond.
    pub(super) fn change(&mut self, limit: &Limit, terms: Terms, now: u64) -> Vec<(u64, Grant)> {
        if self.allocator.terms() == terms {
            return Vec::new();
        }
        self.amount = limit.amount();
        self.allocator.change(terms, now)
    }

    /// Sums of a session only ever grow: one that comes again, or late, counts nothing. Answers whether there is one
    /// user more, or less.
    pub(super) fn count(&mut self, (node, holder): (u64, u64), demand: &pb::LeaseDemand, now: u64) -> isize {
        self.forget_gone();
        let was_named = self.is_named_by(node);
        let told = Totals::of(demand);
        let user = self.users.entry(node).or_default();
        let is_new = user.holder != holder;
        if is_new || (user.released && told.are_less(user.totals)) {
            // It began anew, or the sidecar forgot the count meanwhile and began a new one.
            self.past = self.past.and(std::mem::take(&mut user.totals));
        }
        let before = user.totals;
        user.totals = before.most(told);
        // Nobody knows when that was which somebody unknown has counted.
        let passed = if is_new { 0 } else { user.totals.cost_milli - before.cost_milli };
        (user.holder, user.handle) = (holder, demand.handle);
        (user.wants, user.heard) = (demand.wants_milli, now);
        user.released = demand.release;
        self.recent.add(passed, self.span(), now);
        isize::from(!demand.release) - isize::from(was_named)
    }

    pub(super) fn is_named_by(&self, node: u64) -> bool {
        self.users.get(&node).is_some_and(|user| !user.released)
    }

    /// By which handle a holder knows the limit.
    pub(super) fn handle(&self, (node, holder): (u64, u64)) -> Option<u64> {
        self.users.get(&node).filter(|user| user.holder == holder).map(|user| user.handle)
    }

    /// Nodes that fell silent name it no more. Answers which.
    pub(super) fn lapse(&mut self, timing: Timing, now: u64) -> Vec<u64> {
        let silent = |user: &User| now >= user.heard.saturating_add(timing.counted_nanos());
        let users = self.users.iter_mut().filter(|(_, user)| !user.released && silent(user));
        users
            .map(|(node, user)| {
                user.released = true;
                *node
            })
            .collect()
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
    pub(super) fn used_per_million(&self, timing: Timing, now: u64) -> u64 {
        let whole = self.allocator.terms().whole.capacity.max(1);
        let share = u128::from(self.used_milli(timing, now)) * 1_000_000 / u128::from(whole);
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    pub(super) fn standing(&self, key: &KeyOf, timing: Timing, now: u64) -> Standing {
        let holders = self.present(timing, now).count();
        let is_late = |user: &User| now > user.heard.saturating_add(timing.lease_nanos / 2);
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
            is_budget: false,
            overdue: self.present(timing, now).filter(|user| is_late(user)).count(),
        }
    }

    /// Those whose time is over are known by their sums only.
    fn forget_gone(&mut self) {
        if self.users.len() > 2 * self.allocator.holders() + 16 {
            let (allocator, past) = (&self.allocator, &mut self.past);
            self.users.retain(|_, user| {
                let known = !user.released || allocator.granted(user.holder).is_some();
                if !known {
                    *past = past.and(user.totals);
                }
                known
            });
        }
    }
}

impl Totals {
    pub(super) const fn of(demand: &pb::LeaseDemand) -> Self {
        Self {
            allowed: demand.allowed_total,
            denied: demand.denied_total,
            cost_milli: demand.cost_milli_total,
        }
    }

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

    pub(super) const fn and(self, other: Self) -> Self {
        Self {
            allowed: self.allowed.saturating_add(other.allowed),
            denied: self.denied.saturating_add(other.denied),
            cost_milli: self.cost_milli.saturating_add(other.cost_milli),
        }
    }
}
