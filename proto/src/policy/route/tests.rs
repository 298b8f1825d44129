use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::name::SpiffeId;

fn rule(json: &str) -> RouteRule {
    serde_json::from_str(json).unwrap()
}

fn route(rules: &[&str]) -> Route {
    serde_json::from_str(&format!(r#"{{"server":"n/s","rules":[{}]}}"#, rules.join(","))).unwrap()
}

fn caller(claims: &str) -> Caller {
    let id = SpiffeId::parse("spiffe://d/ns/agents/sa/a").unwrap();
    Caller::new(id.workload().unwrap()).with_claims(claims).unwrap()
}

#[track_caller]
fn check(wanted: &str, method: &str, tool: Option<&str>, headers: &[(&str, &str)], expected: bool) {
    let route = route(&[&format!(r#"{{"match":{wanted},"to":[{{"server":"n/t"}}]}}"#)]);
    let header = |name: &str, test: &dyn Fn(&str) -> bool| {
        headers.iter().any(|(key, value)| key.eq_ignore_ascii_case(name) && test(value))
    };
    let caller = caller(r#"{"team":["red","blue"]}"#);
    let facts = Facts { method, tool, header: &header, caller: Some(&caller) };
    assert_eq!(decide(&route, &facts).is_some(), expected, "{wanted}");
}

#[test]
fn every_part_of_a_match_must_match() {
    let read = ("tools/call", Some("read_file"));
    check("{}", "ping", None, &[], true);
    check(r#"{"methods":["tools/*"]}"#, read.0, read.1, &[], true);
    check(r#"{"methods":["prompts/*"]}"#, read.0, read.1, &[], false);
    check(r#"{"tools":["read_*"]}"#, read.0, read.1, &[], true);
    check(r#"{"tools":["*"]}"#, "tools/list", None, &[], false);
    check(r#"{"tools":["read_*"],"methods":["ping"]}"#, read.0, read.1, &[], false);
    let preview = r#"{"headers":{"x-preview":["1","yes*"]}}"#;
    check(preview, read.0, read.1, &[("X-Preview", "0"), ("x-preview", "yes, please")], true);
    check(preview, read.0, read.1, &[("X-Preview", "0")], false);
    check(preview, read.0, read.1, &[], false);
    check(r#"{"claims":{"team":["blue"]}}"#, read.0, read.1, &[], true);
    check(r#"{"claims":{"team":["green"]}}"#, read.0, read.1, &[], false);
    check(r#"{"claims":{"role":["*"]}}"#, read.0, read.1, &[], false);
}

#[test]
fn who_proved_nothing_claims_nothing() {
    let route = route(&[r#"{"match":{"claims":{"team":["*"]}},"to":[{"server":"n/t"}]}"#]);
    let facts = Facts { method: "ping", tool: None, header: &|_, _| false, caller: None };
    assert_eq!(decide(&route, &facts), None);
}

#[test]
fn the_first_rule_that_matches_decides() {
    let route = route(&[
        r#"{"match":{"methods":["ping"]},"to":[{"server":"n/a"}]}"#,
        r#"{"match":{"methods":["p*"]},"to":[{"server":"n/b"}]}"#,
        r#"{"match":{"methods":["prompts/get"]},"to":[{"server":"n/c"}]}"#,
    ]);
    for (method, expected) in [("ping", Some(0)), ("prompts/get", Some(1)), ("tools/list", None)] {
        let facts = Facts { method, tool: None, header: &|_, _| false, caller: None };
        assert_eq!(decide(&route, &facts).map(|(at, _)| at), expected, "{method}");
    }
}

#[track_caller]
fn order_of(rule: &RouteRule, draw: u64, away: &[&str], expected: &str) {
    let order = order(rule, draw, |server| !away.contains(&server.to_string().as_str()));
    let order: Vec<_> = order.iter().map(ToString::to_string).collect();
    assert_eq!(order.join(" "), expected, "draw {draw}, away {away:?}");
}

#[test]
fn fallbacks_come_in_order_when_nothing_else_is_there() {
    let rule = rule(
        r#"{"to":[{"server":"n/a","weight":2},{"server":"n/b"},{"server":"n/z","weight":0}],
            "fallback":["n/c","n/a","n/d"]}"#,
    );
    order_of(&rule, 0, &[], "n/a n/b n/c n/d");
    order_of(&rule, 1, &[], "n/a n/b n/c n/d");
    order_of(&rule, 2, &[], "n/b n/a n/c n/d");
    order_of(&rule, 2, &["n/b"], "n/a n/c n/d n/b");
    order_of(&rule, 0, &["n/a", "n/b"], "n/c n/d n/a n/b");
    order_of(&rule, 0, &["n/a", "n/b", "n/c"], "n/d n/a n/b n/c");
    order_of(&rule, 5, &["n/a", "n/b", "n/c", "n/d"], "n/b n/a n/c n/d");
}

#[test]
fn what_weighs_nothing_gets_nothing() {
    order_of(&rule(r#"{"to":[{"server":"n/a","weight":0}]}"#), 7, &[], "");
    order_of(&rule(r#"{"to":[{"server":"n/a","weight":0}],"fallback":["n/b"]}"#), 7, &[], "n/b");
}

#[test]
fn copies_are_a_share_of_the_calls() {
    for (percent, expected) in [(Some(0), 0), (Some(7), 7), (Some(100), 100), (None, 100)] {
        let percent = percent.map_or_else(String::new, |it| format!(r#","percent":{it}"#));
        let mirror: Mirror = serde_json::from_str(&format!(r#"{{"server":"n/m"{percent}}}"#)).unwrap();
        assert_eq!((0..100).filter(|draw| is_copied(&mirror, *draw)).count(), expected, "{percent}");
    }
}

proptest! {
    #[test]
    fn shares_are_as_the_weights_say(weights in prop::collection::vec(0_u64..40, 1..8), away in any::<u8>()) {
        let weighted = |(at, weight)| format!(r#"{{"server":"n/s{at}","weight":{weight}}}"#);
        let to: Vec<_> = weights.iter().enumerate().map(weighted).collect();
        let rule = rule(&format!(r#"{{"to":[{}],"fallback":["n/f"]}}"#, to.join(",")));
        let at = |server: &ServerName| server.name.as_str()[1..].parse::<usize>().ok();
        let is_there = |server: &ServerName| at(server).is_none_or(|at| away >> at & 1 == 0);
        let there: u64 = (0..weights.len()).filter(|at| away >> at & 1 == 0).map(|at| weights[at]).sum();
        let mut shares = BTreeMap::<Option<usize>, u64>::new();
        for draw in 0..there.max(1) {
            let order = order(&rule, draw, is_there);
            *shares.entry(at(order[0])).or_default() += 1;
            let mut once = order.clone();
            once.sort();
            once.dedup();
            prop_assert_eq!(once.len(), order.len());
        }
        for (at, weight) in weights.iter().enumerate() {
            let expected = if away >> at & 1 == 0 { *weight } else { 0 };
            prop_assert_eq!(shares.get(&Some(at)).copied().unwrap_or(0), expected);
        }
        prop_assert_eq!(shares.get(&None).copied().unwrap_or(0), u64::from(there == 0));
    }
}
