use std::time::Duration;

use super::*;
use crate::mcp::{self, Body, Bounds, Message};
use crate::name::{ServerName, SpiffeId};
use crate::policy::Caller;
use crate::resource::{Spec, parse_one};
use crate::wire::Meta;

fn policy(name: &str, spec: &str) -> Arc<Object<QuotaPolicy>> {
    let text = format!(
        "{{apiVersion: weft.dev/v1alpha1, kind: QuotaPolicy, metadata: {{namespace: a, name: {name}}}, spec: {spec}}}"
    );
    let resource = parse_one("f", &text).unwrap();
    let Spec::QuotaPolicy(spec) = resource.spec else { panic!("{text} is a quota policy") };
    Arc::new(Object { meta: Meta::new(&resource.metadata, 1), spec })
}

fn plan(limits: &str) -> Plan {
    Plan::new(&[policy("p", &format!("{{limits: [{limits}]}}"))])
}

/// `tools/call read`: a method and what it names.
fn call(text: &str) -> Call<'_> {
    let (method, name) = text.split_once(' ').map_or((text, None), |(method, name)| (method, Some(name)));
    let target =
        name.map(|name| if method == "tools/call" { Target::Tool(name) } else { Target::Resource(name) });
    Call { method, target, arguments: None }
}

fn facts<'a>(caller: &'a str, text: &'a str) -> Facts<'a> {
    Facts { caller, tenant: Some("agents"), server: "research/files", call: call(text), over: None }
}

#[track_caller]
fn counted(limit: &str, text: &str, expected: bool) {
    let plan = plan(&format!("{{{limit}, rate: 1/s}}"));
    assert_eq!(plan.matching(call(text)).count() == 1, expected, "{limit} of {text}");
}

#[test]
fn a_limit_counts_the_tools_and_methods_that_it_names() {
    counted("per: []", "tools/call read", true);
    counted("per: []", "tools/list", true);
    counted("per: []", "no/such", true);
    counted("tools: ['read*']", "tools/call read_file", true);
    counted("tools: ['read*']", "tools/call write", false);
    counted("tools: ['*']", "resources/read x:y", false);
    counted("tools: ['*']", "tools/call", true);
    counted("tools: ['*']", "tools/list", false);
    counted("methods: ['resources/*']", "resources/read x:y", true);
    counted("methods: ['resources/*']", "tools/call x", false);
    counted("tools: ['read'], methods: ['tools/*']", "tools/call read", true);
    counted("tools: ['read'], methods: ['prompts/*']", "tools/call read", false);
}

#[track_caller]
fn weighs(limit: &str, arguments: &str, expected: u64) {
    let message = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"read","arguments":{arguments}}}}}"#
    );
    let bounds = Bounds { depth_max: 8, batch_max: 1 };
    let Ok(Body::One(Message::Request(request))) = mcp::parse(message.as_bytes(), bounds) else {
        panic!("{message} is a request")
    };
    let caller = Caller::new(SpiffeId::parse("spiffe://d/ns/agents/sa/a").unwrap().workload().unwrap());
    let server = ServerName::parse("research/files").unwrap();
    let (method, target, arguments) = ("tools/call", request.target(), request.params.arguments);
    let over = Some(expr::Facts { caller: &caller, server: &server, method, target, arguments });
    let plan = plan(&format!("{{{limit}, rate: 10/s}}"));
    let facts = Facts { over, ..facts("a", "tools/call read") };
    assert_eq!(plan.limits()[0].weight(facts), expected, "{limit} of {message}");
}

#[test]
fn a_call_weighs_what_its_cost_says_and_too_much_if_that_cannot_be_said() {
    weighs("per: []", "{}", MILLI);
    weighs("cost: 'size(args.urls)'", r#"{"urls":["a","b","c"]}"#, 3 * MILLI);
    weighs("cost: 'caller.namespace == \"agents\" ? 2 : 5'", "{}", 2 * MILLI);
    for arguments in [r#"{}"#, r#"{"urls":7}"#, r#"{"urls":null}"#] {
        weighs("cost: 'size(args.urls)'", arguments, TOO_HEAVY);
    }
    weighs("cost: 'args.n'", r#"{"n":-1}"#, TOO_HEAVY);
    weighs("cost: 'args.n'", r#"{"n":1e300}"#, TOO_HEAVY);
}

#[test]
fn handshakes_probes_and_notifications_are_never_counted() {
    for method in ["initialize", "ping", "server/discover", "notifications/initialized", "notifications/x"] {
        counted("per: []", method, false);
        counted("methods: ['*']", method, false);
    }
}

#[test]
fn a_stream_that_listens_is_no_call_under_way() {
    let plan = plan("{concurrency: 1}, {rate: 1/s}");
    let found: Vec<_> = plan.matching(call("subscriptions/listen")).map(|(at, _)| at).collect();
    assert_eq!(found, [1]);
}

#[test]
fn what_a_call_lacks_is_a_value_of_its_own() {
    let plan = plan("{per: [caller, tenant, tool, server, 'claim:plan'], rate: 1/s}");
    let limit = &plan.limits()[0];
    let found: Vec<_> = limit.values(facts("a", "tools/call read")).collect();
    assert_eq!(found, [Some("a"), Some("agents"), Some("read"), Some("research/files"), None]);
    let found: Vec<_> = limit.values(facts("a", "resources/read x:y")).collect();
    assert_eq!(found[2], None);
}

fn identities(limits: &str) -> Vec<Arc<str>> {
    plan(limits).limits().iter().map(|limit| Arc::clone(&limit.identity)).collect()
}

#[test]
fn a_limit_keeps_its_counts_when_something_else_is_edited() {
    let (one, other) = ("{tools: [a], rate: 1/min}", "{name: fair, per: [caller], rate: 5/min}");
    let before = identities(&format!("{one}, {other}"));
    let after = identities(&format!("{{rate: 7/s}}, {one}, {other}"));
    assert_eq!(before[..], after[1..]);
    // Even of the limit itself, as long as it has a name and the same kind, window and counts.
    assert_eq!(identities("{name: fair, tools: [b], per: [caller], rate: 9/min}")[0], before[1]);
    for changed in [
        "{name: fair, per: [caller], rate: 5/s}",
        "{name: fair, per: [tool], rate: 5/min}",
        "{name: fair, per: [caller], concurrency: 5}",
    ] {
        assert_ne!(identities(changed)[0], before[1], "{changed}");
    }
    let twice = identities("{rate: 1/s}, {rate: 1/s}");
    assert_ne!(twice[0], twice[1]);
}

fn at(secs: u64) -> Now {
    Now { nanos: secs * 1_000_000_000, unix_secs: 1_795_737_600 + i64::try_from(secs).unwrap() }
}

/// Calls at given times, one tool call each, against all limits of a plan at once.
#[track_caller]
fn check(limits: &str, calls: &[(u64, &str)]) {
    let plan = plan(limits);
    let mut meters: Vec<_> = plan.limits().iter().map(|limit| limit.gauge.fresh()).collect();
    for (n, (secs, expected)) in calls.iter().enumerate() {
        let limits = plan.limits().iter().zip(&mut meters);
        let mut takings: Vec<_> = limits
            .map(|(limit, meter)| Taking {
                gauge: &limit.gauge,
                meter,
                cost: Cost::one(MILLI),
                shadow: limit.shadow,
                verdict: Verdict::Allowed,
            })
            .collect();
        let found = match take_all(&mut takings, at(*secs)) {
            Outcome::Taken => takings
                .iter()
                .map(|taking| if taking.verdict == Verdict::Near { "near" } else { "ok" })
                .collect::<Vec<_>>()
                .join(" "),
            Outcome::Denied { by, again: Again::After(after) } => format!("{by} in {}", after.as_secs()),
            Outcome::Denied { by, again } => format!("{by} {again:?}"),
        };
        assert_eq!(found, *expected, "call {n}, at {secs} s, of {limits:?}", limits = plan.limits().len());
    }
}

#[test]
fn a_call_takes_from_every_limit_or_from_none() {
    // Were the first limit charged for calls that the second refuses, it would refuse the last one.
    check(
        "{rate: 6/min, burst: 3}, {rate: 1/min}",
        &[(0, "ok near"), (0, "1 in 60"), (0, "1 in 60"), (60, "ok near"), (60, "1 in 60")],
    );
}

#[test]
fn of_limits_that_refuse_the_one_that_lasts_longest_is_named() {
    check("{rate: 1/min}, {rate: 1/h}, {rate: 1/s}", &[(0, "near near near"), (0, "1 in 3600")]);
    check("{rate: 1/min}, {concurrency: 1}", &[(0, "near near"), (0, "0 in 60"), (60, "1 WhenOneEnds")]);
}

#[test]
fn four_fifths_of_a_limit_are_near_it() {
    check("{budget: 5/day}", &[(0, "ok"), (0, "ok"), (0, "ok"), (0, "near"), (0, "near"), (0, "0 in 86400")]);
    check(
        "{budget: 1/month}",
        &[(0, "near"), (0, "0 in 345600"), (345_600, "near"), (345_601, "0 in 2678399")],
    );
}

#[test]
fn a_budget_is_not_given_anew_by_a_calendar_that_goes_back() {
    let plan = plan("{budget: 1/day}");
    let gauge = &plan.limits()[0].gauge;
    let mut meter = gauge.fresh();
    let cost = Cost::one(MILLI);
    let mut take = |now| {
        let mut taking =
            [Taking { gauge, meter: &mut meter, cost, shadow: false, verdict: Verdict::Allowed }];
        take_all(&mut taking, now)
    };
    assert_eq!(take(at(86_400)), Outcome::Taken);
    let expected = Outcome::Denied { by: 0, again: Again::After(Duration::from_secs(86_500)) };
    assert_eq!(take(Now { unix_secs: at(0).unix_secs + 86_300, ..at(86_500) }), expected);
}

#[test]
fn a_limit_in_shadow_counts_and_refuses_nothing() {
    let policies =
        [policy("s", "{limits: [{rate: 1/min}], shadow: true}"), policy("p", "{limits: [{rate: 3/min}]}")];
    let plan = Plan::new(&policies);
    assert!(plan.limits()[0].shadow && !plan.limits()[1].shadow);
    let mut meters: Vec<_> = plan.limits().iter().map(|limit| limit.gauge.fresh()).collect();
    let mut verdicts = Vec::new();
    for _ in 0..4 {
        let mut takings: Vec<_> = plan
            .limits()
            .iter()
            .zip(&mut meters)
            .map(|(limit, meter)| Taking {
                gauge: &limit.gauge,
                meter,
                cost: Cost::one(MILLI),
                shadow: limit.shadow,
                verdict: Verdict::Allowed,
            })
            .collect();
        let outcome = take_all(&mut takings, at(0));
        verdicts.push((matches!(outcome, Outcome::Taken), matches!(takings[0].verdict, Verdict::Denied(_))));
    }
    assert_eq!(verdicts, [(true, false), (true, true), (true, true), (false, true)]);
}

#[test]
fn what_weighs_more_than_a_limit_is_told_that_it_never_passes() {
    let now = at(0);
    let cost = Cost { milli: 3 * MILLI, calls: 3 };
    for limit in ["{rate: 2/s}", "{budget: 2/day}", "{concurrency: 2}"] {
        let plan = plan(limit);
        let gauge = &plan.limits()[0].gauge;
        assert_eq!(gauge.room(&gauge.fresh(), cost, now), Err(Again::Never), "{limit}");
    }
}

#[test]
fn what_is_given_back_can_be_taken_again_and_leaves_an_idle_count() {
    let now = at(0);
    for limit in ["{rate: 1/s}", "{budget: 1/day}", "{concurrency: 1}"] {
        let plan = plan(limit);
        let gauge = &plan.limits()[0].gauge;
        let mut meter = gauge.fresh();
        let cost = Cost::one(MILLI);
        let mut taking =
            [Taking { gauge, meter: &mut meter, cost, shadow: false, verdict: Verdict::Allowed }];
        assert_eq!(take_all(&mut taking, now), Outcome::Taken);
        assert!(!gauge.is_idle(&meter, now) && gauge.room(&meter, cost, now).is_err());
        let window = meter.window();
        gauge.give_back(&mut meter, cost, window, now);
        assert!(gauge.is_idle(&meter, now) && gauge.room(&meter, cost, now).is_ok());
    }
}

#[test]
fn limits_are_told_as_they_were_written() {
    let plan = plan("{rate: 10/min}, {rate: 30/10s}, {budget: 500/month}, {concurrency: 64}");
    let told: Vec<_> = plan.limits().iter().map(Limit::amount).collect();
    assert_eq!(told, ["10/min", "30/10s", "500/month", "64 at once"]);
}
