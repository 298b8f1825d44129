//! Checks of the sidecars, and of what they say of themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use weft_proto::name::ServerName;
use weft_proto::resource::kinds::Location;
use weft_proto::resource::units::Span;

use super::said::{bytes, named, percent, span, versions_fit};
use super::{Facts, Verdict};
use crate::api::trust::RotationStep;
use crate::auth::timestamp;
use crate::reports::{Health, Report};
use crate::xds::{ClientStatus, Sync};

/// A certificate should be renewed long before as little as this is left, or a quarter of its life, if that is less.
const CERTIFICATE_SECS_MIN: i64 = 3600;
/// Clocks that are further apart than this make certificates look as if they were not good yet.
const CLOCK_MS_MAX: u64 = 10_000;
/// Hundredths of the disk that should be free; of a large disk less will do.
const FREE_PERCENT_MIN: u64 = 10;
const FREE_BYTES_MIN: u64 = 1 << 30;
/// A sidecar that is new may not have reported yet.
const REPORT_SECS_MAX: i64 = 60;

pub(super) fn connected(facts: &Facts) -> Verdict {
    if facts.sidecars.is_empty() {
        return Verdict::warning("no sidecar has connected");
    }
    some(facts, |it| (!it.connected).then(|| it.node.to_string()), Verdict::failed, "disconnected")
}

pub(super) fn synced(facts: &Facts) -> Verdict {
    let behind = |it: &ClientStatus| it.connected && it.sync() == Sync::Waiting;
    some(facts, |it| behind(it).then(|| it.node.to_string()), Verdict::warning, "behind")
}

pub(super) fn accepted(facts: &Facts) -> Verdict {
    let nack = |it: &ClientStatus| {
        let (ty, status) = it.types.iter().find(|(_, status)| status.nack.is_some())?;
        let why = status.nack.as_ref().map(|nack| nack.message.clone()).unwrap_or_default();
        Some(format!("{} ({}: {why})", it.node, ty.name()))
    };
    some(facts, nack, Verdict::failed, "refused")
}

pub(super) fn certificates(facts: &Facts) -> Verdict {
    let lifetime = Span::parse(&facts.trust.svid_lifetime).map_or(i64::MAX, |it| secs(it.duration()));
    let soon = CERTIFICATE_SECS_MIN.min(lifetime / 4);
    let left = |it: &ClientStatus| timestamp(it.certificate_expires).as_second() - facts.now.as_second();
    let of = |from: i64, to: i64| {
        let within =
            facts.sidecars.iter().filter(move |it| it.connected && left(it) > from && left(it) <= to);
        named(within.map(|it| &it.node))
    };
    match (of(i64::MIN, 0), of(0, soon)) {
        (Some(names), _) => Verdict::failed(format!("expired: {names}")),
        (None, Some(names)) => Verdict::warning(format!("end within {}: {names}", span(soon))),
        (None, None) => Verdict::ok("all are good"),
    }
}

pub(super) fn roots(facts: &Facts) -> Verdict {
    let known: BTreeMap<&str, bool> =
        facts.trust.roots.iter().map(|root| (&*root.fingerprint, root.issuing)).collect();
    let connected = || facts.sidecars.iter().filter(|it| it.connected);
    let unknown = connected().filter(|it| !known.contains_key(&*it.certificate_root));
    if let Some(names) = named(unknown.map(|it| &it.node)) {
        return Verdict::failed(format!("under a root that is not trusted: {names}"));
    }
    let is_over = facts.trust.rotation.step == RotationStep::Stable;
    let old = connected().filter(|it| is_over && known.get(&*it.certificate_root) == Some(&false));
    match named(old.map(|it| &it.node)) {
        Some(names) => Verdict::warning(format!("under a root that issues no more: {names}")),
        None => Verdict::ok("all are under roots that are trusted"),
    }
}

pub(super) fn versions(facts: &Facts) -> Verdict {
    let unfit = |it: &ClientStatus| {
        let differs = it.connected && !versions_fit(&it.version, facts.version);
        differs.then(|| format!("{} ({})", it.node, it.version))
    };
    some(facts, unfit, Verdict::warning, &format!("with a control plane of {}", facts.version))
}

pub(super) fn reports(facts: &Facts) -> Verdict {
    let silent = |it: &ClientStatus| {
        let since = facts.now.as_second() - timestamp(it.connected_at).as_second();
        (it.connected && it.report.is_none() && since > REPORT_SECS_MAX).then(|| it.node.to_string())
    };
    some(facts, silent, Verdict::warning, "say nothing of themselves")
}

pub(super) fn health(facts: &Facts) -> Verdict {
    let ill = facts.sidecars.iter().flat_map(|it| {
        let servers = it.report.iter().flat_map(|report| &report.servers);
        let ill = servers.filter(|(_, served)| served.health != Health::Serving);
        ill.map(|(server, served)| {
            let why = if served.detail.is_empty() { String::new() } else { format!(": {}", served.detail) };
            format!("{server} at {} ({}{why})", it.node, served.health.word())
        })
    });
    match named(ill) {
        Some(names) => Verdict::warning(names),
        None => Verdict::ok("all that report serve"),
    }
}

pub(super) fn exposure(facts: &Facts) -> Verdict {
    let exposed = facts.sidecars.iter().filter(|it| it.connected).flat_map(|it| {
        let servers = it.report.iter().flat_map(|report| &report.servers);
        let exposed = servers.filter(|(_, served)| !served.exposed_at.is_empty());
        exposed.map(|(server, served)| {
            let at: Vec<_> = served.exposed_at.iter().map(ToString::to_string).collect();
            format!("{server} at {} ({})", it.node, at.join(", "))
        })
    });
    named(exposed).map_or_else(|| Verdict::ok("none of which it is known"), Verdict::failed)
}

pub(super) fn addresses(facts: &Facts) -> Verdict {
    let unreachable = |it: &ClientStatus| {
        let report = it.report.as_ref()?;
        (!it.serves.is_empty() && report.inbound_address.is_none()).then(|| it.node.to_string())
    };
    some(facts, unreachable, Verdict::failed, "stand beside servers, and take no calls")
}

pub(super) fn clocks(facts: &Facts) -> Verdict {
    let off = |report: &Report| apart(report.clock?, report.at);
    let wrong = |it: &ClientStatus| {
        let (sign, apart) = off(it.report.as_ref()?)?;
        let millis = u64::try_from(apart.as_millis()).unwrap_or(u64::MAX);
        (millis > CLOCK_MS_MAX).then(|| format!("{} ({sign}{})", it.node, span(secs(apart))))
    };
    let tells = |it: &ClientStatus| it.report.as_ref().is_some_and(|report| report.clock.is_some());
    match facts.sidecars.is_empty() || facts.sidecars.iter().any(tells) {
        true => some(facts, wrong, Verdict::warning, "off"),
        false => Verdict::skipped("no sidecar tells its time"),
    }
}

pub(super) fn rooms(facts: &Facts) -> Verdict {
    let full = |it: &ClientStatus| {
        let (free, total) = it.report.as_ref()?.room?;
        let is_full = percent(free, total) < FREE_PERCENT_MIN && free < FREE_BYTES_MIN;
        is_full.then(|| format!("{} ({} of {} free)", it.node, bytes(free), bytes(total)))
    };
    some(facts, full, Verdict::warning, "nearly full")
}

pub(super) fn names(facts: &Facts) -> Verdict {
    let mut identities = BTreeMap::<_, BTreeSet<_>>::new();
    for it in facts.sidecars.iter().filter(|it| it.connected) {
        identities.entry(&it.node).or_default().insert(&it.identity);
    }
    match named(identities.iter().filter(|(_, held)| held.len() > 1).map(|(node, _)| node)) {
        Some(names) => Verdict::warning(format!("held by several identities: {names}")),
        None => Verdict::ok("each is held by one identity"),
    }
}

pub(super) fn known_servers(facts: &Facts) -> Verdict {
    let connected = facts.sidecars.iter().filter(|it| it.connected);
    let unknown = connected.flat_map(|it| {
        let unknown = it.serves.iter().filter(|server| facts.objects.snapshot.server(server).is_none());
        unknown.map(|server| format!("{server} ({})", it.node))
    });
    match named(unknown) {
        Some(names) => Verdict::warning(format!("there is no server {names}")),
        None => Verdict::ok("sidecars stand beside servers that there are"),
    }
}

/// Servers elsewhere have no sidecars.
pub(super) fn instances(facts: &Facts) -> Verdict {
    let connected = facts.sidecars.iter().filter(|it| it.connected);
    let served: BTreeSet<&ServerName> = connected.flat_map(|it| &it.serves).collect();
    let servers = &facts.objects.snapshot.servers;
    let of_mesh = servers.iter().filter(|(_, entry)| {
        matches!(entry.server.spec.location, Location::Workload(_) | Location::Stdio(_))
    });
    match named(of_mesh.filter(|(name, _)| !served.contains(name)).map(|(name, _)| name)) {
        Some(names) => Verdict::warning(format!("without a sidecar that is connected: {names}")),
        None => Verdict::ok(format!("all {}", servers.len())),
    }
}

/// The sidecars of which something is to be told.
fn some(
    facts: &Facts,
    told: impl Fn(&ClientStatus) -> Option<String>,
    verdict: fn(String) -> Verdict,
    what: &str,
) -> Verdict {
    match named(facts.sidecars.iter().filter_map(told)) {
        Some(names) => verdict(format!("{what}: {names}")),
        None => Verdict::ok(format!("{0} of {0}", facts.sidecars.len())),
    }
}

fn apart(one: SystemTime, other: SystemTime) -> Option<(&'static str, Duration)> {
    match one.duration_since(other) {
        Ok(ahead) => Some(("+", ahead)),
        Err(behind) => Some(("-", behind.duration())),
    }
}

fn secs(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
