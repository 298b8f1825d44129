//! More bodies at once than a sidecar is given room for.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;

use crate::agent;
use crate::pair::{self, Answer};
use crate::process::{PATIENCE, Process, at_last};
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
