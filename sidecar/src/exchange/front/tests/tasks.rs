//! Tasks of a legacy server for callers of the modern era.

use super::*;

const CAPABLE: &str = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{},"tasks":{"cancel":{},"list":{},"requests":{"tools":{"call":{}}}}},"serverInfo":{"name":"s","version":"1"}}"#;

fn stage() -> Stage {
    let stage = legacy();
    let introduction =
        Introduction { era: Era::Legacy, revision: "2025-11-25".to_owned(), result: CAPABLE.into() };
    *stage.peer.introduction.lock().unwrap() = Ok(Arc::new(introduction));
    stage
}

/// A request of somebody who knows tasks, and can be asked for things or not.
fn able(method: &str, params: &str, more: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params},"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{{"extensions":{{"io.modelcontextprotocol/tasks":{{}}}}{more}}}}}}}}}"#
    )
}

fn run(tool: &str) -> String {
    able("tools/call", &format!(r#""name":"{tool}""#), "")
}

fn about(method: &str, id: &str) -> String {
    able(method, &format!(r#""taskId":"{id}""#), "")
}

async fn listed(stage: &mut Stage) {
    let called = stage.called().await;
    assert!(called.message.contains("\"tools/list\""), "{}", called.message);
    let tools = r#"{"tools":[{"name":"must","execution":{"taskSupport":"required"}},{"name":"may","execution":{"taskSupport":"optional"}},{"name":"not"}]}"#;
    answer(called, tools).await;
}

/// Answers a request of the sidecar's under its own id.
async fn answer(called: Called, result: &str) {
    let id = id_of(&called);
    called.respond(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)).await;
}

async fn refuse(called: Called, code: i64) {
    let id = id_of(&called);
    called
        .respond(&format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"m"}}}}"#))
        .await;
}

fn id_of(called: &Called) -> serde_json::Value {
    serde_json::from_str::<serde_json::Value>(&called.message).unwrap()["id"].clone()
}

fn task(status: &str) -> String {
    format!(r#"{{"taskId":"s","status":"{status}","createdAt":"a","lastUpdatedAt":"b","ttl":null}}"#)
}

async fn said(answered_by: Answered) -> serde_json::Value {
    serde_json::from_str(&json(answered(answered_by).await).await).unwrap()
}

/// The id of a task that was begun.
async fn begun(stage: &mut Stage) -> String {
    let waiting = stage.modern(&run("must"));
    listed(stage).await;
    let called = stage.called().await;
    assert!(
        called.message.contains(r#""task":{}"#) && !called.message.contains("_meta"),
        "{}",
        called.message
    );
    assert_eq!(called.asker.abilities, crate::bridge::Abilities::default());
    answer(called, &format!(r#"{{"task":{}}}"#, task("working"))).await;
    let said = said(waiting).await;
    assert_eq!((&said["id"], &said["result"]["resultType"]), (&1.into(), &"task".into()), "{said}");
    assert_eq!(
        (&said["result"]["status"], &said["result"]["ttlMs"]),
        (&"working".into(), &serde_json::Value::Null)
    );
    said["result"]["taskId"].as_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_must_be_a_task_is_one_and_its_result_comes_with_how_it_stands() {
    let mut stage = stage();
    let discover = r#"{"jsonrpc":"2.0","id":7,"method":"server/discover","params":{}}"#;
    let discovered = said(stage.modern(discover)).await;
    let extensions = serde_json::json!({ "io.modelcontextprotocol/tasks": {} });
    assert_eq!(discovered["result"]["capabilities"]["extensions"], extensions);
    let id = begun(&mut stage).await;
    assert_ne!(id, "s");

    let waiting = stage.modern(&about("tasks/get", &id));
    let called = stage.called().await;
    assert!(called.message.contains(r#""method":"tasks/get","params":{"taskId":"s"}"#), "{}", called.message);
    answer(called, &task("working")).await;
    let working = said(waiting).await;
    assert_eq!(
        (&working["result"]["status"], &working["result"]["taskId"]),
        (&"working".into(), &id.as_str().into())
    );

    let waiting = stage.modern(&about("tasks/get", &id));
    answer(stage.called().await, &task("failed")).await;
    let called = stage.called().await;
    assert!(called.message.contains(r#""method":"tasks/result""#), "{}", called.message);
    answer(called, r#"{"content":[],"isError":true}"#).await;
    let done = said(waiting).await;
    assert_eq!(
        (&done["result"]["status"], &done["result"]["result"]["isError"]),
        (&"completed".into(), &true.into())
    );

    let waiting = stage.modern(&about("tasks/get", &id));
    answer(stage.called().await, &task("failed")).await;
    refuse(stage.called().await, -32603).await;
    let failed = said(waiting).await;
    assert_eq!(
        (&failed["result"]["status"], &failed["result"]["error"]["code"]),
        (&"failed".into(), &(-32603).into())
    );
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_over_is_cancelled_in_vain_and_one_that_is_none_is_refused() {
    let mut stage = stage();
    let id = begun(&mut stage).await;
    let waiting = stage.modern(&about("tasks/cancel", &id));
    answer(stage.called().await, &task("cancelled")).await;
    assert_eq!(said(waiting).await["result"], serde_json::json!({ "resultType": "complete" }));
    let waiting = stage.modern(&about("tasks/cancel", &id));
    refuse(stage.called().await, -32602).await;
    answer(stage.called().await, &task("completed")).await;
    assert_eq!(said(waiting).await["result"], serde_json::json!({ "resultType": "complete" }));
    for method in ["tasks/get", "tasks/update"] {
        let waiting = stage.modern(&about(method, &id));
        refuse(stage.called().await, -32602).await;
        let refused = said(waiting).await;
        assert_eq!((&refused["id"], &refused["error"]["code"]), (&1.into(), &(-32602).into()), "{refused}");
    }
    let waiting = stage.modern(&about("tasks/update", &id));
    answer(stage.called().await, &task("working")).await;
    assert_eq!(said(waiting).await["result"], serde_json::json!({ "resultType": "complete" }));
}

#[tokio::test(start_paused = true)]
async fn a_task_is_its_callers_alone_and_theirs_who_know_tasks() {
    let mut stage = stage();
    let id = begun(&mut stage).await;
    for other in [id.as_str(), "s", ""] {
        let stolen = stage.send("thief", Era::Modern, "POST", &[], &about("tasks/get", other));
        assert_eq!(refused(stolen).await, Refusal::TaskUnknown);
    }
    let missing = Refusal::MissingCapability("io.modelcontextprotocol/tasks".to_owned());
    let plain = able("tasks/get", &format!(r#""taskId":"{id}""#), "").replace("/tasks\":{}", "/other\":{}");
    assert_eq!(refused(stage.modern(&plain)).await, missing);
    let plain = run("must").replace("/tasks\":{}", "/other\":{}");
    assert_eq!(refused(stage.modern(&plain)).await, missing);
    assert!(stage.calls.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn what_a_task_asks_in_the_middle_is_declined_so_that_it_goes_on() {
    let mut stage = stage();
    let id = begun(&mut stage).await;
    for (after, expected) in [("working", Ok(())), ("input_required", Err(Refusal::InputNeeded))] {
        let waiting = stage.modern(&about("tasks/get", &id));
        answer(stage.called().await, &task("input_required")).await;
        let result = stage.called().await;
        assert!(result.message.contains(r#""method":"tasks/result""#), "{}", result.message);
        result.ask(r#"{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{}}"#).await;
        match stage.told.recv().await.unwrap() {
            Told::Answered(_, answer) => assert!(answer.contains("-32601"), "{answer}"),
            other => panic!("{other:?}"),
        }
        let again = stage.called().await;
        assert!(result.reply.is_closed(), "nobody waits for it any more");
        answer(again, &task(after)).await;
        assert_eq!(waiting.await.unwrap().map(|_| ()), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_may_be_a_task_is_one_for_those_who_could_not_be_asked_anything() {
    let mut stage = stage();
    let waiting = stage.modern(&run("may"));
    listed(&mut stage).await;
    let called = stage.called().await;
    assert!(called.message.contains(r#""task":{}"#), "{}", called.message);
    // A server that answers at once has that passed on.
    answer(called, r#"{"content":[]}"#).await;
    let at_once = said(waiting).await;
    assert_eq!(
        (&at_once["id"], &at_once["result"]["resultType"]),
        (&1.into(), &"complete".into()),
        "{at_once}"
    );
    let able = able("tools/call", r#""name":"may""#, r#","elicitation":{}"#);
    for body in [able, run("not"), run("may").replace("/tasks\":{}", "/other\":{}")] {
        let waiting = stage.modern(&body);
        let called = stage.called().await;
        assert!(!called.message.contains(r#""task""#), "{}", called.message);
        answer(called, r#"{"content":[]}"#).await;
        answered(waiting).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_server_asks_while_a_task_begins_is_declined() {
    let mut stage = stage();
    let waiting = stage.modern(&able("tools/call", r#""name":"must""#, r#","elicitation":{}"#));
    listed(&mut stage).await;
    let called = stage.called().await;
    called.ask(r#"{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{}}"#).await;
    match stage.told.recv().await.unwrap() {
        Told::Answered(_, answer) => assert!(answer.contains("-32601"), "{answer}"),
        other => panic!("{other:?}"),
    }
    answer(called, &format!(r#"{{"task":{}}}"#, task("working"))).await;
    assert_eq!(said(waiting).await["result"]["resultType"], "task");
}

#[tokio::test(start_paused = true)]
async fn the_list_of_tools_is_believed_for_a_while_and_asked_for_anew_after() {
    let mut stage = stage();
    begun(&mut stage).await;
    let waiting = stage.modern(&run("not"));
    let called = stage.called().await;
    assert!(called.message.contains("\"tools/call\""), "{}", called.message);
    answer(called, r#"{"content":[]}"#).await;
    answered(waiting).await;
    tokio::time::advance(Duration::from_secs(61)).await;
    let waiting = stage.modern(&run("not"));
    // It cannot be had now: what was known before holds, and nobody waits for it again for a while.
    refuse(stage.called().await, -32603).await;
    for waiting in [waiting, stage.modern(&run("must"))] {
        let called = stage.called().await;
        assert!(called.message.contains("\"tools/call\""), "{}", called.message);
        answer(called, r#"{"content":[]}"#).await;
        answered(waiting).await;
    }
}
