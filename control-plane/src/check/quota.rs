//! Checks of limits: those near their end, and those that hold otherwise than somebody may think.

use std::collections::BTreeSet;

use weft_proto::policy::quota::Plan;
use weft_proto::resource::kinds::{Dimension, LimitScope, WhenUnavailable};

use super::said::{named, percent};
use super::{Facts, Verdict, policy};
use crate::quota::Standing;

/// Hundredths of a budget, or of a limit, from which on it is told.
const USED_PERCENT: u64 = 90;
/// Hundredths of the room for counts.
const KEYS_PERCENT: u64 = 90;

pub(super) fn budgets(facts: &Facts) -> Verdict {
    used(facts, true, "no budget is near its end")
}

pub(super) fn rates(facts: &Facts) -> Verdict {
    used(facts, false, "no limit is near its end")
}

fn used(facts: &Facts, of_budgets: bool, ok: &str) -> Verdict {
    let share = |it: &Standing| percent(it.used_milli, it.whole.capacity);
    let near = facts.limits.iter().filter(|it| it.is_budget == of_budgets && share(it) >= USED_PERCENT);
    match named(near.map(|it| format!("{} ({} % of {} used)", called(it), share(it), it.amount))) {
        Some(names) => Verdict::warning(names),
        None => Verdict::ok(ok),
    }
}

pub(super) fn overdue(facts: &Facts) -> Verdict {
    let held = facts.limits.iter().filter(|it| it.overdue > 0);
    match named(held.map(|it| format!("{} ({} sidecars)", called(it), it.overdue))) {
        Some(names) => Verdict::warning(names),
        None => Verdict::ok("whoever holds a share reports"),
    }
}

pub(super) fn learning(facts: &Facts) -> Verdict {
    let learns = facts.limits.iter().filter(|it| it.learns);
    match named(learns.map(called)) {
        Some(names) => Verdict::warning(names),
        None => Verdict::ok("everything that is wanted can be lent"),
    }
}

pub(super) fn fallback(facts: &Facts) -> Verdict {
    let plans = facts.objects.snapshot.servers.values().map(|entry| Plan::new(&entry.quotas));
    let mut without = BTreeSet::new();
    for plan in plans {
        let limits = plan.limits().iter().filter(|it| it.scope == LimitScope::Mesh && !it.shadow);
        let refuse = limits.filter(|it| match it.when_unavailable {
            WhenUnavailable::Deny => true,
            WhenUnavailable::Floor(Some(floor)) => floor.get() == 0,
            WhenUnavailable::Floor(None) | WhenUnavailable::Reuse(_) => false,
        });
        without.extend(refuse.map(|it| format!("{}#{}", it.policy, it.name)));
    }
    match named(without) {
        Some(names) => Verdict::warning(names),
        None => Verdict::ok("without the control plane every limit lets something pass"),
    }
}

pub(super) fn claims(facts: &Facts) -> Verdict {
    if policy::has_gateways(facts) {
        return Verdict::ok("those for whom gateways call have claims");
    }
    let plans = facts.objects.snapshot.servers.values().map(|entry| Plan::new(&entry.quotas));
    let mut split = BTreeSet::new();
    for plan in plans {
        let by_claim = |it: &Dimension| matches!(it, Dimension::Claim(_));
        let limits = plan.limits().iter().filter(|it| it.per.iter().any(by_claim));
        split.extend(limits.map(|it| format!("{}#{}", it.policy, it.name)));
    }
    match named(split) {
        Some(names) => Verdict::warning(names),
        None => Verdict::ok("every limit is split by what callers have"),
    }
}

pub(super) fn room(facts: &Facts) -> Verdict {
    let (keys, max) = (facts.leases.keys, facts.leases.keys_max);
    let detail = format!("{keys} of {max} counts");
    match percent(keys as u64, max as u64) {
        it if it >= KEYS_PERCENT => Verdict::warning(detail),
        _ => Verdict::ok(detail),
    }
}

fn called(it: &Standing) -> String {
    let parts = it
        .parts
        .iter()
        .map(|(dimension, value)| format!("{dimension}={}", value.as_deref().unwrap_or("none")));
    let parts: Vec<_> = parts.collect();
    let of = if parts.is_empty() { String::new() } else { format!(" {}", parts.join(" ")) };
    format!("{}#{}{of}", it.policy, it.limit)
}
