//! What rules say in vain, or say to everybody: for whoever looks after policies. Nothing is decided here, and a rule of
//! which nothing is said may still be wrong.

use std::fmt;
use std::sync::Arc;

use crate::policy::Caller;
use crate::policy::caller::Likeness;
use crate::resource::kinds::{AccessPolicy, AccessRule, Action, CallerMatch, Patterns};
use crate::wire::Object;

use super::RuleRef;

/// Most rules of one server that are compared with each other: each is with every other one.
pub const COMPARED_MAX: usize = 1000;

/// Something odd about a rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flawed<'p> {
    pub rule: RuleRef<'p>,
    pub flaw: Flaw<'p>,
}

/// What is odd.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Flaw<'p> {
    /// What it allows, another rule denies.
    Denied(RuleRef<'p>),
    /// Another rule says as much.
    Said(RuleRef<'p>),
    /// It speaks only of callers with claims or of tenants, and callers of the mesh have none.
    OfNobody,
    /// It allows everything to every caller of the mesh.
    ToEverybody,
}

impl fmt::Display for Flaw<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(by) => write!(f, "is denied by {by}"),
            Self::Said(by) => write!(f, "is said by {by}"),
            Self::OfNobody => f.write_str("speaks only of claims or tenants"),
            Self::ToEverybody => f.write_str("allows everything to everybody"),
        }
    }
}

/// Looks at the rules of the policies that select one server. Those of policies in shadow are passed over, and of more
/// than [`COMPARED_MAX`] the rest is not compared.
pub fn review(policies: &[Arc<Object<AccessPolicy>>]) -> Vec<Flawed<'_>> {
    let enforced = policies.iter().filter(|policy| !policy.spec.shadow);
    let rules: Vec<(RuleRef<'_>, &AccessRule)> = enforced
        .flat_map(|policy| {
            let numbered = policy.spec.rules.iter().enumerate();
            numbered.map(move |(index, rule)| (RuleRef { policy, index }, rule))
        })
        .collect();
    let compared = &rules[..rules.len().min(COMPARED_MAX)];
    let mut found = Vec::new();
    for (place, (reference, rule)) in rules.iter().enumerate() {
        let flaw = alone(rule).or_else(|| (place < COMPARED_MAX).then(|| vain(compared, place)).flatten());
        found.extend(flaw.map(|flaw| Flawed { rule: *reference, flaw }));
    }
    found
}

/// Whether a rule speaks of a caller, by the caller's identity alone.
pub fn may_be_about(rule: &AccessRule, caller: &Caller) -> bool {
    caller.is_like_any(rule.from.as_ref()) != Likeness::No
}

fn alone<'p>(rule: &AccessRule) -> Option<Flaw<'p>> {
    let of_nobody = |it: &CallerMatch| it.tenants.is_some() || !it.claims.is_empty();
    match &rule.from {
        Some(from) if from.iter().all(of_nobody) => Some(Flaw::OfNobody),
        from if rule.action == Action::Allow && rule.to.is_none() && rule.when.is_none() => {
            let to_everybody = from.as_ref().is_none_or(|from| from.iter().any(is_everybody));
            to_everybody.then_some(Flaw::ToEverybody)
        }
        _ => None,
    }
}

fn is_everybody(it: &CallerMatch) -> bool {
    let any = |patterns: &Option<Patterns>| {
        patterns.as_ref().is_none_or(|patterns| patterns.iter().any(|it| matches!(it.as_str(), "*" | "*/*")))
    };
    it.identities.is_none()
        && it.tenants.is_none()
        && it.claims.is_empty()
        && any(&it.namespaces)
        && any(&it.service_accounts)
}

/// Whether another rule takes everything from this one.
fn vain<'p>(rules: &[(RuleRef<'p>, &AccessRule)], place: usize) -> Option<Flaw<'p>> {
    let (_, rule) = rules.get(place)?;
    let denies = |other: &AccessRule| rule.action == Action::Allow && other.action == Action::Deny;
    let denied = rules.iter().find(|(_, other)| denies(other) && covers(other, rule));
    if let Some((by, _)) = denied {
        return Some(Flaw::Denied(*by));
    }
    let says = |(at, (_, other)): &(usize, &(RuleRef<'p>, &AccessRule))| {
        // Of two that say the same, the later one is in vain.
        *at != place
            && other.action == rule.action
            && covers(other, rule)
            && (*at < place || !covers(rule, other))
    };
    rules.iter().enumerate().find(says).map(|(_, (by, _))| Flaw::Said(*by))
}

/// Whether a rule speaks of everything that another one speaks of, as far as that can be seen from how they are written.
fn covers(rule: &AccessRule, other: &AccessRule) -> bool {
    let AccessRule { name: _, action: _, from, to, when } = rule;
    all_in(other.from.as_deref(), from.as_deref())
        && all_in(other.to.as_deref(), to.as_deref())
        && (when.is_none() || *when == other.when)
}

/// Whether all of some are among others; everything is, where those are not restricted.
fn all_in<T: PartialEq>(some: Option<&[T]>, others: Option<&[T]>) -> bool {
    match (some, others) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(some), Some(others)) => some.iter().all(|it| others.contains(it)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mcp::{Target, method};
    use crate::name::{ServerName, SpiffeId};
    use crate::policy::access::{Call, View};
    use crate::resource::kinds::DefaultAction;
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

    fn caller() -> Caller {
        Caller::new(SpiffeId::parse("spiffe://d/ns/agents/sa/reviewer").unwrap().workload().unwrap())
    }

    #[track_caller]
    fn check(rules: &[&str], expected: &[&str]) {
        let policies: Vec<_> = rules
            .iter()
            .enumerate()
            .map(|(n, rule)| policy(&format!("p{n}"), &format!("{{rules: [{rule}]}}")))
            .collect();
        let found: Vec<_> = review(&policies).iter().map(|it| format!("{} {}", it.rule, it.flaw)).collect();
        assert_eq!(found, expected);
    }

    const READERS: &str = "{action: allow, from: [{namespaces: [agents]}], to: [{tools: [read]}]}";

    #[test]
    fn rules_that_say_something_are_not_remarked_on() {
        check(&[READERS], &[]);
        check(&[READERS, "{action: allow, from: [{namespaces: [others]}], to: [{tools: [read]}]}"], &[]);
        check(&[READERS, "{action: deny, from: [{namespaces: [agents]}], to: [{tools: [write]}]}"], &[]);
        check(&[READERS, "{action: deny, to: [{tools: [read]}], when: 'args.x == 1'}"], &[]);
        check(&["{action: allow, to: [{tools: [search]}]}"], &[]);
        check(&["{action: audit}"], &[]);
    }

    #[test]
    fn what_is_allowed_and_denied_is_allowed_in_vain() {
        check(&[READERS, "{action: deny}"], &["a/p0#0 is denied by a/p1#0"]);
        check(&["{action: deny, to: [{tools: [read]}]}", READERS], &["a/p1#0 is denied by a/p0#0"]);
        check(
            &[READERS, "{action: deny, from: [{namespaces: [agents]}, {namespaces: [x]}]}"],
            &["a/p0#0 is denied by a/p1#0"],
        );
    }

    #[test]
    fn of_rules_that_say_the_same_the_later_one_is_in_vain() {
        check(&[READERS, READERS], &["a/p1#0 is said by a/p0#0"]);
        let more = "{action: allow, from: [{namespaces: [agents]}]}";
        check(&[READERS, more], &["a/p0#0 is said by a/p1#0"]);
        let when = "{action: audit, to: [{tools: [x]}], when: 'args.x == 1'}";
        check(&[when, when], &["a/p1#0 is said by a/p0#0"]);
    }

    #[test]
    fn a_rule_for_claims_alone_is_of_nobody_and_one_for_all_is_to_everybody() {
        let nobody = "speaks only of claims or tenants";
        check(&["{action: allow, from: [{tenants: [t]}]}"], &[&format!("a/p0#0 {nobody}")]);
        check(
            &["{action: deny, from: [{claims: {g: [x]}}, {tenants: [t]}]}"],
            &[&format!("a/p0#0 {nobody}")],
        );
        check(&["{action: allow, from: [{tenants: [t]}, {namespaces: [x]}]}"], &[]);
        let everybody = "allows everything to everybody";
        check(&["{action: allow}"], &[&format!("a/p0#0 {everybody}")]);
        check(&["{action: allow, from: [{namespaces: ['*']}]}"], &[&format!("a/p0#0 {everybody}")]);
        check(&["{action: allow, from: [{serviceAccounts: ['*/*']}]}"], &[&format!("a/p0#0 {everybody}")]);
        check(&["{action: deny}"], &[]);
    }

    #[test]
    fn a_policy_in_shadow_neither_hides_nor_is_hidden() {
        let policies = [
            policy("p", &format!("{{rules: [{READERS}]}}")),
            policy("q", "{shadow: true, rules: [{action: deny}]}"),
        ];
        assert_eq!(review(&policies), []);
    }

    #[test]
    fn a_rule_is_about_whom_its_identity_might_fit() {
        let about = |rule: &str| {
            let policy = policy("p", &format!("{{rules: [{rule}]}}"));
            may_be_about(&policy.spec.rules[0], &caller())
        };
        assert!(about(READERS));
        assert!(about("{action: allow}"));
        assert!(about("{action: allow, from: [{namespaces: [agents], tenants: [t]}]}"));
        assert!(!about("{action: allow, from: [{namespaces: [others]}]}"));
    }

    proptest! {
        /// The law behind a remark: without a rule that is said to be in vain, every call is decided the same.
        #[test]
        fn nothing_is_decided_otherwise_without_a_rule_in_vain(
            specs in proptest::collection::vec(testing::access_policy(), 1..4),
            tool in "[a-c]",
        ) {
            let object = |(n, spec): (usize, &AccessPolicy)| {
                let meta = policy(&format!("p{n}"), "{rules: [{action: audit}]}").meta.clone();
                Arc::new(Object { meta, spec: spec.clone() })
            };
            let policies: Vec<_> = specs.iter().enumerate().map(object).collect();
            let decide = |policies: &[Arc<Object<AccessPolicy>>]| {
                let server: ServerName = "a/s".parse().unwrap();
                let view = View::new(&policies.to_vec().into(), DefaultAction::Deny, caller(), server);
                let (method, target) = (method::TOOLS_CALL, Some(Target::Tool(&tool)));
                view.decide(Call { method, target, arguments: None }).allowed
            };
            let before = decide(&policies);
            for Flawed { rule, flaw } in review(&policies) {
                if matches!(flaw, Flaw::OfNobody | Flaw::ToEverybody) {
                    continue;
                }
                let mut fewer = policies.clone();
                let place = policies.iter().position(|it| Arc::ptr_eq(it, rule.policy)).unwrap();
                let mut spec = policies[place].spec.clone();
                let others = spec.rules.iter().enumerate().filter(|(n, _)| *n != rule.index);
                let others: Vec<_> = others.map(|(_, it)| it.clone()).collect();
                if others.is_empty() {
                    fewer.remove(place);
                    prop_assert_eq!(decide(&fewer), before, "without {} that {}", rule, flaw);
                    continue;
                }
                spec.rules = serde_json::from_value(serde_json::to_value(others).unwrap()).unwrap();
                fewer[place] = Arc::new(Object { meta: policies[place].meta.clone(), spec });
                prop_assert_eq!(decide(&fewer), before, "without {} that {}", rule, flaw);
            }
        }
    }
}
