//! Which servers an object speaks about.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Labels, Patterns, is_default};

/// Servers that match every part given; without any part, every server in the object's scope. The scope is the object's
/// own namespace, and the whole mesh for objects of the root namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServerSelector {
    /// Names of servers, with `*` for any run of characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<Patterns>,
    /// Labels that the server must carry.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: Labels,
    /// Namespaces of the servers; only in objects of the root namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Patterns>,
}
