//! What a sidecar is started with: a YAML file, read once. Whatever may change while it runs is a snapshot instead.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use weft_proto::name::{HostPort, NodeId, ServerName};
use weft_proto::resource::bounded::Text;

use crate::audit;
use crate::external;
use crate::gateway::Gateway;
use crate::limits::Limits;
use crate::probes::Probes;
use crate::push;
use crate::stdio::command::{Command, WordsError};

/// Largest bootstrap file, in bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// Everything that a sidecar is started with.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bootstrap {
    pub node: Node,
    pub source: Source,
    #[serde(default)]
    pub listen: Listen,
    /// Where the last good configuration is kept, and keys of this sidecar's own sessions. Without it, a sidecar that
    /// starts while the control plane is away serves nothing.
    #[serde(default)]
    pub state_dir: Option<PathBuf>,
    #[serde(default)]
    pub limits: Limits,
    /// How calls that policy marks are recorded, in the state folder.
    #[serde(default)]
    pub audit: audit::Settings,
    /// Where metrics are sent, besides being shown.
    #[serde(default)]
    pub metrics: Option<push::Settings>,
    /// What of the containers beside this sidecar is asked in the name of the kubelet.
    #[serde(default)]
    pub probes: Probes,
}

/// Why a command that stands beside the file cannot be its server.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("the command that follows is of the one server in node.servers, where there are {0}")]
    NotOne(usize),
    #[error("node.commands has a command for {0} too")]
    Twice(ServerName),
    #[error("the command that follows cannot be started")]
    Words(#[source] WordsError),
}

impl Bootstrap {
    /// The one server that the file says this sidecar stands beside is the command of these words.
    pub fn serving(mut self, words: &[String]) -> Result<Self, CommandError> {
        let [server] = self.node.servers.as_slice() else {
            return Err(CommandError::NotOne(self.node.servers.len()));
        };
        let command = Command::of_words(words).map_err(CommandError::Words)?;
        match self.node.commands.insert(server.clone(), command) {
            Some(_) => Err(CommandError::Twice(server.clone())),
            None => Ok(self),
        }
    }
}

/// Who this sidecar is, besides its identity.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Node {
    /// `<namespace>/<name>`, unique in the mesh.
    pub id: NodeId,
    /// Labels of the workload, by which servers select their instances.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Servers that it says it stands beside, where labels do not tell.
    #[serde(default)]
    pub servers: Vec<ServerName>,
    /// Where servers listen beside this sidecar, where their resources do not say it.
    #[serde(default)]
    pub upstreams: BTreeMap<ServerName, Upstream>,
    /// Servers that are commands which this sidecar starts, whatever their resources say of where they listen.
    #[serde(default)]
    pub commands: BTreeMap<ServerName, Command>,
    /// Servers outside of the mesh to which calls may leave here, where to and with what.
    #[serde(default)]
    pub external: BTreeMap<ServerName, external::Settings>,
    /// Where it stands, as `region/zone`.
    #[serde(default)]
    pub locality: Option<Text<128>>,
    /// Where other sidecars reach this one; the inbound listener's own address if not given.
    #[serde(default)]
    pub address: Option<HostPort>,
}

/// Where a server listens: an address, `localhost:` and a port, or `unix:` and a path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Upstream {
    Address(SocketAddr),
    /// On the loopback address of one family or of both, as servers have it that listen at `localhost`.
    Loopback(u16),
    Unix(PathBuf),
}

impl TryFrom<String> for Upstream {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Some(port) = text.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
            return Ok(Self::Loopback(port));
        }
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => Err("the path of a unix socket starts with a slash".to_owned()),
            None => text.parse().map(Self::Address).map_err(|_| {
                format!(
                    "{text:?} is no address such as 127.0.0.1:9000, localhost:9000 or unix:/path/of/socket"
                )
            }),
        }
    }
}

/// Where configuration and identity come from. Exactly one.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Source {
    ControlPlane(ControlPlane),
    File(Standalone),
}

/// A control plane, and how this sidecar proves to it who it is.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ControlPlane {
    /// `host:port` of its door for sidecars.
    pub address: HostPort,
    pub proof: Proof,
    /// PEM of the roots by which the control plane is known, where the proof does not pin them (projected tokens).
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

/// How a sidecar gets its first certificate; every later one by the one before.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Proof {
    JoinToken(String),
    JoinTokenFile(PathBuf),
    /// A projected service account token, read anew for each attempt.
    TokenFile(PathBuf),
}

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::JoinToken(_) => f.write_str("JoinToken(…)"),
            Self::JoinTokenFile(path) => f.debug_tuple("JoinTokenFile").field(path).finish(),
            Self::TokenFile(path) => f.debug_tuple("TokenFile").field(path).finish(),
        }
    }
}

/// No control plane: resources in a local file, reloaded when it changes.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Standalone {
    /// A file or a folder of resources.
    pub resources: PathBuf,
    /// Certificate, key and roots in PEM, reloaded when they change. Without them the inbound listener is plain HTTP
    /// and only loopback addresses are accepted for it.
    #[serde(default)]
    pub identity: Option<IdentityFiles>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IdentityFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub roots: PathBuf,
}

/// Where a sidecar listens. A listener that is `null` does not exist; port 0 is a port of the system's choice.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Listen {
    /// mTLS, for callers of the servers beside this sidecar.
    pub inbound: Option<SocketAddr>,
    /// For the local agent. Loopback only.
    pub outbound: Option<SocketAddr>,
    /// For callers from outside the mesh.
    pub gateway: Option<Gateway>,
    /// Health and metrics.
    pub health: Option<SocketAddr>,
    /// Administration. Loopback only.
    pub admin: Option<SocketAddr>,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            inbound: Some(SocketAddr::from(([0, 0, 0, 0], 7443))),
            outbound: Some(SocketAddr::from(([127, 0, 0, 1], 7400))),
            gateway: None,
            health: Some(SocketAddr::from(([0, 0, 0, 0], 7401))),
            admin: Some(SocketAddr::from(([127, 0, 0, 1], 7402))),
        }
    }
}
