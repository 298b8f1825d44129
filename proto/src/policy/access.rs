//! Whether a call may be made: the one place that says what access policies mean.
//!
//! A [`View`] is what one caller may do at one server. Not here: what a refused caller is told, and records.

mod explain;
mod listing;
#[cfg(test)]
mod reference;
pub mod review;
mod scope;
mod table;
mod template;
mod view;

use std::fmt;
use std::sync::Arc;

use crate::mcp::{Raw, Target, method};
use crate::resource::kinds::{AccessPolicy, TargetMatch};
use crate::wire::Object;

pub use explain::{
    Asked, Audience, AudienceRule, Explanation, May, Question, RULES_MAX, RuleTold, Unasked, audience,
};
pub use listing::Listing;
pub use scope::{SCOPE_BYTES_MAX, WithScope, is_scope};
pub use table::Policies;
pub use template::template_fits;
pub use view::View;

/// What is called.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    pub method: &'a str,
    /// What the method is about, if it names something.
    pub target: Option<Target<'a>>,
    /// What a tool or a prompt is called with; none is as good as an empty object.
    pub arguments: Option<Raw<'a>>,
}

/// What was decided, and why.
#[derive(Clone, Debug)]
pub struct Decision<'p> {
    pub allowed: bool,
    pub reason: Reason<'p>,
    /// Whether a refused caller may be told that what it called exists, and which rule refused.
    pub explain: bool,
    /// Whether a rule, or the default of the mesh, wants the call recorded.
    pub audit: Marked,
    /// What would have been decided with each policy in shadow, were that one enforced too.
    pub shadow: Vec<Shadow<'p>>,
}

/// Whether a call is to be recorded, and who says so: the more weighty, the later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Marked {
    #[default]
    No,
    ByPolicy,
    /// By a rule of the root namespace, or the default of the mesh.
    ByMesh,
}

impl Marked {
    pub fn is_marked(self) -> bool {
        self != Self::No
    }
}

/// What a policy in shadow would have changed.
#[derive(Clone, Copy, Debug)]
pub struct Shadow<'p> {
    pub policy: &'p Arc<Object<AccessPolicy>>,
    pub allowed: bool,
    pub reason: Reason<'p>,
    pub audit: bool,
}

/// The same, to be kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Foretold {
    policy: Arc<Object<AccessPolicy>>,
    rule: Option<usize>,
    pub allowed: bool,
}

impl Shadow<'_> {
    pub fn keep(&self) -> Foretold {
        let rule = match self.reason {
            Reason::Rule(rule) if Arc::ptr_eq(rule.policy, self.policy) => Some(rule.index),
            Reason::Rule(_) | Reason::NoRule | Reason::Default | Reason::Unnamed => None,
        };
        Foretold { policy: Arc::clone(self.policy), rule, allowed: self.allowed }
    }
}

impl fmt::Display for Foretold {
    /// `refuse <namespace>/<policy>#<rule>`, without the rule where the policy has none that allows the call.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.allowed { "allow " } else { "refuse " })?;
        match self.rule {
            Some(index) => RuleRef { policy: &self.policy, index }.fmt(f),
            None => self.policy.meta.full_name().fmt(f),
        }
    }
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

/// Of names, those of the kind that the call is about must match; with methods given, these must match too.
fn matches(wanted: &TargetMatch, call: Call<'_>) -> bool {
    let TargetMatch { methods: _, tools, prompts, resources } = wanted;
    if !speaks_of_method(wanted, call.method) {
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

fn speaks_of_method(wanted: &TargetMatch, method: &str) -> bool {
    wanted.methods.as_ref().is_none_or(|methods| methods.iter().any(|it| it.matches(method)))
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
