//! One count of a limit that is not simply counted here: what of it is held, and what was counted by it. Mesh-wide limits
//! are lent by the control plane; budgets of this sidecar by what it has written down.

use aws_lc_rs::digest;
use prost::Message as _;
use weft_proto::pb::weft::quota::v1 as pb;
use weft_proto::policy::quota::lease::{Grant, Holder, Loan, Part, Purse, Report, Terms, Timing, Told};
use weft_proto::policy::quota::{Again, Cost, Flow, Gauge, Limit, MILLI, Meter, Now, Verdict};
use weft_proto::resource::kinds::LimitScope;

use super::journal::Id;
use super::key::Key;

/// Longest value that is told as it is, in bytes; of longer ones, which callers choose, the beginning and a digest.
const VALUE_BYTES_MAX: usize = 1024;

/// Who lends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    ControlPlane,
    /// This sidecar, once it has written it down.
    Journal,
}

#[derive(Debug)]
pub(super) struct Leased {
    pub(super) by: By,
    held: Held,
    /// What is held allows.
    gauge: Gauge,
    key: pb::LimitKey,
    handle: u64,
    allowed: u64,
    denied: u64,
    cost_milli: u64,
    /// Given up, and not asked for since.
    released: bool,
}

#[derive(Debug)]
enum Held {
    /// A part of a rate or of calls at once.
    Share {
        holder: Holder,
        part: Part,
        fallback: bool,
    },
    Purse(Purse),
}

/// By whom a limit is lent; none if it is merely counted. Budgets are written down where there is a journal.
pub(super) const fn by(limit: &Limit, has_journal: bool) -> Option<By> {
    match (limit.scope, &limit.gauge) {
        (LimitScope::Mesh, _) => Some(By::ControlPlane),
        (LimitScope::Instance, Gauge::Budget { .. }) if has_journal => Some(By::Journal),
        (LimitScope::Instance, _) => None,
    }
}

/// What is shared of a rate or of calls at once.
fn terms(limit: &Limit) -> Option<Terms> {
    match &limit.gauge {
        Gauge::Rate(flow) => Some(Terms::rate(flow.amount_milli, flow.burst_milli, flow.window_nanos)),
        Gauge::Slots(calls) => Some(Terms::slots(*calls)),
        Gauge::Budget { .. } | Gauge::Lent { .. } => None,
    }
}

impl Leased {
    pub(super) fn new<'v>(
        limit: &Limit,
        by: By,
        key: Key,
        values: impl Iterator<Item = Option<&'v str>>,
        now: Now,
    ) -> Self {
        let (held, gauge) = match terms(limit) {
            Some(terms) => {
                let holder = Holder::new(terms, limit.when_unavailable, now.nanos);
                let share = holder.share(now.nanos);
                let held = Held::Share { holder, part: share.part, fallback: share.fallback };
                (held, gauge(terms, share.part))
            }
            None => {
                let purse = Purse::new(limit.gauge.limit_milli());
                let gauge = purse.gauge();
                (Held::Purse(purse), gauge)
            }
        };
        let parts = limit.per.iter().zip(values).map(|(dimension, value)| pb::KeyPart {
            dimension: dimension.to_string(),
            value: value.map(shortened),
        });
        let (policy, identity) = (limit.policy.to_string(), limit.identity.to_string());
        let key_told = pb::LimitKey { policy, limit: identity, parts: parts.collect() };
        let (allowed, denied, cost_milli, released) = (0, 0, 0, false);
        Self { by, held, gauge, key: key_told, handle: key.handle(), allowed, denied, cost_milli, released }
    }

    pub(super) const fn gauge(&self) -> &Gauge {
        &self.gauge
    }

    /// By which the journal knows it, in every run.
    pub(super) fn id(&self) -> Id {
        let digest = digest::digest(&digest::SHA256, &self.key.encode_to_vec());
        digest.as_ref().first_chunk().copied().unwrap_or_default()
    }

    /// How much may be used of it here: in each window, or in this one.
    pub(super) fn share_milli(&self) -> u64 {
        match &self.held {
            Held::Share { part, .. } => part.capacity,
            Held::Purse(purse) => purse.loan().map_or(0, |loan| loan.may),
        }
    }

    /// Whether it is decided by what holds without its lender.
    pub(super) const fn is_fallback(&self) -> bool {
        match &self.held {
            Held::Share { fallback, .. } => *fallback,
            Held::Purse(purse) => purse.loan().is_none(),
        }
    }

    /// Since when the lender did not confirm it, in nanoseconds. A budget is lent for good, until its window ends.
    pub(super) fn age(&self, now: Now) -> Option<u64> {
        match &self.held {
            Held::Share { holder, .. } => holder.age(now.nanos),
            Held::Purse(_) => None,
        }
    }

    pub(super) const fn is_released(&self) -> bool {
        self.released
    }

    /// Goes over to what holds now, with what came with it.
    pub(super) fn go_over(&mut self, meter: &mut Meter, tokens_milli: u64, now: Now) {
        let (holder, part, fallback) = match &mut self.held {
            Held::Share { holder, part, fallback } => (holder, part, fallback),
            Held::Purse(purse) => {
                self.gauge = purse.gauge();
                return;
            }
        };
        let share = holder.share(now.nanos);
        *fallback = share.fallback;
        if share.part == *part && tokens_milli == 0 {
            return;
        }
        let after = gauge(holder.terms(), share.part);
        if let (Gauge::Rate(old), Gauge::Rate(new), Meter::Bucket(bucket)) = (&self.gauge, &after, meter) {
            bucket.resize(*old, *new, tokens_milli, share.since.unwrap_or(now.nanos).min(now.nanos));
        }
        (*part, self.gauge) = (share.part, after);
    }

    pub(super) fn edited(&mut self, limit: &Limit, meter: &mut Meter, now: Now) {
        self.go_over(meter, 0, now);
        match (&mut self.held, terms(limit)) {
            (Held::Share { holder, .. }, Some(terms)) => holder.change(terms, limit.when_unavailable),
            (Held::Purse(purse), None) => purse.change(limit.gauge.limit_milli()),
            // A limit of another kind has another identity, and counts of its own.
            (Held::Share { .. } | Held::Purse(_), _) => {}
        }
        self.go_over(meter, 0, now);
    }

    /// A call was decided. True if the lender is to hear of it at once.
    pub(super) fn note(&mut self, cost: Cost, at_once: u32, verdict: Verdict) -> bool {
        let is_urgent = match &mut self.held {
            Held::Share { holder, .. } => {
                holder.note(cost.milli);
                holder.note_at_once(u64::from(at_once.saturating_add(cost.calls)) * MILLI);
                false
            }
            Held::Purse(purse) => match verdict {
                Verdict::Denied(Again::WhenLent) => purse.note_missing(cost.milli),
                // Somebody may give some back, which is no reason to ask all the time.
                Verdict::Denied(Again::After(_)) => {
                    purse.note_missing(cost.milli);
                    false
                }
                Verdict::Denied(Again::Never | Again::WhenOneEnds) => false,
                Verdict::Allowed | Verdict::Near => {
                    purse.note_spent(cost.milli);
                    false
                }
            },
        };
        match verdict {
            Verdict::Allowed | Verdict::Near => {
                self.allowed = self.allowed.saturating_add(u64::from(cost.calls));
                self.cost_milli = self.cost_milli.saturating_add(cost.milli);
            }
            // It waits, and is decided again.
            Verdict::Denied(Again::WhenLent) => {}
            Verdict::Denied(_) => self.denied = self.denied.saturating_add(u64::from(cost.calls)),
        }
        std::mem::take(&mut self.released) || is_urgent
    }

    /// What the journal is to hear of a budget. At the end of a run it is all that is not spent that is given back.
    pub(super) fn told(&mut self, sequence: u64, meter: &Meter, is_end: bool) -> Option<Told> {
        let Held::Purse(purse) = &mut self.held else { return None };
        if is_end {
            purse.give_up();
        }
        self.released = purse.is_idle(meter);
        let told = purse.report(sequence, meter);
        self.gauge = purse.gauge();
        Some(told)
    }

    /// What the control plane is to hear.
    pub(super) fn demand(
        &mut self,
        sequence: u64,
        meter: &mut Meter,
        timing: Timing,
        now: Now,
    ) -> pb::LeaseDemand {
        let mut demand = pb::LeaseDemand {
            handle: self.handle,
            key: Some(self.key.clone()),
            allowed_total: self.allowed,
            denied_total: self.denied,
            cost_milli_total: self.cost_milli,
            ..pb::LeaseDemand::default()
        };
        if let Held::Share { holder, .. } = &mut self.held {
            let in_use = match meter {
                Meter::Held(calls) => u64::from(*calls) * MILLI,
                Meter::Bucket(_) | Meter::Spent { .. } => 0,
            };
            let report = holder.report(sequence, in_use, timing, now.nanos);
            let Report { sequence: _, epoch, acknowledged, has, in_use, wants, release } = report;
            (demand.epoch, demand.number, demand.release) = (epoch, acknowledged, release);
            (demand.has_milli, demand.has_burst_milli) = (has.capacity, has.burst);
            (demand.wants_milli, demand.in_use_milli) = (wants, Some(in_use));
            self.released = release;
        } else if let Some(told) = self.told(sequence, meter, false) {
            let Told { sequence: _, ends, number, has, spent, wants, needs } = told;
            (demand.window_ends, demand.number, demand.has_milli) = (ends, number, has);
            (demand.spent_milli, demand.wants_milli, demand.needs_milli) = (spent, wants, needs);
            demand.release = self.released;
        }
        self.go_over(meter, 0, now);
        demand
    }

    /// True if this is less than before, which the control plane is to hear at once.
    pub(super) fn granted(
        &mut self,
        grant: Grant,
        asked_at: Option<u64>,
        meter: &mut Meter,
        timing: Timing,
        now: Now,
    ) -> bool {
        self.go_over(meter, 0, now);
        let Held::Share { holder, .. } = &mut self.held else { return false };
        let Some(less) = holder.grant(grant, asked_at, timing, now.nanos) else { return false };
        let in_force = !holder.share(now.nanos).fallback;
        self.go_over(meter, if in_force { grant.tokens } else { 0 }, now);
        less
    }

    /// Takes what was lent of a budget.
    pub(super) fn lent(&mut self, epoch: u64, loan: Loan) {
        if let Held::Purse(purse) = &mut self.held {
            purse.grant(epoch, loan);
            self.gauge = purse.gauge();
        }
    }
}

fn gauge(terms: Terms, part: Part) -> Gauge {
    match terms.window_nanos {
        Some(window_nanos) => {
            Gauge::Rate(Flow { amount_milli: part.capacity, burst_milli: part.burst, window_nanos })
        }
        None => Gauge::Slots(u32::try_from(part.capacity / MILLI).unwrap_or(u32::MAX)),
    }
}

fn shortened(value: &str) -> String {
    if value.len() <= VALUE_BYTES_MAX {
        return value.to_owned();
    }
    let digest = digest::digest(&digest::SHA256, value.as_bytes());
    let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}…{digest}", &value[..value.floor_char_boundary(VALUE_BYTES_MAX - digest.len() - 3)])
}
