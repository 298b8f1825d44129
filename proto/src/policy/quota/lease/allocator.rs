//! Who is lent how much of one limit.

use std::collections::{BTreeMap, BTreeSet};

use super::super::MILLI;
use super::holding::Holding;
use super::{Grant, Part, Report, Terms, Timing};

/// With more holders than this, shares are reckoned anew only so often in the time in which each reports once: so a
/// report costs its lender about as much however many others there are.
const HOLDERS_FEW: usize = 16;
const RECKONINGS: u64 = 16;
/// Holders of calls at once that are silent and may come back with calls that still run.
const GONE_MAX: usize = 1024;
/// For how many leases more they are remembered.
const GONE_LEASES: u64 = 240;

/// The lender of one limit.
#[derive(Clone, Debug)]
pub struct Allocator {
    terms: Terms,
    timing: Timing,
    epoch: u64,
    /// Of the last grant to anybody: were they counted for each holder, one that was forgotten and comes again could
    /// take a grant of then, still on its way, for one of now.
    number: u64,
    /// Until then there may be leases of an earlier run that nobody told of: what is held goes on, and no more.
    learns_until: u64,
    holders: BTreeMap<u64, Holding>,
    /// When the next of each holder's grants is over, or it is silent for too long; or earlier.
    ends: BTreeSet<(u64, u64)>,
    /// Of calls at once, those who fell silent.
    gone: BTreeMap<u64, Gone>,
    /// The first of them is remembered until then.
    gone_until: u64,
    /// All that may be in use.
    lent: Part,
    pool: Pool,
    level: Level,
    reckoned_at: Option<u64>,
}

/// Who fell silent: so many calls of it may run, and until when that is remembered.
#[derive(Clone, Copy, Debug)]
struct Gone {
    most: u64,
    until: u64,
}

/// What of the burst is nobody's and may be handed on: it fills with the flow that nobody was lent.
#[derive(Clone, Copy, Debug)]
struct Pool {
    milli: u64,
    /// Of a thousandth, in nanoseconds of the window.
    rest: u128,
    at: u64,
}

/// What holders get: as much as they want up to `most`, and `extra` above.
#[derive(Clone, Copy, Debug, Default)]
struct Level {
    most: u64,
    extra: u64,
    /// How many have a share.
    among: u64,
    /// Of those that want more than `most`, how many get one call above it: what even shares of whole calls leave.
    more: u64,
}

impl Allocator {
    /// `may_be_known` says whether an earlier run may have lent of this limit.
    pub fn new(terms: Terms, timing: Timing, epoch: u64, may_be_known: bool, now: u64) -> Self {
        Self {
            terms,
            timing,
            epoch,
            number: 0,
            learns_until: if may_be_known { now.saturating_add(timing.counted_nanos()) } else { now },
            holders: BTreeMap::new(),
            ends: BTreeSet::new(),
            gone: BTreeMap::new(),
            gone_until: u64::MAX,
            lent: Part::NOTHING,
            pool: Pool { milli: if may_be_known { 0 } else { terms.whole.burst }, rest: 0, at: now },
            level: Level::default(),
            reckoned_at: None,
        }
    }

    pub const fn terms(&self) -> Terms {
        self.terms
    }

    pub fn holders(&self) -> usize {
        self.holders.len()
    }

    /// All that may be in use, in thousandths.
    pub const fn lent(&self) -> Part {
        self.lent
    }

    /// What a holder was lent last.
    pub fn granted(&self, holder: u64) -> Option<Part> {
        self.holders.get(&holder).map(Holding::granted)
    }

    pub const fn learns(&self, now: u64) -> bool {
        now < self.learns_until
    }

    /// Whether there is nothing to remember.
    pub fn is_idle(&mut self, now: u64) -> bool {
        self.advance(now);
        self.holders.is_empty() && !self.learns(now) && self.pool.milli >= self.terms.whole.burst
    }

    /// Answers a report, with the grants that others are to be sent for it. A report that was heard before, or that
    /// another overtook, is no news.
    pub fn report(&mut self, holder: u64, report: Report, now: u64) -> Vec<(u64, Grant)> {
        self.advance(now);
        let known = self.holders.get(&holder);
        if known.is_some_and(|known| report.sequence <= known.sequence) {
            return Vec::new();
        }
        if report.release {
            self.remove(holder);
            return self.rebalance(now, None);
        }
        let learns = self.learns(now);
        // Nobody holds more than there is, whatever it says.
        let whole = self.terms.whole;
        let has = Part {
            capacity: report.has.capacity.min(whole.capacity),
            burst: report.has.burst.min(whole.burst),
        };
        let (epoch, slots, learns_until) = (self.epoch, self.terms.window_nanos.is_none(), self.learns_until);
        let chosen = self.holders.len() < self.terms.holders_max();
        let (lease_nanos, counted) = (self.timing.lease_nanos, self.timing.counted_nanos());
        let most = self.gone.remove(&holder).map_or(0, |gone| gone.most);
        let holding = self.holders.entry(holder).or_insert_with(|| Holding::new(chosen, most));
        let running = if slots { report.in_use.min(whole.capacity) } else { 0 };
        if report.epoch == epoch {
            holding.acknowledge(report.acknowledged);
        } else if learns {
            // It was lent by an earlier run, and goes on with it. All leases of that run are over by then.
            holding.claim(has, running, learns_until, lease_nanos);
        }
        let free = whole.without(self.lent.without(holding.may_use));
        holding.run(running, free.capacity);
        holding.sequence = report.sequence;
        holding.wants = report.wants;
        holding.expires = now.saturating_add(counted);
        self.recount(holder);
        let mut grants = self.rebalance(now, Some(holder));
        grants.extend(self.grant(holder, Some(report.sequence), now).map(|grant| (holder, grant)));
        grants
    }

    /// The limit is another from now on. What is too much is called back.
    pub fn change(&mut self, terms: Terms, now: u64) -> Vec<(u64, Grant)> {
        self.advance(now);
        self.terms = terms;
        self.pool.milli = self.pool.milli.min(terms.whole.burst.saturating_sub(self.lent.burst));
        self.reckoned_at = None;
        self.rebalance(now, None)
    }

    /// Time passes: leases end, and what nobody was lent fills up.
    fn advance(&mut self, now: u64) {
        self.fill(now);
        while let Some((at, holder)) = self.ends.first().copied()
            && at <= now
        {
            self.ends.pop_first();
            let Some(holding) = self.holders.get_mut(&holder) else { continue };
            holding.watched = None;
            if holding.expires <= now {
                self.forget(holder, now);
            } else {
                holding.lapse(now);
                self.recount(holder);
            }
        }
        if self.gone_until <= now {
            self.gone.retain(|_, gone| now < gone.until);
            self.gone_until = self.gone.values().map(|gone| gone.until).min().unwrap_or(u64::MAX);
        }
    }

    /// A holder is silent for longer than its lease lasts. Calls of it may still run.
    fn forget(&mut self, holder: u64, now: u64) {
        let most = self.holders.get(&holder).map_or(0, Holding::most);
        if self.terms.window_nanos.is_none() && most > 0 && self.gone.len() < GONE_MAX {
            let until = now.saturating_add(self.timing.lease_nanos.saturating_mul(GONE_LEASES));
            self.gone.insert(holder, Gone { most, until });
            self.gone_until = self.gone_until.min(until);
        }
        self.remove(holder);
    }

    fn remove(&mut self, holder: u64) {
        if let Some(holding) = self.holders.remove(&holder) {
            self.lent = self.lent.without(holding.may_use);
            if let Some(at) = holding.watched {
                self.ends.remove(&(at, holder));
            }
        }
    }

    fn fill(&mut self, now: u64) {
        // While an earlier run's leases may last, nobody knows what is free.
        let elapsed = now.saturating_sub(self.pool.at.max(self.learns_until));
        self.pool.at = self.pool.at.max(now);
        let Some(window) = self.terms.window_nanos.filter(|_| !self.learns(now)) else { return };
        let free = self.terms.whole.without(self.lent);
        let gained = u128::from(free.capacity) * u128::from(elapsed) + self.pool.rest;
        self.pool.rest = gained % u128::from(window.max(1));
        let gained = u64::try_from(gained / u128::from(window.max(1))).unwrap_or(u64::MAX);
        self.pool.milli = self.pool.milli.saturating_add(gained).min(free.burst);
    }

    /// What may be in use of a holder changed.
    fn recount(&mut self, holder: u64) {
        let Some(holding) = self.holders.get_mut(&holder) else { return };
        let after = holding.reckoned();
        let before = std::mem::replace(&mut holding.may_use, after);
        self.lent = self.lent.without(before).and(after);
        // What ends later than it did is looked at when it would have ended: most holders report long before.
        let next = holding.next_end();
        if holding.watched.is_none_or(|at| next < at) {
            if let Some(at) = holding.watched.replace(next) {
                self.ends.remove(&(at, holder));
            }
            self.ends.insert((next, holder));
        }
    }

    /// A new grant of what is due to a holder and free; as an answer always, else only if it is another than before.
    fn grant(&mut self, holder: u64, answers: Option<u64>, now: u64) -> Option<Grant> {
        let learns = self.learns(now);
        let holding = self.holders.get(&holder)?;
        // What answers nothing lasts as long as what was granted before: not at all, if that is over.
        if answers.is_none() && holding.answered_until() <= now {
            return None;
        }
        let before = holding.granted();
        if learns && before == Part::NOTHING {
            // A lease of nothing would be less than what holds without one.
            return None;
        }
        let free = self.terms.whole.without(self.lent.without(holding.may_use));
        let due = if learns { before } else { self.due(holding) };
        let part = self.whole_calls(due.least(free));
        if answers.is_none() && part == before {
            return None;
        }
        let more = part.burst.saturating_sub(holding.may_use.burst);
        let tokens = if learns { 0 } else { more.min(self.pool.milli) };
        let holding = self.holders.get_mut(&holder)?;
        self.number += 1;
        let number = self.number;
        let until = answers.map(|_| now.saturating_add(self.timing.counted_nanos()));
        holding.grant(number, part, until, self.timing.lease_nanos);
        self.recount(holder);
        self.pool.milli =
            (self.pool.milli - tokens).min(self.terms.whole.burst.saturating_sub(self.lent.burst));
        let known = self.holders.len().max(1) as u64;
        Some(Grant {
            epoch: self.epoch,
            number,
            answers,
            part,
            tokens,
            safe: self.terms.whole.capacity / known,
        })
    }

    /// Of calls at once, only whole ones are of use; and a flow is of none without a burst that lets one call pass.
    fn whole_calls(&self, part: Part) -> Part {
        match self.terms.window_nanos {
            None => Part { capacity: part.capacity / MILLI * MILLI, burst: 0 },
            Some(_) if part.burst < MILLI.min(self.terms.whole.burst) => Part::NOTHING,
            Some(_) => part,
        }
    }

    fn due(&self, holding: &Holding) -> Part {
        if !holding.chosen || holding.wants == 0 {
            return Part::NOTHING;
        }
        let whole = self.terms.whole;
        let most = self.level.most.saturating_add(if holding.has_more { MILLI } else { 0 });
        let capacity = holding.wants.min(most).saturating_add(self.level.extra).min(whole.capacity);
        if self.terms.window_nanos.is_none() {
            return Part { capacity: capacity.max(MILLI), burst: 0 };
        }
        // One call each, and the rest of the burst as the flow.
        let each = MILLI.min(whole.burst);
        let rest = whole.burst.saturating_sub(each.saturating_mul(self.level.among));
        let more = u128::from(rest) * u128::from(capacity) / u128::from(whole.capacity.max(1));
        Part { capacity, burst: each + u64::try_from(more).unwrap_or(rest) }
    }

    /// Reckons what everyone is due, and sends for what others have too much of, or too little.
    fn rebalance(&mut self, now: u64, but: Option<u64>) -> Vec<(u64, Grant)> {
        let every = self.timing.refresh_nanos / RECKONINGS;
        let lately = self.reckoned_at.is_some_and(|at| now < at.saturating_add(every));
        if self.learns(now) || (self.holders.len() > HOLDERS_FEW && lately) {
            return Vec::new();
        }
        self.reckoned_at = Some(now);
        self.choose(now);
        self.level = self.reckon();
        self.share_rest();
        let enough = |less: u64, more: u64| more > less && (less == 0 || more - less > less / 16);
        let (mut too_much, mut too_little) = (Vec::new(), Vec::new());
        for (id, holding) in self.holders.iter().filter(|(id, _)| Some(**id) != but) {
            let (due, has) = (self.due(holding), holding.granted());
            if enough(due.capacity, has.capacity) || enough(due.burst, has.burst) {
                too_much.push(*id);
            } else if enough(has.capacity, due.capacity) || enough(has.burst, due.burst) {
                too_little.push(*id);
            }
        }
        // First what is too much, so that it may be lent on once it is given back.
        let moved = too_much.into_iter().chain(too_little);
        moved.filter_map(|id| self.grant(id, None, now).map(|grant| (id, grant))).collect()
    }

    /// Where more want a share than there are whole calls to lend, they take turns.
    fn choose(&mut self, now: u64) {
        let wanting = self.holders.values().filter(|it| it.wants > 0).count();
        let max = self.terms.holders_max();
        let turn = usize::try_from(now / self.timing.lease_nanos.max(1)).unwrap_or(0);
        let first = if wanting > max { turn.wrapping_mul(max) % wanting } else { 0 };
        for (at, holding) in self.holders.values_mut().filter(|it| it.wants > 0).enumerate() {
            holding.chosen = (at + wanting - first) % wanting < max;
        }
    }

    /// The level up to which every want is met, by max-min fairness; what is left above all wants is shared evenly.
    fn reckon(&self) -> Level {
        let mut wants: Vec<u64> =
            self.holders.values().filter(|it| it.chosen && it.wants > 0).map(|it| it.wants).collect();
        wants.sort_unstable();
        let (among, mut left) = (wants.len() as u64, self.terms.whole.capacity);
        for (met, want) in wants.iter().enumerate() {
            let share = left / (wants.len() - met) as u64;
            if *want > share {
                if self.terms.window_nanos.is_some() {
                    return Level { most: share, extra: 0, among, more: 0 };
                }
                let (calls, sharers) = (left / MILLI, (wants.len() - met) as u64);
                return Level { most: calls / sharers * MILLI, extra: 0, among, more: calls % sharers };
            }
            left -= want;
        }
        Level { most: u64::MAX, extra: left / among.max(1), among, more: 0 }
    }

    fn share_rest(&mut self) {
        let Level { most, mut more, .. } = self.level;
        for holding in self.holders.values_mut() {
            holding.has_more = more > 0 && holding.chosen && holding.wants > most;
            more -= u64::from(holding.has_more);
        }
    }
}

#[cfg(test)]
mod tests;
