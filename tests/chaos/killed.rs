//! A sidecar that is killed, with a server of its own below it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::agent::{self, Agent};
use crate::mesh::{Mesh, eventually};
use crate::pair::{self, Answer, Caller, modern};
use crate::process::{PATIENCE, Process, file_of};
use crate::upstream::{self, Upstream};

/// A server over stdin and stdout, written for the tests of the sidecar's children.
fn server() -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sidecar/tests/stdio/server.py");
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: {{ namespace: research, name: files }}\n\
         spec: {{ stdio: {{ command: python3, args: [{}, modern, stubborn] }} }}\n",
        script.display()
    )
}

fn is_alive(pid: u64) -> bool {
    // Whoever is dead and merely not buried yet does nothing any more.
    let stat = std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat"))).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// What the server's tool answered.
fn said(answer: &Value) -> Value {
    serde_json::from_str(answer["result"]["content"][0]["text"].as_str().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_killed_leaves_no_orphans_tells_its_callers_by_the_end_and_is_soon_back() {
    let (mesh, folder) = (Mesh::start().await, tempfile::tempdir().unwrap());
    mesh.apply(&server()).await;
    let mut file = file_of(&mesh, folder.path(), 2).await;
    file["node"]["servers"] = json!(["research/files"]);
    let mut sidecar = Process::start(folder.path(), &file).await;
    // The same port after the restart.
    file["listen"]["inbound"] = json!(sidecar.inbound().to_string());
    let workload = mesh.workload("agents", "reviewer").await;
    let mut calling = Caller::connect(sidecar.inbound(), workload.clone()).await;
    let forked = calling.call("fork", json!({})).await;
    let below: Vec<u64> = serde_json::from_value(said(&message(&forked.body))).unwrap();
    assert!(!below.is_empty() && below.iter().all(|pid| is_alive(*pid)));
    let mut waiting = Caller::connect(sidecar.inbound(), workload.clone()).await;
    let never = modern("tools/call", "never", json!({ "name": "never", "arguments": {} }));
    let never = tokio::spawn(async move {
        let mut response = waiting.try_send(never).await?;
        while let Some(frame) = http_body_util::BodyExt::frame(response.body_mut()).await {
            frame?;
        }
        Ok::<_, hyper::Error>(())
    });

    sidecar.kill().await;
    let told = timeout(PATIENCE, never).await.expect("who waits is told by the connection's end").unwrap();
    assert!(told.is_err(), "half an answer is not taken for whole");
    let began = Instant::now();
    eventually("nobody is left below it", || !below.iter().any(|pid| is_alive(*pid))).await;
    println!("nobody was left after {:?}", began.elapsed());

    let began = Instant::now();
    let sidecar = Process::start(folder.path(), &file).await;
    let ready = began.elapsed();
    // Milliseconds; the limit leaves room for a machine that is busy with other stories.
    assert!(ready < Duration::from_secs(3), "ready after {ready:?}");
    let mut calling = Caller::connect(sidecar.inbound(), workload).await;
    let echoed = calling.call("echo", json!({ "n": 1 })).await;
    assert_eq!(echoed.status, 200, "{echoed:?}");
    mesh.stop().await;
}

/// The one message of an answer, whichever form it came in.
fn message(body: &[u8]) -> Value {
    let text = std::str::from_utf8(body).unwrap();
    let last = text.trim_end().rsplit_once("data: ").map_or(text, |(_, data)| data);
    serde_json::from_str(last).unwrap()
}

/// An instance of the server, in a folder of its own.
async fn instance(mesh: &Mesh, folder: &Path, number: usize) -> Process {
    let folder = folder.join(number.to_string());
    std::fs::create_dir(&folder).unwrap();
    let mut file = file_of(mesh, &folder, 1).await;
    file["node"]["id"] = json!(format!("research/files-{number}"));
    Process::start(&folder, &file).await
}

/// Kills the instance that a call is with.
async fn kill_the_busy_one(instances: &mut Vec<Process>) {
    for at in 0..instances.len() {
        if instances[at].metric("in_flight{server=\"research/files\"}").await > 0 {
            return instances.swap_remove(at).kill().await;
        }
    }
    panic!("no instance has the call");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_calls_that_break_only_those_are_repeated_whose_tool_may_be_called_twice() {
    let (upstream, mut asked) = Upstream::asking().await;
    let (mesh, folder) = (Mesh::start().await, tempfile::tempdir().unwrap());
    // Twice, for the one that was killed before may be the second that is asked.
    mesh.apply(&pair::server(upstream.address, "retries: { attempts: 2 }")).await;
    mesh.apply(
        "apiVersion: weft.dev/v1alpha1\nkind: ToolPolicy\nmetadata: { namespace: research, name: again }\n\
         spec: { tools: [again], retry: idempotent }\n",
    )
    .await;
    let mut instances = Vec::new();
    for number in 1..=3 {
        instances.push(instance(&mesh, folder.path(), number).await);
    }
    let agent = Agent::join_mesh(&mesh, "reviewer").await;
    let files = "research/files".parse().unwrap();
    let knows = || {
        let current = agent.sidecar.live.load();
        current.snapshot.server(&files).is_some_and(|it| it.endpoints.len() == 3 && !it.tools.is_empty())
    };
    eventually("the agent's sidecar knows all of them", knows).await;
    let address = agent.sidecar.outbound.unwrap();
    let calling = |tool: &'static str| {
        let call = modern("tools/call", tool, json!({ "name": tool, "arguments": {} }));
        tokio::spawn(async move { Answer::read(agent::send(address, call).await.unwrap()).await })
    };
    let once = calling("once");
    let first = timeout(PATIENCE, asked.recv()).await.unwrap().unwrap();
    kill_the_busy_one(&mut instances).await;
    let told = timeout(PATIENCE, once).await.unwrap().unwrap();
    assert_eq!(told.status, 502, "{told:?}");
    assert!(asked.try_recv().is_err(), "what may have been done is not done again");
    drop(first);

    let again = calling("again");
    let first = timeout(PATIENCE, asked.recv()).await.unwrap().unwrap();
    kill_the_busy_one(&mut instances).await;
    let second = timeout(PATIENCE, asked.recv()).await.expect("it is asked again").unwrap();
    second.answer.send(upstream::document(&json!({ "jsonrpc": "2.0", "id": 7, "result": {} }))).unwrap();
    let told = timeout(PATIENCE, again).await.unwrap().unwrap();
    assert_eq!(told.status, 200, "{told:?}");
    drop(first);
    agent.sidecar.stop().await;
    mesh.stop().await;
}
