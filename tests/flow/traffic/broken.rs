//! Servers that break in every phase of an answer: what a caller is told, that its connection goes on where it can, and
//! that nothing is ever sent twice.

use std::time::Duration;

use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::time::timeout;

use super::pair::{Answer, Pair, legacy, modern};
use super::upstream::{Body, End, Upstream, echo};

fn script(tool: &str) -> (&'static [u8], End) {
    match tool {
        "closes" => (b"", End::Close),
        "resets" => (b"", End::Reset),
        "half_head" => (b"HTTP/1.1 200 OK\r\ncontent-ty", End::Close),
        "reset_head" => (b"HTTP/1.1 200 OK\r\ncontent-ty", End::Reset),
        "no_http" => (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", End::Close),
        "two_lengths" => (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", End::Close),
        "half_body" => (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"jsonrpc\":",
            End::Close,
        ),
        "half_event" => (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n\
              13\r\ndata: 1\n\ndata: half\r\n",
            End::Close,
        ),
        _ => (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 36\r\n\r\n\
              {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}",
            End::Close,
        ),
    }
}

fn call(tool: &str) -> http::Request<http_body_util::Full<bytes::Bytes>> {
    modern("tools/call", tool, json!({ "name": tool, "arguments": {} }))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_never_begins_is_told_and_the_connection_goes_on() {
    let pair = Pair::start(Upstream::raw(script).await).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    for (sent, tool) in
        ["closes", "resets", "half_head", "reset_head", "no_http", "two_lengths"].into_iter().enumerate()
    {
        let told = Answer::read(caller.send(call(tool)).await).await;
        assert_eq!((told.status, told.code(), told.reason()), (502, 5020, "upstream_broke"), "{tool}");
        assert_eq!(told.json()["id"], 7, "{tool}");
        assert!(!told.headers.contains_key("retry-after"), "{tool}: the server may have done it");
        assert_eq!(pair.upstream.seen().len(), sent + 1, "{tool}: nothing is sent twice");
    }
    let whole = Answer::read(caller.send(call("whole")).await).await;
    assert_eq!(whole.status, 200);
    let message =
        json!({ "jsonrpc": "2.0", "id": 8, "method": "tools/call", "params": { "name": "closes" } });
    let told = Answer::read(caller.send(legacy(&message, None)).await).await;
    assert_eq!((told.status, told.code()), (200, 5020), "to a legacy caller it is the answer of its call");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_never_taken_for_whole() {
    let pair = Pair::start(Upstream::raw(script).await).await;
    for (tool, begin) in [("half_body", "{\"jsonrpc\":"), ("half_event", "data: 1\n\ndata: half")] {
        let mut caller = pair.caller("agents", "reviewer").await;
        let mut response = caller.send(call(tool)).await;
        assert_eq!(response.status(), 200);
        let mut text = String::new();
        let broke = loop {
            match timeout(Duration::from_secs(10), response.body_mut().frame()).await.unwrap() {
                Some(Ok(frame)) => text += std::str::from_utf8(frame.data_ref().unwrap()).unwrap(),
                Some(Err(_)) => break true,
                None => break false,
            }
        };
        assert_eq!((text.as_str(), broke), (begin, true), "{tool}");
    }
    assert_eq!(pair.upstream.seen().len(), 2);
    let mut caller = pair.caller("agents", "reviewer").await;
    assert_eq!(Answer::read(caller.send(call("whole")).await).await.status, 200);
    pair.stop().await;
}

fn closing(mut response: http::Response<Body>) -> http::Response<Body> {
    response.headers_mut().insert("connection", http::HeaderValue::from_static("close"));
    response
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_told_as_such_and_called_again_when_it_is_back() {
    let upstream = Upstream::with(async |seen| closing(echo(&seen))).await;
    let address = upstream.address;
    let mut pair = Pair::start(upstream).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    assert_eq!(caller.call("echo", json!({})).await.status, 200);
    pair.upstream = Upstream::echo().await;
    let told = timeout(Duration::from_secs(20), async {
        loop {
            let told = caller.call("echo", json!({})).await;
            match told.reason() {
                "" => {}
                // A connection that was still being taken when the server went.
                "upstream_broke" => assert_eq!(told.status, 502),
                _ => return told,
            }
        }
    });
    let told = told.await.expect("nobody listens there any more");
    assert_eq!((told.status, told.code(), told.reason()), (503, 5034, "upstream_unreachable"));
    assert_eq!(told.headers["retry-after"], "1");
    pair.upstream = Upstream::at(address, async |seen| echo(&seen)).await;
    assert_eq!(caller.call("echo", json!({})).await.status, 200);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_answers_is_left_when_the_time_is_over() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::serving(upstream, "timeouts: { call: 200ms }", json!({})).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    let told = Answer::read(caller.send(call("slow")).await).await;
    assert_eq!((told.status, told.code(), told.reason()), (504, 5040, "timed_out"));
    let mut waits = asked.recv().await.unwrap();
    timeout(Duration::from_secs(5), waits.answer.closed()).await.expect("the server is told");
    let message = json!({ "jsonrpc": "2.0", "id": 8, "method": "tools/call", "params": { "name": "slow" } });
    let told = Answer::read(caller.send(legacy(&message, None)).await).await;
    assert_eq!((told.status, told.code()), (200, 5040));
    let mut waits = asked.recv().await.unwrap();
    timeout(Duration::from_secs(5), waits.answer.closed()).await.expect("the server is told");
    assert!(asked.try_recv().is_err(), "nothing is sent twice");
    pair.stop().await;
}
