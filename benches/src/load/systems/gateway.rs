//! The gateway, with the sidecar beside the server behind it: TLS without a client's certificate toward callers, who bring
//! a token or a key, mutual TLS between the two, one core for both. Both read their resources from files.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::process::Command;

use super::weft::{object, program, server};
use super::{Site, System, free_port, pinned};
use crate::certs;

/// Where it has the server.
pub(super) const PATH: &str = "/servers/bench/server/mcp";
const ISSUER: &str = "https://idp.bench.test";
const AUDIENCE: &str = "bench";
/// Longer than any run.
const LIFETIME: Duration = Duration::from_secs(86_400);
/// Starts the sidecar and then, in its own place, the gateway, so that one process has the other as its child.
const BOTH: &str =
    r#""$1" run --config "$2" --access-log "$4" & exec "$1" run --config "$3" --access-log "$5""#;

/// Writes what both start from, and what callers bring.
pub(super) fn command(site: &Site, address: SocketAddr, system: System) -> anyhow::Result<Command> {
    let (name, inbound) = (system.name(), free_port()?);
    let (brought, known) = match system {
        System::WeftGatewayKey => key()?,
        _ => token()?,
    };
    site.write(&format!("{name}-brought"), &brought)?;
    let sidecar = sidecar(site, name, inbound)?;
    let gateway = gateway(site, name, (address, inbound), known)?;
    let mut command = pinned(site.proxy_core, "/bin/sh".as_ref());
    command.args(["-c", BOTH, "sh"]).arg(program()?).arg(sidecar).arg(gateway);
    command.arg(site.access_log(&format!("{name}-sidecar"))).arg(site.access_log(name));
    Ok(command)
}

/// What callers bring as a bearer token.
pub(super) fn brought(site: &Site, system: System) -> anyhow::Result<String> {
    let path = site.folder.join(format!("{}-brought", system.name()));
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The sidecar beside the server does as the one that stands alone, for callers of the gateway.
fn sidecar(site: &Site, name: &str, inbound: SocketAddr) -> anyhow::Result<PathBuf> {
    let location = json!({ "workload": { "labels": { "app": "server" }, "port": site.upstream.port() } });
    let allowed = json!([{ "tools": ["echo", "stream"] }, { "methods": ["subscriptions/listen"] }]);
    let from = json!([{ "identities": [certs::GATEWAY], "claims": { "sub": ["load"] } }]);
    let from = if name == System::WeftGatewayKey.name() {
        json!([{ "identities": [certs::GATEWAY] }])
    } else {
        from
    };
    let rules = json!([{ "action": "allow", "from": from, "to": allowed }]);
    let trust = json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "Trust",
        "metadata": { "namespace": "weft-system", "name": "mesh" },
        "spec": { "trustDomain": certs::DOMAIN, "gateways": [certs::GATEWAY] },
    });
    let objects = [server(location), object("AccessPolicy", "callers", json!({ "rules": rules })), trust];
    let listen = json!({ "inbound": inbound, "outbound": null });
    let node = json!({ "id": "bench/server-0", "labels": { "app": "server" }, "servers": ["bench/server"] });
    write(site, &format!("{name}-sidecar"), ("server", node), (listen, &objects))
}

fn gateway(
    site: &Site,
    name: &str,
    (address, inbound): (SocketAddr, SocketAddr),
    known: Value,
) -> anyhow::Result<PathBuf> {
    let there = json!({ "serviceAccount": "server", "endpoints": [{ "address": inbound.to_string() }] });
    let known = json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "Authentication",
        "metadata": { "namespace": "edge", "name": "callers" }, "spec": known,
    });
    let tls = json!({
        "certificate": site.certs.path("gateway", "crt"), "key": site.certs.path("gateway", "key"),
    });
    let listen = json!({
        "inbound": null, "outbound": null,
        "gateway": { "address": address, "publicUrl": format!("https://{address}"), "tls": tls },
    });
    let node = json!({ "id": "edge/gateway-0" });
    write(site, name, ("gateway", node), (listen, &[object("McpServer", "server", there), known]))
}

/// The files of one of the two; says where the first is.
fn write(
    site: &Site,
    name: &str,
    (identity, node): (&str, Value),
    (mut listen, objects): (Value, &[Value]),
) -> anyhow::Result<PathBuf> {
    let text: String = objects.iter().map(|object| format!("{object}\n---\n")).collect();
    let resources = site.write(&format!("{name}-resources.yaml"), &text)?;
    for door in ["health", "admin"] {
        listen[door] = json!("127.0.0.1:0");
    }
    let identity = json!({
        "certificate": site.certs.path(identity, "crt"),
        "key": site.certs.path(identity, "key"),
        "roots": site.certs.roots(),
    });
    let bootstrap = json!({
        "node": node,
        "source": { "file": { "resources": resources, "identity": identity } },
        "listen": listen,
    });
    site.write(&format!("{name}.yaml"), &bootstrap.to_string())
}

/// A key of a caller, and what is said of it.
fn key() -> anyhow::Result<(String, Value)> {
    let mut random = [0; 32];
    aws_lc_rs::rand::fill(&mut random)?;
    let key = URL_SAFE_NO_PAD.encode(random);
    let hash = digest(&SHA256, key.as_bytes());
    let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((key, json!({ "apiKeys": [{ "name": "load", "digest": format!("sha256:{hash}") }] })))
}

/// A token of a caller, and whose word is believed of it.
#[allow(clippy::disallowed_methods, reason = "a benchmark stands at the rim")]
fn token() -> anyhow::Result<(String, Value)> {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref())?;
    let point = pair.public_key().as_ref();
    let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
    let set = json!({ "keys": [{
        "kty": "EC", "crv": "P-256", "kid": "bench", "x": part(1..33), "y": part(33..65),
    }] });
    let until = SystemTime::now().duration_since(UNIX_EPOCH)? + LIFETIME;
    let claims = json!({ "iss": ISSUER, "sub": "load", "aud": AUDIENCE, "exp": until.as_secs() });
    let header = json!({ "alg": "ES256", "typ": "at+jwt", "kid": "bench" });
    let text = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", text(&header), text(&claims));
    let signature = pair.sign(&random, signed.as_bytes())?;
    let issuer = json!({ "issuer": ISSUER, "jwks": set.to_string(), "audiences": [AUDIENCE] });
    Ok((format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())), json!({ "jwt": [issuer] })))
}
