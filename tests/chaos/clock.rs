//! A sidecar whose clock is wrong for a while, as on a machine that was suspended or set by hand.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::agent::Agent;
use crate::mesh::Mesh;
use crate::pair;
use crate::process::{Process, at_last, file_of};
use crate::upstream::Upstream;

/// What `faketime` loads into a program that it starts.
fn library() -> String {
    let told = Command::new("faketime").args(["-f", "+0s", "printenv", "LD_PRELOAD"]).output();
    String::from_utf8(told.expect("faketime is installed").stdout).unwrap().trim().to_owned()
}

/// Sets the clock by a file that is read whenever the time is asked for.
fn set(clock: &Path, by: &str) {
    let next = clock.with_extension("next");
    std::fs::write(&next, by).unwrap();
    std::fs::rename(next, clock).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_pass_while_the_clock_of_a_sidecar_is_an_hour_off_and_new_callers_once_it_is_right_again() {
    let mesh = Mesh::start().await;
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::echo().await;
    mesh.apply(&pair::server(upstream.address, "")).await;
    let clock = folder.path().join("clock");
    set(&clock, "+0s");
    let [library, file] =
        [format!("LD_PRELOAD={}", library()), format!("FAKETIME_TIMESTAMP_FILE={}", clock.display())];
    // Timeouts go by the other clock, which nobody can set.
    let starter = ["env", &library, &file, "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"];
    let sidecar = Process::under(folder.path(), &file_of(&mesh, folder.path(), 1).await, &starter).await;
    let agent = Agent::join_mesh(&mesh, "reviewer").await;
    at_last("a call passes", async || agent.call("echo", json!({})).await.status == 200).await;
    let serial = async || sidecar.ask("admin", "/certs").await.json()["identity"]["serial"].clone();
    let first = serial().await;

    // Certificates last longer than the error: even who comes anew is served.
    set(&clock, "+3600s");
    let later = Agent::join_mesh(&mesh, "later").await;
    for agent in [&agent, &later] {
        at_last("a call passes in the future", async || agent.call("echo", json!({})).await.status == 200)
            .await;
    }

    // Who is connected stays; a certificate made since is not valid yet by that clock.
    set(&clock, "-3600s");
    for agent in [&agent, &later] {
        let answer = agent.call("echo", json!({})).await;
        assert_eq!(answer.status, 200, "a call passes in the past: {answer:?}");
    }
    let young = Agent::join_mesh(&mesh, "young").await;
    let told = young.call("echo", json!({})).await;
    // The refusal may come before the call is sent, or after.
    assert!([502, 503].contains(&told.status), "{told:?}");
    let refused =
        sidecar.metric("connections_refused_total{listener=\"inbound\",reason=\"certificate\"}").await;
    assert!(refused > 0, "the sidecar says why");

    set(&clock, "+0s");
    at_last("the young one is served too", async || young.call("echo", json!({})).await.status == 200).await;
    assert_eq!(serial().await, first, "nobody asked for certificates meanwhile");
    for agent in [agent, later, young] {
        agent.sidecar.stop().await;
    }
    mesh.stop().await;
}
