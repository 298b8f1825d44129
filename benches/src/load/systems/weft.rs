//! The sidecar, standing alone: its resources in a file, its identity in files, everything on that is on by default.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::process::Command;

use super::{Site, System, pinned};
use crate::certs;

/// What stands behind the sidecar.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Behind {
    /// The server of the benchmark, and which sidecar it is.
    Http(System),
    /// A child that it starts, on this core.
    Stdio { core: usize },
}

impl Behind {
    fn name(self) -> &'static str {
        match self {
            Self::Http(system) => system.name(),
            Self::Stdio { .. } => "weft-stdio",
        }
    }
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
    command.arg("--access-log").arg(site.access_log(behind.name()));
    Ok(command)
}

/// Writes the files that it starts from and says where the first is.
pub(crate) fn config(site: &Site, address: SocketAddr, behind: &Behind) -> anyhow::Result<PathBuf> {
    let name = behind.name();
    let resources = site.write(&format!("{name}-resources.yaml"), &resources(site, *behind)?)?;
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
        "audit": { "folder": site.audit(name) },
    });
    site.write(&format!("{name}.yaml"), &bootstrap.to_string())
}

fn resources(site: &Site, behind: Behind) -> anyhow::Result<String> {
    let location = match behind {
        Behind::Http(_) => {
            json!({ "workload": { "labels": { "app": "server" }, "port": site.upstream.port() } })
        }
        Behind::Stdio { core } => {
            let program: &Path = &std::env::current_exe()?;
            json!({ "stdio": { "command": "taskset", "args": ["-c", core.to_string(), program, "stdio-echo"] } })
        }
    };
    let allowed = json!([{ "tools": ["echo", "stream"] }, { "methods": ["subscriptions/listen"] }]);
    let rules = json!([{ "action": "allow", "from": [{ "identities": [certs::CLIENT] }], "to": allowed }]);
    let policy = object("AccessPolicy", "callers", json!({ "rules": rules }));
    let mut objects = vec![server(location), policy];
    let spans = |share: &str| {
        let endpoint = format!("http://{}", site.collector);
        json!({ "endpoint": endpoint, "protocol": "http", "sampling": share, "keepFailures": true })
    };
    match behind {
        Behind::Http(System::WeftPolicies) => objects.extend(policies()),
        Behind::Http(System::WeftQuiet) => {
            objects.push(object("Telemetry", "quiet", json!({ "accessLog": { "off": true } })));
        }
        Behind::Http(System::WeftSampled) => {
            objects.push(object("Telemetry", "sampled", json!({ "tracing": spans("1%") })));
        }
        Behind::Http(System::WeftTraced) => {
            objects.push(object("Telemetry", "traced", json!({ "tracing": spans("100%") })));
        }
        Behind::Http(System::WeftAudited) => {
            let rules = json!([{ "action": "audit", "to": [{ "tools": ["*"] }] }]);
            objects.push(object("AccessPolicy", "audited", json!({ "rules": rules })));
        }
        Behind::Http(_) | Behind::Stdio { .. } => {}
    }
    Ok(objects.iter().map(|object| format!("{object}\n---\n")).collect())
}

pub(super) fn object(kind: &str, name: &str, spec: Value) -> Value {
    let metadata = json!({ "namespace": "bench", "name": name });
    json!({ "apiVersion": "weft.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec })
}

/// The server, with places for all connections of a run though they are one caller's, who never gets all.
pub(super) fn server(mut spec: Value) -> Value {
    spec["inFlight"] = json!({ "max": 1024 });
    object("McpServer", "server", spec)
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
