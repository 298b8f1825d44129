//! What access policies mean, said in the plainest way: every rule is looked at. [`View`](super::View) must agree.

use std::sync::Arc;

use crate::name::ServerName;
use crate::resource::ROOT_NAMESPACE;
use crate::resource::kinds::{AccessPolicy, AccessRule, Action, DefaultAction, TargetMatch};
use crate::wire::Object;

use super::super::Caller;
use super::super::expr::{Condition, Facts, Meter};
use super::{Call, Decision, Marked, Reason, RuleRef, Shadow, is_general, lacks_its_target, matches};

/// The caller, and the server that is called.
type Of<'a> = (&'a Caller, &'a ServerName);

/// Decides a call by the policies that select its server, in the order of conflicts, which settles who is named as the
/// reason and nothing else.
///
/// - A `deny` that matches refuses.
/// - Else, with an `allow` rule in any of the policies, one must match.
/// - Else the default of the mesh holds.
///
/// Methods about the server as a whole, such as lists, are allowed to whoever could be allowed any call, unless a rule
/// denies them; methods that are not known need a rule that allows them.
pub(super) fn decide<'p>(
    policies: &'p [Arc<Object<AccessPolicy>>],
    default_action: DefaultAction,
    of: Of<'_>,
    call: Call<'_>,
) -> Decision<'p> {
    let mut enforced = Tally::default();
    for policy in policies.iter().filter(|policy| !policy.spec.shadow) {
        enforced.count(policy, of, call);
    }
    let (allowed, reason) = enforced.settle(default_action, call);
    let shadow = policies.iter().filter(|policy| policy.spec.shadow).map(|policy| {
        let mut with = enforced;
        with.count(policy, of, call);
        let (allowed, reason) = with.settle(default_action, call);
        Shadow { policy, allowed, reason, audit: with.audit.is_marked() }
    });
    let by_default = reason == Reason::Default && default_action == DefaultAction::Audit;
    let audit = if by_default { Marked::ByMesh } else { enforced.audit };
    Decision { allowed, reason, explain: enforced.explains(reason), audit, shadow: shadow.collect() }
}

/// What the rules of some policies say about a call.
#[derive(Clone, Copy, Default)]
struct Tally<'p> {
    denied: Option<RuleRef<'p>>,
    allowed: Option<RuleRef<'p>>,
    /// Whether any rule allows anything.
    an_allow_exists: bool,
    /// Whether a policy with such a rule does not explain itself.
    keeps_quiet: bool,
    audit: Marked,
}

impl<'p> Tally<'p> {
    fn count(&mut self, policy: &'p Arc<Object<AccessPolicy>>, of: Of<'_>, call: Call<'_>) {
        for (index, rule) in policy.spec.rules.iter().enumerate() {
            let this = RuleRef { policy, index };
            match rule.action {
                Action::Deny if self.denied.is_none() && could_mean(rule, of, call) => {
                    self.denied = Some(this)
                }
                Action::Deny => {}
                Action::Allow => {
                    self.an_allow_exists = true;
                    self.keeps_quiet |= !policy.spec.explain;
                    if self.allowed.is_none() && surely_means(rule, of, call) {
                        self.allowed = Some(this);
                    }
                }
                Action::Audit if could_mean(rule, of, call) => {
                    let is_mesh = policy.meta.namespace.as_str() == ROOT_NAMESPACE;
                    self.audit = self.audit.max(if is_mesh { Marked::ByMesh } else { Marked::ByPolicy });
                }
                Action::Audit => {}
            }
        }
    }

    fn settle(&self, default_action: DefaultAction, call: Call<'_>) -> (bool, Reason<'p>) {
        match (self.denied, self.allowed) {
            (Some(rule), _) => (false, Reason::Rule(rule)),
            _ if lacks_its_target(call) => (false, Reason::Unnamed),
            (None, Some(rule)) => (true, Reason::Rule(rule)),
            (None, None) if self.an_allow_exists => (false, Reason::NoRule),
            (None, None) => (default_action != DefaultAction::Deny, Reason::Default),
        }
    }

    /// Where no rule allowed the call, every policy that might have must be open about it.
    fn explains(&self, reason: Reason<'_>) -> bool {
        match reason {
            Reason::Rule(rule) => rule.policy.spec.explain,
            Reason::NoRule => !self.keeps_quiet,
            Reason::Default | Reason::Unnamed => false,
        }
    }
}

/// For rules that deny or record: a condition that cannot be evaluated counts as met.
fn could_mean(rule: &AccessRule, of: Of<'_>, call: Call<'_>) -> bool {
    let AccessRule { name: _, action: _, from, to, when } = rule;
    let met = || when.as_ref().is_none_or(|when| holds(when, of, call).unwrap_or(true));
    is_about(to.as_ref(), call) && of.0.is_one_of(from.as_ref()) && met()
}

/// For rules that allow: what cannot be evaluated counts as not met.
fn surely_means(rule: &AccessRule, of: Of<'_>, call: Call<'_>) -> bool {
    let AccessRule { name: _, action: _, from, to, when } = rule;
    let met = || when.as_ref().is_none_or(|when| holds(when, of, call).unwrap_or(false));
    let called = is_general(call.method) || is_about(to.as_ref(), call) && met();
    called && of.0.is_one_of(from.as_ref())
}

fn holds(when: &Condition, (caller, server): Of<'_>, call: Call<'_>) -> Option<bool> {
    let Call { method, target, arguments } = call;
    when.evaluate(&Facts { caller, server, method, target, arguments }, &Meter::default()).ok()
}

fn is_about<'m>(to: Option<impl IntoIterator<Item = &'m TargetMatch>>, call: Call<'_>) -> bool {
    to.is_none_or(|to| to.into_iter().any(|wanted| matches(wanted, call)))
}
