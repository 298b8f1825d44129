//! How servers are, by the word of the sidecars beside them: what operators see, and where callers go.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::{Method, Response};
use serde_json::{Value, json};
use weft_sidecar::app::Running;

use super::agent::Agent;
use super::doors;
use super::pair::{self, Pair};
use super::streams::{call, rest, stream};
use super::upstream::{self, Body, Seen, Upstream};
use crate::mesh::{Mesh, eventually};
use crate::operator::Operator;

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

/// Where a sidecar says that its only server can be called past it.
fn exposed(mesh: &Mesh, node: &str) -> Option<Vec<String>> {
    let status = mesh.running.hub.status().into_iter().find(|it| it.node.as_str() == node)?;
    let report = status.report?;
    Some(report.servers.values().next()?.exposed_at.iter().map(ToString::to_string).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_tells_that_its_server_can_be_called_past_it_and_operators_are_told_where() {
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let pair = Pair::start(Upstream::at(everywhere, async |seen| upstream::echo(&seen)).await).await;
    let hidden = Upstream::echo().await;
    let other = another(&pair, &hidden).await;
    let at = pair.upstream.address.to_string();
    eventually("its address is told", || exposed(&pair.mesh, "research/files-1") == Some(vec![at.clone()]))
        .await;
    says(&pair.mesh, "research/files-2", "serving").await;
    assert_eq!(exposed(&pair.mesh, "research/files-2"), Some(Vec::new()), "one on loopback alone is not");
    let (status, checks) = Operator::admin(&pair.mesh).get("/v1/checks?group=sidecars").await;
    assert_eq!(status, 200, "{checks}");
    let found = checks["items"].as_array().unwrap().iter().find(|it| it["name"] == "exposure").unwrap();
    assert_eq!(found["outcome"], "failed", "{found}");
    assert_eq!(found["detail"], format!("research/files at research/files-1 ({at})"));
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

/// A server that is well or ill as a story says, and what the sidecar asked it of its own accord.
#[derive(Clone, Default)]
struct Patient {
    ill: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<Seen>>>,
}

impl Patient {
    /// Answers in the way of `healthy`, unless it is ill.
    async fn serve(&self, healthy: fn(&Seen) -> Response<Body>) -> Upstream {
        let patient = self.clone();
        Upstream::with(move |seen| {
            let patient = patient.clone();
            async move {
                if upstream::is_probe(&seen) {
                    patient.asked.lock().unwrap().push(seen.clone());
                    if patient.ill.load(Ordering::Relaxed) {
                        return upstream::status(500);
                    }
                }
                healthy(&seen)
            }
        })
        .await
    }

    fn is_ill(&self, ill: bool) {
        self.ill.store(ill, Ordering::Relaxed);
    }

    /// How often it was asked something.
    fn asked(&self, method: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|seen| seen.method_name() == method).count()
    }
}

const OFTEN: &str = "healthCheck: { interval: 100ms, timeout: 2s, unhealthyThreshold: 2 }";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_its_checks_is_degraded_everywhere_until_it_passes_them_again() {
    let patient = Patient::default();
    let pair = Pair::serving(patient.serve(upstream::echo).await, OFTEN, json!({})).await;
    let second = Upstream::echo().await;
    let other = another(&pair, &second).await;
    let agent = Agent::join(&pair, "reviewer").await;
    let door = pair.inbound.health.unwrap();
    let metric = async || {
        let text = String::from_utf8(doors::get(door, "/metrics").await.body.to_vec()).unwrap();
        let series = "weft_sidecar_server_healthy{server=\"research/files\"} ";
        text.lines().find_map(|line| line.strip_prefix(series).map(ToOwned::to_owned))
    };
    says(&pair.mesh, "research/files-1", "serving").await;
    eventually("both instances are known", || known_to(&agent) == 2).await;
    assert_eq!(metric().await.as_deref(), Some("1"));
    let ready = doors::get(door, "/healthz/ready").await;
    assert_eq!((ready.status, &ready.body[..]), (200, &b"ready\n"[..]));

    patient.is_ill(true);
    says(&pair.mesh, "research/files-1", "degraded").await;
    let (_, why) = said(&pair.mesh, "research/files-1").unwrap();
    assert!(why.contains("status 500"), "{why}");
    eventually("callers know only the other", || known_to(&agent) == 1).await;
    assert_eq!(metric().await.as_deref(), Some("0"));
    let ready = doors::get(door, "/healthz/ready").await;
    let text = std::str::from_utf8(&ready.body).unwrap();
    assert_eq!(ready.status, 200, "the sidecar is as ready as before");
    assert!(text.starts_with("ready\nresearch/files is degraded: ") && text.contains("status 500"), "{text}");

    patient.is_ill(false);
    says(&pair.mesh, "research/files-1", "serving").await;
    eventually("callers know both again", || known_to(&agent) == 2).await;
    assert_eq!(metric().await.as_deref(), Some("1"));
    agent.sidecar.stop().await;
    other.stop().await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_are_no_calls_and_nobody_is_asked_who_does_not_want_to_be() {
    let (upstream, mut asked) = Upstream::asking().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let pair = Pair::logging(upstream, &file).await;
    let (wants, does_not) = (Patient::default(), Patient::default());
    let (one, two) = (wants.serve(upstream::echo).await, does_not.serve(upstream::echo).await);
    let neighbour = |name: &str, upstream: &Upstream, more: &str| {
        pair::server(upstream.address, more).replace("name: files", &format!("name: {name}"))
    };
    pair.apply(&neighbour("two", &two, "")).await;
    pair.apply(&neighbour("one", &one, &format!("inFlight: {{ max: 1 }}, {OFTEN}"))).await;
    // With a call that has the only place.
    pair.apply(&pair::server(pair.upstream.address, &format!("inFlight: {{ max: 1 }}, {OFTEN}"))).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    let (called, saying) = stream(&mut caller, call(), &mut asked).await;
    eventually("the one that wants it is asked again and again", || wants.asked("server/discover") >= 5)
        .await;
    let told = pair.inbound.servers.told();
    let told: Vec<_> = told.iter().map(|it| (&*it.server, it.health.word(), it.in_flight)).collect();
    let expected =
        [("research/files", "serving", 1), ("research/one", "serving", 0), ("research/two", "serving", 0)];
    assert_eq!(told, expected);
    let (checked, only_read) = (wants.asked("server/discover"), does_not.asked("server/discover"));
    assert!(only_read < checked, "{only_read} times, for the catalogue; the other one {checked} times");
    drop(saying);
    rest(called).await;
    let lines = || std::fs::read_to_string(&file).unwrap_or_default().lines().count();
    eventually("the call is written down", || lines() > 0).await;
    assert_eq!(lines(), 1, "and nothing else");
    let text = pair.inbound.metrics.text();
    assert!(!text.contains("method=\"server/discover\"") && !text.contains("server=\"research/one\",method"));
    pair.stop().await;
}

/// A server of the legacy era that keeps sessions.
fn legacy(seen: &Seen) -> Response<Body> {
    if seen.method == Method::DELETE {
        return upstream::status(200);
    }
    let message: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
    match message["method"].as_str() {
        Some("initialize") => upstream::echo(seen),
        Some("notifications/initialized") => upstream::status(202),
        Some(_) if seen.headers.get("mcp-session-id").is_none_or(|it| it != "session-1") => {
            let error = json!({ "code": -32000, "message": "Bad Request: no session" });
            let mut refused = upstream::document(&json!({ "jsonrpc": "2.0", "id": null, "error": error }));
            *refused.status_mut() = http::StatusCode::BAD_REQUEST;
            refused
        }
        Some(_) => upstream::echo(seen),
        None => upstream::status(405),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_the_legacy_era_is_pinged_in_one_session_of_the_sidecars_own_that_ends_with_the_checks() {
    let patient = Patient::default();
    let pair = Pair::serving(patient.serve(legacy).await, OFTEN, json!({})).await;
    says(&pair.mesh, "research/files-1", "serving").await;
    eventually("it is pinged again and again", || patient.asked("ping") >= 5).await;
    // One to learn what it speaks, one for the checks, one to read what it offers.
    let sessions = || (patient.asked("initialize"), patient.asked("DELETE"));
    eventually("it has its sessions", || sessions() == (3, 1)).await;
    patient.is_ill(true);
    says(&pair.mesh, "research/files-1", "degraded").await;
    patient.is_ill(false);
    says(&pair.mesh, "research/files-1", "serving").await;
    let ended = patient.asked("DELETE");
    pair.apply(&pair::server(pair.upstream.address, "")).await;
    eventually("the session is ended", || patient.asked("DELETE") > ended).await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_yet_is_starting_and_then_serves() {
    let patient = Patient::default();
    let address = patient.serve(upstream::echo).await.address;
    let check = "healthCheck: { interval: 100ms, unhealthyThreshold: 100 }";
    let pair = Pair::serving(Upstream::elsewhere(address), check, json!({})).await;
    says(&pair.mesh, "research/files-1", "starting").await;
    let _upstream = Upstream::at(address, async |seen| upstream::echo(&seen)).await;
    says(&pair.mesh, "research/files-1", "serving").await;
    pair.stop().await;
}
