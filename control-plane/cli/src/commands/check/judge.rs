//! From what was seen to findings. Pure: the present moment is handed in.

use jiff::Timestamp;

use super::report::Finding;
use crate::answers::{Sidecar, Trust};
use crate::commands::status::{EXPIRES_SOON_SECS, Standing};
use crate::moments;

const DAY_SECS: i64 = 86_400;
/// How many of a kind a detail names.
const NAMED_MAX: usize = 5;

/// Versions of both sides: one minor version apart is supported and tested.
pub(super) fn skew(client: &str, server: &str) -> Finding {
    const NAME: &str = "version skew";
    let parts = |version: &str| {
        let mut numbers = version.split(['.', '-', '+']).map(str::parse::<u64>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    let detail = format!("command {client}, control plane {server}");
    match (parts(client), parts(server)) {
        (Some(one), Some(other)) if one.0 == other.0 && one.1.abs_diff(other.1) <= 1 => {
            Finding::ok(NAME, detail)
        }
        _ => Finding::warning(
            NAME,
            detail,
            "versions more than one minor apart are not tested with each other",
            "use the `weft` that came with the control plane",
        ),
    }
}

/// Whether sidecars are told the newest change of an object. The store moves on without that too, for instance when a
/// token is made.
pub(super) fn published(published: Option<u64>, newest_change: Option<u64>) -> Finding {
    const NAME: &str = "published revision";
    match (published, newest_change.unwrap_or_default()) {
        (Some(published), newest) if newest <= published => {
            Finding::ok(NAME, format!("{published}, with every change up to {newest}"))
        }
        (published, newest) => {
            let published = published.map_or_else(|| "nothing".to_owned(), |it| it.to_string());
            Finding::failed(
                NAME,
                format!("the newest change is {newest}, but {published} is published"),
                "sidecars are not told the latest changes",
                "look for errors of the planner in the control plane's log; restart it if it does not recover",
            )
        }
    }
}

/// How long each root is good for.
pub(super) fn roots(trust: &Trust, now: Timestamp) -> Vec<Finding> {
    const NAME: &str = "root certificate";
    if trust.roots.is_empty() {
        return vec![Finding::failed(
            NAME,
            "no root is trusted",
            "no connection in the mesh can be made",
            "look at the control plane's log",
        )];
    }
    let one = |root: &crate::answers::Root| {
        let print: String = root.fingerprint.chars().take(12).collect();
        let what = if root.issuing { format!("{print}, issuing") } else { print };
        lifetime(
            NAME,
            &what,
            &root.not_after,
            now,
            "exchange it in good time: weft trust rotate --start --wait",
        )
    };
    trust.roots.iter().map(one).collect()
}

/// How long the issuer is good for.
pub(super) fn issuer(trust: &Trust, now: Timestamp) -> Finding {
    let remedy = match trust.issuer.kind.as_str() {
        "external" => "renew it where it is kept, and replace the files in --issuer-dir",
        _ => "the control plane renews it by itself: look in its log for why it did not, or rotate the root",
    };
    lifetime("issuer certificate", &trust.issuer.kind, &trust.issuer.not_after, now, remedy)
}

fn lifetime(name: &'static str, what: &str, not_after: &str, now: Timestamp, remedy: &str) -> Finding {
    let detail =
        format!("{what}, expires {} ({})", moments::expiry(not_after, now), moments::second(not_after));
    let days = |days: i64| {
        format!("less than {days} days are left; when it ends, certificates made under it end too")
    };
    match moments::until(not_after, now) {
        None => Finding::warning(
            name,
            detail,
            "when it ends could not be read",
            "compare the versions of both sides",
        ),
        Some(secs) if secs <= 0 => {
            Finding::failed(name, detail, "no certificate made under it is believed any more", remedy)
        }
        Some(secs) => match [7, 30, 60].into_iter().find(|limit| secs < limit * DAY_SECS) {
            Some(limit) => Finding::warning(name, detail, days(limit), remedy),
            None => Finding::ok(name, detail),
        },
    }
}

/// Every sidecar: there, followed, refused, about to lose its identity.
pub(super) fn sidecars(sidecars: &[Sidecar], now: Timestamp) -> Vec<Finding> {
    if sidecars.is_empty() {
        return vec![Finding::warning(
            "connected",
            "no sidecar has connected",
            "a mesh without sidecars carries no calls",
            "join one with a token: weft token create <namespace>/<account>",
        )];
    }
    let standing = |wanted: Standing| named(sidecars.iter().filter(move |it| Standing::of(it) == wanted));
    vec![
        verdict("connected", sidecars.len(), standing(Standing::Away), |names| {
            let why =
                "they go on with what they have, and hear of no change; their certificates cannot be renewed";
            Finding::failed(
                "connected",
                format!("disconnected: {names}"),
                why,
                "see whether they run, and reach the control plane",
            )
        }),
        verdict("synced", sidecars.len(), standing(Standing::Waiting), |names| {
            let why = "they were sent changes that they have not acknowledged";
            Finding::warning(
                "synced",
                format!("behind: {names}"),
                why,
                "give them a moment: weft status --check --wait 1m",
            )
        }),
        verdict("accepted", sidecars.len(), standing(Standing::Rejected), |names| {
            let why = "they refused what they were sent and go on with what they had; that is a defect, not a setting";
            Finding::failed(
                "accepted",
                format!("refused: {names}"),
                why,
                "read what they refused with `weft status`",
            )
        }),
        certificates(sidecars, now),
    ]
}

fn verdict(
    name: &'static str,
    all: usize,
    bad: Option<String>,
    wrong: impl FnOnce(&str) -> Finding,
) -> Finding {
    bad.map_or_else(|| Finding::ok(name, format!("{all} of {all}")), |names| wrong(&names))
}

fn certificates(sidecars: &[Sidecar], now: Timestamp) -> Finding {
    const NAME: &str = "certificates";
    let left = |it: &Sidecar| moments::until(it.certificate.as_ref()?.expires_at.as_deref()?, now);
    let within = |from: i64, to: i64| {
        named(sidecars.iter().filter(move |it| left(it).is_some_and(|secs| secs > from && secs <= to)))
    };
    let remedy = "they renew at half their life: look in their logs for why they did not";
    if let Some(names) = within(i64::MIN, 0) {
        return Finding::failed(NAME, format!("expired: {names}"), "nobody believes them any more", remedy);
    }
    match within(0, EXPIRES_SOON_SECS) {
        Some(names) => {
            Finding::warning(NAME, format!("soon expired: {names}"), "nobody will believe them then", remedy)
        }
        None => Finding::ok(NAME, "all are good"),
    }
}

/// The names of sidecars, if there are any.
fn named<'a>(sidecars: impl Iterator<Item = &'a Sidecar>) -> Option<String> {
    let names: Vec<_> = sidecars.map(|sidecar| sidecar.node.as_str()).collect();
    let more = names.len().saturating_sub(NAMED_MAX);
    let shown = names[..names.len() - more].join(", ");
    match (names.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(shown),
        (false, more) => Some(format!("{shown} and {more} more")),
    }
}

#[cfg(test)]
#[path = "../../tests/judge.rs"]
mod tests;
