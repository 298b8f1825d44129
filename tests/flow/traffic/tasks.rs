//! Tasks at an endpoint that is made of many servers: told apart, led back to where they are, and nobody else's.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};

use super::agent::Agent;
use super::assembly::{Many, at};
use super::pair::{self, Answer};
use super::streams::until;
use super::upstream::{self, Seen, Upstream};
use crate::mesh::eventually;

const TASKS: &str = "io.modelcontextprotocol/tasks";

/// A request of a caller that knows tasks.
fn able(method: &str, name: &str, params: Value) -> Request<Full<Bytes>> {
    at("/mcp", pair::modern_by(method, name, params, json!({ "extensions": { TASKS: {} } })))
}

/// About a task.
fn about(method: &str, id: &str) -> Request<Full<Bytes>> {
    able(method, id, json!({ "taskId": id }))
}

/// A server whose calls all go on as the task `1`, and which says of it what was done to it.
async fn server(name: &'static str) -> Upstream {
    Upstream::with(move |seen| async move { answer(name, &seen).await }).await
}

async fn answer(name: &str, seen: &Seen) -> http::Response<upstream::Body> {
    if seen.method != http::Method::POST {
        return upstream::echo(seen);
    }
    let message = seen.json();
    let Some(id) = message.get("id") else { return upstream::status(202) };
    let is_able = message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"]["extensions"]
        .get(TASKS)
        .is_some();
    let task = json!({ "taskId": "1", "status": "working", "createdAt": "2026-11-28T00:00:00Z",
        "lastUpdatedAt": "2026-11-28T00:00:00Z", "ttlMs": null });
    let is_known = message["params"]["taskId"] == "1";
    let result = match message["method"].as_str().unwrap_or_default() {
        "server/discover" => json!({ "supportedVersions": ["2026-07-28"],
            "capabilities": { "tools": {}, "extensions": { TASKS: {} } } }),
        "initialize" => return upstream::echo(seen),
        "tools/list" => json!({ "tools": [{ "name": "run", "inputSchema": { "type": "object" } }] }),
        "tools/call" if is_able => with(task, &json!({ "resultType": "task" })),
        "tools/call" => json!({ "content": [] }),
        "tasks/get" if is_able && is_known => {
            let text = json!([{ "type": "text", "text": name }]);
            with(task, &json!({ "status": "completed", "result": { "content": text } }))
        }
        "tasks/update" | "tasks/cancel" if is_able && is_known => json!({}),
        "subscriptions/listen" if is_able => return telling(name, &task).await,
        method if method.starts_with("tasks/") => {
            let error = json!({ "code": -32602, "message": format!("{name} has no such task") });
            return upstream::document(&json!({ "jsonrpc": "2.0", "id": id, "error": error }));
        }
        _ => json!({}),
    };
    let result = with(json!({ "resultType": "complete" }), &result);
    upstream::document(&json!({ "jsonrpc": "2.0", "id": id, "result": result }))
}

fn with(mut it: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        it[key] = value.clone();
    }
    it
}

/// A stream that tells at once where the task has got to.
async fn telling(name: &str, task: &Value) -> http::Response<upstream::Body> {
    let (sender, response) = upstream::events();
    let agreed = json!({ "notifications": { "taskIds": ["1"] } });
    let told = with(task.clone(), &json!({ "statusMessage": format!("{name} is at it") }));
    for (method, params) in [("subscriptions/acknowledged", agreed), ("tasks", told)] {
        let note = json!({ "jsonrpc": "2.0", "method": format!("notifications/{method}"), "params": params });
        sender.send(format!("data: {note}\n\n").into()).await.unwrap();
    }
    tokio::spawn(async move { sender.closed().await });
    response
}

async fn two() -> Many {
    Many::with(vec![("files", server("files").await), ("search", server("search").await)]).await
}

async fn begun(agent: &Agent, tool: &str) -> String {
    let answer = agent.answer(able("tools/call", tool, json!({ "name": tool, "arguments": {} }))).await;
    let result = &answer.json()["result"];
    assert_eq!((&result["resultType"], &result["status"]), (&json!("task"), &json!("working")), "{answer:?}");
    result["taskId"].as_str().expect("a task").to_owned()
}

/// The methods, and the ids, with which a server was asked about tasks.
fn asked(upstream: &Upstream) -> Vec<(String, Value)> {
    let seen =
        upstream.seen().into_iter().map(|it| (it.method_name(), it.json()["params"]["taskId"].clone()));
    seen.filter(|(method, _)| method.starts_with("tasks/")).collect()
}

fn none(answer: &Answer) {
    assert_eq!((answer.status, answer.code(), answer.reason()), (400, -32602, "task_unknown"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_the_same_id_at_two_servers_are_told_apart_and_each_is_asked_of_its_own() {
    let many = two().await;
    let discovered = many.ask("/mcp", pair::modern("server/discover", "", json!({}))).await.json();
    assert_eq!(discovered["result"]["capabilities"]["extensions"], json!({ TASKS: {} }));
    let (files, search) = (begun(&many.agent, "files_run").await, begun(&many.agent, "search_run").await);
    assert_ne!(files, search);
    for (id, name) in [(&files, "files"), (&search, "search")] {
        let known = many.agent.answer(about("tasks/get", id)).await.json();
        assert_eq!(known["result"]["result"]["content"][0]["text"], name, "{known}");
        assert_eq!(known["result"]["taskId"], **id, "it is called what it was asked for by");
    }
    let update = able("tasks/update", &search, json!({ "taskId": search, "inputResponses": {} }));
    assert_eq!(many.agent.answer(update).await.status, 200);
    assert_eq!(many.agent.answer(about("tasks/cancel", &search)).await.status, 200);
    let methods = |of: usize| -> Vec<_> { asked(&many.upstreams[of]).into_iter().map(|it| it.0).collect() };
    assert_eq!(
        (methods(0), methods(1)),
        (vec!["tasks/get".to_owned()], ["get", "update", "cancel"].map(|it| format!("tasks/{it}")).to_vec())
    );
    assert!(many.upstreams.iter().flat_map(asked).all(|(_, id)| id == "1"));
    // Whoever does not know tasks is begun none.
    let plain = pair::modern("tools/call", "files_run", json!({ "name": "files_run", "arguments": {} }));
    assert_eq!(many.ask("/mcp", plain).await.json()["result"]["content"], json!([]));
    many.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_nobodys_but_the_callers_whose_call_began_it() {
    let many = two().await;
    let id = begun(&many.agent, "files_run").await;
    let stranger = Agent::join_mesh(&many.mesh, "stranger").await;
    let own = begun_when_known(&stranger).await;
    for other in [id.as_str(), "1", &id[..id.len() - 1]] {
        for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
            none(&stranger.answer(about(method, other)).await);
        }
        let result = stranger.answer(about("tasks/result", other)).await;
        assert_eq!(result.code(), -32601, "the extension does not have it: {result:?}");
    }
    let before = asked(&many.upstreams[0]).len();
    assert_eq!(before, 0, "nothing of it reached the server");
    assert_eq!(stranger.answer(about("tasks/get", &own)).await.status, 200);
    let listed = many.agent.answer(able("tasks/list", "", json!({}))).await;
    assert_eq!(listed.code(), -32601, "{listed:?}");
    // An id of one endpoint is none of another.
    many.apply(
        "apiVersion: weft.dev/v1alpha1\nkind: VirtualServer\nmetadata: { namespace: research, name: desk }\n\
         spec: { members: [{ server: research/files }] }\n",
    )
    .await;
    eventually("the virtual server is known", || {
        !many.agent.sidecar.live.load().snapshot.virtual_servers.is_empty()
    })
    .await;
    none(&many.agent.answer(at("/virtual/research/desk/mcp", about("tasks/get", &id))).await);
    stranger.sidecar.stop().await;
    many.stop().await;
}

async fn begun_when_known(agent: &Agent) -> String {
    let known = async {
        loop {
            let list = at("/mcp", pair::modern("tools/list", "", json!({})));
            if agent.answer(list).await.json()["result"]["tools"].as_array().is_some_and(|it| it.len() == 2) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), known).await.expect("the servers become known");
    begun(agent, "files_run").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_told_of_under_the_id_that_its_caller_has_and_to_no_other() {
    let many = two().await;
    let (files, search) = (begun(&many.agent, "files_run").await, begun(&many.agent, "search_run").await);
    let listen =
        |ids: &[&str]| able("subscriptions/listen", "", json!({ "notifications": { "taskIds": ids } }));
    let mut stream = many.agent.send(listen(&[&files, "1", &search])).await;
    let told = until(&mut stream, |text| text.matches("\"notifications/tasks\"").count() == 2).await;
    for line in told.lines().filter_map(|line| line.strip_prefix("data: ")) {
        let note: Value = serde_json::from_str(line).unwrap();
        let params = &note["params"];
        if note["method"] == "notifications/tasks" {
            let name = if params["taskId"] == *files { "files" } else { "search" };
            assert_eq!(params["statusMessage"], format!("{name} is at it"), "{note}");
            assert!(params["taskId"] == *files || params["taskId"] == *search, "{note}");
        } else {
            let mut ids = [files.as_str(), search.as_str()];
            ids.sort_unstable();
            assert_eq!(params["notifications"]["taskIds"], json!(ids), "{note}");
        }
    }
    drop(stream);
    let wanted = json!({ "notifications": { "taskIds": [files] } });
    let refused = many.ask("/mcp", pair::modern("subscriptions/listen", "", wanted)).await;
    assert_eq!((refused.status, refused.code()), (400, -32021), "{refused:?}");
    let required = &refused.json()["error"]["data"]["requiredCapabilities"];
    assert_eq!(*required, json!({ "extensions": { TASKS: {} } }));
    many.stop().await;
}

/// A request of a caller of 2025-11-25.
fn of_session(session: &str, method: &str, params: &Value) -> Request<Full<Bytes>> {
    let body = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
    at("/mcp", pair::legacy(&body, Some(session).filter(|it| !it.is_empty())))
}

async fn opened(agent: &Agent) -> (String, Value) {
    let client = json!({ "name": "c", "version": "1" });
    let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client });
    let answer = agent.answer(of_session("", "initialize", &params)).await;
    let session = answer.headers["mcp-session-id"].to_str().unwrap().to_owned();
    (session, answer.json()["result"]["capabilities"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_of_the_legacy_era_has_tasks_of_many_servers_and_nobody_elses() {
    let many = two().await;
    let (session, capabilities) = opened(&many.agent).await;
    assert!(capabilities["tasks"]["requests"]["tools"]["call"].is_object(), "{capabilities}");
    let ask = async |method: &str, params: Value| {
        many.agent.answer(of_session(&session, method, &params)).await.json()["result"].clone()
    };
    let listed = ask("tools/list", json!({})).await;
    assert!(
        listed["tools"].as_array().unwrap().iter().all(|it| it["execution"]["taskSupport"] == "optional")
    );
    let mut ids = Vec::new();
    for (tool, name) in [("files_run", "files"), ("search_run", "search")] {
        let task = &ask("tools/call", json!({ "name": tool, "arguments": {}, "task": {} })).await["task"];
        assert_eq!((&task["status"], &task["ttl"]), (&json!("working"), &Value::Null), "{task}");
        let id = json!({ "taskId": task["taskId"] });
        assert_eq!(ask("tasks/get", id.clone()).await["status"], "completed");
        assert_eq!(ask("tasks/result", id.clone()).await["content"][0]["text"], name);
        ids.push(task["taskId"].clone());
    }
    let listed = ask("tasks/list", json!({})).await;
    let known: Vec<_> =
        listed["tasks"].as_array().unwrap().iter().rev().map(|it| it["taskId"].clone()).collect();
    assert_eq!(known, ids, "{listed}");
    let stranger = Agent::join_mesh(&many.mesh, "stranger").await;
    begun_when_known(&stranger).await;
    let (session, _) = opened(&stranger).await;
    for method in ["tasks/get", "tasks/result", "tasks/cancel"] {
        none(&stranger.answer(of_session(&session, method, &json!({ "taskId": ids[0] }))).await);
    }
    let none = stranger.answer(of_session(&session, "tasks/list", &json!({}))).await.json();
    assert_eq!(none["result"]["tasks"], json!([]));
    stranger.sidecar.stop().await;
    many.stop().await;
}
