//! Tasks of a legacy server for callers of the modern era.

use super::*;

const CAPABLE: &str = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{},"tasks":{"cancel":{},"list":{},"requests":{"tools":{"call":{}}}}},"serverInfo":{"name":"s","version":"1"}}"#;

fn stage() -> Stage {
    with(&Limits::default())
}

fn with(limits: &Limits) -> Stage {
    let stage = Stage::new(Era::Legacy, limits);
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
async fn a_tool_that_may_be_a_task_is_one_for_those_who_know_tasks() {
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
    let waiting = stage.modern(&able("tools/call", r#""name":"may""#, r#","elicitation":{}"#));
    let called = stage.called().await;
    assert!(called.message.contains(r#""task":{}"#) && called.asker.abilities.form, "{}", called.message);
    answer(called, r#"{"content":[]}"#).await;
    answered(waiting).await;
    for body in [run("not"), run("may").replace("/tasks\":{}", "/other\":{}")] {
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

const QUESTION: &str = r#"{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"message":"Sure?","_meta":{"io.modelcontextprotocol/related-task":{"taskId":"s"}}}}"#;

/// The id of a task whose caller can be asked for things.
async fn begun_to_ask(stage: &mut Stage) -> String {
    let waiting = stage.modern(&able("tools/call", r#""name":"must""#, r#","elicitation":{}"#));
    listed(stage).await;
    let called = stage.called().await;
    assert!(called.asker.abilities.form);
    answer(called, &format!(r#"{{"task":{}}}"#, task("working"))).await;
    said(waiting).await["result"]["taskId"].as_str().unwrap().to_owned()
}

/// What a task wants to know that its server has not asked for yet, and where it waits for the answer.
async fn asked(stage: &mut Stage, id: &str) -> (Called, serde_json::Value) {
    let waiting = stage.modern(&about("tasks/get", id));
    answer(stage.called().await, &task("input_required")).await;
    let result = stage.called().await;
    assert!(result.message.contains(r#""method":"tasks/result""#) && result.asker.abilities.form);
    result.ask(QUESTION).await;
    let said = said(waiting).await;
    (result, said["result"].clone())
}

fn only_key(standing: &serde_json::Value) -> String {
    let all = standing["inputRequests"].as_object().unwrap();
    assert_eq!(all.len(), 1, "{standing}");
    all.keys().next().unwrap().clone()
}

fn update(id: &str, responses: &serde_json::Value) -> String {
    able("tasks/update", &format!(r#""taskId":"{id}","inputResponses":{responses}"#), "")
}

#[tokio::test(start_paused = true)]
async fn what_a_task_wants_to_know_its_caller_sees_and_answers() {
    let mut stage = stage();
    let id = begun_to_ask(&mut stage).await;
    let (result, standing) = asked(&mut stage, &id).await;
    assert_eq!(
        (&standing["status"], &standing["resultType"]),
        (&"input_required".into(), &"complete".into())
    );
    let key = only_key(&standing);
    let wish = serde_json::json!({ "method": "elicitation/create", "params": { "message": "Sure?" } });
    assert_eq!(standing["inputRequests"][&key], wish, "the server's own id is nobody's business");
    // Whoever asks again is told the same, and the server is asked no more than that.
    let waiting = stage.modern(&about("tasks/get", &id));
    answer(stage.called().await, &task("input_required")).await;
    assert_eq!(only_key(&said(waiting).await["result"]), key);
    let odd = update(&id, &serde_json::json!({ &key: 5 }));
    assert!(matches!(refused(stage.modern(&odd)).await, Refusal::Invalid(_)));
    let given = serde_json::json!({ "action": "accept", "content": {} });
    for responses in [serde_json::json!({ &key: given, "other": given }), serde_json::json!({ &key: given })]
    {
        let acknowledged = said(stage.modern(&update(&id, &responses))).await;
        assert_eq!(acknowledged["result"], serde_json::json!({ "resultType": "complete" }));
    }
    match stage.told.recv().await.unwrap() {
        Told::Answered(asker, answer) => {
            assert_eq!(asker, result.asker);
            assert_eq!(answer, format!(r#"{{"jsonrpc":"2.0","id":"q","result":{given}}}"#));
        }
        other => panic!("{other:?}"),
    }
    assert!(stage.told.try_recv().is_err(), "each question is answered once");
    assert!(!result.reply.is_closed(), "it may want to know more");
    // It takes the server a while to notice that it has its answer.
    let waiting = stage.modern(&about("tasks/get", &id));
    for _ in 0..2 {
        answer(stage.called().await, &task("input_required")).await;
    }
    assert_eq!(said(waiting).await["result"]["status"], "working");
    result.ask(&QUESTION.replace(r#""q""#, "8")).await;
    pass(Duration::from_millis(1)).await;
    let waiting = stage.modern(&about("tasks/get", &id));
    answer(stage.called().await, &task("input_required")).await;
    assert_ne!(only_key(&said(waiting).await["result"]), key, "a name is given once");
    let own = id_of(&result);
    result.respond(&format!(r#"{{"jsonrpc":"2.0","id":{own},"result":{{"content":[]}}}}"#)).await;
    pass(Duration::from_millis(1)).await;
    assert_eq!(stage.front.inquiries.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_answered_in_time_is_given_up_for_the_server_and_so_is_all_when_the_sidecar_stops() {
    let mut stage = stage();
    let id = begun_to_ask(&mut stage).await;
    for stops in [false, true] {
        let (result, _) = asked(&mut stage, &id).await;
        match stops {
            true => stage.drain.cancel(),
            false => pass(Duration::from_secs(301)).await,
        }
        match stage.told.recv().await.unwrap() {
            Told::Answered(_, answer) => assert!(answer.contains(r#""action":"cancel""#), "{answer}"),
            other => panic!("{other:?}"),
        }
        result.reply.closed().await;
        assert_eq!(stage.front.inquiries.count(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn where_no_more_questions_can_wait_the_server_gets_no_answer() {
    let mut stage = with(&Limits { parked_per_caller_max: 0, ..Limits::default() });
    let id = begun_to_ask(&mut stage).await;
    let waiting = stage.modern(&about("tasks/get", &id));
    answer(stage.called().await, &task("input_required")).await;
    stage.called().await.ask(QUESTION).await;
    match stage.told.recv().await.unwrap() {
        Told::Answered(_, answer) => assert!(answer.contains("-32601"), "{answer}"),
        other => panic!("{other:?}"),
    }
    answer(stage.called().await, &task("working")).await;
    assert_eq!(said(waiting).await["result"]["status"], "working");
}

#[tokio::test(start_paused = true)]
async fn whoever_listens_is_told_how_its_tasks_get_on_and_how_they_end() {
    let mut stage = stage();
    let id = begun(&mut stage).await;
    let notifications = serde_json::json!({ "taskIds": [id, "s"] });
    let listen = able("subscriptions/listen", &format!(r#""notifications":{notifications}"#), "");
    let mut told = stream(answered(stage.modern(&listen)).await);
    let agreed = next(&mut told).await.unwrap();
    let wanted = serde_json::json!({ "taskIds": [id] });
    assert!(agreed.contains(&format!(r#""notifications":{wanted}"#)), "nobody else's is promised: {agreed}");
    for (status, expected) in [("working", "working"), ("failed", "completed")] {
        for own in ["other", "s"] {
            let note = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/tasks/status","params":{}}}"#,
                task(status).replace(r#""taskId":"s""#, &format!(r#""taskId":"{own}""#))
            );
            stage.peer.asides.send(Aside::Note(note.into())).unwrap();
        }
        answer(stage.called().await, &task(status)).await;
        if status == "failed" {
            answer(stage.called().await, r#"{"content":[],"isError":true}"#).await;
        }
        let mut event = next(&mut told).await.unwrap();
        while !event.contains("data: {") {
            event = next(&mut told).await.unwrap();
        }
        let note: serde_json::Value = serde_json::from_str(event.split("data: ").nth(1).unwrap()).unwrap();
        assert_eq!(note["method"], "notifications/tasks");
        let params = &note["params"];
        assert_eq!((&params["taskId"], &params["status"]), (&id.as_str().into(), &expected.into()), "{note}");
        assert_eq!(params["result"]["isError"].as_bool(), (status == "failed").then_some(true));
        assert!(params.get("resultType").is_none() && params["_meta"].is_object(), "{note}");
    }
    drop(told);
    pass(Duration::from_millis(1)).await;
    assert!(stage.calls.try_recv().is_err());
}
