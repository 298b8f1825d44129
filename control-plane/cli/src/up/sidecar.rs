//! One sidecar of a mesh on this machine: what it is started with.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use weft_control_plane::app::Running as ControlPlane;
use weft_control_plane::auth::Actor;
use weft_control_plane::clock;
use weft_control_plane::store::Store;
use weft_control_plane::tokens::{self, Tokens};
use weft_control_plane::trust::Trust;
use weft_control_plane::xds::Hub;
use weft_proto::name::{NodeId, ServerName};
use weft_sidecar::access_log::Sink;
use weft_sidecar::app::{self, Running, Surroundings};
use weft_sidecar::bootstrap::Bootstrap;
use weft_sidecar::logging::Logging;
use weft_sidecar::stdio::launch::Launcher;

use super::agents::Agent;
use super::tally::Tally;
use super::wanted::Wanted;
use crate::failure::Failure;

/// For how long a join token of ours is good: it is used at once.
const TOKEN_LIFE: Duration = Duration::from_secs(600);
/// Connections to a sidecar beside a server: only those of the agents come here.
const CONNECTIONS_MAX: usize = 256;

/// What every sidecar here is started with.
pub(crate) struct Mesh {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) hub: Arc<Hub>,
    /// Told of each request that ended.
    tally: Arc<Tally>,
    /// Where the trails of the sidecars lie, each in a folder of its own.
    trails: PathBuf,
    address: SocketAddr,
    tokens: Arc<Tokens>,
    trust: Arc<Trust>,
}

/// One sidecar, not started.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) node: NodeId,
    /// Under which name calls are counted that are about no server.
    counted: Arc<str>,
    namespace: String,
    account: String,
    said: Value,
    listen: Value,
}

impl Recipe {
    /// A sidecar beside a server.
    pub(crate) fn beside(name: &ServerName, wanted: &Wanted) -> Result<Self, String> {
        let id = node(name);
        Ok(Self {
            node: NodeId::parse(&id).map_err(|error| error.to_string())?,
            counted: name.to_string().into(),
            namespace: name.namespace.to_string(),
            account: wanted.account.clone(),
            said: json!({ "id": id, "labels": wanted.labels, "servers": [name.to_string()] }),
            listen: json!({ "inbound": ANY, "outbound": null, "health": ANY, "admin": ANY }),
        })
    }

    /// The one beside an agent.
    pub(crate) fn agent(agent: &Agent) -> Self {
        Self {
            node: agent.node.clone(),
            counted: counted(&agent.node).into(),
            namespace: Agent::namespace().to_owned(),
            account: agent.account.to_string(),
            said: json!({ "id": agent.node.to_string() }),
            listen: json!({ "inbound": null, "outbound": agent.listen, "health": ANY, "admin": ANY }),
        }
    }
}

/// Under which name the calls of an agent are counted that are about no server: none that a server may have.
pub(crate) fn counted(agent: &NodeId) -> String {
    format!("agent {agent}")
}

/// How the sidecar beside a server is called.
pub(crate) fn node(name: &ServerName) -> String {
    format!("{}/{}-up", name.namespace, name.name)
}

/// A port of the system's choice, for nobody but this machine.
const ANY: &str = "127.0.0.1:0";

impl Mesh {
    pub(crate) fn new(control_plane: &ControlPlane, home: &Path, tally: &Arc<Tally>) -> Self {
        Self {
            trails: home.join("audit"),
            store: Arc::clone(&control_plane.store),
            hub: Arc::clone(&control_plane.hub),
            address: control_plane.sidecars,
            tokens: Arc::clone(&control_plane.tokens),
            trust: Arc::clone(&control_plane.trust),
            tally: Arc::clone(tally),
        }
    }

    /// Lets a sidecar in with a token of its own and starts it. It keeps nothing but its audit trail: the control plane is
    /// there whenever it is, and where others listened in an earlier run is no use to it.
    pub(crate) async fn start(&self, recipe: &Recipe) -> Result<Running, Failure> {
        let failed =
            |what: String| Failure::failed(format!("the sidecar {} does not start: {what}", recipe.node));
        let token = self.token(recipe).await.map_err(failed)?;
        let bootstrap = json!({
            "node": recipe.said,
            "source": { "controlPlane": { "address": self.address.to_string(), "proof": { "joinToken": token } } },
            "listen": recipe.listen,
            "audit": { "folder": self.trails.join(recipe.node.as_str()) },
            "limits": { "drainTimeout": "5s", "connectionsMax": CONNECTIONS_MAX },
        });
        let bootstrap: Bootstrap =
            serde_json::from_value(bootstrap).map_err(|error| failed(error.to_string()))?;
        let around = Surroundings {
            workers: tokio::runtime::Handle::current(),
            launcher: Launcher::default(),
            access_log: Sink::Told(Tally::told(&self.tally, Arc::clone(&recipe.counted))),
            logging: Logging::fixed("this process logs as `weft up` was told"),
        };
        Box::pin(app::start(bootstrap, around)).await.map_err(|error| {
            let failure = failed(error.to_string()).because(crate::running::causes(&error));
            match error {
                app::Error::Listen { door: "outbound", .. } => {
                    failure.then("choose another address with --listen-agent or --agent")
                }
                _ => failure,
            }
        })
    }

    async fn token(&self, recipe: &Recipe) -> Result<String, String> {
        let wanted = tokens::Wanted {
            namespace: recipe.namespace.parse().map_err(|error| format!("{error}"))?,
            account: recipe.account.parse().map_err(|error| format!("{error}"))?,
            uses: 1,
            expires_in: TOKEN_LIFE,
            description: Some("weft up".to_owned()),
        };
        let created = self.tokens.create(&wanted, self.trust.root(), &Actor::system(), clock::now()).await;
        created.map(|(token, _)| token.to_string()).map_err(|error| error.to_string())
    }
}
