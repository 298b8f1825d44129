//! Envoy, doing the work that the sidecar does: a client's certificate required, the message parsed and its headers
//! verified by the `mcp` filter, RBAC on the caller's identity and the tool's name, a local rate limit, an access log.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::process::Command;

use super::{Site, pinned};
use crate::certs;

/// Where the Python package has its program, under the folder of its environment.
const PROGRAM: &str = "envoy/_bin/envoy";
/// No limit that a run reaches; it is the check that costs.
const TOKENS: u32 = 1_000_000_000;

pub(super) fn command(site: &Site, address: SocketAddr) -> anyhow::Result<Command> {
    let path = site.write("envoy.json", &config(site, address).to_string())?;
    let mut command = pinned(site.proxy_core, &program(site)?);
    command.args(["--concurrency", "1", "--log-level", "warn", "--base-id"]);
    // Several on one machine must differ; the port does.
    command.arg(address.port().to_string()).arg("-c").arg(path);
    Ok(command)
}

pub(super) fn program(site: &Site) -> anyhow::Result<PathBuf> {
    let libraries = site.cache.join("envoy/lib");
    let pythons = std::fs::read_dir(&libraries);
    let pythons = pythons.with_context(|| format!("no Envoy in {}", libraries.display()))?.flatten();
    let mut programs = pythons.map(|python| python.path().join("site-packages").join(PROGRAM));
    programs.find(|program| program.is_file()).context("no Envoy in its environment")
}

fn typed(name: &str, mut config: Value) -> Value {
    config["@type"] = format!("type.googleapis.com/envoy.extensions.{name}").into();
    config
}

fn socket(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

fn config(site: &Site, address: SocketAddr) -> Value {
    let listener = json!({
        "name": "door",
        "address": socket(address),
        "tcp_backlog_size": 4096,
        "filter_chains": [{
            "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": tls(site) },
            "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": manager(site),
            }],
        }],
    });
    let cluster = json!({
        "name": "behind",
        "type": "STATIC",
        "connect_timeout": "10s",
        "circuit_breakers": { "thresholds": [
            { "max_connections": 65536, "max_pending_requests": 65536, "max_requests": 65536 },
        ] },
        "load_assignment": { "cluster_name": "behind", "endpoints": [
            { "lb_endpoints": [{ "endpoint": { "address": socket(site.upstream) } }] },
        ] },
    });
    json!({ "static_resources": { "listeners": [listener], "clusters": [cluster] } })
}

fn tls(site: &Site) -> Value {
    let file = |path: PathBuf| json!({ "filename": path });
    typed(
        "transport_sockets.tls.v3.DownstreamTlsContext",
        json!({
            "require_client_certificate": true,
            "common_tls_context": {
                "tls_params": { "tls_minimum_protocol_version": "TLSv1_3" },
                "tls_certificates": [{
                    "certificate_chain": file(site.certs.path("server", "crt")),
                    "private_key": file(site.certs.path("server", "key")),
                }],
                "validation_context": { "trusted_ca": file(site.certs.roots()) },
            },
        }),
    )
}

fn manager(site: &Site) -> Value {
    let log = typed("access_loggers.file.v3.FileAccessLog", json!({ "path": site.access_log("envoy") }));
    let route = json!({ "match": { "prefix": "/" }, "route": { "cluster": "behind", "timeout": "0s" } });
    typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": "door",
            "codec_type": "HTTP1",
            "access_log": [{ "name": "envoy.access_loggers.file", "typed_config": log }],
            "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }] },
            "http_filters": [filter("mcp", mcp()), filter("rbac", rbac()), filter("local_ratelimit", limit()),
                filter("router", typed("filters.http.router.v3.Router", json!({})))],
        }),
    )
}

fn filter(name: &str, config: Value) -> Value {
    json!({ "name": format!("envoy.filters.http.{name}"), "typed_config": config })
}

fn mcp() -> Value {
    typed(
        "filters.http.mcp.v3.Mcp",
        json!({
            "traffic_mode": "REJECT_NO_MCP",
            "max_request_body_size": 4 << 20,
            "attribute_source": "VERIFY",
            "reject_duplicate_keys": true,
        }),
    )
}

fn rbac() -> Value {
    let matches = |path: &[&str], value: &str| {
        let path: Vec<Value> = path.iter().map(|key| json!({ "key": key })).collect();
        let value = json!({ "string_match": { "exact": value } });
        json!({ "metadata": { "filter": "envoy.filters.http.mcp", "path": path, "value": value } })
    };
    let allowed = [
        matches(&["params", "name"], "echo"),
        matches(&["params", "name"], "stream"),
        matches(&["method"], "subscriptions/listen"),
    ];
    let caller = json!({ "authenticated": { "principal_name": { "exact": certs::CLIENT } } });
    typed(
        "filters.http.rbac.v3.RBAC",
        json!({ "rules": { "action": "ALLOW", "policies": {
            "callers": { "permissions": allowed, "principals": [caller] },
        } } }),
    )
}

fn limit() -> Value {
    let always = |key: &str| json!({ "default_value": { "numerator": 100 }, "runtime_key": key });
    typed(
        "filters.http.local_ratelimit.v3.LocalRateLimit",
        json!({
            "stat_prefix": "limit",
            "token_bucket": { "max_tokens": TOKENS, "tokens_per_fill": TOKENS, "fill_interval": "1s" },
            "filter_enabled": always("enabled"),
            "filter_enforced": always("enforced"),
        }),
    )
}
