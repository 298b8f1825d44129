//! `Route`: which server takes the calls of another.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Patterns, is_default};
use crate::name::ServerName;
use crate::resource::bounded::{Count, List, Map, Text};

/// Which servers take the calls addressed to one: canaries, mirrors, fallbacks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// The server whose calls it shapes, `<namespace>/<name>`.
    pub server: ServerName,
    /// The first rule that matches decides; without one the server itself is called.
    pub rules: List<RouteRule, 64, 1>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteRule {
    /// Which calls; every call if not given.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub matches: Option<RouteMatch>,
    pub to: List<WeightedServer, 16, 1>,
    /// A server that gets a copy; its answers are thrown away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Mirror>,
    /// Servers tried in this order when none in `to` is available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<List<ServerName, 8, 1>>,
}

/// Calls for which every part given matches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteMatch {
    #[serde(default, skip_serializing_if = "is_default")]
    pub headers: Map<Text<128>, Patterns, 16>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub claims: Map<Text<128>, Patterns, 16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub methods: Option<Patterns>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Patterns>,
}

/// A server and its share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WeightedServer {
    pub server: ServerName,
    /// Share against the others; 1 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<Count<0, 10_000>>,
}

/// A server that gets a copy of calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mirror {
    pub server: ServerName,
    /// Share of the calls, in percent; 100 if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<Count<0, 100>>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub calls: MirroredCalls,
}

/// Which calls a mirror may get a copy of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MirroredCalls {
    /// What changes nothing: lists, prompts, resources, completions, and tools that a ToolPolicy of the mirror marks
    /// with `retry: read-only`.
    #[default]
    ReadOnly,
    /// Every call, for a mirror whose doings matter to nobody.
    All,
}
