//! `VirtualServer`: one endpoint made of many servers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CallerMatch, Patterns, is_default};
use crate::name::{ServerName, ToolName};
use crate::resource::bounded::{List, Map, Text};

/// One endpoint made of many servers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VirtualServer {
    pub members: List<Member, 1024, 1>,
    /// When a tool's name is shown with its server's prefix.
    #[serde(default, skip_serializing_if = "is_default")]
    pub prefix: Prefixing,
    /// Between prefix and name; `_` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<Text<4>>,
    /// List every tool, or offer a search.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: ListMode,
    /// Who may use it; everyone in the mesh if not given.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub audience: Option<List<CallerMatch, 256, 1>>,
    /// What a model is told about the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<Text<16384>>,
}

/// One server among the members.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Member {
    /// `<namespace>/<name>`; of the same namespace unless in the root namespace.
    pub server: ServerName,
    /// Prefix of its tools; its name if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<Text<32>>,
    /// Who keeps a contested name: the higher.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: i32,
    /// Which of its tools; all if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Patterns>,
    /// Other names for tools: own name to shown name.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rename: Map<ToolName, ToolName, 256>,
}

/// When a tool's name is shown with its server's prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Prefixing {
    #[default]
    Always,
    OnConflict,
    Never,
}

/// How the tools are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ListMode {
    #[default]
    Full,
    Search,
}
