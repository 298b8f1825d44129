//! Which scope a token would need.

use super::*;

#[test]
fn a_scope_is_named_only_if_it_would_be_enough() {
    let scoped =
        caller().with_claims(r#"{"iss": "https://idp", "scope": ["read"], "groups": ["dev"]}"#).unwrap();
    let check = |specs: &[&str], asked: &str, expected: Option<&str>| {
        let policies = policies(specs);
        let view = view(&policies, DefaultAction::Allow, &scoped);
        assert_eq!(view.scope_for(call(asked)), expected, "{asked} by {specs:?}");
        if let Some(Target::Tool(name)) = call(asked).target {
            let shown = listing(self::view(&policies, DefaultAction::Allow, &scoped), true);
            let is_certain = call(asked).arguments.is_none();
            let shows = shown.shows(Listed::Tool, name);
            assert!(shows == expected.is_some() || shows && !is_certain, "{asked} by {specs:?}");
        }
        if let Some(scope) = expected {
            let more = scoped.with_scope("scope", scope).unwrap();
            assert!(!view.decide(call(asked)).allowed);
            assert!(self::view(&policies, DefaultAction::Allow, &more).decide(call(asked)).allowed);
        }
    };
    let write =
        "{rules: [{action: allow, from: [{claims: {scope: [write, admin]}}], to: [{tools: ['write_*']}]}]}";
    check(&[write], "tools/call write_file", Some("write"));
    // Nothing of rules about something else, and nothing for methods about the whole.
    check(&[write], "tools/call read_file", None);
    check(&[write], "tools/list", None);
    check(&[write], "tools/call", None);
    // Another scope does not take back what denies, nor give a group.
    let denied = "{rules: [{action: deny, to: [{tools: [write_file]}]}]}";
    check(&[write, denied], "tools/call write_file", None);
    let ops = "{rules: [{action: allow, from: [{claims: {scope: [write], groups: [ops]}}]}]}";
    check(&[ops], "tools/call write_file", None);
    check(&[&ops.replace("ops", "dev")], "tools/call write_file", Some("write"));
    check(&[&ops.replace("claims", "tenants: [acme], claims").replace("ops", "dev")], "tools/call x", None);
    // A scope may be what another rule denies.
    let no_write = "{rules: [{action: deny, from: [{claims: {scope: [write]}}]}]}";
    check(&[write, no_write], "tools/call write_file", Some("admin"));
    // A pattern names no scope; a condition holds for it, whatever it says.
    check(&[&write.replace("[write, admin]", "['w*', 'a b']")], "tools/call write_file", None);
    let only = |when: &str| write.replace("to:", &format!("when: \"{when}\", to:"));
    check(&[&only("args.n == 1")], r#"tools/call write_file {"n":1}"#, Some("write"));
    check(&[&only("args.n == 1")], r#"tools/call write_file {"n":2}"#, None);
    // Whoever has claims of no token lacks none, and a shadow decides nothing.
    let policies = policies(&[write]);
    assert_eq!(
        view(&policies, DefaultAction::Allow, &caller()).scope_for(call("tools/call write_file")),
        None
    );
    check(&[&write.replace("{rules", "{shadow: true, rules"), denied], "tools/call write_file", None);
}

#[test]
fn no_more_scopes_are_tried_than_a_few() {
    let scoped = caller().with_claims(r#"{"scope": []}"#).unwrap();
    let check = |in_vain: usize, expected: Option<&str>| {
        let names = |from: &str| (0..in_vain).map(|n| format!("{from}{n}")).collect::<Vec<_>>().join(", ");
        let spec = format!(
            "{{rules: [{{action: deny, from: [{{claims: {{scope: [x, {0}]}}}}]}}, \
             {{action: allow, from: [{{claims: {{scope: [{0}, good]}}}}]}}]}}",
            names("bad")
        );
        let view = view(&policies(&[&spec]), DefaultAction::Allow, &scoped);
        assert_eq!(view.scope_for(call("tools/call t")), expected, "{in_vain}");
    };
    check(7, Some("good"));
    check(8, None);
}
