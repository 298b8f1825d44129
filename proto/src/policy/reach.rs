//! Whom a sidecar needs to know: a test of identities alone, made before there is any call.
//!
//! It errs on the side of "yes": whoever is told about a server it may not call is refused there. It must never say
//! "no" to a caller of whom some call would be let through.

use crate::name::Workload;
use crate::resource::kinds::{AccessPolicy, AccessRule, Action, DefaultAction, VirtualServer};

use super::caller::{Caller, Likeness};

/// Whether a workload of this mesh could be allowed any call of a server, by the policies that select the server.
/// Targets and conditions are taken to match wherever they might.
///
/// - A `deny` for the workload without targets and conditions settles it: no.
/// - Else, with an `allow` rule in any of the policies, one must speak of the workload. `audit` rules record, they do
///   not allow.
/// - Else the default of the mesh holds.
///
/// Shadow policies enforce nothing and do not count.
pub fn may_reach<'a>(
    caller: &Workload,
    policies: impl IntoIterator<Item = &'a AccessPolicy>,
    default_action: DefaultAction,
) -> bool {
    let caller = Caller::new(caller.clone());
    let (mut an_allow_exists, mut allowed) = (false, false);
    let enforced = policies.into_iter().filter(|policy| !policy.shadow);
    for rule in enforced.flat_map(|policy| &policy.rules) {
        let AccessRule { name: _, action, from, to, when } = rule;
        match action {
            Action::Deny if to.is_some() || when.is_some() => {}
            Action::Deny if caller.is_like_any(from.as_ref()) == Likeness::Yes => return false,
            Action::Allow => {
                an_allow_exists = true;
                allowed = allowed || caller.is_like_any(from.as_ref()) != Likeness::No;
            }
            Action::Deny | Action::Audit => {}
        }
    }
    match an_allow_exists {
        true => allowed,
        false => default_action != DefaultAction::Deny,
    }
}

/// Whether a workload of this mesh could be among those that a virtual server is for.
pub fn may_use(caller: &Workload, virtual_server: &VirtualServer) -> bool {
    Caller::new(caller.clone()).is_like_any(virtual_server.audience.as_ref()) != Likeness::No
}

/// Whether a caller is among those that a virtual server is for.
pub fn is_for(caller: &Caller, virtual_server: &VirtualServer) -> bool {
    caller.is_one_of(virtual_server.audience.as_ref())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::name::SpiffeId;
    use crate::resource::{Spec, parse_one};
    use crate::testing;

    fn policy(spec: &str) -> AccessPolicy {
        let text = format!(
            "{{apiVersion: weft.dev/v1alpha1, kind: AccessPolicy, metadata: {{namespace: a, name: p}}, spec: {spec}}}"
        );
        match parse_one("f", &text).unwrap().spec {
            Spec::AccessPolicy(policy) => policy,
            other => panic!("{other:?} is no access policy"),
        }
    }

    fn workload() -> Workload {
        SpiffeId::parse("spiffe://d/ns/agents/sa/reviewer").unwrap().workload().unwrap()
    }

    #[track_caller]
    fn check(policies: &[&str], default_action: DefaultAction, expected: bool) {
        let policies: Vec<_> = policies.iter().map(|spec| policy(spec)).collect();
        assert_eq!(may_reach(&workload(), &policies, default_action), expected);
    }

    #[test]
    fn without_policies_the_default_holds() {
        check(&[], DefaultAction::Allow, true);
        check(&[], DefaultAction::Audit, true);
        check(&[], DefaultAction::Deny, false);
    }

    #[test]
    fn once_an_allow_exists_one_must_speak_of_the_caller() {
        let other = "{rules: [{action: allow, from: [{namespaces: [other]}]}]}";
        let own =
            "{rules: [{action: allow, from: [{namespaces: [agents]}], to: [{tools: [x]}], when: 'false'}]}";
        check(&[other], DefaultAction::Allow, false);
        check(&[other, own], DefaultAction::Deny, true);
        check(&["{rules: [{action: allow}]}"], DefaultAction::Deny, true);
    }

    #[test]
    fn a_deny_without_targets_and_conditions_settles_it() {
        let allow = "{rules: [{action: allow}]}";
        check(&[allow, "{rules: [{action: deny}]}"], DefaultAction::Allow, false);
        check(
            &["{rules: [{action: deny, from: [{namespaces: [ag*]}]}]}", allow],
            DefaultAction::Allow,
            false,
        );
        check(&[allow, "{rules: [{action: deny, from: [{namespaces: [b]}]}]}"], DefaultAction::Allow, true);
        check(&[allow, "{rules: [{action: deny, to: [{tools: ['*']}]}]}"], DefaultAction::Allow, true);
        check(&[allow, "{rules: [{action: deny, when: 'true'}]}"], DefaultAction::Allow, true);
    }

    #[test]
    fn an_audit_rule_is_no_allow() {
        let audit = "{rules: [{action: audit}]}";
        check(&[audit], DefaultAction::Allow, true);
        check(&[audit], DefaultAction::Deny, false);
        check(&[audit, "{rules: [{action: allow, from: [{namespaces: [b]}]}]}"], DefaultAction::Allow, false);
    }

    #[test]
    fn a_shadow_policy_does_not_count() {
        check(&["{shadow: true, rules: [{action: deny}]}"], DefaultAction::Allow, true);
        check(&["{shadow: true, rules: [{action: allow}]}"], DefaultAction::Deny, false);
        check(
            &["{shadow: true, rules: [{action: allow, from: [{namespaces: [b]}]}]}"],
            DefaultAction::Allow,
            true,
        );
    }

    #[test]
    fn claims_and_tenants_may_fit_an_allow_and_settle_no_deny() {
        for part in ["claims: {groups: [x]}", "tenants: [x]"] {
            let allow = format!("{{rules: [{{action: allow, from: [{{{part}}}]}}]}}");
            let deny = format!("{{rules: [{{action: deny, from: [{{{part}}}]}}]}}");
            check(&[&allow], DefaultAction::Deny, true);
            check(&[&deny], DefaultAction::Allow, true);
            let elsewhere = format!("{{rules: [{{action: allow, from: [{{namespaces: [b], {part}}}]}}]}}");
            check(&[&elsewhere], DefaultAction::Allow, false);
        }
    }

    #[test]
    fn every_part_of_a_match_must_fit_and_any_pattern_of_a_part() {
        let allow = |from: &str| format!("{{rules: [{{action: allow, from: [{from}]}}]}}");
        let check = |from: &str, expected| check(&[&allow(from)], DefaultAction::Deny, expected);
        check("{namespaces: [b, agents]}", true);
        check("{namespaces: [agents], serviceAccounts: [other]}", false);
        check("{namespaces: [b]}, {serviceAccounts: [reviewer]}", true);
        check("{serviceAccounts: [agents/reviewer]}", true);
        check("{serviceAccounts: ['*/reviewer']}", true);
        check("{serviceAccounts: [b/reviewer]}", false);
        check("{serviceAccounts: [agents]}", false);
        check("{identities: ['spiffe://d/ns/*/sa/reviewer']}", true);
        check("{identities: ['spiffe://e/ns/*/sa/reviewer']}", false);
    }

    proptest! {
        /// The law that makes it conservative: more deny rules never open anything, and more rules that allow this very
        /// caller never close anything.
        #[test]
        fn rules_for_the_caller_move_the_answer_their_own_way(policies in proptest::collection::vec(testing::access_policy(), 0..3)) {
            let before = may_reach(&workload(), &policies, DefaultAction::Allow);
            let with = |spec: &str| {
                let more: Vec<_> = policies.iter().cloned().chain([policy(spec)]).collect();
                may_reach(&workload(), &more, DefaultAction::Allow)
            };
            let denied = with("{rules: [{action: deny, from: [{namespaces: [agents]}]}]}");
            let allowed = with("{rules: [{action: allow, from: [{namespaces: [agents]}]}]}");
            prop_assert!(!denied && before <= allowed);
            prop_assert_eq!(before, with("{shadow: true, rules: [{action: deny}]}"));
        }
    }
}
