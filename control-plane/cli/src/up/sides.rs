//! The sidecars of a mesh on this machine, each with an identity of its own and mutual TLS between them, as on many
//! machines; only that they share a process.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use weft_control_plane::app::Running as ControlPlane;
use weft_control_plane::auth::Actor;
use weft_control_plane::store::{self, Prefix};
use weft_control_plane::{clock, desired, tokens};
use weft_proto::name::ServerName;
use weft_proto::resource::kinds::{Location, McpServer};
use weft_proto::resource::{self, Spec};
use weft_sidecar::access_log::Sink;
use weft_sidecar::app::{self, Running, Surroundings};
use weft_sidecar::bootstrap::Bootstrap;
use weft_sidecar::stdio::launch::Launcher;

use super::AGENT;
use crate::failure::Failure;

/// Time for a sidecar to get its certificate and its configuration.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// For how long a join token of ours is good: it is used at once.
const TOKEN_LIFE: Duration = Duration::from_secs(600);

/// The running sidecars.
pub(crate) struct Sides {
    /// Beside servers.
    pub(crate) servers: Vec<(ServerName, Running)>,
    /// Servers that no sidecar here stands beside, and why.
    pub(crate) left_out: Vec<(ServerName, &'static str)>,
    agent: Running,
}

impl Sides {
    /// Where the agent on this machine calls.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.agent.outbound
    }

    /// Ends them all: the agent's first, so that what is under way can finish.
    pub(crate) async fn stop(self) {
        self.agent.stop().await;
        let stopping = self.servers.into_iter().map(|(_, sidecar)| tokio::spawn(sidecar.stop()));
        for stopped in stopping.collect::<Vec<_>>() {
            let _ = stopped.await;
        }
    }
}

/// Starts a sidecar beside each server that can run here, and one for the agent.
pub(crate) async fn start(
    control_plane: &ControlPlane,
    folder: &Path,
    listen: SocketAddr,
) -> Result<Sides, Failure> {
    let (mut servers, mut left_out) = (Vec::new(), Vec::new());
    for (name, spec) in stored(control_plane).await? {
        match runs_here(&spec) {
            Ok(()) => {
                let sidecar = beside(control_plane, folder, &name, &spec).await?;
                servers.push((name, sidecar));
            }
            Err(why) => left_out.push((name, why)),
        }
    }
    let agent = agent(control_plane, folder, listen).await?;
    for sidecar in servers.iter().map(|(_, sidecar)| sidecar).chain([&agent]) {
        let ready = tokio::time::timeout(READY_TIMEOUT, sidecar.ready()).await;
        ready.map_err(|_| {
            let why = sidecar.control().borrow().last_error.as_ref().map(|error| error.message.clone());
            Failure::failed("a sidecar got no configuration in time").because(why.unwrap_or_default())
        })?;
    }
    Ok(Sides { servers, left_out, agent })
}

/// Every server that the control plane knows.
async fn stored(control_plane: &ControlPlane) -> Result<Vec<(ServerName, McpServer)>, Failure> {
    let failed =
        |error: &dyn std::fmt::Display| Failure::failed(format!("the servers cannot be read: {error}"));
    let prefix = Prefix::new(format!("{}mcpservers/", desired::PREFIX)).map_err(|error| failed(&error))?;
    let (_, entries) =
        store::list_all(&*control_plane.store, &prefix, None).await.map_err(|error| failed(&error))?;
    let mut servers = Vec::new();
    for entry in entries {
        let text = String::from_utf8_lossy(&entry.value);
        let object = resource::parse_one("store", &text);
        let object =
            object.map_err(|errors| failed(&errors.first().map_or_else(String::new, ToString::to_string)))?;
        if let Spec::McpServer(spec) = object.spec {
            let name = ServerName { namespace: object.metadata.namespace, name: object.metadata.name };
            servers.push((name, spec));
        }
    }
    Ok(servers)
}

fn runs_here(spec: &McpServer) -> Result<(), &'static str> {
    match &spec.location {
        Location::Stdio(_) => Ok(()),
        Location::Workload(workload) if workload.port.is_some() || workload.unix_socket.is_some() => Ok(()),
        Location::Workload(_) => Err("nothing says on which port it listens"),
        Location::Endpoints(_) => Err("its sidecars run elsewhere"),
        Location::External(_) => Err("servers outside of the mesh are not reached yet"),
    }
}

async fn beside(
    control_plane: &ControlPlane,
    folder: &Path,
    name: &ServerName,
    spec: &McpServer,
) -> Result<Running, Failure> {
    let account = spec.service_account.as_ref().map_or(name.name.as_str(), |account| account.as_str());
    let labels = match &spec.location {
        Location::Workload(workload) => serde_json::to_value(&workload.labels).unwrap_or_default(),
        _ => json!({}),
    };
    let node = json!({
        "id": format!("{}/{}-up", name.namespace, name.name),
        "labels": labels,
        "servers": [name.to_string()],
    });
    let listen = json!({ "inbound": "127.0.0.1:0", "outbound": null, "health": null, "admin": null });
    sidecar(control_plane, folder, (name.namespace.as_str(), account), node, listen).await
}

async fn agent(control_plane: &ControlPlane, folder: &Path, listen: SocketAddr) -> Result<Running, Failure> {
    let node = json!({ "id": format!("{}/{}-up", AGENT.0, AGENT.1) });
    let listen = json!({ "inbound": null, "outbound": listen.to_string(), "health": null, "admin": null });
    sidecar(control_plane, folder, AGENT, node, listen).await
}

/// Lets a sidecar in with a token of its own and starts it.
async fn sidecar(
    control_plane: &ControlPlane,
    folder: &Path,
    (namespace, account): (&str, &str),
    node: Value,
    listen: Value,
) -> Result<Running, Failure> {
    let failed =
        |what: String| Failure::failed(format!("the sidecar {namespace}/{account} does not start: {what}"));
    let wanted = tokens::Wanted {
        namespace: namespace.parse().map_err(|error| failed(format!("{error}")))?,
        account: account.parse().map_err(|error| failed(format!("{error}")))?,
        uses: 1,
        expires_in: TOKEN_LIFE,
        description: Some("weft up".to_owned()),
    };
    let root = control_plane.trust.root();
    let token = control_plane.tokens.create(&wanted, root, &Actor::system(), clock::now()).await;
    let (token, _) = token.map_err(|error| failed(error.to_string()))?;
    let state = folder.join(node["id"].as_str().unwrap_or_default().replace('/', "."));
    crate::running::make_folder(&state)?;
    let bootstrap = json!({
        "node": node,
        "source": { "controlPlane": {
            "address": control_plane.sidecars.to_string(), "proof": { "joinToken": token.to_string() },
        } },
        "listen": listen,
        "stateDir": state,
        "limits": { "drainTimeout": "5s" },
    });
    let bootstrap: Bootstrap =
        serde_json::from_value(bootstrap).map_err(|error| failed(error.to_string()))?;
    let around = Surroundings {
        workers: tokio::runtime::Handle::current(),
        launcher: Launcher::default(),
        access_log: Sink::Off,
        set_logging: Arc::new(|_| Err("this process logs as `weft up` was told".to_owned())),
    };
    Box::pin(app::start(bootstrap, around)).await.map_err(|error| {
        let next = matches!(error, app::Error::Listen { .. });
        let failure = failed(error.to_string()).because(crate::running::causes(&error));
        if next { failure.then("choose another address with --listen-agent") } else { failure }
    })
}
