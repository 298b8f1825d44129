//! Checks of the control plane itself.

use weft_proto::resource::Key;

use super::said::{bytes, named, percent, span};
use super::{Facts, Verdict};
use crate::auth::{Key as ApiKey, Scope};
use crate::store::limits::STATE_BYTES_MAX;

/// Hundredths of the largest state that objects may take before it is told, and before it fails.
const STATE_PERCENT: (u64, u64) = (50, 90);
/// Hundredths of the disk that should be free, and that must be; of a large disk less will do.
const FREE_PERCENT: (u64, u64) = (10, 2);
const FREE_BYTES: (u64, u64) = (4 << 30, 512 << 20);
/// Signing requests that may wait.
const QUEUE_MAX: u64 = 100;
/// An admin key should be good for longer than this.
const KEY_SECS_MIN: i64 = 14 * 86_400;

pub(super) fn published(facts: &Facts) -> Verdict {
    let (changed, published) = (facts.revisions.changed, facts.revisions.published);
    match changed <= published {
        true => Verdict::ok(format!("{published}, with every change up to {changed}")),
        false => Verdict::failed(format!("the newest change is {changed}, but {published} is published")),
    }
}

pub(super) fn readable(facts: &Facts) -> Verdict {
    let objects = facts.objects.present.objects();
    let unread = objects.iter().filter(|(_, object)| object.resource.is_err());
    match named(unread.map(|(key, _): (&Key, _)| key)) {
        Some(names) => Verdict::failed(format!("cannot be read: {names}")),
        None => Verdict::ok(format!("all {}", objects.len())),
    }
}

pub(super) fn size(facts: &Facts) -> Verdict {
    let objects = facts.objects.present.objects();
    let sum: usize = objects.iter().map(|(key, object)| key.to_string().len() + object.value.len()).sum();
    let (sum, max) = (sum as u64, STATE_BYTES_MAX as u64);
    let detail = format!("{} of at most {}", bytes(sum), bytes(max));
    match percent(sum, max) {
        it if it >= STATE_PERCENT.1 => Verdict::failed(detail),
        it if it >= STATE_PERCENT.0 => Verdict::warning(detail),
        _ => Verdict::ok(detail),
    }
}

pub(super) fn disk(facts: &Facts) -> Verdict {
    let Some(disk) = facts.disk else {
        return Verdict::skipped("the system does not say how much room the data folder has");
    };
    let detail = format!("{} of {} are free", bytes(disk.bytes_free), bytes(disk.bytes_total));
    let free = percent(disk.bytes_free, disk.bytes_total);
    match disk.bytes_free {
        bytes if free < FREE_PERCENT.1 && bytes < FREE_BYTES.1 => Verdict::failed(detail),
        bytes if free < FREE_PERCENT.0 && bytes < FREE_BYTES.0 => Verdict::warning(detail),
        _ => Verdict::ok(detail),
    }
}

pub(super) fn signing(facts: &Facts) -> Verdict {
    let detail = format!("{} requests wait", facts.signing_queue);
    if facts.signing_queue > QUEUE_MAX { Verdict::warning(detail) } else { Verdict::ok(detail) }
}

pub(super) fn panics(facts: &Facts) -> Verdict {
    match facts.panics {
        0 => Verdict::ok("none since it began"),
        some => Verdict::failed(format!("{some} since it began")),
    }
}

pub(super) fn admin_keys(facts: &Facts) -> Verdict {
    let left = |key: &ApiKey| key.expires_at.map_or(i64::MAX, |at| at.as_second() - facts.now.as_second());
    let admins = facts.keys.iter().filter(|key| key.scope == Scope::Admin);
    match admins.map(left).filter(|secs| *secs > 0).max() {
        None => Verdict::failed("there is none"),
        Some(i64::MAX) => Verdict::ok("there is one without an end"),
        Some(secs) if secs < KEY_SECS_MIN => Verdict::warning(format!("the last one ends in {}", span(secs))),
        Some(secs) => Verdict::ok(format!("the last one ends in {}", span(secs))),
    }
}
