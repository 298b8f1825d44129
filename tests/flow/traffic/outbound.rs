//! The way of an agent to a server: through its own sidecar and the server's.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::agent::Agent;
use super::pair::{self, Answer, Pair, legacy, modern};
use super::upstream::{self, Upstream};
use crate::mesh::eventually;

fn call(tool: &str) -> Request<Full<Bytes>> {
    modern("tools/call", tool, json!({ "name": tool, "arguments": { "x": 1 } }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_leaves_in_the_name_of_the_agents_own_sidecar() {
    let pair = Pair::start(Upstream::echo().await).await;
    let agent = Agent::join(&pair, "reviewer").await;
    let answer = agent.answer(call("echo")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["result"]["content"][0]["text"], "{\"x\":1}");
    let seen = &pair.upstream.seen()[0];
    assert_eq!(seen.headers["weft-caller"], "spiffe://flow.test/ns/agents/sa/reviewer");
    agent.sidecar.stop().await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_other_side_refuses_is_told_as_it_was_said() {
    let pair = Pair::start(Upstream::echo().await).await;
    let agent = Agent::join(&pair, "reviewer").await;
    pair.apply(
        "apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\nmetadata: { namespace: research, name: readers }\n\
         spec: { servers: { names: [files] }, rules: [{ action: allow, to: [{ tools: ['read_*'] }] }] }\n",
    )
    .await;
    let refused = agent.answer(call("echo")).await;
    assert_eq!((refused.status, refused.code(), refused.reason()), (403, 4030, "denied"));
    let mut unknown = call("echo");
    *unknown.uri_mut() = "/servers/research/nothing/mcp".parse().unwrap();
    let refused = agent.answer(unknown).await;
    assert_eq!((refused.status, refused.reason()), (404, "unknown_server"));
    agent.sidecar.stop().await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_back_to_where_it_was_opened_and_to_nobody_else() {
    let pair = Pair::start(Upstream::echo().await).await;
    let agent = Agent::join(&pair, "reviewer").await;
    let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "x", "version": "1" } } });
    let opened = agent.answer(legacy(&initialize, None)).await;
    let session = opened.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let list = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list" });
    assert_eq!(agent.answer(legacy(&list, Some(&session))).await.status, 200);
    assert_eq!(pair.upstream.seen().last().unwrap().headers["mcp-session-id"], "session-1");
    let other = Agent::join(&pair, "other").await;
    let stolen = other.answer(legacy(&list, Some(&session))).await;
    assert_eq!((stolen.status, stolen.reason()), (404, "session_unknown"));
    other.sidecar.stop().await;
    agent.sidecar.stop().await;
    pair.stop().await;
}

/// A server of 2024-11-05: one stream, and an address for messages that it names first.
async fn oldest() -> Upstream {
    let streams = std::sync::Arc::new(std::sync::Mutex::new(None));
    Upstream::with(move |seen| {
        let streams = std::sync::Arc::clone(&streams);
        async move {
            if seen.method == http::Method::GET {
                let (sender, response) = upstream::events();
                sender.send("event: endpoint\ndata: /messages?session_id=7\n\n".into()).await.unwrap();
                *streams.lock().unwrap() = Some(sender);
                return response;
            }
            if !seen.path.starts_with("/messages?session_id=7") {
                return upstream::status(404);
            }
            let message: Value = seen.json();
            let stream = streams.lock().unwrap().clone();
            if let (Some(stream), Some(id)) = (stream, message.get("id")) {
                let answer = json!({ "jsonrpc": "2.0", "id": id, "result": { "echo": message["method"] } });
                stream.send(format!("event: message\ndata: {answer}\n\n").into()).await.unwrap();
            }
            upstream::status(202)
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_transport_passes_with_an_address_that_leads_back_through_both_sidecars() {
    let pair = Pair::start(oldest().await).await;
    let agent = Agent::join(&pair, "reviewer").await;
    let listen =
        Request::get(pair::PATH).header("accept", "text/event-stream").body(Full::default()).unwrap();
    let mut stream = agent.send(listen).await;
    assert_eq!(stream.status(), 200);
    let first = event(&mut stream).await;
    let address = first.strip_prefix("event: endpoint\ndata: ").unwrap().trim().to_owned();
    assert!(address.starts_with(pair::PATH) && !address.contains("session_id=7"), "{address}");
    let ping = json!({ "jsonrpc": "2.0", "id": 9, "method": "ping" });
    let post = |address: &str| {
        let request = Request::post(address.to_owned()).header("content-type", "application/json");
        request.body(Full::new(Bytes::from(ping.to_string()))).unwrap()
    };
    assert_eq!(agent.answer(post(&address)).await.status, 202);
    assert!(event(&mut stream).await.contains("\"echo\":\"ping\""));
    let forged = agent.answer(post(&format!("{}?session=L21lc3NhZ2Vz", pair::PATH))).await;
    assert_eq!(forged.status, 404);
    agent.sidecar.stop().await;
    pair.stop().await;
}

/// The next event of a stream, whole.
async fn event(stream: &mut Response<Incoming>) -> String {
    let mut text = String::new();
    while !text.ends_with("\n\n") {
        let frame = stream.body_mut().frame().await.unwrap().unwrap();
        text += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_sidecar_waits_for_a_tool_as_long_as_its_policy_says() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::serving(upstream, "timeouts: { call: 200ms }", json!({})).await;
    let agent = Agent::join(&pair, "reviewer").await;
    pair.apply(
        "apiVersion: weft.dev/v1alpha1\nkind: ToolPolicy\nmetadata: { namespace: research, name: slow }\n\
         spec: { tools: [slow], timeout: 60s }\n",
    )
    .await;
    let files = "research/files".parse().unwrap();
    let knows = || agent.sidecar.live.load().snapshot.server(&files).is_some_and(|it| !it.tools.is_empty());
    eventually("the agent's sidecar is told", knows).await;
    let address = agent.sidecar.outbound.unwrap();
    let mut waiting =
        tokio::spawn(
            async move { Answer::read(super::agent::send(address, call("slow")).await.unwrap()).await },
        );
    let held = asked.recv().await.unwrap();
    let early = tokio::time::timeout(std::time::Duration::from_secs(1), &mut waiting).await;
    assert!(early.is_err(), "{early:?}");
    held.answer.send(upstream::document(&json!({ "jsonrpc": "2.0", "id": 7, "result": {} }))).unwrap();
    assert_eq!(waiting.await.unwrap().status, 200);
    assert_eq!(agent.answer(call("other")).await.reason(), "timed_out");
    agent.sidecar.stop().await;
    pair.stop().await;
}
