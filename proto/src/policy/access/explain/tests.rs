use std::sync::Arc;

use super::*;
use crate::name::{ServerName, SpiffeId};
use crate::resource::{Spec, parse_one};
use crate::wire::{Meta, Object};

fn policies(specs: &[&str]) -> Policies {
    let object = |(place, spec): (usize, &&str)| {
        let text = format!(
            "{{apiVersion: weft.dev/v1alpha1, kind: AccessPolicy, metadata: {{namespace: a, name: p{place}}}, spec: {spec}}}"
        );
        let resource = parse_one("f", &text).unwrap();
        let Spec::AccessPolicy(spec) = resource.spec else { panic!("{text} is an access policy") };
        Arc::new(Object { meta: Meta::new(&resource.metadata, 1), spec })
    };
    specs.iter().enumerate().map(object).collect()
}

fn view(specs: &[&str]) -> View {
    let caller =
        Caller::new(SpiffeId::parse("spiffe://d/ns/agents/sa/reviewer").unwrap().workload().unwrap());
    View::new(&policies(specs), DefaultAction::Allow, caller, ServerName::parse("tools/files").unwrap())
}

fn tool(name: &str, arguments: Option<&str>) -> Question {
    let arguments = arguments.map(str::to_owned);
    Question { target: Some(Asked::Tool(name.to_owned())), method: None, arguments }
}

const READERS: &str = "{rules: [{name: readers, action: allow, from: [{namespaces: [b]}, {namespaces: [agents], serviceAccounts: [x]}]}, \
     {name: public, action: allow, to: [{tools: ['read_*']}], when: 'args.path.startsWith(\"/data/\")'}, \
     {name: prompts, action: allow, to: [{prompts: ['*']}]}]}";

#[test]
fn a_refusal_says_which_rules_almost_allowed_it_and_what_was_in_the_way() {
    let explained = view(&[READERS]).explain(&tool("read_file", Some(r#"{"path":"/etc"}"#))).unwrap();
    assert_eq!((explained.allowed, explained.reason.as_str()), (false, "no-rule"));
    let told: Vec<_> = explained
        .rules
        .iter()
        .map(|it| (it.rule.as_str(), it.matches, it.who.as_deref(), it.what.as_deref(), it.when.as_deref()))
        .collect();
    let expected = [
        ("a/p0#readers", false, Some("from[0]: namespaces, from[1]: serviceAccounts"), None, None),
        ("a/p0#public", false, None, None, Some("false")),
        ("a/p0#prompts", false, None, Some("to[0]: another kind"), None),
    ];
    assert_eq!(told, expected);
    assert!(
        explained.rules[1].text.contains(r#""when":"args.path.startsWith"#),
        "{}",
        explained.rules[1].text
    );
}

#[test]
fn the_rule_that_decides_comes_first_and_a_condition_that_fails_says_why() {
    let deny = "{rules: [{action: deny, to: [{tools: [rm]}]}, {action: deny, when: 'args.force'}]}";
    let explained =
        view(&[READERS, deny]).explain(&tool("read_file", Some(r#"{"path":"/data/x"}"#))).unwrap();
    assert_eq!((explained.allowed, explained.reason.as_str()), (false, "a/p1#1"));
    assert_eq!(explained.because, "the rule a/p1#1 denies it");
    let first: Vec<_> = explained.rules.iter().take(2).map(|it| (it.rule.as_str(), it.matches)).collect();
    assert_eq!(first, [("a/p0#public", true), ("a/p1#1", true)]);
    let when = "line 1, column 6 of the expression: there is no field \"force\"";
    assert_eq!(explained.rules[1].when.as_deref(), Some(when));
}

#[test]
fn an_explanation_agrees_with_the_decision_about_methods_as_a_whole() {
    let question = Question { method: Some("tools/list".to_owned()), ..Question::default() };
    let explained = view(&[READERS]).explain(&question).unwrap();
    assert_eq!((explained.allowed, explained.reason.as_str()), (true, "a/p0#public"));
    assert!(explained.rules[0].matches);
    let shadow = "{shadow: true, rules: [{name: no, action: deny}]}";
    assert_eq!(view(&[READERS, shadow]).explain(&question).unwrap().shadow, ["refuse a/p1#no"]);
}

#[test]
fn a_question_is_read_as_a_sidecar_reads_a_call() {
    let view = view(&[READERS]);
    for arguments in [
        r#"{"path":"/data/x","p\u0061th":"/etc"}"#,
        r#"{"path":"/data/x"},"name":"other""#,
        "[]",
        "",
        r#"{"path":"\ud800"}"#,
    ] {
        assert!(view.explain(&tool("read_file", Some(arguments))).is_err(), "{arguments}");
    }
    let name = r#"read_","arguments":{"path":"/data/"}"#;
    assert!(!view.explain(&tool(name, None)).unwrap().allowed);
    assert!(matches!(view.explain(&Question::default()), Err(Unasked::Nothing)));
    let list = Question { method: Some("tools/call".to_owned()), ..Question::default() };
    assert!(matches!(view.explain(&list), Err(Unasked::Nothing)));
    let resource = Asked::Resource("file:///a".to_owned());
    let resource = Question { target: Some(resource), method: None, arguments: Some("{}".to_owned()) };
    assert!(matches!(view.explain(&resource), Err(Unasked::NoArguments(_))));
}

#[test]
fn who_may_is_told_apart_from_who_may_with_some_arguments() {
    let view = view(&[READERS]);
    assert_eq!(view.may(&tool("read_file", None)).unwrap(), May::Depends);
    assert_eq!(view.may(&tool("read_file", Some(r#"{"path":"/data/x"}"#))).unwrap(), May::Yes);
    assert_eq!(view.may(&tool("read_file", Some("{}"))).unwrap(), May::No);
    assert_eq!(view.may(&tool("write_file", None)).unwrap(), May::No);
    let prompt = Question { target: Some(Asked::Prompt("x".to_owned())), ..Question::default() };
    assert_eq!(view.may(&prompt).unwrap(), May::Yes);
}

#[test]
fn an_audience_is_what_the_rules_about_something_say_of_callers() {
    let deny = "{rules: [{action: deny, from: [{namespaces: [c]}]}, {action: audit}]}";
    let found = audience(&policies(&[READERS, deny]), DefaultAction::Allow, &tool("read_x", None)).unwrap();
    let told: Vec<_> =
        found.rules.iter().map(|it| (it.rule.as_str(), it.action.as_str(), it.callers.len())).collect();
    assert_eq!(told, [("a/p0#readers", "allow", 2), ("a/p0#public", "allow", 1), ("a/p1#0", "deny", 1)]);
    assert_eq!(found.rules[1].callers, ["everyone"]);
    assert!(found.rules[1].when.is_some() && !found.others);
    assert!(audience(&policies(&[deny]), DefaultAction::Allow, &tool("x", None)).unwrap().others);
    assert!(!audience(&policies(&[deny]), DefaultAction::Deny, &tool("x", None)).unwrap().others);
}
