//! What holds of all policies.

use proptest::prelude::*;

use super::*;
use crate::policy::may_reach;
use crate::resource::kinds::Action;
use crate::testing;

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
