//! A sidecar in the pod of a job: told that the work is done it ends soon and says that it ended well, or the pod would
//! never be completed, or be taken for failed.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::agent;
use crate::mesh::Mesh;
use crate::pair::{self, Caller, modern};
use crate::process::{Process, file_of};
use crate::upstream::Upstream;

/// Far below what a pod is given for its end, with room for a machine that is busy.
const SOON: Duration = Duration::from_secs(10);

/// A sidecar of both stances, with work behind it and connections that are left open.
async fn after_work(mesh: &Mesh, folder: &std::path::Path) -> (Process, Vec<Caller>, TcpStream) {
    let mut file = file_of(mesh, folder, 1).await;
    file["listen"]["outbound"] = json!("127.0.0.1:0");
    let sidecar = Process::start(folder, &file).await;
    let mut callers = Vec::new();
    for account in ["one", "two"] {
        let mut caller = Caller::connect(sidecar.inbound(), mesh.workload("agents", account).await).await;
        assert_eq!(caller.call("echo", json!({})).await.status, 200);
        callers.push(caller);
    }
    let idle = TcpStream::connect(sidecar.inbound()).await.unwrap();
    (sidecar, callers, idle)
}

async fn ends_well(mesh: &Mesh, tell: impl AsyncFn(&Process)) {
    let folder = tempfile::tempdir().unwrap();
    let (mut sidecar, _callers, _idle) = after_work(mesh, folder.path()).await;
    let began = Instant::now();
    tell(&sidecar).await;
    let status = sidecar.ended().await;
    assert_eq!(status.code(), Some(0), "{status}");
    let took = began.elapsed();
    assert!(took < SOON, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_told_that_the_work_is_done_ends_soon_and_well() {
    let upstream = Upstream::echo().await;
    let mesh = Mesh::start().await;
    mesh.apply(&pair::server(upstream.address, "")).await;
    ends_well(&mesh, async |sidecar| assert_eq!(sidecar.order("/quitquitquit").await.status, 202)).await;
    ends_well(&mesh, async |sidecar| {
        assert_eq!(sidecar.ask("admin", "/quitquitquit").await.status, 405, "a look is no order");
        sidecar.signal(Signal::TERM);
    })
    .await;
    mesh.stop().await;
}

/// A server that is a child and does not care for the end of its input, as many do not.
fn stubborn() -> String {
    let script = r#"trap '' TERM; while :; do sleep 1; done"#;
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: {{ namespace: research, name: files }}\n\
         spec: {{ stdio: {{ command: sh, args: [-c, \"{script}\"] }} }}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_its_end_does_not_keep_the_sidecar() {
    let folder = tempfile::tempdir().unwrap();
    let resources = folder.path().join("resources.yaml");
    std::fs::write(&resources, stubborn()).unwrap();
    let any = "127.0.0.1:0";
    let file = json!({
        "node": { "id": "research/files-1", "servers": ["research/files"] },
        "source": { "file": { "resources": resources } },
        "listen": { "inbound": any, "outbound": null, "health": any, "admin": any },
    });
    let mut sidecar = Process::start(folder.path(), &file).await;
    let address = sidecar.inbound();
    // Nobody will ever answer this.
    let call = modern("tools/call", "x", json!({ "name": "x", "arguments": Value::Null }));
    let waiting = tokio::spawn(async move { agent::send(address, call).await });
    let began = Instant::now();
    assert_eq!(sidecar.order("/quitquitquit").await.status, 202);
    let status = sidecar.ended().await;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    waiting.abort();
}
