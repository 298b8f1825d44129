//! Checks of what the mesh trusts.

use std::collections::BTreeSet;

use jiff::Timestamp;
use weft_certs::{pem, x509};
use weft_proto::resource::Spec;
use weft_proto::resource::units::Span;

use super::said::{named, span};
use super::{Facts, Outcome, Verdict};
use crate::api::trust::{IssuerKind, RotationStep};
use crate::auth::timestamp;
use crate::tokens::{State, Token};

const DAY_SECS: i64 = 86_400;
/// A root, an issuer: from when on its end is told.
const SOON_SECS: i64 = 60 * DAY_SECS;
/// An API key of a caller should be good for longer than this.
const CALLER_KEY_SECS_MIN: i64 = 14 * DAY_SECS;
/// A rotation that takes longer was probably forgotten.
const ROTATION_SECS_MAX: i64 = 7 * DAY_SECS;
/// A certificate that is stolen is good for this long at most.
const LIFETIME_MAX: Span = Span::from_secs(7 * 86_400);
/// A join token that is stolen is good for this long, and for so many workloads, at most.
const TOKEN_SECS_MAX: i64 = 30 * DAY_SECS;
const TOKEN_USES_MAX: u32 = 1000;

pub(super) fn roots(facts: &Facts) -> Verdict {
    let roots = &facts.trust.roots;
    if roots.is_empty() {
        return Verdict::failed("no root is trusted");
    }
    let ends = roots.iter().map(|root| {
        let print: String = root.fingerprint.chars().take(12).collect();
        let what = if root.issuing { format!("{print} (issuing)") } else { print };
        end(&what, root.not_after, facts.now)
    });
    worst(ends)
}

pub(super) fn issuer(facts: &Facts) -> Verdict {
    let kind = match facts.trust.issuer.kind {
        IssuerKind::Builtin => "built in",
        IssuerKind::External => "external",
    };
    end(kind, facts.trust.issuer.not_after, facts.now)
}

pub(super) fn rotation(facts: &Facts) -> Verdict {
    let rotation = &facts.trust.rotation;
    if rotation.step == RotationStep::Stable {
        return Verdict::ok("none is under way");
    }
    let secs = rotation.since.map_or(0, |since| facts.now.as_second() - since.as_second());
    let waits = named(rotation.gate.waiting_for.iter().map(|it| &it.node));
    let waits = waits.map(|names| format!(", waits for {names}")).unwrap_or_default();
    let detail = format!("at the same step for {}{waits}", span(secs));
    if secs > ROTATION_SECS_MAX { Verdict::warning(detail) } else { Verdict::ok(detail) }
}

pub(super) fn federated_roots(facts: &Facts) -> Verdict {
    let federated = facts.objects.trust().map(|trust| &trust.federated[..]).unwrap_or_default();
    let ends = federated.iter().map(|domain| {
        let name = &domain.trust_domain;
        let Ok(roots) = pem::certificates(domain.roots.as_str()) else {
            return Verdict::failed(format!("the roots of {name} cannot be read"));
        };
        let last = roots.iter().filter_map(|root| x509::validity(root).ok()).map(|(_, to)| to).max();
        match last {
            Some(last) => end(name.as_ref(), timestamp(last), facts.now),
            None => Verdict::failed(format!("{name} has no root that can be read")),
        }
    });
    match federated.is_empty() {
        true => Verdict::ok("no other trust domain is federated"),
        false => worst(ends),
    }
}

pub(super) fn federated_domains(facts: &Facts) -> Verdict {
    let federated = facts.objects.trust().map(|trust| &trust.federated[..]).unwrap_or_default();
    let known: BTreeSet<_> = federated.iter().map(|it| &it.trust_domain).collect();
    let named_so = facts.objects.readable().filter_map(|(key, resource)| match &resource.spec {
        Spec::Authentication(it) => Some((key, it)),
        _ => None,
    });
    let missing = named_so.flat_map(|(key, it)| {
        let missing = it.federated_domains.iter().filter(|domain| !known.contains(domain));
        missing.map(move |domain| format!("{domain} ({key})"))
    });
    match named(missing) {
        Some(missing) => Verdict::warning(format!("not federated: {missing}")),
        None => Verdict::ok("all that are named are federated"),
    }
}

/// Keys of callers from outside that ended, or do soon.
pub(super) fn caller_keys(facts: &Facts) -> Verdict {
    let keys = facts.objects.readable().flat_map(|(key, resource)| {
        let keys = match &resource.spec {
            Spec::Authentication(it) => &it.api_keys[..],
            _ => &[],
        };
        keys.iter().map(move |it| (key, it))
    });
    let ending = keys.filter_map(|(object, key)| {
        let secs = key.not_after?.timestamp().as_second() - facts.now.as_second();
        let what = || format!("{} of {}/{}", key.name, object.namespace, object.name);
        match secs {
            ..=0 => Some(format!("{} expired {} ago", what(), span(-secs))),
            1..CALLER_KEY_SECS_MIN => Some(format!("{} expires in {}", what(), span(secs))),
            _ => None,
        }
    });
    match named(ending) {
        Some(ending) => Verdict::warning(ending),
        None => Verdict::ok("none ends soon"),
    }
}

pub(super) fn lifetime(facts: &Facts) -> Verdict {
    let detail = facts.trust.svid_lifetime.clone();
    match Span::parse(&detail) {
        Ok(span) if span > LIFETIME_MAX => Verdict::warning(detail),
        Ok(_) => Verdict::ok(detail),
        Err(_) => Verdict::skipped("it cannot be read"),
    }
}

pub(super) fn tokens(facts: &Facts) -> Verdict {
    let active = facts.tokens.iter().filter(|token| token.state == State::Active);
    let is_lasting = |token: &&Token| {
        token.expires_at.as_second() - facts.now.as_second() > TOKEN_SECS_MAX
            || token.uses_left > TOKEN_USES_MAX
    };
    let told = |token: &Token| {
        let left = span(token.expires_at.as_second() - facts.now.as_second());
        format!("{}/{} (for {left}, {} uses left)", token.namespace, token.account, token.uses_left)
    };
    match named(active.clone().filter(is_lasting).map(told)) {
        Some(names) => Verdict::warning(names),
        None => Verdict::ok(format!("{} can be used", active.count())),
    }
}

/// Whether something ends soon.
fn end(what: &str, at: Timestamp, now: Timestamp) -> Verdict {
    let secs = at.as_second() - now.as_second();
    match secs {
        ..=0 => Verdict::failed(format!("{what} expired {} ago", span(-secs))),
        1..SOON_SECS => Verdict::warning(format!("{what} expires in {}", span(secs))),
        _ => Verdict::ok(format!("{what} expires in {}", span(secs))),
    }
}

/// Of several, those that came out worst.
fn worst(verdicts: impl Iterator<Item = Verdict>) -> Verdict {
    let verdicts: Vec<_> = verdicts.collect();
    let rank = |outcome: Outcome| match outcome {
        Outcome::Failed => 3,
        Outcome::Warning => 2,
        Outcome::Skipped => 1,
        Outcome::Ok => 0,
    };
    let outcome = verdicts.iter().map(|it| it.outcome).max_by_key(|it| rank(*it)).unwrap_or(Outcome::Ok);
    let details = verdicts.iter().filter(|it| it.outcome == outcome).map(|it| &it.detail);
    Verdict { outcome, detail: named(details).unwrap_or_default() }
}
