//! ContextForge from PyPI (`mcp-contextforge-gateway`): one server behind it, callers with a token, everything else as it
//! comes, but for a log of errors only and no limits of rates, which would end every run. It speaks the legacy era and listens on plain HTTP.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::process::Command;

use super::{Site, pinned};

/// Starts it and tells it of the server.
const SCRIPT: &str = include_str!("contextforge.py");
/// The revision that it is called with.
pub(super) const REVISION: &str = "2025-11-25";
/// What it says once it knows the server's tools.
pub(super) const REGISTERED: &str = "registered";

pub(super) fn program(site: &Site) -> PathBuf {
    site.cache.join("contextforge/bin/python")
}

pub(super) fn command(site: &Site, address: SocketAddr) -> anyhow::Result<Command> {
    let folder = folder(site);
    // Each start is a first one.
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir(&folder)?;
    let script = site.write("contextforge.py", SCRIPT)?;
    let mut command = pinned(site.proxy_core, &program(site));
    command.arg(script).args([&address.ip().to_string(), &address.port().to_string()]);
    command.arg(format!("http://{}/mcp", site.upstream)).arg(&folder).current_dir(&folder);
    let secret = |what: &str| format!("{what}-of-a-benchmark-that-keeps-no-secret");
    command.env("DATABASE_URL", format!("sqlite:///{}", folder.join("mcp.db").display()));
    command.env("JWT_SECRET_KEY", secret("key")).env("AUTH_ENCRYPTION_SECRET", secret("salt"));
    command
        .env("PLATFORM_ADMIN_EMAIL", "admin@bench.test")
        .env("PLATFORM_ADMIN_PASSWORD", "Benchmark-Passw0rd-1");
    // The server is on loopback.
    command.env("SSRF_ALLOW_LOCALHOST", "true").env("SSRF_ALLOW_PRIVATE_NETWORKS", "true");
    command.env("RATE_LIMITING_ENABLED", "false").env("TOOL_RATE_LIMIT", "1000000000");
    command.env("LOG_LEVEL", "ERROR").env("MCPGATEWAY_UI_ENABLED", "false").env("CACHE_TYPE", "memory");
    Ok(command)
}

pub(super) fn version(site: &Site) -> Option<String> {
    let asks = "import importlib.metadata as it; print(it.version('mcp-contextforge-gateway'))";
    let output = std::process::Command::new(program(site)).args(["-c", asks]).output().ok()?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

fn folder(site: &Site) -> PathBuf {
    site.folder.join("contextforge")
}

/// What callers show it.
pub(super) fn token(site: &Site) -> anyhow::Result<String> {
    Ok(std::fs::read_to_string(folder(site).join("token"))?)
}
