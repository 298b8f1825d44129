//! File descriptors that run out.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};

use crate::mesh::Mesh;
use crate::pair::{self, Caller};
use crate::process::{PATIENCE, Process, at_last, file_of};
use crate::upstream::Upstream;

/// Files that the sidecar may have open; a third of them for connections of callers.
const OPEN_FILES: usize = 150;

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_connections_leaves_room_for_who_is_there_and_for_who_asks_how_it_goes() {
    let upstream = Upstream::echo().await;
    let (mesh, folder) = (Mesh::start().await, tempfile::tempdir().unwrap());
    mesh.apply(&pair::server(upstream.address, "")).await;
    let file = file_of(&mesh, folder.path(), 1).await;
    let limit = format!("--nofile={OPEN_FILES}");
    let sidecar = Process::under(folder.path(), &file, &["prlimit", &limit]).await;
    let workload = mesh.workload("agents", "early").await;
    let mut early = Caller::connect(sidecar.inbound(), workload.clone()).await;
    assert_eq!(early.call("echo", json!({})).await.status, 200);

    let mut flood = Vec::new();
    for _ in 0..3 * OPEN_FILES {
        flood.push(TcpStream::connect(sidecar.inbound()).await.unwrap());
    }
    at_last("too many are sent away", async || {
        sidecar.metric("connections_refused_total{listener=\"inbound\",reason=\"connections\"}").await > 0
    })
    .await;
    assert_eq!(sidecar.ask("health", "/healthz/ready").await.status, 200);
    assert_eq!(sidecar.ask("admin", "/config_dump").await.status, 200);
    assert!(sidecar.open_files() < OPEN_FILES, "{} files are open", sidecar.open_files());
    assert_eq!(early.call("echo", json!({})).await.status, 200);
    let mut sent_away = flood.pop().unwrap();
    let end = timeout(PATIENCE, sent_away.read(&mut [0])).await.expect("nobody is left waiting");
    assert!(!end.is_ok_and(|read| read > 0));

    drop((flood, sent_away));
    at_last("new callers are let in again", async || {
        Caller::try_connect(sidecar.inbound(), workload.clone()).await.is_ok()
    })
    .await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_without_any_descriptor_left_waits_quietly_and_goes_on_when_there_are_some() {
    let upstream = Upstream::echo().await;
    let (mesh, folder) = (Mesh::start().await, tempfile::tempdir().unwrap());
    mesh.apply(&pair::server(upstream.address, "")).await;
    let sidecar = Process::start(folder.path(), &file_of(&mesh, folder.path(), 1).await).await;
    let workload = mesh.workload("agents", "early").await;
    let mut early = Caller::connect(sidecar.inbound(), workload.clone()).await;
    assert_eq!(early.call("echo", json!({})).await.status, 200);

    sidecar.limit_open_files(sidecar.open_files());
    // More than the descriptors that the sidecar may give back meanwhile.
    let late = [(); 8].map(|()| tokio::spawn(Caller::try_connect(sidecar.inbound(), workload.clone())));
    // Who is connected already is served, on connections that are there already.
    for _ in 0..5 {
        assert_eq!(early.call("echo", json!({})).await.status, 200);
    }
    // Looked at for a second: somebody waits to be taken all the while, and nothing else happens.
    let (before, mut ticks) = (sidecar.processor_time(), interval(Duration::from_millis(50)));
    for _ in 0..20 {
        ticks.tick().await;
    }
    let used = sidecar.processor_time() - before;
    assert!(used < Duration::from_millis(300), "{used:?} of a second are spent on trying in vain");
    assert!(late.iter().any(|late| !late.is_finished()), "there is nothing to take them with");

    sidecar.limit_open_files(1024);
    for late in late {
        let mut late = timeout(PATIENCE, late).await.expect("it is taken now").unwrap().unwrap();
        assert_eq!(late.call("echo", json!({})).await.status, 200);
    }
    assert_eq!(sidecar.ask("health", "/healthz/ready").await.status, 200);
    mesh.stop().await;
}
