//! Stories of discovery streams.

use std::time::Duration;

use tonic::Code;
use weft_control_plane::xds::{ClientStatus, Sync};
use weft_proto::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use weft_proto::wire::ResourceType;

use crate::mesh::{Mesh, Stream, eventually};

const POLICY: &str = "apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\n\
    metadata: { namespace: weft-system, name: p }\nspec: { rules: [{ action: allow }] }\n";
const TRUST: &str = "apiVersion: weft.dev/v1alpha1\nkind: Trust\n\
    metadata: { namespace: weft-system, name: mesh }\n\
    spec: { trustDomain: flow.test, defaultAction: audit }\n";
const SERVER: &str = "apiVersion: weft.dev/v1alpha1\nkind: McpServer\n\
    metadata: { namespace: agents, name: files }\nspec: { stdio: { command: x } }\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_stream_of_the_same_node_takes_over() {
    let mesh = Mesh::start().await;
    let workload = mesh.workload("research", "files").await;
    let types = [ResourceType::Mesh];
    let mut first = Stream::open(mesh.connect(&workload).await.unwrap(), "research/files-1", &types).await;
    first.next().await.unwrap();
    let mut second = Stream::open(mesh.connect(&workload).await.unwrap(), "research/files-1", &types).await;
    second.next().await.unwrap();
    assert_eq!(first.next().await.unwrap_err().code(), Code::Aborted);
    assert_eq!(mesh.running.hub.status().iter().filter(|client| client.connected).count(), 1);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_of_age_without_an_error_and_the_client_may_come_again() {
    let mesh = Mesh::with(|config| config.xds.age_max = Duration::from_millis(300)).await;
    let workload = mesh.workload("research", "files").await;
    let channel = mesh.connect(&workload).await.unwrap();
    let mut stream = Stream::open(channel.clone(), "research/files-1", &[ResourceType::Mesh]).await;
    stream.next().await.unwrap();
    assert_eq!(stream.next().await.unwrap_err().code(), Code::Cancelled, "a planned end carries no error");
    let mut again = Stream::open(channel, "research/files-1", &[ResourceType::Mesh]).await;
    again.next().await.unwrap();
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_answers_is_let_go() {
    let mesh = Mesh::with(|config| config.xds.answer_timeout = Duration::from_millis(200)).await;
    let workload = mesh.workload("research", "files").await;
    let mut mute = Stream::open(mesh.connect(&workload).await.unwrap(), "research/files-1", &[]).await;
    let subscribe = DeltaDiscoveryRequest {
        node: Some(weft_proto::pb::envoy::config::core::v3::Node {
            id: "research/files-1".to_owned(),
            ..Default::default()
        }),
        type_url: ResourceType::Mesh.type_url().to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    mute.send(subscribe).await;
    mute.unanswered().await.unwrap();
    assert_eq!(mute.unanswered().await.unwrap_err().code(), Code::DeadlineExceeded);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_delays_nobody_and_catches_up_in_one_response() {
    let mesh = Mesh::start().await;
    mesh.apply(SERVER).await;
    let types = [ResourceType::Server];
    let (slow, fast) = (mesh.workload("agents", "slow").await, mesh.workload("agents", "fast").await);
    let mut slow = Stream::calling(mesh.connect(&slow).await.unwrap(), "agents/slow-1", &types).await;
    let mut fast = Stream::calling(mesh.connect(&fast).await.unwrap(), "agents/fast-1", &types).await;
    slow.unanswered().await.unwrap();
    fast.next().await.unwrap();
    const CHANGES: usize = 60;
    for n in 0..CHANGES {
        mesh.apply(&SERVER.replace("command: x", &format!("command: x{n}"))).await;
        fast.next().await.unwrap();
    }
    // It holds at most what it was sent before changes began to wait for its answer; the rest comes as one.
    let mut received = 0;
    loop {
        let response = slow.next().await.unwrap();
        received += 1;
        let bytes = &response.resources[0].resource.as_ref().unwrap().value;
        if String::from_utf8_lossy(bytes).contains(&format!("x{}", CHANGES - 1)) {
            break;
        }
    }
    assert!(received < CHANGES, "{received} responses came for {CHANGES} changes");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_message_ends_its_stream_and_no_other() {
    let mesh = Mesh::start().await;
    let (good, bad) = (mesh.workload("research", "good").await, mesh.workload("research", "bad").await);
    let types = [ResourceType::Mesh];
    let mut good = Stream::open(mesh.connect(&good).await.unwrap(), "research/good-1", &types).await;
    good.next().await.unwrap();
    let mut broken = Stream::open(mesh.connect(&bad).await.unwrap(), "research/bad-1", &types).await;
    broken.next().await.unwrap();
    broken.send(DeltaDiscoveryRequest::default()).await;
    assert_eq!(broken.next().await.unwrap_err().code(), Code::InvalidArgument);
    mesh.apply(TRUST).await;
    assert_eq!(good.next().await.unwrap().resources.len(), 1);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vanished_client_stays_known_until_it_is_forgotten() {
    let mesh = Mesh::start().await;
    let workload = mesh.workload("research", "files").await;
    let mut stream =
        Stream::open(mesh.connect(&workload).await.unwrap(), "research/files-1", &[ResourceType::Mesh]).await;
    stream.next().await.unwrap();
    drop(stream);
    let hub = &mesh.running.hub;
    eventually("the end is noticed", || hub.status().iter().all(|client| !client.connected)).await;
    assert_eq!(hub.status().len(), 1);
    hub.sweep(weft_control_plane::clock::now() + Duration::from_secs(48 * 3600));
    assert!(hub.status().is_empty());
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn once_a_change_is_published_no_client_is_in_sync_that_has_not_acknowledged_it() {
    let mesh = Mesh::start().await;
    let workload = mesh.workload("research", "files").await;
    let channel = mesh.connect(&workload).await.unwrap();
    let mut stream = Stream::open(channel, "research/files-1", &[ResourceType::Mesh]).await;
    stream.next().await.unwrap();
    let hub = &mesh.running.hub;
    let sync = || hub.status().first().map(ClientStatus::sync);
    eventually("the first is acknowledged", || sync() == Some(Sync::Synced)).await;
    for action in ["audit", "deny", "audit", "deny"] {
        mesh.apply(&TRUST.replace("audit", action)).await;
        let newest = mesh.running.store.head().await.unwrap().revision.0;
        hub.revision().wait_for(|published| *published >= newest).await.unwrap();
        assert_eq!(sync(), Some(Sync::Waiting));
        stream.next().await.unwrap();
        eventually("it is acknowledged", || sync() == Some(Sync::Synced)).await;
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_gone_for_good_is_forgotten_whether_its_end_was_noticed_or_not() {
    let mesh = Mesh::start().await;
    let workload = mesh.workload("research", "files").await;
    let hub = &mesh.running.hub;
    for noticed in [true, false] {
        let channel = mesh.connect(&workload).await.unwrap();
        let mut stream = Stream::open(channel, "research/files-1", &[ResourceType::Mesh]).await;
        stream.next().await.unwrap();
        if noticed {
            drop(stream);
            eventually("the end is noticed", || hub.status().iter().all(|client| !client.connected)).await;
            hub.forget(&"research/files-1".parse().unwrap());
        } else {
            hub.forget(&"research/files-1".parse().unwrap());
            stream.next().await.unwrap_err();
        }
        assert!(hub.status().is_empty());
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_of_the_whole_mesh_reaches_a_sidecar_that_serves() {
    let mesh = Mesh::start().await;
    mesh.apply(SERVER).await;
    let workload = mesh.workload("agents", "files").await;
    let channel = mesh.connect(&workload).await.unwrap();
    let mut stream =
        Stream::serving(channel, "agents/files-1", "agents/files", &[ResourceType::AccessPolicy]).await;
    assert!(stream.next().await.unwrap().resources.is_empty());
    mesh.apply(POLICY).await;
    assert_eq!(stream.next().await.unwrap().resources[0].name, "weft-system/p");
    mesh.stop().await;
}
