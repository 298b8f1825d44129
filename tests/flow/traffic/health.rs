//! How servers are, by the word of the sidecars beside them: what operators see, and where callers go.

use std::time::{Duration, Instant};

use serde_json::json;
use weft_sidecar::app::Running;

use super::agent::Agent;
use super::doors;
use super::pair::{self, Pair};
use super::upstream::Upstream;
use crate::mesh::{Mesh, eventually};

/// What a sidecar says of its only server, and why.
fn said(mesh: &Mesh, node: &str) -> Option<(&'static str, String)> {
    let status = mesh.running.hub.status().into_iter().find(|it| it.node.as_str() == node)?;
    let report = status.report?;
    let served = report.servers.values().next()?;
    Some((served.health.word(), served.detail.clone()))
}

async fn says(mesh: &Mesh, node: &str, word: &str) {
    eventually(&format!("{node} says that it is {word}"), || said(mesh, node).is_some_and(|it| it.0 == word))
        .await;
}

/// How many instances of the server an agent's sidecar knows.
fn known_to(agent: &Agent) -> usize {
    let current = agent.sidecar.live.load();
    current.snapshot.servers.values().next().map_or(0, |entry| entry.endpoints.len())
}

/// Another instance, with a server of its own.
async fn another(pair: &Pair, upstream: &Upstream) -> Running {
    let listen = json!({ "inbound": "127.0.0.1:0", "outbound": null });
    let mut bootstrap = pair::joining(&pair.mesh, "research", "files", listen, json!({})).await;
    bootstrap["node"]["id"] = json!("research/files-2");
    bootstrap["node"]["upstreams"] = json!({ "research/files": upstream.address.to_string() });
    pair::start(bootstrap).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_tells_how_its_server_is_and_at_once_that_it_drains_and_callers_go_elsewhere() {
    let pair = Pair::start(Upstream::echo().await).await;
    let second = Upstream::echo().await;
    let other = another(&pair, &second).await;
    let agent = Agent::join(&pair, "reviewer").await;
    for node in ["research/files-1", "research/files-2"] {
        says(&pair.mesh, node, "serving").await;
    }
    eventually("both are known", || known_to(&agent) == 2).await;
    let status = pair.mesh.running.hub.status();
    let report = status.iter().find(|it| it.node.as_str() == "research/files-1").unwrap().report.clone();
    let report = report.unwrap();
    assert_eq!(report.version, env!("CARGO_PKG_VERSION"));
    let inbound = pair.inbound.inbound.unwrap().to_string();
    assert_eq!(report.inbound_address.as_ref().unwrap().as_str(), inbound);

    let began = Instant::now();
    let admin = pair.inbound.admin.unwrap();
    assert_eq!(doors::post(admin, "/drain").await.status, 202);
    says(&pair.mesh, "research/files-1", "draining").await;
    eventually("callers know only the other", || known_to(&agent) == 1).await;
    assert!(began.elapsed() < Duration::from_secs(8), "it did not wait for its turn: {:?}", began.elapsed());
    assert_eq!(agent.call("echo", json!({})).await.status, 200);
    assert_eq!((pair.upstream.seen().len(), second.seen().len()), (0, 1));
    agent.sidecar.stop().await;
    other.stop().await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_does_not_run_is_degraded_and_the_reason_is_told() {
    let mesh = Mesh::start().await;
    let spec = "spec: { stdio: { command: /no/such/command } }";
    mesh.apply(&format!(
        "apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: {{ namespace: research, name: files }}\n{spec}\n"
    ))
    .await;
    let listen = json!({ "inbound": "127.0.0.1:0", "outbound": null });
    let mut bootstrap = pair::joining(&mesh, "research", "files", listen, json!({})).await;
    bootstrap["node"]["servers"] = json!(["research/files"]);
    let sidecar = pair::start(bootstrap).await;
    says(&mesh, "research/files-1", "degraded").await;
    let (_, why) = said(&mesh, "research/files-1").unwrap();
    assert!(!why.is_empty(), "{why}");
    sidecar.stop().await;
    mesh.stop().await;
}
