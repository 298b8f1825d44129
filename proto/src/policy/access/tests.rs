mod beside;
mod conditions;
mod laws;
mod scopes;

use super::*;
use crate::mcp::lists::Listed;
use crate::name::{ServerName, SpiffeId, Workload};
use crate::policy::Caller;
use crate::resource::kinds::DefaultAction;
use crate::resource::{Spec, parse_one};
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
fn a_call_that_does_not_say_what_it_is_about_is_refused() {
    for text in ["tools/call", "prompts/get", "resources/read", "completion/complete", "tasks/get"] {
        check(&[], &[(text, false, "unnamed")]);
        check(&["{rules: [{action: allow}]}"], &[(text, false, "unnamed")]);
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
