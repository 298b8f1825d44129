//! A control plane at a name that leads elsewhere, nowhere, and elsewhere again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use serde_json::json;

use crate::agent::Agent;
use crate::mesh::Mesh;
use crate::pair;
use crate::process::{Process, at_last, file_of};
use crate::upstream::Upstream;
use crate::way::{Manner, Way};

/// Becomes the sidecar in a mount namespace of its own, where the first word is the file of hosts.
const WITH_HOSTS: &str = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
/// Calls that look whether something stays as it is.
const STILL: usize = 50;

/// Writes into the file itself: whoever has it mounted sees it.
fn lead(hosts: &Path, to: Option<IpAddr>) {
    let line = to.map_or_else(String::new, |ip| format!("{ip} control.test\n"));
    std::fs::write(hosts, format!("127.0.0.1 localhost\n{line}")).unwrap();
}

fn policy(action: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{ namespace: research, name: all }}\n\
         spec: {{ rules: [{{ action: allow }}, {{ action: {action}, to: [{{ tools: [echo] }}] }}] }}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_whose_name_leads_elsewhere_is_followed_and_without_an_address_calls_go_on() {
    let (folder, mesh) = (tempfile::tempdir().unwrap(), Mesh::start().await);
    let (hosts, upstream) = (folder.path().join("hosts"), Upstream::echo().await);
    mesh.apply(&pair::server(upstream.address, "")).await;
    let old = Way::to(mesh.sidecars()).await;
    let port = old.address.port();
    let way = async |ip: IpAddr| Way::at(SocketAddr::new(ip, port), mesh.sidecars()).await;
    lead(&hosts, Some(old.address.ip()));
    let mut file = file_of(&mesh, folder.path(), 1).await;
    file["source"]["controlPlane"]["address"] = json!(format!("control.test:{port}"));
    let starter = ["unshare", "--mount", "--map-root-user", "sh", "-c", WITH_HOSTS, hosts.to_str().unwrap()];
    let sidecar = Process::under(folder.path(), &file, &starter).await;
    let agent = Agent::join_mesh(&mesh, "reviewer").await;
    let call = async || agent.call("echo", json!({})).await.status;
    at_last("the first call passes", async || call().await == 200).await;

    // It moves, and what changes afterwards is heard of.
    let new = way(Ipv4Addr::new(127, 0, 0, 2).into()).await;
    lead(&hosts, Some(new.address.ip()));
    old.becomes(Manner::Cut);
    mesh.apply(&policy("deny")).await;
    at_last("the news arrive from the new address", async || call().await == 403).await;

    // Nobody knows where it is: what was known last holds.
    lead(&hosts, None);
    new.becomes(Manner::Cut);
    mesh.apply(&policy("allow")).await;
    for _ in 0..STILL {
        assert_eq!(call().await, 403);
    }
    let again = way(Ipv6Addr::LOCALHOST.into()).await;
    lead(&hosts, Some(again.address.ip()));
    at_last("the news arrive by the other family", async || call().await == 200).await;
    agent.sidecar.stop().await;
    drop(sidecar);
    mesh.stop().await;
}
