//! What callers see of a server's lists: what they may call, in the answers of every transport.

use bytes::Bytes;
use http::{Method, Response};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};

use super::pair::{Answer, Caller, Pair, legacy, modern};
use super::streams::{legacy_listen, stream, until};
use super::upstream::{self, Body, Seen, Upstream};

pub(crate) const POLICY: &str = "apiVersion: weft.dev/v1alpha1\nkind: AccessPolicy\n\
    metadata: { namespace: research, name: readers }\n\
    spec: { servers: { names: [files] }, rules: [\n\
      { action: allow, from: [{ namespaces: [agents] }], to: [{ tools: ['read_*'] }, { prompts: [greet] }, { resources: ['file:///public/*'] }] },\n\
      { action: allow, from: [{ namespaces: [staff] }] },\n\
      { action: deny, to: [{ tools: [drop_all] }] }] }\n";

fn result(method: &str) -> Value {
    let named = |names: &[&str]| -> Vec<Value> { names.iter().map(|name| json!({ "name": name })).collect() };
    match method {
        "tools/list" => {
            json!({ "resultType": "complete", "ttlMs": 60_000, "cacheScope": "public", "nextCursor": "2",
            "tools": named(&["write_file", "read_file", "drop_all", "read_dir"]) })
        }
        "prompts/list" => json!({ "prompts": named(&["greet", "insult"]) }),
        "resources/list" => json!({ "resources": [
            { "uri": "file:///public/a", "name": "a" }, { "uri": "file:///secret", "name": "s" }] }),
        _ => json!({}),
    }
}

fn message(seen: &Seen) -> Option<Value> {
    if seen.method != Method::POST {
        return None;
    }
    let asked = seen.json();
    let result = result(asked["method"].as_str()?);
    Some(json!({ "jsonrpc": "2.0", "id": asked.get("id")?, "result": result }))
}

/// A server that answers lists as documents, or as a stream after a word on the progress.
pub(crate) async fn server(streams: bool) -> Upstream {
    Upstream::with(move |seen| async move {
        let Some(message) = message(&seen).filter(|_| !upstream::is_probe(&seen)) else {
            return upstream::echo(&seen);
        };
        if seen.method_name() == "initialize" || seen.method_name() == "tools/call" {
            return upstream::echo(&seen);
        }
        match streams {
            false => upstream::document(&message),
            true => in_events(&message).await,
        }
    })
    .await
}

async fn in_events(message: &Value) -> Response<Body> {
    let (sender, response) = upstream::events();
    sender
        .send(
            "id: 1\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{}}\n\n"
                .into(),
        )
        .await
        .unwrap();
    // Cut where it hurts.
    let event = format!("id: 2\nevent: message\ndata: {message}\n\n");
    let (one, other) = event.split_at(event.len() / 2);
    for part in [one, other] {
        sender.send(part.to_owned().into()).await.unwrap();
    }
    response
}

async fn listed(caller: &mut Caller, method: &str) -> (Value, String) {
    let answer = Answer::read(caller.send(modern(method, "", json!({}))).await).await;
    assert_eq!(answer.status, 200);
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let data = text.rsplit_once("data: ").map_or(text.as_str(), |(_, data)| data.trim_end());
    (serde_json::from_str::<Value>(data).unwrap()["result"].clone(), text)
}

fn names(result: &Value, list: &str) -> Vec<String> {
    let items = result[list].as_array().unwrap();
    items.iter().map(|it| it.get("uri").unwrap_or_else(|| &it["name"]).as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_caller_sees_what_it_may_call_in_the_servers_order() {
    for streams in [false, true] {
        let pair = Pair::start(server(streams).await).await;
        pair.apply(POLICY).await;
        let (mut agent, mut staff) = (pair.caller("agents", "a").await, pair.caller("staff", "b").await);
        let (tools, text) = listed(&mut agent, "tools/list").await;
        assert_eq!(names(&tools, "tools"), ["read_file", "read_dir"]);
        assert_eq!((&tools["nextCursor"], &tools["ttlMs"]), (&json!("2"), &json!(60_000)));
        assert_eq!(tools["cacheScope"], "private", "nobody else may be given this list");
        assert_eq!(text.starts_with("id: 1\ndata: {"), streams, "{text}");
        let (tools, _) = listed(&mut staff, "tools/list").await;
        assert_eq!(names(&tools, "tools"), ["write_file", "read_file", "read_dir"]);
        assert_eq!(names(&listed(&mut agent, "prompts/list").await.0, "prompts"), ["greet"]);
        assert_eq!(names(&listed(&mut agent, "resources/list").await.0, "resources"), ["file:///public/a"]);
        pair.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_policy_lists_pass_untouched() {
    let pair = Pair::start(server(false).await).await;
    let mut agent = pair.caller("agents", "a").await;
    let (tools, _) = listed(&mut agent, "tools/list").await;
    assert_eq!(tools, result("tools/list"));
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_follows_a_changed_policy_at_once() {
    let pair = Pair::start(server(false).await).await;
    pair.apply(POLICY).await;
    let mut agent = pair.caller("agents", "a").await;
    assert_eq!(names(&listed(&mut agent, "tools/list").await.0, "tools"), ["read_file", "read_dir"]);
    pair.apply(&POLICY.replace("'read_*'", "write_file")).await;
    assert_eq!(names(&listed(&mut agent, "tools/list").await.0, "tools"), ["write_file"]);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_comes_on_another_stream_is_cut_as_well() {
    let (upstream, mut asked) = Upstream::asking().await;
    let pair = Pair::start(upstream).await;
    pair.apply(POLICY).await;
    let mut agent = pair.caller("agents", "a").await;
    let (mut listened, said) = stream(&mut agent, legacy_listen(), &mut asked).await;
    let replayed = json!({ "jsonrpc": "2.0", "id": 3, "result": result("tools/list") });
    said.send(format!("id: 9\ndata: {replayed}\n\n").into()).await.unwrap();
    let text = until(&mut listened, |text| text.ends_with("\n\n")).await;
    assert!(
        text.starts_with("id: 9\n") && text.contains("read_file") && !text.contains("write_file"),
        "{text}"
    );
    // Whoever reads a CR waits for the LF that may come.
    said.send("id: 10\r\ndata: {\"jsonrpc\":\"2.0\",\"id\":4,\"result\":{}}\r\n\r\n".into()).await.unwrap();
    let text = until(&mut listened, |text| text.ends_with('\n')).await;
    assert!(text.ends_with("\r\n\r\n"), "{text:?}");
    drop(said);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_cannot_be_read_is_shown_to_nobody() {
    let upstream = Upstream::with(|seen| async move {
        if upstream::is_probe(&seen) || seen.method_name() != "tools/list" {
            return upstream::echo(&seen);
        }
        let twice = r#"{"jsonrpc":"2.0","id":7,"result":{"tools":[],"tools":[{"name":"write_file"}]}}"#;
        upstream::document(&json!(null))
            .map(|_| Full::new(Bytes::from_static(twice.as_bytes())).boxed_unsync())
    });
    let pair = Pair::start(upstream.await).await;
    pair.apply(POLICY).await;
    let mut agent = pair.caller("agents", "a").await;
    let refused = Answer::read(agent.send(modern("tools/list", "", json!({}))).await).await;
    assert_eq!((refused.status, refused.reason()), (502, "upstream_broke"));
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_caller_sees_the_same() {
    let pair = Pair::start(server(true).await).await;
    pair.apply(POLICY).await;
    let mut agent = pair.caller("agents", "a").await;
    let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "x", "version": "1" } } });
    let opened = Answer::read(agent.send(legacy(&initialize, None)).await).await;
    let session = opened.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let list = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list" });
    let answer = Answer::read(agent.send(legacy(&list, Some(&session))).await).await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(text.contains("read_dir") && !text.contains("write_file"), "{text}");
    pair.stop().await;
}
