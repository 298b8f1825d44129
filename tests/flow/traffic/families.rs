//! Meshes that have addresses of one family only.

use std::net::{Ipv6Addr, SocketAddr};

use serde_json::json;

use super::agent::Agent;
use super::pair;
use super::upstream::{self, Upstream};
use crate::mesh::Mesh;

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_nothing_but_ipv6_a_server_that_listens_there_is_called_through_both_sidecars() {
    let any = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let mesh = Mesh::with(|config| {
        (config.sidecars, config.operators, config.health) = (any, any, any);
    })
    .await;
    // As servers do that are told to listen at `localhost`: the declaration names its port only.
    let server = Upstream::at(any, async |seen| upstream::echo(&seen)).await;
    mesh.apply(&pair::server(server.address, "")).await;
    let started = async |namespace: &str, account: &str, listen| {
        let mut file = pair::joining(&mesh, namespace, account, listen, json!({})).await;
        for door in ["health", "admin"] {
            file["listen"][door] = json!(any);
        }
        pair::start(file).await
    };
    let inbound = started("research", "files", json!({ "inbound": any, "outbound": null })).await;
    let agent =
        Agent { sidecar: started("agents", "reviewer", json!({ "inbound": null, "outbound": any })).await };

    let answer = agent.call("echo", json!({ "x": 1 })).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = server.seen();
    let called = seen.iter().find(|seen| seen.method_name() == "tools/call").unwrap();
    assert_eq!(called.headers["weft-caller"], "spiffe://flow.test/ns/agents/sa/reviewer");
    assert_eq!(called.headers["host"], format!("localhost:{}", server.address.port()));
    agent.sidecar.stop().await;
    inbound.stop().await;
    mesh.stop().await;
}
