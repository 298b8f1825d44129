//! What the sidecar beside a server lets through, and what it does not.

use serde_json::json;

use super::pair::{Answer, PATH, Pair, legacy, modern};
use super::upstream::{self, Upstream};

#[tokio::test(flavor = "multi_thread")]
async fn a_call_arrives_as_it_was_sent_and_with_the_name_of_its_caller() {
    let pair = Pair::start(Upstream::echo().await).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    let answer = caller.call("echo", json!({ "x": 1 })).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["result"]["content"][0]["text"], "{\"x\":1}");
    assert_eq!(answer.json()["id"], 7);
    let [seen] = &pair.upstream.seen()[..] else { panic!("one request, not {:?}", pair.upstream.seen()) };
    assert_eq!(seen.headers["weft-caller"], "spiffe://flow.test/ns/agents/sa/reviewer");
    assert_eq!(seen.headers["weft-server"], "research/files");
    assert_eq!(seen.headers["host"], format!("localhost:{}", pair.upstream.address.port()));
    assert_eq!(seen.headers["mcp-name"], "echo");
    assert_eq!(seen.path, "/mcp");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_only_the_sidecar_may_set_are_taken_away() {
    let pair = Pair::start(Upstream::echo().await).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    let mut request = modern("tools/call", "echo", json!({ "name": "echo", "arguments": {} }));
    let headers = request.headers_mut();
    headers.append("weft-caller", "spiffe://flow.test/ns/agents/sa/admin".parse().unwrap());
    headers.append("weft-tenant", "other".parse().unwrap());
    headers.append("x-forwarded-for", "10.0.0.1".parse().unwrap());
    headers.append("mcp-param-region", "eu".parse().unwrap());
    assert_eq!(Answer::read(caller.send(request).await).await.status, 200);
    let seen = &pair.upstream.seen()[0].headers;
    assert_eq!(seen.get_all("weft-caller").iter().count(), 1);
    assert_eq!(seen["weft-caller"], "spiffe://flow.test/ns/agents/sa/reviewer");
    assert!(!seen.contains_key("weft-tenant") && !seen.contains_key("x-forwarded-for"));
    assert_eq!(seen["mcp-param-region"], "eu", "what the sidecar does not know is passed on");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_edit_counts_from_the_next_call_of_an_open_connection() {
    let pair = Pair::start(Upstream::echo().await).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    assert_eq!(caller.call("echo", json!({})).await.status, 200);
    pair.apply(
        "apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\nmetadata: { namespace: research, name: readers }\n\
         spec: { servers: { names: [files] }, rules: [{ action: allow, from: [{ namespaces: [agents] }], \
         to: [{ tools: ['read_*'] }] }] }\n",
    )
    .await;
    let refused = caller.call("echo", json!({})).await;
    assert_eq!((refused.status, refused.code(), refused.reason()), (403, 4030, "denied"));
    assert_eq!(refused.json()["id"], 7);
    assert_eq!(caller.call("read_file", json!({})).await.status, 200);
    let mut stranger = pair.caller("other", "x").await;
    assert_eq!(stranger.call("read_file", json!({})).await.status, 403);
    assert_eq!(pair.upstream.seen().len(), 2, "what is refused never reaches the server");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_says_another_tool_than_the_body_is_refused_and_the_connection_goes_on() {
    let pair = Pair::start(Upstream::echo().await).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    let request = modern("tools/call", "safe", json!({ "name": "evil", "arguments": {} }));
    let refused = Answer::read(caller.send(request).await).await;
    assert_eq!((refused.status, refused.code()), (400, -32020));
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"safe","name":"evil"}}"#;
    let request = http::Request::post(PATH)
        .header("host", "x")
        .header("content-type", "application/json")
        .body(body.to_owned().into())
        .unwrap();
    let refused = Answer::read(caller.send(request).await).await;
    assert_eq!((refused.status, refused.code()), (400, -32700));
    assert_eq!(caller.call("echo", json!({})).await.status, 200);
    assert_eq!(pair.upstream.seen().len(), 1);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_unknown_to_everyone_but_its_caller() {
    let pair = Pair::start(Upstream::echo().await).await;
    let mut owner = pair.caller("agents", "reviewer").await;
    let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "x", "version": "1" } } });
    let opened = Answer::read(owner.send(legacy(&initialize, None)).await).await;
    let session = opened.headers["mcp-session-id"].to_str().unwrap().to_owned();
    assert_ne!(session, "session-1", "the server's own id says nothing about who may use it");
    let list = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list" });
    assert_eq!(Answer::read(owner.send(legacy(&list, Some(&session))).await).await.status, 200);
    assert_eq!(pair.upstream.seen().last().unwrap().headers["mcp-session-id"], "session-1");
    let mut thief = pair.caller("agents", "thief").await;
    for stolen in [session.as_str(), "session-1"] {
        let refused = Answer::read(thief.send(legacy(&list, Some(stolen))).await).await;
        assert_eq!((refused.status, refused.reason()), (404, "session_unknown"));
    }
    assert_eq!(pair.upstream.seen().len(), 2);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_call_one_tool_may_also_listen_answer_and_end_its_session() {
    let pair = Pair::start(Upstream::echo().await).await;
    pair.apply(
        "apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\nmetadata: { namespace: research, name: readers }\n\
         spec: { servers: { names: [files] }, rules: [{ action: allow, from: [{ namespaces: [agents] }], \
         to: [{ tools: ['read_*'] }] }] }\n",
    )
    .await;
    let statuses = async |namespace: &str| {
        let mut caller = pair.caller(namespace, "x").await;
        let response = json!({ "jsonrpc": "2.0", "id": 1, "result": {} });
        let answered = Answer::read(caller.send(legacy(&response, None)).await).await.status;
        let request = |method: &str| {
            http::Request::builder()
                .method(method)
                .uri(PATH)
                .header("host", "x")
                .body(Default::default())
                .unwrap()
        };
        let listened = Answer::read(caller.send(request("GET")).await).await.status;
        let ended = Answer::read(caller.send(request("DELETE")).await).await.status;
        [answered, listened, ended]
    };
    assert_eq!(statuses("agents").await, [200, 405, 405], "what the server itself says to each");
    assert_eq!(statuses("strangers").await, [403; 3]);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_one_by_one_and_leaving_a_modern_stream_cancels_the_call() {
    let (streams, mut opened) = tokio::sync::mpsc::channel(4);
    let upstream = Upstream::with(move |seen| {
        let streams = streams.clone();
        async move {
            if !seen.headers.contains_key("weft-caller") {
                return upstream::echo(&seen);
            }
            let (sender, response) = upstream::events();
            streams.send(sender).await.unwrap();
            response
        }
    })
    .await;
    let pair = Pair::start(upstream).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    let request = modern("tools/call", "slow", json!({ "name": "slow", "arguments": {} }));
    let (mut response, sender) = tokio::join!(caller.send(request), async { opened.recv().await.unwrap() });
    use http_body_util::BodyExt as _;
    for n in 0..3 {
        let event = format!("data: {n}\n\n");
        sender.send(event.clone().into()).await.unwrap();
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event, "an event is not kept until the next");
    }
    drop((response, caller));
    tokio::time::timeout(std::time::Duration::from_secs(5), sender.closed())
        .await
        .expect("the server is told");
    pair.stop().await;
}
