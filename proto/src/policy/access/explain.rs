//! Decisions told to people: what came of a call, and what each rule had to say about it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mcp::{self, Body, Bounds, Message, Raw, Target, method};
use crate::policy::Caller;
use crate::policy::expr::Meter;
use crate::resource::kinds::{AccessRule, Action, CallerMatch, DefaultAction, TargetMatch};

use super::{Call, Policies, Reason, RuleRef, View, is_general, matches, speaks_of_method};

/// Most rules that an explanation tells of.
pub const RULES_MAX: usize = 200;
/// Of what a question is read as.
const BOUNDS: Bounds = Bounds { depth_max: 64, batch_max: 1 };

/// A call that nobody makes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// What is called; none for methods about the server as a whole.
    pub target: Option<Asked>,
    /// `tools/call`, `prompts/get` and `resources/read` for what these are about, if not given.
    pub method: Option<String>,
    /// A JSON object as text, which is read as a sidecar reads it.
    pub arguments: Option<String>,
}

/// What a question is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    Tool(String),
    Prompt(String),
    Resource(String),
}

/// Why a question cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum Unasked {
    #[error("say what is called: a tool, a prompt, a resource or a method")]
    Nothing,
    #[error("{0} have no arguments that rules look at")]
    NoArguments(String),
    /// A sidecar would not read it either.
    #[error("the call cannot be read: {0}")]
    Unread(#[from] mcp::Error),
}

impl Question {
    pub fn method(&self) -> Option<&str> {
        let usual = |asked: &Asked| match asked {
            Asked::Tool(_) => method::TOOLS_CALL,
            Asked::Prompt(_) => method::PROMPTS_GET,
            Asked::Resource(_) => method::RESOURCES_READ,
        };
        self.method.as_deref().or_else(|| self.target.as_ref().map(usual))
    }

    /// Makes a message of the question and reads it again, so that the answer is the one that the message would get.
    pub fn read<R>(&self, answer: impl FnOnce(Call<'_>) -> R) -> Result<R, Unasked> {
        let method = self.method().ok_or(Unasked::Nothing)?;
        let takes_arguments = method::has_arguments(method);
        if takes_arguments && self.target.is_none() {
            return Err(Unasked::Nothing);
        }
        if self.arguments.is_some() && !takes_arguments {
            return Err(Unasked::NoArguments(format!("calls of {method:?}")));
        }
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut params = match &self.target {
            Some(Asked::Tool(name)) => format!(r#""name":{}"#, quoted(name)),
            Some(Asked::Prompt(name)) if method == method::COMPLETION_COMPLETE => {
                format!(r#""ref":{{"type":"ref/prompt","name":{}}}"#, quoted(name))
            }
            Some(Asked::Resource(uri)) if method == method::COMPLETION_COMPLETE => {
                format!(r#""ref":{{"type":"ref/resource","uri":{}}}"#, quoted(uri))
            }
            Some(Asked::Prompt(name)) => format!(r#""name":{}"#, quoted(name)),
            Some(Asked::Resource(uri)) => format!(r#""uri":{}"#, quoted(uri)),
            None => String::new(),
        };
        if let Some(arguments) = &self.arguments {
            params.push_str(r#","arguments":"#);
            // One value and nothing after it, which could be more parameters.
            params.push_str(Raw::scan(arguments, BOUNDS.depth_max)?.get());
        }
        let method = quoted(method);
        let json = format!(r#"{{"jsonrpc":"2.0","id":1,"method":{method},"params":{{{params}}}}}"#);
        match mcp::parse(json.as_bytes(), BOUNDS)? {
            Body::One(Message::Request(request)) => {
                let arguments = method::has_arguments(&request.method).then_some(request.params.arguments);
                Ok(answer(Call {
                    method: &request.method,
                    target: request.target(),
                    arguments: arguments.flatten(),
                }))
            }
            Body::One(_) | Body::Batch(_) => Err(Unasked::Nothing),
        }
    }
}

/// What would come of a call, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub allowed: bool,
    /// The rule that decided, as `<namespace>/<policy>#<rule>`; `no-rule`, `default`, `unnamed` or `federation` where
    /// none did.
    pub reason: String,
    /// The same in a sentence.
    pub because: String,
    /// Whether the call is recorded for a rule, or for the default of the mesh.
    pub audit: bool,
    /// What each policy in shadow would have made of it, where that differs.
    pub shadow: Vec<String>,
    /// Rules of the policies that select the server: those that match first, then those that miss in the fewest parts.
    pub rules: Vec<RuleTold>,
    /// How many rules are not told of.
    pub more_rules: usize,
}

/// What one rule has to say about a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleTold {
    /// `<namespace>/<policy>#<rule>`
    pub rule: String,
    /// `allow`, `deny` or `audit`.
    pub action: String,
    /// Of a policy that is evaluated and not enforced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
    pub matches: bool,
    /// Why it does not speak of the caller; left out if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// Why it does not speak of what is called; left out if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
    /// What its condition comes to: `true`, `false`, or why it cannot be evaluated; left out if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// The rule as it is written.
    pub text: String,
}

impl RuleTold {
    /// In how many parts it does not match.
    pub fn misses(&self) -> usize {
        let parts = usize::from(self.who.is_some()) + usize::from(self.what.is_some());
        // What a failed condition comes to depends on the action.
        parts + usize::from(!self.matches && parts == 0 || self.when.as_deref() == Some("false") && parts > 0)
    }
}

impl Explanation {
    /// For a caller of another trust domain, whom no policy can let in.
    pub fn foreign(caller: &Caller) -> Self {
        Self {
            allowed: false,
            reason: "federation".to_owned(),
            because: format!(
                "the caller is of the trust domain {}, and only gateways take callers of other domains",
                caller.workload().trust_domain
            ),
            audit: false,
            shadow: Vec::new(),
            rules: Vec::new(),
            more_rules: 0,
        }
    }
}

impl View {
    /// Decides about a call that nobody makes, and says what each rule made of it.
    pub fn explain(&self, question: &Question) -> Result<Explanation, Unasked> {
        question.read(|call| {
            let decision = self.decide(call);
            let mut rules: Vec<_> =
                self.rules().map(|(reference, rule)| self.told(reference, rule, call)).collect();
            rules.sort_by_key(RuleTold::misses);
            let more_rules = rules.len().saturating_sub(RULES_MAX);
            rules.truncate(RULES_MAX);
            let otherwise = decision.shadow.iter().filter(|it| it.allowed != decision.allowed);
            Explanation {
                allowed: decision.allowed,
                reason: decision.reason.to_string(),
                because: because(decision.allowed, decision.reason),
                audit: decision.audit.is_marked(),
                shadow: otherwise.map(|it| it.keep().to_string()).collect(),
                rules,
                more_rules,
            }
        })
    }

    /// Whether the caller may make a call: by its arguments, where the question has some.
    pub fn may(&self, question: &Question) -> Result<May, Unasked> {
        question.read(|call| match (question.arguments.is_some(), self.decide(call).allowed) {
            (true, allowed) => May::from(allowed),
            (false, _) if !self.could(call) => May::No,
            (false, _) => {
                if self.must(call) {
                    May::Yes
                } else {
                    May::Depends
                }
            }
        })
    }

    fn told(&self, reference: RuleRef<'_>, rule: &AccessRule, call: Call<'_>) -> RuleTold {
        let AccessRule { name: _, action, from, to, when } = rule;
        // Whoever may call anything may also call what is about the server as a whole.
        let anyway = *action == Action::Allow && is_general(call.method);
        let who = from.as_ref().and_then(|from| missed_who(self.caller(), from));
        let what = to.as_ref().filter(|_| !anyway).and_then(|to| missed_what(to, call));
        let outcome = when.as_ref().map(|when| {
            when.evaluate(&self.facts(call), &Meter::default()).map_err(|failure| when.told(&failure))
        });
        let met = match &outcome {
            None | Some(Ok(true)) => true,
            Some(Ok(false)) => anyway,
            Some(Err(_)) => anyway || *action != Action::Allow,
        };
        RuleTold {
            rule: reference.to_string(),
            action: word(*action).to_owned(),
            shadow: reference.policy.spec.shadow,
            matches: who.is_none() && what.is_none() && met,
            who,
            what,
            when: outcome.map(|outcome| outcome.map_or_else(|problem| problem, |it| it.to_string())),
            text: serde_json::to_string(rule).unwrap_or_default(),
        }
    }
}

const fn word(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::Audit => "audit",
    }
}

fn because(allowed: bool, reason: Reason<'_>) -> String {
    match (reason, allowed) {
        (Reason::Rule(rule), true) => format!("the rule {rule} allows it"),
        (Reason::Rule(rule), false) => format!("the rule {rule} denies it"),
        (Reason::NoRule, _) => "some rules allow calls of the server, and none allows this one".to_owned(),
        (Reason::Default, true) => "no rule speaks of it, and the mesh allows by default".to_owned(),
        (Reason::Default, false) => "no rule speaks of it, and the mesh denies by default".to_owned(),
        (Reason::Unnamed, _) => "the call does not name what it is about".to_owned(),
    }
}

/// For the entries of `from`, of which none fits, the field of each that does not.
fn missed_who(caller: &Caller, from: &[CallerMatch]) -> Option<String> {
    let missed: Vec<_> = from.iter().map(|wanted| caller.misses(wanted)).collect::<Option<_>>()?;
    Some(entries("from", &missed))
}

fn missed_what(to: &[TargetMatch], call: Call<'_>) -> Option<String> {
    let missed = |wanted: &TargetMatch| match matches(wanted, call) {
        true => None,
        false if !speaks_of_method(wanted, call.method) => Some("methods"),
        false => Some(match (call.target, &wanted.tools, &wanted.prompts, &wanted.resources) {
            (Some(Target::Tool(_)), Some(_), ..) => "tools",
            (Some(Target::Prompt(_)), _, Some(_), _) => "prompts",
            (Some(Target::Resource(_)), .., Some(_)) => "resources",
            _ => "another kind",
        }),
    };
    let missed: Vec<_> = to.iter().map(missed).collect::<Option<_>>()?;
    Some(entries("to", &missed))
}

fn entries(list: &str, missed: &[&str]) -> String {
    const SHOWN_MAX: usize = 8;
    let each = missed.iter().take(SHOWN_MAX).enumerate();
    let mut text =
        each.map(|(place, field)| format!("{list}[{place}]: {field}")).collect::<Vec<_>>().join(", ");
    if missed.len() > SHOWN_MAX {
        text.push_str(&format!(" and {} more", missed.len() - SHOWN_MAX));
    }
    text
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tool(name) => write!(f, "tool {name:?}"),
            Self::Prompt(name) => write!(f, "prompt {name:?}"),
            Self::Resource(uri) => write!(f, "resource {uri:?}"),
        }
    }
}

/// Who may call something: what the rules about it say of callers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Audience {
    /// Rules about it, in the order in which they are looked at.
    pub rules: Vec<AudienceRule>,
    /// Whether callers of whom no rule speaks may call it.
    pub others: bool,
}

/// What a rule says of the callers of something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AudienceRule {
    /// `<namespace>/<policy>#<rule>`
    pub rule: String,
    /// `allow` or `deny`.
    pub action: String,
    /// Matches as they are written; `everyone` if there are none.
    pub callers: Vec<String>,
    /// The condition, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
}

/// Whether somebody may make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum May {
    Yes,
    No,
    /// With some arguments.
    Depends,
}

impl From<bool> for May {
    fn from(allowed: bool) -> Self {
        if allowed { Self::Yes } else { Self::No }
    }
}

/// What the enforced rules about something say of its callers.
pub fn audience(
    policies: &Policies,
    default_action: DefaultAction,
    question: &Question,
) -> Result<Audience, Unasked> {
    question.read(|call| {
        let (mut rules, mut an_allow_exists) = (Vec::new(), false);
        for policy in policies.iter().filter(|policy| !policy.spec.shadow) {
            for (index, rule) in policy.spec.rules.iter().enumerate() {
                let AccessRule { name: _, action, from, to, when } = rule;
                an_allow_exists |= *action == Action::Allow;
                let anyway = *action == Action::Allow && is_general(call.method);
                let about = anyway || to.as_ref().is_none_or(|to| to.iter().any(|it| matches(it, call)));
                if about && *action != Action::Audit {
                    rules.push(AudienceRule {
                        rule: RuleRef { policy, index }.to_string(),
                        action: word(*action).to_owned(),
                        callers: callers(from.as_deref()),
                        when: when.as_ref().filter(|_| !anyway).map(ToString::to_string),
                    });
                }
            }
        }
        Audience { rules, others: !an_allow_exists && default_action != DefaultAction::Deny }
    })
}

fn callers(from: Option<&[CallerMatch]>) -> Vec<String> {
    let Some(from) = from else { return vec!["everyone".to_owned()] };
    from.iter().map(|wanted| serde_json::to_string(wanted).unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests;
