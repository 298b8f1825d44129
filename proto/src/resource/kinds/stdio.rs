//! A server that is a command: how it is started, who shares it, and what it may do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_default;
use crate::name::{EnvName, EnvValue};
use crate::resource::bounded::{Count, List, Map, Text};
use crate::resource::units::ByteSize;

/// A command that speaks MCP over stdin and stdout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stdio {
    /// The program, found through `PATH` if it has no slash.
    pub command: Text<4096>,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "is_default")]
    pub args: List<Text<8192>, 256>,
    /// Its environment, besides what the sidecar passes on.
    #[serde(default, skip_serializing_if = "is_default")]
    pub env: Map<EnvName, EnvValue, 128>,
    /// The folder it starts in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<Text<4096>>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub sharing: Sharing,
    #[serde(default, skip_serializing_if = "is_default")]
    pub sandbox: Sandbox,
}

/// Who shares one process of the command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Sharing {
    /// All callers.
    #[default]
    Shared,
    /// Nobody: each session has a process of its own, and so has each caller that speaks without sessions.
    PerSession,
}

/// What the command may do, on top of what its user may. Every process that it starts is bound in the same way, and
/// none can free itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sandbox {
    /// Let programs with set-user-id or file capabilities gain what they are set to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub allow_new_privileges: bool,
    /// Memory of each process, as the kernel counts its data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<ByteSize>,
    /// Processes and threads of the user whom the command runs as, all together. The kernel does not bind root by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes_max: Option<Count<1, 65536>>,
    /// Files and sockets that each process has open at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files_max: Option<Count<16, 1_048_576>>,
    /// Seconds of processor time of each process, after which it is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_seconds_max: Option<Count<1, 31_536_000>>,
    /// Paths below which it may read and run files. Given any, it reads nowhere else, but for the system's own programs,
    /// libraries and settings (`/usr`, `/lib`, `/bin`, `/etc`, …).
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_only_paths: List<Text<4096>, 64>,
    /// Paths below which it may read and write. Given these or `readOnlyPaths`, it writes nowhere else.
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_write_paths: List<Text<4096>, 64>,
}

impl Sandbox {
    pub(crate) fn paths_are_absolute(&self) -> Result<(), &'static str> {
        let mut paths = self.read_only_paths.iter().chain(&self.read_write_paths);
        match paths.all(|path| path.as_str().starts_with('/')) {
            true => Ok(()),
            false => Err("the paths of a sandbox must start with a slash"),
        }
    }
}
