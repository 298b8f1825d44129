//! A sidecar that stands still for a while, as on a machine that sleeps.

use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use serde_json::json;

use crate::agent::Agent;
use crate::mesh::{Mesh, eventually};
use crate::pair;
use crate::process::{Process, at_last, file_of};
use crate::upstream::Upstream;

const LIFE: Duration = Duration::from_secs(4);

/// The number of the certificate that it shows, and its end.
async fn certificate(sidecar: &Process) -> Option<(String, i64)> {
    let told = sidecar.ask("admin", "/certs").await.json();
    let serial = told["identity"]["serial"].as_str()?.to_owned();
    Some((serial, sidecar.metric("certificate_expiry_timestamp_seconds").await))
}

fn has_passed(second: i64) -> bool {
    let now = weft_control_plane::clock::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    now.as_secs() > u64::try_from(second).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_was_stopped_past_its_certificates_end_gets_another_and_serves_again() {
    let mesh = Mesh::with(|config| config.identity.lifetime_max = LIFE).await;
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::echo().await;
    mesh.apply(&pair::server(upstream.address, "timeouts: { call: 3s, connect: 500ms }")).await;
    // The first certificate, and one after the last had ended.
    let sidecar = Process::start(folder.path(), &file_of(&mesh, folder.path(), 2).await).await;
    let agent = Agent::join_mesh(&mesh, "reviewer").await;
    at_last("a call passes", async || agent.call("echo", json!({})).await.status == 200).await;

    let (serial, end) = certificate(&sidecar).await.unwrap();
    sidecar.signal(Signal::STOP);
    let told = agent.call("echo", json!({})).await;
    assert!([503, 504].contains(&told.status), "who calls meanwhile is told in time: {told:?}");
    eventually("the certificate has ended", || has_passed(end)).await;
    sidecar.signal(Signal::CONT);

    at_last("there is another certificate", async || {
        certificate(&sidecar).await.is_some_and(|(now, _)| now != serial)
    })
    .await;
    at_last("calls pass again", async || agent.call("echo", json!({})).await.status == 200).await;
    let (serial, _) = certificate(&sidecar).await.unwrap();
    at_last("and the certificate goes on being renewed", async || {
        certificate(&sidecar).await.is_some_and(|(now, _)| now != serial)
    })
    .await;
    assert_eq!(agent.call("echo", json!({})).await.status, 200);
    agent.sidecar.stop().await;
    mesh.stop().await;
}
