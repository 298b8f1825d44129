//! Callers that leave before their answer is whole: in the modern era that cancels the call, in the legacy one it does
//! not.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::json;
use tokio::time::timeout;

use super::doors;
use super::pair::{Answer, Caller, Pair, legacy, modern};
use super::upstream::{self, Upstream};
use crate::mesh::eventually;

/// More than all buffers between a server and a caller hold.
const CHUNKS: usize = 256;
const CHUNK: &[u8] = &[b'x'; 64 << 10];

fn modern_call() -> Request<Full<Bytes>> {
    modern("tools/call", "slow", json!({ "name": "slow", "arguments": {} }))
}

fn legacy_call() -> Request<Full<Bytes>> {
    let params = json!({ "name": "slow", "arguments": {} });
    legacy(&json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params }), None)
}

async fn has_left(pair: &Pair) {
    let open = || doors::value(&pair.inbound, "connections{listener=\"inbound\"}");
    eventually("the sidecar sees that the caller left", || open() == 0).await;
}

/// Sends a request and leaves once the server has it.
async fn leave_before_the_head(
    mut caller: Caller,
    request: Request<Full<Bytes>>,
    asked: &mut tokio::sync::mpsc::Receiver<upstream::Asked>,
) -> upstream::Asked {
    tokio::select! {
        response = caller.send(request) => panic!("answered by {response:?}"),
        asked = asked.recv() => asked.unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_modern_caller_that_leaves_before_the_answer_begins_cancels_the_call() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::start(upstream).await;
    let caller = pair.caller("agents", "reviewer").await;
    let mut waits = leave_before_the_head(caller, modern_call(), &mut asked).await;
    timeout(Duration::from_secs(1), waits.answer.closed()).await.expect("the server is told within a second");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_call_goes_on_to_its_end_when_its_caller_leaves_before_the_answer_begins() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::start(upstream).await;
    let caller = pair.caller("agents", "reviewer").await;
    let waits = leave_before_the_head(caller, legacy_call(), &mut asked).await;
    has_left(&pair).await;
    let (sender, response) = upstream::events();
    waits.answer.send(response).expect("the call goes on");
    for _ in 0..CHUNKS {
        sender.send(Bytes::from_static(CHUNK)).await.expect("what is said is read to its end");
    }
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_stream_is_read_to_its_end_when_its_caller_leaves_it() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::start(upstream).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    let (sender, given) = upstream::events();
    let answer = async { asked.recv().await.unwrap().answer.send(given).unwrap() };
    let (response, ()) = tokio::join!(caller.send(legacy_call()), answer);
    assert_eq!(response.status(), 200);
    drop((response, caller));
    has_left(&pair).await;
    for _ in 0..CHUNKS {
        sender.send(Bytes::from_static(CHUNK)).await.expect("what is said is read to its end");
    }
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_call_keeps_its_place_at_the_server_when_its_caller_leaves() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::serving(upstream, "inFlight: { max: 1 }", json!({})).await;
    let mut other = pair.caller("agents", "other").await;
    let caller = pair.caller("agents", "reviewer").await;
    let waits = leave_before_the_head(caller, legacy_call(), &mut asked).await;
    let open = || doors::value(&pair.inbound, "connections{listener=\"inbound\"}");
    eventually("the sidecar sees that the caller left", || open() == 1).await;
    let told = Answer::read(other.send(modern_call()).await).await;
    assert_eq!((told.status, told.reason()), (429, "in_flight"), "the server is still at work");
    let (sender, response) = upstream::events();
    waits.answer.send(response).unwrap();
    drop(sender);
    let under_way = || doors::value(&pair.inbound, "in_flight{server=\"research/files\"}");
    eventually("the place is free", || under_way() == 0).await;
    let mut waits = leave_before_the_head(other, modern_call(), &mut asked).await;
    timeout(Duration::from_secs(1), waits.answer.closed()).await.expect("the server is told within a second");
    eventually("a call that was cancelled has no place", || under_way() == 0).await;
    pair.stop().await;
}
