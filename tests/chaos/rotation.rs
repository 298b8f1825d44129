//! Certificates that live for seconds, and roots that are exchanged, while calls go on through two sidecars: nobody is
//! to notice.

use std::time::Duration;

use serde_json::json;
use weft_control_plane::trust::rotation::Action;
use weft_sidecar::app::Running;

use crate::agent::Agent;
use crate::load::Load;
use crate::mesh::{Mesh, eventually};
use crate::pair::{self, Pair};
use crate::upstream::Upstream;

/// So short that each sidecar renews its certificate every two seconds.
const LIFE: Duration = Duration::from_secs(4);

async fn short_lived(life: Duration) -> (Pair, Agent) {
    let mesh = Mesh::with(|config| config.identity.lifetime_max = life).await;
    let upstream = Upstream::echo().await;
    mesh.apply(&pair::server(upstream.address, "")).await;
    let listen = json!({ "inbound": "127.0.0.1:0", "outbound": null });
    let inbound = pair::sidecar(&mesh, "research", "files", listen, json!({})).await;
    let pair = Pair { mesh, inbound, upstream };
    let agent = Agent::join(&pair, "reviewer").await;
    (pair, agent)
}

/// Waits until a sidecar has another certificate than now, so many times in a row.
async fn renewed(sidecar: &Running, times: usize) {
    for _ in 0..times {
        let before = sidecar.identity.leaf().unwrap().serial;
        let other = || sidecar.identity.leaf().is_some_and(|leaf| leaf.serial != before);
        eventually("there is another certificate", other).await;
    }
}

/// Takes a step of a rotation, and waits until every sidecar has followed.
async fn step(mesh: &Mesh, action: Action, word: &str) {
    let (trust, hub) = (&mesh.running.trust, &mesh.running.hub);
    trust.rotate(action, false, "chaos", &hub.status()).await.unwrap();
    assert_eq!(trust.report(&hub.status()).unwrap().rotation.word(), word);
    eventually("every sidecar follows", || trust.report(&hub.status()).unwrap().gate.is_open()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_roots_are_exchanged_under_load_and_no_call_fails() {
    let (pair, agent) = short_lived(LIFE).await;
    let load = Load::start(agent.sidecar.outbound.unwrap(), 4);
    tokio::join!(renewed(&agent.sidecar, 2), renewed(&pair.inbound, 2));

    let mesh = &pair.mesh;
    let first = mesh.running.trust.root();
    // Taken back before anybody has a certificate of the new root, and after.
    step(mesh, Action::Start, "adding").await;
    step(mesh, Action::Abort, "dropping").await;
    step(mesh, Action::Advance, "stable").await;
    step(mesh, Action::Start, "adding").await;
    step(mesh, Action::Advance, "renewing").await;
    assert_ne!(mesh.running.trust.root(), first);
    step(mesh, Action::Abort, "renewing").await;
    assert_eq!(mesh.running.trust.root(), first);
    step(mesh, Action::Advance, "dropping").await;
    step(mesh, Action::Advance, "stable").await;
    // Taken to its end.
    step(mesh, Action::Start, "adding").await;
    step(mesh, Action::Advance, "renewing").await;
    // Who comes in the middle of it has the same answers.
    let late = Agent::join(&pair, "late").await;
    let late_load = Load::start(late.sidecar.outbound.unwrap(), 1);
    step(mesh, Action::Advance, "dropping").await;
    step(mesh, Action::Advance, "stable").await;
    assert_ne!(mesh.running.trust.root(), first);
    tokio::join!(renewed(&agent.sidecar, 1), renewed(&pair.inbound, 1));

    let calls = load.end_without_failure().await + late_load.end_without_failure().await;
    assert_eq!(agent.call("echo", json!({})).await.status, 200);
    println!("{calls} calls");
    for sidecar in [agent.sidecar, late.sidecar] {
        sidecar.stop().await;
    }
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_is_away_for_half_a_life_costs_no_call_and_no_certificate() {
    // Long enough for another attempt after the first that fails.
    let life = 2 * LIFE;
    let (pair, agent) = short_lived(life).await;
    let load = Load::start(agent.sidecar.outbound.unwrap(), 2);
    let Pair { mesh, inbound, upstream: _upstream } = pair;
    let address = mesh.sidecars();
    let folder = mesh.stop().await;
    let sidecars = [&agent.sidecar, &inbound];
    let serials = sidecars.map(|sidecar| sidecar.identity.leaf().unwrap().serial);
    for sidecar in sidecars {
        let failed = || sidecar.control().borrow().certificate.error.is_some();
        eventually("it tries to renew its certificate at half of its life", failed).await;
    }
    for (sidecar, serial) in sidecars.into_iter().zip(&serials) {
        assert_eq!(sidecar.identity.leaf().unwrap().serial, *serial, "a failure costs no certificate");
    }
    let mesh = Mesh::again(folder, |config| {
        config.sidecars = address;
        config.identity.lifetime_max = life;
    })
    .await;
    for (sidecar, serial) in sidecars.into_iter().zip(&serials) {
        let renewed = || sidecar.identity.leaf().is_some_and(|leaf| leaf.serial != *serial);
        eventually("there is another certificate", renewed).await;
    }
    load.end_without_failure().await;
    agent.sidecar.stop().await;
    inbound.stop().await;
    mesh.stop().await;
}
