//! A server that asks its caller something before it answers, and a caller of the other era, through the whole mesh.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use weft_sidecar::app::Running;

use super::agent::Agent;
use super::bridged::{Unknown, legacy_only};
use super::pair::{self, Answer, legacy};
use super::streams::until;
use super::upstream::{Body, Seen, Upstream, document, events, status};
use crate::mesh::{Mesh, eventually};

const ABLE: &str = r#"{"elicitation":{},"sampling":{},"roots":{}}"#;

/// How many questions a server has asked, and those that nobody has answered, by their ids.
type Open = Arc<Mutex<(u32, HashMap<String, oneshot::Sender<Value>>)>>;

/// A server of the legacy era that asks who it is for before it answers a call, and says so, and which server it was.
pub(super) async fn curious(name: &'static str) -> Upstream {
    let open = Open::default();
    Upstream::with(move |seen| {
        let open = Arc::clone(&open);
        async move { ask(name, &seen, &open) }
    })
    .await
}

fn ask(name: &'static str, seen: &Seen, open: &Open) -> http::Response<Body> {
    if seen.method != http::Method::POST {
        return legacy_only(seen, Unknown::Status(400));
    }
    let message = seen.json();
    match message["method"].as_str() {
        Some("tools/list") => {
            let tools = json!([{ "name": "echo", "inputSchema": { "type": "object" } }]);
            document(&json!({ "jsonrpc": "2.0", "id": message["id"], "result": { "tools": tools } }))
        }
        Some("tools/call") if seen.headers.contains_key("mcp-session-id") => {
            let (sender, response) = events();
            let (answer, answered) = oneshot::channel();
            // Servers count, each for itself, so that two ask under the same id.
            let mut asked = open.lock().unwrap();
            asked.0 += 1;
            let question = format!("question {}", asked.0);
            asked.1.insert(question.clone(), answer);
            drop(asked);
            tokio::spawn(async move {
                let asked = json!({ "jsonrpc": "2.0", "id": question, "method": "elicitation/create",
                    "params": { "message": "Who?", "requestedSchema": { "type": "object" } } });
                _ = sender.send(format!("data: {asked}\n\n").into()).await;
                let Ok(given) = answered.await else { return };
                let text = format!("{name} {} {}", message["params"]["arguments"], given["content"]["who"]);
                let result = json!({ "content": [{ "type": "text", "text": text }] });
                let result = json!({ "jsonrpc": "2.0", "id": message["id"], "result": result });
                _ = sender.send(format!("data: {result}\n\n").into()).await;
            });
            response
        }
        None if message.get("result").is_some() => {
            let id = message["id"].as_str().unwrap_or_default();
            let asker = open.lock().unwrap().1.remove(id);
            // Whoever asked may have given up.
            asker.map(|asker| asker.send(message["result"].clone()));
            status(202)
        }
        _ => legacy_only(seen, Unknown::Status(400)),
    }
}

/// A call in the modern way, of a caller who can be asked everything.
pub(super) fn call(path: &str, tool: &str, arguments: &Value, more: &Value) -> Request<Full<Bytes>> {
    let mut params = json!({ "name": tool, "arguments": arguments });
    for (key, value) in more.as_object().into_iter().flatten() {
        params[key] = value.clone();
    }
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": serde_json::from_str::<Value>(ABLE).unwrap(),
    });
    let body = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params });
    Request::post(path)
        .header("host", "files.research")
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/call")
        .header("mcp-name", tool)
        .body(Full::new(body.to_string().into()))
        .unwrap()
}

pub(super) fn given(asked: &Answer, who: &str) -> Value {
    let result = &asked.json()["result"];
    assert_eq!(result["resultType"], "input_required", "{asked:?}");
    assert_eq!(result["inputRequests"]["1"]["params"]["message"], "Who?");
    json!({
        "inputResponses": { "1": { "action": "accept", "content": { "who": who } } },
        "requestState": result["requestState"],
    })
}

pub(super) fn text(answer: &Answer) -> String {
    answer.json()["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

/// `research/files` with two instances, each beside a server of its own, and an agent.
struct Two {
    mesh: Mesh,
    inbound: [Running; 2],
    _upstreams: [Upstream; 2],
    agent: Agent,
}

impl Two {
    async fn start() -> Self {
        let (mesh, first, second) = (Mesh::start().await, curious("first").await, curious("second").await);
        mesh.apply(&pair::server(first.address, "")).await;
        let listen = json!({ "inbound": "127.0.0.1:0", "outbound": null });
        let one = pair::sidecar(&mesh, "research", "files", listen.clone(), json!({})).await;
        let mut file = pair::joining(&mesh, "research", "files", listen, json!({})).await;
        file["node"]["id"] = json!("research/files-2");
        file["node"]["upstreams"] = json!({ "research/files": second.address.to_string() });
        let two = pair::start(file).await;
        let agent = Agent::join_mesh(&mesh, "reviewer").await;
        eventually("the agent knows both instances, and what the server offers", || {
            let current = agent.sidecar.live.load();
            let entry = current.snapshot.server(&"research/files".parse().unwrap());
            entry.is_some_and(|entry| entry.endpoints.len() == 2 && entry.offer.is_some())
        })
        .await;
        Self { mesh, inbound: [one, two], _upstreams: [first, second], agent }
    }

    async fn stop(self) {
        self.agent.sidecar.stop().await;
        for sidecar in self.inbound {
            sidecar.stop().await;
        }
        self.mesh.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_for_finds_the_instance_where_the_call_waits() {
    let two = Two::start().await;
    for (path, tool) in [(pair::PATH, "echo"), ("/mcp", "files_echo")] {
        let mut waiting = Vec::new();
        for n in 0..12 {
            let asked = two.agent.answer(call(path, tool, &json!({ "n": n }), &json!({}))).await;
            waiting.push((n, given(&asked, &format!("caller {n}"))));
        }
        let mut instances = HashMap::<String, usize>::new();
        for (n, more) in waiting.iter().rev() {
            let answer = two.agent.answer(call(path, tool, &json!({ "n": n }), more)).await;
            let text = text(&answer);
            let (instance, rest) = text.split_once(' ').unwrap();
            assert_eq!(rest, format!("{{\"n\":{n}}} \"caller {n}\""));
            *instances.entry(instance.to_owned()).or_default() += 1;
        }
        assert_eq!(instances.len(), 2, "{instances:?}");
        let (n, more) = &waiting[0];
        let again = two.agent.answer(call(path, tool, &json!({ "n": n }), more)).await;
        assert_eq!(again.reason(), "input_unknown", "{again:?}");
    }
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_caller_is_asked_through_the_one_address_what_a_legacy_server_wants_to_know() {
    let two = Two::start().await;
    let at = |mut request: Request<Full<Bytes>>| {
        *request.uri_mut() = "/mcp".parse().unwrap();
        request
    };
    let capabilities: Value = serde_json::from_str(ABLE).unwrap();
    let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": capabilities,
        "clientInfo": { "name": "x", "version": "1" } } });
    let opened = two.agent.answer(at(legacy(&initialize, None))).await;
    let session = opened.headers["mcp-session-id"].to_str().unwrap().to_owned();
    for n in 0..6 {
        let params = json!({ "name": "files_echo", "arguments": { "n": n } });
        let call = json!({ "jsonrpc": "2.0", "id": 10 + n, "method": "tools/call", "params": params });
        let mut stream = two.agent.send(at(legacy(&call, Some(&session)))).await;
        let said = until(&mut stream, |text| text.contains("elicitation/create")).await;
        let question = said.lines().find_map(|line| line.strip_prefix("data: {")).unwrap();
        let question: Value = serde_json::from_str(&format!("{{{question}")).unwrap();
        let result = json!({ "action": "accept", "content": { "who": n } });
        let answer = json!({ "jsonrpc": "2.0", "id": question["id"], "result": result });
        assert_eq!(two.agent.answer(at(legacy(&answer, Some(&session)))).await.status, 202);
        let said = until(&mut stream, |text| text.contains("\"content\"")).await;
        let expected = format!("{{\\\"n\\\":{n}}} {n}");
        assert!(said.contains(&expected) && said.contains(&format!("\"id\":{}", 10 + n)), "{said}");
    }
    two.stop().await;
}

const ONE_AT_A_TIME: &str = "apiVersion: weft.dev/v1alpha1\nkind: QuotaPolicy\n\
    metadata: { namespace: research, name: few }\n\
    spec: { limits: [{ per: [caller], concurrency: 1 }, { per: [caller], rate: 2/h, burst: 2 }] }\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_keeps_its_place_and_is_counted_once() {
    let limits = json!({ "quotaWaitTimeout": "0s" });
    let pair = pair::Pair::with(curious("only").await, limits).await;
    pair.apply(ONE_AT_A_TIME).await;
    let mut caller = pair.caller("agents", "reviewer").await;
    let call = |n: u32, more: &Value| call(pair::PATH, "echo", &json!({ "n": n }), more);
    let asked = Answer::read(caller.send(call(1, &json!({}))).await).await;
    let busy = Answer::read(caller.send(call(2, &json!({}))).await).await;
    assert_eq!(busy.reason(), "limited", "{busy:?}");
    let answer = Answer::read(caller.send(call(1, &given(&asked, "x"))).await).await;
    assert_eq!(text(&answer), "only {\"n\":1} \"x\"");
    let asked = Answer::read(caller.send(call(3, &json!({}))).await).await;
    let answer = Answer::read(caller.send(call(3, &given(&asked, "y"))).await).await;
    assert_eq!(text(&answer), "only {\"n\":3} \"y\"");
    let spent = Answer::read(caller.send(call(4, &json!({}))).await).await;
    assert_eq!(spent.reason(), "limited", "{spent:?}");

    let mut thief = pair.caller("agents", "thief").await;
    let stolen = Answer::read(thief.send(call(3, &given(&asked, "z"))).await).await;
    assert_eq!(stolen.reason(), "input_unknown", "{stolen:?}");
    pair.stop().await;
}
