//! `AccessPolicy`: who may call what.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Patterns, ServerSelector, is_default};
use crate::name::{Glob, IdentityPattern, ObjectName};
use crate::policy::expr::Condition;
use crate::resource::bounded::{List, Map, Text};

/// Who may call which method, tool, prompt or resource, with which arguments. Deny wins; once an allow rule selects a
/// server, whatever no rule allows is refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessPolicy {
    /// The servers it speaks about; every server of its scope if not given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub servers: ServerSelector,
    /// Virtual servers of its scope it speaks about besides. The names and labels in `servers` do not narrow these; the
    /// namespaces do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_servers: Option<Patterns>,
    pub rules: List<AccessRule, 256, 1>,
    /// Evaluate and record, without enforcing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub shadow: bool,
    /// Tell refused callers that the tool exists and which rule refused.
    #[serde(default, skip_serializing_if = "is_default")]
    pub explain: bool,
}

/// One rule: an action for callers and targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessRule {
    /// What explanations and records call it; its place in the list if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ObjectName>,
    pub action: Action,
    /// Callers it is about; everyone in the mesh if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<List<CallerMatch, 256, 1>>,
    /// What is called; everything if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<List<TargetMatch, 256, 1>>,
    /// A condition over `caller`, `request`, `args` and `claims`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Condition>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Allow,
    Deny,
    /// Let pass and record.
    Audit,
}

/// A caller that matches every part given, of which there is at least one; a part matches when one of its patterns
/// does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "RawCaller", into = "RawCaller")]
#[schemars(with = "RawCaller")]
pub struct CallerMatch {
    pub identities: Option<List<IdentityPattern, 256, 1>>,
    pub namespaces: Option<Patterns>,
    pub service_accounts: Option<Patterns>,
    pub tenants: Option<Patterns>,
    pub claims: Map<Text<128>, Patterns, 32>,
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "CallerMatch")]
pub(crate) struct RawCaller {
    /// SPIFFE IDs; a `*` stays within its segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) identities: Option<List<IdentityPattern, 256, 1>>,
    /// Namespaces of the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespaces: Option<Patterns>,
    /// Service accounts of the caller, as `<namespace>/<account>` or `<account>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) service_accounts: Option<Patterns>,
    /// Tenants, as a gateway's authentication names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tenants: Option<Patterns>,
    /// Claims of the caller's token. What a rule allows to whom only a `scope` (or `scp`) is missing that stands here without
    /// `*` is listed to that caller, and a call of it is answered with that scope, so that the client can get a token that
    /// has it. Scopes in `when`, and those with `*`, are told nobody, and what needs them is not listed without.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) claims: Map<Text<128>, Patterns, 32>,
}

impl TryFrom<RawCaller> for CallerMatch {
    type Error = &'static str;

    fn try_from(raw: RawCaller) -> Result<Self, &'static str> {
        let RawCaller { identities, namespaces, service_accounts, tenants, claims } = raw;
        let some =
            identities.is_some() || namespaces.is_some() || service_accounts.is_some() || tenants.is_some();
        match some || !claims.is_empty() {
            true => Ok(Self { identities, namespaces, service_accounts, tenants, claims }),
            false => Err("an empty match would be everyone; leave `from` out to mean that"),
        }
    }
}

impl From<CallerMatch> for RawCaller {
    fn from(caller: CallerMatch) -> Self {
        let CallerMatch { identities, namespaces, service_accounts, tenants, claims } = caller;
        Self { identities, namespaces, service_accounts, tenants, claims }
    }
}

/// What is called: matches when one part given matches the call. `tools`, `prompts` and `resources` match the methods
/// that use them; together with `methods` both must match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "RawTarget", into = "RawTarget")]
#[schemars(with = "RawTarget")]
pub struct TargetMatch {
    pub methods: Option<Patterns>,
    pub tools: Option<Patterns>,
    pub prompts: Option<Patterns>,
    pub resources: Option<List<Glob, 256, 1>>,
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "TargetMatch")]
pub(crate) struct RawTarget {
    /// JSON-RPC methods, such as `tools/call`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) methods: Option<Patterns>,
    /// Names of tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tools: Option<Patterns>,
    /// Names of prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) prompts: Option<Patterns>,
    /// URIs of resources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resources: Option<List<Glob, 256, 1>>,
}

impl TryFrom<RawTarget> for TargetMatch {
    type Error = &'static str;

    fn try_from(raw: RawTarget) -> Result<Self, &'static str> {
        let RawTarget { methods, tools, prompts, resources } = raw;
        match methods.is_some() || tools.is_some() || prompts.is_some() || resources.is_some() {
            true => Ok(Self { methods, tools, prompts, resources }),
            false => Err("an empty match would be everything; leave `to` out to mean that"),
        }
    }
}

impl From<TargetMatch> for RawTarget {
    fn from(target: TargetMatch) -> Self {
        let TargetMatch { methods, tools, prompts, resources } = target;
        Self { methods, tools, prompts, resources }
    }
}
