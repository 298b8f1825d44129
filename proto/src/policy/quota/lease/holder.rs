//! What a sidecar holds of one limit, and what it decides by when it holds nothing.

use super::super::MILLI;
use super::{Grant, Part, Report, Terms, Timing};
use crate::resource::kinds::WhenUnavailable;

/// What a flow allows at least, where nobody said what is safe: one call, and a hundredth of the limit.
const SAFE_PART: u64 = 100;
/// Reports without a call after which a limit is held no more.
const IDLE_REPORTS: u32 = 3;

/// The borrower of one limit.
#[derive(Clone, Debug)]
pub struct Holder {
    terms: Terms,
    when_unavailable: WhenUnavailable,
    lease: Option<Lease>,
    safe: Option<u64>,
    /// The report with which it was given up last: answers to this one and those before are no leases.
    released: u64,
    asked: Asked,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    epoch: u64,
    number: u64,
    part: Part,
    /// When that was asked for which granted it, or made it longer.
    asked: u64,
    expires: u64,
}

/// What was asked for, from which follows what is wanted.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    since: u64,
    /// Since then, for a rate.
    milli: u64,
    /// At most at once since then, for calls at once.
    peak: u64,
    wanted: u64,
    idle: u32,
    reported: bool,
}

/// What may be used now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub part: Part,
    /// Since when it is so, if that is known: what ends does so at its time, not when somebody looks.
    pub since: Option<u64>,
    /// Whether there is no lease, and this is what holds without one.
    pub fallback: bool,
}

impl Holder {
    pub fn new(terms: Terms, when_unavailable: WhenUnavailable, now: u64) -> Self {
        let asked = Asked { since: now, ..Asked::default() };
        Self { terms, when_unavailable, lease: None, safe: None, released: 0, asked }
    }

    /// The limit is another from now on. What is held stays until its lender says otherwise, and never exceeds the limit.
    pub fn change(&mut self, terms: Terms, when_unavailable: WhenUnavailable) {
        self.terms = terms;
        self.when_unavailable = when_unavailable;
    }

    pub fn share(&self, now: u64) -> Share {
        let Some(lease) = self.lease else {
            return Share { part: self.without_lease(), since: None, fallback: true };
        };
        let part = lease.part.least(self.terms.whole);
        if now < lease.expires {
            return Share { part, since: None, fallback: false };
        }
        match self.when_unavailable {
            WhenUnavailable::Reuse(span) => {
                let until = lease.expires.saturating_add(span.as_millis().saturating_mul(1_000_000));
                match now < until {
                    true => Share { part, since: None, fallback: true },
                    false => Share { part: Part::NOTHING, since: Some(until), fallback: true },
                }
            }
            WhenUnavailable::Floor(_) | WhenUnavailable::Deny => {
                Share { part: self.without_lease(), since: Some(lease.expires), fallback: true }
            }
        }
    }

    /// What holds without a lease. Never everything.
    fn without_lease(&self) -> Part {
        let WhenUnavailable::Floor(floor) = self.when_unavailable else { return Part::NOTHING };
        let whole = self.terms.whole;
        let told = floor.as_ref().map(|floor| u64::from(floor.get()) * MILLI);
        let capacity =
            told.or(self.safe).unwrap_or_else(|| (whole.capacity / SAFE_PART).max(MILLI)).min(whole.capacity);
        if self.terms.window_nanos.is_none() {
            return Part { capacity: capacity / MILLI * MILLI, burst: 0 };
        }
        if capacity == 0 {
            return Part::NOTHING;
        }
        let burst = u128::from(whole.burst) * u128::from(capacity) / u128::from(whole.capacity.max(1));
        let burst = u64::try_from(burst).unwrap_or(whole.burst).max(MILLI).min(whole.burst);
        Part { capacity, burst }
    }

    /// A call was decided, whatever was decided.
    pub fn note(&mut self, cost_milli: u64) {
        self.asked.milli = self.asked.milli.saturating_add(cost_milli);
    }

    /// So many calls run, or would.
    pub fn note_at_once(&mut self, calls_milli: u64) {
        self.asked.peak = self.asked.peak.max(calls_milli);
    }

    /// Whether its lender does not know of it yet, so that it is to ask at once.
    pub fn is_new(&self) -> bool {
        !self.asked.reported
    }

    /// What there is to report. `in_use` are calls that run, in thousandths.
    pub fn report(&mut self, sequence: u64, in_use: u64, timing: Timing, now: u64) -> Report {
        let wants = self.wants(timing, now);
        let (epoch, number) = self.lease.map_or((0, 0), |lease| (lease.epoch, lease.number));
        let has = match self.lease {
            Some(lease) if now < lease.expires => lease.part,
            Some(_) | None => Part::NOTHING,
        };
        let release = self.asked.idle > IDLE_REPORTS && in_use == 0;
        if release {
            self.lease = None;
            self.released = sequence;
            self.asked = Asked { since: now, ..Asked::default() };
        }
        Report { sequence, epoch, acknowledged: number, has, in_use, wants, release }
    }

    /// The rate at which calls come; for calls at once, the most of them.
    fn wants(&mut self, timing: Timing, now: u64) -> u64 {
        let asked = &mut self.asked;
        let elapsed = now.saturating_sub(asked.since);
        // Reports out of turn, which merely acknowledge, say nothing about the demand.
        if asked.reported && elapsed < timing.refresh_nanos / 2 {
            return asked.wanted;
        }
        let found = match self.terms.window_nanos {
            Some(window) => {
                let over = elapsed.max(timing.refresh_nanos / 2).max(1);
                let rate = u128::from(asked.milli) * u128::from(window) / u128::from(over);
                u64::try_from(rate).unwrap_or(u64::MAX).max(asked.milli.min(MILLI))
            }
            None => asked.peak,
        };
        asked.idle = if found == 0 { asked.idle.saturating_add(1) } else { 0 };
        // Smoothed, for what comes by chance is what a burst is for; but much more than before is believed at once.
        let smoothed = (asked.wanted / 4 * 3).saturating_add(found / 4);
        let noise = asked.wanted.max(self.terms.whole.capacity / 16);
        let slots = self.terms.window_nanos.is_none();
        // The most at once is counted and no guess at a rate; and what is less than a whole call nobody can use.
        let jumps =
            asked.wanted == 0 || found.saturating_sub(asked.wanted) > noise || slots && found > asked.wanted;
        asked.wanted = if jumps { found } else { smoothed };
        if slots {
            asked.wanted -= asked.wanted % MILLI;
        }
        asked.wanted = asked.wanted.min(self.terms.whole.capacity);
        if asked.wanted < MILLI && found == 0 {
            asked.wanted = 0;
        }
        (asked.milli, asked.peak, asked.since, asked.reported) = (0, 0, now, true);
        asked.wanted
    }

    /// Takes what was granted. `asked_at` is when the report was sent that it answers, if it answers one. True if this
    /// is less than before, which the lender is to hear soon; none if the grant is old.
    pub fn grant(&mut self, grant: Grant, asked_at: Option<u64>, timing: Timing, now: u64) -> Option<bool> {
        let before = self.lease;
        let is_old = before.is_some_and(|lease| lease.epoch == grant.epoch && grant.number <= lease.number);
        if is_old || grant.answers.is_some_and(|sequence| sequence <= self.released) {
            return None;
        }
        let (asked, expires) = match (asked_at, before) {
            (Some(asked), _) => (asked, asked.saturating_add(timing.lease_nanos)),
            // One that answers nothing makes nothing longer.
            (None, Some(lease)) if lease.epoch == grant.epoch => (lease.asked, lease.expires),
            (None, Some(_) | None) => return None,
        };
        self.safe = Some(grant.safe);
        self.lease =
            Some(Lease { epoch: grant.epoch, number: grant.number, part: grant.part, asked, expires });
        let held = before.filter(|lease| now < lease.expires).map_or(Part::NOTHING, |lease| lease.part);
        Some(grant.part.capacity < held.capacity || grant.part.burst < held.burst)
    }

    /// How long it is until the lease ends, or since it did.
    pub fn expires(&self) -> Option<u64> {
        self.lease.map(|lease| lease.expires)
    }

    /// Since when nobody confirmed the lease, in force or ended; none where there is none.
    pub fn age(&self, now: u64) -> Option<u64> {
        self.lease.map(|lease| now.saturating_sub(lease.asked))
    }

    pub const fn terms(&self) -> Terms {
        self.terms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const TIMING: Timing =
        Timing { lease_nanos: 10 * SECOND, refresh_nanos: SECOND, drift_per_million: 10_000 };

    #[test]
    fn of_calls_at_once_whole_ones_are_wanted_as_soon_as_there_are_more_and_soon_no_more_than_there_are() {
        let mut holder = Holder::new(Terms::slots(100), WhenUnavailable::Deny, 0);
        let mut now = 0;
        let mut wants = |calls: u64| {
            now += SECOND;
            holder.note_at_once(calls * MILLI);
            holder.report(now, 0, TIMING, now).wants
        };
        let found: Vec<u64> = [2, 3, 4, 4, 3, 3, 1, 1].map(&mut wants).into();
        assert_eq!(found, [2, 3, 4, 4, 3, 3, 2, 1].map(|calls| calls * MILLI));
    }
}
