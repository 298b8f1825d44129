//! What one caller may do at one server: the rules that speak of the caller, found once for a connection and snapshot,
//! so that a decision looks at no others.

use std::sync::Arc;

use crate::mcp::lists::Listed;
use crate::mcp::{Target, method};
use crate::name::{Namespace, ObjectName, ServerName};
use crate::policy::Caller;
use crate::policy::caller::Likeness;
use crate::policy::expr::{Condition, Facts, Meter};
use crate::resource::kinds::{AccessRule, Action, DefaultAction};

use super::table::{At, Policies, RuleNumber, Rules, Table};
use super::{Call, Decision, Marked, Reason, RuleRef, Shadow, is_general, lacks_its_target};

/// A caller's view of a server.
#[derive(Debug)]
pub struct View {
    table: Arc<Table>,
    caller: Caller,
    server: ServerName,
    default_action: DefaultAction,
    /// For each rule of the table whether it speaks of the caller, one bit each.
    speaks: Box<[u64]>,
    /// The first enforced rule that allows the caller anything.
    first_allow: Option<RuleNumber>,
    /// Whether it is nobody's in particular: see [`View::of_any_guest`].
    is_of_any: bool,
}

/// What became of a rule's condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Met,
    Unmet,
    /// It could not be evaluated.
    Failed,
    /// It depends on arguments that are not known.
    Open,
}

/// What some rules say about a call.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    denied: Option<RuleNumber>,
    allowed: Option<RuleNumber>,
    an_allow_exists: bool,
    keeps_quiet: bool,
    audit: Marked,
}

impl View {
    /// `policies` are those that select the server.
    pub fn new(
        policies: &Policies,
        default_action: DefaultAction,
        caller: Caller,
        server: ServerName,
    ) -> Self {
        let speaks_of = speaks_of(&caller);
        Self::made(policies.table(), default_action, (caller, server), speaks_of)
    }

    /// The same for another caller.
    pub(super) fn of_another(&self, caller: Caller) -> Self {
        let speaks_of = speaks_of(&caller);
        Self::made(&self.table, self.default_action, (caller, self.server.clone()), speaks_of)
    }

    /// What any of those could be allowed for whom a gateway calls, whatever tenant and claims they have: for what is
    /// shown to all of them. It errs on the side of "yes" and decides nothing.
    pub fn of_any_guest(
        policies: &Policies,
        default_action: DefaultAction,
        gateway: Caller,
        server: ServerName,
    ) -> Self {
        let speaks_of = {
            let gateway = gateway.clone();
            move |rule: &AccessRule| match (rule.action, gateway.is_like_any(rule.from.as_ref())) {
                (Action::Allow, likeness) => likeness != Likeness::No,
                (Action::Deny | Action::Audit, likeness) => likeness == Likeness::Yes,
            }
        };
        let view = Self::made(policies.table(), default_action, (gateway, server), speaks_of);
        Self { is_of_any: true, ..view }
    }

    fn made(
        table: &Arc<Table>,
        default_action: DefaultAction,
        (caller, server): (Caller, ServerName),
        speaks_of: impl Fn(&AccessRule) -> bool,
    ) -> Self {
        let table = Arc::clone(table);
        let mut speaks = vec![0_u64; table.rules.len().div_ceil(64)].into_boxed_slice();
        for (number, word) in (0..).zip(&mut speaks) {
            for bit in 0..64 {
                let rule = table.rule(number * 64 + bit);
                if rule.is_some_and(&speaks_of) {
                    *word |= 1 << bit;
                }
            }
        }
        let (first_allow, is_of_any) = (None, false);
        let mut view = Self { table, caller, server, default_action, speaks, first_allow, is_of_any };
        view.first_allow = view.first_allow_of(&view.table.enforced);
        view
    }

    /// Whether [`View::new`] would make the same of these, for the same caller and server.
    pub fn is_of(&self, policies: &Policies, default_action: DefaultAction) -> bool {
        let mine = &self.table.policies;
        self.default_action == default_action
            && mine.len() == policies.len()
            && mine.iter().zip(&**policies).all(|(one, other)| Arc::ptr_eq(one, other))
    }

    pub fn is_about(&self, namespace: &Namespace, name: &ObjectName) -> bool {
        self.server.namespace == *namespace && self.server.name == *name
    }

    /// Whether any enforced rule speaks of the server, so that one caller may see what another does not.
    pub fn tells_callers_apart(&self) -> bool {
        !self.table.enforced.numbers.is_empty()
    }

    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Decides a call. Without conditions and policies in shadow nothing is allocated.
    ///
    /// - A `deny` that matches refuses.
    /// - Else, with an `allow` rule in any of the policies, for whomever, one must match.
    /// - Else the default of the mesh holds.
    ///
    /// A condition that cannot be evaluated counts as met by rules that deny or record, and as not met by those that
    /// allow. Methods about the server as a whole, such as lists, are allowed to whoever could be allowed any call,
    /// unless a rule denies them; methods that are not known need a rule that allows them.
    pub fn decide(&self, call: Call<'_>) -> Decision<'_> {
        let meter = Meter::default();
        let mut judge = |rule: &AccessRule| self.condition(rule, call, &meter);
        let enforced = self.tally(&self.table.enforced, self.first_allow, call, &mut judge);
        let (allowed, reason) = self.settle(enforced, call);
        let mut shadow = Vec::new();
        for rules in &self.table.shadows {
            let more = self.tally(rules, self.first_allow_of(rules), call, &mut judge);
            let with = enforced.and(more);
            let (allowed, reason) = self.settle(with, call);
            let policy = &self.table.policies[rules.policy];
            shadow.push(Shadow { policy, allowed, reason, audit: with.audit.is_marked() });
        }
        let by_default = reason == Reason::Default && self.default_action == DefaultAction::Audit;
        let audit = if by_default { Marked::ByMesh } else { enforced.audit };
        Decision { allowed, reason, explain: explains(enforced, reason), audit, shadow }
    }

    /// Whether the caller could be allowed to call something, with some arguments: whether a list should show it. Of a
    /// resource, whether it may be read.
    pub fn may_see(&self, target: Target<'_>) -> bool {
        let method = match target {
            Target::Tool(_) => method::TOOLS_CALL,
            Target::Prompt(_) => method::PROMPTS_GET,
            Target::Resource(_) => method::RESOURCES_READ,
            Target::Task(_) => method::TASKS_GET,
        };
        self.could(Call { method, target: Some(target), arguments: None })
    }

    /// The same of what is listed under a name, a URI or a template.
    pub fn may_list(&self, kind: Listed, name: &str) -> bool {
        match kind {
            Listed::Tool => self.may_see(Target::Tool(name)),
            Listed::Prompt => self.may_see(Target::Prompt(name)),
            Listed::Resource => self.may_see(Target::Resource(name)),
            Listed::ResourceTemplate => self.may_see_template(name),
        }
    }

    /// Whether lists judge everything of a kind alike: no rule that speaks of the caller names anything, or looks at what
    /// is named.
    pub(super) fn lists_alike(&self) -> bool {
        self.enforced().all(|(speaks, rule)| {
            !speaks || rule.action == Action::Audit || rule.to.is_none() && rule.when.is_none()
        })
    }

    /// The rules that speak of the caller, one bit each; none where one of them has a condition, which may look at more of
    /// the caller than whether it is spoken of.
    pub(super) fn spoken_of(&self) -> Option<&[u64]> {
        let is_plain = self.enforced().all(|(speaks, rule)| !speaks || rule.when.is_none());
        is_plain.then_some(&self.speaks)
    }

    /// Whether a call would be allowed with some arguments.
    pub(super) fn could(&self, call: Call<'_>) -> bool {
        self.allowed_where_arguments(Outcome::Open, call)
    }

    /// Whether a call would be allowed with whatever arguments.
    pub(super) fn must(&self, call: Call<'_>) -> bool {
        self.allowed_where_arguments(Outcome::Failed, call)
    }

    /// Decides with this for the outcome of conditions that look at arguments.
    fn allowed_where_arguments(&self, outcome: Outcome, call: Call<'_>) -> bool {
        let meter = Meter::default();
        let mut judge = |rule: &AccessRule| match &rule.when {
            Some(when) if self.is_of_any || when.reads_arguments() => outcome,
            Some(_) | None => self.condition(rule, call, &meter),
        };
        let tally = self.tally(&self.table.enforced, self.first_allow, call, &mut judge);
        self.settle(tally, call).0
    }

    /// The enforced rules that are about a call, whomever they speak of, in their order.
    pub(super) fn about(&self, call: Call<'_>) -> Vec<(RuleNumber, &AccessRule)> {
        let mut numbers = Vec::new();
        self.table.about(&self.table.enforced, call, |number| numbers.push(number));
        numbers.sort_unstable();
        numbers.dedup();
        numbers.into_iter().filter_map(|number| Some((number, self.table.rule(number)?))).collect()
    }

    /// Whether another caller would be allowed a call that names what it is about. Given are the rules about it.
    pub(super) fn would_allow(
        &self,
        caller: Caller,
        about: &[(RuleNumber, &AccessRule)],
        call: Call<'_>,
    ) -> bool {
        let mut speaks = vec![0_u64; self.speaks.len()].into_boxed_slice();
        for (number, rule) in about {
            if caller.is_one_of(rule.from.as_ref()) {
                speaks[*number as usize / 64] |= 1 << (number % 64);
            }
        }
        let (table, server) = (Arc::clone(&self.table), self.server.clone());
        let (default_action, first_allow, is_of_any) = (self.default_action, None, false);
        let other = Self { table, caller, server, default_action, speaks, first_allow, is_of_any };
        let meter = Meter::default();
        let mut judge = |rule: &AccessRule| other.condition(rule, call, &meter);
        let tally = other.tally(&other.table.enforced, None, call, &mut judge);
        other.settle(tally, call).0
    }

    /// Every rule of the policies, in the order of conflicts, whomever it speaks of.
    pub(super) fn rules(&self) -> impl Iterator<Item = (RuleRef<'_>, &AccessRule)> {
        self.table.policies.iter().flat_map(|policy| {
            policy.spec.rules.iter().enumerate().map(move |(index, rule)| (RuleRef { policy, index }, rule))
        })
    }

    /// The rules that are enforced, each with whether it speaks of the caller.
    pub(super) fn enforced(&self) -> impl Iterator<Item = (bool, &AccessRule)> {
        let numbers = self.table.enforced.numbers.iter();
        numbers.filter_map(|number| Some((self.speaks(*number), self.table.rule(*number)?)))
    }

    pub(super) const fn default_action(&self) -> DefaultAction {
        self.default_action
    }

    fn speaks(&self, number: RuleNumber) -> bool {
        self.speaks.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    fn first_allow_of(&self, rules: &Rules) -> Option<RuleNumber> {
        let allows = |number: RuleNumber| self.table.rules[number as usize].action == Action::Allow;
        rules.numbers.iter().copied().find(|number| allows(*number) && self.speaks(*number))
    }

    /// Conditions are judged last, and only where they could change what is said.
    fn tally(
        &self,
        rules: &Rules,
        first_allow: Option<RuleNumber>,
        call: Call<'_>,
        judge: &mut impl FnMut(&AccessRule) -> Outcome,
    ) -> Tally {
        let Rules { an_allow_exists, keeps_quiet, .. } = *rules;
        let mut tally = Tally { an_allow_exists, keeps_quiet, ..Tally::default() };
        if is_general(call.method) {
            tally.allowed = first_allow;
        }
        self.table.about(rules, call, |number| {
            let At { action, of_mesh, .. } = self.table.rules[number as usize];
            let mark = if of_mesh { Marked::ByMesh } else { Marked::ByPolicy };
            let before = match action {
                Action::Deny => tally.denied,
                Action::Allow => tally.allowed,
                Action::Audit => (tally.audit >= mark).then_some(0),
            };
            if before.is_some_and(|before| before <= number) || !self.speaks(number) {
                return;
            }
            let outcome = match self.table.rules[number as usize].conditional {
                true => self.table.rule(number).map_or(Outcome::Failed, &mut *judge),
                false => Outcome::Met,
            };
            match (action, outcome) {
                (Action::Deny, Outcome::Met | Outcome::Failed) => tally.denied = Some(number),
                (Action::Allow, Outcome::Met | Outcome::Open) => tally.allowed = Some(number),
                (Action::Audit, Outcome::Met | Outcome::Failed) => tally.audit = mark,
                (Action::Deny | Action::Audit, Outcome::Unmet | Outcome::Open)
                | (Action::Allow, Outcome::Unmet | Outcome::Failed) => {}
            }
        });
        tally
    }

    fn condition(&self, rule: &AccessRule, call: Call<'_>, meter: &Meter) -> Outcome {
        let evaluate = |when: &Condition| when.evaluate(&self.facts(call), meter);
        match rule.when.as_ref().map(evaluate) {
            None | Some(Ok(true)) => Outcome::Met,
            Some(Ok(false)) => Outcome::Unmet,
            Some(Err(_)) => Outcome::Failed,
        }
    }

    pub(super) fn facts<'a>(&'a self, call: Call<'a>) -> Facts<'a> {
        let Call { method, target, arguments } = call;
        Facts { caller: &self.caller, server: &self.server, method, target, arguments }
    }

    fn settle(&self, tally: Tally, call: Call<'_>) -> (bool, Reason<'_>) {
        match (tally.denied, tally.allowed) {
            (Some(rule), _) => (false, self.reason(rule)),
            _ if lacks_its_target(call) => (false, Reason::Unnamed),
            (None, Some(rule)) => (true, self.reason(rule)),
            (None, None) if tally.an_allow_exists => (false, Reason::NoRule),
            (None, None) => (self.default_action != DefaultAction::Deny, Reason::Default),
        }
    }

    fn reason(&self, number: RuleNumber) -> Reason<'_> {
        let at = self.table.rules[number as usize];
        let policy = &self.table.policies[at.policy as usize];
        Reason::Rule(RuleRef { policy, index: at.index as usize })
    }
}

impl Tally {
    /// With the rules of a policy in shadow besides.
    fn and(self, more: Self) -> Self {
        Self {
            denied: self.denied.or(more.denied),
            allowed: self.allowed.or(more.allowed),
            an_allow_exists: self.an_allow_exists || more.an_allow_exists,
            keeps_quiet: self.keeps_quiet || more.keeps_quiet,
            audit: self.audit.max(more.audit),
        }
    }
}

fn speaks_of(caller: &Caller) -> impl Fn(&AccessRule) -> bool + use<> {
    let caller = caller.clone();
    move |rule| caller.is_one_of(rule.from.as_ref())
}

/// Where no rule allowed the call, every policy that might have must be open about it.
fn explains(tally: Tally, reason: Reason<'_>) -> bool {
    match reason {
        Reason::Rule(rule) => rule.policy.spec.explain,
        Reason::NoRule => !tally.keeps_quiet,
        Reason::Default | Reason::Unnamed => false,
    }
}
