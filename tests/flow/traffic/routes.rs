//! Calls that another server takes than the one that they are addressed to, as a `Route` says.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use weft_proto::resource::{Spec, parse_one};
use weft_sidecar::app::Running;

use super::agent::Agent;
use super::doors;
use super::input;
use super::pair::{self, legacy, modern};
use super::upstream::{self, Upstream};
use crate::mesh::{Mesh, eventually};

/// The server that is addressed, `research/files`, and another, each beside a sidecar; and an agent.
struct Two {
    mesh: Mesh,
    files: (Upstream, Running),
    next: (Upstream, Running),
    agent: Agent,
}

impl Two {
    async fn start(files: Upstream, next: Upstream) -> Self {
        let mesh = Mesh::start().await;
        let files = beside(&mesh, "files", files).await;
        let next = beside(&mesh, "next", next).await;
        let agent = Agent::join_mesh(&mesh, "reviewer").await;
        let two = Self { mesh, files, next, agent };
        eventually("the agent's sidecar knows an instance of each", || {
            let current = two.agent.sidecar.live.load();
            let entries = current.snapshot.servers.values();
            entries.filter(|entry| entry.endpoints.len() == 1).count() == 2
        })
        .await;
        two
    }

    /// Sets the rules of the one route, and waits until the agent's sidecar goes by them.
    async fn route(&self, rules: &str) {
        let yaml = format!(
            "apiVersion: weft.dev/v1alpha1\nkind: Route\nmetadata: {{ namespace: research, name: r }}\n\
             spec: {{ server: research/files, rules: {rules} }}\n"
        );
        let Spec::Route(wanted) = parse_one("story.yaml", &yaml).unwrap().spec else { panic!("a route") };
        self.mesh.apply(&yaml).await;
        let is_in_force = || {
            let current = self.agent.sidecar.live.load();
            let entry = current.snapshot.server(&wanted.server);
            entry.and_then(|it| it.route.as_ref()).is_some_and(|route| route.spec == wanted)
        };
        eventually("the agent's sidecar goes by the route", is_in_force).await;
    }

    fn calls_of_files(&self) -> usize {
        calls(&self.files.0)
    }

    fn calls_of_next(&self) -> usize {
        calls(&self.next.0)
    }

    async fn stop(self) {
        for sidecar in [self.agent.sidecar, self.files.1, self.next.1] {
            sidecar.stop().await;
        }
        self.mesh.stop().await;
    }
}

async fn beside(mesh: &Mesh, name: &str, upstream: Upstream) -> (Upstream, Running) {
    mesh.apply(&format!(
        "apiVersion: weft.dev/v1alpha1\nkind: McpServer\nmetadata: {{ namespace: research, name: {name} }}\n\
         spec: {{ workload: {{ labels: {{ app: {name} }}, port: {} }} }}\n",
        upstream.address.port()
    ))
    .await;
    let listen = json!({ "inbound": "127.0.0.1:0", "outbound": null });
    let running = pair::sidecar(mesh, "research", name, listen, json!({})).await;
    (upstream, running)
}

/// Calls of tools that a server got.
fn calls(upstream: &Upstream) -> usize {
    upstream.seen().iter().filter(|it| it.method_name() == "tools/call").count()
}

fn call(tool: &str) -> Request<Full<Bytes>> {
    modern("tools/call", tool, json!({ "name": tool, "arguments": {} }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_gets_its_share_and_records_name_the_server_that_took_the_call() {
    let two = Two::start(Upstream::echo().await, Upstream::echo().await).await;
    two.route(
        "[{ match: { headers: { x-preview: ['1'] } }, to: [{ server: research/next }] },
          { to: [{ server: research/files, weight: 4 }, { server: research/next, weight: 1 }] }]",
    )
    .await;
    for _ in 0..200 {
        assert_eq!(two.agent.answer(call("read")).await.status, 200);
    }
    // Forty are expected; what lies beyond these bounds is seen once in a million runs.
    let canary = two.calls_of_next();
    assert!((13..=70).contains(&canary), "{canary} of 200");
    assert_eq!(two.calls_of_files() + canary, 200);
    let mut preview = call("read");
    preview.headers_mut().insert("x-preview", "1".parse().unwrap());
    assert_eq!(two.agent.answer(preview).await.status, 200);
    assert_eq!(two.calls_of_next(), canary + 1);
    let seen = two.next.0.seen().pop().unwrap();
    assert_eq!(seen.headers["weft-server"], "research/next");
    let metrics = doors::get(two.agent.sidecar.health.unwrap(), "/metrics").await;
    let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
    let counted = |server: &str| {
        let labels =
            format!(r#"listener="outbound",server="research/{server}",method="tools/call",reason="ok""#);
        let line = metrics.lines().find(|line| line.contains(&labels)).unwrap_or_default();
        line.rsplit(' ').next().unwrap().parse::<usize>().unwrap_or(0)
    };
    assert_eq!((counted("next"), counted("files")), (canary + 1, 200 - canary), "{metrics}");
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_where_it_was_opened_when_the_route_is_another() {
    let two = Two::start(Upstream::echo().await, Upstream::echo().await).await;
    let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "x", "version": "1" } } });
    let mut sessions = Vec::new();
    for to in ["next", "files"] {
        two.route(&format!("[{{ to: [{{ server: research/{to} }}] }}]")).await;
        let opened = two.agent.answer(legacy(&initialize, None)).await;
        sessions.push(opened.headers["mcp-session-id"].to_str().unwrap().to_owned());
    }
    let called = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call",
        "params": { "name": "read", "arguments": {} } });
    let expected = [(0, 1), (1, 1)];
    for (session, expected) in sessions.iter().zip(expected) {
        assert_eq!(two.agent.answer(legacy(&called, Some(session))).await.status, 200);
        assert_eq!((two.calls_of_files(), two.calls_of_next()), expected);
    }
    two.route("[{ match: { tools: [nothing] }, to: [{ server: research/next }] }]").await;
    assert_eq!(two.agent.answer(legacy(&called, Some(&sessions[0]))).await.status, 200);
    assert_eq!((two.calls_of_files(), two.calls_of_next()), (1, 2));
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_fall_back_when_a_server_goes_and_none_of_them_fails() {
    let two = Two::start(Upstream::echo().await, Upstream::echo().await).await;
    two.route("[{ to: [{ server: research/next }], fallback: [research/files] }]").await;
    let address = two.agent.sidecar.outbound.unwrap();
    let calling = tokio::spawn(async move {
        let mut statuses = Vec::new();
        for _ in 0..150 {
            let response = super::agent::send(address, call("read")).await.unwrap();
            statuses.push(pair::Answer::read(response).await);
        }
        statuses
    });
    eventually("calls arrive", || two.calls_of_next() > 20).await;
    let Two { mesh, files, next: (next, running), agent } = two;
    running.stop().await;
    let answers = calling.await.unwrap();
    let failed = answers.iter().find(|answer| answer.status != 200);
    assert!(failed.is_none(), "{failed:?}");
    assert_eq!(calls(&next) + calls(&files.0), 150);
    assert_eq!(agent.answer(call("read")).await.status, 200);
    for sidecar in [agent.sidecar, files.1] {
        sidecar.stop().await;
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_never_answers_holds_nobody_up_and_gets_only_what_changes_nothing() {
    let (silent, mut asked) = Upstream::asking().await;
    let two = Two::start(Upstream::echo().await, silent).await;
    two.mesh
        .apply(
            "apiVersion: weft.dev/v1alpha1\nkind: ToolPolicy\nmetadata: { namespace: research, name: p }\n\
             spec: { servers: { names: [next] }, tools: ['read'], retry: read-only }\n",
        )
        .await;
    let next = "research/next".parse().unwrap();
    let knows =
        || two.agent.sidecar.live.load().snapshot.server(&next).is_some_and(|it| !it.tools.is_empty());
    eventually("the agent's sidecar is told of the tool", knows).await;
    two.route("[{ to: [{ server: research/files }], mirror: { server: research/next } }]").await;
    for tool in ["write", "read"] {
        let answer = two.agent.answer(call(tool)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let copy = tokio::time::timeout(Duration::from_secs(20), asked.recv()).await.unwrap().unwrap();
    assert_eq!((two.calls_of_files(), two.calls_of_next()), (2, 1));
    let seen = two.next.0.seen().pop().unwrap().json();
    assert_eq!(seen["params"]["name"], "read");
    // Whatever it says at last, nobody hears it.
    copy.answer.send(upstream::status(500)).unwrap();
    let health = two.agent.sidecar.health.unwrap();
    let counted = async || {
        let metrics = doors::get(health, "/metrics").await.body.to_vec();
        String::from_utf8(metrics)
            .unwrap()
            .contains(r#"copies_total{server="research/next",outcome="failed"} 1"#)
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !counted().await {
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("the copy is counted");
    two.stop().await;
}

/// A server with one tool, which says that it did it.
async fn with_tool(name: &'static str) -> Upstream {
    Upstream::with(move |seen| async move {
        let message: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let result = match message["method"].as_str().unwrap_or_default() {
            "tools/list" => json!({ "tools": [{ "name": "read", "inputSchema": { "type": "object" } }] }),
            "tools/call" => json!({ "content": [{ "type": "text", "text": name }] }),
            _ => return upstream::echo(&seen),
        };
        let mut result = result;
        result["resultType"] = "complete".into();
        upstream::document(&json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_through_an_endpoint_of_many_servers_are_routed_too_in_either_era() {
    let two = Two::start(with_tool("files").await, with_tool("next").await).await;
    let files = "research/files".parse().unwrap();
    let is_offered = || {
        let current = two.agent.sidecar.live.load();
        current.snapshot.server(&files).is_some_and(|entry| entry.offer.is_some())
    };
    eventually("the agent's sidecar knows the offer", is_offered).await;
    two.route("[{ match: { tools: [read] }, to: [{ server: research/next }] }]").await;
    let at = |mut request: Request<Full<Bytes>>| {
        *request.uri_mut() = "/mcp".parse().unwrap();
        request
    };
    let params = json!({ "name": "files_read", "arguments": {} });
    let answer = two.agent.answer(at(modern("tools/call", "files_read", params.clone()))).await;
    assert_eq!(answer.json()["result"]["content"][0]["text"], "next", "{answer:?}");
    let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "x", "version": "1" } } });
    let opened = two.agent.answer(at(legacy(&initialize, None))).await;
    let session = opened.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let called = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params });
    let answer = two.agent.answer(at(legacy(&called, Some(&session)))).await;
    assert!(String::from_utf8_lossy(&answer.body).contains("\"text\":\"next\""), "{answer:?}");
    assert_eq!((two.calls_of_files(), two.calls_of_next()), (0, 2));

    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_goes_on_at_the_server_where_it_waits() {
    let two = Two::start(input::curious("files").await, input::curious("next").await).await;
    two.route("[{ to: [{ server: research/files }, { server: research/next }] }]").await;
    let mut waiting = Vec::new();
    for n in 0..12 {
        let asked = two.agent.answer(input::call(pair::PATH, "echo", &json!({ "n": n }), &json!({}))).await;
        waiting.push((n, input::given(&asked, "x")));
    }
    let mut servers = std::collections::BTreeSet::new();
    for (n, more) in waiting.iter().rev() {
        let answer = two.agent.answer(input::call(pair::PATH, "echo", &json!({ "n": n }), more)).await;
        let text = input::text(&answer);
        servers.insert(text.split(' ').next().unwrap().to_owned());
        assert!(text.ends_with(&format!("{{\"n\":{n}}} \"x\"")), "{text}");
    }
    assert_eq!(servers.len(), 2, "{servers:?}");
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_only_reads_is_asked_of_another_instance_too_and_the_slower_call_is_cancelled() {
    let (silent, mut asked) = Upstream::asking().await;
    let two = Two::start(silent, Upstream::echo().await).await;
    let listen = json!({ "inbound": "127.0.0.1:0", "outbound": null });
    let mut second = pair::joining(&two.mesh, "research", "files", listen, json!({})).await;
    second["node"]["id"] = json!("research/files-2");
    let quick = Upstream::echo().await;
    second["node"]["upstreams"] = json!({ "research/files": quick.address.to_string() });
    let second = pair::start(second).await;
    two.mesh
        .apply(
            "apiVersion: weft.dev/v1alpha1\nkind: ToolPolicy\nmetadata: { namespace: research, name: p }\n\
             spec: { tools: ['read'], retry: read-only, hedgeAfter: 50ms }\n",
        )
        .await;
    let files = "research/files".parse().unwrap();
    eventually("the agent's sidecar knows both instances and the policy", || {
        let current = two.agent.sidecar.live.load();
        current.snapshot.server(&files).is_some_and(|it| it.endpoints.len() == 2 && !it.tools.is_empty())
    })
    .await;
    let mut held = None;
    for _ in 0..60 {
        let answer = two.agent.answer(call("read")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        if let Ok(first) = asked.try_recv() {
            held = Some(first);
            break;
        }
    }
    let mut held = held.expect("one of the calls went to the silent instance first");
    tokio::time::timeout(Duration::from_secs(20), held.answer.closed())
        .await
        .expect("its call is taken back");
    second.stop().await;
    two.stop().await;
}

/// A server that begins something with each call, and knows only what it began itself.
async fn beginning(name: &'static str) -> Upstream {
    Upstream::with(move |seen| async move {
        let message: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let params = &message["params"];
        let result = match (message["method"].as_str().unwrap_or_default(), params["requestState"].as_str()) {
            ("tools/call", Some(state)) => {
                json!({ "content": [{ "type": "text", "text": format!("{name} {state}") }] })
            }
            ("tools/call", None) if params["name"] == "task" => {
                let id = format!("{name}-{}", params["arguments"]["n"]);
                json!({ "resultType": "task", "taskId": id, "status": "working", "ttlMs": 1000 })
            }
            ("tools/call", None) => {
                let state = format!("{name}-{}", params["arguments"]["n"]);
                json!({ "resultType": "input_required", "requestState": state, "inputRequests": {} })
            }
            ("tasks/get", _) => json!({ "taskId": params["taskId"], "by": name, "status": "working" }),
            _ => return upstream::echo(&seen),
        };
        let mut result = result;
        if result.get("resultType").is_none() {
            result["resultType"] = "complete".into();
        }
        upstream::document(&json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_and_calls_of_several_rounds_go_on_at_the_server_that_began_them() {
    let two = Two::start(beginning("files").await, beginning("next").await).await;
    two.route("[{ to: [{ server: research/files }, { server: research/next }] }]").await;
    for n in 0..12 {
        let begun = two.agent.call("task", json!({ "n": n })).await.json();
        let id = begun["result"]["taskId"].as_str().expect("a task").to_owned();
        let known = two.agent.answer(modern("tasks/get", &id, json!({ "taskId": id }))).await.json();
        assert_eq!(known["result"]["by"], id.split_once('-').unwrap().0, "{known}");
        let begun = two.agent.call("ask", json!({ "n": n })).await.json();
        let state = begun["result"]["requestState"].as_str().expect("a state").to_owned();
        let params =
            json!({ "name": "ask", "arguments": { "n": n }, "requestState": state, "inputResponses": {} });
        let done = two.agent.answer(modern("tools/call", "ask", params)).await.json();
        let text = done["result"]["content"][0]["text"].as_str().expect("an answer");
        assert_eq!(text.split_once(' ').unwrap().0, state.split_once('-').unwrap().0, "{done}");
    }
    assert!(two.calls_of_files() > 0 && two.calls_of_next() > 0);
    two.stop().await;
}
