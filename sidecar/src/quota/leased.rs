//! One count of a mesh-wide limit: what of the limit is held here, and what was counted by it.

use aws_lc_rs::digest;
use weft_proto::pb::weft::quota::v1 as pb;
use weft_proto::policy::quota::lease::{Grant, Holder, Part, Report, Terms, Timing};
use weft_proto::policy::quota::{Cost, Flow, Gauge, Limit, MILLI, Meter, Now};
use weft_proto::resource::kinds::LimitScope;

use super::table::Key;

/// Longest value that is told as it is, in bytes; of longer ones, which callers choose, the beginning and a digest.
const VALUE_BYTES_MAX: usize = 1024;

#[derive(Debug)]
pub(super) struct Leased {
    holder: Holder,
    share: Part,
    fallback: bool,
    /// What the share allows.
    gauge: Gauge,
    key: pb::LimitKey,
    handle: u64,
    allowed: u64,
    denied: u64,
    cost_milli: u64,
    /// Given up, and not asked for since.
    released: bool,
}

/// What is shared of a limit; none if it is not shared, or not in this way.
pub(super) fn terms(limit: &Limit) -> Option<Terms> {
    match (limit.scope, &limit.gauge) {
        (LimitScope::Mesh, Gauge::Rate(flow)) => {
            Some(Terms::rate(flow.amount_milli, flow.burst_milli, flow.window_nanos))
        }
        (LimitScope::Mesh, Gauge::Slots(calls)) => Some(Terms::slots(*calls)),
        (LimitScope::Mesh, Gauge::Budget { .. }) | (LimitScope::Instance, _) => None,
    }
}

impl Leased {
    pub(super) fn new<'v>(
        limit: &Limit,
        key: Key,
        values: impl Iterator<Item = Option<&'v str>>,
        now: Now,
    ) -> Option<Self> {
        let terms = terms(limit)?;
        let holder = Holder::new(terms, limit.when_unavailable, now.nanos);
        let share = holder.share(now.nanos);
        let parts = limit.per.iter().zip(values).map(|(dimension, value)| pb::KeyPart {
            dimension: dimension.to_string(),
            value: value.map(shortened),
        });
        Some(Self {
            gauge: gauge(terms, share.part),
            share: share.part,
            fallback: share.fallback,
            holder,
            key: pb::LimitKey {
                policy: limit.policy.to_string(),
                limit: limit.identity.to_string(),
                parts: parts.collect(),
            },
            handle: key.low(),
            allowed: 0,
            denied: 0,
            cost_milli: 0,
            released: false,
        })
    }

    pub(super) const fn gauge(&self) -> &Gauge {
        &self.gauge
    }

    pub(super) const fn share(&self) -> Part {
        self.share
    }

    pub(super) const fn is_fallback(&self) -> bool {
        self.fallback
    }

    pub(super) const fn is_released(&self) -> bool {
        self.released
    }

    /// Goes over to what holds now, with what came with it.
    pub(super) fn go_over(&mut self, meter: &mut Meter, tokens_milli: u64, now: Now) {
        let share = self.holder.share(now.nanos);
        self.fallback = share.fallback;
        if share.part == self.share && tokens_milli == 0 {
            return;
        }
        let after = gauge(self.holder.terms(), share.part);
        if let (Gauge::Rate(old), Gauge::Rate(new), Meter::Bucket(bucket)) = (&self.gauge, &after, meter) {
            bucket.resize(*old, *new, tokens_milli, share.since.unwrap_or(now.nanos).min(now.nanos));
        }
        (self.share, self.gauge) = (share.part, after);
    }

    pub(super) fn edited(&mut self, limit: &Limit, meter: &mut Meter, now: Now) {
        self.go_over(meter, 0, now);
        if let Some(terms) = terms(limit) {
            self.holder.change(terms, limit.when_unavailable);
            self.go_over(meter, 0, now);
        }
    }

    /// A call was decided. True if the control plane is to hear of it at once.
    pub(super) fn note(&mut self, cost: Cost, held: u32, passed: bool) -> bool {
        self.holder.note(cost.milli);
        self.holder.note_at_once(u64::from(held.saturating_add(cost.calls)) * MILLI);
        if passed {
            self.allowed = self.allowed.saturating_add(u64::from(cost.calls));
            self.cost_milli = self.cost_milli.saturating_add(cost.milli);
        } else {
            self.denied = self.denied.saturating_add(u64::from(cost.calls));
        }
        let asks = self.released;
        self.released = false;
        asks
    }

    pub(super) fn demand(
        &mut self,
        sequence: u64,
        meter: &mut Meter,
        timing: Timing,
        now: Now,
    ) -> pb::LeaseDemand {
        let in_use = match meter {
            Meter::Held(calls) => u64::from(*calls) * MILLI,
            Meter::Bucket(_) | Meter::Spent { .. } => 0,
        };
        let report = self.holder.report(sequence, in_use, timing, now.nanos);
        self.released = report.release;
        self.go_over(meter, 0, now);
        let Report { sequence: _, epoch, acknowledged, has, in_use, wants, release } = report;
        pb::LeaseDemand {
            handle: self.handle,
            key: Some(self.key.clone()),
            has_milli: has.capacity,
            has_burst_milli: has.burst,
            wants_milli: wants,
            allowed_total: self.allowed,
            denied_total: self.denied,
            cost_milli_total: self.cost_milli,
            epoch,
            number: acknowledged,
            release,
            in_use_milli: Some(in_use),
        }
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
        let Some(less) = self.holder.grant(grant, asked_at, timing, now.nanos) else { return false };
        let in_force = !self.holder.share(now.nanos).fallback;
        self.go_over(meter, if in_force { grant.tokens } else { 0 }, now);
        less
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
