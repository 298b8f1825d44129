//! `QuotaPolicy`.

use super::access::{decode_selector, encode_selector};
use super::choice;
use super::read::{
    Read, Wrong, at, count, list, nonzero, optional_count, optional_span, optional_text, optional_texts,
    required, rule, span, texts,
};
use super::write::{duration, optional_strings, string, strings};
use super::{decode_meta, pb};
use crate::resource::bounded::Count;
use crate::resource::kinds::raw::{RawLimit, Unavailable};
use crate::resource::kinds::{Amount, Limit, LimitScope, QuotaPolicy, WhenUnavailable};
use crate::resource::units::{Budget, Rate};
use crate::wire::Object;

pub(super) fn encode(meta: Option<pb::Meta>, policy: &QuotaPolicy) -> pb::QuotaPolicy {
    let QuotaPolicy { servers, limits, shadow } = policy;
    pb::QuotaPolicy {
        meta,
        servers: encode_selector(servers),
        limits: limits.iter().map(encode_limit).collect(),
        shadow: *shadow,
    }
}

pub(super) fn decode(message: pb::QuotaPolicy) -> Read<Object<QuotaPolicy>> {
    let pb::QuotaPolicy { meta, servers, limits, shadow } = message;
    let meta = decode_meta(meta)?;
    let spec = QuotaPolicy {
        servers: at("servers", decode_selector(servers))?,
        limits: at("limits", list(limits, decode_limit))?,
        shadow,
    };
    Ok(Object { meta, spec })
}

fn encode_limit(limit: &Limit) -> pb::Limit {
    let Limit { name, tools, methods, per, amount, cost, scope, when_unavailable } = limit;
    let (choice, floor, reuse_for) = match (scope, when_unavailable) {
        // Only a lease can be unavailable.
        (LimitScope::Instance, _) => (None, None, None),
        (LimitScope::Mesh, WhenUnavailable::Floor(floor)) => (Some(Unavailable::Floor), *floor, None),
        (LimitScope::Mesh, WhenUnavailable::Deny) => (Some(Unavailable::Deny), None, None),
        (LimitScope::Mesh, WhenUnavailable::Reuse(span)) => (Some(Unavailable::Reuse), None, Some(*span)),
    };
    pb::Limit {
        name: string(name),
        tools: optional_strings(tools.as_deref()),
        methods: optional_strings(methods.as_deref()),
        per: strings(per),
        amount: Some(encode_amount(amount)),
        cost: string(cost),
        scope: choice::limit_scope::encode(*scope),
        when_unavailable: choice.map_or(0, choice::unavailable::encode),
        floor: floor.map(|floor| floor.get().into()),
        reuse_for: reuse_for.map(duration),
    }
}

fn decode_limit(message: pb::Limit) -> Read<Limit> {
    let pb::Limit { name, tools, methods, per, amount, cost, scope, when_unavailable, floor, reuse_for } =
        message;
    let scope = at("scope", choice::limit_scope::decode(scope))?;
    let (mut rate, mut burst, mut budget, mut zone, mut concurrency) = (None, None, None, None, None);
    match at("amount", required(amount))? {
        pb::limit::Amount::Rate(it) => {
            let (found, at_once) = at("rate", decode_rate(it))?;
            (rate, burst) = (Some(found), at_once);
        }
        pb::limit::Amount::Budget(pb::BudgetAmount { amount, window, zone: name }) => {
            budget = Some(at("budget", decode_budget(amount, window))?);
            zone = at("budget.zone", optional_text(&name))?;
        }
        pb::limit::Amount::Concurrency(it) => concurrency = Some(at("concurrency", count(it))?),
    }
    let when_unavailable = match (scope, when_unavailable) {
        (LimitScope::Instance, 0) => None,
        (_, number) => Some(at("when_unavailable", choice::unavailable::decode(number))?),
    };
    let raw = RawLimit {
        name: at("name", optional_text(&name))?,
        tools: at("tools", optional_texts(tools))?,
        methods: at("methods", optional_texts(methods))?,
        per: at("per", texts(per))?,
        rate,
        burst,
        budget,
        zone,
        concurrency,
        cost: at("cost", optional_text(&cost))?,
        scope,
        when_unavailable,
        floor: at("floor", optional_count(floor))?,
        reuse_for: at("reuse_for", optional_span(reuse_for))?,
    };
    rule(Limit::try_from(raw))
}

fn encode_amount(amount: &Amount) -> pb::limit::Amount {
    match amount {
        Amount::Rate { rate: Rate { amount, window }, burst } => pb::limit::Amount::Rate(pb::RateAmount {
            amount: *amount,
            window: Some(duration(*window)),
            burst: burst.map_or(0, Count::get).into(),
        }),
        Amount::Budget { budget: Budget { amount, window }, zone } => {
            pb::limit::Amount::Budget(pb::BudgetAmount {
                amount: *amount,
                window: choice::calendar_window::encode(*window),
                zone: string(zone),
            })
        }
        Amount::Concurrency(count) => pb::limit::Amount::Concurrency(count.get()),
    }
}

fn decode_rate(message: pb::RateAmount) -> Read<(Rate, Option<Count<1, 1_000_000>>)> {
    let pb::RateAmount { amount, window, burst } = message;
    let window = at("window", required(window).and_then(span))?;
    let rate = Rate::new(amount, window);
    let rate = rate.ok_or_else(|| {
        Wrong::new(format_args!("{amount} in {window} is out of range; expected {}", Rate::RANGE))
    })?;
    Ok((rate, at("burst", nonzero(burst))?))
}

fn decode_budget(amount: u64, window: i32) -> Read<Budget> {
    let window = at("window", choice::calendar_window::decode(window))?;
    let out_of_range = || Wrong::new(format_args!("{amount} is out of range; expected {}", Budget::RANGE));
    at("amount", Budget::new(amount, window).ok_or_else(out_of_range))
}
