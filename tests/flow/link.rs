//! Stories of a sidecar and its control plane.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;
use weft_control_plane::store::{Key, Txn};
use weft_control_plane::trust::rotation::Action;
use weft_proto::wire::ResourceType;
use weft_sidecar::control::store;
use weft_sidecar::state::Origin;

use crate::control::{Sidecar, beside};
use crate::mesh::{Mesh, eventually};

fn server(name: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: {{ namespace: {namespace}, name: {name} }}\n\
         spec: {{ stdio: {{ command: x }} }}\n---\n"
    )
}

fn policy(name: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{ namespace: {namespace}, name: {name} }}\n\
         spec: {{ rules: [{{ action: allow }}] }}\n---\n"
    )
}

async fn delete(mesh: &Mesh, key: &str) {
    let key = Key::new(format!("resources/{key}")).unwrap();
    mesh.running.store.commit(Txn::new("flow", "story").delete(key)).await.unwrap();
}

/// Resources of a type that the control plane has sent, in bytes.
fn sent_bytes(mesh: &Mesh, ty: ResourceType) -> u64 {
    let text = mesh.running.metrics.text();
    let label = format!("xds_response_bytes_total{{type=\"{}\"}}", ty.name());
    let line = text.lines().find(|line| line.contains(&label));
    line.and_then(|line| line.rsplit_once(' ')).map_or(0, |(_, value)| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_joins_and_hears_of_its_server_and_of_every_change_of_its_policies() {
    let mesh = Mesh::start().await;
    mesh.apply(&(server("agents/files") + &policy("agents/first"))).await;
    let folder = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::joined(&mesh, "agents/files", folder.path()).await;
    assert_eq!(sidecar.servers(), ["agents/files"]);
    assert_eq!(sidecar.policies("agents/files"), ["agents/first"]);
    assert_eq!(sidecar.identity.leaf().unwrap().spiffe_id.as_str(), "spiffe://flow.test/ns/agents/sa/files");
    let current = sidecar.live.load();
    assert_eq!(current.origin, Origin::ControlPlane);
    mesh.apply(&policy("weft-system/second")).await;
    eventually("the policy is in force", || sidecar.policies("agents/files").len() == 2).await;
    assert_ne!(sidecar.live.load().version, current.version);
    delete(&mesh, "accesspolicies/weft-system/second").await;
    eventually("the policy is gone", || sidecar.live.load().version == current.version).await;
    let synced = || mesh.running.hub.status().iter().all(|client| client.sync().word() == "synced");
    eventually("the control plane knows it", synced).await;
    let state = sidecar.state();
    assert!(state.connected && state.last_error.is_none() && state.certificate.expires.is_some());
    assert_eq!((state.streams, state.types.len()), (1, ResourceType::ALL.len()));
    sidecar.stop().await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_and_its_policies_that_come_together_are_seen_together() {
    let mesh = Mesh::start().await;
    let folder = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::joined(&mesh, "agents/files", folder.path()).await;
    let mut changes = sidecar.live.watch();
    changes.mark_unchanged();
    for round in 0..20 {
        mesh.apply(&(server("agents/files") + &policy("agents/p"))).await;
        changes.wait_for(|current| !current.snapshot.servers.is_empty()).await.unwrap();
        let seen = sidecar.policies("agents/files");
        assert_eq!(seen, ["agents/p"], "round {round}");
        let key = |key: &str| Key::new(format!("resources/{key}")).unwrap();
        let txn = Txn::new("flow", "story");
        let txn = txn.delete(key("mcpservers/agents/files")).delete(key("accesspolicies/agents/p"));
        mesh.running.store.commit(txn).await.unwrap();
        changes.wait_for(|current| current.snapshot.servers.is_empty()).await.unwrap();
    }
    sidecar.stop().await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_shown_the_servers_of_another() {
    let mesh = Mesh::start().await;
    mesh.apply(&(server("research/files") + &server("payments/ledger") + &policy("payments/p"))).await;
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let research = Sidecar::joined(&mesh, "research/files", folders[0].path()).await;
    let payments = Sidecar::joined(&mesh, "payments/ledger", folders[1].path()).await;
    assert_eq!(research.servers(), ["research/files"]);
    assert_eq!(payments.servers(), ["payments/ledger"]);
    assert_eq!(research.state().types[&ResourceType::AccessPolicy].resources, 0);
    research.stop().await;
    payments.stop().await;
    mesh.stop().await;
}

/// A control plane that begins again where the last one ended.
async fn again(folder: tempfile::TempDir, address: SocketAddr) -> Mesh {
    Mesh::again(folder, |config| config.sidecars = address).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_comes_back_says_nothing_twice() {
    let mesh = Mesh::start().await;
    mesh.apply(&(server("agents/files") + &policy("agents/p"))).await;
    let folder = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::joined(&mesh, "agents/files", folder.path()).await;
    let address = mesh.sidecars();
    assert!(sent_bytes(&mesh, ResourceType::Server) > 0, "at first everything is sent");
    let before = sidecar.live.load();
    let gone = mesh.stop().await;
    eventually("the end is noticed", || !sidecar.state().connected).await;
    assert_eq!(sidecar.servers(), ["agents/files"], "the last good configuration stays in force");
    assert!(sidecar.state().ready);
    let mesh = again(gone, address).await;
    eventually("the sidecar is back", || sidecar.state().complete).await;
    for ty in ResourceType::ALL {
        assert_eq!(sent_bytes(&mesh, ty), 0, "{ty}");
    }
    assert!(std::sync::Arc::ptr_eq(&before, &sidecar.live.load()), "nothing was swapped");
    mesh.apply(&policy("agents/q")).await;
    eventually("changes arrive again", || sidecar.policies("agents/files").len() == 2).await;
    sidecar.stop().await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_comes_and_goes_costs_nothing_but_news() {
    let mut mesh = Mesh::start().await;
    mesh.apply(&(server("agents/files") + &policy("agents/p"))).await;
    let folder = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::joined(&mesh, "agents/files", folder.path()).await;
    let address = mesh.sidecars();
    for round in 0..5 {
        let gone = mesh.stop().await;
        assert_eq!(sidecar.policies("agents/files").len(), 1 + round);
        mesh = again(gone, address).await;
        mesh.apply(&policy(&format!("agents/p{round}"))).await;
        eventually("news arrives in each round", || sidecar.policies("agents/files").len() == 2 + round)
            .await;
    }
    assert!(sidecar.state().ready && sidecar.identity.leaf().is_some());
    sidecar.stop().await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_starts_while_the_control_plane_is_away_serves_as_before() {
    let mesh = Mesh::start().await;
    mesh.apply(&(server("agents/files") + &policy("agents/p"))).await;
    let folder = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::joined(&mesh, "agents/files", folder.path()).await;
    let before = sidecar.live.load();
    sidecar.stop().await;
    let (address, token) = (mesh.sidecars(), mesh.token("agents", "files", 1).await);
    let gone = mesh.stop().await;

    let mut bootstrap = beside(address, "agents/files", &token);
    bootstrap["stateDir"] = json!(folder.path());
    let began = Instant::now();
    let sidecar = Sidecar::start(bootstrap).await;
    sidecar.handle.ready().await;
    // It takes milliseconds; the limit leaves room for a machine that is busy with other stories.
    assert!(began.elapsed() < Duration::from_secs(2), "ready after {:?}", began.elapsed());
    let now = sidecar.live.load();
    assert_eq!((now.origin, &now.version), (Origin::Stored, &before.version));
    assert_eq!(now.snapshot, before.snapshot);
    assert!(!sidecar.trust.load().is_empty(), "the roots are stored, too");
    assert!(sidecar.identity.leaf().is_none(), "keys are not");

    let mesh = again(gone, address).await;
    sidecar.is_told().await;
    eventually("the control plane says so, too", || sidecar.live.load().origin == Origin::ControlPlane).await;
    assert_eq!(sent_bytes(&mesh, ResourceType::Server), 0, "what is stored need not be sent");
    assert_eq!(sidecar.live.load().version, before.version);
    sidecar.stop().await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_holds_no_secret_and_what_is_damaged_is_passed_over() {
    let mesh = Mesh::start().await;
    mesh.apply(&server("agents/files")).await;
    let folder = tempfile::tempdir().unwrap();
    Sidecar::joined(&mesh, "agents/files", folder.path()).await.stop().await;
    let path = folder.path().join(store::FILE);
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(names, [store::FILE], "nothing else is on disk");
    let mut bytes = std::fs::read(&path).unwrap();
    assert!(!String::from_utf8_lossy(&bytes).contains("PRIVATE"));
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).unwrap();

    let sidecar = Sidecar::joined(&mesh, "agents/files", folder.path()).await;
    let error = sidecar.state().store;
    assert_eq!(error.failures, 1);
    assert_eq!(sidecar.servers(), ["agents/files"]);
    eventually("a good one takes its place", || store::load(folder.path()).is_ok()).await;
    sidecar.stop().await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_to_another_identity_or_node_is_forgotten() {
    let mesh = Mesh::start().await;
    let owned = server("agents/files").replace("spec: {", "spec: { serviceAccount: files,");
    mesh.apply(&owned).await;
    let folder = tempfile::tempdir().unwrap();
    Sidecar::joined(&mesh, "agents/files", folder.path()).await.stop().await;
    let token = mesh.token("agents", "other", 2).await;
    let mut bootstrap = beside(mesh.sidecars(), "agents/files", &token);
    bootstrap["stateDir"] = json!(folder.path());
    let sidecar = Sidecar::start(bootstrap.clone()).await;
    eventually("the control plane is heard", || sidecar.live.load().origin == Origin::ControlPlane).await;
    assert!(sidecar.servers().is_empty(), "the server is of another account");
    sidecar.stop().await;
    bootstrap["node"]["id"] = json!("agents/another");
    let sidecar = Sidecar::start(bootstrap).await;
    assert_eq!(sidecar.state().store.failures, 1);
    sidecar.is_told().await;
    sidecar.stop().await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_written_is_told_and_stops_nothing() {
    let mesh = Mesh::start().await;
    mesh.apply(&server("agents/files")).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let sidecar = Sidecar::joined(&mesh, "agents/files", &file.join("below")).await;
    eventually("the failure is counted", || sidecar.state().store.failures > 0).await;
    assert!(sidecar.state().store.error.is_some());
    mesh.apply(&policy("agents/p")).await;
    eventually("changes arrive", || sidecar.policies("agents/files").len() == 1).await;
    sidecar.stop().await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_by_the_one_before_and_the_stream_stays() {
    let mesh = Mesh::start().await;
    mesh.apply(&server("agents/files")).await;
    let folder = tempfile::tempdir().unwrap();
    // The token has one use: whatever follows is renewed without it.
    let sidecar = Sidecar::joined(&mesh, "agents/files", folder.path()).await;
    let rotation = sidecar.handle.rotation.clone().unwrap();
    for _ in 0..5 {
        let before = sidecar.identity.leaf().unwrap().serial;
        rotation.renew_now();
        let renewed = || sidecar.identity.leaf().is_some_and(|leaf| leaf.serial != before);
        eventually("there is another certificate", renewed).await;
    }
    mesh.apply(&policy("agents/p")).await;
    eventually("changes arrive", || sidecar.policies("agents/files").len() == 1).await;
    assert_eq!(sidecar.state().streams, 1);
    sidecar.stop().await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_is_exchanged_without_anybodys_doing_and_the_stream_stays() {
    let mesh = Mesh::start().await;
    let (trust, hub) = (&mesh.running.trust, &mesh.running.hub);
    let folder = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::joined(&mesh, "agents/files", folder.path()).await;
    let first = sidecar.identity.leaf().unwrap().serial;
    for (action, word) in
        [(Action::Start, "adding"), (Action::Advance, "renewing"), (Action::Advance, "dropping")]
    {
        trust.rotate(action, false, "flow", &hub.status()).await.unwrap();
        assert_eq!(trust.report(&hub.status()).unwrap().rotation.word(), word);
        eventually("the sidecar follows", || trust.report(&hub.status()).unwrap().gate.is_open()).await;
    }
    trust.rotate(Action::Advance, false, "flow", &hub.status()).await.unwrap();
    assert_ne!(sidecar.identity.leaf().unwrap().serial, first);
    let domain = weft_proto::name::TrustDomain::parse("flow.test").unwrap();
    assert_eq!(sidecar.trust.load().get(&domain).unwrap().fingerprints().collect::<Vec<_>>(), [trust.root()]);
    assert_eq!(sidecar.state().streams, 1);
    sidecar.stop().await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_reaches_whoever_verifies() {
    let mesh = Mesh::start().await;
    let folder = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::joined(&mesh, "agents/files", folder.path()).await;
    let other = mesh.workload("agents", "other").await;
    let serial = other.live.leaf().unwrap().serial;
    mesh.running.trust.revoke(&serial).await.unwrap();
    let revoked = || sidecar.trust.load().iter().any(|bundle| bundle.revoked().contains(&serial));
    eventually("the serial number is known", revoked).await;
    sidecar.stop().await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_from_a_file_is_read_anew_until_it_is_good() {
    let mesh = Mesh::start().await;
    mesh.apply(&server("agents/files")).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let spent = mesh.token("agents", "files", 1).await;
    let mut bootstrap = beside(mesh.sidecars(), "agents/files", &spent);
    let first = Sidecar::start(bootstrap.clone()).await;
    first.is_told().await;
    first.stop().await;
    std::fs::write(&path, format!("{spent}\n")).unwrap();
    bootstrap["source"]["controlPlane"]["proof"] = json!({ "joinTokenFile": path });
    let sidecar = Sidecar::start(bootstrap).await;
    let refused = || sidecar.state().certificate.error.is_some_and(|error| error.contains("not accepted"));
    eventually("the spent token is refused", refused).await;
    assert!(!sidecar.state().ready);
    std::fs::write(&path, mesh.token("agents", "files", 1).await).unwrap();
    sidecar.is_told().await;
    assert_eq!(sidecar.servers(), ["agents/files"]);
    sidecar.stop().await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_namespace_gives_nothing() {
    let mesh = Mesh::start().await;
    let token = mesh.token("payments", "files", 1).await;
    let sidecar = Sidecar::start(beside(mesh.sidecars(), "agents/files", &token)).await;
    let refused = || {
        sidecar.state().certificate.error.is_some_and(|error| error.contains("not of this node's namespace"))
    };
    eventually("the certificate is refused", refused).await;
    assert!(sidecar.identity.leaf().is_none());
    sidecar.stop().await;
    mesh.stop().await;
}
