//! A whole mesh on one core, as `weft up` starts it: the sidecar beside the agent, the one beside the server, mutual TLS
//! between them, and the control plane, which has nothing to do meanwhile. Callers come to the agent's sidecar over plain
//! HTTP, as agents do.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;
use tokio::process::Command;

use super::weft::{object, server};
use super::{Site, pinned};

/// The operator's program, beside this one.
pub(super) fn program() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("weft");
    program.is_file().then_some(program).context("there is no weft beside weft-load")
}

pub(super) fn command(site: &Site, address: SocketAddr, name: &str) -> anyhow::Result<Command> {
    let folder = site.folder.join(format!("{name}-mesh"));
    // Each start is a first one.
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir(&folder)?;
    let resources = site.write(&format!("{name}-resources.yaml"), &resources(site))?;
    let mut command = pinned(site.proxy_core, &program()?);
    command.args(["up", "--no-table", "--log-level", "warn", "-f"]).arg(resources).current_dir(folder);
    command.args(["--listen-agent", &address.to_string()]);
    for door in ["sidecars", "operators", "health"] {
        command.args([&format!("--listen-{door}"), "127.0.0.1:0"]);
    }
    Ok(command)
}

fn resources(site: &Site) -> String {
    let location = json!({ "workload": { "labels": { "app": "server" }, "port": site.upstream.port() } });
    let allowed = json!([{ "tools": ["echo", "stream"] }, { "methods": ["subscriptions/listen"] }]);
    let from = json!([{ "identities": ["spiffe://*/ns/local/sa/agent"] }]);
    let rules = json!([{ "action": "allow", "from": from, "to": allowed }]);
    let objects = [server(location), object("AccessPolicy", "callers", json!({ "rules": rules }))];
    objects.iter().map(|object| format!("{object}\n---\n")).collect()
}
