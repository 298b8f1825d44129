//! Audit trails while the control plane is away and a sidecar is killed: what was answered is recorded, and arrives once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};
use weft_certs::audit as seals;
use weft_control_plane::audit::{Found, Known, Wanted, WantedTrails};
use weft_proto::audit::{Report, Review, What};
use weft_tests::link::Workload;

use crate::mesh::Mesh;
use crate::pair::{self, Caller};
use crate::process::{Process, at_last, file_of};
use crate::upstream::Upstream;

const MARKED: &str = "apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\n\
     metadata: { namespace: research, name: marked }\n\
     spec: { servers: { names: [files] }, rules: [{ action: audit }, { action: deny, to: [{ tools: [rm] }] }] }\n---\n\
     apiVersion: weft.dev/v1alpha1\nkind: Telemetry\nmetadata: { namespace: research, name: full }\n\
     spec: { audit: full }\n---\n\
     apiVersion: weft.dev/v1alpha1\nkind: ToolPolicy\nmetadata: { namespace: research, name: secret }\n\
     spec: { servers: { names: [files] }, tools: [login], redact: [password] }\n";

async fn instance(mesh: &Mesh, folder: &Path, number: usize) -> (Process, Value) {
    let folder = folder.join(number.to_string());
    std::fs::create_dir(&folder).unwrap();
    let mut file = file_of(mesh, &folder, 2).await;
    file["node"]["id"] = json!(format!("research/files-{number}"));
    file["audit"] = json!({ "durability": "written", "whenFull": "refuse" });
    (Process::start(&folder, &file).await, file)
}

/// Calls tools, each with a name of its own, and all are answered.
async fn call(address: SocketAddr, caller: &Workload, names: &[String]) {
    let mut calling = Caller::connect(address, caller.clone()).await;
    for name in names {
        let answer = calling.call(name, json!({ "number": 1 })).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

fn names(of: &str) -> Vec<String> {
    (0..20).map(|number| format!("{of}-{number}")).collect()
}

async fn records(mesh: &Mesh) -> Vec<Found> {
    let wanted = Wanted { limit: 1000, server: Some("research/files".to_owned()), ..Wanted::default() };
    mesh.running.trails.records(wanted).await.unwrap()
}

/// How often each tool's call is recorded as ended, or as begun.
fn counted(found: &[Found], ended: bool) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for found in found {
        let call = match &found.line.is {
            What::Call(call) if ended => call,
            What::Begun(call) if !ended => call,
            _ => continue,
        };
        *counts.entry(call.asked.tool.clone().unwrap_or_default()).or_default() += 1;
    }
    counts
}

/// Whether there are digests of the answers of a tool's calls.
fn digested(found: &[Found], tool: &str) -> Vec<bool> {
    let of_tool = found.iter().filter_map(|found| match &found.line.is {
        What::Call(call) if call.asked.tool.as_deref() == Some(tool) => Some(call.result_digest.is_some()),
        _ => None,
    });
    of_tool.collect()
}

/// What is found about a trail, and its lines.
async fn review(mesh: &Mesh, known: &Known) -> (Report, String) {
    let bundles = mesh.running.trust.bundles.load();
    let mut check = |statement: &_, seal: &_, chain: &[String]| {
        seals::check(statement, seal, chain, &bundles).map(|_| ()).map_err(|error| error.to_string())
    };
    let (mut review, mut text) = (Review::new(known.anchors.clone(), &mut check), String::new());
    for (at, segment) in known.segments.iter().enumerate() {
        let (node, trail) = (known.node.clone(), known.trail.clone());
        let lines = mesh.running.trails.segment(node, trail, segment.number).await.unwrap().unwrap();
        review.segment(&lines, at + 1 == known.segments.len());
        text += &String::from_utf8(lines).unwrap();
    }
    (review.finish(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_answered_calls_outlive_a_killed_sidecar_and_a_control_plane_that_is_away_and_arrive_once()
{
    let upstream = Upstream::echo().await;
    let (mesh, folder) = (Mesh::start().await, tempfile::tempdir().unwrap());
    mesh.apply(&pair::server(upstream.address, "")).await;
    mesh.apply(MARKED).await;
    let (mut first, mut file) = instance(&mesh, folder.path(), 1).await;
    let (second, _) = instance(&mesh, folder.path(), 2).await;
    file["listen"]["inbound"] = json!(first.inbound().to_string());
    let caller = mesh.workload("agents", "reviewer").await;
    call(first.inbound(), &caller, &names("early")).await;
    let mut calling = Caller::connect(second.inbound(), caller.clone()).await;
    assert_eq!(calling.call("rm", json!({})).await.reason(), "denied");
    assert_eq!(calling.call("login", json!({ "user": "a", "password": "hunter2" })).await.status, 200);

    let address = mesh.sidecars();
    let data = mesh.stop().await;
    call(first.inbound(), &caller, &names("away")).await;
    call(second.inbound(), &caller, &names("other")).await;
    // At once after the last answer.
    first.kill().await;
    let mesh = Mesh::again(data, |config| config.sidecars = address).await;
    let again = Process::start(&folder.path().join("1"), &file).await;
    call(again.inbound(), &caller, &names("late")).await;

    let expected: Vec<String> = ["early", "away", "other", "late"].iter().flat_map(|of| names(of)).collect();
    let all_arrived = || async {
        let begun = counted(&records(&mesh).await, false);
        expected.iter().all(|name| begun.contains_key(name)) && begun.contains_key("login")
    };
    at_last("every call that was answered is recorded at the control plane", all_arrived).await;
    let found = records(&mesh).await;
    let (begun, ended) = (counted(&found, false), counted(&found, true));
    assert!(
        begun.values().chain(ended.values()).all(|times| *times == 1),
        "none is there twice: {begun:?} {ended:?}"
    );
    assert_eq!((ended.get("rm"), begun.get("rm")), (Some(&1), None));
    let text = serde_json::to_string(&found).unwrap();
    assert!(text.contains("[redacted]") && !text.contains("hunter2"));
    // What the tool was told may be in its answer, and little can be guessed from a digest.
    assert_eq!((digested(&found, "login"), digested(&found, "late-0")), (vec![false], vec![true]));
    let known =
        mesh.running.trails.known(WantedTrails { limit: 100, ..WantedTrails::default() }).await.unwrap();
    let mut nodes: Vec<_> = known.iter().map(|it| it.node.as_str()).collect();
    nodes.sort_unstable();
    let expected = ["research/files-1", "research/files-2", "weft-system/control-plane"];
    assert_eq!(nodes, expected, "one trail each, over the restarts");
    for known in &known {
        let (report, lines) = review(&mesh, known).await;
        assert_eq!(report.findings, [], "{}", known.node);
        let is_killed = known.node == "research/files-1";
        assert_eq!(lines.contains("\"resumed\""), is_killed, "the kill is told of: {}", known.node);
    }
    let acts = Wanted { tool: Some("token.redeem".to_owned()), limit: 10, ..Wanted::default() };
    let acts = mesh.running.trails.records(acts).await.unwrap();
    assert!(acts.iter().all(|it| matches!(it.line.is, What::Operator(_))) && !acts.is_empty(), "{acts:?}");
    mesh.stop().await;
}
