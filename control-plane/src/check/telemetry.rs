//! Checks of records: audit trails, and what sidecars say they lost.

use std::time::SystemTime;

use weft_proto::compile::ServerEntry;
use weft_proto::resource::kinds::{Action, AuditDetail};

use super::said::{bytes, named, percent, span};
use super::{Facts, Verdict};
use crate::audit::Head;
use crate::auth::timestamp;
use crate::reports::{Grown, Report};

/// What was lost this long ago is not told any more.
const LATELY_SECS: i64 = 3600;
/// A trail that is written to is sealed every few seconds.
const UNSEALED_SECS_MAX: i64 = 900;
/// Lines that may wait to be shipped.
const UNSHIPPED_MAX: u64 = 10_000;
/// Hundredths of the room of the trails, and of their number.
const ROOM_PERCENT: u64 = 90;

pub(super) fn taken(facts: &Facts) -> Verdict {
    match facts.audit.refused {
        0 => Verdict::ok("every trail follows"),
        times => Verdict::failed(format!("{times} times since the control plane began")),
    }
}

pub(super) fn believed(facts: &Facts) -> Verdict {
    match facts.audit.unbelieved {
        0 => Verdict::ok("every seal was believed"),
        seals => Verdict::failed(format!("{seals} seals since the control plane began")),
    }
}

pub(super) fn sealed(facts: &Facts) -> Verdict {
    let open = |it: &&Head| {
        let idle = facts.now.as_second() - it.heard_at.as_second();
        it.last_line > it.sealed_line && idle > UNSEALED_SECS_MAX
    };
    let told = |it: &Head| format!("{} (the last {} lines)", it.node, it.last_line - it.sealed_line);
    match named(facts.audit.heads.iter().filter(open).map(told)) {
        Some(names) => Verdict::warning(names),
        None => Verdict::ok(format!("all {} trails", facts.audit.heads.len())),
    }
}

pub(super) fn room(facts: &Facts) -> Verdict {
    let detail = format!("{} of {}", bytes(facts.audit.bytes), bytes(facts.audit.bytes_max));
    match percent(facts.audit.bytes, facts.audit.bytes_max) {
        it if it >= ROOM_PERCENT => Verdict::warning(detail),
        _ => Verdict::ok(detail),
    }
}

pub(super) fn number(facts: &Facts) -> Verdict {
    let (trails, max) = (facts.audit.heads.len() as u64, facts.audit.trails_max);
    let detail = format!("{trails} of {max}");
    if percent(trails, max) >= ROOM_PERCENT { Verdict::warning(detail) } else { Verdict::ok(detail) }
}

pub(super) fn recorded(facts: &Facts) -> Verdict {
    lost(facts, |grown| grown.audit_dropped, |report| report.losses.audit_dropped, "calls")
}

pub(super) fn written(facts: &Facts) -> Verdict {
    lost(facts, |grown| grown.audit_failures, |report| report.losses.audit_failures, "failures")
}

pub(super) fn spans(facts: &Facts) -> Verdict {
    lost(facts, |grown| grown.spans_dropped, |report| report.losses.spans_dropped, "spans")
}

pub(super) fn shipped(facts: &Facts) -> Verdict {
    let lags = facts.sidecars.iter().filter_map(|it| {
        let lines = it.report.as_ref()?.losses.audit_unshipped;
        (lines > UNSHIPPED_MAX).then(|| format!("{} ({lines} lines)", it.node))
    });
    match named(lags) {
        Some(names) => Verdict::warning(names),
        None => Verdict::ok("every trail is nearly here"),
    }
}

fn lost(
    facts: &Facts,
    when: fn(&Grown) -> Option<SystemTime>,
    how_many: fn(&Report) -> u64,
    what: &str,
) -> Verdict {
    let lately = facts.sidecars.iter().filter_map(|it| {
        let report = it.report.as_ref()?;
        let secs = facts.now.as_second() - timestamp(when(&report.grown)?).as_second();
        let told = || {
            format!("{} ({} {what} since it began, the last {} ago)", it.node, how_many(report), span(secs))
        };
        (secs <= LATELY_SECS).then(told)
    });
    match named(lately) {
        Some(names) => Verdict::warning(names),
        None => Verdict::ok(format!("nothing within {}", span(LATELY_SECS))),
    }
}

/// Servers of which calls are marked and nothing is kept.
pub(super) fn silenced(facts: &Facts) -> Verdict {
    let snapshot = &facts.objects.snapshot;
    let root = snapshot.root_namespace();
    let is_silent = |entry: &ServerEntry| {
        let enforced = entry.access.iter().filter(|policy| !policy.spec.shadow);
        let marks = enforced
            .filter(|policy| policy.meta.namespace != root)
            .any(|policy| policy.spec.rules.iter().any(|rule| rule.action == Action::Audit));
        marks && entry.audit_detail(&root, false) == AuditDetail::None
    };
    match named(snapshot.servers.iter().filter(|(_, entry)| is_silent(entry)).map(|(name, _)| name)) {
        Some(names) => Verdict::warning(names),
        None => Verdict::ok("what is marked is recorded"),
    }
}
