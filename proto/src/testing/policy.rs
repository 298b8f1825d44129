//! Policies: for access, quotas and tools.

use super::*;
use crate::resource::units::Delay;

pub(crate) fn caller() -> BoxedStrategy<CallerMatch> {
    let identity = parsed("spiffe://(\\*|[a-d]\\.example)/ns/[a-d*]/sa/([a-d]\\*?|\\*)");
    let names = (some_list(identity), some_patterns(), some_patterns(), some_patterns(), claims());
    names
        .prop_map(|(identities, namespaces, service_accounts, tenants, claims)| CallerMatch {
            identities,
            namespaces,
            service_accounts,
            tenants,
            claims,
        })
        .prop_filter("an empty match is refused", |it| {
            let CallerMatch { identities, namespaces, service_accounts, tenants, claims } = it;
            let some = identities.is_some() || namespaces.is_some() || service_accounts.is_some();
            some || tenants.is_some() || !claims.is_empty()
        })
        .boxed()
}

pub(super) fn target() -> BoxedStrategy<TargetMatch> {
    (some_patterns(), some_patterns(), some_patterns(), some_list(glob()))
        .prop_map(|(methods, tools, prompts, resources)| TargetMatch { methods, tools, prompts, resources })
        .prop_filter("an empty match is refused", |it| {
            it.methods.is_some() || it.tools.is_some() || it.prompts.is_some() || it.resources.is_some()
        })
        .boxed()
}

/// Conditions that are met, are not, and cannot be evaluated.
pub(super) fn condition() -> BoxedStrategy<Condition> {
    const TEXTS: [&str; 9] = [
        "true",
        "false",
        "args.a == 1",
        "has(args.a)",
        "args.a",
        "caller.namespace == 'a' || caller.tenant != ''",
        "request.tool.startsWith('a')",
        "'x' in claims.groups",
        "request.method in ['tools/call', 'prompts/get']\n  && size(args) < 2",
    ];
    proptest::sample::select(&TEXTS[..]).prop_map(|text| text.parse().unwrap()).boxed()
}

pub(super) fn weight() -> BoxedStrategy<Weight> {
    proptest::sample::select(&["2", "size(args) + 1", "args.n * 0.5"][..])
        .prop_map(|text| text.parse().unwrap())
        .boxed()
}

pub(crate) fn access_policy() -> BoxedStrategy<AccessPolicy> {
    let action = prop_oneof![Just(Action::Allow), Just(Action::Deny), Just(Action::Audit)];
    let rule = (
        option::of(object_name()),
        action,
        some_list(caller()),
        some_list(target()),
        option::of(condition()),
    )
        .prop_map(|(name, action, from, to, when)| AccessRule { name, action, from, to, when });
    (selector(), some_patterns(), list(rule), any::<bool>(), any::<bool>())
        .prop_map(|(servers, virtual_servers, rules, shadow, explain)| AccessPolicy {
            servers,
            virtual_servers,
            rules,
            shadow,
            explain,
        })
        .boxed()
}

pub(super) fn amount() -> BoxedStrategy<Amount> {
    let window = 100..=7 * 86_400_000u64;
    let rate = (1..=Rate::AMOUNT_MAX, window, count()).prop_map(|(amount, millis, burst)| Amount::Rate {
        rate: Rate::new(amount, Span::from_millis(millis)).unwrap(),
        burst,
    });
    let calendar = prop_oneof![Just(CalendarWindow::Day), Just(CalendarWindow::Month)];
    let zone = prop_oneof![Just("Europe/Vienna"), Just("Asia/Tokyo")].prop_map(|zone| zone.parse().unwrap());
    let budget = (1..=Budget::AMOUNT_MAX, calendar, option::of(zone)).prop_map(|(amount, window, zone)| {
        Amount::Budget { budget: Budget::new(amount, window).unwrap(), zone }
    });
    let concurrency = count().prop_filter_map("not given", |count| count.map(Amount::Concurrency));
    prop_oneof![rate, budget, concurrency].boxed()
}

pub(super) fn limit() -> BoxedStrategy<Limit> {
    let dimensions = [Dimension::Caller, Dimension::Tenant, Dimension::Tool, Dimension::Server];
    let per = (proptest::sample::subsequence(dimensions.to_vec(), 0..=4), option::of(text())).prop_map(
        |(mut per, claim)| {
            per.extend(claim.map(Dimension::Claim));
            List::new(per).unwrap()
        },
    );
    let unavailable = prop_oneof![
        count().prop_map(WhenUnavailable::Floor),
        Just(WhenUnavailable::Deny),
        span().prop_map(WhenUnavailable::Reuse),
    ];
    let scope = prop_oneof![
        Just((LimitScope::Instance, WhenUnavailable::Floor(None))),
        unavailable.prop_map(|unavailable| (LimitScope::Mesh, unavailable)),
    ];
    let what = (option::of(object_name()), some_patterns(), some_patterns(), per);
    (what, amount(), option::of(weight()), scope)
        .prop_map(|((name, tools, methods, per), amount, cost, (scope, when_unavailable))| Limit {
            name,
            tools,
            methods,
            per,
            when_unavailable: match (&amount, when_unavailable) {
                // Of a budget, nothing else may be said.
                (Amount::Budget { .. }, WhenUnavailable::Floor(_) | WhenUnavailable::Reuse(_)) => {
                    WhenUnavailable::Floor(None)
                }
                (_, when_unavailable) => when_unavailable,
            },
            amount,
            cost,
            scope,
        })
        .boxed()
}

pub(super) fn quota_policy() -> BoxedStrategy<QuotaPolicy> {
    (selector(), list(limit()), any::<bool>())
        .prop_map(|(servers, limits, shadow)| QuotaPolicy { servers, limits, shadow })
        .boxed()
}

pub(super) fn tool_policy() -> BoxedStrategy<ToolPolicy> {
    let strictness = || prop_oneof![Just(Strictness::Off), Just(Strictness::Warn), Just(Strictness::Enforce)];
    let size = prop_oneof![Just(0), Just(ByteSize::BYTES_MAX), 0..=ByteSize::BYTES_MAX];
    let scope = prop_oneof![Just(CacheScope::Caller), Just(CacheScope::Shared)];
    let cache = (span(), scope).prop_map(|(ttl, scope)| ResponseCache { ttl, scope });
    let retry =
        prop_oneof![Just(RetryClass::Never), Just(RetryClass::ReadOnly), Just(RetryClass::Idempotent)];
    let checks = (strictness(), strictness(), map(tool_name(), digest()));
    let delay = (some_span(), any::<bool>())
        .prop_map(|(span, learnt)| span.map(|span| if learnt { Delay::P95 } else { Delay::Given(span) }));
    let answers = (option::of(size.prop_map(ByteSize::new)), option::of(cache), retry, delay);
    let flags = (any::<bool>(), list(text()), any::<bool>());
    (selector(), some_patterns(), some_span(), checks, answers, flags)
        .prop_map(|(servers, tools, timeout, checks, answers, flags)| {
            let (validate_arguments, pin, approved) = checks;
            let (result_max, cache, retry, hedge_after) = answers;
            let (trust_hints, redact, shadow) = flags;
            ToolPolicy {
                servers,
                tools,
                timeout,
                validate_arguments,
                pin,
                approved,
                result_max,
                cache,
                retry,
                hedge_after,
                trust_hints,
                redact,
                shadow,
            }
        })
        .boxed()
}
