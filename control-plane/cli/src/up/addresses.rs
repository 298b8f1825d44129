//! Keeps two files that say where each sidecar listens: one for whoever wants its metrics or its admin door, and one as
//! Prometheus reads targets.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::board::{Board, Seen, Standing, Up};
use super::sidecar::node;

/// Its name in the home of the mesh.
const SIDECARS: &str = "sidecars.json";
/// Its place in the home of the mesh: in a folder of its own, so that a container can be shown it and nothing else.
const TARGETS: [&str; 2] = ["targets", "prometheus.json"];

/// The files, and where the control plane serves its metrics.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) sidecars: PathBuf,
    targets: PathBuf,
    control_plane: SocketAddr,
}

impl Files {
    pub(super) fn new(home: &Path, control_plane: SocketAddr) -> Self {
        Self { sidecars: home.join(SIDECARS), targets: home.join(TARGETS[0]).join(TARGETS[1]), control_plane }
    }

    /// Keeps the files those of the board. Never ends.
    pub(super) async fn keep(self, board: Arc<Board>) {
        let mut changes = board.watch();
        let mut written = [String::new(), String::new()];
        loop {
            changes.borrow_and_update();
            let sidecars = document(&board.look());
            let targets = targets(self.control_plane, &sidecars);
            let now = [(&self.sidecars, Value::Object(sidecars)), (&self.targets, targets)];
            for ((path, document), written) in now.into_iter().zip(&mut written) {
                let text = format!("{document:#}\n");
                if text == *written {
                    continue;
                }
                match write(path, &text).await {
                    Ok(()) => *written = text,
                    Err(error) => tracing::warn!(
                        path = %path.display(), %error, "where sidecars listen cannot be written down"
                    ),
                }
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Nobody listens there any more.
    pub(super) async fn remove(&self) {
        for path in [&self.sidecars, &self.targets] {
            // One that was never written is as good.
            let _ = tokio::fs::remove_file(path).await;
        }
    }
}

/// Whoever reads it sees all of it or the one before.
async fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        tokio::fs::create_dir_all(folder).await?;
    }
    let beside = path.with_extension("json.new");
    tokio::fs::write(&beside, text).await?;
    tokio::fs::rename(&beside, path).await
}

fn document(seen: &Seen) -> Map<String, Value> {
    let servers = seen.servers.iter().map(|(name, standing)| (node(name), Some(name), standing));
    let agents = seen.agents.iter().map(|(node, standing)| (node.to_string(), None, standing));
    let all = servers.chain(agents);
    let running = all.filter_map(|(node, server, standing)| match standing {
        Standing::Running(up) => Some((node, addresses(server.map(ToString::to_string), up))),
        Standing::Starting | Standing::Failed(_) | Standing::Stopping => None,
    });
    running.collect()
}

/// As Prometheus reads targets from a file.
fn targets(control_plane: SocketAddr, sidecars: &Map<String, Value>) -> Value {
    let host = |sidecar: &Value| Some(sidecar["metrics"].as_str()?.split('/').nth(2)?.to_owned());
    let sidecars = sidecars.iter().filter_map(|(node, sidecar)| {
        let labels = json!({ "job": "weft-sidecar", "node": node });
        Some(json!({ "targets": [host(sidecar)?], "labels": labels }))
    });
    let control_plane =
        json!({ "targets": [control_plane.to_string()], "labels": { "job": "weft-control-plane" } });
    Value::Array(std::iter::once(control_plane).chain(sidecars).collect())
}

fn addresses(server: Option<String>, up: &Up) -> Value {
    let url = |address: Option<SocketAddr>, path: &str| address.map(|it| format!("http://{it}{path}"));
    json!({
        "server": server,
        "inbound": up.inbound,
        "outbound": up.outbound,
        "health": url(up.health, "/healthz/ready"),
        "metrics": url(up.health, "/metrics"),
        "admin": url(up.admin, ""),
    })
}
