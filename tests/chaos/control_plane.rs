//! A control plane that dies, and a way to it that is cut, slow, or full of nonsense, while calls go on through two
//! sidecars: nobody is to notice.

use serde_json::json;
use tokio::time::timeout;
use weft_proto::wire::ResourceType;
use weft_sidecar::app::Running;

use crate::agent::Agent;
use crate::load::Load;
use crate::mesh::{Mesh, eventually};
use crate::pair::{self, Pair};
use crate::process::PATIENCE;
use crate::upstream::Upstream;
use crate::way::{Manner, Way};

/// Resources of a type that a control plane has sent, in bytes.
fn sent_bytes(mesh: &Mesh, ty: ResourceType) -> u64 {
    let text = mesh.running.metrics.text();
    let label = format!("xds_response_bytes_total{{type=\"{}\"}}", ty.name());
    let line = text.lines().find(|line| line.contains(&label));
    line.and_then(|line| line.rsplit_once(' ')).map_or(0, |(_, value)| value.parse().unwrap())
}

async fn more_calls(load: &Load, count: usize) {
    let enough = load.answered() + count;
    eventually("calls go on", || load.answered() >= enough).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_dies_and_comes_back_costs_no_call_and_says_nothing_twice() {
    let pair = Pair::start(Upstream::echo().await).await;
    let agent = Agent::join(&pair, "reviewer").await;
    let load = Load::start(agent.sidecar.outbound.unwrap(), 3);
    let Pair { mut mesh, inbound, upstream: _upstream } = pair;
    let (address, sidecars) = (mesh.sidecars(), [&agent.sidecar, &inbound]);
    // What the server offers is read and told in the background, and belongs to what is not told twice.
    let shown = || offered(&agent.sidecar.live.load());
    eventually("the agent knows what is offered", shown).await;
    for round in 0..3 {
        more_calls(&load, 50).await;
        let folder = mesh.stop().await;
        let away = || sidecars.iter().all(|sidecar| !sidecar.control().borrow().connected);
        eventually("the end is noticed", away).await;
        more_calls(&load, 200).await;
        mesh = Mesh::again(folder, |config| config.sidecars = address).await;
        let back = || sidecars.iter().all(|sidecar| sidecar.control().borrow().complete);
        eventually("the sidecars are back", back).await;
        more_calls(&load, 50).await;
        for ty in ResourceType::ALL {
            assert_eq!(sent_bytes(&mesh, ty), 0, "{ty} in round {round}");
        }
        assert!(shown(), "what is offered was taken away in round {round}");
    }
    load.end_without_failure().await;
    agent.sidecar.stop().await;
    inbound.stop().await;
    mesh.stop().await;
}

/// A sidecar whose control plane is at the end of a way.
async fn by_way(mesh: &Mesh, way: &Way, account: (&str, &str), listen: serde_json::Value) -> Running {
    let mut file = pair::joining(mesh, account.0, account.1, listen, json!({})).await;
    file["source"]["controlPlane"]["address"] = json!(way.address.to_string());
    pair::start(file).await
}

fn policy(name: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{ namespace: research, name: {name} }}\n\
         spec: {{ rules: [{{ action: allow }}] }}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_flaps_crawls_and_talks_nonsense_costs_no_call_and_its_news_arrive_when_it_mends()
 {
    let (mesh, upstream) = (Mesh::start().await, Upstream::echo().await);
    mesh.apply(&pair::server(upstream.address, "")).await;
    let way = Way::to(mesh.sidecars()).await;
    let server = json!({ "inbound": "127.0.0.1:0", "outbound": null });
    let inbound = by_way(&mesh, &way, ("research", "files"), server).await;
    let agent = json!({ "inbound": null, "outbound": "127.0.0.1:0" });
    let agent = by_way(&mesh, &way, ("agents", "reviewer"), agent).await;
    let load = Load::start(agent.outbound.unwrap(), 3);
    let streams = || inbound.control().borrow().streams;
    let worse = [
        Manner::Cut,
        Manner::Slow(20),
        Manner::Garbage,
        Manner::Short(3000),
        Manner::Short(6000),
        Manner::Cut,
    ];
    for (n, manner) in worse.into_iter().enumerate() {
        let before = streams();
        way.becomes(manner);
        mesh.apply(&policy(&format!("p{n}"))).await;
        let troubled =
            || inbound.control().borrow().last_error.is_some() && !inbound.control().borrow().complete;
        if manner != Manner::Garbage {
            eventually("the trouble is noticed", troubled).await;
        }
        more_calls(&load, 100).await;
        way.becomes(Manner::Open);
        let arrived = timeout(PATIENCE, async {
            let mut changes = inbound.live.watch();
            changes.wait_for(|current| known(current) == n + 1).await.map(drop)
        });
        arrived.await.unwrap_or_else(|_| panic!("the news do not arrive after {manner:?}")).unwrap();
        // A way that carries a little may have brought the news before it opened: only by a new stream.
        eventually("the stream of before is over", || streams() > before).await;
    }
    load.end_without_failure().await;
    agent.stop().await;
    inbound.stop().await;
    mesh.stop().await;
}

/// Whether it is known what the server offers.
fn offered(current: &weft_sidecar::state::Current) -> bool {
    let entry = current.snapshot.server(&"research/files".parse().unwrap());
    entry.is_some_and(|entry| entry.offer.is_some())
}

/// Access policies of the server that are in force.
fn known(current: &weft_sidecar::state::Current) -> usize {
    let entry = current.snapshot.server(&"research/files".parse().unwrap());
    entry.map_or(0, |entry| entry.access.len())
}
