//! A leader whose lease ran out, from outside: its sidecars go to the one that takes its place.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::watch;
use weft_tests::link;

use super::pair::{self, Caller};
use super::upstream::Upstream;
use crate::replicas::{self, Shared};

const SHUT: &str = "apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\n\
                    metadata: { namespace: research, name: shut }\nspec: { rules: [{ action: deny }] }\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_leaves_a_leader_whose_lease_ran_out_and_does_what_its_successor_says() {
    let (upstream, shared) = (Upstream::echo().await, Shared::new());
    let first = shared.start("first", |_| {}).await;
    first.lead().await;
    let second = shared.start("second", |_| {}).await;
    second.follow(&first).await;
    let leader = watch::Sender::new(first.mesh.sidecars());
    let service = replicas::service(leader.subscribe()).await;
    first.mesh.apply(&pair::server(upstream.address, "")).await;
    let listen = json!({ "inbound": "127.0.0.1:0", "outbound": null });
    let mut bootstrap = pair::joining(&first.mesh, "research", "files", listen, json!({})).await;
    bootstrap["source"]["controlPlane"]["address"] = json!(service.to_string());
    let sidecar = pair::start(bootstrap).await;
    let stays = first.mesh.workload("research", "files").await;
    let workload = first.mesh.workload("agents", "one").await;
    let mut caller = Caller::connect(sidecar.inbound.unwrap(), workload).await;
    assert_eq!(caller.call("echo", json!({})).await.status, 200);

    // It is cut off and goes on running; of what is written next it never hears.
    first.lapse();
    second.lead().await;
    leader.send_replace(second.mesh.sidecars());
    second.mesh.apply(SHUT).await;
    let began = Instant::now();
    while caller.call("echo", json!({})).await.status != 403 {
        assert!(began.elapsed() < Duration::from_secs(20), "it does what it was told before");
    }
    assert!(first.mesh.running.hub.status().iter().all(|it| !it.connected), "nobody stays with it");
    assert!(link::connect(first.mesh.sidecars(), stays.config()).await.is_err(), "nobody comes to it");
    sidecar.stop().await;
    first.stop().await;
    second.stop().await;
}
