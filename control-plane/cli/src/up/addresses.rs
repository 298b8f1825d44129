//! Keeps a file that says where each sidecar listens, for whoever wants its metrics or its admin door.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::board::{Board, Seen, Standing, Up};
use super::sidecar::node;

/// Its name in the home of the mesh.
pub(super) const FILE: &str = "sidecars.json";

/// Keeps the file that of the board. Never ends.
pub(super) async fn keep(board: Arc<Board>, path: PathBuf) {
    let mut changes = board.watch();
    let mut written = String::new();
    loop {
        changes.borrow_and_update();
        let text = format!("{:#}\n", Value::Object(document(&board.look())));
        if text != written {
            match write(&path, &text).await {
                Ok(()) => written = text,
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "where sidecars listen cannot be written down")
                }
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Nobody listens there any more.
pub(super) async fn remove(path: &Path) {
    // One that was never written is as good.
    let _ = tokio::fs::remove_file(path).await;
}

/// Whoever reads it sees all of it or the one before.
async fn write(path: &Path, text: &str) -> io::Result<()> {
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

fn addresses(server: Option<String>, up: &Up) -> Value {
    let url =
        |address: Option<std::net::SocketAddr>, path: &str| address.map(|it| format!("http://{it}{path}"));
    json!({
        "server": server,
        "inbound": up.inbound,
        "outbound": up.outbound,
        "health": url(up.health, "/healthz/ready"),
        "metrics": url(up.health, "/metrics"),
        "admin": url(up.admin, ""),
    })
}
