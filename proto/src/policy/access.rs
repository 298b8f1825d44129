//! Whether a call may be made: the one place that says what access policies mean.
//!
//! Conditions over arguments, and claims and tenants of a caller, cannot be judged yet. Until they can, a rule with any
//! of them never allows a call, and denies as if they were met. Not here: what a refused caller is told, and records.

use std::fmt;
use std::sync::Arc;

use crate::mcp::{Target, method};
use crate::resource::kinds::{AccessPolicy, AccessRule, Action, DefaultAction, TargetMatch};
use crate::wire::Object;

use super::caller::{Caller, Likeness};

/// What is called.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    pub method: &'a str,
    /// What the method is about, if it names something.
    pub target: Option<Target<'a>>,
}

/// What was decided, and why.
#[derive(Clone, Debug)]
pub struct Decision<'p> {
    pub allowed: bool,
    pub reason: Reason<'p>,
    /// Whether a refused caller may be told that what it called exists, and which rule refused.
    pub explain: bool,
    /// Whether a rule, or the default of the mesh, wants the call recorded.
    pub audit: bool,
    /// What would have been decided with each policy in shadow, were that one enforced too.
    pub shadow: Vec<Shadow<'p>>,
}

/// What a policy in shadow would have changed.
#[derive(Clone, Copy, Debug)]
pub struct Shadow<'p> {
    pub policy: &'p Object<AccessPolicy>,
    pub allowed: bool,
    pub reason: Reason<'p>,
    pub audit: bool,
}

/// Why a call is allowed or refused.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reason<'p> {
    Rule(RuleRef<'p>),
    /// Some rules allow calls of the server, none allows this one.
    NoRule,
    /// No rule allows calls of the server or denies this one, so that the default of the mesh holds.
    Default,
    /// The call does not name what its method is about.
    Unnamed,
}

/// A rule of a policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RuleRef<'p> {
    pub policy: &'p Arc<Object<AccessPolicy>>,
    /// Its place in the policy.
    pub index: usize,
}

/// The same, to be kept: a record calls it by its name only when it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    policy: Arc<Object<AccessPolicy>>,
    index: usize,
}

impl RuleRef<'_> {
    pub fn keep(self) -> Rule {
        Rule { policy: Arc::clone(self.policy), index: self.index }
    }
}

impl fmt::Display for RuleRef<'_> {
    /// `<namespace>/<policy>#<rule>`, where a rule without a name is called by its place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meta = &self.policy.meta;
        write!(f, "{}/{}#", meta.namespace, meta.name)?;
        match self.policy.spec.rules.get(self.index).and_then(|rule| rule.name.as_ref()) {
            Some(name) => write!(f, "{name}"),
            None => write!(f, "{}", self.index),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        RuleRef { policy: &self.policy, index: self.index }.fmt(f)
    }
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => write!(f, "{rule}"),
            Self::NoRule => f.write_str("no-rule"),
            Self::Default => f.write_str("default"),
            Self::Unnamed => f.write_str("unnamed"),
        }
    }
}

/// Decides a call by the policies that select its server, in the order of conflicts, which settles who is named as the
/// reason and nothing else.
///
/// - A `deny` that matches refuses.
/// - Else, with an `allow` rule in any of the policies, one must match.
/// - Else the default of the mesh holds.
///
/// Methods about the server as a whole, such as lists, are allowed to whoever could be allowed any call, unless a rule
/// denies them; methods that are not known need a rule that allows them.
pub fn decide<'p>(
    policies: &'p [Arc<Object<AccessPolicy>>],
    default_action: DefaultAction,
    caller: &Caller,
    call: Call<'_>,
) -> Decision<'p> {
    let mut enforced = Tally::default();
    for policy in policies.iter().filter(|policy| !policy.spec.shadow) {
        enforced.count(policy, caller, call);
    }
    let (allowed, reason) = enforced.settle(default_action, call);
    let shadow = policies.iter().filter(|policy| policy.spec.shadow).map(|policy| {
        let mut with = enforced;
        with.count(policy, caller, call);
        let (allowed, reason) = with.settle(default_action, call);
        Shadow { policy, allowed, reason, audit: with.audit }
    });
    let audit = enforced.audit || reason == Reason::Default && default_action == DefaultAction::Audit;
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
    audit: bool,
}

impl<'p> Tally<'p> {
    fn count(&mut self, policy: &'p Arc<Object<AccessPolicy>>, caller: &Caller, call: Call<'_>) {
        for (index, rule) in policy.spec.rules.iter().enumerate() {
            let this = RuleRef { policy, index };
            match rule.action {
                Action::Deny if self.denied.is_none() && could_mean(rule, caller, call) => {
                    self.denied = Some(this)
                }
                Action::Deny => {}
                Action::Allow => {
                    self.an_allow_exists = true;
                    self.keeps_quiet |= !policy.spec.explain;
                    if self.allowed.is_none() && surely_means(rule, caller, call) {
                        self.allowed = Some(this);
                    }
                }
                Action::Audit => self.audit = self.audit || could_mean(rule, caller, call),
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

/// For rules that deny or record: what cannot be judged counts as met.
fn could_mean(rule: &AccessRule, caller: &Caller, call: Call<'_>) -> bool {
    let AccessRule { name: _, action: _, from, to, when: _ } = rule;
    is_about(to.as_ref(), call) && caller.is_like_any(from.as_ref()) != Likeness::No
}

/// For rules that allow: what cannot be judged counts as not met.
fn surely_means(rule: &AccessRule, caller: &Caller, call: Call<'_>) -> bool {
    let AccessRule { name: _, action: _, from, to, when } = rule;
    let called = is_general(call.method) || when.is_none() && is_about(to.as_ref(), call);
    called && caller.is_like_any(from.as_ref()) == Likeness::Yes
}

fn is_about<'m>(to: Option<impl IntoIterator<Item = &'m TargetMatch>>, call: Call<'_>) -> bool {
    to.is_none_or(|to| to.into_iter().any(|wanted| matches(wanted, call)))
}

/// Of names, those of the kind that the call is about must match; with methods given, these must match too.
fn matches(wanted: &TargetMatch, call: Call<'_>) -> bool {
    let TargetMatch { methods, tools, prompts, resources } = wanted;
    if methods.as_ref().is_some_and(|methods| !methods.iter().any(|it| it.matches(call.method))) {
        return false;
    }
    if tools.is_none() && prompts.is_none() && resources.is_none() {
        return true;
    }
    let (names, name) = match call.target {
        Some(Target::Tool(name)) => (tools, name),
        Some(Target::Prompt(name)) => (prompts, name),
        Some(Target::Resource(uri)) => (resources, uri),
        Some(Target::Task(_)) | None => return false,
    };
    names.as_ref().is_some_and(|names| names.iter().any(|it| it.matches(name)))
}

fn lacks_its_target(call: Call<'_>) -> bool {
    call.target.is_none() && method::subject(call.method).is_some()
}

/// Methods about the server as a whole, and about tasks, which are parts of calls that were allowed.
fn is_general(method: &str) -> bool {
    match method {
        method::INITIALIZE | method::PING | method::SERVER_DISCOVER | method::LOGGING_SET_LEVEL => true,
        method::TOOLS_LIST | method::PROMPTS_LIST | method::RESOURCES_LIST => true,
        method::RESOURCES_TEMPLATES_LIST | method::SUBSCRIPTIONS_LISTEN => true,
        method::TASKS_GET | method::TASKS_UPDATE | method::TASKS_CANCEL => true,
        method::TASKS_RESULT | method::TASKS_LIST => true,
        other => other.starts_with("notifications/"),
    }
}

#[cfg(test)]
mod tests;
