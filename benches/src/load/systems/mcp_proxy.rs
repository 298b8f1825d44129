//! `mcp-proxy` from the crate registry: one backend over HTTP, nothing switched on. It listens on plain HTTP only.

use std::net::SocketAddr;

use tokio::process::Command;

use super::{Site, System, pinned};

pub(super) fn command(site: &Site, address: SocketAddr) -> anyhow::Result<Command> {
    let path = site.write("mcp-proxy.toml", &config(site, address))?;
    let mut command = pinned(site.proxy_core, &System::McpProxy.program(site)?);
    command.arg("--config").arg(path);
    Ok(command)
}

fn config(site: &Site, address: SocketAddr) -> String {
    format!(
        "[proxy]
name = \"bench\"
separator = \"/\"
[proxy.listen]
host = \"127.0.0.1\"
port = {}
[[backends]]
name = \"bench\"
transport = \"http\"
url = \"http://{}/mcp\"
[observability]
log_level = \"warn\"
",
        address.port(),
        site.upstream
    )
}
