//! What is decided beside: who hears of a refusal, what is marked, and what shadows would do.

use super::*;

#[test]
fn an_audit_rule_records_and_allows_nothing() {
    let audit = "{rules: [{action: audit, to: [{tools: [x]}]}]}";
    let check = |specs: &[&str], default_action, text, expected| {
        let policies = policies(specs);
        let decision = decide(&policies, default_action, &caller(), call(text));
        assert_eq!((decision.allowed, decision.audit.is_marked()), expected, "{text}");
    };
    check(&[audit], DefaultAction::Allow, "tools/call x", (true, true));
    check(&[audit], DefaultAction::Allow, "tools/call y", (true, false));
    check(&[audit], DefaultAction::Deny, "tools/call x", (false, true));
    let other = "{rules: [{action: allow, to: [{tools: [y]}]}]}";
    check(&[audit, other], DefaultAction::Allow, "tools/call x", (false, true));
    check(&[audit, other], DefaultAction::Audit, "tools/call y", (true, false));
    check(
        &["{rules: [{action: audit, when: 'false'}]}"],
        DefaultAction::Allow,
        "tools/call x",
        (true, false),
    );
}

#[test]
fn a_refusal_is_explained_only_by_policies_that_want_it() {
    let explains = |specs: &[&str]| {
        let policies = policies(specs);
        let decision = decide(&policies, DefaultAction::Allow, &caller(), call("tools/call x"));
        assert!(!decision.allowed);
        decision.explain
    };
    let open = "{explain: true, rules: [{action: allow, to: [{tools: [y]}]}]}";
    let quiet = "{rules: [{action: allow, to: [{tools: [y]}]}]}";
    assert!(explains(&[open]));
    assert!(!explains(&[open, quiet]));
    assert!(!explains(&[quiet]));
    assert!(explains(&[quiet, "{explain: true, rules: [{action: deny}]}"]));
    assert!(!explains(&[open, "{rules: [{action: deny}]}"]));
    assert!(!explains(&[quiet, "{explain: true, shadow: true, rules: [{action: deny}]}"]));
}

#[test]
fn a_policy_in_shadow_says_what_it_would_do_and_does_nothing() {
    let shadows = |specs: &[&str], text| {
        let policies = policies(specs);
        let decision = decide(&policies, DefaultAction::Allow, &caller(), call(text));
        let shadows = decision.shadow.into_iter().map(|(name, allowed, reason, _)| (name, allowed, reason));
        let shadows: Vec<_> = shadows.collect();
        (decision.allowed, shadows)
    };
    let would = |name: &str, allowed, reason: &str| (name.to_owned(), allowed, reason.to_owned());
    let deny = "{shadow: true, rules: [{action: deny, to: [{tools: [x]}]}]}";
    let allow_y = "{shadow: true, rules: [{action: allow, to: [{tools: [y]}]}]}";
    let enforced = "{rules: [{action: allow, to: [{tools: [x]}]}]}";
    let both = [would("p0", false, "a/p0#0"), would("p1", false, "no-rule")];
    assert_eq!(shadows(&[deny, allow_y], "tools/call x"), (true, both.to_vec()));
    let both = [would("p0", true, "default"), would("p1", true, "a/p1#0")];
    assert_eq!(shadows(&[deny, allow_y], "tools/call y"), (true, both.to_vec()));
    assert_eq!(shadows(&[enforced, allow_y], "tools/call y"), (false, vec![would("p1", true, "a/p1#0")]));
    assert_eq!(shadows(&[enforced], "tools/call x"), (true, vec![]));
}

#[test]
fn what_the_mesh_marks_is_told_from_what_others_mark() {
    let of = |namespace: &str, spec: &str| {
        let own = policy("p", spec);
        let mut object = (*own).clone();
        object.meta.namespace = namespace.parse().unwrap();
        Arc::new(object)
    };
    let marks = "{rules: [{action: audit, to: [{tools: [x]}]}]}";
    let check = |policies: &[Arc<Object<AccessPolicy>>], default, tool: &str, expected: Marked| {
        let told = decide(policies, default, &caller(), call(&format!("tools/call {tool}")));
        assert_eq!(told.audit, expected);
    };
    let root = crate::resource::ROOT_NAMESPACE;
    check(&[of("a", marks)], DefaultAction::Allow, "x", Marked::ByPolicy);
    check(&[of(root, marks)], DefaultAction::Allow, "x", Marked::ByMesh);
    check(&[of(root, marks)], DefaultAction::Allow, "y", Marked::No);
    check(&[of("a", marks), of(root, marks)], DefaultAction::Allow, "x", Marked::ByMesh);
    check(&[of(root, marks), of("a", marks)], DefaultAction::Allow, "x", Marked::ByMesh);
    check(&[of("a", marks)], DefaultAction::Audit, "x", Marked::ByMesh);
}
