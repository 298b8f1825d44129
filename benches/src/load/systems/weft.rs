//! The sidecar, standing alone: its resources in a file, its identity in files, everything on that is on by default.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::process::Command;

use super::{Site, pinned};
use crate::certs;

/// What stands behind the sidecar.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Behind {
    Http(SocketAddr),
    /// The same, under every kind of policy.
    Policies(SocketAddr),
    /// A child that it starts, on this core.
    Stdio {
        core: usize,
    },
}

/// The sidecar beside this program.
pub(crate) fn program() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("weft-sidecar");
    program.is_file().then_some(program).context("there is no weft-sidecar beside weft-load")
}

pub(super) fn command(site: &Site, address: SocketAddr, behind: &Behind) -> anyhow::Result<Command> {
    let path = config(site, address, behind)?;
    let mut command = pinned(site.proxy_core, &program()?);
    command.arg("run").arg("--config").arg(path);
    // As Envoy's: to a file.
    let name = if let Behind::Policies(_) = behind { "weft-policies" } else { "weft" };
    command.arg("--access-log").arg(site.access_log(name));
    Ok(command)
}

/// Writes the files that it starts from and says where the first is.
pub(crate) fn config(site: &Site, address: SocketAddr, behind: &Behind) -> anyhow::Result<PathBuf> {
    let name = match behind {
        Behind::Http(_) => "weft",
        Behind::Policies(_) => "weft-policies",
        Behind::Stdio { .. } => "weft-stdio",
    };
    let resources = site.write(&format!("{name}-resources.yaml"), &resources(behind)?)?;
    let identity = json!({
        "certificate": site.certs.path("server", "crt"),
        "key": site.certs.path("server", "key"),
        "roots": site.certs.roots(),
    });
    // JSON is YAML.
    let bootstrap = json!({
        // A stdio server has no labels by which it would be known to stand here.
        "node": { "id": "bench/server-0", "labels": { "app": "server" }, "servers": ["bench/server"] },
        "source": { "file": { "resources": resources, "identity": identity } },
        "listen": { "inbound": address, "outbound": null, "health": "127.0.0.1:0", "admin": "127.0.0.1:0" },
    });
    site.write(&format!("{name}.yaml"), &bootstrap.to_string())
}

fn resources(behind: &Behind) -> anyhow::Result<String> {
    let location = match behind {
        Behind::Http(upstream) | Behind::Policies(upstream) => {
            json!({ "workload": { "labels": { "app": "server" }, "port": upstream.port() } })
        }
        Behind::Stdio { core } => {
            let program: &Path = &std::env::current_exe()?;
            json!({ "stdio": { "command": "taskset", "args": ["-c", core.to_string(), program, "stdio-echo"] } })
        }
    };
    let allowed = json!([{ "tools": ["echo", "stream"] }, { "methods": ["subscriptions/listen"] }]);
    let rules = json!([{ "action": "allow", "from": [{ "identities": [certs::CLIENT] }], "to": allowed }]);
    let server = object("McpServer", "server", location);
    let policy = object("AccessPolicy", "callers", json!({ "rules": rules }));
    let mut objects = vec![server, policy];
    if let Behind::Policies(_) = behind {
        objects.extend(policies());
    }
    Ok(objects.iter().map(|object| format!("{object}\n---\n")).collect())
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    let metadata = json!({ "namespace": "bench", "name": name });
    json!({ "apiVersion": "weft.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec })
}

/// With the one that lets callers in, 20 policies that select the server, of which two speak of the caller and one looks
/// at arguments; four limits, none of which is reached; and what there is for tools.
fn policies() -> Vec<Value> {
    let others = (0..18).map(|n| {
        let from = json!([{ "identities": [format!("spiffe://bench.test/ns/team-{n}/sa/*")] }]);
        object(
            "AccessPolicy",
            &format!("team-{n}"),
            json!({ "rules": [{ "action": "allow", "from": from }] }),
        )
    });
    let looks = json!({
        "action": "deny", "to": [{ "tools": ["echo"] }], "when": "args.text.startsWith('rm -rf') || size(args.text) > 1000000",
    });
    let limits = json!([
        { "name": "caller", "per": ["caller"], "rate": "1000000/s" },
        { "name": "tool", "per": ["caller", "tool"], "rate": "1000000/s" },
        { "name": "at-once", "per": ["caller"], "concurrency": 65536 },
        { "name": "day", "per": ["server"], "budget": "1000000000/day" },
    ]);
    let tools =
        json!({ "validateArguments": "enforce", "resultMax": "4MiB", "redact": ["/text"], "timeout": "30s" });
    let mut objects: Vec<_> = others.collect();
    objects.push(object("AccessPolicy", "looks", json!({ "rules": [looks] })));
    objects.push(object("QuotaPolicy", "fair", json!({ "limits": limits })));
    objects.push(object("ToolPolicy", "tools", tools));
    objects
}
