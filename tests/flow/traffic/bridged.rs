//! Callers and servers of different eras, over HTTP: each hears its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::pair::{self, Answer, Pair, legacy, modern};
use super::upstream::{Body, Seen, Upstream, document, echo, status};
use crate::mesh::eventually;

/// How a server of the legacy era answers what it has never heard of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unknown {
    Status(u16),
    MethodNotFound,
}

/// A server that speaks the legacy era only, with a session for everything but the handshake.
pub(super) fn legacy_only(seen: &Seen, unknown: Unknown) -> http::Response<Body> {
    if seen.method != http::Method::POST {
        return status(405);
    }
    let message = seen.json();
    let modern = seen.headers.get("mcp-protocol-version").is_some_and(|it| it == "2026-07-28");
    match message["method"].as_str().unwrap_or_default() {
        "initialize" => echo(seen),
        _ if modern => match unknown {
            Unknown::Status(code) => status(code),
            Unknown::MethodNotFound => {
                let error = json!({ "code": -32601, "message": "Method not found" });
                document(&json!({ "jsonrpc": "2.0", "id": message["id"], "error": error }))
            }
        },
        _ if seen.headers.get("mcp-session-id").is_none_or(|it| it != "session-1") => status(400),
        "tools/call" => {
            let text = message["params"]["arguments"].to_string();
            let result = json!({ "content": [{ "type": "text", "text": text }] });
            document(&json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }))
        }
        _ => echo(seen),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_modern_caller_reaches_a_server_that_only_knows_sessions() {
    for unknown in [Unknown::Status(400), Unknown::Status(405), Unknown::MethodNotFound] {
        let calls = Arc::new(AtomicUsize::new(0));
        let upstream = {
            let calls = Arc::clone(&calls);
            Upstream::with(move |seen| {
                if seen.method_name() == "tools/call" {
                    calls.fetch_add(1, Ordering::Relaxed);
                }
                async move { legacy_only(&seen, unknown) }
            })
            .await
        };
        let pair = Pair::start(upstream).await;
        let mut caller = pair.caller("agents", "reviewer").await;
        let answer = caller.call("echo", json!({ "x": 1 })).await;
        assert_eq!(answer.status, 200, "{unknown:?}: {answer:?}");
        assert!(!answer.headers.contains_key("mcp-session-id"), "the modern era has no sessions");
        let result = &message(&answer)["result"];
        assert_eq!(message(&answer)["id"], 7);
        assert_eq!(
            (&result["resultType"], &result["content"][0]["text"]),
            (&json!("complete"), &json!("{\"x\":1}"))
        );
        let found = Answer::read(caller.send(modern("server/discover", "", json!({}))).await).await;
        assert_eq!(message(&found)["result"]["supportedVersions"], json!(["2026-07-28"]), "{found:?}");
        assert_eq!(calls.load(Ordering::Relaxed), 1, "{unknown:?}: nothing is sent twice");
        pair.stop().await;
    }
}

/// A server that speaks the modern era only.
fn modern_only(seen: &Seen) -> http::Response<Body> {
    if seen.method != http::Method::POST {
        return status(405);
    }
    let message = seen.json();
    let meta = &message["params"]["_meta"];
    let named = seen.headers.get("mcp-method").is_some_and(|it| *it == *message["method"].as_str().unwrap());
    if meta["io.modelcontextprotocol/protocolVersion"] != "2026-07-28" || !named {
        let error = json!({ "code": -32022, "message": "Unsupported protocol version",
            "data": { "supported": ["2026-07-28"], "requested": "2025-11-25" } });
        let mut refused = document(&json!({ "jsonrpc": "2.0", "id": message["id"], "error": error }));
        *refused.status_mut() = http::StatusCode::BAD_REQUEST;
        return refused;
    }
    if message["method"] == "tools/list" {
        let tools = json!([{ "name": "echo", "inputSchema": { "type": "object" } }]);
        let result = json!({ "resultType": "complete", "tools": tools, "ttlMs": 0, "cacheScope": "private" });
        return document(&json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }));
    }
    echo(seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_caller_reaches_a_server_that_knows_no_sessions_by_a_session_of_its_own() {
    let pair = Pair::start(Upstream::with(async |seen| modern_only(&seen)).await).await;
    let mut owner = pair.caller("agents", "reviewer").await;
    let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "x", "version": "1" } } });
    let opened = Answer::read(owner.send(legacy(&initialize, None)).await).await;
    assert_eq!(opened.status, 200, "{opened:?}");
    assert_eq!(message(&opened)["result"]["protocolVersion"], "2025-11-25");
    let session = opened.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let ready = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    assert_eq!(Answer::read(owner.send(legacy(&ready, Some(&session))).await).await.status, 202);

    let list = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list" });
    let listed = Answer::read(owner.send(legacy(&list, Some(&session))).await).await;
    assert_eq!(message(&listed)["result"]["tools"][0]["name"], "echo", "{listed:?}");
    let params = json!({ "name": "echo", "arguments": { "x": 1 } });
    let call = json!({ "jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": params });
    let called = Answer::read(owner.send(legacy(&call, Some(&session))).await).await;
    assert_eq!(message(&called)["id"], 3);
    assert_eq!(message(&called)["result"]["content"][0]["text"], "{\"x\":1}", "{called:?}");
    assert!(message(&called)["result"].get("resultType").is_none(), "a word of the other era: {called:?}");

    pair.apply(&pair::server(pair.upstream.address, "timeouts: { call: 7s }")).await;
    let followed = || pair.inbound.servers.all()[0].spec.timeouts.call.is_some();
    eventually("the sidecar follows", followed).await;
    let listed = Answer::read(owner.send(legacy(&list, Some(&session))).await).await;
    assert_eq!(listed.status, 200, "a session outlives an edit of timeouts: {listed:?}");

    let mut thief = pair.caller("agents", "thief").await;
    let stolen = Answer::read(thief.send(legacy(&list, Some(&session))).await).await;
    assert_eq!((stolen.status, stolen.reason()), (404, "session_unknown"));
    let without = Answer::read(owner.send(legacy(&list, None)).await).await;
    assert_eq!((without.status, without.reason()), (400, "session_missing"));
    let mut end = legacy(&json!({}), Some(&session));
    *end.method_mut() = http::Method::DELETE;
    *end.body_mut() = http_body_util::Full::default();
    assert!(Answer::read(owner.send(end).await).await.status < 300);
    assert_eq!(Answer::read(owner.send(legacy(&list, Some(&session))).await).await.status, 404);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_on_a_stream_that_has_begun_is_written_down_as_what_it_is() {
    let upstream = Upstream::with(async |seen| {
        if seen.method_name() == "tools/call" {
            std::future::pending::<()>().await;
        }
        legacy_only(&seen, Unknown::MethodNotFound)
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    // The stream begins with the first comment, and is long under way when the time for the call is over.
    let limits = json!({ "keepAliveCommentEvery": "50ms" });
    let pair = Pair::logging_with(upstream.await, "timeouts: { call: 500ms }", limits, &file).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    let answer = caller.call("slow", json!({})).await;
    assert_eq!(
        (answer.status, &answer.headers["content-type"]),
        (200, &"text/event-stream".parse().unwrap())
    );
    assert_eq!(message(&answer)["error"]["data"]["reason"], "timed_out", "{answer:?}");
    let written = || std::fs::read_to_string(&file).unwrap_or_default();
    eventually("it is written down", || written().ends_with('\n')).await;
    let line: Value = serde_json::from_str(written().lines().next().unwrap()).unwrap();
    assert_eq!((&line["reason"], &line["status"]), (&json!("timed_out"), &json!(200)));
    let text = pair.inbound.metrics.text();
    let series =
        "requests_total{listener=\"inbound\",server=\"research/files\",method=\"tools/call\",reason=";
    assert!(text.contains(&format!("{series}\"timed_out\"}} 1")), "{text}");
    pair.stop().await;
}

/// The one message of an answer, whichever form it came in.
fn message(answer: &Answer) -> Value {
    let text = std::str::from_utf8(&answer.body).unwrap();
    let last = text.trim_end().rsplit_once("data: ").map_or(text, |(_, data)| data);
    serde_json::from_str(last).unwrap()
}
