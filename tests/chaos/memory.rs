//! More bodies at once than a sidecar is given room for.

use std::time::Duration;

use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::task::JoinSet;

use crate::agent;
use crate::mesh::Mesh;
use crate::pair::{self, Answer, Caller};
use crate::process::{PATIENCE, Process, at_last, file_of};
use crate::upstream::{self, Upstream};

const BODY_BYTES: usize = 3 << 20;
const ROOM_BYTES: usize = 16 << 20;
const CALLERS: usize = 60;

fn call(bytes: usize) -> http::Request<http_body_util::Full<bytes::Bytes>> {
    pair::modern("tools/call", "echo", json!({ "name": "echo", "arguments": { "x": "x".repeat(bytes) } }))
}

/// A server that never answers what is large.
async fn stuck() -> Upstream {
    Upstream::with(async |seen| {
        if seen.body.len() > BODY_BYTES / 2 {
            std::future::pending::<()>().await;
        }
        upstream::echo(&seen)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_take_no_more_memory_than_they_are_given_and_small_calls_pass_beside_them() {
    let upstream = stuck().await;
    let folder = tempfile::tempdir().unwrap();
    let resources = folder.path().join("resources.yaml");
    std::fs::write(&resources, pair::server(upstream.address, "")).unwrap();
    let any = "127.0.0.1:0";
    let file = json!({
        "node": { "id": "research/files-1", "servers": ["research/files"] },
        "source": { "file": { "resources": resources } },
        "listen": { "inbound": any, "outbound": null, "health": any, "admin": any },
        "limits": { "bodiesBytesMax": ROOM_BYTES },
    });
    let sidecar = Process::start(folder.path(), &file).await;
    let address = sidecar.inbound();
    let ask = async move |bytes| Answer::read(agent::send(address, call(bytes)).await.unwrap()).await;
    assert_eq!(ask(100).await.status, 200);
    let fresh = sidecar.resident_bytes();

    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        callers.spawn(
            async move { agent::send(address, call(BODY_BYTES)).await.map(|it| it.status().as_u16()) },
        );
    }
    // Those that are held stay held; the others are told so.
    let held = ROOM_BYTES / BODY_BYTES;
    for _ in held..CALLERS {
        let told = tokio::time::timeout(PATIENCE, callers.join_next()).await.expect("it is told");
        assert_eq!(told.unwrap().unwrap().unwrap(), 503);
    }
    assert_eq!(ask(100).await.status, 200, "a small call passes");
    let grown = sidecar.resident_peak_bytes() - fresh;
    // Each body passes a connection's buffers on both sides on its way.
    assert!(grown < 6 * ROOM_BYTES as u64, "{} MiB more for {CALLERS} bodies", grown >> 20);
    callers.shutdown().await;
    at_last("the room is free again", async || sidecar.metric("bodies_held_bytes").await == 0).await;
    let freed = tokio::time::timeout(Duration::from_secs(20), ask(BODY_BYTES / 3)).await.unwrap();
    assert_eq!(freed.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_gets_no_more_memory_is_soon_back_with_all_that_it_knew() {
    let upstream = stuck().await;
    let (mesh, folder) = (Mesh::start().await, tempfile::tempdir().unwrap());
    mesh.apply(&pair::server(upstream.address, "")).await;
    let mut file = file_of(&mesh, folder.path(), 2).await;
    file["limits"] = json!({ "bodiesBytesMax": 1 << 30 });
    // What the allocator sets aside for later would count as taken.
    let starter = ["env", "MIMALLOC_ARENA_RESERVE=1MiB", "MIMALLOC_DISALLOW_ARENA_ALLOC=1"];
    let mut sidecar = Process::under(folder.path(), &file, &starter).await;
    let workload = mesh.workload("agents", "reviewer").await;
    let mut early = Caller::connect(sidecar.inbound(), workload.clone()).await;
    assert_eq!(early.call("echo", json!({})).await.status, 200);
    at_last("what it knows is stored", async || {
        folder.path().join("state").join(weft_sidecar::control::store::FILE).exists()
    })
    .await;

    // Room for a few of the bodies, where it is told that there is room for all.
    sidecar.limit_memory(5 * BODY_BYTES as u64);
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (address, workload) = (sidecar.inbound(), workload.clone());
        callers.spawn(async move {
            let mut caller = Caller::try_connect(address, workload).await.ok()?;
            let mut response = caller.try_send(call(BODY_BYTES)).await.ok()?;
            while let Some(frame) = response.body_mut().frame().await {
                frame.ok()?;
            }
            Some(response.status().as_u16())
        });
    }
    // Its configuration is written anew all the while, so that it may die of that, too.
    for n in 0..20 {
        mesh.apply(&pair::server(upstream.address, &format!("inFlight: {{ max: {} }}", 100 + n))).await;
    }
    // It dies of it, or tells callers that there is no room; what it holds the server never answers.
    let mut told = Vec::new();
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    let suffers = async {
        while sidecar.has_ended().is_none() && told.is_empty() {
            tokio::select! {
                _ = looks.tick() => {}
                Some(status) = callers.join_next() => told.push(status.unwrap()),
            }
        }
    };
    tokio::time::timeout(PATIENCE, suffers).await.expect("there is too little memory for this");
    let dies = sidecar.has_ended();
    println!("it ended: {dies:?}; callers were told {told:?}");
    assert!(told.iter().flatten().all(|status| *status != 200), "nobody is told what no server said");
    if dies.is_none() {
        assert_eq!(sidecar.ask("health", "/healthz/live").await.status, 200);
        sidecar.kill().await;
    }
    callers.shutdown().await;

    let stored = weft_sidecar::control::store::load(&folder.path().join("state")).expect("it is whole");
    assert!(stored.is_some_and(|stored| !stored.resources.is_empty()));
    let sidecar = Process::start(folder.path(), &file).await;
    let mut late = Caller::connect(sidecar.inbound(), workload).await;
    assert_eq!(late.call("echo", json!({})).await.status, 200);
    mesh.stop().await;
}
