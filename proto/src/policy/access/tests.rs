use proptest::prelude::*;

use super::*;
use crate::mcp::lists::Listed;
use crate::name::{ServerName, SpiffeId, Workload};
use crate::policy::{Caller, may_reach};
use crate::resource::kinds::{Action, DefaultAction};
use crate::resource::{Spec, parse_one};
use crate::testing;
use crate::wire::Meta;

fn policy(name: &str, spec: &str) -> Arc<Object<AccessPolicy>> {
    let text = format!(
        "{{apiVersion: weft.dev/v1alpha1, kind: AccessPolicy, metadata: {{namespace: a, name: {name}}}, spec: {spec}}}"
    );
    let resource = parse_one("f", &text).unwrap();
    let Spec::AccessPolicy(spec) = resource.spec else { panic!("{text} is an access policy") };
    Arc::new(Object { meta: Meta::new(&resource.metadata, 1), spec })
}

/// Named `p0`, `p1`, ….
fn policies(specs: &[&str]) -> Vec<Arc<Object<AccessPolicy>>> {
    specs.iter().enumerate().map(|(n, spec)| policy(&format!("p{n}"), spec)).collect()
}

fn workload() -> Workload {
    SpiffeId::parse("spiffe://d/ns/agents/sa/reviewer").unwrap().workload().unwrap()
}

fn caller() -> Caller {
    Caller::new(workload())
}

fn listing(view: View, can_ask: bool) -> Listing {
    Listing::new(Arc::new(view), &mut WithScope::new(can_ask))
}

/// `tools/call read {}`: a method, what it names, and with which arguments.
fn call(text: &str) -> Call<'_> {
    let mut words = text.splitn(3, ' ');
    let (method, name, arguments) = (words.next().unwrap(), words.next(), words.next());
    let arguments = arguments.map(|json| Raw::scan(json, 64).unwrap());
    let target = name.map(|name| match method {
        "tools/call" => Target::Tool(name),
        "prompts/get" => Target::Prompt(name),
        "completion/complete" if !name.contains(':') => Target::Prompt(name),
        method if method.starts_with("tasks/") => Target::Task(name),
        _ => Target::Resource(name),
    });
    Call { method, target, arguments }
}

/// What was decided, said so that it can be compared and kept.
#[derive(Debug, PartialEq)]
struct Told {
    allowed: bool,
    reason: String,
    explain: bool,
    audit: Marked,
    shadow: Vec<(String, bool, String, bool)>,
}

impl From<Decision<'_>> for Told {
    fn from(decision: Decision<'_>) -> Self {
        let Decision { allowed, reason, explain, audit, shadow } = decision;
        let shadow = shadow
            .iter()
            .map(|it| (it.policy.meta.name.to_string(), it.allowed, it.reason.to_string(), it.audit));
        let reason = reason.to_string();
        Self { allowed, reason, explain, audit, shadow: shadow.collect() }
    }
}

fn server() -> ServerName {
    ServerName::parse("tools/files").unwrap()
}

fn view(policies: &[Arc<Object<AccessPolicy>>], default_action: DefaultAction, caller: &Caller) -> View {
    View::new(&policies.iter().cloned().collect(), default_action, caller.clone(), server())
}

/// Every decision of these tests is made twice.
#[track_caller]
fn decide(
    policies: &[Arc<Object<AccessPolicy>>],
    default_action: DefaultAction,
    caller: &Caller,
    call: Call<'_>,
) -> Told {
    let told = Told::from(view(policies, default_action, caller).decide(call));
    assert_eq!(
        told,
        Told::from(reference::decide(policies, default_action, (caller, &server()), call)),
        "{call:?}"
    );
    told
}

/// By default everything is allowed, to see what policies close.
#[track_caller]
fn check(specs: &[&str], calls: &[(&str, bool, &str)]) {
    check_with(DefaultAction::Allow, specs, calls);
}

#[track_caller]
fn check_with(default_action: DefaultAction, specs: &[&str], calls: &[(&str, bool, &str)]) {
    let policies = policies(specs);
    for (text, allowed, reason) in calls {
        let decision = decide(&policies, default_action, &caller(), call(text));
        assert_eq!((decision.allowed, decision.reason.as_str()), (*allowed, *reason), "{text}");
    }
}

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

#[test]
fn without_rules_the_default_of_the_mesh_holds() {
    let calls = ["initialize", "tools/call x", "skills/get"];
    for (default_action, allowed, audit) in [
        (DefaultAction::Allow, true, false),
        (DefaultAction::Audit, true, true),
        (DefaultAction::Deny, false, false),
    ] {
        for text in calls {
            let decision = decide(&[], default_action, &caller(), call(text));
            assert_eq!(
                (decision.allowed, decision.audit.is_marked(), decision.explain),
                (allowed, audit, false),
                "{text}"
            );
            assert_eq!(decision.reason, "default");
        }
    }
}

#[test]
fn once_a_rule_allows_what_none_allows_is_refused() {
    let readers = "{rules: [{name: readers, action: allow, from: [{namespaces: [agents]}], to: [{tools: ['read_*', list]}]}]}";
    let calls = [
        ("tools/call read_file", true, "a/p0#readers"),
        ("tools/call list", true, "a/p0#readers"),
        ("tools/call lists", false, "no-rule"),
        ("tools/call Read_file", false, "no-rule"),
        ("prompts/get list", false, "no-rule"),
        ("resources/read list", false, "no-rule"),
        ("completion/complete list", false, "no-rule"),
        ("skills/get", false, "no-rule"),
        ("tools/list", true, "a/p0#readers"),
        ("initialize", true, "a/p0#readers"),
        ("notifications/initialized", true, "a/p0#readers"),
        ("subscriptions/listen", true, "a/p0#readers"),
        ("tasks/get t", true, "a/p0#readers"),
    ];
    check(&[readers], &calls);
    check_with(DefaultAction::Deny, &[readers], &calls);
    let others = "{rules: [{action: allow, from: [{namespaces: [b]}]}]}";
    check(
        &[others],
        &[
            ("tools/call read_file", false, "no-rule"),
            ("initialize", false, "no-rule"),
            ("ping", false, "no-rule"),
        ],
    );
    check(
        &[others, readers],
        &[("tools/call read_file", true, "a/p1#readers"), ("ping", true, "a/p1#readers")],
    );
}

#[test]
fn a_deny_wins_wherever_it_stands() {
    let allow = "{rules: [{action: allow}]}";
    let deny = "{rules: [{action: audit}, {action: deny, to: [{tools: ['rm*']}, {methods: [tools/list, 'prompts/*']}]}]}";
    for order in [[allow, deny], [deny, allow]] {
        let reason = if order[0] == deny { "a/p0#1" } else { "a/p1#1" };
        let allowing = if order[0] == allow { "a/p0#0" } else { "a/p1#0" };
        check(
            &order,
            &[
                ("tools/call rm_all", false, reason),
                ("tools/list", false, reason),
                ("prompts/get x", false, reason),
                ("prompts/list", false, reason),
                ("tools/call ls", true, allowing),
                ("resources/list", true, allowing),
                ("skills/get", true, allowing),
            ],
        );
    }
}

#[test]
fn a_deny_without_targets_refuses_everything() {
    let deny = "{rules: [{action: deny, from: [{serviceAccounts: [reviewer]}]}]}";
    for text in ["initialize", "notifications/x", "tools/call x", "tasks/cancel t", "skills/get"] {
        check(&["{rules: [{action: allow}]}", deny], &[(text, false, "a/p1#0")]);
    }
}

#[test]
fn methods_and_names_must_both_match() {
    let rule = "{rules: [{action: allow, to: [{methods: [resources/read], resources: ['file:///a/*'], tools: [x]}]}]}";
    check(
        &[rule],
        &[
            ("resources/read file:///a/b", true, "a/p0#0"),
            ("resources/subscribe file:///a/b", false, "no-rule"),
            ("completion/complete file:///a/b", false, "no-rule"),
            ("resources/read file:///b", false, "no-rule"),
            ("tools/call x", false, "no-rule"),
        ],
    );
    let kinds = "{rules: [{action: allow, to: [{prompts: [p], resources: ['file:*']}]}]}";
    check(
        &[kinds],
        &[
            ("prompts/get p", true, "a/p0#0"),
            ("completion/complete p", true, "a/p0#0"),
            ("completion/complete file:x", true, "a/p0#0"),
            ("resources/unsubscribe file:x", true, "a/p0#0"),
            ("tools/call p", false, "no-rule"),
        ],
    );
    check(&["{rules: [{action: allow, to: [{methods: ['skills/*']}]}]}"], &[("skills/get", true, "a/p0#0")]);
}

#[test]
fn a_workload_without_claims_and_tenant_is_not_who_has_them() {
    for part in ["claims: {groups: ['*']}", "tenants: ['*']"] {
        let allow = format!("{{rules: [{{action: allow, from: [{{{part}}}]}}]}}");
        let deny = format!("{{rules: [{{action: deny, from: [{{{part}}}], to: [{{tools: [x]}}]}}]}}");
        check(&[&allow], &[("tools/call x", false, "no-rule"), ("tools/list", false, "no-rule")]);
        check(&[&deny], &[("tools/call x", true, "default"), ("tools/call y", true, "default")]);
    }
}

#[test]
fn tenants_and_claims_of_a_caller_are_matched() {
    let policies =
        policies(&["{rules: [{action: allow, from: [{tenants: [acme], claims: {groups: [dev]}}]}]}"]);
    let decide = |caller| decide(&policies, DefaultAction::Allow, &caller, call("tools/call x")).allowed;
    assert!(decide(caller().of_tenant("acme").with_claims(r#"{"groups": ["ops", "dev"]}"#).unwrap()));
    assert!(!decide(caller().of_tenant("other").with_claims(r#"{"groups": ["dev"]}"#).unwrap()));
    assert!(!decide(caller().of_tenant("acme").with_claims(r#"{"groups": ["ops"]}"#).unwrap()));
}

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

#[test]
fn a_call_that_does_not_say_what_it_is_about_is_refused() {
    for text in ["tools/call", "prompts/get", "resources/read", "completion/complete", "tasks/get"] {
        check(&[], &[(text, false, "unnamed")]);
        check(&["{rules: [{action: allow}]}"], &[(text, false, "unnamed")]);
    }
}

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

fn some_policies() -> impl Strategy<Value = Vec<Arc<Object<AccessPolicy>>>> {
    let object = (testing::metadata(), testing::access_policy(), any::<bool>());
    let object = object.prop_map(|(metadata, mut spec, enforced)| {
        spec.shadow &= !enforced;
        Arc::new(Object { meta: Meta::new(&metadata, 1), spec })
    });
    proptest::collection::vec(object, 0..4)
}

fn some_call() -> impl Strategy<Value = String> {
    let name = "[a-d]{1,2}";
    prop_oneof![
        name.prop_map(|name| format!("tools/call {name}")),
        (name, some_arguments()).prop_map(|(name, arguments)| format!("tools/call {name} {arguments}")),
        name.prop_map(|name| format!("prompts/get {name}")),
        name.prop_map(|name| format!("resources/read {name}:")),
        name.prop_map(|name| format!("completion/complete {name}")),
        name.prop_map(|name| format!("tasks/get {name}")),
        Just("initialize".to_owned()),
        Just("tools/list".to_owned()),
        Just("tools/call".to_owned()),
        name,
    ]
}

fn some_arguments() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(&["{}", r#"{"a":1}"#, r#"{"a":true}"#, r#"{"a":2,"b":3}"#][..])
}

/// Callers that the arbitrary policies speak of now and then.
fn some_workload() -> impl Strategy<Value = Workload> {
    "spiffe://[a-d]\\.example/ns/[a-d]/sa/[a-d]"
        .prop_map(|id| SpiffeId::parse(&id).unwrap().workload().unwrap())
}

fn some_default() -> impl Strategy<Value = DefaultAction> {
    prop_oneof![Just(DefaultAction::Allow), Just(DefaultAction::Audit), Just(DefaultAction::Deny)]
}

proptest! {
    #[test]
    fn whoever_is_allowed_a_call_may_reach_the_server(
        policies in some_policies(), text in some_call(), workload in some_workload(), default_action in some_default(),
    ) {
        let caller = Caller::new(workload.clone());
        let decision = decide(&policies, default_action, &caller, call(&text));
        let reach = may_reach(&workload, policies.iter().map(|it| &it.spec), default_action);
        prop_assert!(decision.allowed <= reach);
        let general = decide(&policies, default_action, &caller, call("ping")).allowed;
        prop_assert!(general <= reach);
    }

    #[test]
    fn another_deny_never_opens_and_another_allow_for_all_never_closes(
        policies in some_policies(), text in some_call(), workload in some_workload(), default_action in some_default(),
        more in testing::access_policy(),
    ) {
        let caller = Caller::new(workload);
        let allowed = |policies: &[_]| decide(policies, default_action, &caller, call(&text)).allowed;
        let before = allowed(&policies);
        let deny_only = more.rules.iter().all(|rule| rule.action != Action::Allow);
        let with = |spec| {
            let mut all = policies.clone();
            all.push(spec);
            allowed(&all)
        };
        let denied = with(policy("p", "{rules: [{action: deny}]}"));
        let opened = with(policy("p", "{rules: [{action: allow}]}"));
        prop_assert!(!denied && before <= opened);
        if deny_only {
            let mut object = Object::clone(&policy("p", "{rules: [{action: deny}]}"));
            object.spec = more;
            prop_assert!(with(Arc::new(object)) <= before);
        }
    }

    #[test]
    fn the_order_of_policies_names_the_reason_and_nothing_else(
        policies in some_policies(), text in some_call(), workload in some_workload(), default_action in some_default(),
        turn in 0..4_usize,
    ) {
        let caller = Caller::new(workload);
        let first = decide(&policies, default_action, &caller, call(&text));
        let mut turned = policies;
        turned.reverse();
        let by = turn.min(turned.len());
        turned.rotate_left(by);
        let second = decide(&turned, default_action, &caller, call(&text));
        prop_assert_eq!((first.allowed, first.audit), (second.allowed, second.audit));
        prop_assert_eq!(first.shadow.len(), second.shadow.len());
    }

    /// The law that `Shadow` promises.
    #[test]
    fn a_shadow_foretells_what_enforcing_does(
        policies in some_policies(), text in some_call(), workload in some_workload(), default_action in some_default(),
    ) {
        let caller = Caller::new(workload);
        decide(&policies, default_action, &caller, call(&text));
        let view = view(&policies, default_action, &caller);
        for shadow in view.decide(call(&text)).shadow {
            let enforced = policies.iter().map(|it| {
                let mut object = Object::clone(it);
                object.spec.shadow &= !Arc::ptr_eq(it, shadow.policy);
                Arc::new(object)
            });
            let enforced: Vec<_> = enforced.collect();
            prop_assert_eq!(decide(&enforced, default_action, &caller, call(&text)).allowed, shadow.allowed);
        }
    }
}

proptest! {
    #[test]
    fn what_may_be_called_is_seen(
        policies in some_policies(), name in "[a-d]{1,2}", workload in some_workload(), default_action in some_default(),
        arguments in some_arguments(),
    ) {
        let view = view(&policies, default_action, &Caller::new(workload));
        for (method, target) in [
            ("tools/call", Target::Tool(&name)),
            ("prompts/get", Target::Prompt(&name)),
            ("resources/read", Target::Resource(&name)),
        ] {
            let arguments = Some(Raw::scan(arguments, 64).unwrap());
            let allowed = view.decide(Call { method, target: Some(target), arguments }).allowed;
            prop_assert!(allowed <= view.may_see(target));
        }
    }

    #[test]
    fn a_list_shows_what_is_seen_one_by_one(
        policies in some_policies(), names in proptest::collection::vec("[a-d{}]{1,3}", 1..4),
        workload in some_workload(), default_action in some_default(),
    ) {
        let view = Arc::new(view(&policies, default_action, &Caller::new(workload)));
        let listing = Listing::new(Arc::clone(&view), &mut WithScope::new(true));
        for kind in Listed::ALL {
            for name in &names {
                prop_assert_eq!(listing.shows(kind, name), view.may_list(kind, name), "{:?} {}", kind, name);
            }
        }
    }
}

#[test]
fn a_list_is_looked_at_with_so_many_scopes_and_no_more() {
    let scoped = caller().with_claims(r#"{"scope": ["a"]}"#).unwrap();
    let rule = |n: usize| {
        format!("{{action: allow, from: [{{claims: {{scope: [s{n}, a b]}}}}], to: [{{tools: [t{n}]}}]}}")
    };
    let spec = format!("{{rules: [{}]}}", (0..40).map(rule).collect::<Vec<_>>().join(", "));
    let shown = |can_ask: bool| {
        let listing = listing(view(&policies(&[&spec]), DefaultAction::Allow, &scoped), can_ask);
        (0..40).filter(|n| listing.shows(Listed::Tool, &format!("t{n}"))).count()
    };
    assert_eq!((shown(true), shown(false)), (32, 0));
    let templates =
        "{rules: [{action: allow, from: [{claims: {scope: [w]}}], to: [{resources: ['file:///d/*']}]}]}";
    let listing = listing(view(&policies(&[templates]), DefaultAction::Allow, &scoped), true);
    let shows = |template| listing.shows(Listed::ResourceTemplate, template);
    assert!(shows("file:///d/{name}") && !shows("file:///e/{name}"));
}

#[test]
fn a_template_is_seen_where_some_uri_of_it_may_be_read() {
    let sees = |specs: &[&str], template| {
        view(&policies(specs), DefaultAction::Allow, &caller()).may_see_template(template)
    };
    let data = "{rules: [{action: allow, to: [{resources: ['file:///data/*', 'file:///exact']}]}]}";
    for (template, expected) in [
        ("file:///data/{path}", true),
        ("file:///{+path}", true),
        ("file:///{a}/{b}.txt", true),
        ("file:///e{x}t", true),
        ("file:///etc/{path}", false),
        ("{scheme}:///exact", true),
        ("{scheme}:///exactly", true),
        ("file:///exact{x}ly", false),
        ("file:///{broken", false),
    ] {
        assert_eq!(sees(&[data], template), expected, "{template}");
    }
    let deny = "{rules: [{action: deny, to: [{resources: ['file:///etc/*']}]}]}";
    assert!(!sees(&[deny], "file:///etc/{path}") && sees(&[deny], "file:///{path}"));
    assert!(sees(&["{rules: [{action: deny, when: 'args.a'}]}"], "x:{a}"));
    assert!(!sees(&["{rules: [{action: allow, to: [{tools: [x]}]}]}"], "x:{a}"));
}

proptest! {
    #[test]
    fn a_template_of_which_some_uri_may_be_read_is_seen(
        policies in some_policies(), pieces in proptest::collection::vec("[a-d:]{0,2}", 1..4), filled in "[a-d:]{0,2}",
        workload in some_workload(), default_action in some_default(),
    ) {
        let view = view(&policies, default_action, &Caller::new(workload));
        let (template, uri) = (pieces.join("{x}"), pieces.join(&filled));
        let target = Some(Target::Resource(&uri));
        let call = Call { method: method::RESOURCES_READ, target, arguments: None };
        prop_assert!(view.decide(call).allowed <= view.may_see_template(&template), "{} of {}", uri, template);
    }
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
