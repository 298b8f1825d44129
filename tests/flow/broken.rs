//! Stories of a sidecar whose control plane does not do what it should.

use std::sync::Arc;
use std::time::Duration;

use weft_proto::wire::ResourceType;
use weft_sidecar::state::Origin;

use crate::fake::{self, Fake, Manner, Opened};
use crate::mesh::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn the_good_of_a_response_is_in_force_and_the_bad_is_named() {
    let mut fake = Fake::start().await;
    let sidecar = fake.sidecar(|_, _| {}).await;
    let mut stream = fake.opened().await;
    stream.tell(&["agents/files"]).await;
    sidecar.is_told().await;
    let ty = ResourceType::Server;
    let bad = |name| fake::resource_of(ty, name, vec![0xff]);
    let resources = vec![bad("agents/files"), fake::server("agents/good"), bad("agents/bad")];
    stream.respond(ty, "mixed", resources).await;
    let answer = stream.answer("mixed").await.unwrap();
    let why = answer.error_detail.unwrap().message;
    assert!(why.contains("agents/files: ") && why.contains("agents/bad: "), "{why}");
    assert_eq!(sidecar.servers(), ["agents/files", "agents/good"], "they are in force when the answer comes");
    let of_type = sidecar.state().types[&ty].clone();
    assert_eq!((of_type.rejected, of_type.nack.unwrap().message), (1, why));
    stream.respond(ty, "mended", vec![fake::server("agents/bad")]).await;
    assert!(stream.answer("mended").await.unwrap().error_detail.is_none());
    assert!(sidecar.state().types[&ty].nack.is_none());
    drop(stream);
    // What was refused is not offered; what is held is.
    let stream = fake.opened().await;
    let offered = &stream.asked[ty.index()].initial_resource_versions;
    assert_eq!(offered.len(), 3);
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_response_is_answered_exactly_once() {
    let mut fake = Fake::start().await;
    let sidecar = fake.sidecar(|_, _| {}).await;
    let mut stream = fake.opened().await;
    stream.tell(&["agents/files"]).await;
    let mut unanswered: Vec<String> = ResourceType::ALL.map(|ty| ty.name().to_owned()).to_vec();
    for n in 0..100 {
        let ty = ResourceType::ALL[n % ResourceType::ALL.len()];
        let resources = match (ty, n % 3) {
            (ResourceType::Server, _) => vec![fake::server(&format!("agents/s{n}"))],
            (_, 0) => vec![fake::resource_of(ty, "agents/bad", vec![0xff])],
            _ => Vec::new(),
        };
        stream.respond(ty, &n.to_string(), resources).await;
        unanswered.push(n.to_string());
    }
    while !unanswered.is_empty() {
        let nonce = stream.request().await.unwrap().response_nonce;
        let at = unanswered.iter().position(|it| *it == nonce);
        unanswered.remove(at.unwrap_or_else(|| panic!("{nonce} is answered again")));
    }
    sidecar.stop().await;
}

/// What a control plane may do instead of telling everything.
async fn misbehave(stream: &Opened, how: usize) {
    let whole = fake::framed(&fake::response(ResourceType::Mesh, "m", vec![fake::mesh()]));
    match how {
        0 => stream.raw(vec![0, 0, 0, 0, 3, 0xff, 0xff, 0xff]).await,
        1 => stream.raw(whole[..whole.len() / 2].to_vec()).await,
        2 => stream.raw(vec![0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]).await,
        3 => stream.raw(vec![9; 64]).await,
        4 => stream.respond(ResourceType::Server, "early", vec![fake::server("agents/early")]).await,
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_control_plane_sends_the_sidecar_comes_back_and_keeps_what_it_has() {
    let mut fake = Fake::start().await;
    let sidecar = fake.sidecar(|_, _| {}).await;
    let stream = fake.opened().await;
    stream.tell(&["agents/files"]).await;
    sidecar.is_told().await;
    let before = sidecar.live.load();
    drop(stream);
    for how in 0..6 {
        let stream = fake.opened().await;
        misbehave(&stream, how).await;
        assert!(Arc::ptr_eq(&before, &sidecar.live.load()), "after misbehaviour {how}");
    }
    for manner in [Manner::Garbage, Manner::HangUp, Manner::Garbage] {
        fake.next(manner).await;
    }
    drop(fake.opened().await);
    let stream = fake.opened().await;
    stream.tell(&["agents/files", "agents/other"]).await;
    eventually("it goes on as if nothing had been", || {
        sidecar.servers().contains(&"agents/other".to_owned())
    })
    .await;
    assert!(sidecar.state().last_error.is_some());
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_come_one_by_one_are_as_good_as_others() {
    let mut fake = Fake::start().await;
    let sidecar = fake.sidecar(|_, _| {}).await;
    let mut stream = fake.opened().await;
    for byte in
        fake::framed(&fake::response(ResourceType::Server, "slow", vec![fake::server("agents/files")]))
    {
        stream.raw(vec![byte]).await;
    }
    assert!(stream.answer("slow").await.unwrap().error_detail.is_none());
    assert_eq!(sidecar.live.load().origin, Origin::Nothing, "the other types are not told yet");
    stream.tell(&[]).await;
    sidecar.is_told().await;
    assert_eq!(sidecar.servers(), ["agents/files"]);
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_says_nothing_is_given_up() {
    let mut fake = Fake::start().await;
    let sidecar = fake.sidecar(|_, settings| settings.silence_max = Duration::from_millis(100)).await;
    let silent = fake.opened().await;
    let half = fake.opened().await;
    half.respond(ResourceType::Mesh, "m", vec![fake::mesh()]).await;
    let stream = fake.opened().await;
    stream.tell(&["agents/files"]).await;
    sidecar.is_told().await;
    assert!(sidecar.state().last_error.unwrap().message.contains("said nothing"));
    drop((silent, half));
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_in_good_order_is_opened_again_at_once() {
    let mut fake = Fake::start().await;
    let sidecar = fake.sidecar(|_, _| {}).await;
    for _ in 0..30 {
        let stream = fake.opened().await;
        stream.tell(&["agents/files"]).await;
        sidecar.is_told().await;
    }
    assert_eq!(sidecar.state().failures, 0);
    sidecar.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_again_in_another_order_is_not_put_into_force_again() {
    let mut fake = Fake::start().await;
    let sidecar = fake.sidecar(|_, _| {}).await;
    let mut stream = fake.opened().await;
    stream.tell(&["agents/a", "agents/b"]).await;
    sidecar.is_told().await;
    stream.answer(ResourceType::VirtualServer.name()).await.unwrap();
    let before = sidecar.live.load();
    stream
        .respond(ResourceType::Server, "again", vec![fake::server("agents/b"), fake::server("agents/a")])
        .await;
    stream.answer("again").await.unwrap();
    assert!(Arc::ptr_eq(&before, &sidecar.live.load()));
    assert_eq!(sidecar.state().swaps, 1);
    sidecar.stop().await;
}
