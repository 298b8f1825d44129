//! Conditions on arguments, and what they mean for lists.

use super::*;

#[test]
fn a_condition_decides_by_the_arguments() {
    let allow = "{rules: [{action: allow, when: 'args.path.startsWith(\"/data/\") && args.size < 100'}]}";
    let calls = [
        (r#"tools/call x {"path":"/data/a","size":99}"#, true, "a/p0#0"),
        (r#"tools/call x {"path":"/data/a","size":99.5}"#, true, "a/p0#0"),
        (r#"tools/call x {"path":"/data/a","size":100}"#, false, "no-rule"),
        (r#"tools/call x {"path":"/etc","size":1}"#, false, "no-rule"),
        (r#"prompts/get x {"p\u0061th":"/data/a","size":1}"#, true, "a/p0#0"),
        ("tools/list", true, "a/p0#0"),
    ];
    check(&[allow], &calls);
    let deny = "{rules: [{action: deny, to: [{tools: [x]}], when: 'args.path.glob(\"/etc/*\")'}]}";
    check(
        &[deny],
        &[
            (r#"tools/call x {"path":"/etc/shadow"}"#, false, "a/p0#0"),
            (r#"tools/call x {"path":"/data"}"#, true, "default"),
            (r#"tools/call y {"path":"/etc/shadow"}"#, true, "default"),
        ],
    );
}

#[test]
fn a_condition_that_cannot_be_evaluated_refuses() {
    let calls = |allowed, reason| {
        [
            ("tools/call x", allowed, reason),
            (r#"tools/call x {"path":5}"#, allowed, reason),
            (r#"tools/call x {"path":"/a","PATH":"/b"}"#, allowed, reason),
            (r#"tools/call x {"path":"/a\u0000"}"#, allowed, reason),
        ]
    };
    let starts = "args.path.startsWith(\"/\")";
    check(&[&format!("{{rules: [{{action: allow, when: '{starts}'}}]}}")], &calls(false, "no-rule"));
    check(&[&format!("{{rules: [{{action: deny, when: '{starts}'}}]}}")], &calls(false, "a/p0#0"));
    let policies = policies(&[&format!("{{rules: [{{action: audit, when: '{starts}'}}]}}")]);
    assert!(decide(&policies, DefaultAction::Allow, &caller(), call("tools/call x")).audit.is_marked());
}

#[test]
fn a_list_shows_what_some_arguments_would_open() {
    let sees = |specs: &[&str], name| {
        view(&policies(specs), DefaultAction::Allow, &caller()).may_see(Target::Tool(name))
    };
    let conditional = "{rules: [{action: allow, to: [{tools: [x]}], when: 'args.a == 1'}]}";
    assert!(sees(&[conditional], "x") && !sees(&[conditional], "y"));
    assert!(sees(&["{rules: [{action: deny, to: [{tools: [x]}], when: 'args.a == 1'}]}"], "x"));
    assert!(!sees(&["{rules: [{action: deny, to: [{tools: [x]}], when: 'request.tool == \"x\"'}]}"], "x"));
    assert!(!sees(&["{rules: [{action: allow, when: 'caller.namespace == \"b\"'}]}"], "x"));
    assert!(!sees(&[conditional, "{rules: [{action: deny, to: [{tools: ['*']}]}]}"], "x"));
    assert!(sees(&["{shadow: true, rules: [{action: deny}]}"], "x"));
}

#[test]
fn conditions_of_one_decision_share_what_they_may_take() {
    let list = format!(r#"tools/call x {{"l":[{}1]}}"#, "1,".repeat(20_000));
    let rule = "{action: allow, when: 'args.l.all(a, a == 2 || a == 3 || a == 1)'}";
    let many =
        format!("{{rules: [{}{{action: deny, when: 'args.l == []'}}]}}", format!("{rule}, ").repeat(2));
    let policies = policies(&[&many]);
    let view = view(&policies, DefaultAction::Allow, &caller());
    // Alone the last could have been evaluated.
    assert_eq!(view.decide(call(&list)).reason.to_string(), "a/p0#2");
    assert_eq!(view.decide(call(r#"tools/call x {"l":[1]}"#)).reason.to_string(), "a/p0#0");
}

#[test]
fn a_rule_with_a_condition_counts_as_callable_for_lists() {
    let allow = "{rules: [{action: allow, to: [{tools: [x]}], when: 'true'}]}";
    check(&[allow], &[("tools/list", true, "a/p0#0"), ("initialize", true, "a/p0#0")]);
}
